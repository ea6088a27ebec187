//! What a hostile connector asks for and does not get; each refusal with its reason code in the audit trail.

use anyhow::Result;
use keyward_harness::{
    EchoServer, Keyward,
    keyward::{CANARY, connect_canary, hostile},
};
use serde_json::{Value, json};

/// Calls an action of the hostile connector and returns its output.
fn attack(keyward: &Keyward, action: &str, input: Value) -> Result<Value> {
    let action = format!("hostile.{action}");
    let outcome = keyward.run(["--json", "call", &action, "--input", &input.to_string()])?.success();
    Ok(outcome.json()["output"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undeclared_request_is_refused_with_its_reason() -> Result<()> {
    let echo = EchoServer::start().await?;
    let other = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let refused = [
        (json!({"method": "DELETE", "path": "/repos/o/r/issues"}), "path-not-allowed"),
        (json!({"method": "GET", "path": "/repos/o/r/issues"}), "path-not-allowed"),
        (json!({"method": "POST", "path": "/repos/o/r/keys"}), "path-not-allowed"),
        (json!({"method": "POST", "path": "/repos/o/r/issues/1"}), "path-not-allowed"),
        (json!({"method": "POST", "path": "/repos/o/issues"}), "path-not-allowed"),
        (json!({"method": "POST", "path": "/repos/a/b/../../../user/issues"}), "path-malformed"),
        (json!({"method": "POST", "path": "/repos/o/r%2fissues/issues"}), "path-malformed"),
        (json!({"method": "POST", "path": "/repos/o/%2e%2e/r/issues"}), "path-malformed"),
        (json!({"method": "POST", "path": "/repos/o/r\\issues"}), "path-malformed"),
        (json!({"method": "POST", "path": "/repos/o/r/issues%00"}), "path-malformed"),
        (json!({"method": "POST", "path": "//evil.example/repos/o/r/issues"}), "path-malformed"),
        (json!({"method": "POST", "path": "/repos/o/r/issues?x=1"}), "path-malformed"),
        (json!({"method": "GET", "path": "/echo/verbatim", "query": [["token", "x"]]}), "query-not-allowed"),
        (json!({"method": "GET", "endpoint": "other", "path": "/echo/verbatim"}), "endpoint-unknown"),
        (json!({"method": "GET", "url": format!("{}/echo/verbatim", other.url)}), "host-not-allowed"),
        (json!({"method": "GET", "url": format!("http://evil@{}/echo/verbatim", echo.authority())}), "url-malformed"),
        (json!({"method": "GET", "url": "file:///etc/passwd"}), "url-malformed"),
        (json!({"method": "CONNECT", "path": "/echo/verbatim"}), "method-forbidden"),
        (json!({"method": "TRACE", "path": "/echo/verbatim"}), "method-forbidden"),
        (
            json!({"method": "GET", "path": "/echo/verbatim", "headers": [["Authorization", "Bearer x"]]}),
            "header-forbidden",
        ),
        (json!({"method": "GET", "path": "/echo/verbatim", "headers": [["aUTHORIZATION", "x"]]}), "header-forbidden"),
        (json!({"method": "GET", "path": "/echo/verbatim", "headers": [["Host", "evil.example"]]}), "header-forbidden"),
        (json!({"method": "GET", "path": "/echo/verbatim", "headers": [["Cookie", "a=b"]]}), "header-forbidden"),
        (
            json!({"method": "GET", "path": "/echo/verbatim", "headers": [["Accept-Encoding", "br"]]}),
            "header-forbidden",
        ),
        (
            json!({"method": "GET", "path": "/echo/verbatim", "headers": [["Transfer-Encoding", "chunked"]]}),
            "header-forbidden",
        ),
        (
            json!({"method": "GET", "path": "/echo/verbatim", "headers": [["x-a", "b\r\nauthorization: c"]]}),
            "header-malformed",
        ),
    ];
    for (input, reason) in &refused {
        let output = attack(&keyward, "any-request", input.clone())?;
        assert_eq!(output["error"]["kind"], "denied", "{input}: {output}");
        assert_eq!(output["error"]["reason"], *reason, "{input}: {output}");
        assert_eq!(output["error"]["sent"], "no", "{input}: {output}");
    }
    assert!(echo.received().is_empty() && other.received().is_empty(), "a refused request reached a server");

    let audit = keyward.run(["--json", "audit", "--denied"])?.success().json();
    let reasons: Vec<&str> = audit.as_array().unwrap().iter().filter_map(|record| record["reason"].as_str()).collect();
    let wanted: Vec<&str> = refused.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(reasons, wanted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_refused_before_it_begins_is_on_record() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let refused = [
        ("hostile.any-request", "nobody", r#"{"method": "GET", "path": "/echo/hex"}"#, "connection-unknown"),
        ("hostile.any-request", "canary", r#"{"method": 7}"#, "input-invalid"),
        ("hostile.any-requst", "canary", "{}", "action-unknown"),
        ("hostil.any-request", "canary", "{}", "action-unknown"),
    ];
    for (action, connection, input, reason) in refused {
        let outcome = keyward.run(["--json", "call", action, "--connection", connection, "--input", input])?;
        assert_ne!(outcome.code, Some(0), "{reason}");
        let audit = keyward.run(["--json", "audit", "--denied", "-n", "1"])?.success().json();
        let record = &audit[0];
        assert_eq!(record["reason"], reason, "{audit}");
        assert_eq!(record["event"]["event"], "call-refused", "{audit}");
        assert_eq!(record["event"]["action"], action, "{audit}");
    }
    let outcome = keyward.run(["--json", "call", "hostile.any-request", "metod=GET"])?;
    assert_ne!(outcome.code, Some(0));
    let audit = keyward.run(["--json", "audit", "--denied", "-n", "1"])?.success().json();
    assert_eq!(audit[0]["reason"], "input-invalid", "{audit}");
    // What the connector itself says of an input is no refusal.
    let own = r#"{"as": "invalid-input", "message": "after ten requests"}"#;
    let outcome = keyward.run(["--json", "call", "hostile.fail", "--connection", "canary", "--input", own])?;
    assert_eq!(outcome.error()["code"], "input-invalid");
    let audit = keyward.run(["--json", "audit", "--denied"])?.success().json();
    assert_eq!(audit.as_array().unwrap().len(), refused.len() + 1, "each refusal has one record");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_header_is_refused_whatever_its_bytes() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    for (name, value, reason) in [
        ("x-a", b"b\0c".as_slice(), "header-malformed"),
        ("x-a", b"b\r\nauthorization: c", "header-malformed"),
        ("x-a", b"b\n", "header-malformed"),
        ("x-a", b"\x7f", "header-malformed"),
        ("", b"b", "header-malformed"),
        ("x\0a", b"b", "header-malformed"),
        ("x-a: b\r\nauthorization", b"c", "header-malformed"),
        ("authorization ", b"b", "header-malformed"),
        ("author\u{131}zation", b"b", "header-malformed"),
        ("AUTHORIZATION", b"\xff", "header-forbidden"),
        ("x_forwarded_for", b"b", "header-forbidden"),
    ] {
        let output = attack(&keyward, "forge-header", json!({"path": "/echo/verbatim", "name": name, "value": value}))?;
        assert_eq!(output["error"]["reason"], reason, "{name:?} {value:?}: {output}");
        assert_eq!(output["error"]["sent"], "no", "{name:?} {value:?}: {output}");
    }
    assert!(echo.received().is_empty(), "a refused request reached a server");

    // What is not UTF-8 is a value all the same (RFC 9110, section 5.5: `obs-text`), and ends where it ends.
    let output =
        attack(&keyward, "forge-header", json!({"path": "/echo/verbatim", "name": "x-a", "value": b"\xff\xfe"}))?;
    assert_eq!(output["status"], 200, "{output}");
    let received = echo.received();
    let forged: Vec<_> = received[0].headers.iter().filter(|(name, _)| name == "x-a").collect();
    assert_eq!(forged, [&("x-a".to_owned(), "\u{fffd}\u{fffd}".to_owned())]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declared_request_passes_and_carries_the_credential() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let allowed = [
        json!({"method": "GET", "path": "/echo/verbatim"}),
        json!({"method": "GET", "path": "/echo/verbatim", "query": [["q", "a b&c=d/é"]]}),
        json!({"method": "GET", "url": format!("{}/echo/verbatim?q=1", echo.url)}),
        json!({"method": "POST", "path": "/echo/verbatim", "body": "text", "stream": true}),
        json!({"method": "GET", "path": "/echo/verbatim", "headers": [["X-Request-Id", "7"]]}),
    ];
    for input in &allowed {
        let output = attack(&keyward, "any-request", input.clone())?;
        assert_eq!(output["status"], 200, "{input}: {output}");
    }
    let received = echo.received();
    assert_eq!(received.len(), allowed.len());
    for request in &received {
        let authorization: Vec<_> = request.headers.iter().filter(|(name, _)| name == "authorization").collect();
        assert_eq!(authorization, [&("authorization".to_owned(), format!("Bearer {CANARY}"))]);
    }
    assert_eq!(received[1].target, "/echo/verbatim?q=a%20b%26c%3Dd%2F%C3%A9");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_handed_back_and_not_followed() -> Result<()> {
    let echo = EchoServer::start().await?;
    let other = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let to = format!("{}/echo/verbatim", other.url);
    let first = json!({"method": "GET", "path": "/redirect", "query": [["to", to]]});
    let output = attack(&keyward, "follow-redirects", json!({"first": first, "hops": 3}))?;
    assert_eq!(output[0]["status"], 302, "{output}");
    assert_eq!(output[1]["error"]["reason"], "host-not-allowed", "{output}");
    assert!(other.received().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_without_declared_requests_sends_none() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let output = attack(&keyward, "no-request", json!({"method": "GET", "path": "/echo/verbatim"}))?;
    assert_eq!(output["error"]["kind"], "denied", "{output}");
    assert!(echo.received().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_whose_scope_is_not_granted_sends_nothing() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let output = attack(&keyward, "scoped-request", json!({"method": "POST", "path": "/repos/o/r/issues"}))?;
    assert_eq!(output["error"]["kind"], "insufficient-scope", "{output}");
    assert!(echo.received().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exceptions_of_the_operator_open_one_port_only() -> Result<()> {
    let echo = EchoServer::start().await?;
    let other = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    keyward.allow_local(&[echo.authority(), other.authority()])?;
    connect_canary(&keyward, "other", &other.url)?;
    let ask = |connection: &str| -> Result<Value> {
        let input = json!({"method": "GET", "path": "/echo/verbatim"}).to_string();
        let call = ["--json", "call", "hostile.any-request", "--connection", connection, "--input", &input];
        Ok(keyward.run(call)?.success().json()["output"].clone())
    };
    assert_eq!(ask("other")?["status"], 200);
    // The endpoint of the connection stays; the operator takes the exception for its port back, and leaves the one for
    // the other port of the same address.
    keyward.allow_local(&[echo.authority()])?;
    let output = ask("other")?;
    assert_eq!(output["error"]["reason"], "scheme-not-allowed", "{output}");
    assert_eq!(ask("canary")?["status"], 200);
    assert_eq!((other.received().len(), echo.received().len()), (1, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_that_was_not_given_is_worth_nothing() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let forge = |handle: u32| {
        let input = json!({"handle": handle, "path": "/echo/verbatim"}).to_string();
        keyward.run(["--json", "call", "hostile.forge-handle", "--input", &input])
    };
    for handle in [0, 2, 99, u32::MAX] {
        let error = forge(handle)?.failure(1).error();
        assert_eq!(error["code"], "guest-trap", "{handle}: {error}");
        assert!(error.to_string().contains("unknown handle index"), "{handle}: {error}");
    }
    assert!(echo.received().is_empty());
    // The handle that it was given is the first, and it works by its number too.
    forge(1)?;
    assert_eq!(echo.received().len(), 1);
    Ok(())
}
