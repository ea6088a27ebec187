//! Ids, words and the two ports of Keyward; no I/O.
//!
//! Everything that two crates must agree on and that is neither a rule nor a secret stands here.
//! Read in this order: [`ids`], [`manifest`], [`request`], [`reason`], [`error`], [`ports`].

pub mod audit;
pub mod connection;
pub mod diagnostic;
pub mod error;
pub mod ids;
pub mod manifest;
pub mod ports;
pub mod rate;
pub mod reason;
pub mod request;
pub mod schema;

pub use audit::{AuditEvent, AuditRecord, EchoedBy};
pub use connection::{ConnectionFacts, ConnectionState};
pub use diagnostic::{Diagnostic, Severity, Span};
pub use error::{InvokeError, InvokeErrorKind, SendError, SendErrorKind, Sent};
pub use ids::{
    ActionName, ActionRef, CallId, ConnectionId, ConnectionName, ConnectorId, ConnectorName, Digest, IdError,
    Principal, PrincipalKind, RunId, TenantId,
};
pub use ports::{
    ActionCall, ActionOutcome, CallContext, CallMemory, CallStats, Invoke, LogLevel, LogLine, MAX_REFUSALS, Outbound,
    Refusals,
};
pub use rate::{Rate, RateError};
pub use reason::Reason;
pub use request::{Body, BodyStream, GuestRequest, GuestResponse, Target};
