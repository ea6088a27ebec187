//! One refresh, from the mark to the new tokens. Whoever calls this holds the turn and the lease.

use std::time::Duration;

use keyward_model::{ConnectionFacts, ConnectionId, ConnectionState, Principal, Reason, Sent, TenantId};
use tracing::Instrument;
use uuid::Uuid;

use super::{Turn, Wanted};
use crate::{
    connect::{ConnectionError, Opened, scope_parameter},
    credential::{Client, Credential, Grant, GrantKind, Kind, Live},
    error::VaultError,
    oauth::{self, Ask},
    provider::Provider,
    secret::Secret,
    store::{Lease, RefreshAttempt, StoreError},
    token::{self, RawReply, Refusal},
    vault::Vault,
};

/// How often a write is tried that others get in the way of.
const ATTEMPTS: u32 = 16;

/// How long a refused client is left alone, so that it causes one alert and not one for each call.
const CLIENT_RESPITE: Duration = Duration::from_secs(30);

impl Vault {
    /// The row of a connection, with a reply that a crash left unread taken in.
    pub(crate) async fn opened(&self, tenant: &TenantId, id: &ConnectionId) -> Result<Opened, VaultError> {
        for _ in 0..ATTEMPTS {
            let opened = self.read(tenant, id).await?;
            let unread = opened.credential.grant().and_then(|grant| grant.unread.as_ref());
            let Some(reply) = unread.map(RawReply::duplicate) else { return Ok(opened) };
            match self.conclude(opened, &reply, false, None).await {
                Err(VaultError::Store(StoreError::Conflict)) => {}
                result => return result.map(|(opened, _)| opened),
            }
        }
        Err(VaultError::Contended { attempts: ATTEMPTS })
    }

    /// As [`Vault::opened`], of a row that another process may have changed in the last second: good for using a
    /// credential, never for changing it.
    pub(super) async fn recently_opened(&self, tenant: &TenantId, id: &ConnectionId) -> Result<Opened, VaultError> {
        if let Some(row) = self.rows.get(tenant, id)
            && let Ok(credential) = self.open_credential(&row).await
            && credential.grant().is_none_or(|grant| grant.unread.is_none())
        {
            return Ok(Opened { row: (*row).clone(), credential });
        }
        self.opened(tenant, id).await
    }

    /// Refreshes, unless what the caller wants is there once the lease is held.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where another changed the row meanwhile; it is to be read again.
    pub(super) async fn refresh_under(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        wanted: Wanted,
        lease: Lease,
        turn: &mut Turn,
    ) -> Result<Live, VaultError> {
        let opened = self.opened(tenant, id).await?;
        if self.suffices(&opened, wanted)? {
            return Ok(self.to_live(opened)?);
        }
        let result = match turn.take_unsaved(self.tokens_print(&opened)) {
            // The last reply could not be stored. It is all that is left of the refresh token that was sent.
            Some(reply) => self.finish(opened, reply, false, None, turn).await,
            None => {
                let watched = keyward_telemetry::refresh(&opened.row.facts.provider);
                let result = self.exchange(opened, lease, turn).instrument(watched.span()).await;
                watched.ended(result.as_ref().err().map(|_| "refresh-failed"));
                result
            }
        };
        let now = self.clock.now().steady;
        match &result {
            Ok(_) => turn.succeeded(now, matches!(wanted, Wanted::Other(_))),
            Err(VaultError::Connection(error)) => {
                let wait = match error {
                    ConnectionError::Refused { retry_after, .. } => *retry_after,
                    ConnectionError::ClientRefused { .. } => Some(CLIENT_RESPITE),
                    _ => None,
                };
                tracing::warn!(connection = %id, %error, "a refresh failed");
                turn.failed(now, wait, error);
            }
            Err(_) => {}
        }
        Ok(self.to_live(result?)?)
    }

