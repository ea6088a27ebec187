//! The vault's errors as the caller of an action sees them.

use keyward_model::{Reason, SendError, SendErrorKind};

use crate::{connect::ConnectionError, error::VaultError};

impl From<VaultError> for SendError {
    /// Nothing of the guest's request was sent yet, so all of these are safe to try again.
    fn from(error: VaultError) -> Self {
        let hint = error.hint();
        let (kind, reason) = match &error {
            VaultError::Connection(error) => of_connection(error),
            VaultError::Store(_) => (SendErrorKind::Other, Reason::StoreFailed),
            _ => (SendErrorKind::Other, Reason::Internal),
        };
        Self { hint, ..Self::new(kind, reason, error.to_string()) }
    }
}

fn of_connection(error: &ConnectionError) -> (SendErrorKind, Reason) {
    match error {
        ConnectionError::Unknown(_) => (SendErrorKind::Denied, Reason::ConnectionUnknown),
        ConnectionError::NeedsReconnect { .. } | ConnectionError::ClientRefused { .. } => {
            (SendErrorKind::ReconnectRequired, Reason::ReconnectRequired)
        }
        ConnectionError::Refused { status: Some(429), retry_after, .. } => {
            (SendErrorKind::RateLimited { retry_after: *retry_after }, Reason::RateLimited)
        }
        ConnectionError::Busy { .. } => (SendErrorKind::Timeout, Reason::Timeout),
        ConnectionError::Unreachable { cause, .. } if cause.reason == Reason::Timeout => {
            (SendErrorKind::Timeout, Reason::Timeout)
        }
        ConnectionError::Unreachable { cause, .. } => (SendErrorKind::Unreachable, cause.reason),
        ConnectionError::Refused { .. } | ConnectionError::Unusable { .. } => {
            (SendErrorKind::Unreachable, Reason::Unreachable)
        }
        _ => (SendErrorKind::Other, Reason::Internal),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyward_model::Sent;

    use super::*;
    use crate::wire::WireError;

    fn unreachable(reason: Reason) -> ConnectionError {
        let cause = WireError { reason, message: "test".to_owned(), hint: None, sent: Sent::Maybe, limit: None };
        ConnectionError::Unreachable { what: "X".to_owned(), cause }
    }

    fn refused(status: u16) -> ConnectionError {
        ConnectionError::Refused {
            provider: "X".to_owned(),
            code: String::new(),
            message: "test".to_owned(),
            status: Some(status),
            retry_after: Some(Duration::from_secs(7)),
        }
    }

    #[test]
    fn caller_learns_what_it_can_branch_on_and_that_nothing_was_sent() {
        let reconnect = ConnectionError::NeedsReconnect { name: "x".to_owned(), reason: "gone".to_owned() };
        let retry_after = Some(Duration::from_secs(7));
        for (error, kind, reason) in [
            (reconnect, SendErrorKind::ReconnectRequired, Reason::ReconnectRequired),
            (refused(429), SendErrorKind::RateLimited { retry_after }, Reason::RateLimited),
            (refused(503), SendErrorKind::Unreachable, Reason::Unreachable),
            (unreachable(Reason::Timeout), SendErrorKind::Timeout, Reason::Timeout),
            (unreachable(Reason::TlsFailed), SendErrorKind::Unreachable, Reason::TlsFailed),
            (ConnectionError::Unknown("x".to_owned()), SendErrorKind::Denied, Reason::ConnectionUnknown),
        ] {
            let error = SendError::from(VaultError::from(error));
            assert_eq!((error.kind, error.reason, error.sent), (kind, reason, Sent::No));
        }
    }
}
