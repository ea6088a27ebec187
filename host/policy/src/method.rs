//! Methods that a guest may use.

use http::Method;
use keyward_model::Reason;

use crate::{error::Refusal, host::cut};

/// CONNECT makes a tunnel; TRACE, and TRACK as some servers call it, send the credential back in a body.
const FORBIDDEN: &[&str] = &["CONNECT", "TRACE", "TRACK"];

/// Reads a method: capitals, digits and hyphens, starting with a capital, at most 24 characters.
pub(crate) fn parse(text: &str) -> Result<Method, Refusal> {
    let wrong = |what: &str| Refusal::new(Reason::MethodForbidden, format!("the method {:?} {what}", cut(text)));
    if FORBIDDEN.iter().any(|forbidden| text.eq_ignore_ascii_case(forbidden)) {
        return Err(wrong("may not be used"));
    }
    let plain = text.len() <= 24
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-');
    if !plain {
        let error = wrong("is not a word in capitals");
        let capitals = text.to_ascii_uppercase();
        return Err(if capitals != text && parse(&capitals).is_ok() {
            error.hint(format!("write `{capitals}`"))
        } else {
            error
        });
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| wrong("is not a method"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_in_capitals_pass_but_tunnels_and_echoes() {
        for text in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "VERSION-CONTROL"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for text in ["", "get", "Get", "CONNECT", "connect", "TRACE", "TRACK", "GET ", "G\nT", "GÉT", "-", "A_B", "*"]
        {
            assert_eq!(parse(text).err().map(|e| e.reason), Some(Reason::MethodForbidden), "{text:?}");
        }
    }
}