    /// Marks, asks, keeps the reply, reads it.
    pub(super) async fn exchange(
        &self,
        mut opened: Opened,
        lease: Lease,
        turn: &mut Turn,
    ) -> Result<Opened, VaultError> {
        let provider = self.provider(&opened.row.facts.provider)?;
        let doubtful = self.is_doubtful(&opened);
        let Some(print) = self.token_print(&opened) else {
            let reason = "its access token has ended, and the provider gave no refresh token";
            return Err(self.give_up(opened, reason).await?.into());
        };
        opened.row.refresh = Some(RefreshAttempt {
            id: Uuid::now_v7(),
            token_fingerprint: print.to_vec(),
            started_at: self.clock.now().wall,
        });
        self.write(&mut opened, Some(lease), None).await?;

        let request =
            opened.credential.grant().and_then(|grant| refresh_request(provider, grant)).ok_or_else(|| {
                let message = "a secret of the connection cannot be sent".to_owned();
                ConnectionError::Unusable { provider: provider.title.clone(), message }
            })?;
        match oauth::fetch(&*self.wire, request).await {
            Ok(fetched) => {
                let retry_after = fetched.retry_after();
                let reply = fetched.into_reply(self.clock.now().wall);
                self.finish(opened, reply, doubtful, retry_after, turn).await
            }
            Err(cause) => {
                if cause.sent == Sent::No && !doubtful {
                    // The refresh token cannot have been used up, so the mark would only delay the next attempt.
                    opened.row.refresh = None;
                    match self.write(&mut opened, None, None).await {
                        Err(VaultError::Store(StoreError::Conflict)) => {}
                        result => result?,
                    }
                }
                Err(ConnectionError::Unreachable { what: provider.title.clone(), cause }.into())
            }
        }
    }

    /// Keeps a reply where it may hold tokens, and reads it. What cannot be stored stays with the turn, so that a
    /// full disk costs nothing as long as this process lives.
    async fn finish(
        &self,
        mut opened: Opened,
        reply: RawReply,
        doubtful: bool,
        retry_after: Option<Duration>,
        turn: &mut Turn,
    ) -> Result<Opened, VaultError> {
        if (200..300).contains(&reply.status) {
            let before = self.tokens_print(&opened);
            opened = match self.keep_reply(opened, &reply).await {
                Err(VaultError::Store(error)) if !matches!(error, StoreError::Conflict) => {
                    turn.keep_unsaved(before, reply);
                    return Err(error.into());
                }
                result => result?,
            };
        }
        match self.conclude(opened, &reply, doubtful, retry_after).await? {
            (opened, None) => Ok(opened),
            (_, Some(error)) => Err(error.into()),
        }
    }

    /// Stores a reply before it is read. The lease is not asked for: as long as the stored tokens are the ones that
    /// were sent, this reply is newer, even if a long pause has let another process take the lease, and that other
    /// must find it.
    async fn keep_reply(&self, mut opened: Opened, reply: &RawReply) -> Result<Opened, VaultError> {
        let before = self.tokens_print(&opened);
        for _ in 0..ATTEMPTS {
            if let Some(grant) = opened.credential.grant_mut() {
                grant.unread = Some(reply.duplicate());
            }
            match self.write(&mut opened, None, None).await {
                Ok(()) => return Ok(opened),
                Err(VaultError::Store(StoreError::Conflict)) => opened = self.same(&opened, before).await?,
                Err(error) => return Err(error),
            }
        }
        Err(VaultError::Contended { attempts: ATTEMPTS })
    }

