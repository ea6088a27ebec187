//! Headers that a guest may set.

use http::{HeaderMap, HeaderName, HeaderValue};
use keyward_model::{Reason, manifest::Placement};

use crate::{error::Refusal, host::cut, placement::sets_header};

/// The most headers of a request.
const MAX_HEADERS: usize = 100;
/// The most bytes of all names and values together.
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// Headers that belong to the host, with `-` in the place of `_`, because many servers take the two for one.
/// A name that ends in `*` stands for all that start so.
const OF_THE_HOST: &[(&str, &str)] = &[
    ("authorization", "the host places the credential"),
    ("cookie", "the host places the credential"),
    ("cookie2", "the host places the credential"),
    ("proxy-*", "it is for proxies"),
    ("host", "it follows from the URL"),
    ("accept-encoding", "the host negotiates compression and decodes it"),
    ("content-length", "it follows from the body"),
    ("transfer-encoding", "it follows from the body"),
    ("trailer", "trailers are not sent"),
    ("te", "trailers are not read"),
    ("connection", "it is for one hop"),
    ("keep-alive", "it is for one hop"),
    ("upgrade", "it is for one hop"),
    ("http2-settings", "it is for one hop"),
    ("expect", "it is for one hop"),
    ("forwarded", "it would claim another origin"),
    ("x-forwarded", "it would claim another origin"),
    ("x-forwarded-*", "it would claim another origin"),
    ("x-real-ip", "it would claim another origin"),
    ("x-client-ip", "it would claim another origin"),
    ("x-cluster-client-ip", "it would claim another origin"),
    ("true-client-ip", "it would claim another origin"),
    ("cf-connecting-ip", "it would claim another origin"),
    ("via", "it would claim another origin"),
    ("x-host", "it would name another host"),
    ("x-http-host-override", "it would name another host"),
    ("x-original-url", "it would name another path"),
    ("x-original-uri", "it would name another path"),
    ("x-rewrite-url", "it would name another path"),
    ("x-http-method", "it would name another method"),
    ("x-http-method-override", "it would name another method"),
    ("x-method-override", "it would name another method"),
];

/// Headers that ask for a part of a response, with `-` as above. In two parts a credential that comes back is not
/// found, so no request that carries one may ask so.
const FOR_PARTS: &[&str] = &["range", "if-range", "request-range"];

/// Headers that choose how a server encodes text, with `-` as above. In a rare encoding a credential that comes back is
/// not found, so no request that carries one may name another than those that are searched.
const FOR_CHARSETS: &[&str] = &["accept", "accept-charset"];
/// The encodings of text that are searched, in small letters.
const SEARCHED_CHARSETS: &[&str] = &["*", "utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1"];

/// Of the host's headers, those that a manifest may name as the credential's place.
pub(crate) const FOR_CREDENTIALS: &[&str] = &["authorization", "cookie"];

/// The entry of [`OF_THE_HOST`] that the name falls under.
pub(crate) fn reserved(name: &str) -> Option<&'static (&'static str, &'static str)> {
    let name = name.replace('_', "-").to_ascii_lowercase();
    OF_THE_HOST.iter().find(|(of_host, _)| match of_host.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *of_host,
    })
}

/// Whether some server reads both names as one.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    a.replace('_', "-").eq_ignore_ascii_case(&b.replace('_', "-"))
}

