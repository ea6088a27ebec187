//! As much of a vault's store as one connection needs that is never refreshed.

use std::sync::Mutex;

use async_trait::async_trait;
use keyward_model::{AuditRecord, ConnectionFacts, ConnectionId, ConnectionName, TenantId};
use keyward_vault::{
    StoreError, VaultStore,
    store::{ConnectionRow, Lease, PendingAuthorization, TenantKeyRow, VaultRow},
};

#[derive(Default)]
pub(super) struct MemoryStore {
    vault: Mutex<Option<(VaultRow, TenantKeyRow)>>,
    connections: Mutex<Vec<ConnectionRow>>,
}

fn not_needed<T>() -> Result<T, StoreError> {
    Err(StoreError::Database("the test needs no such thing".into()))
}

#[async_trait]
impl VaultStore for MemoryStore {
    async fn vault(&self) -> Result<Option<VaultRow>, StoreError> {
        Ok(self.vault.lock().unwrap().as_ref().map(|(row, _)| row.clone()))
    }

    async fn create_vault(&self, header: &[u8], key: &TenantKeyRow, _: &AuditRecord) -> Result<(), StoreError> {
        *self.vault.lock().unwrap() = Some((VaultRow { header: header.to_vec(), row_version: 1 }, key.clone()));
        Ok(())
    }

    async fn rekey_vault(&self, _: u64, _: &[u8], _: &[TenantKeyRow], _: &AuditRecord) -> Result<(), StoreError> {
        not_needed()
    }

    async fn tenant_keys(&self) -> Result<Vec<TenantKeyRow>, StoreError> {
        Ok(self.vault.lock().unwrap().iter().map(|(_, key)| key.clone()).collect())
    }

    async fn add_tenant_key(&self, _: u64, _: &TenantKeyRow, _: &AuditRecord) -> Result<(), StoreError> {
        not_needed()
    }

    async fn remove_tenant_key(&self, _: &TenantId, _: u32, _: &AuditRecord) -> Result<bool, StoreError> {
        not_needed()
    }

    async fn connections_under_other_keys(&self, _: &TenantId, _: u32) -> Result<Vec<ConnectionId>, StoreError> {
        not_needed()
    }

    async fn connections(&self, _: &TenantId) -> Result<Vec<ConnectionFacts>, StoreError> {
        Ok(self.connections.lock().unwrap().iter().map(|row| row.facts.clone()).collect())
    }

    async fn connection(&self, _: &TenantId, id: &ConnectionId) -> Result<Option<ConnectionRow>, StoreError> {
        Ok(self.connections.lock().unwrap().iter().find(|row| row.facts.id == *id).cloned())
    }

    async fn connection_id(&self, _: &TenantId, name: &ConnectionName) -> Result<Option<ConnectionId>, StoreError> {
        Ok(self.connections.lock().unwrap().iter().find(|row| row.facts.name == *name).map(|row| row.facts.id))
    }

    async fn insert_connection(&self, row: &ConnectionRow, _: &AuditRecord) -> Result<(), StoreError> {
        self.connections.lock().unwrap().push(row.clone());
        Ok(())
    }

    async fn update_connection(
        &self,
        _: u64,
        row: &ConnectionRow,
        _: Option<Lease>,
        _: Option<&AuditRecord>,
    ) -> Result<(), StoreError> {
        let mut connections = self.connections.lock().unwrap();
        connections.iter_mut().filter(|known| known.facts.id == row.facts.id).for_each(|known| *known = row.clone());
        Ok(())
    }

    async fn delete_connection(
        &self,
        _: &TenantId,
        _: &ConnectionId,
        _: u64,
        _: &AuditRecord,
    ) -> Result<(), StoreError> {
        not_needed()
    }

    async fn lease_refresh(
        &self,
        _: &TenantId,
        _: &ConnectionId,
        _: std::time::Duration,
    ) -> Result<Option<Lease>, StoreError> {
        not_needed()
    }

    async fn release_refresh(&self, _: &TenantId, _: &ConnectionId, _: Lease) -> Result<(), StoreError> {
        not_needed()
    }

    async fn put_pending(&self, _: &PendingAuthorization) -> Result<(), StoreError> {
        not_needed()
    }

    async fn take_pending(&self, _: &[u8; 32]) -> Result<Option<PendingAuthorization>, StoreError> {
        not_needed()
    }
}
