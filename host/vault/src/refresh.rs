//! Access tokens that stay good: refreshed before they end, once when they are refused, and never twice at once.
//!
//! The rules, each because somebody's tokens were lost without it:
//!
//! 1. One refresh at a time on a connection: a turn in this process ([`turns`]), a lease with a fence between
//!    processes. Who cannot have it waits and reads again.
//! 2. Before the request goes out, a mark with a fingerprint of the refresh token is written. After a crash the
//!    mark tells that the token may have been used up.
//! 3. The reply is stored, sealed, before it is read; what is missing in it is no error.
//! 4. After an answer that did not come, a token that may be used up is sent again only where the provider forgives
//!    it, or when nothing is left to lose.
//! 5. On `invalid_grant` the row is read again: another may have won. If not, the grant is dead, and nothing is
//!    deleted.
//! 6. A refused client says nothing about the grant.
//! 7. A token is due before it ends, at a moment that differs between connections; after a 401 one refresh is forced,
//!    and only where the refused token is still the stored one.
//! 8. Times are the server's. A token that is due stays in use until it ends, whatever becomes of its refresh.
//! 9. The refresh runs in a task of its own: a caller that goes away does not take the reply with it.

mod clock;
mod due;
mod error;
mod exchange;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
mod turns;

use std::time::Duration;

use keyward_model::{ConnectionId, ConnectionState, SendError, TenantId};
use tracing::Instrument;

pub(crate) use clock::Clock;
#[cfg(test)]
pub(crate) use clock::Moment;
pub(crate) use exchange::host_of;
pub(crate) use turns::Turns;

use crate::{
    connect::{ConnectionError, Opened},
    credential::{Grant, GrantKind, Kind, Live, Tokens},
    error::VaultError,
    oauth,
    store::{Lease, StoreError},
    vault::Vault,
};
use due::Standing;
use turns::Turn;

/// How long a lease holds. A refresh takes [`oauth::TIMEOUT`] and some writes, so it ends long before.
const LEASE: Duration = Duration::from_secs(60);

/// How long to wait for another process: longer than its request can take, shorter than its lease.
const PATIENCE: Duration = Duration::from_secs(oauth::TIMEOUT.as_secs() + 10);

/// How long after a failure a token that is due but good is used without another attempt.
const RESPITE: Duration = Duration::from_secs(30);

/// How soon after a forced refresh another one is not made: a server that refuses a token this fresh refuses
/// something else.
const FORCED: Duration = Duration::from_secs(10);

/// What a caller wants of a turn.
#[derive(Clone, Copy)]
enum Wanted {
    /// A fresher token, if that needs no waiting: the one at hand is still good.
    Fresher,
    /// A good token.
    Good,
    /// Another token than the one with this fingerprint, which a server refused.
    Other([u8; 32]),
}

impl Vault {
    /// The credential of a connection, refreshed where it is due.
    ///
    /// # Errors
    /// [`SendError`] with nothing sent: the connection is not there, must be connected again, or its token has ended
    /// and the provider cannot be reached.
    pub(crate) async fn credential_for(&self, tenant: &TenantId, id: &ConnectionId) -> Result<Live, SendError> {
        Ok(self.live(tenant, id).await?)
    }

    /// Another credential, after a server refused the one with the fingerprint `used`; `None` where there is no
    /// other to be had.
    ///
    /// # Errors
    /// As [`Vault::credential_for`].
    pub(crate) async fn credential_after_refusal(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        used: &[u8; 32],
    ) -> Result<Option<Live>, SendError> {
        Ok(self.live_after_refusal(tenant, id, used).await?)
    }

    pub(crate) async fn live(&self, tenant: &TenantId, id: &ConnectionId) -> Result<Live, VaultError> {
        let opened = self.recently_opened(tenant, id).await?;
        match self.standing(&opened)? {
            Standing::Good => Ok(self.to_live(opened)?),
            Standing::Due => match self.refreshed(tenant, id, Wanted::Fresher).await {
                Ok(Some(live)) => Ok(live),
                Ok(None) => Ok(self.to_live(opened)?),
                Err(VaultError::Connection(
                    error @ (ConnectionError::NeedsReconnect { .. } | ConnectionError::Unknown(_)),
                )) => Err(error.into()),
                // The token at hand outlives everything but the end of the grant.
                Err(error) => {
                    tracing::warn!(connection = %id, %error, "a token that is due stays in use");
                    Ok(self.to_live(opened)?)
                }
            },
            Standing::Ended => match self.refreshed(tenant, id, Wanted::Good).await? {
                Some(live) => Ok(live),
                None => Err(VaultError::System("a refresh ended without a token".to_owned())),
            },
        }
    }

