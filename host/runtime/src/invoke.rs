//! One call from its name to its outcome.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use keyward_model::{
    ActionCall, ActionOutcome, CallContext, CallId, CallMemory, Digest, Invoke, InvokeError, InvokeErrorKind, LogLine,
    Outbound, Reason, SendError,
    manifest::{LimitOverrides, Limits},
};
use tokio::{sync::Semaphore, time::timeout_at};
use tracing::Instrument;
use wasmtime::{Engine, Store, UpdateDeadline};

use crate::{
    Catalog, Resolved, RuntimeError,
    bindings::v0_1::{
        ConnectorPre,
        exports::keyward::connector::actions::{ActionError, Invocation},
    },
    cache::Cache,
    call::{CallState, Connection, MAX_RESOURCES},
    connectors::Connectors,
    convert,
    engine::{self, Clock},
    failure,
    limits::Breach,
    log::{cut, show},
    schema::MAX_OUTPUT,
};

/// How a [`Runtime`] is set up.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Where compiled components are kept. It is made if it is missing, and must be ours alone.
    pub cache_dir: PathBuf,
    /// How many calls run at once; more wait for their turn, first come first served, within their
    /// wall-clock limit. Each reserves 16 GiB of address space, and no memory until it runs.
    pub max_concurrent_calls: u32,
    /// The most that any call may use, whatever its own limits say.
    pub ceiling: Limits,
}

/// The sandbox: runs actions of connectors, each call in a fresh instance of its own.
///
/// Calls run on the Tokio runtime of the caller, which must be built with `event_interval(1)`: guests yield
/// every millisecond, and with Tokio's default of 61 polls between two looks at the network a single guest
/// that computes makes every other call wait for more than a second.
pub struct Runtime {
    engine: Engine,
    clock: Clock,
    connectors: Connectors,
    turns: Semaphore,
    ceiling: Limits,
    catalog: Arc<dyn Catalog>,
    outbound: Arc<dyn Outbound>,
}

impl Runtime {
    /// Starts the engine.
    ///
    /// # Errors
    /// [`RuntimeError::Engine`] if it does not start on this machine, [`RuntimeError::CacheDirectory`] if
    /// compiled components are not safe there.
    pub fn new(
        config: RuntimeConfig,
        catalog: Arc<dyn Catalog>,
        outbound: Arc<dyn Outbound>,
    ) -> Result<Self, RuntimeError> {
        let RuntimeConfig { cache_dir, max_concurrent_calls, ceiling } = config;
        let engine = engine::engine(max_concurrent_calls, &ceiling)?;
        let cache = Cache::open(&engine, &cache_dir)?;
        Ok(Self {
            clock: Clock::start(&engine)?,
            connectors: Connectors::new(&engine, cache)?,
            turns: Semaphore::new(max_concurrent_calls as usize),
            engine,
            ceiling,
            catalog,
            outbound,
        })
    }

    /// Compiles the component into the cache and links it, so that its first call is as quick as any other.
    /// This finds every fault of a component that can be found without running it.
    ///
    /// # Errors
    /// [`RuntimeError::Read`] if the file cannot be read, [`RuntimeError::Unsuitable`] if it has another
    /// digest, does not compile or does not fit the contract.
    pub async fn precompile(&self, component: &Path, digest: &Digest) -> Result<(), RuntimeError> {
        let ready = self.connectors.get(digest);
        self.connectors.load(&ready, digest, component).await.map(|_| ())
    }

    /// Removes what was compiled of components that `used` does not name. One of them that is called all the same is
    /// compiled anew.
    ///
    /// # Errors
    /// Where the cache cannot be read or changed.
    pub async fn retain(&self, used: BTreeSet<Digest>) -> io::Result<()> {
        self.connectors.retain(used).await
    }

