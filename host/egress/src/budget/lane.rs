//! One budget: what may be under way, how often, how much in an hour, and until when a server wants silence.
//!
//! Who waits takes its turn itself, when it is polled, under the lock that guards the count. So a waiter that is dropped
//! at any moment holds nothing that could be lost: it leaves the line, and the next one is told. Turns are given back
//! when they are dropped.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use keyward_model::Rate;
use tokio::time::{Instant, sleep_until};

use super::{
    Budget,
    line::{Caller, Line, Waiter},
};

/// The first silence after an answer 429 that does not say how long; it doubles with each that follows.
const FIRST_SILENCE: Duration = Duration::from_secs(1);
/// The longest of those.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);
/// In which the bytes are counted.
const WINDOW: Duration = Duration::from_secs(3_600);

/// A budget and those who wait for it.
#[derive(Debug)]
pub(crate) struct Lane {
    in_flight: u32,
    waiting: usize,
    /// The most bytes in [`WINDOW`], sent and received.
    bytes: [Option<u64>; 2],
    /// A std mutex, because it is held for some instructions and never over an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    in_flight: u32,
    bucket: Option<Bucket>,
    silent_until: Option<Instant>,
    /// After a refusal one request at a time goes out, until the server answers one.
    is_probing: bool,
    probe_is_out: bool,
    /// Refusals one after another that did not say how long.
    refusals: u32,
    windows: [Option<Window>; 2],
    line: Line,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Out = 0,
    In = 1,
}

/// Bytes since a moment.
#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    used: u64,
}

/// A token bucket, kept as the moment at which it would be full again (the generic cell rate algorithm of ITU-T I.371).
#[derive(Debug)]
struct Bucket {
    step: Duration,
    /// What all tokens but one take to come back.
    tolerance: Duration,
    full_at: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        let step = rate.step();
        Self { step, tolerance: step.saturating_mul(rate.count() - 1), full_at: now }
    }

    /// How long until there is a token after `ahead` others were taken.
    fn wait(&self, now: Instant, ahead: u32) -> Duration {
        let full_in = self.full_at.saturating_duration_since(now);
        full_in.saturating_add(self.step.saturating_mul(ahead)).saturating_sub(self.tolerance)
    }

    fn take(&mut self, now: Instant) {
        self.full_at = later(self.full_at.max(now), self.step);
    }
}

/// `at` and `by` more; a moment that no clock can tell is `at`.
fn later(at: Instant, by: Duration) -> Instant {
    at.checked_add(by).unwrap_or(at)
}

/// Why there is no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There will be none before this has passed, and the caller has not so much time. `true` where the server asked
    /// for it.
    Later(Duration, bool),
    /// None became free in time.
    Busy,
    /// So many wait that no more may.
    Crowded,
}

enum Admission {
    Now { is_probe: bool },
    At(Instant),
    Full,
}

impl State {
    /// Takes a turn where there is one.
    fn admit(&mut self, most: u32, now: Instant) -> Admission {
        if let Some(until) = self.silent_until.filter(|until| now < *until) {
            return Admission::At(until);
        }
        if self.in_flight >= most || (self.is_probing && self.probe_is_out) {
            return Admission::Full;
        }
        if let Some(bucket) = &mut self.bucket {
            let wait = bucket.wait(now, 0);
            if !wait.is_zero() {
                return Admission::At(later(now, wait));
            }
            bucket.take(now);
        }
        self.in_flight += 1;
        self.probe_is_out |= self.is_probing;
        Admission::Now { is_probe: self.is_probing }
    }

    /// The earliest moment at which one with so many ahead can have its turn, as far as that is known.
    fn earliest(&self, now: Instant, ahead: u32) -> (Duration, bool) {
        let silent = self.silent_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let wait = self.bucket.as_ref().map_or(Duration::ZERO, |bucket| bucket.wait(now, ahead));
        (silent.max(wait), silent >= wait)
    }
}

impl Lane {
    /// A lane with the operator's budget.
    pub(super) fn new(budget: &Budget) -> Self {
        Self {
            in_flight: budget.in_flight.get(),
            waiting: budget.waiting as usize,
            bytes: [budget.request_bytes_per_hour, budget.response_bytes_per_hour],
            state: Mutex::new(State {
                in_flight: 0,
                bucket: budget.rate.map(|rate| Bucket::new(rate, Instant::now())),
                silent_until: None,
                is_probing: false,
                probe_is_out: false,
                refusals: 0,
                windows: [None; 2],
                line: Line::default(),
            }),
        }
    }

