//! The manifest inside a component.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use keyward_model::manifest::Manifest;
use keyward_registry::{
    RegistryError,
    artifact::{COMPONENT_LIMIT, MANIFEST_LIMIT, SECTION, digest, embed, read},
    parse_manifest,
};
use serde_json::{Value, json};
use wasm_encoder::{Component, ComponentSection as _, CustomSection, Module, ModuleSection, NestedComponentSection};

fn manifest() -> Manifest {
    let mut manifest = parse_manifest(include_str!("../src/manifest/example.toml")).unwrap();
    for action in manifest.actions.values_mut() {
        action.input = json!({"type": "object", "properties": {"state": {"enum": ["open", "closed"]}}});
        action.output = json!({"type": "array"});
    }
    manifest
}

/// A component with a module and a component inside, both of which carry a section of our name.
fn component() -> Vec<u8> {
    let foreign = CustomSection { name: SECTION.into(), data: b"not ours"[..].into() };
    let mut module = Module::new();
    module.section(&foreign);
    let mut inner = Component::new();
    inner.section(&foreign);
    let mut component = Component::new();
    component.section(&CustomSection { name: "producers".into(), data: b"kept"[..].into() });
    component.section(&ModuleSection(&module));
    component.section(&NestedComponentSection(&inner));
    component.finish()
}

/// The component with `content` as another section of our name.
fn with_section(component: &[u8], content: &[u8]) -> Vec<u8> {
    let mut whole = component.to_vec();
    CustomSection { name: SECTION.into(), data: content.into() }.append_to_component(&mut whole);
    whole
}

fn written(content: &Value) -> Vec<u8> {
    with_section(&component(), content.to_string().as_bytes())
}

#[test]
fn what_was_embedded_is_read_and_the_rest_stays_byte_for_byte() {
    let whole = embed(&component(), &manifest()).unwrap();
    assert_eq!(read(&whole).unwrap(), manifest());
    assert!(whole.starts_with(&component()));
    wasmparser::Validator::new().validate_all(&whole).unwrap();
}

#[test]
fn embedding_again_replaces_and_the_same_manifest_gives_the_same_bytes() {
    let once = embed(&component(), &manifest()).unwrap();
    assert_eq!(embed(&once, &manifest()).unwrap(), once);
    let mut other = manifest();
    other.title = "Other".to_owned();
    let replaced = embed(&once, &other).unwrap();
    assert_eq!(read(&replaced).unwrap(), other);
    assert_ne!(digest(&replaced), digest(&once));
}

#[test]
fn digest_is_sha_256_of_all_bytes() {
    assert_eq!(digest(b"abc").to_string(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn a_component_without_a_manifest_of_its_own_has_none() {
    assert!(matches!(read(&component()), Err(RegistryError::NoManifest)));
}

#[test]
fn two_manifests_are_refused() {
    let twice = with_section(&embed(&component(), &manifest()).unwrap(), b"{}");
    assert!(matches!(read(&twice), Err(RegistryError::SeveralManifests(2))));
    assert_eq!(read(&embed(&twice, &manifest()).unwrap()).unwrap(), manifest());
}

#[test]
fn what_is_no_component_is_told_by_what_it_is() {
    assert!(matches!(read(&Module::new().finish()), Err(RegistryError::CoreModule)));
    for bytes in [&b""[..], b"\0asm", b"\x7fELF and so on", b"name = \"github\""] {
        assert!(matches!(read(bytes), Err(RegistryError::Malformed { .. })), "{bytes:?}");
    }
}

#[test]
fn a_component_that_is_cut_off_or_damaged_never_gives_its_manifest_or_a_panic() {
    let whole = embed(&component(), &manifest()).unwrap();
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "cut to {length}");
    }
    for place in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] = !damaged[place];
        let _ = read(&damaged);
        let _ = embed(&damaged, &manifest());
    }
}

#[test]
fn a_nested_part_that_claims_more_than_there_is_is_malformed() {
    let mut bytes = Component::new().finish();
    bytes.extend([1, 0xff, 0xff, 0xff, 0x07]);
    assert!(matches!(read(&bytes), Err(RegistryError::Malformed { .. })));
}

#[test]
fn a_newer_format_is_told_as_such_whatever_it_holds() {
    let newer = json!({"format": 2, "manifest": {"something": "new"}, "more": true});
    assert!(matches!(read(&written(&newer)), Err(RegistryError::NewerFormat { found: 2, known: 1 })));
    assert!(matches!(read(&written(&json!({"format": 0}))), Err(RegistryError::ManifestUnreadable(_))));
}

#[test]
fn a_manifest_in_a_component_is_held_to_the_same_rules_as_one_in_a_file() {
    let mut broken = serde_json::to_value(manifest()).unwrap();
    broken["actions"]["list-issues"]["requests"][0]["endpoint"] = json!("elsewhere");
    broken["version"] = json!("one");
    broken["title"] = json!("\u{1b}[2J");
    let Err(error @ RegistryError::ManifestRefused(_)) = read(&written(&json!({"format": 1, "manifest": broken})))
    else {
        panic!("it was taken");
    };
    insta::assert_snapshot!(error, @r#"the component's manifest breaks 3 rules: title: the title has a control character; actions.list-issues.requests.0.endpoint: there is no endpoint "elsewhere"; version: "one" is not a semantic version: unexpected character 'o' while parsing major version number"#);

    let mut unknown = serde_json::to_value(manifest()).unwrap();
    unknown["power"] = json!("all");
    assert!(matches!(
        read(&written(&json!({"format": 1, "manifest": unknown}))),
        Err(RegistryError::ManifestUnreadable(_))
    ));
    assert!(matches!(read(&with_section(&component(), b"\xff")), Err(RegistryError::ManifestUnreadable(_))));
}

#[test]
fn a_broken_manifest_is_not_embedded() {
    let mut broken = manifest();
    broken.actions.values_mut().for_each(|action| action.input = json!({"type": "nothing"}));
    assert!(matches!(embed(&component(), &broken), Err(RegistryError::ManifestRefused(_))));
}

#[test]
fn sizes_are_limited_before_anything_is_parsed() {
    let large = vec![0; COMPONENT_LIMIT + 1];
    assert!(matches!(read(&large), Err(RegistryError::TooLarge { what: "component", .. })));
    let spaces = with_section(&component(), &vec![b' '; MANIFEST_LIMIT + 1]);
    assert!(matches!(read(&spaces), Err(RegistryError::TooLarge { what: "manifest", .. })));
}
