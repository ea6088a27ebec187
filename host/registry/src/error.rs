//! Why the registry did not do it.

use std::{io, path::PathBuf};

use keyward_model::{ActionRef, ConnectorName, Digest, InvokeError, InvokeErrorKind, Reason};
use keyward_policy::RuleError;

use crate::{store::StoreError, suggest::did_you_mean};

/// Why the registry did not do it. [`RegistryError::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The bytes are not WebAssembly at all, or cut off.
    #[error("this is not a WebAssembly component: {message} (at byte {offset})")]
    Malformed {
        /// Where it goes wrong, bytes from the start.
        offset: usize,
        /// What is wrong.
        message: String,
    },
    /// A core module, and no component.
    #[error("this is a core WebAssembly module, not a component")]
    CoreModule,
    /// Larger than anything that is taken.
    #[error("the {what} has {bytes} bytes, and {limit} is the limit")]
    TooLarge {
        /// `component` or `manifest`.
        what: &'static str,
        /// How large it is.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The component has no manifest.
    #[error("the component has no manifest")]
    NoManifest,
    /// The component has more than one manifest, so that two readers could see two different ones.
    #[error("the component has {0} manifests")]
    SeveralManifests(usize),
    /// The manifest is of a format that this version does not know.
    #[error("the component's manifest has format {found}, and this version knows formats up to {known}")]
    NewerFormat {
        /// The format in the component.
        found: u64,
        /// The newest that is known.
        known: u64,
    },
    /// The manifest cannot be read.
    #[error("the component's manifest cannot be read: {0}")]
    ManifestUnreadable(String),
    /// The manifest breaks rules.
    #[error("the component's manifest breaks {}: {}", count(.0.len(), "rule"), list(.0))]
    ManifestRefused(Vec<RuleError>),
    /// No such connector is installed.
    #[error("no connector `{connector}` is installed")]
    NotInstalled {
        /// Which.
        connector: ConnectorName,
        /// The names of those that are.
        installed: Vec<ConnectorName>,
    },
    /// Another version than the pinned one is installed.
    #[error("{action} is pinned to a version, and {installed} is installed")]
    OtherVersion {
        /// What was asked for.
        action: ActionRef,
        /// The version that is installed.
        installed: String,
    },
    /// The connector has no such action.
    #[error("the connector `{}` {version} has no action `{}`", .action.connector, .action.action)]
    NoAction {
        /// What was asked for.
        action: ActionRef,
        /// The version that is installed.
        version: String,
        /// The actions that it has.
        actions: Vec<String>,
    },
    /// The component's file is gone.
    #[error("the component {digest} is not at {}", .path.display())]
    ComponentMissing {
        /// Its digest.
        digest: Digest,
        /// Where it should be.
        path: PathBuf,
    },
    /// The component's file holds other bytes than those that were agreed to.
    #[error("the file {} holds {found}, not {digest} that was agreed to; it is not used", .path.display())]
    ComponentChanged {
        /// The digest that was agreed to.
        digest: Digest,
        /// The digest of what is there.
        found: Digest,
        /// Where.
        path: PathBuf,
    },
    /// The record of an installed connector says something else than the component that was agreed to.
    #[error("the record of the connector `{0}` is not what its component says; it is not used")]
    ManifestChanged(ConnectorName),
    /// Between the proposal and the consent somebody else changed what is installed, so the difference
    /// that was shown is not the one that would be agreed to.
    #[error("the connector `{0}` was changed by somebody else since the proposal was made")]
    Overtaken(ConnectorName),
    /// The disk is full.
    #[error("the disk is full; nothing was installed")]
    DiskFull,
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

impl RegistryError {
    /// What to do, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Malformed { .. } | Self::CoreModule | Self::NoManifest => {
                "build the connector with `keyward plugin build`"
            }
            Self::SeveralManifests(_) => "do not use it: whoever made it may want to show one manifest and use another",
            Self::NewerFormat { .. } => "update keyward, or ask for a build of the connector for this version",
            Self::ManifestRefused(rules) => return rules.iter().find_map(|rule| rule.hint.clone()),
            Self::NotInstalled { connector, installed } => {
                return did_you_mean(connector.as_str(), installed.iter().map(ConnectorName::as_str))
                    .or_else(|| Some("install one with `keyward plugin add`".to_owned()));
            }
            Self::OtherVersion { .. } => "change the pin, or install that version with `keyward plugin add`",
            Self::NoAction { action, actions, .. } => {
                return did_you_mean(action.action.as_str(), actions.iter().map(String::as_str));
            }
            Self::ComponentMissing { .. } | Self::ComponentChanged { .. } | Self::ManifestChanged(_) => {
                "install the same connector again with `keyward plugin add`"
            }
            Self::Overtaken(_) => "look at the difference again",
            Self::DiskFull | Self::Store(StoreError::DiskFull) => "free some space and try again",
            Self::Store(StoreError::Busy) => "wait for the other process, or end it",
            Self::Store(StoreError::Corrupt(_)) => "restore the database from a backup",
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run keyward as the user who owns the data directory"
            }
            Self::TooLarge { .. } | Self::ManifestUnreadable(_) | Self::Io { .. } | Self::Store(_) => return None,
        };
        Some(text.to_owned())
    }

    /// What a call that fails for it is told, and the audit trail.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotInstalled { .. } | Self::OtherVersion { .. } | Self::NoAction { .. } => Reason::ActionUnknown,
            Self::ComponentChanged { .. } | Self::ManifestChanged(_) => Reason::ComponentChanged,
            Self::DiskFull | Self::Store(_) => Reason::StoreFailed,
            _ => Reason::ComponentUnsuitable,
        }
    }

    /// A file operation that failed; a full disk is told as such.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::DiskFull,
            _ => Self::Io { what, path: path.into(), source },
        }
    }
}

impl From<StoreError> for RegistryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DiskFull => Self::DiskFull,
            other => Self::Store(other),
        }
    }
}

impl From<RegistryError> for InvokeError {
    fn from(error: RegistryError) -> Self {
        let reason = error.reason();
        let kind = match reason {
            Reason::ActionUnknown => InvokeErrorKind::NotFound,
            Reason::ComponentChanged => InvokeErrorKind::Denied,
            _ => InvokeErrorKind::Internal,
        };
        let hint = error.hint();
        let invoke = InvokeError::new(kind, reason, error.to_string());
        match hint {
            Some(hint) => invoke.hint(hint),
            None => invoke,
        }
    }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("a {what}") } else { format!("{number} {what}s") }
}

fn list(rules: &[RuleError]) -> String {
    rules.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
