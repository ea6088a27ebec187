//! `wasi:http/outgoing-handler` 0.2 through the same way out as the contract's own `connection`.
//!
//! [`wasmtime_wasi_http`] keeps the guest's side: headers, bodies as streams, futures. A request that is handed to
//! the handler comes here, becomes a [`GuestRequest`] with the absolute URL that the guest gave, goes to
//! [`Outbound`] with the connection of the call, and counts where the contract's requests count ([`Usage`]).
//! Nothing is decided here. So no header is forbidden by this module, and no scheme: the way out refuses them,
//! and has that on record.
//!
//! ```text
//! guest: output-stream ──► channel of 2 ──► Outbound::send (task) ──► future-incoming-response ──► input-stream :guest
//!                                            beside it: 64 KiB of the response's body are read ahead ──┘
//! ```
//!
//! Engines for JavaScript do not let go of a response that is not read to its end. So a short body does not count as
//! open until the guest reads it, and a request that would be one too many waits until another response is over.
//!
//! The guest is told an error code of `wasi:http`, which is less than the host knows; the rest is in the call's log.
//! The codes are those of [`code`]. An error within a response's body ends its stream, and has no code of `wasi:http`.
//!
//! Absent: trailers, in both directions, and requests that come in.

use std::{
    future::ready,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts, response, uri::Scheme};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use keyward_model::{
    Body, BodyStream, CallContext, GuestRequest, GuestResponse, LogLevel, Outbound, Reason, SendError, SendErrorKind,
    Sent, Target,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout, timeout_at},
};
use tracing::Instrument;
use wasmtime_wasi_http::{
    Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::{
    call::{CallState, Usage, lock},
    exchange::{given_up, lost},
    limits::CpuMeter,
    log::CallLog,
};

/// The most that the headers of one request take in the host, bytes. It is more than the way out lets through, so that
/// the way out refuses what is too much.
pub(super) const MAX_FIELDS: usize = 64 << 10;
/// The most that the headers of all responses of a call take, bytes: a guest may keep every one.
const MAX_HEADS: usize = 64 << 20;
/// The most bytes that one write to a request's body may have; the guest is told so and splits. Two writes wait in the
/// host.
const MAX_WRITE: usize = 64 << 10;

/// The longest body of a request that is sent when it is whole, bytes.
const MAX_WHOLE: usize = 64 << 10;
/// The most of one response that is read ahead of the guest, bytes; one chunk more where the last goes beyond.
const MAX_AHEAD: usize = 64 << 10;
/// The most of all responses of a call that is read ahead, bytes, without one chunk of each that is open.
const MAX_ALL_AHEAD: usize = 4 << 20;

/// What the response to a guest's request is to `wasmtime_wasi_http`: the second future is work that goes on beside
/// the body, for as long as the guest holds that.
type Sending = Box<dyn Future<Output = Result<(Response<WasiBody>, Done), Error>> + Send>;
type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// The requests of one call over `wasi:http`.
///
/// It must be dropped before the resources of the guest: with them the writers of unfinished bodies go, and that looks
/// like the end of a whole body.
pub(crate) struct OutgoingHttp {
    context: WasiHttpCtx,
    hooks: Hooks,
}

impl OutgoingHttp {
    /// How many requests wait until they may go out.
    pub(super) fn waiting(&self) -> usize {
        Arc::strong_count(&self.hooks.0.waiting) - 1
    }
}

impl Drop for OutgoingHttp {
    fn drop(&mut self) {
        self.hooks.0.is_over.store(true, Ordering::Release);
    }
}

struct Hooks(Arc<Call>);

/// What a request needs of its call.
struct Call {
    outbound: Arc<dyn Outbound>,
    context: Arc<CallContext>,
    usage: Arc<Usage>,
    meter: Arc<CpuMeter>,
    log: Arc<Mutex<CallLog>>,
    /// Shared with each request that is not under way yet.
    waiting: Arc<()>,
    /// What the headers of the responses take so far, bytes.
    heads: AtomicUsize,
    /// A permit for each byte that may still be read ahead.
    ahead: Arc<Semaphore>,
    /// Whether the call has ended, so that no body is finished any more.
    is_over: AtomicBool,
}

impl WasiHttpView for CallState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let http = self.http.get_or_insert_with(|| {
            let mut context = WasiHttpCtx::new();
            context.set_field_size_limit(MAX_FIELDS);
            Box::new(OutgoingHttp {
                context,
                hooks: Hooks(Arc::new(Call {
                    outbound: self.outbound.clone(),
                    context: self.context.clone(),
                    usage: self.usage.clone(),
                    meter: self.meter.clone(),
                    log: self.log.clone(),
                    waiting: Arc::new(()),
                    heads: AtomicUsize::new(0),
                    ahead: Arc::new(Semaphore::new(MAX_ALL_AHEAD)),
                    is_over: AtomicBool::new(false),
                })),
            })
        });
        WasiHttpCtxView { ctx: &mut http.context, table: &mut self.table, hooks: &mut http.hooks }
    }
}

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Sending {
        let (call, waiting) = (self.0.clone(), self.0.waiting.clone());
        // Counted before the guest goes on, so that it never makes more of them than it may.
        let counted = call.usage.request();
        let send = async move {
            let sent =
                async { call.clone().send(request, options.unwrap_or_default(), counted.map(|()| waiting)?).await };
            match sent.await {
                Ok(response) => Ok(response),
                Err(error) => Err(call.tell(error).await),
            }
        };
        Box::new(send.in_current_span())
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(|_| false)
    }

    fn is_supported_scheme(&mut self, _: &Scheme) -> bool {
        true
    }

    fn set_host_header(&mut self) -> bool {
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        MAX_WRITE
    }
}

