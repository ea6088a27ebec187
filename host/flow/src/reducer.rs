//! The rules of a run, without I/O: from a state and an input follow the next state, what happened on
//! the way, and what is to be done.
//!
//! Everything that a task computes happens here, until the run has to wait for the world: an action, a
//! delay, or the journal, after a certain number of entries or a second. Time comes in with the input, and what
//! looks like chance (jitter) follows from the run's id, so the same call gives the same result.
//!
//! Where the specification leaves it open:
//! - `$context` is the flow's transformed input until a task exports something.
//! - An expression that gives nothing gives `null`; one that gives several values fails.
//! - A task that is skipped goes on with the next one; its `then` is for when it was run.
//! - `exit` ends the list that the task stands in; in a loop, that is the turn.
//! - `end` ends the run with the task's output; the data flow of the tasks around it is left out.
//! - `when` and `exceptWhen` of `catch` and `retry` see the input of the `try`, and the error as variable.
//! - `limit.attempt.count` is how often it is tried again, `limit.attempt.duration` the time of each try
//!   (as the schema says), `limit.duration` that of all together.
//! - An error that is left after the last retry goes to `catch.do` or `catch.then`; where there is
//!   neither, it goes on. Without `retry`, an error that is caught and not handled is gone.

mod catch;
mod evaluate;
mod state;
mod tasks;
#[cfg(test)]
mod tests;

use keyward_model::{ActionOutcome, ActionRef, ConnectionName, InvokeError, RunId};
use serde_json::Value;
use time::OffsetDateTime;

pub(crate) use self::state::{FORMAT, State};
use self::{evaluate::Scene, state::*};
use crate::{
    dsl::{
        Flow,
        program::{Directive, Kind, Program, TaskId},
    },
    event::{Event, TaskPlace},
    limits::EngineLimits,
    problem::{Problem, Standard},
};

/// After how many entries the journal is written even where nothing has to be waited for.
const ENTRIES_AT_ONCE: usize = 256;
/// The same in bytes: one append is held in memory whole.
const BYTES_AT_ONCE: u64 = 4 << 20;

/// What does not change over a run.
#[derive(Debug, Clone)]
pub(crate) struct RunFacts {
    pub(crate) id: RunId,
    /// `$workflow.input`.
    pub(crate) input: Value,
    pub(crate) started_at: OffsetDateTime,
}

/// What comes in.
#[derive(Debug)]
pub(crate) enum Input {
    /// The run begins.
    Start,
    /// The journal is written; go on.
    Proceed,
    /// The run is taken up again, from its last snapshot.
    Resume,
    /// The action ended.
    Completed(Box<ActionOutcome>),
    /// The action failed.
    Failed(Box<InvokeError>),
    /// The deadline of [`Invocation`] passed.
    Expired,
    /// The time of [`Next::Wait`] has come.
    Woken,
    /// The run cannot go on, for a reason outside of the flow.
    Abort(Problem),
}

/// What is to be done, after the journal is written.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// Nothing; go on.
    Proceed,
    /// Invoke an action.
    Invoke(Box<Invocation>),
    /// Wait until then.
    Wait(OffsetDateTime),
    /// The run has completed with this output.
    Completed(Value),
    /// The run has faulted with this error.
    Faulted(Value),
}

/// An action to invoke.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Invocation {
    pub(crate) step: String,
    pub(crate) attempt: u32,
    pub(crate) action: ActionRef,
    pub(crate) connection: Option<ConnectionName>,
    pub(crate) input: Value,
    pub(crate) idempotency_key: String,
    /// When it is to be given up.
    pub(crate) deadline: Option<OffsetDateTime>,
}

/// The result of [`advance`].
#[derive(Debug)]
pub(crate) struct Advance {
    pub(crate) state: State,
    /// What happened, in order.
    pub(crate) events: Vec<Event>,
    pub(crate) next: Next,
}

/// When something happens, and whether anything is to follow from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Now.
    pub(crate) at: OffsetDateTime,
    /// Whether to stop before the next task.
    pub(crate) stopping: bool,
    /// Whether it has been computed for so long since then that the journal is to be written, and the time taken anew.
    pub(crate) is_long_ago: fn(OffsetDateTime) -> bool,
}

/// Goes from `state` with `input` as far as nothing has to be waited for.
pub(crate) fn advance(
    flow: &Flow,
    run: &RunFacts,
    limits: &EngineLimits,
    state: State,
    input: Input,
    moment: Moment,
) -> Advance {
    let Moment { at, stopping, is_long_ago } = moment;
    Machine { program: flow.program(), run, limits, at, stopping, is_long_ago, state, events: Vec::new(), bytes: 0 }
        .go(input)
}

/// An error on its way to whoever catches it.
struct Fault {
    error: Value,
    /// Where it was raised, as long as that is not recorded.
    place: Option<TaskPlace>,
    reach: Reach,
    /// The step that failed, where it is one that a `try` may come to again.
    step: Option<FailedStep>,
}

