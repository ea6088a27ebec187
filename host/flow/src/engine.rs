//! Carries out what the reducer asks for, over a journal.
//!
//! The order is what makes a run durable: what is about to happen is in the journal before it happens,
//! and what happened before anything follows from it. A run that is interrupted anywhere goes on from
//! its last snapshot; the one thing that cannot be known then is what became of an action that was
//! under way, and that attempt is made again, with the same idempotency key.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use keyward_model::{ActionCall, Diagnostic, Invoke, Principal, RunId, TenantId};
use serde_json::Value;
use time::OffsetDateTime;
use tracing::{debug, warn};

use crate::{
    dsl::{Flow, check},
    journal::{Append, Entry, Journal, JournalError, Loaded, RunLease, RunPhase, RunRecord},
    limits::EngineLimits,
    problem::{Problem, Standard},
    reducer::{Advance, FORMAT, Input, Invocation, Next, RunFacts, State, advance},
    threads::Threads,
};

/// How long a lease lasts; after a crash, a run can be taken up this much later.
const LEASE: Duration = Duration::from_secs(10);
/// How deep an entry or a snapshot may nest: JSON of more than 128 levels is not read back.
const MAX_LEVELS: usize = 120;
/// How many checked flows are kept, so that a run that starts at once is not checked twice.
const FLOWS_KEPT: usize = 64;

/// Why a run could not be started, or did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The source is no flow that can be executed.
    #[error("the flow has {} {}", .0.len(), if .0.len() == 1 { "fault" } else { "faults" })]
    Invalid(Vec<Diagnostic>),
    /// The input does not match the flow's schema.
    #[error("the input does not match the flow's schema: {0}")]
    Input(String),
    /// The journal refused the run.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal could not be written in the middle of the run. What is recorded stands, and the run
    /// can be resumed.
    #[error("run {run} is interrupted and can be resumed: {source}")]
    Interrupted {
        /// Which run.
        run: RunId,
        /// Why.
        source: JournalError,
    },
    /// The snapshot was written by another version.
    #[error("run {run} cannot be resumed by this version: {reason}")]
    Snapshot {
        /// Which run.
        run: RunId,
        /// Why.
        reason: String,
    },
    /// The source of the run can no longer be executed.
    #[error("run {run} was started with a flow that this version does not execute")]
    Source {
        /// Which run.
        run: RunId,
        /// What is wrong with it.
        diagnostics: Vec<Diagnostic>,
    },
    /// A fault of the engine.
    #[error("the engine failed: {0}")]
    Internal(String),
}

/// Is told what is recorded, after it is.
pub trait Observer: Send + Sync {
    /// `entry` was recorded in the journal of `run`.
    fn recorded(&self, run: &RunId, entry: &Entry);
}

/// Starts and runs flows.
pub struct Engine {
    journal: Arc<dyn Journal>,
    invoke: Arc<dyn Invoke>,
    observer: Option<Arc<dyn Observer>>,
    limits: EngineLimits,
    lease: Duration,
    /// The last flows by their source, the newest last.
    flows: Mutex<Vec<(String, Arc<Flow>)>>,
    threads: Mutex<Option<Threads>>,
}

impl Engine {
    /// An engine over a journal, with actions run by `invoke`.
    pub fn new(journal: Arc<dyn Journal>, invoke: Arc<dyn Invoke>) -> Self {
        Self {
            journal,
            invoke,
            observer: None,
            limits: EngineLimits::default(),
            lease: LEASE,
            flows: Mutex::default(),
            threads: Mutex::default(),
        }
    }

