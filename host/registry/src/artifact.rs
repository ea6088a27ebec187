//! The component as it is handed on: WebAssembly with its manifest inside, read without running anything.
//!
//! The manifest is the custom section `keyward:manifest` at the component's top level; sections inside
//! nested modules are not looked at. Its content is JSON: `{"format": 1, "manifest": {..}}`, where
//! `manifest` is [`Manifest`] with the schemas of input and output of every action. A reader refuses a
//! `format` that it does not know. The digest of a component is SHA-256 over all its bytes, manifest included.

use std::ops::Range;

use keyward_model::{Digest, manifest::Manifest};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasm_encoder::{ComponentSection, CustomSection};
use wasmparser::{Chunk, Encoding, Parser, Payload};

use crate::{error::RegistryError, rules};

/// The name of the custom section.
pub const SECTION: &str = "keyward:manifest";
/// The format that [`embed`] writes and the newest that [`read`] knows.
pub const FORMAT: u64 = 1;
/// No component is larger, in bytes.
pub const COMPONENT_LIMIT: usize = 64 << 20;
/// No embedded manifest is larger, in bytes: the schemas of a thousand actions fit.
pub const MANIFEST_LIMIT: usize = 8 << 20;

#[derive(Serialize)]
struct Written<'a> {
    format: u64,
    manifest: &'a Manifest,
}

/// Read before anything else, so that a newer format is told as such and not as an unknown field.
#[derive(Deserialize)]
struct Format {
    format: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(rename = "format")]
    _format: u64,
    manifest: Manifest,
}

/// The component with `manifest` in it, in place of the one that it had.
///
/// # Errors
/// Where the bytes are not a component, where the manifest breaks a rule, and where a size limit is passed.
pub fn embed(component: &[u8], manifest: &Manifest) -> Result<Vec<u8>, RegistryError> {
    let broken = rules::check(manifest);
    if !broken.is_empty() {
        return Err(RegistryError::ManifestRefused(broken));
    }
    let written = serde_json::to_vec(&Written { format: FORMAT, manifest })
        .map_err(|error| RegistryError::ManifestUnreadable(error.to_string()))?;
    within("manifest", written.len(), MANIFEST_LIMIT)?;

    let mut whole = Vec::with_capacity(component.len() + written.len() + 64);
    let mut copied = 0;
    for section in manifests(component)? {
        whole.extend_from_slice(&component[copied..section.whole.start]);
        copied = section.whole.end;
    }
    whole.extend_from_slice(&component[copied..]);
    CustomSection { name: SECTION.into(), data: written.into() }.append_to_component(&mut whole);
    within("component", whole.len(), COMPONENT_LIMIT)?;
    Ok(whole)
}

/// The manifest in a component, checked by the same rules as one in a file.
///
/// # Errors
/// Where the bytes are not a component, where it has no manifest or several, and where the manifest is of a
/// newer format, cannot be read or breaks a rule. Whether the component's code is valid is not checked here.
pub fn read(component: &[u8]) -> Result<Manifest, RegistryError> {
    let sections = manifests(component)?;
    let content = match sections.as_slice() {
        [] => return Err(RegistryError::NoManifest),
        [section] => section.content,
        several => return Err(RegistryError::SeveralManifests(several.len())),
    };
    within("manifest", content.len(), MANIFEST_LIMIT)?;
    let unreadable = |error: serde_json::Error| RegistryError::ManifestUnreadable(error.to_string());
    let Format { format } = serde_json::from_slice(content).map_err(unreadable)?;
    match format {
        FORMAT => {}
        0 => return Err(RegistryError::ManifestUnreadable("there is no format 0".to_owned())),
        newer => return Err(RegistryError::NewerFormat { found: newer, known: FORMAT }),
    }
    let Read { manifest, .. } = serde_json::from_slice(content).map_err(unreadable)?;
    let broken = rules::check(&manifest);
    if broken.is_empty() { Ok(manifest) } else { Err(RegistryError::ManifestRefused(broken)) }
}

/// The digest of a component's bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

fn within(what: &'static str, bytes: usize, limit: usize) -> Result<(), RegistryError> {
    if bytes > limit { Err(RegistryError::TooLarge { what, bytes, limit }) } else { Ok(()) }
}

/// A manifest's section: where it stands with its header, and its content.
struct Section<'a> {
    whole: Range<usize>,
    content: &'a [u8],
}

/// The manifests at the component's top level.
fn manifests(component: &[u8]) -> Result<Vec<Section<'_>>, RegistryError> {
    within("component", component.len(), COMPONENT_LIMIT)?;
    let malformed = |error: wasmparser::BinaryReaderError| RegistryError::Malformed {
        offset: error.offset(),
        message: error.message().to_owned(),
    };
    let mut parser = Parser::new(0);
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let rest = component.get(at..).unwrap_or_default();
        let Chunk::Parsed { consumed, payload } = parser.parse(rest, true).map_err(malformed)? else {
            return Err(RegistryError::Malformed { offset: at, message: "it ends too early".to_owned() });
        };
        let start = at;
        at += consumed;
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } => return Err(RegistryError::CoreModule),
            Payload::CustomSection(section) if section.name() == SECTION => {
                found.push(Section { whole: start..at, content: section.data() });
            }
            // What is nested is passed over: only the top level speaks for the component.
            Payload::ModuleSection { unchecked_range, .. } | Payload::ComponentSection { unchecked_range, .. } => {
                if unchecked_range.end > component.len() {
                    return Err(RegistryError::Malformed { offset: start, message: "it ends too early".to_owned() });
                }
                at = unchecked_range.end;
            }
            Payload::End(_) => return Ok(found),
            _ => {}
        }
    }
}
