//! `keyward runs`: what became of flows.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use keyward_flow::{
    Engine, EngineError, JournalError, Stop,
    journal::{Entry, Journal, RunPhase, RunRecord},
};
use keyward_model::{Reason, RunId};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::flow;
use crate::{
    commands::Context,
    compose::{Base, Host},
    failure::{Exit, Failure},
    output::{self, style, styled},
    policy::Current,
    progress::{self, Live},
    signals,
};

/// What to do where there are no runs.
const START: &str = "start one with `keyward run <flow>`";

/// What can be done with runs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the newest
    List(ListArguments),
    /// Show one: every step with its attempts, inputs and outputs
    Show(ShowArguments),
    /// Go on with one that was interrupted
    Resume(ResumeArguments),
}

/// Arguments of `keyward runs list`.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// At most so many
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 20)]
    limit: u32,
}

/// Arguments of `keyward runs show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// The run's id [default: the newest]
    run: Option<RunId>,
}

/// Arguments of `keyward runs resume`.
#[derive(Debug, Args)]
pub(crate) struct ResumeArguments {
    /// The run's id
    run: RunId,
}

/// Does it.
pub(crate) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(arguments) => list(context, arguments).await,
        Command::Show(arguments) => show(context, arguments).await,
        Command::Resume(arguments) => resume(context, arguments).await,
    }
}

async fn list(context: &Context, arguments: ListArguments) -> Result<(), Failure> {
    let base = Base::open(context).await?;
    let all = base.store.runs(&context.tenant, arguments.limit).await?;
    context.output.result(&all.iter().map(document).collect::<Vec<_>>(), || {
        if all.is_empty() {
            return "There are no runs.".to_owned();
        }
        output::table(
            ["run", "flow", "phase", "started", "changed"],
            all.iter().map(|record| {
                [
                    record.id.to_string(),
                    flow(record),
                    progress::phase(record.phase).to_owned(),
                    output::moment(record.created_at),
                    output::moment(record.updated_at),
                ]
            }),
        )
    })?;
    if all.is_empty() {
        context.output.hint(START);
    }
    Ok(())
}

async fn show(context: &Context, arguments: ShowArguments) -> Result<(), Failure> {
    let base = Base::open(context).await?;
    let run = match arguments.run {
        Some(run) => run,
        None => match base.store.runs(&context.tenant, 1).await?.first() {
            Some(newest) => newest.id,
            None => return Err(Failure::new(Exit::Usage, "run-unknown", "there are no runs").hint(START)),
        },
    };
    let (record, history) = base.store.history(&context.tenant, &run).await?;
    let whole = json!({"run": record, "entries": history});
    context.output.result(&whole, || describe(&record, &history))?;
    if !record.phase.is_final() {
        context.output.hint(format_args!("go on with it: keyward runs resume {run}"));
    }
    Ok(())
}

fn describe(record: &RunRecord, history: &[Entry]) -> String {
    let took = Duration::try_from(record.updated_at - record.created_at).unwrap_or_default();
    let facts = output::facts([
        ("run", record.id.to_string()),
        ("flow", flow(record)),
        ("by", record.principal.to_string()),
        ("phase", progress::phase(record.phase).to_owned()),
        ("started", output::moment(record.created_at)),
        ("changed", format!("{} ({} later)", output::moment(record.updated_at), output::duration(took))),
        ("input", progress::summary(&record.input)),
    ]);
    let lines = history.iter().filter_map(|entry| {
        let after = Duration::try_from(entry.at - record.created_at).unwrap_or_default();
        let after = styled(style::FAINT, format_args!("{:>9}", format!("+{:.3}s", after.as_secs_f64())));
        let text = match progress::event(entry) {
            Some(event) => progress::details(&event)?,
            None => format!("something that this version does not know: {}", progress::summary(&entry.event)),
        };
        // What stands below the first line of an event is set under it.
        Some(format!("{after}  {}", text.replace('\n', &format!("\n{:11}", ""))))
    });
    let mut text = format!("{facts}\n\n{}", lines.collect::<Vec<_>>().join("\n"));
    if let Some(output) = &record.output {
        text.push_str(&format!("\n\n{}  {}", styled(style::STRONG, "output"), progress::summary(output)));
    }
    text
}

