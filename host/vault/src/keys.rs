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
    store::{TenantKeyRow, TenantKeyState, VaultStore},
};

/// How old the keys in memory may be when something is sealed. A process that does not know of a new tenant
/// key goes on sealing under the old one for this long at most, and the old one is kept far longer
/// ([`crate::rotate`]).
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

#[derive(Default)]
struct TenantKeys {
    active: Option<Arc<TenantKey>>,
    all: BTreeMap<u32, Arc<TenantKey>>,
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
    pub(crate) fn seal(&self, place: &Place<'_>, plaintext: &[u8]) -> Result<Vec<u8>, VaultError> {
        self.active(place.tenant)?.seal(place, plaintext)
    }

    /// Opens what was sealed at `place`. [`Keyring::open_fresh`] is what a caller wants: it reads the keys
    /// again where another process has added the one that is asked for.
    pub(crate) fn open(&self, place: &Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let version = seal::key_version(place, sealed)?;
        let key = self.read(|state| state.tenants.get(place.tenant)?.all.get(&version).cloned());
        key.ok_or_else(|| VaultError::KeyUnknown { tenant: place.tenant.clone(), version })?.open(place, sealed)
    }

    /// [`Keyring::seal`], with the keys read again where they are older than a minute.
    pub(crate) async fn seal_fresh(
        &self,
        store: &dyn VaultStore,
        place: &Place<'_>,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
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
        sealed: &[u8],
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
        Ok(self.active(tenant)?.version())
    }

    /// Reads the keys again.
    pub(crate) async fn reload(&self, store: &dyn VaultStore) -> Result<(), VaultError> {
        let rows = store.tenant_keys().await?;
        match self.replace(&rows) {
            // A key that does not open although its root key is ours is damaged.
            Err(VaultError::Damaged { what }) => {
                let header = store.vault().await?.ok_or(VaultError::NotInitialised)?.header;
                Err(if header == self.header() { VaultError::Damaged { what } } else { VaultError::RootKeyReplaced })
            }
            result => result,
        }
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

    /// Makes the ring hold exactly `rows`. Keys that it has are not opened again, so a process goes on
    /// working when another has replaced the root key.
    fn replace(&self, rows: &[TenantKeyRow]) -> Result<(), VaultError> {
        let root = self.root();
        let mut tenants: HashMap<TenantId, TenantKeys> = HashMap::new();
        for row in rows {
            let known =
                self.read(|state| state.tenants.get(&row.tenant).and_then(|keys| keys.all.get(&row.version)).cloned());
            let key = match known {
                Some(key) => key,
                None => {
                    let key = root.open_tenant_key(&row.tenant, row.version, &row.wrapped)?;
                    Arc::new(TenantKey::new(&row.tenant, row.version, &key))
                }
            };
            let keys = tenants.entry(row.tenant.clone()).or_default();
            if row.state == TenantKeyState::Active {
                keys.active = Some(key.clone());
            }
            keys.all.insert(row.version, key);
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.tenants = tenants;
        state.read_at = Instant::now();
        Ok(())
    }

    fn active(&self, tenant: &TenantId) -> Result<Arc<TenantKey>, VaultError> {
        self.read(|state| state.tenants.get(tenant)?.active.clone())
            .ok_or_else(|| VaultError::TenantUnknown(tenant.clone()))
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use keyward_model::Principal;

    use super::*;
    use crate::testing::{self, KeyFile, MemoryStore, NoWire};

    #[tokio::test]
    async fn process_seals_under_a_new_key_a_minute_after_it_was_made() {
        let (store, key) = (Arc::new(MemoryStore::default()), KeyFile::generate());
        testing::initialise(&store, &key.source).await;
        let vault = testing::unlock(&store, &key.source, Arc::new(NoWire)).await;
        let other = testing::unlock(&store, &key.source, Arc::new(NoWire)).await;
        let tenant = TenantId::default();
        vault.rotate(&tenant, &Principal::local_administrator()).await.unwrap();

        let place = Place::of_credential(&tenant, "test", 1);
        let sealed = other.keyring.seal_fresh(&*store, &place, b"canary").await.unwrap();
        assert_eq!(seal::key_version(&place, &sealed).unwrap(), 1);
        let long_ago = Instant::now().checked_sub(FRESH + Duration::from_secs(1)).unwrap();
        other.keyring.state.write().unwrap().read_at = long_ago;
        let sealed = other.keyring.seal_fresh(&*store, &place, b"canary").await.unwrap();
        assert_eq!(seal::key_version(&place, &sealed).unwrap(), 2);
    }

    #[tokio::test]
    async fn tenant_without_a_key_seals_nothing() {
        let (store, key) = (Arc::new(MemoryStore::default()), KeyFile::generate());
        testing::initialise(&store, &key.source).await;
        let vault = testing::unlock(&store, &key.source, Arc::new(NoWire)).await;
        let other = "other".parse().unwrap();
        let error = vault.keyring.seal(&Place::of_credential(&other, "test", 1), b"canary").unwrap_err();
        assert!(matches!(error, VaultError::TenantUnknown(_)), "{error}");
    }
}
