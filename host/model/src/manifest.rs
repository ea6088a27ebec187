//! What a connector declares about itself. Plain data: `registry` reads it from `connector.toml` with
//! spans, `policy` compiles it into rules, `runtime` takes the limits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{ActionName, ConnectorName};

/// The manifest of one connector, as embedded in its component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The connector's name.
    pub name: ConnectorName,
    /// Its version (Semantic Versioning 2.0.0).
    pub version: String,
    /// A name for people.
    pub title: String,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The provider whose connections it uses; `None` for a connector that needs no connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The places it may talk to, by name.
    #[serde(default)]
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Where the host puts the credential: one place or a list of them; none sends requests without one.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "one_or_many")]
    pub credential: Vec<Placement>,
    /// The actions by name.
    pub actions: BTreeMap<ActionName, Action>,
}

/// A place that a connector may talk to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Scheme, host, port where it is not the scheme's own, and a base path, for example `https://api.github.com`.
    pub url: String,
    /// Whether a connection may put its own URL in this one's place (a self-hosted server of the same kind).
    #[serde(default)]
    pub configurable: bool,
    /// Whether requests to it carry the connection's credential. Addresses that an API hands out signed (downloads,
    /// upload sessions) need none, and none goes there.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub credential: bool,
    /// Whether it may be in a private network, and vouched for by a private certificate authority, where the operator
    /// allows that as well.
    #[serde(default, skip_serializing_if = "is_no")]
    pub private: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_no(value: &bool) -> bool {
    !*value
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_yes(value: &bool) -> bool {
    *value
}

/// Where the host puts the credential of a connection, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "in", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Placement {
    /// In a header: `prefix` and then the part.
    Header {
        /// The header's name.
        name: String,
        /// What stands before the secret, for example `Bearer ` with its space.
        #[serde(default)]
        prefix: String,
        /// What is put there.
        #[serde(default, skip_serializing_if = "Part::is_token")]
        part: Part,
    },
    /// In the query under a name.
    Query {
        /// The query parameter's name.
        name: String,
        /// What is put there.
        #[serde(default, skip_serializing_if = "Part::is_token")]
        part: Part,
    },
    /// As HTTP Basic (RFC 7617): user name and password of the connection.
    Basic,
    /// In a cookie (RFC 6265 section 4.2).
    Cookie {
        /// The cookie's name.
        name: String,
        /// What is put there.
        #[serde(default, skip_serializing_if = "Part::is_token")]
        part: Part,
    },
    /// In the path, where the request's template has [`PATH_MARK`].
    Path {
        /// What is put there.
        #[serde(default, skip_serializing_if = "Part::is_token")]
        part: Part,
    },
    /// In a field of a body of type `application/x-www-form-urlencoded`.
    Form {
        /// The field's name.
        name: String,
        /// What is put there.
        #[serde(default, skip_serializing_if = "Part::is_token")]
        part: Part,
    },
    /// In a member of the object that is a JSON body (RFC 8259 section 4).
    Json {
        /// The member's name.
        name: String,
        /// What is put there.
        #[serde(default, skip_serializing_if = "Part::is_token")]
        part: Part,
    },
    /// As an AWS Signature Version 4 in the header `Authorization`, with the keys of the connection.
    AwsSigv4 {
        /// The region of the credential's scope, for example `eu-central-1`.
        region: String,
        /// The service of the credential's scope, for example `s3`.
        service: String,
    },
    /// As an HMAC (RFC 2104) of what a template says.
    Hmac(Hmac),
    /// As a JSON Web Token (RFC 7519) that the host mints for the request.
    Jwt(Jwt),
    /// As HTTP Digest (RFC 7616): user name and password of the connection answer the server's challenge.
    Digest {
        /// Whether MD5, and challenges without protection against replay, are answered too.
        #[serde(default, skip_serializing_if = "is_no")]
        weak: bool,
    },
}

