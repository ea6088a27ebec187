//! What one evaluation may use, and how it is stopped.
//!
//! jaq has no step limit and no deadline. It does call back into types of ours at every step: it asks
//! for its table of terms before it runs any of them, and it clones, builds and compares values. Each
//! of these calls [`tick`], and a tick that finds a bound passed unwinds the evaluation with a payload
//! that [`Meter::run`] catches. So the thread truly stops, and is free for the next evaluation.
//!
//! Four bounds hold, each because the others do not imply it:
//! - time, for loops;
//! - bytes of all values ever made, for memory;
//! - values alive at once outside of arrays and objects, because jaq keeps paths in a linked list that
//!   is dropped recursively;
//! - the thread's stack, for recursion: without it a flow could end the process.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// The stack of a thread on which flows are checked and expressions evaluated.
const STACK_BYTES: usize = 64 << 20;
/// How much of it jaq may use. The rest is for what does not tick: dropping nested values and iterators,
/// which needs less stack than it took to build them.
const STACK_FOR_EVALUATION: usize = 16 << 20;
/// What is assumed of a thread that was not made by [`on_large_stack`] or [`large_stack`].
const STACK_ELSEWHERE: usize = 256 << 10;

/// Why an evaluation was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It took too long.
    Time,
    /// Its values took too many bytes.
    Memory,
    /// It recursed too deep, or made a value that is nested too deep.
    Depth,
}

/// How long an evaluation may take on the clock on the wall.
pub(crate) const MAX_WALL_TIME: Duration = Duration::from_secs(60);

/// The bounds of one evaluation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    /// How long its thread may compute.
    pub(crate) time: Duration,
    /// How long it may take on the clock on the wall.
    pub(crate) wall_time: Duration,
    /// How many bytes all values that it makes may have together.
    pub(crate) bytes: u64,
    /// The time that `now` gives, seconds since 1970.
    pub(crate) now: f64,
}

/// How many bytes of stack there must be for each value that is alive outside of arrays and objects:
/// dropping a list of them takes less than three times as much, see [`STACK_FOR_EVALUATION`].
const STACK_PER_VALUE: usize = 160;

struct Gauge {
    active: Cell<bool>,
    /// In the time that this thread has computed.
    deadline: Cell<Duration>,
    wall_deadline: Cell<Option<Instant>>,
    ticks: Cell<u32>,
    bytes: Cell<u64>,
    alive: Cell<i64>,
    stack_floor: Cell<usize>,
    stack_bytes: Cell<usize>,
    now: Cell<f64>,
}

thread_local! {
    static GAUGE: Gauge = const {
        Gauge {
            active: Cell::new(false),
            deadline: Cell::new(Duration::ZERO),
            wall_deadline: Cell::new(None),
            ticks: Cell::new(0),
            bytes: Cell::new(0),
            alive: Cell::new(0),
            stack_floor: Cell::new(0),
            stack_bytes: Cell::new(STACK_ELSEWHERE),
            now: Cell::new(0.0),
        }
    };
}

impl Meter {
    /// Runs `work` within these bounds.
    ///
    /// `Err` says which bound it passed, or that jaq panicked.
    pub(crate) fn run<T>(self, work: impl FnOnce() -> T) -> Result<T, Option<Stop>> {
        GAUGE.with(|gauge| {
            gauge.deadline.set(computed() + self.time);
            gauge.wall_deadline.set(Some(Instant::now() + self.wall_time));
            gauge.ticks.set(0);
            gauge.bytes.set(self.bytes);
            gauge.alive.set(0);
            gauge.now.set(self.now);
            gauge.stack_floor.set(stack_pointer().saturating_sub(gauge.stack_bytes.get()));
            gauge.active.set(true);
            // Nothing of what `work` owned is looked at after it unwound.
            let result = catch_unwind(AssertUnwindSafe(work));
            gauge.active.set(false);
            result.map_err(|payload: Box<dyn Any + Send>| payload.downcast_ref::<Stop>().copied())
        })
    }
}

/// How long this thread has had a processor.
pub(crate) fn computed() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Where the stack is now: the address of a local variable.
#[inline(never)]
fn stack_pointer() -> usize {
    let here = 0_u8;
    std::hint::black_box(&raw const here).addr()
}

fn stop(why: Stop) {
    // A second unwinding while values are dropped by the first would end the process.
    if !std::thread::panicking() {
        resume_unwind(Box::new(why));
    }
}

/// One step of work.
pub(crate) fn tick() {
    GAUGE.with(|gauge| {
        if !gauge.active.get() {
            return;
        }
        let ticks = gauge.ticks.get().wrapping_add(1);
        gauge.ticks.set(ticks);
        if stack_pointer() < gauge.stack_floor.get() {
            stop(Stop::Depth);
        }
        // Reading the clock costs more than a step, so it is read now and then.
        if ticks.is_multiple_of(256) {
            gauge.check_time();
        }
    });
}

/// A step of work that may have taken long.
pub(crate) fn check_time() {
    GAUGE.with(|gauge| {
        if gauge.active.get() {
            gauge.check_time();
        }
    });
}

impl Gauge {
    fn check_time(&self) {
        if computed() > self.deadline.get()
            || self.wall_deadline.get().is_some_and(|deadline| Instant::now() > deadline)
        {
            stop(Stop::Time);
        }
    }
}

/// Takes `count` bytes from what the values may have; called before they are made.
pub(crate) fn charge(count: usize) {
    GAUGE.with(|gauge| {
        if !gauge.active.get() {
            return;
        }
        match gauge.bytes.get().checked_sub(count as u64) {
            Some(left) => gauge.bytes.set(left),
            None => stop(Stop::Memory),
        }
    });
}

/// A value is nested too deep.
pub(crate) fn too_deep() {
    stop(Stop::Depth);
}

/// A value begins to live.
pub(crate) fn born() {
    GAUGE.with(|gauge| {
        let alive = gauge.alive.get() + 1;
        gauge.alive.set(alive);
        if gauge.active.get() && alive > (gauge.stack_bytes.get() / STACK_PER_VALUE) as i64 {
            stop(Stop::Memory);
        }
    });
}

/// A value ends.
pub(crate) fn died() {
    GAUGE.with(|gauge| gauge.alive.set(gauge.alive.get() - 1));
}

/// The time that `now` gives.
pub(crate) fn now() -> f64 {
    GAUGE.with(|gauge| gauge.now.get())
}

/// Makes a thread whose stack is large enough for what flows may nest.
pub(crate) fn large_stack() -> std::thread::Builder {
    std::thread::Builder::new().stack_size(STACK_BYTES)
}

/// Says that this thread was made by [`large_stack`].
pub(crate) fn stack_is_large() {
    GAUGE.with(|gauge| gauge.stack_bytes.set(STACK_FOR_EVALUATION));
}

/// Runs `work` on a thread of its own with a large stack and waits for it; at once where this one has one.
///
/// `Err` where the system has no thread left. A panic of `work` goes on in the caller.
pub(crate) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    if GAUGE.with(|gauge| gauge.stack_bytes.get() == STACK_FOR_EVALUATION) {
        return Ok(work());
    }
    std::thread::scope(|scope| {
        let thread = large_stack().spawn_scoped(scope, || {
            stack_is_large();
            work()
        })?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}
