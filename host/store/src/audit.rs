//! The audit trail: records are added, and that is all. Triggers refuse every other change.

use async_trait::async_trait;
use keyward_egress::{AuditError, AuditSink};
use keyward_model::{ActionName, AuditEvent, AuditRecord, ConnectionId, RunId, TenantId};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use time::OffsetDateTime;

use crate::{
    DatabaseError, Store,
    fault::Failure,
    record::{from_json, json, kind, micros},
};

/// Which records of the audit trail to read; what is `None` does not narrow.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuditFilter {
    /// Of this run.
    pub run: Option<RunId>,
    /// With this connection.
    pub connection: Option<ConnectionId>,
    /// Of actions of this name.
    pub action: Option<ActionName>,
    /// Only requests that were denied.
    pub denied_only: bool,
    /// From this time on.
    pub since: Option<OffsetDateTime>,
    /// Only the newest ones, so many.
    pub limit: Option<u32>,
}

impl Store {
    /// The records of a tenant in the order in which they were written, the newest last.
    pub async fn audit_records(
        &self,
        tenant: &TenantId,
        filter: &AuditFilter,
    ) -> Result<Vec<AuditRecord>, DatabaseError> {
        self.told(async {
            let mut query = QueryBuilder::<Sqlite>::new("SELECT record FROM audit_records WHERE tenant = ");
            query.push_bind(tenant.as_str());
            if let Some(run) = filter.run {
                query.push(" AND run = ").push_bind(run.to_string());
            }
            if let Some(connection) = filter.connection {
                query.push(" AND connection = ").push_bind(connection.to_string());
            }
            if let Some(action) = &filter.action {
                query.push(" AND action = ").push_bind(action.as_str());
            }
            if filter.denied_only {
                query.push(" AND denied = 1");
            }
            if let Some(since) = filter.since {
                query.push(" AND at >= ").push_bind(micros(since));
            }
            // The newest are found from the end, and then turned round.
            query.push(" ORDER BY sequence DESC LIMIT ").push_bind(filter.limit.map_or(-1, i64::from));
            let records: Vec<String> = query.build_query_scalar().fetch_all(&self.readers).await?;
            let records: Result<_, _> = records.iter().rev().map(|record| from_json("audit record", record)).collect();
            Ok(records?)
        })
        .await
    }
}

#[async_trait]
impl AuditSink for Store {
    async fn record(&self, record: AuditRecord) -> Result<(), AuditError> {
        self.told(async {
            let mut tx = self.write().await?;
            add(&mut tx, &record).await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}

/// Adds a record within the transaction that makes the change it tells of.
pub(crate) async fn add<E>(tx: &mut SqliteConnection, record: &AuditRecord) -> Result<(), Failure<E>> {
    sqlx::query(
        "INSERT INTO audit_records
         (id, tenant, principal_kind, principal_id, at, run, connector, action, connection, denied, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )
    .bind(record.id.to_string())
    .bind(record.tenant.as_str())
    .bind(kind(&record.principal))
    .bind(&record.principal.id)
    .bind(micros(record.at))
    .bind(record.run.map(|run| run.to_string()))
    .bind(record.connector.as_ref().map(|connector| connector.name.as_str()))
    .bind(record.action.as_ref().map(ActionName::as_str))
    .bind(record.connection.map(|connection| connection.to_string()))
    .bind(matches!(record.event, AuditEvent::RequestDenied { .. }))
    .bind(json(record)?)
    .execute(tx)
    .await?;
    Ok(())
}
