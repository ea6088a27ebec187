//! The one HTTP client, and the one implementation of the road out.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use keyward_model::{BodyStream, Reason, SendError, SendErrorKind, Sent, request::Body};
use keyward_policy::{NetworkExceptions, PolicyHost};
use keyward_vault::{
    Wire, WireError, WireRequest, WireResponse,
    wire::{WireLimits, WireParts},
};
use reqwest::{Certificate, Client, redirect, tls};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::time::{Instant, timeout, timeout_at};
use url::Host;

use crate::{
    decode::{ACCEPT_ENCODING, Chunk, Coding, decoded, too_large},
    fault::{Place, innermost},
    guard::{Guard, Lookup, system},
};

/// The most headers of an answer.
const MAX_RESPONSE_HEADERS: usize = 200;
/// The most bytes of all names and values of an answer's headers.
const MAX_RESPONSE_HEADER_BYTES: usize = 64 * 1024;

/// What a server may send of one HTTP/2 answer before it is read, bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for all answers of a connection together: the most that HTTP/2 knows (RFC 9113 section 6.9.1), which is
/// more than its streams can fill. So answers that nobody reads hold up none of another caller.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// The most of a body that is handed to the connection at once, so that it is seen how far an upload has come.
const UPLOAD_SLICE: usize = 64 * 1024;

/// How the wire is set up.
#[derive(Debug, Clone)]
pub struct WireConfig {
    /// The operator's exceptions to "public addresses and https".
    pub network: NetworkExceptions,
    /// Authorities that are trusted besides the system's; for a host the first that names it.
    pub authorities: Vec<Authority>,
    /// Until a connection stands: name resolution, dialling and the TLS handshake together.
    pub connect_timeout: Duration,
}

/// An authority that the operator trusts for some hosts. It cannot vouch for any other.
#[derive(Debug, Clone)]
pub struct Authority {
    /// Its certificates: PEM, one or more.
    pub pem: Vec<u8>,
    /// The hosts.
    pub hosts: Vec<PolicyHost>,
}

/// Why the wire cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EgressError {
    /// An entry of [`WireConfig::authorities`] holds no certificate or a broken one.
    #[error("the certificates of authority {number} cannot be read: {cause}")]
    Authority {
        /// Which entry, from 1.
        number: usize,
        /// What is wrong.
        cause: String,
    },
    /// The HTTP client does not start; on most systems because no root certificates are installed.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
}

/// Dials, sends and decodes: the only [`Wire`].
///
/// What holds for every request:
/// 1. https, or http to a host and port that the operator excepted.
/// 2. Every address is checked after resolution, all of them must pass, and the checked ones are dialled.
///    Special-purpose addresses pass only where the request is meant for a private network ([`WireParts::private`])
///    and by the operator's exception for the address and this port.
/// 3. TLS 1.2 or newer, certificates by the system's roots and, where the request is meant for a private network and
///    for the hosts that it names, an authority of the operator's.
/// 4. No proxy from the environment, no redirect followed, no cookie kept, no `referer` sent.
/// 5. The answer is decoded here, and its decoded bytes count against the limit.
///
/// Connections are kept and used again for the same scheme, host and port, whoever asks. Callers cannot pass for each
/// other on one: credentials are headers of one request each, there are no client certificates, and no scheme that
/// authenticates the connection itself (NTLM) is spoken. The first such scheme needs a client of its own for each
/// identity. Nor can they stall each other by what they leave unread: the window of an HTTP/2 connection is wider
/// than those of its streams together. What they do share is its bandwidth, and the number of streams that the server
/// allows at once.
///
/// What is sent again by itself: a request of which nothing was written because a kept connection had closed, and
/// one without a body or with a small one that an HTTP/2 server refused unprocessed (RFC 9113 section 8.7).
pub struct HttpWire {
    network: Arc<NetworkExceptions>,
    /// The hosts of each authority.
    authorities: Vec<Vec<PolicyHost>>,
    /// For each authority and without one, for each port that has an exception (see [`Guard`]) and for all others.
    clients: HashMap<(Option<usize>, Option<u16>), Client>,
    lookup: Lookup,
}

impl fmt::Debug for HttpWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpWire").field("network", &self.network).finish_non_exhaustive()
    }
}

impl HttpWire {
    /// Sets up the clients.
    ///
    /// # Errors
    /// An extra root cannot be read, or the system has no root certificates.
    pub fn new(config: WireConfig) -> Result<Self, EgressError> {
        Self::looking_up(config, system())
    }

