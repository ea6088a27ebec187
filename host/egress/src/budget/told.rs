//! What a server says of its own limits, in every form that is in use.
//!
//! | header | form | source |
//! |---|---|---|
//! | `Retry-After` | seconds or a date; with status 429 and 503, and with 403 as GitHub does for its secondary limits | RFC 9110 section 10.2.3 |
//! | `RateLimit` | `"name";r=<left>;t=<seconds>`, a list; its policy's `w` where it has no `t` | draft-ietf-httpapi-ratelimit-headers-10 |
//! | `RateLimit` | `limit=..., remaining=<left>, reset=<seconds>` | the same draft, -07 |
//! | `RateLimit-Remaining`, `-Reset` | two numbers | the same draft, -03 |
//! | `X-RateLimit-Remaining`, `-Reset`, and `X-Rate-Limit-` | two numbers | custom |
//!
//! `Retry-After` goes before the others. What is left counts where it is nothing, whatever the status; with a refusal a
//! moment counts also where what is left is not told. A number for the moment is one of three things, and its size
//! tells which: from 10^11 on milliseconds since 1970, from 10^9 on (2001) seconds since 1970, else seconds from now.
//! Moments are taken by the server's own clock, where it tells it in `Date`.
//!
//! What is not in one of these forms is as if it were not there, a negative number too. Of several the longest wait
//! counts. Nothing here bounds it: the operator does, see [`BudgetConfig::max_pause`](super::BudgetConfig::max_pause).

use std::{
    iter,
    time::{Duration, SystemTime},
};

use sfv::{BareItem, Dictionary, Item, List, ListEntry, Parameters, Parser};
use time::OffsetDateTime;

/// What an answer means for those that come after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It is no refusal; no more requests for so long.
    Answered(Duration),
    /// Too many requests; no more for so long, where that is told.
    Refused(Option<Duration>),
}

type Headers<'a> = &'a [(String, Vec<u8>)];

/// Reads the head of an answer that came `now`.
pub(super) fn read(status: u16, headers: Headers<'_>, now: impl FnOnce() -> OffsetDateTime) -> Told {
    // Most answers tell nothing, and are not looked at further: all names that matter then begin so.
    let is_candidate = |name: &str| matches!(name.as_bytes().first(), Some(b'r' | b'R' | b'x' | b'X'));
    if !matches!(status, 403 | 429 | 503) && !headers.iter().any(|(name, _)| is_candidate(name)) {
        return Told::Answered(Duration::ZERO);
    }
    let clock = values(headers, &["date"]).find_map(|date| httpdate::parse_http_date(date).ok());
    let now = clock.unwrap_or_else(|| now().into());
    let retry_after = || values(headers, &["retry-after"]).filter_map(|text| retry_after(text, now)).max();
    match status {
        429 => Told::Refused(retry_after().or_else(|| quota(headers, now, true))),
        503 => retry_after().map_or(Told::Answered(Duration::ZERO), |wait| Told::Refused(Some(wait))),
        403 => match retry_after().or_else(|| quota(headers, now, false)) {
            Some(wait) => Told::Refused(Some(wait)),
            None => Told::Answered(Duration::ZERO),
        },
        _ => Told::Answered(quota(headers, now, false).unwrap_or_default()),
    }
}

/// The readable values of the headers of these names.
fn values<'a>(headers: Headers<'a>, names: &'a [&str]) -> impl Iterator<Item = &'a str> {
    headers
        .iter()
        .filter(|(name, _)| names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted)))
        .filter_map(|(_, value)| str::from_utf8(value).ok().map(str::trim))
}

fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    match number(text) {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()),
    }
}

/// How long nothing is left of a quota; with `is_refused` also where it is not told what is left.
fn quota(headers: Headers<'_>, now: SystemTime, is_refused: bool) -> Option<Duration> {
    let pairs = [
        (&["ratelimit-remaining"][..], &["ratelimit-reset"][..]),
        (&["x-ratelimit-remaining", "x-rate-limit-remaining"], &["x-ratelimit-reset", "x-rate-limit-reset"]),
    ];
    let pair = |(left, reset)| {
        let least = numbers(headers, left).min();
        let is_over = least.map_or(is_refused, |left| left == 0);
        is_over.then(|| numbers(headers, reset).map(|moment| until(moment, now)).max()).flatten()
    };
    pairs.into_iter().filter_map(pair).chain(structured(headers, is_refused)).max()
}

/// The numbers in the headers of these names; several headers of a name may have become one.
fn numbers<'a>(headers: Headers<'a>, names: &'a [&str]) -> impl Iterator<Item = u64> {
    values(headers, names).flat_map(|text| text.split(',')).filter_map(|text| number(text.trim()))
}

