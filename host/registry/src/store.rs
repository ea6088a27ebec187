//! What the registry needs of a database: which connectors a tenant has installed, and who agreed to what.

use std::collections::BTreeSet;

use async_trait::async_trait;
use keyward_model::{AuditRecord, ConnectorId, ConnectorName, Digest, Principal, TenantId, manifest::Manifest};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// What is installed has changed since it was read; read it again.
    #[error("what is installed has changed since it was read")]
    Conflict,
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

/// An installed connector with the consent to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Installed {
    /// In which tenant.
    pub tenant: TenantId,
    /// Name, version and the digest that the consent is pinned to.
    pub connector: ConnectorId,
    /// The manifest that was agreed to.
    pub manifest: Manifest,
    /// Who agreed.
    pub consented_by: Principal,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub consented_at: OffsetDateTime,
}

/// The registry's tables. Each call is one transaction.
#[async_trait]
pub trait PluginStore: Send + Sync {
    /// The installed connectors of a tenant, by name.
    async fn installed(&self, tenant: &TenantId) -> Result<Vec<Installed>, StoreError>;
    /// One of them.
    async fn find(&self, tenant: &TenantId, name: &ConnectorName) -> Result<Option<Installed>, StoreError>;
    /// Installs or replaces one. A conflict where what the tenant has under that name is not, or no longer,
    /// the component `seen` (`None`: nothing): the consent was to a difference against that.
    async fn put(&self, seen: Option<&Digest>, installed: &Installed, audit: &AuditRecord) -> Result<(), StoreError>;
    /// Removes one; `false` where there was none.
    async fn remove(&self, tenant: &TenantId, name: &ConnectorName, audit: &AuditRecord) -> Result<bool, StoreError>;
    /// The components that any tenant has installed.
    async fn components(&self) -> Result<BTreeSet<Digest>, StoreError>;
}
