//! The vault itself: made once, unlocked by each process.

use std::sync::Arc;

use keyward_model::{AuditEvent, AuditRecord, Principal, TenantId};
use time::OffsetDateTime;

use crate::{
    aead,
    digest::Sessions,
    error::VaultError,
    header::Parameters,
    keys::Keyring,
    provider::Catalogue,
    refresh::{Clock, Turns},
    root::{Derivation, RootKeyKind, RootKeySource},
    rows::Rows,
    store::{StoreError, TenantKeyRow, TenantKeyState, VaultStore},
    wire::Wire,
};

/// An unlocked vault. It is a handle: copies share keys and state.
#[derive(Clone)]
pub struct Vault {
    pub(crate) store: Arc<dyn VaultStore>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) wire: Arc<dyn Wire>,
    pub(crate) providers: Arc<Catalogue>,
    pub(crate) rows: Arc<Rows>,
    pub(crate) turns: Arc<Turns>,
    pub(crate) digests: Arc<Sessions>,
    pub(crate) clock: Clock,
}

/// What an unlocked vault works with.
pub struct VaultOptions {
    /// The road to the providers' own endpoints.
    pub wire: Arc<dyn Wire>,
    /// The providers it knows.
    pub providers: Arc<Catalogue>,
}

/// What can be told about a vault without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultStatus {
    /// `None` where there is no vault yet.
    pub root_key: Option<RootKeyStatus>,
    /// The tenant keys, by tenant and version.
    pub keys: Vec<TenantKeyStatus>,
}

/// How the root key is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootKeyStatus {
    /// From what kind of source.
    pub source: RootKeyKind,
    /// PBKDF2-HMAC-SHA512 iterations; `None` where the source is the key itself.
    pub pbkdf2_iterations: Option<u32>,
}

/// One tenant key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantKeyStatus {
    /// Whose key it is.
    pub tenant: TenantId,
    /// From 1.
    pub version: u32,
    /// Whether new objects are sealed under it.
    pub state: TenantKeyState,
    /// When it was made. Rotate it after 90 days.
    pub created_at: OffsetDateTime,
}

impl Vault {
    /// Makes the vault of an installation, with a first key for `tenant`. With a passphrase it takes some
    /// tenths of a second.
    ///
    /// # Errors
    /// [`VaultError::AlreadyInitialised`]; [`VaultError::Passphrase`], [`VaultError::KeyFile`] or
    /// [`VaultError::KeyVariable`] where the source cannot be used; [`VaultError::Store`].
    pub async fn initialise(
        store: &dyn VaultStore,
        source: &RootKeySource,
        tenant: &TenantId,
        principal: &Principal,
    ) -> Result<(), VaultError> {
        if store.vault().await?.is_some() {
            return Err(VaultError::AlreadyInitialised);
        }
        source.check_strength()?;
        let parameters = Parameters::fresh(source)?;
        let root_key = source.root_key(parameters.derivation, &parameters.salt).await?;
        let (header, root) = parameters.write(&root_key, &aead::random_key()?)?;
        let key = TenantKeyRow {
            tenant: tenant.clone(),
            version: 1,
            state: TenantKeyState::Active,
            wrapped: root.wrap_tenant_key(tenant, 1, &aead::random_key()?)?,
            created_at: OffsetDateTime::now_utc(),
        };
        match store.create_vault(&header, &key, &audit(tenant, principal, "initialised")).await {
            Err(StoreError::Conflict) => Err(VaultError::AlreadyInitialised),
            result => Ok(result?),
        }
    }

    /// Opens the vault. With a passphrase it takes some tenths of a second, once for each process.
    ///
    /// # Errors
    /// [`VaultError::NotInitialised`]; [`VaultError::WrongKey`] or [`VaultError::WrongSource`] where it is
    /// not the key that the vault was initialised with; [`VaultError::Newer`] where newer software wrote the
    /// vault; [`VaultError::Damaged`] and [`VaultError::WeakDerivation`] where its record was altered;
    /// [`VaultError::KeyDamaged`] where not one tenant key opens; the errors of the source.
    pub async fn unlock(
        store: Arc<dyn VaultStore>,
        source: &RootKeySource,
        options: VaultOptions,
    ) -> Result<Vault, VaultError> {
        let header = store.vault().await?.ok_or(VaultError::NotInitialised)?.header;
        let parameters = Parameters::parse(&header)?;
        let root_key = source.root_key(parameters.derivation, &parameters.salt).await?;
        let root = parameters.open(&header, &root_key)?;
        let keyring = Keyring::open_all(root, header, &*store).await?;
        Ok(Vault {
            store,
            keyring: Arc::new(keyring),
            wire: options.wire,
            providers: options.providers,
            rows: Arc::default(),
            turns: Arc::default(),
            digests: Arc::default(),
            clock: Clock::default(),
        })
    }

    /// What is wrong with each tenant key that does not open. Such a key does not keep the vault from being unlocked
    /// as long as another one opens; what rests under it cannot be used.
    pub fn damaged_keys(&self) -> Vec<VaultError> {
        self.keyring.faults()
    }

    /// What can be told about the vault without its key.
    ///
    /// # Errors
    /// [`VaultError::Newer`], [`VaultError::Damaged`] and [`VaultError::WeakDerivation`] as for
    /// [`Vault::unlock`]; [`VaultError::Store`].
    pub async fn status(store: &dyn VaultStore) -> Result<VaultStatus, VaultError> {
        let Some(vault) = store.vault().await? else {
            return Ok(VaultStatus { root_key: None, keys: Vec::new() });
        };
        let parameters = Parameters::parse(&vault.header)?;
        let pbkdf2_iterations = match parameters.derivation {
            Derivation::Direct => None,
            Derivation::Pbkdf2 { iterations } => Some(iterations),
        };
        let mut keys: Vec<_> = store
            .tenant_keys()
            .await?
            .into_iter()
            .map(|TenantKeyRow { tenant, version, state, created_at, .. }| TenantKeyStatus {
                tenant,
                version,
                state,
                created_at,
            })
            .collect();
        keys.sort_by(|a, b| (a.tenant.as_str(), a.version).cmp(&(b.tenant.as_str(), b.version)));
        Ok(VaultStatus { root_key: Some(RootKeyStatus { source: parameters.source, pbkdf2_iterations }), keys })
    }
}

impl VaultStatus {
    /// Whether there is a vault.
    pub fn is_initialised(&self) -> bool {
        self.root_key.is_some()
    }
}

/// The record of a change of keys.
pub(crate) fn audit(tenant: &TenantId, principal: &Principal, change: &str) -> AuditRecord {
    AuditRecord::new(OffsetDateTime::now_utc(), tenant, principal, AuditEvent::Vault { change: change.to_owned() })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
