//! How often something may happen.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// So many in a second, a minute, an hour or a day, as in `10/s`, `600/m`, `5000/h`, `10000/d`.
///
/// It is a bucket of that size which fills evenly: all of it may be used at once, and what was used comes back one by
/// one in equal steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    count: NonZeroU32,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
    Day,
}

const UNITS: [(char, Unit, u64); 4] =
    [('s', Unit::Second, 1), ('m', Unit::Minute, 60), ('h', Unit::Hour, 3_600), ('d', Unit::Day, 86_400)];

impl Rate {
    /// How many there are in a full bucket.
    pub fn count(self) -> u32 {
        self.count.get()
    }

    /// How long it takes until one more is in the bucket.
    pub fn step(self) -> Duration {
        let seconds = UNITS.iter().find(|(_, unit, _)| *unit == self.unit).map_or(1, |(_, _, seconds)| *seconds);
        // Never nothing: a step without length would be no limit.
        (Duration::from_secs(seconds) / self.count.get()).max(Duration::from_nanos(1))
    }
}

/// Why a text is no [`Rate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no rate: write a whole number from 1 and a unit, as in \"10/s\", \"600/m\", \"5000/h\" or \"10000/d\""
)]
pub struct RateError {
    text: String,
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let read = || {
            let (count, unit) = text.split_once('/')?;
            // `parse` would take a sign.
            let count = count.bytes().all(|byte| byte.is_ascii_digit()).then(|| count.parse().ok())??;
            let (_, unit, _) = UNITS.iter().find(|(letter, ..)| unit.chars().eq([*letter]))?;
            Some(Self { count, unit: *unit })
        };
        read().ok_or_else(|| RateError { text: text.chars().take(80).collect() })
    }
}

impl TryFrom<String> for Rate {
    type Error = RateError;

    fn try_from(text: String) -> Result<Self, RateError> {
        text.parse()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = UNITS.iter().find(|(_, unit, _)| *unit == self.unit).map_or('s', |(letter, ..)| *letter);
        write!(f, "{}/{letter}", self.count)
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn rate_reads_back_and_has_a_step() {
        for (text, count, step) in [
            ("10/s", 10, Duration::from_millis(100)),
            ("600/m", 600, Duration::from_millis(100)),
            ("5000/h", 5000, Duration::from_millis(720)),
            ("1/d", 1, Duration::from_secs(86_400)),
            ("4294967295/s", u32::MAX, Duration::from_nanos(1)),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.to_string().as_str(), rate.count(), rate.step()), (text, count, step));
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["", "10", "10/", "/s", "0/s", "-1/s", "+1/s", "1.5/s", "10/w", "10/sec", "10 /s", "4294967296/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
