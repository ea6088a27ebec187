//! An authorization server for the tests of this crate: behind a [`Wire`], strict where real ones are, and with
//! faults on demand.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use http::{HeaderMap, Method, StatusCode, header};
use keyward_model::{Body, ConnectionFacts, Principal, Reason, Sent};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::sync::Notify;
use url::{Url, form_urlencoded};

use crate::{
    connect::{ClientRegistration, NewConnection},
    provider::Catalogue,
    refresh::{Clock, Moment},
    secret::Secret,
    testing::{self, KeyFile, MemoryStore},
    vault::Vault,
    wire::{Wire, WireError, WireRequest, WireResponse},
};

pub(crate) const ISSUER: &str = "https://as.example";
pub(crate) const REDIRECT: &str = "http://127.0.0.1:4001/callback";
pub(crate) const CLIENT_SECRET: &str = "test client/secret";

/// A request that the server saw.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) authorization: Option<String>,
    pub(crate) form: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// What the server does with the next token request instead of what it should.
pub(crate) enum Fault {
    /// It answers this.
    Answer(u16, Value),
    /// It answers this, with a header.
    AnswerWith(u16, Value, header::HeaderName, &'static str),
    /// It does what it should, but the reply gets lost.
    LoseReply,
    /// It is not reached at all.
    Unreached,
    /// It tells when the request has come, waits until it is told to go on, and then does what it should.
    Hold(Arc<Notify>, Arc<Notify>),
    /// Something else happens meanwhile, then it does what it should.
    Meanwhile(BoxFuture<'static, ()>),
}

/// The server's state.
pub(crate) struct State {
    pub(crate) seen: Vec<Seen>,
    pub(crate) faults: VecDeque<Fault>,
    /// The number of the refresh token that is valid now, and of the access token given last.
    pub(crate) generation: u32,
    /// Whether a refresh token was used twice, or the grant was revoked.
    pub(crate) dead: bool,
    /// Whether refreshing gives a new refresh token.
    pub(crate) rotates: bool,
    /// Members of every good reply of the token endpoint, over those that it has anyway.
    pub(crate) reply: Value,
    /// Members of the metadata, over those that it has anyway.
    pub(crate) metadata: Value,
    pub(crate) post_only: bool,
    /// Whether access tokens are refused everywhere.
    pub(crate) refuses_access: bool,
    /// What is answered to a revocation in place of doing it.
    pub(crate) revocation: Option<(u16, Value)>,
    /// Whether access tokens cannot be revoked.
    pub(crate) revokes_refresh_tokens_only: bool,
    /// What is answered to an introspection in place of what is true.
    pub(crate) introspection: Option<(u16, Value)>,
    /// The path that answers every request with an error that quotes it, and how.
    pub(crate) quotes: Option<(&'static str, Quote)>,
    asked: BTreeMap<String, String>,
}

/// What an answer quotes of a request.
pub(crate) type Quote = fn(&Seen) -> String;

/// The server, and the time.
pub(crate) struct FakeServer {
    state: Mutex<State>,
    pub(crate) clock: FakeClock,
}

/// True time, and a clock that may be wrong.
#[derive(Clone)]
pub(crate) struct FakeClock(Arc<Mutex<(OffsetDateTime, Duration, time::Duration)>>);

impl FakeClock {
    fn new() -> Self {
        // Whole seconds, as the `Date` header has no others.
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
        Self(Arc::new(Mutex::new((now, Duration::ZERO, time::Duration::ZERO))))
    }

    pub(crate) fn advance(&self, seconds: u64) {
        let mut inner = self.0.lock().unwrap();
        inner.0 += Duration::from_secs(seconds);
        inner.1 += Duration::from_secs(seconds);
    }

    /// Sets the vault's wall clock wrong by so many seconds.
    pub(crate) fn be_wrong_by(&self, seconds: i64) {
        self.0.lock().unwrap().2 = time::Duration::seconds(seconds);
    }

    pub(crate) fn true_time(&self) -> OffsetDateTime {
        self.0.lock().unwrap().0
    }

    fn clock(&self) -> Clock {
        let inner = self.0.clone();
        Clock::new(move || {
            let inner = inner.lock().unwrap();
            Moment { wall: inner.0 + inner.2, steady: inner.1 }
        })
    }
}

/// Everything that a test of connections needs.
pub(crate) struct World {
    pub(crate) server: Arc<FakeServer>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) vault: Vault,
    key: KeyFile,
}

impl World {
    pub(crate) async fn new() -> Self {
        let server = Arc::new(FakeServer::new());
        let (store, key) = (Arc::new(MemoryStore::default()), KeyFile::generate());
        testing::initialise(&store, &key.source).await;
        let mut vault = testing::unlock(&store, &key.source, server.clone()).await;
        vault.clock = server.clock.clock();
        Self { server, store, vault, key }
    }

    /// The same with one more provider, from the text of its file.
    pub(crate) async fn with_provider(id: &str, file: &str) -> Self {
        let mut world = Self::new().await;
        world.put_provider(id, file);
        world
    }

    /// Puts the text of a provider file beside the built-in ones or in the place of one.
    pub(crate) fn put_provider(&mut self, id: &str, file: &str) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(format!("{id}.toml")), file).unwrap();
        self.vault.providers = Arc::new(Catalogue::builtin().with_directory(dir.path()).unwrap());
    }

