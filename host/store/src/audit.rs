//! The audit trail: records are added, and that is all. Triggers refuse every other change, and [`chain`] tells one that
//! was made past them.

pub(crate) mod chain;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use keyward_egress::{AuditError, AuditSink};
use keyward_model::{ActionName, AuditRecord, ConnectionId, RunId, TenantId};
use serde_json::{Value, json};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use time::OffsetDateTime;
use tokio::sync::oneshot;

use self::chain::AuditHead;

use crate::{
    DatabaseError, Store,
    fault::Failure,
    record::{count, from_json, json as to_json, kind, micros, parsed, signed},
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
    /// Only requests and calls that were refused.
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
            let mut query = filter.select("record", tenant);
            // The newest are found from the end, and then turned round.
            query.push(" ORDER BY number DESC LIMIT ").push_bind(filter.limit.map_or(-1, i64::from));
            let records: Vec<String> = query.build_query_scalar().fetch_all(&self.readers).await?;
            let records: Result<_, _> = records.iter().rev().map(|record| from_json("audit record", record)).collect();
            Ok(records?)
        })
        .await
    }
}

impl AuditFilter {
    /// The beginning of a query for `columns` of the records of `tenant` that pass.
    fn select(&self, columns: &str, tenant: &TenantId) -> QueryBuilder<Sqlite> {
        let mut query =
            QueryBuilder::new(format!("SELECT {columns} FROM audit_records WHERE number > 0 AND tenant = "));
        query.push_bind(tenant.as_str().to_owned());
        if let Some(run) = self.run {
            query.push(" AND run = ").push_bind(run.to_string());
        }
        if let Some(connection) = self.connection {
            query.push(" AND connection = ").push_bind(connection.to_string());
        }
        if let Some(action) = &self.action {
            query.push(" AND action = ").push_bind(action.as_str().to_owned());
        }
        if self.denied_only {
            query.push(" AND denied = 1");
        }
        if let Some(since) = self.since {
            query.push(" AND at >= ").push_bind(micros(since));
        }
        query
    }
}

/// One record as it rests in the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// The record's own text, which its digest is over.
    pub text: String,
    /// The trail up to it.
    pub head: AuditHead,
}

impl Store {
    /// The next records of a tenant that pass `filter`, the oldest first, after the record `after` (0 is before the
    /// first). At most a thousand, however many the filter asks for; none is the end.
    pub async fn audit_page(
        &self,
        tenant: &TenantId,
        filter: &AuditFilter,
        after: u64,
    ) -> Result<Vec<StoredRecord>, DatabaseError> {
        self.told(async {
            let mut query = filter.select("number, digest, record", tenant);
            query.push(" AND number > ").push_bind(signed(after)?);
            query.push(" ORDER BY number LIMIT ").push_bind(PAGE);
            let rows: Vec<(i64, String, String)> = query.build_query_as().fetch_all(&self.readers).await?;
            let stored =
                |(number, digest, text): (_, String, _)| Ok(StoredRecord { text, head: head(number, &digest)? });
            Ok(rows.into_iter().map(stored).collect::<Result<_, DatabaseError>>()?)
        })
        .await
    }
}

/// The most records that are read at once.
const PAGE: i64 = 1000;

/// What stands in the columns.
fn head(number: i64, digest: &str) -> Result<AuditHead, DatabaseError> {
    Ok(AuditHead { number: count("number of an audit record", number)?, digest: parsed("digest", digest)? })
}

#[async_trait]
impl AuditSink for Store {
    async fn record(&self, record: AuditRecord) -> Result<(), AuditError> {
        let (written, result) = oneshot::channel();
        if self.audit.push(Waiting { row: row(&record)?, written }) {
            let store = self.clone();
            // A task of its own: a caller that goes away takes neither its record nor those of others with it.
            tokio::spawn(async move { store.write_waiting().await });
        }
        let stopped = |_| Err(Arc::new(DatabaseError::Misused("the process ended while the record was written")));
        result.await.unwrap_or_else(stopped).map_err(|error| AuditError(Box::new(error)))
    }
}

impl Store {
    /// Writes the records that wait: all that came during one commit together with the next.
    async fn write_waiting(&self) {
        let mut writing = Writing { queue: &self.audit, is_over: false };
        while let Some(batch) = writing.next() {
            let (rows, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|each| (each.row, each.written)).unzip();
            let result = self.add_alone(&rows).await;
            let is_one_to_blame = result.as_ref().is_err_and(|error| {
                !matches!(error, DatabaseError::DiskFull | DatabaseError::Busy(_) | DatabaseError::Corrupt(_))
            });
            let result = result.map_err(Arc::new);
            for (row, caller) in rows.iter().zip(callers) {
                // A record that cannot be written takes none of the others with it.
                let result = if is_one_to_blame && rows.len() > 1 {
                    self.add_alone(std::slice::from_ref(row)).await.map_err(Arc::new)
                } else {
                    result.clone()
                };
                // Who does not listen any more has gone away.
                let _ = caller.send(result);
            }
        }
    }

