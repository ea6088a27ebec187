//! Consents and the other ways to connect, tests, revocations and deletions.

use std::{collections::BTreeMap, sync::Arc};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::Method;
use keyward_model::{ConnectionFacts, ConnectionState, Principal};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use url::Url;

use super::*;
use crate::credential::Material;
use crate::{
    oauth::fake::{CLIENT_SECRET, Fault, ISSUER, Quote, REDIRECT, World, new_connection},
    store::StoreError,
};

fn redirect() -> Url {
    Url::parse(REDIRECT).unwrap()
}

/// The error and, in it, nothing that was a secret.
fn failure<T>(result: Result<T, VaultError>) -> ConnectionError {
    match result.err().unwrap() {
        VaultError::Connection(error) => {
            let told = format!("{error} {error:?} {:?}", error.hint());
            for secret in ["test-at", "test-rt", "test-code", "test client/secret", "test%20client"] {
                assert!(!told.contains(secret), "{told}");
            }
            error
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn authorization_url_asks_for_what_is_needed_and_nothing_twice() {
    let world = World::new().await;
    let new = new_connection("oidc", &["read", "write"]);
    let start = world.vault.begin_authorization(new, &redirect()).await.unwrap();
    let pairs: Vec<(String, String)> = start.url.query_pairs().into_owned().collect();
    let asked: BTreeMap<String, String> = pairs.iter().cloned().collect();
    assert_eq!(asked.len(), pairs.len());
    assert_eq!(start.url.origin(), Url::parse(ISSUER).unwrap().origin());
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "test-client"),
        ("redirect_uri", REDIRECT),
        ("scope", "offline_access openid read write"),
        ("prompt", "consent"),
        ("code_challenge_method", "S256"),
        ("state", &start.state),
    ] {
        assert_eq!(asked.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(URL_SAFE_NO_PAD.decode(&start.state).unwrap().len(), 32, "256 random bits");
    assert_eq!(URL_SAFE_NO_PAD.decode(&asked["nonce"]).unwrap().len(), 32);
    let pending = world.store.tables().pending[0].clone();
    assert_eq!(pending.state_hash, <[u8; 32]>::from(Sha256::digest(&start.state)));
    assert_eq!(start.expires_at, world.server.clock.true_time() + time::Duration::minutes(10));
}

#[tokio::test]
async fn builtin_providers_get_the_parameters_that_they_want() {
    let world = World::new().await;
    for (provider, scopes, expected, absent) in [
        ("github", &["repo"][..], &[("scope", "repo"), ("code_challenge_method", "S256")][..], "nonce"),
        ("google", &[], &[("scope", "email openid"), ("access_type", "offline"), ("prompt", "consent")], "user_scope"),
        ("slack", &["user:chat:write"], &[("user_scope", "chat:write")], "code_challenge"),
    ] {
        let start = world.vault.begin_authorization(new_connection(provider, scopes), &redirect()).await.unwrap();
        let asked: BTreeMap<String, String> = start.url.query_pairs().into_owned().collect();
        for (name, value) in expected {
            assert_eq!(asked.get(*name).map(String::as_str), Some(*value), "{provider} {name}");
        }
        assert!(!asked.contains_key(absent), "{provider} {absent}");
    }
    assert!(world.server.state().seen.is_empty(), "known endpoints are not discovered");
}

#[tokio::test]
async fn consent_makes_a_connection_that_knows_its_account() {
    let world = World::new().await;
    let facts = world.connect().await;
    assert_eq!((facts.provider.as_str(), facts.method.as_str()), ("oidc", "oauth2"));
    assert_eq!(facts.account.as_deref(), Some("test-subject"), "from the ID token");
    assert_eq!(facts.state, ConnectionState::Active);
    assert!(facts.scopes_assumed, "the reply was silent");
    assert!(facts.granted_scopes.contains("read"));
    assert_eq!(world.store.audited(), ["initialised", "created"]);
    let named = world.vault.connection_named(&facts.tenant, &facts.name).await.unwrap();
    assert_eq!(named, facts);
}

#[tokio::test]
async fn granted_scopes_are_those_of_the_reply_with_what_they_contain() {
    let world = World::new().await;
    {
        let mut state = world.server.state();
        state.post_only = true;
        state.reply = json!({"scope": "repo,user:email"});
    }
    let facts = world.connect_as(new_connection("github", &["repo", "user", "gist"])).await;
    assert!(!facts.scopes_assumed);
    assert!(facts.granted_scopes.contains("public_repo"), "repo contains it");
    assert!(!facts.granted_scopes.contains("gist") && !facts.granted_scopes.contains("user"), "not granted");
}

#[tokio::test]
async fn browser_that_goes_away_does_not_cost_the_consent() {
    let world = World::new().await;
    let start = world.vault.begin_authorization(new_connection("oidc", &[]), &redirect()).await.unwrap();
    let query = world.server.consent(&start.url);
    let (came, go, kept) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    world.server.fault(Fault::Hold(came.clone(), go.clone()));
    world.store.tables().on_insert = Some(kept.clone());
    let caller = tokio::spawn({
        let vault = world.vault.clone();
        async move { vault.finish_authorization(&query).await.map(drop) }
    });
    came.notified().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    go.notify_one();
    kept.notified().await;
    assert_eq!(world.vault.connections(&Default::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn redirect_can_be_used_once() {
    let world = World::new().await;
    let start = world.vault.begin_authorization(new_connection("oidc", &[]), &redirect()).await.unwrap();
    let query = world.server.consent(&start.url);
    world.vault.finish_authorization(&query).await.unwrap();
    assert!(matches!(failure(world.vault.finish_authorization(&query).await), ConnectionError::RedirectUnknown));
    assert_eq!(world.server.token_requests(), 1);
}

#[tokio::test]
async fn redirect_that_is_not_ours_sends_nothing() {
    for (from, to) in [
        (format!("iss={}", "https%3A%2F%2Fas.example"), "iss=https%3A%2F%2Fevil.example".to_owned()),
        ("&iss=https%3A%2F%2Fas.example".to_owned(), String::new()),
        ("code=test-code".to_owned(), "code=test-code&code=test-other".to_owned()),
        ("code=test-code".to_owned(), "code=".to_owned()),
        ("code=test-code".to_owned(), "x=y".to_owned()),
    ] {
        let world = World::new().await;
        let start = world.vault.begin_authorization(new_connection("oidc", &[]), &redirect()).await.unwrap();
        let query = world.server.consent(&start.url);
        assert!(query.contains(&from));
        let error = failure(world.vault.finish_authorization(&query.replace(&from, &to)).await);
        assert!(matches!(error, ConnectionError::RedirectInvalid(_)), "{to}: {error}");
        assert_eq!(world.server.token_requests(), 0);
    }
    let world = World::new().await;
    let error = failure(world.vault.finish_authorization("code=test-code&state=test-guess").await);
    assert!(matches!(error, ConnectionError::RedirectUnknown));
    assert!(matches!(failure(world.vault.finish_authorization("").await), ConnectionError::RedirectInvalid(_)));
}

#[tokio::test]
async fn consent_that_comes_too_late_sends_nothing() {
    let world = World::new().await;
    let start = world.vault.begin_authorization(new_connection("oidc", &[]), &redirect()).await.unwrap();
    let query = world.server.consent(&start.url);
    world.server.clock.advance(600);
    assert!(matches!(failure(world.vault.finish_authorization(&query).await), ConnectionError::RedirectUnknown));
    assert_eq!(world.server.token_requests(), 0);
}

#[tokio::test]
async fn consent_is_not_made_to_last_longer_in_the_database() {
    let world = World::new().await;
    let start = world.vault.begin_authorization(new_connection("oidc", &[]), &redirect()).await.unwrap();
    let query = world.server.consent(&start.url);
    world.server.clock.advance(600);
    world.store.tables().pending[0].expires_at += time::Duration::hours(1);
    assert!(matches!(failure(world.vault.finish_authorization(&query).await), ConnectionError::RedirectUnknown));
    assert_eq!(world.server.token_requests(), 0);
}

#[tokio::test]
async fn redirect_outlives_the_key_that_it_waited_under() {
    let world = World::new().await;
    let other = world.other_process().await;
    let (tenant, principal) = (TenantId::default(), Principal::local_administrator());
    other.rotate(&tenant, &principal).await.unwrap();
    let start = other.begin_authorization(new_connection("oidc", &[]), &redirect()).await.unwrap();
    let query = world.server.consent(&start.url);
    // A third process rotates, and removes the key as soon as nothing rests under it.
    world.other_process().await.rotate(&tenant, &principal).await.unwrap();
    assert_eq!(world.store.tables().pending[0].sealed.key_version, 2);
    world.store.tables().after_take = Some(Box::new(|tables| tables.keys.retain(|key| key.version != 2)));
    world.vault.finish_authorization(&query).await.unwrap();
}

#[tokio::test]
async fn person_who_declines_leaves_nothing_behind() {
    let world = World::new().await;
    let start = world.vault.begin_authorization(new_connection("oidc", &[]), &redirect()).await.unwrap();
    let query = world.server.consent(&start.url).replace("code=test-code", "error=access_denied");
    let error = failure(world.vault.finish_authorization(&query).await);
    assert_eq!(error.to_string(), "the person declined at OpenID Connect");
    assert!(world.vault.connections(&Default::default()).await.unwrap().is_empty());
    assert!(world.store.tables().pending.is_empty());
}

#[tokio::test]
async fn id_token_of_another_authorization_is_refused() {
    let world = World::new().await;
    let claims = json!({"iss": ISSUER, "aud": "test-client", "exp": 4_000_000_000_u64, "nonce": "test-other"});
    let token = format!("e30.{}.test", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let start = world.vault.begin_authorization(new_connection("oidc", &[]), &redirect()).await.unwrap();
    let query = world.server.consent(&start.url);
    world.server.fault(Fault::Answer(200, json!({"access_token": "test-at-1", "id_token": token})));
    let error = failure(world.vault.finish_authorization(&query).await);
    assert!(error.to_string().contains("`nonce`"), "{error}");
    assert!(world.vault.connections(&Default::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn refusal_of_the_exchange_is_told_without_the_reply() {
    for (status, reply, expected) in [
        (
            400,
            json!({"error": "invalid_grant", "error_description": "test-code used"}),
            "invalid_grant: [redacted] used",
        ),
        (200, json!({"error": "bad_verification_code"}), "bad_verification_code"),
        (200, json!({"test-at-1": "test-at-1"}), "it answered with HTTP status 200"),
        (302, json!({}), "it answered with HTTP status 302"),
    ] {
        let world = World::new().await;
        let start = world.vault.begin_authorization(new_connection("oidc", &[]), &redirect()).await.unwrap();
        let query = world.server.consent(&start.url);
        world.server.fault(Fault::Answer(status, reply));
        let error = failure(world.vault.finish_authorization(&query).await);
        assert_eq!(error.to_string(), format!("OpenID Connect refused: {expected}"));
        assert!(world.vault.connections(&Default::default()).await.unwrap().is_empty());
    }
}

/// What a server may quote of a request.
const QUOTES: [Quote; 7] = [
    |seen| seen.authorization.clone().unwrap_or_default(),
    |seen| {
        let header = seen.authorization.as_deref().and_then(|header| header.strip_prefix("Basic "));
        String::from_utf8(STANDARD.decode(header.unwrap_or_default()).unwrap()).unwrap()
    },
    |seen| seen.body.clone(),
    |seen| utf8_percent_encode(&seen.body, NON_ALPHANUMERIC).to_string(),
    |seen| seen.form.values().rev().cloned().collect::<Vec<_>>().join(" "),
    |seen| seen.form.values().rev().map(|value| STANDARD.encode(value)).collect::<Vec<_>>().join(" "),
    |seen| seen.form.values().rev().map(hex::encode).collect::<Vec<_>>().join("\u{1}"),
];

/// Whether a text holds one of the secrets of the fake server's connections, in one of the encodings of [`QUOTES`].
fn leaks(text: &str) -> bool {
    let pair = STANDARD.encode("test-client:test%20client%2Fsecret");
    let secrets = ["test-at-", "test-rt-", "test-code", CLIENT_SECRET];
    let encode = |secret: &str| utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
    let spelled = secrets.iter().flat_map(|secret| {
        let once = encode(secret);
        [
            (*secret).to_owned(),
            encode(&once),
            once,
            secret.replace(' ', "+").replace('/', "%2F"),
            STANDARD.encode(secret).trim_end_matches('=').to_owned(),
            hex::encode(secret),
        ]
    });
    spelled.chain([pair, "test%20client".to_owned()]).any(|secret| text.contains(&secret))
}

#[tokio::test]
async fn quoted_request_shows_no_secret_wherever_it_is_told() {
    for quote in QUOTES {
        let world = World::new().await;
        let quotes = |path| world.server.state().quotes = Some((path, quote));

        let start = world.vault.begin_authorization(new_connection("oidc", &[]), &redirect()).await.unwrap();
        let query = world.server.consent(&start.url);
        quotes("/token");
        let error = world.vault.finish_authorization(&query).await.unwrap_err();
        assert!(!leaks(&format!("{error} {error:?}")), "{error}");

        world.server.state().quotes = None;
        let facts = world.connect().await;
        quotes("/token");
        world.server.clock.advance(3600);
        let error = world.vault.credential_for(&facts.tenant, &facts.id).await.err().unwrap();
        assert!(!leaks(&format!("{error} {error:?}")), "{error}");
        let state = world.facts(&facts).await.state;
        assert!(matches!(&state, ConnectionState::ClientRefused(_)) && !leaks(&format!("{state:?}")), "{state:?}");

        world.server.clock.advance(60);
        quotes("/revoke");
        let report = revoke(&world, &facts).await;
        assert!(!report.revoked && !leaks(&format!("{report:?}")), "{report:?}");

        quotes("/me");
        let report = world.vault.test(&facts.tenant, &facts.id).await.unwrap();
        assert_eq!(report.outcome, TestOutcome::Refused);
        assert!(!leaks(&format!("{report:?}")), "{report:?}");
        let error = world.vault.credential_for(&facts.tenant, &facts.id).await.err().unwrap();
        assert!(!leaks(&format!("{error} {error:?}")), "{error}");
    }
}

#[tokio::test]
async fn proof_bound_token_is_not_taken_for_a_bearer_token() {
    let world = World::new().await;
    world.server.state().reply = json!({"token_type": "DPoP"});
    let start = world.vault.begin_authorization(new_connection("oidc", &[]), &redirect()).await.unwrap();
    let query = world.server.consent(&start.url);
    let error = failure(world.vault.finish_authorization(&query).await);
    assert!(matches!(error, ConnectionError::Unusable { .. }), "{error}");
}

#[tokio::test]
async fn other_way_to_prove_the_client_is_tried_at_set_up_and_kept() {
    let world = World::new().await;
    world.server.state().post_only = true;
    let facts = world.connect().await;
    world.server.clock.advance(3600);
    world.vault.credential_for(&facts.tenant, &facts.id).await.unwrap();
    let seen = world.server.state().seen.clone();
    assert_eq!(seen.len(), 1, "the refresh need not find it out again");
    assert!(seen[0].authorization.is_none() && seen[0].form.contains_key("client_secret"));
}

#[tokio::test]
async fn scopes_that_a_reply_does_not_tell_are_asked_for_at_the_server() {
    let world = World::new().await;
    let facts = world.vault.connect_client_credentials(new_connection("oidc", &["read"])).await.unwrap();
    assert!(facts.scopes_assumed);
    assert_eq!(facts.account.as_deref(), Some("test-client"));

    world.server.state().metadata = json!({"introspection_endpoint": format!("{ISSUER}/introspect")});
    let mut new = new_connection("oidc", &["read"]);
    new.name = "asked".parse().unwrap();
    let facts = world.vault.connect_client_credentials(new).await.unwrap();
    assert!(!facts.scopes_assumed);
    assert_eq!(facts.granted_scopes.into_iter().collect::<Vec<_>>(), ["introspected"]);
}

#[tokio::test]
async fn what_does_not_fit_the_provider_is_refused_before_anybody_is_asked() {
    let world = World::new().await;
    let begin = async |change: &dyn Fn(&mut NewConnection), provider: &str| {
        let mut new = new_connection(provider, &["read"]);
        change(&mut new);
        failure(world.vault.begin_authorization(new, &redirect()).await)
    };
    let unsuitable = |error| assert!(matches!(error, ConnectionError::Unsuitable { hint: Some(_), .. }));
    unsuitable(begin(&|new| new.issuer = None, "oidc").await);
    unsuitable(begin(&|new| new.issuer = Some(Url::parse(ISSUER).unwrap()), "github").await);
    unsuitable(begin(&|new| new.client = ClientRegistration::default(), "github").await);
    unsuitable(begin(&|new| new.client.id = Some(String::new()), "github").await);
    unsuitable(begin(&|new| new.client.secret = Some(Secret::from(String::new())), "github").await);
    unsuitable(begin(&|new| _ = new.scopes.insert("a b".to_owned()), "github").await);
    unsuitable(begin(&|new| _ = new.scopes.insert("a,b".to_owned()), "github").await);
    unsuitable(begin(&|_| {}, "http").await);
    let unknown = begin(&|_| {}, "nowhere").await;
    assert!(matches!(unknown, ConnectionError::ProviderUnknown { .. }));
    unsuitable(failure(world.vault.connect_client_credentials(new_connection("github", &[])).await));
    let mut public = new_connection("oidc", &[]);
    public.client.secret = None;
    unsuitable(failure(world.vault.connect_client_credentials(public).await));
    assert_eq!(world.server.token_requests(), 0);
}

#[tokio::test]
async fn name_that_is_taken_is_refused_before_the_person_is_bothered() {
    let world = World::new().await;
    world.connect().await;
    let again = world.vault.begin_authorization(new_connection("oidc", &[]), &redirect()).await;
    assert!(matches!(again.err().unwrap(), VaultError::Store(StoreError::NameTaken(_))));
}

#[tokio::test]
async fn reconnecting_keeps_id_name_owner_client_and_issuer() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.state().dead = true;
    world.server.clock.advance(3600);
    world.vault.credential_for(&facts.tenant, &facts.id).await.err().unwrap();
    assert!(matches!(world.facts(&facts).await.state, ConnectionState::NeedsReconnect(_)));

    let again = NewConnection {
        client: ClientRegistration::default(),
        issuer: None,
        name: "ignored".parse().unwrap(),
        owner: Some(Principal::local_administrator()),
        reconnect: Some(facts.id),
        ..new_connection("oidc", &["read", "more"])
    };
    let after = world.connect_as(again).await;
    assert_eq!((after.id, &after.name, &after.owner), (facts.id, &facts.name, &facts.owner));
    assert_eq!(after.state, ConnectionState::Active);
    assert!(after.granted_scopes.contains("more"));
    assert_eq!(world.store.audited(), ["initialised", "created", "refresh-failed", "reconnected"]);
    world.vault.credential_for(&facts.tenant, &facts.id).await.unwrap();

    let other = NewConnection { reconnect: Some(facts.id), ..new_connection("github", &[]) };
    let error = failure(world.vault.begin_authorization(other, &redirect()).await);
    assert!(matches!(error, ConnectionError::Unsuitable { .. }));
}

#[tokio::test]
async fn pasted_secret_is_kept_as_it_is() {
    let world = World::new().await;
    let secret = || Secret::from("test-key".to_owned());
    for (provider, credential, method) in [
        ("http", StaticCredential::ApiKey(secret()), "api-key"),
        (
            "http",
            StaticCredential::Basic {
                username: Secret::from("test-user".to_owned()),
                password: secret(),
                secret: BasicSecret::default(),
            },
            "basic",
        ),
        ("github", StaticCredential::Bearer(secret()), "bearer"),
        (
            "http",
            StaticCredential::AwsKeys {
                access_key_id: "AKIDEXAMPLE".to_owned(),
                secret_access_key: secret(),
                session_token: None,
            },
            "aws-keys",
        ),
        ("http", StaticCredential::SigningKey(crate::signing_key::tests::ed25519()), "signing-key"),
    ] {
        let new = NewConnection { name: method.parse().unwrap(), ..new_connection(provider, &["repo"]) };
        let facts = world.vault.connect_static(new, credential).await.unwrap();
        assert_eq!(facts.method, method);
        assert!(facts.scopes_assumed && facts.granted_scopes.contains("repo"));
        let live = world.vault.credential_for(&facts.tenant, &facts.id).await.unwrap();
        let kept = match &live.material {
            Material::Token(kept) | Material::Basic { password: kept, .. } => kept,
            Material::Aws(keys) => &keys.secret_access_key,
            Material::SigningKey(key) => key.secret(),
        };
        let given = crate::signing_key::tests::ed25519();
        let given = if method == "signing-key" { given.secret().expose_str() } else { Some("test-key") };
        assert_eq!(kept.expose_str(), given);
        let other = world.vault.credential_after_refusal(&facts.tenant, &facts.id, &live.fingerprint).await.unwrap();
        assert!(other.is_none());
    }
    assert!(world.server.state().seen.is_empty());
}

#[tokio::test]
async fn fields_that_are_not_given_anew_stay() {
    let world = World::new().await;
    let open = |text: &str| FieldValue::Open(text.to_owned());
    let connect = async |fields: Vec<(&str, FieldValue)>, reconnect| {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let new = NewConnection { fields, reconnect, ..new_connection("http", &[]) };
        world.vault.connect_static(new, StaticCredential::ApiKey(Secret::from("test-key".to_owned()))).await
    };
    let secret = FieldValue::Secret(Secret::from("test-developer".to_owned()));
    let facts = connect(vec![("client-id", open("one")), ("developer-token", secret)], None).await.unwrap();
    connect(vec![("client-id", open("two"))], Some(facts.id)).await.unwrap();
    let live = world.vault.credential_for(&facts.tenant, &facts.id).await.unwrap();
    let kept: Vec<_> =
        live.fields.iter().map(|(name, field)| (name.as_str(), field.value.expose_str(), field.is_secret)).collect();
    assert_eq!(kept, [("client-id", Some("two"), false), ("developer-token", Some("test-developer"), true)]);

    for (name, value) in [("Client", "a"), ("token", "a"), ("password", "a"), ("a", ""), ("a", "b\n")] {
        let error = failure(connect(vec![(name, open(value))], Some(facts.id)).await);
        assert!(matches!(error, ConnectionError::Unsuitable { .. }), "{name} {value:?}");
    }
}

#[tokio::test]
async fn secret_that_no_request_can_carry_is_refused() {
    let world = World::new().await;
    let basic = |username: &str, password: &str, secret| StaticCredential::Basic {
        username: Secret::from(username.to_owned()),
        password: Secret::from(password.to_owned()),
        secret,
    };
    let aws = |id: &str, token: &str| StaticCredential::AwsKeys {
        access_key_id: id.to_owned(),
        secret_access_key: Secret::from("test-key".to_owned()),
        session_token: Some(Secret::from(token.to_owned())),
    };
    for credential in [
        aws("AKID/EXAMPLE", "test-token"),
        aws("", "test-token"),
        aws("AKIDEXAMPLE", "test token"),
        StaticCredential::ApiKey(Secret::from(String::new())),
        StaticCredential::ApiKey(Secret::from("test-key\n".to_owned())),
        StaticCredential::Bearer(Secret::from(vec![0xff])),
        basic("test:user", "test-password", BasicSecret::Password),
        basic("", "test-password", BasicSecret::Password),
        basic("test-user", "", BasicSecret::Password),
        basic("test-user", "", BasicSecret::Both),
        basic("test\nkey", "", BasicSecret::Username),
    ] {
        let error = failure(world.vault.connect_static(new_connection("http", &[]), credential).await);
        assert!(matches!(error, ConnectionError::Unsuitable { .. }));
    }
    let key = basic("test-key", "", BasicSecret::Username);
    world.vault.connect_static(new_connection("http", &[]), key).await.unwrap();
    let wrong = StaticCredential::ApiKey(Secret::from("test-key".to_owned()));
    let error = failure(world.vault.connect_static(new_connection("slack", &[]), wrong).await);
    assert!(error.hint().unwrap().contains("oauth2, bearer"), "{error}");
}

#[tokio::test]
async fn reconnecting_asks_for_what_the_connection_has_in_the_same_parameter() {
    let world = World::new().await;
    let start =
        world.vault.begin_authorization(new_connection("slack", &["user:chat:write"]), &redirect()).await.unwrap();
    let query = world.server.consent(&start.url);
    // What no request can carry, and what Slack gives unasked.
    let user = json!({"access_token": "test-at-1", "scope": "chat:write,identify,\u{e9}"});
    world.server.fault(Fault::Answer(200, json!({"ok": true, "authed_user": user})));
    let facts = world.vault.finish_authorization(&query).await.unwrap().facts;
    assert!(facts.granted_scopes.contains("chat:write"));

    let again = NewConnection {
        client: ClientRegistration::default(),
        reconnect: Some(facts.id),
        ..new_connection("slack", &["user:users:read"])
    };
    let start = world.vault.begin_authorization(again, &redirect()).await.unwrap();
    let asked: BTreeMap<String, String> = start.url.query_pairs().into_owned().collect();
    assert_eq!(asked["user_scope"], "chat:write,identify,users:read");
    assert!(!asked.contains_key("scope"));
}

#[tokio::test]
async fn scope_without_a_prefix_is_asked_for_with_the_connections_own() {
    let world = World::new().await;
    let start =
        world.vault.begin_authorization(new_connection("slack", &["user:chat:write"]), &redirect()).await.unwrap();
    let query = world.server.consent(&start.url);
    let user = json!({"access_token": "test-at-1", "scope": "chat:write"});
    world.server.fault(Fault::Answer(200, json!({"ok": true, "authed_user": user})));
    let facts = world.vault.finish_authorization(&query).await.unwrap().facts;

    let again = NewConnection { reconnect: Some(facts.id), ..new_connection("slack", &["users:read"]) };
    let start = world.vault.begin_authorization(again, &redirect()).await.unwrap();
    let asked: BTreeMap<String, String> = start.url.query_pairs().into_owned().collect();
    assert_eq!(asked["user_scope"], "chat:write,users:read");
    assert!(!asked.contains_key("scope"));
}

#[tokio::test]
async fn scopes_that_others_contain_are_not_asked_for_beside_them() {
    let world = World::new().await;
    world.server.state().post_only = true;
    world.server.state().reply = json!({"scope": "repo,gist"});
    let facts = world.connect_as(new_connection("github", &["public_repo"])).await;
    let again = NewConnection { reconnect: Some(facts.id), ..new_connection("github", &["read:user"]) };
    let start = world.vault.begin_authorization(again, &redirect()).await.unwrap();
    let asked: BTreeMap<String, String> = start.url.query_pairs().into_owned().collect();
    assert_eq!(asked["scope"], "gist,public_repo,read:user,repo");
}

#[tokio::test]
async fn assumed_scopes_are_those_that_a_reply_would_tell() {
    let world = World::new().await;
    let start =
        world.vault.begin_authorization(new_connection("slack", &["user:chat:write"]), &redirect()).await.unwrap();
    let query = world.server.consent(&start.url);
    world.server.fault(Fault::Answer(200, json!({"ok": true, "authed_user": {"access_token": "test-at-1"}})));
    let facts = world.vault.finish_authorization(&query).await.unwrap().facts;
    assert_eq!(facts.granted_scopes.into_iter().collect::<Vec<_>>(), ["chat:write"]);
}

#[tokio::test]
async fn client_of_a_connection_is_not_shown_to_another_server() {
    let world = World::new().await;
    let facts = world.connect().await;
    let secret = || Some(Secret::from("test-new-secret".to_owned()));
    let again = |secret: Option<Secret>| NewConnection {
        client: ClientRegistration { id: None, secret },
        reconnect: Some(facts.id),
        ..new_connection("oidc", &[])
    };
    world.server.state().metadata = json!({"token_endpoint": "https://other.example/token"});
    for secret in [None, secret()] {
        let error = failure(world.vault.begin_authorization(again(secret), &redirect()).await);
        assert!(error.to_string().contains("another authorization server"), "{error}");
    }
    assert_eq!(world.server.token_requests(), 0);

    // The same server takes a new secret with the old id.
    world.server.state().metadata = json!({});
    let start = world.vault.begin_authorization(again(secret()), &redirect()).await.unwrap();
    let query = world.server.consent(&start.url);
    world.vault.finish_authorization(&query).await.err().unwrap();
    let seen = world.server.state().seen.clone();
    let sent = seen.iter().find(|seen| seen.form.contains_key("code")).unwrap();
    assert_eq!(sent.authorization, Some("Basic dGVzdC1jbGllbnQ6dGVzdC1uZXctc2VjcmV0".to_owned()));
}

#[tokio::test]
async fn refresh_token_is_asked_for_where_nothing_speaks_against_it() {
    for (supported, given, offline) in [
        (json!(null), &["read"][..], true),
        (json!(["openid"]), &["read"], false),
        (json!(["openid"]), &["offline_access"], true),
        (json!(["openid", "offline_access"]), &[], true),
    ] {
        let world = World::new().await;
        world.server.state().metadata = json!({"scopes_supported": supported});
        let start = world.vault.begin_authorization(new_connection("oidc", given), &redirect()).await.unwrap();
        let asked: BTreeMap<String, String> = start.url.query_pairs().into_owned().collect();
        assert_eq!(asked["scope"].contains("offline_access"), offline, "{supported} {given:?}");
        assert_eq!(asked.get("prompt").map(String::as_str), offline.then_some("consent"), "{supported} {given:?}");
    }
}

#[tokio::test]
async fn connection_that_will_end_says_when() {
    for (reply, ends) in [
        (json!({}), false),
        (json!({"refresh_token": null}), true),
        (json!({"refresh_token": null, "expires_in": null}), false),
    ] {
        let world = World::new().await;
        world.server.state().reply = reply.clone();
        let start = world.vault.begin_authorization(new_connection("oidc", &[]), &redirect()).await.unwrap();
        let query = world.server.consent(&start.url);
        let connected = world.vault.finish_authorization(&query).await.unwrap();
        assert_eq!(connected.ends_at.is_some(), ends, "{reply}");
    }
}

#[tokio::test]
async fn connection_that_is_kept_is_not_lost_to_a_second_write() {
    let world = World::new().await;
    world.server.state().metadata = json!({"introspection_endpoint": format!("{ISSUER}/introspect")});
    world.store.tables().disk_full = true;
    let facts = world.vault.connect_client_credentials(new_connection("oidc", &["read"])).await.unwrap();
    assert!(facts.scopes_assumed);
}

async fn revoke(world: &World, facts: &ConnectionFacts) -> RevokeReport {
    world.vault.revoke(&facts.tenant, &facts.id, &Principal::local_administrator()).await.unwrap()
}

async fn delete(world: &World, facts: &ConnectionFacts) -> RevokeReport {
    world.vault.delete(&facts.tenant, &facts.id, &Principal::local_administrator()).await.unwrap()
}

#[tokio::test]
async fn revoked_connection_has_no_tokens_and_can_be_made_again() {
    let world = World::new().await;
    let facts = world.connect().await;
    assert_eq!(revoke(&world, &facts).await, RevokeReport { revoked: true, reason: None });
    let seen = world.server.state().seen.clone();
    assert_eq!(seen[0].url, format!("{ISSUER}/revoke"));
    assert_eq!(seen[0].form["token"], "test-rt-1");
    assert!(seen[0].authorization.is_some());
    let opened = world.vault.read(&facts.tenant, &facts.id).await.unwrap();
    assert_eq!(opened.row.facts.state, ConnectionState::Revoked);
    assert!(opened.credential.grant().unwrap().tokens.is_none());
    world.vault.credential_for(&facts.tenant, &facts.id).await.err().unwrap();
    assert_eq!(revoke(&world, &facts).await, RevokeReport { revoked: true, reason: None });
    assert_eq!(world.store.audited(), ["initialised", "created", "revoked"]);

    let again = NewConnection { client: Default::default(), reconnect: Some(facts.id), ..new_connection("oidc", &[]) };
    assert_eq!(world.connect_as(again).await.state, ConnectionState::Active);
}

#[tokio::test]
async fn deleting_revokes_first_and_is_not_kept_up_by_the_provider() {
    let world = World::new().await;
    let facts = world.connect().await;
    assert_eq!(delete(&world, &facts).await, RevokeReport { revoked: true, reason: None });
    assert!(world.server.state().dead);
    assert_eq!(world.store.audited(), ["initialised", "created", "deleted"]);
    let gone = failure(world.vault.connection(&facts.tenant, &facts.id).await);
    assert!(matches!(gone, ConnectionError::Unknown(_)));

    world.server.state().metadata = json!({"revocation_endpoint": null});
    let facts = world.connect().await;
    let report = delete(&world, &facts).await;
    assert!(!report.revoked && report.reason.unwrap().contains("no way"));

    world.server.state().metadata = json!({"revocation_endpoint": format!("{ISSUER}/missing")});
    let facts = world.connect().await;
    let report = delete(&world, &facts).await;
    assert_eq!(report.reason.unwrap(), "OpenID Connect refused: it answered with HTTP status 404");
    assert!(world.vault.connections(&facts.tenant).await.unwrap().is_empty());
}

#[tokio::test]
async fn provider_that_is_away_does_not_cost_the_means_to_revoke() {
    let world = World::new().await;
    let facts = world.connect().await;
    let administrator = Principal::local_administrator();
    for status in [500, 503, 429] {
        world.server.state().revocation = Some((status, json!({})));
        let error = failure(world.vault.delete(&facts.tenant, &facts.id, &administrator).await);
        assert!(matches!(error, ConnectionError::NotRevoked { .. }), "{status}: {error}");
        let error = failure(world.vault.revoke(&facts.tenant, &facts.id, &administrator).await);
        assert!(error.hint().unwrap().contains("--without-revoking"), "{status}: {error}");
    }
    assert_eq!(world.facts(&facts).await.state, ConnectionState::Active);
    world.server.state().seen.clear();
    let report = world.vault.delete_without_revoking(&facts.tenant, &facts.id, &administrator).await.unwrap();
    assert_eq!(report.reason.as_deref(), Some("the provider was not asked"));
    assert!(world.server.state().seen.is_empty());
    assert!(world.vault.connections(&facts.tenant).await.unwrap().is_empty());
}

#[tokio::test]
async fn only_a_dead_token_is_called_revoked() {
    for (provider, status, reply, dead, revoked) in [
        ("github", 204, json!(null), false, true),
        ("github", 422, json!({"message": "Validation Failed"}), true, false),
        ("github", 404, json!({"message": "Not Found"}), true, true),
        ("github", 404, json!({"message": "Not Found"}), false, false),
        ("github", 404, json!("a page"), true, false),
        ("slack", 200, json!({"ok": true, "revoked": true}), false, true),
        ("slack", 200, json!({"ok": true, "revoked": false}), false, false),
        ("slack", 200, json!({"ok": true}), false, false),
        ("slack", 200, json!({"ok": false, "error": "token_revoked"}), false, true),
        ("slack", 200, json!({"ok": false, "error": "account_inactive"}), false, true),
        ("slack", 200, json!({"ok": false, "error": "invalid_auth"}), false, false),
        ("slack", 200, json!({"ok": false, "error": "not_allowed_token_type"}), false, false),
    ] {
        let world = World::new().await;
        let start = world.vault.begin_authorization(new_connection(provider, &[]), &redirect()).await.unwrap();
        let query = world.server.consent(&start.url);
        world.server.fault(Fault::Answer(200, json!({"ok": true, "access_token": "test-at-0"})));
        let facts = world.vault.finish_authorization(&query).await.unwrap().facts;
        world.server.state().revocation = Some((status, reply.clone()));
        world.server.state().dead = dead;
        assert_eq!(revoke(&world, &facts).await.revoked, revoked, "{provider} {status} {reply} {dead}");
        let kept = world.vault.read(&facts.tenant, &facts.id).await.unwrap();
        assert_eq!(kept.credential.grant().unwrap().tokens.is_none(), revoked, "{provider} {status} {reply} {dead}");
    }
}

#[tokio::test]
async fn token_that_has_ended_is_replaced_to_revoke_the_grant() {
    let world = World::new().await;
    world.server.state().post_only = true;
    let facts = world.connect_as(new_connection("github", &[])).await;
    world.server.clock.advance(3600);
    assert!(revoke(&world, &facts).await.revoked);
    let seen = world.server.state().seen.clone();
    assert_eq!(seen[0].form["refresh_token"], "test-rt-1");
    assert_eq!(seen[1].body, r#"{"access_token":"test-at-2"}"#);

    // The same where only the provider knows that it is dead; what it gives then it must know.
    let again = NewConnection { reconnect: Some(facts.id), ..new_connection("github", &[]) };
    let facts = world.connect_as(again).await;
    world.server.state().refuses_access = true;
    world.server.state().revocation = Some((404, json!({"message": "Not Found"})));
    let report = revoke(&world, &facts).await;
    assert!(!report.revoked && report.reason.unwrap().contains("just given"));
    let sent: Vec<_> = world
        .server
        .state()
        .seen
        .iter()
        .filter(|seen| seen.method == Method::DELETE)
        .map(|seen| seen.body.clone())
        .collect();
    assert_eq!(sent, [r#"{"access_token":"test-at-3"}"#, r#"{"access_token":"test-at-4"}"#]);
}

#[tokio::test]
async fn grant_whose_refresh_token_is_refused_is_not_called_revoked() {
    let world = World::new().await;
    world.server.state().post_only = true;
    let facts = world.connect_as(new_connection("github", &[])).await;
    world.server.clock.advance(3600);
    world.server.fault(Fault::Unreached);
    let away = world.vault.revoke(&facts.tenant, &facts.id, &Principal::local_administrator()).await;
    assert!(matches!(failure(away), ConnectionError::NotRevoked { .. }));
    world.server.state().dead = true;
    assert!(!revoke(&world, &facts).await.revoked);
    assert!(!delete(&world, &facts).await.revoked);
    assert!(world.vault.connections(&facts.tenant).await.unwrap().is_empty());
}

#[tokio::test]
async fn changed_provider_file_gets_nothing_of_an_older_connection() {
    let mut world = World::new().await;
    world.server.state().post_only = true;
    let facts = world.connect_as(new_connection("github", &[])).await;
    let file = "id = 'github'\ntitle = 'Our GitHub'\nmethods = ['oauth2']\n\
        [authorization]\nendpoint = 'https://ghe.example/authorize'\n[token]\nendpoint = 'https://ghe.example/token'\n\
        [revocation]\nkind = 'github'\napi = 'https://ghe.example/api/v3'\n\
        [account]\nendpoint = 'https://ghe.example/api/v3/user'\nname = ['/login']";
    world.put_provider("github", file);
    world.vault.test(&facts.tenant, &facts.id).await.unwrap();
    world.server.clock.advance(3600);
    assert!(delete(&world, &facts).await.revoked);
    let seen = world.server.state().seen.clone();
    assert!(seen.len() >= 3 && seen.iter().all(|seen| !seen.url.contains("ghe.example")), "{seen:?}");
}

#[tokio::test]
async fn connection_that_is_gone_is_unknown_to_whoever_comes_second() {
    let world = World::new().await;
    let facts = world.connect().await;
    let administrator = Principal::local_administrator();
    let both = tokio::join!(
        world.vault.delete(&facts.tenant, &facts.id, &administrator),
        world.vault.delete(&facts.tenant, &facts.id, &administrator),
    );
    assert!(both.0.is_ok());
    assert!(matches!(failure(both.1), ConnectionError::Unknown(_)));
    let again = world.vault.revoke(&facts.tenant, &facts.id, &administrator).await;
    assert!(matches!(failure(again), ConnectionError::Unknown(_)));
    world.vault.credential_for(&facts.tenant, &facts.id).await.err().unwrap();
    assert!(world.vault.turns.is_empty());
}

#[tokio::test]
async fn credential_that_cannot_be_opened_can_still_be_deleted() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.store.tables().connections.values_mut().for_each(|row| row.sealed.bytes.truncate(20));
    let report = delete(&world, &facts).await;
    assert!(!report.revoked);
    assert!(world.vault.connections(&facts.tenant).await.unwrap().is_empty());
}

/// Whoever can write the database could otherwise have the next secret sent to a server of theirs.
#[tokio::test]
async fn row_that_was_altered_is_not_made_again() {
    let alterations: [fn(&mut ConnectionFacts); 3] = [
        |facts| _ = facts.endpoints.insert("api".into(), "https://evil.example".into()),
        |facts| _ = facts.granted_scopes.insert("admin".into()),
        |facts| facts.provider = "github".into(),
    ];
    for alter in alterations {
        let world = World::new().await;
        let facts = world.connect().await;
        world.store.tables().connections.values_mut().for_each(|row| alter(&mut row.facts));
        let altered = world.store.tables().connections.values().next().unwrap().facts.clone();
        let provider = if altered.provider == "github" { "github" } else { "oidc" };
        let again = NewConnection { reconnect: Some(facts.id), ..new_connection(provider, &["write"]) };
        let error = {
            let process = world.other_process().await;
            process.begin_authorization(again, &Url::parse(REDIRECT).unwrap()).await.err().unwrap()
        };
        assert!(matches!(error, VaultError::Damaged { .. }), "{error}");
    }
}

#[tokio::test]
async fn connection_that_is_made_again_keeps_the_endpoints_that_are_not_named() {
    let world = World::new().await;
    let mut new = new_connection("oidc", &[]);
    new.endpoints = [("api", "https://one.example/"), ("files", "https://two.example/")]
        .map(|(name, url)| (name.to_owned(), url.to_owned()))
        .into();
    let facts = world.connect_as(new).await;
    let mut again = NewConnection { reconnect: Some(facts.id), ..new_connection("oidc", &[]) };
    again.endpoints = [("api".to_owned(), "https://three.example/".to_owned())].into();
    let again = world.connect_as(again).await;
    let urls: Vec<_> = again.endpoints.values().map(String::as_str).collect();
    assert_eq!(urls, ["https://three.example/", "https://two.example/"]);
}

#[tokio::test]
async fn access_token_is_revoked_as_well_and_told_of_where_it_is_not() {
    let world = World::new().await;
    let facts = world.connect().await;
    assert_eq!(revoke(&world, &facts).await, RevokeReport { revoked: true, reason: None });
    let seen = world.server.state().seen.clone();
    let tokens: Vec<_> = seen.iter().map(|seen| seen.form["token"].as_str()).collect();
    assert_eq!(tokens, ["test-rt-1", "test-at-1"]);

    let again = || NewConnection { reconnect: Some(facts.id), ..new_connection("oidc", &[]) };
    world.connect_as(again()).await;
    world.server.state().revokes_refresh_tokens_only = true;
    let report = revoke(&world, &facts).await;
    assert!(report.revoked);
    let reason = "its access token may work until it ends: OpenID Connect refused: unsupported_token_type";
    assert_eq!(report.reason.as_deref(), Some(reason));

    world.connect_as(again()).await;
    world.server.clock.advance(3600);
    assert_eq!(revoke(&world, &facts).await, RevokeReport { revoked: true, reason: None }, "it has ended");
    assert_eq!(world.server.state().seen.len(), 1);
}

#[tokio::test]
async fn each_provider_is_told_in_its_own_way() {
    let world = World::new().await;
    world.server.state().post_only = true;
    let github = world.connect_as(new_connection("github", &[])).await;
    assert!(revoke(&world, &github).await.revoked);
    let seen = world.server.state().seen.last().unwrap().clone();
    assert_eq!(
        (seen.method, seen.url.as_str()),
        (Method::DELETE, "https://api.github.com/applications/test-client/token")
    );
    assert_eq!(seen.body, r#"{"access_token":"test-at-1"}"#);
    assert!(seen.authorization.unwrap().starts_with("Basic "));

    world.server.state().post_only = false;
    let new = NewConnection { name: "chat".parse().unwrap(), ..new_connection("slack", &[]) };
    // Slack's own server sends no `iss`; a foreign one is not Slack's to check, as its file names no issuer.
    let slack = world.vault.begin_authorization(new, &redirect()).await.unwrap();
    let query = world.server.consent(&slack.url);
    world.server.fault(Fault::Answer(200, json!({"ok": true, "access_token": "test-at-1"})));
    let slack = world.vault.finish_authorization(&query).await.unwrap().facts;
    world.server.state().dead = false;
    assert!(revoke(&world, &slack).await.revoked);
    let seen = world.server.state().seen.last().unwrap().clone();
    assert_eq!(seen.url, "https://slack.com/api/auth.revoke");
    assert_eq!(seen.authorization.as_deref(), Some("Bearer test-at-1"));
}

#[tokio::test]
async fn test_tells_account_and_refreshes_what_is_refused() {
    let world = World::new().await;
    let facts = world.connect().await;
    let test = async || world.vault.test(&facts.tenant, &facts.id).await.unwrap();
    assert_eq!(test().await.outcome, TestOutcome::Works);
    // The server knows another token by now, as if this one had been revoked.
    let before = world.server.state().generation;
    world.server.fault(Fault::Answer(200, json!({"access_token": "test-at-7", "refresh_token": "test-rt-7"})));
    world.server.state().generation = 7;
    let report = test().await;
    assert_eq!((before, report.outcome), (1, TestOutcome::Works), "{}", report.detail);
    assert_eq!(world.server.token_requests(), 1);
}

#[tokio::test]
async fn credential_that_stays_refused_is_marked() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.state().refuses_access = true;
    let report = world.vault.test(&facts.tenant, &facts.id).await.unwrap();
    assert_eq!(report.outcome, TestOutcome::Refused);
    assert!(matches!(report.facts.state, ConnectionState::NeedsReconnect(_)));
    assert_eq!(world.facts(&facts).await, report.facts);
    let error = failure(world.vault.test(&facts.tenant, &facts.id).await);
    assert!(matches!(error, ConnectionError::NeedsReconnect { .. }));
}

#[tokio::test]
async fn what_cannot_be_tested_is_told_so() {
    let world = World::new().await;
    let key = StaticCredential::ApiKey(Secret::from("test-key".to_owned()));
    let facts = world.vault.connect_static(new_connection("http", &[]), key).await.unwrap();
    let report = world.vault.test(&facts.tenant, &facts.id).await.unwrap();
    assert_eq!((report.outcome, report.facts), (TestOutcome::Unknown, facts));

    world.server.state().metadata = json!({"introspection_endpoint": format!("{ISSUER}/introspect")});
    let new = NewConnection { name: "robot".parse().unwrap(), ..new_connection("oidc", &["read"]) };
    let facts = world.vault.connect_client_credentials(new).await.unwrap();
    assert_eq!(world.vault.test(&facts.tenant, &facts.id).await.unwrap().outcome, TestOutcome::Works);

    world.server.state().introspection = Some((200, json!({"error": "server_error"})));
    let report = world.vault.test(&facts.tenant, &facts.id).await.unwrap();
    assert_eq!((report.outcome, report.facts.state), (TestOutcome::Unknown, ConnectionState::Active));
}

#[tokio::test]
async fn new_token_that_is_called_not_active_does_not_end_the_connection() {
    let world = World::new().await;
    world.server.state().metadata = json!({
        "introspection_endpoint": format!("{ISSUER}/introspect"), "userinfo_endpoint": null,
    });
    world.server.state().introspection = Some((200, json!({"active": false})));
    let new = NewConnection { name: "robot".parse().unwrap(), ..new_connection("oidc", &["read"]) };
    let robot = world.vault.connect_client_credentials(new).await.unwrap();
    let stays_active = async |facts: &ConnectionFacts| {
        // The second time, a new token was asked for a moment ago.
        for _ in 0..2 {
            let report = world.vault.test(&facts.tenant, &facts.id).await.unwrap();
            assert_eq!((report.outcome, report.facts.state), (TestOutcome::Unknown, ConnectionState::Active));
        }
    };
    stays_active(&robot).await;
    stays_active(&world.connect().await).await;

    // This one cannot be refreshed, so it is the token that the server means.
    world.server.fault(Fault::Answer(200, json!({"access_token": "test-at-1"})));
    let new = NewConnection { name: "last".parse().unwrap(), ..new_connection("oidc", &[]) };
    let start = world.vault.begin_authorization(new, &redirect()).await.unwrap();
    let query = world.server.consent(&start.url);
    let facts = world.vault.finish_authorization(&query).await.unwrap().facts;
    let report = world.vault.test(&facts.tenant, &facts.id).await.unwrap();
    assert_eq!(report.outcome, TestOutcome::Refused);
    assert!(matches!(report.facts.state, ConnectionState::NeedsReconnect(_)));
}

#[tokio::test]
async fn every_call_can_be_made_from_another_task() {
    fn sendable<T: Send>(_: &T) {}
    let world = World::new().await;
    let (vault, tenant, principal) = (&world.vault, TenantId::default(), Principal::local_administrator());
    let (id, uri) = (ConnectionId::new(), redirect());
    let key = StaticCredential::ApiKey(Secret::from("test-key".to_owned()));
    sendable(&vault.begin_authorization(new_connection("oidc", &[]), &uri));
    sendable(&vault.finish_authorization(""));
    sendable(&vault.connect_client_credentials(new_connection("oidc", &[])));
    sendable(&vault.connect_static(new_connection("http", &[]), key));
    sendable(&vault.test(&tenant, &id));
    sendable(&vault.revoke(&tenant, &id, &principal));
    sendable(&vault.delete(&tenant, &id, &principal));
    sendable(&vault.delete_without_revoking(&tenant, &id, &principal));
    sendable(&vault.credential_for(&tenant, &id));
    sendable(&vault.credential_after_refusal(&tenant, &id, &[0; 32]));
}

#[tokio::test]
async fn deletion_waits_for_a_refresh_and_revokes_what_it_brought() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.clock.advance(3600);
    let (came, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    world.server.fault(Fault::Hold(came.clone(), go.clone()));
    let refreshing = tokio::spawn({
        let (vault, facts) = (world.vault.clone(), facts.clone());
        async move { vault.credential_for(&facts.tenant, &facts.id).await.map(drop) }
    });
    came.notified().await;
    let deleting = tokio::spawn({
        let (vault, facts) = (world.other_process().await, facts.clone());
        async move { vault.delete(&facts.tenant, &facts.id, &Principal::local_administrator()).await.unwrap() }
    });
    // Far more than it takes to come to the lease; a deletion that did not wait would be through by then.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    go.notify_one();
    refreshing.await.unwrap().unwrap();
    assert!(deleting.await.unwrap().revoked);
    let seen = world.server.state().seen.clone();
    let revoked: Vec<_> = seen.iter().filter_map(|seen| seen.form.get("token")).collect();
    assert_eq!(revoked, ["test-rt-2", "test-at-2"]);
}
