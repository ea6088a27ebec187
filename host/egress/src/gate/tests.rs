#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod store;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::{Router, extract::Request, response::IntoResponse as _, routing::any};
use bytes::Bytes;
use http::{Method, StatusCode};
use keyward_model::{
    Body, CallId, CallMemory, ConnectionId, Digest, Principal, PrincipalKind, Target,
    manifest::{Action, Endpoint, Idempotency, Limits, Manifest, Placement, RequestRule},
};
use keyward_policy::NetworkExceptions;
use keyward_vault::{Catalogue, NewConnection, RootKeySource, Secret, StaticCredential, VaultOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::{Notify, mpsc},
};

use super::*;
use crate::{AuditError, WireConfig};

const TOKEN: &str = "canary-test-token-0123456789";

/// Hands every record to the test, or fails.
struct Records {
    written: mpsc::UnboundedSender<AuditRecord>,
    broken: AtomicBool,
}

#[async_trait]
impl AuditSink for Records {
    async fn record(&self, record: AuditRecord) -> Result<(), AuditError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(AuditError("the disk of the test is full".into()));
        }
        self.written.send(record).unwrap();
        Ok(())
    }
}

/// Rules of the one action `act`.
struct Rules(Option<Arc<ActionRules>>);

#[async_trait]
impl RuleSource for Rules {
    async fn rules(&self, _: &TenantId, _: &ConnectorId, _: &ActionName) -> Result<Arc<ActionRules>, SendError> {
        let unknown = || SendError::new(SendErrorKind::Denied, Reason::ActionUnknown, "the connector is gone");
        self.0.clone().ok_or_else(unknown)
    }
}

/// A gate over a vault with one connection, whose token is [`TOKEN`], to a server on loopback.
struct World {
    gate: Arc<Gate>,
    network: NetworkExceptions,
    ctx: CallContext,
    records: Arc<Records>,
    written: mpsc::UnboundedReceiver<AuditRecord>,
}

fn manifest() -> Manifest {
    let rule = |method: &str, path: &str| RequestRule {
        method: method.into(),
        endpoint: "api".into(),
        path: path.into(),
        query: Vec::new(),
        redirects: path.starts_with("/moved"),
        once: false,
    };
    let action = Action {
        title: "Act".into(),
        description: String::new(),
        requests: vec![
            rule("GET", "/items/{id}"),
            rule("POST", "/items"),
            rule("GET", "/moved/{where}"),
            rule("POST", "/moved/{where}"),
            RequestRule { endpoint: "files".into(), ..rule("GET", "/signed/{id}") },
            RequestRule { endpoint: "files".into(), ..rule("GET", "/moved/{where}") },
        ],
        scopes: vec![vec!["repo".into()]],
        idempotency: Default::default(),
        limits: Default::default(),
        input: Default::default(),
        output: Default::default(),
    };
    Manifest {
        name: "github".parse().unwrap(),
        version: "1.0.0".into(),
        title: "GitHub".into(),
        description: String::new(),
        provider: Some("github".into()),
        endpoints: BTreeMap::from([
            (
                "api".into(),
                Endpoint { url: "https://api.github.com".into(), configurable: true, credential: true, private: true },
            ),
            (
                "files".into(),
                Endpoint {
                    url: "https://files.github.com".into(),
                    configurable: true,
                    credential: false,
                    private: true,
                },
            ),
        ]),
        credential: vec![Placement::Header {
            name: "authorization".into(),
            prefix: "Bearer ".into(),
            part: Default::default(),
        }],
        actions: BTreeMap::from([("act".parse().unwrap(), action)]),
    }
}

impl World {
    async fn new(server: SocketAddr) -> Self {
        Self::with_files(server, server).await
    }

    /// With another server that carries no credential.
    async fn with_files(server: SocketAddr, files: SocketAddr) -> Self {
        let servers = [server, files];
        let network = NetworkExceptions {
            private: servers.map(|server| format!("127.0.0.1/32:{}", server.port()).parse().unwrap()).into(),
            http: servers.map(|server| server.to_string().parse().unwrap()).into(),
        };
        let wire = HttpWire::new(WireConfig {
            network: network.clone(),
            authorities: Vec::new(),
            connect_timeout: Duration::from_secs(5),
        });
        let wire = Arc::new(wire.unwrap());
        let (vault, connection) =
            vault_with_connection(wire.clone(), servers.map(|server| format!("http://{server}"))).await;
        let rules = ActionRules::compile(&manifest(), &"act".parse().unwrap(), &network.clone().into()).unwrap();
        let (sender, written) = mpsc::unbounded_channel();
        let records = Arc::new(Records { written: sender, broken: AtomicBool::new(false) });
        let gate = Gate::new(
            Arc::new(Rules(Some(Arc::new(rules)))),
            Arc::new(vault),
            wire,
            records.clone(),
            BudgetConfig::default(),
        );
        let ctx = CallContext {
            tenant: TenantId::default(),
            principal: Principal::local_administrator(),
            on_behalf_of: Some(Principal { kind: PrincipalKind::User, id: "ada".into() }),
            flow: Some("team/report:1.0.0".into()),
            call: CallId::new(),
            run: None,
            step: Some("/do/0".into()),
            connector: ConnectorId {
                name: "github".parse().unwrap(),
                version: "1.0.0".into(),
                digest: Digest::from_sha256([7; 32]),
            },
            action: "act".parse().unwrap(),
            connection: Some(connection),
            limits: Limits::default(),
            memory: CallMemory::default(),
            deadline: Instant::now() + Duration::from_millis(Limits::default().wall_ms),
            refusals: Default::default(),
        };
        Self { gate: Arc::new(gate), network, ctx, records, written }
    }

