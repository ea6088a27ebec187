//! `keyward plugin build`: from a package in Rust to a component that carries its manifest.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::{Path, PathBuf},
};

use clap::Args;
use keyward_model::{ActionName, Diagnostic, Span, manifest::Manifest};
use keyward_registry::artifact;
use keyward_runtime::build::{ActionDescription, componentize, describe};
use serde::Deserialize;
use serde_json::json;

use super::cargo::Guest;
use crate::{
    commands::Context,
    diagnostics,
    failure::{Exit, Failure},
    files::{self, Mode},
    output::{self, style, styled},
    toolchain::{self, Toolchain},
};

/// The first build: its module can be asked about its actions. See [`keyward_runtime::build`].
const DESCRIBING: &[&str] = &["--cfg", "keyward_describe"];
/// The second build: its module is shipped. A small stack keeps a fresh instance cheap.
const SHIPPED: &[&str] = &["-C", "link-arg=-zstack-size=65536"];

/// Arguments of `keyward plugin build`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The connector's directory, with connector.toml and Cargo.toml
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Where the component goes [default: <directory>/target/keyward/<name>.wasm]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Which compiler builds it
    #[arg(long, value_enum, default_value_t, env = "KEYWARD_GUEST_TOOLCHAIN", hide_env_values = true)]
    toolchain: toolchain::Choice,
    /// Where cargo works; several connectors may share it [default: <directory>/target]
    #[arg(long, value_name = "DIR", env = "KEYWARD_GUEST_TARGET_DIR", hide_env_values = true)]
    target_dir: Option<PathBuf>,
}

/// Builds it.
pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let output = context.output;
    let directory = arguments.directory.canonicalize().map_err(|error| {
        let message = format!("{} is not a directory with a connector", arguments.directory.display());
        Failure::new(Exit::BadInput, "directory-missing", message).because(&error)
    })?;
    let (source, manifest, warnings) = read_manifest(&arguments.directory, &directory)?;
    if !warnings.is_empty() {
        output.diagnostics(&manifest_path(&arguments.directory), &source, &warnings);
    }
    let key = context.config()?.key;
    let toolchain = Toolchain::choose(arguments.toolchain, &directory, key.as_ref()).await?;
    output.show(styled(style::FAINT, format_args!("building with {toolchain}")));

    let target_directory = absolute(arguments.target_dir.unwrap_or_else(|| directory.join("target")))?;
    let _alone = alone(&target_directory).await?;
    let guest = Guest { toolchain, key, directory: directory.clone(), target_directory };
    let colour = !output.is_json() && output::colour_on_stderr();
    let spinner = output.spinner(format!("Building {}", manifest.name));
    let built = guest.compile(DESCRIBING, colour, &spinner).await?;
    spinner.now("Reading the actions");
    let actions = describe(&built.module).await?;
    let manifest = join(&arguments.directory, &source, manifest, actions)?;
    let module = guest.compile(SHIPPED, colour, &spinner).await?.module;
    spinner.now("Making the component");
    let component = artifact::embed(&componentize(&module)?, &manifest)?;
    keyward_runtime::check_component(&component)?;
    drop(spinner);
    if !built.warnings.is_empty() {
        output.show(&built.warnings);
    }

    let place = place(arguments.out.map(absolute).transpose()?, &directory, &manifest)?;
    files::write(&place, &component, Mode::Public)?;
    let digest = artifact::digest(&component);
    let document = json!({
        "component": place.display().to_string(),
        "name": manifest.name,
        "version": manifest.version,
        "digest": digest,
        "bytes": component.len(),
        "actions": manifest.actions.keys().collect::<Vec<_>>(),
        "toolchain": guest.toolchain.to_string(),
        "warnings": diagnostics::to_json(&source, &warnings),
    });
    output.result(&document, || {
        format!(
            "{} built {} {} ({}, {} {})\n{}",
            styled(style::GOOD, "✓"),
            manifest.name,
            manifest.version,
            output::bytes(component.len() as u64),
            manifest.actions.len(),
            if manifest.actions.len() == 1 { "action" } else { "actions" },
            short(&place).display(),
        )
    })?;
    output.hint(format_args!("install it with `keyward plugin add {}`", short(&place).display()));
    Ok(())
}

/// The manifest with its source and what is likely not meant in it, from the directory as the user named it (`shown`).
fn read_manifest(shown: &Path, directory: &Path) -> Result<(String, Manifest, Vec<Diagnostic>), Failure> {
    let path = directory.join("connector.toml");
    if !path.is_file() {
        let message = format!("there is no connector.toml in {}", shown.display());
        return Err(Failure::new(Exit::BadInput, "manifest-missing", message)
            .hint("name the connector's directory, or make one with `keyward plugin new <name>`"));
    }
    let source = files::read_text(&path)?;
    let (manifest, warnings) = keyward_registry::manifest::check(&source)
        .map_err(|faults| Failure::faults(manifest_path(shown), source.clone(), faults))?;
    Ok((source, manifest, warnings))
}

fn manifest_path(shown: &Path) -> String {
    let path = shown.join("connector.toml");
    path.strip_prefix(".").unwrap_or(&path).display().to_string()
}

