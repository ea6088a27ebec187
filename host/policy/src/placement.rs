//! Where a manifest may put the credential.

use std::slice;

use http::HeaderName;
use keyward_model::manifest::{Part, Placement};

use crate::{
    body,
    error::RuleError,
    headers::{FOR_CREDENTIALS, reserved, same_name},
    host::cut,
    query::{is_credential, may_read_as},
};

/// The most places of one connector.
const MAX_PLACES: usize = 8;

/// The longest name of a place, bytes.
const MAX_NAME: usize = 128;

/// A fault, with the index of the place and the key in it.
type Fault = (usize, &'static str, RuleError);

/// Checks where a manifest puts the credential: each place by itself, and that no two are one.
pub(crate) fn check(placements: &[Placement]) -> Vec<Fault> {
    let mut faults: Vec<Fault> = placements
        .iter()
        .enumerate()
        .filter_map(|(index, placement)| check_one(placement).err().map(|(key, error)| (index, key, error)))
        .collect();
    if placements.len() > MAX_PLACES {
        let error = RuleError::new(format!("the credential goes to more than {MAX_PLACES} places"));
        faults.push((MAX_PLACES, "in", error));
    }
    for (index, placement) in placements.iter().enumerate() {
        if let Some(other) = placements[..index].iter().position(|other| are_one(other, placement)) {
            let error =
                RuleError::new(format!("two parts of the credential go to the same place, this and number {other}"));
            faults.push((index, "in", error.hint("numbers begin at 0; a body has one type, and a header one value")));
        }
    }
    faults
}

fn check_one(placement: &Placement) -> Result<(), (&'static str, RuleError)> {
    let name_fault = |error: RuleError| ("name", error);
    if let Some(Part::Field(name)) = part(placement)
        && name.parse::<keyward_model::ConnectorName>().is_err()
    {
        let error = RuleError::new(format!("{:?} is not a part of a credential", cut(name)));
        return Err(("part", error.hint("use `token`, `username`, `password`, or the name of a field of the connection: a-z, 0-9 and single '-'")));
    }
    match placement {
        Placement::Header { name, prefix, .. } => {
            if name.len() > MAX_NAME || HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(name_fault(RuleError::new(format!("{:?} is not a header name", cut(name)))));
            }
            if let Some((of_host, why)) = reserved(name)
                && !FOR_CREDENTIALS.contains(of_host)
            {
                let message = format!("the header {:?} cannot hold a credential: {why}", cut(name));
                return Err(name_fault(RuleError::new(message)));
            }
            if prefix.len() > 64 || !prefix.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
                let message = "the prefix of a credential is more than 64 characters or not printable ASCII";
                return Err(("prefix", RuleError::new(message)));
            }
            if prefix.starts_with(' ') {
                return Err(("prefix", RuleError::new("the prefix of a credential starts with a space")));
            }
            Ok(())
        }
        Placement::Query { name, .. } => plain(name, "a query name", "-._~$").map_err(name_fault),
        Placement::Form { name, .. } => plain(name, "the name of a form's field", "-._~$").map_err(name_fault),
        Placement::Json { name, .. } => plain(name, "the name of a member", "-._~$").map_err(name_fault),
        // A token by RFC 6265 section 4.1.1.
        Placement::Cookie { name, .. } => plain(name, "the name of a cookie", "!#$%&'*+-.^_`|~").map_err(name_fault),
        Placement::AwsSigv4 { region, service } => scope("region", region).and(scope("service", service)),
        Placement::Basic | Placement::Path { .. } => Ok(()),
    }
}

/// A word of a credential's scope in AWS Signature Version 4.
fn scope(key: &'static str, word: &str) -> Result<(), (&'static str, RuleError)> {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !word.is_empty() && word.len() <= 64 && word.bytes().all(is_plain) {
        return Ok(());
    }
    Err((key, RuleError::new(format!("{:?} is not the name of a {key}", cut(word))).hint("use a-z, 0-9 and '-'")))
}

/// Whether the header is one of those that the host sets for the placement, in any spelling that a server may take for
/// it.
pub(crate) fn sets_header(placement: &Placement, name: &str) -> bool {
    headers(placement).iter().any(|own| same_name(own.name(), name))
}

