//! Credentials that sign: each against a server that verifies by itself.

use anyhow::Result;
use keyward_harness::{Apache, Keyward, Outcome, keyward::guest, process::NodeServer};
use serde_json::{Value, json};

/// A connector whose one action sends whatever it is told to, with this `credential`, and a connection to `url`.
fn connector(url: &str, credential: &str, connect: &[&str], secret: &str) -> Result<Keyward> {
    let keyward = Keyward::initialised(&[url.trim_start_matches("http://").to_owned()])?;
    install(&keyward, credential)?;
    let outcome = self::connect(&keyward, url, connect, secret)?;
    outcome.success();
    Ok(keyward)
}

/// Installs the connector with this `credential`.
fn install(keyward: &Keyward, credential: &str) -> Result<()> {
    let folder = keyward.folder().join("signing");
    std::fs::create_dir_all(&folder)?;
    let manifest = format!(
        r#"name = "signing"
version = "0.1.0"
title = "Signing"
provider = "http"
endpoints.api = {{ url = "https://api.example", configurable = true, private = true }}

{credential}
[actions.any-request]
title = "Send any request"
requests = [
    {{ method = "GET", endpoint = "api", path = "/**", query = ["*"] }},
    {{ method = "POST", endpoint = "api", path = "/**", query = ["*"] }},
]

[actions.many-requests]
title = "Send many requests"
requests = [{{ method = "GET", endpoint = "api", path = "/**" }}]
"#
    );
    std::fs::write(folder.join("connector.toml"), manifest)?;
    let schema = json!({"type": "object"});
    let actions = ["any-request", "many-requests"];
    let actions = json!(actions.map(|name| json!({"name": name, "input": schema, "output": schema})));
    std::fs::write(folder.join("actions.json"), actions.to_string())?;
    let (hostile, made) = (guest("hostile")?.display().to_string(), folder.join("made.wasm").display().to_string());
    let folder = folder.display().to_string();
    keyward.run(["plugin", "build", &folder, "--component", &hostile, "--out", &made])?.success();
    keyward.run(["plugin", "add", &made, "--yes", "--allow-widening"])?.success();
    Ok(())
}

/// Makes a connection to `url` with a secret from standard input.
fn connect(keyward: &Keyward, url: &str, connect: &[&str], secret: &str) -> Result<Outcome> {
    let endpoint = format!("api={url}");
    let connect = ["--json", "connect", "http", "--name", "own", "--secret-file", "-", "--endpoint", &endpoint]
        .into_iter()
        .chain(connect.iter().copied());
    keyward.run_with_input(connect, secret)
}

/// Sends a request through the gate and tells what came of it.
fn send(keyward: &Keyward, input: &Value) -> Result<Value> {
    call(keyward, "any-request", input)
}

