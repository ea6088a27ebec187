//! The state of one call: what the guest was given, and what it has used of it.

use std::{
    collections::VecDeque,
    mem::discriminant,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use keyward_model::{CallContext, CallStats, Outbound, Reason, SendError, SendErrorKind, Sent, manifest::Limits};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::WasiCtx;

use crate::{
    limits::{CpuMeter, MemoryLimiter, raise},
    log::CallLog,
    wasi::OutgoingHttp,
};

/// Resources that one call may hold at once; each costs the host some hundred bytes. An engine for JavaScript never
/// lets go of one: it holds seven after each `fetch`, and one for each chunk of a body that it has read.
pub(crate) const MAX_RESOURCES: usize = 1 << 18;

/// The guest's handle to the connection. It holds nothing: what it stands for is in [`CallContext`].
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Connection;

/// What the store of one call holds.
pub(crate) struct CallState {
    pub(crate) context: Arc<CallContext>,
    /// The operator's limits: those of the call are not above them.
    pub(crate) ceiling: Limits,
    pub(crate) outbound: Arc<dyn Outbound>,
    /// Made when a guest first uses `wasi:http`. It stands before the table, so that it is dropped first: see
    /// [`OutgoingHttp`].
    pub(crate) http: Option<Box<OutgoingHttp>>,
    pub(crate) table: ResourceTable,
    /// What the guest has made for requests over `wasi:http`, and may have let go of since: see `wasi::unsent`.
    pub(crate) unsent: usize,
    pub(crate) usage: Arc<Usage>,
    pub(crate) memory: MemoryLimiter,
    pub(crate) meter: Arc<CpuMeter>,
    /// Shared with the streams of a WASI guest, and held for one line only.
    pub(crate) log: Arc<Mutex<CallLog>>,
    /// Made when a WASI guest first uses it: other guests do not pay for it.
    pub(crate) wasi: Option<Box<WasiCtx>>,
}

impl CallState {
    /// The state at the beginning.
    pub(crate) fn new(context: Arc<CallContext>, ceiling: Limits, outbound: Arc<dyn Outbound>) -> Self {
        let limits = context.limits;
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        Self {
            context,
            ceiling,
            outbound,
            http: None,
            table,
            unsent: 0,
            usage: Arc::new(Usage::new(limits, ceiling)),
            memory: MemoryLimiter::new(limits.memory_bytes),
            meter: Arc::new(CpuMeter::new()),
            log: Arc::new(Mutex::new(CallLog::new(limits.log_bytes))),
            wasi: None,
        }
    }

    /// The log, locked.
    pub(crate) fn log(&self) -> MutexGuard<'_, CallLog> {
        lock(&self.log)
    }
}

/// Locks a log. A panic while it is held leaves it as it was between two lines, so poison does not matter.
pub(crate) fn lock(log: &Mutex<CallLog>) -> MutexGuard<'_, CallLog> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one call has used of its requests and bytes, and what became of its requests.
///
/// All ways in which a guest can send a request count here. It is shared with the tasks that carry bodies.
pub(crate) struct Usage {
    limits: Limits,
    ceiling: Limits,
    /// A permit for each exchange that may still be opened.
    exchanges: Arc<Semaphore>,
    /// Told when so many requests were denied that the call is to end.
    flooded: Notify,
    /// A std mutex, because it is held for a few instructions and never over an await.
    counts: Mutex<Counts>,
}

struct Counts {
    requests: u32,
    request_bytes: u64,
    response_bytes: u64,
    delivery: Delivery,
    /// The last errors that the host gave the guest, as the host knows them.
    told: VecDeque<SendError>,
    /// The limits that have refused a request.
    reached: Vec<Reason>,
}

/// So many errors are remembered: a guest passes on one of the last, if any.
const MAX_TOLD: usize = 16;

