use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use keyward_model::{
    ActionName, GuestRequest, Target,
    manifest::{Action, Endpoint, Manifest, Part, RequestRule},
};
use keyward_policy::{ActionRules, Operator};
use serde_json::json;

use super::*;
use crate::{
    connect::{NewConnection, StaticCredential},
    credential::{BasicSecret, FieldValue},
    oauth::fake::{Fault, World, new_connection},
    secret::Secret,
    wire::WireParts,
};

const LIMITS: WireLimits = WireLimits { timeout: std::time::Duration::from_secs(1), response_bytes: 1 << 20 };

/// An API that answers from a script and keeps what it was sent.
#[derive(Default)]
struct Api {
    answers: Mutex<VecDeque<Answer>>,
    requests: Mutex<Vec<WireParts>>,
}

enum Answer {
    Response(u16, Vec<(String, String)>, Vec<Result<&'static [u8], WireError>>),
    Failure(WireError),
}

impl Api {
    fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() }
    }

    fn requests(&self) -> std::sync::MutexGuard<'_, Vec<WireParts>> {
        self.requests.lock().unwrap()
    }

    fn authorizations(&self) -> Vec<String> {
        let requests = self.requests();
        requests.iter().map(|parts| parts.headers["authorization"].to_str().unwrap().to_owned()).collect()
    }
}

fn status(status: u16) -> Answer {
    Answer::Response(status, Vec::new(), Vec::new())
}

fn failure(message: &str) -> WireError {
    WireError {
        reason: Reason::Unreachable,
        message: message.to_owned(),
        hint: Some(message.to_owned()),
        sent: Sent::Maybe,
        limit: None,
    }
}

#[async_trait]
impl Wire for Api {
    async fn exchange(&self, request: WireRequest) -> Result<WireResponse, WireError> {
        self.requests().push(request.into_parts());
        match self.answers.lock().unwrap().pop_front().unwrap() {
            Answer::Failure(error) => Err(error),
            Answer::Response(status, headers, chunks) => {
                let headers = headers
                    .into_iter()
                    .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
                    .collect();
                let chunks = chunks.into_iter().map(|chunk| chunk.map(Bytes::from_static));
                let status = StatusCode::from_u16(status).unwrap();
                Ok(WireResponse { status, headers, body: stream::iter(chunks.collect::<Vec<_>>()).boxed() })
            }
        }
    }
}

fn bearer() -> Placement {
    Placement::Header { name: "authorization".to_owned(), prefix: "Bearer ".to_owned(), part: Part::Token }
}

/// The rules of a connector for `provider` with one action, which needs the scope `read`.
fn rules(provider: &str, placements: impl IntoIterator<Item = Placement>, scopes: &[&str]) -> ActionRules {
    let placements: Vec<_> = placements.into_iter().collect();
    let is_path = |placement: &Placement| matches!(placement, Placement::Path { .. });
    let path = if placements.iter().any(is_path) { "/k-{credential}/items/{id}" } else { "/items/{id}" };
    let is_body = |placement: &Placement| matches!(placement, Placement::Form { .. } | Placement::Json { .. });
    let methods = if placements.iter().any(is_body) { &["POST"][..] } else { &["GET", "HEAD", "POST"] };
    let rule = |method: &str| RequestRule {
        method: method.to_owned(),
        endpoint: "api".to_owned(),
        path: path.to_owned(),
        query: vec!["page".to_owned()],
        redirects: false,
        once: false,
    };
    let action = Action {
        title: "Get".to_owned(),
        description: String::new(),
        requests: methods.iter().copied().map(rule).collect(),
        scopes: if scopes.is_empty() { vec![] } else { vec![scopes.iter().map(|s| (*s).to_owned()).collect()] },
        idempotency: Default::default(),
        limits: Default::default(),
        input: Default::default(),
        output: Default::default(),
    };
    let name: ActionName = "get".parse().unwrap();
    let endpoint =
        Endpoint { url: "https://api.example/v1".to_owned(), configurable: true, credential: true, private: true };
    let manifest = Manifest {
        name: "test".parse().unwrap(),
        version: "1.0.0".to_owned(),
        title: "Test".to_owned(),
        description: String::new(),
        provider: (!placements.is_empty()).then(|| provider.to_owned()),
        endpoints: BTreeMap::from([("api".to_owned(), endpoint)]),
        credential: placements,
        actions: BTreeMap::from([(name.clone(), action)]),
    };
    ActionRules::compile(&manifest, &name, &Operator::default()).unwrap()
}