    pub(crate) async fn live_after_refusal(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        used: &[u8; 32],
    ) -> Result<Option<Live>, VaultError> {
        let opened = self.opened(tenant, id).await?;
        if self.fingerprint(&opened) != Some(*used) {
            return self.live(tenant, id).await.map(Some);
        }
        match &opened.credential.kind {
            Kind::Grant(grant) if grant.can_refresh() => self.refreshed(tenant, id, Wanted::Other(*used)).await,
            _ => Ok(None),
        }
    }

    /// Takes a turn in a task of its own, so that the refresh ends well even if the caller is gone.
    async fn refreshed(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        wanted: Wanted,
    ) -> Result<Option<Live>, VaultError> {
        let (vault, tenant, id) = (self.clone(), tenant.clone(), *id);
        let turn = async move { vault.take_turn(&tenant, &id, wanted).await }.in_current_span();
        tokio::spawn(turn).await.map_err(|_| VaultError::System("a refresh was stopped".to_owned()))?
    }

    /// One caller's turn: reads again what the one before left, and refreshes where that does not do.
    async fn take_turn(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        wanted: Wanted,
    ) -> Result<Option<Live>, VaultError> {
        let result = self.hold_turn(tenant, id, wanted).await;
        self.forget_unknown(id, &result);
        result
    }

    async fn hold_turn(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        wanted: Wanted,
    ) -> Result<Option<Live>, VaultError> {
        let place = self.turns.of(*id);
        let arrived = self.clock.now().steady;
        let mut turn = match wanted {
            Wanted::Fresher => match place.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(None),
            },
            Wanted::Good | Wanted::Other(_) => place.lock().await,
        };
        let mut pauses = Pauses::since(arrived);
        loop {
            let opened = self.opened(tenant, id).await?;
            if self.suffices(&opened, wanted)? {
                return Ok(Some(self.to_live(opened)?));
            }
            let now = self.clock.now().steady;
            // Whoever waited for a refresh that failed shares its failure instead of repeating it in a row.
            if let Some(error) = turn.failure(arrived, now, matches!(wanted, Wanted::Fresher)) {
                return Err(error.into());
            }
            if matches!(wanted, Wanted::Other(_)) && turn.forced_within(FORCED, now) {
                return Ok(None);
            }
            match self.lease(tenant, id).await? {
                Some(lease) => {
                    let result = self.refresh_under(tenant, id, wanted, lease, &mut turn).await;
                    self.give_back(tenant, id, lease).await;
                    match result {
                        // Somebody changed the row between the read and the write: read it again.
                        Err(VaultError::Store(StoreError::Conflict)) => {}
                        result => return result.map(Some),
                    }
                }
                None if matches!(wanted, Wanted::Fresher) => return Ok(None),
                None => {}
            }
            if !pauses.next(&self.clock).await {
                let name = opened.row.facts.name.to_string();
                return Err(ConnectionError::Busy { name, waited_s: PATIENCE.as_secs() }.into());
            }
        }
    }

    /// Does something to a connection while nobody refreshes it: a refresh that is under way is waited for, so that
    /// no new token turns up behind the back of who revokes the old one. Past the patience for that, it is done
    /// all the same.
    pub(crate) async fn in_quiet<T>(
        &self,
        tenant: &TenantId,
        id: &ConnectionId,
        act: impl AsyncFnOnce(&mut Quiet<'_>) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let place = self.turns.of(*id);
        let mut turn = place.lock().await;
        let result = async {
            let mut pauses = Pauses::since(self.clock.now().steady);
            let lease = loop {
                match self.lease(tenant, id).await? {
                    None if pauses.next(&self.clock).await => {}
                    lease => break lease,
                }
            };
            let result = act(&mut Quiet { turn: &mut turn, lease }).await;
            if let Some(lease) = lease {
                self.give_back(tenant, id, lease).await;
            }
            result
        }
        .await;
        self.forget_unknown(id, &result);
        result
    }

    /// Takes the lease; `None` while another has it.
    async fn lease(&self, tenant: &TenantId, id: &ConnectionId) -> Result<Option<Lease>, VaultError> {
        match self.store.lease_refresh(tenant, id, LEASE).await {
            // There is nothing to lease: somebody deleted the connection.
            Err(StoreError::Conflict) => Err(ConnectionError::Unknown(id.to_string()).into()),
            result => Ok(result?),
        }
    }

    /// Lets no entry stay for a connection that is not there.
    fn forget_unknown<T>(&self, id: &ConnectionId, result: &Result<T, VaultError>) {
        if let Err(VaultError::Connection(ConnectionError::Unknown(_))) = result {
            self.turns.forget(*id);
        }
    }

    /// Gives a lease back; where that fails, it ends by itself.
    async fn give_back(&self, tenant: &TenantId, id: &ConnectionId, lease: Lease) {
        if let Err(error) = self.store.release_refresh(tenant, id, lease).await {
            tracing::warn!(connection = %id, %error, "the lease on a refresh was not given back");
        }
    }

    /// Whether what is stored is what the caller wants.
    fn suffices(&self, opened: &Opened, wanted: Wanted) -> Result<bool, ConnectionError> {
        let standing = self.standing(opened)?;
        Ok(match wanted {
            Wanted::Fresher => standing == Standing::Good,
            // A token that is due and good was made so by somebody whose turn came before.
            Wanted::Good => standing != Standing::Ended,
            Wanted::Other(used) => standing != Standing::Ended && self.fingerprint(opened) != Some(used),
        })
    }

    /// Whether the access token of a grant has ended.
    pub(crate) fn has_ended(&self, opened: &Opened) -> bool {
        let tokens = opened.credential.grant().and_then(|grant| grant.tokens.as_ref());
        tokens.is_some_and(|tokens| due::standing(tokens, self.servers_time(tokens), 0) == Standing::Ended)
    }

    /// What the clock of the server says that gave the tokens.
    fn servers_time(&self, tokens: &Tokens) -> time::OffsetDateTime {
        let wall = self.clock.now().wall;
        wall.checked_add(time::Duration::seconds(tokens.clock_offset)).unwrap_or(wall)
    }

    /// How good the credential is now.
    ///
    /// # Errors
    /// Where it is good for nothing until somebody connects again.
    fn standing(&self, opened: &Opened) -> Result<Standing, ConnectionError> {
        let facts = &opened.row.facts;
        let dead = |reason: &str| {
            Err(ConnectionError::NeedsReconnect { name: facts.name.to_string(), reason: reason.to_owned() })
        };
        match &facts.state {
            ConnectionState::NeedsReconnect(reason) => return dead(reason),
            ConnectionState::Revoked => return dead("it was revoked"),
            ConnectionState::Active | ConnectionState::ClientRefused(_) => {}
        }
        let Kind::Grant(grant) = &opened.credential.kind else { return Ok(Standing::Good) };
        let Some(tokens) = &grant.tokens else { return dead("it was revoked") };
        let spread = self.fingerprint(opened).map_or(0, |fingerprint| fingerprint[0]);
        Ok(match due::standing(tokens, self.servers_time(tokens), spread) {
            Standing::Due if !grant.can_refresh() || self.is_held(opened) => Standing::Good,
            standing => standing,
        })
    }

    /// Names the credential without showing it.
    fn fingerprint(&self, opened: &Opened) -> Option<[u8; 32]> {
        Some(opened.credential.material()?.fingerprint(&self.keyring, &opened.row.facts.tenant))
    }

    fn to_live(&self, opened: Opened) -> Result<Live, ConnectionError> {
        let facts = opened.row.facts;
        match opened.credential.material() {
            Some(material) => {
                let fingerprint = material.fingerprint(&self.keyring, &facts.tenant);
                Ok(Live { fingerprint, facts, material, fields: opened.credential.into_fields() })
            }
            None => Err(ConnectionError::NeedsReconnect {
                name: facts.name.to_string(),
                reason: "it was revoked".to_owned(),
            }),
        }
    }
}