    /// One more process on the same store.
    pub(crate) async fn other_process(&self) -> Vault {
        let mut vault = testing::unlock(&self.store, &self.key.source, self.server.clone()).await;
        vault.clock = self.server.clock.clock();
        vault
    }

    /// A connection by consent to the generic provider.
    pub(crate) async fn connect(&self) -> ConnectionFacts {
        self.connect_as(new_connection("oidc", &["read"])).await
    }

    pub(crate) async fn connect_as(&self, new: NewConnection) -> ConnectionFacts {
        let start = self.vault.begin_authorization(new, &Url::parse(REDIRECT).unwrap()).await.unwrap();
        let query = self.server.consent(&start.url);
        let connected = self.vault.finish_authorization(&query).await.unwrap();
        self.server.state().seen.clear();
        connected.facts
    }

    pub(crate) async fn facts(&self, before: &ConnectionFacts) -> ConnectionFacts {
        self.vault.connection(&before.tenant, &before.id).await.unwrap()
    }
}

/// A connection named `mine` with a confidential client.
pub(crate) fn new_connection(provider: &str, scopes: &[&str]) -> NewConnection {
    NewConnection {
        tenant: Default::default(),
        principal: Principal::local_administrator(),
        name: "mine".parse().unwrap(),
        owner: None,
        provider: provider.to_owned(),
        issuer: (provider == "oidc").then(|| Url::parse(ISSUER).unwrap()),
        client: ClientRegistration {
            id: Some("test-client".to_owned()),
            secret: Some(Secret::from(CLIENT_SECRET.to_owned())),
        },
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        fields: BTreeMap::new(),
        endpoints: BTreeMap::new(),
        reconnect: None,
    }
}

