//! Durations: as properties, as ISO 8601 text, or as an expression that gives such a text.

use std::time::Duration;

use super::model::Placed;

/// A duration as it is written.
#[derive(Debug, Clone)]
pub enum DurationSource {
    /// One that is known.
    Fixed(Duration),
    /// `${ }`, which gives an ISO 8601 text.
    Expression(Placed<String>),
}

/// The longest duration, 100 years: what is longer is likely a mistake and would overflow a date.
const MAX_SECONDS: u64 = 100 * 366 * 86_400;
const TOO_LONG: &str = "it is longer than 100 years";

/// Reads an ISO 8601 duration, for example `PT1H30M` or `P1DT0.5S`.
///
/// Years and months have no fixed length and are refused, though the schema's pattern takes them.
pub(crate) fn parse_iso8601(text: &str) -> Result<Duration, &'static str> {
    const SHAPE: &str = "write it as ISO 8601, for example PT30S, PT1H30M or P1D";
    let rest = text.strip_prefix('P').ok_or(SHAPE)?;
    let (date, time) = match rest.split_once('T') {
        Some((_, "")) => return Err(SHAPE),
        Some((date, time)) => (date, time),
        None => (rest, ""),
    };
    if date.is_empty() && time.is_empty() {
        return Err(SHAPE);
    }
    // In the order in which they may stand; years and months have no length.
    let date_units = [('Y', None), ('M', None), ('W', Some(604_800)), ('D', Some(86_400))];
    let time_units = [('H', Some(3_600)), ('M', Some(60)), ('S', Some(1))];
    let mut total = Duration::ZERO;
    for (mut part, units) in [(date, &date_units[..]), (time, &time_units[..])] {
        let mut units = units.iter();
        while !part.is_empty() {
            let end = part.find(|c: char| c.is_ascii_alphabetic()).ok_or(SHAPE)?;
            let (number, rest) = part.split_at(end);
            let (_, seconds) = units.find(|(unit, _)| rest.starts_with(*unit)).ok_or(SHAPE)?;
            let seconds: u32 = seconds.ok_or("years and months have no fixed length; use days or weeks")?;
            part = &rest[1..];
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
            if !digits(whole) || !digits(fraction) {
                return Err(SHAPE);
            }
            let added = number.parse::<f64>().map_err(|_| SHAPE)? * f64::from(seconds);
            if added > MAX_SECONDS as f64 {
                return Err(TOO_LONG);
            }
            total += Duration::from_secs_f64(added);
        }
    }
    within(total)
}

/// The duration of parts in days, hours, minutes, seconds and milliseconds.
pub(crate) fn of_parts(parts: [u64; 5]) -> Result<Duration, &'static str> {
    let milliseconds = [86_400_000, 3_600_000, 60_000, 1_000, 1];
    let total = parts
        .iter()
        .zip(milliseconds)
        .try_fold(0_u64, |total, (part, unit)| part.checked_mul(unit).and_then(|part| total.checked_add(part)));
    within(Duration::from_millis(total.ok_or(TOO_LONG)?))
}

fn within(duration: Duration) -> Result<Duration, &'static str> {
    if duration.as_secs() > MAX_SECONDS { Err(TOO_LONG) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_iso_8601_says() {
        for (text, milliseconds) in [
            ("PT30S", 30_000),
            ("PT1H30M", 5_400_000),
            ("P1D", 86_400_000),
            ("P1DT12H", 129_600_000),
            ("P2W", 1_209_600_000),
            ("PT0.5S", 500),
            ("PT1.5H", 5_400_000),
            ("PT0S", 0),
            ("PT90M", 5_400_000),
        ] {
            assert_eq!(parse_iso8601(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in [
            "",
            "P",
            "PT",
            "T1S",
            "1S",
            "PT1",
            "P1S",
            "PT1D",
            "PT-1S",
            "PT1S1H",
            "PT1.S",
            "PT.5S",
            "P1Y",
            "P1M",
            "P1Y2M",
            "PT1e3S",
            "PTinfS",
            "pt1s",
            "P99999999999999999999D",
            "PT1H PT1S",
            "PTäS",
            "PäT1S",
        ] {
            assert!(parse_iso8601(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn parts_add_up_and_never_overflow() {
        assert_eq!(of_parts([1, 2, 3, 4, 5]), Ok(Duration::from_millis(93_784_005)));
        assert!(of_parts([u64::MAX, 0, 0, 0, 0]).is_err());
        assert!(of_parts([36_600, 1, 0, 0, 0]).is_err());
    }
}
