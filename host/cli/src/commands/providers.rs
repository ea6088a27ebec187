//! `keyward providers`: what can be connected.

use clap::{Args, Subcommand};
use keyward_vault::{ConnectionMethod, Provider};
use serde_json::{Value, json};

use crate::{
    commands::Context,
    compose,
    failure::{Exit, Failure},
    output, suggest,
};

/// What can be done with providers.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List them
    List,
    /// Show one: its methods, and where the facts about it come from
    Show(ShowArguments),
}

/// Arguments of `keyward providers show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// The provider's id, as `keyward providers list` shows it
    provider: String,
}

/// Does it.
pub(crate) fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let catalogue = catalogue(context)?;
    match command {
        Command::List => {
            let all: Vec<_> = catalogue.ids().filter_map(|id| catalogue.find(id)).collect();
            context.output.result(&all.iter().map(|provider| document(provider)).collect::<Vec<_>>(), || {
                output::table(
                    ["provider", "title", "methods"],
                    all.iter()
                        .map(|provider| [provider.id().to_owned(), provider.title().to_owned(), methods(provider)]),
                )
            })
        }
        Command::Show(arguments) => {
            let provider = find(&catalogue, &arguments.provider)?;
            context.output.result(&document(provider), || {
                let mut facts = vec![
                    ("provider", provider.id().to_owned()),
                    ("title", provider.title().to_owned()),
                    ("methods", methods(provider)),
                ];
                if provider.needs_issuer() {
                    facts.push(("issuer", "each connection names its own with --issuer".to_owned()));
                }
                let sources = provider.sources().iter().map(|source| {
                    let sureness = if source.verified { "verified" } else { "not verified" };
                    format!("{}: {} ({}, {sureness})", source.about, source.source, source.date)
                });
                facts.push(("sources", sources.collect::<Vec<_>>().join("\n")));
                output::facts(facts)
            })
        }
    }
}

/// The catalogue; the built-in one where there is no installation.
pub(super) fn catalogue(context: &Context) -> Result<keyward_vault::Catalogue, Failure> {
    match context.config() {
        Ok(config) => compose::catalogue(&config),
        Err(failure) if failure.code == "no-data-directory" => Ok(keyward_vault::Catalogue::builtin()),
        Err(failure) => Err(failure),
    }
}

/// The provider of that id.
pub(super) fn find<'a>(catalogue: &'a keyward_vault::Catalogue, id: &str) -> Result<&'a Provider, Failure> {
    catalogue.find(id).ok_or_else(|| {
        Failure::new(Exit::Usage, "provider-unknown", format!("there is no provider {id:?}"))
            .maybe_hint(suggest::hint(id, catalogue.ids()))
            .hint(
                "a file in <data-dir>/providers adds one; 'oidc' and 'http' serve those that have no file of their own",
            )
    })
}

fn methods(provider: &Provider) -> String {
    provider.methods().iter().map(|method| method.as_str()).collect::<Vec<_>>().join(", ")
}

fn document(provider: &Provider) -> Value {
    let sources: Vec<_> = provider
        .sources()
        .iter()
        .map(|source| {
            json!({"about": source.about, "source": source.source, "date": source.date, "verified": source.verified})
        })
        .collect();
    json!({
        "id": provider.id(),
        "title": provider.title(),
        "methods": provider.methods().iter().copied().map(ConnectionMethod::as_str).collect::<Vec<_>>(),
        "needs_issuer": provider.needs_issuer(),
        "sources": sources,
    })
}