    fn looking_up(config: WireConfig, lookup: Lookup) -> Result<Self, EgressError> {
        let network = Arc::new(config.network);
        let client = |roots: &[Certificate], guard: Guard| {
            Client::builder()
                .user_agent(concat!("keyward/", env!("CARGO_PKG_VERSION")))
                .redirect(redirect::Policy::none())
                .referer(false)
                .no_proxy()
                .dns_resolver(Arc::new(guard))
                .tls_version_min(tls::Version::TLS_1_2)
                .tls_certs_merge(roots.iter().cloned())
                .connect_timeout(config.connect_timeout)
                .http1_max_headers(MAX_RESPONSE_HEADERS)
                .http2_max_header_list_size(MAX_RESPONSE_HEADER_BYTES as u32)
                .http2_initial_stream_window_size(STREAM_WINDOW)
                .http2_initial_connection_window_size(CONNECTION_WINDOW)
                .build()
                .map_err(|error| EgressError::Client(innermost(&error).to_string()))
        };
        let mut trusted = vec![(None, Vec::new())];
        for (index, authority) in config.authorities.iter().enumerate() {
            let roots =
                read_roots(&authority.pem).map_err(|cause| EgressError::Authority { number: index + 1, cause })?;
            trusted.push((Some(index), roots));
        }
        let ports = || network.private.iter().map(|exception| Some(exception.port)).chain([None]);
        let mut clients = HashMap::new();
        for (authority, roots) in &trusted {
            for port in ports() {
                if let Entry::Vacant(place) = clients.entry((*authority, port)) {
                    place.insert(client(roots, Guard::new(&network, port, &lookup))?);
                }
            }
        }
        let authorities = config.authorities.into_iter().map(|authority| authority.hosts).collect();
        Ok(Self { clients, authorities, network, lookup })
    }

    /// The client that trusts what is trusted for this host, and knows the exceptions of this port; one that knows no
    /// exception and trusts no other authority than the system's, where no private network is meant.
    fn client(&self, place: &Place) -> Option<&Client> {
        if !place.private {
            return self.clients.get(&(None, None));
        }
        let authority = self.authorities.iter().position(|hosts| hosts.iter().any(|own| own.matches(&place.host)));
        self.clients.get(&(authority, Some(place.port))).or_else(|| self.clients.get(&(authority, None)))
    }

    async fn dial(&self, parts: WireParts) -> Result<WireResponse, WireError> {
        let WireParts { method, url, headers, body, limits, private } = parts;
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            let nowhere = Place { host: "the URL".to_owned(), port: 0, private };
            return Err(nowhere.error(Reason::UrlMalformed, "the URL has no host".to_owned(), Sent::No));
        };
        let place = Place { host: host.to_string(), port, private };
        match url.scheme() {
            "https" => {}
            "http" if self.network.allows_http(&place.host, port) => {}
            "http" => return Err(place.no_http()),
            _ => {
                let message = "the URL has another scheme than https".to_owned();
                return Err(place.error(Reason::UrlMalformed, message, Sent::No));
            }
        }
        // The client resolves names alone; an address in a name's place is dialled without asking the guard.
        let address = match host {
            Host::Ipv4(ip) => Some(ip.into()),
            Host::Ipv6(ip) => Some(ip.into()),
            Host::Domain(_) => None,
        };
        if let Some(ip) = address {
            Guard::new(&self.network, private.then_some(port), &self.lookup)
                .check(ip)
                .map_err(|error| place.not_dialled(&error))?;
        }

        let progress = Progress::default();
        let mut request = reqwest::Request::new(method, url);
        *request.headers_mut() = headers;
        accept_encodings(request.headers_mut());
        attach(&mut request, body, &progress);

        let client = self
            .client(&place)
            .ok_or_else(|| place.error(Reason::Internal, "the HTTP client for it is missing".to_owned(), Sent::No))?;
        let response = progress
            .watch(limits.timeout, client.execute(request))
            .await
            .ok_or_else(|| place.late(limits.timeout, "answer", Sent::Maybe))?
            .map_err(|error| place.failed(&error))?;
        read(response, place, limits)
    }
}

#[async_trait]
impl Wire for HttpWire {
    async fn exchange(&self, request: WireRequest) -> Result<WireResponse, WireError> {
        self.dial(request.into_parts()).await
    }
}

/// Reads PEM. Each certificate is tried as a trust anchor here, for the client ignores those that are none.
fn read_roots(pem: &[u8]) -> Result<Vec<Certificate>, String> {
    let mut roots = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.push(Certificate::from_der(&certificate).map_err(|error| error.to_string())?);
        RootCertStore::empty().add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("it holds no certificate in PEM".to_owned()) } else { Ok(roots) }
}

/// Asks for what can be decoded here. A range counts encoded bytes, so a part of a body is asked for plain.
fn accept_encodings(headers: &mut HeaderMap) {
    let accepted = if headers.contains_key(header::RANGE) { "identity" } else { ACCEPT_ENCODING };
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted));
}

/// Methods whose requests have a body only where one is sent. With any other, a request without a body says so by
/// `content-length: 0` (RFC 9110 section 8.6); some servers answer 411 without it.
const MAY_LEAVE_OUT_LENGTH: &[Method] = &[Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE, Method::TRACE];

