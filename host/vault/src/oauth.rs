//! Requests to an authorization server: what is sent, and how it is sent over the one road out.
//!
//! The `oauth2` crate makes the requests (form, PKCE, scopes). They are taken from it before they are sent, because
//! it reads replies strictly, throws the raw bytes away, and keeps them in its errors; [`crate::token`] reads them.

mod discovery;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod fake;
mod request;

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use keyward_model::{Body, Reason, Sent};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use url::Url;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    place::Placed,
    secret::Secret,
    token::{Document, RawReply, Withheld},
    wire::{Wire, WireError, WireLimits, WireRequest},
};

pub(crate) use discovery::{discover, same_issuer};
pub(crate) use request::{Ask, about_token, token_request};

/// From the first byte out to the last byte in. The lease on a refresh must outlive it by far.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// No reply of an authorization server is as large as this, bytes.
const REPLY_LIMIT: u64 = 1 << 20;

/// By how much a server's clock may differ from ours. A date further off than any time zone set wrong is a mistake or
/// malice, and would decide when tokens end.
const CREDIBLE: time::Duration = time::Duration::hours(48);

/// A request that is not sent yet. Its parts may hold secrets, so there is no `Debug`. It knows each of them: nothing
/// puts one in without noting it.
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Zeroizing<Vec<u8>>,
    secrets: Placed,
}

impl Outgoing {
    /// A request without a body that asks for JSON.
    pub(crate) fn new(method: Method, url: Url) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        Self { method, url, headers, body: Zeroizing::default(), secrets: Vec::new() }
    }

    /// The same with a credential in `Authorization`; `None` where it holds characters that no header can.
    fn authorized(mut self, value: &Zeroizing<String>) -> Option<Self> {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        self.headers.insert(header::AUTHORIZATION, value);
        Some(self)
    }

    /// The same with a bearer token (RFC 6750 section 2.1).
    pub(crate) fn bearer(self, token: &Secret) -> Option<Self> {
        let value = Zeroizing::new(format!("Bearer {}", token.expose_str()?));
        self.withholding([token]).authorized(&value)
    }

    /// The same with a body and the secrets in it.
    pub(crate) fn body<'a>(
        mut self,
        content_type: &'static str,
        body: Zeroizing<Vec<u8>>,
        secrets: impl IntoIterator<Item = &'a Secret>,
    ) -> Self {
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.body = body;
        self.withholding(secrets)
    }

    /// Notes secrets, as they are and as a form or a header for HTTP Basic spells them.
    fn withholding<'a>(mut self, secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        for secret in secrets {
            let spellings = request::spellings(secret.expose());
            self.secrets.extend(spellings.into_iter().map(Arc::new));
        }
        self
    }

    /// What is to be taken out of the answer.
    pub(crate) fn withheld(&mut self) -> Arc<Withheld> {
        Arc::new(Withheld::of(std::mem::take(&mut self.secrets)))
    }
}

/// What came back, whole.
pub(crate) struct Fetched {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Secret,
    /// What it may quote of the request.
    pub(crate) withheld: Arc<Withheld>,
}

impl Fetched {
    /// The body, read leniently.
    pub(crate) fn document(&self) -> Document {
        Document::read(self.body.expose(), &self.withheld)
    }

    /// The body, where it is JSON.
    pub(crate) fn json(&self) -> Option<Document> {
        Document::json(self.body.expose(), &self.withheld)
    }

    /// How long the server asks us to wait (RFC 9110 section 10.2.3, in seconds; at most ten minutes count).
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let seconds: u64 = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds.min(600)))
    }

    /// The reply for storing, with the server's time where it tells it. `now` is ours.
    pub(crate) fn into_reply(self, now: OffsetDateTime) -> RawReply {
        let date = self.headers.get(header::DATE).and_then(|date| date.to_str().ok());
        let told = date.and_then(|date| OffsetDateTime::parse(date, &Rfc2822).ok());
        let received_at = told.filter(|told| (*told - now).abs() <= CREDIBLE).unwrap_or(now);
        RawReply {
            status: self.status.as_u16(),
            received_at,
            clock_offset: (received_at - now).whole_seconds(),
            body: self.body,
        }
    }
}