impl Call {
    /// Sends one request, as soon as no more responses are open than may be. `waiting` is held until then.
    async fn send(
        self: Arc<Self>,
        request: Request<WasiBody>,
        options: RequestOptions,
        waiting: Arc<()>,
    ) -> Result<(Response<WasiBody>, Done), SendError> {
        let patience = Patience::new(&options);
        let open = patience.until(self.usage.next_exchange(), Sent::No).await?;
        drop(waiting);
        let (parts, body) = request.into_parts();
        let upload = Upload { call: self.clone(), body, failure: Arc::default() };
        let failure = upload.failure.clone();
        let request = guest_request(&parts, upload).await?;
        let delivery = self.usage.begin(&request.method);
        let answer = patience.until(self.outbound.send(&self.context, request), Sent::Maybe).await;
        // The way out knows only that the body broke off.
        let answer = answer.map_err(|error| {
            let own = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            own.map_or(error.clone(), |own| own.sent(error.sent))
        });
        self.usage.settle(delivery, answer.as_ref().map_or_else(|error| error.sent, |_| Sent::Yes));
        let GuestResponse { status, headers, body } = answer?;
        self.keep_head(&headers)?;
        let head = head(status, headers)?;
        let download = Download { call: self, body, _open: open, between: options.between_bytes_timeout };
        let (body, ahead) = download.begin();
        Ok((Response::from_parts(head, body), ahead))
    }

    /// Counts the headers of a response before the guest has them.
    fn keep_head(&self, headers: &[(String, Vec<u8>)]) -> Result<(), SendError> {
        let header = |(name, value): &(String, Vec<u8>)| {
            name.len() + value.len() + size_of::<HeaderName>() + size_of::<HeaderValue>()
        };
        let size: usize = headers.iter().map(header).sum();
        if self.heads.fetch_add(size, Ordering::Relaxed) + size <= MAX_HEADS {
            return Ok(());
        }
        let message = format!("the headers of the call's responses are larger than {MAX_HEADS} bytes");
        let limit = MAX_HEADS as u64;
        Err(SendError::new(SendErrorKind::TooLarge { limit }, Reason::TooLarge, message)
            .hint("make fewer requests in one call")
            .sent(Sent::Yes))
    }

    /// Tells the guest of an error, and the author of its reason.
    async fn tell(&self, error: SendError) -> Error {
        let error = self.usage.tell(&*self.outbound, &self.context, error).await;
        let mut text = format!("a request brought no response ({}): {}", error.reason, error.message);
        if let Some(hint) = &error.hint {
            text.push_str("; hint: ");
            text.push_str(hint);
        }
        lock(&self.log).write(LogLevel::Warn, &text);
        code(&error)
    }
}

