//! What the tests of this crate share: a store in memory that keeps the contract of [`VaultStore`], and a
//! vault over it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use keyward_model::{
    AuditEvent, AuditRecord, ConnectionFacts, ConnectionId, ConnectionName, ConnectionState, Principal, TenantId,
};
use time::OffsetDateTime;

use crate::{
    root::RootKeySource,
    store::{
        ConnectionRow, Lease, PendingAuthorization, Sealed, StoreError, TenantKeyRow, TenantKeyState, VaultRow,
        VaultStore,
    },
    vault::{Vault, VaultOptions},
    wire::Wire,
};

/// What another process does to the tables.
pub(crate) type Interference = Box<dyn FnOnce(&mut Tables) + Send>;

/// [`VaultStore`] in memory.
#[derive(Default)]
pub(crate) struct MemoryStore {
    tables: Mutex<Tables>,
}

#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) vault: Option<VaultRow>,
    pub(crate) keys: Vec<TenantKeyRow>,
    pub(crate) connections: BTreeMap<(String, ConnectionId), ConnectionRow>,
    pub(crate) leases: HashMap<ConnectionId, (Lease, Option<Instant>)>,
    pub(crate) pending: Vec<PendingAuthorization>,
    pub(crate) audit: Vec<AuditRecord>,
    /// Is told when a connection was added.
    pub(crate) on_insert: Option<Arc<tokio::sync::Notify>>,
    /// Whether the disk is full when a connection is written.
    pub(crate) disk_full: bool,
    /// Runs once, before the next write to a connection: another process that gets in the way.
    pub(crate) before_update: Option<Interference>,
    /// The same before the next write to the vault's keys.
    pub(crate) before_keys: Option<Interference>,
    /// The same after the next authorization was taken.
    pub(crate) after_take: Option<Interference>,
}

impl MemoryStore {
    /// The tables, to look into and to tamper with.
    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    /// The `change` of every audit record, in order.
    pub(crate) fn audited(&self) -> Vec<String> {
        let change = |record: &AuditRecord| match &record.event {
            AuditEvent::Vault { change } | AuditEvent::Connection { change } => change.clone(),
            other => format!("{other:?}"),
        };
        self.tables().audit.iter().map(change).collect()
    }
}

impl Tables {
    fn vault_at(&mut self, seen: u64) -> Result<&mut VaultRow, StoreError> {
        if let Some(act) = self.before_keys.take() {
            act(self);
        }
        self.vault.as_mut().filter(|vault| vault.row_version == seen).ok_or(StoreError::Conflict)
    }
}

impl Tables {
    /// A sealed value rests under a key that is there.
    fn has_key_of(&self, tenant: &TenantId, sealed: &Sealed) -> Result<(), StoreError> {
        let there = self.keys.iter().any(|key| key.tenant == *tenant && key.version == sealed.key_version);
        if there { Ok(()) } else { Err(StoreError::KeyGone) }
    }

    /// Whether something rests under a key.
    fn is_used(&self, tenant: &TenantId, version: u32) -> bool {
        let connections = self.connections.values().map(|row| (&row.facts.tenant, &row.sealed));
        let pending = self.pending.iter().map(|pending| (&pending.tenant, &pending.sealed));
        connections.chain(pending).any(|(of, sealed)| of == tenant && sealed.key_version == version)
    }
}

fn key(tenant: &TenantId, id: &ConnectionId) -> (String, ConnectionId) {
    (tenant.as_str().to_owned(), *id)
}

#[async_trait]
impl VaultStore for MemoryStore {
    async fn vault(&self) -> Result<Option<VaultRow>, StoreError> {
        Ok(self.tables().vault.clone())
    }

    async fn create_vault(&self, header: &[u8], key: &TenantKeyRow, audit: &AuditRecord) -> Result<(), StoreError> {
        let mut tables = self.tables();
        if tables.vault.is_some() {
            return Err(StoreError::Conflict);
        }
        tables.vault = Some(VaultRow { header: header.to_vec(), row_version: 1 });
        tables.keys.push(key.clone());
        tables.audit.push(audit.clone());
        Ok(())
    }

    async fn rekey_vault(
        &self,
        seen: u64,
        header: &[u8],
        keys: &[TenantKeyRow],
        audit: &AuditRecord,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let vault = tables.vault_at(seen)?;
        vault.header = header.to_vec();
        vault.row_version += 1;
        tables.keys = keys.to_vec();
        tables.audit.push(audit.clone());
        Ok(())
    }

