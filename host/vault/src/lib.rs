//! The only place where a secret is opened.
//!
//! **Data flow.** A [`Permit`](keyward_policy::Permit) comes in from the gate. [`Vault::apply`] opens the
//! connection's credential, refreshes it where it is due, and puts it where the manifest says; the result
//! has one method, [`CredentialedRequest::send`], which hands the request to the wire and searches all that
//! comes back for what was put in. What leaves is a [`CleanResponse`].
//!
//! ```text
//! passphrase, file, environment ──► root key ──► tenant keys ──► data key of each object ──► credential
//!                                                                                                │
//! Permit ──► apply ──► CredentialedRequest ──► Wire ──► the network                    placed ◄──┘
//!                                                │
//! guest ◄── CleanResponse ◄── searched ◄─────────┘
//! guest's words ─► CallSecrets::clean ─► caller, log, journal
//! ```
//!
//! **Reading order.** [`Vault`] (`vault.rs`); how things rest: `seal.rs`, `header.rs`, `keys.rs`, `root.rs`,
//! `rotate.rs`; how a request gets its credential and loses it again: `apply.rs`, `place.rs`, `digest.rs`, `redact.rs`;
//! where credentials come from: `provider.rs`, `connect.rs`, `signing_key.rs`, `refresh.rs`; what is
//! kept of the store for a moment: `rows.rs`.
//!
//! **What is not protected.** Somebody who can read this process's memory, or who has both the database and
//! the root key, has the credentials. Secrets are overwritten when they are dropped, but pages may be
//! swapped out before: use encrypted swap. What the HTTP client and the TLS library hold of a request is not
//! overwritten. Putting the whole database back to an earlier state is not noticed. The open facts of a
//! connection (names, provider, scopes, times) rest in clear. A provider that sends a secret back encrypted,
//! hashed, compressed inside of its own data or cut in pieces is not noticed.

mod aead;
mod apply;
mod digest;
mod error;
mod harden;
mod header;
mod keys;
mod place;
mod redact;
mod root;
mod rotate;
mod rows;
mod seal;
mod secret;
mod signing_key;
pub mod store;
mod vault;
pub mod wire;

mod connect;
mod credential;
mod oauth;
mod provider;
mod refresh;
mod token;

#[cfg(test)]
mod testing;

pub use apply::{CleanResponse, CredentialedRequest};
pub use connect::{
    AuthorizationStart, ClientRegistration, Connected, ConnectionError, NewConnection, RevokeReport, StaticCredential,
    TestOutcome, TestReport,
};
pub use credential::{BasicSecret, FieldValue};
pub use error::VaultError;
pub use harden::harden_process;
pub use provider::{Catalogue, CatalogueError, ConnectionMethod, Provider, Source, UnknownMethod};
pub use redact::{CallSecrets, RedactionCount, Redactor, Scrubber};
pub use root::{RootKeyKind, RootKeySource};
pub use rotate::RotateReport;
pub use secret::Secret;
pub use signing_key::SigningKey;
pub use store::{StoreError, VaultStore};
pub use vault::{RootKeyStatus, TenantKeyStatus, Vault, VaultOptions, VaultStatus};
pub use wire::{Wire, WireBody, WireError, WireLimits, WireRequest, WireResponse};
