//! Cargo, asked for the core module of a guest.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use crate::{
    config::KeySource,
    failure::{Exit, Failure},
    files,
    output::Spinner,
    toolchain::Toolchain,
};

/// A guest's package and how it is built.
pub(super) struct Guest {
    /// The compiler.
    pub(super) toolchain: Toolchain,
    /// Where the root key is, which the build must not see.
    pub(super) key: Option<KeySource>,
    /// The package's directory.
    pub(super) directory: PathBuf,
    /// Where cargo works; shared between packages it saves compiling the same dependencies again.
    pub(super) target_directory: PathBuf,
}

/// What a build brought.
pub(super) struct Built {
    /// The core module.
    pub(super) module: Vec<u8>,
    /// What the compiler warned of.
    pub(super) warnings: String,
}

impl Guest {
    /// Builds the core module with these flags for the compiler; `spinner` shows what cargo does.
    pub(super) async fn compile(&self, flags: &[&str], colour: bool, spinner: &Spinner) -> Result<Built, Failure> {
        let manifest = self.directory.join("Cargo.toml");
        let mut command = self.toolchain.cargo_rustc(self.key.as_ref());
        command
            .args(["--lib", "--crate-type", "cdylib", "--message-format", "json-render-diagnostics"])
            .args(["--color", if colour { "always" } else { "never" }])
            .arg("--manifest-path")
            .arg(&manifest)
            .arg("--target-dir")
            .arg(&self.target_directory)
            .arg("--")
            .args(flags)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            Failure::new(Exit::Environment, "cargo-missing", "cargo cannot be started").because(&error)
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // Both are read at once: a pipe that is full would stop cargo.
        let (artifact, told, status) =
            tokio::join!(read_artifact(stdout, &manifest), read_messages(stderr, spinner), child.wait());
        let status = status
            .map_err(|error| Failure::new(Exit::Environment, "cargo-failed", "cargo was lost").because(&error))?;
        if !status.success() {
            return Err(Failure::new(Exit::Failed, "build-failed", "the connector does not compile").transcript(told));
        }
        let artifact = artifact.ok_or_else(|| {
            Failure::new(Exit::BadInput, "no-library", format!("{} is not a library", manifest.display()))
                .hint("a connector is a library: put its code into src/lib.rs")
        })?;
        Ok(Built { module: files::read(&artifact)?, warnings: without_status(&told) })
    }
}

/// The `.wasm` file among the artifacts that cargo tells of on standard output.
async fn read_artifact(stdout: Option<impl AsyncRead + Unpin>, manifest: &Path) -> Option<PathBuf> {
    let mut lines = BufReader::new(stdout?).lines();
    let mut found = None;
    while let Ok(Some(line)) = lines.next_line().await {
        found = artifact(&line, manifest).or(found);
    }
    found
}

fn artifact(line: &str, manifest: &Path) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let ours = message["reason"] == "compiler-artifact"
        && message["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest);
    let files = message["filenames"].as_array().filter(|_| ours)?;
    files.iter().filter_map(Value::as_str).find(|path| path.ends_with(".wasm")).map(PathBuf::from)
}

/// What cargo says on standard error, with its last line as the spinner's message.
async fn read_messages(stderr: Option<impl AsyncRead + Unpin>, spinner: &Spinner) -> String {
    let mut told = String::new();
    let Some(stderr) = stderr else { return told };
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if is_status(&line) {
            let plain = anstream::adapter::strip_str(&line).to_string();
            spinner.now(plain.trim().chars().take(60).collect::<String>());
        }
        told.push_str(&line);
        told.push('\n');
    }
    told
}

/// Whether cargo tells what it does, for example `   Compiling serde v1.0.0`: a verb, set flush right at column 12.
fn is_status(line: &str) -> bool {
    let plain = anstream::adapter::strip_str(line).to_string();
    let Some(head) = plain.get(..12).filter(|_| plain.as_bytes().get(12) == Some(&b' ')) else { return false };
    let verb = head.trim_start();
    verb.starts_with(|c: char| c.is_ascii_uppercase()) && verb.bytes().all(|b| b.is_ascii_alphabetic())
}

fn without_status(told: &str) -> String {
    let lines = told.lines().filter(|line| !is_status(line)).collect::<Vec<_>>();
    lines.join("\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_artifact_of_the_package_itself_counts() {
        let line = |reason: &str, manifest: &str| {
            serde_json::json!({"reason": reason, "manifest_path": manifest, "filenames": ["/t/a.d", "/t/a.wasm"]})
                .to_string()
        };
        let ours = Path::new("/p/Cargo.toml");
        assert_eq!(artifact(&line("compiler-artifact", "/p/Cargo.toml"), ours), Some("/t/a.wasm".into()));
        assert_eq!(artifact(&line("compiler-artifact", "/q/Cargo.toml"), ours), None);
        assert_eq!(artifact(&line("build-script-executed", "/p/Cargo.toml"), ours), None);
        assert_eq!(artifact("no JSON", ours), None);
    }

    #[test]
    fn warnings_are_told_without_what_cargo_does() {
        let told = "   Compiling serde v1.0.0\n\u{1b}[1m\u{1b}[92m    Finished\u{1b}[0m `release`\nwarning: unused variable: `x`\n  |\n";
        assert_eq!(without_status(told), "warning: unused variable: `x`\n  |");
    }
}