    async fn send(&self, method: Method, path: &str) -> Result<GuestResponse, SendError> {
        self.gate.send(&self.ctx, request(method, path)).await
    }

    /// What is on record by now, as `event` and `reason`.
    fn recorded(&mut self) -> Vec<(AuditEvent, Option<Reason>)> {
        std::iter::from_fn(|| self.written.try_recv().ok()).map(|record| (record.event, record.reason)).collect()
    }

    /// The next record, whenever it comes.
    async fn next_record(&mut self) -> (AuditEvent, Option<Reason>) {
        let record = self.written.recv().await.unwrap();
        (record.event, record.reason)
    }
}

async fn vault_with_connection(wire: Arc<HttpWire>, urls: [String; 2]) -> (Vault, ConnectionId) {
    let store = Arc::new(store::MemoryStore::default());
    let key = RootKeySource::Passphrase(Secret::from("a passphrase of the test".to_owned()));
    let (tenant, principal) = (TenantId::default(), Principal::local_administrator());
    Vault::initialise(&*store, &key, &tenant, &principal).await.unwrap();
    let options = VaultOptions { wire, providers: Arc::new(Catalogue::builtin()) };
    let vault = Vault::unlock(store, &key, options).await.unwrap();
    let id = connect(&vault, urls, TOKEN, None).await;
    (vault, id)
}

/// Connects with `token`, in the place of `reconnect` where there is one.
async fn connect(vault: &Vault, urls: [String; 2], token: &str, reconnect: Option<ConnectionId>) -> ConnectionId {
    let [api, files] = urls;
    let new = NewConnection {
        tenant: TenantId::default(),
        principal: Principal::local_administrator(),
        name: "work".parse().unwrap(),
        owner: None,
        provider: "github".into(),
        issuer: None,
        client: Default::default(),
        scopes: ["repo".to_owned()].into(),
        endpoints: BTreeMap::from([("api".into(), api), ("files".into(), files)]),
        fields: BTreeMap::new(),
        reconnect,
    };
    let token = StaticCredential::Bearer(Secret::from(token.to_owned()));
    vault.connect_static(new, token).await.unwrap().id
}

fn request(method: Method, path: &str) -> GuestRequest {
    let target = Target::Endpoint { endpoint: "api".into(), path: path.into() };
    GuestRequest { method: method.to_string(), target, query: Vec::new(), headers: Vec::new(), body: Body::Empty }
}

/// A server that answers with what it was sent in `authorization`, and how many requests it has had.
async fn echo() -> (SocketAddr, Arc<AtomicUsize>) {
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = hits.clone();
    let answer = move |request: Request| {
        counted.fetch_add(1, Ordering::SeqCst);
        let token =
            request.headers().get("authorization").map_or(Bytes::new(), |v| Bytes::copy_from_slice(v.as_bytes()));
        async move { (StatusCode::CREATED, token) }
    };
    (serve(Router::new().fallback(any(answer))).await, hits)
}