/// Sends a request and reads the whole reply.
pub(crate) async fn fetch(wire: &dyn Wire, request: Outgoing) -> Result<Fetched, WireError> {
    let timed_out = |_| WireError {
        reason: Reason::Timeout,
        message: format!("there was no whole answer within {} s", TIMEOUT.as_secs()),
        hint: None,
        sent: Sent::Maybe,
        limit: None,
    };
    tokio::time::timeout(TIMEOUT, exchange(wire, request)).await.unwrap_or_else(|elapsed| Err(timed_out(elapsed)))
}

async fn exchange(wire: &dyn Wire, mut request: Outgoing) -> Result<Fetched, WireError> {
    // Some servers, GitHub's among them, refuse requests without it.
    let agent = HeaderValue::from_static(concat!("keyward/", env!("CARGO_PKG_VERSION")));
    request.headers.insert(header::USER_AGENT, agent);
    let withheld = request.withheld();
    let body = if request.body.is_empty() { Body::Empty } else { Body::Bytes(Bytes::from_owner(request.body)) };
    let mut response = wire
        .exchange(WireRequest {
            method: request.method,
            url: request.url,
            headers: request.headers,
            body,
            limits: WireLimits { timeout: TIMEOUT, response_bytes: REPLY_LIMIT },
            private: true,
        })
        .await?;
    let mut whole = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.body.next().await {
        append(&mut whole, chunk?);
    }
    // A body that is not UTF-8 holds no token; what is odd in it becomes replacement characters.
    let text = String::from_utf8_lossy(&whole).into_owned();
    Ok(Fetched { status: response.status, headers: response.headers, body: Secret::from(text), withheld })
}

/// Appends a chunk, and wipes both the chunk, where nobody else holds it, and the buffer that became too small.
fn append(whole: &mut Zeroizing<Vec<u8>>, chunk: Bytes) {
    if whole.capacity() - whole.len() < chunk.len() {
        let mut larger = Zeroizing::new(Vec::with_capacity(2 * (whole.len() + chunk.len())));
        larger.extend_from_slice(whole);
        *whole = larger;
    }
    whole.extend_from_slice(&chunk);
    if let Ok(mut chunk) = chunk.try_into_mut() {
        BytesMut::as_mut(&mut chunk).zeroize();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn servers_clock_is_taken_from_the_date_header() {
        let now = datetime!(2026-11-22 12:00 UTC);
        let reply = |date: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(date) = date {
                headers.insert(header::DATE, date.parse().unwrap());
            }
            let body = Secret::from(String::new());
            let withheld = Arc::default();
            let reply = Fetched { status: StatusCode::OK, headers, body, withheld }.into_reply(now);
            (reply.received_at, reply.clock_offset)
        };
        assert_eq!(reply(Some("Sun, 22 Nov 2026 13:00:05 GMT")), (datetime!(2026-11-22 13:00:05 UTC), 3605));
        assert_eq!(reply(Some("Sun, 22 Nov 2026 11:59:00 GMT")), (datetime!(2026-11-22 11:59 UTC), -60));
        assert_eq!(reply(Some("yesterday")), (now, 0));
        for far in ["Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "Tue, 24 Nov 2026 12:00:01 GMT"] {
            assert_eq!(reply(Some(far)), (now, 0), "{far}");
        }
        assert_eq!(reply(None), (now, 0));
    }

    #[test]
    fn delay_is_read_in_seconds_and_bounded() {
        for (header, expected) in [("7", Some(7)), ("86400", Some(600)), ("Sun, 22 Nov 2026 13:00:05 GMT", None)] {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, header.parse().unwrap())]);
            let body = Secret::from(String::new());
            let fetched = Fetched { status: StatusCode::OK, headers, body, withheld: Arc::default() };
            assert_eq!(fetched.retry_after().map(|delay| delay.as_secs()), expected);
        }
    }

    #[test]
    fn chunks_are_joined_in_order() {
        let mut whole = Zeroizing::new(Vec::new());
        for chunk in ["ab", "", "cdefghijkl", "m"] {
            append(&mut whole, Bytes::from(chunk));
        }
        assert_eq!(whole.as_slice(), b"abcdefghijklm");
    }
}
