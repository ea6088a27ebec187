//! The whole stack in this process, as the binary puts it together, and the server it talks to.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use axum::{Json, Router, extract::Path as UrlPath, routing::get};
use keyward_egress::{BudgetConfig, Gate, HttpWire, RuleSource, WireConfig};
use keyward_model::{
    ActionCall, ActionName, CallContext, ConnectionId, ConnectionName, ConnectorId, Digest, GuestRequest,
    GuestResponse, Invoke as _, InvokeError, Outbound, Principal, Reason, SendError, SendErrorKind, TenantId,
    manifest::Limits,
};
use keyward_policy::{ActionRules, NetworkExceptions};
use keyward_runtime::{Catalog, Resolved, Runtime, RuntimeConfig};
use keyward_store::Store;
use keyward_vault::{Catalogue, NewConnection, RootKeySource, Secret, StaticCredential, Vault, VaultOptions};
use serde_json::{Value, json};

use super::load::Resident;

/// The bearer token of both sides.
pub(crate) const TOKEN: &str = "test-token-of-the-bench";

/// The canned server in a process of its own.
pub(crate) struct Server {
    child: Child,
    pub(crate) authority: String,
}

impl Server {
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut line)?;
        Ok(Self { child, authority: line.trim().to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers with ten issues; for the owner `wait`, only after ten minutes.
pub(crate) async fn canned_server() -> Result<()> {
    let router = Router::new().route(
        "/repos/{owner}/{repo}/issues",
        get(async |UrlPath((owner, _)): UrlPath<(String, String)>| {
            if owner == "wait" {
                tokio::time::sleep(Duration::from_secs(600)).await;
            }
            Json(issues())
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    #[expect(clippy::print_stdout, reason = "the parent reads the address")]
    {
        println!("{}", listener.local_addr()?);
    }
    // The end of standard input is the end of the parent.
    let parent = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    tokio::select! {
        served = async { axum::serve(listener, router).await } => Ok(served?),
        _ = parent => Ok(()),
    }
}

/// Ten issues, as the API gives them.
pub(crate) fn issues() -> Value {
    Value::Array((1..=10).map(issue).collect())
}

fn issue(number: u64) -> Value {
    json!({
        "id": number, "number": number, "title": format!("Issue number {number}"), "state": "open",
        "body": "A body of some length, so that the answer is as large as that of a real API for ten issues. ".repeat(2),
        "html_url": format!("https://github.com/octocat/hello-world/issues/{number}"),
        "user": {"login": "octocat", "id": 1}, "labels": [{"name": "bug"}], "comments": 0,
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-02T00:00:00Z",
    })
}

/// Resolves every call to one of two components.
struct Fixed {
    components: BTreeMap<String, (PathBuf, Digest)>,
    connection: Mutex<Option<ConnectionId>>,
    network: NetworkExceptions,
}

impl Fixed {
    fn manifest(&self, connector: &str) -> Result<(keyward_model::manifest::Manifest, &Path, Digest)> {
        let (path, digest) = self.components.get(connector).context("no such component")?;
        Ok((keyward_registry::artifact::read(&std::fs::read(path)?)?, path, *digest))
    }
}

/// What is read once and then kept, as the binary keeps it.
struct Kept {
    fixed: Fixed,
    resolved: Mutex<BTreeMap<String, Arc<Resolved>>>,
    rules: Mutex<BTreeMap<(Digest, ActionName), Arc<ActionRules>>>,
}

#[async_trait]
impl Catalog for Kept {
    async fn resolve(&self, call: &ActionCall) -> Result<Arc<Resolved>, InvokeError> {
        let key = call.action.to_string();
        if let Some(resolved) = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(resolved.clone());
        }
        let wrong = |error: anyhow::Error| {
            InvokeError::new(keyward_model::InvokeErrorKind::NotFound, Reason::ActionUnknown, error.to_string())
        };
        let (manifest, path, digest) = self.fixed.manifest(call.action.connector.as_str()).map_err(wrong)?;
        let action = manifest.actions.get(&call.action.action).context("no such action").map_err(wrong)?.clone();
        let resolved = Arc::new(Resolved {
            connector: ConnectorId { name: manifest.name, version: manifest.version, digest },
            component: path.to_owned(),
            action,
            connection: *self.fixed.connection.lock().unwrap_or_else(PoisonError::into_inner),
            limits: Limits { wall_ms: 600_000, ..Limits::default() },
        });
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).insert(key, resolved.clone());
        Ok(resolved)
    }
}

#[async_trait]
impl RuleSource for Kept {
    async fn rules(
        &self,
        _: &TenantId,
        connector: &ConnectorId,
        action: &ActionName,
    ) -> Result<Arc<ActionRules>, SendError> {
        let key = (connector.digest, action.clone());
        if let Some(rules) = self.rules.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(rules));
        }
        let wrong = |text: String| SendError::new(SendErrorKind::Other, Reason::Internal, text);
        let (manifest, ..) = self.fixed.manifest(connector.name.as_str()).map_err(|error| wrong(error.to_string()))?;
        let rules = ActionRules::compile(&manifest, action, &self.fixed.network.clone().into())
            .map_err(|errors| wrong(format!("{errors:?}")))?;
        let rules = Arc::new(rules);
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&rules));
        Ok(rules)
    }
}