/// The error code of `wasi:http` for each error of a request. It is the table of `docs/plugins.md`.
fn code(error: &SendError) -> Error {
    match (&error.kind, error.reason) {
        (_, Reason::AddressNotAllowed) => Error::DestinationIpProhibited,
        (_, Reason::NameUnresolved) => Error::DnsError { rcode: None, info_code: None },
        (_, Reason::TlsFailed) => Error::TlsCertificateError,
        (_, Reason::RedirectLimit) => Error::LoopDetected,
        (_, Reason::ResponseMalformed) => Error::HttpProtocolError,
        (_, Reason::ExchangeLimit) => Error::ConnectionLimitReached,
        (SendErrorKind::TooLarge { limit }, Reason::UploadLimit) => Error::HttpRequestBodySize(Some(*limit)),
        (SendErrorKind::TooLarge { limit }, _) => Error::HttpResponseBodySize(Some(*limit)),
        (SendErrorKind::Timeout, _) => Error::ConnectionTimeout,
        (SendErrorKind::Unreachable, _) if error.sent == Sent::No => Error::DestinationUnavailable,
        (SendErrorKind::Unreachable, _) => Error::ConnectionTerminated,
        (
            SendErrorKind::Denied
            | SendErrorKind::InsufficientScope { .. }
            | SendErrorKind::ReconnectRequired
            | SendErrorKind::RateLimited { .. },
            _,
        ) => Error::HttpRequestDenied,
        _ => Error::InternalError(Some(error.message.clone())),
    }
}

/// The request as the way out takes it. A body is awaited until its end where it is not long: an empty one is none, and
/// one that is whole can be sent again.
async fn guest_request(parts: &Parts, upload: Upload) -> Result<GuestRequest, SendError> {
    let mut announced = Vec::new();
    // The length is the body's, and `wasmtime_wasi_http` holds the guest to it; as a header it would be refused.
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let body = match length {
        Some(0) => Body::Empty,
        _ => {
            let body = Body::Stream { length, chunks: upload.chunks() };
            match body.gathered(MAX_WHOLE).await {
                Ok(body) => body,
                // The way out refuses a request that announces trailers, and has that on record.
                Err(error) if error.reason == Reason::HeaderForbidden => {
                    announced.push((header::TRAILER.as_str().to_owned(), Vec::new()));
                    Body::Stream { length, chunks: Box::pin(stream::once(ready(Err(error)))) }
                }
                Err(error) => return Err(error.sent(Sent::No)),
            }
        }
    };
    let headers = parts.headers.iter().filter(|(name, _)| *name != header::CONTENT_LENGTH);
    Ok(GuestRequest {
        method: parts.method.as_str().to_owned(),
        target: Target::Url(parts.uri.to_string()),
        query: Vec::new(),
        headers: headers
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .chain(announced)
            .collect(),
        body,
    })
}

/// What the guest writes, as the way out reads it.
struct Upload {
    call: Arc<Call>,
    body: WasiBody,
    /// Why it broke off.
    failure: Arc<Mutex<Option<SendError>>>,
}

impl Upload {
    fn chunks(self) -> BodyStream {
        Box::pin(stream::unfold(Some(self), |upload| async {
            let mut upload = upload?;
            match upload.next().await {
                Ok(chunk) => chunk.map(|chunk| (Ok(chunk), Some(upload))),
                Err(error) => {
                    *upload.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
                    Some((Err(error), None))
                }
            }
        }))
    }

    /// The next chunk, counted; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, SendError> {
        let chunk = self.read().await?;
        if let Some(chunk) = &chunk {
            self.call.usage.sending(chunk.len()).map_err(|error| error.sent(Sent::Maybe))?;
        }
        Ok(chunk)
    }

    /// The next bytes; none at the end.
    async fn read(&mut self) -> Result<Option<Bytes>, SendError> {
        loop {
            let frame = match self.body.frame().await {
                Some(Ok(frame)) => frame,
                None if !self.call.is_over.load(Ordering::Acquire) => return Ok(None),
                None | Some(Err(_)) => return Err(given_up()),
            };
            match frame.into_data() {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => return Ok(Some(chunk)),
                Err(frame) if frame.trailers_ref().is_some_and(|trailers| trailers.is_empty()) => {}
                Err(_) => return Err(no_trailers()),
            }
        }
    }
}

