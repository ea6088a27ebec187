//! What may be known about a connection without opening it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::ids::{ConnectionId, ConnectionName, Principal, TenantId};

/// The open facts of one connection: everything but the credential.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionFacts {
    /// In which tenant.
    pub tenant: TenantId,
    /// Its id, the same over reconnects.
    pub id: ConnectionId,
    /// Its name.
    pub name: ConnectionName,
    /// Who owns it; `None` is the organisation.
    pub owner: Option<Principal>,
    /// The provider's id in the catalogue.
    pub provider: String,
    /// How it authenticates: `oauth2`, `client-credentials`, `api-key`, `basic` or `bearer`.
    pub method: String,
    /// Who it is at the provider, where that is known.
    pub account: Option<String>,
    /// The scopes that were granted, closed under the provider's implications.
    pub granted_scopes: BTreeSet<String>,
    /// Whether the granted scopes are only assumed, because the provider did not say.
    pub scopes_assumed: bool,
    /// URLs that stand in place of configurable endpoints of a connector.
    pub endpoints: BTreeMap<String, String>,
    /// Whether it works.
    pub state: ConnectionState,
    /// When the access token ends, where that is known.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
    /// Counts the changes of the record; a write names the one that it saw.
    pub row_version: u64,
}

/// Whether a connection works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "reason", rename_all = "kebab-case")]
pub enum ConnectionState {
    /// It works as far as we know.
    Active,
    /// Its owner must connect again, for this reason.
    NeedsReconnect(String),
    /// Its client registration is refused, for this reason; the grant may still be good.
    ClientRefused(String),
    /// It was revoked at the provider by our request.
    Revoked,
}
