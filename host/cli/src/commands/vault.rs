//! `keyward vault`: the keys under which credentials rest.

use clap::{Args, Subcommand};
use keyward_store::Store;
use keyward_vault::{RootKeyKind, TenantKeyStatus, Vault, VaultStatus, store::TenantKeyState};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::init;
use crate::{
    commands::Context,
    compose::Base,
    config::{self, KeySource},
    failure::{Exit, Failure},
    files::{self, Mode},
    output::{self, style, styled},
    secrets,
};

/// A tenant key that is older than this should be rotated.
const ROTATE_AFTER_DAYS: i64 = 90;

/// What can be done with the vault.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what can be told without the key
    Status,
    /// Initialise the vault of a data directory that has none
    Init(InitArguments),
    /// Give the tenant a new key and seal everything again under it
    Rotate,
    /// Replace the root key
    Rekey(RekeyArguments),
}

/// Arguments of `keyward vault init`.
#[derive(Debug, Args)]
pub(crate) struct InitArguments {
    #[command(flatten)]
    key: init::Arguments,
}

/// Arguments of `keyward vault rekey`.
#[derive(Debug, Args)]
#[command(
    after_help = "The old key no longer opens the vault afterwards. Copies of the database that were made before \
    still open with it: where others may know it, run `keyward vault rotate` too, and destroy those copies."
)]
pub(crate) struct RekeyArguments {
    /// Where the new root key comes from: 'file:<path>' (made where it is missing), 'passphrase' (asked for, or from
    /// KEYWARD_NEW_PASSPHRASE) or 'env:<NAME>'
    #[arg(long, value_name = "SOURCE")]
    key: KeySource,
}

/// Does it.
pub(crate) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Status => status(context).await,
        Command::Init(arguments) => init::run(context, arguments.key).await,
        Command::Rotate => rotate(context).await,
        Command::Rekey(arguments) => rekey(context, arguments).await,
    }
}

async fn status(context: &Context) -> Result<(), Failure> {
    let config = context.config()?;
    let status = if config.database().is_file() {
        Vault::status(&Store::open(&config.database()).await?).await?
    } else {
        VaultStatus { root_key: None, keys: Vec::new() }
    };
    let now = OffsetDateTime::now_utc();
    let keys: Vec<Value> = status.keys.iter().map(|key| document(key, now)).collect();
    let document = json!({
        "initialised": status.is_initialised(),
        "root_key": status.root_key.map(|key| json!({
            "source": kind(key.source),
            "pbkdf2_iterations": key.pbkdf2_iterations,
            "configured": config.key.as_ref().map(ToString::to_string),
        })),
        "tenant_keys": keys,
    });
    context.output.result(&document, || {
        let Some(root) = status.root_key else { return "The vault is not initialised.".to_owned() };
        let mut facts = vec![("root key", root.source.to_string())];
        if let Some(iterations) = root.pbkdf2_iterations {
            facts.push(("derivation", format!("PBKDF2-HMAC-SHA512, {iterations} iterations")));
        }
        let configured = config.key.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
        facts.push(("configured", configured));
        let table = output::table(
            ["tenant", "key", "state", "age", "made"],
            status.keys.iter().map(|key| {
                [
                    key.tenant.to_string(),
                    key.version.to_string(),
                    self::state(key.state).to_owned(),
                    format!("{} d", (now - key.created_at).whole_days()),
                    output::moment(key.created_at),
                ]
            }),
        );
        format!("{}\n\n{table}", output::facts(facts))
    })?;
    if !status.is_initialised() {
        context.output.hint("run `keyward init`");
    }
    if let Some(key) = status.keys.iter().find(|key| is_due(key, now)) {
        context.output.hint(format_args!(
            "the key of tenant {} is older than {ROTATE_AFTER_DAYS} days: run `keyward vault rotate`",
            key.tenant
        ));
    }
    Ok(())
}

/// Whether it is time for a new tenant key.
pub(super) fn is_due(key: &TenantKeyStatus, now: OffsetDateTime) -> bool {
    key.state == TenantKeyState::Active && (now - key.created_at).whole_days() >= ROTATE_AFTER_DAYS
}