/// The head of a response as the guest's side takes it.
fn head(status: u16, headers: Vec<(String, Vec<u8>)>) -> Result<response::Parts, SendError> {
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = StatusCode::from_u16(status).map_err(|_| not_http())?;
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| not_http())?;
        let value = HeaderValue::from_bytes(&value).map_err(|_| not_http())?;
        head.headers.try_append(name, value).map_err(|_| not_http())?;
    }
    Ok(head)
}

/// What a server sends.
struct Download {
    call: Arc<Call>,
    body: BodyStream,
    /// Counts it as open until it is dropped.
    _open: OwnedSemaphorePermit,
    between: Option<Duration>,
}

/// What was read ahead of the guest.
enum Arrival {
    /// The next chunk; its permit is one for each byte.
    Chunk(Bytes, Option<OwnedSemaphorePermit>),
    /// The body is over.
    End,
    /// The body broke off.
    Broken(SendError),
    /// No more is read ahead.
    Rest(Download),
}

impl Download {
    /// The body as the guest reads it, and the work that reads ahead of it.
    fn begin(self) -> (WasiBody, Done) {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let body = Reading { call: self.call.clone(), source: Source::Ahead(arrivals) }.body();
        let ahead = async move {
            // Nobody waits any more if the guest has dropped the body.
            let _ = arrived.send(self.read_ahead(&arrived).await);
            Ok(())
        };
        (body, Box::new(ahead.in_current_span()))
    }

    /// Reads until the body is over or enough is read, and returns the last thing to tell.
    async fn read_ahead(mut self, arrived: &mpsc::UnboundedSender<Arrival>) -> Arrival {
        let mut ahead = 0;
        while ahead < MAX_AHEAD {
            let chunk = match self.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Arrival::End,
                Err(error) => return Arrival::Broken(error),
            };
            ahead += chunk.len();
            let bytes = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            let room = self.call.ahead.clone().try_acquire_many_owned(bytes).ok();
            let is_full = room.is_none();
            if arrived.send(Arrival::Chunk(chunk, room)).is_err() || is_full {
                break;
            }
        }
        Arrival::Rest(self)
    }

    /// The next chunk, counted; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, SendError> {
        let chunk = match self.between {
            Some(limit) => timeout(limit, self.body.next()).await.map_err(|_| too_late(limit).sent(Sent::Yes))?,
            None => self.body.next().await,
        };
        let chunk = chunk.transpose()?;
        if let Some(chunk) = &chunk {
            self.call.usage.received(chunk.len())?;
        }
        Ok(chunk)
    }
}

/// A response's body as the guest reads it.
struct Reading {
    call: Arc<Call>,
    source: Source,
}

/// Where the next chunk comes from.
enum Source {
    /// What was read ahead.
    Ahead(mpsc::UnboundedReceiver<Arrival>),
    /// The network.
    Rest(Download),
}

impl Reading {
    fn body(self) -> WasiBody {
        let frames = stream::unfold(Some(self), |reading| async {
            let mut reading = reading?;
            // It is polled while the guest reads, on the guest's account, and what it does is the host's work.
            let call = reading.call.clone();
            match call.meter.pause(reading.source.next()).await {
                Ok(chunk) => chunk.map(|chunk| (Ok(Frame::data(chunk)), Some(reading))),
                Err(error) => Some((Err(call.meter.pause(call.tell(error)).await), None)),
            }
        });
        StreamBody::new(frames).boxed_unsync()
    }
}

impl Source {
    /// The next chunk; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, SendError> {
        loop {
            let arrival = match self {
                Self::Rest(download) => return download.next().await,
                Self::Ahead(arrivals) => arrivals.recv().await,
            };
            match arrival {
                Some(Arrival::Chunk(chunk, room)) => {
                    drop(room);
                    return Ok(Some(chunk));
                }
                Some(Arrival::End) => return Ok(None),
                Some(Arrival::Broken(error)) => return Err(error),
                Some(Arrival::Rest(download)) => *self = Self::Rest(download),
                // What reads ahead has ended without a word.
                None => return Err(lost().sent(Sent::Yes)),
            }
        }
    }
}

/// How long the guest waits for the head of a response, where it says so. What it gives for the connection and what it
/// gives for the first byte are one time here: it cannot see when a connection stands, for it may be there already.
struct Patience(Option<(Instant, Duration)>);

