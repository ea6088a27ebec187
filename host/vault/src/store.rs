//! What the vault needs of a database. Whoever implements it sees ciphertext and open facts, nothing else.

use async_trait::async_trait;
use keyward_model::{AuditRecord, ConnectionFacts, ConnectionId, ConnectionName, TenantId};
use time::OffsetDateTime;
use uuid::Uuid;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The record has changed since it was read; read it again.
    #[error("the record has changed since it was read")]
    Conflict,
    /// Another record has that name.
    #[error("the name {0:?} is taken")]
    NameTaken(String),
    /// The tenant key under which a value was sealed was removed meanwhile; read the keys again and seal it anew.
    #[error("the tenant key under which it was sealed was removed")]
    KeyGone,
    /// The disk is full.
    #[error("the disk is full; nothing was written")]
    DiskFull,
    /// Others keep the database busy for longer than their writes should take.
    #[error("others keep the database busy")]
    Busy,
    /// The file of the database is damaged.
    #[error("the database is damaged: {0}")]
    Corrupt(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Anything else that the database says.
    #[error("the database failed: {0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The vault's own record: one for each installation.
#[derive(Debug, Clone)]
pub struct VaultRow {
    /// The header as `header.rs` specifies it: root key source, derivation parameters, canary.
    pub header: Vec<u8>,
    /// Counts the changes of the header and of the set of tenant keys, from 1.
    pub row_version: u64,
}

/// A wrapped tenant key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantKeyRow {
    /// Whose key it is.
    pub tenant: TenantId,
    /// From 1.
    pub version: u32,
    /// Whether new objects are sealed under it.
    pub state: TenantKeyState,
    /// The key, wrapped by the root key.
    pub wrapped: Vec<u8>,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// What a tenant key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantKeyState {
    /// Seals and opens.
    Active,
    /// Opens only.
    DecryptOnly,
}

/// A sealed value and the version of the tenant key under which it rests. The version stands in the bytes as well;
/// the store keeps it apart, so that no key is removed that something needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The version of the tenant's key.
    pub key_version: u32,
    /// The value, in the form that `seal.rs` specifies.
    pub bytes: Vec<u8>,
}

/// A connection as it rests: open facts and a sealed credential.
#[derive(Debug, Clone)]
pub struct ConnectionRow {
    /// The open facts; `row_version` in them is the version of this row.
    pub facts: ConnectionFacts,
    /// The sealed credential.
    pub sealed: Sealed,
    /// A refresh that was begun and of which no end is recorded (sealed details are in the credential).
    pub refresh: Option<RefreshAttempt>,
}

/// The write-ahead mark of a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshAttempt {
    /// Which attempt.
    pub id: Uuid,
    /// A keyed fingerprint of the refresh token that was sent.
    pub token_fingerprint: Vec<u8>,
    /// When it was begun.
    pub started_at: OffsetDateTime,
}

/// A lease on one connection's refresh, shared by all processes on the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Grows with each lease on the same connection: a holder that was overtaken has a smaller one.
    pub fence: u64,
}

/// An authorization that waits for its redirect.
#[derive(Debug, Clone)]
pub struct PendingAuthorization {
    /// SHA-256 of the state parameter.
    pub state_hash: [u8; 32],
    /// In which tenant.
    pub tenant: TenantId,
    /// Verifier, nonce, redirect URI and what is to become of it, sealed.
    pub sealed: Sealed,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}

