//! Who waits, and who is next: one after another from each caller in turn.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use keyward_model::{CallContext, CallId, RunId};
use tokio::sync::Notify;

/// Whose requests stand in one queue: those of a run together, of a call by itself where it belongs to none. A run has
/// one principal, so two principals never share a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    Run(RunId),
    Call(CallId),
}

impl Caller {
    pub(crate) fn of(ctx: &CallContext) -> Self {
        ctx.run.map_or(Self::Call(ctx.call), Self::Run)
    }
}

/// One who waits.
#[derive(Debug, Default)]
pub(super) struct Waiter {
    /// Told when there is something new: it is next, its wait has changed, or it was put out.
    pub(super) woken: Notify,
    /// Whether it was put out of a full line.
    is_out: AtomicBool,
}

impl Waiter {
    pub(super) fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Acquire)
    }
}

/// A line of bounded length.
///
/// A caller that comes to a full line takes the last place of the caller who has most places, where that one has at
/// least two more: so one with a thousand requests cannot keep another one from waiting either.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Callers with a queue, the next one in front.
    turns: VecDeque<Caller>,
    /// Their queues; none is empty.
    queues: HashMap<Caller, VecDeque<Arc<Waiter>>>,
    length: usize,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn head(&self) -> Option<&Arc<Waiter>> {
        self.queues.get(self.turns.front()?)?.front()
    }

    /// Takes a place at the end of the caller's queue; `None` where all of `most` are taken.
    pub(super) fn join(&mut self, caller: Caller, most: usize) -> Option<Arc<Waiter>> {
        if self.length >= most && !self.put_out_for(caller) {
            return None;
        }
        let waiter = Arc::new(Waiter::default());
        let turns = &mut self.turns;
        let queue = self.queues.entry(caller).or_insert_with(|| {
            turns.push_back(caller);
            VecDeque::new()
        });
        queue.push_back(Arc::clone(&waiter));
        self.length += 1;
        Some(waiter)
    }

    /// Gives up the last place of the caller with most places.
    fn put_out_for(&mut self, caller: Caller) -> bool {
        let own = self.queues.get(&caller).map_or(0, VecDeque::len);
        let Some(queue) = self.queues.values_mut().max_by_key(|queue| queue.len()) else { return false };
        if queue.len() < own + 2 {
            return false;
        }
        // It has at least two, so its queue does not become empty.
        let Some(out) = queue.pop_back() else { return false };
        self.length -= 1;
        out.is_out.store(true, Ordering::Release);
        out.woken.notify_one();
        true
    }

    /// The head leaves, and its caller goes to the end.
    pub(super) fn advance(&mut self) {
        let Some(caller) = self.turns.pop_front() else { return };
        let Some(queue) = self.queues.get_mut(&caller) else { return };
        if queue.pop_front().is_some() {
            self.length -= 1;
        }
        if queue.is_empty() {
            self.queues.remove(&caller);
        } else {
            self.turns.push_back(caller);
        }
    }

    /// One leaves from anywhere; nothing happens where it is gone already.
    pub(super) fn leave(&mut self, caller: Caller, waiter: &Arc<Waiter>) {
        let Some(queue) = self.queues.get_mut(&caller) else { return };
        let Some(at) = queue.iter().position(|other| Arc::ptr_eq(other, waiter)) else { return };
        queue.remove(at);
        self.length -= 1;
        if queue.is_empty() {
            self.queues.remove(&caller);
            self.turns.retain(|other| *other != caller);
        }
    }

    /// How many have their turn before the last one of this caller, as the line is now.
    pub(super) fn ahead_of_last(&self, caller: Caller) -> u32 {
        let own = self.queues.get(&caller).map_or(0, VecDeque::len);
        // Each caller in front of it is asked as often as it is itself, the others once less.
        let mut is_before = true;
        let mut ahead = 0;
        for other in &self.turns {
            let most = if *other == caller {
                is_before = false;
                own.saturating_sub(1)
            } else if is_before {
                own
            } else {
                own.saturating_sub(1)
            };
            ahead += self.queues.get(other).map_or(0, VecDeque::len).min(most);
        }
        u32::try_from(ahead).unwrap_or(u32::MAX)
    }

    /// Tells everybody.
    pub(super) fn wake_all(&self) {
        for waiter in self.queues.values().flatten() {
            waiter.woken.notify_one();
        }
    }

    pub(super) fn wake_head(&self) {
        if let Some(head) = self.head() {
            head.woken.notify_one();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn callers<const N: usize>() -> [Caller; N] {
        std::array::from_fn(|_| Caller::Call(CallId::new()))
    }

    /// Whose turn it is, one after another, until the line is empty.
    fn order(line: &mut Line) -> Vec<Caller> {
        std::iter::from_fn(|| {
            let next = *line.turns.front()?;
            line.advance();
            Some(next)
        })
        .collect()
    }

    #[test]
    fn callers_have_their_turn_one_after_another_however_many_requests_one_has() {
        let [a, b, c] = callers();
        let mut line = Line::default();
        for caller in [a, a, a, a, b, b, c] {
            line.join(caller, 10).unwrap();
        }
        assert_eq!(line.ahead_of_last(c), 2);
        assert_eq!(line.ahead_of_last(b), 4);
        assert_eq!(line.ahead_of_last(a), 6);
        assert_eq!(order(&mut line), [a, b, c, a, b, a, a]);
        assert!(line.is_empty() && line.queues.is_empty());
    }

    #[test]
    fn full_line_takes_a_place_from_the_caller_who_has_most() {
        let [a, b] = callers();
        let mut line = Line::default();
        let of_a: Vec<_> = (0..4).map(|_| line.join(a, 4).unwrap()).collect();
        assert!(line.join(a, 4).is_none(), "its own places are not taken from it");
        assert!(line.join(b, 4).is_some() && line.join(b, 4).is_some());
        assert!(line.join(b, 4).is_none(), "both have two");
        assert_eq!(of_a.iter().map(|waiter| waiter.is_out()).collect::<Vec<_>>(), [false, false, true, true]);
        assert_eq!(line.length, 4);
        assert_eq!(order(&mut line), [a, b, a, b]);
    }

    #[test]
    fn who_leaves_is_gone_and_may_leave_twice() {
        let [a, b] = callers();
        let mut line = Line::default();
        let first = line.join(a, 4).unwrap();
        let second = line.join(b, 4).unwrap();
        line.leave(a, &first);
        line.leave(a, &first);
        assert!(Arc::ptr_eq(line.head().unwrap(), &second));
        assert_eq!(order(&mut line), [b]);
        assert_eq!(line.length, 0);
    }
}
