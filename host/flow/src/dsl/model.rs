//! The Open Workflow DSL 1.0.3 as it is written: every task and every property of its schema.
//!
//! Nothing here is checked beyond its shape. What a value may be in its place, and what is executed,
//! is decided where the model is lowered into a program.

mod services;

use keyward_model::Span;
use serde_json::Value;

pub use self::services::*;
use super::{duration::DurationSource, tree::Node};

/// A value and where it stands in the source.
#[derive(Debug, Clone)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

/// Entries with a name, in the order of the source.
pub type Named<T> = Vec<(Placed<String>, T)>;

/// A whole flow (`workflow`).
#[derive(Debug, Clone)]
pub struct Workflow {
    /// `document`.
    pub document: Document,
    /// `input`.
    pub input: Option<Input>,
    /// `use`.
    pub components: Components,
    /// `do`.
    pub tasks: TaskList,
    /// `timeout`.
    pub timeout: Option<Placed<Timeout>>,
    /// `output`.
    pub output: Option<Output>,
    /// `schedule`.
    pub schedule: Option<Placed<Schedule>>,
    /// `evaluate`.
    pub evaluate: Option<Evaluate>,
    /// The whole source as a value: `$workflow.definition`.
    pub definition: Value,
}

/// `document`.
#[derive(Debug, Clone)]
pub struct Document {
    /// `dsl`: the version of the language.
    pub dsl: Placed<String>,
    /// `namespace`.
    pub namespace: Placed<String>,
    /// `name`.
    pub name: Placed<String>,
    /// `version`.
    pub version: Placed<String>,
    /// `title`.
    pub title: Option<Placed<String>>,
    /// `summary`.
    pub summary: Option<Placed<String>>,
    /// `tags`.
    pub tags: Option<Node>,
    /// `metadata`.
    pub metadata: Option<Node>,
}

/// `use`: components that are referred to by name.
#[derive(Debug, Clone, Default)]
pub struct Components {
    /// `authentications`.
    pub authentications: Named<Authentication>,
    /// `errors`.
    pub errors: Named<ErrorDefinition>,
    /// `extensions`.
    pub extensions: Named<Extension>,
    /// `functions`.
    pub functions: Named<Task>,
    /// `retries`.
    pub retries: Named<RetryPolicy>,
    /// `secrets`.
    pub secrets: Vec<Placed<String>>,
    /// `timeouts`.
    pub timeouts: Named<DurationSource>,
    /// `catalogs`.
    pub catalogs: Named<Endpoint>,
}

/// `evaluate`.
#[derive(Debug, Clone)]
pub struct Evaluate {
    /// `language`.
    pub language: Option<Placed<String>>,
    /// `mode`: `strict` or `loose`.
    pub mode: Option<Placed<String>>,
}

/// `schedule`.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// `every`.
    pub every: Option<DurationSource>,
    /// `cron`.
    pub cron: Option<Placed<String>>,
    /// `after`.
    pub after: Option<DurationSource>,
    /// `on`.
    pub on: Option<Consumption>,
    /// `read`: `data`, `envelope` or `raw`.
    pub read: Option<Placed<String>>,
}

/// Tasks in order.
pub type TaskList = Vec<Task>;

/// A task with its name.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its name.
    pub name: Placed<String>,
    /// Where its definition stands.
    pub span: Span,
    /// `if`.
    pub condition: Option<Placed<String>>,
    /// `input`.
    pub input: Option<Input>,
    /// `output`.
    pub output: Option<Output>,
    /// `export`.
    pub export: Option<Output>,
    /// `timeout`.
    pub timeout: Option<Placed<Timeout>>,
    /// `then`.
    pub then: Option<Placed<String>>,
    /// `metadata`.
    pub metadata: Option<Node>,
    /// What it does.
    pub kind: TaskKind,
    /// The whole definition as a value: `$task.definition`.
    pub definition: Value,
}

/// What a task does.
#[derive(Debug, Clone)]
pub enum TaskKind {
    /// `call`.
    Call(Placed<Call>),
    /// `do`.
    Do(TaskList),
    /// `emit`: the properties of the event.
    Emit(Node),
    /// `for`.
    For(Box<For>),
    /// `fork`.
    Fork(Fork),
    /// `listen`.
    Listen(Box<Listen>),
    /// `raise`.
    Raise(ErrorOrName),
    /// `run`.
    Run(Box<Run>),
    /// `set`.
    Set(Node),
    /// `switch`.
    Switch(Named<Case>),
    /// `try`.
    Try(Box<Try>),
    /// `wait`.
    Wait(DurationSource),
}

/// `for`.
#[derive(Debug, Clone)]
pub struct For {
    /// `for.each`.
    pub each: Option<Placed<String>>,
    /// `for.in`: an expression, or a list.
    pub collection: Node,
    /// `for.at`.
    pub at: Option<Placed<String>>,
    /// `while`.
    pub condition: Option<Placed<String>>,
    /// `do`.
    pub tasks: TaskList,
}