/// Who may catch an error.
enum Reach {
    /// Any `try` around it.
    Any,
    /// The `try` whose frame has this number, and those around that one: its time was up.
    From(usize),
    /// Nobody: the run cannot go on.
    Nobody,
}

/// `None`: go on with the next task.
type Turn = Result<Option<Next>, Box<Fault>>;

struct Machine<'r> {
    program: &'r Program,
    run: &'r RunFacts,
    limits: &'r EngineLimits,
    at: OffsetDateTime,
    stopping: bool,
    is_long_ago: fn(OffsetDateTime) -> bool,
    state: State,
    events: Vec<Event>,
    /// How many bytes the events have, about.
    bytes: u64,
}

impl<'r> Machine<'r> {
    fn go(mut self, input: Input) -> Advance {
        let mut turn = self.take(input);
        let next = loop {
            turn = match turn {
                Ok(Some(next)) => break next,
                Ok(None) if self.state.entries + self.events.len() as u64 > self.limits.entries => {
                    let detail = format!("the run has more than {} entries", self.limits.entries);
                    Err(self.abort(Problem::new(Standard::Runtime, "", detail)))
                }
                Ok(None) if self.state.bytes + self.bytes > self.limits.journal_bytes => {
                    let detail = format!("the journal of the run is larger than {} bytes", self.limits.journal_bytes);
                    Err(self.abort(Problem::new(Standard::Runtime, "", detail)))
                }
                Ok(None) if self.stopping => break Next::Proceed,
                Ok(None) if self.events.len() >= ENTRIES_AT_ONCE || self.bytes >= BYTES_AT_ONCE => break Next::Proceed,
                Ok(None) if !self.events.is_empty() && (self.is_long_ago)(self.at) => break Next::Proceed,
                Ok(None) => self.turn(),
                Err(fault) => self.raise(*fault),
            };
        };
        self.state.entries += self.events.len() as u64;
        self.state.bytes += self.bytes;
        Advance { state: self.state, events: self.events, next }
    }

    fn take(&mut self, input: Input) -> Turn {
        match input {
            Input::Start => self.begin(),
            Input::Proceed => Ok(None),
            Input::Resume => {
                self.record(Event::RunResumed);
                self.renew_deadlines();
                match self.state.frames.last().map(|frame| &frame.body) {
                    Some(Body::Call { .. }) => self.repeat_call(),
                    _ => self.wake(),
                }
            }
            Input::Completed(outcome) => self.call_completed(*outcome),
            Input::Failed(error) => self.call_failed(&error),
            Input::Expired => self.call_expired(),
            Input::Woken => self.wake(),
            Input::Abort(problem) => Err(self.abort(problem)),
        }
    }

    fn abort(&self, problem: Problem) -> Box<Fault> {
        Box::new(Fault { error: problem.into_value(), place: None, reach: Reach::Nobody, step: None })
    }

    /// Something happened; the number of its entry.
    fn record(&mut self, event: Event) -> u64 {
        self.bytes += event.bytes() as u64;
        self.events.push(event);
        self.state.entries + self.events.len() as u64
    }

    /// The input of the flow is transformed and its first task comes next.
    fn begin(&mut self) -> Turn {
        self.record(Event::RunStarted);
        let form = &self.program.input;
        let raw = &self.run.input;
        if let Some(schema) = &form.schema {
            schema.check(raw).map_err(|detail| self.invalid("/input/schema", detail))?;
        }
        let input = match &form.from {
            Some(template) => {
                let input = self.evaluate(template, raw, &Scene::of_flow("/input/from"))?;
                self.state.context = Some(input.clone());
                input
            }
            None => raw.clone(),
        };
        let body = Body::Sequence(Cursor::new(self.program.root, input));
        let nothing = Kept::here(Value::Null);
        self.state.frames.push(Frame { task: None, raw: None, input: nothing, started_at: self.at, body });
        Ok(None)
    }

    /// The next task of the innermost list begins, or the list ends.
    fn turn(&mut self) -> Turn {
        let Some(cursor) = self.state.frames.last().and_then(|frame| frame.body.cursor()) else {
            // Only an input can end a call, and a run without frames has ended.
            return Err(self.abort(Problem::new(Standard::Runtime, "", "the run is in no state to go on")));
        };
        match self.program.list(cursor.list).get(cursor.at as usize) {
            Some(task) => {
                self.in_time(&self.program.task(*task).pointer)?;
                self.start(*task)
            }
            None => self.end_list(),
        }
    }

