//! The connectors that are ready to be called.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use keyward_model::{ActionName, Digest, InvokeError, InvokeErrorKind, Reason};
use tokio::sync::OnceCell;
use wasmtime::{
    Engine,
    component::{Component, HasSelf, Linker},
};

use crate::{
    Resolved, RuntimeError,
    bindings::v0_1::{Connector, ConnectorPre},
    cache::Cache,
    call::CallState,
    check,
    schema::Schemas,
    wasi,
};

/// So many connectors are kept ready; the one that was not called for longest makes room. One costs about
/// 23 KiB beside its file, and 0.2 ms to load again.
const MAX_READY: usize = 1_024;

/// All that are ready, by digest.
pub(crate) struct Connectors {
    engine: Engine,
    cache: Arc<Cache>,
    linkers: Arc<Linkers>,
    ready: Mutex<HashMap<Digest, Arc<Ready>>>,
    /// Counts look-ups, to tell which one was longest ago.
    uses: AtomicU64,
}

/// What connectors are linked with.
struct Linkers {
    /// The contract only.
    contract: Linker<CallState>,
    /// The contract and WASI.
    wasi: Linker<CallState>,
}

/// One connector.
#[derive(Default)]
pub(crate) struct Ready {
    component: OnceCell<ConnectorPre<CallState>>,
    schemas: Mutex<HashMap<ActionName, Arc<OnceCell<Arc<Schemas>>>>>,
    used: AtomicU64,
}

impl Connectors {
    /// None yet.
    pub(crate) fn new(engine: &Engine, cache: Cache) -> Result<Self, RuntimeError> {
        let linkers =
            Linkers::new(engine).map_err(|error| RuntimeError::Engine { message: format!("{error:#}"), hint: None })?;
        Ok(Self {
            engine: engine.clone(),
            cache: Arc::new(cache),
            linkers: Arc::new(linkers),
            ready: Mutex::default(),
            uses: AtomicU64::new(0),
        })
    }

    /// The place of the connector with `digest`; it may have to be loaded still.
    pub(crate) fn get(&self, digest: &Digest) -> Arc<Ready> {
        let now = self.uses.fetch_add(1, Ordering::Relaxed);
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = ready.get(digest) {
            found.used.store(now, Ordering::Relaxed);
            return found.clone();
        }
        if ready.len() >= MAX_READY {
            let oldest =
                ready.iter().min_by_key(|(_, ready)| ready.used.load(Ordering::Relaxed)).map(|(digest, _)| *digest);
            oldest.and_then(|digest| ready.remove(&digest));
        }
        let new = Arc::new(Ready::default());
        new.used.store(now, Ordering::Relaxed);
        ready.insert(*digest, new.clone());
        new
    }

    /// Forgets what was compiled of components that `used` does not name.
    pub(crate) async fn retain(&self, used: BTreeSet<Digest>) -> io::Result<()> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).retain(|digest, _| used.contains(digest));
        let cache = self.cache.clone();
        tokio::task::spawn_blocking(move || cache.retain(&used)).await?
    }

    /// Loads the connector from the cache or compiles it, once for all who ask at the same time.
    pub(crate) async fn load<'a>(
        &self,
        ready: &'a Ready,
        digest: &Digest,
        source: &Path,
    ) -> Result<&'a ConnectorPre<CallState>, RuntimeError> {
        let load = || async {
            let (engine, cache, linkers) = (self.engine.clone(), self.cache.clone(), self.linkers.clone());
            let (digest, source) = (*digest, source.to_owned());
            // Compiling keeps a thread busy for as long as it takes.
            let loading = tokio::task::spawn_blocking(move || linkers.prepare(&engine, &cache.load(&digest, &source)?));
            loading.await.unwrap_or_else(|panic| {
                Err(RuntimeError::Engine { message: format!("the compiler failed: {panic}"), hint: None })
            })
        };
        ready.component.get_or_try_init(load).await
    }
}

impl Ready {
    /// The compiled schemas of one action, once for all who ask at the same time.
    pub(crate) async fn schemas(
        &self,
        name: &ActionName,
        resolved: &Arc<Resolved>,
    ) -> Result<Arc<Schemas>, InvokeError> {
        let place = self.place(name);
        let compile = || async {
            let resolved = resolved.clone();
            // Patterns can keep a thread busy for a part of a second.
            let compiling = tokio::task::spawn_blocking(move || Schemas::compile(&resolved.action).map(Arc::new));
            compiling.await.unwrap_or_else(|panic| {
                let message = format!("the schemas could not be compiled: {panic}");
                Err(InvokeError::new(InvokeErrorKind::Internal, Reason::Internal, message))
            })
        };
        place.get_or_try_init(compile).await.cloned()
    }

    /// Where the schemas of one action are, or will be.
    fn place(&self, name: &ActionName) -> Arc<OnceCell<Arc<Schemas>>> {
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        match schemas.get(name) {
            Some(place) => place.clone(),
            None => schemas.entry(name.clone()).or_default().clone(),
        }
    }
}

impl Linkers {
    fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let mut contract = Linker::new(engine);
        Connector::add_to_linker::<_, HasSelf<_>>(&mut contract, |state: &mut CallState| state)?;
        let mut with_wasi = contract.clone();
        wasi::link(&mut with_wasi)?;
        Ok(Self { contract, wasi: with_wasi })
    }

    /// Links `component` as far as that is possible before a call.
    fn prepare(&self, engine: &Engine, component: &Component) -> Result<ConnectorPre<CallState>, RuntimeError> {
        let ty = component.component_type();
        let needs = check::needs(ty.imports(engine).map(|(name, _)| name), ty.exports(engine).map(|(name, _)| name))?;
        let prepare = || {
            let instance = if needs.sockets {
                let mut linker = self.wasi.clone();
                wasi::deny_sockets(engine, &mut linker, component)?;
                linker.instantiate_pre(component)?
            } else if needs.wasi {
                self.wasi.instantiate_pre(component)?
            } else {
                self.contract.instantiate_pre(component)?
            };
            ConnectorPre::new(instance)
        };
        prepare().map_err(|error| {
            RuntimeError::unsuitable(
                format!("the component does not fit the contract: {error:#}"),
                "build it again with the SDK of this version of Keyward",
            )
        })
    }
}
