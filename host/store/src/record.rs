//! Between the types of the model and the columns of a table.

use std::{fmt::Display, str::FromStr, time::Duration};

use keyward_model::{Principal, PrincipalKind};
use serde::{Serialize, de::DeserializeOwned};
use time::OffsetDateTime;

use crate::DatabaseError;

/// The time of the database, microseconds since 1970. It is the same within one statement.
macro_rules! now {
    () => {
        "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
    };
}
pub(crate) use now;

/// The latest time at which a lease that was taken by now can end. A later one was taken before the clock was set back,
/// and waiting for its end could take years. It is little more than the longest lease that anybody asks for, because a
/// clock that was set back by less holds the lease of a killed process that much longer.
macro_rules! latest {
    () => {
        concat!("(", now!(), " + 120000000)")
    };
}
pub(crate) use latest;

/// The longest lease, as [`latest`] has it.
const LONGEST: Duration = Duration::from_secs(120);

/// Microseconds since 1970; what is finer is cut.
pub(crate) fn micros(at: OffsetDateTime) -> i64 {
    // The type ends in the year 9999, which is far below the limit of 64 bits.
    at.unix_timestamp_nanos().div_euclid(1_000) as i64
}

/// The time of a column.
pub(crate) fn time(micros: i64) -> Result<OffsetDateTime, DatabaseError> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).map_err(|error| unreadable("time", error))
}

/// The length of a lease in microseconds.
pub(crate) fn length(ttl: Duration) -> i64 {
    ttl.min(LONGEST).as_micros() as i64
}

/// A count as a column has it.
pub(crate) fn signed(count: u64) -> Result<i64, DatabaseError> {
    i64::try_from(count).map_err(|_| DatabaseError::Misused("a count is larger than the database can hold"))
}

/// The count of a column.
pub(crate) fn count<T: TryFrom<i64>>(what: &'static str, value: i64) -> Result<T, DatabaseError> {
    T::try_from(value).map_err(|_| unreadable(what, "it is out of range"))
}

/// An id or another text with a form of its own.
pub(crate) fn parsed<T: FromStr<Err: Display>>(what: &'static str, text: &str) -> Result<T, DatabaseError> {
    text.parse().map_err(|error| unreadable(what, error))
}

/// A structured value as JSON text.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, DatabaseError> {
    serde_json::to_string(value).map_err(|_| DatabaseError::Misused("a value cannot be written as JSON"))
}

/// The structured value of a column.
pub(crate) fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, DatabaseError> {
    serde_json::from_str(text).map_err(|error| unreadable(what, error))
}

/// The kind of a principal as a column has it.
pub(crate) fn kind(principal: &Principal) -> &'static str {
    match principal.kind {
        PrincipalKind::LocalAdministrator => "local-administrator",
        PrincipalKind::User => "user",
        PrincipalKind::Client => "client",
    }
}

/// The principal of two columns.
pub(crate) fn principal(kind: &str, id: String) -> Result<Principal, DatabaseError> {
    let kind = match kind {
        "local-administrator" => PrincipalKind::LocalAdministrator,
        "user" => PrincipalKind::User,
        "client" => PrincipalKind::Client,
        other => return Err(unreadable("principal", format!("there is no kind {other:?}"))),
    };
    Ok(Principal { kind, id })
}

pub(crate) fn unreadable(what: &'static str, why: impl Display) -> DatabaseError {
    DatabaseError::Unreadable { what, why: why.to_string() }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn times_are_cut_to_microseconds_and_read_back() {
        let at = datetime!(2026-11-22 13:14:15.123456789 +02:00);
        assert_eq!(time(micros(at)).unwrap(), datetime!(2026-11-22 11:14:15.123456 UTC));
        assert_eq!(
            time(micros(datetime!(1969-12-31 23:59:59.999999900 UTC))).unwrap(),
            datetime!(1969-12-31 23:59:59.999999 UTC)
        );
        assert!(micros(datetime!(9999-12-31 23:59:59 UTC)) > 0);
        assert!(time(i64::MAX).is_err());
    }

    #[test]
    fn principals_read_back_as_written() {
        for kind_ in [PrincipalKind::LocalAdministrator, PrincipalKind::User, PrincipalKind::Client] {
            let written = Principal { kind: kind_, id: "a:b".to_owned() };
            assert_eq!(principal(kind(&written), written.id.clone()).unwrap(), written);
        }
        assert!(principal("robot", String::new()).is_err());
    }
}
