//! How secrets come in: from a file, the environment, standard input or a prompt; never as a flag's value, which
//! every user of the machine could read in the process list.

use std::{env, io::Read, path::Path, process::Command};

use keyward_vault::{RootKeySource, Secret};

use crate::{
    config::KeySource,
    failure::{Exit, Failure},
    files,
    output::Output,
};

/// A passphrase for the vault may be this long; a file that is piped in by mistake may not.
const LONGEST: u64 = 64 * 1024;

/// Where one secret may come from, in this order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// What it is, as the prompt says, for example `Client secret`.
    pub(crate) what: &'a str,
    /// The file that the user named, where one was; `-` is standard input.
    pub(crate) file: Option<&'a Path>,
    /// The variable.
    pub(crate) variable: &'a str,
    /// The flag that names a file, for the hint.
    pub(crate) flag: &'a str,
}

/// Reads a secret that is needed.
pub(crate) async fn read(output: Output, wanted: Wanted<'_>) -> Result<Secret, Failure> {
    if let Some(secret) = given(wanted).await? {
        return Ok(secret);
    }
    let missing = || {
        Failure::new(Exit::Usage, "secret-missing", format!("the {} is missing", lower(wanted.what)))
            .hint(format!("set {}, or name a file with {} ('-' reads standard input)", wanted.variable, wanted.flag))
    };
    if !output.can_ask() {
        return Err(missing());
    }
    let text = prompt(wanted.what, false)?;
    if text.is_empty() { Err(missing()) } else { Ok(Secret::from(text)) }
}

/// Reads a secret that may be missing: a person may leave it empty.
pub(crate) async fn read_optional(output: Output, wanted: Wanted<'_>) -> Result<Option<Secret>, Failure> {
    if let Some(secret) = given(wanted).await? {
        return Ok(Some(secret));
    }
    if !output.can_ask() {
        return Ok(None);
    }
    let text = prompt(&format!("{} (empty where there is none)", wanted.what), false)?;
    Ok(Some(text).filter(|text| !text.is_empty()).map(Secret::from))
}

/// Reads a secret from where it may come without asking a person.
pub(crate) async fn given(wanted: Wanted<'_>) -> Result<Option<Secret>, Failure> {
    match wanted.file {
        Some(path) => from_file(&lower(wanted.what), path).await.map(Some),
        None => from_variable(wanted.variable),
    }
}

/// Reads a secret from a file; `what` it is stands in the middle of a sentence.
pub(crate) async fn from_file(what: &str, path: &Path) -> Result<Secret, Failure> {
    let source = path.to_owned();
    let bytes = files::waiting(move || read_bounded(&source)).await.map_err(|error| {
        let message = format!("cannot read the {what} from {}", path.display());
        Failure::new(Exit::BadInput, "secret-unreadable", message).because(&error)
    })?;
    if bytes.is_empty() {
        let message = format!("the {what} in {} is empty", path.display());
        return Err(Failure::new(Exit::BadInput, "secret-empty", message));
    }
    Ok(Secret::from(bytes))
}

/// Reads a secret from a variable; an empty one is none.
fn from_variable(name: &str) -> Result<Option<Secret>, Failure> {
    match env::var(name) {
        Ok(text) if !text.is_empty() => Ok(Some(Secret::from(text))),
        Ok(_) | Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => {
            Err(Failure::new(Exit::BadInput, "secret-unreadable", format!("{name} is not UTF-8 text")))
        }
    }
}

/// Whether the passphrase of the vault is at hand without asking a person.
pub(crate) fn passphrase_is_set() -> bool {
    env::var_os("KEYWARD_PASSPHRASE").is_some_and(|text| !text.is_empty())
}

/// Keeps our variables, and the one that may hold the root key, from a program that is started: a browser or a build
/// script has no use for a passphrase.
pub(crate) fn withhold(command: &mut Command, key: Option<&KeySource>) {
    if let Some(KeySource::Env(name)) = key {
        command.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("KEYWARD_") {
            command.env_remove(name);
        }
    }
}

/// Turns a configured key source into one that the vault takes, asking for the passphrase where it must.
pub(crate) fn root_key(output: Output, source: &KeySource) -> Result<RootKeySource, Failure> {
    Ok(match source {
        KeySource::File(path) => RootKeySource::File(path.clone()),
        KeySource::Env(name) => RootKeySource::Env(name.clone()),
        KeySource::Passphrase => RootKeySource::Passphrase(passphrase(output, "KEYWARD_PASSPHRASE", None)?),
    })
}

/// The same for a key that is new: a passphrase is asked for twice.
pub(crate) fn new_root_key(output: Output, source: &KeySource, variable: &str) -> Result<RootKeySource, Failure> {
    Ok(match source {
        KeySource::Passphrase => RootKeySource::Passphrase(passphrase(output, variable, Some("New passphrase"))?),
        other => root_key(output, other)?,
    })
}

fn passphrase(output: Output, variable: &str, new: Option<&str>) -> Result<Secret, Failure> {
    if let Some(secret) = from_variable(variable)? {
        return Ok(secret);
    }
    if !output.can_ask() {
        let message = "the vault's passphrase is missing, and there is no terminal to ask for it";
        return Err(Failure::new(Exit::Vault, "passphrase-missing", message).hint(format!("set {variable}")));
    }
    prompt(new.unwrap_or("Passphrase of the vault"), new.is_some()).map(Secret::from)
}

fn prompt(what: &str, twice: bool) -> Result<String, Failure> {
    let question = format!("{what}:");
    let question = inquire::Password::new(&question).with_display_mode(inquire::PasswordDisplayMode::Hidden);
    let question =
        if twice { question.with_custom_confirmation_message("Once more:") } else { question.without_confirmation() };
    question.prompt().map_err(|error| interrupted(&error))
}

/// A question that was not answered.
pub(crate) fn interrupted(error: &inquire::InquireError) -> Failure {
    match error {
        inquire::InquireError::OperationCanceled | inquire::InquireError::OperationInterrupted => {
            Failure::new(Exit::Interrupted, "interrupted", "interrupted; nothing was changed")
        }
        error => Failure::new(Exit::Environment, "terminal-failed", "cannot ask on this terminal").because(error),
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    // As large as it may become, so that it does not grow and leave copies behind.
    let mut bytes = Vec::with_capacity(LONGEST as usize + 1);
    if path == Path::new("-") {
        std::io::stdin().lock().take(LONGEST + 1).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > LONGEST {
        return Err(std::io::Error::other("it is longer than 64 KiB"));
    }
    // Editors and `echo` end a file with a line feed that is no part of the secret.
    while bytes.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
        bytes.pop();
    }
    Ok(bytes)
}

/// In the middle of a sentence; an abbreviation stays as it is.
fn lower(what: &str) -> String {
    let mut characters = what.chars();
    match (characters.next(), characters.clone().next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => first.to_lowercase().chain(characters).collect(),
        _ => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn an_abbreviation_keeps_its_letters_in_a_sentence() {
        assert_eq!(["Client secret", "API key", "Token"].map(lower), ["client secret", "API key", "token"]);
    }

    #[test]
    fn a_program_that_is_started_is_not_given_the_variable_with_the_root_key() {
        let mut command = Command::new("true");
        withhold(&mut command, Some(&KeySource::Env("MY_ROOT_KEY".to_owned())));
        assert!(command.get_envs().any(|variable| variable == (OsStr::new("MY_ROOT_KEY"), None)));
    }
}