/// A decimal number that is not negative, rounded up; one that is too large is the largest.
fn number(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let rounded = u64::from(fraction.bytes().any(|digit| digit != b'0'));
    Some(whole.parse().unwrap_or(u64::MAX).saturating_add(rounded))
}

/// How long until the moment that a number tells.
fn until(moment: u64, now: SystemTime) -> Duration {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match moment {
        100_000_000_000.. => Duration::from_millis(moment).saturating_sub(since),
        1_000_000_000.. => Duration::from_secs(moment).saturating_sub(since),
        _ => Duration::from_secs(moment),
    }
}

/// The header `RateLimit` in both forms that it has had. Several headers are one list (RFC 9651 section 4.2).
fn structured(headers: Headers<'_>, is_refused: bool) -> Option<Duration> {
    let joined = |name: &'static str| {
        let all: Vec<&str> = headers
            .iter()
            .filter(|(own, _)| own.eq_ignore_ascii_case(name))
            .filter_map(|(_, value)| str::from_utf8(value).ok())
            .collect();
        (!all.is_empty()).then(|| all.join(", "))
    };
    let limits = joined("ratelimit")?;
    if let Ok(limits) = Parser::new(&limits).parse::<List>() {
        let policies = joined("ratelimit-policy").and_then(|text| Parser::new(&text).parse::<List>().ok());
        let window = |name: &BareItem| {
            items(policies.as_ref()?)
                .find(|policy| policy.bare_item == *name)
                .and_then(|policy| seconds(&policy.params, "w"))
        };
        let wait = |limit: &Item| {
            let is_over = integer(limit.params.get("r")).map_or(is_refused, |left| left == 0);
            is_over.then(|| seconds(&limit.params, "t").or_else(|| window(&limit.bare_item))).flatten()
        };
        return items(&limits).filter_map(wait).max();
    }
    let limits = Parser::new(&limits).parse::<Dictionary>().ok()?;
    let member = |name: &str| match limits.get(name) {
        Some(ListEntry::Item(item)) => integer(Some(&item.bare_item)),
        _ => None,
    };
    let is_over = member("remaining").map_or(is_refused, |left| left == 0);
    is_over.then(|| member("reset").map(Duration::from_secs)).flatten()
}

fn items(list: &List) -> impl Iterator<Item = &Item> {
    list.iter().flat_map(|entry| match entry {
        ListEntry::Item(item) => iter::once(item).collect::<Vec<_>>(),
        ListEntry::InnerList(_) => Vec::new(),
    })
}

fn seconds(parameters: &Parameters, name: &str) -> Option<Duration> {
    integer(parameters.get(name)).map(Duration::from_secs)
}