    async fn tenant_keys(&self) -> Result<Vec<TenantKeyRow>, StoreError> {
        Ok(self.tables().keys.clone())
    }

    async fn add_tenant_key(&self, seen: u64, key: &TenantKeyRow, audit: &AuditRecord) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.vault_at(seen)?.row_version += 1;
        if key.state == TenantKeyState::Active {
            tables.keys.iter_mut().filter(|row| row.tenant == key.tenant).for_each(|row| {
                row.state = TenantKeyState::DecryptOnly;
            });
        }
        tables.keys.push(key.clone());
        tables.audit.push(audit.clone());
        Ok(())
    }

    async fn remove_tenant_key(
        &self,
        tenant: &TenantId,
        version: u32,
        audit: &AuditRecord,
    ) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let Some(at) = tables.keys.iter().position(|row| row.tenant == *tenant && row.version == version) else {
            return Ok(true);
        };
        if tables.keys[at].state == TenantKeyState::Active {
            return Err(StoreError::Conflict);
        }
        let now = OffsetDateTime::now_utc();
        tables.pending.retain(|pending| pending.expires_at > now);
        if tables.is_used(tenant, version) {
            return Ok(false);
        }
        tables.keys.remove(at);
        if let Some(vault) = &mut tables.vault {
            vault.row_version += 1;
        }
        tables.audit.push(audit.clone());
        Ok(true)
    }

    async fn connections_under_other_keys(
        &self,
        tenant: &TenantId,
        version: u32,
    ) -> Result<Vec<ConnectionId>, StoreError> {
        let tables = self.tables();
        let rows = tables.connections.values();
        let others = rows.filter(|row| row.facts.tenant == *tenant && row.sealed.key_version != version);
        Ok(others.map(|row| row.facts.id).collect())
    }

    async fn connections(&self, tenant: &TenantId) -> Result<Vec<ConnectionFacts>, StoreError> {
        let tables = self.tables();
        let mut facts: Vec<_> =
            tables.connections.values().map(|row| row.facts.clone()).filter(|facts| facts.tenant == *tenant).collect();
        facts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(facts)
    }

    async fn connection(&self, tenant: &TenantId, id: &ConnectionId) -> Result<Option<ConnectionRow>, StoreError> {
        Ok(self.tables().connections.get(&key(tenant, id)).cloned())
    }

    async fn connection_id(
        &self,
        tenant: &TenantId,
        name: &ConnectionName,
    ) -> Result<Option<ConnectionId>, StoreError> {
        let facts = self.connections(tenant).await?;
        Ok(facts.into_iter().find(|facts| facts.name == *name).map(|facts| facts.id))
    }

    async fn insert_connection(&self, row: &ConnectionRow, audit: &AuditRecord) -> Result<(), StoreError> {
        assert_eq!(row.facts.row_version, 1, "a new row has version 1");
        let mut tables = self.tables();
        let facts = &row.facts;
        if tables.connections.values().any(|other| other.facts.tenant == facts.tenant && other.facts.name == facts.name)
        {
            return Err(StoreError::NameTaken(facts.name.to_string()));
        }
        tables.has_key_of(&facts.tenant, &row.sealed)?;
        tables.connections.insert(key(&facts.tenant, &facts.id), row.clone());
        tables.audit.push(audit.clone());
        if let Some(told) = &tables.on_insert {
            told.notify_one();
        }
        Ok(())
    }

    async fn update_connection(
        &self,
        seen: u64,
        row: &ConnectionRow,
        lease: Option<Lease>,
        audit: Option<&AuditRecord>,
    ) -> Result<(), StoreError> {
        assert_eq!(row.facts.row_version, seen + 1, "an update has the next version");
        let mut tables = self.tables();
        if tables.disk_full {
            return Err(StoreError::DiskFull);
        }
        if let Some(act) = tables.before_update.take() {
            act(&mut tables);
        }
        let newest = tables.leases.get(&row.facts.id).map(|(lease, _)| *lease);
        if lease.is_some() && lease != newest {
            return Err(StoreError::Conflict);
        }
        let key = key(&row.facts.tenant, &row.facts.id);
        if tables.connections.get(&key).is_none_or(|stored| stored.facts.row_version != seen) {
            return Err(StoreError::Conflict);
        }
        tables.has_key_of(&row.facts.tenant, &row.sealed)?;
        tables.connections.insert(key, row.clone());
        tables.audit.extend(audit.cloned());
        Ok(())
    }

    async fn delete_connection(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        seen: u64,
        audit: &AuditRecord,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        match tables.connections.get(&key(tenant, id)) {
            Some(stored) if stored.facts.row_version == seen => {}
            _ => return Err(StoreError::Conflict),
        }
        tables.connections.remove(&key(tenant, id));
        tables.audit.push(audit.clone());
        Ok(())
    }

    async fn lease_refresh(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let mut tables = self.tables();
        if !tables.connections.contains_key(&key(tenant, id)) {
            return Err(StoreError::Conflict);
        }
        let now = Instant::now();
        let entry = tables.leases.entry(*id).or_insert((Lease { fence: 0 }, None));
        if entry.1.is_some_and(|end| end > now) {
            return Ok(None);
        }
        *entry = (Lease { fence: entry.0.fence + 1 }, Some(now + ttl));
        Ok(Some(entry.0))
    }

    async fn release_refresh(&self, _tenant: &TenantId, id: &ConnectionId, lease: Lease) -> Result<(), StoreError> {
        if let Some(entry) = self.tables().leases.get_mut(id).filter(|entry| entry.0 == lease) {
            entry.1 = None;
        }
        Ok(())
    }

    async fn put_pending(&self, pending: &PendingAuthorization) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let now = OffsetDateTime::now_utc();
        tables.pending.retain(|other| other.expires_at > now);
        tables.has_key_of(&pending.tenant, &pending.sealed)?;
        tables.pending.push(pending.clone());
        Ok(())
    }

    async fn take_pending(&self, state_hash: &[u8; 32]) -> Result<Option<PendingAuthorization>, StoreError> {
        let mut tables = self.tables();
        let at = tables.pending.iter().position(|pending| pending.state_hash == *state_hash);
        let taken = at.map(|at| tables.pending.remove(at));
        if let Some(act) = tables.after_take.take() {
            act(&mut tables);
        }
        Ok(taken)
    }
}

