//! Carries out what the reducer asks for, over a journal.
//!
//! The order is what makes a run durable: what is about to happen is in the journal before it happens,
//! and what happened before anything follows from it. A run that is interrupted anywhere goes on from
//! its last snapshot; the one thing that cannot be known then is what became of an action that was
//! under way, and that attempt is made again, with the same idempotency key.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keyward_model::{ActionCall, Diagnostic, Invoke, Principal, RunId, TenantId};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{Instrument, debug, warn};

use crate::{
    dsl::{Flow, check},
    event::{Event, json_bytes},
    journal::{Append, Entry, Journal, JournalError, Loaded, RunLease, RunPhase, RunRecord},
    limits::EngineLimits,
    problem::{Problem, Standard},
    reducer::{Advance, FORMAT, Input, Invocation, Moment, Next, RunFacts, State, advance},
    stop::Stop,
    threads::Threads,
};

/// How long a lease lasts; after a crash, a run can be taken up this much later.
const LEASE: Duration = Duration::from_secs(10);
/// How deep an entry or a snapshot may nest: JSON of more than 128 levels is not read back.
const MAX_LEVELS: usize = 120;
/// How long the journal is asked again to take what happened.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it is left alone before that, the first time; each time twofold.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How long is computed before the journal is written, and it is seen how late it is and whether to stop.
const AT_ONCE: Duration = Duration::from_secs(1);
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
    /// The run was asked to stop, and has.
    #[error("run {run} was stopped and can be resumed")]
    Stopped {
        /// Which run.
        run: RunId,
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

    /// The journal of `run` could not be written, and is asked again.
    fn held_up(&self, _run: &RunId, _why: &JournalError) {}
}

/// Starts and runs flows.
pub struct Engine {
    journal: Arc<dyn Journal>,
    invoke: Arc<dyn Invoke>,
    observer: Option<Arc<dyn Observer>>,
    limits: EngineLimits,
    lease: Duration,
    patience: Duration,
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
            patience: PATIENCE,
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

    /// The same with a journal that fails being asked again for `patience` before the run is interrupted.
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
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
        let id = flow.id().clone();
        let input = self
            .compute("it panicked while it checked the input", move || flow.check_input(&input).map(|()| input))
            .await?
            .map_err(EngineError::Input)?;
        let now = OffsetDateTime::now_utc();
        let record = RunRecord {
            id: RunId::new(),
            tenant: tenant.clone(),
            principal: principal.clone(),
            flow: id,
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

    /// Runs a run to its end, from the start or from where it was interrupted, or until it is asked to stop.
    /// One that has ended is only read.
    ///
    /// A run that faults is no error here: its record says so.
    pub async fn run(&self, tenant: &TenantId, run: &RunId, stop: &Stop) -> Result<RunRecord, EngineError> {
        let claimed_at = Instant::now();
        let Loaded { record, snapshot, last_sequence, lease } = self.journal.claim(tenant, run, self.lease).await?;
        let result = if record.phase.is_final() {
            Ok(record)
        } else {
            let hold = Hold {
                engine: self,
                run: *run,
                lease,
                until: Mutex::new(claimed_at + self.lease),
                recording: AtomicBool::new(false),
            };
            let work = Work { engine: self, hold: &hold, stop };
            let watched = keyward_telemetry::run(&record.flow.to_string(), *run);
            let work = work.through(record, snapshot, last_sequence).instrument(watched.span());
            let result = tokio::select! {
                biased;
                lost = hold.keep() => Err(EngineError::Interrupted { run: *run, source: lost }),
                result = work => result,
            };
            watched.ended(failure(&result));
            result
        };
        if !matches!(&result, Err(EngineError::Interrupted { source: JournalError::Fenced(_), .. }))
            && let Err(error) = self.journal.release(run, lease).await
        {
            // The lease ends on its own.
            warn!(%run, %error, "the run could not be given back");
        }
        result
    }

    /// The flow of a source, checked once.
    async fn flow(&self, source: &str) -> Result<Result<Arc<Flow>, Vec<Diagnostic>>, EngineError> {
        let lock = || self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, flow)) = lock().iter().find(|(known, _)| known == source) {
            return Ok(Ok(flow.clone()));
        }
        let source = source.to_owned();
        let checked = move || check(&source).map(|(flow, _)| (source, Arc::new(flow)));
        let checked = self.compute("it panicked while it checked the flow", checked).await?;
        Ok(checked.map(|(source, flow)| {
            let mut flows = lock();
            if flows.len() >= FLOWS_KEPT {
                flows.remove(0);
            }
            flows.push((source, flow.clone()));
            flow
        }))
    }

    /// Does `work` on a thread of its own kind.
    async fn compute<T: Send + 'static>(
        &self,
        panicked: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let done = self.threads()?.run(work).await;
        done.ok_or_else(|| EngineError::Internal(panicked.to_owned()))
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

