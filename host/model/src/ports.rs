//! The two ports: a flow invokes an action, a guest's request goes out.

use std::{
    any::Any,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use crate::{
    error::{InvokeError, SendError, SendErrorKind},
    ids::{ActionName, ActionRef, CallId, ConnectionId, ConnectionName, ConnectorId, Principal, RunId, TenantId},
    manifest::Limits,
    reason::Reason,
    request::{GuestRequest, GuestResponse},
};

/// One call of an action, as a flow or a person asks for it.
#[derive(Debug, Clone)]
pub struct ActionCall {
    /// In which tenant.
    pub tenant: TenantId,
    /// Who asks.
    pub principal: Principal,
    /// For whom, where that is another.
    pub on_behalf_of: Option<Principal>,
    /// In which flow, as `namespace/name:version`.
    pub flow: Option<String>,
    /// In which run, where it is a flow's.
    pub run: Option<RunId>,
    /// Which step (a JSON pointer into the flow), where it is a flow's.
    pub step: Option<String>,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Which action.
    pub action: ActionRef,
    /// With which connection, where it needs one; without a name the only one of the provider is taken.
    pub connection: Option<ConnectionName>,
    /// The input.
    pub input: Value,
    /// The same for every attempt at one execution of a step; a step that is performed anew has another one.
    pub idempotency_key: String,
}

/// What an action brought.
#[derive(Debug, Clone)]
pub struct ActionOutcome {
    /// The output, checked against the action's schema.
    pub output: Value,
    /// What the guest logged.
    pub log: Vec<LogLine>,
    /// What it used.
    pub stats: CallStats,
}

/// A line that a guest logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// How important.
    pub level: LogLevel,
    /// The text, without control characters.
    pub text: String,
}

/// How important a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// For the author, in detail.
    Trace,
    /// For the author.
    Debug,
    /// For the operator.
    Info,
    /// Something is odd.
    Warn,
    /// Something failed.
    Error,
}

/// What a call used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallStats {
    /// HTTP requests, denied ones included.
    pub requests: u32,
    /// Bytes of request bodies.
    pub request_bytes: u64,
    /// Bytes of response bodies, decoded.
    pub response_bytes: u64,
    /// Peak of linear memory, bytes.
    pub memory_bytes: u64,
    /// From start to end, microseconds.
    pub wall_us: u64,
}

/// Runs one action. Implemented by `runtime`, called by `flow` and the entries.
#[async_trait]
pub trait Invoke: Send + Sync {
    /// Runs `call` to its end. Dropping the future stops the guest.
    async fn invoke(&self, call: ActionCall) -> Result<ActionOutcome, InvokeError>;
}

/// On whose behalf a guest asks; made by the host, never by the guest.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// In which tenant.
    pub tenant: TenantId,
    /// Who asked for the action.
    pub principal: Principal,
    /// For whom, where that is another.
    pub on_behalf_of: Option<Principal>,
    /// In which flow, as `namespace/name:version`.
    pub flow: Option<String>,
    /// This call.
    pub call: CallId,
    /// In which run, where it is a flow's.
    pub run: Option<RunId>,
    /// Which step, where it is a flow's.
    pub step: Option<String>,
    /// Which connector.
    pub connector: ConnectorId,
    /// Which of its actions.
    pub action: ActionName,
    /// With which connection.
    pub connection: Option<ConnectionId>,
    /// What the call may use.
    pub limits: Limits,
    /// When its time is up.
    pub deadline: Instant,
    /// What the road out remembers of the call.
    pub memory: CallMemory,
    /// How many of its requests were refused so far; its copies count together.
    pub refusals: Arc<Refusals>,
}

/// What the road out remembers of one call, for as long as the call lasts. Whoever carries it cannot look into it
/// without the type that it has there.
#[derive(Debug, Clone, Default)]
pub struct CallMemory(Arc<OnceLock<Box<dyn Any + Send + Sync>>>);

impl CallMemory {
    /// What is remembered, where it is a `T`.
    pub fn recall<T: Any>(&self) -> Option<&T> {
        self.0.get()?.downcast_ref()
    }

    /// The same, made when it is first asked for; `None` where something else is remembered.
    pub fn keep<T: Any + Default + Send + Sync>(&self) -> Option<&T> {
        self.0.get_or_init(|| Box::new(T::default())).downcast_ref()
    }
}

/// So many refused requests of a call have a record of their own each, and so many denied ones end it.
pub const MAX_REFUSALS: u32 = 32;

/// Counts the refused requests of one call. The way out counts them, the runtime ends the call.
#[derive(Debug, Default)]
pub struct Refusals {
    denied: AtomicU32,
    limited: AtomicU32,
}

impl Refusals {
    /// Counts one, and tells whether it is to have a record of its own.
    pub fn count(&self, kind: &SendErrorKind) -> bool {
        let count = match kind {
            SendErrorKind::RateLimited { .. } => &self.limited,
            _ => &self.denied,
        };
        count.fetch_add(1, Ordering::Relaxed) < MAX_REFUSALS
    }

    /// Whether so many were denied that the call is to end. Waiting for one's turn in vain is no fault of the guest, and
    /// ends nothing.
    pub fn is_flood(&self) -> bool {
        self.denied.load(Ordering::Relaxed) >= MAX_REFUSALS
    }

    /// How many have no record of their own, by the reason to give for them.
    pub fn unrecorded(&self) -> [(Reason, u32); 2] {
        [(Reason::DenialLimit, &self.denied), (Reason::RateLimited, &self.limited)]
            .map(|(reason, count)| (reason, count.load(Ordering::Relaxed).saturating_sub(MAX_REFUSALS)))
    }
}

/// The road out. Implemented by `egress`, called by `runtime`.
#[async_trait]
pub trait Outbound: Send + Sync {
    /// Checks, authenticates and sends `request`, and cleans what comes back.
    async fn send(&self, ctx: &CallContext, request: GuestRequest) -> Result<GuestResponse, SendError>;

    /// Takes note that a limit of the call refused a request, which therefore does not come here.
    async fn refused(&self, ctx: &CallContext, limit: Reason) -> Result<(), SendError>;

    /// Takes every secret that went into a request of the call out of `words`, which are its guest's, and tells how
    /// often there was one. One that goes on from one text to the next is found as well.
    async fn clean(&self, ctx: &CallContext, words: &mut [&mut String]) -> Result<u64, SendError>;

    /// Takes note that the call is over, where refused requests of it have no record of their own
    /// ([`Refusals::unrecorded`]).
    async fn ended(&self, ctx: &CallContext) -> Result<(), SendError>;
}
