//! `kill -9` at any moment: the run goes on, and no recorded step is repeated.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use http::Method;
use keyward_harness::{AuthorizationServer, GithubApi, Keyward, authorization_server::Options};
use rustix::process::{Pid, Signal};
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

/// How many issues were asked for.
fn posts(api: &GithubApi) -> usize {
    api.seen().iter().filter(|request| request.method == Method::POST).count()
}

/// The id of the newest run, which has this phase.
fn newest(keyward: &Keyward, phase: &str) -> Result<String> {
    let runs = keyward.run(["--json", "runs", "list"])?.success().json();
    assert_eq!(runs[0]["phase"], phase, "{runs}");
    Ok(runs[0]["id"].as_str().unwrap().to_owned())
}

/// Each of the five steps completed, and none of them twice.
fn completed_once(history: &Value) {
    let places: BTreeSet<String> = entries(history, "step-completed")
        .iter()
        .map(|entry| format!("{} {}", entry["event"]["task"], entry["event"]["iteration"]))
        .collect();
    assert_eq!((places.len(), entries(history, "step-completed").len()), (5, 5), "{history}");
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
    let resume = || keyward.spawn(["--json", "runs", "resume", &id]);
    let both = [resume()?, resume()?];
    let outcomes: Vec<_> = both.into_iter().map(keyward_harness::keyward::Running::wait).collect::<Result<_>>()?;
    // The one that comes second finds the run at work, or completed.
    assert!(outcomes.iter().any(|outcome| outcome.code == Some(0)), "{outcomes:?}");
    for outcome in outcomes.iter().filter(|outcome| outcome.code != Some(0)) {
        assert_eq!((outcome.code, &outcome.error()["code"]), (Some(8), &json!("run-taken")), "{outcome:?}");
    }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_where_only_what_it_has_done_already_lacks_its_connection() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    let connections = keyward.run(["--json", "connections", "list"])?.success().json();
    let name = connections[0]["name"].as_str().unwrap();
    let flow = format!(
        "document: {{dsl: '1.0.3', namespace: tests, name: two, version: '0.1.0'}}
do:
  - first: {{call: github.create-issue, with: {{owner: octocat, repository: hello-world, title: first}}}}
  - second:
      call: github.create-issue
      with: {{owner: octocat, repository: hello-world, title: second}}
      metadata: {{connection: {name}}}
"
    );
    let path = keyward.folder().join("two.yaml");
    std::fs::write(&path, flow)?;
    let path = path.display().to_string();
    // One run is killed in each of its steps.
    let mut runs = Vec::new();
    for answered in [0, 1] {
        let last = api.seen().len() + answered + 1;
        api.hold_answers_from(last);
        let running = keyward.spawn(["run", &path])?;
        api.wait_for(last).await?;
        running.kill()?;
        api.release();
        runs.push(newest(&keyward, "running")?);
    }
    let connect = ["connect", "github", "--method", "bearer", "--name", "other", "--secret-file", "-"];
    keyward.run_with_input(connect, "test-token")?.success();
    let refused = keyward.run(["--json", "runs", "resume", &runs[0]])?.failure(5).error();
    assert_eq!(refused["code"], "connection-missing", "{refused}");
    let hint = refused["diagnostics"][0]["hint"].as_str().unwrap();
    assert!(hint.contains("once there is only one"), "{refused}");
    let resumed = keyward.run(["--json", "runs", "resume", &runs[1]])?.success().json();
    assert_eq!(resumed["phase"], "completed", "{resumed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_killed_while_it_waits_for_a_retry_waits_only_the_rest() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    let flow = r#"
document: {dsl: '1.0.3', namespace: tests, name: retry, version: '0.1.0'}
do:
  - attempt:
      try:
        - look: {call: github.get-issue, with: {owner: octocat, repository: hello-world, number: 9999}}
      catch:
        retry: {delay: PT4S, limit: {attempt: {count: 1}}}
        do:
          - create: {call: github.create-issue, with: {owner: octocat, repository: hello-world, title: missing}}
"#;
    let path = keyward.folder().join("retry.yaml");
    std::fs::write(&path, flow)?;
    let mut running = keyward.spawn(["run", &path.display().to_string()])?;
    running.line_with("retry 1 at")?;
    running.kill()?;
    let id = newest(&keyward, "waiting")?;
    let resumed = keyward.run(["--json", "runs", "resume", &id])?.success().json();
    assert_eq!(resumed["phase"], "completed", "{resumed}");
    let history = keyward.run(["--json", "runs", "show", &id])?.success().json();
    assert_eq!(entries(&history, "retry-scheduled").len(), 1, "{history}");
    assert_eq!(entries(&history, "step-uncertain").len(), 0, "{history}");
    assert_eq!((entries(&history, "step-started").len(), posts(&api)), (3, 1), "{history}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_killed_again_while_it_is_resumed_completes() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    let flow = write_flow(&keyward)?;
    api.hold_answers_from(2);
    let running = keyward.spawn(["run", &flow])?;
    api.wait_for(2).await?;
    running.kill()?;
    api.release();

    let id = newest(&keyward, "running")?;
    // The third request is the second step's again; the fourth is the third step's.
    api.hold_answers_from(4);
    let running = keyward.spawn(["runs", "resume", &id])?;
    api.wait_for(4).await?;
    running.kill()?;
    api.release();

    let resumed = keyward.run(["--json", "runs", "resume", &id])?.success().json();
    assert_eq!(resumed["phase"], "completed", "{resumed}");
    let history = keyward.run(["--json", "runs", "show", &id])?.success().json();
    assert_eq!(entries(&history, "step-uncertain").len(), 2);
    assert_eq!((entries(&history, "step-started").len(), posts(&api)), (7, 7));
    completed_once(&history);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_killed_at_any_moment_complete() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    let flow = write_flow(&keyward)?;
    let mut delays = Vec::new();
    for _ in 0..12 {
        // Unlike each time, and told where the test fails.
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos();
        let delay = Duration::from_micros(u64::from(nanos / 1_000 % 250_000));
        delays.push(delay);
        let mut running = keyward.spawn(["run", &flow])?;
        running.line_with("run ")?;
        tokio::time::sleep(delay).await;
        running.kill()?;
    }
    let runs = keyward.run(["--json", "runs", "list"])?.success().json();
    let (mut started, mut completed) = (0, 0);
    for run in runs.as_array().unwrap() {
        let id = run["id"].as_str().unwrap();
        let resumed = keyward.run(["--json", "runs", "resume", id])?.success().json();
        assert_eq!(resumed["phase"], "completed", "{delays:?}: {resumed}");
        let history = keyward.run(["--json", "runs", "show", id])?.success().json();
        completed_once(&history);
        started += entries(&history, "step-started").len();
        completed += 5;
    }
    let posts = posts(&api);
    assert_eq!(completed, 12 * 5);
    // What is recorded as begun may not have reached the API; what reached it is recorded.
    assert!((completed..=started).contains(&posts), "{delays:?}: {posts} requests, {started} recorded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_connector_is_missing_waits_for_it() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    api.hold_answers_from(2);
    let running = keyward.spawn(["run", &write_flow(&keyward)?])?;
    api.wait_for(2).await?;
    running.kill()?;
    api.release();
    let id = newest(&keyward, "running")?;
    keyward.run(["plugin", "remove", "github", "--yes"])?.success();
    let refused = keyward.run(["runs", "resume", &id])?.failure(3);
    assert!(refused.stderr.contains("'github' is not installed"), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("keyward runs resume {id}")), "{}", refused.stderr);
    newest(&keyward, "running")?;
    keyward.add_plugin("github")?;
    let resumed = keyward.run(["--json", "runs", "resume", &id])?.success().json();
    assert_eq!(resumed["phase"], "completed", "{resumed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_interrupted_ends_its_step_first() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    api.hold_answers_from(2);
    let mut running = keyward.spawn(["run", &write_flow(&keyward)?])?;
    api.wait_for(2).await?;
    let process = Pid::from_raw(running.id().cast_signed()).unwrap();
    rustix::process::kill_process(process, Signal::INT)?;
    running.line_with("finishing the step under way")?;
    api.release();
    running.wait()?.failure(7);
    let id = newest(&keyward, "running")?;
    let resumed = keyward.run(["--json", "runs", "resume", &id])?.success().json();
    assert_eq!(resumed["phase"], "completed", "{resumed}");
    let history = keyward.run(["--json", "runs", "show", &id])?.success().json();
    assert_eq!(entries(&history, "step-uncertain").len(), 0, "{history}");
    assert_eq!((entries(&history, "step-started").len(), posts(&api)), (5, 5));
    Ok(())
}
