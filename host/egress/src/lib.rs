//! The one road out: policy, then credential, then wire.
//!
//! A guest's request comes in by [`Gate`] and leaves by [`HttpWire`]. [`Collector`] takes the operator's own telemetry
//! to where the operator says, and nothing else; there is no other HTTP client in the host.
//! Read in this order: `gate.rs` (the order of things), `budget.rs` (when a request may leave), `retry.rs` (when it leaves again), `wire.rs` (what holds for every request), `guard.rs`
//! (which addresses are dialled), `decode.rs` (plain bytes for the guest), `fault.rs` (what an error means),
//! `audited.rs` (calls that never get here), `collector.rs`.

pub mod audit;
mod audited;
mod budget;
mod collector;
mod decode;
mod fault;
mod gate;
mod guard;
mod retry;
mod wire;

pub use audit::{AuditError, AuditSink};
pub use audited::{Audited, record_refusal};
pub use budget::{Budget, BudgetConfig};
pub use collector::{Collector, CollectorError};
pub use gate::{Gate, RuleSource};
pub use wire::{Authority, EgressError, HttpWire, WireConfig};