/// No way out, for what needs none.
struct Closed;

#[async_trait]
impl Outbound for Closed {
    async fn send(&self, _: &CallContext, _: GuestRequest) -> Result<GuestResponse, SendError> {
        Err(SendError::new(SendErrorKind::Denied, Reason::HostNotAllowed, "there is no way out"))
    }

    async fn refused(&self, _: &CallContext, _: Reason) -> Result<(), SendError> {
        Ok(())
    }

    async fn clean(&self, _: &CallContext, _: &mut [&mut String]) -> Result<u64, SendError> {
        Ok(0)
    }

    async fn ended(&self, _: &CallContext) -> Result<(), SendError> {
        Ok(())
    }
}

/// A runtime for loading one component.
pub(crate) fn bare_runtime(component: &Path, cache: &Path) -> Result<Runtime> {
    let fixed = Fixed {
        components: BTreeMap::from([("any".to_owned(), (component.to_owned(), digest(component)?))]),
        connection: Mutex::default(),
        network: NetworkExceptions::default(),
    };
    Ok(Runtime::new(config(cache), Arc::new(kept(fixed)), Arc::new(Closed))?)
}

/// The digest of a file.
pub(crate) fn digest(path: &Path) -> Result<Digest> {
    Ok(keyward_registry::artifact::digest(&std::fs::read(path)?))
}

fn kept(fixed: Fixed) -> Kept {
    Kept { fixed, resolved: Mutex::default(), rules: Mutex::default() }
}

fn config(cache: &Path) -> RuntimeConfig {
    RuntimeConfig { cache_dir: cache.join("cache"), max_concurrent_calls: 1100, ceiling: Limits::default_ceiling() }
}

/// Everything, with one connection.
pub(crate) struct Stack {
    pub(crate) runtime: Arc<Runtime>,
    directory: PathBuf,
    connection: ConnectionName,
}