impl FakeServer {
    fn new() -> Self {
        let state = State {
            seen: Vec::new(),
            faults: VecDeque::new(),
            generation: 0,
            dead: false,
            rotates: true,
            reply: json!({}),
            metadata: json!({}),
            post_only: false,
            refuses_access: false,
            revocation: None,
            revokes_refresh_tokens_only: false,
            introspection: None,
            quotes: None,
            asked: BTreeMap::new(),
        };
        Self { state: Mutex::new(state), clock: FakeClock::new() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    /// How many token requests there were.
    pub(crate) fn token_requests(&self) -> usize {
        self.state().seen.iter().filter(|seen| seen.url.ends_with("/token") && seen.method == Method::POST).count()
    }

    /// The person consents: the query of the redirect.
    pub(crate) fn consent(&self, url: &Url) -> String {
        let asked: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        let state = asked.get("state").unwrap().clone();
        self.state().asked = asked;
        self.state().dead = false;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("code", "test-code").append_pair("state", &state).append_pair("iss", ISSUER);
        query.finish()
    }

    fn token(&self, seen: &Seen) -> (u16, Value) {
        let mut state = self.state();
        let basic = format!("Basic {}", STANDARD.encode("test-client:test%20client%2Fsecret"));
        let by_header = seen.authorization.as_deref() == Some(&basic);
        let by_form = seen.form.get("client_secret").map(String::as_str) == Some(CLIENT_SECRET);
        if by_header == by_form || state.post_only != by_form {
            return (401, json!({"error": "invalid_client"}));
        }
        let given = |name: &str| seen.form.get(name).map(String::as_str);
        match given("grant_type") {
            Some("authorization_code") => {
                let challenge = given("code_verifier").map(|text| URL_SAFE_NO_PAD.encode(Sha256::digest(text)));
                let asked = std::mem::take(&mut state.asked);
                if given("code") != Some("test-code")
                    || given("redirect_uri") != asked.get("redirect_uri").map(String::as_str)
                    || challenge.as_ref() != asked.get("code_challenge")
                {
                    return (400, json!({"error": "invalid_grant"}));
                }
                let mut reply = state.tokens(true);
                if let Some(nonce) = asked.get("nonce") {
                    let claims = json!({
                        "iss": ISSUER, "aud": "test-client", "sub": "test-subject", "nonce": nonce,
                        "exp": self.clock.true_time().unix_timestamp() + 60,
                    });
                    let token = format!("e30.{}.test", URL_SAFE_NO_PAD.encode(claims.to_string()));
                    reply["id_token"] = token.into();
                }
                (200, reply)
            }
            Some("refresh_token") => {
                let valid = format!("test-rt-{}", state.generation);
                if given("refresh_token") != Some(&valid) || state.dead {
                    // A second use ends the whole grant.
                    state.dead = true;
                    return (400, json!({"error": "invalid_grant"}));
                }
                let rotates = state.rotates;
                (200, state.tokens(rotates))
            }
            Some("client_credentials") => {
                let reply = state.tokens(false);
                (200, reply)
            }
            _ => (400, json!({"error": "unsupported_grant_type"})),
        }
    }

    fn answer(&self, seen: &Seen) -> (u16, Value) {
        let path = Url::parse(&seen.url).unwrap().path().to_owned();
        let bearer = format!("Bearer test-at-{}", self.state().generation);
        if let Some((_, quote)) = self.state().quotes.filter(|(quoting, _)| *quoting == path) {
            return (401, json!({"error": "access_denied", "error_description": quote(seen)}));
        }
        match path.as_str() {
            "/.well-known/openid-configuration" => {
                let mut metadata = json!({
                    "issuer": ISSUER,
                    "authorization_endpoint": format!("{ISSUER}/auth"),
                    "token_endpoint": format!("{ISSUER}/token"),
                    "revocation_endpoint": format!("{ISSUER}/revoke"),
                    "userinfo_endpoint": format!("{ISSUER}/me"),
                    "scopes_supported": ["openid", "offline_access"],
                    "authorization_response_iss_parameter_supported": true,
                });
                merge(&mut metadata, &self.state().metadata);
                (200, metadata)
            }
            "/me" | "/user" | "/api/auth.test" => {
                let state = self.state();
                if state.refuses_access || state.dead || seen.authorization.as_deref() != Some(&bearer) {
                    return (401, json!({"error": "invalid_token"}));
                }
                (200, json!({"sub": "test-subject", "login": "octocat", "ok": true, "user": "bot"}))
            }
            "/introspect" => {
                let state = self.state();
                let truth = (200, json!({"active": !state.dead, "scope": "introspected"}));
                state.introspection.clone().unwrap_or(truth)
            }
            path if ["/revoke", "/api/auth.revoke"].contains(&path) || seen.method == Method::DELETE => {
                let mut state = self.state();
                if let Some(answer) = state.revocation.clone() {
                    return answer;
                }
                let hint = seen.form.get("token_type_hint").map(String::as_str);
                if state.revokes_refresh_tokens_only && hint == Some("access_token") {
                    return (400, json!({"error": "unsupported_token_type"}));
                }
                state.dead = true;
                if seen.method == Method::DELETE {
                    (204, json!(null))
                } else {
                    (200, json!({"ok": true, "revoked": true}))
                }
            }
            "/token" | "/login/oauth/access_token" | "/api/oauth.v2.access" => self.token(seen),
            _ => (404, json!(null)),
        }
    }
}

impl State {
    fn tokens(&mut self, new_refresh_token: bool) -> Value {
        self.generation += 1;
        let mut reply = json!({
            "access_token": format!("test-at-{}", self.generation), "token_type": "Bearer", "expires_in": 3600,
        });
        if new_refresh_token {
            reply["refresh_token"] = format!("test-rt-{}", self.generation).into();
        }
        merge(&mut reply, &self.reply.clone());
        reply
    }
}

fn merge(into: &mut Value, over: &Value) {
    for (name, value) in over.as_object().unwrap() {
        into[name] = value.clone();
    }
}

#[async_trait]
impl Wire for FakeServer {
    async fn exchange(&self, request: WireRequest) -> Result<WireResponse, WireError> {
        let parts = request.into_parts();
        let body = match parts.body {
            Body::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Body::Empty => String::new(),
            Body::Stream { .. } => panic!("an authorization server is sent no stream"),
        };
        let seen = Seen {
            method: parts.method,
            url: parts.url.to_string(),
            authorization: parts.headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned()),
            form: form_urlencoded::parse(body.as_bytes()).into_owned().collect(),
            body,
        };
        self.state().seen.push(seen.clone());
        let is_token_request = seen.form.contains_key("grant_type");
        let fault = if is_token_request { self.state().faults.pop_front() } else { None };
        let failure = |sent| WireError {
            reason: Reason::Unreachable,
            message: "the server closed the connection".to_owned(),
            hint: None,
            sent,
            limit: None,
        };
        let mut headers = HeaderMap::new();
        let (status, answer) = match fault {
            None => self.answer(&seen),
            Some(Fault::Answer(status, body)) => (status, body),
            Some(Fault::AnswerWith(status, body, name, value)) => {
                headers.insert(name, value.parse().unwrap());
                (status, body)
            }
            Some(Fault::Unreached) => return Err(failure(Sent::No)),
            Some(Fault::LoseReply) => {
                self.answer(&seen);
                return Err(failure(Sent::Maybe));
            }
            Some(Fault::Hold(came, go)) => {
                came.notify_one();
                go.notified().await;
                self.answer(&seen)
            }
            Some(Fault::Meanwhile(act)) => {
                act.await;
                self.answer(&seen)
            }
        };
        let date = self.clock.true_time().format(&Rfc2822).unwrap();
        headers.entry(header::DATE).or_insert(date.parse().unwrap());
        let chunks = vec![Ok(Bytes::from(answer.to_string()))];
        let status = StatusCode::from_u16(status).unwrap();
        Ok(WireResponse { status, headers, body: stream::iter(chunks).boxed() })
    }
}
