//! Connections: made by consent, by client credentials or with a pasted secret; listed, tested, revoked, deleted.
//!
//! A consent takes two calls. [`Vault::begin_authorization`] makes the URL that the person opens and keeps, sealed,
//! what must be known when the person comes back; [`Vault::finish_authorization`] takes that out again, once, and
//! exchanges the code. The reply to that exchange is not stored before it is read, other than in a refresh: nothing
//! but a parser that takes any reply with an access token stands between the reply and the insert, and the
//! person who could begin again is at the keyboard.
//!
//! A connection that is made again asks for the scopes that it has and keeps what it is not given anew.

mod begin;
mod error;
mod finish;
mod retire;
mod row;
mod test;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use keyward_model::{
    ConnectionFacts, ConnectionId, ConnectionName, ConnectorName, Principal, TenantId, manifest::Part,
};
use keyward_policy::scope::is_scope_token;
use time::OffsetDateTime;
use url::Url;

use crate::{
    credential::{AwsKeys, BasicSecret, Client, FieldValue, Grant, Kind},
    error::VaultError,
    provider::{ConnectionMethod, Provider},
    secret::Secret,
    signing_key::SigningKey,
    vault::Vault,
};

pub use begin::AuthorizationStart;
pub use error::ConnectionError;
pub use retire::RevokeReport;
pub use test::{TestOutcome, TestReport};

pub(crate) use begin::scope_parameter;
pub(crate) use row::Opened;

/// What a new connection is to be, or, with `reconnect`, what an old one is to be from now on.
#[derive(Debug)]
pub struct NewConnection {
    /// In which tenant.
    pub tenant: TenantId,
    /// Who makes it.
    pub principal: Principal,
    /// Its name; a connection that is made again keeps its own.
    pub name: ConnectionName,
    /// Who will own it; `None` is the organisation. A connection that is made again keeps its owner.
    pub owner: Option<Principal>,
    /// The provider's id in the catalogue.
    pub provider: String,
    /// The issuer, where the provider leaves it to the connection. It is kept sealed; without it, a connection that
    /// is made again keeps its own.
    pub issuer: Option<Url>,
    /// The client to act as.
    pub client: ClientRegistration,
    /// The scopes to ask for; for a pasted secret, those that it has. A connection that is made again asks for those
    /// that it has as well.
    pub scopes: BTreeSet<String>,
    /// URLs that stand in place of configurable endpoints of a connector. A connection that is made again keeps those
    /// that are not named here.
    pub endpoints: BTreeMap<String, String>,
    /// What connectors place beside the credential, by name: for example `client-id` or `developer-token`. A
    /// connection that is made again keeps those that are not given anew.
    pub fields: BTreeMap<String, FieldValue>,
    /// The connection to make again under its id.
    pub reconnect: Option<ConnectionId>,
}

/// A client as it is registered at the provider.
#[derive(Debug, Default)]
pub struct ClientRegistration {
    /// Its id. Without it, a connection that is made again keeps its own.
    pub id: Option<String>,
    /// Its secret; `None` for a public client, or, without an id, for the secret that the connection has.
    pub secret: Option<Secret>,
}

/// What came of a consent.
#[derive(Debug, Clone, PartialEq)]
pub struct Connected {
    /// The connection.
    pub facts: ConnectionFacts,
    /// When it stops working: the provider gave a token that ends, and none to refresh it with.
    pub ends_at: Option<OffsetDateTime>,
}

/// A credential that a person pastes.
#[derive(Debug)]
pub enum StaticCredential {
    /// An API key.
    ApiKey(Secret),
    /// User name and password (RFC 7617).
    Basic {
        /// The user name, without a colon.
        username: Secret,
        /// The password; it may be empty where it is not secret.
        password: Secret,
        /// What of it is taken out of what comes back.
        secret: BasicSecret,
    },
    /// A token (RFC 6750).
    Bearer(Secret),
    /// An access key of AWS, which signs requests.
    AwsKeys {
        /// The access key id, which is not secret.
        access_key_id: String,
        /// The secret access key.
        secret_access_key: Secret,
        /// The session token, where the key is a temporary one.
        session_token: Option<Secret>,
    },
    /// A private key, which signs tokens.
    SigningKey(SigningKey),
}

