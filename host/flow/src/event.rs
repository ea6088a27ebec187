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
        /// The same for every attempt.
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
