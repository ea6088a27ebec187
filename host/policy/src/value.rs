//! Templates of what is signed, and of what goes beside a signature; the grammar stands in [`crate::grammar`].

use http::HeaderName;
use keyward_model::{ConnectorName, manifest::Part};

use crate::{error::RuleError, headers::reserved, host::cut};

/// The longest template, bytes.
const MAX_TEMPLATE: usize = 1024;

/// A template of a text, for example `{timestamp}{method}{path-and-query}{body}`.
///
/// ```
/// use keyward_policy::{Piece, Slot, Use, ValueTemplate};
/// let template = ValueTemplate::parse("v1,{signature}", Use::Value).unwrap();
/// assert_eq!(template.pieces(), [Piece::Text("v1,".to_owned()), Piece::Slot(Slot::Signature)]);
/// assert!(ValueTemplate::parse("{signature}", Use::Message).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueTemplate {
    pieces: Vec<Piece>,
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text that stands for itself.
    Text(String),
    /// What the host fills in.
    Slot(Slot),
}

/// What a template is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Of what is signed.
    Message,
    /// Of the value of a header or a parameter that goes with the signature.
    Value,
    /// Of a claim of a token.
    Claim,
}

/// What the host fills in, of the request as it goes on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// The method in capitals.
    Method,
    /// Host, and the port where it is not the scheme's own, as in the header `Host`.
    Host,
    /// The path, encoded.
    Path,
    /// What stands after the `?`, encoded; empty where there is no query.
    Query,
    /// The path, and the `?` and the query where there is one.
    PathAndQuery,
    /// The whole URL.
    Url,
    /// The bytes of the body.
    Body,
    /// The SHA-256 of the body in hexadecimal digits.
    BodySha256Hex,
    /// The SHA-256 of the body in base64.
    BodySha256Base64,
    /// The SHA-512 of the body in hexadecimal digits.
    BodySha512Hex,
    /// The SHA-512 of the body in base64.
    BodySha512Base64,
    /// Seconds since 1970.
    Timestamp,
    /// Milliseconds since 1970.
    TimestampMs,
    /// The time as in RFC 3339, with seconds, in UTC.
    TimestampRfc3339,
    /// The same with milliseconds.
    TimestampRfc3339Ms,
    /// The time as in a header `Date` (RFC 9110 section 5.6.7).
    TimestampHttp,
    /// 128 random bits in hexadecimal digits, the same wherever the placement has it.
    Nonce,
    /// The values of a header, with a comma and a space between them; empty where it is not sent.
    Header(HeaderName),
    /// A part of what the connection holds.
    Part(Part),
    /// The signature.
    Signature,
}

/// The placeholders that have no argument.
const SLOTS: &[(&str, Slot)] = &[
    ("method", Slot::Method),
    ("host", Slot::Host),
    ("path", Slot::Path),
    ("query", Slot::Query),
    ("path-and-query", Slot::PathAndQuery),
    ("url", Slot::Url),
    ("body", Slot::Body),
    ("body-sha256-hex", Slot::BodySha256Hex),
    ("body-sha256-base64", Slot::BodySha256Base64),
    ("body-sha512-hex", Slot::BodySha512Hex),
    ("body-sha512-base64", Slot::BodySha512Base64),
    ("timestamp", Slot::Timestamp),
    ("timestamp-ms", Slot::TimestampMs),
    ("timestamp-rfc3339", Slot::TimestampRfc3339),
    ("timestamp-rfc3339-ms", Slot::TimestampRfc3339Ms),
    ("timestamp-http", Slot::TimestampHttp),
    ("nonce", Slot::Nonce),
    ("signature", Slot::Signature),
];

/// Headers that the client sets where the guest does not, so that their values are not known here.
const OF_THE_CLIENT: &[&str] = &["accept", "user-agent"];

impl Slot {
    fn suits(&self, of: Use) -> bool {
        match of {
            Use::Message => !matches!(self, Self::Signature),
            Use::Value => match self {
                _ if self.digests_body() => true,
                Self::Timestamp | Self::TimestampMs | Self::TimestampHttp => true,
                Self::TimestampRfc3339 | Self::TimestampRfc3339Ms => true,
                Self::Nonce | Self::Part(_) | Self::Signature => true,
                _ => false,
            },
            Use::Claim => self.is_of_request() || matches!(self, Self::Nonce | Self::Part(_)),
        }
    }

    fn reads_body(&self) -> bool {
        matches!(self, Self::Body) || self.digests_body()
    }

    fn digests_body(&self) -> bool {
        matches!(self, Self::BodySha256Hex | Self::BodySha256Base64 | Self::BodySha512Hex | Self::BodySha512Base64)
    }

    /// Whether it is of the method, the URL or the body, and short.
    fn is_of_request(&self) -> bool {
        matches!(self, Self::Method | Self::Host | Self::Path | Self::Query | Self::PathAndQuery | Self::Url)
            || self.digests_body()
    }

