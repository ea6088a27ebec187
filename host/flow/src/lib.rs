//! The flow language and its durable engine.

pub mod journal;

pub use journal::{Journal, JournalError};
