//! A fault in a text that a person wrote, with the place where it stands.

use serde::{Deserialize, Serialize};

/// One fault in a manifest or a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// A stable code, for example `unknown-field`.
    pub code: &'static str,
    /// What is wrong; no full stop at the end.
    pub message: String,
    /// Where, where it can be told.
    pub span: Option<Span>,
    /// What to do.
    pub hint: Option<String>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It cannot be used.
    Error,
    /// It can be used, but is likely not what was meant.
    Warning,
}

/// A range of bytes in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(code: &'static str, message: impl Into<String>, span: Option<Span>) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), span, hint: None }
    }

    /// A warning at `span`.
    pub fn warning(code: &'static str, message: impl Into<String>, span: Option<Span>) -> Self {
        Self { severity: Severity::Warning, code, message: message.into(), span, hint: None }
    }

    /// The same with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Line and column (both from 1; the column in characters) of a byte offset in `source`.
pub fn line_column(source: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(source.len());
    while !source.is_char_boundary(end) {
        end -= 1;
    }
    let before = &source[..end];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::line_column;

    #[test]
    fn columns_are_counted_in_characters() {
        assert_eq!(line_column("äb\nc", 2), (1, 2));
        assert_eq!(line_column("äb\nc", 4), (2, 1));
        assert_eq!(line_column("äb", 99), (1, 3));
        assert_eq!(line_column("ä", 1), (1, 1));
    }
}
