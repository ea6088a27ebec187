//! The end of a connection: revoked at the provider, removed here.

use http::{Method, StatusCode};
use keyward_model::{ConnectionId, ConnectionState, Principal, TenantId};
use serde::Serialize;
use url::Url;
use zeroize::Zeroizing;

use super::{ConnectionError, Opened, row::ATTEMPTS, unusable};
use crate::{
    credential::{Grant, to_json},
    error::VaultError,
    oauth::{Outgoing, about_token, fetch},
    provider::{BasicEncoding, Provider, Revocation},
    refresh::Quiet,
    store::StoreError,
    token::{self, Document},
    vault::Vault,
};

/// What became of the credential at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokeReport {
    /// Whether the provider says that it is dead: no new token can be had with it.
    pub revoked: bool,
    /// Why not; or, of one that is, what may work for a while.
    pub reason: Option<String>,
}

impl RevokeReport {
    fn done() -> Self {
        Self { revoked: true, reason: None }
    }

    fn not(reason: impl Into<String>) -> Self {
        Self { revoked: false, reason: Some(reason.into()) }
    }
}

/// What a provider says to a revocation.
enum Asked {
    /// The credential is dead now, whatever it was before.
    Revoked,
    /// It does not know the access token.
    AccessTokenDead,
}

impl Vault {
    /// Revokes the credential at the provider; the connection stays, in the state `revoked` and without tokens, and
    /// can be made again under its id. Where the provider has no way to do it or refuses, the report says so and the
    /// connection stays as it was.
    ///
    /// # Errors
    /// [`ConnectionError::Unknown`]; [`ConnectionError::NotRevoked`] where the provider could not be asked;
    /// [`VaultError::Contended`]; [`VaultError::Store`].
    pub async fn revoke(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        principal: &Principal,
    ) -> Result<RevokeReport, VaultError> {
        self.in_quiet(tenant, id, async |quiet| self.revoke_here(tenant, id, principal, quiet).await).await
    }

    async fn revoke_here(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        principal: &Principal,
        quiet: &mut Quiet<'_>,
    ) -> Result<RevokeReport, VaultError> {
        for _ in 0..ATTEMPTS {
            let opened = self.as_it_is(tenant, id).await?;
            if opened.row.facts.state == ConnectionState::Revoked {
                return Ok(RevokeReport::done());
            }
            let (mut opened, report) = match self.revoke_at_provider(opened, quiet).await {
                // The row was changed, by a rotation of the keys or by who lost patience: what it holds now counts.
                Err(VaultError::Store(StoreError::Conflict)) => continue,
                result => result?,
            };
            if !report.revoked {
                return Ok(report);
            }
            if let Some(grant) = opened.credential.grant_mut() {
                grant.tokens = None;
            }
            opened.row.refresh = None;
            opened.row.facts.expires_at = None;
            opened.row.facts.state = ConnectionState::Revoked;
            let audit = self.record(&opened.row.facts, principal, "revoked", None);
            match self.write(&mut opened, None, Some(&audit)).await {
                Err(VaultError::Store(StoreError::Conflict)) => {}
                result => return result.map(|()| report),
            }
        }
        Err(VaultError::Contended { attempts: ATTEMPTS })
    }

    /// Revokes the credential at the provider and removes the connection. A provider that has no way to revoke, or
    /// refuses, does not keep it from being removed; the report says what is left to do there. A provider that is
    /// away does: the credential is the only means to revoke it later.
    ///
    /// # Errors
    /// [`ConnectionError::Unknown`]; [`ConnectionError::NotRevoked`] where the provider could not be asked;
    /// [`VaultError::Contended`]; [`VaultError::Store`].
    pub async fn delete(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        principal: &Principal,
    ) -> Result<RevokeReport, VaultError> {
        self.remove(tenant, id, principal, true).await
    }

    /// Removes the connection without asking the provider.
    ///
    /// # Errors
    /// [`ConnectionError::Unknown`]; [`VaultError::Contended`]; [`VaultError::Store`].
    pub async fn delete_without_revoking(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        principal: &Principal,
    ) -> Result<RevokeReport, VaultError> {
        self.remove(tenant, id, principal, false).await
    }

    async fn remove(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        principal: &Principal,
        revoking: bool,
    ) -> Result<RevokeReport, VaultError> {
        let act = async |quiet: &mut Quiet<'_>| self.remove_here(tenant, id, principal, revoking, quiet).await;
        let report = self.in_quiet(tenant, id, act).await?;
        self.turns.forget(*id);
        Ok(report)
    }

