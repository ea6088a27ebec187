//! Which compiler builds guests: rustup's where it has the target, else a system compiler with its library's sources.

use std::{
    env,
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use crate::{
    config::KeySource,
    failure::{Exit, Failure},
    secrets,
};

/// The target of guests: no WASI import at all, the strictest sandbox and the smallest component.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// A way to build guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The compiler on the `PATH` has the target's library.
    Target {
        /// What `rustc --version` says.
        version: String,
    },
    /// The compiler of the system builds the library from its sources each time a target folder is new.
    BuildStd {
        /// Where it and the library are.
        sysroot: PathBuf,
        /// The compiler.
        rustc: PathBuf,
        /// Its cargo.
        cargo: PathBuf,
        /// What `rustc --version` says.
        version: String,
    },
}

/// Which way a person asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Choice {
    /// The target's library where it is installed, else its sources
    #[default]
    Auto,
    /// The compiler on the PATH, which must have the target's library (`rustup target add`)
    Target,
    /// The system's compiler in /usr/bin, which builds the library from its sources
    BuildStd,
}

impl Toolchain {
    /// Decides for a connector in `directory`, whose `rust-toolchain.toml` rustup honours. No compiler is shown the
    /// root key, which is at `key`.
    pub(crate) async fn choose(choice: Choice, directory: &Path, key: Option<&KeySource>) -> Result<Self, Failure> {
        if choice != Choice::BuildStd
            && let Some(toolchain) = Self::with_target(directory, key).await
        {
            return Ok(toolchain);
        }
        if choice != Choice::Target
            && let Some(toolchain) = Self::with_sources(Path::new("/usr/bin"), key).await
        {
            return Ok(toolchain);
        }
        let wanted = match choice {
            Choice::Auto => "no Rust toolchain that can build connectors was found",
            Choice::Target => "the Rust compiler on the PATH lacks the library for wasm32-unknown-unknown",
            Choice::BuildStd => "/usr/bin has no Rust compiler with the sources of its library",
        };
        Err(Failure::new(Exit::Environment, "toolchain-missing", wanted)
            .hint(format!("with rustup: rustup target add {TARGET}"))
            .hint(
                "on Debian: apt-get install --no-install-recommends \
                 rustc-web cargo-web rust-web-src rust-web-llvm lld-22",
            ))
    }

    async fn with_target(directory: &Path, key: Option<&KeySource>) -> Option<Self> {
        let rustc = OsStr::new("rustc");
        let library = sysroot(rustc, directory, key).await?.join("lib/rustlib").join(TARGET).join("lib");
        let there = std::fs::read_dir(library)
            .ok()?
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"));
        if !there {
            return None;
        }
        Some(Self::Target { version: version(rustc, directory, key).await? })
    }

    async fn with_sources(bin: &Path, key: Option<&KeySource>) -> Option<Self> {
        let (rustc, cargo) = (bin.join("rustc"), bin.join("cargo"));
        let here = Path::new("/");
        let sysroot = sysroot(rustc.as_os_str(), here, key).await?;
        let sources = sysroot.join("lib/rustlib/src/rust/library/std/Cargo.toml");
        if !cargo.is_file() || !sources.is_file() {
            return None;
        }
        let version = version(rustc.as_os_str(), here, key).await?;
        Some(Self::BuildStd { sysroot, rustc, cargo, version })
    }

    /// `cargo rustc` for a release build of a guest in this way, with nothing of the caller's own build in it and
    /// without the root key, which is at `key`.
    pub(crate) fn cargo_rustc(&self, key: Option<&KeySource>) -> Command {
        let mut command = match self {
            Self::Target { .. } => Command::new("cargo"),
            Self::BuildStd { cargo, .. } => Command::new(cargo),
        };
        command.args(["rustc", "--release", "--target", TARGET]);
        command.arg("--config").arg(self.without_paths(env::home_dir(), env::var_os("CARGO_HOME").map(PathBuf::from)));
        if let Self::BuildStd { rustc, .. } = self {
            command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").args(["-Z", "build-std=std,panic_abort"]);
            // rustup's proxies set it for their children; the system's compiler would not know the name.
            command.env_remove("RUSTUP_TOOLCHAIN");
        } else {
            command.env_remove("RUSTC");
        }
        secrets::withhold(command.as_std_mut(), key);
        // Flags for the caller's own machine (a linker, a processor) do not fit the guest's target.
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_BUILD_RUSTFLAGS"] {
            command.env_remove(name);
        }
        command
    }

    /// The setting that keeps where this machine has its things out of what is built: a panic's text has the path of
    /// its source. It is the same for every connector, because several share what is built of their dependencies;
    /// a connector's own paths are relative already.
    fn without_paths(&self, home: Option<PathBuf>, cargo_home: Option<PathBuf>) -> String {
        let cargo_home = cargo_home.or_else(|| Some(home.as_ref()?.join(".cargo")));
        let sysroot = match self {
            // The library was built elsewhere, without paths.
            Self::Target { .. } => None,
            Self::BuildStd { sysroot, .. } => Some(sysroot.clone()),
        };
        // The last that fits applies.
        let flags = [(home, "~"), (cargo_home, "cargo"), (sysroot, "rust")].into_iter().filter_map(|(path, name)| {
            let path = path?.into_os_string().into_string().ok().filter(|path| path.len() > 1)?;
            Some(toml::Value::String(format!("--remap-path-prefix={path}={name}")))
        });
        format!("target.{TARGET}.rustflags={}", toml::Value::Array(flags.collect()))
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target { version } => write!(f, "{version}, with its library for {TARGET}"),
            Self::BuildStd { rustc, version, .. } => {
                write!(f, "{version} in {}, with the library built from its sources", rustc.display())
            }
        }
    }
}

