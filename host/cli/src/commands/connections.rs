//! `keyward connections`: the connected accounts.

use clap::{Args, Subcommand};
use keyward_model::{ConnectionFacts, ConnectionName, ConnectionState};
use keyward_vault::{ConnectionMethod, TestOutcome, VaultError};
use serde_json::json;

use super::providers;
use crate::{
    commands::Context,
    compose::{Base, Unlocked},
    failure::{Exit, Failure},
    output::{self, style, styled},
    secrets, suggest,
};

/// What can be done with connections.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List them
    List(ListArguments),
    /// Show one
    Show(NameArguments),
    /// Ask the provider whether one works; an access token that is due is refreshed
    Test(NameArguments),
    /// Revoke one at the provider; it stays in the list, and can be connected again
    Revoke(RevokeArguments),
    /// Revoke one at the provider and remove it with its credential
    Delete(DeleteArguments),
}

/// Arguments of `keyward connections list`.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only those of this provider
    #[arg(long)]
    provider: Option<String>,
}

/// Arguments that name a connection.
#[derive(Debug, Args)]
pub(crate) struct NameArguments {
    /// The connection's name
    name: ConnectionName,
}

/// Arguments of `keyward connections revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArguments {
    /// The connection's name
    name: ConnectionName,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Arguments of `keyward connections delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    /// The connection's name
    name: ConnectionName,
    /// Remove it without asking the provider; what was granted there stays good until somebody revokes it there
    #[arg(long)]
    without_revoking: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Does it.
pub(crate) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(arguments) => list(context, arguments).await,
        Command::Show(arguments) => show(context, &arguments.name).await,
        Command::Test(arguments) => test(context, &arguments.name).await,
        Command::Revoke(arguments) => revoke(context, arguments).await,
        Command::Delete(arguments) => delete(context, arguments).await,
    }
}

async fn list(context: &Context, arguments: ListArguments) -> Result<(), Failure> {
    // The open facts need no key, so the passphrase is not asked for.
    let mut all = open_facts(&Base::open(context).await?, context).await?;
    if let Some(provider) = &arguments.provider {
        all.retain(|facts| facts.provider == *provider);
    }
    context.output.result(&all, || {
        if all.is_empty() {
            return "There are no connections.".to_owned();
        }
        output::table(
            ["name", "provider", "method", "account", "state", "scopes"],
            all.iter().map(|facts| {
                let scopes = facts.granted_scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
                [
                    facts.name.to_string(),
                    facts.provider.clone(),
                    facts.method.clone(),
                    facts.account.clone().unwrap_or_else(|| "-".to_owned()),
                    state(&facts.state).to_owned(),
                    if scopes.is_empty() { "-".to_owned() } else { scopes },
                ]
            }),
        )
    })?;
    if all.is_empty() {
        context
            .output
            .hint("connect an account with `keyward connect <provider>`; `keyward providers list` shows which");
    }
    Ok(())
}

async fn show(context: &Context, name: &ConnectionName) -> Result<(), Failure> {
    let facts = named(&open_facts(&Base::open(context).await?, context).await?, name)?;
    context.output.result(&facts, || describe(&facts))
}

async fn test(context: &Context, name: &ConnectionName) -> Result<(), Failure> {
    let (unlocked, facts) = find(context, name).await?;
    let spinner = context.output.spinner(format!("Asking {}", facts.provider));
    let report = unlocked.vault.test(&context.tenant, &facts.id).await?;
    drop(spinner);
    let (mark, outcome) = match report.outcome {
        TestOutcome::Works => (styled(style::GOOD, format_args!("✓ {name} works")), "works"),
        TestOutcome::Refused => (styled(style::BAD, format_args!("✗ {name} is refused")), "refused"),
        TestOutcome::Unknown => (styled(style::ODD, format_args!("? whether {name} works cannot be told")), "unknown"),
    };
    let document = json!({
        "connection": report.facts,
        "outcome": outcome,
        "detail": report.detail,
        "refresh_token_expires_at": report.refresh_token_expires_at.map(output::rfc3339),
    });
    context
        .output
        .result(&document, || format!("{mark}: {}\n{}", output::clean(&report.detail), describe(&report.facts)))?;
    if let Some(at) = report.refresh_token_expires_at {
        context.output.hint(format_args!("connect it again before {}", output::moment(at)));
    }
    if report.outcome == TestOutcome::Refused {
        let message = format!("the connection {name} does not work: {}", report.detail);
        return Err(Failure::new(Exit::Connection, "credential-refused", message)
            .hint(format!("keyward connect {} --reconnect --name {name}", facts.provider)));
    }
    Ok(())
}

async fn revoke(context: &Context, arguments: RevokeArguments) -> Result<(), Failure> {
    let (unlocked, facts) = find(context, &arguments.name).await?;
    warn_of_others(context, &facts)?;
    confirm(context, arguments.yes, &format!("Revoke {} at {}?", facts.name, facts.provider))?;
    let spinner = context.output.spinner(format!("Revoking at {}", facts.provider));
    let report = unlocked.vault.revoke(&context.tenant, &facts.id, &context.principal).await?;
    drop(spinner);
    if !report.revoked {
        let message = format!("{} is not revoked: {}", facts.name, report.reason.unwrap_or_default());
        return Err(Failure::new(Exit::Connection, "not-revoked", message)
            .hint("revoke it in the settings of your account at the provider, then `keyward connections delete` it"));
    }
    let document = json!({"connection": facts.name, "id": facts.id, "revoked": true, "reason": report.reason});
    context.output.result(&document, || {
        format!("{} {} is revoked at {}", styled(style::GOOD, "✓"), facts.name, facts.provider)
    })?;
    if let Some(rest) = report.reason {
        context.output.warn(rest);
    }
    Ok(())
}

async fn delete(context: &Context, arguments: DeleteArguments) -> Result<(), Failure> {
    let (unlocked, facts) = find(context, &arguments.name).await?;
    if !arguments.without_revoking {
        warn_of_others(context, &facts)?;
    }
    confirm(context, arguments.yes, &format!("Delete {} and its credential?", facts.name))?;
    let (vault, tenant, principal) = (&unlocked.vault, &context.tenant, &context.principal);
    let report = if arguments.without_revoking {
        vault.delete_without_revoking(tenant, &facts.id, principal).await?
    } else {
        let _spinner = context.output.spinner(format!("Revoking at {}", facts.provider));
        vault.delete(tenant, &facts.id, principal).await?
    };
    let document = json!({
        "connection": facts.name,
        "id": facts.id,
        "deleted": true,
        "revoked": report.revoked,
        "reason": report.reason,
    });
    context.output.result(&document, || format!("{} {} is deleted", styled(style::GOOD, "✓"), facts.name))?;
    if !report.revoked {
        // It is gone here, and somebody who had the credential could still use it there.
        let reason = output::clean(report.reason.as_deref().unwrap_or("the provider did not say why"));
        context.output.warn(format_args!("it is not revoked at {}: {reason}", facts.provider));
        context.output.hint("revoke it in the settings of your account at the provider");
    } else if let Some(rest) = report.reason {
        context.output.warn(rest);
    }
    Ok(())
}

/// Tells where a provider revokes more than the one connection.
fn warn_of_others(context: &Context, facts: &ConnectionFacts) -> Result<(), Failure> {
    let catalogue = providers::catalogue(context)?;
    let provider = catalogue.find(&facts.provider).filter(|_| facts.method == ConnectionMethod::Oauth2.as_str());
    if let Some(provider) = provider.filter(|provider| provider.revokes_whole_grant()) {
        context.output.warn(format_args!(
            "{} revokes all that this person has granted to the client, so other connections of the same person end too",
            provider.title()
        ));
    }
    Ok(())
}

/// The open facts of all connections, without a key.
pub(super) async fn open_facts(base: &Base, context: &Context) -> Result<Vec<ConnectionFacts>, Failure> {
    use keyward_vault::VaultStore;
    base.store.connections(&context.tenant).await.map_err(|error| VaultError::from(error).into())
}

/// The connection of that name among `all`.
pub(super) fn named(all: &[ConnectionFacts], name: &ConnectionName) -> Result<ConnectionFacts, Failure> {
    all.iter().find(|facts| facts.name == *name).cloned().ok_or_else(|| {
        Failure::new(Exit::Connection, "connection-unknown", format!("there is no connection {name}")).hint(
            suggest::hint(name.as_str(), all.iter().map(|facts| facts.name.as_str()))
                .unwrap_or_else(|| "`keyward connections list` shows them, `keyward connect` makes one".to_owned()),
        )
    })
}

async fn find(context: &Context, name: &ConnectionName) -> Result<(Unlocked, ConnectionFacts), Failure> {
    let base = Base::open(context).await?;
    // An unknown name is told before a passphrase is asked for.
    let facts = named(&open_facts(&base, context).await?, name)?;
    Ok((base.unlock(context).await?, facts))
}

/// Asks before something that cannot be taken back.
pub(super) fn confirm(context: &Context, yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !context.output.can_ask() {
        return Err(Failure::new(Exit::Usage, "confirmation-missing", "there is no terminal to ask for confirmation")
            .hint("add --yes to do it without being asked"));
    }
    match inquire::Confirm::new(question).with_default(false).prompt() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::new(Exit::Denied, "declined", "you did not agree; nothing was changed")),
        Err(error) => Err(secrets::interrupted(&error)),
    }
}

/// A connection's state in a word.
pub(super) fn state(state: &ConnectionState) -> &'static str {
    match state {
        ConnectionState::Active => "active",
        ConnectionState::NeedsReconnect(_) => "needs reconnect",
        ConnectionState::ClientRefused(_) => "client refused",
        ConnectionState::Revoked => "revoked",
    }
}

/// A connection for people.
pub(super) fn describe(facts: &ConnectionFacts) -> String {
    let mut pairs = vec![
        ("name", facts.name.to_string()),
        ("id", facts.id.to_string()),
        ("provider", facts.provider.clone()),
        ("method", facts.method.clone()),
    ];
    if let Some(account) = &facts.account {
        pairs.push(("account", account.clone()));
    }
    pairs.push(("owner", facts.owner.as_ref().map_or_else(|| "the organisation".to_owned(), ToString::to_string)));
    let word = state(&facts.state);
    pairs.push((
        "state",
        match &facts.state {
            ConnectionState::NeedsReconnect(reason) | ConnectionState::ClientRefused(reason) => {
                format!("{word}: {reason}")
            }
            ConnectionState::Active | ConnectionState::Revoked => word.to_owned(),
        },
    ));
    if !facts.granted_scopes.is_empty() {
        let assumed = if facts.scopes_assumed { " (assumed: the provider did not say)" } else { "" };
        let scopes = facts.granted_scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        pairs.push(("scopes", format!("{scopes}{assumed}")));
    }
    for (name, url) in &facts.endpoints {
        pairs.push(("endpoint", format!("{name} = {url}")));
    }
    if let Some(at) = facts.expires_at {
        pairs.push(("token ends", output::moment(at)));
    }
    pairs.push(("connected", output::moment(facts.created_at)));
    pairs.push(("changed", output::moment(facts.updated_at)));
    output::facts(pairs)
}