impl Stack {
    pub(crate) async fn new(directory: &Path, authority: &str) -> Result<Self> {
        let tenant = TenantId::default();
        let principal = Principal::local_administrator();
        let port = authority.rsplit(':').next().context("no port")?;
        let network: NetworkExceptions = serde_json::from_value(json!({
            "private": [format!("127.0.0.1/32:{port}")],
            "http": [authority],
        }))?;

        let store = Store::open(&directory.join("keyward.db")).await?;
        let key = directory.join("root.key");
        RootKeySource::generate_file(&key)?;
        let key = RootKeySource::File(key);
        Vault::initialise(&store, &key, &tenant, &principal).await?;
        let wire = Arc::new(HttpWire::new(WireConfig {
            network: network.clone(),
            authorities: Vec::new(),
            connect_timeout: Duration::from_secs(10),
        })?);
        let options = VaultOptions { wire: wire.clone(), providers: Arc::new(Catalogue::builtin()) };
        let vault = Arc::new(Vault::unlock(Arc::new(store.clone()), &key, options).await?);
        let connection: ConnectionName = "bench".parse()?;
        let new = NewConnection {
            tenant,
            principal,
            name: connection.clone(),
            owner: None,
            provider: "github".to_owned(),
            issuer: None,
            client: Default::default(),
            scopes: BTreeSet::from(["repo".to_owned()]),
            fields: BTreeMap::new(),
            endpoints: BTreeMap::from([("api".to_owned(), format!("http://{authority}"))]),
            reconnect: None,
        };
        let facts = vault.connect_static(new, StaticCredential::Bearer(Secret::from(TOKEN.to_owned()))).await?;

        let mut components = BTreeMap::new();
        for name in ["hello", "github"] {
            let path = keyward_harness::keyward::guest(name)?;
            let digest = digest(&path)?;
            components.insert(name.to_owned(), (path, digest));
        }
        let kept = Arc::new(kept(Fixed { components, connection: Mutex::new(Some(facts.id)), network }));
        let gate = Gate::new(kept.clone(), vault, wire, Arc::new(store), BudgetConfig::default());
        let runtime = Arc::new(Runtime::new(config(directory), kept, Arc::new(gate))?);
        Ok(Self { runtime, directory: directory.to_owned(), connection })
    }

    fn call(&self, action: &str, input: Value) -> ActionCall {
        ActionCall {
            tenant: TenantId::default(),
            principal: Principal::local_administrator(),
            on_behalf_of: None,
            flow: None,
            run: None,
            step: None,
            attempt: 1,
            #[expect(clippy::expect_used, reason = "the name is a constant")]
            action: action.parse().expect("a valid name"),
            connection: Some(self.connection.clone()),
            input,
            idempotency_key: "bench".to_owned(),
        }
    }

    /// A call without HTTP.
    pub(crate) fn ping(&self) -> ActionCall {
        self.call("hello.hello", json!({"name": "bench"}))
    }

    /// A call with one request.
    pub(crate) fn list_issues(&self) -> ActionCall {
        self.call("github.list-issues", json!({"owner": "octocat", "repository": "hello-world"}))
    }

    /// Loads copies of a connector that differ in one custom section, as different connectors do.
    pub(crate) async fn load_copies(&self, count: usize) -> Result<()> {
        let original = std::fs::read(keyward_harness::keyward::guest("github")?)?;
        for index in 0..count {
            let mut copy = original.clone();
            let name = format!("copy-{index:04}");
            // A custom section: id 0, its size, the size of its name, its name (WebAssembly core 5.5.3).
            copy.extend([0, name.len() as u8 + 1, name.len() as u8]);
            copy.extend(name.as_bytes());
            let path = self.directory.join(format!("{name}.wasm"));
            std::fs::write(&path, &copy)?;
            self.runtime.precompile(&path, &digest(&path)?).await?;
        }
        Ok(())
    }

    /// Starts `count` calls whose request is not answered, and tells the resident memory while they wait.
    pub(crate) async fn hold(&self, count: usize) -> Result<Resident> {
        let call = self.call("github.list-issues", json!({"owner": "wait", "repository": "hello-world"}));
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let (runtime, call) = (Arc::clone(&self.runtime), call.clone());
                tokio::spawn(async move { runtime.invoke(call).await })
            })
            .collect();
        // They have all reached the server when the memory no longer grows.
        let mut resident = Resident::now()?;
        let mut steady = 0;
        while steady < 10 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = Resident::now()?;
            steady = if (now.anonymous - resident.anonymous).abs() < 512.0 { steady + 1 } else { 0 };
            resident = now;
        }
        anyhow::ensure!(tasks.iter().all(|task| !task.is_finished()), "a call ended early");
        for task in tasks {
            task.abort();
        }
        Ok(resident)
    }
}
