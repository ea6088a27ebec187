//! The engine's tables: a run, where it stands, its entries.

use std::time::Duration;

use async_trait::async_trait;
use keyward_flow::journal::{Append, Entry, FlowId, Journal, JournalError, Loaded, RunLease, RunPhase, RunRecord};
use keyward_model::{RunId, TenantId};
use sqlx::{FromRow, SqliteConnection};

use crate::{
    DatabaseError, Store,
    fault::Failure,
    record::{count, from_json, json, kind, latest, length, micros, now, parsed, principal, signed, time, unreadable},
};

/// The columns of [`Row`], from both tables.
macro_rules! columns {
    () => {
        "id, tenant, principal_kind, principal_id, flow_namespace, flow_name, flow_version, source, input,
         created_at, phase, updated_at, output, error"
    };
}

#[derive(FromRow)]
struct Row {
    id: String,
    tenant: String,
    principal_kind: String,
    principal_id: String,
    flow_namespace: String,
    flow_name: String,
    flow_version: String,
    source: String,
    input: String,
    created_at: i64,
    phase: String,
    updated_at: i64,
    output: Option<String>,
    error: Option<String>,
}

impl Row {
    fn record(self) -> Result<RunRecord, DatabaseError> {
        Ok(RunRecord {
            id: parsed("run id", &self.id)?,
            tenant: parsed("tenant", &self.tenant)?,
            principal: principal(&self.principal_kind, self.principal_id)?,
            flow: FlowId { namespace: self.flow_namespace, name: self.flow_name, version: self.flow_version },
            source: self.source,
            input: from_json("run's input", &self.input)?,
            phase: phase_of(&self.phase)?,
            output: self.output.map(|output| from_json("run's output", &output)).transpose()?,
            error: self.error.map(|error| from_json("run's error", &error)).transpose()?,
            created_at: time(self.created_at)?,
            updated_at: time(self.updated_at)?,
        })
    }
}

fn phase_text(phase: RunPhase) -> &'static str {
    match phase {
        RunPhase::Pending => "pending",
        RunPhase::Running => "running",
        RunPhase::Waiting => "waiting",
        RunPhase::Completed => "completed",
        RunPhase::Faulted => "faulted",
        RunPhase::Cancelled => "cancelled",
    }
}

fn phase_of(text: &str) -> Result<RunPhase, DatabaseError> {
    const PHASES: [RunPhase; 6] = [
        RunPhase::Pending,
        RunPhase::Running,
        RunPhase::Waiting,
        RunPhase::Completed,
        RunPhase::Faulted,
        RunPhase::Cancelled,
    ];
    PHASES
        .into_iter()
        .find(|phase| phase_text(*phase) == text)
        .ok_or_else(|| unreadable("run's phase", format!("there is no phase {text:?}")))
}

/// The lease of a run and the end of its journal.
#[derive(FromRow)]
struct Standing {
    lease_fence: i64,
    last_sequence: i64,
}

/// Where the run stands, provided that `lease` is still the newest on it.
async fn fenced(tx: &mut SqliteConnection, run: &RunId, lease: RunLease) -> Result<Standing, Failure<JournalError>> {
    let standing: Option<Standing> = sqlx::query_as("SELECT lease_fence, last_sequence FROM run_states WHERE run = ?1")
        .bind(run.to_string())
        .fetch_optional(tx)
        .await?;
    match standing {
        None => Err(Failure::Refused(JournalError::Unknown(*run))),
        Some(standing) if standing.lease_fence == signed(lease.fence)? => Ok(standing),
        Some(_) => Err(Failure::Refused(JournalError::Fenced(*run))),
    }
}

