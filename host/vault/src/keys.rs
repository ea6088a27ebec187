//! The keys of all tenants, opened and in memory.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use keyward_model::TenantId;
use zeroize::Zeroizing;

use crate::{
    aead,
    error::VaultError,
    header::Unlocked,
    seal::{self, Place, TenantKey},
    store::{Sealed, TenantKeyRow, TenantKeyState, VaultStore},
};

/// How old the keys in memory may be when something is sealed. A process that does not know of a new tenant
/// key goes on sealing under the old one for this long at most. Where the old one was removed meanwhile the store
/// refuses the write ([`crate::store::StoreError::KeyGone`]), and the writer seals again.
const FRESH: Duration = Duration::from_secs(60);

/// The keys of all tenants, opened and in memory.
pub(crate) struct Keyring {
    // A plain lock: it is held for a look-up and never across a wait.
    state: RwLock<State>,
}

struct State {
    root: Arc<Unlocked>,
    header: Vec<u8>,
    tenants: HashMap<TenantId, TenantKeys>,
    read_at: Instant,
}

type Tenants = HashMap<TenantId, TenantKeys>;

#[derive(Default)]
struct TenantKeys {
    active: Option<u32>,
    all: BTreeMap<u32, Known>,
}

#[derive(Clone)]
enum Known {
    Opened(Arc<TenantKey>),
    /// Wrapped, because it does not open. Whoever asks for it is told why; the other keys are not held up.
    Wrapped(Vec<u8>),
}

impl Keyring {
    /// A ring with the root key of the record `header`, and the store's tenant keys opened with it.
    pub(crate) async fn open_all(root: Unlocked, header: Vec<u8>, store: &dyn VaultStore) -> Result<Self, VaultError> {
        let (root, tenants) = (Arc::new(root), HashMap::new());
        let ring = Self { state: RwLock::new(State { root, header, tenants, read_at: Instant::now() }) };
        ring.reload(store).await?;
        Ok(ring)
    }

    /// Seals `plaintext` under the tenant's active key, as it was when the keys were last read.
    /// [`Keyring::seal_fresh`] is what a caller wants.
    pub(crate) fn seal(&self, place: &Place<'_>, plaintext: &[u8]) -> Result<Sealed, VaultError> {
        self.active(place.tenant)?.seal(place, plaintext)
    }

    /// Opens what was sealed at `place`. [`Keyring::open_fresh`] is what a caller wants: it reads the keys
    /// again where another process has added the one that is asked for.
    pub(crate) fn open(&self, place: &Place<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        self.key(place.tenant, seal::key_version(place, sealed)?)?.open(place, sealed)
    }

    /// [`Keyring::seal`], with the keys read again where they are older than a minute.
    pub(crate) async fn seal_fresh(
        &self,
        store: &dyn VaultStore,
        place: &Place<'_>,
        plaintext: &[u8],
    ) -> Result<Sealed, VaultError> {
        if self.read(|state| state.read_at.elapsed()) > FRESH {
            self.reload(store).await?;
        }
        self.seal(place, plaintext)
    }