/// A server that never answers, and tells when it has a request.
async fn silent() -> (SocketAddr, Arc<Notify>) {
    let asked = Arc::new(Notify::new());
    let tell = asked.clone();
    let answer = move || {
        tell.notify_one();
        std::future::pending::<StatusCode>()
    };
    (serve(Router::new().fallback(any(answer))).await, asked)
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn whole(response: GuestResponse) -> Result<String, SendError> {
    let mut body = response.body;
    let mut all = Vec::new();
    while let Some(chunk) = body.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(String::from_utf8(all).unwrap())
}

/// `reached` is whether it reached the server, and how often it went out.
fn sent(
    method: &str,
    server: SocketAddr,
    template: &str,
    status: Option<u16>,
    reached: (Sent, u32),
    event: &AuditEvent,
) {
    let AuditEvent::RequestSent { duration_ms, .. } = event else { panic!("{event:?}") };
    let expected = AuditEvent::RequestSent {
        method: method.into(),
        host: server.to_string(),
        path_template: template.into(),
        scopes: vec!["repo".into()],
        status,
        sent: reached.0,
        sends: reached.1,
        duration_ms: *duration_ms,
    };
    assert_eq!(*event, expected);
}

#[tokio::test]
async fn denied_request_never_reaches_the_wire_and_is_on_record() {
    let (server, hits) = echo().await;
    let mut world = World::new(server).await;
    for (method, path, reason) in [
        (Method::DELETE, "/items/1", Reason::PathNotAllowed),
        (Method::GET, "/items/../secret", Reason::PathMalformed),
        (Method::CONNECT, "/items/1", Reason::MethodForbidden),
    ] {
        let error = world.send(method.clone(), path).await.unwrap_err();
        assert_eq!((error.reason, error.sent), (reason, Sent::No), "{method} {path}");
        let denied = AuditEvent::RequestDenied {
            method: method.to_string(),
            host: Some(server.to_string()),
            path_template: None,
        };
        assert_eq!(world.recorded(), [(denied, Some(reason))]);
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn record_names_who_asked_for_what() {
    let (server, _) = echo().await;
    let mut world = World::new(server).await;
    world.send(Method::GET, "/items/1").await.unwrap();
    let record = world.written.recv().await.unwrap();
    let ctx = &world.ctx;
    assert_eq!((&record.tenant, &record.principal, record.call), (&ctx.tenant, &ctx.principal, Some(ctx.call)));
    assert_eq!((record.connector.as_ref(), record.action.as_ref()), (Some(&ctx.connector), Some(&ctx.action)));
    assert_eq!((record.connection, &record.step), (ctx.connection, &ctx.step));
    assert_eq!((&record.on_behalf_of, &record.flow), (&ctx.on_behalf_of, &ctx.flow));
}

#[tokio::test]
async fn token_reaches_the_server_and_never_the_guest() {
    let (server, hits) = echo().await;
    let mut world = World::new(server).await;
    let response = world.send(Method::GET, "/items/1").await.unwrap();
    assert_eq!(response.status, 201);
    let records = world.recorded();
    sent("GET", server, "/items/{id}", Some(201), (Sent::Yes, 1), &records[0].0);
    assert_eq!(records.len(), 1, "{records:?}");

    let text = whole(response).await.unwrap();
    assert!(!text.contains(TOKEN) && text.contains("redacted"), "{text}");
    assert_eq!(
        world.recorded(),
        [(AuditEvent::SecretRedacted { count: 1, by: EchoedBy::Server }, Some(Reason::SecretEchoed))]
    );
    assert_eq!(hits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn secret_that_the_guest_puts_together_is_taken_out_of_its_words_and_is_on_record() {
    let (half, rest) = TOKEN.split_at(14);
    let answer = move |request: Request| async move { if request.uri().path().ends_with("/1") { half } else { rest } };
    let mut world = World::new(serve(Router::new().fallback(any(answer))).await).await;
    let mut said = String::new();
    for path in ["/items/1", "/items/2"] {
        said.push_str(&whole(world.send(Method::GET, path).await.unwrap()).await.unwrap());
    }
    assert_eq!(said, TOKEN);
    world.recorded();
    let mut other = "nothing".to_owned();
    assert_eq!(world.gate.clean(&world.ctx, &mut [&mut said, &mut other]).await, Ok(1));
    assert_eq!((said.as_str(), other.as_str()), ("[redacted]", "nothing"));
    let event = AuditEvent::SecretRedacted { count: 1, by: EchoedBy::Guest };
    assert_eq!(world.recorded(), [(event, Some(Reason::SecretEchoed))]);

    // What was found is not told before it is on record.
    world.records.broken.store(true, Ordering::SeqCst);
    let error = world.gate.clean(&world.ctx, &mut [&mut TOKEN.to_owned()]).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::StoreFailed, Sent::Yes));
    // Another call has sent nothing, and is not searched.
    let other = CallContext { memory: CallMemory::default(), ..world.ctx.clone() };
    assert_eq!(world.gate.clean(&other, &mut [&mut TOKEN.to_owned()]).await, Ok(0));
}

/// A server whose `/moved/<number>` redirects to `to[number]` with 302, and answers anything else with what it was sent.
async fn redirecting(to: impl Fn(SocketAddr) -> Vec<String> + Send + Sync + 'static) -> SocketAddr {
    let to = Arc::new(to);
    let answer = move |request: Request| {
        let to = to.clone();
        async move {
            let headers = request.headers();
            let text = |name: &str| headers.get(name).map_or("none", |value| value.to_str().unwrap()).to_owned();
            let host: SocketAddr = text("host").parse().unwrap();
            match request.uri().path().strip_prefix("/moved/").and_then(|number| number.parse::<usize>().ok()) {
                Some(number) => (StatusCode::FOUND, [("location", to(host)[number].clone())]).into_response(),
                None => {
                    let seen = format!("{} {} {}", request.method(), text("x-note"), text("authorization"));
                    (StatusCode::OK, seen).into_response()
                }
            }
        }
    };
    serve(Router::new().fallback(any(answer))).await
}

fn noted(path: &str) -> GuestRequest {
    GuestRequest { headers: vec![("x-note".into(), b"own".into())], ..request(Method::POST, path) }
}

#[tokio::test]
async fn redirect_within_the_origin_keeps_headers_and_credential() {
    let server = redirecting(|_| vec!["/items/7".to_owned()]).await;
    let mut world = World::new(server).await;
    let response = world.gate.send(&world.ctx, noted("/moved/0")).await.unwrap();
    assert_eq!(whole(response).await.unwrap(), "GET own Bearer [redacted]");
    let records = world.recorded();
    let [permitted, first, second, redacted] = &records[..] else { panic!("{records:?}") };
    assert!(matches!(&permitted.0, AuditEvent::RequestPermitted { method, .. } if method == "POST"));
    sent("POST", server, "/moved/{where}", Some(302), (Sent::Yes, 1), &first.0);
    sent("GET", server, "/items/{id}", Some(200), (Sent::Yes, 1), &second.0);
    assert_eq!(redacted.1, Some(Reason::SecretEchoed));
}

#[tokio::test]
async fn redirect_to_another_origin_takes_nothing_along_and_nothing_comes_back() {
    let files = redirecting(|_| Vec::new()).await;
    let server = redirecting(move |_| vec![format!("http://{files}/signed/7")]).await;
    let world = World::with_files(server, files).await;
    let response = world.gate.send(&world.ctx, noted("/moved/0")).await.unwrap();
    assert_eq!(whole(response).await.unwrap(), "GET none none");

    // By way of the other origin back to the first: the credential stays out.
    let back = Arc::new(OnceLock::new());
    let onward = back.clone();
    let between = redirecting(move |_| vec![onward.get().cloned().unwrap()]).await;
    let start = redirecting(move |_| vec![format!("http://{between}/moved/0")]).await;
    back.set(format!("http://{start}/items/1")).unwrap();
    let world = World::with_files(start, between).await;
    let response = world.gate.send(&world.ctx, noted("/moved/0")).await.unwrap();
    assert_eq!(whole(response).await.unwrap(), "GET none none");
}

#[tokio::test]
async fn every_hop_is_a_request_that_the_action_declares() {
    let other = redirecting(|_| Vec::new()).await;
    let to = move |own: SocketAddr| {
        vec![
            "/secret".to_owned(),
            format!("http://{other}/items/1"),
            "/moved/2".to_owned(),
            format!("http://user@{own}/items/1"),
            "ftp://files.example/x".to_owned(),
            "/items/1?debug=1".to_owned(),
            "/items/%2e%2e".to_owned(),
        ]
    };
    let server = redirecting(to).await;
    let mut world = World::new(server).await;
    for (number, reason) in [
        (0, Reason::PathNotAllowed),
        (1, Reason::HostNotAllowed),
        (2, Reason::RedirectLimit),
        (3, Reason::UrlMalformed),
        (4, Reason::UrlMalformed),
        (5, Reason::QueryNotAllowed),
        (6, Reason::PathNotAllowed),
    ] {
        let error = world.send(Method::GET, &format!("/moved/{number}")).await.unwrap_err();
        assert_eq!((error.reason, error.sent), (reason, Sent::Yes), "{number}");
        let records = world.recorded();
        let [(first, None), (denied, Some(recorded))] = &records[..] else { panic!("{number}: {records:?}") };
        sent("GET", server, "/moved/{where}", Some(302), (Sent::Yes, 1), first);
        assert!(matches!(denied, AuditEvent::RequestDenied { .. }) && *recorded == reason, "{number}: {denied:?}");
    }
}

#[tokio::test]
async fn endpoint_without_the_credential_gets_none_and_may_be_asked_for_a_part() {
    let (files, _) = echo().await;
    let world = World::with_files(files, files).await;
    let mut asked = request(Method::GET, "/signed/1");
    asked.target = Target::Endpoint { endpoint: "files".into(), path: "/signed/1".into() };
    asked.headers = vec![("range".into(), b"bytes=0-9".into())];
    let response = world.gate.send(&world.ctx, asked).await.unwrap();
    assert_eq!(whole(response).await.unwrap(), "");
    let mut asked = request(Method::GET, "/items/1");
    asked.headers = vec![("range".into(), b"bytes=0-9".into())];
    assert_eq!(world.gate.send(&world.ctx, asked).await.unwrap_err().reason, Reason::HeaderForbidden);
}

/// A server that refuses the first token, while the connection gets another.
#[tokio::test]
async fn request_that_goes_out_twice_is_one_record_that_says_so() {
    let (tell, mut asked) = mpsc::channel(1);
    let (go_on, waiting) = (Arc::new(Notify::new()), AtomicBool::new(true));
    let connected = go_on.clone();
    let answer = move || {
        let first = waiting.swap(false, Ordering::SeqCst);
        let (tell, connected) = (tell.clone(), connected.clone());
        async move {
            if first {
                tell.send(()).await.unwrap();
                connected.notified().await;
            }
            if first { StatusCode::UNAUTHORIZED } else { StatusCode::CREATED }
        }
    };
    let answer = Arc::new(answer);
    let server = serve(Router::new().fallback(any(move || answer()))).await;
    let mut world = World::new(server).await;
    let (gate, ctx) = (world.gate.clone(), world.ctx.clone());
    let sending = tokio::spawn(async move { gate.send(&ctx, request(Method::GET, "/items/1")).await });
    asked.recv().await.unwrap();
    let urls = [server, server].map(|server| format!("http://{server}"));
    connect(&world.gate.vault, urls, "another-test-token-0123456789", world.ctx.connection).await;
    go_on.notify_one();
    assert_eq!(sending.await.unwrap().unwrap().status, 201);
    let records = world.recorded();
    sent("GET", server, "/items/{id}", Some(201), (Sent::Yes, 2), &records[0].0);
    assert_eq!(records.len(), 1, "{records:?}");
}

#[tokio::test]
async fn echoed_secret_is_on_record_though_nobody_reads_to_the_end() {
    let (server, _) = echo().await;
    let mut world = World::new(server).await;
    let mut response = world.send(Method::GET, "/items/1").await.unwrap();
    world.recorded();
    response.body.next().await.unwrap().unwrap();
    drop(response);
    assert_eq!(world.next_record().await.1, Some(Reason::SecretEchoed));
}

#[tokio::test]
async fn change_is_on_record_before_it_is_sent() {
    let (server, asked) = silent().await;
    let mut world = World::new(server).await;
    let gate = world.gate.clone();
    let ctx = world.ctx.clone();
    let sending = tokio::spawn(async move { gate.send(&ctx, request(Method::POST, "/items")).await.map(drop) });
    asked.notified().await;
    let permitted = AuditEvent::RequestPermitted {
        method: "POST".into(),
        host: server.to_string(),
        path_template: "/items".into(),
        scopes: vec!["repo".into()],
    };
    assert_eq!(world.recorded(), [(permitted, None)]);

    // The caller goes away.
    sending.abort();
    let (event, reason) = world.next_record().await;
    sent("POST", server, "/items", None, (Sent::Maybe, 1), &event);
    assert_eq!(reason, Some(Reason::Cancelled));
}

#[tokio::test]
async fn without_an_audit_trail_no_change_is_sent_and_no_answer_is_told() {
    let (server, hits) = echo().await;
    let world = World::new(server).await;
    world.records.broken.store(true, Ordering::SeqCst);
    for (method, path, delivered, requests) in [
        (Method::POST, "/items", Sent::No, 0),
        (Method::DELETE, "/items", Sent::No, 0),
        (Method::GET, "/items/1", Sent::Yes, 1),
    ] {
        let error = world.send(method.clone(), path).await.unwrap_err();
        assert_eq!((error.reason, error.sent), (Reason::StoreFailed, delivered), "{method}");
        assert!(!error.message.contains("disk of the test"), "{}", error.message);
        assert_eq!(hits.load(Ordering::SeqCst), requests, "{method}");
    }
}

#[tokio::test]
async fn answer_whose_redaction_cannot_be_recorded_does_not_end_well() {
    let (server, _) = echo().await;
    let world = World::new(server).await;
    let response = world.send(Method::GET, "/items/1").await.unwrap();
    world.records.broken.store(true, Ordering::SeqCst);
    let error = whole(response).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::StoreFailed, Sent::Yes));
}

#[tokio::test]
async fn request_that_fails_on_the_way_is_on_record() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut world = World::new(server).await;
    let error = world.send(Method::GET, "/items/1").await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::Unreachable, Sent::No));
    let records = world.recorded();
    sent("GET", server, "/items/{id}", None, (Sent::No, 3), &records[0].0);
    assert_eq!(records[0].1, Some(Reason::Unreachable));
}