#[async_trait]
impl Journal for Store {
    async fn create(&self, run: &RunRecord) -> Result<(), JournalError> {
        self.told(async {
            let mut tx = self.write().await?;
            sqlx::query(
                "INSERT INTO runs (id, tenant, principal_kind, principal_id, flow_namespace, flow_name, flow_version,
                                   source, input, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )
            .bind(run.id.to_string())
            .bind(run.tenant.as_str())
            .bind(kind(&run.principal))
            .bind(&run.principal.id)
            .bind(&run.flow.namespace)
            .bind(&run.flow.name)
            .bind(&run.flow.version)
            .bind(&run.source)
            .bind(json(&run.input)?)
            .bind(micros(run.created_at))
            .execute(&mut *tx)
            .await?;
            sqlx::query("INSERT INTO run_states (run, phase, updated_at) VALUES (?1, ?2, ?3)")
                .bind(run.id.to_string())
                .bind(phase_text(RunPhase::Pending))
                .bind(micros(run.updated_at))
                .execute(&mut *tx)
                .await?;
            Ok(self.commit(tx).await?)
        })
        .await
    }

    async fn claim(&self, tenant: &TenantId, run: &RunId, ttl: Duration) -> Result<Loaded, JournalError> {
        #[derive(FromRow)]
        struct Held {
            lease_until: i64,
            is_held: bool,
        }
        #[derive(FromRow)]
        struct Taken {
            lease_fence: i64,
            last_sequence: i64,
            snapshot: Option<String>,
        }
        self.told(async {
            let mut tx = self.write().await?;
            let held: Option<Held> = sqlx::query_as(concat!(
                "SELECT lease_until, lease_until > ",
                now!(),
                " AND lease_until <= ",
                latest!(),
                " AS is_held
                 FROM run_states JOIN runs ON id = run WHERE run = ?1 AND tenant = ?2"
            ))
            .bind(run.to_string())
            .bind(tenant.as_str())
            .fetch_optional(&mut *tx)
            .await?;
            match held {
                None => return Err(Failure::Refused(JournalError::Unknown(*run))),
                Some(Held { lease_until, is_held: true }) => {
                    return Err(Failure::Refused(JournalError::Leased { run: *run, until: time(lease_until)? }));
                }
                Some(_) => {}
            }
            let taken: Taken = sqlx::query_as(concat!(
                "UPDATE run_states SET lease_fence = lease_fence + 1, lease_until = ",
                now!(),
                " + ?2
                 WHERE run = ?1 RETURNING lease_fence, last_sequence, snapshot"
            ))
            .bind(run.to_string())
            .bind(length(ttl))
            .fetch_one(&mut *tx)
            .await?;
            let row: Row =
                sqlx::query_as(concat!("SELECT ", columns!(), " FROM runs JOIN run_states ON run = id WHERE id = ?1"))
                    .bind(run.to_string())
                    .fetch_one(&mut *tx)
                    .await?;
            // Read before the lease is committed: a run that cannot be read is not taken.
            let loaded = Loaded {
                record: row.record()?,
                snapshot: taken.snapshot.map(|snapshot| from_json("run's snapshot", &snapshot)).transpose()?,
                last_sequence: count("sequence number", taken.last_sequence)?,
                lease: RunLease { fence: count("fence", taken.lease_fence)? },
            };
            self.commit(tx).await?;
            Ok(loaded)
        })
        .await
    }

    async fn renew(&self, run: &RunId, lease: RunLease, ttl: Duration) -> Result<(), JournalError> {
        self.told(async {
            let mut tx = self.write().await?;
            fenced(&mut tx, run, lease).await?;
            sqlx::query(concat!("UPDATE run_states SET lease_until = ", now!(), " + ?2 WHERE run = ?1"))
                .bind(run.to_string())
                .bind(length(ttl))
                .execute(&mut *tx)
                .await?;
            Ok(self.commit(tx).await?)
        })
        .await
    }

