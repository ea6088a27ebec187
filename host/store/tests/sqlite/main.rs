//! The contract over SQLite, and what is SQLite's alone: files, permissions, processes, full disks.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod chain;
#[path = "../contract/mod.rs"]
mod contract;
mod opening;
mod policy;
mod processes;

use std::time::Duration;

use contract::Database;
use keyward_model::{AuditRecord, TenantId};
use keyward_store::{AuditFilter, Store};
use tempfile::TempDir;

struct Sqlite(TempDir);

impl Database for Sqlite {
    type Store = Store;

    async fn open(&self) -> Store {
        Store::open(&self.0.path().join("keyward.db")).await.unwrap()
    }

    async fn postpone_leases(&self, by: Duration) {
        for sql in [
            "UPDATE connections SET lease_until = lease_until + ?1",
            "UPDATE run_states SET lease_until = lease_until + ?1",
        ] {
            let mut raw = opening::raw(&self.0.path().join("keyward.db")).await;
            sqlx::query(sql).bind(by.as_micros() as i64).execute(&mut raw).await.unwrap();
        }
    }

    async fn audit(&self, store: &Store, tenant: &TenantId, filter: &AuditFilter) -> Vec<AuditRecord> {
        store.audit_records(tenant, filter).await.unwrap()
    }
}

macro_rules! over_sqlite {
    ($($module:ident: [$($test:ident),* $(,)?],)*) => {
        $(mod $module {
            $(#[tokio::test]
            async fn $test() {
                let database = super::Sqlite(tempfile::tempdir().unwrap());
                super::contract::$module::$test(database).await;
            })*
        })*
    };
}

contract::each_test!(over_sqlite);
