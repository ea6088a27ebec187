//! Errors go up to the `try` that catches them, which tries again, handles them, or lets them pass.

use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use super::{Ended, Fault, Machine, Next, Reach, Turn, evaluate::Scene, state::*};
use crate::{
    dsl::{
        model::Backoff,
        program::{Filter, Kind, Retry, TaskNode, TryBlock},
    },
    event::Event,
    problem::{retry_after, same_type},
};

/// The longest delay before a retry; what grows twofold each time has to end somewhere.
const MAX_DELAY: Duration = Duration::from_secs(30 * 86_400);

/// The longest delay that no policy asks for.
const MAX_UNASKED_DELAY: Duration = Duration::from_secs(60);

/// What a `try` does with an error.
enum Verdict {
    Pass,
    Handle,
    Retry(OffsetDateTime),
}

impl<'r> Machine<'r> {
    /// Takes frames off until one catches the error; the run faults where none does.
    pub(super) fn raise(&mut self, mut fault: Fault) -> Turn {
        loop {
            if let Some(place) = fault.place.take() {
                self.record(Event::TaskFaulted { place, error: fault.error.clone() });
            }
            let Some(frame) = self.state.frames.pop() else {
                self.record(Event::RunFaulted { error: fault.error.clone() });
                return Ok(Some(Next::Faulted(fault.error)));
            };
            let reached = match fault.reach {
                Reach::Any => true,
                Reach::From(number) => self.state.frames.len() <= number,
                Reach::Nobody => false,
            };
            let (Some(id), true, Body::Attempt(_)) = (frame.task, reached, &frame.body) else { continue };
            let task = self.program.task(id);
            let Kind::Try(block) = &task.kind else { continue };
            match self.judge(task, block, &frame, &fault.error) {
                // The condition itself failed: its error goes on in place of the first.
                Err(other) => fault = *other,
                Ok(Verdict::Pass) => {}
                Ok(Verdict::Retry(until)) => return Ok(Some(self.schedule(task, frame, fault, until))),
                Ok(Verdict::Handle) => match self.handle(task, block, frame, fault.error) {
                    Err(other) => fault = *other,
                    turn => return turn,
                },
            }
        }
    }

    fn judge(&self, task: &TaskNode, block: &TryBlock, frame: &Frame, error: &Value) -> Result<Verdict, Box<Fault>> {
        let scene = Scene { local: Some((&block.variable, error)), ..Scene::of_frame(task, frame) };
        let input = &frame.input.value;
        let caught = block.filter.matches(error)
            && self.holds(block.when.as_ref(), input, &scene)?
            && !(block.except_when.is_some() && self.holds(block.except_when.as_ref(), input, &scene)?);
        if !caught {
            return Ok(Verdict::Pass);
        }
        let Some(retry) = &block.retry else { return Ok(Verdict::Handle) };
        if let Some(until) = self.next_try(task, retry, frame, error, &scene)? {
            return Ok(Verdict::Retry(until));
        }
        // Who asks for retries and nothing else does not want the error to vanish after the last one.
        Ok(if block.handler.is_some() || block.then.is_some() { Verdict::Handle } else { Verdict::Pass })
    }

    /// When it is tried again, if it is.
    fn next_try(
        &self,
        task: &TaskNode,
        retry: &Retry,
        frame: &Frame,
        error: &Value,
        scene: &Scene<'_>,
    ) -> Result<Option<OffsetDateTime>, Box<Fault>> {
        let Body::Attempt(attempt) = &frame.body else { return Ok(None) };
        let input = &frame.input.value;
        let wanted = self.holds(retry.when.as_ref(), input, scene)?
            && !(retry.except_when.is_some() && self.holds(retry.except_when.as_ref(), input, scene)?);
        if !wanted || retry.count.is_some_and(|count| attempt.retries >= count) {
            return Ok(None);
        }
        let number = attempt.retries + 1;
        let (delay, backoff) = match self.delay(retry.delay.as_ref(), input, scene)? {
            Some(delay) => (delay, retry.backoff),
            None => (Duration::ZERO, Backoff::Constant),
        };
        let factor = match backoff {
            Backoff::Constant => 1,
            Backoff::Linear => number,
            Backoff::Exponential => 1_u32.checked_shl(number - 1).unwrap_or(u32::MAX),
        };
        let mut delay = delay.saturating_mul(factor).min(MAX_DELAY);
        if let Some((from, to)) = &retry.jitter {
            let from = self.delay(Some(from), input, scene)?.unwrap_or_default();
            let to = self.delay(Some(to), input, scene)?.unwrap_or_default();
            delay += from + to.saturating_sub(from).mul_f64(self.chance(&task.pointer, number));
        }
        if retry.delay.is_none() {
            delay = delay.max(unasked_delay(number));
        }
        // The provider knows best when it will answer again.
        let delay = delay.max(retry_after(error)).min(MAX_DELAY);
        let until = self.at + delay;
        let total = self.delay(retry.total_time.as_ref(), input, scene)?;
        Ok(total.is_none_or(|total| until <= frame.started_at + total).then_some(until))
    }