impl Usage {
    fn new(limits: Limits, ceiling: Limits) -> Self {
        Self {
            limits,
            ceiling,
            exchanges: Arc::new(Semaphore::new(limits.exchanges as usize)),
            flooded: Notify::new(),
            counts: Mutex::new(Counts {
                requests: 0,
                request_bytes: 0,
                response_bytes: 0,
                delivery: Delivery { known: Sent::No, open: 0 },
                told: VecDeque::new(),
                reached: Vec::new(),
            }),
        }
    }

    /// A panic while it is held leaves each count as it was before or after, so poison does not matter.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request, whether it will be sent or refused.
    pub(crate) fn request(&self) -> Result<(), SendError> {
        let mut counts = self.counts();
        if counts.requests >= self.limits.requests {
            return Err(SendError::new(
                SendErrorKind::RateLimited { retry_after: None },
                Reason::RequestLimit,
                format!("the call has made {} requests, and may not make more", counts.requests),
            )
            .hint(raise("requests", self.limits.requests.into(), self.ceiling.requests.into())));
        }
        counts.requests += 1;
        Ok(())
    }

    /// Counts an exchange as open for as long as the permit is held.
    pub(crate) fn exchange(&self) -> Result<OwnedSemaphorePermit, SendError> {
        self.exchanges.clone().try_acquire_owned().map_err(|_| self.no_exchange())
    }

    /// The same, where the guest goes on meanwhile and may end another. It waits a quarter of the call's time at most,
    /// so that a guest that waits for itself is told why.
    pub(crate) async fn next_exchange(&self) -> Result<OwnedSemaphorePermit, SendError> {
        let patience = Duration::from_millis(self.limits.wall_ms / 4);
        match timeout(patience, self.exchanges.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(self.no_exchange()),
        }
    }

    fn no_exchange(&self) -> SendError {
        SendError::new(
            SendErrorKind::RateLimited { retry_after: None },
            Reason::ExchangeLimit,
            format!("the call has {} streamed requests open, and may not open more", self.limits.exchanges),
        )
        .hint(format!(
            "drop an exchange first, or {}",
            raise("exchanges", self.limits.exchanges.into(), self.ceiling.exchanges.into())
        ))
    }

    /// Counts bytes of a request's body before they are sent.
    pub(crate) fn sending(&self, bytes: usize) -> Result<(), SendError> {
        let limit = self.limits.request_bytes;
        add_within(&mut self.counts().request_bytes, bytes, limit).map_err(|()| {
            SendError::new(
                SendErrorKind::TooLarge { limit },
                Reason::UploadLimit,
                format!("the bodies of the call's requests are larger than {limit} bytes"),
            )
            .hint(raise("request_bytes", limit, self.ceiling.request_bytes))
        })
    }

    /// Counts bytes of a response's body before the guest sees them.
    pub(crate) fn received(&self, bytes: usize) -> Result<(), SendError> {
        let limit = self.limits.response_bytes;
        add_within(&mut self.counts().response_bytes, bytes, limit).map_err(|()| {
            SendError::new(
                SendErrorKind::TooLarge { limit },
                Reason::TooLarge,
                format!("the bodies of the call's responses are larger than {limit} bytes"),
            )
            .hint(format!(
                "{}, or ask the API for smaller pages",
                raise("response_bytes", limit, self.ceiling.response_bytes)
            ))
            .sent(Sent::Yes)
        })
    }

    /// Refuses a response of `bytes` that has to fit into the guest's memory in one piece, and cannot.
    pub(crate) fn fits(&self, bytes: usize) -> Result<(), SendError> {
        let limit = self.limits.memory_bytes;
        if bytes as u64 <= limit {
            return Ok(());
        }
        let message = format!("the body of the response is larger than the call's memory of {limit} bytes");
        Err(SendError::new(SendErrorKind::TooLarge { limit }, Reason::TooLarge, message)
            .hint("read it with `connection.start`, piece by piece, or ask the API for smaller pages")
            .sent(Sent::Yes))
    }

