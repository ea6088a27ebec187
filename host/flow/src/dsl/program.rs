//! A flow as it is executed: checked, its names resolved, its expressions compiled.
//!
//! Tasks and lists are numbered, so that a snapshot can refer to them. The numbers follow from the
//! source alone, and a run goes on with the source that it was started with.

use std::{fmt, sync::Arc, time::Duration};

use keyward_model::{ActionRef, ConnectionName, Span, schema::Cost};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::model::Backoff;
use crate::expression::{Expression, Template};

/// The number of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct TaskId(pub(crate) u32);

/// The number of a list of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ListId(pub(crate) u32);

/// A whole flow.
#[derive(Debug)]
pub(crate) struct Program {
    /// `$workflow.definition`.
    pub(crate) definition: Value,
    pub(crate) input: InputForm,
    pub(crate) output: OutputForm,
    pub(crate) root: ListId,
    pub(crate) tasks: Vec<TaskNode>,
    pub(crate) lists: Vec<Vec<TaskId>>,
}

impl Program {
    pub(crate) fn task(&self, id: TaskId) -> &TaskNode {
        &self.tasks[id.0 as usize]
    }

    pub(crate) fn list(&self, id: ListId) -> &[TaskId] {
        &self.lists[id.0 as usize]
    }
}

/// `input`.
#[derive(Debug, Default)]
pub(crate) struct InputForm {
    pub(crate) schema: Option<DataSchema>,
    pub(crate) from: Option<Template>,
}

/// `output` or `export`.
#[derive(Debug, Default)]
pub(crate) struct OutputForm {
    pub(crate) form: Option<Template>,
    pub(crate) schema: Option<DataSchema>,
}

/// A compiled JSON Schema.
#[derive(Clone)]
pub(crate) struct DataSchema {
    pub(crate) source: Value,
    pub(crate) validator: Arc<jsonschema::Validator>,
    pub(crate) cost: Cost,
}

impl fmt::Debug for DataSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DataSchema").field(&self.source).finish()
    }
}

impl DataSchema {
    /// Why `value` does not match: the first faults with their places, or nothing.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        const SHOWN: usize = 3;
        let (values, text_bytes) = size(value);
        let work = self.cost.work(values, text_bytes);
        if work.is_too_much() {
            let message = "the value is too large for a schema of this size with these patterns";
            return Err(format!("{message}; check a part of it, or make the schema smaller"));
        }
        if self.validator.is_valid(value) {
            return Ok(());
        }
        if !work.may_tell() {
            return Err("the value does not match, and is too large for this schema to tell where".to_owned());
        }
        let told = |error: jsonschema::ValidationError<'_>| {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
            let text: String = error.to_string().chars().take(200).collect();
            format!("{place}{text}")
        };
        if !work.is_quick() {
            // All of them are collected before the first is told, and there may be millions.
            return self.validator.validate(value).map_err(told);
        }
        let mut faults = self.validator.iter_errors(value).map(told);
        let shown: Vec<String> = faults.by_ref().take(SHOWN).collect();
        let more = if faults.next().is_some() { "; and more" } else { "" };
        Err(format!("{}{more}", shown.join("; ")))
    }
}

/// How many values and keys are in `value`, and how many bytes of text they have.
fn size(value: &Value) -> (u64, usize) {
    let add = |(values, text): (u64, usize), (more_values, more_text)| (values + more_values, text + more_text);
    match value {
        Value::String(text) => (1, text.len()),
        Value::Array(items) => items.iter().map(size).fold((1, 0), add),
        Value::Object(entries) => entries.iter().map(|(key, value)| add((1, key.len()), size(value))).fold((1, 0), add),
        _ => (1, 0),
    }
}

