//! The two errors that cross crates: of a request, and of an action call.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ports::LogLine, reason::Reason};

/// Whether a request reached the server: what a flow must know before it tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sent {
    /// Nothing was sent.
    No,
    /// Some or all of it may have been processed.
    Maybe,
    /// The server answered.
    Yes,
}

impl Sent {
    /// The one of two that says more about delivery.
    #[must_use]
    pub fn surer(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::Maybe, _) | (_, Self::Maybe) => Self::Maybe,
            (Self::No, Self::No) => Self::No,
        }
    }
}

/// Why a guest's request brought no response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendError {
    /// What the guest can branch on.
    pub kind: SendErrorKind,
    /// The exact reason.
    pub reason: Reason,
    /// For the caller: what was wrong, without secrets, query values or other people's policy.
    pub message: String,
    /// For the author and the operator: what to change, for example the manifest line that would allow it.
    pub hint: Option<String>,
    /// Whether the request reached the server.
    pub sent: Sent,
}

/// The cases of [`SendError`]; the same as in WIT `http.send-error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SendErrorKind {
    /// A rule refuses it.
    Denied,
    /// The connection lacks these scopes (one set that would do).
    InsufficientScope {
        /// What is missing.
        missing: Vec<String>,
    },
    /// The connection's owner must connect again.
    ReconnectRequired,
    /// Too many requests; try after the delay.
    RateLimited {
        /// How long to wait, where it is known.
        retry_after: Option<Duration>,
    },
    /// No answer in time.
    Timeout,
    /// A body is too large.
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The server cannot be reached.
    Unreachable,
    /// Anything else.
    Other,
}

impl SendError {
    /// An error of `kind` because of `reason`, with nothing sent and no hint.
    pub fn new(kind: SendErrorKind, reason: Reason, message: impl Into<String>) -> Self {
        Self { kind, reason, message: message.into(), hint: None, sent: Sent::No }
    }

    /// The same with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with what is known about delivery.
    pub fn sent(mut self, sent: Sent) -> Self {
        self.sent = sent;
        self
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason)
    }
}

impl std::error::Error for SendError {}

/// Why an action call brought no output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvokeError {
    /// What a flow can branch on.
    pub kind: InvokeErrorKind,
    /// The exact reason.
    pub reason: Reason,
    /// For the caller.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// The HTTP status of the provider where one is the cause.
    pub status: Option<u16>,
    /// Whether a request with a side effect may have reached the provider.
    pub sent: Sent,
    /// Whether another attempt may succeed, where the action itself says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
    /// How long to wait before another attempt, where it is known.
    pub retry_after: Option<Duration>,
    /// For the author: the guest's own call stack.
    pub backtrace: Option<String>,
    /// What the guest logged until then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<LogLine>,
    /// Whether the guest was started, so that the error is of what it did and no refusal of the call.
    #[serde(skip)]
    pub began: bool,
}

/// The cases of [`InvokeError`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum InvokeErrorKind {
    /// No such connector, version or action.
    NotFound,
    /// Input or output does not match its schema.
    Validation,
    /// Policy or consent refuses it.
    Denied,
    /// The connection lacks scopes.
    InsufficientScope {
        /// What is missing.
        missing: Vec<String>,
    },
    /// The connection is missing or no longer works.
    Connection,
    /// The provider could not be reached or answered with an error.
    Communication,
    /// Too many requests.
    RateLimited,
    /// A time limit passed.
    Timeout,
    /// The guest broke a limit or crashed.
    Guest,
    /// The action reports a failure of its own, with its code.
    Action {
        /// The action's own code, for example `not-found`.
        code: String,
    },
    /// A fault of the host.
    Internal,
}

impl InvokeError {
    /// An error of `kind` because of `reason`, with nothing sent.
    pub fn new(kind: InvokeErrorKind, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind,
            reason,
            message: message.into(),
            hint: None,
            status: None,
            sent: Sent::No,
            retryable: None,
            retry_after: None,
            backtrace: None,
            log: Vec::new(),
            began: false,
        }
    }

    /// The same with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for InvokeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason)
    }
}

impl std::error::Error for InvokeError {}