/// Checks a guest's headers. Nothing is dropped: what may not be sent is an error.
pub(crate) fn check(headers: Vec<(String, Vec<u8>)>, placements: &[Placement]) -> Result<HeaderMap, Refusal> {
    let malformed = |what: String| Refusal::new(Reason::HeaderMalformed, what);
    if headers.len() > MAX_HEADERS {
        return Err(malformed(format!("the request has more than {MAX_HEADERS} headers")));
    }
    if headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_HEADER_BYTES {
        return Err(malformed(format!("the request has more than {MAX_HEADER_BYTES} bytes of headers")));
    }
    let mut checked = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if let Some((_, why)) = reserved(&name) {
            return Err(Refusal::new(
                Reason::HeaderForbidden,
                format!("the header {:?} belongs to the host: {why}", cut(&name)),
            )
            .hint("leave the header out"));
        }
        if placements.iter().any(|placement| sets_header(placement, &name)) {
            return Err(Refusal::new(
                Reason::HeaderForbidden,
                format!("the header {:?} is where the host places the credential", cut(&name)),
            )
            .hint("leave the header out"));
        }
        if !placements.is_empty() && FOR_PARTS.iter().any(|of_part| same_name(of_part, &name)) {
            let what = format!(
                "the header {:?} asks for a part of a response, and the request carries a credential",
                cut(&name)
            );
            return Err(Refusal::new(Reason::HeaderForbidden, what)
                .hint("ask for the whole: the host cannot find a part of the credential in what comes back"));
        }
        if !placements.is_empty() && FOR_CHARSETS.iter().any(|of_charset| same_name(of_charset, &name)) {
            check_charset(&name, &value)?;
        }
        let name_checked = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| malformed(format!("{:?} is not a header name", cut(&name))))?;
        let value = HeaderValue::from_bytes(&value)
            .map_err(|_| malformed(format!("the value of the header {:?} has a control character", cut(&name))))?;
        checked.append(name_checked, value);
    }
    Ok(checked)
}