/// The manifest with the schemas of its actions; every action must have a function and every function an action.
fn join(
    shown: &Path,
    source: &str,
    mut manifest: Manifest,
    functions: Vec<ActionDescription>,
) -> Result<Manifest, Failure> {
    let faults = differences(source, &manifest, &functions);
    if !faults.is_empty() {
        return Err(Failure::faults(manifest_path(shown), source, faults));
    }
    for function in functions {
        let name = function
            .name
            .parse::<ActionName>()
            .map_err(|error| Failure::new(Exit::BadInput, "action-name-invalid", error.to_string()))?;
        if let Some(action) = manifest.actions.get_mut(&name) {
            if action.description.is_empty() {
                action.description = function.doc.lines().next().unwrap_or_default().to_owned();
            }
            action.input = function.input;
            action.output = function.output;
        }
    }
    Ok(manifest)
}

fn differences(source: &str, manifest: &Manifest, functions: &[ActionDescription]) -> Vec<Diagnostic> {
    let functions: BTreeSet<&str> = functions.iter().map(|function| function.name.as_str()).collect();
    let mut faults = Vec::new();
    for name in manifest.actions.keys().filter(|name| !functions.contains(name.as_str())) {
        let function = name.as_str().replace('-', "_");
        faults.push(
            Diagnostic::error(
                "action-without-function",
                format!("no function is the action '{name}'"),
                span(source, name.as_str()),
            )
            .hint(format!("write a function '{function}' with #[action] and name it in keyward::connector!(...)")),
        );
    }
    let declared: BTreeSet<&str> = manifest.actions.keys().map(ActionName::as_str).collect();
    for name in functions.difference(&declared) {
        let fault = Diagnostic::error("function-without-action", format!("the action '{name}' is not declared"), None);
        faults.push(fault.hint(format!("add a table [actions.{name}] with its title, requests and scopes")));
    }
    faults
}

/// Where the manifest names an action.
fn span(source: &str, action: &str) -> Option<Span> {
    #[derive(Deserialize)]
    struct Names {
        actions: BTreeMap<toml::Spanned<String>, toml::Value>,
    }
    let names: Names = toml::from_str(source).ok()?;
    let name = names.actions.into_keys().find(|name| name.get_ref() == action)?;
    Some(Span { start: name.span().start, end: name.span().end })
}

/// Where the component goes: a file, or its own name in a directory.
fn place(out: Option<PathBuf>, directory: &Path, manifest: &Manifest) -> Result<PathBuf, Failure> {
    let file = format!("{}.wasm", manifest.name);
    let place = match out {
        Some(out) if out.is_dir() => out.join(file),
        Some(out) => out,
        None => directory.join("target/keyward").join(file),
    };
    if let Some(parent) = place.parent() {
        std::fs::create_dir_all(parent).map_err(|error| files::cannot("create", parent, &error))?;
    }
    Ok(place)
}

fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path).map_err(|error| files::cannot("use", &path, &error))
}

/// A path as a person would write it: what is below the current directory without that.
fn short(path: &Path) -> PathBuf {
    env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path).to_owned()
}

/// Waits until no other build works in the target folder: the two builds of a connector land in the same place, and
/// another one between them would take its module away. The lock ends with the file that is returned.
async fn alone(target_directory: &Path) -> Result<std::fs::File, Failure> {
    let path = target_directory.join(".keyward-build.lock");
    let shown = path.clone();
    let locked = tokio::task::spawn_blocking(move || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = std::fs::File::create(path)?;
        file.lock()?;
        Ok(file)
    });
    match locked.await {
        Ok(locked) => locked.map_err(|error: std::io::Error| files::cannot("lock", &shown, &error)),
        Err(error) => Err(Failure::new(Exit::Internal, "internal", "the build was lost").because(&error)),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::Value;

    use super::*;

    const SOURCE: &str = "name = \"x\"\nversion = \"0.1.0\"\ntitle = \"X\"\n\n[actions.say-hello]\ntitle = \"Hello\"\n";

    fn function(name: &str) -> ActionDescription {
        ActionDescription {
            name: name.to_owned(),
            doc: "Greets.\nMore.".to_owned(),
            input: json!({"type": "object"}),
            output: Value::Bool(true),
        }
    }

    #[test]
    fn an_action_gets_the_schemas_of_its_function() {
        let manifest = keyward_registry::parse_manifest(SOURCE).unwrap();
        let manifest = join(Path::new("."), SOURCE, manifest, vec![function("say-hello")]).unwrap();
        let action = manifest.actions.values().next().unwrap();
        assert_eq!((action.description.as_str(), &action.input), ("Greets.", &json!({"type": "object"})));
    }

    #[test]
    fn actions_and_functions_must_match() {
        let manifest = keyward_registry::parse_manifest(SOURCE).unwrap();
        let faults = differences(SOURCE, &manifest, &[function("say-helo")]);
        insta::assert_snapshot!(crate::diagnostics::render("connector.toml", SOURCE, &faults, false), @r"
        error[action-without-function]: no function is the action 'say-hello'
         --> connector.toml:5:10
          |
        5 | [actions.say-hello]
          |          ^^^^^^^^^
          |
          = hint: write a function 'say_hello' with #[action] and name it in keyward::connector!(...)

        error[function-without-action]: the action 'say-helo' is not declared
        --> connector.toml
         = hint: add a table [actions.say-helo] with its title, requests and scopes
        ");
    }
}