/// The rules permit it; the address guard, the wire or the vault does not.
#[tokio::test]
async fn request_that_is_refused_after_its_permit_is_on_record_as_denied() {
    let (server, hits) = echo().await;
    let nothing = NetworkExceptions::default();
    let http_alone = NetworkExceptions { http: vec![server.to_string().parse().unwrap()], ..nothing.clone() };
    for (network, reason) in [(nothing, Reason::SchemeNotAllowed), (http_alone, Reason::AddressNotAllowed)] {
        let mut world = World::new(server).await;
        let connect_timeout = Duration::from_secs(5);
        let wire = HttpWire::new(WireConfig { network, authorities: Vec::new(), connect_timeout }).unwrap();
        let gate = Gate { wire: Arc::new(wire), ..world.gate.parts() };
        let error = gate.send(&world.ctx, request(Method::GET, "/items/1")).await.unwrap_err();
        assert_eq!((error.reason, error.sent), (reason, Sent::No));
        let denied = AuditEvent::RequestDenied {
            method: "GET".into(),
            host: Some(server.to_string()),
            path_template: Some("/items/{id}".into()),
        };
        assert_eq!(world.recorded(), [(denied, Some(reason))]);
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn limit_that_refused_a_request_is_on_record() {
    let (server, _) = echo().await;
    let mut world = World::new(server).await;
    world.gate.refused(&world.ctx, Reason::RequestLimit).await.unwrap();
    assert_eq!(world.recorded(), [(AuditEvent::LimitReached, Some(Reason::RequestLimit))]);
}

#[tokio::test]
async fn request_without_rules_or_connection_is_denied_and_on_record() {
    let (server, hits) = echo().await;
    let mut world = World::new(server).await;
    world.ctx.connection = Some(ConnectionId::new());
    let error = world.send(Method::GET, "/items/1").await.unwrap_err();
    assert_eq!(error.reason, Reason::ConnectionUnknown);
    world.ctx.connection = None;
    let error = world.send(Method::GET, "/items/1").await.unwrap_err();
    assert_eq!(error.reason, Reason::ConnectionMissing);

    let gone = Gate { rules: Arc::new(Rules(None)), audit: world.records.clone(), ..world.gate.parts() };
    let error = gone.send(&world.ctx, request(Method::GET, "/items/1")).await.unwrap_err();
    assert_eq!(error.reason, Reason::ActionUnknown);

    let denied = AuditEvent::RequestDenied { method: "GET".into(), host: None, path_template: None };
    let reasons = [Reason::ConnectionUnknown, Reason::ConnectionMissing, Reason::ActionUnknown];
    assert_eq!(world.recorded(), reasons.map(|reason| (denied.clone(), Some(reason))));
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn flood_of_denied_requests_is_written_down_as_one() {
    let (server, hits) = echo().await;
    let mut world = World::new(server).await;
    for number in 0..100 {
        let path = if number < 40 { "/secret" } else { "/items/1" };
        let error = world.send(Method::GET, path).await.unwrap_err();
        let reason = if number < 32 { Reason::PathNotAllowed } else { Reason::DenialLimit };
        assert_eq!((error.kind, error.reason, error.sent), (SendErrorKind::Denied, reason, Sent::No), "{number}");
    }
    assert!(world.ctx.refusals.is_flood());
    world.gate.ended(&world.ctx).await.unwrap();
    let records = world.recorded();
    let (each, rest) = records.split_at(32);
    assert!(each.iter().all(|record| record.1 == Some(Reason::PathNotAllowed)), "{each:?}");
    assert_eq!(rest, [(AuditEvent::RequestsRefused { count: 68 }, Some(Reason::DenialLimit))]);
    assert_eq!(hits.load(Ordering::SeqCst), 0);
    // Another call of the same has its own count.
    world.ctx.refusals = Default::default();
    assert!(world.send(Method::GET, "/items/1").await.is_ok());
}

#[tokio::test]
async fn requests_that_cannot_wait_are_counted_and_end_nothing() {
    let (server, _) = refusing(600).await;
    let mut world = World::new(server).await;
    assert_eq!(world.send(Method::GET, "/items/1").await.unwrap().status, 429);
    for _ in 0..40 {
        let error = world.send(Method::POST, "/items").await.unwrap_err();
        assert_eq!(error.reason, Reason::RateLimited);
    }
    assert!(!world.ctx.refusals.is_flood());
    world.gate.ended(&world.ctx).await.unwrap();
    let records = world.recorded();
    assert_eq!(records.len(), 1 + 32 + 1);
    assert_eq!(records[33], (AuditEvent::RequestsRefused { count: 8 }, Some(Reason::RateLimited)));
}

/// A server that answers 429 and wants silence for so many seconds, and how many requests it has had.
async fn refusing(seconds: u32) -> (SocketAddr, Arc<AtomicUsize>) {
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = hits.clone();
    let answer = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async move { (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())], "slow down") }
    };
    (serve(Router::new().fallback(any(answer))).await, hits)
}

