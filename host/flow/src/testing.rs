//! What the tests of this crate share: flows, a journal in memory, actions from a closure.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use keyward_model::{
    ActionCall, ActionOutcome, CallStats, Diagnostic, Invoke, InvokeError, InvokeErrorKind, Reason, RunId, TenantId,
    diagnostic::line_column,
};
use serde_json::Value;
use time::OffsetDateTime;

use crate::{
    Event, Journal, JournalError, Stop,
    journal::{Append, Entry, Loaded, RunLease, RunPhase, RunRecord},
};

/// A flow with a good document around `rest`.
pub(crate) fn flow(rest: &str) -> String {
    format!("document: {{dsl: '1.0.3', namespace: test, name: flow, version: '1.0.0'}}\n{rest}")
}

/// Diagnostics as a person reads them.
pub(crate) fn shown(source: &str, diagnostics: &[Diagnostic]) -> String {
    let line = |diagnostic: &Diagnostic| {
        let place = diagnostic.span.map_or("-".to_owned(), |span| {
            let (line, column) = line_column(source, span.start);
            let text: String = source[span.start..span.end].chars().take(40).collect();
            format!("{line}:{column} {text:?}")
        });
        let hint = diagnostic.hint.as_deref().map(|hint| format!("\n    hint: {hint}")).unwrap_or_default();
        format!("{place} {}: {}{hint}", diagnostic.code, diagnostic.message)
    };
    diagnostics.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// An outcome with this output.
pub(crate) fn outcome(output: Value) -> ActionOutcome {
    ActionOutcome { output, log: Vec::new(), stats: CallStats::default() }
}

/// The error of a provider that is away.
pub(crate) fn unavailable() -> InvokeError {
    let mut error =
        InvokeError::new(InvokeErrorKind::Communication, Reason::Unreachable, "the provider cannot be reached");
    error.status = Some(503);
    error
}

/// Actions from a closure.
pub(crate) struct Actions<F>(pub(crate) F);

#[async_trait]
impl<F: Fn(&ActionCall) -> Result<Value, Box<InvokeError>> + Send + Sync> Invoke for Actions<F> {
    async fn invoke(&self, call: ActionCall) -> Result<ActionOutcome, InvokeError> {
        (self.0)(&call).map(outcome).map_err(|error| *error)
    }
}

/// A journal in memory, which can be told to fail.
#[derive(Default)]
pub(crate) struct MemoryJournal {
    runs: Mutex<HashMap<RunId, Stored>>,
    /// After how many more appends the disk is full; `None` is never.
    pub(crate) appends_left: Mutex<Option<u64>>,
    /// After how many refused appends there is room again; `None` is never.
    pub(crate) refusals_left: Mutex<Option<u64>>,
    /// How many bytes each append had.
    pub(crate) appended: Mutex<Vec<usize>>,
    /// Whether another process is at a long write: what comes meanwhile waits for its end, and a renewal fails then.
    pub(crate) locked: tokio::sync::watch::Sender<bool>,
    /// Counts the renewals of leases.
    pub(crate) renewed: tokio::sync::watch::Sender<u32>,
}

struct Stored {
    record: RunRecord,
    snapshot: Option<Value>,
    entries: Vec<Entry>,
    fence: u64,
    until: Option<OffsetDateTime>,
}

impl MemoryJournal {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn with<T>(
        &self,
        run: &RunId,
        work: impl FnOnce(&mut Stored) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        work(self.runs.lock().unwrap().get_mut(run).ok_or(JournalError::Unknown(*run))?)
    }

    fn held(stored: &Stored, run: &RunId, lease: RunLease) -> Result<(), JournalError> {
        if stored.fence == lease.fence { Ok(()) } else { Err(JournalError::Fenced(*run)) }
    }

    /// What happened so far.
    pub(crate) fn events(&self, run: &RunId) -> Vec<Event> {
        let runs = self.runs.lock().unwrap();
        runs[run].entries.iter().map(|entry| serde_json::from_value(entry.event.clone()).unwrap()).collect()
    }

    pub(crate) fn snapshot(&self, run: &RunId) -> Option<Value> {
        self.runs.lock().unwrap()[run].snapshot.clone()
    }

    /// Waits for the end of a long write, and says whether there was one.
    async fn waited(&self) -> bool {
        let waits = *self.locked.borrow();
        self.locked.subscribe().wait_for(|locked| !locked).await.unwrap();
        waits
    }

    fn is_full(&self) -> bool {
        *self.appends_left.lock().unwrap() == Some(0)
    }

    /// Another process takes the run over, whatever its lease.
    pub(crate) fn overtake(&self, run: &RunId) {
        self.runs.lock().unwrap().get_mut(run).unwrap().fence += 1;
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn create(&self, run: &RunRecord) -> Result<(), JournalError> {
        let stored = Stored { record: run.clone(), snapshot: None, entries: Vec::new(), fence: 0, until: None };
        self.runs.lock().unwrap().insert(run.id, stored);
        Ok(())
    }

    async fn claim(&self, _: &TenantId, run: &RunId, ttl: Duration) -> Result<Loaded, JournalError> {
        self.with(run, |stored| {
            if let Some(until) = stored.until.filter(|until| *until > OffsetDateTime::now_utc()) {
                return Err(JournalError::Leased { run: *run, until });
            }
            stored.fence += 1;
            stored.until = Some(OffsetDateTime::now_utc() + ttl);
            Ok(Loaded {
                record: stored.record.clone(),
                snapshot: stored.snapshot.clone(),
                last_sequence: stored.entries.len() as u64,
                lease: RunLease { fence: stored.fence },
            })
        })
    }

    async fn renew(&self, run: &RunId, lease: RunLease, ttl: Duration) -> Result<(), JournalError> {
        if self.waited().await {
            return Err(JournalError::Busy);
        }
        if self.is_full() {
            return Err(JournalError::DiskFull);
        }
        self.with(run, |stored| {
            Self::held(stored, run, lease)?;
            stored.until = Some(OffsetDateTime::now_utc() + ttl);
            Ok(())
        })?;
        self.renewed.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn append(&self, run: &RunId, lease: RunLease, append: Append<'_>) -> Result<(), JournalError> {
        self.waited().await;
        if self.is_full() {
            if let Some(refusals) = self.refusals_left.lock().unwrap().as_mut() {
                *refusals -= 1;
                if *refusals == 0 {
                    *self.appends_left.lock().unwrap() = None;
                }
            }
            return Err(JournalError::DiskFull);
        }
        if let Some(left) = self.appends_left.lock().unwrap().as_mut() {
            *left -= 1;
        }
        let length = |value: &Value| value.to_string().len();
        let bytes = append.entries.iter().map(|entry| length(&entry.event)).sum::<usize>() + length(append.snapshot);
        self.appended.lock().unwrap().push(bytes);
        self.with(run, |stored| {
            Self::held(stored, run, lease)?;
            for (entry, sequence) in append.entries.iter().zip(stored.entries.len() as u64 + 1..) {
                assert_eq!(entry.sequence, sequence, "the entries have a gap");
            }
            stored.entries.extend_from_slice(append.entries);
            stored.snapshot = Some(append.snapshot.clone());
            stored.record.phase = append.phase;
            stored.record.output = append.output.cloned();
            stored.record.error = append.error.cloned();
            Ok(())
        })
    }

    async fn entries(&self, run: &RunId, sequences: &[u64]) -> Result<Vec<Entry>, JournalError> {
        self.with(run, |stored| {
            let entry = |sequence: &u64| stored.entries.get(usize::try_from(*sequence).unwrap() - 1).cloned();
            Ok(sequences.iter().filter_map(entry).collect())
        })
    }

    async fn release(&self, run: &RunId, lease: RunLease) -> Result<(), JournalError> {
        self.with(run, |stored| {
            Self::held(stored, run, lease)?;
            stored.until = None;
            Ok(())
        })
    }

    async fn runs(&self, _: &TenantId, limit: u32) -> Result<Vec<RunRecord>, JournalError> {
        let runs = self.runs.lock().unwrap();
        Ok(runs.values().map(|stored| stored.record.clone()).take(limit as usize).collect())
    }

    async fn history(&self, _: &TenantId, run: &RunId) -> Result<(RunRecord, Vec<Entry>), JournalError> {
        self.with(run, |stored| Ok((stored.record.clone(), stored.entries.clone())))
    }
}

/// Nobody asks a run to stop.
pub(crate) fn no_stop() -> &'static Stop {
    static NEVER: LazyLock<Stop> = LazyLock::new(Stop::default);
    &NEVER
}

/// Whether nothing more will happen.
pub(crate) fn ended(record: &RunRecord) -> bool {
    matches!(record.phase, RunPhase::Completed | RunPhase::Faulted)
}
