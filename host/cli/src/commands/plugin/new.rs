//! `keyward plugin new`: a project that builds and passes its test as it is, with nothing else beside it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use keyward_model::ConnectorName;
use serde_json::json;

use crate::{
    commands::Context,
    failure::{Exit, Failure},
    files,
    output::{style, styled},
    sdk,
};

/// The files of a new project, with `{{name}}` and `{{title}}` to be filled in.
const SCAFFOLD: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("../../../scaffold/cargo.toml.in")),
    ("connector.toml", include_str!("../../../scaffold/connector.toml")),
    ("src/lib.rs", include_str!("../../../scaffold/lib.rs")),
    ("README.md", include_str!("../../../scaffold/README.md")),
    (".gitignore", include_str!("../../../scaffold/gitignore")),
];

/// Arguments of `keyward plugin new`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The connector's name, for example 'google-sheets'
    name: ConnectorName,
    /// Where the project goes [default: a directory of that name]
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Makes the project.
pub(crate) fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let name = arguments.name.as_str();
    let directory = arguments.dir.unwrap_or_else(|| PathBuf::from(name));
    create(&directory, name)?;
    let document = json!({"name": name, "directory": directory.display().to_string()});
    context.output.result(&document, || {
        format!("{} made the connector {name} in {}", styled(style::GOOD, "✓"), directory.display())
    })?;
    context.output.hint(format_args!("build it with `keyward plugin build {}`", directory.display()));
    Ok(())
}

/// Makes the project whole beside its place and then moves it there.
fn create(directory: &Path, name: &str) -> Result<(), Failure> {
    let refuse = |error: &io::Error| files::cannot("create", directory, error);
    let absolute = std::path::absolute(directory).map_err(|error| refuse(&error))?;
    let taken = || {
        Failure::new(Exit::Usage, "directory-taken", format!("{} is there already", directory.display()))
            .hint("choose another directory with --dir")
    };
    if fs::read_dir(&absolute).map_or_else(|_| absolute.exists(), |mut entries| entries.next().is_some()) {
        return Err(taken());
    }
    let parent = absolute.parent().ok_or_else(taken)?;
    fs::create_dir_all(parent).map_err(|error| refuse(&error))?;
    let staging = tempfile::Builder::new()
        .prefix(".keyward-new-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in(parent)
        .map_err(|error| refuse(&error))?;
    fill(staging.path(), name).map_err(|error| refuse(&error))?;
    // An empty directory is replaced; one that has been filled meanwhile is not.
    fs::rename(staging.path(), &absolute).map_err(|error| match error.kind() {
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => taken(),
        _ => refuse(&error),
    })?;
    // It is at its place now, so there is nothing to remove.
    let _ = staging.keep();
    Ok(())
}

fn fill(directory: &Path, name: &str) -> io::Result<()> {
    let title = title(name);
    for (path, text) in SCAFFOLD {
        put(&directory.join(path), text.replace("{{name}}", name).replace("{{title}}", &title).as_bytes())?;
    }
    for (path, bytes) in sdk::FILES {
        put(&directory.join("vendor/keyward-sdk").join(path), bytes)?;
    }
    Ok(())
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, bytes)
}

/// `google-sheets` as `Google sheets`.
fn title(name: &str) -> String {
    let words = name.replace('-', " ");
    let mut characters = words.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + characters.as_str())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_new_project_is_whole_and_its_manifest_has_no_fault() {
        let directory = tempfile::tempdir().unwrap();
        let project = directory.path().join("google-sheets");
        create(&project, "google-sheets").unwrap();
        let manifest = fs::read_to_string(project.join("connector.toml")).unwrap();
        let manifest = keyward_registry::parse_manifest(&manifest).unwrap();
        assert_eq!((manifest.name.as_str(), manifest.title.as_str()), ("google-sheets", "Google sheets"));
        for path in ["Cargo.toml", "src/lib.rs", "README.md", ".gitignore", "vendor/keyward-sdk/src/lib.rs"] {
            let text = fs::read_to_string(project.join(path)).unwrap();
            assert!(!text.contains("{{"), "{path} has a gap");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "something was left beside it");
    }

    #[test]
    fn the_commented_lines_of_the_manifest_are_right_too() {
        let manifest =
            include_str!("../../../scaffold/connector.toml").replace("{{name}}", "x").replace("{{title}}", "X");
        let whole: String = manifest
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .map(|line| format!("{line}\n"))
            .collect();
        let manifest = keyward_registry::parse_manifest(&whole).unwrap();
        assert_eq!(manifest.provider.as_deref(), Some("github"));
    }

    #[test]
    fn what_is_there_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let project = directory.path().join("x");
        fs::create_dir(&project).unwrap();
        create(&project, "x").unwrap();
        fs::write(project.join("src/lib.rs"), "mine").unwrap();
        assert_eq!(create(&project, "x").unwrap_err().code, "directory-taken");
        assert_eq!(fs::read_to_string(project.join("src/lib.rs")).unwrap(), "mine");
    }
}
