//! A fault in what an author or an operator wrote, and the refusal of what a guest asked for.

use std::fmt;

use keyward_model::Reason;

/// A fault in a manifest or in an endpoint URL of a connection, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// Keys and indices from the manifest's root, for example `actions`, `list-issues`, `requests`, `0`, `path`.
    /// Empty where the text stands for itself.
    pub path: Vec<String>,
    /// What is wrong; no full stop at the end.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl RuleError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { path: Vec::new(), message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same fault, with its place.
    pub(crate) fn at(mut self, path: &[&str]) -> Self {
        self.path = path.iter().map(|&key| key.to_owned()).collect();
        self
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path.join("."))?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for RuleError {}

/// Why a part of a guest's request, or of a URL, is refused; becomes a [`crate::Denial`] or a [`RuleError`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Refusal> for RuleError {
    fn from(refusal: Refusal) -> Self {
        Self { path: Vec::new(), message: refusal.message, hint: refusal.hint }
    }
}