    /// [`Keyring::open`], with the keys read again where the one that is asked for is not known.
    pub(crate) async fn open_fresh(
        &self,
        store: &dyn VaultStore,
        place: &Place<'_>,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        match self.open(place, sealed) {
            Err(VaultError::KeyUnknown { .. }) => {
                self.reload(store).await?;
                self.open(place, sealed)
            }
            result => result,
        }
    }

    /// A keyed fingerprint of `bytes`: equal for equal bytes in one tenant and under one label, also after
    /// the keys were rotated, and of no use to whoever has only the database.
    pub(crate) fn fingerprint(&self, tenant: &TenantId, label: &'static str, bytes: &[u8]) -> [u8; 32] {
        let info = aead::bind(&[b"keyward fingerprint", tenant.as_str().as_bytes(), label.as_bytes()]);
        let root = self.root();
        aead::mac(&aead::derive(root.seed.as_ref(), &[], &info), bytes)
    }

    /// The version that seals for `tenant` now.
    pub(crate) fn active_version(&self, tenant: &TenantId) -> Result<u32, VaultError> {
        self.read(|state| state.tenants.get(tenant)?.active).ok_or_else(|| VaultError::TenantUnknown(tenant.clone()))
    }

    /// Reads the keys again. One that does not open is told when it is asked for.
    ///
    /// # Errors
    /// [`VaultError::RootKeyReplaced`]; where no key at all opens, what is wrong with the first.
    pub(crate) async fn reload(&self, store: &dyn VaultStore) -> Result<(), VaultError> {
        let rows = store.tenant_keys().await?;
        let (tenants, mut faults) = self.opened(&rows);
        if !faults.is_empty() {
            // A key that does not open although its root key is ours is damaged.
            let header = store.vault().await?.ok_or(VaultError::NotInitialised)?.header;
            if header != self.header() {
                return Err(VaultError::RootKeyReplaced);
            }
            if faults.len() == rows.len() {
                return Err(faults.swap_remove(0));
            }
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.tenants = tenants;
        state.read_at = Instant::now();
        Ok(())
    }

    /// What is wrong with each key that does not open.
    pub(crate) fn faults(&self) -> Vec<VaultError> {
        let wrapped: Vec<(TenantId, u32)> = self.read(|state| {
            let keys = state.tenants.iter().flat_map(|(tenant, keys)| keys.all.iter().map(move |key| (tenant, key)));
            let wrapped = keys.filter(|(_, (_, known))| matches!(known, Known::Wrapped(_)));
            wrapped.map(|(tenant, (version, _))| (tenant.clone(), *version)).collect()
        });
        wrapped.iter().filter_map(|(tenant, version)| self.key(tenant, *version).err()).collect()
    }

    /// The opened root key.
    pub(crate) fn root(&self) -> Arc<Unlocked> {
        self.read(|state| state.root.clone())
    }

    /// The record that the root key belongs to.
    pub(crate) fn header(&self) -> Vec<u8> {
        self.read(|state| state.header.clone())
    }

    /// Takes another root key; the tenant keys stay what they are.
    pub(crate) fn replace_root(&self, root: Unlocked, header: Vec<u8>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.root = Arc::new(root);
        state.header = header;
    }

    /// The keys of `rows`, and what is wrong with those that do not open. Keys that the ring has are not opened
    /// again, so a process goes on working when another has replaced the root key.
    fn opened(&self, rows: &[TenantKeyRow]) -> (Tenants, Vec<VaultError>) {
        let root = self.root();
        let (mut tenants, mut faults) = (Tenants::new(), Vec::new());
        for row in rows {
            let known =
                self.read(|state| state.tenants.get(&row.tenant).and_then(|keys| keys.all.get(&row.version)).cloned());
            let key = match known {
                Some(Known::Opened(key)) => Known::Opened(key),
                _ => match open(&root, &row.tenant, row.version, &row.wrapped) {
                    Ok(key) => Known::Opened(key),
                    Err(fault) => {
                        faults.push(fault);
                        Known::Wrapped(row.wrapped.clone())
                    }
                },
            };
            let keys: &mut TenantKeys = tenants.entry(row.tenant.clone()).or_default();
            if row.state == TenantKeyState::Active {
                keys.active = Some(row.version);
            }
            keys.all.insert(row.version, key);
        }
        (tenants, faults)
    }

    fn active(&self, tenant: &TenantId) -> Result<Arc<TenantKey>, VaultError> {
        self.key(tenant, self.active_version(tenant)?)
    }

    fn key(&self, tenant: &TenantId, version: u32) -> Result<Arc<TenantKey>, VaultError> {
        match self.read(|state| state.tenants.get(tenant)?.all.get(&version).cloned()) {
            Some(Known::Opened(key)) => Ok(key),
            Some(Known::Wrapped(wrapped)) => open(&self.root(), tenant, version, &wrapped),
            None => Err(VaultError::KeyUnknown { tenant: tenant.clone(), version }),
        }
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn open(root: &Unlocked, tenant: &TenantId, version: u32, wrapped: &[u8]) -> Result<Arc<TenantKey>, VaultError> {
    let key = root.open_tenant_key(tenant, version, wrapped)?;
    Ok(Arc::new(TenantKey::new(tenant, version, &key)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use keyward_model::{ConnectionFacts, Principal};

    use super::*;
    use crate::{
        store::ConnectionRow,
        testing::{self, KeyFile, MemoryStore, NoWire},
    };

    #[tokio::test]
    async fn process_seals_under_a_new_key_a_minute_after_it_was_made() {
        let (store, key) = (Arc::new(MemoryStore::default()), KeyFile::generate());
        testing::initialise(&store, &key.source).await;
        let vault = testing::unlock(&store, &key.source, Arc::new(NoWire)).await;
        let other = testing::unlock(&store, &key.source, Arc::new(NoWire)).await;
        let tenant = TenantId::default();
        vault.rotate(&tenant, &Principal::local_administrator()).await.unwrap();

        let facts = testing::facts("test");
        let place = Place::of_credential(&facts, "test");
        let sealed = other.keyring.seal_fresh(&*store, &place, b"canary").await.unwrap();
        assert_eq!(sealed.key_version, 1);
        let long_ago = Instant::now().checked_sub(FRESH + Duration::from_secs(1)).unwrap();
        other.keyring.state.write().unwrap().read_at = long_ago;
        let sealed = other.keyring.seal_fresh(&*store, &place, b"canary").await.unwrap();
        assert_eq!(sealed.key_version, 2);
    }

    #[tokio::test]
    async fn damaged_key_holds_up_only_what_rests_under_it() {
        let (store, key) = (Arc::new(MemoryStore::default()), KeyFile::generate());
        testing::initialise(&store, &key.source).await;
        let vault = testing::unlock(&store, &key.source, Arc::new(NoWire)).await;
        let facts = testing::facts("test");
        let place = Place::of_credential(&facts, "test");
        let old = vault.keyring.seal(&place, b"old").unwrap();
        // A second key, beside which the first stays.
        store
            .insert_connection(
                &ConnectionRow { facts: testing::facts("holds"), sealed: old.clone(), refresh: None },
                &testing::audit(),
            )
            .await
            .unwrap();
        vault.rotate(&facts.tenant, &Principal::local_administrator()).await.unwrap();
        let new = vault.keyring.seal(&place, b"new").unwrap();
        for version in [1, 2] {
            let altered = |at: usize| store.tables().keys[at].wrapped[20] ^= 1;
            altered(version - 1);
            let again = testing::unlock(&store, &key.source, Arc::new(NoWire)).await;
            let [told] = &again.damaged_keys()[..] else { panic!("one key is damaged") };
            assert!(matches!(told, VaultError::KeyDamaged { version: told, .. } if *told as usize == version));
            assert_eq!(again.keyring.open(&place, &old).is_ok(), version == 2);
            assert_eq!(again.keyring.open(&place, &new).is_ok(), version == 1);
            assert_eq!(again.keyring.seal(&place, b"newer").is_ok(), version == 1);
            altered(version - 1);
        }
    }

    #[tokio::test]
    async fn tenant_without_a_key_seals_nothing() {
        let (store, key) = (Arc::new(MemoryStore::default()), KeyFile::generate());
        testing::initialise(&store, &key.source).await;
        let vault = testing::unlock(&store, &key.source, Arc::new(NoWire)).await;
        let other = ConnectionFacts { tenant: "other".parse().unwrap(), ..testing::facts("test") };
        let error = vault.keyring.seal(&Place::of_credential(&other, "test"), b"canary").unwrap_err();
        assert!(matches!(error, VaultError::TenantUnknown(_)), "{error}");
    }
}
