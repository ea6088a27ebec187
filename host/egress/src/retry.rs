//! When the host sends a request again by itself, and how long it waits before.
//!
//! | what came of it | a safe method | one that is idempotent | any other |
//! |---|---|---|---|
//! | no connection came about | again | again | |
//! | 429 or 503 | again | again | |
//! | 502 or 504, or the connection broke | again | | |
//!
//! Safe are `GET`, `HEAD`, `OPTIONS` (RFC 9110 section 9.2.1). Idempotent are `PUT` and `DELETE` (section 9.2.2), and
//! whatever an action sends that declares itself `safe` or `idempotent`, or `key` where the request has the header
//! `idempotency-key`. A request whose line in the manifest says `once = true`, or whose body is a stream, is sent once.
//!
//! It is sent three times at most, and never where the call's time would be over before; what the connector gets then is
//! what came last. Each time it passes the whole gate anew, its rules and its turn included, and waits as long as the
//! server wants. In addition it waits for a random time between none and one that doubles, so that those who failed
//! together do not come back together ("full jitter").

use std::time::Duration;

use keyward_model::{Body, GuestRequest, Reason, SendError, Sent, manifest::Idempotency};
use keyward_policy::Permit;
use tokio::time::{Instant, sleep};

/// How often a request is sent at most.
pub(crate) const MAX_ATTEMPTS: u32 = 3;

/// The longest wait before the second attempt.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// What may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Nothing.
    Never,
    /// What was not sent, or was refused.
    Idempotent,
    /// Also what may have arrived.
    Safe,
}

impl Repeat {
    /// What may be done with this request.
    pub(crate) fn of(permit: &Permit) -> Self {
        let has_key = || permit.headers().contains_key("idempotency-key");
        match (permit.method(), permit.idempotency()) {
            _ if permit.once() => Self::Never,
            (method, _) if method.is_safe() => Self::Safe,
            (method, _) if method.is_idempotent() => Self::Idempotent,
            (_, Idempotency::Safe | Idempotency::Idempotent) => Self::Idempotent,
            (_, Idempotency::Key) if has_key() => Self::Idempotent,
            _ => Self::Never,
        }
    }

    /// Whether to send it again after this.
    pub(crate) fn after(self, outcome: Result<u16, &SendError>) -> bool {
        let least = match outcome {
            Ok(429 | 503) => Self::Idempotent,
            Ok(502 | 504) => Self::Safe,
            Ok(_) => return false,
            Err(error) => match (error.reason, error.sent) {
                (Reason::Unreachable | Reason::Timeout, Sent::No) => Self::Idempotent,
                (Reason::Unreachable, Sent::Maybe) => Self::Safe,
                _ => return false,
            },
        };
        match self {
            Self::Never => false,
            Self::Idempotent => least == Self::Idempotent,
            Self::Safe => true,
        }
    }
}

/// The same request; `None` where its body can be read once only.
pub(crate) fn copy(request: &GuestRequest) -> Option<GuestRequest> {
    let body = match &request.body {
        Body::Empty => Body::Empty,
        Body::Bytes(bytes) => Body::Bytes(bytes.clone()),
        Body::Stream { .. } => return None,
    };
    Some(GuestRequest {
        method: request.method.clone(),
        target: request.target.clone(),
        query: request.query.clone(),
        headers: request.headers.clone(),
        body,
    })
}

/// Waits before attempt `next` (from 2); `false`, without waiting, where that would be longer than `until`.
pub(crate) async fn wait(next: u32, until: Instant) -> bool {
    let longest = FIRST_WAIT * (1 << next.saturating_sub(2).min(8));
    let wait = longest.mul_f64(random());
    if Instant::now() + wait > until {
        return false;
    }
    sleep(wait).await;
    true
}

/// Evenly between 0 and 1. It need not be secret; without random bytes it is in the middle.
fn random() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use keyward_model::SendErrorKind;

    use super::*;

    #[test]
    fn what_is_sent_again_after_what() {
        let error = |reason, sent| SendError::new(SendErrorKind::Other, reason, "").sent(sent);
        let cases: [(Result<u16, SendError>, bool, bool); 15] = [
            (Ok(200), false, false),
            (Ok(403), false, false),
            (Ok(429), true, true),
            (Ok(500), false, false),
            (Ok(502), true, false),
            (Ok(503), true, true),
            (Ok(504), true, false),
            (Err(error(Reason::Unreachable, Sent::No)), true, true),
            (Err(error(Reason::Timeout, Sent::No)), true, true),
            (Err(error(Reason::Unreachable, Sent::Maybe)), true, false),
            (Err(error(Reason::Unreachable, Sent::Yes)), false, false),
            (Err(error(Reason::Timeout, Sent::Maybe)), false, false),
            (Err(error(Reason::TlsFailed, Sent::No)), false, false),
            (Err(error(Reason::RateLimited, Sent::No)), false, false),
            (Err(error(Reason::AddressNotAllowed, Sent::No)), false, false),
        ];
        for (outcome, safe, idempotent) in cases {
            let after = |repeat: Repeat| repeat.after(outcome.as_ref().map(|status| *status));
            assert_eq!((after(Repeat::Safe), after(Repeat::Idempotent)), (safe, idempotent), "{outcome:?}");
            assert!(!after(Repeat::Never), "{outcome:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn wait_is_random_and_bounded_and_not_longer_than_there_is_time() {
        let mut waits = Vec::new();
        for next in [2, 3, 3, 3, 3] {
            let start = Instant::now();
            assert!(wait(next, start + Duration::from_secs(1)).await);
            waits.push(start.elapsed());
            assert!(start.elapsed() <= FIRST_WAIT * (next - 1) + Duration::from_millis(1));
        }
        assert!(waits.windows(2).any(|two| two[0] != two[1]), "{waits:?}");
        let start = Instant::now();
        let mut is_refused = false;
        for _ in 0..64 {
            is_refused |= !wait(3, Instant::now()).await;
        }
        assert!(is_refused);
        assert!(start.elapsed() <= Duration::from_millis(64), "{:?}", start.elapsed());
    }
}