    /// No step under it can leave it half changed, so poison does not matter.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn, until `until` at the latest. Who would surely wait longer is told at once.
    pub(super) async fn turn(self: &Arc<Self>, caller: Caller, until: Instant) -> Result<Turn, Refusal> {
        let mut place = {
            let now = Instant::now();
            let mut state = self.lock();
            if state.line.is_empty()
                && let Admission::Now { is_probe } = state.admit(self.in_flight, now)
            {
                return Ok(Turn { lane: Arc::clone(self), is_probe, waited: false });
            }
            let waiter = state.line.join(caller, self.waiting).ok_or(Refusal::Crowded)?;
            Place { lane: self, caller, waiter, is_taken: false }
        };
        let ahead = self.lock().line.ahead_of_last(caller);
        place.bearable(ahead, until)?;
        loop {
            let wake_at = match place.try_take(until)? {
                Step::Turn(turn) => return Ok(turn),
                Step::Wait(at) => at,
            };
            tokio::select! {
                biased;
                () = place.waiter.woken.notified() => {}
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Whether who holds `turn` may still send: no silence has begun since.
    pub(super) fn is_open(&self, turn: &Turn) -> bool {
        let state = self.lock();
        state.silent_until.is_none_or(|until| Instant::now() >= until) && (!state.is_probing || turn.is_probe)
    }

    /// The server wants no requests for so long, at most `longest`; without a time, as long as the host thinks right.
    pub(super) fn refused(&self, wait: Option<Duration>, longest: Duration) {
        let now = Instant::now();
        let mut state = self.lock();
        // The answers to what was under way together are one refusal.
        if state.silent_until.is_none_or(|until| now >= until) {
            state.refusals = state.refusals.saturating_add(1);
        }
        let own = FIRST_SILENCE.saturating_mul(1 << (state.refusals.saturating_sub(1)).min(16)).min(LONGEST_SILENCE);
        state.is_probing = true;
        state.silence(later(now, wait.unwrap_or(own).min(longest)));
    }

    /// The server has answered, and wants no more requests for `wait`.
    pub(super) fn answered(&self, wait: Duration, longest: Duration) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.silent_until.is_none_or(|until| now >= until) {
            state.silent_until = None;
            state.refusals = 0;
            if state.is_probing {
                state.is_probing = false;
                state.line.wake_head();
            }
        }
        if !wait.is_zero() {
            state.silence(later(now, wait.min(longest)));
        }
    }

    /// Counts bytes; where they are too many, how long until there is room again, and the limit.
    pub(super) fn count(&self, way: Way, bytes: u64) -> Result<(), (Duration, u64)> {
        let Some(limit) = self.bytes[way as usize] else { return Ok(()) };
        let now = Instant::now();
        let mut state = self.lock();
        let window = state.windows[way as usize].get_or_insert(Window { since: now, used: 0 });
        if now >= later(window.since, WINDOW) {
            *window = Window { since: now, used: 0 };
        }
        match window.used.checked_add(bytes).filter(|used| *used <= limit) {
            Some(used) => {
                window.used = used;
                Ok(())
            }
            None => Err((later(window.since, WINDOW).saturating_duration_since(now), limit)),
        }
    }

    /// Whether bytes that go this way are counted.
    pub(super) fn counts(&self, way: Way) -> bool {
        self.bytes[way as usize].is_some()
    }

    /// Whether it can be forgotten: a new one would be the same.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let state = self.lock();
        state.in_flight == 0
            && state.line.is_empty()
            && state.silent_until.is_none_or(|until| now >= until)
            && state.bucket.as_ref().is_none_or(|bucket| bucket.full_at <= now)
            && state.windows.iter().flatten().all(|window| now >= later(window.since, WINDOW))
    }
}

impl State {
    fn silence(&mut self, until: Instant) {
        self.silent_until = Some(self.silent_until.map_or(until, |before| before.max(until)));
        // Some of those who wait have not so much time.
        self.line.wake_all();
    }
}

/// A place in the line, given up when it is dropped.
struct Place<'a> {
    lane: &'a Arc<Lane>,
    caller: Caller,
    waiter: Arc<Waiter>,
    is_taken: bool,
}

enum Step {
    Turn(Turn),
    Wait(Instant),
}

impl Place<'_> {
    fn bearable(&self, ahead: u32, until: Instant) -> Result<(), Refusal> {
        let now = Instant::now();
        let (wait, is_servers) = self.lane.lock().earliest(now, ahead);
        if later(now, wait) > until { Err(Refusal::Later(wait, is_servers)) } else { Ok(()) }
    }

    /// Takes the turn where it is next and there is one.
    fn try_take(&mut self, until: Instant) -> Result<Step, Refusal> {
        if self.waiter.is_out() {
            return Err(Refusal::Crowded);
        }
        self.bearable(0, until)?;
        let now = Instant::now();
        let mut state = self.lane.lock();
        let is_next = state.line.head().is_some_and(|head| Arc::ptr_eq(head, &self.waiter));
        if is_next {
            match state.admit(self.lane.in_flight, now) {
                Admission::Now { is_probe } => {
                    self.is_taken = true;
                    state.line.advance();
                    state.line.wake_head();
                    return Ok(Step::Turn(Turn { lane: Arc::clone(self.lane), is_probe, waited: true }));
                }
                Admission::At(at) => return Ok(Step::Wait(at.min(until))),
                Admission::Full => {}
            }
        }
        if now >= until { Err(Refusal::Busy) } else { Ok(Step::Wait(until)) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_taken {
            let mut state = self.lane.lock();
            state.line.leave(self.caller, &self.waiter);
            // It may have been told that it is next.
            state.line.wake_head();
        }
    }
}

/// The right to have one request under way, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    lane: Arc<Lane>,
    is_probe: bool,
    /// Whether it was not to be had at once.
    pub(super) waited: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.lane.lock();
        state.in_flight -= 1;
        if self.is_probe {
            state.probe_is_out = false;
        }
        state.line.wake_head();
    }
}

#[cfg(test)]
pub(crate) mod tests;