    async fn call(
        &self,
        call: ActionCall,
        resolved: Arc<Resolved>,
        mut context: CallContext,
    ) -> Result<ActionOutcome, InvokeError> {
        let digest = resolved.connector.digest;
        let ready = self.connectors.get(&digest);
        let wall_ms = context.limits.wall_ms;
        let schemas = ready.schemas(&call.action.action, &resolved).await?;
        let input = call.input.to_string();
        timeout_at(deadline(wall_ms), schemas.check_input(call.input, &input))
            .await
            .unwrap_or_else(|_| Err(failure::check_took_too_long("input", wall_ms)))?;
        let component = self.connectors.load(&ready, &digest, &resolved.component).await.map_err(unusable)?;

        // From here on the wall-clock limit counts; compiling a connector is not its call's fault.
        let deadline = deadline(wall_ms);
        context.deadline = deadline.into_std();
        // Declared before the store, so that it is given back after the store's slot is free.
        let _turn = timeout_at(deadline, self.turns.acquire())
            .await
            .map_err(|_| failure::no_turn(&context.limits))?
            .map_err(|_| InvokeError::new(InvokeErrorKind::Internal, Reason::Internal, "the sandbox is shut down"))?;
        let _ticking = self.clock.hold();
        let invocation = Invocation {
            action: call.action.action.as_str().to_owned(),
            input,
            idempotency_key: call.idempotency_key,
            attempt: call.attempt,
        };
        let context = Arc::new(context);
        // Dropped after the store, so that nothing is refused any more.
        let ending = Ending { outbound: self.outbound.clone(), context: context.clone(), is_over: false };
        let mut store = self.store(CallState::new(context, self.ceiling, self.outbound.clone()));
        let (meter, usage) = (store.data().meter.clone(), store.data().usage.clone());
        let start = meter.start();
        let run = meter.charge(run(&mut store, component, &invocation));
        let result = tokio::select! {
            biased;
            () = usage.flooded() => None,
            result = timeout_at(deadline, run) => Some(result),
        };

        let state = store.data_mut();
        // A guest that comes to its end within the moment has denied requests all the same.
        let mut result = result.filter(|_| !state.context.refusals.is_flood());
        let mut log = state.log().take();
        // Before anything is made of the guest's words, as a part of a secret is not found.
        let spoken = result.as_mut().and_then(|timely| timely.as_mut().ok()).and_then(|ended| ended.as_mut().ok());
        let mut words = words(spoken, &mut log);
        let cleaned = timeout_at(deadline.max(after(CLEANING)), self.outbound.clean(&state.context, &mut words)).await;
        let redacted = match cleaned.unwrap_or_else(|_| Err(failure::clean_took_too_long())) {
            Ok(redacted) => redacted,
            Err(error) => return Err(InvokeError { began: true, ..unclean(error, state) }),
        };
        show(&mut log);
        let outcome = match result {
            None => Err(failure::denied_too_often(state, &log)),
            Some(Ok(Ok(Ok(text)))) => timeout_at(deadline, schemas.read_output(text))
                .await
                .unwrap_or_else(|_| Err(failure::check_took_too_long("output", wall_ms)))
                .map_err(|error| InvokeError { sent: state.usage.sent_so_far(), ..error })
                .map_err(|error| if redacted > 0 { error.hint(REDACTED) } else { error }),
            Some(Ok(Ok(Err(error)))) => Err(failure::reported(error, state)),
            Some(Ok(Err(error))) => Err(failure::crashed(&error, state, &log)),
            Some(Err(_)) => Err(failure::took_too_long(state, &log)),
        };
        let stats = state.usage.stats(state.memory.peak(), micros(start));
        drop(store);
        ending.now().await?;
        match outcome {
            Ok(output) => Ok(ActionOutcome { output, log, stats }),
            Err(error) => Err(InvokeError { log, began: true, ..error }),
        }
    }

    /// A store for one call.
    fn store(&self, state: CallState) -> Store<CallState> {
        let limits = state.context.limits;
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.memory);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|store| {
            let state = store.data();
            let limit_ms = state.context.limits.cpu_ms;
            if state.meter.used() > Duration::from_millis(limit_ms) {
                return Err(Breach::Cpu { limit_ms }.into());
            }
            Ok(UpdateDeadline::Yield(1))
        });
        // What a guest passes to one host function is copied into the host. It cannot be more than the
        // guest's memory, unless it passes the same bytes many times over.
        store.set_hostcall_fuel(usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX));
        // A handle that is lent counts twice, and the table of the resources tells better what there is too much of.
        store.set_max_component_handles(2 * MAX_RESOURCES);
        store
    }
}

