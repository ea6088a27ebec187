//! Does it work? The provider is asked.

use http::Method;
use keyward_model::{ConnectionFacts, ConnectionId, ConnectionState, Reason, TenantId};
use time::OffsetDateTime;
use url::Url;

use super::{ConnectionError, Opened};
use crate::{
    credential::{Credential, Live, Material},
    error::VaultError,
    oauth::{Fetched, Outgoing, basic, fetch},
    provider::{BasicEncoding, ConnectionMethod, Provider},
    refresh::host_of,
    store::StoreError,
    token::{self, Document},
    vault::Vault,
};

/// What a test found.
#[derive(Debug, Clone, PartialEq)]
pub struct TestReport {
    /// The connection's facts after the test; account and scopes may be new.
    pub facts: ConnectionFacts,
    /// What was found.
    pub outcome: TestOutcome,
    /// The same in words.
    pub detail: String,
    /// When the refresh token ends, where the provider says so: until then the owner must have connected again.
    pub refresh_token_expires_at: Option<OffsetDateTime>,
}

/// What a test found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestOutcome {
    /// The provider accepts the credential.
    Works,
    /// The provider refuses it.
    Refused,
    /// There is nothing to ask the provider with, or its answer tells nothing.
    Unknown,
}

/// What one question brought.
enum Answer {
    /// It works; what else the answer told.
    Works {
        account: Option<String>,
        scopes: Option<std::collections::BTreeSet<String>>,
    },
    Refused(String),
    Unknown(String),
}

impl Vault {
    /// Asks the provider whether the credential works: refreshed where it is due, and once more where it is
    /// refused. The account's name and the granted scopes are noted where the answer tells them, and a grant that
    /// stays refused is marked so.
    ///
    /// # Errors
    /// [`ConnectionError`] where the connection is not there, must be connected again, or the provider cannot be
    /// reached; [`VaultError::Store`].
    pub async fn test(&self, tenant: &TenantId, id: &ConnectionId) -> Result<TestReport, VaultError> {
        let live = self.live(tenant, id).await?;
        let mut answer = self.ask(&live).await?;
        if matches!(answer, Answer::Refused(_))
            && let Some(other) = self.live_after_refusal(tenant, id, &live.fingerprint).await?
        {
            answer = self.ask(&other).await?;
        }
        let mut opened = self.opened(tenant, id).await?;
        let refresh_token_expires_at = match &opened.credential {
            Credential::Grant(grant) => grant.tokens.as_ref().and_then(|tokens| tokens.refresh_expires_at),
            _ => None,
        };
        let (outcome, detail) = self.note(&mut opened, answer).await?;
        Ok(TestReport { facts: opened.row.facts, outcome, detail, refresh_token_expires_at })
    }

    /// Notes what an answer tells.
    async fn note(&self, opened: &mut Opened, answer: Answer) -> Result<(TestOutcome, String), VaultError> {
        let provider = self.provider(&opened.row.facts.provider)?;
        let before = opened.row.facts.clone();
        let (outcome, detail, audit) = match answer {
            Answer::Unknown(detail) => return Ok((TestOutcome::Unknown, detail)),
            Answer::Works { account, scopes } => {
                let facts = &mut opened.row.facts;
                facts.account = account.or_else(|| facts.account.take());
                if let Some(scopes) = scopes {
                    facts.granted_scopes = provider.implications().closure(&scopes);
                    facts.scopes_assumed = false;
                }
                (TestOutcome::Works, format!("{} accepts it", provider.title), None)
            }
            Answer::Refused(reason) => {
                let reason = format!("{} refuses it ({reason})", provider.title);
                // A pasted token may lack just the scope that the question needs; consent has always asked for it.
                let is_grant = opened.credential.grant().is_some();
                let audit = is_grant.then(|| {
                    opened.row.facts.state = ConnectionState::NeedsReconnect(reason.clone());
                    let principal = host_of(&before);
                    self.record(&before, &principal, "refresh-failed", Some(Reason::ReconnectRequired))
                });
                (TestOutcome::Refused, reason, audit)
            }
        };
        if opened.row.facts != before {
            match self.write(opened, None, audit.as_ref()).await {
                // It was changed meanwhile, so the answer is about something that is gone.
                Err(VaultError::Store(StoreError::Conflict)) => opened.row.facts = before,
                result => result?,
            }
        }
        Ok((outcome, detail))
    }

    /// Asks the provider once.
    async fn ask(&self, live: &Live) -> Result<Answer, VaultError> {
        let facts = &live.facts;
        let provider = self.provider(&facts.provider)?;
        let opened = self.opened(&facts.tenant, &facts.id).await?;
        let (grant, endpoints) = match &opened.credential {
            Credential::Grant(grant) => (Some(grant), Some(&grant.endpoints)),
            _ => (None, None),
        };
        let account =
            provider.account.endpoint.as_ref().or(endpoints.and_then(|endpoints| endpoints.userinfo.as_ref()));
        // No person stands behind a client that acts for itself, so only its token can be asked about.
        let person = facts.method != ConnectionMethod::ClientCredentials.as_str();
        if let Some(url) = account.filter(|_| person)
            && let Some(request) = probe(provider, url, &live.material, &facts.method)
        {
            let unreachable = |cause| ConnectionError::Unreachable { what: provider.title.clone(), cause };
            return Ok(judge(provider, &fetch(&*self.wire, request).await.map_err(unreachable)?));
        }
        if let (Some(grant), Material::Token(token)) = (grant, &live.material)
            && let Some(told) = self.introspect(provider, &grant.endpoints, &grant.client, token).await
        {
            let scopes = told.value("/scope").and_then(|scopes| token::scopes(scopes, " "));
            return Ok(match told.is_true("/active") {
                true => Answer::Works { account: told.name("/username"), scopes },
                false => Answer::Refused("the token is not active".to_owned()),
            });
        }
        Ok(Answer::Unknown(format!("{} offers nothing to test it with", provider.title)))
    }
}

/// The request that every good credential is answered; `None` where it is not known how the credential is carried.
fn probe(provider: &Provider, url: &Url, material: &Material, method: &str) -> Option<Outgoing> {
    let request = Outgoing::new(if provider.account.post { Method::POST } else { Method::GET }, url.clone());
    match material {
        // Where a key goes, the connector's manifest says, not the provider.
        Material::Token(_) if method == ConnectionMethod::ApiKey.as_str() => None,
        Material::Token(token) => request.bearer(token),
        Material::Basic { username, password, .. } => {
            request.authorized(&basic(BasicEncoding::Raw, username.expose_str()?, password)?)
        }
    }
}

/// What an answer to that request means.
fn judge(provider: &Provider, fetched: &Fetched) -> Answer {
    let status = fetched.status;
    let document = Document::read(fetched.body.expose());
    let works = provider.account.works_when.as_ref().is_none_or(|pointer| document.is_true(pointer));
    if status.is_success() && works {
        let listed = provider.account.scopes_header.as_ref().and_then(|name| fetched.headers.get(name)?.to_str().ok());
        let scopes = listed.and_then(|listed| {
            let spaced = listed.replace(", ", " ");
            token::told_scopes(provider, &serde_json::Value::String(spaced))
        });
        let account = provider.account.name.iter().find_map(|pointer| document.name(pointer));
        return Answer::Works { account, scopes };
    }
    let said = token::refusal(provider, status.as_u16(), &document, &[]).message;
    // Anything but 401 may be about the question instead of the credential; a body that says no is about it.
    if status.as_u16() == 401 || (status.is_success() && !works) {
        Answer::Refused(said)
    } else {
        Answer::Unknown(said)
    }
}
