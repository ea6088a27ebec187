//! The first half of a consent: where the person goes.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use oauth2::{AuthUrl, ClientId, CsrfToken, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, basic::BasicClient};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use url::{Host, Url};

use super::{
    ConnectionError, Existing, NewConnection, client_of,
    row::{ATTEMPTS, Identity},
    unsuitable, wanted_scopes,
};
use crate::{
    credential::{Client, Endpoints, optional_text, to_json},
    error::VaultError,
    oauth::discover,
    provider::{ClientAuthentication, ConnectionMethod, Provider, Revocation},
    seal::{NO_FACTS, Place},
    secret::Secret,
    store::{PendingAuthorization, StoreError},
    vault::Vault,
};

/// How long a person has to sign in and consent.
const WINDOW: Duration = Duration::minutes(10);

/// Where to send the person.
pub struct AuthorizationStart {
    /// The URL to open in the person's browser.
    pub url: Url,
    /// The state parameter, which the redirect brings back. Whoever has it can end this authorization, so it is
    /// as secret as the browser's session.
    pub state: String,
    /// When it can no longer be finished.
    pub expires_at: OffsetDateTime,
}

/// What must be known when the redirect comes; sealed until then.
#[derive(Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) identity: Identity,
    pub(super) provider: String,
    pub(super) redirect_uri: Url,
    #[serde(with = "optional_text")]
    pub(super) verifier: Option<Secret>,
    pub(super) nonce: Option<String>,
    pub(super) server: Endpoints,
    pub(super) iss_required: bool,
    pub(super) client: Client,
    pub(super) other_authentication: Option<ClientAuthentication>,
    pub(super) requested: BTreeSet<String>,
    /// When it can no longer be finished. The row tells it too, for clearing up, and whoever can write to the database
    /// could change it there.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) expires_at: OffsetDateTime,
}

impl fmt::Debug for AuthorizationStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizationStart").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

impl Pending {
    /// Where a pending authorization rests.
    pub(super) fn place<'a>(tenant: &'a keyward_model::TenantId, id: &'a str) -> Place<'a> {
        Place { tenant, object_type: "authorization", object_id: id, field: "pending", row_version: 0, facts: NO_FACTS }
    }
}

/// What is known of the authorization server before anything is asked of it.
pub(super) struct Server {
    pub(super) endpoints: Endpoints,
    pub(super) iss_required: bool,
    pub(super) offline: Option<String>,
    /// How a client with a secret proves itself; `None` where in no way that we know.
    authentication: Option<ClientAuthentication>,
    /// Whether that is only what the server says of itself.
    negotiable: bool,
}

impl Server {
    /// How a client proves itself.
    pub(super) fn authentication(&self, has_secret: bool) -> Result<ClientAuthentication, ConnectionError> {
        if !has_secret {
            return Ok(ClientAuthentication::None);
        }
        self.authentication.ok_or_else(|| ConnectionError::Unsuitable {
            message: "the authorization server takes a client's secret neither by Basic nor in the form".to_owned(),
            hint: Some("register a public client, without a secret".to_owned()),
        })
    }

    /// The other way to prove it, where the first is only what the server says of itself.
    pub(super) fn other_authentication(&self, client: &Client) -> Option<ClientAuthentication> {
        match client.authentication {
            _ if !self.negotiable => None,
            ClientAuthentication::ClientSecretBasic => Some(ClientAuthentication::ClientSecretPost),
            ClientAuthentication::ClientSecretPost => Some(ClientAuthentication::ClientSecretBasic),
            ClientAuthentication::None => None,
        }
    }
}