    async fn remove_here(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        principal: &Principal,
        revoking: bool,
        quiet: &mut Quiet<'_>,
    ) -> Result<RevokeReport, VaultError> {
        for _ in 0..ATTEMPTS {
            let opened = match self.as_it_is(tenant, id).await {
                // What can no longer be opened can still be removed.
                Err(error) if error.is_unopenable() => None,
                result => Some(result?),
            };
            let (facts, report) = match opened {
                Some(opened) if opened.row.facts.state == ConnectionState::Revoked => {
                    (opened.row.facts, RevokeReport::done())
                }
                Some(opened) if revoking => match self.revoke_at_provider(opened, quiet).await {
                    Err(VaultError::Store(StoreError::Conflict)) => continue,
                    result => result.map(|(opened, report)| (opened.row.facts, report))?,
                },
                Some(opened) => (opened.row.facts, RevokeReport::not("the provider was not asked")),
                None => {
                    let facts = self.row(tenant, id).await?.facts;
                    (facts, RevokeReport::not("its credential cannot be opened"))
                }
            };
            let audit = self.record(&facts, principal, "deleted", None);
            match self.store.delete_connection(tenant, id, facts.row_version, &audit).await {
                Err(StoreError::Conflict) => {}
                result => {
                    self.rows.forget(tenant, id);
                    return result.map(|()| report).map_err(VaultError::from);
                }
            }
        }
        Err(VaultError::Contended { attempts: ATTEMPTS })
    }

    /// The connection, even where its provider is no longer in the catalogue and so an unread reply stays unread.
    async fn as_it_is(&self, tenant: &TenantId, id: &ConnectionId) -> Result<Opened, VaultError> {
        match self.opened(tenant, id).await {
            Err(VaultError::Connection(ConnectionError::ProviderUnknown { .. })) => self.read(tenant, id).await,
            result => result,
        }
    }

    /// Revokes a credential, refreshed before where only a living access token can name it.
    ///
    /// # Errors
    /// [`ConnectionError::NotRevoked`] where the provider could not be asked; [`StoreError::Conflict`] where the row
    /// has changed and is to be read again.
    async fn revoke_at_provider(
        &self,
        mut opened: Opened,
        quiet: &mut Quiet<'_>,
    ) -> Result<(Opened, RevokeReport), VaultError> {
        let Some(grant) = opened.credential.grant() else {
            let reason = "it was made at the provider's own pages, and only there it can be revoked";
            return Ok((opened, RevokeReport::not(reason)));
        };
        let provider = match self.provider(&opened.row.facts.provider) {
            Ok(provider) => provider,
            Err(error) => return Ok((opened, RevokeReport::not(error.to_string()))),
        };
        if grant.tokens.is_none() {
            return Ok((opened, RevokeReport::not("there are no tokens")));
        }
        let Some(revocation) = grant.endpoints.revocation.clone() else {
            let reason = format!("{} has no way to revoke it from outside", provider.title);
            return Ok((opened, RevokeReport::not(reason)));
        };
        // An access token that is dead says nothing about the refresh token, from which others come.
        let mut refreshable = revocation.takes_access_token() && grant.refresh_token().is_some();
        let mut stale = refreshable && self.has_ended(&opened);
        loop {
            if stale {
                refreshable = false;
                let (tenant, id) = (opened.row.facts.tenant.clone(), opened.row.facts.id);
                opened = match quiet.refresh(self, opened).await {
                    Err(VaultError::Connection(error)) => {
                        return not_revoked(self.as_it_is(&tenant, &id).await?, error);
                    }
                    result => result?,
                };
            }
            let lives_on = revocation.takes_access_token()
                && opened.credential.grant().is_some_and(|grant| grant.refresh_token().is_some());
            match self.ask_to_revoke(provider, &revocation, &opened).await {
                Ok(Asked::AccessTokenDead) if refreshable => stale = true,
                Ok(Asked::AccessTokenDead) if lives_on => {
                    let message = "it does not know the token that it has just given".to_owned();
                    return not_revoked(opened, unusable(provider, message));
                }
                Ok(Asked::AccessTokenDead) => return Ok((opened, RevokeReport::done())),
                Ok(Asked::Revoked) => {
                    let rest = self.revoke_access_token(provider, &revocation, &opened).await.err();
                    let reason = rest.map(|error| format!("its access token may work until it ends: {error}"));
                    return Ok((opened, RevokeReport { revoked: true, reason }));
                }
                Err(error) => return not_revoked(opened, error),
            }
        }
    }

    async fn ask_to_revoke(
        &self,
        provider: &Provider,
        revocation: &Revocation,
        opened: &Opened,
    ) -> Result<Asked, ConnectionError> {
        let unsendable = || unusable(provider, "a secret of the connection cannot be sent".to_owned());
        let grant = opened.credential.grant().ok_or_else(unsendable)?;
        let request = revocation_request(provider, revocation, grant).ok_or_else(unsendable)?;
        let unreachable = |cause| ConnectionError::Unreachable { what: provider.title.clone(), cause };
        let fetched = fetch(&*self.wire, request).await.map_err(unreachable)?;
        let (status, retry_after) = (fetched.status, fetched.retry_after());
        let document = fetched.document();
        let refusal = token::refusal(provider, status.as_u16(), &document);
        match revocation {
            Revocation::Slack { .. } if status.is_success() && document.is_true("/ok") => {
                return match document.is_true("/revoked") {
                    true => Ok(Asked::Revoked),
                    false => Err(unusable(provider, "it says that the token is not revoked".to_owned())),
                };
            }
            // Not `invalid_auth`: it may also mean that Slack takes no requests from this address.
            Revocation::Slack { .. } if status.is_success() && refusal.ends_grant() => {
                return Ok(Asked::AccessTokenDead);
            }
            Revocation::Github { .. } if status.is_success() => return Ok(Asked::Revoked),
            // A token that it does not find, or a page that it does not have: the token itself tells.
            Revocation::Github { .. } if status == StatusCode::NOT_FOUND && document.text("/message").is_some() => {
                let probe = grant.endpoints.account.as_ref().zip(grant.tokens.as_ref());
                let probe =
                    probe.and_then(|(url, tokens)| Outgoing::new(Method::GET, url.clone()).bearer(&tokens.access));
                if let Some(probe) = probe
                    && fetch(&*self.wire, probe).await.map_err(unreachable)?.status == StatusCode::UNAUTHORIZED
                {
                    return Ok(Asked::AccessTokenDead);
                }
            }
            Revocation::Rfc7009 { .. } if is_revoked(status, &document) => return Ok(Asked::Revoked),
            _ => {}
        }
        Err(ConnectionError::refused(&provider.title, refusal, retry_after))
    }