/// What is known of a connection that is made again.
struct Existing {
    facts: ConnectionFacts,
    /// `None` where a secret was pasted.
    grant: Option<Box<Grant>>,
}

impl Vault {
    /// The connections of a tenant, by name.
    ///
    /// # Errors
    /// [`VaultError::Store`].
    pub async fn connections(&self, tenant: &TenantId) -> Result<Vec<ConnectionFacts>, VaultError> {
        Ok(self.store.connections(tenant).await?)
    }

    /// One connection, as it was a second ago at most.
    ///
    /// # Errors
    /// [`ConnectionError::Unknown`]; [`VaultError::Store`].
    pub async fn connection(&self, tenant: &TenantId, id: &ConnectionId) -> Result<ConnectionFacts, VaultError> {
        match self.rows.get(tenant, id) {
            Some(row) => Ok(row.facts.clone()),
            None => Ok(self.row(tenant, id).await?.facts),
        }
    }

    /// One connection by its name.
    ///
    /// # Errors
    /// [`ConnectionError::Unknown`]; [`VaultError::Store`].
    pub async fn connection_named(
        &self,
        tenant: &TenantId,
        name: &ConnectionName,
    ) -> Result<ConnectionFacts, VaultError> {
        match self.store.connection_id(tenant, name).await? {
            Some(id) => self.connection(tenant, &id).await,
            None => Err(ConnectionError::Unknown(name.to_string()).into()),
        }
    }

    /// Makes a connection of a pasted secret. Nothing is sent to the provider; [`Vault::test`] does that.
    ///
    /// # Errors
    /// [`ConnectionError`] where the provider is unknown, does not take this kind of credential, or the credential
    /// cannot be one; [`VaultError::Store`].
    pub async fn connect_static(
        &self,
        mut new: NewConnection,
        credential: StaticCredential,
    ) -> Result<ConnectionFacts, VaultError> {
        let (method, may_be_empty, secret) = match &credential {
            StaticCredential::ApiKey(secret) => (ConnectionMethod::ApiKey, false, secret),
            StaticCredential::Basic { password, secret, .. } => {
                (ConnectionMethod::Basic, *secret == BasicSecret::Username, password)
            }
            StaticCredential::Bearer(secret) => (ConnectionMethod::Bearer, false, secret),
            StaticCredential::AwsKeys { secret_access_key, .. } => {
                (ConnectionMethod::AwsKeys, false, secret_access_key)
            }
            StaticCredential::SigningKey(key) => (ConnectionMethod::SigningKey, false, key.secret()),
        };
        let provider = self.provider_for(&new.provider, method)?;
        let existing = self.existing(&mut new, provider).await?;
        let is_carried = |text: &str| (may_be_empty || !text.is_empty()) && !text.chars().any(char::is_control);
        if !secret.expose_str().is_some_and(is_carried) {
            return Err(unsuitable(
                "the secret is empty or holds characters that no request can carry",
                "paste it without line breaks",
            ));
        }
        let kind = match credential {
            StaticCredential::ApiKey(secret) => Kind::ApiKey(secret),
            StaticCredential::Bearer(secret) => Kind::Bearer(secret),
            StaticCredential::SigningKey(key) => Kind::SigningKey(key),
            StaticCredential::AwsKeys { access_key_id, secret_access_key, session_token } => {
                let is_id = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                let is_carried = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
                let token_is_carried =
                    session_token.as_ref().is_none_or(|token| token.expose_str().is_some_and(is_carried));
                if !is_id(&access_key_id) || !token_is_carried {
                    let message = "the access key id or the session token is none";
                    return Err(unsuitable(message, "an id has letters and digits; paste both without line breaks"));
                }
                Kind::AwsKeys(AwsKeys { access_key_id, secret_access_key, session_token })
            }
            StaticCredential::Basic { username, password, secret } => {
                let is_name = |text: &str| !text.is_empty() && !text.chars().any(|c| c == ':' || c.is_control());
                if !username.expose_str().is_some_and(is_name) {
                    let message = "a user name is not empty and holds neither ':' nor control characters";
                    return Err(unsuitable(message, "RFC 7617 cannot carry such a name"));
                }
                Kind::Basic { username, password, secret }
            }
        };
        let scopes = wanted_scopes(provider, &new.scopes, existing.as_ref())?;
        let made = row::Made { method, kind, granted: scopes, assumed: true, account: None, expires_at: None };
        Ok(self.keep(row::Identity::of(new), provider, made).await?.row.facts)
    }

