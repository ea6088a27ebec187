//! What all calls together may ask of one connection, one connector and one server.
//!
//! A permitted request passes three lanes, and holds its turn in each until the body of the answer is over:
//!
//! | lane | of | its budget |
//! |---|---|---|
//! | origin | a connection (a connector, where the call has no connection) at one scheme, host and port | the silence that the server asked for (`told.rs`) |
//! | connection | a connection | the operator's `[limits.connection]` |
//! | connector | a connector in a tenant | the operator's `[limits.connector]` |
//!
//! So the smallest of all budgets counts. A lane that is full has a line: callers have their turn one after another, each
//! with the request that it asked for first (`line.rs`), and who cannot have its turn while the call lasts is refused
//! at once. The lanes are passed in this order, because a turn is held while the next is waited for: what waits for a
//! silent server holds nothing of its connection, and what waits for a connection holds nothing of the connector, which
//! others' connections share.
//!
//! All of it is this process's own: other processes on the same database do not count here. A lane in which nothing
//! happens is forgotten.

mod lane;
mod line;
mod told;

use std::{
    collections::HashMap,
    hash::Hash,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use keyward_model::{
    Body, BodyStream, CallContext, ConnectionId, ConnectorName, Rate, Reason, SendError, SendErrorKind, Sent, TenantId,
};
use time::OffsetDateTime;
use tokio::time::Instant;
use url::Url;

use lane::{Lane, Refusal, Turn, Way};
use line::Caller;

/// What the operator allows.
#[derive(Debug, Clone)]
pub struct BudgetConfig {
    /// For each connection.
    pub connection: Budget,
    /// For each connector in each tenant.
    pub connector: Budget,
    /// The longest silence that a server can ask for.
    pub max_pause: Duration,
}

/// What the calls of one connection or connector may use together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Requests under way at once, from when they leave until the body of the answer is over.
    pub in_flight: NonZeroU32,
    /// Requests that wait for their turn at once.
    pub waiting: u32,
    /// How often a request may leave; `None` does not limit it.
    pub rate: Option<Rate>,
    /// Bytes of request bodies in an hour; `None` does not limit them.
    pub request_bytes_per_hour: Option<u64>,
    /// Bytes of response bodies in an hour, decoded; `None` does not limit them.
    pub response_bytes_per_hour: Option<u64>,
}

impl Default for BudgetConfig {
    /// What protects the host and its servers and is in nobody's way: GitHub, for one, lets 100 requests be under way.
    fn default() -> Self {
        let budget = |in_flight| Budget {
            in_flight,
            waiting: 1_000,
            rate: None,
            request_bytes_per_hour: None,
            response_bytes_per_hour: None,
        };
        Self {
            connection: budget(const { NonZeroU32::new(100).unwrap() }),
            connector: budget(const { NonZeroU32::new(500).unwrap() }),
            max_pause: Duration::from_secs(3_600),
        }
    }
}

/// Nothing limits an origin but what its server says.
const ORIGIN: Budget = Budget {
    in_flight: NonZeroU32::MAX,
    waiting: 1_000,
    rate: None,
    request_bytes_per_hour: None,
    response_bytes_per_hour: None,
};

/// The most origins that are remembered; beyond it, silences of those that nobody uses are forgotten. A connector can
/// make many by an endpoint that stands for many hosts.
const MAX_ORIGINS: usize = 10_000;

/// The lanes of this process.
#[derive(Debug)]
pub(crate) struct Budgets {
    config: BudgetConfig,
    /// A std mutex, because it is held for a look-up and never over an await.
    lanes: Mutex<Lanes>,
}

#[derive(Debug, Default)]
struct Lanes {
    origins: Table<Origin>,
    connections: Table<ConnectionId>,
    connectors: Table<(TenantId, ConnectorName)>,
}

/// Whose requests, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Origin {
    whose: Whose,
    is_https: bool,
    host: String,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    Connection(ConnectionId),
    Connector(TenantId, ConnectorName),
}

/// Lanes by name, without those that are idle for long.
#[derive(Debug)]
struct Table<K> {
    lanes: HashMap<K, Arc<Lane>>,
    /// At how many it is looked for idle ones.
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 256;

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), sweep_at: FIRST_SWEEP }
    }
}

