//! Manifests, installed plugins and the consent to them.
//!
//! An author's `connector.toml` becomes a [`Manifest`](keyward_model::manifest::Manifest) by [`parse_manifest`],
//! which tells every fault with its place. [`artifact`] puts it into the component and reads it back without
//! running anything. [`Registry`] installs components with the consent of a person, pinned to the digest.
//!
//! Read in this order: [`manifest`], `rules.rs`, [`artifact`], `difference.rs`, `registry.rs`, `blobs.rs`.

pub mod manifest;

mod rules;
mod schema;
mod suggest;

pub mod artifact;

mod blobs;
mod difference;
mod error;
mod registry;

pub mod store;

pub use difference::{Difference, requirements};
pub use error::RegistryError;
pub use manifest::parse_manifest;
pub use registry::{Proposal, Registry};
pub use rules::is_shown_plainly;
pub use store::{Installed, PluginStore, StoreError};