fn attach(request: &mut reqwest::Request, body: Body, progress: &Progress) {
    match body {
        Body::Empty => {
            if !MAY_LEAVE_OUT_LENGTH.contains(request.method()) {
                request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
        }
        Body::Bytes(bytes) if bytes.is_empty() => attach(request, Body::Empty, progress),
        Body::Bytes(bytes) if bytes.len() <= UPLOAD_SLICE => *request.body_mut() = Some(bytes.into()),
        Body::Bytes(bytes) => {
            let length = Some(bytes.len() as u64);
            attach(request, Body::Stream { length, chunks: Box::pin(slices(bytes)) }, progress);
        }
        Body::Stream { length, chunks } => {
            if let Some(length) = length {
                request.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            }
            *request.body_mut() = Some(reqwest::Body::wrap_stream(upload(length, chunks, progress.clone())));
        }
    }
}

fn slices(mut bytes: Bytes) -> impl Stream<Item = Result<Bytes, SendError>> + Send {
    stream::iter(std::iter::from_fn(move || {
        let slice = bytes.split_to(bytes.len().min(UPLOAD_SLICE));
        (!slice.is_empty()).then_some(Ok(slice))
    }))
}

/// The chunks of a body that is as long as was said. The runtime holds guests to it; the client would cut a longer
/// one silently, so it is checked here for every caller.
fn upload(
    length: Option<u64>,
    chunks: BodyStream,
    progress: Progress,
) -> impl Stream<Item = Result<Bytes, SendError>> + Send {
    let wrong_length = || {
        SendError::new(SendErrorKind::Other, Reason::Internal, "the request's body is not as long as was said")
            .hint("give the length that is written, or none")
    };
    stream::try_unfold((chunks, 0_u64), move |(mut chunks, before)| {
        let progress = progress.clone();
        async move {
            let chunk = chunks.next().await.transpose()?;
            progress.made();
            let total = before + chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
            match (&chunk, length) {
                (Some(_), Some(length)) if total > length => Err(wrong_length()),
                (None, Some(length)) if total < length => Err(wrong_length()),
                _ => Ok(chunk.map(|chunk| (chunk, (chunks, total)))),
            }
        }
    })
}

/// When the last chunk of a request's body was taken: an upload may take longer than the timeout as long as it
/// moves. A std mutex, because it is held for a copy and never over an await.
#[derive(Debug, Clone)]
struct Progress(Arc<Mutex<Instant>>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Progress {
    fn made(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The future's result; `None` where nothing moved for `limit`.
    async fn watch<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        loop {
            let last = self.last();
            match timeout_at(last + limit, &mut future).await {
                Ok(result) => return Some(result),
                Err(_) if self.last() == last => return None,
                Err(_) => {}
            }
        }
    }
}

/// Makes the head plain and puts the decoder on the body.
fn read(response: reqwest::Response, place: Place, limits: WireLimits) -> Result<WireResponse, WireError> {
    let status = response.status();
    let mut headers = response.headers().clone();
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers.len() > MAX_RESPONSE_HEADERS || size > MAX_RESPONSE_HEADER_BYTES {
        let message = format!("the answer of {} has too many headers", place.host);
        return Err(place.error(Reason::ResponseMalformed, message, Sent::Yes));
    }
    let coding = Coding::of(&headers)?;
    // A length that is too large already needs no download; a HEAD has a length and no body.
    let length = response.content_length().filter(|_| coding == Coding::Identity);
    if length.is_some_and(|length| length > limits.response_bytes) {
        return Err(too_large(limits.response_bytes));
    }
    plain_headers(&mut headers, coding);
    let body = decoded(coding, chunks(response, place, limits.timeout), limits.response_bytes);
    Ok(WireResponse { status, headers, body })
}

/// The chunks as they come from the network.
fn chunks(response: reqwest::Response, place: Place, limit: Duration) -> impl Stream<Item = Chunk> + Send {
    stream::try_unfold((response, place), move |(mut response, place)| async move {
        match timeout(limit, response.chunk()).await {
            Ok(Ok(Some(chunk))) => Ok(Some((chunk, (response, place)))),
            Ok(Ok(None)) => Ok(None),
            Ok(Err(_)) => Err(place.broke_off()),
            Err(_) => Err(place.late(limit, "more of its answer", Sent::Yes)),
        }
    })
}

/// Headers of one hop (RFC 9110 section 7.6.1) and those that a connector has no business with: a cookie is a
/// credential that the server has just made, and `alt-svc` is advice to whoever dials.
const NOT_FOR_THE_GUEST: &[HeaderName] = &[
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_ENCODING,
    header::SET_COOKIE,
    header::ALT_SVC,
];

fn plain_headers(headers: &mut HeaderMap, coding: Coding) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(NOT_FOR_THE_GUEST) {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "set-cookie2"] {
        headers.remove(name);
    }
    if coding != Coding::Identity {
        headers.remove(header::CONTENT_LENGTH);
    }
}

#[cfg(test)]
mod tests;
