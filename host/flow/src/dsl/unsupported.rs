//! What the language has and this version does not execute, each refused by its name.

use keyward_model::{ActionRef, Diagnostic, Span};

use super::model::*;

/// It belongs to the language and may be executed one day.
pub(super) fn unsupported(what: &str, span: Span, hint: &str) -> Diagnostic {
    Diagnostic::error("unsupported", format!("{what} is not supported by this version of Keyward"), Some(span))
        .hint(hint)
}

/// It belongs to the language and will never be executed.
fn refused(what: &str, span: Span) -> Diagnostic {
    Diagnostic::error("refused", format!("Keyward does not run {what}"), Some(span))
        .hint("write a connector: it runs in a sandbox, with the network access that it declares")
}

/// Properties of the flow itself.
pub(super) fn of_flow(flow: &Workflow, diagnostics: &mut Vec<Diagnostic>) {
    if let Some(timeout) = &flow.timeout {
        diagnostics.push(unsupported("a flow's 'timeout'", timeout.span, TIMEOUT_HINT));
    }
    if let Some(schedule) = &flow.schedule {
        let hint = "remove it and start the flow with `keyward run`, for example from a system timer";
        diagnostics.push(unsupported("'schedule'", schedule.span, hint));
    }
    if let Some(evaluate) = &flow.evaluate {
        if let Some(language) = evaluate.language.as_ref().filter(|language| language.value != "jq") {
            let what = format!("the expression language '{}'", language.value);
            diagnostics.push(unsupported(&what, language.span, "write the expressions in jq"));
        }
        if let Some(mode) = evaluate.mode.as_ref().filter(|mode| mode.value != "strict") {
            let hint = "write '${ }' around each expression and leave 'mode' out";
            diagnostics.push(unsupported("the evaluation mode 'loose'", mode.span, hint));
        }
    }
    let components = &flow.components;
    let mut refuse = |what: &str, span: Option<Span>, hint: &str| {
        diagnostics.extend(span.map(|span| unsupported(what, span, hint)));
    };
    let connection = "name a connection in the metadata of a task: 'metadata: {connection: <name>}'";
    refuse("'use.authentications'", first(&components.authentications), connection);
    refuse("'use.secrets'", components.secrets.first().map(|name| name.span), connection);
    refuse("'use.extensions'", first(&components.extensions), "put its tasks before or after those that it extends");
    refuse("'use.functions'", first(&components.functions), "write the task where it is called");
    refuse("'use.timeouts'", first(&components.timeouts), TIMEOUT_HINT);
    refuse("'use.catalogs'", first(&components.catalogs), "install the connector and call '<connector>.<action>'");
}

const TIMEOUT_HINT: &str = "each action has a time limit of its own; a retry policy can limit its attempts";

fn first<T>(entries: &Named<T>) -> Option<Span> {
    entries.first().map(|(name, _)| name.span)
}

/// Properties and kind of a task.
pub(super) fn of_task(task: &Task, diagnostics: &mut Vec<Diagnostic>) {
    if let Some(timeout) = &task.timeout {
        diagnostics.push(unsupported("a task's 'timeout'", timeout.span, TIMEOUT_HINT));
    }
    let name = task.name.span;
    diagnostics.extend(match &task.kind {
        TaskKind::Call(call) => {
            let protocol = match &call.value {
                Call::AsyncApi(_) => "'call: asyncapi'",
                Call::Grpc(_) => "'call: grpc'",
                Call::Http(_) => "'call: http'",
                Call::OpenApi(_) => "'call: openapi'",
                Call::A2a(_) => "'call: a2a'",
                Call::Mcp(_) => "'call: mcp'",
                Call::Function { .. } => return,
            };
            Some(unsupported(protocol, call.span, "call an action of a connector: 'call: <connector>.<action>'"))
        }
        TaskKind::Emit(_) => Some(unsupported("'emit'", name, "call an action that sends the event")),
        TaskKind::Listen(_) => Some(unsupported("'listen'", name, "give the flow the event as its input")),
        TaskKind::Wait(_) => Some(unsupported("'wait'", name, "split the flow, and start the second part later")),
        TaskKind::Fork(_) => Some(unsupported("'fork'", name, "write the branches one after the other under 'do'")),
        TaskKind::Run(run) => Some(match &run.process.value {
            Process::Container(_) => refused("containers", run.process.span),
            Process::Script(_) => refused("scripts", run.process.span),
            Process::Shell(_) => refused("shell commands", run.process.span),
            Process::Workflow { .. } => unsupported("'run: workflow'", run.process.span, "copy its tasks under a 'do'"),
        }),
        TaskKind::Do(_) | TaskKind::For(_) | TaskKind::Raise(_) | TaskKind::Set(_) => None,
        TaskKind::Switch(_) | TaskKind::Try(_) => None,
    });
}

/// The action that a function name means.
pub(super) fn of_function(name: &str, span: Span) -> Result<ActionRef, Box<Diagnostic>> {
    const HINT: &str = "call an action of a connector: 'call: <connector>.<action>'";
    if name.contains("://") {
        return Err(Box::new(unsupported("a function from a URL", span, HINT)));
    }
    if name.rsplit_once('@').is_some_and(|(_, catalog)| catalog != "default") {
        return Err(Box::new(unsupported("a function from a catalog", span, HINT)));
    }
    let action: ActionRef = name.parse().map_err(|error: keyward_model::IdError| {
        let message = format!("'{name}' is not the name of an action");
        Box::new(Diagnostic::error("bad-action", message, Some(span)).hint(error.rule))
    })?;
    // Tasks of people are a connector of the host's own.
    if action.connector.as_str() == "human" {
        let hint = "let the flow end here, and start another with the decision as its input";
        return Err(Box::new(unsupported(&format!("'call: {name}'"), span, hint)));
    }
    Ok(action)
}
