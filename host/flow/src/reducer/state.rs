//! Where a run stands: what a snapshot holds.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use crate::dsl::program::{ListId, TaskId};

/// The version of this form; another one cannot be read.
pub(crate) const FORMAT: u32 = 1;

/// The whole state of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) format: u32,
    /// `$context`.
    pub(crate) context: Value,
    /// The tasks that have begun and not ended, from the outermost; empty before the start and after the end.
    pub(crate) frames: Vec<Frame>,
    /// How many entries the journal has.
    pub(crate) entries: u64,
    /// How many turns the loops have taken.
    pub(crate) iterations: u64,
}

impl State {
    /// Before the start.
    pub(crate) fn new() -> Self {
        Self { format: FORMAT, context: Value::Null, frames: Vec::new(), entries: 0, iterations: 0 }
    }
}

/// A task that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Frame {
    /// Which task; `None` is the flow itself.
    pub(crate) task: Option<TaskId>,
    /// Its input before `input.from`, where that changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) raw: Option<Value>,
    /// Its input.
    pub(crate) input: Value,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) started_at: OffsetDateTime,
    pub(crate) body: Body,
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Body {
    /// The flow itself, or a `do`.
    Sequence(Cursor),
    /// A `for`.
    Loop { items: Vec<Value>, index: u32, cursor: Cursor },
    /// The tasks of a `try`.
    Attempt(Attempt),
    /// The tasks of a `catch`.
    Handler { error: Value, cursor: Cursor },
    /// An action that was invoked, or is about to be.
    Call { attempt: u32, key: String, arguments: Value },
}

/// A `try` that tries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) cursor: Cursor,
    /// How often it was tried again.
    pub(crate) retries: u32,
    /// The highest number of an attempt that a step inside had in the tries before this one.
    pub(crate) base: u32,
    /// The same with this try.
    pub(crate) seen: u32,
    /// Until when this try has to end.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub(crate) deadline: Option<OffsetDateTime>,
    /// When the next try begins, while it waits for that.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<OffsetDateTime>,
}

/// A place in a list of tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    pub(crate) list: ListId,
    /// The task that runs or comes next; the length of the list at its end.
    pub(crate) at: u32,
    /// How often `then` went back; it tells the visits of one task apart.
    pub(crate) round: u32,
    /// The input of the task that comes next; nothing while one runs.
    pub(crate) data: Value,
}

impl Cursor {
    pub(crate) fn new(list: ListId, data: Value) -> Self {
        Self { list, at: 0, round: 0, data }
    }
}

impl Body {
    pub(crate) fn cursor(&self) -> Option<&Cursor> {
        match self {
            Self::Sequence(cursor) | Self::Loop { cursor, .. } | Self::Handler { cursor, .. } => Some(cursor),
            Self::Attempt(attempt) => Some(&attempt.cursor),
            Self::Call { .. } => None,
        }
    }

    pub(crate) fn cursor_mut(&mut self) -> Option<&mut Cursor> {
        match self {
            Self::Sequence(cursor) | Self::Loop { cursor, .. } | Self::Handler { cursor, .. } => Some(cursor),
            Self::Attempt(attempt) => Some(&mut attempt.cursor),
            Self::Call { .. } => None,
        }
    }
}
