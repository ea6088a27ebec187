//! The one form of a path, for the rules and for the wire.

use std::fmt::Write as _;

use keyward_model::Reason;
use percent_encoding::{percent_decode, percent_decode_str};

use crate::error::Refusal;

/// The longest path, bytes as written.
const MAX_PATH: usize = 8 * 1024;

/// How often what is left of a segment is decoded. Texts that are encoded twice exist; so often, only attacks.
const ROUNDS: usize = 8;

/// A path in its one form: what is matched is what goes on the wire.
///
/// It is made from a guest's text in these steps; each may refuse the text:
/// 1. It starts with `/` but not with `//`, and is at most 8,192 bytes.
/// 2. Every byte is one that RFC 3986 section 3.3 allows in a path, or part of a percent-encoding with two
///    hexadecimal digits. So no raw backslash, space, control, `?`, `#` or non-ASCII, and no `;`: servers do not
///    agree on what path parameters are. A semicolon that is meant stands as `%3B`.
/// 3. It is cut into segments at each `/`. Empty segments stay, for `/fetch/http://x` is a path.
/// 4. Each segment is percent-decoded once and must be UTF-8.
/// 5. A decoded segment holds no backslash, no control (U+0000 to U+001F, U+007F to U+009F) and nothing that
///    decoding it again, however often, would turn into `/`, `\`, `.`, `;`, `%` or a control.
/// 6. A segment that is `.` or `..` is refused, not resolved, whatever its encoding, and as well where a server
///    could reduce it to that (`..;x`, `.. `). Resolving would let a text that a connector pastes into a path
///    choose another resource. A slash that was encoded stays part of its segment; what stands between such
///    slashes must be neither empty nor dots, and only a rule that opts in matches it.
/// 7. Each segment is encoded again: unreserved characters, sub-delimiters but `;`, `:` and `@` stand as they are,
///    every other byte as `%` and two capital digits.
///
/// ```
/// use keyward_policy::CanonicalPath;
/// let path: CanonicalPath = "/repos/o/%68ello%20world".parse().unwrap();
/// assert_eq!(path.to_string(), "/repos/o/hello%20world");
/// assert!("/public/%2e%2e/secret".parse::<CanonicalPath>().is_err());
/// ```
///
/// Not checked: whether a server folds letter case, normalises Unicode, or takes a `;` for the start of parameters
/// after it has decoded `%3B`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath {
    /// Decoded; the path `/` has one empty segment.
    segments: Vec<String>,
}

impl CanonicalPath {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let wrong = |what: &str| Refusal::new(Reason::PathMalformed, format!("the path {what}"));
        if text.len() > MAX_PATH {
            return Err(wrong(&format!("is longer than {MAX_PATH} bytes")));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(wrong("does not start with '/'"));
        };
        if rest.starts_with('/') {
            return Err(wrong("starts with '//', which reads as a host elsewhere"));
        }
        check_raw(rest)?;
        let segments = rest.split('/').map(decode_segment).collect::<Result<_, _>>()?;
        Ok(Self { segments })
    }

    /// The decoded segments.
    pub(crate) fn segments(&self) -> &[String] {
        &self.segments
    }
}

impl std::str::FromStr for CanonicalPath {
    type Err = crate::RuleError;
    fn from_str(text: &str) -> Result<Self, crate::RuleError> {
        Ok(Self::parse(text)?)
    }
}

impl std::fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.segments.iter().try_for_each(|segment| write!(f, "/{}", Encoded(segment)))
    }
}

/// Whether a byte stands for itself in a canonical segment: `pchar` of RFC 3986 section 3.3 but `;`.
fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
}

/// A decoded segment as it goes on the wire.
pub(crate) struct Encoded<'a>(pub(crate) &'a str);

impl std::fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            byte if stands_for_itself(byte) => f.write_char(byte as char),
            byte => write!(f, "%{byte:02X}"),
        })
    }
}

/// Step 2.
fn check_raw(path: &str) -> Result<(), Refusal> {
    let wrong = |what: &str| Refusal::new(Reason::PathMalformed, format!("the path {what}"));
    let bytes = path.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'/' => {}
            b'%' if matches!(bytes.get(at + 1..at + 3), Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()) =>
                {}
            b'%' => return Err(wrong("has a '%' that is not followed by two hexadecimal digits")),
            b'?' => {
                return Err(wrong("has a '?'").hint("send query parameters apart from the path; a literal '?' is %3F"));
            }
            b'#' => return Err(wrong("has a '#'").hint("a literal '#' is %23")),
            b';' => return Err(wrong("has path parameters").hint("a literal ';' is %3B")),
            byte if stands_for_itself(byte) => {}
            byte if byte.is_ascii_graphic() || byte == b' ' => {
                return Err(wrong(&format!("has a raw {:?}", byte as char)).hint(format!("write it as %{byte:02X}")));
            }
            byte if byte.is_ascii() => return Err(wrong("has a control character")),
            _ => return Err(wrong("has a character that is not ASCII").hint("percent-encode its UTF-8 bytes")),
        }
    }
    Ok(())
}