/// The vault's tables. Each call is one transaction; a write that names a row version fails with
/// [`StoreError::Conflict`] where the row has another, and one of a sealed value with [`StoreError::KeyGone`]
/// where its tenant has no key of that version. An `audit` record is written in the same transaction as the
/// change that it tells of.
#[async_trait]
pub trait VaultStore: Send + Sync {
    /// The vault's record, where it was initialised.
    async fn vault(&self) -> Result<Option<VaultRow>, StoreError>;
    /// Writes the first record and the first tenant key together; a conflict where one is there.
    async fn create_vault(&self, header: &[u8], key: &TenantKeyRow, audit: &AuditRecord) -> Result<(), StoreError>;
    /// Replaces the header and every tenant key's wrapping together (a new root key). `keys` are all keys
    /// of all tenants; a conflict where the vault's row version is no longer `seen`.
    async fn rekey_vault(
        &self,
        seen: u64,
        header: &[u8],
        keys: &[TenantKeyRow],
        audit: &AuditRecord,
    ) -> Result<(), StoreError>;

    /// All keys of all tenants.
    async fn tenant_keys(&self) -> Result<Vec<TenantKeyRow>, StoreError>;
    /// Adds a key and counts the vault's row version up; where the key is active, the tenant's others become
    /// decrypt-only in the same transaction. A conflict where the vault's row version is no longer `seen`:
    /// a key wrapped by a root key that another process has just replaced could never be opened.
    async fn add_tenant_key(&self, seen: u64, key: &TenantKeyRow, audit: &AuditRecord) -> Result<(), StoreError>;
    /// Removes a decrypt-only key under which nothing rests and counts the vault's row version up; authorizations
    /// that have ended are removed first. `false` where something rests under it and it is kept; nothing happens
    /// where it is gone. An active key is never removed: a conflict.
    async fn remove_tenant_key(&self, tenant: &TenantId, version: u32, audit: &AuditRecord)
    -> Result<bool, StoreError>;

    /// The connections of a tenant, by name.
    async fn connections(&self, tenant: &TenantId) -> Result<Vec<ConnectionFacts>, StoreError>;
    /// One connection.
    async fn connection(&self, tenant: &TenantId, id: &ConnectionId) -> Result<Option<ConnectionRow>, StoreError>;
    /// The connections of a tenant whose credential rests under another key than that of `version`.
    async fn connections_under_other_keys(
        &self,
        tenant: &TenantId,
        version: u32,
    ) -> Result<Vec<ConnectionId>, StoreError>;
    /// One connection's id by its name.
    async fn connection_id(&self, tenant: &TenantId, name: &ConnectionName)
    -> Result<Option<ConnectionId>, StoreError>;
    /// Adds a connection; `facts.row_version` must be 1.
    async fn insert_connection(&self, row: &ConnectionRow, audit: &AuditRecord) -> Result<(), StoreError>;
    /// Replaces a connection whose version is `seen`; `facts.row_version` must be `seen + 1`.
    /// Where `lease` is given, it must still be the newest on the connection.
    async fn update_connection(
        &self,
        seen: u64,
        row: &ConnectionRow,
        lease: Option<Lease>,
        audit: Option<&AuditRecord>,
    ) -> Result<(), StoreError>;
    /// Removes a connection and, with its wrapped key, every chance to open its credential.
    async fn delete_connection(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        seen: u64,
        audit: &AuditRecord,
    ) -> Result<(), StoreError>;

    /// Takes the lease on a connection's refresh for `ttl`, two minutes at most; `None` while another holds it, a conflict
    /// where there is no such connection.
    /// Time is the database's, so that the clocks of several hosts need not agree. A lease that ends in more than
    /// that was taken under a wrong clock and counts as ended.
    async fn lease_refresh(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        ttl: std::time::Duration,
    ) -> Result<Option<Lease>, StoreError>;
    /// Gives the lease back; nothing happens where it is no longer the newest.
    async fn release_refresh(&self, tenant: &TenantId, id: &ConnectionId, lease: Lease) -> Result<(), StoreError>;

    /// Keeps an authorization until its redirect; removes those that have ended.
    async fn put_pending(&self, pending: &PendingAuthorization) -> Result<(), StoreError>;
    /// Takes it out: the first caller gets it, nobody after.
    async fn take_pending(&self, state_hash: &[u8; 32]) -> Result<Option<PendingAuthorization>, StoreError>;
}
