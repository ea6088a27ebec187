//! How the crates are put together, on one screen:
//!
//! ```text
//! Store ─► Registry ─────────────┐
//!   │  └─► Vault ◄── HttpWire     ▼
//!   │        └────────► Gate ◄─ Directory (rules, resolution)
//!   │                     └─► Runtime ◄┘
//!   └─► Engine ◄─ Audited ◄──────┘
//! ```

use std::{sync::Arc, time::Duration};

use keyward_egress::{Audited, Authority, EgressError, Gate, HttpWire, WireConfig};
use keyward_flow::{Engine, Observer};
use keyward_model::Invoke;
use keyward_policy::{Operator, OperatorPolicy};
use keyward_registry::Registry;
use keyward_runtime::{Runtime, RuntimeConfig};
use keyward_store::Store;
use keyward_vault::{Catalogue, Vault, VaultOptions};

use crate::{
    commands::Context,
    config::{Config, TrustedFile},
    directory::Directory,
    failure::{Exit, Failure},
    files, secrets,
};

/// Until a server has accepted the connection and ended its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a run stays claimed by a process that was killed. The database is on this machine, so a short lease is
/// renewed in time, and `keyward runs resume` need not wait long.
const LEASE: Duration = Duration::from_secs(10);

/// What needs no key: the database and what rests in it.
pub(crate) struct Base {
    /// The configuration.
    pub(crate) config: Config,
    /// The database.
    pub(crate) store: Store,
    /// The installed connectors.
    pub(crate) registry: Arc<Registry>,
}

/// The base with an open vault.
pub(crate) struct Unlocked {
    /// What needs no key.
    pub(crate) base: Base,
    wire: Arc<HttpWire>,
    /// The vault.
    pub(crate) vault: Arc<Vault>,
}

/// What runs actions and flows.
pub(crate) struct Host {
    store: Store,
    /// Runs actions.
    pub(crate) invoke: Arc<dyn Invoke>,
}

impl Base {
    /// Opens the database of an existing installation.
    pub(crate) async fn open(context: &Context) -> Result<Self, Failure> {
        let config = context.config()?;
        if !config.database().is_file() {
            let message = format!("there is no Keyward installation in {}", config.data_dir.display());
            return Err(Failure::new(Exit::Environment, "not-initialised", message)
                .hint("set one up with `keyward init`, or name another directory with --data-dir"));
        }
        let store = Store::open(&config.database()).await?;
        let registry = Arc::new(Registry::new(Arc::new(store.clone()), config.plugins()));
        Ok(Self { config, store, registry })
    }

    /// Unlocks the vault with the configured key.
    pub(crate) async fn unlock(self, context: &Context) -> Result<Unlocked, Failure> {
        let source = self.config.key.as_ref().ok_or_else(|| {
            let message = format!("{} does not say where the root key is", self.config.file.display());
            Failure::new(Exit::Vault, "key-source-missing", message)
                .hint("write [vault] key = \"file:<path>\", \"passphrase\" or \"env:<NAME>\", or set KEYWARD_KEY")
                .hint("`keyward vault status` shows which kind of key the vault asks for")
        })?;
        let key = secrets::root_key(context.output, source)?;
        let wire = wire(&self.config)?;
        let options = VaultOptions { wire: wire.clone(), providers: Arc::new(catalogue(&self.config)?) };
        let vault = Vault::unlock(Arc::new(self.store.clone()), &key, options).await?;
        Ok(Unlocked { base: self, wire, vault: Arc::new(vault) })
    }
}

impl Host {
    /// Builds the road from a guest to the network over an open vault.
    /// `policy` is what `Current::in_force` gives.
    pub(crate) fn over(unlocked: Unlocked, policy: OperatorPolicy) -> Result<Self, Failure> {
        let Unlocked { base: Base { config, store, registry }, wire, vault } = unlocked;
        let operator = Operator { network: config.network.clone(), policy };
        let directory = Arc::new(Directory::new(registry, vault.clone(), operator, config.ceiling));
        let audit = Arc::new(store.clone());
        let gate = Gate::new(directory.clone(), vault, wire, audit, config.budgets.clone());
        let runtime = Runtime::new(runtime_config(&config), directory, Arc::new(gate))?;
        let invoke = Audited::new(Arc::new(runtime), Arc::new(store.clone()));
        Ok(Self { store, invoke: Arc::new(invoke) })
    }

    /// The engine for flows, which tells `observer` what it records.
    pub(crate) fn engine(&self, observer: Arc<dyn Observer>) -> Engine {
        Engine::new(Arc::new(self.store.clone()), self.invoke.clone()).observe(observer).lease(LEASE)
    }
}

/// The road out, with the operator's exceptions.
pub(crate) fn wire(config: &Config) -> Result<Arc<HttpWire>, Failure> {
    let named = |failure: Failure| {
        failure.hint(format!("[network] authorities in {} names it: correct that, or the file", config.file.display()))
    };
    let authority = |authority: &TrustedFile| {
        Ok(Authority { pem: files::read(&authority.file).map_err(named)?, hosts: authority.hosts.clone() })
    };
    let authorities = config.authorities.iter().map(authority).collect::<Result<_, Failure>>()?;
    let network = config.network.clone();
    let wire = HttpWire::new(WireConfig { network, authorities, connect_timeout: CONNECT_TIMEOUT });
    Ok(Arc::new(wire.map_err(|error| match error {
        EgressError::Authority { number, cause } => {
            let message =
                format!("cannot use the certificates in {}: {cause}", config.authorities[number - 1].file.display());
            named(Failure::new(Exit::BadInput, "authority-invalid", message))
        }
        error => error.into(),
    })?))
}

/// How guests are run.
pub(crate) fn runtime_config(config: &Config) -> RuntimeConfig {
    RuntimeConfig {
        cache_dir: config.cache(),
        max_concurrent_calls: config.max_concurrent_calls,
        ceiling: config.ceiling,
    }
}

/// The providers: the built-in ones and the operator's own.
pub(crate) fn catalogue(config: &Config) -> Result<Catalogue, Failure> {
    let catalogue = Catalogue::builtin();
    let own = config.providers();
    if own.is_dir() { Ok(catalogue.with_directory(&own)?) } else { Ok(catalogue) }
}