#[async_trait]
impl Invoke for Runtime {
    async fn invoke(&self, call: ActionCall) -> Result<ActionOutcome, InvokeError> {
        let start = Instant::now();
        let resolved = self.catalog.resolve(&call).await?;
        let context = CallContext {
            tenant: call.tenant.clone(),
            principal: call.principal.clone(),
            on_behalf_of: call.on_behalf_of.clone(),
            flow: call.flow.clone(),
            call: CallId::new(),
            run: call.run,
            step: call.step.clone(),
            connector: resolved.connector.clone(),
            action: call.action.action.clone(),
            connection: resolved.connection,
            limits: resolved.limits.with(LimitOverrides::default(), self.ceiling),
            memory: CallMemory::default(),
            deadline: start,
            refusals: Arc::default(),
        };
        let watched = keyward_telemetry::call(&context);
        let result = self.call(call, resolved, context).instrument(watched.span()).await;
        watched.ended(result.as_ref().err().map(|error| error.reason.code()));
        result
    }
}

/// The end of a call, which the way out is told of where it has to write something down, also where nobody waits for
/// the call any more.
struct Ending {
    outbound: Arc<dyn Outbound>,
    context: Arc<CallContext>,
    is_over: bool,
}

impl Ending {
    fn is_to_be_told(&self) -> bool {
        !self.is_over && self.context.refusals.unrecorded().iter().any(|(_, count)| *count > 0)
    }

    async fn now(mut self) -> Result<(), InvokeError> {
        if self.is_to_be_told() {
            self.outbound.ended(&self.context).await.map_err(|error| {
                let mut failure = InvokeError::new(InvokeErrorKind::Internal, error.reason, error.message);
                failure.hint = error.hint;
                InvokeError { began: true, ..failure }
            })?;
        }
        self.is_over = true;
        Ok(())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.is_to_be_told()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (outbound, context) = (self.outbound.clone(), self.context.clone());
            runtime.spawn(async move { outbound.ended(&context).await });
        }
    }
}

/// Instantiates the component and calls it.
async fn run(
    store: &mut Store<CallState>,
    component: &ConnectorPre<CallState>,
    invocation: &Invocation,
) -> wasmtime::Result<Result<String, ActionError>> {
    let connector = component.instantiate_async(&mut *store).await?;
    let connection = store.data_mut().table.push(Connection)?;
    connector.keyward_connector_actions().call_run(store, invocation, connection).await
}

/// What stands in the place of a secret may not fit the schema, or be no JSON where the secret was a list of numbers.
const REDACTED: &str = "a secret was taken out of the output (secret-echoed): the connector should not return it";

/// The most bytes of an action's error that are searched; far fewer are told.
const MAX_SEARCHED: usize = 64 << 10;
/// How long they may be searched where the call's own time is up.
const CLEANING: Duration = Duration::from_secs(5);

/// Every text that the guest made: its log, and how it ended.
fn words<'a>(spoken: Option<&'a mut Result<String, ActionError>>, log: &'a mut [LogLine]) -> Vec<&'a mut String> {
    let mut words: Vec<_> = log.iter_mut().map(|line| &mut line.text).collect();
    match spoken {
        // A larger one is refused, and nothing is told of it.
        Some(Ok(output)) if output.len() <= MAX_OUTPUT => words.push(output),
        Some(Ok(_)) | None => {}
        Some(Err(error)) => {
            for text in convert::texts(error) {
                text.truncate(cut(text, MAX_SEARCHED).len());
                words.push(text);
            }
        }
    }
    words
}

/// The guest's words could not be cleaned, so nothing of them is told.
fn unclean(error: SendError, state: &CallState) -> InvokeError {
    let mut failure = InvokeError::new(InvokeErrorKind::Internal, error.reason, error.message);
    failure.hint = error.hint;
    failure.sent = state.usage.sent_so_far();
    failure
}

/// A component that cannot be loaded, as a call's error.
fn unusable(error: RuntimeError) -> InvokeError {
    let hint = error.hint().map(str::to_owned);
    let reason = match error {
        RuntimeError::Unsuitable { .. } | RuntimeError::Read { .. } => Reason::ComponentUnsuitable,
        _ => Reason::Internal,
    };
    let mut failure = InvokeError::new(InvokeErrorKind::Internal, reason, error.to_string());
    failure.hint = hint;
    failure
}

fn deadline(wall_ms: u64) -> tokio::time::Instant {
    after(Duration::from_millis(wall_ms))
}

fn after(time: Duration) -> tokio::time::Instant {
    let now = tokio::time::Instant::now();
    // A limit beyond what a clock can tell is no limit.
    now.checked_add(time).unwrap_or_else(|| now + Duration::from_secs(u32::MAX.into()))
}

fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}