    /// Reads a reply and writes what follows from it. The second part tells why there are no new tokens.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where the stored tokens are others by now: a sibling won, and its tokens count.
    async fn conclude(
        &self,
        mut opened: Opened,
        reply: &RawReply,
        doubtful: bool,
        retry_after: Option<Duration>,
    ) -> Result<(Opened, Option<ConnectionError>), VaultError> {
        let before = self.tokens_print(&opened);
        for _ in 0..ATTEMPTS {
            let had_reply = opened.credential.grant_mut().is_some_and(|grant| grant.unread.take().is_some());
            let state = opened.row.facts.state.clone();
            let failure = match self.take_in(&mut opened, reply)? {
                Ok(()) => None,
                Err(refusal) => Some(self.draw(&mut opened, refusal, doubtful, retry_after)?),
            };
            let facts = &opened.row.facts;
            let audit = match &failure {
                None => Some(self.record(facts, &host_of(facts), "refreshed", None)),
                // Only what changes is told; a client that stays refused is not.
                Some(_) if facts.state != state => {
                    Some(self.record(facts, &host_of(facts), "refresh-failed", Some(Reason::ReconnectRequired)))
                }
                Some(_) => None,
            };
            if failure.as_ref().is_some_and(ConnectionError::passes) && !had_reply {
                return Ok((opened, failure));
            }
            match self.write(&mut opened, None, audit.as_ref()).await {
                Ok(()) => return Ok((opened, failure)),
                Err(VaultError::Store(StoreError::Conflict)) => opened = self.same(&opened, before).await?,
                Err(error) => return Err(error),
            }
        }
        Err(VaultError::Contended { attempts: ATTEMPTS })
    }

    /// Takes the tokens of a reply into the row.
    fn take_in(&self, opened: &mut Opened, reply: &RawReply) -> Result<Result<(), Refusal>, VaultError> {
        let provider = self.provider(&opened.row.facts.provider)?;
        let Some(grant) = opened.credential.grant_mut() else { return Ok(Ok(())) };
        // A reply that a crash left unread has lost its request; the next would be the same.
        let withheld = refresh_request(provider, grant).map(|mut request| request.withheld()).unwrap_or_default();
        let reply = match token::read(provider, reply, &withheld) {
            Ok(reply) => reply,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let mut tokens = reply.tokens;
        if let (None, Some(before)) = (&tokens.refresh, grant.tokens.take()) {
            // Who does not rotate need not send it again (RFC 6749 section 6).
            tokens.refresh = before.refresh;
            tokens.refresh_expires_at = tokens.refresh_expires_at.or(before.refresh_expires_at);
        }
        let facts = &mut opened.row.facts;
        facts.expires_at = tokens.expires_at;
        facts.state = ConnectionState::Active;
        if let Some(scopes) = reply.scopes {
            facts.granted_scopes = provider.implications().closure(&scopes);
            facts.scopes_assumed = false;
        }
        grant.tokens = Some(tokens);
        opened.row.refresh = None;
        Ok(Ok(()))
    }

    /// Draws the consequences of a refusal.
    fn draw(
        &self,
        opened: &mut Opened,
        refusal: Refusal,
        doubtful: bool,
        retry_after: Option<Duration>,
    ) -> Result<ConnectionError, VaultError> {
        let title = &self.provider(&opened.row.facts.provider)?.title;
        let name = opened.row.facts.name.to_string();
        if refusal.ends_grant() {
            let reason = if doubtful {
                format!(
                    "an earlier refresh was cut off and its reply, with the next refresh token, is lost ({})",
                    refusal.message
                )
            } else {
                format!("{title} accepts its refresh token no longer ({})", refusal.message)
            };
            opened.row.refresh = None;
            opened.row.facts.state = ConnectionState::NeedsReconnect(reason.clone());
            return Ok(ConnectionError::NeedsReconnect { name, reason });
        }
        if refusal.blames_client() {
            // Nobody looked at the refresh token, so this attempt leaves no doubt; an earlier one may.
            opened.row.refresh = opened.row.refresh.take().filter(|_| doubtful);
            let reason = format!("{title}: {}", refusal.message);
            opened.row.facts.state = ConnectionState::ClientRefused(reason.clone());
            return Ok(ConnectionError::ClientRefused { name, reason });
        }
        Ok(ConnectionError::refused(title, refusal, retry_after))
    }

    /// Ends a connection that can never work again.
    async fn give_up(&self, mut opened: Opened, reason: &str) -> Result<ConnectionError, VaultError> {
        opened.row.facts.state = ConnectionState::NeedsReconnect(reason.to_owned());
        let facts = &opened.row.facts;
        let audit = self.record(facts, &host_of(facts), "refresh-failed", Some(Reason::ReconnectRequired));
        self.write(&mut opened, None, Some(&audit)).await?;
        Ok(ConnectionError::NeedsReconnect { name: opened.row.facts.name.to_string(), reason: reason.to_owned() })
    }

    /// The row as it is now, where its tokens are still those of `before`.
    async fn same(&self, opened: &Opened, before: Option<[u8; 32]>) -> Result<Opened, VaultError> {
        let now = self.read(&opened.row.facts.tenant, &opened.row.facts.id).await?;
        if self.tokens_print(&now) == before { Ok(now) } else { Err(StoreError::Conflict.into()) }
    }

    /// Whether a refresh of the stored refresh token was begun whose end is not known. A client that acts for itself
    /// has none that could be used up.
    pub(super) fn is_doubtful(&self, opened: &Opened) -> bool {
        let grant = opened.credential.grant();
        if grant.is_none_or(|grant| grant.kind == GrantKind::ClientCredentials) {
            return false;
        }
        let print = self.token_print(opened);
        matches!((&opened.row.refresh, print), (Some(attempt), Some(print)) if attempt.token_fingerprint == print)
    }

    /// Whether a token that is due is better used to its end: its refresh token may be used up, and a provider that
    /// does not forgive a second use would end the grant, or the token at hand with it.
    pub(super) fn is_held(&self, opened: &Opened) -> bool {
        let rotation = self.providers.find(&opened.row.facts.provider).map(|provider| provider.token.rotation);
        rotation.is_some_and(|rotation| !rotation.forgives_reuse()) && self.is_doubtful(opened)
    }

    /// Names what a refresh sends: the refresh token, or, of a client that acts for itself, its client id.
    fn token_print(&self, opened: &Opened) -> Option<[u8; 32]> {
        let grant = opened.credential.grant()?;
        let sent = match grant.kind {
            GrantKind::ClientCredentials => grant.client.id.as_bytes(),
            GrantKind::AuthorizationCode => grant.refresh_token()?.expose(),
        };
        Some(self.keyring.fingerprint(&opened.row.facts.tenant, "refresh", sent))
    }

    /// Names both tokens.
    fn tokens_print(&self, opened: &Opened) -> Option<[u8; 32]> {
        let tokens = opened.credential.grant()?.tokens.as_ref()?;
        let fingerprint =
            |secret: &Secret| self.keyring.fingerprint(&opened.row.facts.tenant, "token", secret.expose());
        let both = [fingerprint(&tokens.access), tokens.refresh.as_ref().map(fingerprint).unwrap_or_default()].concat();
        Some(self.keyring.fingerprint(&opened.row.facts.tenant, "tokens", &both))
    }
}

impl Credential {
    /// The grant, where the credential is one.
    pub(crate) fn grant(&self) -> Option<&Grant> {
        match &self.kind {
            Kind::Grant(grant) => Some(grant),
            _ => None,
        }
    }

