//! The main job on real input, as a person would do it at a terminal. `./just demo` runs it.
//!
//! An authorization server and a stateful GitHub API start on loopback; an account is connected by authorization code
//! with PKCE; a connector is built from Rust source and installed; an action is called, a flow is run; and at the end
//! it is shown where the access token was seen and where it was not.
#![expect(clippy::print_stdout, reason = "a demonstration speaks on standard output")]

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use keyward_harness::{
    AuthorizationServer, GithubApi, Keyward,
    authorization_server::{CLIENT_ID, CLIENT_SECRET, Options},
    person::Decision,
    process::repository,
};

#[tokio::main]
async fn main() -> Result<()> {
    heading("An authorization server (oidc-provider) and a stateful GitHub API start on loopback");
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    println!("authorization server  {}", authorization.issuer);
    println!("GitHub API            {}", api.url);

    heading("An installation of its own, that may reach these two without TLS");
    let mut keyward = Keyward::empty()?;
    keyward.set("KEYWARD_CLIENT_SECRET", CLIENT_SECRET);
    let mut said = Transcript::default();
    said.run(&keyward, &["init", "--key", "passphrase"])?;
    keyward.allow_local(&[authorization.authority(), api.authority()])?;
    keyward.use_provider(&authorization)?;

    heading("A connector is built from Rust source and installed");
    let component = keyward.folder().join("github.wasm").display().to_string();
    let source = repository().join("plugins/github").display().to_string();
    said.run_as(
        &keyward,
        &["plugin", "build", &source, "--out", &component],
        "plugin build plugins/github --out github.wasm",
    )?;
    said.run_as(&keyward, &["plugin", "add", &component, "--yes"], "plugin add github.wasm --yes")?;

    heading("A person signs in and agrees (OAuth 2.0 authorization code with PKCE)");
    let endpoint = format!("api={}", api.url);
    let connect: Vec<String> = ["connect", "github", "--name", "octocat", "--for", "github", "--client-id", CLIENT_ID]
        .into_iter()
        .chain(["--endpoint", &endpoint, "--no-browser"])
        .map(str::to_owned)
        .collect();
    println!("$ keyward {}", connect.join(" "));
    let (outcome, page) = keyward.sign_in(&connect, Decision::Agree).await?;
    ensure!(outcome.code == Some(0), "connect failed:\n{}", outcome.stderr);
    said.show(&outcome.stdout, "");
    ensure!(page.status.is_success(), "the last page was {}", page.status);

    heading("One action");
    said.run(&keyward, &["call", "github.current-user"])?;
    for title in ["stale: try the other colour", "Works on my machine"] {
        let title = format!("title={title}");
        said.run(&keyward, &["call", "github.create-issue", "owner=octocat", "repository=hello-world", &title])?;
    }

    heading("A flow of several actions");
    let flow = repository().join("examples/tidy-issues.yaml").display().to_string();
    let input = r#"{"owner": "octocat", "repository": "hello-world"}"#;
    let shown = format!("run examples/tidy-issues.yaml --input '{input}'");
    said.run_as(&keyward, &["run", &flow, "--input", input], &shown)?;
    let runs = keyward.run(["--json", "runs", "list"])?.success().json();
    let id = runs[0]["id"].as_str().context("the run has no id")?.to_owned();
    said.run(&keyward, &["runs", "show", &id])?;

    heading("What the gate did");
    said.run(&keyward, &["audit"])?;

    heading("Where the access token was seen");
    let seen = api.seen();
    let tokens: BTreeSet<String> = seen.iter().filter_map(|request| request.token.clone()).collect();
    let active = seen.iter().filter(|request| request.token_active).count();
    println!(
        "the API                         {active} of {} requests, each token active at the authorization server",
        seen.len()
    );
    ensure!(active == seen.len() && !seen.is_empty(), "a request came without an active token");
    for token in &tokens {
        ensure!(!said.0.contains(token.as_str()), "the token stands in the output above");
    }
    println!("the output above                nowhere");
    let files = count_files_with(keyward.folder(), &tokens)?;
    println!("data directory and its files    in {files} files (sealed in the database, in clear nowhere)");
    ensure!(files == 0, "the token stands in a file");

    heading("A connector that tries to read it back");
    let echo = keyward_harness::EchoServer::start().await?;
    keyward.allow_local(&[authorization.authority(), api.authority(), echo.authority()])?;
    keyward.add_plugin("hostile")?;
    fs::write(keyward.folder().join("canary"), CANARY)?;
    keyward
        .run([
            "connect",
            "oidc",
            "--method",
            "bearer",
            "--name",
            "canary",
            "--secret-file",
            "canary",
            "--endpoint",
            &format!("api={}", echo.url),
        ])?
        .success();
    fs::remove_file(keyward.folder().join("canary"))?;
    let input = r#"{"method": "GET", "path": "/echo/base64"}"#;
    said.run(&keyward, &["call", "hostile.any-request", "--connection", "canary", "--input", input])?;
    let received = echo.received();
    let reached = received.iter().flat_map(|request| &request.headers).any(|(_, value)| value.contains(CANARY));
    ensure!(reached, "the server did not get the token");
    println!("the server got the token and sent it back in base64; the connector got '[redacted]'");
    Ok(())
}

/// The secret of the last part.
const CANARY: &str = "canary-test-token-0123456789abcdef";

/// All that was printed.
#[derive(Default)]
struct Transcript(String);

impl Transcript {
    fn run(&mut self, keyward: &Keyward, arguments: &[&str]) -> Result<()> {
        let quoted: Vec<String> = arguments
            .iter()
            .map(
                |argument| if argument.contains([' ', '{']) { format!("'{argument}'") } else { (*argument).to_owned() },
            )
            .collect();
        self.run_as(keyward, arguments, &quoted.join(" "))
    }

    fn run_as(&mut self, keyward: &Keyward, arguments: &[&str], shown: &str) -> Result<()> {
        println!("$ keyward {shown}");
        let outcome = keyward.run(arguments)?;
        ensure!(outcome.code == Some(0), "it ended with {:?}:\n{}\n{}", outcome.code, outcome.stdout, outcome.stderr);
        self.show(&outcome.stdout, &outcome.stderr);
        Ok(())
    }

    fn show(&mut self, stdout: &str, stderr: &str) {
        for text in [stderr, stdout] {
            let text = text.trim_end();
            if !text.is_empty() {
                println!("{text}");
            }
            self.0.push_str(text);
        }
    }
}

fn heading(text: &str) {
    println!("\n── {text}");
}

fn count_files_with(folder: &Path, secrets: &BTreeSet<String>) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            count += count_files_with(&path, secrets)?;
        } else {
            let content = fs::read(&path)?;
            let holds = |secret: &String| content.windows(secret.len()).any(|window| window == secret.as_bytes());
            count += usize::from(secrets.iter().any(holds));
        }
    }
    Ok(count)
}
