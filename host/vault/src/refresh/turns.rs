//! Turns within this process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use keyward_model::ConnectionId;

use super::RESPITE;
use crate::{connect::ConnectionError, token::RawReply};

/// For each connection that was refreshed here, whose turn it is and how the last ones ended. An entry is small and
/// goes with its connection.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<ConnectionId, Arc<tokio::sync::Mutex<Turn>>>>);

/// What the holder of the turn knows.
#[derive(Default)]
pub(crate) struct Turn {
    failed: Option<Failed>,
    forced_at: Option<Duration>,
    /// A reply that could not be stored, and the name of the tokens that it succeeds.
    unsaved: Option<(Option<[u8; 32]>, RawReply)>,
}

struct Failed {
    at: Duration,
    /// The provider asked to be left alone until then.
    until: Duration,
    error: ConnectionError,
}

impl Turns {
    /// The turn of one connection. An asynchronous lock, as it is held while the provider is asked.
    pub(super) fn of(&self, id: ConnectionId) -> Arc<tokio::sync::Mutex<Turn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().clone()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Forgets a connection that was deleted.
    pub(crate) fn forget(&self, id: ConnectionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

impl Turn {
    /// The failure that a caller who `arrived` then shares, where there is one.
    pub(super) fn failure(&self, arrived: Duration, now: Duration, can_do_without: bool) -> Option<ConnectionError> {
        let failed = self.failed.as_ref()?;
        let shared = failed.at > arrived || now < failed.until || (can_do_without && now < failed.at + RESPITE);
        shared.then(|| failed.error.clone())
    }

    /// Notes a failure; `wait` is how long the provider asked to be left alone.
    pub(super) fn failed(&mut self, now: Duration, wait: Option<Duration>, error: &ConnectionError) {
        self.failed = Some(Failed { at: now, until: now + wait.unwrap_or_default(), error: error.clone() });
    }

    /// Notes a success.
    pub(super) fn succeeded(&mut self, now: Duration, forced: bool) {
        self.failed = None;
        if forced {
            self.forced_at = Some(now);
        }
    }

    /// Holds a reply that could not be stored until the next turn.
    pub(super) fn keep_unsaved(&mut self, succeeds: Option<[u8; 32]>, reply: RawReply) {
        self.unsaved = Some((succeeds, reply));
    }

    /// The reply that could not be stored, where it succeeds the tokens that are stored now.
    pub(super) fn take_unsaved(&mut self, stored: Option<[u8; 32]>) -> Option<RawReply> {
        self.unsaved.take().filter(|(succeeds, _)| *succeeds == stored).map(|(_, reply)| reply)
    }

    /// Whether a refresh was forced so short a time ago.
    pub(super) fn forced_within(&self, window: Duration, now: Duration) -> bool {
        self.forced_at.is_some_and(|at| now.saturating_sub(at) < window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_is_shared_with_those_who_waited_and_those_who_can_do_without() {
        let second = Duration::from_secs;
        let mut turn = Turn::default();
        assert!(turn.failure(second(0), second(1), true).is_none());
        turn.failed(second(10), None, &ConnectionError::Unknown("x".to_owned()));
        for (arrived, now, can_do_without, shared) in [
            (9, 11, false, true),
            (11, 11, false, false),
            (11, 11, true, true),
            (11, 39, true, true),
            (41, 41, true, false),
        ] {
            let failure = turn.failure(second(arrived), second(now), can_do_without);
            assert_eq!(failure.is_some(), shared, "arrived {arrived}, now {now}");
        }
        turn.failed(second(10), Some(second(60)), &ConnectionError::Unknown("x".to_owned()));
        assert!(turn.failure(second(50), second(50), false).is_some(), "the provider asked for a minute");
        assert!(turn.failure(second(71), second(71), false).is_none());
        turn.succeeded(second(72), true);
        assert!(turn.failure(second(0), second(72), true).is_none());
        assert!(turn.forced_within(second(10), second(81)));
        assert!(!turn.forced_within(second(10), second(82)));
    }
}
