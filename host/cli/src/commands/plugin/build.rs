//! `keyward plugin build`: from a package in Rust, or from a component of another tool, to a component that carries its
//! manifest.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::{Path, PathBuf},
};

use clap::Args;
use keyward_model::{ActionName, Diagnostic, Span, manifest::Manifest};
use keyward_registry::artifact;
use keyward_runtime::build::{ActionDescription, componentize, describe, read_actions};
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

/// The schemas of a component that another tool made: see [`read_actions`].
const ACTIONS: &str = "actions.json";

/// Arguments of `keyward plugin build`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The connector's directory, with connector.toml and Cargo.toml
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Compile nothing: put the manifest, with the schemas in actions.json beside it, into this component
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
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
    let source = Source { shown: arguments.directory, directory, text: source };
    let out = arguments.out;
    let built = match arguments.component {
        Some(component) => source.complete(&component, manifest)?,
        None => {
            let target_dir = arguments.target_dir;
            source.compile(context, manifest, arguments.toolchain, target_dir).await?
        }
    };
    let Built { component, manifest, toolchain } = built;

    let place = place(out.map(absolute).transpose()?, &source.directory, &manifest)?;
    files::write(&place, &component, Mode::Public)?;
    let digest = artifact::digest(&component);
    let document = json!({
        "component": place.display().to_string(),
        "name": manifest.name,
        "version": manifest.version,
        "digest": digest,
        "bytes": component.len(),
        "actions": manifest.actions.keys().collect::<Vec<_>>(),
        "toolchain": toolchain,
        "warnings": diagnostics::to_json(&source.text, &warnings),
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

/// What was built, and by what where it was compiled.
struct Built {
    component: Vec<u8>,
    manifest: Manifest,
    toolchain: Option<String>,
}

/// A connector's directory, and as the user named it; with the text of its connector.toml.
struct Source {
    shown: PathBuf,
    directory: PathBuf,
    text: String,
}

impl Source {
    /// Compiles the package in Rust.
    async fn compile(
        &self,
        context: &Context,
        manifest: Manifest,
        toolchain: toolchain::Choice,
        target_directory: Option<PathBuf>,
    ) -> Result<Built, Failure> {
        let (output, directory) = (context.output, self.directory.clone());
        let key = context.config()?.key;
        let toolchain = Toolchain::choose(toolchain, &directory, key.as_ref()).await?;
        output.show(styled(style::FAINT, format_args!("building with {toolchain}")));

        let target_directory = absolute(target_directory.unwrap_or_else(|| directory.join("target")))?;
        let _alone = alone(&target_directory).await?;
        let guest = Guest { toolchain, key, directory, target_directory };
        let colour = !output.is_json() && output::colour_on_stderr();
        let spinner = output.spinner(format!("Building {}", manifest.name));
        let built = guest.compile(DESCRIBING, colour, &spinner).await?;
        spinner.now("Reading the actions");
        let actions = describe(&built.module).await?;
        let manifest = self.join(manifest, actions, Described::ByCode)?;
        let module = guest.compile(SHIPPED, colour, &spinner).await?.module;
        spinner.now("Making the component");
        let component = artifact::embed(&componentize(&module)?, &manifest)?;
        keyward_runtime::check_component(&component)?;
        drop(spinner);
        if !built.warnings.is_empty() {
            output.show(&built.warnings);
        }
        Ok(Built { component, manifest, toolchain: Some(guest.toolchain.to_string()) })
    }

    /// Completes a component that another tool made.
    fn complete(&self, component: &Path, manifest: Manifest) -> Result<Built, Failure> {
        let component = files::read(component)?;
        keyward_runtime::check_component(&component)?;
        let path = self.directory.join(ACTIONS);
        if !path.is_file() {
            let message = format!("there is no {ACTIONS} in {}", self.shown.display());
            return Err(Failure::new(Exit::BadInput, "actions-missing", message).hint(
                "write one with the schemas of each action: see `Components from other tools` in docs/plugins.md",
            ));
        }
        let actions = read_actions(&files::read(&path)?)?;
        let manifest = self.join(manifest, actions, Described::ByFile)?;
        Ok(Built { component: artifact::embed(&component, &manifest)?, manifest, toolchain: None })
    }

    fn join(
        &self,
        manifest: Manifest,
        actions: Vec<ActionDescription>,
        described: Described,
    ) -> Result<Manifest, Failure> {
        join(&self.shown, &self.text, manifest, actions, described)
    }
}

/// Where the schemas of a connector's actions come from.
#[derive(Clone, Copy)]
enum Described {
    /// The functions of the package in Rust.
    ByCode,
    /// [`ACTIONS`].
    ByFile,
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

/// The manifest with the schemas of its actions; every action must be described and every description be of an action.
fn join(
    shown: &Path,
    source: &str,
    mut manifest: Manifest,
    functions: Vec<ActionDescription>,
    described: Described,
) -> Result<Manifest, Failure> {
    let faults = differences(source, &manifest, &functions, described);
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

fn differences(
    source: &str,
    manifest: &Manifest,
    functions: &[ActionDescription],
    described: Described,
) -> Vec<Diagnostic> {
    let functions: BTreeSet<&str> = functions.iter().map(|function| function.name.as_str()).collect();
    let mut faults = Vec::new();
    for name in manifest.actions.keys().filter(|name| !functions.contains(name.as_str())) {
        let span = span(source, name.as_str());
        faults.push(match described {
            Described::ByCode => {
                let function = name.as_str().replace('-', "_");
                Diagnostic::error("action-without-function", format!("no function is the action '{name}'"), span).hint(
                    format!("write a function '{function}' with #[action] and name it in keyward::connector!(...)"),
                )
            }
            Described::ByFile => {
                let message = format!("{ACTIONS} has no schemas for the action '{name}'");
                Diagnostic::error("action-without-schemas", message, span)
                    .hint(format!("add `{{\"name\": \"{name}\", \"input\": {{...}}, \"output\": {{...}}}}`"))
            }
        });
    }
    let declared: BTreeSet<&str> = manifest.actions.keys().map(ActionName::as_str).collect();
    for name in functions.difference(&declared) {
        let code = match described {
            Described::ByCode => "function-without-action",
            Described::ByFile => "schemas-without-action",
        };
        let fault = Diagnostic::error(code, format!("the action '{name}' is not declared"), None);
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
        let manifest = join(Path::new("."), SOURCE, manifest, vec![function("say-hello")], Described::ByCode).unwrap();
        let action = manifest.actions.values().next().unwrap();
        assert_eq!((action.description.as_str(), &action.input), ("Greets.", &json!({"type": "object"})));
    }

    #[test]
    fn actions_and_functions_must_match() {
        let manifest = keyward_registry::parse_manifest(SOURCE).unwrap();
        let faults = differences(SOURCE, &manifest, &[function("say-helo")], Described::ByCode);
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

    #[test]
    fn actions_and_schemas_in_a_file_must_match() {
        let manifest = keyward_registry::parse_manifest(SOURCE).unwrap();
        let faults = differences(SOURCE, &manifest, &[function("say-helo")], Described::ByFile);
        insta::assert_snapshot!(crate::diagnostics::render("connector.toml", SOURCE, &faults, false), @r#"
        error[action-without-schemas]: actions.json has no schemas for the action 'say-hello'
         --> connector.toml:5:10
          |
        5 | [actions.say-hello]
          |          ^^^^^^^^^
          |
          = hint: add `{"name": "say-hello", "input": {...}, "output": {...}}`

        error[schemas-without-action]: the action 'say-helo' is not declared
        --> connector.toml
         = hint: add a table [actions.say-helo] with its title, requests and scopes
        "#);
    }
}
