//! What the compiler cannot check of the layout.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
    process::Command,
};

use keyward_harness::process::repository;
use serde_json::Value;

/// Which crate of ours may name which: the layers of ARCHITECTURE.md. `runtime` does not see `vault`: the crate that
/// runs guests cannot name the crate that opens secrets.
const EDGES: &[(&str, &[&str])] = &[
    ("keyward-model", &[]),
    ("keyward-policy", &["keyward-model"]),
    ("keyward-telemetry", &["keyward-model", "keyward-policy"]),
    ("keyward-vault", &["keyward-model", "keyward-policy", "keyward-telemetry"]),
    ("keyward-egress", &["keyward-model", "keyward-policy", "keyward-telemetry", "keyward-vault"]),
    ("keyward-runtime", &["keyward-model", "keyward-telemetry"]),
    ("keyward-registry", &["keyward-model", "keyward-policy"]),
    ("keyward-flow", &["keyward-model", "keyward-telemetry"]),
    (
        "keyward-store",
        &["keyward-egress", "keyward-flow", "keyward-model", "keyward-registry", "keyward-telemetry", "keyward-vault"],
    ),
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
            "keyward-telemetry",
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

/// A file's text without the items that are built for tests only, and the names of the modules among them. It knows
/// Rust as rustfmt writes it: an item ends in its first line, or at the brace that closes it, which is indented as the
/// item is. What it does not know it leaves in.
fn without_tests(text: &str) -> (String, Vec<String>) {
    let (mut kept, mut modules) = (String::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push_str(line);
            kept.push('\n');
            continue;
        }
        let indentation = &line[..line.len() - line.trim_start().len()];
        let item = lines.by_ref().find(|line| !line.trim_start().starts_with("#[")).unwrap_or_default();
        if let Some((_, name)) = item.strip_suffix(';').and_then(|item| item.rsplit_once("mod ")) {
            modules.push(name.to_owned());
        }
        if !item.ends_with([';', '}', ',']) {
            let end = format!("{indentation}}}");
            let _ = lines.by_ref().find(|line| line.starts_with(&end));
        }
    }
    (kept, modules)
}

/// The files of the host's crates with what is built for users, without what is built for tests.
fn shipped() -> Vec<(PathBuf, String)> {
    let mut files: BTreeMap<PathBuf, String> =
        rust_files("host").into_iter().filter(|(path, _)| path.components().nth(2).is_some_and(is_source)).collect();
    for path in files.keys().cloned().collect::<Vec<_>>() {
        let Some(text) = files.get_mut(&path) else { continue };
        let (kept, modules) = without_tests(text);
        *text = kept;
        // `lib.rs` and `mod.rs` hold the modules of their own folder, `x.rs` those of the folder `x`.
        let own = path.with_extension("");
        let folder = match path.file_name().and_then(|name| name.to_str()) {
            Some("lib.rs" | "main.rs" | "mod.rs") => path.parent().unwrap(),
            _ => &own,
        };
        for module in modules {
            let module = folder.join(module);
            files.retain(|path, _| *path != module.with_extension("rs") && !path.starts_with(&module));
        }
    }
    files.into_iter().collect()
}

fn is_source(part: Component<'_>) -> bool {
    part.as_os_str() == "src"
}

/// What would be another road out: a client, a socket, or a question to a name server.
const ROADS: &[&str] = &[
    "reqwest::",
    "use reqwest",
    "hyper::client",
    "hyper_util::client",
    "TcpStream::connect",
    "TcpSocket",
    "UdpSocket",
    "UnixStream",
    "UnixDatagram",
    "lookup_host",
    "to_socket_addrs",
    "ToSocketAddrs",
];

/// Packages that only one crate of ours may name, so that nobody goes past it: the network, the database, the sandbox.
const FENCES: &[(&str, &str)] = &[
    ("reqwest", "keyward-egress"),
    ("hyper", "keyward-egress"),
    ("sqlx", "keyward-store"),
    ("libsqlite3-sys", "keyward-store"),
    ("opentelemetry-otlp", "keyward-cli"),
    ("tracing-opentelemetry", "keyward-cli"),
    ("wasmtime", "keyward-runtime"),
    ("wasmtime-wasi", "keyward-runtime"),
    ("wasmtime-wasi-http", "keyward-runtime"),
];

/// What cargo knows of the packages of the host, by name: the names of what each depends on outside of tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(repository())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let of_host = packages.filter(|package| package["manifest_path"].as_str().unwrap().contains("/host/"));
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    of_host
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            (name(package), dependencies.filter(|dependency| dependency["kind"] != "dev").map(name).collect())
        })
        .collect()
}

