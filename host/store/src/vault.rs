//! The vault's tables: its header, the wrapped tenant keys, the connections, the authorizations that wait.

use std::time::Duration;

use async_trait::async_trait;
use keyward_model::{AuditRecord, ConnectionFacts, ConnectionId, ConnectionName, TenantId};
use keyward_vault::{
    StoreError, VaultStore,
    store::{
        ConnectionRow, Lease, PendingAuthorization, RefreshAttempt, Sealed, TenantKeyRow, TenantKeyState, VaultRow,
    },
};
use sqlx::{FromRow, SqliteConnection, sqlite::SqliteQueryResult};

use crate::{
    DatabaseError, Store, audit,
    fault::{Failure, code, result_code},
    record::{count, from_json, json, kind, latest, length, micros, now, parsed, principal, signed, time, unreadable},
};

type Refusable<T> = Result<T, Failure<StoreError>>;

/// A write that names the version that it saw and finds another, or nothing.
const CONFLICT: Failure<StoreError> = Failure::Refused(StoreError::Conflict);

fn one(result: &SqliteQueryResult) -> Refusable<()> {
    if result.rows_affected() == 1 { Ok(()) } else { Err(CONFLICT) }
}

/// Where a row names a tenant key that is not there, or a key is removed that a row names.
fn violates_a_key(error: &sqlx::Error) -> bool {
    result_code(error) == Some(code::CONSTRAINT_FOREIGNKEY)
}

/// What the failed write of a sealed value means.
fn unwritten(error: sqlx::Error) -> Failure<StoreError> {
    if violates_a_key(&error) { Failure::Refused(StoreError::KeyGone) } else { Failure::Sqlx(error) }
}

// Keys ----------------------------------------------------------------------------------------------------

#[derive(FromRow)]
struct KeyColumns {
    tenant: String,
    version: i64,
    state: String,
    wrapped: Vec<u8>,
    created_at: i64,
}

impl KeyColumns {
    fn row(self) -> Result<TenantKeyRow, DatabaseError> {
        Ok(TenantKeyRow {
            tenant: parsed("tenant", &self.tenant)?,
            version: count("key version", self.version)?,
            state: match self.state.as_str() {
                "active" => TenantKeyState::Active,
                "decrypt-only" => TenantKeyState::DecryptOnly,
                other => return Err(unreadable("key state", format!("there is no state {other:?}"))),
            },
            wrapped: self.wrapped,
            created_at: time(self.created_at)?,
        })
    }
}

async fn insert_key(tx: &mut SqliteConnection, key: &TenantKeyRow) -> Refusable<()> {
    if key.state == TenantKeyState::Active {
        sqlx::query("UPDATE tenant_keys SET state = 'decrypt-only' WHERE tenant = ?1 AND state = 'active'")
            .bind(key.tenant.as_str())
            .execute(&mut *tx)
            .await?;
    }
    let inserted = sqlx::query(
        "INSERT INTO tenant_keys (tenant, version, state, wrapped, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (tenant, version) DO NOTHING",
    )
    .bind(key.tenant.as_str())
    .bind(key.version)
    .bind(match key.state {
        TenantKeyState::Active => "active",
        TenantKeyState::DecryptOnly => "decrypt-only",
    })
    .bind(&key.wrapped)
    .bind(micros(key.created_at))
    .execute(tx)
    .await?;
    one(&inserted)
}

// Connections ---------------------------------------------------------------------------------------------

#[derive(FromRow)]
struct FactColumns {
    tenant: String,
    id: String,
    name: String,
    owner_kind: Option<String>,
    owner_id: Option<String>,
    provider: String,
    method: String,
    account: Option<String>,
    granted_scopes: String,
    scopes_assumed: bool,
    endpoints: String,
    state: String,
    expires_at: Option<i64>,
    created_at: i64,
    updated_at: i64,
    row_version: i64,
}

impl FactColumns {
    fn facts(self) -> Result<ConnectionFacts, DatabaseError> {
        Ok(ConnectionFacts {
            tenant: parsed("tenant", &self.tenant)?,
            id: parsed("connection id", &self.id)?,
            name: parsed("connection name", &self.name)?,
            owner: self.owner_kind.zip(self.owner_id).map(|(kind, id)| principal(&kind, id)).transpose()?,
            provider: self.provider,
            method: self.method,
            account: self.account,
            granted_scopes: from_json("set of scopes", &self.granted_scopes)?,
            scopes_assumed: self.scopes_assumed,
            endpoints: from_json("map of endpoints", &self.endpoints)?,
            state: from_json("connection state", &self.state)?,
            expires_at: self.expires_at.map(time).transpose()?,
            created_at: time(self.created_at)?,
            updated_at: time(self.updated_at)?,
            row_version: count("row version", self.row_version)?,
        })
    }
}

