//! The audit record: who did what, where, allowed or denied. Never a secret, a query or a body.

pub mod ocsf;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    error::Sent,
    ids::{ActionName, ActionRef, CallId, ConnectionId, ConnectionName, ConnectorId, Principal, RunId, TenantId},
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
    /// For whom, where that is another.
    pub on_behalf_of: Option<Principal>,
    /// In which flow, as `namespace/name:version`.
    pub flow: Option<String>,
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

impl AuditRecord {
    /// A record of `event` at `at` that names nothing else yet.
    pub fn new(at: OffsetDateTime, tenant: &TenantId, principal: &Principal, event: AuditEvent) -> Self {
        Self {
            id: Uuid::now_v7(),
            at,
            tenant: tenant.clone(),
            principal: principal.clone(),
            on_behalf_of: None,
            flow: None,
            run: None,
            step: None,
            call: None,
            connector: None,
            action: None,
            connection: None,
            event,
            reason: None,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AuditEvent {
    /// A guest's request that may change something is about to go out; `request-sent` or
    /// `request-denied` follows it, unless the host died between the two.
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
        /// Whether it reached the server.
        sent: Sent,
        /// How often it was given to the wire: twice where the server refused the first token, 0 where it did not come
        /// so far.
        sends: u32,
        /// From when it was first given to the wire to the head of the answer, milliseconds.
        duration_ms: u64,
    },
    /// A guest's request was refused, and nothing was sent.
    RequestDenied {
        /// The method as asked for, cut to 16 characters.
        method: String,
        /// `host` or `host:port` where the request could be understood that far.
        host: Option<String>,
        /// The declared path template that allowed it, where another rule than the action's refused it.
        path_template: Option<String>,
    },
    /// A limit of the call refused a request; one record for each limit, however often it does.
    LimitReached,
    /// At the end of a call: more of its requests were refused, which have no record of their own.
    RequestsRefused {
        /// How many.
        count: u32,
    },
    /// A call was refused before it began.
    CallRefused {
        /// The action as it was asked for.
        action: ActionRef,
        /// The connection as it was asked for.
        connection: Option<ConnectionName>,
    },
    /// A secret came back and was replaced.
    SecretRedacted {
        /// How often.
        count: u64,
        /// In whose words.
        by: EchoedBy,
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
    /// The operator's policy was agreed to.
    Policy {
        /// `narrowed` or `widened`.
        change: String,
    },
    /// The keys changed.
    Vault {
        /// `initialised`, `rotated` or `rekeyed`.
        change: String,
    },
}

/// In whose words a secret was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EchoedBy {
    /// In a response, before the guest saw it.
    Server,
    /// In the output, the error or the log of the guest. No response had it in a form that is found, so a server and
    /// the guest may be of one mind.
    Guest,
}

impl AuditEvent {
    /// Whether something was refused.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::RequestDenied { .. } | Self::LimitReached | Self::RequestsRefused { .. } | Self::CallRefused { .. }
        )
    }
}
