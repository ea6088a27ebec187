//! The second half of a consent, and the grant without one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use http::Method;
use keyward_model::ConnectionFacts;
use sha2::{Digest, Sha256};
use tracing::Instrument;
use url::form_urlencoded;

use super::{
    Connected, ConnectionError, NewConnection, Opened,
    begin::{Pending, scope_parameter},
    client_of,
    row::{Identity, Made},
    unusable, wanted_scopes,
};
use crate::{
    credential::{Client, Endpoints, Grant, GrantKind, Kind, from_json},
    error::VaultError,
    oauth::{Ask, Outgoing, about_token, fetch, same_issuer, token_request},
    provider::{ClientAuthentication, ConnectionMethod, Provider},
    secret::Secret,
    token::{self, Document, Expected, Reply, Withheld},
    vault::Vault,
};

impl Vault {
    /// Finishes a consent with the query of the redirect: checks that it belongs to one that we began, exchanges
    /// the code, keeps the tokens, and asks the provider whose account it is. It runs in a task of its own: a browser
    /// that closes the connection meanwhile does not cost the consent.
    ///
    /// # Errors
    /// [`ConnectionError::RedirectUnknown`] and [`ConnectionError::RedirectInvalid`] where the redirect is not ours;
    /// [`ConnectionError::Declined`] where nobody consented; other [`ConnectionError`]s where the provider refuses
    /// the exchange; [`VaultError::Store`]. Whatever the error, the redirect cannot be used again.
    pub async fn finish_authorization(&self, query: &str) -> Result<Connected, VaultError> {
        let (vault, query) = (self.clone(), query.to_owned());
        let task = async move { vault.take_redirect(&query).await }.in_current_span();
        tokio::spawn(task).await.map_err(|_| VaultError::System("an authorization was stopped".to_owned()))?
    }

    async fn take_redirect(&self, query: &str) -> Result<Connected, VaultError> {
        let parameters = parameters(query)?;
        let state = parameters.get("state").ok_or_else(|| invalid("it has no state"))?;
        let state_hash: [u8; 32] = Sha256::digest(state.as_bytes()).into();
        // It may rest under a key that another process has made, and that a rotation removes as soon as it is taken.
        self.keyring.reload(&*self.store).await?;
        let row = self.store.take_pending(&state_hash).await?.ok_or(ConnectionError::RedirectUnknown)?;
        let id = hex::encode(state_hash);
        let json = self.keyring.open_fresh(&*self.store, &Pending::place(&row.tenant, &id), &row.sealed).await?;
        let pending: Pending = from_json(&json, || format!("the authorization {id}"))?;
        if pending.expires_at <= self.clock.now().wall {
            return Err(ConnectionError::RedirectUnknown.into());
        }
        let provider = self.provider(&pending.provider)?;

        let code = code(provider, &pending, &parameters)?;
        let (identity, made) = self.exchange_code(provider, pending, &code).await?;
        let lasts = matches!(&made.kind, Kind::Grant(grant) if grant.can_refresh());
        let facts = self.keep_and_ask(provider, identity, made).await?;
        Ok(Connected { ends_at: facts.expires_at.filter(|_| !lasts), facts })
    }

    async fn exchange_code(
        &self,
        provider: &Provider,
        pending: Pending,
        code: &Secret,
    ) -> Result<(Identity, Made), VaultError> {
        let Pending { identity, server, mut client, verifier, redirect_uri, requested, nonce, .. } = pending;
        let ask = Ask::Code { code, verifier: verifier.as_ref(), redirect_uri: &redirect_uri };
        let reply = self.first_tokens(provider, &server, &mut client, pending.other_authentication, &ask).await?;
        let account = match &reply.id_token {
            None => None,
            Some(id_token) => {
                let expected = Expected {
                    issuer: server.issuer.as_deref(),
                    client: &client.id,
                    nonce: nonce.as_deref(),
                    now: reply.tokens.received_at,
                };
                token::account_of(provider, id_token, &expected, &reply.withheld)
                    .map_err(|wrong| unusable(provider, wrong.to_string()))?
            }
        };
        let kind = GrantKind::AuthorizationCode;
        let grant = Grant { kind, endpoints: server, client, requested, tokens: None, unread: None };
        Ok((identity, made(provider, grant, reply, account)))
    }

