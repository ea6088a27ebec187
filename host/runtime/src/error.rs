//! The one error type of this crate, for everything that happens outside a call; a call ends in
//! [`keyward_model::InvokeError`].

use std::{io, path::PathBuf};

use crate::{failure::MAX_WORDS, log::for_people};

/// Why the sandbox cannot be set up, or a component cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The engine does not start on this machine with this configuration.
    #[error("the sandbox cannot be started: {message}")]
    Engine {
        /// What wasmtime said.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The cache directory may not be used: what lies in it is loaded as machine code.
    #[error("the cache directory {} cannot be used: {message}", path.display())]
    CacheDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The component's file cannot be read.
    #[error("the component {} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The bytes are not a component that this host can run; the fault lies with whoever made them.
    #[error("{message}")]
    Unsuitable {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The guest crashed while it was asked to describe itself; the fault lies with its author.
    #[error("the guest failed: {message}")]
    Guest {
        /// What happened.
        message: String,
        /// The guest's own call stack, one frame a line.
        backtrace: Option<String>,
    },
}

impl RuntimeError {
    /// A component that does not fit, with what to do about it. The message may repeat words of the component.
    pub(crate) fn unsuitable(message: impl AsRef<str>, hint: impl Into<String>) -> Self {
        Self::Unsuitable { message: for_people(message.as_ref(), MAX_WORDS), hint: Some(hint.into()) }
    }

    /// What to do next, where that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Engine { hint, .. } | Self::Unsuitable { hint, .. } => hint.as_deref(),
            Self::CacheDirectory { hint, .. } => Some(hint),
            Self::Read { .. } | Self::Guest { .. } => None,
        }
    }
}
