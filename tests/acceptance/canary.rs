//! A sealed canary token goes to a server that sends it back in every encoding; it is then looked for everywhere that
//! a guest, a log or a disk could hold it.

use std::collections::BTreeSet;

use anyhow::Result;
use keyward_harness::{
    AuthorizationServer, EchoServer, GithubApi, Keyward,
    authorization_server::{CLIENT_SECRET, Options},
    echo::{ENCODINGS, encode},
    keyward::{CANARY, hostile},
    person::Decision,
};
use serde_json::{Value, json};

use crate::spine::{contains, files};

/// A secret in each encoding, as a search would have to know it.
fn forms(secret: &str) -> Vec<(String, Vec<u8>)> {
    ENCODINGS
        .iter()
        // A fold or a shift depends on what stands before; the guest's own search decodes those.
        .filter(|name| !name.contains("folded") && !name.contains("shift") && **name != "json")
        .map(|name| ((*name).to_owned(), encode(name, secret).unwrap()))
        .collect()
}

fn hunt(place: &str, content: &[u8]) {
    hunt_for(CANARY, "canary", place, content);
}

fn hunt_for(secret: &str, kind: &str, place: &str, content: &[u8]) {
    for (encoding, form) in forms(secret) {
        assert!(!contains(content, &form), "the {kind} stands in {place}, encoded as {encoding}");
    }
}