fn permit_of(rules: &ActionRules, facts: &ConnectionFacts, method: &str, body: Body) -> Permit {
    let request = GuestRequest {
        method: method.to_owned(),
        target: Target::Endpoint { endpoint: "api".to_owned(), path: "/items/1".to_owned() },
        query: vec![("page".to_owned(), "2".to_owned())],
        headers: vec![("x-mine".to_owned(), b"kept".to_vec())],
        body,
    };
    rules.authorize(&facts.tenant, Some(facts), request).unwrap()
}

fn permit(facts: &ConnectionFacts) -> Permit {
    permit_of(&rules(&facts.provider, Some(bearer()), &[]), facts, "GET", Body::Empty)
}

async fn static_connection(world: &World, credential: StaticCredential) -> ConnectionFacts {
    world.vault.connect_static(new_connection_without_client("http"), credential).await.unwrap()
}

fn new_connection_without_client(provider: &str) -> crate::connect::NewConnection {
    crate::connect::NewConnection { client: Default::default(), ..new_connection(provider, &[]) }
}

fn secret(text: &str) -> Secret {
    Secret::from(text.to_owned())
}

async fn read(response: CleanResponse) -> (Vec<u8>, Option<SendError>, u64) {
    let CleanResponse { response: GuestResponse { mut body, .. }, redactions } = response;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => return (bytes, Some(error), redactions.get()),
        }
    }
    (bytes, None, redactions.get())
}

#[tokio::test]
async fn credential_goes_where_the_manifest_says_and_the_rest_as_it_was() {
    let world = World::new().await;
    let facts = static_connection(&world, StaticCredential::ApiKey(secret("canary-key-1"))).await;
    let key = Placement::Query { name: "key".to_owned(), part: Part::Token };
    let custom = Placement::Header { name: "X-Api-Key".to_owned(), prefix: String::new(), part: Part::Token };
    for (placement, url, header) in [
        (bearer(), "https://api.example/v1/items/1?page=2", Some(("authorization", "Bearer canary-key-1"))),
        (custom, "https://api.example/v1/items/1?page=2", Some(("x-api-key", "canary-key-1"))),
        (key, "https://api.example/v1/items/1?page=2&key=canary-key-1", None),
    ] {
        let api = Api::answering([status(204)]);
        let permit = permit_of(&rules("http", Some(placement), &[]), &facts, "POST", Body::Bytes("body".into()));
        let response =
            world.vault.apply(permit, LIMITS).await.unwrap().send(&api, &CallSecrets::default()).await.unwrap();
        assert_eq!(response.response.status, 204);
        let sent = api.requests().pop().unwrap();
        assert_eq!((sent.method, sent.url.as_str()), (Method::POST, url));
        assert!(matches!(sent.body, Body::Bytes(bytes) if bytes == "body"));
        assert_eq!(sent.headers["x-mine"], "kept");
        assert_eq!(sent.limits.response_bytes, LIMITS.response_bytes);
        match header {
            Some((name, value)) => assert!(sent.headers[name] == value && sent.headers[name].is_sensitive()),
            None => assert!(!sent.headers.contains_key("authorization")),
        }
    }
}