impl Vault {
    /// Begins a consent: the person opens the URL, and the provider sends the browser to `redirect_uri`. The
    /// provider's metadata is fetched where its endpoints are not known.
    ///
    /// # Errors
    /// [`ConnectionError`] where the provider, the client, the scopes or the redirect URI do not fit, the name is
    /// taken, or the issuer cannot be used; [`VaultError::Store`].
    pub async fn begin_authorization(
        &self,
        mut new: NewConnection,
        redirect_uri: &Url,
    ) -> Result<AuthorizationStart, VaultError> {
        let provider = self.provider_for(&new.provider, ConnectionMethod::Oauth2)?;
        check_redirect(redirect_uri)?;
        let existing = self.existing(&mut new, provider).await?;
        let server = self.server(provider, new.issuer.as_ref(), existing.as_ref()).await?;
        let Some(authorization) = server.endpoints.authorization.clone() else {
            return Err(unsuitable("the issuer has no authorization endpoint", "use client credentials"));
        };
        let client = client_of(std::mem::take(&mut new.client), existing.as_ref(), provider, &server)?;
        let mut requested = wanted_scopes(provider, &new.scopes, existing.as_ref())?;
        requested.extend(provider.scopes.base.iter().cloned());
        requested.extend(server.offline.clone());

        let state = CsrfToken::new_random_len(32);
        let nonce = requested.contains("openid").then(|| CsrfToken::new_random_len(32).into_secret());
        let verifier = provider.authorization.pkce.then(|| PkceCodeChallenge::new_random_sha256().1);
        let url = authorization_url(&UrlParts {
            provider,
            authorization,
            client: &client.id,
            redirect_uri,
            state: &state,
            nonce: nonce.as_deref(),
            verifier: verifier.as_ref(),
            requested: &requested,
        })?;

        let expires_at = self.clock.now().wall + WINDOW;
        let state_hash: [u8; 32] = Sha256::digest(state.secret().as_bytes()).into();
        let tenant = new.tenant.clone();
        let pending = Pending {
            identity: Identity::of(new),
            provider: provider.id.clone(),
            redirect_uri: redirect_uri.clone(),
            verifier: verifier.map(|verifier| Secret::from(verifier.into_secret())),
            nonce,
            iss_required: server.iss_required,
            other_authentication: server.other_authentication(&client),
            server: server.endpoints,
            client,
            requested,
            expires_at,
        };
        let id = hex::encode(state_hash);
        let (place, json) = (Pending::place(&tenant, &id), to_json(&pending)?);
        for _ in 0..ATTEMPTS {
            let sealed = self.keyring.seal_fresh(&*self.store, &place, &json).await?;
            let pending = PendingAuthorization { state_hash, tenant: tenant.clone(), sealed, expires_at };
            match self.store.put_pending(&pending).await {
                Err(StoreError::KeyGone) => self.keyring.reload(&*self.store).await?,
                result => {
                    result?;
                    return Ok(AuthorizationStart { url, state: state.into_secret(), expires_at });
                }
            }
        }
        Err(VaultError::Contended { attempts: ATTEMPTS })
    }

