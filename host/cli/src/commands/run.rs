//! `keyward run`: a flow from its start to its end.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{flow, runs};
use crate::{
    commands::Context,
    compose::{Base, Host},
    diagnostics,
    failure::Failure,
    input,
    policy::Current,
};

/// Arguments of `keyward run`.
#[derive(Debug, Args)]
#[command(
    after_help = "What a run does is recorded before it is told. A run that was interrupted, even by a power cut, \
    goes on with `keyward runs resume`; no recorded step is made twice."
)]
pub(crate) struct Arguments {
    /// The flow, YAML or JSON
    flow: PathBuf,
    /// Members of the input, read as the types that the flow declares; name:=value takes JSON
    #[arg(value_name = "NAME=VALUE")]
    arguments: Vec<String>,
    /// The input: JSON, '@<file>' or '-' for standard input; NAME=VALUE goes above it
    #[arg(long, short, value_name = "JSON", allow_hyphen_values = true)]
    input: Option<String>,
}

/// Runs it.
pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let shown = arguments.flow.display().to_string();
    let (source, flow, warnings) = flow::read(&arguments.flow)?;
    if !warnings.is_empty() {
        context.output.diagnostics(&shown, &source, &warnings);
    }
    let base = Base::open(context).await?;
    // What is misspelt is told before anything is done.
    flow::refuse_unresolved(context, &base, shown, &source, flow.calls()).await?;
    let given = input::read(arguments.input.as_deref()).await?;
    let schema = flow.input_schema().cloned().unwrap_or_default();
    let input = input::with_arguments(given, &arguments.arguments, &schema, "flow")?;
    let policy = Current::in_force(context, &base.config, &base.store).await?;
    let host = Host::over(base.unlock(context).await?, policy)?;
    let usage = input::usage(&schema);
    let warnings = json!(diagnostics::to_json(&source, &warnings));
    runs::begin(context, &host, &source, input, usage, warnings).await
}