#[test]
fn crates_name_only_the_crates_below_them() {
    let found: BTreeMap<String, BTreeSet<String>> = dependencies()
        .into_iter()
        .map(|(name, all)| (name, all.into_iter().filter(|name| name.starts_with("keyward-")).collect()))
        .collect();
    let wanted: BTreeMap<String, BTreeSet<String>> = EDGES
        .iter()
        .map(|(name, edges)| ((*name).to_owned(), edges.iter().map(|&edge| edge.to_owned()).collect()))
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn network_database_and_sandbox_have_one_crate_each() {
    let dependencies = dependencies();
    for (package, owner) in FENCES {
        let named: Vec<&str> =
            dependencies.iter().filter(|(_, all)| all.contains(*package)).map(|(name, _)| name.as_str()).collect();
        assert_eq!(named, [*owner], "who names {package}");
    }
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
    let mut wires = Vec::new();
    for (path, text) in shipped() {
        wires.extend(text.lines().filter(|line| line.contains(" Wire for ")).map(|_| path.clone()));
        // A second client would be a second road.
        if !path.starts_with("host/egress") {
            for road in ROADS {
                assert!(!text.contains(road), "{} uses {road}", path.display());
            }
        }
    }
    assert_eq!(wires.len(), 1, "implementations of Wire: {wires:?}");
    assert!(wires[0].starts_with("host/egress"), "{wires:?}");
}

#[test]
fn only_what_is_built_for_tests_is_left_out_of_the_search() {
    let text = "\
mod a;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = \"x\")]
pub(crate) mod fake;
mod b;
impl A {
    #[cfg(test)]
    fn test() {
        if true {
        }
    }

    fn first() {}
}
#[cfg(test)]
mod tests {
    fn test() {}
}
fn last() {}
";
    let (kept, modules) = without_tests(text);
    assert_eq!(kept, "mod a;\nmod b;\nimpl A {\n\n    fn first() {}\n}\nfn last() {}\n");
    assert_eq!(modules, ["fake"]);

    let shipped = shipped();
    let text = |path: &str| shipped.iter().find(|(found, _)| found == Path::new(path)).map(|(_, text)| text.as_str());
    // Its modules for tests come first in this file, and what follows is shipped.
    assert!(text("host/vault/src/oauth.rs").unwrap().contains("mod request;"));
    assert_eq!(text("host/vault/src/oauth/fake.rs"), None);
    assert_eq!(text("host/egress/src/wire/tests.rs"), None);
    assert!(ROADS.iter().any(|road| text("host/egress/src/wire.rs").unwrap().contains(road)));
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
fn no_attack_is_forgotten() {
    let manifest = fs::read_to_string(repository().join("tests/guests/hostile/connector.toml")).unwrap();
    let tests: String = rust_files("tests/acceptance").into_iter().map(|(_, text)| text).collect();
    let actions = manifest.lines().filter_map(|line| line.strip_prefix("[actions.")?.strip_suffix(']'));
    let forgotten: Vec<&str> = actions
        .filter(|action| {
            ![format!("\"{action}\""), format!("\"hostile.{action}\"")].iter().any(|name| tests.contains(name))
        })
        .collect();
    assert!(forgotten.is_empty(), "no test runs {forgotten:?}");
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
            for (name, _) in EDGES {
                let name = name.replace('-', "_");
                assert!(!text.contains(&name), "{} names {name}", path.display());
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

#[test]
fn every_member_of_an_error_stands_in_the_docs() {
    let sources: String =
        shipped().into_iter().filter(|(path, _)| path.starts_with("host/cli")).map(|(_, text)| text).collect();
    let written: BTreeSet<&str> = [".detail(\"", "error[\""]
        .iter()
        .flat_map(|start| sources.split(start).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let page = fs::read_to_string(repository().join("docs/exit-codes.md")).unwrap();
    let (_, table) = page.split_once("| member | meaning |").unwrap();
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    let documented: BTreeSet<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert_eq!(written, documented);
}

/// Whether a word is the bare name of a test: no other word of ours has as many underscores.
fn is_test_name(word: &str) -> bool {
    word.matches('_').count() >= 3 && word.chars().all(|c| c == '_' || c.is_ascii_lowercase())
}

#[test]
fn every_test_that_holds_a_promise_exists() {
    let page = fs::read_to_string(repository().join("SECURITY.md")).unwrap();
    let (mut named, mut missing) = (0, Vec::new());
    let tests: String = ["host", "tests"].into_iter().flat_map(rust_files).map(|(_, text)| text).collect();
    // What stands between backticks: a test, all tests of a file, or a place in the repository.
    for word in page.split('`').skip(1).step_by(2) {
        let exists = match word.split_once("::") {
            Some((file, test)) => {
                let text = fs::read_to_string(repository().join(format!("tests/acceptance/{file}.rs")));
                text.is_ok_and(|text| test == "*" || text.contains(&format!("fn {test}(")))
            }
            None if word.starts_with("host/") || word.starts_with("tests/") => {
                let path = repository().join(word);
                path.exists() || path.with_extension("rs").exists()
            }
            None if is_test_name(word) => tests.contains(&format!("fn {word}(")),
            None => continue,
        };
        named += 1;
        if !exists {
            missing.push(word);
        }
    }
    assert!(missing.is_empty(), "SECURITY.md names what is not there: {missing:?}");
    assert!(named > 20, "only {named} names were found in SECURITY.md");
}
