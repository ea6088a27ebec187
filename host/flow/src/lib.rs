//! The flow language and its durable engine.
//!
//! Read in this order: [`dsl`] (a source becomes a checked flow), [`event`] (what happens in a run),
//! the reducer (the rules of a run, without I/O), the engine (carries out what they ask for),
//! [`journal`] (what it needs of a database).

pub mod dsl;
mod engine;
pub mod event;
mod expression;
pub mod journal;
mod limits;
mod problem;
mod reducer;
mod stop;
#[cfg(test)]
mod testing;
mod threads;

pub use dsl::{Flow, FlowCall, check};
pub use engine::{Engine, EngineError, Observer};
pub use event::{Event, TaskPlace};
pub use expression::ExpressionLimits;
pub use journal::{Journal, JournalError};
pub use limits::EngineLimits;
pub use stop::Stop;
