//! A connection's row: opened, changed, sealed again, written.

use std::collections::{BTreeMap, BTreeSet};

use keyward_model::{
    AuditEvent, AuditRecord, ConnectionFacts, ConnectionId, ConnectionName, ConnectionState, Principal, Reason,
    TenantId,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{ConnectionError, NewConnection};
use crate::{
    credential::{Credential, Field, Fields, Kind},
    error::VaultError,
    provider::{ConnectionMethod, Provider},
    store::{ConnectionRow, Lease, StoreError},
    vault::Vault,
};

/// A row and what was sealed in it.
pub(crate) struct Opened {
    pub(crate) row: ConnectionRow,
    pub(crate) credential: Credential,
}

/// What a connection is, apart from what the provider says.
#[derive(Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) tenant: TenantId,
    pub(super) principal: Principal,
    pub(super) name: ConnectionName,
    pub(super) owner: Option<Principal>,
    pub(super) endpoints: BTreeMap<String, String>,
    pub(super) reconnect: Option<ConnectionId>,
    pub(super) fields: Fields,
}

impl Identity {
    pub(super) fn of(new: NewConnection) -> Self {
        let NewConnection { tenant, principal, name, owner, endpoints, reconnect, fields, .. } = new;
        let fields = fields.into_iter().map(|(name, value)| (name, value.into())).collect();
        Self { tenant, principal, name, owner, endpoints, reconnect, fields }
    }
}

impl Field {
    fn duplicate(&self) -> Self {
        Self { value: self.value.duplicate(), is_secret: self.is_secret }
    }
}

/// What came of connecting.
pub(super) struct Made {
    pub(super) method: ConnectionMethod,
    pub(super) kind: Kind,
    pub(super) granted: BTreeSet<String>,
    pub(super) assumed: bool,
    pub(super) account: Option<String>,
    pub(super) expires_at: Option<OffsetDateTime>,
}

/// How often a write is tried that others get in the way of.
pub(super) const ATTEMPTS: u32 = 16;

impl Vault {
    /// Writes a new connection, or the new credential of one that is made again.
    pub(super) async fn keep(&self, identity: Identity, provider: &Provider, made: Made) -> Result<Opened, VaultError> {
        let now = self.clock.now().wall;
        let granted = provider.implications().closure(&made.granted);
        let state = ConnectionState::Active;
        let Some(id) = identity.reconnect else {
            let facts = ConnectionFacts {
                tenant: identity.tenant,
                id: ConnectionId::new(),
                name: identity.name,
                owner: identity.owner,
                provider: provider.id.clone(),
                method: made.method.as_str().to_owned(),
                account: made.account,
                granted_scopes: granted,
                scopes_assumed: made.assumed,
                endpoints: identity.endpoints,
                state,
                expires_at: made.expires_at,
                created_at: now,
                updated_at: now,
                row_version: 1,
            };
            let audit = self.record(&facts, &identity.principal, "created", None);
            let credential = Credential { kind: made.kind, fields: identity.fields };
            for _ in 0..ATTEMPTS {
                let sealed = self.seal_credential(&facts, &credential).await?;
                let row = ConnectionRow { facts: facts.clone(), sealed, refresh: None };
                match self.store.insert_connection(&row, &audit).await {
                    Err(StoreError::KeyGone) => self.keyring.reload(&*self.store).await?,
                    result => {
                        result?;
                        self.rows.put(&row);
                        return Ok(Opened { row, credential });
                    }
                }
            }
            return Err(VaultError::Contended { attempts: ATTEMPTS });
        };
        let mut kind = made.kind;
        for _ in 0..ATTEMPTS {
            let Opened { mut row, credential: Credential { mut fields, .. } } =
                self.read(&identity.tenant, &id).await?;
            fields.extend(identity.fields.iter().map(|(name, field)| (name.clone(), field.duplicate())));
            row.refresh = None;
            row.facts = ConnectionFacts {
                method: made.method.as_str().to_owned(),
                account: made.account.clone(),
                granted_scopes: granted.clone(),
                scopes_assumed: made.assumed,
                endpoints: identity.endpoints.clone(),
                state: state.clone(),
                expires_at: made.expires_at,
                ..row.facts
            };
            let mut opened = Opened { row, credential: Credential { kind, fields } };
            let audit = self.record(&opened.row.facts, &identity.principal, "reconnected", None);
            match self.write(&mut opened, None, Some(&audit)).await {
                Err(VaultError::Store(StoreError::Conflict)) => kind = opened.credential.kind,
                result => return result.map(|()| opened),
            }
        }
        Err(VaultError::Contended { attempts: ATTEMPTS })
    }

    /// Writes a row in its next version, sealed for it. After an error the row in memory is of no use.
    pub(crate) async fn write(
        &self,
        opened: &mut Opened,
        lease: Option<Lease>,
        audit: Option<&AuditRecord>,
    ) -> Result<(), VaultError> {
        let seen = opened.row.facts.row_version;
        opened.row.facts.row_version = seen + 1;
        opened.row.facts.updated_at = self.clock.now().wall;
        for _ in 0..ATTEMPTS {
            opened.row.sealed = self.seal_credential(&opened.row.facts, &opened.credential).await?;
            match self.store.update_connection(seen, &opened.row, lease, audit).await {
                Err(StoreError::KeyGone) => self.keyring.reload(&*self.store).await?,
                result => {
                    result?;
                    self.rows.put(&opened.row);
                    return Ok(());
                }
            }
        }
        Err(VaultError::Contended { attempts: ATTEMPTS })
    }

    /// The row of a connection, opened as it is.
    pub(crate) async fn read(&self, tenant: &TenantId, id: &ConnectionId) -> Result<Opened, VaultError> {
        let mut row = self.row(tenant, id).await?;
        let credential = match self.open_credential(&row).await {
            // A rotation may have sealed it again and removed the old key since the row was read.
            Err(VaultError::KeyUnknown { .. }) => {
                row = self.row(tenant, id).await?;
                self.open_credential(&row).await?
            }
            result => result?,
        };
        Ok(Opened { row, credential })
    }

    /// The row of a connection as it is.
    pub(super) async fn row(&self, tenant: &TenantId, id: &ConnectionId) -> Result<ConnectionRow, VaultError> {
        let Some(row) = self.store.connection(tenant, id).await? else {
            self.rows.forget(tenant, id);
            return Err(ConnectionError::Unknown(id.to_string()).into());
        };
        self.rows.put(&row);
        Ok(row)
    }

    /// The record of a change to a connection.
    pub(crate) fn record(
        &self,
        facts: &ConnectionFacts,
        principal: &Principal,
        change: &str,
        reason: Option<Reason>,
    ) -> AuditRecord {
        let event = AuditEvent::Connection { change: change.to_owned() };
        let record = AuditRecord::new(self.clock.now().wall, &facts.tenant, principal, event);
        AuditRecord { connection: Some(facts.id), reason, ..record }
    }
}