    /// The provider, where it can be connected to by `method`.
    fn provider_for(&self, id: &str, method: ConnectionMethod) -> Result<&Provider, ConnectionError> {
        let provider = self.provider(id)?;
        if provider.methods.contains(&method) {
            return Ok(provider);
        }
        let methods: Vec<_> = provider.methods.iter().map(|method| method.as_str()).collect();
        Err(ConnectionError::Unsuitable {
            message: format!("{} cannot be connected to by {method}", provider.title),
            hint: Some(format!("it takes {}", methods.join(", "))),
        })
    }

    /// The provider with that id.
    pub(crate) fn provider(&self, id: &str) -> Result<&Provider, ConnectionError> {
        self.providers.find(id).ok_or_else(|| ConnectionError::ProviderUnknown {
            id: id.to_owned(),
            known: self.providers.ids().map(str::to_owned).collect(),
        })
    }

    /// The connection to make again, where one is named; otherwise makes sure that the new name is free, so that
    /// nobody consents to something that cannot be kept.
    ///
    /// What a new one takes over of it comes from a row that was opened: the seal vouches for it. Of a row that was
    /// altered nothing is taken over, and so it cannot be made again.
    async fn existing(&self, new: &mut NewConnection, provider: &Provider) -> Result<Option<Existing>, VaultError> {
        check_fields(&new.fields)?;
        let Some(id) = &new.reconnect else {
            return match self.store.connection_id(&new.tenant, &new.name).await? {
                Some(_) => Err(crate::store::StoreError::NameTaken(new.name.to_string()).into()),
                None => Ok(None),
            };
        };
        let Opened { row, credential } = self.opened(&new.tenant, id).await?;
        let grant = match credential.kind {
            Kind::Grant(grant) => Some(grant),
            _ => None,
        };
        let existing = Existing { facts: row.facts, grant };
        if existing.facts.provider != provider.id {
            let facts = &existing.facts;
            let message = format!("the connection {} is one of {}, not of {}", facts.name, facts.provider, provider.id);
            return Err(unsuitable(&message, "make a new connection under another name"));
        }
        for (name, url) in &existing.facts.endpoints {
            new.endpoints.entry(name.clone()).or_insert_with(|| url.clone());
        }
        Ok(Some(existing))
    }
}

fn unsuitable(message: &str, hint: &str) -> VaultError {
    ConnectionError::Unsuitable { message: message.to_owned(), hint: Some(hint.to_owned()) }.into()
}

/// Names are those of ids, but not those of the credential's own parts; values are what a request can carry.
fn check_fields(fields: &BTreeMap<String, FieldValue>) -> Result<(), VaultError> {
    for (name, value) in fields {
        if name.parse::<ConnectorName>().is_err() || !matches!(Part::from(name.clone()), Part::Field(_)) {
            let hint = "use a-z, 0-9 and single '-', and neither token, username nor password";
            return Err(unsuitable(&format!("{name:?} is not a name for a field"), hint));
        }
        let text = match value {
            FieldValue::Open(text) => Some(text.as_str()),
            FieldValue::Secret(secret) => secret.expose_str(),
        };
        if !text.is_some_and(|text| !text.is_empty() && !text.chars().any(char::is_control)) {
            let message = format!("the field {name} is empty or holds characters that no request can carry");
            return Err(unsuitable(&message, "paste it without line breaks"));
        }
    }
    Ok(())
}