/// Starts a run of the flow `source` and sees it to its end. `usage` is what the flow takes, for whoever gives it
/// something else; `warnings` is what is likely not meant in it, for a program.
pub(super) async fn begin(
    context: &Context,
    host: &Host,
    source: &str,
    input: Value,
    usage: Option<String>,
    warnings: Value,
) -> Result<(), Failure> {
    let (live, stop) = (Arc::new(Live::new(context.output, "Starting")), Stop::default());
    let engine = host.engine(live.clone());
    let started = engine.start(&context.tenant, &context.principal, source, input).await;
    let run = started.map_err(|error| {
        let usage = usage.filter(|_| matches!(error, EngineError::Input(_)));
        Failure::from(error).maybe_hint(usage.map(|usage| format!("it takes: {usage}")))
    })?;
    live.say(format_args!("{} {run}", styled(style::FAINT, "run")));
    let record = finish(&live, run, &stop, engine.run(&context.tenant, &run, &stop)).await?;
    let mut document = document(&record);
    document["warnings"] = warnings;
    outcome(context, record, document)
}

async fn resume(context: &Context, arguments: ResumeArguments) -> Result<(), Failure> {
    let base = Base::open(context).await?;
    // An unknown run is told before a passphrase is asked for.
    let (record, history) = base.store.history(&context.tenant, &arguments.run).await?;
    if record.phase.is_final() {
        context.output.say(format_args!("run {} has ended already", record.id));
        let document = document(&record);
        return outcome(context, record, document);
    }
    still_there(context, &base, &record, &history).await?;
    let policy = Current::in_force(context, &base.config, &base.store).await?;
    let host = Host::over(base.unlock(context).await?, policy)?;
    let (live, stop) = (Arc::new(Live::new(context.output, "Taking it up")), Stop::default());
    let engine = host.engine(live.clone());
    let taken_up = take_up(context, &live, &engine, &arguments.run, &stop);
    let record = finish(&live, arguments.run, &stop, taken_up).await?;
    let document = document(&record);
    outcome(context, record, document)
}

/// Whether all is here that the run may still call. Without it the run would fault for good, and so it waits where it
/// is.
async fn still_there(context: &Context, base: &Base, record: &RunRecord, history: &[Entry]) -> Result<(), Failure> {
    // What this version cannot execute is told by the engine.
    let Ok((checked, _)) = keyward_flow::check(&record.source) else { return Ok(()) };
    let shown = format!("the flow of run {}", record.id);
    let ahead = checked.calls_ahead(history);
    flow::refuse_unresolved(context, base, shown, &record.source, ahead).await.map_err(|failure| {
        failure
            .hint(format!("when that is mended, go on with it: keyward runs resume {}", record.id))
            .detail("run", record.id.to_string())
    })
}

/// Runs a run on. A process that was killed keeps its claim for some seconds, which are waited for once; a claim that
/// grows meanwhile is that of a process which is alive.
async fn take_up(
    context: &Context,
    live: &Live,
    engine: &Engine,
    run: &RunId,
    stop: &Stop,
) -> Result<RunRecord, EngineError> {
    match engine.run(&context.tenant, run, stop).await {
        Err(EngineError::Journal(JournalError::Leased { until, .. })) => {
            live.say(format_args!(
                "waiting until {}, when the claim of the process that had it ends",
                output::moment(until)
            ));
            let rest = Duration::try_from(until - OffsetDateTime::now_utc()).unwrap_or_default();
            // A moment more, as the claim must be past and not just ending.
            tokio::select! {
                () = tokio::time::sleep(rest + Duration::from_millis(50)) => {}
                () = stop.requested() => return Err(EngineError::Stopped { run: *run }),
            }
            engine.run(&context.tenant, run, stop).await
        }
        result => result,
    }
}

