//! The only place where a secret is opened.

pub mod store;
pub mod wire;

pub use store::{StoreError, VaultStore};
pub use wire::{Wire, WireError, WireLimits, WireRequest, WireResponse};