#[derive(FromRow)]
struct ConnectionColumns {
    #[sqlx(flatten)]
    facts: FactColumns,
    sealed: Vec<u8>,
    key_version: i64,
    refresh_id: Option<String>,
    refresh_token_fingerprint: Option<Vec<u8>>,
    refresh_started_at: Option<i64>,
}

impl ConnectionColumns {
    fn row(self) -> Result<ConnectionRow, DatabaseError> {
        let refresh = match (self.refresh_id, self.refresh_token_fingerprint, self.refresh_started_at) {
            (Some(id), Some(token_fingerprint), Some(started_at)) => Some(RefreshAttempt {
                id: parsed("refresh id", &id)?,
                token_fingerprint,
                started_at: time(started_at)?,
            }),
            (None, None, None) => None,
            _ => return Err(unreadable("refresh attempt", "a part of it is missing")),
        };
        let sealed = Sealed { key_version: count("key version", self.key_version)?, bytes: self.sealed };
        Ok(ConnectionRow { facts: self.facts.facts()?, sealed, refresh })
    }
}

/// Refuses a name that another connection of the tenant has. Nobody can take it before the transaction
/// ends, since there is one writer.
async fn name_is_free(tx: &mut SqliteConnection, facts: &ConnectionFacts) -> Refusable<()> {
    let taken: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM connections WHERE tenant = ?1 AND name = ?2 AND id <> ?3)")
            .bind(facts.tenant.as_str())
            .bind(facts.name.as_str())
            .bind(facts.id.to_string())
            .fetch_one(tx)
            .await?;
    if taken { Err(Failure::Refused(StoreError::NameTaken(facts.name.to_string()))) } else { Ok(()) }
}

/// Binds what [`INSERT`] and [`UPDATE`] have in common, ?1 to ?21.
macro_rules! bind_connection {
    ($query:expr, $row:expr) => {{
        let facts = &$row.facts;
        let refresh = $row.refresh.as_ref();
        $query
            .bind(facts.tenant.as_str())
            .bind(facts.id.to_string())
            .bind(facts.name.as_str())
            .bind(facts.owner.as_ref().map(kind))
            .bind(facts.owner.as_ref().map(|owner| owner.id.as_str()))
            .bind(&facts.provider)
            .bind(&facts.method)
            .bind(&facts.account)
            .bind(json(&facts.granted_scopes)?)
            .bind(facts.scopes_assumed)
            .bind(json(&facts.endpoints)?)
            .bind(json(&facts.state)?)
            .bind(facts.expires_at.map(micros))
            .bind(micros(facts.created_at))
            .bind(micros(facts.updated_at))
            .bind(signed(facts.row_version)?)
            .bind(&$row.sealed.bytes)
            .bind($row.sealed.key_version)
            .bind(refresh.map(|refresh| refresh.id.to_string()))
            .bind(refresh.map(|refresh| refresh.token_fingerprint.as_slice()))
            .bind(refresh.map(|refresh| micros(refresh.started_at)))
    }};
}

const INSERT: &str = "
    INSERT INTO connections
    (tenant, id, name, owner_kind, owner_id, provider, method, account, granted_scopes, scopes_assumed, endpoints,
     state, expires_at, created_at, updated_at, row_version, sealed, key_version,
     refresh_id, refresh_token_fingerprint, refresh_started_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)
    ON CONFLICT (tenant, id) DO NOTHING";

/// ?22 is the version that was seen, ?23 the fence of the lease where there is one.
const UPDATE: &str = "
    UPDATE connections SET
     name = ?3, owner_kind = ?4, owner_id = ?5, provider = ?6, method = ?7, account = ?8, granted_scopes = ?9,
     scopes_assumed = ?10, endpoints = ?11, state = ?12, expires_at = ?13, created_at = ?14, updated_at = ?15,
     row_version = ?16, sealed = ?17, key_version = ?18, refresh_id = ?19, refresh_token_fingerprint = ?20,
     refresh_started_at = ?21
    WHERE tenant = ?1 AND id = ?2 AND row_version = ?22 AND (?23 IS NULL OR lease_fence = ?23)";