#[tokio::test]
async fn server_that_wants_silence_is_left_alone_and_that_is_on_record() {
    let (server, hits) = refusing(600).await;
    let mut world = World::new(server).await;
    let response = world.send(Method::GET, "/items/1").await.unwrap();
    assert_eq!((response.status, whole(response).await.unwrap().as_str()), (429, "slow down"));
    sent("GET", server, "/items/{id}", Some(429), (Sent::Yes, 1), &world.recorded()[0].0);

    // Whoever asks, as long as it is with this connection.
    world.ctx.call = CallId::new();
    let error = world.send(Method::POST, "/items").await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::RateLimited, Sent::No));
    let SendErrorKind::RateLimited { retry_after: Some(wait) } = error.kind else { panic!("{error:?}") };
    assert!(wait > Duration::from_secs(590) && wait <= Duration::from_secs(600), "{wait:?}");
    let denied = AuditEvent::RequestDenied {
        method: "POST".into(),
        host: Some(server.to_string()),
        path_template: Some("/items".into()),
    };
    assert_eq!(world.recorded(), [(denied, Some(Reason::RateLimited))]);
    assert_eq!(hits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn turn_is_held_until_the_body_is_over_and_given_back_between_hops() {
    let server = redirecting(|own| vec![format!("http://{own}/items/1")]).await;
    let world = World::new(server).await;
    let mut budgets = BudgetConfig::default();
    budgets.connection.in_flight = std::num::NonZeroU32::MIN;
    let gate = Gate { budgets: Budgets::new(budgets), ..world.gate.parts() };
    let ctx = CallContext { deadline: Instant::now() + Duration::from_secs(60), ..world.ctx.clone() };
    let response = gate.send(&ctx, request(Method::GET, "/moved/0")).await.unwrap();
    // Its body is not read yet.
    let hurried = CallContext { deadline: Instant::now(), ..ctx.clone() };
    let error = gate.send(&hurried, request(Method::GET, "/items/1")).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::RateLimited, Sent::No));
    drop(response);
    assert_eq!(gate.send(&hurried, request(Method::GET, "/items/1")).await.unwrap().status, 200);
}

