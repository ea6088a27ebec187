//! Query parameters: which a rule allows, and their one form on the wire.

use std::{collections::BTreeSet, fmt::Write as _};

use keyward_model::{Reason, manifest::Placement};
use percent_encoding::percent_decode_str;

use crate::{
    error::{Refusal, RuleError},
    host::cut,
    placement::queries,
};

/// The longest query, bytes on the wire.
const MAX_QUERY: usize = 16 * 1024;

/// Names that `*` leaves out, because they change who asks or what is asked: a bearer token in the query
/// (RFC 6750 section 2.3) and the method override of several frameworks. A rule that means one lists it by name.
const NOT_IN_STAR: &[&str] = &["access_token", "_method"];

/// The names that one rule allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueryNames {
    any: bool,
    names: BTreeSet<String>,
}

impl QueryNames {
    /// Reads a rule's list; an error comes with the index of the name.
    pub(crate) fn parse(names: &[String], placements: &[Placement]) -> Result<Self, (usize, RuleError)> {
        let mut read = Self { any: false, names: BTreeSet::new() };
        for (index, name) in names.iter().enumerate() {
            let wrong = |what: &str| (index, RuleError::new(format!("the query name {:?} {what}", cut(name))));
            match name.as_str() {
                "*" => read.any = true,
                "" => return Err(wrong("is empty")),
                _ if name.contains('*') => {
                    let (index, error) = wrong("has a star in it");
                    return Err((index, error.hint("`*` alone allows any name")));
                }
                _ if name.contains(char::is_control) => return Err(wrong("has a control character")),
                _ if is_credential(name, placements) => return Err(wrong("is the credential's own")),
                _ if !read.names.insert(name.clone()) => return Err(wrong("stands twice")),
                _ => {}
            }
        }
        Ok(read)
    }

    /// Whether a parameter of this decoded name may be sent.
    pub(crate) fn allows(&self, name: &str) -> bool {
        self.names.contains(name) || (self.any && !NOT_IN_STAR.iter().any(|reserved| may_read_as(name, reserved)))
    }

    /// The names as they stand in a manifest.
    pub(crate) fn written(&self) -> impl Iterator<Item = &str> {
        self.any.then_some("*").into_iter().chain(self.names.iter().map(String::as_str))
    }
}

/// Whether a server may take the name for that of the credential's own parameter. Fields of a body count as well:
/// several servers merge them with the query, and some give the query the last word.
pub(crate) fn is_credential(name: &str, placements: &[Placement]) -> bool {
    placements.iter().any(|placement| match placement {
        Placement::Form { name: own, .. } | Placement::Json { name: own, .. } => may_read_as(name, own),
        other => queries(other).iter().any(|own| may_read_as(name, own)),
    })
}

/// Whether some server reads both names as one. Many fold letter case; PHP leaves out spaces at the start, makes
/// a `.`, a space and a `[` without its `]` an underscore, and takes what stands before `name[...]` for the name
/// of a list; others take `-` for `_`.
pub(crate) fn may_read_as(name: &str, own: &str) -> bool {
    let own = readings(own);
    readings(name).iter().any(|reading| own.contains(reading))
}

/// The name with its `[` read as an underscore, and as the start of an index; and without the brackets before it, as
/// Rack reads it.
fn readings(name: &str) -> [String; 3] {
    let name = name.trim().to_ascii_lowercase().replace(['.', ' ', '-'], "_");
    let up_to = |name: &str, end: &[char]| name.split(end).next().unwrap_or_default().to_owned();
    let indexed = name.char_indices().nth(1).map_or(0, |(second, _)| second);
    [
        name.replace('[', "_"),
        name[..indexed].to_owned() + &up_to(&name[indexed..], &['[']),
        up_to(name.trim_start_matches(['[', ']']), &['[', ']']),
    ]
}

/// A query in its one form: decoded names for the rules, and pieces for the wire.
#[derive(Debug, Default)]
pub(crate) struct CanonicalQuery {
    names: Vec<String>,
    wire: String,
}

impl CanonicalQuery {
    /// 1. The query of an absolute URL is cut at each `&`; empty pieces go.
    /// 2. A byte that has a meaning in some server's query and none here (`;`, `'`), or that RFC 3986 does not
    ///    allow raw, is percent-encoded. Raw non-ASCII, controls, spaces and broken encodings are refused.
    /// 3. The pairs follow, with all but unreserved characters percent-encoded.
    /// 4. A name is what stands before the first `=`, decoded as a form is; it must be UTF-8 without controls.
    pub(crate) fn new(raw: Option<&str>, pairs: &[(String, String)]) -> Result<Self, Refusal> {
        let mut query = Self::default();
        for piece in raw.unwrap_or_default().split('&').filter(|piece| !piece.is_empty()) {
            let name = piece.split('=').next().unwrap_or_default().replace('+', " ");
            let piece = encode_raw(piece)?;
            let name = percent_decode_str(&name)
                .decode_utf8()
                .map_err(|_| Refusal::new(Reason::UrlMalformed, "the name of a query parameter is not UTF-8"))?;
            query.push(name.into_owned(), &piece)?;
        }
        for (name, value) in pairs {
            let mut piece = encode_text(name);
            piece.push('=');
            piece.push_str(&encode_text(value));
            query.push(name.clone(), &piece)?;
        }
        Ok(query)
    }