/// Removes the authorizations that have ended.
async fn remove_ended(tx: &mut SqliteConnection) -> Refusable<()> {
    sqlx::query(concat!("DELETE FROM pending_authorizations WHERE expires_at <= ", now!())).execute(tx).await?;
    Ok(())
}

// The trait ------------------------------------------------------------------------------------------------

#[async_trait]
impl VaultStore for Store {
    async fn vault(&self) -> Result<Option<VaultRow>, StoreError> {
        self.told(async {
            let row: Option<(Vec<u8>, i64)> =
                sqlx::query_as("SELECT header, row_version FROM vault").fetch_optional(&self.readers).await?;
            let Some((header, row_version)) = row else { return Ok(None) };
            Ok(Some(VaultRow { header, row_version: count("row version", row_version)? }))
        })
        .await
    }

    async fn create_vault(&self, header: &[u8], key: &TenantKeyRow, audit: &AuditRecord) -> Result<(), StoreError> {
        self.told(async {
            let mut tx = self.write().await?;
            let created = sqlx::query(
                "INSERT INTO vault (id, header, row_version) VALUES (1, ?1, 1) ON CONFLICT (id) DO NOTHING",
            )
            .bind(header)
            .execute(&mut *tx)
            .await?;
            one(&created)?;
            insert_key(&mut tx, key).await?;
            audit::add(&mut tx, audit).await?;
            Ok(self.commit(tx).await?)
        })
        .await
    }

    async fn rekey_vault(
        &self,
        seen: u64,
        header: &[u8],
        keys: &[TenantKeyRow],
        audit: &AuditRecord,
    ) -> Result<(), StoreError> {
        self.told(async {
            let mut tx = self.write().await?;
            let replaced =
                sqlx::query("UPDATE vault SET header = ?1, row_version = row_version + 1 WHERE row_version = ?2")
                    .bind(header)
                    .bind(signed(seen)?)
                    .execute(&mut *tx)
                    .await?;
            one(&replaced)?;
            for key in keys {
                let wrapped = sqlx::query("UPDATE tenant_keys SET wrapped = ?1 WHERE tenant = ?2 AND version = ?3")
                    .bind(&key.wrapped)
                    .bind(key.tenant.as_str())
                    .bind(key.version)
                    .execute(&mut *tx)
                    .await?;
                one(&wrapped)?;
            }
            // A key that stayed under the old root key could never be opened again.
            let there: i64 = sqlx::query_scalar("SELECT count(*) FROM tenant_keys").fetch_one(&mut *tx).await?;
            if usize::try_from(there) != Ok(keys.len()) {
                return Err(CONFLICT);
            }
            audit::add(&mut tx, audit).await?;
            Ok(self.commit(tx).await?)
        })
        .await?;
        self.forget_old_pages().await;
        Ok(())
    }

    async fn tenant_keys(&self) -> Result<Vec<TenantKeyRow>, StoreError> {
        self.told(async {
            let rows: Vec<KeyColumns> =
                sqlx::query_as("SELECT * FROM tenant_keys ORDER BY tenant, version").fetch_all(&self.readers).await?;
            let keys: Result<_, _> = rows.into_iter().map(KeyColumns::row).collect();
            Ok(keys?)
        })
        .await
    }

    async fn add_tenant_key(&self, seen: u64, key: &TenantKeyRow, audit: &AuditRecord) -> Result<(), StoreError> {
        self.told(async {
            let mut tx = self.write().await?;
            let counted = sqlx::query("UPDATE vault SET row_version = row_version + 1 WHERE row_version = ?1")
                .bind(signed(seen)?)
                .execute(&mut *tx)
                .await?;
            one(&counted)?;
            insert_key(&mut tx, key).await?;
            audit::add(&mut tx, audit).await?;
            Ok(self.commit(tx).await?)
        })
        .await
    }