    /// The grant, to be changed.
    pub(crate) fn grant_mut(&mut self) -> Option<&mut Grant> {
        match &mut self.kind {
            Kind::Grant(grant) => Some(grant),
            _ => None,
        }
    }
}

impl Grant {
    /// The refresh token, where there is one.
    pub(crate) fn refresh_token(&self) -> Option<&Secret> {
        self.tokens.as_ref()?.refresh.as_ref()
    }
}

/// In whose name the host acts of itself: the connection's owner, or the one who runs the installation.
pub(crate) fn host_of(facts: &ConnectionFacts) -> Principal {
    facts.owner.clone().unwrap_or_else(Principal::local_administrator)
}

/// The request for new tokens.
fn refresh_request(provider: &Provider, grant: &Grant) -> Option<oauth::Outgoing> {
    let client: &Client = &grant.client;
    match grant.kind {
        GrantKind::AuthorizationCode => {
            let ask = Ask::Refresh(grant.refresh_token()?);
            oauth::token_request(client, &provider.token, &grant.endpoints.token, &ask)
        }
        GrantKind::ClientCredentials => {
            let scope = scope_parameter(provider, &grant.requested).ok()?.map(|(_, scopes)| scopes).unwrap_or_default();
            let ask = Ask::ClientCredentials { scope: &scope };
            oauth::token_request(client, &provider.token, &grant.endpoints.token, &ask)
        }
    }
}