    /// Revokes the access token after the refresh token, which should take it along and need not (RFC 7009 section 2.1).
    async fn revoke_access_token(
        &self,
        provider: &Provider,
        revocation: &Revocation,
        opened: &Opened,
    ) -> Result<(), ConnectionError> {
        let Some(grant) = opened.credential.grant() else { return Ok(()) };
        let (Revocation::Rfc7009 { endpoint, authenticated, whole_grant: false }, Some(tokens)) =
            (revocation, &grant.tokens)
        else {
            return Ok(());
        };
        if tokens.refresh.is_none() || self.has_ended(opened) {
            return Ok(());
        }
        let client = authenticated.then_some(&grant.client);
        let request = about_token(client, provider.token.basic_encoding, endpoint, &tokens.access, "access_token")
            .ok_or_else(|| unusable(provider, "a secret of the connection cannot be sent".to_owned()))?;
        let unreachable = |cause| ConnectionError::Unreachable { what: provider.title.clone(), cause };
        let fetched = fetch(&*self.wire, request).await.map_err(unreachable)?;
        let (document, retry_after) = (fetched.document(), fetched.retry_after());
        if is_revoked(fetched.status, &document) {
            return Ok(());
        }
        let refusal = token::refusal(provider, fetched.status.as_u16(), &document);
        Err(ConnectionError::refused(&provider.title, refusal, retry_after))
    }
}

/// What RFC 7009 section 2.2 calls a success; so is a token that is invalid already.
fn is_revoked(status: StatusCode, document: &Document) -> bool {
    status.is_success() || document.text("/error") == Some("invalid_token")
}

/// What follows where a credential is not revoked: a provider that is away may be asked again, so nothing is given up.
fn not_revoked(opened: Opened, error: ConnectionError) -> Result<(Opened, RevokeReport), VaultError> {
    let reason = error.to_string();
    if error.is_away() {
        return Err(ConnectionError::NotRevoked { name: opened.row.facts.name.to_string(), reason }.into());
    }
    Ok((opened, RevokeReport::not(reason)))
}

/// The request that revokes a grant; `None` where a part of it cannot be sent.
fn revocation_request(provider: &Provider, revocation: &Revocation, grant: &Grant) -> Option<Outgoing> {
    let tokens = grant.tokens.as_ref()?;
    match revocation {
        Revocation::Github { api } => {
            #[derive(Serialize)]
            struct Body<'a> {
                access_token: &'a str,
            }
            let body = to_json(&Body { access_token: tokens.access.expose_str()? }).ok()?;
            let url = below(api, &["applications", &grant.client.id, "token"])?;
            let request = Outgoing::new(Method::DELETE, url).body("application/json", body, [&tokens.access]);
            request.client(&grant.client, BasicEncoding::Raw)
        }
        Revocation::Slack { endpoint } => Outgoing::new(Method::POST, endpoint.clone())
            .bearer(&tokens.access)
            .map(|request| request.body("application/x-www-form-urlencoded", Zeroizing::default(), [])),
        Revocation::Rfc7009 { endpoint, authenticated, .. } => {
            let (token, hint) = match &tokens.refresh {
                Some(refresh) => (refresh, "refresh_token"),
                None => (&tokens.access, "access_token"),
            };
            let client = authenticated.then_some(&grant.client);
            about_token(client, provider.token.basic_encoding, endpoint, token, hint)
        }
    }
}

/// A URL with segments added to its path, each encoded.
fn below(base: &Url, segments: &[&str]) -> Option<Url> {
    let mut url = base.clone();
    url.path_segments_mut().ok()?.pop_if_empty().extend(segments);
    Some(url)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn client_id_stays_one_segment() {
        for (base, expected) in [
            ("https://api.github.com/", "https://api.github.com/applications/a%2F..%2Fb/token"),
            ("https://ghe.example/api/v3", "https://ghe.example/api/v3/applications/a%2F..%2Fb/token"),
        ] {
            let url = below(&Url::parse(base).unwrap(), &["applications", "a/../b", "token"]).unwrap();
            assert_eq!(url.as_str(), expected);
        }
    }
}
