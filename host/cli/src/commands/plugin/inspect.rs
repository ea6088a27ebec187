//! `keyward plugin inspect`: what a component asks for, read without running anything.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use keyward_model::{Digest, manifest::Manifest};
use keyward_registry::{artifact, requirements};
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
    base.registry.verify(&installed).await?;
    let path = base.registry.component_path(&installed.connector.digest);
    let bytes = fs::read(&path).map_err(|error| files::cannot("read", &path, &error))?;
    Ok(Some((bytes, installed.manifest)))
}

fn schema(schema: &Value) -> String {
    output::json(schema).unwrap_or_default().replace('\n', "\n          ")
}

/// Everything that a person should know before agreeing; the lines of what it asks for are those that an upgrade is
/// compared by.
pub(super) fn describe(manifest: &Manifest, digest: &Digest, bytes: u64) -> String {
    let mut text = format!("{} {}", styled(style::STRONG, clean(&manifest.title)), clean(&manifest.version));
    if !manifest.description.is_empty() {
        text.push_str(&format!("\n{}", clean(&manifest.description)));
    }
    let facts =
        [("connector", manifest.name.to_string()), ("digest", digest.to_string()), ("size", output::bytes(bytes))];
    text.push_str(&format!("\n\n{}\n\n{}", output::facts(facts), styled(style::STRONG, "It asks for:")));
    for line in requirements(manifest) {
        text.push_str(&format!("\n  {}", clean(&line)));
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_every_right_and_limit_that_is_asked_for_and_no_hidden_character() {
        let manifest = keyward_registry::parse_manifest(
            r#"
            name = "shop"
            version = "1.0.0"
            title = "Shop"
            provider = "shop"
            endpoints.api = { url = "https://*.shop.example", configurable = true }
            credential = { in = "header", name = "Authorization", prefix = "Bearer " }

            [actions.list]
            title = "List"
            requests = [{ method = "GET", endpoint = "api", path = "/items", query = ["page\u200B"] }]
            scopes = [["read"], ["admin"]]
            idempotency = "safe"
            limits = { wall_ms = 900000, memory_bytes = 268435456 }
            "#,
        );
        let text = describe(&manifest.unwrap(), &Digest::from_sha256([1; 32]), 2048);
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string(), @r#"
        Shop 1.0.0

        connector  shop
        digest     sha256:0101010101010101010101010101010101010101010101010101010101010101
        size       2.0 KiB

        It asks for:
          connections of shop
          credential in the header Authorization after "Bearer "
          endpoint api https://*.shop.example, or the server that the connection names
          list: action "List"
          list: GET /items of api with query page\u{200b}
          list: scopes admin or read
          list: repeated call reads only
          list: limit memory_bytes 268435456
          list: limit wall_ms 900000
        "#);
    }
}
