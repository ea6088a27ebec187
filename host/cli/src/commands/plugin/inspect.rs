//! `keyward plugin inspect`: what a component asks for, read without running anything.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
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
        for (name, amount, default) in action.limits.by_name() {
            if let Some(amount) = amount.filter(|amount| *amount > default) {
                let (amount, default) = (of_limit(name, amount), of_limit(name, default));
                text.push_str(&format!("\n  may use      {name} {amount}, where others have {default}"));
            }
        }
        if !action.scopes.is_empty() {
            let sets: Vec<_> = action.scopes.iter().map(|set| set.join(" + ")).collect();
            text.push_str(&clean(&format!("\n  needs scope  {}", sets.join("  or  "))));
        }
    }
    text
}

/// An amount of a limit in its unit, which is the end of its name.
fn of_limit(name: &str, amount: u64) -> String {
    if name.ends_with("_bytes") {
        output::bytes(amount)
    } else if name.ends_with("_ms") {
        output::duration(Duration::from_millis(amount))
    } else {
        amount.to_string()
    }
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn limits_above_the_default_are_shown() {
        let manifest = serde_json::from_value(json!({
            "name": "shop", "version": "1.0.0", "title": "Shop", "actions": {"list": {"title": "List", "limits": {
                "memory_bytes": 268_435_456, "cpu_ms": 60_000, "wall_ms": 10, "requests": 10_000, "exchanges": 64,
                "response_bytes": 17_179_869_184_u64,
            }}},
        }));
        let text = describe(&manifest.unwrap(), &Digest::from_sha256([7; 32]), 1024);
        let text = anstream::adapter::strip_str(&text).to_string();
        insta::assert_snapshot!(text.split_once("list  ").unwrap().1, @r"
        List (changes things)
          may send     nothing
          may use      memory_bytes 256.0 MiB, where others have 64.0 MiB
          may use      cpu_ms 1 min 0 s, where others have 5.0 s
          may use      requests 10000, where others have 50
          may use      exchanges 64, where others have 8
          may use      response_bytes 16.0 GiB, where others have 32.0 MiB
        ");
    }
}