#[tokio::test]
async fn body_beyond_the_budget_is_not_sent() {
    let (server, hits) = echo().await;
    let world = World::new(server).await;
    let mut budgets = BudgetConfig::default();
    budgets.connection.request_bytes_per_hour = Some(10);
    let gate = Gate { budgets: Budgets::new(budgets), ..world.gate.parts() };
    let post = |body: &'static str| GuestRequest { body: Body::Bytes(body.into()), ..request(Method::POST, "/items") };
    assert!(gate.send(&world.ctx, post("12345678")).await.is_ok());
    let error = gate.send(&world.ctx, post("12345678")).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::TransferLimit, Sent::No));
    let chunks = Box::pin(stream::iter([Ok(Bytes::from("12345678"))]));
    let streamed = GuestRequest { body: Body::Stream { length: None, chunks }, ..request(Method::POST, "/items") };
    let error = gate.send(&world.ctx, streamed).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::TransferLimit, Sent::Maybe));
    assert_eq!(error.kind, SendErrorKind::RateLimited { retry_after: None });
    assert!(hits.load(Ordering::SeqCst) <= 2);
}

/// A server that answers so, one after another and then for ever with the last; `None` closes the connection.
async fn scripted(answers: &'static [Option<(u16, &'static str)>]) -> (SocketAddr, Arc<AtomicUsize>) {
    let hits = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counted = hits.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let hit = counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    if stream.read_buf(&mut request).await.unwrap() == 0 {
                        return;
                    }
                }
                if let Some((status, headers)) = answers[hit.min(answers.len() - 1)] {
                    let head =
                        format!("HTTP/1.1 {status} x\r\n{headers}content-length: 2\r\nconnection: close\r\n\r\n");
                    stream.write_all(format!("{head}{hit:02}").as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, hits)
}

