//! Bodies in which the host places a part of the credential, or that it signs.
//!
//! The guest's bytes stay as they are; the vault puts the fields before them. So the check is that there is one way to
//! read the body and that none of its fields could be taken for the host's.

use std::fmt;

use http::{
    HeaderMap, HeaderName, Method,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use keyward_model::{Body, Reason, manifest::Placement};
use percent_encoding::percent_decode_str;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::{error::Refusal, headers::same_name, host::cut, placement::reads_body, query::may_read_as};

/// The longest body in which the host places anything, bytes.
const MAX_BODY: usize = 8 << 20;

/// What to do about a streamed body: one that is not longer comes here whole.
const SHORTER: &str = "send at most 8 MiB, or the body at once";

/// What the placements make of the body.
enum Kind {
    Form,
    Json,
}

/// The longest body of which a placement may need all, bytes; none where no placement does.
pub(crate) fn whole(placements: &[Placement]) -> Option<usize> {
    (kind(placements).is_some() || placements.iter().any(reads_body)).then_some(MAX_BODY)
}

/// Checks that a body whose bytes are signed is not streamed, and that the host can place the credential in the body,
/// where it goes there:
/// 1. The method has a body, and it is not streamed.
/// 2. It has the placement's content type, in UTF-8 and without a content encoding; an empty body may have no type.
/// 3. It is at most 8 MiB, and well formed: a form without control characters, or a JSON object (RFC 8259).
/// 4. No field or member of its own could be taken for one of the host's. Forms are read by the rules of a query, and
///    at `;` as well as at `&`; names of members are compared decoded and without letter case.
pub(crate) fn check(
    placements: &[Placement],
    method: &Method,
    headers: &HeaderMap,
    body: &Body,
) -> Result<(), Refusal> {
    if matches!(body, Body::Stream { .. }) && placements.iter().any(reads_body) {
        let message = "the body is streamed, and its bytes are in the signature";
        return Err(refusal(message.to_owned()).hint(SHORTER));
    }
    let Some(kind) = kind(placements) else { return Ok(()) };
    check_method(placements, method)?;
    let bytes: &[u8] = match body {
        Body::Empty => &[],
        Body::Bytes(bytes) => bytes,
        Body::Stream { .. } => {
            return Err(
                refusal("the body is streamed, and the host places the credential in it".to_owned()).hint(SHORTER)
            );
        }
    };
    if bytes.len() > MAX_BODY {
        return Err(refusal(format!(
            "the body in which the host places the credential has more than {MAX_BODY} bytes"
        )));
    }
    check_type(&kind, headers, bytes.is_empty())?;
    if bytes.is_empty() {
        return Ok(());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| refusal("the body is not UTF-8".to_owned()))?;
    match kind {
        Kind::Form => check_form(placements, text),
        Kind::Json => check_json(placements, text),
    }
}

fn kind(placements: &[Placement]) -> Option<Kind> {
    placements.iter().find_map(|placement| match placement {
        Placement::Form { .. } => Some(Kind::Form),
        Placement::Json { .. } => Some(Kind::Json),
        _ => None,
    })
}

/// Checks that requests with this method have a body, where the credential goes there.
pub(crate) fn check_method(placements: &[Placement], method: &Method) -> Result<(), Refusal> {
    if kind(placements).is_none() || !matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    Err(refusal(format!("a {method} request has no body, and the host places the credential there"))
        .hint("let the request be one with a body, or name an endpoint with `credential = false`"))
}

/// Whether some server reads both names of members as one: without letter case, as Go does.
pub(crate) fn is_same_member(a: &str, b: &str) -> bool {
    let fold = |name: &str| name.to_uppercase().to_lowercase();
    fold(a) == fold(b)
}

fn refusal(message: String) -> Refusal {
    Refusal::new(Reason::BodyNotAllowed, message)
}

fn own(name: &str) -> Refusal {
    refusal(format!("the field {:?} of the body is where the host places the credential", cut(name)))
        .hint("leave the field out")
}

fn check_type(kind: &Kind, headers: &HeaderMap, is_empty: bool) -> Result<(), Refusal> {
    let wanted = match kind {
        Kind::Form => "application/x-www-form-urlencoded",
        Kind::Json => "application/json",
    };
    let is_other = |name: &HeaderName, of: &HeaderName| name != of && same_name(name.as_str(), of.as_str());
    let [kind_of, encoding] = [CONTENT_TYPE, CONTENT_ENCODING];
    if let Some(name) = headers.keys().find(|name| is_other(name, &kind_of) || is_other(name, &encoding)) {
        return Err(
            refusal(format!("a server may read the header {name} as what tells the body's type")).hint("leave it out")
        );
    }
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(refusal("the body is encoded, and the host places the credential in it".to_owned())
            .hint("leave content-encoding out"));
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let is_wanted = match (types.next(), types.next()) {
        (None, None) => is_empty,
        (Some(one), None) => one.to_str().is_ok_and(|one| {
            let mut pieces = one.split(';').map(|piece| piece.trim().to_ascii_lowercase());
            let essence = pieces.next().unwrap_or_default();
            let suits = essence == wanted
                || matches!(kind, Kind::Json) && essence.starts_with("application/") && essence.ends_with("+json");
            suits
                && pieces.all(|parameter| {
                    !parameter.starts_with("charset") || parameter.replace(['"', ' '], "") == "charset=utf-8"
                })
        }),
        _ => false,
    };
    match is_wanted {
        true => Ok(()),
        false => Err(refusal("the host places the credential in the body, and it has another type".to_owned())
            .hint(format!("send `content-type: {wanted}` and a body of that type, in UTF-8"))),
    }
}

fn check_form(placements: &[Placement], text: &str) -> Result<(), Refusal> {
    if text.contains(char::is_control) {
        return Err(refusal("the form has a control character".to_owned()).hint("percent-encode it"));
    }
    for piece in text.split(['&', ';']) {
        let name = piece.split('=').next().unwrap_or_default().replace('+', " ");
        let name = percent_decode_str(&name)
            .decode_utf8()
            .map_err(|_| refusal("the name of a form's field is not UTF-8".to_owned()))?;
        let is_own =
            |placement: &Placement| matches!(placement, Placement::Form { name: own, .. } if may_read_as(&name, own));
        if placements.iter().any(is_own) || name.contains(char::is_control) {
            return Err(own(&name));
        }
    }
    Ok(())
}

fn check_json(placements: &[Placement], text: &str) -> Result<(), Refusal> {
    let mut found = None;
    let mut json = serde_json::Deserializer::from_str(text);
    let read = Members { placements, found: &mut found }.deserialize(&mut json).and_then(|()| json.end());
    match (read, found) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(name)) => Err(own(&name)),
        (Err(_), _) => Err(refusal("the body is not a JSON object".to_owned())
            .hint("the host places the credential in it as a member")),
    }
}

