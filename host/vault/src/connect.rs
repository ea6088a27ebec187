//! Connections: made by consent, by client credentials or with a pasted secret; listed, tested, revoked, deleted.
//!
//! A consent takes two calls. [`Vault::begin_authorization`] makes the URL that the person opens and keeps, sealed,
//! what must be known when the person comes back; [`Vault::finish_authorization`] takes that out again, once, and
//! exchanges the code. The reply to that exchange is not stored before it is read, other than in a refresh: nothing
//! but a parser that takes any reply with an access token stands between the reply and the insert, and the
//! person who could begin again is at the keyboard.

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

use keyward_model::{ConnectionFacts, ConnectionId, ConnectionName, Principal, TenantId};
use url::Url;

use crate::{
    credential::{BasicSecret, Client, Credential},
    error::VaultError,
    provider::{ConnectionMethod, Provider},
    secret::Secret,
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
    /// The client to act as. Without it, a connection that is made again keeps its own.
    pub client: Option<ClientRegistration>,
    /// The scopes to ask for; for a pasted secret, those that it has.
    pub scopes: BTreeSet<String>,
    /// URLs that stand in place of configurable endpoints of a connector.
    pub endpoints: BTreeMap<String, String>,
    /// The connection to make again under its id.
    pub reconnect: Option<ConnectionId>,
}

/// A client as it is registered at the provider.
#[derive(Debug)]
pub struct ClientRegistration {
    /// Its id.
    pub id: String,
    /// Its secret; `None` for a public client.
    pub secret: Option<Secret>,
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
        new: NewConnection,
        credential: StaticCredential,
    ) -> Result<ConnectionFacts, VaultError> {
        let (method, may_be_empty, secret) = match &credential {
            StaticCredential::ApiKey(secret) => (ConnectionMethod::ApiKey, false, secret),
            StaticCredential::Basic { password, secret, .. } => {
                (ConnectionMethod::Basic, *secret == BasicSecret::Username, password)
            }
            StaticCredential::Bearer(secret) => (ConnectionMethod::Bearer, false, secret),
        };
        let provider = self.provider_for(&new.provider, method)?;
        self.existing(&new, provider).await?;
        let is_carried = |text: &str| (may_be_empty || !text.is_empty()) && !text.chars().any(char::is_control);
        if !secret.expose_str().is_some_and(is_carried) {
            return Err(unsuitable(
                "the secret is empty or holds characters that no request can carry",
                "paste it without line breaks",
            ));
        }
        let credential = match credential {
            StaticCredential::ApiKey(secret) => Credential::ApiKey(secret),
            StaticCredential::Bearer(secret) => Credential::Bearer(secret),
            StaticCredential::Basic { username, password, secret } => {
                let is_name = |text: &str| !text.is_empty() && !text.chars().any(|c| c == ':' || c.is_control());
                if !username.expose_str().is_some_and(is_name) {
                    let message = "a user name is not empty and holds neither ':' nor control characters";
                    return Err(unsuitable(message, "RFC 7617 cannot carry such a name"));
                }
                Credential::Basic { username, password, secret }
            }
        };
        let scopes = check_scopes(provider, &new.scopes)?;
        let made = row::Made { method, credential, granted: scopes, assumed: true, account: None, expires_at: None };
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
    async fn existing(&self, new: &NewConnection, provider: &Provider) -> Result<Option<Opened>, VaultError> {
        let Some(id) = &new.reconnect else {
            return match self.store.connection_id(&new.tenant, &new.name).await? {
                Some(_) => Err(crate::store::StoreError::NameTaken(new.name.to_string()).into()),
                None => Ok(None),
            };
        };
        let opened = self.opened(&new.tenant, id).await?;
        if opened.row.facts.provider != provider.id {
            let facts = &opened.row.facts;
            let message = format!("the connection {} is one of {}, not of {}", facts.name, facts.provider, provider.id);
            return Err(unsuitable(&message, "make a new connection under another name"));
        }
        Ok(Some(opened))
    }
}

fn unsuitable(message: &str, hint: &str) -> VaultError {
    ConnectionError::Unsuitable { message: message.to_owned(), hint: Some(hint.to_owned()) }.into()
}

/// The scopes, where each is one that a request can carry (RFC 6749 section 3.3) and the provider can take apart.
fn check_scopes(provider: &Provider, scopes: &BTreeSet<String>) -> Result<BTreeSet<String>, ConnectionError> {
    let fits = |scope: &&String| {
        !scope.is_empty()
            && scope.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
            && !scope.contains(&provider.scopes.separator)
    };
    match scopes.iter().find(|scope| !fits(scope)) {
        None => Ok(scopes.clone()),
        Some(wrong) => {
            let message = format!("{wrong:?} is not a scope of {}", provider.title);
            Err(ConnectionError::Unsuitable { message, hint: Some("give scopes one by one".to_owned()) })
        }
    }
}

/// The client to act as: the one that is given, or the one that the connection had.
fn client_of(
    given: Option<ClientRegistration>,
    existing: Option<&Opened>,
    provider: &Provider,
    authentication: impl FnOnce(bool) -> Result<crate::provider::ClientAuthentication, ConnectionError>,
) -> Result<Client, VaultError> {
    match given {
        Some(ClientRegistration { id, secret }) => {
            let text = |secret: &Secret| secret.expose_str().is_some_and(|text| !text.is_empty());
            if id.is_empty() || secret.as_ref().is_some_and(|secret| !text(secret)) {
                return Err(unsuitable("the client's id or secret is empty or not text", "copy it again"));
            }
            let authentication = authentication(secret.is_some())?;
            Ok(Client { id, secret, authentication })
        }
        None => match existing.map(|opened| &opened.credential) {
            Some(Credential::Grant(grant)) => Ok(grant.client.duplicate()),
            _ => Err(unsuitable(
                &format!("a client registration of {} is needed", provider.title),
                "register an application at the provider and give its client id",
            )),
        },
    }
}
