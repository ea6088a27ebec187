//! Where a manifest may put the credential.

use std::slice;

use http::HeaderName;
use keyward_model::manifest::{Hmac, Jwt, KeyEncoding, Part, Placement};

use crate::{
    body,
    error::RuleError,
    headers::{FOR_CREDENTIALS, reserved, same_name},
    host::cut,
    query::{is_credential, may_read_as},
    value::{Slot, Use, ValueTemplate},
};

/// The most places of one connector.
const MAX_PLACES: usize = 8;

/// The longest name of a place, bytes.
const MAX_NAME: usize = 128;

/// A fault of one place, with the keys in it.
type Fault = (Vec<String>, RuleError);

/// A fault at one key.
fn at(key: &str) -> impl Fn(RuleError) -> Fault + use<> {
    let key = key.to_owned();
    move |error| (vec![key.clone()], error)
}

/// Checks where a manifest puts the credential: each place by itself, that no two are one, and that one at most signs
/// the request. A fault comes with the index of its place.
pub(crate) fn check(placements: &[Placement]) -> Vec<(usize, Fault)> {
    let mut faults: Vec<_> = placements
        .iter()
        .enumerate()
        .filter_map(|(index, placement)| Some((index, check_one(placement).err()?)))
        .collect();
    let mut fault = |index, error| faults.push((index, at("in")(error)));
    if placements.len() > MAX_PLACES {
        fault(MAX_PLACES, RuleError::new(format!("the credential goes to more than {MAX_PLACES} places")));
    }
    if let Some((index, _)) = placements.iter().enumerate().filter(|(_, placement)| signs(placement)).nth(1) {
        let error = RuleError::new("two places sign the request");
        fault(index, error.hint("one signature is made last, of everything that the others have placed"));
    }
    for (index, placement) in placements.iter().enumerate() {
        if let Some(other) = placements[..index].iter().position(|other| are_one(other, placement)) {
            let error =
                RuleError::new(format!("two parts of the credential go to the same place, this and number {other}"));
            fault(index, error.hint("numbers begin at 0; a body has one type, and a header one value"));
        }
    }
    faults
}

fn check_one(placement: &Placement) -> Result<(), Fault> {
    if let Some(Part::Field(name)) = part(placement)
        && name.parse::<keyward_model::ConnectorName>().is_err()
    {
        let error = RuleError::new(format!("{:?} is not a part of a credential", cut(name)));
        return Err(at("part")(error.hint(
            "use `token`, `username`, `password`, or the name of a field of the connection: a-z, 0-9 and single '-'",
        )));
    }
    match placement {
        Placement::Header { name, prefix, .. } => {
            check_header(name).map_err(at("name"))?;
            check_prefix(prefix).map_err(at("prefix"))
        }
        Placement::Query { name, .. } => check_query(name).map_err(at("name")),
        Placement::Form { name, .. } => plain(name, "the name of a form's field", "-._~$").map_err(at("name")),
        Placement::Json { name, .. } => plain(name, "the name of a member", "-._~$").map_err(at("name")),
        // A token by RFC 6265 section 4.1.1.
        Placement::Cookie { name, .. } => plain(name, "the name of a cookie", "!#$%&'*+-.^_`|~").map_err(at("name")),
        Placement::AwsSigv4 { region, service } => scope("region", region).and(scope("service", service)),
        Placement::Hmac(hmac) => check_hmac(hmac),
        Placement::Jwt(jwt) => check_jwt(jwt),
        Placement::Basic | Placement::Path { .. } | Placement::Digest { .. } => Ok(()),
    }
}

fn check_header(name: &str) -> Result<(), RuleError> {
    if name.len() > MAX_NAME || HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err(RuleError::new(format!("{:?} is not a header name", cut(name))));
    }
    match reserved(name) {
        Some((of_host, why)) if !FOR_CREDENTIALS.contains(of_host) => {
            Err(RuleError::new(format!("the header {:?} cannot hold a credential: {why}", cut(name))))
        }
        _ => Ok(()),
    }
}

fn check_prefix(prefix: &str) -> Result<(), RuleError> {
    if prefix.len() > 64 || !prefix.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return Err(RuleError::new("the prefix of a credential is more than 64 characters or not printable ASCII"));
    }
    if prefix.starts_with(' ') {
        return Err(RuleError::new("the prefix of a credential starts with a space"));
    }
    Ok(())
}

fn check_query(name: &str) -> Result<(), RuleError> {
    plain(name, "a query name", "-._~$")
}