/// `fork`.
#[derive(Debug, Clone)]
pub struct Fork {
    /// `branches`.
    pub branches: TaskList,
    /// `compete`.
    pub compete: bool,
}

/// An error, or the name of one of `use.errors`.
#[derive(Debug, Clone)]
pub enum ErrorOrName {
    /// Defined in place.
    Inline(Box<ErrorDefinition>),
    /// By name.
    Name(Placed<String>),
}

/// `error`.
#[derive(Debug, Clone)]
pub struct ErrorDefinition {
    /// `type`.
    pub kind: Placed<String>,
    /// `status`.
    pub status: Placed<i64>,
    /// `instance`.
    pub instance: Option<Placed<String>>,
    /// `title`.
    pub title: Option<Placed<String>>,
    /// `detail`.
    pub detail: Option<Placed<String>>,
}

/// A case of `switch`.
#[derive(Debug, Clone)]
pub struct Case {
    /// `when`.
    pub when: Option<Placed<String>>,
    /// `then`.
    pub then: Placed<String>,
}

/// `try`.
#[derive(Debug, Clone)]
pub struct Try {
    /// `try`.
    pub tasks: TaskList,
    /// `catch.errors.with`.
    pub filter: Option<ErrorFilter>,
    /// `catch.as`.
    pub variable: Option<Placed<String>>,
    /// `catch.when`.
    pub when: Option<Placed<String>>,
    /// `catch.exceptWhen`.
    pub except_when: Option<Placed<String>>,
    /// `catch.retry`.
    pub retry: Option<RetryOrName>,
    /// `catch.do`.
    pub handler: Option<TaskList>,
    /// `catch.then`.
    pub then: Option<Placed<String>>,
}

/// `errors.with`: each property that is set must be equal.
#[derive(Debug, Clone)]
pub struct ErrorFilter {
    /// `type`.
    pub kind: Option<Placed<String>>,
    /// `status`.
    pub status: Option<i64>,
    /// `instance`.
    pub instance: Option<Placed<String>>,
    /// `title`.
    pub title: Option<Placed<String>>,
    /// `detail`.
    pub detail: Option<Placed<String>>,
}

/// A retry policy, or the name of one of `use.retries`.
#[derive(Debug, Clone)]
pub enum RetryOrName {
    /// Defined in place.
    Inline(Box<RetryPolicy>),
    /// By name.
    Name(Placed<String>),
}

/// `retryPolicy`.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Where it stands.
    pub span: Span,
    /// `when`.
    pub when: Option<Placed<String>>,
    /// `exceptWhen`.
    pub except_when: Option<Placed<String>>,
    /// `delay`.
    pub delay: Option<DurationSource>,
    /// `backoff`.
    pub backoff: Option<Placed<Backoff>>,
    /// `limit.attempt.count`.
    pub count: Option<Placed<i64>>,
    /// `limit.attempt.duration`.
    pub attempt_time: Option<DurationSource>,
    /// `limit.duration`.
    pub total_time: Option<DurationSource>,
    /// `jitter`: `from` and `to`.
    pub jitter: Option<(DurationSource, DurationSource)>,
}

/// How the delay grows from one retry to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backoff {
    /// Not at all.
    Constant,
    /// By the delay each time.
    Linear,
    /// Twofold each time.
    Exponential,
}

/// A timeout, or the name of one of `use.timeouts`.
#[derive(Debug, Clone)]
pub enum Timeout {
    /// `after`.
    After(DurationSource),
    /// By name.
    Name(String),
}

/// `input`.
#[derive(Debug, Clone)]
pub struct Input {
    /// `schema`.
    pub schema: Option<Schema>,
    /// `from`: an expression, or an object with expressions in it.
    pub from: Option<Node>,
}

/// `output` and `export`.
#[derive(Debug, Clone)]
pub struct Output {
    /// `schema`.
    pub schema: Option<Schema>,
    /// `as`: an expression, or an object with expressions in it.
    pub form: Option<Node>,
}

/// `schema`.
#[derive(Debug, Clone)]
pub struct Schema {
    /// `format`.
    pub format: Option<Placed<String>>,
    /// Where the schema is.
    pub source: SchemaSource,
}

/// Where a schema is.
#[derive(Debug, Clone)]
pub enum SchemaSource {
    /// `document`.
    Inline(Node),
    /// `resource`.
    Resource(Placed<Resource>),
}

/// `extension`.
#[derive(Debug, Clone)]
pub struct Extension {
    /// `extend`.
    pub extend: Placed<String>,
    /// `when`.
    pub when: Option<Placed<String>>,
    /// `before`.
    pub before: TaskList,
    /// `after`.
    pub after: TaskList,
}
