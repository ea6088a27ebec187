//! A request as the guest asks for it, and the response as the guest sees it.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;

use crate::error::SendError;

/// What stands in the place of a secret that a server repeats.
pub const REDACTED: &str = "[redacted]";

/// Chunks of a body; an error ends it.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, SendError>> + Send>>;

/// What a guest asks the host to send. Nothing in it has been checked.
#[derive(Debug)]
pub struct GuestRequest {
    /// The HTTP method.
    pub method: String,
    /// Where it goes.
    pub target: Target,
    /// Query parameters, not encoded; they follow those that an absolute URL has.
    pub query: Vec<(String, String)>,
    /// Headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Body,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A path (percent-encoded, without query) below a declared endpoint.
    Endpoint {
        /// The endpoint's name in the manifest.
        endpoint: String,
        /// The path, starting with `/`.
        path: String,
    },
    /// An absolute URL as an API returned it (`nextLink`, an upload session); it must lie below a declared endpoint.
    Url(String),
}

/// A request's body.
#[derive(Default)]
pub enum Body {
    /// None.
    #[default]
    Empty,
    /// All of it at once; can be sent again.
    Bytes(Bytes),
    /// Chunk by chunk; can be sent once.
    Stream {
        /// The length in bytes where it is known.
        length: Option<u64>,
        /// The chunks.
        chunks: BodyStream,
    },
}

impl Body {
    /// All of it at once, where it has at most `limit` bytes; else the same, chunk by chunk.
    ///
    /// # Errors
    /// Where it breaks off before that is known.
    pub async fn gathered(self, limit: usize) -> Result<Self, SendError> {
        let Self::Stream { length, mut chunks } = self else { return Ok(self) };
        if length.is_some_and(|length| length > limit as u64) {
            return Ok(Self::Stream { length, chunks });
        }
        let mut front = BytesMut::new();
        while let Some(chunk) = poll_fn(|cx| chunks.as_mut().poll_next(cx)).await {
            front.extend_from_slice(&chunk?);
            if front.len() > limit {
                return Ok(Self::Stream { length, chunks: Box::pin(Resumed { front: front.freeze(), rest: chunks }) });
            }
        }
        Ok(if front.is_empty() { Self::Empty } else { Self::Bytes(front.freeze()) })
    }
}

/// A stream with what was read of it in front.
struct Resumed {
    front: Bytes,
    rest: BodyStream,
}

impl Stream for Resumed {
    type Item = Result<Bytes, SendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.front.is_empty() {
            true => self.rest.as_mut().poll_next(cx),
            false => Poll::Ready(Some(Ok(std::mem::take(&mut self.front)))),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Stream { length, .. } => write!(f, "Stream({length:?} bytes)"),
        }
    }
}

/// What came back, cleaned of every secret.
pub struct GuestResponse {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body, decoded.
    pub body: BodyStream,
}

impl fmt::Debug for GuestResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestResponse").field("status", &self.status).finish_non_exhaustive()
    }
}