/// Checks that each template can be read, that the signature goes somewhere, that it is another one for another
/// request, and that no two names are one.
fn check_hmac(hmac: &Hmac) -> Result<(), Fault> {
    let message = ValueTemplate::parse(&hmac.message, Use::Message).map_err(at("message"))?;
    if message.slots().all(|slot| matches!(slot, Slot::Part(_))) {
        let error = RuleError::new("nothing of the request is signed");
        return Err(at("message")(error.hint("for example \"{timestamp}{method}{path-and-query}{body}\"")));
    }
    if hmac.headers.len() + hmac.query.len() > MAX_PLACES {
        let error = RuleError::new(format!("a signature brings more than {MAX_PLACES} headers and parameters"));
        return Err(at("headers")(error));
    }
    let mut is_placed = false;
    let values = hmac.headers.iter().map(|pair| ("headers", pair)).chain(hmac.query.iter().map(|pair| ("query", pair)));
    for (key, (name, value)) in values {
        let here = |error: RuleError| (vec![key.to_owned(), name.clone()], error);
        let (is_sound, is_same): (_, fn(&str, &str) -> bool) =
            if key == "headers" { (check_header(name), same_name) } else { (check_query(name), may_read_as) };
        is_sound.map_err(here)?;
        let names = if key == "headers" { &hmac.headers } else { &hmac.query };
        if names.keys().any(|other| other < name && is_same(other, name)) {
            return Err(here(RuleError::new(format!("{:?} stands twice, in two spellings", cut(name)))));
        }
        is_placed |= ValueTemplate::parse(value, Use::Value).map_err(here)?.has_signature();
    }
    if is_placed {
        return Ok(());
    }
    let error = RuleError::new("the signature goes nowhere");
    Err(at("in")(error.hint("add for example `headers = { x-signature = \"{signature}\" }`, or the same for `query`")))
}

/// The longest lifetime of a token, seconds.
const MAX_LIFETIME: u32 = 3600;

/// The longest time that a token is dated back, seconds.
const MAX_BACKDATE: u32 = 300;

/// The most claims of a token beside those that the host sets.
const MAX_CLAIMS: usize = 32;

/// Checks the header, that the key is one of the algorithm, the lifetime, and the claims.
fn check_jwt(jwt: &Jwt) -> Result<(), Fault> {
    check_header(&jwt.name).map_err(at("name"))?;
    check_prefix(&jwt.prefix).map_err(at("prefix"))?;
    if !jwt.algorithm.is_symmetric() {
        let error = || {
            RuleError::new(format!(
                "{} signs with the connection's signing key, and with no other",
                jwt.algorithm.as_str()
            ))
            .hint("leave it out; `keyward connect --method signing-key` gives the key")
        };
        if jwt.part != Part::Token {
            return Err(at("part")(error()));
        }
        if jwt.key_encoding != KeyEncoding::Text {
            return Err(at("key_encoding")(error()));
        }
    }
    if let Some(key_id) = &jwt.key_id {
        let template = ValueTemplate::parse(key_id, Use::Claim).map_err(at("key_id"))?;
        if template.slots().any(|slot| !matches!(slot, Slot::Part(_))) {
            return Err(at("key_id")(RuleError::new("only `{part:<name>}` has a meaning in the id of a key")));
        }
    }
    if jwt.lifetime_seconds == 0 || jwt.lifetime_seconds > MAX_LIFETIME {
        let error = RuleError::new(format!("a token lives from 1 to {MAX_LIFETIME} seconds"));
        return Err(at("lifetime_seconds")(error.hint("each request has a new one, so minutes are enough")));
    }
    if jwt.backdate_seconds > MAX_BACKDATE || jwt.backdate_seconds >= jwt.lifetime_seconds {
        let message = format!("a token is dated back {MAX_BACKDATE} seconds at most, and less than it lives");
        return Err(at("backdate_seconds")(RuleError::new(message)));
    }
    if jwt.claims.len() > MAX_CLAIMS {
        return Err(at("claims")(RuleError::new(format!("a token has more than {MAX_CLAIMS} claims"))));
    }
    for (name, claim) in &jwt.claims {
        let here = |error: RuleError| (vec!["claims".to_owned(), name.clone()], error);
        if ["iat", "exp", "nbf"].contains(&name.as_str()) {
            let error = RuleError::new(format!("the claim {name:?} is the host's"));
            return Err(here(error.hint("see `lifetime_seconds`, `backdate_seconds` and `not_before`")));
        }
        if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
            return Err(here(RuleError::new(format!("{:?} is not the name of a claim", cut(name)))));
        }
        if claim.templates().len() > MAX_CLAIMS {
            return Err(here(RuleError::new(format!("the claim {name:?} has more than {MAX_CLAIMS} values"))));
        }
        for text in claim.templates() {
            ValueTemplate::parse(text, Use::Claim).map_err(here)?;
        }
    }
    Ok(())
}