fn unusable(provider: &Provider, message: String) -> ConnectionError {
    ConnectionError::Unusable { provider: provider.title.clone(), message }
}

/// Whether a text is a scope that a request can carry and the provider can take apart.
fn fits(provider: &Provider, scope: &str) -> bool {
    is_scope_token(scope) && !scope.contains(&provider.scopes.separator)
}

/// The scopes to ask for: the `given` ones and, of a connection that is made again, those that it has, because the
/// flows that use it need them.
fn wanted_scopes(
    provider: &Provider,
    given: &BTreeSet<String>,
    existing: Option<&Existing>,
) -> Result<BTreeSet<String>, ConnectionError> {
    if let Some(wrong) = given.iter().find(|scope| !fits(provider, scope)) {
        let message = format!("{wrong:?} is not a scope of {}", provider.title);
        return Err(ConnectionError::Unsuitable { message, hint: Some("give scopes one by one".to_owned()) });
    }
    let Some(Existing { facts, grant }) = existing else { return Ok(given.clone()) };
    let implications = provider.implications();
    let requested = grant.as_ref().map(|grant| &grant.requested);
    let known = requested.into_iter().flatten().map(|scope| provider.bare_scope(scope).to_owned()).collect();
    let mut others = facts.granted_scopes.clone();
    others.retain(|scope| !implications.closure(&known).contains(scope) && fits(provider, scope));
    // Replies, and the connectors that need scopes, tell them without the prefix that makes them be asked for by the
    // parameter of the connection's one token.
    let prefix = provider.scope_prefix(requested.into_iter().flatten().chain(given));
    let mut wanted: BTreeSet<String> = given.union(&implications.without_included(others)).cloned().collect();
    wanted = wanted.iter().map(|scope| format!("{prefix}{}", scope.strip_prefix(prefix).unwrap_or(scope))).collect();
    wanted.extend(requested.into_iter().flatten().cloned());
    Ok(wanted)
}

/// The client to act as: the one that is given, or the one that the connection had, with a new secret where there is
/// one. A client belongs to the server where it is registered, and its secret goes to no other.
fn client_of(
    given: ClientRegistration,
    existing: Option<&Existing>,
    provider: &Provider,
    server: &begin::Server,
) -> Result<Client, VaultError> {
    let ClientRegistration { id, secret } = given;
    let text = |secret: &Secret| secret.expose_str().is_some_and(|text| !text.is_empty());
    if id.as_ref().is_some_and(String::is_empty) || secret.as_ref().is_some_and(|secret| !text(secret)) {
        return Err(unsuitable("the client's id or secret is empty or not text", "copy it again"));
    }
    let id = match id {
        Some(id) => id,
        None => {
            let Some(grant) = existing.and_then(|existing| existing.grant.as_ref()) else {
                return Err(unsuitable(
                    &format!("a client registration of {} is needed", provider.title),
                    "register an application at the provider and give its client id",
                ));
            };
            let (before, now) = (&grant.endpoints, &server.endpoints);
            if (&before.issuer, &before.token) != (&now.issuer, &now.token) {
                return Err(unsuitable(
                    "the connection's client is registered at another authorization server",
                    "give the id and the secret of a client that is registered at this one",
                ));
            }
            if secret.is_none() {
                return Ok(grant.client.duplicate());
            }
            grant.client.id.clone()
        }
    };
    let authentication = server.authentication(secret.is_some())?;
    Ok(Client { id, secret, authentication })
}
