//! Why a connection cannot be made, refreshed, tested or revoked.

use std::time::Duration;

use crate::{token::Refusal, wire::WireError};

/// Why a connection cannot be made, refreshed, tested or revoked. What a provider says is in it only as `error` and
/// `error_description`, shortened, and never with a secret that was sent to it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// There is no such connection.
    #[error("there is no connection {0}")]
    Unknown(String),
    /// There is no such provider.
    #[error("there is no provider {id:?}; known are {}", known.join(", "))]
    ProviderUnknown {
        /// What was asked for.
        id: String,
        /// The ids in the catalogue.
        known: Vec<String>,
    },
    /// What was asked for does not fit the provider or is incomplete.
    #[error("{message}")]
    Unsuitable {
        /// What does not fit.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The issuer publishes no usable metadata.
    #[error("the issuer {issuer} cannot be used: {seen}")]
    Discovery {
        /// The issuer.
        issuer: String,
        /// What was found at each place.
        seen: String,
    },
    /// The redirect belongs to no authorization that waits for one.
    #[error("this redirect belongs to no authorization that waits: it was used already, has ended, or began elsewhere")]
    RedirectUnknown,
    /// The redirect is not as it must be; nothing was sent to anyone.
    #[error("the redirect was not accepted: {0}")]
    RedirectInvalid(String),
    /// The person, or an administrator, did not consent.
    #[error("the person declined at {provider}{}", detail.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    Declined {
        /// The provider's title.
        provider: String,
        /// What the provider adds.
        detail: Option<String>,
    },
    /// The provider answered a request of ours with an error.
    #[error("{provider} refused: {message}")]
    Refused {
        /// The provider's title.
        provider: String,
        /// The code of RFC 6749 section 4.1.2.1 or 5.2; empty where there is none.
        code: String,
        /// What it says.
        message: String,
        /// The HTTP status, where it came in an answer to us.
        status: Option<u16>,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// The provider answered with something that cannot be used.
    #[error("{provider} sent an answer that cannot be used: {message}")]
    Unusable {
        /// The provider's title.
        provider: String,
        /// What is wrong with it.
        message: String,
    },
    /// The provider cannot be reached.
    #[error("{what} cannot be reached: {cause}")]
    Unreachable {
        /// The provider's title or the issuer.
        what: String,
        /// Why.
        #[source]
        cause: WireError,
    },
    /// Another process is refreshing the same connection and does not finish.
    #[error("another process has been refreshing the connection {name} for {waited_s} s")]
    Busy {
        /// The connection's name.
        name: String,
        /// How long this one waited, seconds.
        waited_s: u64,
    },
    /// The connection's owner must connect again.
    #[error("the connection {name} no longer works: {reason}")]
    NeedsReconnect {
        /// The connection's name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The provider could not be asked to revoke the credential, so it was kept: it is the only means to do so later.
    #[error("the connection {name} is not revoked: {reason}")]
    NotRevoked {
        /// The connection's name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The provider refuses the client registration; the person's consent may still be good.
    #[error("the client registration of the connection {name} is refused: {reason}")]
    ClientRefused {
        /// The connection's name.
        name: String,
        /// What the provider says.
        reason: String,
    },
}

impl ConnectionError {
    /// What the person at the keyboard can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unknown(_) => "`keyward connections list` shows the connections",
            Self::ProviderUnknown { .. } => "a provider file in the data directory adds others",
            Self::Unsuitable { hint, .. } => return hint.clone(),
            Self::Discovery { .. } => "check the issuer's URL, to the last slash",
            Self::RedirectUnknown => "look whether the connection is there already, else begin again",
            Self::RedirectInvalid(_) => "begin again; if it happens again, somebody may be tampering with it",
            Self::Declined { .. } => "begin again and consent, or ask an administrator of the provider to approve",
            Self::Refused { code, .. } => match code.as_str() {
                "invalid_client" | "unauthorized_client" => {
                    "check the client's id and secret, and that it may use this grant"
                }
                "invalid_scope" => "check the scopes, and that the client may ask for them",
                "redirect_uri_mismatch" => "register the redirect URI with the client at the provider",
                "invalid_grant" => "begin again",
                _ => "look the code up in the provider's documentation, and try again later",
            },
            Self::Unusable { .. } => "check that the endpoints in the provider's file or metadata are the right ones",
            Self::Unreachable { cause, .. } => return cause.hint.clone(),
            Self::Busy { .. } => "try again; if it stays, look for a process that hangs",
            Self::NeedsReconnect { .. } => "its owner must connect it again; flows that name it need no change",
            Self::NotRevoked { .. } => {
                "try again later; `keyward connections delete --without-revoking` removes it without asking the provider"
            }
            Self::ClientRefused { .. } => {
                "check the client's id and secret at the provider, then connect again with the right ones"
            }
        };
        Some(hint.to_owned())
    }

    /// The provider's refusal of a request.
    pub(crate) fn refused(provider: &str, refusal: Refusal, retry_after: Option<Duration>) -> Self {
        let Refusal { status, code, message } = refusal;
        Self::Refused { provider: provider.to_owned(), code, message, status: Some(status), retry_after }
    }

    /// Whether the provider could not be asked, or was not able to answer.
    pub(crate) fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Busy { .. } => true,
            Self::Refused { status, code, .. } => {
                status.is_some_and(|status| status == 429 || status >= 500) || code == "temporarily_unavailable"
            }
            _ => false,
        }
    }

    /// Whether the same may work later without anybody's doing.
    pub(crate) fn passes(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Unusable { .. } | Self::Unreachable { .. } | Self::Busy { .. })
    }
}