    /// Where the provider's authorization server is, from its file or from its metadata.
    pub(super) async fn server(
        &self,
        provider: &Provider,
        issuer: Option<&Url>,
        existing: Option<&Existing>,
    ) -> Result<Server, VaultError> {
        let (rules, revocation, offline) = (&provider.token, provider.revocation.clone(), &provider.scopes.offline);
        if issuer.is_some() && !provider.issuer_from_connection {
            let message = format!("{} has an issuer of its own", provider.title);
            return Err(unsuitable(&message, "use the provider `oidc` with an issuer"));
        }
        if let Some(token) = &rules.endpoint {
            return Ok(Server {
                endpoints: Endpoints {
                    issuer: provider.issuer.as_ref().map(Url::to_string),
                    authorization: provider.authorization.endpoint.clone(),
                    token: token.clone(),
                    revocation,
                    introspection: None,
                    account: provider.account.endpoint.clone(),
                },
                iss_required: provider.authorization.iss_required,
                offline: offline.clone(),
                authentication: Some(rules.client_authentication.unwrap_or(ClientAuthentication::ClientSecretBasic)),
                negotiable: rules.client_authentication.is_none(),
            });
        }
        let before = existing.and_then(|existing| existing.grant.as_ref()?.endpoints.issuer.as_ref());
        let before = before.and_then(|text| Url::parse(text).ok());
        let Some(issuer) = issuer.cloned().or(before).or_else(|| provider.issuer.clone()) else {
            let message = format!("{} needs to know the issuer", provider.title);
            return Err(unsuitable(&message, "give the issuer's URL"));
        };
        let metadata = discover(&*self.wire, &issuer).await?;
        let authentication = metadata.client_authentication();
        let supported = metadata.scopes_supported;
        let offline =
            offline.clone().filter(|scope| supported.as_ref().is_none_or(|supported| supported.contains(scope)));
        let published = metadata.revocation_endpoint.map(|endpoint| Revocation::Rfc7009 {
            endpoint,
            authenticated: true,
            whole_grant: false,
        });
        Ok(Server {
            authentication: rules.client_authentication.or(authentication),
            negotiable: rules.client_authentication.is_none(),
            iss_required: provider.authorization.iss_required
                || metadata.authorization_response_iss_parameter_supported == Some(true),
            offline,
            endpoints: Endpoints {
                issuer: Some(metadata.issuer),
                authorization: provider.authorization.endpoint.clone().or(metadata.authorization_endpoint),
                token: metadata.token_endpoint,
                revocation: revocation.or(published),
                introspection: metadata.introspection_endpoint,
                account: provider.account.endpoint.clone().or(metadata.userinfo_endpoint),
            },
        })
    }
}

/// What goes into the URL.
struct UrlParts<'a> {
    provider: &'a Provider,
    authorization: Url,
    client: &'a str,
    redirect_uri: &'a Url,
    state: &'a CsrfToken,
    nonce: Option<&'a str>,
    verifier: Option<&'a PkceCodeVerifier>,
    requested: &'a BTreeSet<String>,
}

fn authorization_url(parts: &UrlParts<'_>) -> Result<Url, ConnectionError> {
    let client = BasicClient::new(ClientId::new(parts.client.to_owned()))
        .set_auth_uri(AuthUrl::from_url(parts.authorization.clone()));
    let mut request = client
        .authorize_url(|| parts.state.clone())
        .set_redirect_uri(Cow::Owned(RedirectUrl::from_url(parts.redirect_uri.clone())));
    if let Some(verifier) = parts.verifier {
        request = request.set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(verifier));
    }
    if let Some((parameter, scopes)) = scope_parameter(parts.provider, parts.requested)? {
        request = request.add_extra_param(parameter, scopes);
    }
    if let Some(nonce) = parts.nonce {
        request = request.add_extra_param("nonce", nonce);
    }
    // A refresh token for later use needs explicit consent (OpenID Connect Core section 11).
    let fixed = &parts.provider.authorization.parameters;
    let offline = parts.provider.scopes.offline.as_ref().is_some_and(|scope| parts.requested.contains(scope));
    if offline && !fixed.contains_key("prompt") {
        request = request.add_extra_param("prompt", "consent");
    }
    for (name, value) in fixed {
        request = request.add_extra_param(name.as_str(), value.as_str());
    }
    Ok(request.url().0)
}

/// The query parameter for the scopes and its value; `None` where none are asked for.
pub(crate) fn scope_parameter<'a>(
    provider: &'a Provider,
    requested: &BTreeSet<String>,
) -> Result<Option<(&'a str, String)>, ConnectionError> {
    let mut chosen: Option<(&str, Vec<&str>)> = None;
    for scope in requested {
        let parameters = &provider.scopes.parameters;
        let Some((name, bare)) = provider.taker(scope) else {
            let message = format!("{} takes no scope like {scope:?}", provider.title);
            return Err(ConnectionError::Unsuitable { message, hint: None });
        };
        match &mut chosen {
            None => chosen = Some((name, vec![bare])),
            Some((other, scopes)) if *other == name => scopes.push(bare),
            // Each parameter brings a token of its own, and a connection holds one.
            Some(_) => {
                let prefixes: Vec<_> = parameters.iter().filter(|p| !p.prefix.is_empty()).map(|p| &*p.prefix).collect();
                return Err(ConnectionError::Unsuitable {
                    message: format!("a connection to {} holds one token, and these scopes are of two", provider.title),
                    hint: Some(format!(
                        "connect twice: with and without the scopes that begin with {}",
                        prefixes.join(", ")
                    )),
                });
            }
        }
    }
    Ok(chosen.map(|(name, scopes)| (name, scopes.join(&provider.scopes.separator))))
}