/// A token that is minted for each request, in a header: `prefix` and then the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// The header's name.
    pub name: String,
    /// What stands before the token, for example `Bearer ` with its space.
    #[serde(default)]
    pub prefix: String,
    /// How it is signed.
    pub algorithm: JwtAlgorithm,
    /// The key, of an algorithm with a shared secret; of the others it is the connection's signing key.
    #[serde(default, skip_serializing_if = "Part::is_token")]
    pub part: Part,
    /// How a shared secret is written.
    #[serde(default)]
    pub key_encoding: KeyEncoding,
    /// A template of the key's id (`kid`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// From `iat` to `exp`, seconds.
    pub lifetime_seconds: u32,
    /// How long before now `iat` is, seconds, for servers whose clock is behind.
    #[serde(default)]
    pub backdate_seconds: u32,
    /// Whether there is an `nbf`, the same as `iat`.
    #[serde(default, skip_serializing_if = "is_no")]
    pub not_before: bool,
    /// The other claims; their texts are templates.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, Claim>,
}

/// The value of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Claim {
    /// A template of a text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// `true` or `false`.
    Flag(bool),
    /// A list of templates of texts.
    Texts(Vec<String>),
}

impl Claim {
    /// The templates in it.
    pub fn templates(&self) -> &[String] {
        match self {
            Self::Text(text) => std::slice::from_ref(text),
            Self::Texts(texts) => texts,
            Self::Number(_) | Self::Flag(_) => &[],
        }
    }
}

/// A signature by HMAC, and where it and what belongs to it go. The grammar of the templates is in `keyward_policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hmac {
    /// The digest.
    pub hash: Hash,
    /// The key.
    #[serde(default, skip_serializing_if = "Part::is_token")]
    pub part: Part,
    /// How the key is written.
    #[serde(default)]
    pub key_encoding: KeyEncoding,
    /// A template of what is signed, for example `{timestamp}{method}{path-and-query}{body}`.
    pub message: String,
    /// How the signature is written.
    #[serde(default)]
    pub encoding: SignatureEncoding,
    /// Templates of the values of headers, by name; those with `{signature}` are set last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The same for parameters of the query.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
}

/// Declares an enum of words as they stand in a manifest.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$word_about:meta])* $word:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$word_about])* #[serde(rename = $text)] $word,)+
        }

        impl $name {
            /// All of them, as they stand in a manifest.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($text, Self::$word),)+];

            /// As it stands in a manifest.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => $text,)+
                }
            }
        }
    };
}

words! {
    /// The digest of an HMAC.
    Hash {
        /// SHA-1, which is sound in an HMAC, for APIs that have nothing newer.
        Sha1 = "sha1",
        /// SHA-256.
        Sha256 = "sha256",
        /// SHA-384.
        Sha384 = "sha384",
        /// SHA-512.
        Sha512 = "sha512",
    }
}

