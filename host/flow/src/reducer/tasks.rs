//! What each kind of task does.

use keyward_model::{ActionOutcome, InvokeError};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use super::{Ended, Fault, Invocation, Machine, Next, Reach, Turn, evaluate::Scene, state::*};
use crate::{
    dsl::program::{CallStep, ErrorForm, Kind, TaskId, TaskNode},
    event::Event,
    problem::{Problem, Standard},
};

impl<'r> Machine<'r> {
    /// The data flow before a task, then the task.
    pub(super) fn start(&mut self, id: TaskId) -> Turn {
        let task = self.program.task(id);
        let Some(cursor) = self.state.frames.last_mut().and_then(|frame| frame.body.cursor_mut()) else {
            return self.turn();
        };
        let raw = std::mem::take(&mut cursor.data);
        let scene = Scene::of_task(task, &raw, self.at);
        if !self.holds(task.condition.as_ref(), &raw, &scene)? {
            self.record(Event::TaskSkipped { place: self.place(&task.pointer) });
            // `then` is for a task that was run.
            return self.follow(crate::dsl::program::Directive::Continue, raw);
        }
        if let Some(schema) = &task.input.schema {
            schema.check(&raw).map_err(|detail| self.invalid(&task.pointer, format!("input: {detail}")))?;
        }
        let (raw, input) = match &task.input.from {
            Some(template) => {
                let input = self.evaluate(template, &raw, &scene)?;
                (Some(raw), input)
            }
            None => (None, raw),
        };
        self.run(id, task, raw, input)
    }

    fn run(&mut self, id: TaskId, task: &'r TaskNode, raw: Option<Value>, input: Value) -> Turn {
        let scene = Scene { input: Some(&input), ..Scene::of_task(task, raw.as_ref().unwrap_or(&input), self.at) };
        let output = match &task.kind {
            Kind::Set(template) => self.evaluate(template, &input, &scene)?,
            Kind::Raise(form) => return Err(self.raised(form, task, &input, &scene)?),
            Kind::Switch(cases) => {
                let mut matching = None;
                for case in cases.iter().filter(|case| case.when.is_some()) {
                    if self.holds(case.when.as_ref(), &input, &scene)? {
                        matching = Some(case);
                        break;
                    }
                }
                let case = matching.or_else(|| cases.iter().find(|case| case.when.is_none()));
                let then = case.map(|case| case.then);
                let output = input.clone();
                let ended = Ended { task: id, raw, input, started_at: self.at, then, recorded: false };
                return self.complete(ended, output);
            }
            Kind::Call(step) => {
                let arguments = self.evaluate(&step.arguments, &input, &scene)?;
                return self.call(id, task, step, raw, input, arguments);
            }
            Kind::Do(list) => {
                let body = Body::Sequence(Cursor::new(*list, input.clone()));
                return self.enter(id, raw, input, body);
            }
            Kind::For(for_loop) => {
                let items = match self.evaluate(&for_loop.collection, &input, &scene)? {
                    items @ Value::Array(_) => items,
                    other => {
                        let kind = match other {
                            Value::Null => "nothing",
                            Value::Object(_) => "an object",
                            _ => "a single value",
                        };
                        let detail = format!("'for.in' gives {kind}, not a list");
                        let problem = Problem::new(Standard::Expression, &task.pointer, detail);
                        return Err(self.fault(problem, &task.pointer));
                    }
                };
                let cursor = Cursor::new(for_loop.list, input.clone());
                self.enter(id, raw, input, Body::Loop { items: Kept::here(items), index: 0, cursor })?;
                return self.turn_loop();
            }
            Kind::Try(block) => {
                let limit = self.attempt_limit(block, &input, &scene)?;
                let deadline = limit.map(|limit| self.at + limit);
                let cursor = Cursor::new(block.list, input.clone());
                let attempt = Attempt { cursor, retries: 0, failed: Vec::new(), limit, deadline, until: None };
                return self.enter(id, raw, input, Body::Attempt(attempt));
            }
        };
        self.complete(Ended { task: id, raw, input, started_at: self.at, then: None, recorded: false }, output)
    }

    /// A task with tasks inside begins.
    fn enter(&mut self, id: TaskId, raw: Option<Value>, input: Value, mut body: Body) -> Turn {
        let task = self.program.task(id);
        let items = match &body {
            Body::Loop { items, .. } => Some(items.value.clone()),
            _ => None,
        };
        let entry = self.record(Event::TaskStarted { place: self.place(&task.pointer), input: input.clone(), items });
        if let Body::Loop { items, .. } = &mut body {
            items.entry = Some(entry);
        }
        let input = Kept::in_entry(entry, input);
        let raw = raw.filter(|_| task.keeps_input);
        self.state.frames.push(Frame { task: Some(id), raw, input, started_at: self.at, body });
        Ok(None)
    }

