//! The end of a connection: revoked at the provider, removed here.

use http::Method;
use keyward_model::{ConnectionId, ConnectionState, Principal, TenantId};
use serde::Serialize;
use url::Url;
use zeroize::Zeroizing;

use super::{ConnectionError, Opened, row::ATTEMPTS};
use crate::{
    credential::{Credential, Grant, to_json},
    error::VaultError,
    oauth::{Outgoing, basic, fetch, form_request},
    provider::{BasicEncoding, Provider, Revocation},
    store::StoreError,
    token::{self, Document},
    vault::Vault,
};

/// What became of the credential at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokeReport {
    /// Whether the provider says that it is dead.
    pub revoked: bool,
    /// Why not.
    pub reason: Option<String>,
}

impl RevokeReport {
    fn not(reason: impl Into<String>) -> Self {
        Self { revoked: false, reason: Some(reason.into()) }
    }
}

impl Vault {
    /// Revokes the credential at the provider; the connection stays, in the state `revoked` and without tokens, and
    /// can be made again under its id. Where the provider cannot do it or cannot be reached, the report says so and
    /// the connection stays as it was.
    ///
    /// # Errors
    /// [`ConnectionError::Unknown`]; [`VaultError::Contended`]; [`VaultError::Store`].
    pub async fn revoke(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        principal: &Principal,
    ) -> Result<RevokeReport, VaultError> {
        self.in_quiet(tenant, id, async || self.revoke_here(tenant, id, principal).await).await
    }

    async fn revoke_here(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        principal: &Principal,
    ) -> Result<RevokeReport, VaultError> {
        for _ in 0..ATTEMPTS {
            let mut opened = self.as_it_is(tenant, id).await?;
            if opened.row.facts.state == ConnectionState::Revoked {
                return Ok(RevokeReport { revoked: true, reason: None });
            }
            let report = self.revoke_at_provider(&opened).await;
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
                // The row was changed, by a rotation of the keys or by who lost patience: what it holds now counts.
                Err(VaultError::Store(StoreError::Conflict)) => {}
                result => return result.map(|()| report),
            }
        }
        Err(VaultError::Contended { attempts: ATTEMPTS })
    }

    /// Revokes the credential at the provider and removes the connection. A provider that cannot revoke or cannot be
    /// reached does not keep it from being removed; the report says what is left to do there.
    ///
    /// # Errors
    /// [`ConnectionError::Unknown`]; [`VaultError::Contended`]; [`VaultError::Store`].
    pub async fn delete(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        principal: &Principal,
    ) -> Result<RevokeReport, VaultError> {
        let report = self.in_quiet(tenant, id, async || self.delete_here(tenant, id, principal).await).await?;
        self.turns.forget(*id);
        Ok(report)
    }

    async fn delete_here(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        principal: &Principal,
    ) -> Result<RevokeReport, VaultError> {
        for _ in 0..ATTEMPTS {
            let opened = match self.as_it_is(tenant, id).await {
                // What can no longer be opened can still be removed.
                Err(VaultError::Damaged { .. } | VaultError::KeyDamaged { .. } | VaultError::KeyUnknown { .. }) => None,
                result => Some(result?),
            };
            let (facts, report) = match &opened {
                Some(opened) if opened.row.facts.state == ConnectionState::Revoked => {
                    (opened.row.facts.clone(), RevokeReport { revoked: true, reason: None })
                }
                Some(opened) => (opened.row.facts.clone(), self.revoke_at_provider(opened).await),
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

    async fn revoke_at_provider(&self, opened: &Opened) -> RevokeReport {
        let Credential::Grant(grant) = &opened.credential else {
            return RevokeReport::not("it was made at the provider's own pages, and only there it can be revoked");
        };
        let provider = match self.provider(&opened.row.facts.provider) {
            Ok(provider) => provider,
            Err(error) => return RevokeReport::not(error.to_string()),
        };
        if grant.tokens.is_none() {
            return RevokeReport::not("there are no tokens");
        }
        let Some(request) = revocation(provider, grant) else {
            return RevokeReport::not(format!("{} has no way to revoke it from outside", provider.title));
        };
        let fetched = match fetch(&*self.wire, request).await {
            Ok(fetched) => fetched,
            Err(cause) => {
                let error = ConnectionError::Unreachable { what: provider.title.clone(), cause };
                return RevokeReport::not(error.to_string());
            }
        };
        let status = fetched.status;
        let document = Document::read(fetched.body.expose());
        let done = match &provider.revocation {
            Some(Revocation::Slack { .. }) => status.is_success() && document.is_true("/ok"),
            // To GitHub, a token that is dead already is one that it does not find.
            Some(Revocation::Github { .. }) => status.is_success() || matches!(status.as_u16(), 404 | 422),
            // RFC 7009 section 2.2: a token that is invalid already is a success.
            Some(Revocation::Rfc7009 { .. }) | None => {
                status.is_success() || document.text("/error").is_some_and(|error| error == "invalid_token")
            }
        };
        if done {
            return RevokeReport { revoked: true, reason: None };
        }
        let sent: Vec<_> = [grant.refresh_token(), grant.tokens.as_ref().map(|tokens| &tokens.access)]
            .into_iter()
            .chain([grant.client.secret.as_ref()])
            .flatten()
            .collect();
        let refusal = token::refusal(provider, status.as_u16(), &document, &sent);
        RevokeReport::not(ConnectionError::refused(&provider.title, refusal, None).to_string())
    }
}

/// The request that revokes a grant; `None` where the provider has none.
fn revocation(provider: &Provider, grant: &Grant) -> Option<Outgoing> {
    let tokens = grant.tokens.as_ref()?;
    match &provider.revocation {
        Some(Revocation::Github { api }) => {
            #[derive(Serialize)]
            struct Body<'a> {
                access_token: &'a str,
            }
            let body = to_json(&Body { access_token: tokens.access.expose_str()? }).ok()?;
            let url = below(api, &["applications", &grant.client.id, "token"])?;
            let header = basic(BasicEncoding::Raw, &grant.client.id, grant.client.secret.as_ref()?)?;
            Outgoing::new(Method::DELETE, url).body("application/json", body).authorized(&header)
        }
        Some(Revocation::Slack { endpoint }) => Outgoing::new(Method::POST, endpoint.clone())
            .bearer(&tokens.access)
            .map(|request| request.body("application/x-www-form-urlencoded", Zeroizing::default())),
        by_rfc @ (Some(Revocation::Rfc7009 { .. }) | None) => {
            let endpoint = grant.endpoints.revocation.as_ref()?;
            let authenticated = !matches!(by_rfc, Some(Revocation::Rfc7009 { authenticated: false, .. }));
            // The refresh token takes its access tokens with it (RFC 7009 section 2.1).
            let (token, hint) = match &tokens.refresh {
                Some(refresh) => (refresh, "refresh_token"),
                None => (&tokens.access, "access_token"),
            };
            let fields = [("token", token.expose_str()?), ("token_type_hint", hint)];
            let client = authenticated.then_some(&grant.client);
            form_request(client, provider.token.basic_encoding, endpoint, &fields)
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