async fn sysroot(rustc: &OsStr, directory: &Path, key: Option<&KeySource>) -> Option<PathBuf> {
    ask(rustc, &["--print", "sysroot"], directory, key).await.map(PathBuf::from)
}

async fn version(rustc: &OsStr, directory: &Path, key: Option<&KeySource>) -> Option<String> {
    // "rustc 1.95.0 (59807616e 2026-04-14) (built from ...)": what stands in brackets is of no interest here.
    ask(rustc, &["--version"], directory, key).await.map(|text| text.split(" (").next().unwrap_or(&text).to_owned())
}

async fn ask(program: &OsStr, arguments: &[&str], directory: &Path, key: Option<&KeySource>) -> Option<String> {
    let mut command = Command::new(program);
    secrets::withhold(command.as_std_mut(), key);
    let output = command.args(arguments).current_dir(directory).output().await.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_without_a_compiler_offers_nothing() {
        assert_eq!(Toolchain::with_sources(Path::new("/nonexistent"), None).await, None);
    }

    #[tokio::test]
    async fn a_compiler_that_is_asked_what_it_is_does_not_see_the_root_key() {
        let asked =
            async |key| ask(OsStr::new("sh"), &["-c", "echo ${CARGO_MANIFEST_DIR-none}"], Path::new("/"), key).await;
        assert_ne!(asked(None).await.as_deref(), Some("none"), "the test has no variable to hide");
        let key = KeySource::Env("CARGO_MANIFEST_DIR".to_owned());
        assert_eq!(asked(Some(&key)).await.as_deref(), Some("none"));
    }

    fn build_std() -> Toolchain {
        let [sysroot, rustc, cargo] = ["/s", "/r", "/c"].map(PathBuf::from);
        Toolchain::BuildStd { sysroot, rustc, cargo, version: "rustc 1".to_owned() }
    }

    #[test]
    fn a_build_is_told_to_leave_out_the_paths_of_the_machine() {
        let target = Toolchain::Target { version: "rustc 1".to_owned() };
        let setting = "target.wasm32-unknown-unknown.rustflags=";
        for (toolchain, home, cargo_home, flags) in [
            (
                target.clone(),
                Some("/h"),
                None,
                r#"["--remap-path-prefix=/h=~", "--remap-path-prefix=/h/.cargo=cargo"]"#,
            ),
            (target.clone(), None, Some("/c \"c\""), r#"['--remap-path-prefix=/c "c"=cargo']"#),
            (target, None, None, "[]"),
            (build_std(), Some("/"), Some("/c"), r#"["--remap-path-prefix=/c=cargo", "--remap-path-prefix=/s=rust"]"#),
        ] {
            let setting = format!("{setting}{flags}");
            assert_eq!(toolchain.without_paths(home.map(PathBuf::from), cargo_home.map(PathBuf::from)), setting);
        }
    }

    #[test]
    fn a_build_takes_no_flags_from_the_caller() {
        let toolchain = build_std();
        let command = toolchain.cargo_rustc(Some(&KeySource::Env("MY_ROOT_KEY".to_owned())));
        let variables: Vec<_> = command.as_std().get_envs().collect();
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTUP_TOOLCHAIN", "MY_ROOT_KEY"] {
            assert!(variables.contains(&(OsStr::new(name), None)), "{name}");
        }
        assert!(variables.contains(&(OsStr::new("RUSTC"), Some(OsStr::new("/r")))));
    }
}
