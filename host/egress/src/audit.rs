//! Where the gate writes down what it did.

use async_trait::async_trait;
use keyward_model::AuditRecord;

/// Why a record could not be written. What it tells of is then not sent, or its answer is withheld.
#[derive(Debug, thiserror::Error)]
#[error("the audit trail cannot be written: {0}")]
pub struct AuditError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The audit trail.
#[async_trait]
pub trait AuditSink: Send + Sync {
    /// Writes one record; it is durable when this returns.
    ///
    /// A record that was handed over is written though nobody waits any more: the caller of a request may go away
    /// at any moment, and then the future is dropped.
    async fn record(&self, record: AuditRecord) -> Result<(), AuditError>;
}