async fn rotate(context: &Context) -> Result<(), Failure> {
    let unlocked = Base::open(context).await?.unlock(context).await?;
    let spinner = context.output.spinner("Sealing everything again under a new key");
    let report = unlocked.vault.rotate(&context.tenant, &context.principal).await?;
    drop(spinner);
    let document = json!({
        "tenant": context.tenant,
        "version": report.version,
        "resealed": report.resealed,
        "removed": report.removed,
        "kept": report.kept,
        "unreadable": report.unreadable,
    });
    context.output.result(&document, || {
        let list = |versions: &[u32]| versions.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let mut facts =
            vec![("active key", report.version.to_string()), ("sealed again", format!("{} objects", report.resealed))];
        if !report.removed.is_empty() {
            facts.push(("keys removed", list(&report.removed)));
        }
        if !report.kept.is_empty() {
            facts.push(("keys kept", format!("{} (the next rotation looks at them again)", list(&report.kept))));
        }
        format!("{} rotated\n{}", styled(style::GOOD, "✓"), output::facts(facts))
    })?;
    if report.unreadable.is_empty() {
        return Ok(());
    }
    let mut unreadable = unlocked.vault.connections(&context.tenant).await?;
    unreadable.retain(|facts| report.unreadable.contains(&facts.id));
    let message = format!("{} connections cannot be opened under any key", report.unreadable.len());
    let failure = Failure::new(Exit::Connection, "connections-unreadable", message);
    // Nothing of what cannot be opened is to be trusted, so it is not connected again under its id.
    Err(unreadable.iter().fold(failure, |failure, facts| {
        failure.hint(format!("keyward connections delete {}, and connect {} again", facts.name, facts.provider))
    }))
}

async fn rekey(context: &Context, arguments: RekeyArguments) -> Result<(), Failure> {
    let base = Base::open(context).await?;
    let (file, old) = (base.config.file.clone(), base.config.key.clone());
    let source = match arguments.key {
        KeySource::File(path) => {
            KeySource::File(std::path::absolute(&path).map_err(|error| files::cannot("use", &path, &error))?)
        }
        other => other,
    };
    base.config.check_new_key(&source)?;
    let unlocked = base.unlock(context).await?;
    init::make_key_file(context.output, &source)?;
    let new = secrets::new_root_key(context.output, &source, "KEYWARD_NEW_PASSPHRASE")?;
    let spinner = context.output.spinner("Wrapping the keys anew");
    unlocked.vault.rekey(&new, &context.principal).await?;
    drop(spinner);
    // From here on only the new key opens the vault, so whatever happens to the configuration is told as success
    // with something left to do.
    let written = match &old {
        Some(old) if *old == source => true,
        _ => write_source(&file, &source).unwrap_or(false),
    };
    let document = json!({"key": source.to_string(), "config": file.display().to_string(), "config_written": written});
    context.output.result(&document, || format!("{} the root key is now {source}", styled(style::GOOD, "✓")))?;
    if !written {
        context
            .output
            .warn(format_args!("{} could not be changed: write [vault] key = \"{source}\" into it", file.display()));
    }
    if std::env::var_os("KEYWARD_KEY").is_some_and(|text| !text.is_empty() && text != *source.to_string()) {
        context.output.warn(format_args!(
            "KEYWARD_KEY names another key and goes before the configuration: unset it, or set it to {source}"
        ));
    }
    if let (Some(KeySource::File(path)), true) = (&old, old.as_ref() != Some(&source)) {
        context.output.hint(format_args!(
            "the old key file {} opens only copies of the database that were made before",
            path.display()
        ));
    }
    Ok(())
}

/// Puts the new source into the configuration; `false` where it names none and a person must do it.
fn write_source(file: &std::path::Path, source: &KeySource) -> Result<bool, Failure> {
    let text = files::read_text(file)?;
    match config::with_key(file, &text, source)? {
        Some(changed) => files::write(file, changed.as_bytes(), Mode::Private).map(|()| true),
        None => Ok(false),
    }
}

fn document(key: &TenantKeyStatus, now: OffsetDateTime) -> Value {
    json!({
        "tenant": key.tenant,
        "version": key.version,
        "state": state(key.state),
        "created_at": output::rfc3339(key.created_at),
        "age_days": (now - key.created_at).whole_days(),
    })
}

fn state(state: TenantKeyState) -> &'static str {
    match state {
        TenantKeyState::Active => "active",
        TenantKeyState::DecryptOnly => "decrypt-only",
    }
}

fn kind(kind: RootKeyKind) -> &'static str {
    match kind {
        RootKeyKind::Passphrase => "passphrase",
        RootKeyKind::File => "file",
        RootKeyKind::Env => "env",
    }
}