    /// The same with an observer.
    pub fn observe(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// The same with other limits.
    pub fn limits(self, limits: EngineLimits) -> Self {
        Self { limits, ..self }
    }

    /// The same with leases of `lease`, which are renewed after a third of it.
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// Checks a flow and its input and records a run of it; nothing is executed yet.
    pub async fn start(
        &self,
        tenant: &TenantId,
        principal: &Principal,
        source: &str,
        input: Value,
    ) -> Result<RunId, EngineError> {
        let flow = self.flow(source).await?.map_err(EngineError::Invalid)?;
        flow.check_input(&input).map_err(EngineError::Input)?;
        let now = OffsetDateTime::now_utc();
        let record = RunRecord {
            id: RunId::new(),
            tenant: tenant.clone(),
            principal: principal.clone(),
            flow: flow.id().clone(),
            source: source.to_owned(),
            input,
            phase: RunPhase::Pending,
            output: None,
            error: None,
            created_at: now,
            updated_at: now,
        };
        self.journal.create(&record).await?;
        Ok(record.id)
    }

    /// Runs a run to its end, from the start or from where it was interrupted. One that has ended is
    /// only read.
    ///
    /// A run that faults is no error here: its record says so.
    pub async fn run(&self, tenant: &TenantId, run: &RunId) -> Result<RunRecord, EngineError> {
        let Loaded { record, snapshot, last_sequence, lease } = self.journal.claim(tenant, run, self.lease).await?;
        let result = if record.phase.is_final() {
            Ok(record)
        } else {
            let work = self.work(record, snapshot, last_sequence, lease);
            tokio::select! {
                biased;
                lost = self.keep(run, lease) => Err(EngineError::Interrupted { run: *run, source: lost }),
                result = work => result,
            }
        };
        if !matches!(&result, Err(EngineError::Interrupted { source: JournalError::Fenced(_), .. }))
            && let Err(error) = self.journal.release(run, lease).await
        {
            // The lease ends on its own.
            warn!(%run, %error, "the run could not be given back");
        }
        result
    }

    /// Renews the lease until it is lost, and says why.
    async fn keep(&self, run: &RunId, lease: RunLease) -> JournalError {
        let mut held_until = tokio::time::Instant::now() + self.lease;
        loop {
            tokio::time::sleep(self.lease / 3).await;
            let asked_at = tokio::time::Instant::now();
            match self.journal.renew(run, lease, self.lease).await {
                Ok(()) => held_until = asked_at + self.lease,
                Err(error @ JournalError::Fenced(_)) => return error,
                Err(error) if tokio::time::Instant::now() >= held_until => return error,
                Err(error) => warn!(%run, %error, "the lease could not be renewed; it is tried again"),
            }
        }
    }

    async fn work(
        &self,
        mut record: RunRecord,
        snapshot: Option<Value>,
        last_sequence: u64,
        lease: RunLease,
    ) -> Result<RunRecord, EngineError> {
        let run = record.id;
        let checked = self.flow(&record.source).await?;
        let flow = checked.map_err(|diagnostics| EngineError::Source { run, diagnostics })?;
        let facts = Arc::new(RunFacts { id: run, input: record.input.clone(), started_at: record.created_at });
        let (mut state, mut input) = match snapshot {
            None => (State::new(), Input::Start),
            Some(snapshot) => (read_snapshot(run, snapshot)?, Input::Resume),
        };
        let mut sequence = last_sequence;
        loop {
            let mut step = self.advance(&flow, &facts, state, input).await?;
            let entries = step.entries(sequence);
            sequence += entries.len() as u64;
            (record.phase, record.output, record.error) = match &step.advance.next {
                Next::Proceed | Next::Invoke(_) => (RunPhase::Running, None, None),
                Next::Wait(_) => (RunPhase::Waiting, None, None),
                Next::Completed(output) => (RunPhase::Completed, Some(output.clone()), None),
                Next::Faulted(error) => (RunPhase::Faulted, None, Some(error.clone())),
            };
            record.updated_at = step.at;
            let append = Append {
                entries: &entries,
                snapshot: &step.snapshot,
                phase: record.phase,
                output: record.output.as_ref(),
                error: record.error.as_ref(),
            };
            // Nothing follows from what is not recorded.
            let appended = self.journal.append(&run, lease, append).await;
            appended.map_err(|source| EngineError::Interrupted { run, source })?;
            if let Some(observer) = &self.observer {
                entries.iter().for_each(|entry| observer.recorded(&run, entry));
            }
            state = step.advance.state;
            input = match step.advance.next {
                Next::Proceed => Input::Proceed,
                Next::Invoke(invocation) => self.invoke(&record, *invocation).await,
                Next::Wait(until) => {
                    sleep_until(until).await;
                    Input::Woken
                }
                Next::Completed(_) | Next::Faulted(_) => return Ok(record),
            };
        }
    }

    /// One step of the reducer on a thread of its own kind, with the snapshot that follows from it.
    async fn advance(
        &self,
        flow: &Arc<Flow>,
        facts: &Arc<RunFacts>,
        state: State,
        input: Input,
    ) -> Result<Step, EngineError> {
        let (flow, facts, limits) = (flow.clone(), facts.clone(), self.limits);
        let compute = move || Step::compute(&flow, &facts, &limits, state, input);
        let step = self.threads()?.run(compute).await;
        step.ok_or_else(|| EngineError::Internal("it panicked while it computed a step".to_owned()))?
    }

    /// Invokes an action and says how it ended.
    async fn invoke(&self, record: &RunRecord, invocation: Invocation) -> Input {
        let Invocation { step, attempt, action, connection, input, idempotency_key, deadline } = invocation;
        debug!(run = %record.id, %step, attempt, %action, "an action is invoked");
        let call = ActionCall {
            tenant: record.tenant.clone(),
            principal: record.principal.clone(),
            run: Some(record.id),
            step: Some(step),
            attempt,
            action,
            connection,
            input,
            idempotency_key,
        };
        let ended = async {
            match self.invoke.invoke(call).await {
                Ok(outcome) => Input::Completed(Box::new(outcome)),
                Err(error) => Input::Failed(Box::new(error)),
            }
        };
        let Some(deadline) = deadline else { return ended.await };
        // Dropping the future stops the guest.
        tokio::select! {
            biased;
            input = ended => input,
            () = sleep_until(deadline) => Input::Expired,
        }
    }

    /// The flow of a source, checked once.
    async fn flow(&self, source: &str) -> Result<Result<Arc<Flow>, Vec<Diagnostic>>, EngineError> {
        let lock = || self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, flow)) = lock().iter().find(|(known, _)| known == source) {
            return Ok(Ok(flow.clone()));
        }
        let source = source.to_owned();
        let checked = self.threads()?.run(move || check(&source).map(|(flow, _)| (source, Arc::new(flow)))).await;
        let checked =
            checked.ok_or_else(|| EngineError::Internal("it panicked while it checked the flow".to_owned()))?;
        Ok(checked.map(|(source, flow)| {
            let mut flows = lock();
            if flows.len() >= FLOWS_KEPT {
                flows.remove(0);
            }
            flows.push((source, flow.clone()));
            flow
        }))
    }

    fn threads(&self) -> Result<Threads, EngineError> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(threads) = &*threads {
            return Ok(threads.clone());
        }
        let started =
            Threads::start().map_err(|error| EngineError::Internal(format!("the system gives no thread: {error}")))?;
        Ok(threads.insert(started).clone())
    }
}