    /// The next turn of the innermost loop begins, or the loop ends.
    pub(super) fn turn_loop(&mut self) -> Turn {
        let Some(frame) = self.state.frames.last() else { return self.turn() };
        let (Body::Loop { items, index, cursor }, Some(id)) = (&frame.body, frame.task) else { return self.turn() };
        let task = self.program.task(id);
        let Kind::For(for_loop) = &task.kind else { return self.turn() };
        let another = items.value.get(*index as usize).is_some()
            && self.holds(for_loop.condition.as_ref(), &cursor.data, &Scene::of_frame(task, frame))?;
        if !another {
            let Some(Frame { raw, input, started_at, mut body, .. }) = self.state.frames.pop() else {
                return self.turn();
            };
            let data = body.cursor_mut().map(|cursor| std::mem::take(&mut cursor.data)).unwrap_or_default();
            let ended = Ended { task: id, raw, input: input.value, started_at, then: None, recorded: false };
            return self.complete(ended, data);
        }
        self.state.iterations += 1;
        if self.state.iterations > self.limits.iterations {
            let detail = format!("the loops of the run take more than {} turns", self.limits.iterations);
            return Err(self.abort(Problem::new(Standard::Runtime, &task.pointer, detail)));
        }
        if let Some(cursor) = self.state.frames.last_mut().and_then(|frame| frame.body.cursor_mut()) {
            (cursor.at, cursor.round) = (0, 0);
        }
        Ok(None)
    }

    fn raised(
        &self,
        form: &ErrorForm,
        task: &TaskNode,
        input: &Value,
        scene: &Scene<'_>,
    ) -> Result<Box<Fault>, Box<Fault>> {
        let text = |template| {
            self.evaluate(template, input, scene).map(|value| match value {
                Value::String(text) => text,
                value => value.to_string(),
            })
        };
        let kind = text(&form.kind)?;
        let instance = form.instance.as_ref().map(text).transpose()?;
        let mut problem = Problem::raised(kind, form.status, instance.as_deref().unwrap_or(&task.pointer));
        for (name, template) in [("title", &form.title), ("detail", &form.detail)] {
            if let Some(template) = template {
                problem = problem.with(name, text(template)?);
            }
        }
        Ok(self.fault(problem, &task.pointer))
    }

    /// A step begins: with its first attempt, or with the next one where its `try` comes to it again.
    fn call(
        &mut self,
        id: TaskId,
        task: &TaskNode,
        step: &CallStep,
        raw: Option<Value>,
        input: Value,
        arguments: Value,
    ) -> Turn {
        let visit = self.step_key(&task.pointer, false);
        let failed = self.state.frames.iter().rev().find_map(|frame| match &frame.body {
            Body::Attempt(around) => around.failed.iter().find(|step| step.visit == visit),
            _ => None,
        });
        let (attempt, key) = match failed {
            Some(failed) => (failed.attempt + 1, failed.key.clone()),
            None => (1, self.step_key(&task.pointer, true)),
        };
        let body = Body::Call { attempt, key, arguments };
        // What is not looked at when the call ends is not written with it.
        let raw = raw.filter(|_| task.keeps_input);
        let input = Kept::here(if task.keeps_input { input } else { Value::Null });
        self.state.frames.push(Frame { task: Some(id), raw, input, started_at: self.at, body });
        self.invoke(task, step)
    }

    /// The attempt of the innermost frame is recorded and then made.
    fn invoke(&mut self, task: &TaskNode, step: &CallStep) -> Turn {
        let Some(Body::Call { attempt, key, arguments }) = self.state.frames.last().map(|frame| &frame.body) else {
            return self.turn();
        };
        let invocation = Invocation {
            step: task.pointer.clone(),
            attempt: *attempt,
            action: step.action.clone(),
            connection: step.connection.clone(),
            input: arguments.clone(),
            idempotency_key: key.clone(),
            deadline: self.state.frames.iter().filter_map(deadline).min(),
        };
        self.record(Event::StepStarted {
            place: self.place(&task.pointer),
            attempt: invocation.attempt,
            action: invocation.action.clone(),
            connection: invocation.connection.clone(),
            idempotency_key: invocation.idempotency_key.clone(),
            input: invocation.input.clone(),
        });
        Ok(Some(Next::Invoke(Box::new(invocation))))
    }

