//! Manifests, installed plugins and the consent to them.

pub mod store;

pub use store::{Installed, PluginStore, StoreError};
