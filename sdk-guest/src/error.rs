//! Why an action brings no output, and why a request brings no response.

use std::{
    fmt, io,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use crate::{clock, http::Response};

/// What an action returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an action brings no output.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The input does not fit, beyond what the schema tells.
    InvalidInput(String),
    /// A request failed. The host tells the flow the same kind that the guest saw.
    Http(SendError),
    /// The action failed, with a code to branch on.
    Failed(Failure),
    /// Anything else.
    Other(String),
}

impl Error {
    /// A failure with a code to branch on, for example `not-found`; it is not worth another attempt.
    /// [`Failure::new`] tells more.
    pub fn failed(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Failed(Failure::new(code, message))
    }

    /// An error of the input, beyond what the schema tells.
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::InvalidInput(message.into())
    }

    /// An error that nobody is expected to branch on.
    pub fn other(cause: impl fmt::Display) -> Self {
        Self::Other(cause.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidInput(message) => write!(f, "invalid input: {message}"),
            Self::Http(error) => error.fmt(f),
            Self::Failed(failure) => write!(f, "{} ({})", failure.message, failure.code),
            Self::Other(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        Self::Http(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Other(error.to_string())
    }
}

/// A [`SendError`] that went through [`io::Read`] or [`io::Write`] comes out as itself.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.downcast::<SendError>() {
            Ok(error) => Self::Http(error),
            Err(error) => Self::Other(error.to_string()),
        }
    }
}

/// A failure that the action itself tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A code to branch on, for example `not-found`.
    pub code: String,
    /// What happened, for people.
    pub message: String,
    /// The HTTP status of the API where that is the cause.
    pub status: Option<u16>,
    /// Whether another attempt may succeed.
    pub retryable: bool,
    /// How long to wait before it, where it is known.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that is not worth another attempt.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), status: None, retryable: false, retry_after: None }
    }

    /// The same, caused by that HTTP status.
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// The same, worth another attempt, after a delay where one is known.
    pub fn retry(mut self, after: Option<Duration>) -> Self {
        self.retryable = true;
        self.retry_after = after;
        self
    }
}

/// Whether a request reached the server; a flow needs it to know if another attempt is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Nothing was sent.
    No,
    /// Some or all of it may have been processed.
    Maybe,
    /// The server answered.
    Yes,
}

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendError {
    /// What to branch on.
    pub kind: SendErrorKind,
    /// The reason code, for example `path-not-allowed`; the list is in Keyward's documentation.
    pub reason: String,
    /// What was wrong, for people.
    pub message: String,
    /// Whether the request reached the server.
    pub sent: Sent,
}

/// The cases of [`SendError`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// A rule refuses the request. Another attempt is refused as well.
    Denied,
    /// The connection lacks scopes that the action needs.
    InsufficientScope {
        /// What is missing.
        missing: Vec<String>,
    },
    /// The connection no longer works; its owner must connect again.
    ReconnectRequired,
    /// Too many requests, by the provider's word or the host's own budget.
    RateLimited {
        /// How long to wait, where it is known.
        retry_after: Option<Duration>,
    },
    /// No answer in time.
    Timeout,
    /// The request's or the response's body is larger than the call may move.
    TooLarge {
        /// The limit, bytes.
        limit: u64,
    },
    /// The server cannot be reached.
    Unreachable,
    /// Anything else.
    Other,
}

impl SendError {
    /// An error with nothing sent; for tests, which let [`FakeHost`](crate::testing::FakeHost) bring it.
    pub fn new(kind: SendErrorKind, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), message: message.into(), sent: Sent::No }
    }

    /// The same with what is known about delivery.
    pub fn sent(mut self, sent: Sent) -> Self {
        self.sent = sent;
        self
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason)
    }
}

impl std::error::Error for SendError {}

impl From<SendError> for io::Error {
    fn from(error: SendError) -> Self {
        io::Error::other(error)
    }
}

/// How much of an API's own message an error repeats, characters.
const MESSAGE_CHARS: usize = 300;

/// A response that is not what the action can read.
pub(crate) fn unexpected(status: u16, cause: &dyn fmt::Display) -> Error {
    Failure::new("unexpected-response", format!("the API's response cannot be read: {cause}")).status(status).into()
}

/// See [`Response::failure`].
pub(crate) fn of_response(response: &Response) -> Failure {
    let status = response.status;
    let code = match status {
        400 => "bad-request",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not-found",
        408 => "request-timeout",
        409 => "conflict",
        410 => "gone",
        412 => "precondition-failed",
        422 => "unprocessable",
        429 => "rate-limited",
        500..=599 => "server-error",
        _ => "unexpected-status",
    };
    let message = match api_message(&response.body) {
        Some(text) => format!("the API answered {status}: {text}"),
        None => format!("the API answered {status}"),
    };
    let failure = Failure::new(code, message).status(status);
    match status {
        408 | 429 | 500..=599 => failure.retry(response.header("retry-after").and_then(retry_after)),
        _ => failure,
    }
}

/// The message in an error body, by the names that APIs commonly use (RFC 9457 `detail` and `title` among them).
fn api_message(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let text = ["message", "error_description", "detail", "title", "error"].iter().find_map(|name| {
        let value = body.get(name)?;
        value.as_str().or_else(|| value.get("message")?.as_str())
    })?;
    Some(text.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS).collect())
}

/// A delay in seconds, or the time until an HTTP date; none for a date in the past.
pub(crate) fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    date.checked_sub(clock::wall())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::{http::Headers, testing::FakeHost};

    fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        Response { status, headers: Headers(headers), body: body.into() }
    }

    #[test]
    fn status_decides_code_and_retry() {
        for (status, code, retryable) in [
            (302, "unexpected-status", false),
            (401, "unauthorized", false),
            (404, "not-found", false),
            (422, "unprocessable", false),
            (429, "rate-limited", true),
            (500, "server-error", true),
            (503, "server-error", true),
        ] {
            let failure = response(status, &[], "").failure();
            assert_eq!((failure.code.as_str(), failure.retryable), (code, retryable), "{status}");
            assert_eq!(failure.status, Some(status));
        }
        assert!(response(204, &[], "").error_for_status().is_ok());
    }

    #[test]
    fn api_message_is_found_by_its_common_names_and_cut() {
        for (body, message) in [
            (r#"{"message":"Not Found"}"#, "the API answered 404: Not Found"),
            (r#"{"error":{"message":"no\nway"}}"#, "the API answered 404: noway"),
            (r#"{"error":"x","error_description":"y"}"#, "the API answered 404: y"),
            (r#"{"title":"t","detail":"d"}"#, "the API answered 404: d"),
            ("<html>", "the API answered 404"),
            (r#"{"message":7}"#, "the API answered 404"),
        ] {
            assert_eq!(response(404, &[], body).failure().message, message);
        }
        let long = response(404, &[], &format!(r#"{{"message":"{}"}}"#, "é".repeat(1000))).failure();
        assert_eq!(long.message.matches('é').count(), MESSAGE_CHARS);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let host = FakeHost::new();
        host.set_wall_clock(Duration::from_secs(784_111_770));
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:00 GMT"), None);
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn send_error_survives_io() {
        let error = SendError::new(SendErrorKind::Timeout, "timeout", "no answer").sent(Sent::Maybe);
        assert_eq!(Error::from(io::Error::from(error.clone())), Error::Http(error));
        assert!(matches!(Error::from(io::Error::other("x")), Error::Other(_)));
        let parse = serde_json::from_str::<u8>("x").unwrap_err();
        assert!(matches!(Error::from(parse), Error::Other(_)));
    }
}