/// One step of the reducer, ready to be recorded.
struct Step {
    advance: Advance,
    /// The events of `advance` as the journal keeps them.
    events: Vec<Value>,
    snapshot: Value,
    at: OffsetDateTime,
}

impl Step {
    fn compute(
        flow: &Flow,
        facts: &RunFacts,
        limits: &EngineLimits,
        state: State,
        input: Input,
    ) -> Result<Self, EngineError> {
        let at = OffsetDateTime::now_utc();
        let advanced = advance(flow, facts, limits, state, input, at);
        let mut step = Self { snapshot: to_json(&advanced.state)?, events: Vec::new(), advance: advanced, at };
        let events = step.advance.events.iter().map(to_json).collect::<Result<Vec<Value>, _>>()?;
        let levels = events.iter().chain([&step.snapshot]).map(json_levels).max().unwrap_or(0);
        let detail = if levels > MAX_LEVELS {
            Some(format!("a value of the run is nested more than about {MAX_LEVELS} levels deep"))
        } else if json_bytes(&step.snapshot) > limits.snapshot_bytes {
            Some(format!("the state of the run is larger than {} bytes", limits.snapshot_bytes))
        } else {
            None
        };
        if let Some(detail) = detail {
            let problem = Problem::new(Standard::Runtime, "", detail);
            // What made the state so large is not recorded, only that it did.
            step.advance = advance(flow, facts, limits, State::new(), Input::Abort(problem), at);
            step.snapshot = to_json(&step.advance.state)?;
            step.events = step.advance.events.iter().map(to_json).collect::<Result<_, _>>()?;
        } else {
            step.events = events;
        }
        Ok(step)
    }

    /// The events as entries that follow the entry `last`.
    fn entries(&mut self, last: u64) -> Vec<Entry> {
        let events = std::mem::take(&mut self.events);
        events.into_iter().zip(last + 1..).map(|(event, sequence)| Entry { sequence, at: self.at, event }).collect()
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<Value, EngineError> {
    serde_json::to_value(value).map_err(|error| EngineError::Internal(error.to_string()))
}

fn read_snapshot(run: RunId, snapshot: Value) -> Result<State, EngineError> {
    let wrong = |reason: String| EngineError::Snapshot { run, reason };
    match snapshot.get("format").and_then(Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) => {}
        format => return Err(wrong(format!("its snapshot has the format {format:?}, this version reads {FORMAT}"))),
    }
    serde_json::from_value(snapshot).map_err(|error| wrong(format!("its snapshot cannot be read: {error}")))
}

/// About how long a value is as JSON.
fn json_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(json_bytes).sum::<usize>(),
        Value::Object(entries) => {
            2 + entries.iter().map(|(key, value)| key.len() + 4 + json_bytes(value)).sum::<usize>()
        }
    }
}

/// How deep a value is nested.
fn json_levels(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(json_levels).max().unwrap_or(0),
        Value::Object(entries) => 1 + entries.values().map(json_levels).max().unwrap_or(0),
        _ => 0,
    }
}

/// Waits until the clock shows `until`.
async fn sleep_until(until: OffsetDateTime) {
    let rest = until - OffsetDateTime::now_utc();
    if let Ok(rest) = Duration::try_from(rest) {
        tokio::time::sleep(rest).await;
    }
}

#[cfg(test)]
mod tests;
