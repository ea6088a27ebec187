//! Runs guests in their sandbox.