    async fn append(&self, run: &RunId, lease: RunLease, append: Append<'_>) -> Result<(), JournalError> {
        self.told(async {
            let mut tx = self.write().await?;
            let standing = fenced(&mut tx, run, lease).await?;
            let mut last: u64 = count("sequence number", standing.last_sequence)?;
            for entry in append.entries {
                if entry.sequence != last + 1 {
                    return Err(DatabaseError::Misused("the entries do not follow those that are written").into());
                }
                last = entry.sequence;
                sqlx::query("INSERT INTO run_entries (run, sequence, at, event) VALUES (?1, ?2, ?3, ?4)")
                    .bind(run.to_string())
                    .bind(signed(entry.sequence)?)
                    .bind(micros(entry.at))
                    .bind(json(&entry.event)?)
                    .execute(&mut *tx)
                    .await?;
            }
            sqlx::query(concat!(
                "UPDATE run_states SET phase = ?2, updated_at = ",
                now!(),
                ", last_sequence = ?3, snapshot = ?4,
                                       output = ?5, error = ?6
                 WHERE run = ?1"
            ))
            .bind(run.to_string())
            .bind(phase_text(append.phase))
            .bind(signed(last)?)
            .bind(json(append.snapshot)?)
            .bind(append.output.map(json).transpose()?)
            .bind(append.error.map(json).transpose()?)
            .execute(&mut *tx)
            .await?;
            Ok(self.commit(tx).await?)
        })
        .await
    }

    async fn entries(&self, run: &RunId, sequences: &[u64]) -> Result<Vec<Entry>, JournalError> {
        self.told(async {
            let mut entries = Vec::new();
            for sequence in sequences {
                let found: Option<(i64, String)> =
                    sqlx::query_as("SELECT at, event FROM run_entries WHERE run = ?1 AND sequence = ?2")
                        .bind(run.to_string())
                        .bind(signed(*sequence)?)
                        .fetch_optional(&self.readers)
                        .await?;
                if let Some((at, event)) = found {
                    let event = from_json("run's entry", &event)?;
                    entries.push(Entry { sequence: *sequence, at: time(at)?, event });
                }
            }
            Ok(entries)
        })
        .await
    }

    async fn release(&self, run: &RunId, lease: RunLease) -> Result<(), JournalError> {
        self.told(async {
            let mut tx = self.write().await?;
            sqlx::query("UPDATE run_states SET lease_until = 0 WHERE run = ?1 AND lease_fence = ?2")
                .bind(run.to_string())
                .bind(signed(lease.fence)?)
                .execute(&mut *tx)
                .await?;
            Ok(self.commit(tx).await?)
        })
        .await
    }

    async fn runs(&self, tenant: &TenantId, limit: u32) -> Result<Vec<RunRecord>, JournalError> {
        self.told(async {
            let rows: Vec<Row> = sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                " FROM runs JOIN run_states ON run = id
                 WHERE tenant = ?1 ORDER BY created_at DESC, id DESC LIMIT ?2"
            ))
            .bind(tenant.as_str())
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
            let records: Result<_, _> = rows.into_iter().map(Row::record).collect();
            Ok(records?)
        })
        .await
    }

    async fn history(&self, tenant: &TenantId, run: &RunId) -> Result<(RunRecord, Vec<Entry>), JournalError> {
        self.told(async {
            // One transaction, so that the record and the entries are of the same moment.
            let mut tx = self.readers.begin().await?;
            let row: Option<Row> = sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                " FROM runs JOIN run_states ON run = id WHERE id = ?1 AND tenant = ?2"
            ))
            .bind(run.to_string())
            .bind(tenant.as_str())
            .fetch_optional(&mut *tx)
            .await?;
            let record = row.ok_or(Failure::Refused(JournalError::Unknown(*run)))?.record()?;
            let entries: Vec<(i64, i64, String)> =
                sqlx::query_as("SELECT sequence, at, event FROM run_entries WHERE run = ?1 ORDER BY sequence")
                    .bind(run.to_string())
                    .fetch_all(&mut *tx)
                    .await?;
            let entries: Result<_, DatabaseError> = entries
                .into_iter()
                .map(|(sequence, at, event)| {
                    Ok(Entry {
                        sequence: count("sequence number", sequence)?,
                        at: time(at)?,
                        event: from_json("run's entry", &event)?,
                    })
                })
                .collect();
            Ok((record, entries?))
        })
        .await
    }
}