    /// What `name` between braces stands for.
    fn parse(name: &str, of: Use) -> Result<Self, RuleError> {
        let slot = match name.split_once(':') {
            None => SLOTS.iter().find(|(known, _)| *known == name).map(|(_, slot)| slot.clone()),
            Some(("part", part)) if part.parse::<ConnectorName>().is_ok() => {
                Some(Self::Part(Part::from(part.to_owned())))
            }
            Some(("header", header)) => {
                let read = HeaderName::from_bytes(header.as_bytes()).ok();
                if read.is_some() && (reserved(header).is_some() || OF_THE_CLIENT.contains(&&*header.to_lowercase())) {
                    let message = format!("{{header:{}}} stands for a header that is set after signing", cut(header));
                    return Err(RuleError::new(message).hint("sign headers that the action or a placement sets"));
                }
                read.map(Self::Header)
            }
            Some(_) => None,
        };
        match slot {
            Some(slot) if slot.suits(of) => Ok(slot),
            Some(_) => Err(RuleError::new(format!("{{{name}}} has no meaning here")).hint(known(of))),
            None => Err(RuleError::new(format!("{{{}}} is no placeholder", cut(name))).hint(known(of))),
        }
    }
}

fn known(of: Use) -> String {
    let mut names: Vec<_> =
        SLOTS.iter().filter(|(_, slot)| slot.suits(of)).map(|(name, _)| format!("{{{name}}}")).collect();
    names.push("{part:<name>}".to_owned());
    if of == Use::Message {
        names.push("{header:<name>}".to_owned());
    }
    format!("known are {}; a brace is written twice", names.join(", "))
}

impl ValueTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// A placeholder that is unknown or has no meaning there, a brace that stands alone, a text that is longer than
    /// 1,024 bytes, and in a value what is not printable ASCII.
    pub fn parse(text: &str, of: Use) -> Result<Self, RuleError> {
        if text.len() > MAX_TEMPLATE {
            return Err(RuleError::new(format!("the template is longer than {MAX_TEMPLATE} bytes")));
        }
        if of == Use::Value && !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(RuleError::new("the template is not printable ASCII"));
        }
        let alone = || RuleError::new("the template has a brace that stands alone").hint(known(of));
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            plain.push_str(before);
            if brace.starts_with("{{") || brace.starts_with("}}") {
                plain.push_str(&brace[..1]);
                rest = &brace[2..];
                continue;
            }
            let inner = brace.strip_prefix('{').ok_or_else(alone)?;
            let (name, after) = inner.split_once('}').ok_or_else(alone)?;
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Slot(Slot::parse(name, of)?));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self { pieces })
    }

    /// Its parts in order; no two texts follow each other.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// What is filled in.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Slot(slot) => Some(slot),
        })
    }

    /// Whether the signature is filled in.
    pub fn has_signature(&self) -> bool {
        self.slots().any(|slot| *slot == Slot::Signature)
    }

    /// Whether anything of the method, the URL or the body is filled in.
    pub(crate) fn is_of_request(&self) -> bool {
        self.slots().any(|slot| slot.is_of_request() || slot.reads_body())
    }

    /// Whether anything of the body is filled in.
    pub fn reads_body(&self) -> bool {
        self.slots().any(Slot::reads_body)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn template_is_text_and_placeholders() {
        let pieces = |text: &str, of| ValueTemplate::parse(text, of).unwrap().pieces;
        let text = |text: &str| Piece::Text(text.to_owned());
        assert_eq!(pieces("", Use::Message), []);
        assert_eq!(
            pieces("a{{{method}}}b\n{part:api-key}{header:X-A}", Use::Message),
            [
                text("a{"),
                Piece::Slot(Slot::Method),
                text("}b\n"),
                Piece::Slot(Slot::Part(Part::Field("api-key".to_owned()))),
                Piece::Slot(Slot::Header(HeaderName::from_static("x-a"))),
            ]
        );
        for (name, slot) in SLOTS {
            let of = if *slot == Slot::Signature { Use::Value } else { Use::Message };
            assert_eq!(pieces(&format!("{{{name}}}"), of), [Piece::Slot(slot.clone())]);
        }
    }

    #[test]
    fn what_is_no_placeholder_there_is_refused() {
        for text in ["{signature}", "{bdy}", "{}", "{", "}", "a{method", "a}b", "{ method }", "{Method}", "{header:}"] {
            assert!(ValueTemplate::parse(text, Use::Message).is_err(), "{text}");
        }
        for text in ["{part:}", "{part:A b}", "{field:a}", "{header:host}", "{header:User-Agent}", "{header:a b}"] {
            assert!(ValueTemplate::parse(text, Use::Message).is_err(), "{text}");
        }
        for text in ["{body}", "{url}", "{query}", "{path}", "{header:x-a}", "a\nb", "é"] {
            assert!(ValueTemplate::parse(text, Use::Value).is_err(), "{text}");
        }
        for text in ["{body}", "{signature}", "{timestamp}", "{header:x-a}"] {
            assert!(ValueTemplate::parse(text, Use::Claim).is_err(), "{text}");
        }
        for text in ["{method} {host}{path}", "{nonce}", "{part:key-id}.{body-sha256-hex}", "é"] {
            assert!(ValueTemplate::parse(text, Use::Claim).is_ok(), "{text}");
        }
        assert!(ValueTemplate::parse(&"a".repeat(MAX_TEMPLATE + 1), Use::Message).is_err());
    }
}
