//! The rules of a request, and the [`Permit`] that proves they were checked; pure.
//!
//! [`ActionRules::authorize`] is the only maker of a [`Permit`]; the vault puts a credential into nothing else.

mod permit;

pub use permit::{Permit, PermitParts};