fn integer(item: Option<&BareItem>) -> Option<u64> {
    u64::try_from(i64::from(item?.as_integer()?)).ok()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:00 UTC);
    /// The same in seconds since 1970.
    const EPOCH: u64 = 1_795_348_800;

    fn told(status: u16, headers: &[(&str, &str)]) -> Told {
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        read(status, &headers, || NOW)
    }

    const fn answered(seconds: u64) -> Told {
        Told::Answered(Duration::from_secs(seconds))
    }

    const fn refused(seconds: u64) -> Told {
        Told::Refused(Some(Duration::from_secs(seconds)))
    }

    #[test]
    fn moment_of_the_tests_is_what_it_says() {
        assert_eq!(NOW.unix_timestamp(), EPOCH as i64);
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date() {
        for (text, wait) in [
            ("0", 0),
            ("120", 120),
            (" 120 ", 120),
            ("1.5", 2),
            ("Sun, 22 Nov 2026 12:00:30 GMT", 30),
            ("Sunday, 22-Nov-26 12:00:30 GMT", 30),
            ("Sun Nov 22 12:00:30 2026", 30),
            ("Sun, 22 Nov 2026 11:00:00 GMT", 0),
        ] {
            for status in [429, 503, 403] {
                assert_eq!(told(status, &[("Retry-After", text)]), refused(wait), "{status} {text}");
            }
            assert_eq!(told(200, &[("retry-after", text)]), answered(0), "{text}");
        }
    }

    #[test]
    fn date_is_taken_by_the_servers_clock() {
        let date = ("date", "Sun, 22 Nov 2026 09:00:00 GMT");
        assert_eq!(told(429, &[date, ("retry-after", "Sun, 22 Nov 2026 09:00:30 GMT")]), refused(30));
        let reset = (EPOCH - 3 * 3600 + 30).to_string();
        assert_eq!(told(200, &[date, ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &reset)]), answered(30));
    }

    #[test]
    fn nonsense_is_as_if_it_were_not_there() {
        for text in
            ["", "-1", "soon", "1 minute", "0x10", "1e3", "+1", "1.", ".5", "Sun, 99 Nov 2026 12:00:30 GMT", "é"]
        {
            assert_eq!(told(429, &[("retry-after", text)]), Told::Refused(None), "{text}");
            assert_eq!(told(503, &[("retry-after", text)]), answered(0), "{text}");
            let headers = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", text)];
            assert_eq!(told(200, &headers), answered(0), "{text}");
        }
        for text in ["-1", "none", "\"a\"", "1, 0.5"] {
            assert_eq!(
                told(200, &[("x-ratelimit-remaining", text), ("x-ratelimit-reset", "9")]),
                answered(0),
                "{text}"
            );
        }
        for text in
            ["\"a\";r=0;t=-5", "\"a\";r=0;t=x", "\"a\";r=0", "(\"a\");r=0;t=5", "\"a\";r=0;t=5,,", "remaining=0"]
        {
            assert_eq!(told(200, &[("ratelimit", text)]), answered(0), "{text}");
        }
    }

    #[test]
    fn values_without_measure_are_no_fault_here() {
        let Told::Refused(Some(wait)) = told(429, &[("retry-after", "1000000000000000000000000000000")]) else {
            panic!()
        };
        assert!(wait > Duration::from_secs(1 << 60));
        let Told::Refused(Some(wait)) = told(429, &[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")]) else {
            panic!()
        };
        assert!(wait > Duration::from_secs(7_000 * 365 * 86_400));
        let reset = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1000000000000000000000000000000")];
        assert!(matches!(told(200, &reset), Told::Answered(wait) if wait > Duration::from_secs(1 << 50)));
    }

    #[test]
    fn of_several_the_longest_counts() {
        assert_eq!(told(429, &[("retry-after", "5"), ("retry-after", "-7"), ("retry-after", "9")]), refused(9));
        let twice = [("x-ratelimit-remaining", "0, 7"), ("x-ratelimit-reset", "5"), ("x-ratelimit-reset", "9")];
        assert_eq!(told(200, &twice), answered(9));
        // But what `Retry-After` says goes before all others.
        assert_eq!(told(429, &[("retry-after", "5"), ("ratelimit", "\"a\";r=0;t=50")]), refused(5));
    }

    #[test]
    fn quota_counts_where_nothing_is_left() {
        let (seconds, milliseconds) = ((EPOCH + 60).to_string(), ((EPOCH + 60) * 1000).to_string());
        for reset in ["60", "59.5", &seconds, &milliseconds] {
            for prefix in ["x-ratelimit", "X-RateLimit", "x-rate-limit", "ratelimit"] {
                let (left, until) = (format!("{prefix}-remaining"), format!("{prefix}-reset"));
                let with = |status, left_over| told(status, &[(&left, left_over), (&until, reset)]);
                assert_eq!(with(200, "0"), answered(60), "{prefix} {reset}");
                assert_eq!(with(403, "0"), refused(60), "{prefix} {reset}");
                assert_eq!(with(429, "0"), refused(60), "{prefix} {reset}");
                assert_eq!(with(200, "1"), answered(0), "{prefix} {reset}");
                assert_eq!(with(403, "1"), answered(0), "{prefix} {reset}");
                assert_eq!(with(429, "1"), Told::Refused(None), "{prefix} {reset}");
            }
        }
        // A refusal tells by itself that nothing is left.
        assert_eq!(told(429, &[("x-ratelimit-reset", "60")]), refused(60));
        assert_eq!(told(200, &[("x-ratelimit-reset", "60")]), answered(0));
        let past = (EPOCH - 60).to_string();
        assert_eq!(told(200, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &past)]), answered(0));
    }

    #[test]
    fn header_of_the_draft_is_read_in_both_forms() {
        for (text, wait) in [
            ("\"default\";r=0;t=30", 30),
            ("default;r=0;t=30", 30),
            ("\"burst\";r=0;t=5, \"day\";r=0;t=3000, \"hour\";r=9;t=9000", 3000),
            ("\"default\";r=7;t=30", 0),
            ("limit=10, remaining=0, reset=30", 30),
            ("limit=10, remaining=1, reset=30", 0),
        ] {
            assert_eq!(told(200, &[("RateLimit", text)]), answered(wait), "{text}");
        }
        let several = [("ratelimit", "\"a\";r=0;t=5"), ("ratelimit", "\"b\";r=0;t=7")];
        assert_eq!(told(200, &several), answered(7));
        let policy = [("ratelimit", "\"b\";r=0"), ("ratelimit-policy", "\"a\";q=9;w=9, \"b\";q=10;w=60")];
        assert_eq!(told(200, &policy), answered(60));
    }
}
