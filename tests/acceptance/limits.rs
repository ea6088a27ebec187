//! Several callers of one process at a server that allows less than they want. The gate is in this process, because
//! that is where callers share what is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use futures_util::{StreamExt as _, future::try_join_all};
use keyward_egress::{AuditSink, BudgetConfig, Gate, HttpWire, RuleSource, WireConfig};
use keyward_harness::{keyward::CANARY, process::NodeServer};
use keyward_model::{
    ActionName, AuditEvent, AuditRecord, Body, CallContext, CallId, ConnectorId, Digest, GuestRequest, Outbound as _,
    Principal, RunId, SendError, Target, TenantId,
    manifest::{Limits, Manifest},
};
use keyward_policy::{ActionRules, NetworkExceptions};
use keyward_store::Store;
use keyward_vault::{Catalogue, NewConnection, RootKeySource, Secret, StaticCredential, Vault, VaultOptions};
use serde_json::{Value, json};
use tokio::sync::mpsc;

struct Rules(Arc<ActionRules>);

#[async_trait]
impl RuleSource for Rules {
    async fn rules(&self, _: &TenantId, _: &ConnectorId, _: &ActionName) -> Result<Arc<ActionRules>, SendError> {
        Ok(self.0.clone())
    }
}

struct Records(mpsc::UnboundedSender<AuditRecord>);

#[async_trait]
impl AuditSink for Records {
    async fn record(&self, record: AuditRecord) -> Result<(), keyward_egress::AuditError> {
        self.0.send(record).map_err(|error| keyward_egress::AuditError(error.into()))
    }
}

/// A gate to `url` with one connection, the call that uses it, and what is on record.
async fn gate(
    url: &str,
    directory: &std::path::Path,
    budgets: BudgetConfig,
) -> Result<(Arc<Gate>, CallContext, mpsc::UnboundedReceiver<AuditRecord>)> {
    let authority = url.trim_start_matches("http://");
    let port = authority.rsplit(':').next().context("no port")?;
    let network: NetworkExceptions =
        serde_json::from_value(json!({"private": [format!("127.0.0.1/32:{port}")], "http": [authority]}))?;
    let manifest: Manifest = serde_json::from_value(json!({
        "name": "things",
        "version": "1.0.0",
        "title": "Things",
        "provider": "http",
        "endpoints": {"api": {"url": "https://api.example.com", "configurable": true, "private": true}},
        "credential": {"in": "header", "name": "authorization", "prefix": "Bearer "},
        "actions": {"read": {"title": "Read", "requests": [{"method": "GET", "endpoint": "api", "path": "/{caller}/{n}"}]}},
    }))?;
    let action: ActionName = "read".parse()?;
    let rules = ActionRules::compile(&manifest, &action, &network.clone().into())
        .map_err(|errors| anyhow::anyhow!("{errors:?}"))?;

    let (tenant, principal) = (TenantId::default(), Principal::local_administrator());
    let store = Store::open(&directory.join("keyward.db")).await?;
    let key = RootKeySource::Passphrase(Secret::from("a passphrase of the test".to_owned()));
    Vault::initialise(&store, &key, &tenant, &principal).await?;
    let connect_timeout = Duration::from_secs(10);
    let wire = Arc::new(HttpWire::new(WireConfig { network, authorities: Vec::new(), connect_timeout })?);
    let options = VaultOptions { wire: wire.clone(), providers: Arc::new(Catalogue::builtin()) };
    let vault = Vault::unlock(Arc::new(store), &key, options).await?;
    let connection = NewConnection {
        tenant: tenant.clone(),
        principal: principal.clone(),
        name: "things".parse()?,
        owner: None,
        provider: "http".to_owned(),
        issuer: None,
        client: Default::default(),
        scopes: BTreeSet::new(),
        endpoints: BTreeMap::from([("api".to_owned(), url.to_owned())]),
        fields: BTreeMap::new(),
        reconnect: None,
    };
    let token = StaticCredential::Bearer(Secret::from(CANARY.to_owned()));
    let connection = vault.connect_static(connection, token).await?.id;
    let (sender, records) = mpsc::unbounded_channel();
    let gate = Gate::new(Arc::new(Rules(Arc::new(rules))), Arc::new(vault), wire, Arc::new(Records(sender)), budgets);
    let ctx = CallContext {
        tenant,
        principal,
        on_behalf_of: None,
        flow: None,
        call: CallId::new(),
        run: None,
        step: None,
        connector: ConnectorId { name: manifest.name, version: manifest.version, digest: Digest::from_sha256([7; 32]) },
        action,
        connection: Some(connection),
        memory: Default::default(),
        limits: Limits::default(),
        deadline: Instant::now() + Duration::from_secs(60),
        refusals: Arc::default(),
    };
    Ok((Arc::new(gate), ctx, records))
}