words! {
    /// How a token is signed (RFC 7518 section 3.1, RFC 8037 section 3.1).
    JwtAlgorithm {
        /// HMAC with SHA-256.
        Hs256 = "HS256",
        /// HMAC with SHA-384.
        Hs384 = "HS384",
        /// HMAC with SHA-512.
        Hs512 = "HS512",
        /// RSASSA-PKCS1-v1_5 with SHA-256.
        Rs256 = "RS256",
        /// RSASSA-PKCS1-v1_5 with SHA-384.
        Rs384 = "RS384",
        /// RSASSA-PKCS1-v1_5 with SHA-512.
        Rs512 = "RS512",
        /// RSASSA-PSS with SHA-256.
        Ps256 = "PS256",
        /// RSASSA-PSS with SHA-384.
        Ps384 = "PS384",
        /// RSASSA-PSS with SHA-512.
        Ps512 = "PS512",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
        /// ECDSA on P-384 with SHA-384.
        Es384 = "ES384",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}

impl JwtAlgorithm {
    /// Whether the key is a secret that both sides have.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}

words! {
    /// How the bytes of a key are written.
    #[derive(Default)]
    KeyEncoding {
        /// The text is the key.
        #[default]
        Text = "text",
        /// Hexadecimal digits.
        Hex = "hex",
        /// Base64 or base64url (RFC 4648), padded or not.
        Base64 = "base64",
        /// Base64 after `whsec_` (Standard Webhooks).
        Whsec = "whsec",
    }
}

words! {
    /// How the bytes of a signature are written.
    #[derive(Default)]
    SignatureEncoding {
        /// Hexadecimal digits in small letters.
        #[default]
        Hex = "hex",
        /// Base64 with padding (RFC 4648 section 4).
        Base64 = "base64",
        /// Base64url without padding (RFC 4648 section 5).
        Base64Url = "base64url",
    }
}

/// What stands in a path template, and in the path that a guest asks for, where the host puts a part of the credential.
pub const PATH_MARK: &str = "{credential}";

/// A part of what a connection holds, by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Part {
    /// `token`: the access token, the API key, the bearer token.
    #[default]
    Token,
    /// `username`, of a connection with a user name and a password.
    Username,
    /// `password`, of a connection with a user name and a password.
    Password,
    /// A field that was named when the connection was made; of a connection by OAuth 2.0, `client-id` is the client's
    /// id where no such field was.
    Field(String),
}

impl Part {
    /// Its name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Token => "token",
            Self::Username => "username",
            Self::Password => "password",
            Self::Field(name) => name,
        }
    }

    fn is_token(&self) -> bool {
        *self == Self::Token
    }
}

impl From<String> for Part {
    fn from(name: String) -> Self {
        match name.as_str() {
            "token" => Self::Token,
            "username" => Self::Username,
            "password" => Self::Password,
            _ => Self::Field(name),
        }
    }
}

impl From<Part> for String {
    fn from(part: Part) -> Self {
        part.as_str().to_owned()
    }
}

/// One thing, or a list of them.
mod one_or_many {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Placement;

    pub(super) fn serialize<S: Serializer>(list: &[Placement], serializer: S) -> Result<S::Ok, S::Error> {
        match list {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Placement>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            One(Placement),
            Many(Vec<Placement>),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::One(one) => vec![one],
            Either::Many(many) => many,
        })
    }
}

/// One action: what it may do and what it needs for that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// A name for people.
    pub title: String,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The requests it may make.
    #[serde(default)]
    pub requests: Vec<RequestRule>,
    /// Sets of OAuth scopes; one whole set must be granted. Empty: none is needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Vec<String>>,
    /// What a second call with the same input does.
    #[serde(default)]
    pub idempotency: Idempotency,
    /// Limits narrower or wider than the default; the operator's are the ceiling.
    #[serde(default)]
    pub limits: LimitOverrides,
    /// JSON Schema (2020-12) of the input, generated from the action's types.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub input: serde_json::Value,
    /// JSON Schema (2020-12) of the output, generated from the action's types.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub output: serde_json::Value,
}

/// One kind of request that an action may make. The grammar of `path` and `query` is in `keyward_policy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestRule {
    /// The HTTP method in capitals.
    pub method: String,
    /// The name of a declared endpoint.
    pub endpoint: String,
    /// A path template below the endpoint's base path, for example `/repos/{owner}/{repo}/issues`.
    pub path: String,
    /// The names of query parameters that may be sent; `*` allows any. Empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<String>,
    /// Whether the host follows where the answer redirects to, by the rules in `keyward_policy::redirect`. Each hop is
    /// a request that the action must declare too.
    #[serde(default, skip_serializing_if = "is_no")]
    pub redirects: bool,
    /// Whether the host leaves it at one attempt, where it would try again by itself (`keyward_egress`).
    #[serde(default, skip_serializing_if = "is_no")]
    pub once: bool,
}

