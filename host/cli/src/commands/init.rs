//! `keyward init`: everything that a new installation needs. It can be run again: what is there is kept.

use std::path::PathBuf;

use clap::Args;
use keyward_store::Store;
use keyward_vault::{RootKeySource, Vault};
use serde_json::json;

use crate::{
    commands::Context,
    config::{self, Config, KeySource},
    failure::{Exit, Failure},
    files::{self, Mode},
    output::{self, Output, style, styled},
    secrets,
};

/// Arguments of `keyward init`.
#[derive(Debug, Args)]
#[command(
    after_help = "The root key opens everything. Without it the credentials cannot be recovered, only connected \
    again: keep a copy of the key file, or the passphrase, apart from the data directory."
)]
pub(crate) struct Arguments {
    /// Where the root key comes from: 'file' (a new file in $XDG_CONFIG_HOME/keyward), 'file:<path>', 'passphrase'
    /// (asked for, or from KEYWARD_PASSPHRASE) or 'env:<NAME>' (base64 of 32 bytes) [default: asks, or 'file']
    #[arg(long, value_name = "SOURCE", value_parser = parse_key)]
    key: Option<Choice>,
}

#[derive(Debug, Clone)]
enum Choice {
    DefaultFile,
    Source(KeySource),
}

fn parse_key(text: &str) -> Result<Choice, String> {
    if text == "file" {
        return Ok(Choice::DefaultFile);
    }
    text.parse().map(Choice::Source).map_err(|_| "write 'file', 'file:<path>', 'passphrase' or 'env:<NAME>'".to_owned())
}

/// Sets up.
pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let output = context.output;
    let config = context.new_config()?;
    if config.database().is_file() {
        let store = Store::open(&config.database()).await?;
        if Vault::status(&store).await?.is_initialised() {
            let message = format!("there is a Keyward installation in {}", config.data_dir.display());
            return Err(Failure::new(Exit::Usage, "already-initialised", message)
                .hint("`keyward doctor` checks it; name another directory with --data-dir to make a second one"));
        }
    }
    let source = source(output, &config, arguments.key)?;
    config.check_new_key(&source)?;
    files::make_private_directory(&config.data_dir)?;
    make_key_file(output, &source)?;
    let key = secrets::new_root_key(output, &source, "KEYWARD_PASSPHRASE")?;
    let wrote_config = write_config(&config, &source)?;
    let store = Store::open(&config.database()).await?;
    let spinner = output.spinner("Initialising the vault");
    Vault::initialise(&store, &key, &context.tenant, &context.principal).await?;
    drop(spinner);

    let document = json!({
        "data_dir": config.data_dir.display().to_string(),
        "config": config.file.display().to_string(),
        "config_written": wrote_config,
        "database": config.database().display().to_string(),
        "key": source.to_string(),
    });
    output.result(&document, || {
        let facts = output::facts([
            ("data directory", config.data_dir.display().to_string()),
            ("configuration", config.file.display().to_string()),
            ("root key", source.to_string()),
        ]);
        format!("{} Keyward is set up\n{facts}", styled(style::GOOD, "✓"))
    })?;
    match source {
        KeySource::File(path) => output.warn(format_args!(
            "keep a copy of {} apart from the data directory: without it the credentials are lost",
            path.display()
        )),
        KeySource::Passphrase => output.warn("keep the passphrase: without it the credentials are lost"),
        KeySource::Env(name) => {
            output.warn(format_args!("keep a copy of what {name} holds: without it the credentials are lost"));
        }
    }
    output.hint("connect an account with `keyward connect`, or write a connector with `keyward plugin new`");
    Ok(())
}

/// Decides where the root key comes from.
fn source(output: Output, config: &Config, choice: Option<Choice>) -> Result<KeySource, Failure> {
    Ok(match (choice, &config.key) {
        (Some(Choice::Source(KeySource::File(path))), _) => KeySource::File(absolute(path)?),
        (Some(Choice::Source(source)), _) => source,
        (None, Some(configured)) => configured.clone(),
        (Some(Choice::DefaultFile), _) => KeySource::File(config::default_key_file()?),
        (None, None) if output.can_ask() => ask()?,
        (None, None) => KeySource::File(config::default_key_file()?),
    })
}

/// Makes the key file that `source` names, where it does not exist.
pub(super) fn make_key_file(output: Output, source: &KeySource) -> Result<(), Failure> {
    let KeySource::File(path) = source else { return Ok(()) };
    if path.exists() {
        // It may guard another installation; it is used as it is, and never written over.
        output.say(format_args!("using the key file {} that is there already", path.display()));
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        files::make_private_directory(directory)?;
    }
    Ok(RootKeySource::generate_file(path)?)
}

fn ask() -> Result<KeySource, Failure> {
    let (file, passphrase) = ("A key file (starts without asking)", "A passphrase (asked for each time)");
    let question = inquire::Select::new("What shall open the vault?", vec![file, passphrase]);
    let answer = question.prompt().map_err(|error| secrets::interrupted(&error))?;
    if answer == file { Ok(KeySource::File(config::default_key_file()?)) } else { Ok(KeySource::Passphrase) }
}

/// Writes the configuration where there is none; one that is there must name the same key.
fn write_config(config: &Config, source: &KeySource) -> Result<bool, Failure> {
    if let Some(directory) = config.file.parent() {
        files::make_private_directory(directory)?;
    }
    if files::write_new(&config.file, config::template(source).as_bytes(), Mode::Private)? {
        return Ok(true);
    }
    if config.key.as_ref() == Some(source) {
        return Ok(false);
    }
    let text = files::read_text(&config.file)?;
    let text = match config::with_key(&config.file, &text, source)? {
        Some(changed) => changed,
        None => config::with_new_key(&config.file, &text, source)?,
    };
    files::write(&config.file, text.as_bytes(), Mode::Private)?;
    Ok(true)
}

fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path).map_err(|error| files::cannot("use", &path, &error))
}