    /// A UUID of the run, the step, and the turn of everything around it.
    ///
    /// With `tries`, it is another one in each try of a `try`: the idempotency key of a step that is performed
    /// anew, as it completed in a try before. Without, it is the same, so that a step that failed is known again.
    fn step_key(&self, pointer: &str, tries: bool) -> String {
        let mut hash = Sha256::new();
        hash.update(self.run.id.as_uuid().as_bytes());
        for frame in &self.state.frames {
            let index = match &frame.body {
                Body::Loop { index, .. } => *index,
                Body::Attempt(attempt) if tries => attempt.retries,
                _ => 0,
            };
            let round = frame.body.cursor().map_or(0, |cursor| cursor.round);
            hash.update(index.to_be_bytes());
            hash.update(round.to_be_bytes());
        }
        hash.update(pointer.as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
    }

    /// The call of the innermost frame, taken off, with its attempt and its key.
    fn pop_call(&mut self) -> Option<(TaskId, Frame, u32, String)> {
        let frame = self.state.frames.pop()?;
        match (frame.task, &frame.body) {
            (Some(task), Body::Call { attempt, key, .. }) => {
                let (attempt, key) = (*attempt, key.clone());
                Some((task, frame, attempt, key))
            }
            _ => {
                self.state.frames.push(frame);
                None
            }
        }
    }

    pub(super) fn call_completed(&mut self, outcome: ActionOutcome) -> Turn {
        let Some((id, frame, attempt, key)) = self.pop_call() else { return self.turn() };
        let place = self.place(&self.program.task(id).pointer);
        let ActionOutcome { output, log, stats } = outcome;
        self.record(Event::StepCompleted { place, attempt, output: output.clone(), log, stats });
        for frame in &mut self.state.frames {
            if let Body::Attempt(around) = &mut frame.body {
                around.failed.retain(|step| step.key != key);
            }
        }
        let Frame { raw, input, started_at, .. } = frame;
        self.complete(Ended { task: id, raw, input: input.value, started_at, then: None, recorded: true }, output)
    }

    pub(super) fn call_failed(&mut self, error: &InvokeError) -> Turn {
        let Some((id, _, attempt, key)) = self.pop_call() else { return self.turn() };
        let pointer = &self.program.task(id).pointer;
        let problem = Problem::of_action(error, pointer);
        Err(self.step_faulted(pointer, attempt, key, problem, error.backtrace.clone()))
    }

    pub(super) fn call_expired(&mut self) -> Turn {
        let Some((id, _, attempt, key)) = self.pop_call() else { return self.turn() };
        let pointer = &self.program.task(id).pointer;
        let mut fault = self.step_faulted(pointer, attempt, key, too_late(pointer), None);
        if let Some(number) = self.overdue() {
            fault.reach = Reach::From(number);
        }
        Err(fault)
    }

    fn step_faulted(
        &mut self,
        pointer: &str,
        attempt: u32,
        key: String,
        problem: Problem,
        backtrace: Option<String>,
    ) -> Box<Fault> {
        let (place, error) = (self.place(pointer), problem.into_value());
        self.record(Event::StepFaulted { place, attempt, error: error.clone(), backtrace });
        let step = FailedStep { visit: self.step_key(pointer, false), key, attempt };
        Box::new(Fault { error, place: None, reach: Reach::Any, step: Some(step) })
    }

    /// The outermost frame whose time is up, whatever those inside would catch.
    fn overdue(&self) -> Option<usize> {
        self.state.frames.iter().position(|frame| deadline(frame).is_some_and(|deadline| deadline <= self.at))
    }

    /// Fails where the time of a `try` around the task at `pointer` is up.
    pub(super) fn in_time(&self, pointer: &str) -> Result<(), Box<Fault>> {
        let Some(number) = self.overdue() else { return Ok(()) };
        Err(Box::new(Fault { reach: Reach::From(number), ..*self.fault(too_late(pointer), pointer) }))
    }

    /// When to look again: at `until`, or when the time of a `try` is up before that.
    pub(super) fn no_later_than(&self, until: OffsetDateTime) -> OffsetDateTime {
        self.state.frames.iter().filter_map(deadline).fold(until, OffsetDateTime::min)
    }

    /// The tries under way have their whole time again: nobody knows how long nothing was done.
    pub(super) fn renew_deadlines(&mut self) {
        for frame in &mut self.state.frames {
            if let Body::Attempt(Attempt { limit: Some(limit), deadline: Some(deadline), .. }) = &mut frame.body {
                *deadline = self.at + *limit;
            }
        }
    }

    /// It is not known what became of the attempt of the innermost frame.
    pub(super) fn repeat_call(&mut self) -> Turn {
        let Some((id, mut frame, attempt, key)) = self.pop_call() else { return self.turn() };
        let task = self.program.task(id);
        let Kind::Call(step) = &task.kind else { return self.turn() };
        self.record(Event::StepUncertain { place: self.place(&task.pointer), attempt });
        if !step.repeat_uncertain {
            let detail = format!("the process ended while attempt {attempt} was under way; it may have had its effect");
            let problem = Problem::new(Standard::Runtime, &task.pointer, detail)
                .with("reason", "outcome-unknown")
                .with("hint", "find out at the provider whether it happened; 'onUncertain: retry' would call again");
            return Err(self.step_faulted(&task.pointer, attempt, key, problem, None));
        }
        if let Body::Call { attempt, .. } = &mut frame.body {
            *attempt += 1;
        }
        self.state.frames.push(frame);
        self.invoke(task, step)
    }
}

fn too_late(pointer: &str) -> Problem {
    Problem::new(Standard::Timeout, pointer, "the attempt took longer than its 'try' allows")
}

fn deadline(frame: &Frame) -> Option<OffsetDateTime> {
    match &frame.body {
        Body::Attempt(attempt) => attempt.deadline,
        _ => None,
    }
}
