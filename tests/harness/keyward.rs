//! The `keyward` binary in a data directory of its own.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    authorization_server::{AuthorizationServer, CLIENT_ID, CLIENT_SECRET},
    github::GithubApi,
    person::{self, Decision, LastPage},
};

/// The passphrase of every vault under test.
pub const PASSPHRASE: &str = "test-passphrase-of-the-suite";

/// A data directory and the binary that works in it.
#[derive(Debug)]
pub struct Keyward {
    directory: TempDir,
    environment: Vec<(String, String)>,
}

/// What one command did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    /// The same, where the command succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The same, where the command ended with `code`.
    #[track_caller]
    pub fn failure(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("{error}\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr),
        }
    }

    /// The error that `--json` printed on standard error.
    #[track_caller]
    pub fn error(&self) -> Value {
        let last = self.stderr.lines().rev().find(|line| line.starts_with('{'));
        match last.and_then(|line| serde_json::from_str::<Value>(line).ok()) {
            Some(value) => value["error"].clone(),
            None => panic!("no error as JSON\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr),
        }
    }
}

impl Keyward {
    /// An empty data directory; nothing is initialised.
    pub fn empty() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("keyward-test-").tempdir()?;
        let home = directory.path().join("home");
        std::fs::create_dir(&home)?;
        let path = |name: &str| home.join(name).display().to_string();
        let mut environment = vec![
            ("HOME".to_owned(), home.display().to_string()),
            ("XDG_DATA_HOME".to_owned(), path("data")),
            ("XDG_CONFIG_HOME".to_owned(), path("config")),
            ("XDG_CACHE_HOME".to_owned(), path("cache")),
            ("KEYWARD_PASSPHRASE".to_owned(), PASSPHRASE.to_owned()),
            ("NO_COLOR".to_owned(), "1".to_owned()),
            // A test never changes the machine's toolchains.
            ("RUSTUP_AUTO_INSTALL".to_owned(), "0".to_owned()),
        ];
        // The compilers that build connectors are the machine's own.
        let real_home = PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?);
        for (name, default) in
            [("CARGO_HOME", Some(".cargo")), ("RUSTUP_HOME", Some(".rustup")), ("KEYWARD_GUEST_TARGET_DIR", None)]
        {
            let value = std::env::var_os(name).map(PathBuf::from).or_else(|| Some(real_home.join(default?)));
            environment.extend(value.map(|value| (name.to_owned(), value.display().to_string())));
        }
        Ok(Self { directory, environment })
    }

    /// A data directory with a vault under [`PASSPHRASE`], where connectors may reach the given `host:port`s of this
    /// machine without TLS.
    pub fn initialised(local: &[String]) -> Result<Self> {
        let keyward = Self::empty()?;
        keyward.run(["init", "--key", "passphrase"])?.success();
        keyward.allow_local(local)?;
        Ok(keyward)
    }

    /// Replaces the operator's exceptions: these `host:port`s of this machine may be reached, without TLS.
    pub fn allow_local(&self, local: &[String]) -> Result<()> {
        let quoted = |prefix: &str| -> Result<String> {
            let entries: Result<Vec<String>> = local
                .iter()
                .map(|authority| {
                    let port = authority.rsplit(':').next().context("no port")?;
                    Ok(match prefix {
                        "private" => format!("\"127.0.0.1/32:{port}\""),
                        _ => format!("\"{authority}\""),
                    })
                })
                .collect();
            Ok(entries?.join(", "))
        };
        let config = format!(
            "[vault]\nkey = \"passphrase\"\n\n[network]\nprivate = [{}]\nhttp = [{}]\n",
            quoted("private")?,
            quoted("http")?
        );
        std::fs::write(self.data_dir().join("config.toml"), config)?;
        Ok(())
    }

    /// Makes `authorization` the place where accounts of GitHub sign in, by an operator's provider file.
    pub fn use_provider(&self, authorization: &AuthorizationServer) -> Result<()> {
        let directory = self.data_dir().join("providers");
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("github.toml"), provider_file(&authorization.issuer))?;
        Ok(())
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.directory.path()
    }

    /// Sets a variable of the environment for every command.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The command, ready to be started.
    pub fn command<I, S>(&self, arguments: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new(binary());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run<I, S>(&self, arguments: I) -> Result<Outcome>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.outcome(self.command(arguments))
    }

    /// Runs a command to its end with `secret` as its standard input.
    pub fn run_with_input<I, S>(&self, arguments: I, input: &str) -> Result<Outcome>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let path = self.directory.path().join("stdin");
        std::fs::write(&path, input)?;
        let mut command = self.command(arguments);
        command.stdin(std::fs::File::open(path)?);
        self.outcome(command)
    }

    fn outcome(&self, mut command: Command) -> Result<Outcome> {
        let output = command.output().context("cannot start keyward: run the tests by `./just test`")?;
        Ok(Outcome {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }

    /// Starts a command and reads its standard error line by line.
    pub fn spawn<I, S>(&self, arguments: I) -> Result<Running>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut child = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdout = child.stdout.take().context("no standard output")?;
        let stderr = BufReader::new(child.stderr.take().context("no standard error")?);
        let stdout = thread::spawn(move || {
            let mut text = String::new();
            let _ = stdout.read_to_string(&mut text);
            text
        });
        Ok(Running { child, stdout, stderr, read: String::new() })
    }

    /// Connects an account of GitHub through `authorization` with the authorization code flow, as a person would.
    pub async fn connect(&self, api: &GithubApi, scopes: &[&str], decision: Decision) -> Result<(Outcome, LastPage)> {
        let mut arguments = vec![
            "--json".to_owned(),
            "connect".to_owned(),
            "github".to_owned(),
            "--no-browser".to_owned(),
            "--name".to_owned(),
            "octocat".to_owned(),
            "--client-id".to_owned(),
            CLIENT_ID.to_owned(),
            "--endpoint".to_owned(),
            format!("api={}", api.url),
        ];
        for scope in scopes {
            arguments.extend(["--scope".to_owned(), (*scope).to_owned()]);
        }
        self.sign_in(&arguments, decision).await
    }

    /// Runs a `connect` command that waits for a person, and is that person.
    pub async fn sign_in(&self, arguments: &[String], decision: Decision) -> Result<(Outcome, LastPage)> {
        let mut running = self.spawn(arguments)?;
        // The address stands on a line of its own; lines of the log may hold others.
        let mut line = running.line_with("http")?;
        while !line.starts_with("http") {
            line = running.line_with("http")?;
        }
        let page = person::sign_in(line.trim_end(), "octocat", decision).await?;
        Ok((running.wait()?, page))
    }

    /// Installs a component that `./just guests` has built.
    pub fn add_plugin(&self, name: &str) -> Result<()> {
        self.run([OsStr::new("plugin"), "add".as_ref(), guest(name)?.as_ref(), "--yes".as_ref()])?.success();
        Ok(())
    }

    /// A data directory with the GitHub connector and a connected account: what most tests begin with.
    pub async fn connected(authorization: &AuthorizationServer, api: &GithubApi) -> Result<Self> {
        let mut keyward = Self::initialised(&[authorization.authority(), api.authority()])?;
        keyward.use_provider(authorization)?;
        keyward.set("KEYWARD_CLIENT_SECRET", CLIENT_SECRET);
        keyward.add_plugin("github")?;
        let (outcome, page) = keyward.connect(api, &["repo", "read:user"], Decision::Agree).await?;
        ensure!(outcome.code == Some(0), "connect failed: {}\n{}", outcome.stderr, page.body);
        Ok(keyward)
    }
}