    /// Makes a connection in which a client acts for itself (RFC 6749 section 4.4).
    ///
    /// # Errors
    /// [`ConnectionError`] where the provider, the client or the scopes do not fit, the issuer cannot be used, or the
    /// provider refuses; [`VaultError::Store`].
    pub async fn connect_client_credentials(&self, mut new: NewConnection) -> Result<ConnectionFacts, VaultError> {
        let provider = self.provider_for(&new.provider, ConnectionMethod::ClientCredentials)?;
        let existing = self.existing(&mut new, provider).await?;
        let server = self.server(provider, new.issuer.as_ref(), existing.as_ref()).await?;
        let mut client = client_of(std::mem::take(&mut new.client), existing.as_ref(), provider, &server)?;
        if client.secret.is_none() {
            return Err(super::unsuitable("a client that acts for itself has a secret", "give the client's secret"));
        }
        let requested = wanted_scopes(provider, &new.scopes, existing.as_ref())?;
        let scope = scope_parameter(provider, &requested)?.map(|(_, scopes)| scopes).unwrap_or_default();
        let other = server.other_authentication(&client);
        let ask = Ask::ClientCredentials { scope: &scope };
        let reply = self.first_tokens(provider, &server.endpoints, &mut client, other, &ask).await?;
        let account = Some(client.id.clone());
        let kind = GrantKind::ClientCredentials;
        let grant = Grant { kind, endpoints: server.endpoints, client, requested, tokens: None, unread: None };
        self.keep_and_ask(provider, Identity::of(new), made(provider, grant, reply, account)).await
    }

    /// Asks for the first tokens. Where the client is refused and its way to prove itself is only what the server
    /// says of itself, the other way is tried, and what works is kept in `client`.
    async fn first_tokens(
        &self,
        provider: &Provider,
        server: &Endpoints,
        client: &mut Client,
        other: Option<ClientAuthentication>,
        ask: &Ask<'_>,
    ) -> Result<Reply, ConnectionError> {
        let mut ways = [Some(client.authentication), other].into_iter().flatten().peekable();
        while let Some(way) = ways.next() {
            client.authentication = way;
            let request = token_request(client, &provider.token, &server.token, ask)
                .ok_or_else(|| unusable(provider, "a secret cannot be sent".to_owned()))?;
            let fetched = fetch(&*self.wire, request)
                .await
                .map_err(|cause| ConnectionError::Unreachable { what: provider.title.clone(), cause })?;
            let (retry_after, withheld) = (fetched.retry_after(), fetched.withheld.clone());
            let reply = fetched.into_reply(self.clock.now().wall);
            match token::read(provider, &reply, &withheld) {
                Ok(reply) => match reply.token_type.as_deref() {
                    // Such a token is worth nothing without a proof that we cannot give (RFC 6749 section 7.1).
                    Some(kind) if ["dpop", "mac", "pop"].contains(&kind.to_ascii_lowercase().as_str()) => {
                        return Err(unusable(
                            provider,
                            format!("it gives tokens of the type {kind}, not bearer tokens"),
                        ));
                    }
                    _ => return Ok(reply),
                },
                Err(refusal) if refusal.blames_client() && ways.peek().is_some() => {}
                Err(refusal) => return Err(ConnectionError::refused(&provider.title, refusal, retry_after)),
            }
        }
        Err(unusable(provider, "there is no way to prove the client".to_owned()))
    }

    /// What the authorization server says of a token; `None` where it cannot be asked or gives no answer.
    pub(super) async fn introspect(
        &self,
        provider: &Provider,
        endpoints: &Endpoints,
        client: &Client,
        access: &Secret,
    ) -> Option<Document> {
        let endpoint = endpoints.introspection.as_ref()?;
        // A public client may not introspect (RFC 7662 section 2.1).
        client.secret.as_ref()?;
        let request = about_token(Some(client), provider.token.basic_encoding, endpoint, access, "access_token")?;
        let fetched = fetch(&*self.wire, request).await.ok()?;
        fetched.status.is_success().then(|| fetched.document())
    }