/// What is held while nobody refreshes a connection. There is no lease where the patience for another process ended.
pub(crate) struct Quiet<'a> {
    turn: &'a mut Turn,
    lease: Option<Lease>,
}

impl Quiet<'_> {
    /// Refreshes a grant whose access token is of no use any more.
    pub(crate) async fn refresh(&mut self, vault: &Vault, opened: Opened) -> Result<Opened, VaultError> {
        match self.lease {
            Some(lease) => vault.exchange(opened, lease, self.turn).await,
            None => {
                let name = opened.row.facts.name.to_string();
                Err(ConnectionError::Busy { name, waited_s: PATIENCE.as_secs() }.into())
            }
        }
    }
}

/// Growing pauses, up to [`PATIENCE`]. Between processes there is no signal to wait for, only the row.
struct Pauses {
    since: Duration,
    length: Duration,
}

impl Pauses {
    fn since(since: Duration) -> Self {
        Self { since, length: Duration::from_millis(25) }
    }

    /// Pauses; `false` where the patience is at its end.
    async fn next(&mut self, clock: &Clock) -> bool {
        self.length = (self.length * 2).min(Duration::from_millis(500));
        let patient = clock.now().steady.saturating_sub(self.since) <= PATIENCE;
        if patient {
            tokio::time::sleep(self.length).await;
        }
        patient
    }
}

impl Grant {
    /// Whether new tokens can be had without anybody's consent.
    pub(crate) fn can_refresh(&self) -> bool {
        self.kind == GrantKind::ClientCredentials || self.tokens.as_ref().is_some_and(|tokens| tokens.refresh.is_some())
    }
}