fn call(keyward: &Keyward, action: &str, input: &Value) -> Result<Value> {
    let call = ["--json", "call", &format!("signing.{action}"), "--input", &input.to_string()];
    Ok(keyward.run(call)?.success().json()["output"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hmac_of_what_goes_on_the_wire_is_accepted_and_never_seen() -> Result<()> {
    let key = "Y2FuYXJ5LWtleS1vZi10aGUtZXhjaGFuZ2U=";
    let server = NodeServer::start("signed-api.mjs", &json!({"key": key, "id": "public-key-id"}))?;
    let coinbase = r#"
[credential]
in = "hmac"
hash = "sha256"
key_encoding = "base64"
message = "{timestamp}{method}{path-and-query}{body}"
encoding = "base64"

[credential.headers]
cb-access-key = "{part:key-id}"
cb-access-sign = "{signature}"
cb-access-timestamp = "{timestamp}"
"#;
    let binance = r#"
[credential]
in = "hmac"
hash = "sha256"
message = "{query}{body}"
headers = { x-mbx-apikey = "{part:key-id}" }
query = { timestamp = "{timestamp-ms}", signature = "{signature}" }
"#;
    for (scheme, credential) in [("coinbase", coinbase), ("binance", binance)] {
        let connect = ["--method", "api-key", "--field", "key-id=public-key-id"];
        let keyward = connector(&server.said("url")?, credential, &connect, key)?;
        let path = |path: &str| format!("/{scheme}/{path}");
        for input in [
            json!({"method": "GET", "path": path("accounts")}),
            json!({"method": "GET", "path": path("accounts"), "query": [["q", "a b&c=d/é+'"], ["side", "BUY"]]}),
            json!({"method": "POST", "path": path("orders%20x"), "body": "{\"size\": \"1.0é\"}", "query": [["a", ""]]}),
            json!({"method": "POST", "path": path("orders"), "body": "text", "stream": true}),
        ] {
            let output = send(&keyward, &input)?;
            assert_eq!(output["status"], 200, "{scheme} {input}: {output}");
            assert_eq!(output["body"], "signed by [redacted]", "{scheme} {input}: {output}");
        }

        let own = match scheme {
            "coinbase" => json!({"method": "GET", "path": path("a"), "headers": [["CB_ACCESS_TIMESTAMP", "1"]]}),
            _ => json!({"method": "GET", "path": path("a"), "query": [["Timestamp", "1"]]}),
        };
        let output = send(&keyward, &own)?;
        assert_eq!(output["error"]["sent"], "no", "{scheme}: {output}");
    }
    Ok(())
}

/// The credential of a connector whose tokens the test server takes.
fn jwt(algorithm: &str) -> String {
    let key = if algorithm.starts_with("HS") { "key_encoding = \"hex\"" } else { "" };
    format!(
        r#"
[credential]
in = "jwt"
name = "authorization"
prefix = "Bearer "
algorithm = "{algorithm}"
{key}
key_id = "{{part:key-id}}"
lifetime_seconds = 600
backdate_seconds = 60

[credential.claims]
iss = "{{part:issuer}}"
aud = "the-api"
bid = "com.example.app"
jti = "{{nonce}}"
uri = "{{method}} {{host}}{{path-and-query}}"
"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_minted_for_each_request_with_any_kind_of_key() -> Result<()> {
    let server = NodeServer::start("token-api.mjs", &json!({}))?;
    let url = server.said("url")?;
    let key = |name: &str| server.ready["keys"][name].as_str().unwrap().to_owned();
    let keyward = Keyward::initialised(&[url.trim_start_matches("http://").to_owned()])?;
    let fields = ["--field", "key-id=key-1", "--field", "issuer=issuer-1"];
    let with = |method| [&["--method", method], &fields[..]].concat();
    for (name, algorithms) in [
        ("rsa", &["RS256", "PS256"][..]),
        ("rsa-pkcs1", &["RS512", "PS384"]),
        ("p256", &["ES256"]),
        ("p256-sec1", &["ES256"]),
        ("p384", &["ES384"]),
        ("p384-sec1", &["ES384"]),
        ("ed25519", &["EdDSA"]),
        ("secret", &["HS256", "HS512"]),
    ] {
        for algorithm in algorithms {
            install(&keyward, &jwt(algorithm))?;
            let method = if name == "secret" { "api-key" } else { "signing-key" };
            connect(&keyward, &url, &with(method), &key(name))?.success();
            let input = json!({"method": "GET", "path": format!("/{name}/{algorithm}/x"), "query": [["q", "a b"]]});
            let output = send(&keyward, &input)?;
            assert_eq!(output["status"], 200, "{name} {algorithm}: {output}");
            assert_eq!(output["body"], "welcome, [redacted]", "{name} {algorithm}");
            keyward.run(["connections", "delete", "own", "--yes"])?.success();
        }
    }

    // The connector that is installed now signs HS512.
    let refused = |method, name: &str, more: &[&str]| -> Result<Value> {
        let arguments = [&with(method)[..], more].concat();
        Ok(connect(&keyward, &url, &arguments, &key(name))?.failure(2).error())
    };
    let error = refused("signing-key", "rsa", &[])?;
    assert_eq!(error["code"], "key-unsuitable", "{error}");
    install(&keyward, &jwt("ES256"))?;
    for (method, name, more) in [
        ("signing-key", "p384", &[][..]),
        ("signing-key", "rsa", &["--for", "signing"]),
        ("api-key", "secret", &["--for", "signing.any-request"]),
    ] {
        let error = refused(method, name, more)?;
        assert_eq!(error["code"], "key-unsuitable", "{method} {name}: {error}");
    }
    Ok(())
}

const ACCOUNT: &[&str] = &["--method", "basic", "--username", "octocat"];
const PASSWORD: &str = "canary-digest-password";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apache_lets_in_who_answers_its_challenge() -> Result<()> {
    let apache = Apache::start("octocat:private:a6bf24bd9214f946ee325cc253f5e329")?;
    let weak = "[credential]\nin = \"digest\"\nweak = true\n";
    let keyward = connector(&apache.url, weak, ACCOUNT, PASSWORD)?;
    let output = call(&keyward, "many-requests", &json!({"path": "/items", "count": 3, "stop": true}))?;
    assert_eq!(output["last"]["status"], 200, "{output}");
    assert_eq!(output["last"]["body"], "the items", "{output}");
    let seen = apache.seen()?;
    let counts: Vec<_> = seen.iter().map(|line| line.split("nc=").nth(1).map_or("", |rest| &rest[..8])).collect();
    assert_eq!(counts, ["", "00000001", "00000002", "00000003"], "{seen:#?}");
    assert_eq!(seen[0], "GET 401 -");

    connect(&keyward, &apache.url, &[ACCOUNT, &["--reconnect"]].concat(), "another-password")?.success();
    let output = send(&keyward, &json!({"method": "GET", "path": "/items"}))?;
    assert_eq!(output["status"], 401, "{output}");
    assert_eq!(apache.seen()?.len(), 6, "a wrong password is tried once");

    // Apache knows MD5 alone, which is not accepted without a word.
    let strict = connector(&apache.url, "[credential]\nin = \"digest\"\n", ACCOUNT, PASSWORD)?;
    let output = send(&strict, &json!({"method": "GET", "path": "/items"}))?;
    assert_eq!(output["error"]["reason"], "credential-unplaceable", "{output}");
    assert_eq!(output["error"]["sent"], "yes", "{output}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_server_of_http_digest_lets_in_whoever_answers_by_the_book() -> Result<()> {
    let username = "J\u{e4}s\u{f8}n \"Doe\"";
    let account = json!({"username": username, "password": PASSWORD});
    let server = NodeServer::start("digest-api.mjs", &account)?;
    let connect = ["--method", "basic", "--username", username];
    let keyward = connector(&server.said("url")?, "[credential]\nin = \"digest\"\n", &connect, PASSWORD)?;
    for path in [
        "/SHA-256/auth",
        "/SHA-256/auth,auth-int",
        "/SHA-256/auth-int",
        "/SHA-256-sess/auth",
        "/SHA-512-256/auth/hidden",
        "/SHA-512-256-sess/auth-int/hidden",
    ] {
        let input = json!({"method": "POST", "path": path, "body": "body", "query": [["q", "a b"]]});
        let output = send(&keyward, &input)?;
        assert_eq!(output["body"], "POST 1 4 [redacted]", "{path}: {output}");
    }
    for (path, expected) in [("/SHA-256/auth/next", "GET 1 0 [redacted]"), ("/SHA-256/auth", "GET 4 0 [redacted]")] {
        let output = call(&keyward, "many-requests", &json!({"path": path, "count": 4, "stop": true}))?;
        assert_eq!(output["last"]["body"], expected, "{path}: {output}");
    }
    let streamed = json!({"method": "POST", "path": "/SHA-256/auth", "body": "body", "stream": true});
    let output = send(&keyward, &streamed)?;
    assert_eq!(output["error"]["reason"], "credential-unplaceable", "{output}");
    assert_eq!(output["error"]["sent"], "no", "{output}");
    Ok(())
}