impl World {
    /// The same for an action that says so of itself.
    fn idempotent(mut self, idempotency: Idempotency, change: impl Fn(&mut RequestRule)) -> Self {
        let mut manifest = manifest();
        let (name, action) = manifest.actions.pop_first().unwrap();
        let mut action = Action { idempotency, ..action };
        action.requests.iter_mut().for_each(change);
        manifest.actions.insert(name.clone(), action);
        let network = self.network.clone();
        let rules = ActionRules::compile(&manifest, &name, &network.into()).unwrap();
        let gate = self.gate.parts();
        self.gate = Arc::new(Gate { rules: Arc::new(Rules(Some(Arc::new(rules)))), ..gate });
        self
    }
}

#[tokio::test]
async fn safe_request_is_sent_again_and_the_last_answer_is_the_guests() {
    const BUSY: Option<(u16, &str)> = Some((503, ""));
    for (answers, status, sends) in [
        (&[BUSY, Some((502, "")), Some((200, ""))][..], 200, 3),
        (&[Some((504, "")), Some((404, "")), Some((200, ""))], 404, 2),
        (&[None, Some((200, ""))], 200, 2),
        (&[BUSY, BUSY, BUSY, Some((200, ""))], 503, 3),
        (&[Some((500, "")), Some((200, ""))], 500, 1),
        // Waiting would take longer than the call.
        (&[Some((503, "retry-after: 600\r\n")), Some((200, ""))], 503, 1),
        (&[Some((503, "retry-after: 0\r\n")), Some((200, ""))], 200, 2),
    ] {
        let (server, hits) = scripted(answers).await;
        let mut world = World::new(server).await;
        let response = world.send(Method::GET, "/items/1").await.unwrap();
        assert_eq!(response.status, status, "{answers:?}");
        assert_eq!(whole(response).await.unwrap(), format!("{:02}", sends - 1), "{answers:?}");
        // One record, as for a request that is sent anew with a fresh token.
        let records = world.recorded();
        assert_eq!(records.len(), 1, "{answers:?} {records:?}");
        sent("GET", server, "/items/{id}", Some(status), (Sent::Yes, sends), &records[0].0);
        assert_eq!(hits.load(Ordering::SeqCst), sends as usize, "{answers:?}");
    }
}

