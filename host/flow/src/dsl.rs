//! The flow language: Open Workflow DSL 1.0.3, in YAML or JSON.
//!
//! The only place with the specification's words. A source goes through three forms:
//! [`tree`] (values with their places), [`model`] (every task and property of the language, as written)
//! and a program (checked and compiled), which is what [`Flow`] holds.

pub mod duration;
mod expressions;
mod lower;
pub mod model;
mod parse;
mod parse_services;
pub(crate) mod program;
mod reader;
pub mod tree;
mod unsupported;

use std::collections::BTreeSet;

use keyward_model::{ActionRef, ConnectionName, Diagnostic, Severity, Span};
use serde::Deserialize as _;
use serde_json::Value;

use self::{
    expressions::Compiler,
    model::{Document, Workflow},
    program::{Directive, Kind, ListId, Program, TaskId, TaskNode},
    tree::Node,
};
use crate::{
    event::Event,
    expression::meter,
    journal::{Entry, FlowId},
};

/// A flow that was checked and can be executed.
#[derive(Debug)]
pub struct Flow {
    id: FlowId,
    title: Option<String>,
    program: Program,
}

/// An action that a flow calls.
#[derive(Debug, Clone)]
pub struct FlowCall {
    /// Which task (a JSON pointer into the flow).
    pub step: String,
    /// Which action.
    pub action: ActionRef,
    /// With which connection, where one is named.
    pub connection: Option<ConnectionName>,
    /// Where the action's name stands.
    pub span: Span,
}

impl Flow {
    /// Namespace, name and version.
    pub fn id(&self) -> &FlowId {
        &self.id
    }

    /// The name for people.
    pub fn title(&self) -> Option<&str> {
        self.title.as_deref()
    }

    /// The JSON Schema of the input, where there is one.
    pub fn input_schema(&self) -> Option<&Value> {
        self.program.input.schema.as_ref().map(|schema| &schema.source)
    }

    /// Whether a value can be the input; `Err` says what does not match.
    pub fn check_input(&self, input: &Value) -> Result<(), String> {
        self.program.input.schema.as_ref().map_or(Ok(()), |schema| schema.check(input))
    }

    /// The actions that it calls, in the order of the source.
    pub fn calls(&self) -> impl Iterator<Item = FlowCall> {
        self.program.tasks.iter().filter_map(call)
    }

    /// The same without those that lie behind a run with this history. What a loop, a way back by `then` or another
    /// try may come to again does not lie behind it.
    pub fn calls_ahead(&self, history: &[Entry]) -> Vec<FlowCall> {
        let mut ahead =
            Ahead { program: &self.program, began: BTreeSet::new(), ended: BTreeSet::new(), calls: Vec::new() };
        for entry in history {
            let Ok(event) = Event::deserialize(&entry.event) else { continue };
            let Some(place) = event.place() else { continue };
            let ends =
                matches!(event, Event::TaskCompleted { .. } | Event::TaskSkipped { .. } | Event::StepCompleted { .. });
            if ends {
                ahead.ended.insert(place.task.clone());
            }
            let around = std::iter::successors(Some(place.task.as_str()), |inner| Some(inner.rsplit_once('/')?.0));
            ahead.began.extend(around.map(str::to_owned));
        }
        ahead.list(self.program.root, false);
        ahead.calls
    }

    pub(crate) fn program(&self) -> &Program {
        &self.program
    }
}

fn call(task: &TaskNode) -> Option<FlowCall> {
    let Kind::Call(call) = &task.kind else { return None };
    Some(FlowCall {
        step: task.pointer.clone(),
        action: call.action.clone(),
        connection: call.connection.clone(),
        span: call.span,
    })
}

/// Collects the calls that a run may come to.
struct Ahead<'p> {
    program: &'p Program,
    /// The places (JSON pointers) of which the history has anything, or of something in them.
    began: BTreeSet<String>,
    /// Those that it saw end.
    ended: BTreeSet<String>,
    calls: Vec<FlowCall>,
}

