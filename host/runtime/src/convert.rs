//! Between the types of the WIT and those of the model. Nothing is decided here.

use std::time::Duration;

use bytes::Bytes;
use keyward_model::{Body, GuestRequest, LogLevel, Reason, SendError, SendErrorKind, Sent, Target};

use crate::bindings::v0_1::{
    exports::keyward::connector::actions::ActionError,
    keyward::connector::{http as wit, log::Level},
};

/// A request with its body.
pub(crate) fn request(head: wit::RequestHead, body: Body) -> GuestRequest {
    GuestRequest {
        method: head.method,
        target: match head.target {
            wit::Target::Endpoint(wit::EndpointPath { endpoint, path }) => Target::Endpoint { endpoint, path },
            wit::Target::Url(url) => Target::Url(url),
        },
        query: head.query,
        headers: head.headers,
        body,
    }
}

/// A body that the guest gave at once.
pub(crate) fn body(body: Option<Vec<u8>>) -> Body {
    body.map_or(Body::Empty, |bytes| Body::Bytes(Bytes::from(bytes)))
}

/// An error as the guest is told it. The hint is for the operator and stays here.
pub(crate) fn send_error(error: &SendError) -> wit::SendError {
    let detail = wit::ErrorDetail {
        reason: error.reason.code().to_owned(),
        message: error.message.clone(),
        sent: match error.sent {
            Sent::No => wit::Sent::No,
            Sent::Maybe => wit::Sent::Maybe,
            Sent::Yes => wit::Sent::Yes,
        },
    };
    match &error.kind {
        SendErrorKind::Denied => wit::SendError::Denied(detail),
        SendErrorKind::InsufficientScope { missing } => {
            wit::SendError::InsufficientScope(wit::ScopeDetail { detail, missing: missing.clone() })
        }
        SendErrorKind::ReconnectRequired => wit::SendError::ReconnectRequired(detail),
        SendErrorKind::RateLimited { retry_after } => wit::SendError::RateLimited(wit::RateDetail {
            detail,
            retry_after_ms: retry_after.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
        }),
        SendErrorKind::Timeout => wit::SendError::Timeout(detail),
        SendErrorKind::TooLarge { limit } => wit::SendError::TooLarge(wit::SizeDetail { detail, limit: *limit }),
        SendErrorKind::Unreachable => wit::SendError::Unreachable(detail),
        // A kind of a later model that this line of the WIT cannot tell.
        _ => wit::SendError::Other(detail),
    }
}

/// The texts of an action's error.
pub(crate) fn texts(error: &mut ActionError) -> Vec<&mut String> {
    match error {
        ActionError::UnknownAction(text) | ActionError::InvalidInput(text) | ActionError::Other(text) => vec![text],
        ActionError::Failed(failure) => vec![&mut failure.code, &mut failure.message],
        ActionError::Http(error) => match error {
            wit::SendError::InsufficientScope(scope) => {
                scope.missing.iter_mut().chain([&mut scope.detail.message]).collect()
            }
            wit::SendError::RateLimited(rate) => vec![&mut rate.detail.message],
            wit::SendError::TooLarge(size) => vec![&mut size.detail.message],
            wit::SendError::Denied(detail)
            | wit::SendError::ReconnectRequired(detail)
            | wit::SendError::Timeout(detail)
            | wit::SendError::Unreachable(detail)
            | wit::SendError::Other(detail) => vec![&mut detail.message],
        },
    }
}

/// An error as the guest passes it on. Its words are the guest's own until they are found to be the host's.
pub(crate) fn claimed_error(error: wit::SendError) -> SendError {
    let (kind, detail) = match error {
        wit::SendError::Denied(detail) => (SendErrorKind::Denied, detail),
        wit::SendError::InsufficientScope(scope) => {
            (SendErrorKind::InsufficientScope { missing: scope.missing }, scope.detail)
        }
        wit::SendError::ReconnectRequired(detail) => (SendErrorKind::ReconnectRequired, detail),
        wit::SendError::RateLimited(rate) => {
            (SendErrorKind::RateLimited { retry_after: rate.retry_after_ms.map(Duration::from_millis) }, rate.detail)
        }
        wit::SendError::Timeout(detail) => (SendErrorKind::Timeout, detail),
        wit::SendError::TooLarge(size) => (SendErrorKind::TooLarge { limit: size.limit }, size.detail),
        wit::SendError::Unreachable(detail) => (SendErrorKind::Unreachable, detail),
        wit::SendError::Other(detail) => (SendErrorKind::Other, detail),
    };
    let sent = match detail.sent {
        wit::Sent::No => Sent::No,
        wit::Sent::Maybe => Sent::Maybe,
        wit::Sent::Yes => Sent::Yes,
    };
    let reason = detail.reason.parse().unwrap_or(Reason::ActionFailed);
    SendError::new(kind, reason, detail.message).sent(sent)
}

/// How important a line is.
pub(crate) fn level(level: Level) -> LogLevel {
    match level {
        Level::Trace => LogLevel::Trace,
        Level::Debug => LogLevel::Debug,
        Level::Info => LogLevel::Info,
        Level::Warn => LogLevel::Warn,
        Level::Error => LogLevel::Error,
    }
}