#[tokio::test]
async fn error_tells_what_may_have_arrived_in_any_attempt() {
    for (answers, sent_at_last) in [(&[None][..], Sent::Maybe), (&[Some((503, "")), None], Sent::Yes)] {
        let (server, hits) = scripted(answers).await;
        let mut world = World::new(server).await;
        let error = world.send(Method::GET, "/items/1").await.unwrap_err();
        assert_eq!((error.reason, error.sent), (Reason::Unreachable, sent_at_last));
        sent("GET", server, "/items/{id}", None, (sent_at_last, 3), &world.recorded()[0].0);
        assert_eq!(hits.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test]
async fn request_that_may_do_it_twice_is_sent_once() {
    let key = ("Idempotency-Key".to_owned(), b"k".to_vec());
    let post = |headers: &[(String, Vec<u8>)]| {
        let body = Body::Bytes("text".into());
        GuestRequest { headers: headers.to_vec(), body, ..request(Method::POST, "/items") }
    };
    for (idempotency, headers, once, hits_expected) in [
        (Idempotency::None, &[][..], false, 1),
        (Idempotency::None, std::slice::from_ref(&key), false, 1),
        (Idempotency::Key, &[], false, 1),
        (Idempotency::Key, std::slice::from_ref(&key), false, 2),
        (Idempotency::Idempotent, &[], false, 2),
        (Idempotency::Safe, &[], false, 2),
        (Idempotency::Idempotent, &[], true, 1),
    ] {
        let (server, hits) = scripted(&[Some((503, "")), Some((502, "")), Some((200, ""))]).await;
        let mut world = World::new(server).await.idempotent(idempotency, |rule| rule.once = once);
        let response = world.gate.send(&world.ctx, post(headers)).await.unwrap();
        // What a gateway says tells nothing of what became of it, so that it is not sent again after that.
        assert_eq!(response.status, if hits_expected == 1 { 503 } else { 502 }, "{idempotency:?}");
        assert_eq!(hits.load(Ordering::SeqCst), hits_expected, "{idempotency:?} {headers:?}");
        let records = world.recorded();
        assert_eq!(records.len(), 2, "one before and one after: {records:?}");
    }
    // A body that can be read once is sent once.
    let (server, hits) = scripted(&[Some((503, "")), Some((200, ""))]).await;
    let world = World::new(server).await.idempotent(Idempotency::Idempotent, |_| {});
    let chunks = Box::pin(stream::iter([Ok(Bytes::from("text"))]));
    let streamed = GuestRequest { body: Body::Stream { length: Some(4), chunks }, ..post(&[]) };
    assert_eq!(world.gate.send(&world.ctx, streamed).await.unwrap().status, 503);
    assert_eq!(hits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn server_that_is_not_there_is_tried_again() {
    let server = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    for (method, idempotency, sends) in [
        (Method::GET, Idempotency::None, 3),
        (Method::POST, Idempotency::None, 1),
        (Method::POST, Idempotency::Idempotent, 3),
    ] {
        let mut world = World::new(server).await.idempotent(idempotency, |_| {});
        let path = if method == Method::GET { "/items/1" } else { "/items" };
        let error = world.send(method, path).await.unwrap_err();
        assert_eq!((error.reason, error.sent), (Reason::Unreachable, Sent::No));
        let last = world.recorded().pop().unwrap().0;
        assert!(matches!(last, AuditEvent::RequestSent { sends: counted, .. } if counted == sends), "{last:?}");
    }
}

impl Gate {
    /// Another gate with the same parts.
    fn parts(&self) -> Gate {
        let Self { rules, vault, wire, audit, .. } = self;
        Gate::new(rules.clone(), vault.clone(), wire.clone(), audit.clone(), BudgetConfig::default())
    }
}
