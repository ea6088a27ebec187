//! What the compiler cannot check of the layout.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use keyward_harness::process::repository;
use serde_json::Value;

/// Which crate of ours may name which: the layers of ARCHITECTURE.md. `runtime` does not see `vault`: the crate that
/// runs guests cannot name the crate that opens secrets.
const EDGES: &[(&str, &[&str])] = &[
    ("keyward-model", &[]),
    ("keyward-policy", &["keyward-model"]),
    ("keyward-vault", &["keyward-model", "keyward-policy"]),
    ("keyward-egress", &["keyward-model", "keyward-policy", "keyward-vault"]),
    ("keyward-runtime", &["keyward-model"]),
    ("keyward-registry", &["keyward-model", "keyward-policy"]),
    ("keyward-flow", &["keyward-model"]),
    ("keyward-store", &["keyward-egress", "keyward-flow", "keyward-model", "keyward-registry", "keyward-vault"]),
    (
        "keyward-cli",
        &[
            "keyward-egress",
            "keyward-flow",
            "keyward-model",
            "keyward-policy",
            "keyward-registry",
            "keyward-runtime",
            "keyward-store",
            "keyward-vault",
        ],
    ),
];

fn rust_files(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, files: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") && !path.ends_with("node_modules") {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(repository()).unwrap().to_owned(), text));
            }
        }
    }
    let mut files = Vec::new();
    walk(&repository().join(folder), &mut files);
    assert!(!files.is_empty(), "no Rust file under {folder}");
    files
}

/// A file's text up to its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn crates_name_only_the_crates_below_them() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(repository())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut found = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if !package["manifest_path"].as_str().unwrap().contains("/host/") {
            continue;
        }
        let ours: BTreeSet<&str> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["kind"] != "dev")
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|dependency| dependency.starts_with("keyward-"))
            .collect();
        found.insert(name, ours);
    }
    let wanted: BTreeMap<&str, BTreeSet<&str>> =
        EDGES.iter().map(|(name, edges)| (*name, edges.iter().copied().collect())).collect();
    assert_eq!(found, wanted);
}

#[test]
fn secrets_are_exposed_only_in_the_vault() {
    for (path, text) in rust_files("host").into_iter().chain(rust_files("tests/harness")) {
        if !path.starts_with("host/vault") {
            for way in [".expose(", ".expose_str(", "expose_secret"] {
                assert!(!text.contains(way), "{} calls {way}", path.display());
            }
        }
    }
}

#[test]
fn there_is_one_road_out() {
    let mut roads = Vec::new();
    for (path, text) in rust_files("host") {
        let is_test = |name: &str| path.components().any(|part| part.as_os_str() == name);
        if ["tests", "tests.rs", "testing.rs", "fake.rs"].into_iter().any(is_test) {
            continue;
        }
        let text = without_tests(&text);
        roads.extend(text.lines().filter(|line| line.contains(" Wire for ")).map(|_| path.clone()));
        // A second client would be a second road.
        if !path.starts_with("host/egress") {
            for client in ["reqwest::", "hyper::client", "TcpStream::connect", "hyper_util::client"] {
                assert!(!text.contains(client), "{} uses {client}", path.display());
            }
        }
    }
    assert_eq!(roads.len(), 1, "implementations of Wire: {roads:?}");
    assert!(roads[0].starts_with("host/egress"), "{roads:?}");
}

#[test]
fn no_test_file_is_forgotten() {
    let folder = repository().join("tests/acceptance");
    let main = fs::read_to_string(folder.join("main.rs")).unwrap();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.extension().is_some_and(|extension| extension == "rs") && name != "main" {
            assert!(main.lines().any(|line| line == format!("mod {name};")), "main.rs does not name {name}");
        }
    }
}

#[test]
fn the_sdk_builds_from_the_same_wit() {
    let wit = fs::read_to_string(repository().join("wit/connector.wit")).unwrap();
    let copy = fs::read_to_string(repository().join("sdk-guest/wit/connector.wit")).unwrap();
    assert_eq!(wit, copy, "copy wit/connector.wit to sdk-guest/wit/connector.wit");
}

#[test]
fn guests_see_the_host_only_through_wit() {
    for folder in ["sdk-guest", "plugins", "tests/guests"] {
        for (path, text) in rust_files(folder) {
            for name in ["keyward_model", "keyward_policy", "keyward_vault", "keyward_runtime"] {
                assert!(!text.contains(name), "{} names {name}", path.display());
            }
        }
    }
}

#[test]
fn every_reason_code_stands_in_the_docs() {
    let rows: String = keyward_model::Reason::ALL
        .iter()
        .map(|reason| format!("| `{}` | {} |\n", reason.code(), reason.meaning()))
        .collect();
    let docs = fs::read_to_string(repository().join("docs/reasons.md")).unwrap();
    assert!(docs.contains(&rows), "docs/reasons.md must hold these rows:\n{rows}");
}
