//! The audit record: who did what, where, allowed or denied. Never a secret, a query or a body.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    ids::{ActionName, CallId, ConnectionId, ConnectorId, Principal, RunId, TenantId},
    reason::Reason,
};

/// One thing that happened at the gate or to a credential.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its id, ordered by time.
    pub id: Uuid,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// In which tenant.
    pub tenant: TenantId,
    /// Who asked.
    pub principal: Principal,
    /// In which run.
    pub run: Option<RunId>,
    /// Which step of it.
    pub step: Option<String>,
    /// Which call.
    pub call: Option<CallId>,
    /// Which connector.
    pub connector: Option<ConnectorId>,
    /// Which action.
    pub action: Option<ActionName>,
    /// With which connection.
    pub connection: Option<ConnectionId>,
    /// What happened.
    pub event: AuditEvent,
    /// Why it was denied or failed; `None` where it went through.
    pub reason: Option<Reason>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AuditEvent {
    /// A guest's request that may change something is about to go out; `request-sent` follows it, unless the
    /// host died between the two.
    RequestPermitted {
        /// The HTTP method.
        method: String,
        /// `host` or `host:port`.
        host: String,
        /// The declared path template that allowed it.
        path_template: String,
        /// The scopes that justified it.
        scopes: Vec<String>,
    },
    /// A guest's request went out, or failed on the way.
    RequestSent {
        /// The HTTP method.
        method: String,
        /// `host` or `host:port`.
        host: String,
        /// The declared path template that allowed it.
        path_template: String,
        /// The scopes that justified it.
        scopes: Vec<String>,
        /// The HTTP status, where an answer came.
        status: Option<u16>,
        /// From the first byte out to the head of the answer, milliseconds.
        duration_ms: u64,
    },
    /// A guest's request was refused.
    RequestDenied {
        /// The method as asked for, cut to 16 characters.
        method: String,
        /// `host` or `host:port` where the request could be understood that far.
        host: Option<String>,
    },
    /// A secret came back and was replaced.
    SecretRedacted {
        /// How often.
        count: u64,
    },
    /// A connection was made, refreshed, revoked or deleted.
    Connection {
        /// `created`, `refreshed`, `refresh-failed`, `reconnected`, `revoked` or `deleted`.
        change: String,
    },
    /// A connector was installed or removed, with the digest in `connector`.
    Consent {
        /// `added`, `upgraded` or `removed`.
        change: String,
    },
    /// The keys changed.
    Vault {
        /// `initialised`, `rotated` or `rekeyed`.
        change: String,
    },
}
