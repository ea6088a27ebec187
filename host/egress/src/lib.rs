//! The one road out: policy, then credential, then wire.

pub mod audit;

pub use audit::{AuditError, AuditSink};