/// A command under way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: JoinHandle<String>,
    stderr: BufReader<std::process::ChildStderr>,
    read: String,
}

impl Running {
    /// The next line of standard error that holds `part`.
    pub fn line_with(&mut self, part: &str) -> Result<String> {
        loop {
            let mut line = String::new();
            if self.stderr.read_line(&mut line)? == 0 {
                bail!("the command ended without saying {part:?}; it said:\n{}", self.read);
            }
            self.read.push_str(&line);
            if line.contains(part) {
                return Ok(line);
            }
        }
    }

    /// Ends it at once, as a power cut would (SIGKILL).
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<Outcome> {
        let mut stderr = std::mem::take(&mut self.read);
        self.stderr.read_to_string(&mut stderr)?;
        let status = self.child.wait()?;
        let Ok(stdout) = self.stdout.join() else { bail!("the reader of standard output panicked") };
        Ok(Outcome { code: status.code(), stdout, stderr })
    }
}

/// The binary that was built beside the test's own.
pub fn binary() -> PathBuf {
    let mut path = std::env::current_exe().unwrap_or_default();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.join("keyward")
}

/// A component that `./just guests` has built.
pub fn guest(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("KEYWARD_TEST_GUESTS")
        .context("KEYWARD_TEST_GUESTS is not set: run the tests by `./just test`, which builds the guests")?;
    let path = Path::new(&folder).join(format!("{name}.wasm"));
    ensure!(path.is_file(), "{} is missing: run `./just guests`", path.display());
    Ok(path)
}

/// An operator's provider file that sends accounts of GitHub to `issuer`.
fn provider_file(issuer: &str) -> String {
    format!(
        r#"id = "github"
title = "GitHub by a test issuer"
methods = ["oauth2", "client-credentials", "bearer", "api-key", "basic"]
issuer = "{issuer}"

[token]
rotation = "single-use-revokes-family"

[scopes.implications]
repo = ["public_repo"]
"#
    )
}

/// The token of [`hostile`]'s connection.
pub const CANARY: &str = "canary-test/token+0123456789~abcdefXYZ";

/// A data directory with the hostile connector and a connection to `url`, whose token is [`CANARY`].
pub fn hostile(url: &str) -> Result<Keyward> {
    with_canary("hostile", url)
}

/// A data directory with that connector and a connection to `url`, whose token is [`CANARY`].
pub fn with_canary(connector: &str, url: &str) -> Result<Keyward> {
    let keyward = Keyward::initialised(&[url.trim_start_matches("http://").to_owned()])?;
    keyward.add_plugin(connector)?;
    connect_canary(&keyward, "canary", url)?;
    Ok(keyward)
}

/// Makes a connection to `url` whose token is [`CANARY`].
pub fn connect_canary(keyward: &Keyward, name: &str, url: &str) -> Result<()> {
    connect_canary_of(keyward, "oidc", name, url)
}

/// The same with an account of that provider.
pub fn connect_canary_of(keyward: &Keyward, provider: &str, name: &str, url: &str) -> Result<()> {
    let endpoint = format!("api={url}");
    let connect = ["connect", provider, "--method", "bearer", "--name", name, "--secret-file", "-", "--endpoint"];
    keyward.run_with_input(connect.into_iter().chain([endpoint.as_str()]), CANARY)?.success();
    std::fs::remove_file(keyward.folder().join("stdin"))?;
    Ok(())
}