    /// Keeps a connection and then asks the provider for what its reply did not tell: which scopes were granted (by
    /// introspection) and whose account it is. The tokens are safe before anything else is sent, and what cannot be
    /// learned is no error.
    async fn keep_and_ask(
        &self,
        provider: &Provider,
        identity: Identity,
        made: Made,
    ) -> Result<ConnectionFacts, VaultError> {
        let mut opened = self.keep(identity, provider, made).await?;
        let before = opened.row.facts.clone();
        if before.scopes_assumed
            && let Some(scopes) = self.introspected_scopes(provider, &opened).await
        {
            opened.row.facts.granted_scopes = provider.implications().closure(&scopes);
            opened.row.facts.scopes_assumed = false;
        }
        if before.account.is_none() {
            opened.row.facts.account = self.account(provider, &opened).await;
        }
        if opened.row.facts != before {
            // Somebody may use the connection already, or the disk be full: the next test will learn the same.
            if let Err(error) = self.write(&mut opened, None, None).await {
                tracing::warn!(connection = %before.id, %error, "what the provider tells of a new connection is not kept");
                return Ok(before);
            }
        }
        Ok(opened.row.facts)
    }

    async fn introspected_scopes(&self, provider: &Provider, opened: &Opened) -> Option<BTreeSet<String>> {
        let grant = opened.credential.grant()?;
        let told = self.introspect(provider, &grant.endpoints, &grant.client, &grant.tokens.as_ref()?.access).await?;
        told.scopes("/scope", " ")
    }

    /// Whose account it is, where the provider tells.
    async fn account(&self, provider: &Provider, opened: &Opened) -> Option<String> {
        let grant = opened.credential.grant()?;
        let endpoint = grant.endpoints.account.as_ref()?;
        let method = if provider.account.post { Method::POST } else { Method::GET };
        let request = Outgoing::new(method, endpoint.clone()).bearer(&grant.tokens.as_ref()?.access)?;
        let fetched = fetch(&*self.wire, request).await.ok().filter(|fetched| fetched.status.is_success())?;
        let document = fetched.document();
        provider.account.name.iter().find_map(|pointer| document.name(pointer))
    }
}

/// The parameters of the redirect. One that is there twice could be read in two ways, so none may be (RFC 6749
/// section 3.1).
fn parameters(query: &str) -> Result<BTreeMap<String, String>, ConnectionError> {
    let mut parameters = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.trim_start_matches('?').as_bytes()) {
        let name = name.into_owned();
        if parameters.contains_key(&name) {
            return Err(invalid("a parameter is there twice"));
        }
        parameters.insert(name, value.into_owned());
    }
    Ok(parameters)
}

/// The code in the redirect, once everything else in it is as it must be.
fn code(
    provider: &Provider,
    pending: &Pending,
    parameters: &BTreeMap<String, String>,
) -> Result<Secret, ConnectionError> {
    // Before anything of the redirect is believed: is it from the server that the person was sent to (RFC 9207)?
    match (parameters.get("iss"), &pending.server.issuer) {
        (Some(iss), Some(issuer)) if !same_issuer(iss, issuer) => {
            return Err(invalid("it comes from another authorization server (`iss`)"));
        }
        (None, _) if pending.iss_required => {
            return Err(invalid("it does not tell from which authorization server it comes (`iss`)"));
        }
        _ => {}
    }
    if let Some(error) = parameters.get("error") {
        return Err(no_consent(provider, error, parameters.get("error_description").map(String::as_str)));
    }
    match parameters.get("code") {
        Some(code) if !code.is_empty() => Ok(Secret::from(code.clone())),
        _ => Err(invalid("it holds neither a code nor an error")),
    }
}