/// Refuses the choice of an encoding in which a credential is not found: RFC 9110 sections 12.5.1 and 12.5.2.
fn check_charset(name: &str, value: &[u8]) -> Result<(), Refusal> {
    let value = String::from_utf8_lossy(value).to_ascii_lowercase();
    let charset_of = |part: &str| {
        let (key, charset) = part.split_once('=')?;
        (key.trim() == "charset").then(|| charset.trim().trim_matches('"').to_owned())
    };
    let asked: Vec<String> = if same_name(name, "accept") {
        value.split([',', ';']).filter_map(charset_of).collect()
    } else {
        value.split(',').map(|part| part.split(';').next().unwrap_or_default().trim().to_owned()).collect()
    };
    let Some(rare) = asked.iter().find(|charset| !SEARCHED_CHARSETS.contains(&charset.as_str())) else {
        return Ok(());
    };
    let what =
        format!("the header {:?} asks for text in {:?}, and the request carries a credential", cut(name), cut(rare));
    Err(Refusal::new(Reason::HeaderForbidden, what)
        .hint("ask for UTF-8, or leave the charset out: the host cannot find a credential in every other one"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn one(name: &str, value: &[u8]) -> Result<HeaderMap, Refusal> {
        check(
            vec![(name.to_owned(), value.to_vec())],
            &[Placement::Header { name: "X-Api-Key".into(), prefix: String::new(), part: Default::default() }],
        )
    }

    #[test]
    fn headers_of_the_host_are_refused_in_any_letter_case_and_with_underscores() {
        for (name, _) in OF_THE_HOST {
            let name = name.replace('*', "x");
            for name in [name.clone(), name.to_uppercase(), name.replace('-', "_")] {
                assert_eq!(one(&name, b"x").unwrap_err().reason, Reason::HeaderForbidden, "{name}");
            }
        }
        for name in
            ["Authorization", "aUTHORIZATION", "Host", "Accept-Encoding", "Transfer-Encoding", "X-Api-Key", "x_api_key"]
        {
            assert_eq!(one(name, b"x").unwrap_err().reason, Reason::HeaderForbidden, "{name}");
        }
    }

    #[test]
    fn headers_that_a_signature_brings_belong_to_the_host() {
        let aws = [Placement::AwsSigv4 { region: "eu-central-1".into(), service: "s3".into() }];
        for (name, expected) in [("X-Amz-Date", false), ("x_amz_content_sha256", false), ("x-amz-acl", true)] {
            assert_eq!(check(vec![(name.to_owned(), b"x".to_vec())], &aws).is_ok(), expected, "{name}");
        }
    }

    #[test]
    fn headers_that_go_with_a_signature_belong_to_the_host() {
        let hmac = r#"{"in": "hmac", "hash": "sha256", "message": "{body}", "headers": {"X-Sign": "{signature}", "X-Time": "{timestamp}"}}"#;
        let hmac = [serde_json::from_str(hmac).unwrap()];
        for (name, expected) in [("x-sign", false), ("X_TIME", false), ("x-other", true)] {
            assert_eq!(check(vec![(name.to_owned(), b"x".to_vec())], &hmac).is_ok(), expected, "{name}");
        }
    }

    #[test]
    fn other_headers_pass() {
        for name in [
            "X-Request-Id",
            "Next-Page-Token",
            "X-Authenticated-User",
            "Content-Type",
            "If-None-Match",
            "Content-Range",
            "User-Agent",
        ] {
            assert_eq!(one(name, b"a\tb \xc3\xa9").unwrap().len(), 1, "{name}");
        }
        let twice = vec![("A".to_owned(), b"1".to_vec()), ("a".to_owned(), b"2".to_vec())];
        assert_eq!(check(twice, &[]).unwrap().get_all("a").iter().count(), 2);
    }

    #[test]
    fn part_of_a_response_may_be_asked_for_only_without_a_credential() {
        for name in ["Range", "range", "If-Range", "if_range", "Request-Range"] {
            let headers = || vec![(name.to_owned(), b"bytes=7-25".to_vec())];
            for placement in [Placement::Basic, Placement::Query { name: "key".into(), part: Default::default() }] {
                assert_eq!(check(headers(), &[placement]).unwrap_err().reason, Reason::HeaderForbidden, "{name}");
            }
            assert!(check(headers(), &[]).is_ok(), "{name}");
        }
    }

    #[test]
    fn rare_charset_may_be_asked_for_only_without_a_credential() {
        let checked = |name: &str, value: &str, placements: &[Placement]| {
            check(vec![(name.to_owned(), value.as_bytes().to_vec())], placements).map(|_| ()).map_err(|e| e.reason)
        };
        for (name, value) in [
            ("Accept-Charset", "utf-7"),
            ("accept_charset", "utf-8, IBM037;q=0.5"),
            ("Accept", "text/html; charset=utf-7"),
            ("accept", "application/json, text/plain;q=0.5; Charset = \"UTF-16\""),
        ] {
            assert_eq!(checked(name, value, &[Placement::Basic]), Err(Reason::HeaderForbidden), "{name}: {value}");
            assert_eq!(checked(name, value, &[]), Ok(()), "{name}: {value}");
        }
        for (name, value) in [
            ("accept-charset", "UTF-8, *;q=0.1"),
            ("accept", "application/vnd.github+json"),
            ("accept", "text/html;charset=utf-8;q=0.9, */*"),
            ("accept-language", "charset=utf-7"),
        ] {
            assert_eq!(checked(name, value, &[Placement::Basic]), Ok(()), "{name}: {value}");
        }
    }

    #[test]
    fn control_characters_and_broken_names_are_refused() {
        for value in [&b"a\r\nb"[..], b"a\nb", b"a\rb", b"a\0b", b"\x7f", b"\x01"] {
            assert_eq!(one("x-a", value).unwrap_err().reason, Reason::HeaderMalformed, "{value:?}");
        }
        for name in ["", "a b", "a:", ":authority", "a\r\nb", "a\0", "é", "a(b)"] {
            assert_eq!(one(name, b"x").unwrap_err().reason, Reason::HeaderMalformed, "{name:?}");
        }
    }

    #[test]
    fn too_many_or_too_long_headers_are_refused() {
        let many = (0..=MAX_HEADERS).map(|n| (format!("x-{n}"), Vec::new())).collect();
        assert!(check(many, &[]).is_err());
        assert!(one("x-a", &vec![b'a'; MAX_HEADER_BYTES]).is_err());
    }
}
