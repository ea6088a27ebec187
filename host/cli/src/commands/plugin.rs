//! `keyward plugin`: connectors from the first line of source to the installation.

mod add;
mod build;
mod cargo;
mod inspect;
pub(super) mod installed;
mod new;

use clap::Subcommand;

use crate::{commands::Context, failure::Failure};

/// What can be done with connectors.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a project for a new connector
    New(new::Arguments),
    /// Build a connector's component from its source
    Build(build::Arguments),
    /// Show what a component asks for, without running anything
    Inspect(inspect::Arguments),
    /// Install a component, after showing what it asks for
    Add(add::Arguments),
    /// List the installed connectors
    List,
    /// Remove an installed connector
    Remove(installed::RemoveArguments),
}

/// Does it.
pub(crate) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::New(arguments) => new::run(context, arguments),
        Command::Build(arguments) => build::run(context, arguments).await,
        Command::Inspect(arguments) => inspect::run(context, arguments).await,
        Command::Add(arguments) => add::run(context, arguments).await,
        Command::List => installed::list(context).await,
        Command::Remove(arguments) => installed::remove(context, arguments).await,
    }
}
