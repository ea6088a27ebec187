//! What is sealed of a connection, and what of it goes into a request.
//!
//! The sealed form is JSON of [`Credential`]; it is wiped as soon as it is sealed or read. Open facts ([`ConnectionFacts`]) rest beside it and hold nothing of this.

use std::collections::{BTreeMap, BTreeSet};

use keyward_model::{ConnectionFacts, TenantId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    error::VaultError,
    keys::Keyring,
    provider::{ClientAuthentication, Revocation},
    seal::Place,
    secret::Secret,
    signing_key::SigningKey,
    store::{ConnectionRow, Sealed},
    token::RawReply,
    vault::Vault,
};

/// The credential of one connection.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credential {
    pub(crate) kind: Kind,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) fields: Fields,
}

/// What was named beside it when the connection was made, for connectors that place more than one part.
pub(crate) type Fields = BTreeMap<String, Field>;

/// One of these.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Field {
    #[serde(with = "text")]
    pub(crate) value: Secret,
    /// Whether it is taken out of what comes back.
    pub(crate) is_secret: bool,
}

/// A field as it is given.
#[derive(Debug)]
pub enum FieldValue {
    /// For everybody to see in what comes back, for example a client id.
    Open(String),
    /// Taken out of what comes back, for example a developer token.
    Secret(Secret),
}

impl From<FieldValue> for Field {
    fn from(given: FieldValue) -> Self {
        match given {
            FieldValue::Open(text) => Self { value: Secret::from(text), is_secret: false },
            FieldValue::Secret(value) => Self { value, is_secret: true },
        }
    }
}

/// The field of a connection by OAuth 2.0 that is there unasked: the client's id.
const CLIENT_ID: &str = "client-id";

/// What it is mainly.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Tokens of an authorization server.
    Grant(Box<Grant>),
    /// An API key.
    ApiKey(#[serde(with = "text")] Secret),
    /// User name and password.
    Basic {
        #[serde(with = "text")]
        username: Secret,
        #[serde(with = "text")]
        password: Secret,
        secret: BasicSecret,
    },
    /// A token that a person pasted.
    Bearer(#[serde(with = "text")] Secret),
    /// Keys that sign for AWS.
    AwsKeys(AwsKeys),
    /// A private key that signs tokens.
    SigningKey(SigningKey),
}

/// An access key of AWS.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AwsKeys {
    /// It is not secret.
    pub(crate) access_key_id: String,
    #[serde(with = "text")]
    pub(crate) secret_access_key: Secret,
    /// With a temporary key.
    #[serde(with = "optional_text")]
    pub(crate) session_token: Option<Secret>,
}

/// Which part of user name and password is secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BasicSecret {
    /// The password.
    #[default]
    Password,
    /// The user name: a key, with an empty or well-known password beside it.
    Username,
    /// Either.
    Both,
}

/// What an authorization server granted. The endpoints are those of the day of the consent: a changed provider
/// file or changed metadata never makes a token or the client's secret go to another place than the one that the
/// token came from.
#[derive(Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) kind: GrantKind,
    pub(crate) endpoints: Endpoints,
    pub(crate) client: Client,
    /// The scopes that were asked for.
    pub(crate) requested: BTreeSet<String>,
    /// `None` once it was revoked.
    pub(crate) tokens: Option<Tokens>,
    /// A reply of the token endpoint that was stored before it was read; its tokens are newer than `tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unread: Option<RawReply>,
}

/// How a grant came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GrantKind {
    /// A person consented.
    AuthorizationCode,
    /// The client acts for itself and asks for a new token with its own secret.
    ClientCredentials,
}

/// Where the authorization server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoints {
    /// The issuer, where it has one; see [`crate::oauth::same_issuer`].
    pub(crate) issuer: Option<String>,
    pub(crate) authorization: Option<Url>,
    pub(crate) token: Url,
    pub(crate) revocation: Option<Revocation>,
    pub(crate) introspection: Option<Url>,
    /// Where it tells whose account it is.
    pub(crate) account: Option<Url>,
}

/// A client registration, as sealed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Client {
    pub(crate) id: String,
    #[serde(with = "optional_text")]
    pub(crate) secret: Option<Secret>,
    pub(crate) authentication: ClientAuthentication,
}

impl Client {
    pub(crate) fn duplicate(&self) -> Self {
        Self {
            id: self.id.clone(),
            secret: self.secret.as_ref().map(Secret::duplicate),
            authentication: self.authentication,
        }
    }
}

/// The tokens in use. All times are the authorization server's.
#[derive(Serialize, Deserialize)]
pub(crate) struct Tokens {
    #[serde(with = "text")]
    pub(crate) access: Secret,
    #[serde(with = "optional_text")]
    pub(crate) refresh: Option<Secret>,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) received_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) refresh_expires_at: Option<OffsetDateTime>,
    /// Seconds by which the server's clock was ahead of ours when they came.
    pub(crate) clock_offset: i64,
}