/// Undoes a base64 text that may be folded or padded, at each alignment.
fn decoded_base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    let alphabet: String = text
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "+/-_".contains(*c))
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            c => c,
        })
        .collect();
    let mut all = Vec::new();
    for start in 0..4.min(alphabet.len()) {
        let body = &alphabet[start..];
        let whole = &body[..body.len() - body.len() % 4];
        all.extend(base64::engine::general_purpose::STANDARD_NO_PAD.decode(whole).unwrap_or_default());
        all.push(0);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_canary_comes_back_in_no_encoding() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    for encoding in ENCODINGS {
        let input = json!({"method": "GET", "path": format!("/echo/{encoding}")}).to_string();
        let outcome = keyward.run(["--json", "call", "hostile.any-request", "--input", &input])?.success();
        let output = &outcome.json()["output"];
        assert_eq!(output["status"], 200, "{encoding}: {output}");
        let body = output["body"].as_str().unwrap();
        assert!(body.contains("redacted"), "{encoding}: nothing was replaced: {body}");
        hunt(encoding, body.as_bytes());
        hunt(encoding, &decoded_base64(body));
    }
    // Each request did carry it.
    let received = echo.received();
    assert_eq!(received.len(), ENCODINGS.len());
    assert!(received.iter().all(|request| request.headers.iter().any(|(_, value)| value.ends_with(CANARY))));
    let audit = keyward.run(["--json", "audit"])?.success().json();
    let redacted = audit.as_array().unwrap().iter().filter(|record| record["reason"] == "secret-echoed").count();
    assert_eq!(redacted, ENCODINGS.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_canary_comes_back_neither_in_headers_nor_across_chunks() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    for path in ["/header", "/chunks/1", "/chunks/2", "/chunks/7", "/chunks/31"] {
        for stream in [false, true] {
            let input = json!({"method": "GET", "path": path, "stream": stream}).to_string();
            let outcome = keyward.run(["--json", "call", "hostile.any-request", "--input", &input])?.success();
            assert_eq!(outcome.json()["output"]["status"], 200, "{path}: {}", outcome.stdout);
            assert!(outcome.stdout.contains("redacted"), "{path}: nothing was replaced: {}", outcome.stdout);
            hunt(path, outcome.stdout.as_bytes());
            let output = outcome.json()["output"].clone();
            for (_, value) in pairs(&output["headers"]) {
                hunt(path, &decoded_base64(&value));
            }
        }
    }
    Ok(())
}

fn pairs(headers: &Value) -> Vec<(String, String)> {
    serde_json::from_value(headers.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_puts_the_canary_together_cannot_say_it() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let says = ["output", "log", "lines", "panic", "fail", "code"];
    for encoding in ["verbatim", "base64", "hex", "percent-all"] {
        for say in says {
            let input = json!({"encoding": encoding, "say": say}).to_string();
            let outcome = keyward.run(["--json", "call", "hostile.assemble", "--input", &input])?;
            assert!(outcome.stdout.contains("redacted") || outcome.stderr.contains("redacted"), "{say}: {outcome:?}");
            for text in [&outcome.stdout, &outcome.stderr] {
                hunt(say, text.as_bytes());
                hunt(say, &decoded_base64(text));
            }
            if encoding == "verbatim" && say == "output" {
                assert_eq!(outcome.success().json()["output"], "[redacted]");
            }
        }
    }
    // Where a list of numbers was, no JSON is left.
    let input = json!({"encoding": "verbatim", "say": "numbers"}).to_string();
    let refused = keyward.run(["--json", "call", "hostile.assemble", "--input", &input])?.failure(1);
    assert!(refused.error()["hint"].as_str().unwrap().contains("secret-echoed"), "{}", refused.stderr);
    let audit = keyward.run(["--json", "audit"])?.success().json();
    let by_guest = audit.as_array().unwrap().iter().filter(|record| record["event"]["by"] == "guest");
    assert_eq!(by_guest.count(), 4 * says.len() + 1);

    // Nor does it say it to a flow: its journal has the outputs, the errors and the logs of the steps.
    let flow = keyward.folder().join("assemble.yaml");
    std::fs::write(&flow, ASSEMBLE)?;
    let run = keyward.run(["run", &flow.display().to_string()])?.success();
    hunt("the run", run.stdout.as_bytes());
    hunt("the run", run.stderr.as_bytes());
    for (path, content) in files(keyward.folder()) {
        hunt(&path.display().to_string(), &content);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_canary_is_nowhere_in_the_guests_memory() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let mask = 0x5a_u8;
    let masked = |value: &[u8]| value.iter().map(|byte| byte ^ mask).collect::<Vec<u8>>();
    // Something that the guest does have shows that the search works.
    let mut values = vec![masked(b"x-search-proof")];
    values.extend(forms(CANARY).iter().map(|(_, form)| masked(form)));
    let requests: Vec<Value> = ["/echo/verbatim", "/echo/base64", "/echo/hex", "/header", "/chunks/5"]
        .iter()
        .map(|path| json!({"method": "GET", "path": path, "headers": [["x-search-proof", "1"]]}))
        .collect();
    let input = json!({"requests": requests, "masked": values, "mask": mask}).to_string();
    let outcome = keyward.run(["--json", "call", "hostile.search-memory", "--input", &input])?.success();
    let counts: Vec<u32> = serde_json::from_value(outcome.json()["output"]["counts"].clone())?;
    assert!(counts[0] > 0, "the search found nothing at all");
    for ((encoding, _), count) in forms(CANARY).iter().zip(&counts[1..]) {
        assert_eq!(*count, 0, "the canary is in the guest's memory, encoded as {encoding}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_canary_is_in_no_output_log_or_file() -> Result<()> {
    let echo = EchoServer::start().await?;
    let mut keyward = hostile(&echo.url)?;
    keyward.set("KEYWARD_LOG", "trace");
    let flow = keyward.folder().join("canary.yaml");
    std::fs::write(&flow, FLOW)?;
    let run = keyward.run(["run", &flow.display().to_string()])?.success();
    let mut said = vec![run.stdout, run.stderr];
    let commands: [&[&str]; 8] = [
        &["runs", "list"],
        &["--json", "runs", "list"],
        &["audit"],
        &["--json", "audit"],
        &["connections", "list"],
        &["--json", "connections", "show", "canary"],
        &["vault", "status"],
        &["doctor"],
    ];
    for command in commands {
        let outcome = keyward.run(command)?;
        said.extend([outcome.stdout, outcome.stderr]);
    }
    // A guest that panics with all that it was given, whatever the server made of the token.
    for encoding in ENCODINGS {
        for json in [true, false] {
            let path = format!("/echo/{encoding}");
            let input = json!({"method": "GET", "path": path, "panic": true}).to_string();
            let flags: &[&str] = if json { &["--json"] } else { &[] };
            let call = ["call", "hostile.any-request", "--input", &input];
            let outcome = keyward.run(flags.iter().chain(&call))?.failure(1);
            assert!(outcome.stderr.contains("redacted"), "{encoding}: the panic does not tell what came back");
            hunt("the panic", &decoded_base64(&outcome.stderr));
            said.extend([outcome.stdout, outcome.stderr]);
        }
    }
    for text in &said {
        hunt("the output", text.as_bytes());
    }
    let all = files(keyward.folder());
    assert!(all.iter().any(|(path, _)| path.extension().is_some_and(|extension| extension == "db")));
    for (path, content) in all {
        hunt(&path.display().to_string(), &content);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sign_in_and_a_refresh_exchange_is_in_no_output_log_or_file() -> Result<()> {
    let authorization = AuthorizationServer::start(Options { access_token_ttl: 2, rotate: true })?;
    let api = GithubApi::start(&authorization).await?;
    let mut keyward = Keyward::initialised(&[authorization.authority(), api.authority()])?;
    keyward.set("KEYWARD_LOG", "trace");
    keyward.use_provider(&authorization)?;
    keyward.set("KEYWARD_CLIENT_SECRET", CLIENT_SECRET);
    keyward.add_plugin("github")?;

    let (outcome, page) = keyward.connect(&api, &["openid", "repo", "read:user"], Decision::Agree).await?;
    let outcome = outcome.success();
    let mut said = vec![outcome.stdout, outcome.stderr, page.body];
    // Nothing tells when a token ends: it is the clocks of both sides that go on.
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let commands: [&[&str]; 5] = [
        &["call", "github.current-user"],
        &["--json", "connections", "test", "octocat"],
        &["--json", "connections", "show", "octocat"],
        &["--json", "audit"],
        &["doctor"],
    ];
    for command in commands {
        let outcome = keyward.run(command)?;
        said.extend([outcome.stdout, outcome.stderr]);
    }

    let secrets = authorization.secrets().await?;
    let kinds: BTreeSet<&str> = secrets.iter().map(|(kind, _)| kind.as_str()).collect();
    let wanted = ["access_token", "code", "code_verifier", "id_token", "refresh_token"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), wanted);
    let refreshes = authorization.seen().await?["refresh_token"].as_u64().unwrap();
    assert!(refreshes > 0, "nothing was refreshed");
    assert!(said.iter().any(|text| text.contains("TRACE")), "nothing was logged");
    for (kind, secret) in &secrets {
        for text in &said {
            hunt_for(secret, kind, "the output", text.as_bytes());
        }
        for (path, content) in files(keyward.folder()) {
            // What is compiled was so before anybody signed in.
            if path.extension().is_none_or(|extension| extension != "wasm" && extension != "cwasm") {
                hunt_for(secret, kind, &path.display().to_string(), &content);
            }
        }
    }
    Ok(())
}

const ASSEMBLE: &str = "
document: {dsl: '1.0.3', namespace: tests, name: assemble, version: '0.1.0'}
do:
  - all:
      for: {each: say, in: '[\"output\", \"log\", \"lines\", \"panic\", \"fail\", \"code\"]'}
      do:
        - tell:
            try:
              - ask:
                  call: hostile.assemble
                  with: {encoding: verbatim, say: '${ $say }'}
            catch: {}
";

const FLOW: &str = "
document: {dsl: '1.0.3', namespace: tests, name: canary, version: '0.1.0'}
do:
  - all:
      for: {each: encoding, in: '[\"verbatim\", \"base64\", \"hex\", \"percent-all\", \"json-unicode\"]'}
      do:
        - ask:
            call: hostile.any-request
            with: {method: GET, path: '${ \"/echo/\" + $encoding }'}
  - fail:
      try:
        - refused:
            call: hostile.any-request
            with: {method: DELETE, path: /echo/verbatim}
      catch: {}
";