/// The templates that are filled to place it.
fn templates(placement: &Placement) -> Vec<ValueTemplate> {
    let read = |text: &String, of| ValueTemplate::parse(text, of).ok();
    match placement {
        Placement::Hmac(hmac) => {
            let values = hmac.headers.values().chain(hmac.query.values()).map(|value| (value, Use::Value));
            values.chain([(&hmac.message, Use::Message)]).filter_map(|(text, of)| read(text, of)).collect()
        }
        Placement::Jwt(jwt) => {
            let texts = jwt.claims.values().flat_map(keyward_model::manifest::Claim::templates);
            texts.filter_map(|text| read(text, Use::Claim)).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether it is of the request as a whole, so that everything else must be in its place before. At most one is.
pub fn signs(placement: &Placement) -> bool {
    matches!(placement, Placement::AwsSigv4 { .. } | Placement::Hmac(_))
        || templates(placement).iter().any(ValueTemplate::is_of_request)
}

/// Whether the bytes of the body are needed to place it.
pub(crate) fn reads_body(placement: &Placement) -> bool {
    matches!(placement, Placement::AwsSigv4 { service, .. } if !is_s3(service))
        || templates(placement).iter().any(ValueTemplate::reads_body)
}

/// Whether the service of AWS is one of S3's: they take a body whose digest is not signed, and paths as they are.
pub fn is_s3(service: &str) -> bool {
    matches!(service, "s3" | "s3express" | "s3-outposts" | "s3-object-lambda")
}

/// A word of a credential's scope in AWS Signature Version 4.
fn scope(key: &'static str, word: &str) -> Result<(), Fault> {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !word.is_empty() && word.len() <= 64 && word.bytes().all(is_plain) {
        return Ok(());
    }
    let error = RuleError::new(format!("{:?} is not the name of a {key}", cut(word)));
    Err(at(key)(error.hint("use a-z, 0-9 and '-'")))
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
        | Placement::Json { part, .. }
        | Placement::Hmac(Hmac { part, .. })
        | Placement::Jwt(Jwt { part, .. }) => Some(part),
        Placement::Basic | Placement::AwsSigv4 { .. } | Placement::Digest { .. } => None,
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
    let in_query = |a, b| queries(a).iter().any(|name| is_credential(name, slice::from_ref(b)));
    if in_query(a, b) || in_query(b, a) {
        return true;
    }
    match (a, b) {
        (Placement::Json { name: a, .. }, Placement::Json { name: b, .. }) => body::is_same_member(a, b),
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
        Placement::Header { name, .. } | Placement::Jwt(Jwt { name, .. }) => vec![Header::Whole(name)],
        Placement::Basic | Placement::Digest { .. } => vec![Header::Whole("authorization")],
        Placement::Cookie { name, .. } => vec![Header::Cookie(name)],
        Placement::AwsSigv4 { .. } => {
            ["authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"].map(Header::Whole).into()
        }
        Placement::Hmac(hmac) => hmac.headers.keys().map(|name| Header::Whole(name)).collect(),
        Placement::Query { .. } | Placement::Path { .. } | Placement::Form { .. } | Placement::Json { .. } => {
            Vec::new()
        }
    }
}

/// The parameters of the query that it goes to.
pub(crate) fn queries(placement: &Placement) -> Vec<&str> {
    match placement {
        Placement::Query { name, .. } => vec![name],
        Placement::Hmac(hmac) => hmac.query.keys().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const AWS: &str = r#"{"in": "aws-sigv4", "region": "eu-central-1", "service": "s3"}"#;

    const HMAC: &str = r#"{"in": "hmac", "hash": "sha256", "message": "{body}", "headers": {"x-sign": "{signature}"}, "query": {"time": "{timestamp}"}}"#;

    const ES256: &str = r#""algorithm": "ES256", "lifetime_seconds": 60"#;

    fn hmac(message: &str, headers: &str, query: &str) -> String {
        format!(r#"{{"in": "hmac", "hash": "sha256", "message": "{message}", "headers": {headers}, "query": {query}}}"#)
    }

    fn read(text: &str) -> Placement {
        serde_json::from_str(text).unwrap()
    }

    /// The keys of the first fault.
    fn one(text: &str) -> Result<(), String> {
        match check(&[read(text)]).as_slice() {
            [] => Ok(()),
            [(0, (keys, _)), ..] => Err(keys.join(".")),
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
            assert_eq!(one(text), Err(key.to_owned()), "{text}");
        }
    }

    #[test]
    fn signature_is_of_something_and_goes_somewhere() {
        let good = r#"{"Authorization": "App {part:api-key}:{nonce}:{signature}", "X-Time": "{timestamp}"}"#;
        for (message, headers, query, fault) in [
            ("{timestamp}.{body}", good, "{}", None),
            ("{query}", "{}", r#"{"timestamp": "{timestamp-ms}", "signature": "{signature}"}"#, None),
            ("{timestamp}.{bdy}", good, "{}", Some("message")),
            ("a{part:api-key}", good, "{}", Some("message")),
            ("{signature}", good, "{}", Some("message")),
            ("{body}", "{}", "{}", Some("in")),
            ("{body}", r#"{"x-time": "{timestamp}"}"#, "{}", Some("in")),
            ("{body}", r#"{"host": "{signature}"}"#, "{}", Some("headers.host")),
            ("{body}", r#"{"x-sign": "{body}"}"#, "{}", Some("headers.x-sign")),
            ("{body}", r#"{"X-Sign": "{signature}", "x_sign": "a"}"#, "{}", Some("headers.x_sign")),
            ("{body}", "{}", r#"{"a&b": "{signature}"}"#, Some("query.a&b")),
            ("{body}", "{}", r#"{"Sign": "{signature}", "sign": "a"}"#, Some("query.sign")),
        ] {
            let text = hmac(message, headers, query);
            assert_eq!(one(&text).err().as_deref(), fault, "{text}");
        }
    }

    fn jwt(rest: &str) -> String {
        format!(r#"{{"in": "jwt", "name": "authorization", {rest}}}"#)
    }

    #[test]
    fn token_has_a_key_of_its_algorithm_a_bounded_life_and_claims_that_are_not_the_hosts() {
        for (rest, fault) in [
            (r#""algorithm": "ES256", "lifetime_seconds": 1200, "claims": {"aud": ["a", "{part:b}"], "n": 1}"#, None),
            (r#""algorithm": "HS256", "lifetime_seconds": 60, "part": "key", "key_encoding": "hex""#, None),
            (r#""algorithm": "RS256", "lifetime_seconds": 600, "backdate_seconds": 60, "key_id": "{part:id}""#, None),
            (r#""algorithm": "ES256", "lifetime_seconds": 60, "claims": {"uri": "{method} {host}{path}"}"#, None),
            (r#""algorithm": "ES256", "lifetime_seconds": 0"#, Some("lifetime_seconds")),
            (r#""algorithm": "ES256", "lifetime_seconds": 3601"#, Some("lifetime_seconds")),
            (r#""algorithm": "ES256", "lifetime_seconds": 60, "backdate_seconds": 60"#, Some("backdate_seconds")),
            (r#""algorithm": "ES256", "lifetime_seconds": 900, "backdate_seconds": 301"#, Some("backdate_seconds")),
            (r#""algorithm": "ES256", "lifetime_seconds": 60, "part": "key""#, Some("part")),
            (r#""algorithm": "EdDSA", "lifetime_seconds": 60, "key_encoding": "hex""#, Some("key_encoding")),
            (r#""algorithm": "ES256", "lifetime_seconds": 60, "key_id": "{nonce}""#, Some("key_id")),
            (r#""algorithm": "ES256", "lifetime_seconds": 60, "claims": {"exp": 1}"#, Some("claims.exp")),
            (r#""algorithm": "ES256", "lifetime_seconds": 60, "claims": {"a": ["{body}"]}"#, Some("claims.a")),
            (r#""algorithm": "ES256", "lifetime_seconds": 60, "prefix": " x""#, Some("prefix")),
        ] {
            let text = jwt(rest);
            assert_eq!(one(&text).err().as_deref(), fault, "{text}");
        }
        assert_eq!(
            one(r#"{"in": "jwt", "name": "host", "algorithm": "ES256", "lifetime_seconds": 60}"#),
            Err("name".to_owned())
        );
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
            (AWS, &hmac("{body}", r#"{"x-sign": "{signature}"}"#, "{}"), true),
            (HMAC, r#"{"in": "header", "name": "X_Sign"}"#, true),
            (HMAC, r#"{"in": "query", "name": "Time"}"#, true),
            (HMAC, r#"{"in": "header", "name": "X-Key", "part": "api-key"}"#, false),
            (HMAC, r#"{"in": "form", "name": "time"}"#, true),
            (&jwt(ES256), r#"{"in": "basic"}"#, true),
            (&jwt(ES256), HMAC, false),
            (r#"{"in": "digest"}"#, r#"{"in": "basic"}"#, true),
            (r#"{"in": "digest", "weak": true}"#, HMAC, false),
            (&jwt(&format!(r#"{ES256}, "claims": {{"uri": "{{url}}"}}"#)), HMAC, true),
        ] {
            let faults = check(&[read(a), read(b)]);
            assert_eq!(faults.first().map(|(index, _)| *index), same.then_some(1), "{a} {b}");
        }
        let many: Vec<_> = (0..9).map(|n| read(&format!(r#"{{"in": "query", "name": "a{n}"}}"#))).collect();
        assert_eq!((check(&many).len(), check(&many[1..]).len()), (1, 0));
    }
}