fn plain(name: &str, what: &str, others: &str) -> Result<(), RuleError> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || others.as_bytes().contains(&b);
    if !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(is_plain) {
        return Ok(());
    }
    Err(RuleError::new(format!("{:?} is not {what} for a credential", cut(name)))
        .hint(format!("use letters, digits and any of `{others}`")))
}

/// What is placed, where it can be named.
fn part(placement: &Placement) -> Option<&Part> {
    match placement {
        Placement::Header { part, .. }
        | Placement::Query { part, .. }
        | Placement::Cookie { part, .. }
        | Placement::Path { part }
        | Placement::Form { part, .. }
        | Placement::Json { part, .. } => Some(part),
        Placement::Basic | Placement::AwsSigv4 { .. } => None,
    }
}

/// Whether the one would take the place of the other, or a server could take the one for the other.
fn are_one(a: &Placement, b: &Placement) -> bool {
    let is_one = |a: &Header<'_>, b: &Header<'_>| match (a, b) {
        (Header::Cookie(a), Header::Cookie(b)) => a.eq_ignore_ascii_case(b),
        _ => same_name(a.name(), b.name()),
    };
    if headers(a).iter().any(|a| headers(b).iter().any(|b| is_one(a, b))) {
        return true;
    }
    match (a, b) {
        (Placement::Json { name: a, .. }, Placement::Json { name: b, .. }) => body::is_same_member(a, b),
        (Placement::Query { name, .. }, other) | (other, Placement::Query { name, .. }) => {
            is_credential(name, slice::from_ref(other))
        }
        (Placement::Form { name: a, .. }, Placement::Form { name: b, .. }) => may_read_as(a, b),
        (Placement::Form { .. }, Placement::Json { .. }) | (Placement::Json { .. }, Placement::Form { .. }) => true,
        (Placement::Path { .. }, Placement::Path { .. }) => true,
        _ => false,
    }
}

/// A header that the host sets.
enum Header<'a> {
    Whole(&'a str),
    Cookie(&'a str),
}

impl Header<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Whole(name) => name,
            Self::Cookie(_) => "cookie",
        }
    }
}

