//! `keyward flow`: flows as files.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use keyward_flow::{Flow, FlowCall};
use keyward_model::{ConnectionFacts, Diagnostic, Severity};
use keyward_registry::Installed;
use serde_json::json;

use super::{connections, runs};
use crate::{
    commands::Context,
    compose::Base,
    diagnostics, directory,
    failure::{Exit, Failure},
    files,
    output::{style, styled},
    suggest,
};

/// What can be done with flows.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a flow without running it
    Check(CheckArguments),
}

/// Arguments of `keyward flow check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// The flow, YAML or JSON
    file: PathBuf,
}

/// Does it.
pub(crate) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let Command::Check(arguments) = command;
    let shown = arguments.file.display().to_string();
    let (source, flow, mut warnings) = read(&arguments.file)?;
    // A flow may be checked where it will never run, so what is not installed here is no fault.
    let (mut looked_up, mut is_complete) = (false, true);
    match Base::open(context).await {
        Ok(base) => {
            let missing = unresolved(context, &base, flow.calls(), Severity::Warning).await?;
            (looked_up, is_complete) = (true, missing.is_empty());
            warnings.extend(missing);
        }
        Err(failure) => context.output.say(format_args!("connectors are not looked up: {failure}")),
    }
    if !warnings.is_empty() {
        context.output.diagnostics(&shown, &source, &warnings);
    }
    let calls: Vec<_> = flow.calls().map(|call| json!({"step": call.step, "action": call.action})).collect();
    let warnings = diagnostics::to_json(&source, &warnings);
    let document = json!({
        "file": shown,
        "flow": flow.id(),
        "calls": calls,
        "looked_up": looked_up,
        "warnings": warnings,
    });
    context.output.result(&document, || {
        let id = flow.id();
        let calls = if calls.len() == 1 { "1 call".to_owned() } else { format!("{} calls", calls.len()) };
        let verdict = if is_complete { "can be run" } else { "has no fault, but lacks here what the warnings name" };
        format!("{} {}.{} {} {verdict}: {calls}", styled(style::GOOD, "✓"), id.namespace, id.name, id.version)
    })
}

/// Reads a flow that can be run, with its source and what is likely not meant in it.
pub(super) fn read(file: &Path) -> Result<(String, Flow, Vec<Diagnostic>), Failure> {
    let source = files::read_text(file)?;
    let shown = file.display().to_string();
    let (flow, warnings) =
        keyward_flow::check(&source).map_err(|faults| Failure::faults(shown, source.clone(), faults))?;
    Ok((source, flow, warnings))
}

/// Refuses a flow, shown as `shown`, where one of its `calls` names what is not here: its run would fault for good.
pub(super) async fn refuse_unresolved(
    context: &Context,
    base: &Base,
    shown: String,
    source: &str,
    calls: impl IntoIterator<Item = FlowCall>,
) -> Result<(), Failure> {
    let missing = unresolved(context, base, calls, Severity::Error).await?;
    if missing.is_empty() {
        return Ok(());
    }
    // Where only connections are missing, it ends as the call alone would.
    let of_connection = missing.iter().all(|fault| fault.code.parse().is_ok_and(runs::is_of_connection));
    let code = missing[0].code;
    let mut failure = Failure::faults(shown, source, missing);
    if of_connection {
        failure.exit = Exit::Connection;
        failure.code = code.to_owned();
    }
    Err(failure)
}

/// The calls that name something that is not here.
async fn unresolved(
    context: &Context,
    base: &Base,
    calls: impl IntoIterator<Item = FlowCall>,
    severity: Severity,
) -> Result<Vec<Diagnostic>, Failure> {
    let installed = base.registry.installed(&context.tenant).await?;
    let connected = connections::open_facts(base, context).await?;
    Ok(calls.into_iter().filter_map(|call| missing(&call, &installed, &connected, severity)).collect())
}

fn missing(
    call: &FlowCall,
    installed: &[Installed],
    connected: &[ConnectionFacts],
    severity: Severity,
) -> Option<Diagnostic> {
    let (code, message, hint) = what_is_missing(call, installed, connected)?;
    Some(Diagnostic { severity, code, message, span: Some(call.span), hint })
}

fn what_is_missing(
    call: &FlowCall,
    installed: &[Installed],
    connected: &[ConnectionFacts],
) -> Option<(&'static str, String, Option<String>)> {
    let action = &call.action;
    let Some(found) = installed.iter().find(|installed| installed.connector.name == action.connector) else {
        let names = installed.iter().map(|installed| installed.connector.name.as_str());
        let hint = suggest::nearest(action.connector.as_str(), names)
            .map(|name| format!("did you mean `{name}.{}`?", action.action))
            .or_else(|| Some("install it with `keyward plugin add`".to_owned()));
        return Some(("connector-unknown", format!("the connector '{}' is not installed", action.connector), hint));
    };
    let version = &found.connector.version;
    if action.version.as_ref().is_some_and(|pinned| pinned != version) {
        let hint = format!("version {version} is installed");
        return Some(("version-differs", format!("{action} is not installed"), Some(hint)));
    }
    if !found.manifest.actions.contains_key(&action.action) {
        let names = found.manifest.actions.keys().map(|name| name.as_str());
        let hint = suggest::hint(action.action.as_str(), names);
        let message = format!("the connector '{}' {version} has no action '{}'", action.connector, action.action);
        return Some(("action-unknown", message, hint));
    }
    let error = directory::connection_for(connected, call.connection.as_ref(), &found.manifest).err()?;
    Some((error.reason.code(), error.message, error.hint))
}