impl Provider {
    /// The parameter that takes a scope, and the scope without the prefix.
    fn taker<'s>(&self, scope: &'s str) -> Option<(&str, &'s str)> {
        let parameters = &self.scopes.parameters;
        parameters.iter().find_map(|taker| Some((taker.name.as_str(), scope.strip_prefix(taker.prefix.as_str())?)))
    }

    /// A scope as replies tell it and connectors name it: without the prefix that chooses a parameter.
    pub fn bare_scope<'s>(&self, scope: &'s str) -> &'s str {
        self.taker(scope).map_or(scope, |(_, bare)| bare)
    }

    /// The prefix that the first of `scopes` that has one begins with.
    pub fn scope_prefix<'s>(&self, scopes: impl IntoIterator<Item = &'s String>) -> &'s str {
        let prefix = |scope: &'s String| scope.strip_suffix(self.bare_scope(scope)).filter(|prefix| !prefix.is_empty());
        scopes.into_iter().find_map(prefix).unwrap_or_default()
    }
}

/// A redirect goes to https, or to this machine (RFC 8252 section 7.3), and has no fragment (RFC 6749 section 3.1.2).
fn check_redirect(uri: &Url) -> Result<(), ConnectionError> {
    let local = match uri.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    let safe = uri.scheme() == "https" || (uri.scheme() == "http" && local);
    if safe && uri.fragment().is_none() && uri.username().is_empty() && uri.password().is_none() {
        return Ok(());
    }
    Err(ConnectionError::Unsuitable {
        message: format!("{uri} cannot be a redirect URI"),
        hint: Some("use https, or http on a loopback address".to_owned()),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::provider::Catalogue;

    fn set(scopes: &[&str]) -> BTreeSet<String> {
        scopes.iter().map(|scope| (*scope).to_owned()).collect()
    }

    #[test]
    fn scopes_are_joined_as_the_provider_wants() {
        let catalogue = Catalogue::builtin();
        for (provider, scopes, expected) in [
            ("oidc", &["openid", "b"][..], Some(("scope", "b openid"))),
            ("github", &["repo", "user"], Some(("scope", "repo,user"))),
            ("slack", &["chat:write", "users:read"], Some(("scope", "chat:write,users:read"))),
            ("slack", &["user:chat:write"], Some(("user_scope", "chat:write"))),
            ("github", &[], None),
        ] {
            let joined = scope_parameter(catalogue.find(provider).unwrap(), &set(scopes)).unwrap();
            assert_eq!(joined, expected.map(|(name, value)| (name, value.to_owned())));
        }
        let both = scope_parameter(catalogue.find("slack").unwrap(), &set(&["chat:write", "user:chat:write"]));
        assert!(matches!(both, Err(ConnectionError::Unsuitable { .. })));
    }

    #[test]
    fn redirect_goes_to_https_or_to_this_machine() {
        for (uri, good) in [
            ("https://keyward.example/callback", true),
            ("http://127.0.0.1:4001/callback", true),
            ("http://[::1]:4001/", true),
            ("http://localhost:4001/", true),
            ("http://keyward.example/callback", false),
            ("http://127.0.0.1.example/", false),
            ("https://keyward.example/#x", false),
            ("https://user@keyward.example/", false),
            ("keyward:callback", false),
            ("javascript:alert(1)", false),
        ] {
            assert_eq!(check_redirect(&Url::parse(uri).unwrap()).is_ok(), good, "{uri}");
        }
    }
}
