//! The rules of a run, without I/O: from a state and an input follow the next state, what happened on
//! the way, and what is to be done.
//!
//! Everything that a task computes happens here, until the run has to wait for the world: an action, a
//! delay, or the journal, after a certain number of entries. Time comes in with the input, and what
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

/// Goes from `state` with `input` as far as nothing has to be waited for. `at` is now.
pub(crate) fn advance(
    flow: &Flow,
    run: &RunFacts,
    limits: &EngineLimits,
    state: State,
    input: Input,
    at: OffsetDateTime,
) -> Advance {
    Machine { program: flow.program(), run, limits, at, state, events: Vec::new() }.go(input)
}

/// An error on its way to whoever catches it.
struct Fault {
    error: Value,
    /// Where it was raised, as long as that is not recorded.
    place: Option<TaskPlace>,
    reach: Reach,
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
    state: State,
    events: Vec<Event>,
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
                Ok(None) if self.events.len() >= ENTRIES_AT_ONCE => break Next::Proceed,
                Ok(None) => self.turn(),
                Err(fault) => self.raise(*fault),
            };
        };
        self.state.entries += self.events.len() as u64;
        Advance { state: self.state, events: self.events, next }
    }

    fn take(&mut self, input: Input) -> Turn {
        match input {
            Input::Start => self.begin(),
            Input::Proceed => Ok(None),
            Input::Resume => {
                self.events.push(Event::RunResumed);
                match self.state.frames.last().map(|frame| &frame.body) {
                    Some(Body::Call { .. }) => self.repeat_call(),
                    Some(Body::Attempt(Attempt { until: Some(until), .. })) if *until > self.at => {
                        Ok(Some(Next::Wait(*until)))
                    }
                    Some(Body::Attempt(Attempt { until: Some(_), .. })) => self.try_again(),
                    _ => Ok(None),
                }
            }
            Input::Completed(outcome) => self.call_completed(*outcome),
            Input::Failed(error) => self.call_failed(&error),
            Input::Expired => self.call_expired(),
            Input::Woken => self.try_again(),
            Input::Abort(problem) => Err(self.abort(problem)),
        }
    }

    fn abort(&self, problem: Problem) -> Box<Fault> {
        Box::new(Fault { error: problem.into_value(), place: None, reach: Reach::Nobody })
    }

    /// The input of the flow is transformed and its first task comes next.
    fn begin(&mut self) -> Turn {
        self.events.push(Event::RunStarted);
        let form = &self.program.input;
        let raw = &self.run.input;
        if let Some(schema) = &form.schema {
            schema.check(raw).map_err(|detail| self.invalid("/input/schema", detail))?;
        }
        let input = match &form.from {
            Some(template) => self.evaluate(template, raw, &Scene::of_flow("/input/from"))?,
            None => raw.clone(),
        };
        self.state.context = input.clone();
        let body = Body::Sequence(Cursor::new(self.program.root, input.clone()));
        self.state.frames.push(Frame { task: None, raw: None, input, started_at: self.at, body });
        Ok(None)
    }

    /// The next task of the innermost list begins, or the list ends.
    fn turn(&mut self) -> Turn {
        let Some(cursor) = self.state.frames.last().and_then(|frame| frame.body.cursor()) else {
            // Only an input can end a call, and a run without frames has ended.
            return Err(self.abort(Problem::new(Standard::Runtime, "", "the run is in no state to go on")));
        };
        match self.program.list(cursor.list).get(cursor.at as usize) {
            Some(task) => self.start(*task),
            None => self.end_list(),
        }
    }

    /// The innermost list has ended.
    fn end_list(&mut self) -> Turn {
        if let Some(Body::Loop { items, index, .. }) = self.state.frames.last_mut().map(|frame| &mut frame.body) {
            // An item that had its turn is not looked at again, and the snapshot is written often.
            if let Some(item) = items.get_mut(*index as usize) {
                *item = Value::Null;
            }
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
            Some(task) => self.complete(Ended { task, raw, input, started_at, then, recorded: false }, data),
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
            self.state.context = context;
        }
        if let Some(schema) = &task.export.schema {
            let checked = schema.check(&self.state.context);
            checked.map_err(|detail| self.invalid(&task.pointer, format!("exported context: {detail}")))?;
        }
        let output = output.clone();
        if !ended.recorded || task.output.form.is_some() {
            let place = self.place(&task.pointer);
            self.events.push(Event::TaskCompleted { place, output: output.clone() });
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
        self.events.push(Event::RunCompleted { output: output.clone() });
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

    fn fault(&self, problem: Problem, pointer: &str) -> Box<Fault> {
        Box::new(Fault { error: problem.into_value(), place: Some(self.place(pointer)), reach: Reach::Any })
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
