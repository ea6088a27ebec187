//! Providers as data: where the endpoints of an outside service are and in what it differs from the RFCs.
//!
//! A provider file is TOML of the shape of [`Provider`]; unknown fields are refused. GitHub, Google, Slack, a generic
//! OpenID Connect provider and plain HTTP are built in; an operator's directory adds others or puts its own file in
//! the place of a built-in one. Each file names the source and the date of its facts.
//!
//! ```toml
//! id = "intranet"                       # as the file is called
//! title = "Intranet"
//! methods = ["oauth2"]                  # the first is the default
//! issuer = "https://login.example.com"  # the endpoints are discovered there
//! [token]
//! rotation = "single-use-revokes-family"
//! ```

mod catalogue;

use std::{collections::BTreeMap, fmt, str::FromStr};

use keyward_policy::scope::Implications;
use serde::{Deserialize, Serialize};
use url::Url;

pub(crate) use catalogue::is_plain;
pub use catalogue::{Catalogue, CatalogueError};

/// One outside service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    pub(crate) id: String,
    pub(crate) title: String,
    /// The ways to connect, the default first.
    pub(crate) methods: Vec<ConnectionMethod>,
    /// The issuer identifier (RFC 8414 section 2). Endpoints that the file leaves out are discovered there.
    #[serde(default)]
    pub(crate) issuer: Option<Url>,
    /// Whether each connection names its own issuer.
    #[serde(default)]
    pub(crate) issuer_from_connection: bool,
    /// Other values of `iss` in ID tokens that mean the same issuer.
    #[serde(default)]
    pub(crate) issuer_aliases: Vec<String>,
    #[serde(default)]
    pub(crate) authorization: Authorization,
    #[serde(default)]
    pub(crate) token: TokenRules,
    /// How to revoke; without it, the discovered endpoint by RFC 7009, or none.
    #[serde(default)]
    pub(crate) revocation: Option<Revocation>,
    #[serde(default)]
    pub(crate) account: Account,
    #[serde(default)]
    pub(crate) scopes: ScopeRules,
    /// Where the facts of the file come from.
    #[serde(default)]
    pub(crate) sources: Vec<Source>,
}

impl Provider {
    /// Its id, as connectors and connections name it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its name for people.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The ways to connect, the default first.
    pub fn methods(&self) -> &[ConnectionMethod] {
        &self.methods
    }

    /// Whether a connection must name an issuer of its own.
    pub fn needs_issuer(&self) -> bool {
        self.issuer_from_connection
    }

    /// Whether revoking one connection ends all connections of the same person through the same client.
    pub fn revokes_whole_grant(&self) -> bool {
        matches!(self.revocation, Some(Revocation::Rfc7009 { whole_grant: true, .. }))
    }

    /// Where the facts of the file come from.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Which of its scopes contain which others.
    pub fn implications(&self) -> Implications {
        Implications::new(self.scopes.implications.clone())
    }
}

/// A way to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionMethod {
    /// OAuth 2.0 authorization code (RFC 6749 section 4.1) with PKCE: a person consents.
    Oauth2,
    /// OAuth 2.0 client credentials (RFC 6749 section 4.4): the client acts for itself.
    ClientCredentials,
    /// A key that the provider's pages hand out.
    ApiKey,
    /// User name and password (RFC 7617).
    Basic,
    /// A token that the provider's pages hand out (RFC 6750).
    Bearer,
    /// An access key of AWS.
    AwsKeys,
    /// A private key that signs tokens.
    SigningKey,
}

impl ConnectionMethod {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Oauth2,
        Self::ClientCredentials,
        Self::ApiKey,
        Self::Basic,
        Self::Bearer,
        Self::AwsKeys,
        Self::SigningKey,
    ];

    /// The word for it in files and in [`keyward_model::ConnectionFacts::method`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Oauth2 => "oauth2",
            Self::ClientCredentials => "client-credentials",
            Self::ApiKey => "api-key",
            Self::Basic => "basic",
            Self::Bearer => "bearer",
            Self::AwsKeys => "aws-keys",
            Self::SigningKey => "signing-key",
        }
    }
}

impl fmt::Display for ConnectionMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ConnectionMethod {
    type Err = UnknownMethod;
    fn from_str(text: &str) -> Result<Self, UnknownMethod> {
        Self::ALL.into_iter().find(|method| method.as_str() == text).ok_or(UnknownMethod)
    }
}

/// The text names no way to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a method is one of oauth2, client-credentials, api-key, basic, bearer, aws-keys, signing-key")]
pub struct UnknownMethod;

/// The authorization endpoint and what it wants to be sent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Authorization {
    pub(crate) endpoint: Option<Url>,
    /// Parameters that are always sent, for example `access_type = "offline"`.
    pub(crate) parameters: BTreeMap<String, String>,
    /// PKCE with S256 (RFC 7636).
    pub(crate) pkce: bool,
    /// Whether the redirect must carry `iss` (RFC 9207); metadata can demand it as well.
    pub(crate) iss_required: bool,
}

impl Default for Authorization {
    fn default() -> Self {
        Self { endpoint: None, parameters: BTreeMap::new(), pkce: true, iss_required: false }
    }
}

/// The token endpoint and how its tokens behave.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TokenRules {
    pub(crate) endpoint: Option<Url>,
    /// How the client proves itself; without it, as the metadata says, and the other way is tried once at set-up.
    pub(crate) client_authentication: Option<ClientAuthentication>,
    pub(crate) basic_encoding: BasicEncoding,
    /// What becomes of a refresh token that was used.
    pub(crate) rotation: Rotation,
    /// Seconds that an access token lives when the reply does not say; without it, until it is refused.
    pub(crate) lifetime_untold: Option<u64>,
    /// JSON pointers (RFC 6901) of the objects that may hold the tokens; the first that does is taken.
    pub(crate) places: Vec<String>,
    /// The provider's own error codes for those of RFC 6749 section 5.2, and for `invalid_token` (RFC 6750 section
    /// 3.1) where they are about an access token.
    pub(crate) errors: BTreeMap<String, Vec<String>>,
}