#[tokio::test]
async fn every_part_goes_to_its_place_and_comes_back_from_none() {
    let world = World::new().await;
    let developer = FieldValue::Secret(secret("canary-developer"));
    let fields = BTreeMap::from([("developer-token".to_owned(), developer)]);
    let facts = world.connect_as(NewConnection { fields, ..new_connection("oidc", &["read"]) }).await;
    let of = |part: &str| Part::from(part.to_owned());
    let places = [
        bearer(),
        Placement::Header { name: "client-id".to_owned(), prefix: String::new(), part: of("client-id") },
        Placement::Cookie { name: "c".to_owned(), part: of("developer-token") },
        Placement::Path { part: Part::Token },
        Placement::Json { name: "secret".to_owned(), part: of("developer-token") },
    ];
    let rules = rules("oidc", places, &["read"]);
    let ask = || {
        let request = GuestRequest {
            method: "POST".to_owned(),
            target: Target::Endpoint { endpoint: "api".to_owned(), path: "/k-%7Bcredential%7D/items/1".to_owned() },
            query: Vec::new(),
            headers: vec![("content-type".to_owned(), b"application/json".to_vec())],
            body: Body::Bytes(r#"{"a":1}"#.into()),
        };
        rules.authorize(&facts.tenant, Some(&facts), request).unwrap()
    };
    let echo: Vec<Result<&[u8], _>> = vec![Ok(br#"k-test-at-2 test-at-1 canary-developer test-client"#)];
    let api = Api::answering([status(401), Answer::Response(200, vec![], echo)]);
    let response = world.vault.apply(ask(), LIMITS).await.unwrap().send(&api, &CallSecrets::default()).await.unwrap();
    for (sent, token) in api.requests().iter().zip(["test-at-1", "test-at-2"]) {
        assert_eq!(sent.url.as_str(), format!("https://api.example/v1/k-{token}/items/1"));
        assert_eq!(sent.headers["authorization"], format!("Bearer {token}"));
        assert_eq!(
            (&sent.headers["client-id"], &sent.headers["cookie"]),
            (&"test-client".parse().unwrap(), &"c=canary-developer".parse().unwrap())
        );
        assert!(matches!(&sent.body, Body::Bytes(bytes) if bytes == r#"{"secret":"canary-developer","a":1}"#));
    }
    assert_eq!(read(response).await.0, b"k-[redacted] [redacted] [redacted] test-client");

    // Without the credential nothing is filled in.
    let api = Api::answering([status(200)]);
    world
        .vault
        .apply(ask().without_credential(), LIMITS)
        .await
        .unwrap()
        .send(&api, &CallSecrets::default())
        .await
        .unwrap();
    let sent = api.requests().pop().unwrap();
    assert_eq!(sent.url.as_str(), "https://api.example/v1/k-%7Bcredential%7D/items/1");
    assert!(matches!(&sent.body, Body::Bytes(bytes) if bytes == r#"{"a":1}"#));
}

#[tokio::test]
async fn connector_without_a_credential_gets_none() {
    let world = World::new().await;
    let facts = static_connection(&world, StaticCredential::ApiKey(secret("canary-key-1"))).await;
    let length = vec![("content-length".to_owned(), "12".to_owned())];
    let api = Api::answering([Answer::Response(401, length, vec![Ok(b"canary-key-1")])]);
    let permit = permit_of(&rules("http", None, &[]), &facts, "GET", Body::Empty);
    let response = world.vault.apply(permit, LIMITS).await.unwrap().send(&api, &CallSecrets::default()).await.unwrap();
    assert!(!api.requests()[0].headers.contains_key("authorization"));
    assert_eq!(response.response.headers, [("content-length".to_owned(), b"12".to_vec())]);
    // What was not sent is not searched for.
    assert_eq!(read(response).await.0, b"canary-key-1");
}

#[tokio::test]
async fn every_echo_is_taken_out_of_names_values_and_body() {
    let world = World::new().await;
    let credential = StaticCredential::Basic {
        username: secret("octocat"),
        password: secret("canary-password"),
        secret: BasicSecret::Password,
    };
    let facts = static_connection(&world, credential).await;
    let headers = vec![
        ("x-canary-password".to_owned(), "1".to_owned()),
        ("location".to_owned(), "/?p=canary%2Dpassword".to_owned()),
        ("content-length".to_owned(), "100".to_owned()),
        ("etag".to_owned(), "\"octocat\"".to_owned()),
    ];
    let body: Vec<Result<&[u8], _>> =
        vec![Ok(b"you sent b2N0b2NhdDpj"), Ok(b"YW5hcnktcGFzc3dvcmQ= and octocat:cana"), Ok(b"ry-password\n")];
    let api = Api::answering([Answer::Response(200, headers, body)]);
    let permit = permit_of(&rules("http", Some(Placement::Basic), &[]), &facts, "GET", Body::Empty);
    let response = world.vault.apply(permit, LIMITS).await.unwrap().send(&api, &CallSecrets::default()).await.unwrap();
    let expected: [(&str, &[u8]); 3] = [("redacted", b"1"), ("location", b"/?p=[redacted]"), ("etag", b"\"octocat\"")];
    let headers: Vec<_> = response.response.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(headers, expected);
    let (body, error, redactions) = read(response).await;
    assert_eq!(String::from_utf8(body).unwrap(), "you sent [redacted] and [redacted]\n");
    assert_eq!((error, redactions), (None, 4));
}

#[tokio::test]
async fn what_goes_out_is_known_to_the_call_whatever_comes_of_it() {
    let world = World::new().await;
    let facts = static_connection(&world, StaticCredential::Bearer(secret("canary-token"))).await;
    let secrets = CallSecrets::default();
    let api = Api::answering([Answer::Failure(failure("no answer"))]);
    world.vault.apply(permit(&facts), LIMITS).await.unwrap().send(&api, &secrets).await.unwrap_err();
    let mut said = "Y2FuYXJ5LXRva2Vu".to_owned();
    assert_eq!(secrets.clean(&mut [&mut said]).await, 1);
    assert_eq!(said, "[redacted]");
}

#[tokio::test]
async fn length_of_a_body_that_is_not_sent_is_kept() {
    let world = World::new().await;
    let facts = static_connection(&world, StaticCredential::Bearer(secret("canary-token"))).await;
    let length = vec![("content-length".to_owned(), "100".to_owned())];
    let api = Api::answering([Answer::Response(200, length, vec![])]);
    let permit = permit_of(&rules("http", Some(bearer()), &[]), &facts, "HEAD", Body::Empty);
    let response = world.vault.apply(permit, LIMITS).await.unwrap().send(&api, &CallSecrets::default()).await.unwrap();
    assert_eq!(response.response.headers, [("content-length".to_owned(), b"100".to_vec())]);
}

#[tokio::test]
async fn errors_show_no_secret_and_keep_what_is_known_of_delivery() {
    let world = World::new().await;
    let facts = static_connection(&world, StaticCredential::Bearer(secret("canary-token"))).await;
    let api = Api::answering([
        Answer::Failure(failure("no answer to Bearer canary-token")),
        Answer::Response(200, vec![], vec![Ok(b"half of canary-"), Err(failure("canary-token cut off"))]),
    ]);
    let error =
        world.vault.apply(permit(&facts), LIMITS).await.unwrap().send(&api, &CallSecrets::default()).await.unwrap_err();
    assert_eq!(error.message, "no answer to Bearer [redacted]");
    assert_eq!(error.hint.as_deref(), Some("no answer to Bearer [redacted]"));
    assert_eq!((error.kind, error.sent), (SendErrorKind::Unreachable, Sent::Maybe));

    let response =
        world.vault.apply(permit(&facts), LIMITS).await.unwrap().send(&api, &CallSecrets::default()).await.unwrap();
    let (body, error, _) = read(response).await;
    assert_eq!(body, b"");
    assert_eq!(error.unwrap().message, "[redacted] cut off");
}

#[tokio::test]
async fn body_that_breaks_off_within_the_token_shows_no_part_of_it() {
    const TOKEN: &str = "canary-0Token1With2Many3Different4Characters";
    let world = World::new().await;
    let facts = static_connection(&world, StaticCredential::Bearer(secret(TOKEN))).await;
    let before: &'static [u8] = "text of a response\n".repeat(300).leak().as_bytes();
    for cut in 0..TOKEN.len() {
        let chunks = vec![Ok(before), Ok(&TOKEN.as_bytes()[..cut]), Err(failure("reset"))];
        let api = Api::answering([Answer::Response(200, vec![], chunks)]);
        let response =
            world.vault.apply(permit(&facts), LIMITS).await.unwrap().send(&api, &CallSecrets::default()).await.unwrap();
        let (body, error, _) = read(response).await;
        assert_eq!(error.unwrap().message, "reset");
        // What came long before is there, and no part of the token.
        assert!(!body.is_empty() && before.starts_with(&body), "cut at {cut}");
    }
}

#[tokio::test]
async fn refused_token_is_refreshed_once_and_neither_comes_back() {
    let world = World::new().await;
    let facts = world.connect().await;
    let echo = vec![Ok(b"test-at-1 test-at-2".as_slice())];
    let api = Api::answering([status(401), Answer::Response(200, vec![], echo)]);
    let rules = rules("oidc", Some(bearer()), &["read"]);
    let permit = permit_of(&rules, &facts, "POST", Body::Bytes("body".into()));
    let response = world.vault.apply(permit, LIMITS).await.unwrap().send(&api, &CallSecrets::default()).await.unwrap();
    assert_eq!(response.response.status, 200);
    assert_eq!(api.authorizations(), ["Bearer test-at-1", "Bearer test-at-2"]);
    assert!(api.requests().iter().all(|parts| matches!(&parts.body, Body::Bytes(bytes) if bytes == "body")));
    assert_eq!(world.server.token_requests(), 1);
    let (body, _, redactions) = read(response).await;
    assert_eq!((String::from_utf8(body).unwrap(), redactions), ("[redacted] [redacted]".to_owned(), 2));
}

#[tokio::test]
async fn second_refusal_is_the_answer() {
    let world = World::new().await;
    let facts = world.connect().await;
    let api = Api::answering([status(401), status(401)]);
    let response =
        world.vault.apply(permit(&facts), LIMITS).await.unwrap().send(&api, &CallSecrets::default()).await.unwrap();
    assert_eq!(response.response.status, 401);
    assert_eq!((api.requests().len(), world.server.token_requests()), (2, 1));
}

#[tokio::test]
async fn second_attempt_that_does_not_arrive_tells_that_the_first_did() {
    for reason in [Reason::Unreachable, Reason::AddressNotAllowed] {
        let world = World::new().await;
        let facts = world.connect().await;
        let unsent = WireError { reason, sent: Sent::No, ..failure("nobody listens") };
        let api = Api::answering([status(401), Answer::Failure(unsent)]);
        let error = world
            .vault
            .apply(permit(&facts), LIMITS)
            .await
            .unwrap()
            .send(&api, &CallSecrets::default())
            .await
            .unwrap_err();
        assert_eq!((error.reason, error.sent), (reason, Sent::Yes));
    }
}

#[tokio::test]
async fn token_that_another_process_refreshed_is_taken_without_refreshing_again() {
    let world = World::new().await;
    let facts = world.connect().await;
    let request = world.vault.apply(permit(&facts), LIMITS).await.unwrap();
    let other = world.other_process().await;
    let used = other.credential_for(&facts.tenant, &facts.id).await.unwrap().fingerprint;
    other.credential_after_refusal(&facts.tenant, &facts.id, &used).await.unwrap().unwrap();
    let api = Api::answering([status(401), status(200)]);
    request.send(&api, &CallSecrets::default()).await.unwrap();
    assert_eq!(api.authorizations(), ["Bearer test-at-1", "Bearer test-at-2"]);
    assert_eq!(world.server.token_requests(), 1);
}

#[tokio::test]
async fn refusal_is_the_answer_where_nothing_can_be_sent_again() {
    let world = World::new().await;
    let granted = world.connect().await;
    let chunks = stream::iter([Ok(Bytes::from("body"))]).boxed();
    let streamed =
        permit_of(&rules("oidc", Some(bearer()), &[]), &granted, "POST", Body::Stream { length: Some(4), chunks });
    let mut new = new_connection_without_client("http");
    new.name = "other".parse().unwrap();
    let fixed = world.vault.connect_static(new, StaticCredential::ApiKey(secret("canary-key-1"))).await.unwrap();
    for permit in [streamed, permit(&fixed)] {
        let api = Api::answering([Answer::Response(401, vec![], vec![Ok(b"refused")])]);
        let response =
            world.vault.apply(permit, LIMITS).await.unwrap().send(&api, &CallSecrets::default()).await.unwrap();
        assert_eq!(response.response.status, 401);
        assert_eq!(read(response).await.0, b"refused");
    }
    assert_eq!(world.server.token_requests(), 0);
}

#[tokio::test]
async fn grant_that_has_ended_asks_for_a_reconnect_and_tells_that_the_request_was_sent() {
    let world = World::new().await;
    let facts = world.connect().await;
    let request = world.vault.apply(permit(&facts), LIMITS).await.unwrap();
    world.server.fault(Fault::Answer(400, json!({"error": "invalid_grant"})));
    let error = request.send(&Api::answering([status(401)]), &CallSecrets::default()).await.unwrap_err();
    assert_eq!((error.kind, error.sent), (SendErrorKind::ReconnectRequired, Sent::Yes));
}

#[tokio::test]
async fn connection_that_changed_since_the_permit_is_refused() {
    let world = World::new().await;
    let facts = world.connect().await;
    let rules = rules("oidc", Some(bearer()), &["read"]);
    let set = async |changed: ConnectionFacts| {
        let mut opened = world.vault.read(&facts.tenant, &facts.id).await.unwrap();
        opened.row.facts = ConnectionFacts { row_version: opened.row.facts.row_version, ..changed };
        world.vault.write(&mut opened, None, None).await.unwrap();
    };
    let endpoints = BTreeMap::from([("api".to_owned(), "https://other.example".to_owned())]);
    for (changed, reason) in [
        (ConnectionFacts { provider: "github".to_owned(), ..facts.clone() }, Reason::ConnectionWrongProvider),
        (ConnectionFacts { granted_scopes: Default::default(), ..facts.clone() }, Reason::InsufficientScope),
        (ConnectionFacts { endpoints, ..facts.clone() }, Reason::HostNotAllowed),
    ] {
        let permit = permit_of(&rules, &facts, "GET", Body::Empty);
        set(changed).await;
        let error = world.vault.apply(permit, LIMITS).await.unwrap_err();
        assert_eq!((error.reason, error.sent), (reason, Sent::No));
    }
}

#[tokio::test]
async fn refresh_that_loses_the_scope_stops_the_second_attempt() {
    let world = World::new().await;
    let facts = world.connect().await;
    let permit = permit_of(&rules("oidc", Some(bearer()), &["read"]), &facts, "GET", Body::Empty);
    let request = world.vault.apply(permit, LIMITS).await.unwrap();
    world.server.state().reply = json!({"scope": "other"});
    let api = Api::answering([status(401)]);
    let error = request.send(&api, &CallSecrets::default()).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::InsufficientScope, Sent::Yes));
    assert_eq!(error.kind, SendErrorKind::InsufficientScope { missing: vec!["read".to_owned()] });
}

#[tokio::test]
async fn debug_output_shows_nothing() {
    let world = World::new().await;
    let facts = static_connection(&world, StaticCredential::Bearer(secret("canary-token"))).await;
    let request = world.vault.apply(permit(&facts), LIMITS).await.unwrap();
    assert_eq!(format!("{request:?}"), "CredentialedRequest(..)");
}

/// A connection with user name and password, and rules that answer challenges of HTTP Digest.
async fn digest_connection(world: &World, weak: bool) -> (ConnectionFacts, ActionRules) {
    let credential = StaticCredential::Basic {
        username: secret("octocat"),
        password: secret("canary-password"),
        secret: BasicSecret::Password,
    };
    (static_connection(world, credential).await, rules("http", [Placement::Digest { weak }], &[]))
}

fn challenge(nonce: &str, more: &str) -> Answer {
    let value = format!(r#"Digest realm="r", qop="auth", algorithm=SHA-256, nonce="{nonce}"{more}"#);
    Answer::Response(401, vec![("www-authenticate".to_owned(), value)], Vec::new())
}

/// Nonce and count of what each request answered; empty where it answered nothing.
fn answers(api: &Api) -> Vec<String> {
    let requests = api.requests();
    let parameter = |text: &str, name: &str| {
        let (_, rest) = text.split_once(&format!(", {name}=")).unwrap();
        rest.split(',').next().unwrap().trim_matches('"').to_owned()
    };
    let answer = |parts: &WireParts| match parts.headers.get("authorization") {
        None => String::new(),
        Some(value) => {
            assert!(value.is_sensitive());
            let text = value.to_str().unwrap();
            assert!(text.starts_with(r#"Digest username="octocat", realm="r", "#), "{text}");
            assert_eq!(parameter(text, "uri"), "/v1/items/1?page=2");
            format!("{} {}", parameter(text, "nonce"), parameter(text, "nc").trim_start_matches('0'))
        }
    };
    requests.iter().map(answer).collect()
}

async fn send_digest(world: &World, permit: Permit, api: &Api) -> Result<CleanResponse, SendError> {
    world.vault.apply(permit, LIMITS).await?.send(api, &CallSecrets::default()).await
}

fn stream() -> Body {
    Body::Stream { length: None, chunks: stream::iter([Ok(Bytes::from_static(b"body"))]).boxed() }
}

#[tokio::test]
async fn challenge_is_answered_once_and_later_requests_answer_it_beforehand() {
    let world = World::new().await;
    let (facts, rules) = digest_connection(&world, false).await;
    let permit = |body| permit_of(&rules, &facts, "POST", body);
    let api = Api::answering([challenge("a", ""), status(200), status(200), status(200)]);
    let sends = Arc::new(AtomicU32::new(0));
    let first = world.vault.apply(permit(Body::Bytes("body".into())), LIMITS).await.unwrap().counting(&sends);
    assert_eq!(first.send(&api, &CallSecrets::default()).await.unwrap().response.status, 200);
    assert_eq!(sends.load(Ordering::Relaxed), 2);
    send_digest(&world, permit(Body::Empty), &api).await.unwrap();
    send_digest(&world, permit(stream()), &api).await.unwrap();
    assert_eq!(answers(&api), ["", "a 1", "a 2", "a 3"]);
    let requests = api.requests();
    assert!(requests[..2].iter().all(|sent| matches!(&sent.body, Body::Bytes(bytes) if bytes == "body")));
}

#[tokio::test]
async fn stale_nonce_is_answered_again_and_a_refusal_is_not() {
    let world = World::new().await;
    let (facts, rules) = digest_connection(&world, false).await;
    let permit = || permit_of(&rules, &facts, "GET", Body::Empty);
    for (script, expected, sent) in [
        // The password is wrong.
        (vec![challenge("a", ""), challenge("b", "")], 401, &["", "a 1"][..]),
        // The server forgot its nonce and says so, or does not.
        (vec![challenge("c", ", stale=true"), status(200)], 200, &["b 1", "c 1"]),
        (vec![challenge("d", ""), status(200)], 200, &["c 2", "d 1"]),
        // It forgets each at once.
        (
            vec![challenge("e", ""), challenge("f", ", stale=TRUE"), challenge("g", ", stale=true")],
            401,
            &["d 2", "e 1", "f 1"],
        ),
    ] {
        let api = Api::answering(script);
        let response = send_digest(&world, permit(), &api).await.unwrap();
        assert_eq!(response.response.status, expected, "{sent:?}");
        assert_eq!(answers(&api), sent);
    }
    let next = vec![("authentication-info".to_owned(), r#"qop=auth, nextnonce="i", rspauth="x""#.to_owned())];
    let api = Api::answering([challenge("h", ""), Answer::Response(200, next, Vec::new()), status(200)]);
    send_digest(&world, permit(), &api).await.unwrap();
    send_digest(&world, permit(), &api).await.unwrap();
    assert_eq!(answers(&api), ["g 1", "h 1", "i 1"]);
}

#[tokio::test]
async fn streamed_body_waits_for_a_challenge_and_is_never_sent_twice() {
    let world = World::new().await;
    let (facts, rules) = digest_connection(&world, false).await;
    let api = Api::answering([]);
    let error = send_digest(&world, permit_of(&rules, &facts, "POST", stream()), &api).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::CredentialUnplaceable, Sent::No));
    let api = Api::answering([challenge("a", ""), status(200), challenge("b", ", stale=true"), status(200)]);
    send_digest(&world, permit_of(&rules, &facts, "GET", Body::Empty), &api).await.unwrap();
    let refused = send_digest(&world, permit_of(&rules, &facts, "POST", stream()), &api).await.unwrap();
    assert_eq!(refused.response.status, 401);
    send_digest(&world, permit_of(&rules, &facts, "POST", stream()), &api).await.unwrap();
    assert_eq!(answers(&api), ["", "a 1", "a 2", "b 1"]);
}

#[tokio::test]
async fn answer_never_goes_to_another_origin() {
    let world = World::new().await;
    let (facts, rules) = digest_connection(&world, false).await;
    let api = Api::answering([challenge("a", ", domain=\"https://other.example/\""), status(200), status(200)]);
    send_digest(&world, permit_of(&rules, &facts, "GET", Body::Empty), &api).await.unwrap();
    let endpoints = BTreeMap::from([("api".to_owned(), "https://other.example/v1".to_owned())]);
    let other = NewConnection { endpoints, reconnect: Some(facts.id), ..new_connection_without_client("http") };
    let credential = StaticCredential::Basic {
        username: secret("octocat"),
        password: secret("canary-password"),
        secret: BasicSecret::Password,
    };
    let facts = world.vault.connect_static(other, credential).await.unwrap();
    send_digest(&world, permit_of(&rules, &facts, "GET", Body::Empty), &api).await.unwrap();
    assert_eq!(answers(&api), ["", "a 1", ""]);
    assert_eq!(api.requests()[2].url.host_str(), Some("other.example"));
}

#[tokio::test]
async fn weak_challenge_is_answered_only_where_the_manifest_says_so_and_basic_never() {
    let md5 = || challenge("a", "").with(|value| value.replace("SHA-256", "MD5"));
    for (weak, answer, expected) in [
        (false, md5(), Err(Reason::CredentialUnplaceable)),
        (true, md5(), Ok(2)),
        (true, challenge("a", "").with(|_| "Basic realm=\"r\"".to_owned()), Ok(1)),
    ] {
        let world = World::new().await;
        let (facts, rules) = digest_connection(&world, weak).await;
        let api = Api::answering([answer, status(200)]);
        let permit = permit_of(&rules, &facts, "GET", Body::Empty);
        let sent = send_digest(&world, permit, &api).await.map(|_| answers(&api).len()).map_err(|error| error.reason);
        assert_eq!(sent, expected, "{weak}");
    }
}

impl Answer {
    /// The same with another challenge.
    fn with(self, change: impl Fn(&str) -> String) -> Self {
        match self {
            Self::Response(status, headers, body) => Self::Response(
                status,
                headers.iter().map(|(name, value)| (name.clone(), change(value))).collect(),
                body,
            ),
            failure => failure,
        }
    }
}
