//! The rows of connections that were read or written in the last moments, so that a call of many requests reads its
//! connection once. What is kept is what rests in the store, sealed: a credential is opened for each use.

use std::{sync::Arc, time::Duration};

use keyward_model::{ConnectionId, TenantId};
use moka::{ops::compute::Op, sync::Cache};

use crate::store::ConnectionRow;

/// For how long a row is used without another look at the store. So long may a process go on using a credential that
/// another one has replaced or removed; a server that refuses it makes the vault look again.
const FRESH: Duration = Duration::from_secs(1);

/// The most rows that are kept; one has some kilobytes.
const MAX_ROWS: u64 = 10_000;

/// See the module.
pub(crate) struct Rows(Cache<(TenantId, ConnectionId), Arc<ConnectionRow>>);

impl Default for Rows {
    fn default() -> Self {
        Self(Cache::builder().time_to_live(FRESH).max_capacity(MAX_ROWS).build())
    }
}

impl Rows {
    /// The row, where it is fresh.
    pub(crate) fn get(&self, tenant: &TenantId, id: &ConnectionId) -> Option<Arc<ConnectionRow>> {
        self.0.get(&(tenant.clone(), *id))
    }

    /// Keeps a row that was just read or written. A newer one stays: a slow read does not bring back what a write
    /// has replaced meanwhile.
    pub(crate) fn put(&self, row: &ConnectionRow) {
        let key = (row.facts.tenant.clone(), row.facts.id);
        self.0.entry(key).and_compute_with(|known| match known {
            Some(known) if known.value().facts.row_version > row.facts.row_version => Op::Nop,
            _ => Op::Put(Arc::new(row.clone())),
        });
    }

    /// Forgets a row that was deleted.
    pub(crate) fn forget(&self, tenant: &TenantId, id: &ConnectionId) {
        self.0.invalidate(&(tenant.clone(), *id));
    }
}
