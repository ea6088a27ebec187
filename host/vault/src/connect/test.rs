//! Does it work? The provider is asked.

use http::{Method, StatusCode};
use keyward_model::{ConnectionFacts, ConnectionId, ConnectionState, Reason, TenantId};
use time::OffsetDateTime;
use url::Url;

use super::{ConnectionError, Opened};
use crate::{
    credential::{Grant, Kind, Live, Material},
    error::VaultError,
    oauth::{Fetched, Outgoing, fetch},
    provider::{BasicEncoding, ConnectionMethod, Provider},
    refresh::host_of,
    store::StoreError,
    token,
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
    Refused {
        reason: String,
        /// Whether the server says the same to a client that may not ask (RFC 7662 section 2.2).
        is_ambiguous: bool,
    },
    Unknown(String),
}

impl Answer {
    fn refused(reason: String) -> Self {
        Self::Refused { reason, is_ambiguous: false }
    }
}

impl Vault {
    /// Asks the provider whether the credential works: refreshed where it is due, and once more where it is
    /// refused. The account's name and the granted scopes are noted where the answer tells them, and a grant that
    /// stays refused is marked so. An answer that is about anything else than the credential (a fault of the server,
    /// a page of a proxy) changes nothing.
    ///
    /// # Errors
    /// [`ConnectionError`] where the connection is not there, must be connected again, or the provider cannot be
    /// reached; [`VaultError::Store`].
    pub async fn test(&self, tenant: &TenantId, id: &ConnectionId) -> Result<TestReport, VaultError> {
        let live = self.live(tenant, id).await?;
        let mut answer = self.ask(&live).await?;
        if matches!(answer, Answer::Refused { .. })
            && let Some(other) = self.live_after_refusal(tenant, id, &live.fingerprint).await?
        {
            answer = self.ask(&other).await?;
        }
        let mut opened = self.opened(tenant, id).await?;
        let refresh_token_expires_at = match &opened.credential.kind {
            Kind::Grant(grant) => grant.tokens.as_ref().and_then(|tokens| tokens.refresh_expires_at),
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
            // A token that has just been asked for is active.
            Answer::Refused { is_ambiguous: true, .. } if opened.credential.grant().is_some_and(Grant::can_refresh) => {
                let detail = format!("{} calls even a new token not active; the client may not ask", provider.title);
                return Ok((TestOutcome::Unknown, detail));
            }
            Answer::Works { account, scopes } => {
                let facts = &mut opened.row.facts;
                facts.account = account.or_else(|| facts.account.take());
                if let Some(scopes) = scopes {
                    facts.granted_scopes = provider.implications().closure(&scopes);
                    facts.scopes_assumed = false;
                }
                (TestOutcome::Works, format!("{} accepts it", provider.title), None)
            }
            Answer::Refused { reason, .. } => {
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
        let grant = opened.credential.grant();
        let account = match grant {
            Some(grant) => grant.endpoints.account.as_ref(),
            None => provider.account.endpoint.as_ref(),
        };
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
            let scopes = told.scopes("/scope", " ");
            return Ok(match told.flag("/active") {
                Some(true) => Answer::Works { account: told.name("/username"), scopes },
                Some(false) => Answer::Refused { reason: "the token is not active".to_owned(), is_ambiguous: true },
                None => Answer::Unknown(format!("{} does not say whether the token is active", provider.title)),
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
        // Only a request of a connector's is signed: its manifest says how.
        Material::Aws(_) | Material::SigningKey(_) => None,
        Material::Token(_) if method == ConnectionMethod::ApiKey.as_str() => None,
        Material::Token(token) => request.bearer(token),
        Material::Basic { username, password, secret } => {
            let secrets = secret.parts(username, password);
            request.basic(BasicEncoding::Raw, username.expose_str()?, password, secrets)
        }
    }
}

/// What an answer to that request means. Only what is surely about the credential counts as a refusal, because a
/// grant that is refused is not used again until somebody connects it.
fn judge(provider: &Provider, fetched: &Fetched) -> Answer {
    let status = fetched.status;
    let Some(document) = fetched.json() else {
        let said = format!("it answered with HTTP status {} and no JSON", status.as_u16());
        return if status == StatusCode::UNAUTHORIZED { Answer::refused(said) } else { Answer::Unknown(said) };
    };
    let flag = provider.account.works_when.as_ref().map(|pointer| document.flag(pointer));
    if status.is_success() && flag.is_none_or(|flag| flag == Some(true)) {
        let listed = provider.account.scopes_header.as_ref().and_then(|name| fetched.headers.get(name)?.to_str().ok());
        let scopes = listed.and_then(|listed| {
            let spaced = listed.replace(", ", " ");
            token::told_scopes(provider, &serde_json::Value::String(spaced), &fetched.withheld)
        });
        let account = provider.account.name.iter().find_map(|pointer| document.name(pointer));
        return Answer::Works { account, scopes };
    }
    let refusal = token::refusal(provider, status.as_u16(), &document);
    let says_no = status.is_success() && flag == Some(Some(false)) && refusal.ends_token();
    match status == StatusCode::UNAUTHORIZED || says_no {
        true => Answer::refused(refusal.message),
        false => Answer::Unknown(refusal.message),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::{provider::Catalogue, secret::Secret};

    #[test]
    fn only_what_is_about_the_credential_is_a_refusal() {
        let catalogue = Catalogue::builtin();
        for (provider, status, body, expected) in [
            ("slack", 200, r#"{"ok":true,"user":"bot"}"#, "works"),
            ("slack", 200, r#"{"ok":false,"error":"invalid_auth"}"#, "refused"),
            ("slack", 200, r#"{"ok":false,"error":"token_revoked"}"#, "refused"),
            ("slack", 200, r#"{"ok":false,"error":"account_inactive"}"#, "refused"),
            ("slack", 200, r#"{"ok":false,"error":"internal_error"}"#, "unknown"),
            ("slack", 200, r#"{"ok":false,"error":"ratelimited"}"#, "unknown"),
            ("slack", 200, r#"{"ok":false}"#, "unknown"),
            ("slack", 200, r#"{"error":"invalid_auth"}"#, "unknown"),
            ("slack", 200, "<html>Sign in to the network</html>", "unknown"),
            ("slack", 200, "", "unknown"),
            ("slack", 503, r#"{"ok":false,"error":"service_unavailable"}"#, "unknown"),
            ("github", 200, r#"{"login":"octocat"}"#, "works"),
            ("github", 200, "<html>Sign in to the network</html>", "unknown"),
            ("github", 401, r#"{"message":"Bad credentials"}"#, "refused"),
            ("github", 401, "", "refused"),
            ("github", 403, r#"{"message":"rate limit"}"#, "unknown"),
        ] {
            let fetched = Fetched {
                status: StatusCode::from_u16(status).unwrap(),
                headers: HeaderMap::new(),
                body: Secret::from(body.to_owned()),
                withheld: Default::default(),
            };
            let found = match judge(catalogue.find(provider).unwrap(), &fetched) {
                Answer::Works { .. } => "works",
                Answer::Refused { .. } => "refused",
                Answer::Unknown(_) => "unknown",
            };
            assert_eq!(found, expected, "{provider} {status} {body}");
        }
    }
}