    /// Adds records in a transaction of their own, which one statement is.
    async fn add_alone(&self, rows: &[Row]) -> Result<(), DatabaseError> {
        self.told(async {
            let mut tx = self.write().await?;
            add_rows(&mut tx, rows).await?;
            Ok(self.commit(tx).await?)
        })
        .await
    }
}

/// Adds a record within the transaction that makes the change it tells of.
pub(crate) async fn add<E>(tx: &mut SqliteConnection, record: &AuditRecord) -> Result<(), Failure<E>> {
    add_rows(tx, &[row(record)?]).await
}

/// A record on its way into the table.
struct Row {
    tenant: TenantId,
    /// What [`columns`] names, in that order.
    columns: Vec<Value>,
    text: String,
}

/// The columns that find a record. Each follows from the record's text.
macro_rules! columns {
    () => {
        "id, tenant, principal_kind, principal_id, at, run, connector, action, connection, denied"
    };
}
use columns;

fn row(record: &AuditRecord) -> Result<Row, DatabaseError> {
    let columns = vec![
        json!(record.id),
        json!(record.tenant),
        json!(kind(&record.principal)),
        json!(record.principal.id),
        json!(micros(record.at)),
        json!(record.run),
        json!(record.connector.as_ref().map(|connector| connector.name.as_str())),
        json!(record.action),
        json!(record.connection),
        json!(i64::from(record.event.is_refusal())),
    ];
    Ok(Row { tenant: record.tenant.clone(), columns, text: to_json(record)? })
}

/// Adds records in their order, by one statement however many there are. The transaction has the write lock already, so
/// that nobody else continues the same chain.
async fn add_rows<E>(tx: &mut SqliteConnection, rows: &[Row]) -> Result<(), Failure<E>> {
    let mut heads = BTreeMap::new();
    let mut values = Vec::with_capacity(rows.len());
    for Row { tenant, columns, text } in rows {
        let before = match heads.get(tenant) {
            Some(head) => *head,
            None => newest(&mut *tx, tenant).await?,
        };
        let head = before.after(text);
        heads.insert(tenant, head);
        let chained = [json!(text), json!(head.number), json!(head.digest)];
        values.push(Value::Array(columns.iter().cloned().chain(chained).collect()));
    }
    sqlx::query(concat!(
        "INSERT INTO audit_records (",
        columns!(),
        ", record, number, digest)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
                value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12
         FROM json_each(?1) ORDER BY key"
    ))
    .bind(Value::Array(values).to_string())
    .execute(tx)
    .await?;
    Ok(())
}

/// Where the chain of a tenant stands.
async fn newest<E>(connection: &mut SqliteConnection, tenant: &TenantId) -> Result<AuditHead, Failure<E>> {
    let newest: Option<(i64, String)> =
        sqlx::query_as("SELECT number, digest FROM audit_records WHERE tenant = ?1 ORDER BY number DESC LIMIT 1")
            .bind(tenant.as_str())
            .fetch_optional(connection)
            .await?;
    Ok(match newest {
        Some((number, digest)) => head(number, &digest)?,
        None => AuditHead::EMPTY,
    })
}

/// The records that wait for their turn to be written.
///
/// A commit takes as long as the disk needs, and the disk makes one after another. What comes meanwhile is
/// written in one transaction, so that a hundred callers wait for two commits and not for a hundred.
#[derive(Default)]
pub(crate) struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: Vec<Waiting>,
    /// Whether somebody writes, who will look again before it stops.
    is_written: bool,
}

struct Waiting {
    row: Row,
    written: oneshot::Sender<Result<(), Arc<DatabaseError>>>,
}

/// The most records of one transaction.
const BATCH: usize = 256;

impl Queue {
    /// Adds a record; `true` where nobody writes and the caller must see to it.
    fn push(&self, waiting: Waiting) -> bool {
        let mut state = self.state();
        state.waiting.push(waiting);
        !std::mem::replace(&mut state.is_written, true)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever writes the queue. Dropped before the queue was empty, because the runtime ends or by a panic, it tells
/// those who wait by dropping what they wait for, and the next record finds another writer.
struct Writing<'a> {
    queue: &'a Queue,
    is_over: bool,
}

impl Writing<'_> {
    /// The next records; after `None` this one writes no more.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut state = self.queue.state();
        let count = state.waiting.len().min(BATCH);
        if count == 0 {
            state.is_written = false;
            self.is_over = true;
            return None;
        }
        Some(state.waiting.drain(..count).collect())
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            *self.queue.state() = State::default();
        }
    }
}
