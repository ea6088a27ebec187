//! What a broken or greedy guest does to others: nothing.

use anyhow::Result;
use keyward_harness::{EchoServer, Keyward, keyward::hostile};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_abuse_ends_in_its_own_error() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let abuses = [
        ("spin", json!({}), "cpu-limit"),
        ("hoard-memory", json!({"chunk": 1 << 20}), "memory-limit"),
        ("recurse", json!({}), "stack-overflow"),
        ("wait", json!({"ms": 3_600_000}), "cpu-limit"),
        ("slow-loris", json!({"path": "/echo/verbatim", "bytes": 1000, "pause_ms": 100}), "cpu-limit"),
        ("take-random", json!({"count": 4097}), "guest-trap"),
        ("take-random", json!({"count": u32::MAX}), "guest-trap"),
        // A text that is no UTF-8.
        ("flood-log", json!({"line": [0xff, 0xfe], "times": 1}), "guest-trap"),
        ("panic", json!({"message": "told to"}), "guest-trap"),
        ("wrong-output", json!({"output": "no number"}), "output-invalid"),
        ("raw-output", json!({"text": "no JSON"}), "output-invalid"),
        ("raw-output", json!({"text": ""}), "output-invalid"),
        ("raw-output", json!({"text": "{} {}"}), "output-invalid"),
        ("big-output", json!({"bytes": 16 << 20, "depth": 0}), "output-invalid"),
        ("big-output", json!({"bytes": 1, "depth": 1000}), "output-invalid"),
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

/// Calls an action of the hostile connector that ends well and returns its output.
fn output(keyward: &Keyward, action: &str, input: Value) -> Result<Value> {
    let action = format!("hostile.{action}");
    let outcome = keyward.run(["--json", "call", &action, "--input", &input.to_string()])?.success();
    Ok(outcome.json()["output"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_within_the_limits_is_served() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let waited = output(&keyward, "wait", json!({"ms": 50}))?;
    assert_eq!(waited["went_back"], false, "{waited}");
    assert_eq!(output(&keyward, "take-random", json!({"count": 4096}))?, 4096);
    output(&keyward, "big-output", json!({"bytes": 1, "depth": 100}))?;
    let slow = output(&keyward, "slow-loris", json!({"path": "/echo/verbatim", "bytes": 5, "pause_ms": 10}))?;
    assert_eq!((&slow["status"], &slow["bytes"]), (&json!(200), &json!(5)), "{slow}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_misused_ends_the_call_and_says_how() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    for (misuse, words) in [
        ("read-before-finish", "exchange.read was called before exchange.finish"),
        ("write-after-finish", "exchange.write was called after exchange.finish"),
        ("finish-twice", "exchange.finish was called twice"),
        ("write-without-body", "exchange.write was called on a request that was started without a body"),
        ("write-too-much", "the guest wrote 2 bytes of a body that it declared as 1 bytes long"),
        ("write-too-little", "the guest wrote 1 bytes of a body that it declared as 2 bytes long"),
    ] {
        let input = json!({"path": "/echo/verbatim", "misuse": misuse}).to_string();
        let outcome = keyward.run(["--json", "call", "hostile.misuse-exchange", "--input", &input])?.failure(1);
        let error = outcome.error();
        assert_eq!((&error["code"], &error["message"]), (&json!("guest-trap"), &json!(words)), "{misuse}: {error}");
    }
    for misuse in ["read-nothing", "read-after-end"] {
        let refusal = output(&keyward, "misuse-exchange", json!({"path": "/echo/verbatim", "misuse": misuse}))?;
        assert_eq!(refusal, Value::Null, "{misuse}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_holds_no_more_exchanges_than_it_may() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let hoarded = output(&keyward, "hoard-exchanges", json!({"path": "/echo/verbatim", "count": 1000}))?;
    assert_eq!(hoarded["held"], 8, "the default of `Limits`: {hoarded}");
    assert_eq!(hoarded["error"]["sent"], "no", "{hoarded}");
    assert!(echo.received().is_empty(), "a request that was not finished came to its end");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_never_longer_than_the_limit_nor_other_than_declared() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let upload = |bytes: u64, declared: Option<u64>| {
        let chunk = 1 << 16;
        json!({"path": "/echo/verbatim", "bytes": bytes, "chunk": chunk, "declared": declared})
    };
    let streamed = output(&keyward, "stream-up", upload(17 << 20, None))?;
    assert_eq!(streamed["error"]["kind"], "too-large", "{streamed}");
    assert_eq!(streamed["bytes"], 16 << 20, "the default of `Limits`");
    for (bytes, declared) in [(10, 20), (20, 10), (10, i64::MAX as u64)] {
        let input = upload(bytes, Some(declared)).to_string();
        let outcome = keyward.run(["--json", "call", "hostile.stream-up", "--input", &input])?.failure(1);
        assert_eq!(outcome.error()["code"], "guest-trap", "{bytes} of {declared}: {}", outcome.stderr);
    }
    assert!(echo.received().is_empty(), "a part of a body was taken for the whole");

    for declared in [None, Some(1 << 20)] {
        let streamed = output(&keyward, "stream-up", upload(1 << 20, declared))?;
        assert_eq!((&streamed["status"], &streamed["error"]), (&json!(200), &Value::Null), "{streamed}");
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