/// Why there was no consent (RFC 6749 section 4.1.2.1; OpenID Connect Core section 3.1.2.6).
fn no_consent(provider: &Provider, error: &str, description: Option<&str>) -> ConnectionError {
    // None of our secrets has gone the way of the browser.
    let words = Withheld::default();
    let said = description.map(|text| words.printable(text));
    let title = provider.title.clone();
    match error {
        "access_denied" => ConnectionError::Declined { provider: title, detail: said },
        "consent_required" | "interaction_required" | "login_required" | "account_selection_required" => {
            let detail = Some(said.unwrap_or_else(|| "it wants the person to sign in and consent".to_owned()));
            ConnectionError::Declined { provider: title, detail }
        }
        error => {
            let code = words.printable(error);
            let message = said.map_or_else(|| code.clone(), |said| format!("{code}: {said}"));
            ConnectionError::Refused { provider: title, code, message, status: None, retry_after: None }
        }
    }
}

/// What came of a grant. Where neither the reply nor the access token tells which scopes were granted, those that were
/// asked for are assumed, and marked so.
fn made(provider: &Provider, mut grant: Grant, reply: Reply, account: Option<String>) -> Made {
    let told = reply.scopes.or_else(|| claimed_scopes(provider, &reply.tokens.access, &reply.withheld));
    let expires_at = reply.tokens.expires_at;
    let assumed = told.is_none();
    let bare = |scope: &String| provider.bare_scope(scope).to_owned();
    let granted = told.unwrap_or_else(|| grant.requested.iter().map(bare).collect());
    let method = match grant.kind {
        GrantKind::AuthorizationCode => ConnectionMethod::Oauth2,
        GrantKind::ClientCredentials => ConnectionMethod::ClientCredentials,
    };
    grant.tokens = Some(reply.tokens);
    Made { method, kind: Kind::Grant(Box::new(grant)), granted, assumed, account, expires_at }
}

/// The scopes that an access token itself tells, where it is a JSON Web Token (RFC 9068 section 2.2.3; `scp` is the
/// spelling of some). It came over TLS from the server that made it.
fn claimed_scopes(provider: &Provider, access: &Secret, withheld: &Arc<Withheld>) -> Option<BTreeSet<String>> {
    let claims = token::claims(access, withheld)?;
    let told = if claims.value("/scope").is_some() { "/scope" } else { "/scp" };
    claims.scopes(told, &provider.scopes.separator)
}

fn invalid(what: &str) -> ConnectionError {
    ConnectionError::RedirectInvalid(what.to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::provider::Catalogue;

    #[test]
    fn repeated_parameter_is_refused() {
        assert!(parameters("code=a&state=b").is_ok());
        assert!(parameters("?code=a&state=b").is_ok());
        for query in ["code=a&code=b", "state=a&code=b&state=a", "%73tate=a&state=a"] {
            assert!(parameters(query).is_err(), "{query}");
        }
    }

    #[test]
    fn error_of_the_redirect_is_told_clearly() {
        let catalogue = Catalogue::builtin();
        let provider = catalogue.find("github").unwrap();
        for (error, description, expected) in [
            ("access_denied", None, "the person declined at GitHub"),
            ("access_denied", Some("no\u{1b}[2J thanks"), "the person declined at GitHub: no[2J thanks"),
            ("consent_required", None, "the person declined at GitHub: it wants the person to sign in and consent"),
            ("temporarily_unavailable", None, "GitHub refused: temporarily_unavailable"),
            ("invalid_scope", Some("unknown"), "GitHub refused: invalid_scope: unknown"),
        ] {
            assert_eq!(no_consent(provider, error, description).to_string(), expected);
        }
    }

    #[test]
    fn scopes_are_read_from_a_token_that_tells_them() {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let catalogue = Catalogue::builtin();
        let provider = catalogue.find("oidc").unwrap();
        let told = |claims: &str| {
            let token = Secret::from(format!("e30.{}.test", URL_SAFE_NO_PAD.encode(claims)));
            claimed_scopes(provider, &token, &Arc::default())
                .map(|scopes| scopes.into_iter().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(told(r#"{"scope":"b a"}"#).as_deref(), Some("a b"));
        assert_eq!(told(r#"{"scp":["a","b"]}"#).as_deref(), Some("a b"));
        assert_eq!(told(r#"{"sub":"x"}"#), None);
        assert!(claimed_scopes(provider, &Secret::from("test-opaque".to_owned()), &Arc::default()).is_none());
    }
}
