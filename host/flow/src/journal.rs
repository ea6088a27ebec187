//! What the engine needs of a database: the journal is the truth of a run.

use std::fmt;

use async_trait::async_trait;
use keyward_model::{Principal, RunId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

/// Why the journal did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// There is no such run.
    #[error("there is no run {0}")]
    Unknown(RunId),
    /// Another process works on the run.
    #[error("another process works on run {run} until {until}")]
    Leased {
        /// Which run.
        run: RunId,
        /// Until when its lease lasts.
        until: OffsetDateTime,
    },
    /// Another process has taken the run over; what this one did since is not recorded.
    #[error("run {0} was taken over by another process")]
    Fenced(RunId),
    /// The disk is full.
    #[error("the disk is full; nothing was written")]
    DiskFull,
    /// Others keep the database busy for longer than their writes should take.
    #[error("others keep the database busy")]
    Busy,
    /// The file of the database is damaged.
    #[error("the database is damaged: {0}")]
    Corrupt(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Anything else that the database says.
    #[error("the database failed: {0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A run as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its id.
    pub id: RunId,
    /// In which tenant.
    pub tenant: TenantId,
    /// Who started it.
    pub principal: Principal,
    /// Namespace, name and version of the flow.
    pub flow: FlowId,
    /// The flow's whole source, so that a run goes on with what it was started with.
    pub source: String,
    /// Its input.
    pub input: Value,
    /// Where it stands.
    pub phase: RunPhase,
    /// Its output, once it has completed.
    pub output: Option<Value>,
    /// Its error (RFC 9457 shape), once it has faulted.
    pub error: Option<Value>,
    /// When it was started.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// Which flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowId {
    /// `document.namespace`.
    pub namespace: String,
    /// `document.name`.
    pub name: String,
    /// `document.version`.
    pub version: String,
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name, version } = self;
        write!(f, "{namespace}/{name}:{version}")
    }
}

/// Where a run stands; the specification's status phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunPhase {
    /// Created, nothing done.
    Pending,
    /// At work, or interrupted and ready to go on.
    Running,
    /// Waits for a time or an event.
    Waiting,
    /// Ended with an output.
    Completed,
    /// Ended with an error.
    Faulted,
    /// Ended by a person.
    Cancelled,
}

impl RunPhase {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Faulted | Self::Cancelled)
    }
}

/// One entry of a run's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// From 1, without gaps.
    pub sequence: u64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What happened; the shape belongs to the reducer.
    pub event: Value,
}

/// The right to append to a run's journal, until it is overtaken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLease {
    /// Grows with each lease on the same run.
    pub fence: u64,
}

/// What one append writes, all of it or nothing.
#[derive(Debug, Clone)]
pub struct Append<'a> {
    /// New entries; the first follows the last one written.
    pub entries: &'a [Entry],
    /// The whole state after them, so that resuming costs the same however long the run is.
    pub snapshot: &'a Value,
    /// Where the run stands after them.
    pub phase: RunPhase,
    /// The output, where the run completed.
    pub output: Option<&'a Value>,
    /// The error, where it faulted.
    pub error: Option<&'a Value>,
}

/// A run taken up: its record and the last snapshot.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The run.
    pub record: RunRecord,
    /// The last snapshot; `None` before the first append.
    pub snapshot: Option<Value>,
    /// The sequence number of the last entry; 0 before the first.
    pub last_sequence: u64,
    /// The right to append.
    pub lease: RunLease,
}

/// The journal's tables. Each call is one transaction and durable when it returns.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Records a new run in phase `pending`.
    async fn create(&self, run: &RunRecord) -> Result<(), JournalError>;
    /// Takes a run up for `ttl`, two minutes at most, and overtakes whoever had it where that lease has ended, or ends
    /// in more than that and so was taken under a wrong clock.
    async fn claim(&self, tenant: &TenantId, run: &RunId, ttl: std::time::Duration) -> Result<Loaded, JournalError>;
    /// Lengthens the lease to `ttl` from now, two minutes at most.
    async fn renew(&self, run: &RunId, lease: RunLease, ttl: std::time::Duration) -> Result<(), JournalError>;
    /// Appends; fails with [`JournalError::Fenced`] where the lease is not the newest.
    async fn append(&self, run: &RunId, lease: RunLease, append: Append<'_>) -> Result<(), JournalError>;
    /// The entries with these numbers, in that order; what is not there is left out.
    async fn entries(&self, run: &RunId, sequences: &[u64]) -> Result<Vec<Entry>, JournalError>;
    /// Gives the run back.
    async fn release(&self, run: &RunId, lease: RunLease) -> Result<(), JournalError>;
    /// The newest runs of a tenant, newest first.
    async fn runs(&self, tenant: &TenantId, limit: u32) -> Result<Vec<RunRecord>, JournalError>;
    /// One run and its whole history.
    async fn history(&self, tenant: &TenantId, run: &RunId) -> Result<(RunRecord, Vec<Entry>), JournalError>;
}