/// Waits for the end of a run, or for somebody who interrupts it: the first time the step under way is finished,
/// the second time nothing is.
async fn finish(
    live: &Live,
    run: RunId,
    stop: &Stop,
    running: impl Future<Output = Result<RunRecord, EngineError>>,
) -> Result<RunRecord, Failure> {
    signals::take();
    let mut running = pin!(running);
    let ended = loop {
        tokio::select! {
            ended = &mut running => break ended,
            () = signals::asked(if stop.is_requested() { 2 } else { 1 }) => {
                if stop.is_requested() {
                    break Err(EngineError::Stopped { run });
                }
                stop.request();
                live.say("finishing the step under way; press Ctrl-C again to stop at once");
            }
        }
    };
    live.end();
    ended.map_err(|error| Failure::from(error).detail("run", run.to_string()))
}

/// Shows how a run ended; `document` is for a program.
fn outcome(context: &Context, record: RunRecord, document: Value) -> Result<(), Failure> {
    if context.output.is_json() {
        context.output.document(&document)?;
    } else if let Some(output) = &record.output {
        context.output.document(output)?;
    }
    match (record.phase, &record.error) {
        (RunPhase::Faulted, Some(error)) => Err(faulted(&record, error)),
        _ => {
            context
                .output
                .show(styled(style::FAINT, format_args!("run {} {}", record.id, progress::phase(record.phase))));
            Ok(())
        }
    }
}

fn faulted(record: &RunRecord, error: &Value) -> Failure {
    let text = |name: &str| error.get(name).and_then(Value::as_str);
    let kind = text("type").and_then(|kind| kind.rsplit('/').next()).unwrap_or("runtime");
    let reason = text("reason").and_then(|code| code.parse::<Reason>().ok());
    // As it would be for the action alone; an error that the flow itself raises is a failure of the flow.
    let exit = match (reason, kind) {
        (Some(reason), _) if is_of_connection(reason) => Exit::Connection,
        (Some(_), "authorization") => Exit::Denied,
        _ => Exit::Failed,
    };
    let code = reason.map_or("flow-faulted", Reason::code);
    let place = text("instance")
        .filter(|place| !place.is_empty())
        .map(|instance| format!(" at {instance}"))
        .unwrap_or_default();
    let look = (exit == Exit::Connection).then_some("`keyward connections list` shows which one needs attention");
    let message = format!("run {} faulted{place}: {}", record.id, progress::problem(error));
    Failure::new(exit, code, message)
        .maybe_hint(text("hint"))
        .maybe_hint(look)
        .hint(format!("see its history: keyward runs show {}", record.id))
        .detail("run", record.id.to_string())
        .detail("problem", error.clone())
}

/// Whether what is missing is a connection that works.
pub(super) fn is_of_connection(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ReconnectRequired
            | Reason::ConnectionMissing
            | Reason::ConnectionUnknown
            | Reason::ConnectionWrongProvider
    )
}

/// A run without its source; `keyward runs show --json` has that too.
fn document(record: &RunRecord) -> Value {
    json!({
        "id": record.id,
        "flow": record.flow,
        "principal": record.principal,
        "phase": record.phase,
        "input": record.input,
        "output": record.output,
        "error": record.error,
        "created_at": output::rfc3339(record.created_at),
        "updated_at": output::rfc3339(record.updated_at),
    })
}

fn flow(record: &RunRecord) -> String {
    format!("{}.{} {}", record.flow.namespace, record.flow.name, record.flow.version)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_flow_that_faults_ends_like_the_action_that_made_it_fault() {
        let record: RunRecord = serde_json::from_value(json!({
            "id": RunId::new(), "tenant": "default", "principal": {"kind": "local-administrator", "id": "local"},
            "flow": {"namespace": "n", "name": "f", "version": "1.0.0"}, "source": "", "input": {},
            "phase": "faulted", "output": null, "error": null,
            "created_at": "2026-11-22T13:00:00Z", "updated_at": "2026-11-22T13:00:01Z",
        }))
        .unwrap();
        for (kind, reason, exit) in [
            ("authentication", Some("reconnect-required"), Exit::Connection),
            ("authorization", Some("path-not-allowed"), Exit::Denied),
            ("authorization", None, Exit::Failed),
            ("communication", Some("action-failed"), Exit::Failed),
        ] {
            let error = json!({"type": format!("https://x/{kind}"), "reason": reason, "detail": "d", "hint": "h"});
            let failure = faulted(&record, &error);
            assert_eq!((failure.exit, failure.hints[0].as_str()), (exit, "h"), "{kind} {reason:?}");
        }
    }
}
