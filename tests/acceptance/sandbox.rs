//! What a broken or greedy guest does to others: nothing.

use anyhow::Result;
use keyward_harness::{EchoServer, keyward::hostile};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_abuse_ends_in_its_own_error() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let abuses = [
        ("spin", json!({}), "cpu-limit"),
        ("hoard-memory", json!({"chunk": 1 << 20}), "memory-limit"),
        ("recurse", json!({}), "stack-overflow"),
        ("panic", json!({"message": "told to"}), "guest-trap"),
        ("wrong-output", json!({"output": "no number"}), "output-invalid"),
        ("fail", json!({"as": "failed", "code": "told-to", "message": "as asked"}), "action-failed"),
        ("spin", json!([]), "input-invalid"),
    ];
    for (action, input, reason) in abuses {
        let name = format!("hostile.{action}");
        let outcome = keyward.run(["--json", "call", &name, "--input", &input.to_string()])?;
        assert_ne!(outcome.code, Some(0), "{action}: {}", outcome.stdout);
        let error = outcome.error();
        assert_eq!(error["code"], reason, "{action}: {error}");
        // The next call is served.
        let input = json!({"method": "GET", "path": "/echo/verbatim"}).to_string();
        keyward.run(["--json", "call", "hostile.any-request", "--input", &input])?.success();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_told_with_its_text_and_place() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let input = json!({"message": "the reason for it"}).to_string();
    let outcome = keyward.run(["call", "hostile.panic", "--input", &input])?;
    assert!(outcome.stderr.contains("the reason for it"), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("hostile.wasm!keyward::action::run"),
        "no backtrace of the guest: {}",
        outcome.stderr
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_makes_no_more_requests_than_it_may() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let input = json!({"path": "/echo/hex", "count": 1000, "stop": true}).to_string();
    let outcome = keyward.run(["--json", "call", "hostile.many-requests", "--input", &input])?.success();
    let output = outcome.json()["output"].clone();
    assert_eq!(output["last"]["error"]["reason"], "request-limit", "{output}");
    assert_eq!(output["answered"], echo.received().len());
    assert_eq!(output["answered"], 50, "the default of `Limits`");
    let audit = keyward.run(["--json", "audit", "--denied"])?.success().json();
    let reasons: Vec<_> = audit.as_array().unwrap().iter().map(|record| &record["reason"]).collect();
    assert_eq!(reasons, ["request-limit"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_log_lines_is_cut_and_harmless_on_a_terminal() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let line: Vec<u8> = [b"\x1b]0;owned\x07".as_slice(), &[b'x'; 1000]].concat();
    let input = json!({"line": line, "times": 10_000}).to_string();
    let outcome = keyward.run(["call", "hostile.flood-log", "--input", &input])?.success();
    assert!(!outcome.stderr.contains('\x1b'), "an escape sequence reached the terminal");
    assert!(outcome.stderr.contains("log limit"), "{}", outcome.stderr.chars().rev().take(400).collect::<String>());
    assert!(outcome.stderr.len() < 200_000, "{} bytes of log", outcome.stderr.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_text_of_a_failure_is_harmless_on_a_terminal() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let text = "before\u{1b}]0;owned\u{7}\u{1b}[2Jafter";
    let input = json!({"as": "failed", "code": text, "message": text}).to_string();
    let outcome = keyward.run(["call", "hostile.fail", "--input", &input])?;
    assert_ne!(outcome.code, Some(0));
    assert!(outcome.stderr.contains("after"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains(['\u{1b}', '\u{7}']), "{:?}", outcome.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_larger_than_the_limit_ends_the_request() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let input = json!({"path": format!("/bytes/{}", 40 << 20), "max": 65536}).to_string();
    let outcome = keyward.run(["--json", "call", "hostile.stream-down", "--input", &input])?.success();
    assert_eq!(outcome.json()["output"]["error"]["kind"], "too-large", "{}", outcome.stdout);
    Ok(())
}
