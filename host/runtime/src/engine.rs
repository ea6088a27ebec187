//! The engine: how wasmtime is set up and why, and the clock that interrupts guests.
//!
//! The figures in the comments were measured on a prototype: processor time of one call that does nothing
//! (store, instantiate, call, drop), on a virtual AMD EPYC core under Linux 6.18. Together the settings brought
//! it from 51 µs to 7.3 µs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use keyward_model::manifest::Limits;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use crate::RuntimeError;

/// How long guest code runs before it yields to other tasks, and how exactly its processor time is limited.
///
/// Two guests that loop for ever cost another call 60 ms at ticks of 20 ms, and 0.07 ms at 1 ms.
const TICK: Duration = Duration::from_millis(1);

/// After so many ticks without a call the clock stops until the next one.
///
/// Long enough that waking it is no part of a call's cost under any load worth measuring.
const IDLE_TICKS: u32 = 1_000;

/// Linear memories of one component. One is usual; a composed component has one for each of its parts.
pub(crate) const MEMORIES_PER_CALL: u32 = 4;
/// Tables of one component: Rust has two, JavaScript and Python two large ones.
pub(crate) const TABLES_PER_CALL: u32 = 8;
/// Core instances of one component: the module itself and what adapts it, four or five as a rule.
pub(crate) const INSTANCES_PER_CALL: u32 = 32;
/// Elements of one table. CPython and StarlingMonkey need 5,672 and 7,689.
const TABLE_ELEMENTS: usize = 100_000;
/// What wasmtime keeps for one instance beside its memory; the JavaScript engine needs more than the default 1 MiB.
const INSTANCE_METADATA_BYTES: usize = 4 << 20;

/// Makes the engine for at most `calls` calls at once, none with more memory than `ceiling` says.
pub(crate) fn engine(calls: u32, ceiling: &Limits) -> Result<Engine, RuntimeError> {
    let error = |message: String| RuntimeError::Engine {
        message,
        hint: Some("lower the number of concurrent calls, or raise the limit of virtual memory (ulimit -v)".to_owned()),
    };
    if calls == 0 {
        return Err(error("at least one call must be allowed at a time".to_owned()));
    }
    // The kernel can tell since Linux 6.7 which pages were written (PAGEMAP_SCAN); elsewhere wasmtime refuses
    // the setting, and a smaller part of each memory is reset by copying (14.6 µs instead of 7.3 µs).
    Engine::new(&config(calls, ceiling, true))
        .or_else(|_| Engine::new(&config(calls, ceiling, false)))
        .map_err(|cause| error(format!("{cause:#}")))
}

fn config(calls: u32, ceiling: &Limits, pagemap_scan: bool) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    // Every call that holds a permit of the semaphore finds its slot: the pool itself never refuses one.
    pool.total_component_instances(calls)
        .total_stacks(calls)
        .total_core_instances(calls.saturating_mul(INSTANCES_PER_CALL))
        .max_core_instances_per_component(INSTANCES_PER_CALL)
        .total_memories(calls.saturating_mul(MEMORIES_PER_CALL))
        .max_memories_per_component(MEMORIES_PER_CALL)
        .max_memories_per_module(MEMORIES_PER_CALL)
        .total_tables(calls.saturating_mul(TABLES_PER_CALL))
        .max_tables_per_component(TABLES_PER_CALL)
        .max_tables_per_module(TABLES_PER_CALL)
        .table_elements(TABLE_ELEMENTS)
        .max_core_instance_size(INSTANCE_METADATA_BYTES)
        .max_component_instance_size(INSTANCE_METADATA_BYTES);
    // The hard bound of each memory; the limit of a single call is below it. 4 GiB is all of a 32-bit memory.
    pool.max_memory_size(usize::try_from(ceiling.memory_bytes.min(4 << 30)).unwrap_or(usize::MAX));
    // Pages of a finished call stay mapped and are overwritten: giving them back to the kernel and faulting
    // them in again is the largest part of the cost (18 of 30 µs). The price is memory after a burst, 67 KiB
    // for a slot that was used once.
    pool.pagemap_scan(if pagemap_scan { Enabled::Yes } else { Enabled::No })
        .linear_memory_keep_resident(if pagemap_scan { 1 << 20 } else { 256 << 10 })
        .table_keep_resident(64 << 10);
    // A slot remembers the component that it ran last. With as many warm slots as there are slots, a call of
    // one of 200 connectors in turn costs 21 to 24 µs instead of 38 to 47.
    pool.max_unused_warm_slots(calls.saturating_mul(MEMORIES_PER_CALL));
    // Batching gained nothing beside the settings above, and would delay the release of memory.
    pool.decommit_batch_size(1);

    let mut config = Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    // The initial image of a memory is mapped and copied on write, not copied at each call.
    config.memory_init_cow(true);
    // Only asynchronous WIT functions need it, and none is in our world (3 µs).
    config.concurrency_support(false);
    // Guest code looks at the clock at loops and calls: the way to yield and to stop (3.7 µs on JSON work;
    // counting instructions instead would cost another 4.2 µs).
    config.epoch_interruption(true);
    // The growth of a shared memory is not shown to the limiter, so there are none. This is the default;
    // it is written down because the memory limit depends on it.
    config.shared_memory(false);
    // Debug information comes from the guest and could cost whatever it likes to read. By default wasmtime reads it
    // where an environment variable says so.
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    // Enough to see past a recursion's last turns to where it began.
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(64));
    config
}

/// The clock of an engine: a thread that counts epochs while calls run.
///
/// It lives as long as this value and sleeps without waking up when nothing runs.
pub(crate) struct Clock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    running: AtomicUsize,
    stop: AtomicBool,
}

impl Clock {
    /// Starts the clock of `engine`.
    pub(crate) fn start(engine: &Engine) -> Result<Self, RuntimeError> {
        let shared = Arc::new(Shared { running: AtomicUsize::new(0), stop: AtomicBool::new(false) });
        let thread = thread::Builder::new()
            .name("keyward-epoch".to_owned())
            .spawn({
                let (engine, shared) = (engine.clone(), shared.clone());
                move || tick(&engine, &shared)
            })
            .map_err(|cause| RuntimeError::Engine {
                message: format!("the clock's thread does not start: {cause}"),
                hint: None,
            })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Keeps the clock going until the returned value is dropped.
    pub(crate) fn hold(&self) -> Ticking<'_> {
        if self.shared.running.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(thread) = &self.thread
        {
            // A thread that is about to park finds this token and does not.
            thread.thread().unpark();
        }
        Ticking(&self.shared)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // Waits for one tick at most. A panic in that thread has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// A call is running; see [`Clock::hold`].
pub(crate) struct Ticking<'a>(&'a Shared);

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

fn tick(engine: &Engine, shared: &Shared) {
    let mut idle = 0;
    while !shared.stop.load(Ordering::Acquire) {
        if shared.running.load(Ordering::Acquire) > 0 {
            idle = 0;
        } else {
            idle += 1;
            if idle > IDLE_TICKS {
                thread::park();
                idle = 0;
            }
        }
        thread::sleep(TICK);
        engine.increment_epoch();
    }
}
