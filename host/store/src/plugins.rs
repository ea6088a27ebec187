//! The registry's table.

use std::collections::BTreeSet;

use async_trait::async_trait;
use keyward_model::{AuditRecord, ConnectorId, ConnectorName, Digest, TenantId};
use keyward_registry::{Installed, PluginStore, StoreError};
use sqlx::FromRow;

use crate::{
    DatabaseError, Store, audit,
    fault::Failure,
    record::{from_json, json, kind, micros, parsed, principal, time},
};

#[derive(FromRow)]
struct Row {
    tenant: String,
    name: String,
    version: String,
    digest: String,
    manifest: String,
    consented_by_kind: String,
    consented_by_id: String,
    consented_at: i64,
}

impl Row {
    fn installed(self) -> Result<Installed, DatabaseError> {
        Ok(Installed {
            tenant: parsed("tenant", &self.tenant)?,
            connector: ConnectorId {
                name: parsed("connector name", &self.name)?,
                version: self.version,
                digest: parsed("digest", &self.digest)?,
            },
            manifest: from_json("manifest", &self.manifest)?,
            consented_by: principal(&self.consented_by_kind, self.consented_by_id)?,
            consented_at: time(self.consented_at)?,
        })
    }
}

#[async_trait]
impl PluginStore for Store {
    async fn installed(&self, tenant: &TenantId) -> Result<Vec<Installed>, StoreError> {
        self.told(async {
            let rows: Vec<Row> = sqlx::query_as("SELECT * FROM installed_connectors WHERE tenant = ?1 ORDER BY name")
                .bind(tenant.as_str())
                .fetch_all(&self.readers)
                .await?;
            let installed: Result<_, _> = rows.into_iter().map(Row::installed).collect();
            Ok(installed?)
        })
        .await
    }

    async fn find(&self, tenant: &TenantId, name: &ConnectorName) -> Result<Option<Installed>, StoreError> {
        self.told(async {
            let row: Option<Row> = sqlx::query_as("SELECT * FROM installed_connectors WHERE tenant = ?1 AND name = ?2")
                .bind(tenant.as_str())
                .bind(name.as_str())
                .fetch_optional(&self.readers)
                .await?;
            Ok(row.map(Row::installed).transpose()?)
        })
        .await
    }

    async fn put(&self, seen: Option<&Digest>, installed: &Installed, audit: &AuditRecord) -> Result<(), StoreError> {
        self.told(async {
            let mut tx = self.write().await?;
            let there: Option<String> =
                sqlx::query_scalar("SELECT digest FROM installed_connectors WHERE tenant = ?1 AND name = ?2")
                    .bind(installed.tenant.as_str())
                    .bind(installed.connector.name.as_str())
                    .fetch_optional(&mut *tx)
                    .await?;
            if there != seen.map(Digest::to_string) {
                return Err(Failure::Refused(StoreError::Conflict));
            }
            sqlx::query(
                "INSERT OR REPLACE INTO installed_connectors
                 (tenant, name, version, digest, manifest, consented_by_kind, consented_by_id, consented_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )
            .bind(installed.tenant.as_str())
            .bind(installed.connector.name.as_str())
            .bind(&installed.connector.version)
            .bind(installed.connector.digest.to_string())
            .bind(json(&installed.manifest)?)
            .bind(kind(&installed.consented_by))
            .bind(&installed.consented_by.id)
            .bind(micros(installed.consented_at))
            .execute(&mut *tx)
            .await?;
            audit::add(&mut tx, audit).await?;
            Ok(self.commit(tx).await?)
        })
        .await
    }

    async fn remove(&self, tenant: &TenantId, name: &ConnectorName, audit: &AuditRecord) -> Result<bool, StoreError> {
        self.told(async {
            let mut tx = self.write().await?;
            let removed = sqlx::query("DELETE FROM installed_connectors WHERE tenant = ?1 AND name = ?2")
                .bind(tenant.as_str())
                .bind(name.as_str())
                .execute(&mut *tx)
                .await?;
            if removed.rows_affected() == 0 {
                return Ok(false);
            }
            audit::add(&mut tx, audit).await?;
            self.commit(tx).await?;
            Ok(true)
        })
        .await
    }

    async fn components(&self) -> Result<BTreeSet<Digest>, StoreError> {
        self.told(async {
            let digests: Vec<String> =
                sqlx::query_scalar("SELECT DISTINCT digest FROM installed_connectors").fetch_all(&self.readers).await?;
            let digests: Result<_, _> = digests.iter().map(|digest| parsed("digest", digest)).collect();
            Ok(digests?)
        })
        .await
    }
}
