//! `keyward completions` and `keyward man`: made from the argument tree, so they cannot be out of date.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde_json::json;

use crate::{
    arguments::Cli,
    commands::Context,
    failure::{Exit, Failure},
    files::{self, Mode},
};

/// Arguments of `keyward completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

/// Arguments of `keyward man`.
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Where the pages go, one for each command; for example ~/.local/share/man/man1
    directory: PathBuf,
}

/// Prints a shell's completions.
pub(crate) fn completions(context: &Context, arguments: CompletionsArguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "keyward", &mut script);
    context.output.text(&String::from_utf8_lossy(&script))
}

/// Writes the manual pages.
pub(crate) fn man(context: &Context, arguments: ManArguments) -> Result<(), Failure> {
    std::fs::create_dir_all(&arguments.directory)
        .map_err(|error| files::cannot("create", &arguments.directory, &error))?;
    let mut root = Cli::command();
    root.build();
    let mut pages = Vec::new();
    collect(&root, &mut pages)?;
    for (name, page) in &pages {
        files::write(&arguments.directory.join(name), page, Mode::Public)?;
    }
    let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
    let directory = arguments.directory.display().to_string();
    context.output.result(&json!({"directory": directory, "pages": names}), || {
        format!("wrote {} pages to {directory}", pages.len())
    })
}

fn collect(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
    let man = clap_mangen::Man::new(command.clone());
    let mut page = Vec::new();
    man.render(&mut page)
        .map_err(|error| Failure::new(Exit::Internal, "internal", "cannot make a manual page").because(&error))?;
    pages.push((man.get_filename(), page));
    for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
        collect(child, pages)?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::arguments::Globals;

    #[test]
    fn every_command_has_a_page_of_its_own_name() {
        let directory = tempfile::tempdir().unwrap();
        let context = Context::new(Globals { quiet: true, ..Globals::default() });
        man(&context, ManArguments { directory: directory.path().to_owned() }).unwrap();
        for page in ["keyward.1", "keyward-plugin-build.1", "keyward-connect.1", "keyward-vault-rekey.1"] {
            let text = std::fs::read_to_string(directory.path().join(page)).unwrap();
            assert!(text.contains(".TH"), "{page}");
        }
    }

    #[test]
    fn every_shell_gets_completions_that_name_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "keyward", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("connections"), "{shell}");
        }
    }
}