/// A record of a change that no test looks at.
pub(crate) fn audit() -> AuditRecord {
    crate::vault::audit(&TenantId::default(), &Principal::local_administrator(), "test")
}

/// A key file in a folder of its own; a file rather than a passphrase, because that takes no time to derive.
pub(crate) struct KeyFile {
    _folder: tempfile::TempDir,
    pub(crate) source: RootKeySource,
}

impl KeyFile {
    pub(crate) fn generate() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        RootKeySource::generate_file(&path).unwrap();
        Self { _folder: folder, source: RootKeySource::File(path) }
    }
}

/// Initialises the vault of `store` for the default tenant.
pub(crate) async fn initialise(store: &Arc<MemoryStore>, source: &RootKeySource) {
    Vault::initialise(&**store, source, &TenantId::default(), &Principal::local_administrator()).await.unwrap();
}

/// One more process on `store`.
pub(crate) async fn unlock(store: &Arc<MemoryStore>, source: &RootKeySource, wire: Arc<dyn Wire>) -> Vault {
    Vault::unlock(store.clone(), source, options(wire)).await.unwrap()
}

/// Options with the built-in providers.
pub(crate) fn options(wire: Arc<dyn Wire>) -> VaultOptions {
    VaultOptions { wire, providers: Arc::new(crate::provider::Catalogue::builtin()) }
}

/// A wire for tests that send nothing.
pub(crate) struct NoWire;

#[async_trait]
impl Wire for NoWire {
    async fn exchange(
        &self,
        request: crate::wire::WireRequest,
    ) -> Result<crate::wire::WireResponse, crate::wire::WireError> {
        panic!("{request:?} was sent")
    }
}

/// The facts of an active connection named `name`, in its first row version.
pub(crate) fn facts(name: &str) -> ConnectionFacts {
    let now = OffsetDateTime::now_utc();
    ConnectionFacts {
        tenant: TenantId::default(),
        id: ConnectionId::new(),
        name: name.parse().unwrap(),
        owner: None,
        provider: "github".to_owned(),
        method: "bearer".to_owned(),
        account: None,
        granted_scopes: Default::default(),
        scopes_assumed: false,
        endpoints: Default::default(),
        state: ConnectionState::Active,
        expires_at: None,
        created_at: now,
        updated_at: now,
        row_version: 1,
    }
}
