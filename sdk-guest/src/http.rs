//! Requests and responses as the host takes and gives them. Most actions need only what
//! [`Connection::get`](crate::Connection::get) and its kin build on top of this.

use serde::de::DeserializeOwned;

use crate::{Failure, Result, SendError, error, host};

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A path below one of the endpoints that the manifest declares.
    Endpoint {
        /// The endpoint's name in the manifest.
        endpoint: String,
        /// The path, percent-encoded, starting with `/`, without query.
        path: String,
    },
    /// An absolute URL as the API returned it. It must lie below a declared endpoint and match a declared request.
    Url(String),
}

/// A request without its body, exactly as the host gets it: nothing is encoded or added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// The HTTP method in capitals.
    pub method: String,
    /// Where it goes.
    pub target: Target,
    /// Query parameters, not encoded.
    pub query: Vec<(String, String)>,
    /// Headers.
    pub headers: Headers,
}

/// Names and values. Names are compared without regard to case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, Vec<u8>)>);

impl Headers {
    /// The first value of that name, where it is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.all(name).find_map(|value| std::str::from_utf8(value).ok())
    }

    /// Every value of that name, in order.
    pub fn all<'h>(&'h self, name: &str) -> impl Iterator<Item = &'h [u8]> {
        self.0.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }
}

/// A response whose body has been read to its end. Any status is a response, 404 as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The headers, without those that concern the connection or the encoding.
    pub headers: Headers,
    /// The body, decoded.
    pub body: Vec<u8>,
}

impl Response {
    /// Whether the status is 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of that name, where it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.text(name)
    }

    /// The body as text.
    ///
    /// # Errors
    /// `unexpected-response` where it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body).map_err(|error| error::unexpected(self.status, &error))
    }

    /// The body read as JSON.
    ///
    /// # Errors
    /// `unexpected-response` where it is no JSON or does not fit `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| error::unexpected(self.status, &error))
    }

    /// The response itself where the status is 200 to 299, else [`Response::failure`] as an error.
    ///
    /// # Errors
    /// Any other status.
    pub fn error_for_status(self) -> Result<Self> {
        if self.is_success() { Ok(self) } else { Err(self.failure().into()) }
    }

    /// What this response means as a failure: a code by status (`not-found`, `unprocessable`, `rate-limited`, ...),
    /// the API's own message where the body has one, retryable for 408, 429 and 5xx, and the delay that
    /// `Retry-After` asks for (RFC 9110, section 10.2.3).
    pub fn failure(&self) -> Failure {
        error::of_response(self)
    }
}

/// The head of a response whose body is yet to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// The HTTP status.
    pub status: u16,
    /// The headers, without those that concern the connection or the encoding.
    pub headers: Headers,
}

/// A request under way, exactly as the host offers it. [`Upload`](crate::Upload) and
/// [`Download`](crate::Download) keep the order of the calls right.
///
/// A call out of order is no error to handle: it ends the action, as a panic does, and panics in unit tests. Such are
/// a read before [`Exchange::finish`], a write or another `finish` after it, a write to a request without a body (see
/// [`Connection::start`](crate::Connection::start)), and a body of another length than was declared.
#[derive(Debug)]
pub struct Exchange(pub(crate) host::RawExchange);

impl Exchange {
    /// Writes a chunk of the request's body and returns when there is room for another.
    ///
    /// # Errors
    /// What the host or the network has against it.
    pub fn write(&self, chunk: &[u8]) -> Result<(), SendError> {
        self.0.write(chunk)
    }

    /// Ends the request's body and waits for the head of the response. Call it once.
    ///
    /// # Errors
    /// What the host or the network has against it.
    pub fn finish(&self) -> Result<ResponseHead, SendError> {
        self.0.finish()
    }

    /// The next chunk of the response's body, at most `max` bytes; `None` at its end. Call it after
    /// [`Exchange::finish`].
    ///
    /// # Errors
    /// What the host or the network has against it.
    pub fn read(&self, max: u32) -> Result<Option<Vec<u8>>, SendError> {
        self.0.read(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_are_compared_without_case() {
        let headers = Headers(vec![("ETag".into(), b"a".to_vec()), ("etag".into(), b"b".to_vec())]);
        assert_eq!(headers.text("etag"), Some("a"));
        assert_eq!(headers.all("ETAG").count(), 2);
        assert_eq!(headers.text("link"), None);
    }
}