/// How the work on a run ended, where it did not end well.
fn failure(result: &Result<RunRecord, EngineError>) -> Option<&'static str> {
    match result {
        Ok(record) => (record.phase == RunPhase::Faulted).then_some("faulted"),
        Err(EngineError::Stopped { .. }) => Some("stopped"),
        Err(_) => Some("interrupted"),
    }
}

/// The right of one process to work on one run.
struct Hold<'e> {
    engine: &'e Engine,
    run: RunId,
    lease: RunLease,
    /// Until when nobody can take the run over.
    until: Mutex<Instant>,
    /// Whether something waits to be recorded.
    recording: AtomicBool,
}

impl Hold<'_> {
    /// Renews the lease until it is lost, and says why.
    ///
    /// While something waits to be recorded, a lease that ends is not given up: nothing else is done then, and the
    /// journal itself refuses the entries where another process has taken the run over.
    async fn keep(&self) -> JournalError {
        loop {
            tokio::time::sleep(self.engine.lease / 3).await;
            match self.renew().await {
                Ok(()) => {}
                Err(error @ JournalError::Fenced(_)) => return error,
                Err(error) if self.has_ended() && !self.recording.load(Ordering::Relaxed) => return error,
                Err(error) => warn!(run = %self.run, %error, "the lease could not be renewed; it is tried again"),
            }
        }
    }

    async fn renew(&self) -> Result<(), JournalError> {
        let ttl = self.engine.lease;
        let until = Instant::now() + ttl;
        self.engine.journal.renew(&self.run, self.lease, ttl).await?;
        let mut known = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *known = until.max(*known);
        Ok(())
    }

    fn has_ended(&self) -> bool {
        Instant::now() >= *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened that is not recorded, or is about to be recorded.
    fn must_record(&self) {
        self.recording.store(true, Ordering::Relaxed);
    }

    /// Records it; what an action did must not be forgotten because the disk was full for a moment.
    async fn append(&self, append: Append<'_>) -> Result<(), JournalError> {
        self.must_record();
        self.insist(|| self.engine.journal.append(&self.run, self.lease, append.clone())).await?;
        if !append.phase.is_final() && self.has_ended() {
            // Nothing is begun without a lease. What was recorded as begun should be, so this is worth the same patience.
            self.insist(|| self.renew()).await?;
        }
        self.recording.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Asks the journal, and asks it again where it fails.
    async fn insist<F: Future<Output = Result<(), JournalError>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<(), JournalError> {
        let give_up = Instant::now() + self.engine.patience;
        let mut pause = PAUSE;
        while let Err(error) = ask().await {
            let lost = matches!(error, JournalError::Fenced(_) | JournalError::Unknown(_));
            if lost || Instant::now() >= give_up {
                return Err(error);
            }
            warn!(run = %self.run, %error, "the journal could not be written; it is tried again");
            if let Some(observer) = &self.engine.observer {
                observer.held_up(&self.run, &error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        Ok(())
    }
}

/// One process at work on one run.
struct Work<'e> {
    engine: &'e Engine,
    hold: &'e Hold<'e>,
    stop: &'e Stop,
}

impl Work<'_> {
    async fn through(
        self,
        mut record: RunRecord,
        snapshot: Option<Value>,
        last_sequence: u64,
    ) -> Result<RunRecord, EngineError> {
        let run = record.id;
        let checked = self.engine.flow(&record.source).await?;
        let flow = checked.map_err(|diagnostics| EngineError::Source { run, diagnostics })?;
        let facts = Arc::new(RunFacts { id: run, input: record.input.clone(), started_at: record.created_at });
        let (mut state, mut input) = match snapshot {
            None => (State::new(), Input::Start),
            Some(snapshot) => (self.restored(run, snapshot).await?, Input::Resume),
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
            self.hold.append(append).await.map_err(|source| EngineError::Interrupted { run, source })?;
            if let Some(observer) = &self.engine.observer {
                entries.iter().for_each(|entry| observer.recorded(&run, entry));
            }
            state = step.advance.state;
            input = match step.advance.next {
                Next::Completed(_) | Next::Faulted(_) => return Ok(record),
                // Its start is recorded, so it is performed even where somebody has asked meanwhile.
                Next::Invoke(invocation) => {
                    let ended = self.invoke(&record, *invocation).await;
                    self.hold.must_record();
                    ended
                }
                Next::Proceed if self.stop.is_requested() => return Err(EngineError::Stopped { run }),
                Next::Proceed => Input::Proceed,
                Next::Wait(until) => tokio::select! {
                    biased;
                    () = self.stop.requested() => return Err(EngineError::Stopped { run }),
                    () = sleep_until(until) => Input::Woken,
                },
            };
        }
    }

    /// The state of a snapshot, with what it refers to.
    async fn restored(&self, run: RunId, snapshot: Value) -> Result<State, EngineError> {
        let mut state = read_snapshot(run, snapshot)?;
        let mut sequences: Vec<u64> = state.recorded().map(|(sequence, ..)| sequence).collect();
        sequences.dedup();
        let entries = self.engine.journal.entries(&run, &sequences).await?;
        for (sequence, part, value) in state.recorded() {
            let entry = entries.iter().find(|entry| entry.sequence == sequence);
            *value = entry.and_then(|entry| part.of(&entry.event)).cloned().ok_or_else(|| {
                let reason = format!("its snapshot refers to entry {sequence}, which does not hold what it should");
                EngineError::Snapshot { run, reason }
            })?;
        }
        Ok(state)
    }

    /// One step of the reducer on a thread of its own kind, with the snapshot that follows from it.
    async fn advance(
        &self,
        flow: &Arc<Flow>,
        facts: &Arc<RunFacts>,
        state: State,
        input: Input,
    ) -> Result<Step, EngineError> {
        let (flow, facts, limits) = (flow.clone(), facts.clone(), self.engine.limits);
        let stopping = self.stop.is_requested();
        let compute = move || Step::compute(&flow, &facts, &limits, state, input, stopping);
        self.engine.compute("it panicked while it computed a step", compute).await?
    }

    /// Invokes an action and says how it ended.
    async fn invoke(&self, record: &RunRecord, invocation: Invocation) -> Input {
        let Invocation { step, attempt, action, connection, input, idempotency_key, deadline } = invocation;
        debug!(run = %record.id, %step, attempt, %action, "an action is invoked");
        let watched = keyward_telemetry::step(&step, attempt);
        let call = ActionCall {
            tenant: record.tenant.clone(),
            principal: record.principal.clone(),
            on_behalf_of: None,
            flow: Some(record.flow.to_string()),
            run: Some(record.id),
            step: Some(step),
            attempt,
            action,
            connection,
            input,
            idempotency_key,
        };
        let ended = async {
            match self.engine.invoke.invoke(call).await {
                Ok(outcome) => {
                    watched.ended(None);
                    Input::Completed(Box::new(outcome))
                }
                Err(error) => {
                    watched.ended(Some(error.reason.code()));
                    Input::Failed(Box::new(error))
                }
            }
        };
        let ended = ended.instrument(watched.span());
        let Some(deadline) = deadline else { return ended.await };
        // To record the start may have taken long; what is too late is not begun.
        if deadline <= OffsetDateTime::now_utc() {
            return Input::Expired;
        }
        // Dropping the future stops the guest.
        tokio::select! {
            biased;
            input = ended => input,
            () = sleep_until(deadline) => Input::Expired,
        }
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
        stopping: bool,
    ) -> Result<Self, EngineError> {
        let is_long_ago = |at| OffsetDateTime::now_utc() - at > AT_ONCE;
        let moment = Moment { at: OffsetDateTime::now_utc(), stopping, is_long_ago };
        let step = Self::of(advance(flow, facts, limits, state, input, moment), moment.at)?;
        let levels = step.events.iter().chain([&step.snapshot]).map(json_levels).max().unwrap_or(0);
        let detail = if levels > MAX_LEVELS {
            format!("a value of the run is nested more than about {MAX_LEVELS} levels deep")
        } else if json_bytes(&step.snapshot) > limits.snapshot_bytes {
            format!("the state of the run is larger than {} bytes", limits.snapshot_bytes)
        } else {
            return Ok(step);
        };
        // What made the state so large is not recorded, only what was performed and that the run ends.
        let events = step.advance.events;
        let place = events.iter().rev().find_map(Event::place).map_or("", |place| &place.task);
        let problem = Problem::new(Standard::Runtime, place, detail)
            .with("hint", "keep less: 'output.as' and 'export.as' choose what the later tasks need");
        let mut aborted = advance(flow, facts, limits, State::new(), Input::Abort(problem), moment);
        aborted.events = events.into_iter().filter_map(Event::performed).chain(aborted.events).collect();
        Self::of(aborted, moment.at)
    }

    fn of(advance: Advance, at: OffsetDateTime) -> Result<Self, EngineError> {
        let events = advance.events.iter().map(to_json).collect::<Result<_, _>>()?;
        Ok(Self { events, snapshot: to_json(&advance.state)?, advance, at })
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
        Some(format) => return Err(wrong(format!("its snapshot has format {format}, this version reads {FORMAT}"))),
        None => return Err(wrong("its snapshot does not say its format".to_owned())),
    }
    serde_json::from_value(snapshot).map_err(|error| wrong(format!("its snapshot cannot be read: {error}")))
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