    /// The innermost list has ended.
    fn end_list(&mut self) -> Turn {
        if let Some(Body::Loop { index, .. }) = self.state.frames.last_mut().map(|frame| &mut frame.body) {
            *index += 1;
            return self.turn_loop();
        }
        let Some(Frame { task, raw, input, started_at, body }) = self.state.frames.pop() else {
            return self.turn();
        };
        let (data, then) = match body {
            Body::Sequence(cursor) => (cursor.data, None),
            Body::Attempt(attempt) => (attempt.cursor.data, None),
            Body::Handler { cursor, .. } => {
                let then = task.and_then(|task| match &self.program.task(task).kind {
                    Kind::Try(block) => block.then,
                    _ => None,
                });
                (cursor.data, then)
            }
            Body::Loop { cursor, .. } => (cursor.data, None),
            Body::Call { arguments, .. } => (arguments, None),
        };
        match task {
            Some(task) => {
                let ended = Ended { task, raw, input: input.value, started_at, then, recorded: false };
                self.complete(ended, data)
            }
            None => self.finish(data),
        }
    }

    /// The data flow behind a task, then the task that comes next.
    fn complete(&mut self, ended: Ended, raw_output: Value) -> Turn {
        let task = self.program.task(ended.task);
        let scene = Scene {
            input: Some(&ended.input),
            raw_output: Some(&raw_output),
            ..Scene::of_task(task, ended.raw.as_ref().unwrap_or(&ended.input), ended.started_at)
        };
        let output = match &task.output.form {
            Some(template) => Some(self.evaluate(template, &raw_output, &scene)?),
            None => None,
        };
        let output = output.as_ref().unwrap_or(&raw_output);
        if let Some(schema) = &task.output.schema {
            schema.check(output).map_err(|detail| self.invalid(&task.pointer, format!("output: {detail}")))?;
        }
        if let Some(template) = &task.export.form {
            let context = self.evaluate(template, output, &Scene { output: Some(output), ..scene })?;
            self.state.context = Some(context);
        }
        if let Some(schema) = &task.export.schema {
            let checked = schema.check(self.context());
            checked.map_err(|detail| self.invalid(&task.pointer, format!("exported context: {detail}")))?;
        }
        let output = output.clone();
        if !ended.recorded || task.output.form.is_some() {
            let place = self.place(&task.pointer);
            self.record(Event::TaskCompleted { place, output: output.clone() });
        }
        self.follow(ended.then.unwrap_or(task.then), output)
    }

    /// Goes on behind a task that ended with `output`.
    fn follow(&mut self, then: Directive, output: Value) -> Turn {
        if then == Directive::End {
            self.state.frames.clear();
            return self.finish(output);
        }
        let length = |cursor: &Cursor| self.program.list(cursor.list).len() as u32;
        if let Some(cursor) = self.state.frames.last_mut().and_then(|frame| frame.body.cursor_mut()) {
            cursor.data = output;
            match then {
                Directive::Continue => cursor.at += 1,
                Directive::Exit | Directive::End => cursor.at = length(cursor),
                Directive::To(index) => {
                    // Going back, or to the same task, is another visit.
                    cursor.round += u32::from(index <= cursor.at);
                    cursor.at = index;
                }
            }
        }
        Ok(None)
    }

    /// The output of the flow is transformed and the run ends.
    fn finish(&mut self, data: Value) -> Turn {
        let form = &self.program.output;
        let output = match &form.form {
            Some(template) => self.evaluate(template, &data, &Scene::of_flow("/output/as"))?,
            None => data,
        };
        if let Some(schema) = &form.schema {
            schema.check(&output).map_err(|detail| self.invalid("/output/schema", detail))?;
        }
        self.record(Event::RunCompleted { output: output.clone() });
        Ok(Some(Next::Completed(output)))
    }

    /// The place of a task in the loops that are under way.
    fn place(&self, pointer: &str) -> TaskPlace {
        let index = |frame: &Frame| match &frame.body {
            Body::Loop { index, .. } => Some(*index),
            _ => None,
        };
        TaskPlace { task: pointer.to_owned(), iteration: self.state.frames.iter().filter_map(index).collect() }
    }

    /// `$context`.
    fn context(&self) -> &Value {
        self.state.context.as_ref().unwrap_or(&self.run.input)
    }

    fn fault(&self, problem: Problem, pointer: &str) -> Box<Fault> {
        let place = Some(self.place(pointer));
        Box::new(Fault { error: problem.into_value(), place, reach: Reach::Any, step: None })
    }

    fn invalid(&self, pointer: &str, detail: impl Into<String>) -> Box<Fault> {
        self.fault(Problem::new(Standard::Validation, pointer, detail), pointer)
    }
}

/// A task that has ended.
struct Ended {
    task: TaskId,
    raw: Option<Value>,
    input: Value,
    started_at: OffsetDateTime,
    /// Where it goes on, in place of the task's own `then`.
    then: Option<Directive>,
    /// Whether an entry with its output stands in the journal already.
    recorded: bool,
}