/// Sends one request and gives its status and body.
async fn ask(gate: &Gate, ctx: &CallContext, path: String) -> Result<(u16, String)> {
    let target = Target::Endpoint { endpoint: "api".to_owned(), path };
    let request =
        GuestRequest { method: "GET".to_owned(), target, query: Vec::new(), headers: Vec::new(), body: Body::Empty };
    let mut response = gate.send(ctx, request).await?;
    let mut text = Vec::new();
    while let Some(chunk) = response.body.next().await {
        text.extend_from_slice(&chunk?);
    }
    Ok((response.status, String::from_utf8(text)?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_callers_share_what_a_server_allows_and_lose_nothing() -> Result<()> {
    const IN_FLIGHT: usize = 4;
    const QUOTA: usize = 10;
    let server = NodeServer::start("limited-api.mjs", &json!({"quota": QUOTA, "seconds": 1}))?;
    let url = server.said("url")?;
    let directory = tempfile::tempdir()?;
    let mut budgets = BudgetConfig::default();
    budgets.connection.in_flight = NonZeroU32::new(IN_FLIGHT as u32).context("none")?;
    let (gate, ctx, mut records) = gate(&url, directory.path(), budgets).await?;

    // The greedy one is in the line with all of its requests before the modest one comes.
    let requests = [("greedy", 20), ("modest", 4)];
    let mut all = Vec::new();
    for (caller, count) in requests {
        let ctx = CallContext { call: CallId::new(), run: Some(RunId::new()), ..ctx.clone() };
        for number in 0..count {
            let (gate, ctx) = (gate.clone(), ctx.clone());
            let path = format!("/{caller}/{number}");
            let mut asking = Box::pin(async move { (ask(&gate, &ctx, path.clone()).await, path) });
            // Once each, in this order, so that each has its place.
            let early = futures_util::future::poll_immediate(&mut asking).await;
            anyhow::ensure!(early.is_none(), "it cannot be over yet");
            all.push(asking);
        }
    }
    let all = all.into_iter().map(|asking| tokio::spawn(asking));
    for (answer, path) in try_join_all(all).await? {
        assert_eq!(answer?, (200, path), "nothing is lost");
    }

    let arrivals: Value = reqwest::get(format!("{url}/arrivals")).await?.json().await?;
    let arrivals = arrivals.as_array().context("no list")?;
    let is_refused = |arrival: &&Value| arrival["refused"] == true;
    let refused = arrivals.iter().filter(is_refused).count();
    let answered: Vec<&str> =
        arrivals.iter().filter(|arrival| !is_refused(arrival)).filter_map(|arrival| arrival["path"].as_str()).collect();
    assert_eq!(answered.len(), 24);
    assert_eq!(answered.iter().collect::<BTreeSet<_>>().len(), 24, "each is carried out once");
    // Twice the quota ran out. What was under way then was refused, and nobody else went on asking.
    assert!((2..=2 * IN_FLIGHT).contains(&refused), "{refused} were refused: {arrivals:?}");

    // Every second request is the modest one's, from where it came into the line: after those that were under way, and
    // those that were refused went to the end.
    let last = answered.iter().rposition(|path| path.starts_with("/modest")).context("none")?;
    assert!(last < QUOTA + 2 * IN_FLIGHT, "the modest one was served at last as number {last}: {answered:?}");

    // Every attempt is on record.
    drop(gate);
    let mut sends = 0;
    let mut count = 0;
    while let Some(record) = records.recv().await {
        let AuditEvent::RequestSent { sends: counted, status: Some(200), .. } = record.event else {
            // The server does not send the credential back.
            panic!("{record:?}");
        };
        sends += counted as usize;
        count += 1;
    }
    assert_eq!((count, sends), (24, arrivals.len()));
    Ok(())
}
