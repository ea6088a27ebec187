//! Why the vault did not do it.

use std::path::PathBuf;

use keyward_model::TenantId;

use crate::{connect::ConnectionError, root::RootKeyKind, store::StoreError};

/// Why the vault did not do it. No variant holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// There is no vault yet.
    #[error("the vault is not initialised")]
    NotInitialised,
    /// There is one already.
    #[error("the vault is already initialised")]
    AlreadyInitialised,
    /// The given root key does not open the vault.
    #[error("this is not the key that the vault was initialised with (a {kind}), or the vault's record was altered")]
    WrongKey {
        /// What kind of key the vault's record asks for.
        kind: RootKeyKind,
    },
    /// A passphrase was given where a key is asked for, or the other way round.
    #[error("the vault was initialised with a {expected}, and a {given} was given")]
    WrongSource {
        /// What kind of key the vault's record asks for.
        expected: RootKeyKind,
        /// What was given.
        given: RootKeyKind,
    },
    /// The key that is to replace the root key is the root key.
    #[error("this {kind} opens the vault already; nothing was changed")]
    SameRootKey {
        /// What kind of key it is.
        kind: RootKeyKind,
    },
    /// The root key was replaced since this process unlocked the vault.
    #[error("the root key was replaced by another process since this one unlocked the vault")]
    RootKeyReplaced,
    /// The passphrase cannot be used.
    #[error("the passphrase {problem}")]
    Passphrase {
        /// What is wrong with it, as a predicate.
        problem: String,
    },
    /// The key file cannot be used.
    #[error("the key file {} {problem}", path.display())]
    KeyFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, as a predicate.
        problem: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The environment variable with the key cannot be used.
    #[error("the environment variable {name} {problem}")]
    KeyVariable {
        /// Its name.
        name: String,
        /// What is wrong with it, as a predicate.
        problem: &'static str,
    },
    /// The vault's record asks for a key derivation that is too weak to be what we wrote.
    #[error("the vault's record asks for {found} PBKDF2 iterations, fewer than the {floor} that are allowed")]
    WeakDerivation {
        /// Iterations in the record.
        found: u32,
        /// The fewest allowed.
        floor: u32,
    },
    /// Newer software wrote it.
    #[error("{what} has format {found}, and this version of Keyward reads up to {known}")]
    Newer {
        /// What cannot be read.
        what: &'static str,
        /// The format found.
        found: u8,
        /// The newest format known.
        known: u8,
    },
    /// The bytes are not what was sealed at this place: cut, altered, or moved from another place.
    #[error("{what} was altered, cut short or moved from another place")]
    Damaged {
        /// What cannot be opened.
        what: String,
    },
    /// A tenant key is not what was wrapped at its place.
    #[error("key version {version} of tenant {tenant} was altered, cut short or moved from another place")]
    KeyDamaged {
        /// Whose key.
        tenant: TenantId,
        /// Which version.
        version: u32,
    },
    /// An object rests under a tenant key that is not there.
    #[error("there is no key version {version} of tenant {tenant}")]
    KeyUnknown {
        /// Whose key.
        tenant: TenantId,
        /// Which version.
        version: u32,
    },
    /// The tenant has no key to seal under.
    #[error("tenant {0} has no key")]
    TenantUnknown(TenantId),
    /// Others changed the same record each time that this one tried.
    #[error("the vault's record was changed by others {attempts} times while this change was tried")]
    Contended {
        /// How often it was tried.
        attempts: u32,
    },
    /// A connection cannot be made, refreshed, tested or revoked.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system gave no random bytes, or a background task was stopped.
    #[error("the operating system failed: {0}")]
    System(String),
}

impl VaultError {
    /// Whether a sealed value cannot be opened under the keys that there are.
    pub(crate) fn is_unopenable(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::KeyDamaged { .. } | Self::KeyUnknown { .. })
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotInitialised => "run `keyward vault init` first",
            Self::AlreadyInitialised => {
                "`keyward vault rekey` replaces the root key, `keyward vault rotate` the tenant's"
            }
            Self::WrongKey { kind: RootKeyKind::Passphrase } => {
                "check the passphrase; without it the credentials cannot be recovered, only connected again"
            }
            Self::WrongKey { .. } => "check that the key is the one that belongs to this data directory",
            Self::WrongSource { .. } => "`keyward vault status` shows which kind of key the vault asks for",
            Self::SameRootKey { kind: RootKeyKind::Passphrase } => "choose another passphrase",
            Self::SameRootKey { .. } => "name a file that does not exist yet: it is made with a new key",
            Self::RootKeyReplaced => "start this process again with the new root key",
            Self::Passphrase { .. } => "use 12 to 1024 bytes, for example six random words",
            Self::KeyFile { hint, .. } => return hint.clone(),
            Self::KeyVariable { .. } => "set it to 32 random bytes in base64: `openssl rand -base64 32`",
            Self::WeakDerivation { .. } => "the record was altered; restore it from a backup",
            Self::Newer { .. } => "use the version of Keyward that wrote it, or a newer one",
            Self::Damaged { .. } => "restore the database from a backup, or delete the connection and connect again",
            Self::KeyDamaged { .. } => {
                "restore the database from a backup; without one, run `keyward vault rotate`, delete what it names, \
                 connect again, and rotate again; where no other key opens, begin anew with another --data-dir"
            }
            Self::KeyUnknown { .. } => {
                "restore the database from a backup that has the key, or delete the connection and connect again"
            }
            Self::TenantUnknown(_) => "`keyward vault status` lists the tenants that have keys",
            Self::Contended { .. } => "try again when the other processes are done",
            Self::Connection(error) => return error.hint(),
            Self::Store(StoreError::DiskFull) => "free some space and try again",
            Self::Store(StoreError::Busy) => "wait for the other process, or end it",
            Self::Store(StoreError::Corrupt(_)) => "restore the database from a backup",
            Self::Store(_) | Self::System(_) => return None,
        };
        Some(hint.to_owned())
    }
}
