//! Connections against a real authorization server: refreshed, shared by processes, revoked, deleted.

use std::time::Duration;

use anyhow::Result;
use http::StatusCode;
use keyward_harness::{
    AuthorizationServer, EchoServer, GithubApi, Keyward,
    authorization_server::{CLIENT_ID, CLIENT_SECRET, Options},
    person::Decision,
};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A token that has ended after [`short_life`].
const SHORT: Options = Options { access_token_ttl: 2, rotate: true };

/// Lets a token of [`SHORT`] end. Nothing tells when: it is the clocks of both sides that go on.
async fn short_life() {
    tokio::time::sleep(Duration::from_millis(2100)).await;
}

fn facts(keyward: &Keyward) -> Result<Value> {
    Ok(keyward.run(["--json", "connections", "show", "octocat"])?.success().json())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_due_is_refreshed_before_it_ends() -> Result<()> {
    let authorization = AuthorizationServer::start(Options { access_token_ttl: 12, rotate: true })?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    let ends = facts(&keyward)?["expires_at"].as_str().map(|at| OffsetDateTime::parse(at, &Rfc3339)).unwrap()?;
    // From half its life on it is due at any rate.
    tokio::time::sleep(Duration::from_millis(6200)).await;
    keyward.run(["call", "github.current-user"])?.success();
    assert!(OffsetDateTime::now_utc() < ends, "the machine was too slow: the token had ended");
    let seen = authorization.seen().await?;
    assert_eq!((&seen["refresh_token"], &seen["failed"]), (&json!(1), &json!(0)), "{seen}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_has_ended_is_refreshed_before_it_is_used() -> Result<()> {
    let authorization = AuthorizationServer::start(SHORT)?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    for _ in 0..3 {
        short_life().await;
        keyward.run(["call", "github.current-user"])?.success();
    }
    let seen = authorization.seen().await?;
    assert_eq!((&seen["refresh_token"], &seen["failed"]), (&json!(3), &json!(0)), "{seen}");
    assert!(api.seen().iter().all(|request| request.token_active && request.status == 200));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_refused_is_refreshed_once_and_the_request_sent_again() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    keyward.run(["call", "github.current-user"])?.success();
    let token = api.seen()[0].token.clone();
    api.refuse_tokens_so_far();

    keyward.run(["call", "github.current-user"])?.success();
    let statuses: Vec<u16> = api.seen().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [200, 401, 200]);
    assert_ne!(api.seen()[2].token, token);
    assert_eq!(authorization.seen().await?["refresh_token"], 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_share_one_rotating_token_without_losing_it() -> Result<()> {
    let authorization = AuthorizationServer::start(SHORT)?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    short_life().await;
    let running: Vec<_> = (0..8).map(|_| keyward.spawn(["call", "github.current-user"])).collect::<Result<_>>()?;
    for process in running {
        process.wait()?.success();
    }
    // A refresh token that is used twice is refused, and ends the whole grant.
    let seen = authorization.seen().await?;
    assert_eq!(seen["failed"], 0, "{seen}");
    assert!(seen["refresh_token"].as_u64().unwrap() >= 1, "{seen}");
    short_life().await;
    keyward.run(["call", "github.current-user"])?.success();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_grant_is_gone_asks_to_connect_again_under_its_id() -> Result<()> {
    let authorization = AuthorizationServer::start(SHORT)?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    let before = facts(&keyward)?;
    keyward.run(["connections", "revoke", "octocat", "--yes"])?.success();
    let seen = authorization.seen().await?;
    assert!(!seen["revoked"].as_array().unwrap().is_empty(), "nothing was revoked at the provider: {seen}");

    let refused = keyward.run(["--json", "call", "github.current-user"])?.failure(5);
    let error = refused.error();
    assert_eq!(error["code"], "reconnect-required", "{error}");
    assert!(error.to_string().contains("--reconnect"), "{error}");
    assert!(api.seen().is_empty());

    let again = ["--json", "connect", "github", "--reconnect", "--name", "octocat", "--no-browser"];
    let again: Vec<String> = again.iter().map(|argument| (*argument).to_owned()).collect();
    let (outcome, _) = keyward.sign_in(&again, Decision::Agree).await?;
    outcome.success();
    keyward.run(["call", "github.current-user"])?.success();
    let after = facts(&keyward)?;
    assert_eq!(before["id"], after["id"]);
    assert_eq!(before["granted_scopes"], after["granted_scopes"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_connection_is_revoked_at_the_provider_and_gone() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    keyward.run(["call", "github.current-user"])?.success();
    let token = api.seen()[0].token.clone().unwrap();
    keyward.run(["connections", "delete", "octocat", "--yes"])?.success();
    assert_eq!(keyward.run(["--json", "connections", "list"])?.success().json(), json!([]));
    let client = reqwest::Client::new();
    let answer = client.get(format!("{}/user", api.url)).bearer_auth(token).send().await?;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "the token still works at the provider");
    keyward.run(["call", "github.current-user"])?.failure(5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_provider_is_away_a_connection_is_deleted_only_by_who_says_so() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    drop(authorization);
    let error = keyward.run(["--json", "connections", "delete", "octocat", "--yes"])?.failure(5).error();
    assert_eq!(error["code"], "not-revoked", "{error}");
    assert_eq!(facts(&keyward)?["state"]["state"], "active");
    let delete = ["--json", "connections", "delete", "octocat", "--without-revoking", "--yes"];
    let outcome = keyward.run(delete)?.success();
    assert_eq!(outcome.json()["revoked"], false, "{}", outcome.stdout);
    assert_eq!(keyward.run(["--json", "connections", "list"])?.success().json(), json!([]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_tells_whose_account_it_is_and_changes_nothing_while_the_provider_is_away() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let mut keyward = Keyward::initialised(&[authorization.authority()])?;
    keyward.set("KEYWARD_CLIENT_SECRET", CLIENT_SECRET);
    let connect =
        ["--json", "connect", "oidc", "--no-browser", "--name", "octocat", "--client-id", CLIENT_ID, "--issuer"];
    let connect: Vec<String> = connect.into_iter().chain([authorization.issuer.as_str()]).map(str::to_owned).collect();
    keyward.sign_in(&connect, Decision::Agree).await?.0.success();
    let report = keyward.run(["--json", "connections", "test", "octocat"])?.success().json();
    assert_eq!(report["outcome"], "works", "{report}");
    assert_eq!(report["connection"]["account"], "octocat", "{report}");

    drop(authorization);
    let error = keyward.run(["--json", "connections", "test", "octocat"])?.failure(8).error();
    assert_eq!(error["code"], "provider-unreachable", "{error}");
    assert_eq!(facts(&keyward)?["state"]["state"], "active");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pasted_key_is_sent_where_the_connector_says() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::initialised(&[authorization.authority(), api.authority()])?;
    keyward.use_provider(&authorization)?;
    keyward.add_plugin("github")?;
    let endpoint = format!("api={}", api.url);
    let connect = ["connect", "github", "--method", "api-key", "--secret-file", "-", "--scope", "repo", "--endpoint"];
    keyward.run_with_input(connect.into_iter().chain([endpoint.as_str()]), "test-pasted-key")?.success();
    let outcome = keyward.run(["call", "github.list-issues", "owner=octocat", "repository=hello-world"])?;
    assert_ne!(outcome.code, Some(0), "the API knows no such key");
    assert_eq!(api.seen().len(), 1, "{}", outcome.stderr);
    assert_eq!(api.seen()[0].token.as_deref(), Some("test-pasted-key"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_name_and_password_are_sent_as_basic() -> Result<()> {
    let server = EchoServer::start().await?;
    let keyward = Keyward::initialised(&[server.authority()])?;
    let providers = keyward.data_dir().join("providers");
    std::fs::create_dir_all(&providers)?;
    let account = format!("{}/echo/json", server.url);
    let provider = "id = \"desk\"\ntitle = \"Desk\"\nmethods = [\"basic\"]\n[account]\nendpoint";
    std::fs::write(providers.join("desk.toml"), format!("{provider} = \"{account}\"\n"))?;
    let connect = ["connect", "desk", "--username", "reporter", "--secret-file", "-"];
    keyward.run_with_input(connect, "test-password")?.success();
    let report = keyward.run(["--json", "connections", "test", "desk"])?.success().json();
    assert_eq!(report["outcome"], "works", "{report}");
    let received = server.received();
    let (_, value) = received[0].headers.iter().find(|(name, _)| name == "authorization").unwrap();
    assert_eq!(value, "Basic cmVwb3J0ZXI6dGVzdC1wYXNzd29yZA==");

    let refused = keyward.run(["--json", "connect", "desk", "--reconnect", "--issuer", "https://as.example"])?;
    assert_eq!(refused.failure(2).error()["code"], "flag-unsuitable");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_secret_is_taken_for_the_client_of_a_connection() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let mut keyward = Keyward::initialised(&[authorization.authority()])?;
    keyward.use_provider(&authorization)?;
    keyward.set("KEYWARD_CLIENT_SECRET", CLIENT_SECRET);
    keyward.run(["connect", "github", "--method", "client-credentials", "--client-id", CLIENT_ID])?.success();
    let again = ["--json", "connect", "github", "--reconnect"];
    keyward.set("KEYWARD_CLIENT_SECRET", "test-another-secret");
    assert_eq!(keyward.run(again)?.failure(5).error()["code"], "provider-refused");
    keyward.set("KEYWARD_CLIENT_SECRET", "");
    keyward.run(again)?.success();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_connects_for_itself_by_client_credentials() -> Result<()> {
    let authorization = AuthorizationServer::start(SHORT)?;
    let api = GithubApi::start(&authorization).await?;
    let mut keyward = Keyward::initialised(&[authorization.authority(), api.authority()])?;
    keyward.use_provider(&authorization)?;
    keyward.set("KEYWARD_CLIENT_SECRET", CLIENT_SECRET);
    keyward.add_plugin("github")?;
    let endpoint = format!("api={}", api.url);
    let connect = ["connect", "github", "--method", "client-credentials", "--client-id", CLIENT_ID, "--scope", "repo"];
    keyward.run(connect.into_iter().chain(["--endpoint", &endpoint]))?.success();
    for _ in 0..2 {
        short_life().await;
        keyward.run(["call", "github.list-issues", "owner=octocat", "repository=hello-world"])?.success();
    }
    let seen = authorization.seen().await?;
    assert!(seen["client_credentials"].as_u64().unwrap() >= 3, "a new token each time: {seen}");
    assert!(api.seen().iter().all(|request| request.token_active && request.status == 200));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_rotated_and_the_root_key_is_replaced_while_connections_keep_working() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let mut keyward = Keyward::connected(&authorization, &api).await?;
    keyward.run(["vault", "rotate"])?.success();
    keyward.run(["call", "github.current-user"])?.success();
    let status = keyward.run(["--json", "vault", "status"])?.success().json();
    let keys = status["tenant_keys"].as_array().unwrap_or_else(|| panic!("{status}"));
    let states: Vec<_> = keys.iter().map(|key| (&key["version"], &key["state"])).collect();
    assert_eq!(states, [(&json!(2), &json!("active"))], "{status}");

    keyward.set("KEYWARD_NEW_PASSPHRASE", "another-test-passphrase");
    keyward.run(["vault", "rekey", "--key", "passphrase"])?.success();
    keyward.run(["call", "github.current-user"])?.failure(6);
    keyward.set("KEYWARD_PASSPHRASE", "another-test-passphrase");
    keyward.run(["call", "github.current-user"])?.success();
    Ok(())
}
