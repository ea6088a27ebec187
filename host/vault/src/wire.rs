//! The road out as the vault sees it: one function. `egress` has the only implementation.

use std::{fmt, pin::Pin, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use http::{HeaderMap, Method, StatusCode};
use keyward_model::{Reason, SendError, SendErrorKind, Sent, request::Body};
use url::Url;

/// A request ready to be dialled. Only this crate can make one, so nothing reaches a network that has not
/// been a [`keyward_policy::Permit`] or a request to a provider's own endpoint.
pub struct WireRequest {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    pub(crate) limits: WireLimits,
    pub(crate) private: bool,
}

/// What a request may use.
#[derive(Debug, Clone, Copy)]
pub struct WireLimits {
    /// Until the head of the response, and between two chunks of its body.
    pub timeout: Duration,
    /// Bytes of the response's body after decoding.
    pub response_bytes: u64,
}

/// The parts of a [`WireRequest`], for the one who dials.
pub struct WireParts {
    /// The method.
    pub method: Method,
    /// The canonical URL.
    pub url: Url,
    /// The headers, the credential's among them (marked sensitive).
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
    /// What it may use.
    pub limits: WireLimits,
    /// Whether it may go to a private address, and trust a private authority, where the operator has an exception. The
    /// connector's manifest says so of its requests; what is sent to a provider is the operator's own matter.
    pub private: bool,
}

impl WireRequest {
    /// Uses it up.
    pub fn into_parts(self) -> WireParts {
        let Self { method, url, headers, body, limits, private } = self;
        WireParts { method, url, headers, body, limits, private }
    }
}

impl fmt::Debug for WireRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL and the headers may hold the credential.
        f.debug_struct("WireRequest").field("method", &self.method).finish_non_exhaustive()
    }
}

/// The chunks of a decoded body; an error ends it.
pub type WireBody = Pin<Box<dyn Stream<Item = Result<Bytes, WireError>> + Send>>;

/// What came back, content encoding already undone.
pub struct WireResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers, without `content-encoding`, `content-length` of the encoded form, and hop-by-hop ones.
    pub headers: HeaderMap,
    /// The decoded body; counts against the limit as it is read.
    pub body: WireBody,
}

impl fmt::Debug for WireResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireResponse").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why there is no response, or no more of it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    /// The exact reason.
    pub reason: Reason,
    /// What was wrong, without the URL's query and without headers.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Whether the request reached the server.
    pub sent: Sent,
    /// The limit that was passed, where [`Reason::TooLarge`] is the reason.
    pub limit: Option<u64>,
}

/// For the guest. The message is not searched for secrets here: [`crate::CredentialedRequest::send`] does that.
impl From<WireError> for SendError {
    fn from(error: WireError) -> Self {
        let kind = match error.reason {
            Reason::Timeout => SendErrorKind::Timeout,
            Reason::TooLarge => SendErrorKind::TooLarge { limit: error.limit.unwrap_or_default() },
            Reason::Unreachable | Reason::NameUnresolved | Reason::TlsFailed => SendErrorKind::Unreachable,
            Reason::AddressNotAllowed | Reason::SchemeNotAllowed => SendErrorKind::Denied,
            // The request's own body broke off for it.
            Reason::TransferLimit => SendErrorKind::RateLimited { retry_after: None },
            _ => SendErrorKind::Other,
        };
        Self { kind, reason: error.reason, message: error.message, hint: error.hint, sent: error.sent }
    }
}

/// The one road out: checks the scheme against the operator's exceptions, resolves the name, checks every
/// address, dials the checked one, sends, does not follow redirects, and decodes.
#[async_trait]
pub trait Wire: Send + Sync {
    /// Sends one request.
    async fn exchange(&self, request: WireRequest) -> Result<WireResponse, WireError>;
}