impl Patience {
    fn new(options: &RequestOptions) -> Self {
        Self(options.first_byte_timeout.and_then(|first_byte| {
            let limit = first_byte.saturating_add(options.connect_timeout.unwrap_or_default());
            // A time beyond what a clock can tell is no limit.
            Some((Instant::now().checked_add(limit)?, limit))
        }))
    }

    /// `work`, or the error that the time is over, with what is known of the request's delivery then.
    async fn until<T>(&self, work: impl Future<Output = Result<T, SendError>>, sent: Sent) -> Result<T, SendError> {
        match self.0 {
            Some((end, limit)) => timeout_at(end, work).await.unwrap_or_else(|_| Err(too_late(limit).sent(sent))),
            None => work.await,
        }
    }
}

fn too_late(limit: Duration) -> SendError {
    let message = format!("no answer within the {} ms that the guest gave it", limit.as_millis());
    SendError::new(SendErrorKind::Timeout, Reason::Timeout, message)
}

fn no_trailers() -> SendError {
    SendError::new(SendErrorKind::Denied, Reason::HeaderForbidden, "trailers are not sent")
        .hint("finish the body without trailers")
        .sent(Sent::Maybe)
}

fn not_http() -> SendError {
    let message = "the head of the answer cannot be told in HTTP";
    SendError::new(SendErrorKind::Other, Reason::ResponseMalformed, message).sent(Sent::Yes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCS: &str = include_str!("../../../../docs/plugins.md");

    #[test]
    fn every_reason_has_the_error_code_that_the_docs_say() {
        let error = |kind: SendErrorKind, reason: Reason| SendError::new(kind, reason, "no").sent(Sent::Maybe);
        let too_large = SendErrorKind::TooLarge { limit: 7 };
        let too_many = SendErrorKind::RateLimited { retry_after: None };
        let cases = [
            (error(SendErrorKind::Denied, Reason::PathNotAllowed), "HttpRequestDenied", "HTTP-request-denied"),
            (
                error(SendErrorKind::ReconnectRequired, Reason::ReconnectRequired),
                "HttpRequestDenied",
                "HTTP-request-denied",
            ),
            (
                error(SendErrorKind::InsufficientScope { missing: Vec::new() }, Reason::InsufficientScope),
                "HttpRequestDenied",
                "HTTP-request-denied",
            ),
            (error(too_many.clone(), Reason::RequestLimit), "HttpRequestDenied", "HTTP-request-denied"),
            (error(too_many.clone(), Reason::RateLimited), "HttpRequestDenied", "HTTP-request-denied"),
            (
                error(SendErrorKind::Denied, Reason::AddressNotAllowed),
                "DestinationIpProhibited",
                "destination-IP-prohibited",
            ),
            (error(too_many, Reason::ExchangeLimit), "ConnectionLimitReached", "connection-limit-reached"),
            (error(too_large.clone(), Reason::UploadLimit), "HttpRequestBodySize(Some(7))", "HTTP-request-body-size"),
            (error(too_large, Reason::TooLarge), "HttpResponseBodySize(Some(7))", "HTTP-response-body-size"),
            (error(SendErrorKind::Timeout, Reason::Timeout), "ConnectionTimeout", "connection-timeout"),
            (
                error(SendErrorKind::Unreachable, Reason::NameUnresolved),
                "DnsError { rcode: None, info_code: None }",
                "DNS-error",
            ),
            (error(SendErrorKind::Unreachable, Reason::TlsFailed), "TlsCertificateError", "TLS-certificate-error"),
            (
                error(SendErrorKind::Unreachable, Reason::Unreachable).sent(Sent::No),
                "DestinationUnavailable",
                "destination-unavailable",
            ),
            (error(SendErrorKind::Unreachable, Reason::Unreachable), "ConnectionTerminated", "connection-terminated"),
            (error(SendErrorKind::Denied, Reason::RedirectLimit), "LoopDetected", "loop-detected"),
            (error(SendErrorKind::Other, Reason::ResponseMalformed), "HttpProtocolError", "HTTP-protocol-error"),
            (error(SendErrorKind::Other, Reason::StoreFailed), "InternalError(Some(\"no\"))", "internal-error"),
        ];
        for (error, told, documented) in cases {
            assert_eq!(format!("{:?}", code(&error)), told, "{}", error.reason);
            assert!(DOCS.contains(&format!("\n| `{documented}` | ")), "{documented}");
        }
    }
}
