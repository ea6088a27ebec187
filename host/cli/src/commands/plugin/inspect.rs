//! `keyward plugin inspect`: what a component asks for, read without running anything.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use keyward_model::{
    Digest,
    manifest::{Idempotency, Manifest, Placement},
};
use keyward_registry::artifact;
use serde_json::{Value, json};

use crate::{
    commands::Context,
    compose::Base,
    failure::Failure,
    files,
    output::{self, clean, style, styled},
};

/// Arguments of `keyward plugin inspect`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A component's file, or the name of an installed connector
    component: PathBuf,
    /// Show the schemas of inputs and outputs too
    #[arg(long)]
    schemas: bool,
}

/// Shows it.
pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let installed = installed(context, &arguments.component).await?;
    let (bytes, manifest) = match installed {
        Some(found) => found,
        None => {
            let bytes = files::read(&arguments.component)?;
            let manifest = artifact::read(&bytes)?;
            (bytes, manifest)
        }
    };
    let digest = artifact::digest(&bytes);
    let document = json!({"digest": digest, "bytes": bytes.len(), "manifest": manifest});
    context.output.result(&document, || {
        let mut text = describe(&manifest, &digest, bytes.len() as u64);
        if arguments.schemas {
            for (name, action) in &manifest.actions {
                text.push_str(&format!("\n\n{}", styled(style::STRONG, name)));
                text.push_str(&format!("\n  input   {}", schema(&action.input)));
                text.push_str(&format!("\n  output  {}", schema(&action.output)));
            }
        }
        text
    })
}

/// The installed connector of that name; `None` where `name` is a file or nothing of that name is installed.
async fn installed(context: &Context, name: &Path) -> Result<Option<(Vec<u8>, Manifest)>, Failure> {
    let Some(connector) = name.to_str().filter(|_| !name.is_file()).and_then(|name| name.parse().ok()) else {
        return Ok(None);
    };
    let base = Base::open(context).await?;
    let connector: keyward_model::ConnectorName = connector;
    let installed = super::installed::find(&base, context, &connector).await?;
    let path = base.registry.component_path(&installed.connector.digest);
    let bytes = fs::read(&path).map_err(|error| files::cannot("read", &path, &error))?;
    Ok(Some((bytes, installed.manifest)))
}

fn schema(schema: &Value) -> String {
    serde_json::to_string_pretty(schema).unwrap_or_default().replace('\n', "\n          ")
}

/// Everything that a person should know before agreeing.
pub(super) fn describe(manifest: &Manifest, digest: &Digest, bytes: u64) -> String {
    let mut text = format!("{} {}", styled(style::STRONG, clean(&manifest.title)), clean(&manifest.version));
    if !manifest.description.is_empty() {
        text.push_str(&format!("\n{}", clean(&manifest.description)));
    }
    let mut facts = vec![
        ("connector", manifest.name.to_string()),
        ("digest", digest.to_string()),
        ("size", output::bytes(bytes)),
        (
            "connection",
            manifest
                .provider
                .as_ref()
                .map_or_else(|| "none: it uses no account".to_owned(), |provider| format!("an account at {provider}")),
        ),
    ];
    if let Some(placement) = &manifest.credential {
        facts.push(("credential", self::placement(placement)));
    }
    for (name, endpoint) in &manifest.endpoints {
        let own = if endpoint.configurable { ", or the server that the connection names" } else { "" };
        facts.push(("talks to", format!("{} ({name}){own}", endpoint.url)));
    }
    if manifest.endpoints.is_empty() {
        facts.push(("talks to", "nobody".to_owned()));
    }
    text.push_str(&format!("\n\n{}", output::facts(facts)));
    for (name, action) in &manifest.actions {
        let effect = match action.idempotency {
            Idempotency::Safe => "reads only",
            Idempotency::Idempotent | Idempotency::Key => "changes things; twice is as once",
            Idempotency::None => "changes things",
        };
        text.push_str(&format!(
            "\n\n{}  {} {}",
            styled(style::STRONG, name),
            clean(&action.title),
            styled(style::FAINT, format_args!("({effect})"))
        ));
        for request in &action.requests {
            let query = match request.query.as_slice() {
                [] => String::new(),
                [any] if any == "*" => "  ?any".to_owned(),
                names => format!("  ?{}", names.join(",")),
            };
            text.push_str(&clean(&format!(
                "\n  may send     {} {}:{}{query}",
                request.method, request.endpoint, request.path
            )));
        }
        if action.requests.is_empty() {
            text.push_str("\n  may send     nothing");
        }
        if !action.scopes.is_empty() {
            let sets: Vec<_> = action.scopes.iter().map(|set| set.join(" + ")).collect();
            text.push_str(&clean(&format!("\n  needs scope  {}", sets.join("  or  "))));
        }
    }
    text
}

fn placement(placement: &Placement) -> String {
    match placement {
        Placement::Header { name, prefix } if prefix.is_empty() => format!("put by the host into the header {name}"),
        Placement::Header { name, prefix } => {
            format!("put by the host into the header {name}, after {:?}", prefix.trim_end())
        }
        Placement::Query { name } => format!("put by the host into the query as {name}"),
        Placement::Basic => "put by the host as HTTP Basic".to_owned(),
    }
}
