//! What one call may use of memory and processor time, and the words for what it broke.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use wasmtime::ResourceLimiter;

use crate::engine::{INSTANCES_PER_CALL, MEMORIES_PER_CALL, TABLES_PER_CALL};

/// A limit of the sandbox that a guest broke.
///
/// The limiter and the clock, among others, return it as an error, because a plain refusal looks like any panic of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Breach {
    /// It asked for more memory.
    #[error("the guest asked for {asked} bytes of memory, the limit is {limit}")]
    Memory {
        /// All its memories together, bytes.
        asked: u64,
        /// Bytes.
        limit: u64,
    },
    /// It computed for too long.
    #[error("the guest used more than {limit_ms} ms of processor time")]
    Cpu {
        /// Milliseconds.
        limit_ms: u64,
    },
    /// It held on to too much in the host.
    #[error("the guest holds more than {limit} {what} at once")]
    Held {
        /// How many.
        limit: usize,
        /// What they are.
        what: &'static str,
    },
}

/// What to raise where `limit` was reached: the operator's where it is the `ceiling`, else the action's own.
pub(crate) fn raise(name: &str, limit: u64, ceiling: u64) -> String {
    if limit >= ceiling {
        format!("raise `[limits] {name}` in config.toml")
    } else {
        format!("raise `limits.{name}` of the action in connector.toml")
    }
}

/// Counts the memory of one call.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    limit: u64,
    used: u64,
}

impl MemoryLimiter {
    /// A limiter of `limit` bytes, all memories together.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: 0 }
    }

    /// The memory that the call had at most, bytes. Memories never shrink, so it is what it has.
    pub(crate) fn peak(&self) -> u64 {
        self.used
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let asked = self.used.saturating_add(desired.saturating_sub(current) as u64);
        if asked > self.limit {
            return Err(Breach::Memory { asked, limit: self.limit }.into());
        }
        // Growth beyond the module's own maximum fails, so it must not be counted.
        let grows = maximum.is_none_or(|maximum| desired <= maximum);
        if grows {
            self.used = asked;
        }
        Ok(grows)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // The pool's bound is the limit: it is the same for all calls and small beside their memory.
        Ok(maximum.is_none_or(|maximum| desired <= maximum))
    }

    fn instances(&self) -> usize {
        INSTANCES_PER_CALL as usize
    }

    fn tables(&self) -> usize {
        TABLES_PER_CALL as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_PER_CALL as usize
    }
}

/// Measures the time that a call spends in guest code.
///
/// The time within `poll` of the guest's future counts ([`CpuMeter::charge`]), without that of the host's own
/// futures that the guest waits for ([`CpuMeter::pause`]). Time in which the guest's task is not polled is
/// time of others and does not count. It is wall-clock time of those stretches: reading a thread's processor
/// time is a system call, and too dear for every poll.
#[derive(Debug)]
pub(crate) struct CpuMeter {
    start: Instant,
    /// Nanoseconds of the finished stretches.
    used: AtomicU64,
    /// When the present stretch began, nanoseconds from `start`; [`PAUSED`] outside of one.
    // One task at a time touches these, and the executor orders its polls, so nothing stronger than
    // `Relaxed` is needed.
    since: AtomicU64,
}

const PAUSED: u64 = u64::MAX;

impl CpuMeter {
    /// A meter that stands at zero.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), used: AtomicU64::new(0), since: AtomicU64::new(PAUSED) }
    }

    /// When the call began.
    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// The time so far.
    pub(crate) fn used(&self) -> Duration {
        let since = self.since.load(Ordering::Relaxed);
        let present = if since == PAUSED { 0 } else { self.now().saturating_sub(since) };
        Duration::from_nanos(self.used.load(Ordering::Relaxed).saturating_add(present))
    }

    /// `future` on the guest's account.
    pub(crate) async fn charge<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.resume();
            let poll = future.as_mut().poll(cx);
            self.suspend();
            poll
        })
        .await
    }

    /// `future` on the host's account, within one that [`CpuMeter::charge`] polls.
    pub(crate) async fn pause<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.suspend();
            let poll = future.as_mut().poll(cx);
            self.resume();
            poll
        })
        .await
    }

    fn resume(&self) {
        self.since.store(self.now(), Ordering::Relaxed);
    }

    fn suspend(&self) {
        let since = self.since.swap(PAUSED, Ordering::Relaxed);
        if since != PAUSED {
            self.used.fetch_add(self.now().saturating_sub(since), Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(PAUSED - 1)
    }
}
