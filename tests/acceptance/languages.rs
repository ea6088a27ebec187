//! Connectors in other languages: the same actions as the one in Rust, by the libraries that are usual there, against
//! the same servers; and the same attacks. One test for each language, because compiling its interpreter takes long;
//! what was compiled is kept beside the component for the next run.

use std::{fs, path::Path};

use anyhow::Result;
use keyward_harness::{
    AuthorizationServer, EchoServer, GithubApi, Keyward, Outcome, authorization_server,
    keyward::{CANARY, connect_canary_of, guest},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connector_in_javascript_does_the_same_and_can_do_no_more() -> Result<()> {
    a_connector_in("javascript").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connector_in_python_does_the_same_and_can_do_no_more() -> Result<()> {
    a_connector_in("python").await
}

async fn a_connector_in(language: &str) -> Result<()> {
    let authorization = AuthorizationServer::start(authorization_server::Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    install(&keyward, language)?;
    let there = Connector { keyward: &keyward, name: format!("github-{language}") };
    its_actions_do_the_same(&there, &api).await?;

    let echo = EchoServer::start().await?;
    let other = EchoServer::start().await?;
    keyward.allow_local(&[authorization.authority(), api.authority(), echo.authority(), other.authority()])?;
    connect_canary_of(&keyward, "github", "canary", &echo.url)?;
    its_attacks_are_refused(&there, &echo, &other)?;
    the_credential_does_not_come_back(&there, &echo)?;
    match language {
        "python" => the_habits_of_python_do_no_harm(&there, &echo),
        _ => the_habits_of_javascript_do_no_harm(&there, &echo),
    }
}

/// Installs the connector with what an earlier run has compiled of it. Keyward looks at each file before it takes it.
fn install(keyward: &Keyward, language: &str) -> Result<()> {
    let (cache, kept) = (keyward.data_dir().join("cache"), guest(language)?.with_extension("compiled"));
    if kept.is_dir() {
        copy(&kept, &cache)?;
        fs::remove_dir_all(&kept)?;
    }
    keyward.add_plugin(language)?;
    copy(&cache, &kept)
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// A connector that is installed.
struct Connector<'a> {
    keyward: &'a Keyward,
    name: String,
}

impl Connector<'_> {
    fn call(&self, action: &str, connection: &str, input: Value) -> Result<Outcome> {
        let action = format!("{}.{action}", self.name);
        self.keyward.run(["--json", "call", &action, "--connection", connection, "--input", &input.to_string()])
    }
}

async fn its_actions_do_the_same(there: &Connector<'_>, api: &GithubApi) -> Result<()> {
    let here = Connector { keyward: there.keyward, name: "github".to_owned() };
    let title = "Grüße: \u{1f980}";
    let create =
        json!({"owner": "octocat", "repository": "hello-world", "title": title, "body": "Text", "api": api.url});
    let created = there.call("create-issue", "octocat", create)?.success().json()["output"].clone();
    let issue = api.state("/repos/octocat/hello-world/issues/1").await?;
    assert_eq!((&created["number"], &issue["title"], &issue["body"]), (&json!(1), &json!(title), &json!("Text")));
    for title in ["second", "third"] {
        let create = json!({"owner": "octocat", "repository": "hello-world", "title": title});
        here.call("create-issue", "octocat", create)?.success();
    }

    let list = json!({"owner": "octocat", "repository": "hello-world"});
    let expected = here.call("list-issues", "octocat", list.clone())?.success().json()["output"]["issues"].clone();
    let mut list = list;
    list["api"] = json!(api.url);
    let listed = there.call("list-issues", "octocat", list)?.success().json();
    let issues = listed["output"]["issues"].as_array().unwrap();
    assert_eq!((issues.len(), &listed["stats"]["requests"]), (3, &json!(1)), "{listed}");
    for (issue, expected) in issues.iter().zip(expected.as_array().unwrap()) {
        for (field, value) in issue.as_object().unwrap() {
            assert_eq!(*value, expected[field], "{field}");
        }
    }

    let missing = json!({"owner": "octocat", "repository": "nowhere", "api": api.url});
    let error = there.call("list-issues", "octocat", missing)?.failure(1).error();
    assert_eq!((&error["action_code"], &error["status"]), (&json!("not-found"), &json!(404)), "{error}");
    // GitHub's own address is not that of the connection.
    let elsewhere = json!({"owner": "octocat", "repository": "hello-world"});
    let error = there.call("list-issues", "octocat", elsewhere)?.failure(1).error();
    assert!(error["log"][0]["text"].as_str().unwrap().contains("(host-not-allowed)"), "{error}");
    Ok(())
}

fn its_attacks_are_refused(there: &Connector<'_>, echo: &EchoServer, other: &EchoServer) -> Result<()> {
    let declared = format!("{}/echo/verbatim", echo.url);
    let refused = [
        (json!({"url": format!("{}/user", echo.url)}), "path-not-allowed"),
        (json!({"url": format!("{}/echo/%00", echo.url)}), "path-malformed"),
        (json!({"url": &declared, "method": "DELETE"}), "path-not-allowed"),
        (json!({"url": format!("{declared}?token=x")}), "query-not-allowed"),
        (json!({"url": format!("{}/echo/verbatim", other.url)}), "host-not-allowed"),
        (json!({"url": &declared, "headers": [["authorization", "Bearer mine"]]}), "header-forbidden"),
        (json!({"url": &declared, "headers": [["x-forwarded-host", "evil.example"]]}), "header-forbidden"),
    ];
    let before = there.keyward.run(["--json", "audit", "--denied"])?.success().json().as_array().unwrap().len();
    for (input, reason) in &refused {
        let document = there.call("any-request", "canary", input.clone())?.success().json();
        assert_eq!(document["output"]["status"], 0, "{input}: {document}");
        let line = document["log"][0]["text"].as_str().unwrap_or_default();
        assert!(line.contains(&format!("({reason})")), "{input}: {document}");
    }
    assert!(echo.received().is_empty() && other.received().is_empty(), "a refused request reached a server");
    let audit = there.keyward.run(["--json", "audit", "--denied"])?.success().json();
    let reasons = audit.as_array().unwrap().iter().skip(before).map(|record| record["reason"].as_str().unwrap());
    let wanted = refused.iter().map(|(_, reason)| *reason);
    assert_eq!(reasons.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());

    let large = there.call("any-request", "canary", json!({"url": format!("{}/bytes/{}", echo.url, 33 << 20)}))?;
    assert_eq!(large.success().json()["output"]["status"], 0);
    Ok(())
}

fn the_credential_does_not_come_back(there: &Connector<'_>, echo: &EchoServer) -> Result<()> {
    let before = echo.received().len();
    for path in ["/echo/verbatim?q=1", "/echo/base64", "/echo/json-unicode", "/chunks/7", "/header"] {
        let answer = there.call("any-request", "canary", json!({"url": format!("{}{path}", echo.url)}))?.success();
        assert_eq!(answer.json()["output"]["status"], 200, "{path}: {}", answer.stdout);
        assert!(!answer.stdout.contains(CANARY), "{path}: {}", answer.stdout);
    }
    let post = json!({"method": "POST", "url": format!("{}/echo/verbatim", echo.url), "body": "Text"});
    let answer = there.call("any-request", "canary", post)?.success();
    let received = &echo.received()[before..];
    assert_eq!(received.len(), 6);
    for request in received {
        let sent: Vec<_> = request.headers.iter().filter(|(name, _)| name == "authorization").collect();
        assert_eq!(sent, [&("authorization".to_owned(), format!("Bearer {CANARY}"))]);
    }
    assert!(answer.json()["output"]["body"].as_str().unwrap().ends_with("Text"), "{}", answer.stdout);
    Ok(())
}

/// Calls the action `habit`.
fn habit(there: &Connector<'_>, echo: &EchoServer, habit: &str, path: &str, count: u32) -> Result<Outcome> {
    there.call("habit", "canary", json!({"habit": habit, "url": format!("{}{path}", echo.url), "count": count}))
}

fn the_habits_of_python_do_no_harm(there: &Connector<'_>, echo: &EchoServer) -> Result<()> {
    for (name, path, count, result) in [
        ("status", "/echo/json", 1, 200),
        ("refusal", "/echo/unheard-of", 1, 404),
        ("part", "/bytes/100000", 1, 10),
        ("rounds", "/echo/json", 200, 200),
    ] {
        let document = habit(there, echo, name, path, count)?.success().json();
        assert_eq!(document["output"]["result"], result, "{name}: {document}");
    }

    // Without the guest's time-out it would end with the host's, after half of the call's minute.
    let document = habit(there, echo, "impatience", "/slow", 1)?.success().json();
    assert_eq!(document["output"]["result"], true, "{document}");
    assert!(document["stats"]["wall_us"].as_u64().is_some_and(|us| us < 20_000_000), "{document}");

    let document = habit(there, echo, "form", "/echo/json", 1)?.success().json();
    assert_eq!(document["output"]["result"], "OK", "{document}");
    let form = echo.received().pop().unwrap();
    for (name, value) in [
        ("content-type", "application/x-www-form-urlencoded"),
        ("user-agent", "keyward-connector"),
        ("content-length", "3"),
    ] {
        assert!(form.headers.contains(&(name.to_owned(), value.to_owned())), "{name}: {form:?}");
    }
    Ok(())
}

/// The engine for JavaScript never lets go of a resource.
fn the_habits_of_javascript_do_no_harm(there: &Connector<'_>, echo: &EchoServer) -> Result<()> {
    for (name, path, count, result) in [
        ("rounds", "/echo/json", 1_000, 1_000),
        ("buffer", "/bytes/30000000", 1, 30_000_000),
        ("stream", "/bytes/100000000", 1, 100_000_000),
        ("unread", "/echo/json", 40, 40),
        ("cancelled", "/echo/json", 40, 40),
        ("parallel", "/bytes/200000", 20, 20),
    ] {
        let document = habit(there, echo, name, path, count)?.success().json();
        assert_eq!(document["output"]["result"], result, "{name}: {document}");
    }
    Ok(())
}