    /// A request is about to be sent.
    pub(crate) fn begin(&self, method: &str) -> Undelivered {
        self.counts().delivery.begin(method)
    }

    /// Its delivery is known.
    pub(crate) fn settle(&self, request: Undelivered, sent: Sent) {
        self.counts().delivery.settle(request, sent);
    }

    /// Whether a request with a side effect reached a server so far.
    pub(crate) fn sent_so_far(&self) -> Sent {
        self.counts().delivery.so_far()
    }

    /// What the call has used since `start`, with so much memory.
    pub(crate) fn stats(&self, memory_bytes: u64, wall_us: u64) -> CallStats {
        let Counts { requests, request_bytes, response_bytes, .. } = *self.counts();
        CallStats { requests, request_bytes, response_bytes, memory_bytes, wall_us }
    }

    /// Notes an error that the guest is about to be told, and gives the one to tell. The way out is told of a limit
    /// the first time that it refuses a request.
    pub(crate) async fn tell(&self, outbound: &dyn Outbound, context: &CallContext, error: SendError) -> SendError {
        let error = match self.reached(&error) {
            Some(limit) => match outbound.refused(context, limit).await {
                Ok(()) => error,
                Err(failed) => failed.sent(error.sent),
            },
            None => error,
        };
        let told = &mut self.counts().told;
        if told.len() == MAX_TOLD {
            told.pop_front();
        }
        told.push_back(error.clone());
        if context.refusals.is_flood() {
            self.flooded.notify_one();
        }
        error
    }

    /// Returns when so many requests were denied that the call is to end.
    pub(crate) async fn flooded(&self) {
        self.flooded.notified().await;
    }

    /// The last error that the guest was told.
    pub(crate) fn last_told(&self) -> Option<SendError> {
        self.counts().told.back().cloned()
    }

    /// The limit that refused a request with this error, the first time that it does.
    fn reached(&self, error: &SendError) -> Option<Reason> {
        let is_limit = matches!(error.reason, Reason::RequestLimit | Reason::ExchangeLimit | Reason::UploadLimit);
        let reached = &mut self.counts().reached;
        let is_new = is_limit && !reached.contains(&error.reason);
        is_new.then(|| {
            reached.push(error.reason);
            error.reason
        })
    }

    /// The error that the guest passes on as `claimed`, in the host's own words, if the host told it that.
    ///
    /// A guest can build any error; only one that the host gave may speak of the connection or of policy.
    pub(crate) fn told(&self, claimed: &SendError) -> Option<SendError> {
        let is_it = |error: &&SendError| {
            discriminant(&error.kind) == discriminant(&claimed.kind)
                && error.reason == claimed.reason
                && error.message == claimed.message
        };
        self.counts().told.iter().rev().find(is_it).cloned()
    }
}

/// Adds `bytes` to `used` unless that passes `limit`.
fn add_within(used: &mut u64, bytes: usize, limit: u64) -> Result<(), ()> {
    match used.checked_add(bytes as u64) {
        Some(sum) if sum <= limit => {
            *used = sum;
            Ok(())
        }
        _ => Err(()),
    }
}

/// What is known about the delivery of those requests of a call that can have a side effect.
struct Delivery {
    known: Sent,
    open: u32,
}

/// A request whose delivery is not known yet. If it is never settled, it may have been delivered.
#[must_use]
pub(crate) struct Undelivered {
    counts: bool,
}

impl Delivery {
    /// `GET` and `HEAD` have no side effect (RFC 9110 section 9.2.1).
    fn begin(&mut self, method: &str) -> Undelivered {
        let counts = !matches!(method, "GET" | "HEAD");
        self.open += u32::from(counts);
        Undelivered { counts }
    }

    fn settle(&mut self, request: Undelivered, sent: Sent) {
        if request.counts {
            self.open -= 1;
            self.known = self.known.surer(sent);
        }
    }

    fn so_far(&self) -> Sent {
        if self.open > 0 { self.known.surer(Sent::Maybe) } else { self.known }
    }
}
