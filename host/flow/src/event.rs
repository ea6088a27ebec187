//! What happens in a run: the entries of its journal.

use keyward_model::{ActionRef, CallStats, ConnectionName, LogLine};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

/// Which task, and in which turn of the loops around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskPlace {
    /// A JSON pointer into the flow, for example `/do/0/fetch`.
    pub task: String,
    /// The index of each `for` loop around it, from the outermost; empty outside of loops.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iteration: Vec<u32>,
}

/// One thing that happened.
///
/// A *step* is a task with an effect outside of the run, the call of an action; any other task is
/// computed. The start of a step is recorded before the action is invoked, its end after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Event {
    /// The run began; its input is in the record.
    RunStarted,
    /// The run was taken up again after an interruption.
    RunResumed,
    /// A task with tasks inside began.
    TaskStarted {
        /// Which.
        #[serde(flatten)]
        place: TaskPlace,
        /// Its input, transformed.
        input: Value,
        /// What a `for` goes over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        items: Option<Value>,
    },
    /// A task ended; for a step, [`Event::StepCompleted`] stands before it.
    TaskCompleted {
        /// Which.
        #[serde(flatten)]
        place: TaskPlace,
        /// Its output, transformed.
        output: Value,
    },
    /// The condition of a task did not hold.
    TaskSkipped {
        /// Which.
        #[serde(flatten)]
        place: TaskPlace,
    },
    /// An error was raised in a task that is not a step, or in the data flow around one.
    TaskFaulted {
        /// Which.
        #[serde(flatten)]
        place: TaskPlace,
        /// The error.
        error: Value,
    },
    /// An attempt of a step is about to be made.
    StepStarted {
        /// Which.
        #[serde(flatten)]
        place: TaskPlace,
        /// Which attempt, from 1.
        attempt: u32,
        /// Which action.
        action: ActionRef,
        /// With which connection, where one is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connection: Option<ConnectionName>,
        /// The same for every attempt at one execution of the step. It is executed anew where a loop, `then` or
        /// the retry of a `try` comes back to it after it completed.
        idempotency_key: String,
        /// The action's input.
        input: Value,
    },
    /// An attempt brought an output.
    StepCompleted {
        /// Which.
        #[serde(flatten)]
        place: TaskPlace,
        /// Which attempt.
        attempt: u32,
        /// The action's output.
        output: Value,
        /// What the action logged.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        log: Vec<LogLine>,
        /// What the call used.
        stats: CallStats,
    },
    /// An attempt failed.
    StepFaulted {
        /// Which.
        #[serde(flatten)]
        place: TaskPlace,
        /// Which attempt.
        attempt: u32,
        /// The error.
        error: Value,
        /// The action's own call stack, for its author.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backtrace: Option<String>,
    },
    /// It is not known what became of an attempt: the process ended before that was recorded.
    StepUncertain {
        /// Which.
        #[serde(flatten)]
        place: TaskPlace,
        /// Which attempt.
        attempt: u32,
    },
    /// A `try` caught an error and goes on with what its `catch` says.
    ErrorCaught {
        /// Which `try`.
        #[serde(flatten)]
        place: TaskPlace,
        /// The error.
        error: Value,
    },
    /// A `try` caught an error and will be tried again.
    RetryScheduled {
        /// Which `try`.
        #[serde(flatten)]
        place: TaskPlace,
        /// Which retry, from 1.
        retry: u32,
        /// The error.
        error: Value,
        /// When it is tried again.
        #[serde(with = "time::serde::rfc3339")]
        until: OffsetDateTime,
    },
    /// The run ended with an output.
    RunCompleted {
        /// The output.
        output: Value,
    },
    /// The run ended with an error.
    RunFaulted {
        /// The error.
        error: Value,
    },
}

impl Event {
    /// About how many bytes it has as JSON.
    pub(crate) fn bytes(&self) -> usize {
        /// For the properties that hardly differ from one event to another.
        const BASE: usize = 200;
        let values: &[&Value] = match self {
            Self::TaskStarted { input, items: Some(items), .. } => &[input, items],
            Self::TaskStarted { input: value, .. }
            | Self::StepStarted { input: value, .. }
            | Self::TaskCompleted { output: value, .. }
            | Self::StepCompleted { output: value, .. }
            | Self::RunCompleted { output: value }
            | Self::TaskFaulted { error: value, .. }
            | Self::StepFaulted { error: value, .. }
            | Self::ErrorCaught { error: value, .. }
            | Self::RetryScheduled { error: value, .. }
            | Self::RunFaulted { error: value } => &[value],
            Self::RunStarted | Self::RunResumed | Self::TaskSkipped { .. } | Self::StepUncertain { .. } => &[],
        };
        let text = match self {
            Self::StepCompleted { log, .. } => log.iter().map(|line| line.text.len() + 40).sum(),
            Self::StepFaulted { backtrace: Some(backtrace), .. } => backtrace.len(),
            _ => 0,
        };
        BASE + text + values.iter().map(|value| json_bytes(value)).sum::<usize>()
    }

    /// The same for the journal of a run that cannot go on with its values: what was performed, with the size of
    /// an output in its place, and that the run began or was taken up. `None` for what was only computed.
    pub(crate) fn performed(self) -> Option<Self> {
        Some(match self {
            Self::StepCompleted { place, attempt, output, log, stats } => {
                let output = serde_json::json!({"omitted": json_bytes(&output)});
                Self::StepCompleted { place, attempt, output, log, stats }
            }
            Self::RunStarted | Self::RunResumed | Self::StepUncertain { .. } | Self::StepFaulted { .. } => self,
            _ => return None,
        })
    }

    /// Which task it is about.
    pub(crate) fn place(&self) -> Option<&TaskPlace> {
        match self {
            Self::TaskStarted { place, .. }
            | Self::TaskCompleted { place, .. }
            | Self::TaskSkipped { place }
            | Self::TaskFaulted { place, .. }
            | Self::StepStarted { place, .. }
            | Self::StepCompleted { place, .. }
            | Self::StepFaulted { place, .. }
            | Self::StepUncertain { place, .. }
            | Self::ErrorCaught { place, .. }
            | Self::RetryScheduled { place, .. } => Some(place),
            Self::RunStarted | Self::RunResumed | Self::RunCompleted { .. } | Self::RunFaulted { .. } => None,
        }
    }
}

/// About how long a value is as JSON.
pub(crate) fn json_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(json_bytes).sum::<usize>(),
        Value::Object(entries) => {
            2 + entries.iter().map(|(key, value)| key.len() + 4 + json_bytes(value)).sum::<usize>()
        }
    }
}
