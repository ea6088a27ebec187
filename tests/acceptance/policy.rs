//! The operator's policy: what it refuses, how it is agreed to, and what it tells.

use std::fs;

use anyhow::Result;
use keyward_harness::{EchoServer, Keyward, keyward::hostile};
use serde_json::{Value, json};

fn get(keyward: &Keyward) -> Result<keyward_harness::keyward::Outcome> {
    let input = json!({"method": "GET", "path": "/echo/verbatim"}).to_string();
    keyward.run(["--json", "call", "hostile.any-request", "--connection", "canary", "--input", &input])
}

fn write(keyward: &Keyward, policy: &str) -> Result<()> {
    Ok(fs::write(keyward.data_dir().join("policy.toml"), policy)?)
}

fn denied(keyward: &Keyward) -> Result<Value> {
    Ok(keyward.run(["--json", "audit", "--denied", "-n", "1"])?.success().json()[0].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_policy_does_not_allow_is_refused_with_the_line_that_would() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    get(&keyward)?.success();

    // The call could make no request, so the guest is not started.
    write(&keyward, r#"allow = [{ connectors = ["github"] }]"#)?;
    let outcome = get(&keyward)?.failure(4);
    assert_eq!(outcome.error()["code"], "policy-denied", "{}", outcome.stderr);
    let record = denied(&keyward)?;
    assert_eq!((&record["reason"], &record["event"]["event"]), (&json!("policy-denied"), &json!("call-refused")));
    let hint = outcome.error()["hint"].as_str().unwrap().to_owned();
    let (_, line) = hint.split_once(": ").unwrap();
    assert_eq!(line, r#"{ actions = ["hostile.any-request"], connections = ["canary"] }"#);

    // With that line it would pass, but it could allow more than what was there before.
    write(&keyward, &format!("allow = [{line}]"))?;
    let outcome = get(&keyward)?.failure(4);
    assert_eq!(outcome.error()["code"], "policy-not-accepted", "{}", outcome.stderr);
    let record = denied(&keyward)?;
    assert_eq!((&record["reason"], &record["event"]["event"]), (&json!("policy-denied"), &json!("call-refused")));
    let check = ["--json", "policy", "check", "hostile.any-request", "GET", "/echo/verbatim"];
    let outcome = keyward.run(check)?.failure(4);
    assert_eq!(outcome.error()["code"], "policy-not-accepted", "{}", outcome.stderr);
    let outcome = keyward.run(["doctor"])?;
    assert!(outcome.stdout.contains("could allow more than what was agreed to"), "{}", outcome.stdout);
    keyward.run(["policy", "accept", "--yes"])?.success();
    keyward.run(check)?.success();
    get(&keyward)?.success();

    // A request of the call is refused by its method, and the guest is told so.
    write(&keyward, &format!("allow = [{line}]\ndeny = [{{ methods = [\"GET\"] }}]"))?;
    let output = get(&keyward)?.success().json()["output"].clone();
    assert_eq!((&output["error"]["reason"], &output["error"]["sent"]), (&json!("policy-denied"), &json!("no")));
    let record = denied(&keyward)?;
    assert_eq!((&record["reason"], &record["event"]["event"]), (&json!("policy-denied"), &json!("request-denied")));

    // Without its file the policy does not go.
    fs::remove_file(keyward.data_dir().join("policy.toml"))?;
    let outcome = get(&keyward)?.failure(4);
    assert_eq!(outcome.error()["code"], "policy-not-accepted", "{}", outcome.stderr);
    let shown = keyward.run(["--json", "policy", "show"])?.success().json();
    assert_eq!(shown["difference"]["widening"].as_array().unwrap().len(), 2, "{shown}");
    keyward.run(["policy", "accept", "--yes"])?.success();
    get(&keyward)?.success();
    assert_eq!(echo.received().len(), 3);

    let audit = keyward.run(["--json", "audit"])?.success().json();
    let changes: Vec<_> =
        audit.as_array().unwrap().iter().filter(|record| record["event"]["event"] == "policy").collect();
    let changes: Vec<_> = changes.iter().map(|record| record["event"]["change"].as_str().unwrap()).collect();
    assert_eq!(changes, ["narrowed", "widened", "narrowed", "widened"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_tells_why_a_request_would_pass_or_not_and_sends_nothing() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let check =
        |method: &str, target: &str| keyward.run(["--json", "policy", "check", "hostile.any-request", method, target]);
    let passed = check("GET", "/echo/verbatim")?.success().json();
    assert_eq!((&passed["allowed"], &passed["connection"]), (&json!(true), &json!("canary")), "{passed}");
    assert_eq!(passed["url"], format!("{}/echo/verbatim", echo.url));
    assert!(passed["credential"].as_bool().unwrap());
    for (method, target, code) in [
        ("DELETE", "/repos/o/r/issues", "path-not-allowed"),
        ("GET", "https://evil.example/", "host-not-allowed"),
        ("GET", "/echo/../x", "path-malformed"),
        ("TRACE", "/echo/verbatim", "method-forbidden"),
    ] {
        let outcome = check(method, target)?.failure(4);
        assert_eq!(outcome.error()["code"], code, "{method} {target}");
    }
    write(&keyward, r#"deny = [{ hosts = ["127.0.0.1"], methods = ["GET"] }]"#)?;
    let outcome = check("GET", "/echo/verbatim")?.failure(4);
    assert_eq!(outcome.error()["code"], "policy-denied");
    assert!(outcome.error()["hint"].as_str().unwrap().ends_with(r#"{ hosts = ["127.0.0.1"], methods = ["GET"] }"#));
    assert!(echo.received().is_empty(), "a check sent something");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_cannot_be_read_stops_calls_and_shows_its_fault() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    write(&keyward, "allow = [\n  { conectors = [\"github\"] },\n]\n")?;
    let outcome = keyward.run(["policy", "show"])?.failure(3);
    assert!(outcome.stderr.contains("policy.toml:2:5") && outcome.stderr.contains("conectors"), "{}", outcome.stderr);
    get(&keyward)?.failure(3);
    let checks = keyward.run(["--json", "doctor"])?.json();
    let policy = checks["checks"].as_array().unwrap().iter().find(|check| check["name"] == "policy").unwrap();
    assert_eq!(policy["verdict"], "fail", "{policy}");
    assert!(echo.received().is_empty());
    Ok(())
}