impl<K: Hash + Eq> Table<K> {
    fn lane(&mut self, key: K, budget: &Budget, most: usize) -> Arc<Lane> {
        if let Some(lane) = self.lanes.get(&key) {
            return Arc::clone(lane);
        }
        if self.lanes.len() >= self.sweep_at.min(most) {
            let now = Instant::now();
            let is_used = |lane: &Arc<Lane>| Arc::strong_count(lane) > 1;
            self.lanes.retain(|_, lane| is_used(lane) || !lane.is_idle(now));
            if self.lanes.len() >= most {
                self.lanes.retain(|_, lane| is_used(lane));
            }
            // Each sweep is paid for by as many new lanes as it looks at.
            self.sweep_at = (self.lanes.len() * 2).max(FIRST_SWEEP);
        }
        let lane = Arc::new(Lane::new(budget));
        self.lanes.insert(key, Arc::clone(&lane));
        lane
    }
}

impl Budgets {
    pub(crate) fn new(config: BudgetConfig) -> Arc<Self> {
        Arc::new(Self { config, lanes: Mutex::default() })
    }

    /// The budgets of a request of this call.
    pub(crate) fn share(self: &Arc<Self>, ctx: &CallContext) -> Share {
        let connector = (ctx.tenant.clone(), ctx.connector.name.clone());
        let (connection, connector) = {
            let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            let of_connection = &self.config.connection;
            let connection = ctx.connection.map(|id| lanes.connections.lane(id, of_connection, usize::MAX));
            (connection, lanes.connectors.lane(connector, &self.config.connector, usize::MAX))
        };
        let until = last_start(ctx, Instant::now());
        Share { budgets: Arc::clone(self), caller: Caller::of(ctx), until, connection, connector }
    }

    fn origin(&self, ctx: &CallContext, url: &Url) -> Arc<Lane> {
        let origin = Origin {
            whose: match ctx.connection {
                Some(id) => Whose::Connection(id),
                None => Whose::Connector(ctx.tenant.clone(), ctx.connector.name.clone()),
            },
            is_https: url.scheme() == "https",
            host: url.host_str().unwrap_or_default().to_owned(),
            port: url.port(),
        };
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).origins.lane(origin, &ORIGIN, MAX_ORIGINS)
    }
}

/// What waits for its turn longer than until here is refused: a tenth of the call's time is left to tell of it.
fn last_start(ctx: &CallContext, now: Instant) -> Instant {
    let deadline = Instant::from_std(ctx.deadline);
    deadline.checked_sub(Duration::from_millis(ctx.limits.wall_ms / 10)).map_or(now, |until| until.max(now))
}

/// The budgets that the requests of one call count against.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    budgets: Arc<Budgets>,
    caller: Caller,
    until: Instant,
    connection: Option<Arc<Lane>>,
    connector: Arc<Lane>,
}

/// The right to have one request under way.
#[derive(Debug)]
pub(crate) struct Turns {
    _origin: Turn,
    lane: Arc<Lane>,
    _connection: Option<Turn>,
    _connector: Turn,
    max_pause: Duration,
}

impl Share {
    /// Until when a request may wait.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Waits until a request to `url` may leave.
    ///
    /// # Errors
    /// [`Reason::RateLimited`] where that is not before the call's time is almost up, told as soon as it is known;
    /// [`Reason::QueueFull`]. Nothing was sent.
    pub(crate) async fn turns(&self, ctx: &CallContext, url: &Url) -> Result<Turns, SendError> {
        let lane = self.budgets.origin(ctx, url);
        let host = url.host_str().unwrap_or_default();
        loop {
            let origin = self.pass(&lane, host).await?;
            let connection = match &self.connection {
                Some(lane) => Some(self.pass(lane, "the connection").await?),
                None => None,
            };
            let connector = self.pass(&self.connector, "the connector").await?;
            let waited = connection.as_ref().is_some_and(|turn| turn.waited) || connector.waited;
            if !waited || lane.is_open(&origin) {
                let max_pause = self.budgets.config.max_pause;
                return Ok(Turns { _origin: origin, lane, _connection: connection, _connector: connector, max_pause });
            }
            // The server has asked for silence meanwhile.
        }
    }

    async fn pass(&self, lane: &Arc<Lane>, what: &str) -> Result<Turn, SendError> {
        lane.turn(self.caller, self.until).await.map_err(|refusal| refused(refusal, what))
    }

    /// Counts bytes that go to a server.
    ///
    /// # Errors
    /// [`Reason::TransferLimit`]. The bytes must not go.
    pub(crate) fn sending(&self, bytes: u64) -> Result<(), SendError> {
        self.count(Way::Out, bytes)
    }