    fn push(&mut self, name: String, piece: &str) -> Result<(), Refusal> {
        if name.contains(char::is_control) {
            return Err(Refusal::new(Reason::UrlMalformed, "the name of a query parameter has a control character"));
        }
        if self.wire.len() + 1 + piece.len() > MAX_QUERY {
            return Err(Refusal::new(Reason::UrlMalformed, format!("the query is longer than {MAX_QUERY} bytes")));
        }
        if !self.wire.is_empty() {
            self.wire.push('&');
        }
        self.wire.push_str(piece);
        self.names.push(name);
        Ok(())
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// What stands after the `?`; empty where there is no query.
    pub(crate) fn wire(&self) -> &str {
        &self.wire
    }
}

fn encode_raw(piece: &str) -> Result<String, Refusal> {
    let wrong = |what: &str| Refusal::new(Reason::UrlMalformed, format!("the query of the URL has {what}"));
    let bytes = piece.as_bytes();
    let mut encoded = String::with_capacity(piece.len());
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'%' => match bytes.get(at + 1..at + 3) {
                Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => encoded.push('%'),
                _ => return Err(wrong("a '%' that is not followed by two hexadecimal digits")),
            },
            byte if byte.is_ascii_alphanumeric() || b"-._~!$()*+,:@/?=".contains(&byte) => encoded.push(byte as char),
            byte if byte.is_ascii_graphic() => encoded.push_str(&format!("%{byte:02X}")),
            byte if byte.is_ascii() => return Err(wrong("a space or control character")),
            _ => return Err(wrong("a character that is not ASCII")),
        }
    }
    Ok(encoded)
}

fn encode_text(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte as char);
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> QueryNames {
        QueryNames::parse(&list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), &[]).unwrap()
    }

    fn placed(name: &str) -> [Placement; 1] {
        [Placement::Query { name: name.to_owned(), part: Default::default() }]
    }

    #[test]
    fn query_has_one_form() {
        let pairs = [("q".to_owned(), "a b&c=d;é+'".to_owned()), ("page".to_owned(), String::new())];
        let query = CanonicalQuery::new(Some("&x=1;y=2&&%70age=%0a&flag&f'=\"<|>+%2b"), &pairs).unwrap();
        assert_eq!(query.names(), ["x", "page", "flag", "f'", "q", "page"]);
        assert_eq!(
            query.wire(),
            "x=1%3By=2&%70age=%0a&flag&f%27=%22%3C%7C%3E+%2b&q=a%20b%26c%3Dd%3B%C3%A9%2B%27&page="
        );
    }

    #[test]
    fn broken_query_is_refused() {
        let long = "a".repeat(MAX_QUERY);
        for raw in ["a=%", "a=%2", "a=%zz", "a b", "a=é", "a\t", "%0a=1", "%00", "%ff=1", "a\u{0}", &long] {
            assert!(CanonicalQuery::new(Some(raw), &[]).is_err(), "{raw:?} was taken");
        }
        assert!(CanonicalQuery::new(None, &[("a\nb".to_owned(), String::new())]).is_err());
    }

    #[test]
    fn star_allows_any_name_but_those_that_change_who_asks() {
        assert!(names(&["*"]).allows("pageToken"));
        assert!(!names(&["*"]).allows("Access_Token"));
        assert!(!names(&["*"]).allows("_method"));
        assert!(!names(&["*"]).allows("access.token"));
        assert!(names(&["*", "_method"]).allows("_method"));
        assert!(names(&["page"]).allows("page"));
        assert!(!names(&["page"]).allows("Page"));
        assert!(!names(&[]).allows("page"));
    }

    #[test]
    fn credentials_name_is_known_however_a_server_reads_it() {
        let own = placed("api_key");
        for name in [
            "api_key",
            "API_KEY",
            " api_key ",
            "api.key",
            "api key",
            "api-key",
            "api[key",
            "api_key[]",
            "api_key[0]",
            "api.key[x][y]",
            "api_key[",
            "[api_key]",
            "]api_key",
            "[[api_key]x",
        ] {
            assert!(is_credential(name, &own), "{name:?}");
        }
        for name in ["api", "key", "apikey", "api_keys", "api[key]", "x[api_key]", "[]", "[x]api_key"] {
            assert!(!is_credential(name, &own), "{name:?}");
        }
        let dotted = placed("api.key");
        assert!(is_credential("api_key", &dotted) && is_credential("api.key", &dotted));
    }

    #[test]
    fn parameters_that_go_with_a_signature_are_the_hosts() {
        let hmac = r#"{"in": "hmac", "hash": "sha256", "message": "{query}", "query": {"signature": "{signature}", "time": "{timestamp}"}}"#;
        let hmac = [serde_json::from_str(hmac).unwrap()];
        assert!(is_credential("Signature", &hmac) && is_credential("time[]", &hmac));
        assert!(!is_credential("x-signature", &hmac));
    }

    #[test]
    fn list_of_names_is_checked() {
        let own = placed("api_key");
        for list in [
            vec!["".to_owned()],
            vec!["a*".into()],
            vec!["a\n".into()],
            vec!["a".into(), "a".into()],
            vec!["API_KEY".into()],
            vec!["api.key[]".into()],
        ] {
            assert!(QueryNames::parse(&list, &own).is_err(), "{list:?} was taken");
        }
    }
}