impl Default for TokenRules {
    fn default() -> Self {
        Self {
            endpoint: None,
            client_authentication: None,
            basic_encoding: BasicEncoding::default(),
            rotation: Rotation::default(),
            lifetime_untold: None,
            places: vec![String::new()],
            errors: BTreeMap::new(),
        }
    }
}

impl TokenRules {
    /// The code of RFC 6749 section 5.2 that the provider's `code` means.
    pub(crate) fn standard_error<'a>(&'a self, code: &'a str) -> &'a str {
        self.errors.iter().find(|(_, own)| own.iter().any(|own| own == code)).map_or(code, |(standard, _)| standard)
    }
}

/// How a client proves itself at the token endpoint (RFC 6749 section 2.3). Never in two ways at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientAuthentication {
    /// HTTP Basic.
    ClientSecretBasic,
    /// `client_id` and `client_secret` in the form.
    ClientSecretPost,
    /// `client_id` in the form: a public client.
    None,
}

/// How id and secret are written into HTTP Basic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BasicEncoding {
    /// Percent-encoded first (RFC 6749 section 2.3.1), a space as `%20`.
    #[default]
    Rfc6749,
    /// As they are, for servers that do not decode.
    Raw,
}

/// What becomes of a refresh token that was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Rotation {
    /// It stays the same.
    None,
    /// A new one comes, the old one keeps working.
    RollingOldValid,
    /// A new one comes, the old one is dead.
    SingleUse,
    /// A new one comes; using the old one again ends the whole grant (RFC 9700 section 4.14.2). Nobody is hurt by
    /// assuming this of a provider that is milder, so it is the default.
    #[default]
    SingleUseRevokesFamily,
}

impl Rotation {
    /// Whether a refresh token that was perhaps used can be sent again without harm.
    pub(crate) fn forgives_reuse(self) -> bool {
        matches!(self, Self::None | Self::RollingOldValid)
    }
}

/// How tokens are revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Revocation {
    /// RFC 7009.
    Rfc7009 {
        endpoint: Url,
        /// Whether the client proves itself there.
        #[serde(default = "yes")]
        authenticated: bool,
        /// Whether one token takes with it all others that the person has given the same client.
        #[serde(default)]
        whole_grant: bool,
    },
    /// GitHub: `DELETE <api>/applications/{client_id}/token` with HTTP Basic.
    Github { api: Url },
    /// Slack: `POST <endpoint>` with the token itself as bearer; the body says `ok`.
    Slack { endpoint: Url },
}

fn yes() -> bool {
    true
}

impl Revocation {
    /// Where it is asked for.
    pub(crate) fn url(&self) -> &Url {
        match self {
            Self::Rfc7009 { endpoint, .. } | Self::Slack { endpoint } => endpoint,
            Self::Github { api } => api,
        }
    }

    /// Whether it is the access token that is sent, so that one that has ended is good for nothing.
    pub(crate) fn takes_access_token(&self) -> bool {
        matches!(self, Self::Github { .. } | Self::Slack { .. })
    }
}

/// How to learn whose account it is, which is also the test that a credential works.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Account {
    /// An endpoint that answers every good credential with JSON; without it, the discovered userinfo endpoint.
    pub(crate) endpoint: Option<Url>,
    pub(crate) post: bool,
    /// JSON pointers of the account's name, the best first.
    pub(crate) name: Vec<String>,
    /// A JSON pointer of a value that is `true` where the credential works.
    pub(crate) works_when: Option<String>,
    /// A response header that lists the granted scopes.
    pub(crate) scopes_header: Option<String>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            endpoint: None,
            post: false,
            name: ["/email", "/preferred_username", "/name", "/sub"].map(str::to_owned).to_vec(),
            works_when: None,
            scopes_header: None,
        }
    }
}

/// The provider's scopes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ScopeRules {
    /// What stands between two scopes, in requests and in replies; a space in a reply always separates.
    pub(crate) separator: String,
    /// Always asked for when a person consents.
    pub(crate) base: Vec<String>,
    /// Asked for, with `prompt=consent`, unless the metadata lists the scopes and lacks it (OpenID Connect Core
    /// section 11). Metadata need not list them (RFC 8414 section 2).
    pub(crate) offline: Option<String>,
    /// The query parameters for scopes: the first whose prefix a scope has takes it, without the prefix.
    pub(crate) parameters: Vec<ScopeParameter>,
    /// Whether an empty list in a reply tells nothing.
    pub(crate) empty_is_silent: bool,
    /// A scope and those that it contains.
    pub(crate) implications: BTreeMap<String, Vec<String>>,
}

impl Default for ScopeRules {
    fn default() -> Self {
        Self {
            separator: " ".to_owned(),
            base: Vec::new(),
            offline: None,
            empty_is_silent: false,
            parameters: vec![ScopeParameter { name: "scope".to_owned(), prefix: String::new() }],
            implications: BTreeMap::new(),
        }
    }
}

/// A query parameter that takes scopes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScopeParameter {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) prefix: String,
}

/// Where a fact comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Which fields of the file.
    pub about: String,
    /// The URL of the page, or the program, that says so.
    pub source: String,
    /// The day on which it was read, `YYYY-MM-DD`.
    pub date: String,
    /// Whether the vendor's page or the running service was read, or it is general knowledge only.
    pub verified: bool,
}