/// Reads an object and notes a member that could be taken for the host's. Nothing of the values is kept.
struct Members<'a> {
    placements: &'a [Placement],
    found: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let is_own = |placement: &Placement| matches!(placement, Placement::Json { name: own, .. } if is_same_member(own, &name));
            if self.placements.iter().any(is_own) {
                self.found.get_or_insert(name);
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const FORM: &str = "application/x-www-form-urlencoded";

    fn checked(place: &str, method: &str, headers: &[(&str, &str)], body: Body) -> Result<(), Reason> {
        let name = "api_key".to_owned();
        let place = match place {
            "form" => Placement::Form { name, part: Default::default() },
            _ => Placement::Json { name, part: Default::default() },
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        check(&[Placement::Basic, place], &method.parse().unwrap(), &map, &body).map_err(|refusal| refusal.reason)
    }

    fn form(text: &str) -> Result<(), Reason> {
        checked("form", "POST", &[("content-type", FORM)], Body::Bytes(text.to_owned().into()))
    }

    fn json(text: &[u8]) -> Result<(), Reason> {
        checked("json", "POST", &[("content-type", "application/json")], Body::Bytes(text.to_vec().into()))
    }

    #[test]
    fn field_that_could_be_taken_for_the_hosts_is_refused() {
        for text in ["a=1&b=2", "a", "a=api_key", "a[api_key]=1", "api_keys=1", "q=%3B+x", "a=1&"] {
            assert_eq!(form(text), Ok(()), "{text}");
        }
        for text in [
            "api_key=1",
            "a=1&api_key=1",
            "a=1&API%5fKEY=1",
            "a=1;api_key=1",
            "api.key=1",
            "api_key[]=1",
            "api_key",
            "+api_key=1",
            "a=1&%00api_key=1",
            "a=1\r\napi_key=1",
            "%ff=1",
        ] {
            assert_eq!(form(text), Err(Reason::BodyNotAllowed), "{text}");
        }
    }

    #[test]
    fn member_that_could_be_taken_for_the_hosts_is_refused() {
        let deep = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
        for text in [
            deep.as_bytes(),
            &br#"{}"#[..],
            br#" { "a" : {"api_key": 1}, "b": ["api_key"] } "#,
            br#"{"a": 12345678901234567890123, "a": 2}"#,
            br#"{"api_keys": 1}"#,
        ] {
            assert_eq!(json(text), Ok(()), "{:.40}", String::from_utf8_lossy(text));
        }
        for text in [
            &br#"{"api_key": 1}"#[..],
            br#"{"a": 1, "api_key": null}"#,
            br#"{"\u0061pi_key": 1}"#,
            br#"{"API_KEY": 1}"#,
            "{\"api_\u{212a}ey\": 1}".as_bytes(),
            br#"[{"a": 1}]"#,
            br#""a""#,
            br#"{"a": 1} {"api_key": 1}"#,
            br#"{"a": 1"#,
            br#"{"a": 1,}"#,
            br#"{'a': 1}"#,
            b"\xef\xbb\xbf{}",
            b"{\"a\": \"\xff\"}",
            b"\xff\xfe{\0}\0",
            b" ",
        ] {
            assert_eq!(json(text), Err(Reason::BodyNotAllowed), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn type_is_the_one_that_the_host_places_in() {
        let bytes = || Body::Bytes("a=1".into());
        let refused = Err(Reason::BodyNotAllowed);
        for (headers, expected) in [
            (&[("content-type", FORM)][..], Ok(())),
            (&[("content-type", "Application/X-WWW-Form-Urlencoded; charset=\"UTF-8\"")], Ok(())),
            (&[], refused),
            (&[("content-type", "text/plain")], refused),
            (&[("content-type", "application/json")], refused),
            (&[("content-type", "application/x-www-form-urlencoded; charset=utf-16")], refused),
            (&[("content-type", "application/x-www-form-urlencoded; charset = utf-7")], refused),
            (&[("content-type", FORM), ("content-type", FORM)], refused),
            (&[("content-type", FORM), ("content-encoding", "gzip")], refused),
            (&[("content-type", FORM), ("content_type", "text/plain")], refused),
            (&[("content-type", FORM), ("content_encoding", "gzip")], refused),
        ] {
            assert_eq!(checked("form", "POST", headers, bytes()), expected, "{headers:?}");
        }
        let patch = [("content-type", "application/merge-patch+json")];
        assert_eq!(checked("json", "PATCH", &patch, Body::Bytes("{}".into())), Ok(()));
        assert_eq!(checked("json", "POST", &[], Body::Empty), Ok(()));
        assert_eq!(checked("json", "POST", &[("content-type", "text/plain")], Body::Empty), refused);
    }

    #[test]
    fn streamed_body_is_refused_where_its_bytes_are_signed() {
        for (message, value, expected) in [
            ("{body}", "{signature}", Err(Reason::BodyNotAllowed)),
            ("{body-sha256-hex}", "{signature}", Err(Reason::BodyNotAllowed)),
            ("{url}", "{body-sha512-base64} {signature}", Err(Reason::BodyNotAllowed)),
            ("{url}", "{signature}", Ok(())),
        ] {
            let hmac = format!(
                r#"{{"in": "hmac", "hash": "sha256", "message": "{message}", "headers": {{"x-sign": "{value}"}}}}"#
            );
            let placements = [serde_json::from_str(&hmac).unwrap()];
            let check = |body| check(&placements, &Method::POST, &HeaderMap::new(), &body).map_err(|e| e.reason);
            let chunks = Box::pin(futures_util::stream::empty());
            assert_eq!(check(Body::Stream { length: None, chunks }), expected, "{message} {value}");
            assert_eq!(check(Body::Bytes("body".into())), Ok(()), "{message} {value}");
        }
    }

    #[test]
    fn body_that_the_host_cannot_place_in_is_refused() {
        let stream = Body::Stream { length: Some(2), chunks: Box::pin(futures_util::stream::empty()) };
        let json = [("content-type", "application/json")];
        for (method, body) in [
            ("GET", Body::Empty),
            ("HEAD", Body::Empty),
            ("POST", stream),
            ("POST", Body::Bytes(vec![b' '; MAX_BODY + 1].into())),
        ] {
            assert_eq!(checked("json", method, &json, body), Err(Reason::BodyNotAllowed), "{method}");
        }
        let stream = Body::Stream { length: Some(2), chunks: Box::pin(futures_util::stream::empty()) };
        let header = Placement::Header { name: "x-key".into(), prefix: String::new(), part: Default::default() };
        assert!(check(&[header], &Method::POST, &HeaderMap::new(), &stream).is_ok());
    }
}
