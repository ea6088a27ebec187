//! How a command fails: what is told, what to do about it, and the exit code that follows.

use std::{
    error::Error,
    fmt,
    ops::{Deref, DerefMut},
};

use keyward_model::Diagnostic;
use serde_json::{Map, Value, json};

/// What an exit code means. The same table stands in `--help` and in `docs/exit-codes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The action or the flow failed, or a check found a fault.
    Failed = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// A file or an input cannot be used.
    BadInput = 3,
    /// A rule, a missing scope or a missing consent refuses it.
    Denied = 4,
    /// A connection is missing or its owner must connect again.
    Connection = 5,
    /// The vault cannot be opened, or its key is missing or wrong.
    Vault = 6,
    /// It was interrupted; what it did is recorded and a run can be resumed.
    Interrupted = 7,
    /// Something around the program is missing or out of order: data directory, disk, network, toolchain.
    Environment = 8,
    /// A fault of the program itself.
    Internal = 10,
}

impl Exit {
    /// Every exit code but 0.
    pub(crate) const ALL: [Exit; 9] = [
        Exit::Failed,
        Exit::Usage,
        Exit::BadInput,
        Exit::Denied,
        Exit::Connection,
        Exit::Vault,
        Exit::Interrupted,
        Exit::Environment,
        Exit::Internal,
    ];

    /// The number that the process ends with.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// One line for `--help`.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Exit::Failed => "the action or the flow failed, or a check found a fault",
            Exit::Usage => "the command line cannot be understood",
            Exit::BadInput => "a file or an input cannot be used",
            Exit::Denied => "a rule, a missing scope or a missing consent refuses it",
            Exit::Connection => "a connection is missing or must be connected again",
            Exit::Vault => "the vault cannot be opened, or its key is missing or wrong",
            Exit::Interrupted => "interrupted; what was done is recorded and a run can be resumed",
            Exit::Environment => "data directory, disk, network or toolchain is missing or out of order",
            Exit::Internal => "a fault of the program itself",
        }
    }
}

/// Faults in a text that a person wrote, with the text, so that its lines can be shown.
#[derive(Debug)]
pub(crate) struct Faults {
    /// The file as the user named it.
    pub(crate) path: String,
    /// Its text.
    pub(crate) source: String,
    /// What is wrong in it.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// Why a command failed. It is a pointer, so that results stay small.
#[derive(Debug)]
pub(crate) struct Failure(Box<Told>);

/// What is told of a failure. Nothing in it is secret: it is shown as it is.
#[derive(Debug)]
pub(crate) struct Told {
    /// Which exit code follows.
    pub(crate) exit: Exit,
    /// A stable code for programs, for example `connection-unknown`.
    pub(crate) code: String,
    /// What was wrong; no full stop at the end.
    pub(crate) message: String,
    /// What to do, most useful first.
    pub(crate) hints: Vec<String>,
    /// Why it was so, outermost first.
    pub(crate) causes: Vec<String>,
    /// Longer text for the author of a connector, for example the guest's call stack.
    pub(crate) notes: Vec<String>,
    /// Faults in a file, shown with its lines above the error.
    pub(crate) faults: Option<Faults>,
    /// What another program said, shown as it is above the error.
    pub(crate) transcript: Option<String>,
    /// What else a program may want to know.
    pub(crate) details: Map<String, Value>,
}

impl Failure {
    /// A failure that ends the process with `exit`.
    pub(crate) fn new(exit: Exit, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self(Box::new(Told {
            exit,
            code: code.into(),
            message: message.into(),
            hints: Vec::new(),
            causes: Vec::new(),
            notes: Vec::new(),
            faults: None,
            transcript: None,
            details: Map::new(),
        }))
    }

    /// The same with one more hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The same with a hint where there is one.
    pub(crate) fn maybe_hint(mut self, hint: Option<impl Into<String>>) -> Self {
        self.hints.extend(hint.map(Into::into));
        self
    }

    /// The same with `cause` and everything below it as the reason.
    pub(crate) fn because(mut self, cause: &(dyn Error + 'static)) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            let text = error.to_string();
            // Many errors repeat their source in their own text; it is said once.
            let told = self.message.contains(&text) || self.causes.last().is_some_and(|last| last.contains(&text));
            if !told {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// The same with a longer text.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// The same with what another program said.
    pub(crate) fn transcript(mut self, text: impl Into<String>) -> Self {
        self.transcript = Some(text.into());
        self
    }

    /// The same with one more fact for programs.
    pub(crate) fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The file `path` cannot be used because of `diagnostics`.
    pub(crate) fn faults(path: impl Into<String>, source: impl Into<String>, diagnostics: Vec<Diagnostic>) -> Self {
        let path = path.into();
        let count = diagnostics.len();
        let message = format!("{path} has {count} {}", if count == 1 { "fault" } else { "faults" });
        let mut failure = Self::new(Exit::BadInput, "file-invalid", message);
        failure.faults = Some(Faults { path, source: source.into(), diagnostics });
        failure
    }

    /// The shape that `--json` writes to standard error.
    pub(crate) fn to_json(&self) -> Value {
        let mut error = json!({"code": self.code, "exit": self.exit.code(), "message": self.message});
        if !self.hints.is_empty() {
            error["hint"] = self.hints.join("; ").into();
        }
        if !self.causes.is_empty() {
            error["causes"] = self.causes.clone().into();
        }
        if !self.notes.is_empty() {
            error["notes"] = self.notes.clone().into();
        }
        if let Some(faults) = &self.faults {
            error["file"] = faults.path.clone().into();
            error["diagnostics"] = crate::diagnostics::to_json(&faults.source, &faults.diagnostics);
        }
        if let Some(text) = &self.transcript {
            error["transcript"] = text.clone().into();
        }
        for (name, value) in &self.details {
            error[name] = value.clone();
        }
        json!({ "error": error })
    }
}

impl Deref for Failure {
    type Target = Told;
    fn deref(&self) -> &Told {
        &self.0
    }
}

impl DerefMut for Failure {
    fn deref_mut(&mut self) -> &mut Told {
        &mut self.0
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_only_repeats_the_message_is_not_told_twice() {
        let cause = std::io::Error::other("disk on fire");
        let failure = Failure::new(Exit::Environment, "x", "cannot write: disk on fire").because(&cause);
        assert!(failure.causes.is_empty());
        let failure = Failure::new(Exit::Environment, "x", "cannot write").because(&cause);
        assert_eq!(failure.causes, ["disk on fire"]);
    }

    #[test]
    fn the_documented_exit_codes_are_those_of_the_program() {
        let page = include_str!("../../../docs/exit-codes.md");
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit.code(), exit.meaning());
            assert!(page.contains(&row), "docs/exit-codes.md lacks the row {row:?}");
        }
    }

    #[test]
    fn json_errors_have_code_message_and_hint() {
        let failure = Failure::new(Exit::Usage, "no-such-thing", "there is none").hint("make one").detail("name", "x");
        assert_eq!(
            failure.to_json(),
            json!({"error": {"code": "no-such-thing", "exit": 2, "message": "there is none", "hint": "make one", "name": "x"}})
        );
    }
}