/// Steps 4 to 6.
fn decode_segment(raw: &str) -> Result<String, Refusal> {
    let wrong = |what: &str| Refusal::new(Reason::PathMalformed, format!("the path {what}"));
    let decoded = percent_decode_str(raw).decode_utf8().map_err(|_| wrong("has an encoding that is not UTF-8"))?;
    if decoded.contains('\\') {
        return Err(wrong("has an encoded backslash"));
    }
    if decoded.contains(char::is_control) {
        return Err(wrong("has an encoded control character"));
    }
    if is_dangerous_when_decoded_again(&decoded) {
        return Err(wrong("is encoded more than once"));
    }
    let parts = decoded.split('/');
    let slashes = decoded.contains('/');
    for part in parts {
        let reduced = part.split(';').next().unwrap_or_default().trim_end_matches(' ');
        if matches!(reduced, "." | "..") {
            return Err(wrong("has a dot segment").hint("write the path that is meant"));
        }
        if slashes && part.is_empty() {
            return Err(wrong("has an encoded slash beside another or at the edge of a segment"));
        }
    }
    Ok(decoded.into_owned())
}

/// Whether percent-encodings are left that hide a separator, a dot, another percent sign or a control. What one
/// round of decoding puts together may be an encoding in the next (`%%32e`), so it goes on until nothing is left
/// to decode. A segment that has not come so far after [`ROUNDS`] hides something.
fn is_dangerous_when_decoded_again(decoded: &str) -> bool {
    let hides = |three: &[u8]| {
        let byte: Vec<u8> = if three[0] == b'%' { percent_decode(three).collect() } else { Vec::new() };
        matches!(byte[..], [byte] if byte.is_ascii_control() || b"/\\.;%".contains(&byte))
    };
    let mut form = decoded.as_bytes().to_vec();
    for _ in 0..ROUNDS {
        if form.windows(3).any(hides) {
            return true;
        }
        let next: Vec<u8> = percent_decode(&form).collect();
        if next.len() == form.len() {
            return false;
        }
        form = next;
    }
    true
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_path_gives_one_form() {
        for (text, canonical) in [
            ("/", "/"),
            ("/repos/o/r", "/repos/o/r"),
            ("/repos/o/r/", "/repos/o/r/"),
            ("/%72epos/%6f/r", "/repos/o/r"),
            ("/fetch/http://x", "/fetch/http://x"),
            ("/@scope%2fname", "/@scope%2Fname"),
            ("/a%20b", "/a%20b"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/values/A1%3AB2:append", "/values/A1:B2:append"),
            ("/users('x')", "/users('x')"),
            ("/a%3Bb", "/a%3Bb"),
            ("/a%3Fb%23c", "/a%3Fb%23c"),
            ("/100%25", "/100%25"),
            ("/%2541", "/%2541"),
            ("/%25%2541", "/%25%2541"),
            ("/a..b/...", "/a..b/..."),
            ("/%22%3c%3E%5e%60%7b%7C%7d", "/%22%3C%3E%5E%60%7B%7C%7D"),
        ] {
            assert_eq!(CanonicalPath::parse(text).unwrap().to_string(), canonical, "{text:?}");
        }
    }

    #[test]
    fn paths_that_two_readers_could_read_differently_are_refused() {
        let long = format!("/{}", "a".repeat(MAX_PATH));
        let deep = format!("/{}33", "%253".repeat(ROUNDS));
        for text in [
            "",
            "a",
            "//a",
            "//evil.com/x",
            "/public/../secret",
            "/public/./secret",
            "/public/%2e%2e/secret",
            "/public/%2E./secret",
            "/public/.%2e/secret",
            "/public/%252e%252e/secret",
            "/public/%25252e/secret",
            "/public/%25%2532e%25%2532e/secret",
            "/public/%25%25%25332e/secret",
            "/a%25%2532fb",
            "/a%25%2530ab",
            "/public/..;/secret",
            "/public/..%3b/secret",
            "/public/..%3bx/secret",
            "/public/..%20/secret",
            "/..",
            "/.",
            "/a/..",
            "/a%00b",
            "/a%0d%0ab",
            "/%0d",
            "/%7f",
            "/%c2%85",
            "/a\\b",
            "/a%5cb",
            "/a%255cb",
            "/a%252fb",
            "/a;b",
            "/a;x=1/b",
            "/a%253bb",
            "/projects/123%2f..%2f456",
            "/a%2f",
            "/%2fa",
            "/a%2f%2fb",
            "/a%2f.%2fb",
            "/a%2f%2e%2e",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%u002e",
            "/a b",
            "/a\tb",
            "/a\nb",
            "/a\u{0}b",
            "/é",
            "/a|b",
            "/a\"b",
            "/{x}",
            "/a?b",
            "/a#b",
            "/%ff",
            "/%c0%ae%c0%ae/x",
            "/%c0%af",
            "/%2500",
            &long,
            &deep,
        ] {
            assert!(CanonicalPath::parse(text).is_err(), "{text:?} was taken");
        }
    }
}
