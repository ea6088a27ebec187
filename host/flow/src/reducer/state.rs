//! Where a run stands: what a snapshot holds.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct as _};
use serde_json::Value;
use time::OffsetDateTime;

use crate::dsl::program::{ListId, TaskId};

/// The version of this form; another one cannot be read.
pub(crate) const FORMAT: u32 = 1;

/// The whole state of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) format: u32,
    /// `$context`; `None` where it is still the input of the run, which the record has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) context: Option<Value>,
    /// The tasks that have begun and not ended, from the outermost; empty before the start and after the end.
    pub(crate) frames: Vec<Frame>,
    /// How many entries the journal has.
    pub(crate) entries: u64,
    /// How many bytes they have, about.
    pub(crate) bytes: u64,
    /// How many turns the loops have taken.
    pub(crate) iterations: u64,
}

impl State {
    /// Before the start.
    pub(crate) fn new() -> Self {
        Self { format: FORMAT, context: None, frames: Vec::new(), entries: 0, bytes: 0, iterations: 0 }
    }

    /// The values that stand in entries of the journal and not in a snapshot, with the numbers of the entries.
    pub(crate) fn recorded(&mut self) -> impl Iterator<Item = (u64, Part, &mut Value)> {
        self.frames.iter_mut().flat_map(|frame| {
            let items = match &mut frame.body {
                Body::Loop { items, .. } => Some((Part::Items, items)),
                _ => None,
            };
            let values = [(Part::Input, &mut frame.input)].into_iter().chain(items);
            values.filter_map(|(part, kept)| Some((kept.entry?, part, &mut kept.value)))
        })
    }
}

/// A property of [`Event::TaskStarted`](crate::Event::TaskStarted).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Input,
    Items,
}

impl Part {
    /// This property of the event of an entry.
    pub(crate) fn of(self, event: &Value) -> Option<&Value> {
        event.get(match self {
            Self::Input => "input",
            Self::Items => "items",
        })
    }
}

/// A value that a snapshot holds, or an entry of the journal: what is large and does not change is
/// written once and not with each step.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Kept {
    /// The number of the entry that holds it.
    #[serde(default)]
    pub(crate) entry: Option<u64>,
    #[serde(default)]
    pub(crate) value: Value,
}

impl Kept {
    /// A value that a snapshot holds.
    pub(crate) fn here(value: Value) -> Self {
        Self { entry: None, value }
    }

    /// A value that the entry of this number holds.
    pub(crate) fn in_entry(entry: u64, value: Value) -> Self {
        Self { entry: Some(entry), value }
    }
}

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut kept = serializer.serialize_struct("Kept", 1)?;
        match self.entry {
            Some(entry) => kept.serialize_field("entry", &entry)?,
            None => kept.serialize_field("value", &self.value)?,
        }
        kept.end()
    }
}

/// A task that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Frame {
    /// Which task; `None` is the flow itself.
    pub(crate) task: Option<TaskId>,
    /// Its input before `input.from`, where that changed it and the end of the task looks at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) raw: Option<Value>,
    /// Its input; nothing for the flow itself, and for a call whose end does not look at it.
    pub(crate) input: Kept,
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
    Loop { items: Kept, index: u32, cursor: Cursor },
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
    /// The steps inside that failed in the tries before this one and have not completed since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failed: Vec<FailedStep>,
    /// How long each try may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<Duration>,
    /// Until when this try has to end.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub(crate) deadline: Option<OffsetDateTime>,
    /// When the next try begins, while it waits for that.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<OffsetDateTime>,
}

/// A step that failed: when its `try` comes to it again, that is another attempt at the same thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailedStep {
    /// Which, in which turn of everything around it; the same for each try.
    pub(crate) visit: String,
    /// Its idempotency key.
    pub(crate) key: String,
    /// The last attempt.
    pub(crate) attempt: u32,
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