    async fn remove_tenant_key(
        &self,
        tenant: &TenantId,
        version: u32,
        audit: &AuditRecord,
    ) -> Result<bool, StoreError> {
        let is_gone = self
            .told(async {
                let mut tx = self.write().await?;
                let active: Option<bool> =
                    sqlx::query_scalar("SELECT state = 'active' FROM tenant_keys WHERE tenant = ?1 AND version = ?2")
                        .bind(tenant.as_str())
                        .bind(version)
                        .fetch_optional(&mut *tx)
                        .await?;
                match active {
                    None => return Ok(true),
                    Some(true) => return Err(CONFLICT),
                    Some(false) => {}
                }
                remove_ended(&mut tx).await?;
                let removed = sqlx::query("DELETE FROM tenant_keys WHERE tenant = ?1 AND version = ?2")
                    .bind(tenant.as_str())
                    .bind(version)
                    .execute(&mut *tx)
                    .await;
                match removed {
                    Err(error) if violates_a_key(&error) => return Ok(false),
                    result => result?,
                };
                sqlx::query("UPDATE vault SET row_version = row_version + 1").execute(&mut *tx).await?;
                audit::add(&mut tx, audit).await?;
                self.commit(tx).await?;
                Ok(true)
            })
            .await?;
        self.forget_old_pages().await;
        Ok(is_gone)
    }

    async fn connections_under_other_keys(
        &self,
        tenant: &TenantId,
        version: u32,
    ) -> Result<Vec<ConnectionId>, StoreError> {
        self.told(async {
            let ids: Vec<String> =
                sqlx::query_scalar("SELECT id FROM connections WHERE tenant = ?1 AND key_version <> ?2 ORDER BY id")
                    .bind(tenant.as_str())
                    .bind(version)
                    .fetch_all(&self.readers)
                    .await?;
            let ids: Result<_, _> = ids.iter().map(|id| parsed("connection id", id)).collect();
            Ok(ids?)
        })
        .await
    }

    async fn connections(&self, tenant: &TenantId) -> Result<Vec<ConnectionFacts>, StoreError> {
        self.told(async {
            let rows: Vec<FactColumns> = sqlx::query_as("SELECT * FROM connections WHERE tenant = ?1 ORDER BY name")
                .bind(tenant.as_str())
                .fetch_all(&self.readers)
                .await?;
            let facts: Result<_, _> = rows.into_iter().map(FactColumns::facts).collect();
            Ok(facts?)
        })
        .await
    }

    async fn connection(&self, tenant: &TenantId, id: &ConnectionId) -> Result<Option<ConnectionRow>, StoreError> {
        self.told(async {
            let row: Option<ConnectionColumns> =
                sqlx::query_as("SELECT * FROM connections WHERE tenant = ?1 AND id = ?2")
                    .bind(tenant.as_str())
                    .bind(id.to_string())
                    .fetch_optional(&self.readers)
                    .await?;
            Ok(row.map(ConnectionColumns::row).transpose()?)
        })
        .await
    }

    async fn connection_id(
        &self,
        tenant: &TenantId,
        name: &ConnectionName,
    ) -> Result<Option<ConnectionId>, StoreError> {
        self.told(async {
            let id: Option<String> = sqlx::query_scalar("SELECT id FROM connections WHERE tenant = ?1 AND name = ?2")
                .bind(tenant.as_str())
                .bind(name.as_str())
                .fetch_optional(&self.readers)
                .await?;
            Ok(id.map(|id| parsed("connection id", &id)).transpose()?)
        })
        .await
    }

    async fn insert_connection(&self, row: &ConnectionRow, audit: &AuditRecord) -> Result<(), StoreError> {
        self.told(async {
            if row.facts.row_version != 1 {
                return Err(DatabaseError::Misused("a new connection's row version must be 1").into());
            }
            let mut tx = self.write().await?;
            name_is_free(&mut tx, &row.facts).await?;
            let inserted = bind_connection!(sqlx::query(INSERT), row).execute(&mut *tx).await.map_err(unwritten)?;
            one(&inserted)?;
            audit::add(&mut tx, audit).await?;
            Ok(self.commit(tx).await?)
        })
        .await
    }

    async fn update_connection(
        &self,
        seen: u64,
        row: &ConnectionRow,
        lease: Option<Lease>,
        audit: Option<&AuditRecord>,
    ) -> Result<(), StoreError> {
        self.told(async {
            if row.facts.row_version != seen + 1 {
                return Err(DatabaseError::Misused("the row version must be one more than the one seen").into());
            }
            let mut tx = self.write().await?;
            name_is_free(&mut tx, &row.facts).await?;
            let updated = bind_connection!(sqlx::query(UPDATE), row)
                .bind(signed(seen)?)
                .bind(lease.map(|lease| signed(lease.fence)).transpose()?)
                .execute(&mut *tx)
                .await
                .map_err(unwritten)?;
            one(&updated)?;
            if let Some(audit) = audit {
                audit::add(&mut tx, audit).await?;
            }
            Ok(self.commit(tx).await?)
        })
        .await
    }

