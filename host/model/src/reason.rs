//! Reason codes: the same in errors, the audit trail, metrics and docs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal,)+) => {
        /// Why a request or a call did not do what was asked.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[doc = $doc])+ #[serde(rename = $code)] $name,)+
        }

        impl Reason {
            /// Every reason, in the order of the documentation's table.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The code, for example `path-not-allowed`.
            pub fn code(self) -> &'static str {
                match self { $(Reason::$name => $code,)+ }
            }

            /// What the code means, one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }

        impl FromStr for Reason {
            type Err = crate::ids::IdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|reason| reason.code() == text).ok_or(crate::ids::IdError {
                    what: "reason code",
                    text: text.chars().take(80).collect(),
                    rule: "it must be one of the codes in docs/reasons.md",
                })
            }
        }
    };
}

reasons! {
    /// The HTTP method is none that a guest may use.
    MethodForbidden = "method-forbidden",
    /// The URL cannot be parsed, or holds user information, a fragment or a scheme other than https.
    UrlMalformed = "url-malformed",
    /// The scheme is http and the operator has not allowed that for this host.
    SchemeNotAllowed = "scheme-not-allowed",
    /// The path holds dot segments, parameters, encoded separators, NUL, controls or raw non-ASCII, or is too long.
    PathMalformed = "path-malformed",
    /// The manifest declares no endpoint of that name.
    EndpointUnknown = "endpoint-unknown",
    /// The absolute URL lies below none of the declared endpoints.
    HostNotAllowed = "host-not-allowed",
    /// No declared request of the action has this method and path.
    PathNotAllowed = "path-not-allowed",
    /// The declared request does not list this query parameter.
    QueryNotAllowed = "query-not-allowed",
    /// The header belongs to the host, or asks for a part of a response to a request that carries a credential.
    HeaderForbidden = "header-forbidden",
    /// A header's name or value holds characters that HTTP does not allow, or the headers are too many or too long.
    HeaderMalformed = "header-malformed",
    /// The host cannot place the credential in the body, the body has a field where the host places it, or it is
    /// streamed and its bytes are signed.
    BodyNotAllowed = "body-not-allowed",
    /// The action declares no requests at all, or is not declared.
    ActionUnknown = "action-unknown",
    /// The operator's policy does not allow the call or the request.
    PolicyDenied = "policy-denied",
    /// The answer redirects in a circle, or too often.
    RedirectLimit = "redirect-limit",
    /// The answer redirects from https to http.
    RedirectDowngrade = "redirect-downgrade",
    /// The connection lacks a scope that the action needs.
    InsufficientScope = "insufficient-scope",
    /// The action needs a connection and the call has none.
    ConnectionMissing = "connection-missing",
    /// There is no connection of that name or id.
    ConnectionUnknown = "connection-unknown",
    /// The connection belongs to another provider than the connector.
    ConnectionWrongProvider = "connection-wrong-provider",
    /// The connection no longer works and its owner must connect again.
    ReconnectRequired = "reconnect-required",
    /// The credential cannot go where the manifest puts it: for its characters, its kind, or what the server asks for.
    CredentialUnplaceable = "credential-unplaceable",
    /// The host's name does not resolve.
    NameUnresolved = "name-unresolved",
    /// The host's name resolves to a private, local or otherwise special address.
    AddressNotAllowed = "address-not-allowed",
    /// The server could not be reached, or closed the connection.
    Unreachable = "unreachable",
    /// The server's certificate is not valid for the host.
    TlsFailed = "tls-failed",
    /// The answer did not come in time.
    Timeout = "timeout",
    /// The server, the provider or the operator's budget lets no more requests through while the call lasts.
    RateLimited = "rate-limited",
    /// Too many requests wait for the same connection, connector or server.
    QueueFull = "queue-full",
    /// The connection or the connector has sent or received as many bytes as it may in an hour.
    TransferLimit = "transfer-limit",
    /// The body of an answer is larger than the call's limit.
    TooLarge = "too-large",
    /// The answer cannot be decoded.
    ResponseMalformed = "response-malformed",
    /// The call has made as many requests as it may.
    RequestLimit = "request-limit",
    /// So many of the call's requests were denied that it was ended.
    DenialLimit = "denial-limit",
    /// The call has as many streamed requests open as it may.
    ExchangeLimit = "exchange-limit",
    /// The bodies of the call's requests are larger than its limit.
    UploadLimit = "upload-limit",
    /// The guest used more memory than it may.
    MemoryLimit = "memory-limit",
    /// The guest holds more requests, bodies or other resources in the host than it may.
    ResourceLimit = "resource-limit",
    /// The guest used more processor time than it may.
    CpuLimit = "cpu-limit",
    /// The call took longer than it may.
    WallLimit = "wall-limit",
    /// The guest recursed too deep.
    StackOverflow = "stack-overflow",
    /// The guest panicked or trapped.
    GuestTrap = "guest-trap",
    /// The installed component is not the one that was agreed to.
    ComponentChanged = "component-changed",
    /// The component does not fit this host.
    ComponentUnsuitable = "component-unsuitable",
    /// The input does not match the action's schema.
    InputInvalid = "input-invalid",
    /// The output does not match the action's schema.
    OutputInvalid = "output-invalid",
    /// The action itself reports a failure.
    ActionFailed = "action-failed",
    /// The call ended before the answer came.
    Cancelled = "cancelled",
    /// A secret stood in a response, or in what the connector said, and was replaced.
    SecretEchoed = "secret-echoed",
    /// The audit trail or the store cannot be written, so nothing was sent, or the answer is withheld.
    StoreFailed = "store-failed",
    /// A fault of the host.
    Internal = "internal",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_is_the_serialised_form() {
        for reason in Reason::ALL {
            assert_eq!(reason.code().parse::<Reason>().as_ref(), Ok(reason));
            assert_eq!(serde_json::to_value(reason).ok(), Some(reason.code().into()));
            assert!(reason.meaning().ends_with('.'));
        }
    }
}
