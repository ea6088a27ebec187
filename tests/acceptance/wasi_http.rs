//! Requests over `wasi:http`: the same rules, limits and records as over the contract's own connection.

use std::fs;

use anyhow::Result;
use keyward_harness::{
    EchoServer, Keyward, Outcome,
    keyward::{CANARY, connect_canary_of, guest, with_canary},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Calls an action of the connector.
fn call(keyward: &Keyward, action: &str, input: Value) -> Result<Outcome> {
    let action = format!("wasi.{action}");
    keyward.run(["--json", "call", &action, "--input", &input.to_string()])
}

/// Calls it and returns its output.
fn output(keyward: &Keyward, action: &str, input: Value) -> Result<Value> {
    Ok(call(keyward, action, input)?.success().json()["output"].clone())
}

/// The reasons of all that was refused, oldest first.
fn refusals(keyward: &Keyward) -> Result<Vec<String>> {
    let audit = keyward.run(["--json", "audit", "--denied"])?.success().json();
    let reasons = audit.as_array().unwrap().iter().filter_map(|record| record["reason"].as_str());
    Ok(reasons.map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gate_refuses_what_is_not_declared_and_the_log_tells_why() -> Result<()> {
    let echo = EchoServer::start().await?;
    let other = EchoServer::start().await?;
    let keyward = with_canary("wasi", &echo.url)?;
    let declared = format!("{}/echo/verbatim", echo.url);
    let with_header = |name: &str| json!({"url": &declared, "headers": [[name, "x"]]});
    let refused = [
        (json!({"url": format!("{}/user", echo.url)}), "path-not-allowed"),
        (json!({"url": format!("{}/repos/a/b/../../../user", echo.url)}), "path-malformed"),
        (json!({"url": format!("{}/repos/a/%2e%2e/b/issues", echo.url), "method": "POST"}), "path-malformed"),
        (json!({"url": format!("{declared}?token=x")}), "query-not-allowed"),
        (json!({"url": &declared, "method": "DELETE"}), "path-not-allowed"),
        (json!({"url": &declared, "method": "CONNECT"}), "method-forbidden"),
        (json!({"url": &declared, "method": "TRACE"}), "method-forbidden"),
        (json!({"url": format!("{}/echo/verbatim", other.url)}), "host-not-allowed"),
        (json!({"url": format!("https://{}/echo/verbatim", echo.authority())}), "scheme-not-allowed"),
        (json!({"url": format!("ftp://{}/echo/verbatim", echo.authority())}), "url-malformed"),
        (json!({"url": format!("http://me@{}/echo/verbatim", echo.authority())}), "url-malformed"),
        (with_header("Authorization"), "header-forbidden"),
        (with_header("Host"), "header-forbidden"),
        (with_header("Cookie"), "header-forbidden"),
        (with_header("Connection"), "header-forbidden"),
        (with_header("Transfer-Encoding"), "header-forbidden"),
        (with_header("Proxy-Authorization"), "header-forbidden"),
        (with_header("x_forwarded_for"), "header-forbidden"),
    ];
    for (input, reason) in &refused {
        let document = call(&keyward, "any-request", input.clone())?.success().json();
        assert_eq!(document["output"]["error"], "ErrorCode::HttpRequestDenied", "{input}: {document}");
        let line = document["log"][0]["text"].as_str().unwrap_or_default();
        assert!(line.starts_with(&format!("a request brought no response ({reason}): ")), "{input}: {document}");
    }
    assert!(echo.received().is_empty() && other.received().is_empty(), "a refused request reached a server");
    let wanted: Vec<&str> = refused.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(refusals(&keyward)?, wanted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declared_request_carries_the_credential_which_does_not_come_back() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = with_canary("wasi", &echo.url)?;
    for path in ["/echo/verbatim?q=a%20b", "/echo/base64", "/echo/hex", "/chunks/7", "/header"] {
        let answer = call(&keyward, "any-request", json!({"url": format!("{}{path}", echo.url)}))?.success();
        assert_eq!(answer.json()["output"]["status"], 200, "{path}: {}", answer.stdout);
        assert!(!answer.stdout.contains(CANARY), "{path}: {}", answer.stdout);
    }
    let received = echo.received();
    assert_eq!((received.len(), &*received[0].target), (5, "/echo/verbatim?q=a%20b"));
    for request in &received {
        let of = |wanted: &str| request.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| &**value);
        assert_eq!(of("authorization"), Some(&*format!("Bearer {CANARY}")));
        assert_eq!(of("host"), Some(&*echo.authority()));
        // The guest asked for a body and wrote nothing.
        assert_eq!((of("content-length"), of("transfer-encoding")), (None, None));
    }
    assert_eq!(refusals(&keyward)?, [] as [&str; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_arrives_whole_or_as_a_broken_one() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = with_canary("wasi", &echo.url)?;
    let url = format!("{}/echo/verbatim", echo.url);
    let upload = |bytes: u64, declared: Option<u64>, end: &str| {
        call(&keyward, "upload", json!({"url": &url, "bytes": bytes, "declared": declared, "end": end}))
    };
    for (bytes, declared) in [(1 << 20, None), (1 << 20, Some(1 << 20)), (0, Some(0)), (0, None)] {
        let answer = upload(bytes, declared, "finish")?.success().json();
        assert_eq!((&answer["output"]["status"], &answer["output"]["bytes"]), (&json!(200), &json!(bytes)), "{answer}");
        assert_eq!(answer["stats"]["request_bytes"], bytes, "{answer}");
    }
    let received = echo.received();
    let of = |index: usize, wanted: &str| {
        received[index].headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| &**value)
    };
    assert_eq!(of(0, "transfer-encoding"), Some("chunked"));
    assert_eq!((of(1, "content-length"), of(1, "transfer-encoding")), (Some("1048576"), None));
    assert_eq!((of(2, "content-length"), of(3, "content-length")), (Some("0"), Some("0")));

    let broken = [
        (200_000, None, "drop"),
        (200_000, Some(400_000), "drop"),
        (200_000, Some(400_000), "finish"),
        (200_000, None, "trailers"),
        (200_000, None, "panic"),
    ];
    for (bytes, declared, end) in broken {
        let outcome = upload(bytes, declared, end)?;
        assert!(end == "panic" || !outcome.json()["output"]["error"].is_null(), "{end}: {}", outcome.stdout);
    }
    // Trailers of a short body are seen before anything is sent.
    let refused = upload(10, None, "trailers")?.success().json();
    assert_eq!(refused["output"]["error"], "ErrorCode::HttpRequestDenied", "{refused}");
    assert_eq!(refusals(&keyward)?, ["header-forbidden"]);
    // The body's writer goes with the call while its reader may still be at work.
    for _ in 0..20 {
        upload(200_000, None, "return")?.success();
    }
    assert_eq!(echo.received().len(), received.len(), "a part of a body was taken for the whole");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_of_a_call_count_here_too() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = with_canary("wasi", &echo.url)?;
    let (text, bytes) = (format!("{}/echo/verbatim", echo.url), format!("{}/bytes", echo.url));
    let large = format!("{bytes}/{}", 1 << 20);
    let cases = [
        ("hoard", json!({"url": &text, "count": 60, "release": true}), "ErrorCode::HttpRequestDenied", "request-limit"),
        ("hoard", json!({"url": &large, "count": 60}), "ErrorCode::ConnectionLimitReached", "exchange-limit"),
        (
            "upload",
            json!({"url": &text, "bytes": 17 << 20, "end": "finish"}),
            "ErrorCode::HttpRequestBodySize(Some(16777216))",
            "upload-limit",
        ),
    ];
    for (action, input, code, reason) in cases {
        let output = output(&keyward, action, input)?;
        assert_eq!(output["error"], code, "{action}: {output}");
        let audit = keyward.run(["--json", "audit", "-n", "200"])?.success().json();
        let limit = audit.as_array().unwrap().iter().filter(|record| record["reason"] == reason).count();
        assert!(limit > 0, "{reason} is not on record: {audit}");
    }
    assert_eq!(output(&keyward, "hoard", json!({"url": &text, "count": 60, "release": true}))?["held"], 50);
    // What is short or let go of does not count as open.
    assert_eq!(output(&keyward, "hoard", json!({"url": &text, "count": 60}))?["held"], 50);
    assert_eq!(output(&keyward, "hoard", json!({"url": &large, "count": 60}))?["held"], 8);

    let large = output(&keyward, "download", json!({"url": format!("{bytes}/{}", 33 << 20)}))?;
    assert_eq!(large["error"], "ErrorCode::HttpResponseBodySize(Some(33554432))");
    let outcome = call(&keyward, "download", json!({"url": format!("{bytes}/{}", 20 << 20)}))?.success().json();
    assert_eq!(outcome["output"], json!({"status": 200, "bytes": 20 << 20, "error": null}));
    assert_eq!(outcome["stats"]["response_bytes"], 20 << 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_a_timeout() -> Result<()> {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", silent.local_addr()?);
    let keyward = with_canary("wasi", &url)?;
    let output = output(&keyward, "any-request", json!({"url": format!("{url}/echo/x"), "first_byte_ms": 100}))?;
    assert_eq!(output["error"], "ErrorCode::ConnectionTimeout");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_never_sent_is_not_hoarded_in_the_host() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = with_canary("wasi", &echo.url)?;
    let hoard = |count: u32, keep: Option<&str>, header_bytes: u32, body_bytes: u32| {
        let sizes = json!({"count": count, "header_bytes": header_bytes, "body_bytes": body_bytes, "keep": keep});
        call(&keyward, "hoard-unsent", sizes)
    };
    for (keep, header_bytes, body_bytes) in [
        (None, 0, 1 << 20),
        (None, 30_000, 0),
        (Some("fields"), 30_000, 0),
        (Some("headers"), 30_000, 0),
        (Some("copy"), 30_000, 0),
        (Some("body"), 0, 1 << 20),
    ] {
        let error = hoard(5_000, keep, header_bytes, body_bytes)?.failure(1).error();
        assert_eq!(error["code"], "resource-limit", "{keep:?}: {error}");
        let message = "the guest holds more than 1024 requests, headers and bodies that are not sent at once";
        assert_eq!((&error["message"], error["hint"].is_string()), (&json!(message), true), "{keep:?}");
    }
    assert_eq!(hoard(5_000, Some("none"), 100, 100)?.success().json()["output"], 5_000);

    assert_eq!(output(&keyward, "hoard-pollables", json!({"count": 100_000}))?, 100_000);
    let error = call(&keyward, "hoard-pollables", json!({"count": 140_000}))?.failure(1).error();
    assert_eq!(error["code"], "resource-limit", "{error}");
    assert_eq!(error["message"], "the guest holds more than 262144 resources at once", "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_and_an_authority_have_a_bound_before_they_are_sent() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = with_canary("wasi", &echo.url)?;
    let method = |length: usize| json!({"url": format!("{}/echo/verbatim", echo.url), "method": "M".repeat(length)});
    let authority = |length: usize| json!({"url": format!("http://{}/echo/verbatim", "a".repeat(length))});
    for (input, error) in [
        (method(64), "ErrorCode::HttpRequestDenied"),
        (method(65), "method"),
        (method(100_000), "method"),
        (authority(1_024), "ErrorCode::HttpRequestDenied"),
        (authority(1_025), "authority"),
        (authority(100_000), "authority"),
    ] {
        assert_eq!(output(&keyward, "any-request", input)?["error"], error);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_credential_goes_into_a_body_that_comes_in_pieces() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = Keyward::initialised(&[echo.authority()])?;
    let folder = keyward.folder().join("placing");
    fs::create_dir(&folder)?;
    let manifest = r#"name = "placing"
version = "0.1.0"
title = "Placing"
provider = "http"
credential = { in = "json", name = "api_key" }
endpoints.api = { url = "https://api.example", configurable = true, private = true }

[actions.any-request]
title = "Send any request"
requests = [
    { method = "POST", endpoint = "api", path = "/echo/**" },
    { method = "POST", endpoint = "api", path = "/moved", query = ["to"], redirects = true },
]
"#;
    fs::write(folder.join("connector.toml"), manifest)?;
    let schema = json!({"type": "object"});
    let actions = json!([{"name": "any-request", "input": schema, "output": schema}]);
    fs::write(folder.join("actions.json"), actions.to_string())?;
    let (component, made) = (guest("wasi")?.display().to_string(), folder.join("made.wasm").display().to_string());
    keyward.run(["plugin", "build", "placing", "--component", &component, "--out", &made])?.success();
    keyward.run(["plugin", "add", &made, "--yes"])?.success();
    connect_canary_of(&keyward, "http", "canary", &echo.url)?;

    let short = json!({"text": "Text"}).to_string();
    // Longer than what is awaited before the request leaves.
    let long = json!({"text": "x".repeat(100_000)}).to_string();
    let direct = format!("{}/echo/verbatim", echo.url);
    let moved = format!("{}/moved?to=/echo/verbatim", echo.url);
    for (body, url) in [(&short, &direct), (&short, &moved), (&long, &direct), (&long, &moved)] {
        for length in [None, Some(body.len())] {
            let length = length.map(|length| json!(["content-length", length.to_string()]));
            let headers: Vec<_> = length.into_iter().chain([json!(["content-type", "application/json"])]).collect();
            let input = json!({"method": "POST", "url": url, "headers": headers, "body": body});
            let call = ["--json", "call", "placing.any-request", "--input", &input.to_string()];
            let document = keyward.run(call)?.success().json();
            let answer = document["output"]["body"].as_str().unwrap_or_default();
            let expected = format!("\n{{\"api_key\":\"[redacted]\",{}", &body[1..]);
            assert!(answer.ends_with(&expected), "{url} {headers:?}: {document:.400}");
        }
    }
    assert_eq!(echo.received().len(), 12);
    assert!(echo.received().iter().all(|request| !request.headers.iter().any(|(name, _)| name == "transfer-encoding")));
    Ok(())
}