/// A credential that is good now, for the one request that asked for it.
pub(crate) struct Live {
    pub(crate) facts: ConnectionFacts,
    pub(crate) material: Material,
    pub(crate) fields: Fields,
    /// Names the credential without showing it; `credential_after_refusal` compares it.
    pub(crate) fingerprint: [u8; 32],
}

/// What goes into a request.
pub(crate) enum Material {
    /// A token or a key.
    Token(Secret),
    /// User name and password.
    Basic { username: Secret, password: Secret, secret: BasicSecret },
    /// What signs it.
    Aws(AwsKeys),
    /// What signs tokens.
    SigningKey(SigningKey),
}

impl Credential {
    /// What goes into a request; `None` while there are no tokens.
    pub(crate) fn material(&self) -> Option<Material> {
        Some(match &self.kind {
            Kind::Grant(grant) => Material::Token(grant.tokens.as_ref()?.access.duplicate()),
            Kind::ApiKey(secret) | Kind::Bearer(secret) => Material::Token(secret.duplicate()),
            Kind::Basic { username, password, secret } => {
                Material::Basic { username: username.duplicate(), password: password.duplicate(), secret: *secret }
            }
            Kind::SigningKey(key) => Material::SigningKey(key.duplicate()),
            Kind::AwsKeys(keys) => Material::Aws(AwsKeys {
                access_key_id: keys.access_key_id.clone(),
                secret_access_key: keys.secret_access_key.duplicate(),
                session_token: keys.session_token.as_ref().map(Secret::duplicate),
            }),
        })
    }

    /// The fields that go into a request.
    pub(crate) fn into_fields(self) -> Fields {
        let mut fields = self.fields;
        if let Kind::Grant(grant) = self.kind {
            fields.entry(CLIENT_ID.to_owned()).or_insert_with(|| FieldValue::Open(grant.client.id).into());
        }
        fields
    }
}

impl Material {
    /// A keyed fingerprint, the same as long as the secret is.
    pub(crate) fn fingerprint(&self, keyring: &Keyring, tenant: &TenantId) -> [u8; 32] {
        match self {
            Self::Token(secret) | Self::Aws(AwsKeys { secret_access_key: secret, .. }) => {
                keyring.fingerprint(tenant, "credential", secret.expose())
            }
            Self::SigningKey(key) => keyring.fingerprint(tenant, "credential", key.secret().expose()),
            Self::Basic { username, password, .. } => {
                let pair = Zeroizing::new([username.expose(), b":", password.expose()].concat());
                keyring.fingerprint(tenant, "credential", &pair)
            }
        }
    }
}

impl Vault {
    /// Seals a credential for the row that `facts` describe.
    pub(crate) async fn seal_credential(
        &self,
        facts: &ConnectionFacts,
        credential: &Credential,
    ) -> Result<Sealed, VaultError> {
        let id = facts.id.to_string();
        let place = Place::of_credential(facts, &id);
        self.keyring.seal_fresh(&*self.store, &place, &to_json(credential)?).await
    }

    /// Opens the credential of a row.
    pub(crate) async fn open_credential(&self, row: &ConnectionRow) -> Result<Credential, VaultError> {
        let id = row.facts.id.to_string();
        let place = Place::of_credential(&row.facts, &id);
        let json = self.keyring.open_fresh(&*self.store, &place, &row.sealed).await?;
        from_json(&json, || format!("the credential of connection {id}"))
    }
}

/// JSON in memory that is wiped. The length is counted first, so that no growing buffer leaves copies behind.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let unwritable = |_| VaultError::System("a credential that is not text cannot be sealed".to_owned());
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).map_err(unwritable)?;
    let mut json = Zeroizing::new(Vec::with_capacity(count.0));
    serde_json::to_writer(&mut *json, value).map_err(unwritable)?;
    Ok(json)
}

/// Reads JSON. The parser's own error may quote what it read, so it is dropped.
pub(crate) fn from_json<'a, T: Deserialize<'a>>(
    json: &'a [u8],
    what: impl FnOnce() -> String,
) -> Result<T, VaultError> {
    serde_json::from_slice(json).map_err(|_| VaultError::Damaged { what: what() })
}

/// A secret that is text, inside what is sealed as a whole. [`Secret`] itself has no serde traits, so each field
/// that is written names this module.
pub(crate) mod text {
    use serde::{Deserialize, Deserializer, Serializer, ser::Error};

    use crate::secret::Secret;

    pub(crate) fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(secret.expose()).map_err(|_| S::Error::custom("a secret is not text"))?;
        serializer.serialize_str(text)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::from)
    }
}

/// As [`text`], for a secret that may be missing.
pub(crate) mod optional_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::secret::Secret;

    pub(crate) fn serialize<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
        match secret {
            Some(secret) => super::text::serialize(secret, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(Secret::from))
    }
}