impl Ahead<'_> {
    /// `repeats` says whether the run may come to the whole list again.
    fn list(&mut self, list: ListId, repeats: bool) {
        let program = self.program;
        let tasks = program.list(list);
        let at = tasks.iter().rposition(|task| self.has_begun(*task)).unwrap_or(0);
        let ways_back: Vec<_> = tasks
            .iter()
            .enumerate()
            .flat_map(|(from, task)| program.task(*task).directives().map(move |directive| (from, directive)))
            .filter_map(|(from, directive)| match directive {
                Directive::To(to) if to as usize <= from => Some(to as usize..=from),
                _ => None,
            })
            .collect();
        for (index, id) in tasks.iter().enumerate() {
            let task = program.task(*id);
            let repeats = repeats || ways_back.iter().any(|way| way.contains(&index));
            if !repeats && (index < at || self.ended.contains(&task.pointer)) {
                continue;
            }
            self.calls.extend(call(task));
            match &task.kind {
                Kind::Do(list) => self.list(*list, repeats),
                Kind::For(each) => self.list(each.list, true),
                Kind::Try(block) => {
                    let is_caught = block.handler.is_some_and(|handler| self.has_begun_in(handler));
                    if repeats || !is_caught {
                        self.list(block.list, repeats || block.retry.is_some());
                    }
                    if let Some(handler) = block.handler {
                        self.list(handler, repeats);
                    }
                }
                Kind::Call(_) | Kind::Raise(_) | Kind::Set(_) | Kind::Switch(_) => {}
            }
        }
    }

    fn has_begun_in(&self, list: ListId) -> bool {
        self.program.list(list).iter().any(|task| self.has_begun(*task))
    }

    fn has_begun(&self, task: TaskId) -> bool {
        self.began.contains(&self.program.task(task).pointer)
    }
}

/// Checks a source: the flow with what is suspicious about it, or everything that is wrong.
///
/// Structural faults hide those that can only be found in a well-formed flow.
pub fn check(source: &str) -> Result<(Flow, Vec<Diagnostic>), Vec<Diagnostic>> {
    // Parsers recurse through what a person wrote, so they get a large stack.
    meter::on_large_stack(|| check_here(source)).unwrap_or_else(|error| {
        Err(vec![Diagnostic::error("internal", format!("the system gives no thread to check the flow: {error}"), None)])
    })
}

/// Reads a source into the model without deciding what of it can be executed.
pub fn parse(source: &str) -> Result<Workflow, Vec<Diagnostic>> {
    let read = || {
        let root = Node::parse(source).map_err(|fault| vec![*fault])?;
        parse::workflow(&root)
    };
    meter::on_large_stack(read).unwrap_or_else(|error| {
        Err(vec![Diagnostic::error("internal", format!("the system gives no thread to read the flow: {error}"), None)])
    })
}

fn check_here(source: &str) -> Result<(Flow, Vec<Diagnostic>), Vec<Diagnostic>> {
    let root = Node::parse(source).map_err(|fault| vec![*fault])?;
    let workflow = parse::workflow(&root)?;
    let mut compiler = Compiler { source, diagnostics: document_faults(&workflow.document) };
    let program = lower::program(&workflow, &mut compiler);
    let mut diagnostics = compiler.diagnostics;
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.map_or(0, |span| span.start));
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(diagnostics);
    }
    let Document { namespace, name, version, title, .. } = workflow.document;
    let id = FlowId { namespace: namespace.value, name: name.value, version: version.value };
    Ok((Flow { id, title: title.map(|title| title.value), program }, diagnostics))
}

fn document_faults(document: &Document) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    let dsl = &document.dsl;
    match semver::Version::parse(&dsl.value) {
        Ok(version) if (version.major, version.minor) == (1, 0) && version.pre.is_empty() => {}
        Ok(_) => faults.push(
            Diagnostic::error("dsl-version", format!("Keyward knows no DSL {}", dsl.value), Some(dsl.span))
                .hint("write 'dsl: 1.0.3'"),
        ),
        Err(_) => faults.push(
            Diagnostic::error("dsl-version", format!("'{}' is no version of the DSL", dsl.value), Some(dsl.span))
                .hint("write 'dsl: 1.0.3'"),
        ),
    }
    for (what, text) in [("namespace", &document.namespace), ("name", &document.name)] {
        let label = text.value.as_bytes();
        let good = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        let edges = label.first() != Some(&b'-') && label.last() != Some(&b'-');
        if label.is_empty() || label.len() > 63 || !edges || !label.iter().all(good) {
            faults.push(
                Diagnostic::error("bad-value", format!("'{}' is no {what} of a flow", text.value), Some(text.span))
                    .hint("use 1 to 63 letters, digits and '-', and no '-' at either end"),
            );
        }
    }
    let version = &document.version;
    if let Err(error) = semver::Version::parse(&version.value) {
        let message = format!("'{}' is no version: {error}", version.value);
        let fault = Diagnostic::error("bad-value", message, Some(version.span));
        faults.push(fault.hint("use a semantic version, for example '1.0.0'"));
    }
    faults
}

#[cfg(test)]
mod tests;