/// What happens when an action is called twice with the same input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Idempotency {
    /// It reads only.
    Safe,
    /// Twice is as once.
    Idempotent,
    /// Twice is as once when the same idempotency key is sent, which the connector does.
    Key,
    /// Twice does it twice.
    #[default]
    None,
}

/// Limits that a manifest may name; what it leaves out is the default of [`Limits`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitOverrides {
    /// See [`Limits::memory_bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// See [`Limits::cpu_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// See [`Limits::wall_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// See [`Limits::requests`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// See [`Limits::exchanges`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchanges: Option<u32>,
    /// See [`Limits::request_bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    /// See [`Limits::response_bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_bytes: Option<u64>,
    /// See [`Limits::log_bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<u64>,
}

impl LimitOverrides {
    /// Each limit: its name, what is named, and the default.
    pub fn by_name(&self) -> [(&'static str, Option<u64>, u64); 8] {
        let default = Limits::default();
        [
            ("memory_bytes", self.memory_bytes, default.memory_bytes),
            ("cpu_ms", self.cpu_ms, default.cpu_ms),
            ("wall_ms", self.wall_ms, default.wall_ms),
            ("requests", self.requests.map(u64::from), default.requests.into()),
            ("exchanges", self.exchanges.map(u64::from), default.exchanges.into()),
            ("request_bytes", self.request_bytes, default.request_bytes),
            ("response_bytes", self.response_bytes, default.response_bytes),
            ("log_bytes", self.log_bytes, default.log_bytes),
        ]
    }
}

/// What one call of an action may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Linear memory, bytes.
    pub memory_bytes: u64,
    /// Time in guest code, milliseconds.
    pub cpu_ms: u64,
    /// Time from start to end, waiting included, milliseconds.
    pub wall_ms: u64,
    /// HTTP requests, denied ones included.
    pub requests: u32,
    /// Streamed requests that are open at once; each takes a file descriptor of the host.
    pub exchanges: u32,
    /// Bytes of all request bodies.
    pub request_bytes: u64,
    /// Bytes of all response bodies after decoding. A response that is not streamed fits into `memory_bytes` too.
    pub response_bytes: u64,
    /// Bytes of log text.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            cpu_ms: 5_000,
            wall_ms: 60_000,
            requests: 50,
            exchanges: 8,
            request_bytes: 16 << 20,
            response_bytes: 32 << 20,
            log_bytes: 64 << 10,
        }
    }
}

impl Limits {
    /// These limits with what the manifest names in their place, never above `ceiling`.
    pub fn with(self, overrides: LimitOverrides, ceiling: Limits) -> Limits {
        Limits {
            memory_bytes: overrides.memory_bytes.unwrap_or(self.memory_bytes).min(ceiling.memory_bytes),
            cpu_ms: overrides.cpu_ms.unwrap_or(self.cpu_ms).min(ceiling.cpu_ms),
            wall_ms: overrides.wall_ms.unwrap_or(self.wall_ms).min(ceiling.wall_ms),
            requests: overrides.requests.unwrap_or(self.requests).min(ceiling.requests),
            exchanges: overrides.exchanges.unwrap_or(self.exchanges).min(ceiling.exchanges),
            request_bytes: overrides.request_bytes.unwrap_or(self.request_bytes).min(ceiling.request_bytes),
            response_bytes: overrides.response_bytes.unwrap_or(self.response_bytes).min(ceiling.response_bytes),
            log_bytes: overrides.log_bytes.unwrap_or(self.log_bytes).min(ceiling.log_bytes),
        }
    }

    /// The operator's ceiling where nothing else is configured.
    pub fn default_ceiling() -> Limits {
        Limits {
            memory_bytes: 256 << 20,
            cpu_ms: 60_000,
            wall_ms: 15 * 60_000,
            requests: 10_000,
            exchanges: 64,
            request_bytes: 16 << 30,
            response_bytes: 16 << 30,
            log_bytes: 1 << 20,
        }
    }
}
