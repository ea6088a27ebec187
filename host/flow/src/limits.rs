//! What a run may take.

use crate::expression::ExpressionLimits;

/// The bounds of every run of an engine. How deep tasks may nest is bounded where the source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLimits {
    /// How many entries the journal of one run may have.
    pub entries: u64,
    /// How many bytes they may have together, about.
    pub journal_bytes: u64,
    /// How many turns all the `for` loops of one run may take together.
    pub iterations: u64,
    /// How large the snapshot of one run may be, bytes as JSON.
    pub snapshot_bytes: usize,
    /// What the evaluation of one expression may take.
    pub expression: ExpressionLimits,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self {
            entries: 100_000,
            journal_bytes: 256 << 20,
            iterations: 100_000,
            snapshot_bytes: 32 << 20,
            expression: ExpressionLimits::default(),
        }
    }
}
