//! Expressions are evaluated with the variables of their place.

use std::time::Duration;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Fault, Machine, state::*};
use crate::{
    dsl::{
        duration::parse_iso8601,
        program::{Delay, Kind, TaskNode},
    },
    expression::{Evaluation, Expression, Failure, Template},
    problem::{Problem, Standard},
};

/// Where an expression is evaluated, and with what.
#[derive(Clone, Copy)]
pub(super) struct Scene<'s> {
    /// The component that an error is told of.
    pub(super) instance: &'s str,
    pub(super) task: Option<&'s TaskNode>,
    pub(super) raw: Option<&'s Value>,
    pub(super) started_at: Option<OffsetDateTime>,
    pub(super) input: Option<&'s Value>,
    pub(super) raw_output: Option<&'s Value>,
    pub(super) output: Option<&'s Value>,
    /// A variable that no frame holds.
    pub(super) local: Option<(&'s str, &'s Value)>,
}

impl<'s> Scene<'s> {
    pub(super) fn of_flow(instance: &'s str) -> Self {
        Self {
            instance,
            task: None,
            raw: None,
            started_at: None,
            input: None,
            raw_output: None,
            output: None,
            local: None,
        }
    }

    pub(super) fn of_task(task: &'s TaskNode, raw: &'s Value, started_at: OffsetDateTime) -> Self {
        Self { task: Some(task), raw: Some(raw), started_at: Some(started_at), ..Self::of_flow(&task.pointer) }
    }

    pub(super) fn of_frame(task: &'s TaskNode, frame: &'s Frame) -> Self {
        let input = &frame.input.value;
        let raw = frame.raw.as_ref().unwrap_or(input);
        Self { input: Some(input), ..Self::of_task(task, raw, frame.started_at) }
    }
}

impl Machine<'_> {
    /// The value of a template for `input`.
    pub(super) fn evaluate(&self, template: &Template, input: &Value, scene: &Scene<'_>) -> Result<Value, Box<Fault>> {
        let variable = |name: &str| self.variable(name, scene);
        let result = template.evaluate(input, &self.evaluation(&variable));
        result.map_err(|(expression, failure)| self.failed(expression, &failure, scene))
    }

    /// Whether a condition holds for `input`; one that is not there does.
    pub(super) fn holds(
        &self,
        condition: Option<&Expression>,
        input: &Value,
        scene: &Scene<'_>,
    ) -> Result<bool, Box<Fault>> {
        let Some(expression) = condition else { return Ok(true) };
        let variable = |name: &str| self.variable(name, scene);
        let result = expression.holds(input, &self.evaluation(&variable));
        result.map_err(|failure| self.failed(expression, &failure, scene))
    }

    /// A duration; none where it is not there.
    pub(super) fn delay(
        &self,
        delay: Option<&Delay>,
        input: &Value,
        scene: &Scene<'_>,
    ) -> Result<Option<Duration>, Box<Fault>> {
        let expression = match delay {
            None => return Ok(None),
            Some(Delay::Fixed(duration)) => return Ok(Some(*duration)),
            Some(Delay::Expression(expression)) => expression,
        };
        let variable = |name: &str| self.variable(name, scene);
        let value = expression
            .evaluate(input, &self.evaluation(&variable))
            .map_err(|failure| self.failed(expression, &failure, scene))?;
        let duration = value.as_str().ok_or("it gives no text").and_then(parse_iso8601);
        duration.map(Some).map_err(|reason| {
            let failure = Failure::Raised(format!("it is no duration: {reason}"));
            self.failed(expression, &failure, scene)
        })
    }

    fn evaluation<'e>(&self, variable: &'e dyn Fn(&str) -> Value) -> Evaluation<'e> {
        Evaluation { variable, limits: self.limits.expression, now: self.at }
    }

    fn failed(&self, expression: &Expression, failure: &Failure, scene: &Scene<'_>) -> Box<Fault> {
        let detail = format!("{}: {failure}", expression.source().trim());
        self.fault(Problem::new(Standard::Expression, scene.instance, detail), scene.instance)
    }

    fn variable(&self, name: &str, scene: &Scene<'_>) -> Value {
        let or_null = |value: Option<&Value>| value.cloned().unwrap_or_default();
        if let Some((_, value)) = scene.local.filter(|(local, _)| *local == name) {
            return value.clone();
        }
        match name {
            "context" => self.context().clone(),
            "input" => or_null(scene.input),
            "output" => or_null(scene.output),
            "runtime" => json!({"name": "keyward", "version": env!("CARGO_PKG_VERSION"), "metadata": {}}),
            "workflow" => json!({
                "id": self.run.id.to_string(),
                "definition": self.program.definition,
                "input": self.run.input,
                "startedAt": date_time(self.run.started_at),
            }),
            "task" => match scene.task {
                Some(task) => json!({
                    "name": task.name,
                    "reference": task.pointer,
                    "definition": task.definition,
                    "input": scene.raw,
                    "output": scene.raw_output,
                    "startedAt": scene.started_at.map(date_time),
                }),
                None => Value::Null,
            },
            local => or_null(self.local(local).as_ref()),
        }
    }

    /// The variable of the innermost loop or handler that has one of this name.
    fn local(&self, name: &str) -> Option<Value> {
        self.state.frames.iter().rev().find_map(|frame| match (&self.program.task(frame.task?).kind, &frame.body) {
            (Kind::For(for_loop), Body::Loop { items, index, .. }) => {
                if for_loop.each == name {
                    items.value.get(*index as usize).cloned()
                } else if for_loop.at == name {
                    Some(Value::from(*index))
                } else {
                    None
                }
            }
            (Kind::Try(block), Body::Handler { error, .. }) if block.variable == name => Some(error.clone()),
            _ => None,
        })
    }
}

/// The specification's *DateTime Descriptor*.
fn date_time(at: OffsetDateTime) -> Value {
    json!({
        "iso8601": at.format(&Rfc3339).unwrap_or_default(),
        "epoch": {
            "seconds": at.unix_timestamp(),
            "milliseconds": (at.unix_timestamp_nanos() / 1_000_000) as i64,
        },
    })
}
