//! `keyward call`: one action, outside of a flow.

use std::time::Duration;

use clap::Args;
use keyward_egress::record_refusal;
use keyward_model::{
    ActionCall, ActionOutcome, ActionRef, ConnectionName, InvokeError, LogLevel, LogLine, Reason,
    manifest::{Action, Manifest},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    commands::Context,
    compose::{Base, Host},
    failure::{Exit, Failure},
    input,
    output::{self, Output, style, styled},
    policy::Current,
    signals,
};

/// Arguments of `keyward call`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  keyward call github.list-issues owner=octo-org repository=hello\n  \
    keyward call github.create-issue --input @issue.json labels:='[\"bug\"]'")]
pub(crate) struct Arguments {
    /// The action: <connector>.<action>, with ':<version>@default' to pin a version
    action: ActionRef,
    /// Inputs, read as the types that the action declares; name:=value takes JSON
    #[arg(value_name = "NAME=VALUE")]
    arguments: Vec<String>,
    /// The input: JSON, '@<file>' or '-' for standard input; NAME=VALUE goes above it
    #[arg(long, short, value_name = "JSON", allow_hyphen_values = true)]
    input: Option<String>,
    /// The connection [default: the only one of the connector's provider]
    #[arg(long, short)]
    connection: Option<ConnectionName>,
    /// The idempotency key, the same for each attempt of one intention [default: a new one]
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Show what the action logs, down to debug
    #[arg(long, short)]
    verbose: bool,
}

/// Calls it.
pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let output = context.output;
    let base = Base::open(context).await?;
    let named = arguments.connection.clone();
    let mut call = ActionCall {
        tenant: context.tenant.clone(),
        principal: context.principal.clone(),
        on_behalf_of: None,
        flow: None,
        run: None,
        step: None,
        attempt: 1,
        action: arguments.action.clone(),
        connection: arguments.connection,
        input: Value::Null,
        idempotency_key: arguments.idempotency_key.unwrap_or_else(|| Uuid::new_v4().to_string()),
    };
    // What is wrong with the command line is told before a passphrase is asked for.
    let (installed, action) = match base.registry.find(&call.tenant, &call.action).await {
        Ok(found) => found,
        Err(error) => {
            record_refusal(&base.store, &call, error.reason()).await?;
            return Err(error.into());
        }
    };
    let given = input::read(arguments.input.as_deref()).await?;
    call.input = match input::with_arguments(given, &arguments.arguments, &action.input, "action") {
        Ok(input) => input,
        Err(failure) => {
            record_refusal(&base.store, &call, Reason::InputInvalid).await?;
            return Err(failure);
        }
    };
    let policy = match Current::in_force(context, &base.config, &base.store).await {
        Ok(policy) => policy,
        Err(failure) => {
            record_refusal(&base.store, &call, Reason::PolicyDenied).await?;
            return Err(failure);
        }
    };
    let host = Host::over(base.unlock(context).await?, policy)?;

    let spinner = output.spinner(format!("Calling {}", arguments.action));
    let outcome = tokio::select! {
        outcome = host.invoke.invoke(call) => outcome,
        () = signals::interrupted() => {
            return Err(Failure::new(Exit::Interrupted, "interrupted", "interrupted; the call was stopped")
                .hint("`keyward audit` shows which requests went out"));
        }
    };
    drop(spinner);
    let level = if arguments.verbose { LogLevel::Debug } else { LogLevel::Info };
    let outcome = outcome.map_err(|error| {
        // A crash comes with its last lines.
        if arguments.verbose || error.backtrace.is_none() {
            show_log(output, &error.log, level);
        }
        let remedy = remedy(&error, &arguments.action, &installed.manifest, named.as_ref(), &action);
        Failure::from(error).maybe_hint(remedy).detail("action", arguments.action.to_string())
    })?;
    show_log(output, &outcome.log, level);
    if !output.is_json() {
        // The output is JSON for people too: it is what the next program wants to read.
        output.document(&outcome.output)?;
        output.show(styled(style::FAINT, summary(&outcome)));
        return Ok(());
    }
    output.document(&json!({
        "connector": installed.connector,
        "action": arguments.action,
        "output": outcome.output,
        "log": outcome.log,
        "stats": outcome.stats,
    }))
}