    /// A number from 0 to 1 that is the same for the same retry of the same run.
    fn chance(&self, pointer: &str, number: u32) -> f64 {
        let mut hash = Sha256::new();
        hash.update(self.run.id.as_uuid().as_bytes());
        hash.update(pointer.as_bytes());
        hash.update(number.to_be_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&digest[..4]);
        f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
    }

    fn schedule(&mut self, task: &TaskNode, mut frame: Frame, fault: Fault, until: OffsetDateTime) -> Next {
        let place = self.place(&task.pointer);
        if let Body::Attempt(attempt) = &mut frame.body {
            attempt.retries += 1;
            if let Some(step) = fault.step {
                attempt.failed.retain(|other| other.visit != step.visit);
                attempt.failed.push(step);
            }
            attempt.until = Some(until);
            attempt.deadline = None;
            // What the tries before left behind is not looked at again.
            attempt.cursor = Cursor::new(attempt.cursor.list, Value::Null);
            let retry = attempt.retries;
            self.record(Event::RetryScheduled { place, retry, error: fault.error, until });
        }
        self.state.frames.push(frame);
        Next::Wait(self.no_later_than(until))
    }

    /// Goes on where the innermost `try` waits for its next try: by then, or when the time of one around it is up.
    pub(super) fn wake(&mut self) -> Turn {
        let (task, until) = match self.state.frames.last() {
            Some(Frame { task: Some(task), body: Body::Attempt(Attempt { until: Some(until), .. }), .. }) => {
                (*task, *until)
            }
            _ => return Ok(None),
        };
        self.in_time(&self.program.task(task).pointer)?;
        if until > self.at {
            return Ok(Some(Next::Wait(self.no_later_than(until))));
        }
        self.try_again()
    }

    /// The innermost `try` begins once more, with its input.
    fn try_again(&mut self) -> Turn {
        let Some(mut frame) = self.state.frames.pop() else { return self.turn() };
        let Some(task) = frame.task.map(|id| self.program.task(id)) else { return self.turn() };
        let Kind::Try(block) = &task.kind else { return self.turn() };
        // The frame is off while this is evaluated: a `try` does not catch an error of its own policy.
        let limit = self.attempt_limit(block, &frame.input.value, &Scene::of_frame(task, &frame))?;
        if let Body::Attempt(attempt) = &mut frame.body {
            attempt.until = None;
            attempt.limit = limit;
            attempt.deadline = limit.map(|limit| self.at + limit);
            attempt.cursor = Cursor::new(block.list, frame.input.value.clone());
        }
        self.state.frames.push(frame);
        Ok(None)
    }

    /// How long a try may take.
    pub(super) fn attempt_limit(
        &self,
        block: &TryBlock,
        input: &Value,
        scene: &Scene<'_>,
    ) -> Result<Option<Duration>, Box<Fault>> {
        let limit = block.retry.as_ref().and_then(|retry| retry.attempt_time.as_ref());
        self.delay(limit, input, scene)
    }

    fn handle(&mut self, task: &TaskNode, block: &TryBlock, frame: Frame, error: Value) -> Turn {
        self.record(Event::ErrorCaught { place: self.place(&task.pointer), error: error.clone() });
        let Frame { task: Some(id), raw, input, started_at, .. } = frame else { return self.turn() };
        match block.handler {
            Some(list) => {
                let body = Body::Handler { error, cursor: Cursor::new(list, input.value.clone()) };
                self.state.frames.push(Frame { task: Some(id), raw, input, started_at, body });
                Ok(None)
            }
            None => {
                let output = input.value.clone();
                let ended = Ended { task: id, raw, input: input.value, started_at, then: block.then, recorded: false };
                self.complete(ended, output)
            }
        }
    }
}

/// How long a retry waits at least whose policy has no `delay`: the first ones not, then longer and longer.
fn unasked_delay(number: u32) -> Duration {
    const AT_ONCE: u32 = 3;
    match number.checked_sub(AT_ONCE + 1) {
        None => Duration::ZERO,
        Some(step) => Duration::from_secs(1 << step.min(16)).min(MAX_UNASKED_DELAY),
    }
}

impl Filter {
    /// Whether each property that is set equals the error's.
    fn matches(&self, error: &Value) -> bool {
        let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
        let equal = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == text(name));
        self.kind.as_deref().is_none_or(|wanted| same_type(wanted, text("type")))
            && self.status.is_none_or(|wanted| error.get("status").and_then(Value::as_i64) == Some(wanted))
            && equal(&self.instance, "instance")
            && equal(&self.title, "title")
            && equal(&self.detail, "detail")
    }
}
