//! Why a guest's request is refused.

use keyward_model::{Reason, SendError, SendErrorKind};

/// A refused request. Nothing was resolved, opened or sent for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The exact reason.
    pub reason: Reason,
    /// For the caller: what was wrong, without query values and header values.
    pub message: String,
    /// For the author or the operator: the line that would allow it.
    pub hint: Option<String>,
    /// The scopes that are missing, where [`Reason::InsufficientScope`] is the reason.
    pub missing_scopes: Vec<String>,
    /// The method as asked for: printable ASCII, cut to 16 characters.
    pub method: String,
    /// `host` or `host:port`, where the request could be understood that far.
    pub host: Option<String>,
}

/// A method as it may stand in the audit trail, for a guest chose it: printable ASCII, cut to 16 characters.
pub fn printable_method(method: &str) -> String {
    method.chars().take(16).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

impl From<Denial> for SendError {
    fn from(denial: Denial) -> Self {
        let kind = match denial.reason {
            Reason::InsufficientScope => SendErrorKind::InsufficientScope { missing: denial.missing_scopes },
            Reason::ReconnectRequired => SendErrorKind::ReconnectRequired,
            _ => SendErrorKind::Denied,
        };
        let error = SendError::new(kind, denial.reason, denial.message);
        match denial.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}
