//! The promise from end to end: sign in, install, call, run; the token reaches the API and nothing else.

use std::{fs, path::Path};

use anyhow::Result;
use keyward_harness::{
    AuthorizationServer, GithubApi, Keyward,
    authorization_server::{self, CLIENT_SECRET},
    keyward::PASSPHRASE,
    person::Decision,
    process::repository,
};
use serde_json::json;

fn flow() -> String {
    repository().join("examples/tidy-issues.yaml").display().to_string()
}

/// Every file under `folder` with its content.
pub(crate) fn files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            let content = fs::read(&path).unwrap();
            all.push((path, content));
        }
    }
    all
}

/// Whether `needle` is a part of `haystack`.
pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_and_a_flow_run_with_a_token_that_only_the_api_sees() -> Result<()> {
    let authorization = AuthorizationServer::start(authorization_server::Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    let mut said = String::new();

    let user = keyward.run(["--json", "call", "github.current-user"])?.success();
    assert_eq!(user.json()["output"]["login"], "octocat");
    said.push_str(&user.stdout);

    for title in ["stale: old idea", "a fine idea"] {
        keyward
            .run(["call", "github.create-issue", "owner=octocat", "repository=hello-world", &format!("title={title}")])?
            .success();
    }
    let input = json!({"owner": "octocat", "repository": "hello-world"}).to_string();
    let run = keyward.run(["--json", "run", &flow(), "--input", &input])?.success();
    said.push_str(&run.stdout);
    said.push_str(&run.stderr);
    let run = run.json();
    assert_eq!(run["output"], json!({"report": 3, "closed": [1]}), "{run}");

    let issue = api.state("/repos/octocat/hello-world/issues/1").await?;
    assert_eq!(issue["state"], "closed");
    let comments = api.state("/repos/octocat/hello-world/issues/3/comments").await?;
    assert_eq!(comments[0]["body"], "Closed 1 stale issues.");

    let id = run["id"].as_str().unwrap();
    let history = keyward.run(["--json", "runs", "show", id])?.success();
    said.push_str(&history.stdout);
    let audit = keyward.run(["--json", "audit"])?.success();
    said.push_str(&audit.stdout);
    let records = audit.json();
    let sent = records.as_array().unwrap().iter().filter(|record| record["event"]["event"] == "request-sent").count();
    let seen = api.seen();
    assert_eq!(sent, seen.len(), "the audit trail has one record for each request that the API saw");

    // The token reached the API each time, and the authorization server called it active.
    assert!(seen.iter().all(|request| request.token_active), "{seen:?}");
    let tokens: std::collections::BTreeSet<_> = seen.iter().filter_map(|request| request.token.clone()).collect();
    assert_eq!(tokens.len(), 1);
    for secret in tokens.iter().map(String::as_str).chain([PASSPHRASE, CLIENT_SECRET]) {
        assert!(!said.contains(secret), "a secret stands in the output");
        for (path, content) in files(keyward.folder()) {
            assert!(!contains(&content, secret.as_bytes()), "a secret stands in {}", path.display());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declined_consent_leaves_no_connection() -> Result<()> {
    let authorization = AuthorizationServer::start(authorization_server::Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let mut keyward = Keyward::initialised(&[authorization.authority(), api.authority()])?;
    keyward.use_provider(&authorization)?;
    keyward.set("KEYWARD_CLIENT_SECRET", CLIENT_SECRET);

    let (outcome, page) = keyward.connect(&api, &["repo"], Decision::Decline).await?;
    let outcome = outcome.failure(4);
    assert!(outcome.error()["message"].as_str().unwrap().contains("declined"), "{}", outcome.stderr);
    assert!(page.body.contains("is not connected"), "{}", page.body);
    assert_eq!(keyward.run(["--json", "connections", "list"])?.success().json(), json!([]));
    assert_eq!(authorization.seen().await?["authorization_code"], 0);

    // The same command succeeds afterwards: nothing stands in its way.
    let (outcome, page) = keyward.connect(&api, &["repo"], Decision::Agree).await?;
    outcome.success();
    assert!(page.body.contains("is connected"), "{}", page.body);
    Ok(())
}
