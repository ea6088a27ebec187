//! `kill -9` at any moment: the run goes on, and no recorded step is repeated.

use anyhow::Result;
use http::Method;
use keyward_harness::{AuthorizationServer, GithubApi, Keyward, authorization_server::Options};
use serde_json::{Value, json};

/// Five issues, one after another: each is a request with a side effect.
const FLOW: &str = r#"
document: {dsl: '1.0.3', namespace: tests, name: five-issues, version: '0.1.0'}
do:
  - each:
      for: {each: number, in: '[1, 2, 3, 4, 5]'}
      do:
        - create:
            call: github.create-issue
            with:
              owner: octocat
              repository: hello-world
              title: ${ "issue \($number)" }
"#;

fn write_flow(keyward: &Keyward) -> Result<String> {
    let path = keyward.folder().join("five.yaml");
    std::fs::write(&path, FLOW)?;
    Ok(path.display().to_string())
}

/// The entries of a run's history whose event is of this kind.
fn entries<'a>(history: &'a Value, kind: &str) -> Vec<&'a Value> {
    let entries = history["entries"].as_array().unwrap_or_else(|| panic!("no entries in {history}"));
    entries.iter().filter(|entry| entry["event"]["event"] == kind).collect()
}

/// Kills the process after request number `kill_after` was carried out (its answer is held back), resumes, and
/// compares journal and API.
async fn killed_after(kill_after: usize) -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    let flow = write_flow(&keyward)?;

    api.hold_answers_from(kill_after);
    let running = keyward.spawn(["run", &flow])?;
    api.wait_for(kill_after).await?;
    running.kill()?;
    api.release();

    let runs = keyward.run(["--json", "runs", "list"])?.success().json();
    let id = runs[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(runs[0]["phase"], "running", "{runs}");
    let resumed = keyward.run(["--json", "runs", "resume", &id])?.success().json();
    assert_eq!(resumed["phase"], "completed", "{resumed}");

    // Each attempt that the journal has started is one request, and no step with a recorded end has another attempt.
    let history = keyward.run(["--json", "runs", "show", &id])?.success().json();
    let posts = api.seen().iter().filter(|request| request.method == Method::POST).count();
    assert_eq!(entries(&history, "step-started").len(), posts);
    assert_eq!(entries(&history, "step-uncertain").len(), 1);
    assert_eq!(entries(&history, "step-completed").len(), 5);
    assert_eq!(posts, 6, "five steps, one of them twice");
    let issues = api.state("/repos/octocat/hello-world/issues?state=all&per_page=100").await?;
    let mut titles: Vec<&str> = issues.as_array().unwrap().iter().filter_map(|issue| issue["title"].as_str()).collect();
    titles.sort_unstable();
    let interrupted = format!("issue {kill_after}");
    let count = |title: &str| titles.iter().filter(|found| **found == title).count();
    for number in 1..=5 {
        let title = format!("issue {number}");
        let wanted = if title == interrupted { 2 } else { 1 };
        assert_eq!(count(&title), wanted, "{title} in {titles:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_killed_in_its_first_step_completes() -> Result<()> {
    killed_after(1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_killed_in_its_third_step_completes() -> Result<()> {
    killed_after(3).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_killed_in_its_last_step_completes() -> Result<()> {
    killed_after(5).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_that_resume_one_run_do_its_steps_once() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    let flow = write_flow(&keyward)?;
    api.hold_answers_from(2);
    let running = keyward.spawn(["run", &flow])?;
    api.wait_for(2).await?;
    running.kill()?;
    api.release();

    let runs = keyward.run(["--json", "runs", "list"])?.success().json();
    let id = runs[0]["id"].as_str().unwrap().to_owned();
    let both = [keyward.spawn(["runs", "resume", &id])?, keyward.spawn(["runs", "resume", &id])?];
    let codes: Vec<_> = both.into_iter().map(|process| Ok(process.wait()?.code)).collect::<Result<_>>()?;
    // The one that comes second finds the run at work, or completed.
    assert!(codes.contains(&Some(0)), "{codes:?}");
    let history = keyward.run(["--json", "runs", "show", &id])?.success().json();
    assert_eq!(history["run"]["phase"], "completed", "{history}");
    let posts = api.seen().iter().filter(|request| request.method == Method::POST).count();
    assert_eq!((entries(&history, "step-started").len(), posts), (6, 6));
    assert_eq!(entries(&history, "step-completed").len(), 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completed_run_is_not_run_again() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    let run = keyward.run(["--json", "run", &write_flow(&keyward)?])?.success().json();
    let before = api.seen().len();
    keyward.run(["--json", "runs", "resume", run["id"].as_str().unwrap()])?.success();
    assert_eq!(api.seen().len(), before);
    assert_eq!(run["phase"], json!("completed"));
    Ok(())
}
