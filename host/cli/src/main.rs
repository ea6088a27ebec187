//! The `keyward` command.
//!
//! Read in this order: [`arguments`] (what can be asked for), [`compose`] (how the crates are put together),
//! [`config`] (where things are), then the commands, one module each. What people see is made in [`output`], how a
//! command fails in [`failure`].

mod arguments;
mod commands;
mod compiler;
mod compose;
mod config;
mod diagnostics;
mod directory;
mod failure;
mod faults;
mod files;
mod input;
mod output;
mod policy;
mod progress;
mod redirect;
mod scopes;
mod sdk;
mod secrets;
mod signals;
mod suggest;
mod telemetry;
mod toolchain;

use std::process::ExitCode;

use clap::error::ErrorKind;
use tokio::runtime::Handle;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{FilterExt as _, LevelFilter, filter_fn},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    arguments::Cli,
    commands::Context,
    config::TelemetryTable,
    failure::{Exit, Failure},
    output::Output,
    telemetry::Telemetry,
};

fn main() -> ExitCode {
    // Before anything else: from here on no secret of this process can end in a core dump.
    keyward_vault::harden_process();
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let context = Context::new(cli.globals.clone());
    end(context.output, start(&context, cli.command))
}

/// Tells why the command failed, where it did, and with which code it ends.
fn end(output: Output, done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit.code())
        }
    }
}

fn start(context: &Context, command: arguments::Command) -> Result<(), Failure> {
    // reqwest would otherwise choose by the features of whoever else is linked in.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Err(Failure::new(Exit::Internal, "internal", "a cryptography provider was installed before ours"));
    }
    // Guests run on these threads. Looking for I/O after each of them keeps the others' requests moving.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(1).build();
    let runtime = runtime.map_err(|error| {
        Failure::new(Exit::Environment, "no-threads", "cannot start the threads to work with").because(&error)
    })?;
    signals::listen()
        .map_err(|error| Failure::new(Exit::Environment, "no-signals", "cannot listen for signals").because(&error))?;
    let telemetry = log(context, runtime.handle())?;
    let done = runtime.block_on(async {
        tokio::select! {
            done = commands::run(context, command) => done,
            () = signals::interrupted_untaken() => Err(Failure::new(Exit::Interrupted, "interrupted", "interrupted")),
        }
    });
    telemetry.flush();
    // A blocking read of standard input must not keep the process after its work is done.
    runtime.shutdown_background();
    done
}

/// Starts logging to standard error, and telling those who watch.
fn log(context: &Context, runtime: &Handle) -> Result<Telemetry, Failure> {
    // Commands that need no configuration work where it is missing or broken; its log level then does not count.
    let (filter, watchers) = context.config().map_or_else(
        |_| (context.globals.log.clone().unwrap_or_else(|| "warn".to_owned()), TelemetryTable::default()),
        |config| (config.log, config.telemetry),
    );
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        Failure::new(Exit::Usage, "log-filter-invalid", format!("{filter:?} is not a log filter"))
            .because(&error)
            .hint("write a level (error, warn, info, debug, trace) or 'target=level' with commas")
    })?;
    let telemetry = Telemetry::start(&watchers, runtime);
    let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(output::colour_on_stderr());
    let text = if context.output.is_json() { text.json().boxed() } else { text.boxed() };
    // The exporters tell of each attempt that failed; what counts is told once, at the end.
    let quiet = filter_fn(|of| !of.target().starts_with("opentelemetry")).with_max_level_hint(LevelFilter::TRACE);
    let text = text.with_filter(filter.and(quiet));
    tracing_subscriber::registry().with(telemetry.layers()).with(text).init();
    for fault in &telemetry.faults {
        tracing::warn!("{fault}");
    }
    Ok(telemetry)
}

/// Ends the process for a command line that asks for help or cannot be understood.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let output = Output::new(false, false);
        return end(output, output.text(&error.render().ansi().to_string()));
    }
    // The command line could not be parsed, so what it asks for is looked up in its words.
    if std::env::args_os().any(|argument| argument == "--json") {
        return end(Output::new(true, false), Err(usage(error)));
    }
    let _ = error.print();
    ExitCode::from(Exit::Usage.code())
}

/// What clap tells a person of a command line that cannot be understood, for a program.
fn usage(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let message = match error.kind() {
        // Its text is the help.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing".to_owned(),
        // What is missing stands on lines of its own, and an empty one ends them.
        _ => text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" "),
    };
    let tip = text.lines().find_map(|line| line.trim_start().strip_prefix("tip: "));
    Failure::new(Exit::Usage, "usage", message.trim_start_matches("error: "))
        .maybe_hint(tip)
        .hint("see `keyward --help`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_told_all_that_is_wrong_with_the_command_line() {
        for (arguments, expected) in [
            (&["connect"][..], "the following required arguments were not provided: <PROVIDER>"),
            (&["flow"], "a command is missing"),
            (&["doctor", "--jsn"], "unexpected argument '--jsn' found"),
            (
                &["completions", "dash"],
                "invalid value 'dash' for '<SHELL>' [possible values: bash, elvish, fish, powershell, zsh]",
            ),
        ] {
            let error = Cli::read(["keyward"].iter().chain(arguments)).err().map(|error| usage(&error).message.clone());
            assert_eq!(error.as_deref(), Some(expected));
        }
    }
}