    async fn delete_connection(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        seen: u64,
        audit: &AuditRecord,
    ) -> Result<(), StoreError> {
        self.told(async {
            let mut tx = self.write().await?;
            let deleted = sqlx::query("DELETE FROM connections WHERE tenant = ?1 AND id = ?2 AND row_version = ?3")
                .bind(tenant.as_str())
                .bind(id.to_string())
                .bind(signed(seen)?)
                .execute(&mut *tx)
                .await?;
            one(&deleted)?;
            audit::add(&mut tx, audit).await?;
            Ok(self.commit(tx).await?)
        })
        .await?;
        self.forget_old_pages().await;
        Ok(())
    }

    async fn lease_refresh(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        self.told(async {
            let mut tx = self.write().await?;
            let fence: Option<i64> = sqlx::query_scalar(concat!(
                "UPDATE connections SET lease_fence = lease_fence + 1, lease_until = ",
                now!(),
                " + ?3
                 WHERE tenant = ?1 AND id = ?2 AND (lease_until <= ",
                now!(),
                " OR lease_until > ",
                latest!(),
                ") RETURNING lease_fence"
            ))
            .bind(tenant.as_str())
            .bind(id.to_string())
            .bind(length(ttl))
            .fetch_optional(&mut *tx)
            .await?;
            let Some(fence) = fence else {
                // Held by another is to be waited for; gone is not.
                let there: bool =
                    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM connections WHERE tenant = ?1 AND id = ?2)")
                        .bind(tenant.as_str())
                        .bind(id.to_string())
                        .fetch_one(&mut *tx)
                        .await?;
                return if there { Ok(None) } else { Err(CONFLICT) };
            };
            self.commit(tx).await?;
            Ok(Some(Lease { fence: count("fence", fence)? }))
        })
        .await
    }

    async fn release_refresh(&self, tenant: &TenantId, id: &ConnectionId, lease: Lease) -> Result<(), StoreError> {
        self.told(async {
            let mut tx = self.write().await?;
            sqlx::query("UPDATE connections SET lease_until = 0 WHERE tenant = ?1 AND id = ?2 AND lease_fence = ?3")
                .bind(tenant.as_str())
                .bind(id.to_string())
                .bind(signed(lease.fence)?)
                .execute(&mut *tx)
                .await?;
            Ok(self.commit(tx).await?)
        })
        .await
    }

    async fn put_pending(&self, pending: &PendingAuthorization) -> Result<(), StoreError> {
        self.told(async {
            let mut tx = self.write().await?;
            remove_ended(&mut tx).await?;
            let inserted = sqlx::query(
                "INSERT INTO pending_authorizations (state_hash, tenant, sealed, key_version, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (state_hash) DO NOTHING",
            )
            .bind(pending.state_hash.as_slice())
            .bind(pending.tenant.as_str())
            .bind(&pending.sealed.bytes)
            .bind(pending.sealed.key_version)
            .bind(micros(pending.expires_at))
            .execute(&mut *tx)
            .await
            .map_err(unwritten)?;
            one(&inserted)?;
            Ok(self.commit(tx).await?)
        })
        .await
    }

    async fn take_pending(&self, state_hash: &[u8; 32]) -> Result<Option<PendingAuthorization>, StoreError> {
        self.told(async {
            let mut tx = self.write().await?;
            let taken: Option<(String, Vec<u8>, i64, i64)> = sqlx::query_as(
                "DELETE FROM pending_authorizations WHERE state_hash = ?1
                 RETURNING tenant, sealed, key_version, expires_at",
            )
            .bind(state_hash.as_slice())
            .fetch_optional(&mut *tx)
            .await?;
            self.commit(tx).await?;
            let Some((tenant, bytes, key_version, expires_at)) = taken else { return Ok(None) };
            Ok(Some(PendingAuthorization {
                state_hash: *state_hash,
                tenant: parsed("tenant", &tenant)?,
                sealed: Sealed { key_version: count("key version", key_version)?, bytes },
                expires_at: time(expires_at)?,
            }))
        })
        .await
    }
}