/// The headers that it goes to.
fn headers(placement: &Placement) -> Vec<Header<'_>> {
    match placement {
        Placement::Header { name, .. } => vec![Header::Whole(name)],
        Placement::Basic => vec![Header::Whole("authorization")],
        Placement::Cookie { name, .. } => vec![Header::Cookie(name)],
        Placement::AwsSigv4 { .. } => {
            ["authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"].map(Header::Whole).into()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const AWS: &str = r#"{"in": "aws-sigv4", "region": "eu-central-1", "service": "s3"}"#;

    fn read(text: &str) -> Placement {
        serde_json::from_str(text).unwrap()
    }

    fn one(text: &str) -> Result<(), &'static str> {
        match check(&[read(text)]).as_slice() {
            [] => Ok(()),
            [(0, key, _), ..] => Err(key),
            _ => panic!("a fault of another place"),
        }
    }

    #[test]
    fn credential_goes_where_no_other_meaning_is() {
        for text in [
            r#"{"in": "header", "name": "Authorization", "prefix": "Bearer "}"#,
            r#"{"in": "header", "name": "X-Api-Key"}"#,
            r#"{"in": "header", "name": "Cookie", "prefix": "session="}"#,
            r#"{"in": "header", "name": "Private-Token", "part": "client-id"}"#,
            r#"{"in": "query", "name": "api_key"}"#,
            r#"{"in": "cookie", "name": "__Host-session", "part": "password"}"#,
            r#"{"in": "path"}"#,
            r#"{"in": "form", "name": "client_secret", "part": "username"}"#,
            r#"{"in": "json", "name": "secret"}"#,
            r#"{"in": "basic"}"#,
            r#"{"in": "aws-sigv4", "region": "eu-central-1", "service": "s3"}"#,
        ] {
            assert_eq!(one(text), Ok(()), "{text}");
        }
        for (text, key) in [
            (r#"{"in": "header", "name": "Host"}"#, "name"),
            (r#"{"in": "header", "name": "Content-Length"}"#, "name"),
            (r#"{"in": "header", "name": "Proxy-Authorization"}"#, "name"),
            (r#"{"in": "header", "name": "a b"}"#, "name"),
            (r#"{"in": "header", "name": ""}"#, "name"),
            (r#"{"in": "header", "name": "X-Key", "prefix": "a\nb"}"#, "prefix"),
            (r#"{"in": "header", "name": "X-Key", "prefix": "é"}"#, "prefix"),
            (r#"{"in": "header", "name": "X-Key", "prefix": " a"}"#, "prefix"),
            (r#"{"in": "header", "name": "X-Key", "part": "Token"}"#, "part"),
            (r#"{"in": "path", "part": ""}"#, "part"),
            (r#"{"in": "query", "name": ""}"#, "name"),
            (r#"{"in": "query", "name": "a&b"}"#, "name"),
            (r#"{"in": "form", "name": "a=b"}"#, "name"),
            (r#"{"in": "form", "name": "a b"}"#, "name"),
            (r#"{"in": "json", "name": "a\"b"}"#, "name"),
            (r#"{"in": "json", "name": "é"}"#, "name"),
            (r#"{"in": "cookie", "name": "a;b"}"#, "name"),
            (r#"{"in": "cookie", "name": "a=b"}"#, "name"),
            (r#"{"in": "aws-sigv4", "region": "", "service": "s3"}"#, "region"),
            (r#"{"in": "aws-sigv4", "region": "eu-central-1", "service": "s3/x"}"#, "service"),
        ] {
            assert_eq!(one(text), Err(key), "{text}");
        }
    }

    #[test]
    fn two_parts_never_go_to_one_place() {
        for (a, b, same) in [
            (r#"{"in": "basic"}"#, r#"{"in": "header", "name": "AUTHORIZATION"}"#, true),
            (r#"{"in": "header", "name": "X-Key"}"#, r#"{"in": "header", "name": "x_key"}"#, true),
            (r#"{"in": "header", "name": "cookie"}"#, r#"{"in": "cookie", "name": "a"}"#, true),
            (r#"{"in": "cookie", "name": "a"}"#, r#"{"in": "cookie", "name": "A"}"#, true),
            (r#"{"in": "query", "name": "api_key"}"#, r#"{"in": "query", "name": "Api.Key"}"#, true),
            (r#"{"in": "form", "name": "a"}"#, r#"{"in": "json", "name": "b"}"#, true),
            (r#"{"in": "json", "name": "key"}"#, r#"{"in": "json", "name": "Key"}"#, true),
            (r#"{"in": "path"}"#, r#"{"in": "path", "part": "password"}"#, true),
            (r#"{"in": "cookie", "name": "a"}"#, r#"{"in": "cookie", "name": "b"}"#, false),
            (r#"{"in": "basic"}"#, r#"{"in": "header", "name": "Client-Id"}"#, false),
            (r#"{"in": "json", "name": "a"}"#, r#"{"in": "json", "name": "b"}"#, false),
            (r#"{"in": "query", "name": "a"}"#, r#"{"in": "form", "name": "A"}"#, true),
            (r#"{"in": "json", "name": "a"}"#, r#"{"in": "query", "name": "a"}"#, true),
            (r#"{"in": "query", "name": "a"}"#, r#"{"in": "form", "name": "b"}"#, false),
            (r#"{"in": "query", "name": "a"}"#, r#"{"in": "header", "name": "a"}"#, false),
            (AWS, r#"{"in": "basic"}"#, true),
            (AWS, r#"{"in": "header", "name": "X-Amz-Date"}"#, true),
            (AWS, AWS, true),
            (AWS, r#"{"in": "header", "name": "X-Amz-Target"}"#, false),
        ] {
            let faults = check(&[read(a), read(b)]);
            assert_eq!(faults.first().map(|(index, ..)| *index), same.then_some(1), "{a} {b}");
        }
        let many: Vec<_> = (0..9).map(|n| read(&format!(r#"{{"in": "query", "name": "a{n}"}}"#))).collect();
        assert_eq!((check(&many).len(), check(&many[1..]).len()), (1, 0));
    }
}