    fn count(&self, way: Way, bytes: u64) -> Result<(), SendError> {
        let lanes = [(self.connection.as_ref(), "connection"), (Some(&self.connector), "connector")];
        for (lane, what) in lanes {
            let Some(lane) = lane else { continue };
            lane.count(way, bytes).map_err(|(wait, limit)| transferred_too_much(way, wait, limit, what))?;
        }
        Ok(())
    }

    fn counts(&self, way: Way) -> bool {
        self.connector.counts(way) || self.connection.as_ref().is_some_and(|lane| lane.counts(way))
    }

    /// The same body; a streamed one is counted as it goes, and ends in an error where it is too much. What is at hand
    /// is counted by [`Share::sending`] each time that it goes.
    pub(crate) fn outgoing(&self, body: Body) -> Body {
        match body {
            Body::Stream { length, chunks } if self.counts(Way::Out) => {
                Body::Stream { length, chunks: self.counted(chunks, Way::Out, Sent::Maybe) }
            }
            other => other,
        }
    }

    /// The same body, counted as it is read.
    pub(crate) fn incoming(&self, body: BodyStream) -> BodyStream {
        if self.counts(Way::In) { self.counted(body, Way::In, Sent::Yes) } else { body }
    }

    fn counted(&self, body: BodyStream, way: Way, sent: Sent) -> BodyStream {
        let share = self.clone();
        let mut is_over = false;
        let counted = body.map(move |chunk| {
            let chunk = chunk?;
            share.count(way, chunk.len() as u64).map_err(|error| error.sent(sent))?;
            Ok(chunk)
        });
        Box::pin(counted.take_while(move |chunk| {
            let goes_on = !is_over;
            is_over = chunk.is_err();
            std::future::ready(goes_on)
        }))
    }
}

impl Turns {
    /// Takes note of what the server says of its limits, for all who come after.
    pub(crate) fn heard(&self, status: u16, headers: &[(String, Vec<u8>)]) {
        let told = told::read(status, headers, OffsetDateTime::now_utc);
        match told {
            told::Told::Refused(wait) => self.lane.refused(wait, self.max_pause),
            told::Told::Answered(wait) => self.lane.answered(wait, self.max_pause),
        }
    }
}

fn refused(refusal: Refusal, what: &str) -> SendError {
    let limited = |wait, message: String| {
        SendError::new(SendErrorKind::RateLimited { retry_after: wait }, Reason::RateLimited, message)
    };
    match refusal {
        Refusal::Later(wait, true) => limited(
            Some(wait),
            format!("{what} wants no more requests for {} s, which is longer than the call lasts", seconds(wait)),
        )
        .hint("try again then; `[limits] max_pause_s` in config.toml bounds what a server can ask for"),
        Refusal::Later(wait, false) => limited(
            Some(wait),
            format!("{what} may make no more requests for {} s, which is longer than the call lasts", seconds(wait)),
        )
        .hint(format!("try again then, or the operator raises `rate` in {} of config.toml", table(what))),
        Refusal::Busy => limited(
            None,
            format!("{what} has as many requests under way as it may, and none of them ended while the call lasted"),
        )
        .hint(format!("the operator raises `in_flight` in {} of config.toml, or call less at once", table(what))),
        Refusal::Crowded => SendError::new(
            SendErrorKind::RateLimited { retry_after: None },
            Reason::QueueFull,
            format!("too many requests wait for {what}"),
        )
        .hint(format!("send less at once, or the operator raises `waiting` in {} of config.toml", table(what))),
    }
}

fn table(what: &str) -> &'static str {
    if what == "the connector" { "[limits.connector]" } else { "[limits.connection]" }
}

fn transferred_too_much(way: Way, wait: Duration, limit: u64, what: &str) -> SendError {
    let (verb, key) = match way {
        Way::Out => ("sent", "request_bytes_per_hour"),
        Way::In => ("received", "response_bytes_per_hour"),
    };
    SendError::new(
        SendErrorKind::RateLimited { retry_after: Some(wait) },
        Reason::TransferLimit,
        format!("the {what} may have {verb} no more than {limit} bytes until {} s from now", seconds(wait)),
    )
    .hint(format!("try again then, or the operator raises `{key}` in [limits.{what}] of config.toml"))
}

/// Whole seconds, rounded up.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests;
