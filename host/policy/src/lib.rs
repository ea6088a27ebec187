//! The rules of a request, and the [`Permit`] that proves they were checked; pure.
//!
//! [`ActionRules::authorize`] is the only maker of a [`Permit`]; the vault puts a credential into nothing else.
//! Nothing here does I/O or reads a clock, so every rule is tested by a table.
//!
//! Read in this order: [`grammar`] (what an author may write), [`ActionRules`] (`rules.rs`: how a request is
//! checked), [`operator`] (what the operator allows of it), [`redirect`] (where an answer leads), [`CanonicalPath`] (`path.rs`: the one form of a path), `target.rs` (the one form of a URL),
//! `headers.rs`, `body.rs`, `placement.rs` and `value.rs` (where a credential may go, and what is signed), [`address`] (what may be dialled).

mod denial;
mod error;
pub mod grammar;
mod host;
mod manifest;
mod network;
pub mod operator;
mod permit;
pub mod redirect;
mod rules;

mod body;
mod headers;
mod method;
mod path;
mod placement;
mod query;
mod target;
mod template;
mod value;

#[cfg(test)]
mod testing;

pub mod address;
pub mod scope;

pub use denial::{Denial, printable_method};
pub use error::RuleError;
pub use manifest::check_manifest;
pub use network::{HostPort, NetworkExceptions, PrivateException};
pub use operator::{Operator, OperatorPolicy, PolicyHost};
pub use path::CanonicalPath;
pub use permit::{Permit, PermitParts};
pub use placement::{is_s3, signs};
pub use rules::ActionRules;
pub use target::check_endpoint_url;
pub use template::PathTemplate;
pub use value::{Piece, Slot, Use, ValueTemplate};
