//! The host as a component sees it: the WIT, and nothing else. Only conversions live here.

use std::time::Duration;

use crate::{
    Call, Connection, Error, Failure, SendError, SendErrorKind, Sent,
    action::{self, Entry},
    http::{Headers, RequestHead, Response, ResponseHead, Target},
    log::Level,
};

/// What `wit-bindgen` makes of the WIT; `connector!` exports through it.
#[doc(hidden)]
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "connector",
        pub_export_macro: true,
        export_macro_name: "export_connector",
        default_bindings_module: "keyward::bindings",
    });
}

use bindings::{
    exports::keyward::connector::actions as wire_actions,
    keyward::connector::{clock as wire_clock, http as wire, log as wire_log, random as wire_random},
};

#[derive(Debug)]
pub(crate) struct RawConnection(wire::Connection);

impl RawConnection {
    pub(crate) fn send(&self, head: RequestHead, body: Option<Vec<u8>>) -> Result<Response, SendError> {
        let response = self.0.send(&head.into(), body.as_deref())?;
        Ok(Response { status: response.status, headers: Headers(response.headers), body: response.body })
    }

    pub(crate) fn start(&self, head: RequestHead, length: Option<u64>) -> Result<RawExchange, SendError> {
        Ok(RawExchange(self.0.start(&head.into(), length)?))
    }
}

#[derive(Debug)]
pub(crate) struct RawExchange(wire::Exchange);

impl RawExchange {
    pub(crate) fn write(&self, chunk: &[u8]) -> Result<(), SendError> {
        Ok(self.0.write(chunk)?)
    }

    pub(crate) fn finish(&self) -> Result<ResponseHead, SendError> {
        let head = self.0.finish()?;
        Ok(ResponseHead { status: head.status, headers: Headers(head.headers) })
    }

    pub(crate) fn read(&self, max: u32) -> Result<Option<Vec<u8>>, SendError> {
        Ok(self.0.read(max)?)
    }
}

pub(crate) fn log(level: Level, text: &str) {
    let level = match level {
        Level::Trace => wire_log::Level::Trace,
        Level::Debug => wire_log::Level::Debug,
        Level::Info => wire_log::Level::Info,
        Level::Warn => wire_log::Level::Warn,
        Level::Error => wire_log::Level::Error,
    };
    wire_log::write(level, text);
}

pub(crate) fn monotonic() -> u64 {
    wire_clock::monotonic()
}

pub(crate) fn wall() -> u64 {
    wire_clock::wall()
}

pub(crate) fn random(count: u32) -> Vec<u8> {
    wire_random::bytes(count)
}

/// Lets a panic write its text to the log: a trap carries none.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or("an unknown place".to_owned(), ToString::to_string);
        let text = panic.payload_as_str().unwrap_or("the panic has no text");
        log(Level::Error, &format!("panicked at {place}: {text}"));
    }));
}

/// Runs a call; the body of the component's only export.
pub fn run(
    actions: &[Entry],
    invocation: wire_actions::Invocation,
    connection: wire::Connection,
) -> Result<String, wire_actions::ActionError> {
    log_panics();
    let wire_actions::Invocation { action, input, idempotency_key, attempt } = invocation;
    let connection = Connection::new(RawConnection(connection), Call { action, idempotency_key, attempt });
    let name = connection.call().action();
    match action::dispatch(actions, name, &input, &connection) {
        Some(outcome) => outcome.map_err(Into::into),
        None => Err(wire_actions::ActionError::UnknownAction(name.to_owned())),
    }
}

impl From<RequestHead> for wire::RequestHead {
    fn from(head: RequestHead) -> Self {
        let target = match head.target {
            Target::Endpoint { endpoint, path } => wire::Target::Endpoint(wire::EndpointPath { endpoint, path }),
            Target::Url(url) => wire::Target::Url(url),
        };
        Self { method: head.method, target, query: head.query, headers: head.headers.0 }
    }
}

impl From<wire::SendError> for SendError {
    fn from(error: wire::SendError) -> Self {
        use wire::SendError as E;
        let (kind, detail) = match error {
            E::Denied(detail) => (SendErrorKind::Denied, detail),
            E::InsufficientScope(scope) => (SendErrorKind::InsufficientScope { missing: scope.missing }, scope.detail),
            E::ReconnectRequired(detail) => (SendErrorKind::ReconnectRequired, detail),
            E::RateLimited(rate) => {
                let retry_after = rate.retry_after_ms.map(Duration::from_millis);
                (SendErrorKind::RateLimited { retry_after }, rate.detail)
            }
            E::Timeout(detail) => (SendErrorKind::Timeout, detail),
            E::TooLarge(size) => (SendErrorKind::TooLarge { limit: size.limit }, size.detail),
            E::Unreachable(detail) => (SendErrorKind::Unreachable, detail),
            E::Other(detail) => (SendErrorKind::Other, detail),
        };
        let sent = match detail.sent {
            wire::Sent::No => Sent::No,
            wire::Sent::Maybe => Sent::Maybe,
            wire::Sent::Yes => Sent::Yes,
        };
        Self { kind, reason: detail.reason, message: detail.message, sent }
    }
}

impl From<SendError> for wire::SendError {
    fn from(error: SendError) -> Self {
        let sent = match error.sent {
            Sent::No => wire::Sent::No,
            Sent::Maybe => wire::Sent::Maybe,
            Sent::Yes => wire::Sent::Yes,
        };
        let detail = wire::ErrorDetail { reason: error.reason, message: error.message, sent };
        match error.kind {
            SendErrorKind::Denied => Self::Denied(detail),
            SendErrorKind::InsufficientScope { missing } => {
                Self::InsufficientScope(wire::ScopeDetail { detail, missing })
            }
            SendErrorKind::ReconnectRequired => Self::ReconnectRequired(detail),
            SendErrorKind::RateLimited { retry_after } => {
                Self::RateLimited(wire::RateDetail { detail, retry_after_ms: retry_after.map(milliseconds) })
            }
            SendErrorKind::Timeout => Self::Timeout(detail),
            SendErrorKind::TooLarge { limit } => Self::TooLarge(wire::SizeDetail { detail, limit }),
            SendErrorKind::Unreachable => Self::Unreachable(detail),
            SendErrorKind::Other => Self::Other(detail),
        }
    }
}

impl From<Error> for wire_actions::ActionError {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidInput(message) => Self::InvalidInput(message),
            Error::Http(error) => Self::Http(error.into()),
            Error::Failed(Failure { code, message, status, retryable, retry_after }) => {
                let retry_after_ms = retry_after.map(milliseconds);
                Self::Failed(wire_actions::Failure { code, message, status, retryable, retry_after_ms })
            }
            Error::Other(message) => Self::Other(message),
        }
    }
}

/// Rounded up, so that nobody comes back too early.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
