//! The command line: its tree and what all commands share.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, builder::styling};

use crate::{commands, failure::Exit};

/// Runs connector actions and flows; only the host holds the credentials
#[derive(Debug, Parser)]
#[command(
    name = "keyward",
    version,
    max_term_width = 100,
    styles = STYLES,
    arg_required_else_help = true,
    after_long_help = after_help(),
    after_help = "Start with `keyward init`. '--help' tells more than '-h'."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads a command line. A variable that is set to nothing counts as one that is not set.
    pub(crate) fn read(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let matches = without_empty_variables(Self::command()).try_get_matches_from(words)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut Self::command()))
    }
}

fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(
            |argument| if argument.get_env().is_some_and(is_empty) { argument.env(None::<&str>) } else { argument },
        )
        .mut_subcommands(without_empty_variables)
}

/// What every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Where everything is kept [default: $XDG_DATA_HOME/keyward]
    #[arg(long, global = true, env = "KEYWARD_DATA_DIR", value_name = "DIR", hide_env_values = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// The configuration [default: <data-dir>/config.toml]
    #[arg(long, global = true, env = "KEYWARD_CONFIG", value_name = "FILE", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// Write one JSON document to standard output, and errors as JSON to standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing but results, warnings and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// What to log to standard error, for example 'debug' or 'keyward_egress=trace' [default: warn]
    #[arg(long, global = true, env = "KEYWARD_LOG", value_name = "FILTER", hide_env_values = true)]
    pub(crate) log: Option<String>,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Set up: data directory, configuration, database and vault
    Init(commands::init::Arguments),
    /// Connectors: write, build, look into, install
    #[command(subcommand)]
    Plugin(commands::plugin::Command),
    /// Connect an account at a provider
    Connect(Box<commands::connect::Arguments>),
    /// Connected accounts: list, test, revoke, delete
    #[command(subcommand)]
    Connections(commands::connections::Command),
    /// Providers that can be connected
    #[command(subcommand)]
    Providers(commands::providers::Command),
    /// Call one action
    Call(commands::call::Arguments),
    /// Run a flow
    Run(commands::run::Arguments),
    /// Flows: check
    #[command(subcommand)]
    Flow(commands::flow::Command),
    /// Runs of flows: list, show, resume
    #[command(subcommand)]
    Runs(commands::runs::Command),
    /// Who did what, where, allowed or denied
    Audit(commands::audit::Arguments),
    /// What the operator allows: show, agree to, check a request against
    #[command(subcommand)]
    Policy(commands::policy::Command),
    /// The vault: its state and its keys
    #[command(subcommand)]
    Vault(commands::vault::Command),
    /// Check that everything is in order
    Doctor,
    /// Print completions for a shell
    Completions(commands::generate::CompletionsArguments),
    /// Write the manual pages
    Man(commands::generate::ManArguments),
}

const STYLES: styling::Styles = styling::Styles::styled()
    .header(styling::AnsiColor::Green.on_default().bold())
    .usage(styling::AnsiColor::Green.on_default().bold())
    .literal(styling::AnsiColor::Cyan.on_default().bold())
    .placeholder(styling::AnsiColor::Cyan.on_default());

/// The table of exit codes, for `--help`.
fn after_help() -> String {
    let header = STYLES.get_header();
    let mut text = format!("{header}Exit codes:{header:#}\n   0  it is done");
    for exit in Exit::ALL {
        text.push_str(&format!("\n  {:>2}  {}", exit.code(), exit.meaning()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_command() {
        fn collect(command: &mut clap::Command, path: &str, all: &mut String) {
            if command.get_name() == "help" {
                return;
            }
            let path =
                if path.is_empty() { command.get_name().to_owned() } else { format!("{path} {}", command.get_name()) };
            all.push_str(&format!("##### {path}\n{}\n", command.render_long_help()));
            for child in command.get_subcommands_mut() {
                collect(child, &path, all);
            }
        }
        // The options that all commands share are told once, at the top.
        let mut all = format!("##### keyward\n{}\n", Cli::command().term_width(100).render_long_help());
        let mut command = Cli::command().term_width(100).mut_args(|argument| argument.hide(true));
        command.build();
        for child in command.get_subcommands_mut() {
            collect(child, "keyward", &mut all);
        }
        insta::assert_snapshot!("help", all);
    }

    #[test]
    fn a_typo_is_told_with_what_was_meant() {
        let error = Cli::try_parse_from(["keyward", "connectoins", "list"]).expect_err("it is a typo");
        assert!(error.to_string().contains("connections"), "{error}");
    }
}