/// A task.
#[derive(Debug)]
pub(crate) struct TaskNode {
    pub(crate) name: String,
    /// `$task.reference`, and the instance of its errors.
    pub(crate) pointer: String,
    /// `$task.definition`.
    pub(crate) definition: Value,
    pub(crate) condition: Option<Expression>,
    pub(crate) input: InputForm,
    pub(crate) output: OutputForm,
    pub(crate) export: OutputForm,
    pub(crate) then: Directive,
    pub(crate) kind: Kind,
    /// Whether `$input` or `$task` is looked at again once the task has begun.
    pub(crate) keeps_input: bool,
}

impl TaskNode {
    /// Where it may go on after it.
    pub(crate) fn directives(&self) -> impl Iterator<Item = Directive> {
        let cases = match &self.kind {
            Kind::Switch(cases) => cases.as_slice(),
            _ => &[],
        };
        let caught = match &self.kind {
            Kind::Try(block) => block.then,
            _ => None,
        };
        [self.then].into_iter().chain(cases.iter().map(|case| case.then)).chain(caught)
    }
}

/// Where it goes on after a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directive {
    /// With the next task of the list.
    Continue,
    /// Behind the list.
    Exit,
    /// Nowhere: the run completes.
    End,
    /// With the task at this place of the list.
    To(u32),
}

/// What a task does.
#[derive(Debug)]
pub(crate) enum Kind {
    Call(CallStep),
    Do(ListId),
    For(ForLoop),
    Raise(ErrorForm),
    Set(Template),
    Switch(Vec<SwitchCase>),
    Try(Box<TryBlock>),
}

/// `call` of an action.
#[derive(Debug)]
pub(crate) struct CallStep {
    pub(crate) action: ActionRef,
    pub(crate) connection: Option<ConnectionName>,
    /// Whether to try again where it is not known what became of an attempt.
    pub(crate) repeat_uncertain: bool,
    pub(crate) arguments: Template,
    /// Where the action's name stands.
    pub(crate) span: Span,
}

/// `for`.
#[derive(Debug)]
pub(crate) struct ForLoop {
    pub(crate) each: String,
    pub(crate) at: String,
    pub(crate) collection: Template,
    pub(crate) condition: Option<Expression>,
    pub(crate) list: ListId,
}

/// A case of `switch`.
#[derive(Debug)]
pub(crate) struct SwitchCase {
    /// `None` is the default.
    pub(crate) when: Option<Expression>,
    pub(crate) then: Directive,
}

/// `try`.
#[derive(Debug)]
pub(crate) struct TryBlock {
    pub(crate) list: ListId,
    pub(crate) filter: Filter,
    pub(crate) variable: String,
    pub(crate) when: Option<Expression>,
    pub(crate) except_when: Option<Expression>,
    pub(crate) retry: Option<Retry>,
    pub(crate) handler: Option<ListId>,
    pub(crate) then: Option<Directive>,
}

/// `errors.with`.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub(crate) kind: Option<String>,
    pub(crate) status: Option<i64>,
    pub(crate) instance: Option<String>,
    pub(crate) title: Option<String>,
    pub(crate) detail: Option<String>,
}

/// `retry`.
#[derive(Debug)]
pub(crate) struct Retry {
    pub(crate) when: Option<Expression>,
    pub(crate) except_when: Option<Expression>,
    pub(crate) delay: Option<Delay>,
    pub(crate) backoff: Backoff,
    pub(crate) count: Option<u32>,
    pub(crate) attempt_time: Option<Delay>,
    pub(crate) total_time: Option<Delay>,
    pub(crate) jitter: Option<(Delay, Delay)>,
}

/// A duration, known or to be evaluated.
#[derive(Debug)]
pub(crate) enum Delay {
    Fixed(Duration),
    Expression(Expression),
}

/// An error to raise.
#[derive(Debug)]
pub(crate) struct ErrorForm {
    pub(crate) kind: Template,
    pub(crate) status: i64,
    pub(crate) instance: Option<Template>,
    pub(crate) title: Option<Template>,
    pub(crate) detail: Option<Template>,
}
