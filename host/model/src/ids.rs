//! Newtype ids. Each is checked when it is made, so a value that exists is well formed.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct IdError {
    /// What the text was meant to be, for example `connector name`.
    pub what: &'static str,
    /// The text as given, cut to 80 characters.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl IdError {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), rule }
    }
}

fn is_slug(text: &str, max: usize) -> bool {
    text.len() <= max
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && !text.contains("--")
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

macro_rules! slug {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                if is_slug(text, $max) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError::new(
                        $what,
                        text,
                        concat!(
                            "use 1 to ", stringify!($max),
                            " characters a-z, 0-9 and single '-', starting with a letter and not ending with '-'"
                        ),
                    ))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

slug!(
    /// A tenant: the outermost owner of every record.
    TenantId, "tenant", 63);
slug!(
    /// A connector's name, for example `github`.
    ConnectorName, "connector name", 63);
slug!(
    /// An action's name within its connector, for example `create-issue`.
    ActionName, "action name", 63);
slug!(
    /// The name by which people call a connection; unique within its tenant.
    ConnectionName, "connection name", 63);

impl Default for TenantId {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, ordered by the time of its making (UUIDv7, RFC 9562 section 5.7).
            #[expect(clippy::new_without_default, reason = "each call gives another id")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The 128 bits of the id.
            pub fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::parse_str(text).map(Self).map_err(|_| IdError::new($what, text, "it must be a UUID"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }
    };
}

uuid_id!(
    /// One call of one action.
    CallId, "call id");
uuid_id!(
    /// One run of one flow.
    RunId, "run id");
uuid_id!(
    /// One connection; it stays the same over reconnects.
    ConnectionId, "connection id");

/// A SHA-256 digest of content, shown as `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps 32 bytes that were computed elsewhere.
    pub const fn from_sha256(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::new("digest", text, "it must be 'sha256:' and 64 hexadecimal digits");
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64).ok_or_else(wrong)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let digit = |d: u8| (d as char).to_digit(16).ok_or_else(wrong);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// Who asks: a person, a machine account, or the administrator at the command line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Principal {
    /// What kind of principal it is.
    pub kind: PrincipalKind,
    /// Its id, unique within kind and tenant.
    pub id: String,
}

/// The kinds of principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrincipalKind {
    /// Whoever runs the command line with access to the data directory.
    LocalAdministrator,
    /// A person.
    User,
    /// A machine account.
    Client,
}

impl Principal {
    /// The principal as which the command line acts.
    pub fn local_administrator() -> Self {
        Self { kind: PrincipalKind::LocalAdministrator, id: "local".to_owned() }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            PrincipalKind::LocalAdministrator => "local-administrator",
            PrincipalKind::User => "user",
            PrincipalKind::Client => "client",
        };
        write!(f, "{kind}:{}", self.id)
    }
}

/// Which connector it is, down to the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnectorId {
    /// Its name.
    pub name: ConnectorName,
    /// Its version (Semantic Versioning 2.0.0).
    pub version: String,
    /// The digest of the component.
    pub digest: Digest,
}

/// The name of an action as flows and people write it: `<connector>.<action>[:<version>@default]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ActionRef {
    /// The connector's name.
    pub connector: ConnectorName,
    /// The action's name.
    pub action: ActionName,
    /// The version that it is pinned to, where it is.
    pub version: Option<String>,
}

impl FromStr for ActionRef {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong =
            || IdError::new("action", text, "write '<connector>.<action>', with ':<version>@default' to pin a version");
        let (name, version) = match text.split_once(':') {
            Some((name, pin)) => {
                let version = pin.strip_suffix("@default").filter(|v| !v.is_empty()).ok_or_else(wrong)?;
                (name, Some(version.to_owned()))
            }
            None => (text, None),
        };
        let (connector, action) = name.split_once('.').ok_or_else(wrong)?;
        Ok(Self { connector: connector.parse()?, action: action.parse()?, version })
    }
}

impl TryFrom<String> for ActionRef {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<ActionRef> for String {
    fn from(action: ActionRef) -> String {
        action.to_string()
    }
}

impl fmt::Display for ActionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.connector, self.action)?;
        match &self.version {
            Some(version) => write!(f, ":{version}@default"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn slug_refuses_what_could_be_mistaken_for_a_path_or_a_flag() {
        for text in ["", "-a", "a-", "a--b", "A", "a.b", "a/b", "../a", "1a", "a b", "ä"] {
            assert!(text.parse::<ConnectorName>().is_err(), "{text:?} was taken");
        }
        for text in ["a", "a1", "google-sheets"] {
            assert_eq!(text.parse::<ConnectorName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn action_reference_reads_back_as_written() {
        for text in ["github.create-issue", "github.create-issue:1.2.0@default"] {
            assert_eq!(text.parse::<ActionRef>().unwrap().to_string(), text);
        }
        for text in ["github", "github.", ".x", "a.b.c", "a.b:1.0.0", "a.b:@default"] {
            assert!(text.parse::<ActionRef>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn digest_reads_back_as_written_and_refuses_other_forms() {
        let digest = Digest::from_sha256([0xab; 32]);
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        for text in ["sha256:ab", "ab", "sha512:00", &format!("sha256:{}", "é".repeat(32))] {
            assert!(text.parse::<Digest>().is_err(), "{text:?} was taken");
        }
    }
}
