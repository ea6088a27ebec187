//! When a token is due.

use time::{Duration, OffsetDateTime};

use crate::credential::Tokens;

/// How good an access token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Good, with time left.
    Good,
    /// Good, but to be refreshed.
    Due,
    /// No longer good.
    Ended,
}

/// How good `tokens` are at `now`, the server's time. `spread` moves the due time of different tokens apart, so that
/// connections that were made together are not refreshed together.
pub(super) fn standing(tokens: &Tokens, now: OffsetDateTime, spread: u8) -> Standing {
    match tokens.expires_at {
        Some(end) if now >= end => Standing::Ended,
        Some(end) if now >= due_at(tokens.received_at, end, spread) => Standing::Due,
        // Without a known end it is used until it is refused.
        Some(_) | None => Standing::Good,
    }
}

/// A minute before the end, or a tenth of the lifetime where that is longer, but never in the first half of it; and
/// up to a quarter of that earlier, by `spread`.
fn due_at(start: OffsetDateTime, end: OffsetDateTime, spread: u8) -> OffsetDateTime {
    let lifetime: Duration = (end - start).max(Duration::ZERO);
    let margin = (lifetime / 10_i32).max(Duration::MINUTE).min(lifetime / 2_i32);
    end - margin - margin * (f64::from(spread) / (4.0 * 255.0))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::secret::Secret;

    const START: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);

    fn tokens(lifetime: Option<i64>) -> Tokens {
        Tokens {
            access: Secret::from("test-at".to_owned()),
            refresh: None,
            received_at: START,
            expires_at: lifetime.map(|seconds| START + Duration::seconds(seconds)),
            refresh_expires_at: None,
            clock_offset: 0,
        }
    }

    #[test]
    fn token_is_due_before_it_ends() {
        // Lifetime, spread, the second at which it is due.
        for (lifetime, spread, due) in [
            (3600, 0, 3240),
            (3600, 255, 3150),
            (28_800, 0, 25_920),
            (300, 0, 240),
            (300, 255, 225),
            (60, 0, 30),
            (4, 0, 2),
        ] {
            let tokens = tokens(Some(lifetime));
            let at = |second: i64| standing(&tokens, START + Duration::seconds(second), spread);
            assert_eq!(at(due - 1), Standing::Good, "{lifetime} s");
            assert_eq!(at(due), Standing::Due, "{lifetime} s");
            assert_eq!(at(lifetime - 1), Standing::Due, "{lifetime} s");
            assert_eq!(at(lifetime), Standing::Ended, "{lifetime} s");
        }
    }

    #[test]
    fn token_without_a_known_end_is_good_until_it_is_refused() {
        assert_eq!(standing(&tokens(None), START + Duration::days(10_000), 255), Standing::Good);
    }
}