/// The command that mends the cause, where there is one and the error does not name it.
fn remedy(
    error: &InvokeError,
    called: &ActionRef,
    manifest: &Manifest,
    named: Option<&ConnectionName>,
    action: &Action,
) -> Option<String> {
    let again = |what: &str| {
        let provider = manifest.provider.as_ref()?;
        let name = named.map(|name| format!(" --name {name}")).unwrap_or_default();
        Some(format!("keyward connect {provider} --reconnect{name}{what}"))
    };
    let told = error.hint.as_ref().is_some_and(|hint| hint.contains("keyward connect "));
    match error.reason {
        Reason::ReconnectRequired | Reason::InsufficientScope if told => None,
        Reason::ReconnectRequired => again(""),
        Reason::InsufficientScope => again(&format!(" --for {}.{}", called.connector, called.action)),
        // A schema's own words do not say how to write it at the command line.
        Reason::InputInvalid => input::usage(&action.input).map(|usage| format!("it takes: {usage}")),
        _ => None,
    }
}

/// What the guest logged, to standard error.
fn show_log(output: Output, log: &[LogLine], least: LogLevel) {
    for line in log.iter().filter(|line| line.level >= least) {
        let (word, look) = match line.level {
            LogLevel::Trace => ("trace", style::FAINT),
            LogLevel::Debug => ("debug", style::FAINT),
            LogLevel::Info => ("info", style::GOOD),
            LogLevel::Warn => ("warn", style::ODD),
            LogLevel::Error => ("error", style::BAD),
        };
        output.show(format_args!("{} {}", styled(look, format_args!("{word:>5}")), output::clean(&line.text)));
    }
}

fn summary(outcome: &ActionOutcome) -> String {
    let stats = outcome.stats;
    format!(
        "{} in {}, {} sent, {} received, {} of memory",
        if stats.requests == 1 { "1 request".to_owned() } else { format!("{} requests", stats.requests) },
        output::duration(Duration::from_micros(stats.wall_us)),
        output::bytes(stats.request_bytes),
        output::bytes(stats.response_bytes),
        output::bytes(stats.memory_bytes),
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use keyward_model::InvokeErrorKind;

    use super::*;

    #[test]
    fn a_failure_names_the_command_that_mends_it() {
        let manifest: Manifest = serde_json::from_value(json!({
            "name": "github", "version": "1.0.0", "title": "G", "provider": "github",
            "actions": {"get": {"title": "Get", "input": {"properties": {"id": {"type": "integer"}}}}},
        }))
        .unwrap();
        let (action, name) = (manifest.actions.values().next().unwrap(), "work".parse().unwrap());
        let called = "github.get:1.0.0@default".parse().unwrap();
        for (reason, named, expected) in [
            (Reason::ReconnectRequired, None, Some("keyward connect github --reconnect")),
            (Reason::ReconnectRequired, Some(&name), Some("keyward connect github --reconnect --name work")),
            (Reason::InsufficientScope, None, Some("keyward connect github --reconnect --for github.get")),
            (Reason::InputInvalid, None, Some("it takes: [id=<integer>]")),
            (Reason::Unreachable, None, None),
        ] {
            let error = InvokeError::new(InvokeErrorKind::Connection, reason, "x");
            assert_eq!(remedy(&error, &called, &manifest, named, action).as_deref(), expected, "{reason}");
        }
        for reason in [Reason::ReconnectRequired, Reason::InsufficientScope] {
            let told = InvokeError::new(InvokeErrorKind::Connection, reason, "x")
                .hint("its owner runs `keyward connect github --reconnect --name work`");
            assert_eq!(remedy(&told, &called, &manifest, None, action), None, "it is said once: {reason}");
        }
    }
}
