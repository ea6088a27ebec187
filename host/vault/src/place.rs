//! Puts a credential into a request, at the position that the reviewed manifest names.
//!
//! Whatever stands there is taken out first. What is put in is never looked at again for anything to
//! replace, and holds no control character, so it cannot end a header or begin another.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use keyward_model::{Reason, SendError, SendErrorKind, manifest::Placement};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    credential::{BasicSecret, Material},
    redact::SHORTEST,
    secret::Secret,
};

/// Everything but the unreserved characters of RFC 3986 section 2.3.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What went into the request: the secrets and their rendered forms, to be searched in what comes back.
pub(crate) type Placed = Vec<Arc<Zeroizing<Vec<u8>>>>;

/// Puts `material` where `placement` says.
///
/// # Errors
/// [`Reason::CredentialUnplaceable`] where the connection holds another kind of credential than the
/// connector asks for, or one with characters that cannot stand there.
pub(crate) fn place(
    placement: &Placement,
    material: &Material,
    url: &mut Url,
    headers: &mut HeaderMap,
) -> Result<Placed, SendError> {
    match (placement, material) {
        (Placement::Header { name, prefix }, Material::Token(token)) => {
            check("token", token.expose())?;
            let value = Zeroizing::new([prefix.as_bytes(), token.expose()].concat());
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| unplaceable(format!("the manifest's header name {name:?} is not one")))?;
            set_header(headers, name, &value)?;
            Ok(vec![copy(token.expose())])
        }
        (Placement::Query { name }, Material::Token(token)) => {
            check("token", token.expose())?;
            let text = token.expose_str().ok_or_else(|| unplaceable("the token is not text"))?;
            set_query(url, name, text);
            Ok(vec![copy(text.as_bytes())])
        }
        (Placement::Basic, Material::Basic { username, password, secret }) => {
            let parts = secret.parts(username, password).into_iter().map(Secret::expose);
            let (username, password) = (username.expose(), password.expose());
            check("user name", username)?;
            check("password", password)?;
            if username.contains(&b':') {
                return Err(unplaceable("the user name holds a colon, which HTTP Basic cannot carry"));
            }
            let pair = Zeroizing::new([username, b":", password].concat());
            let encoded = Zeroizing::new(STANDARD.encode(&*pair));
            let value = Zeroizing::new([b"Basic ", encoded.as_bytes()].concat());
            set_header(headers, AUTHORIZATION, &value)?;
            let parts = parts.chain([&**pair, encoded.as_bytes()]);
            Ok(parts.map(copy).collect())
        }
        (Placement::Basic, Material::Token(_)) => {
            Err(unplaceable("the connector asks for a user name and a password, and the connection holds a token"))
        }
        (Placement::Header { .. } | Placement::Query { .. }, Material::Basic { .. }) => {
            Err(unplaceable("the connector asks for a token, and the connection holds a user name and a password"))
        }
    }
}

impl BasicSecret {
    /// The parts that are secret.
    pub(crate) fn parts<'a>(self, username: &'a Secret, password: &'a Secret) -> Vec<&'a Secret> {
        match self {
            // Where the password is too short to be one (`x`, or nothing), the user name is the key.
            Self::Password if password.expose().len() < SHORTEST => vec![username],
            Self::Password => vec![password],
            Self::Username => vec![username],
            Self::Both => vec![username, password],
        }
    }
}

fn copy(secret: &[u8]) -> Arc<Zeroizing<Vec<u8>>> {
    Arc::new(Zeroizing::new(secret.to_vec()))
}

fn unplaceable(message: impl Into<String>) -> SendError {
    SendError::new(SendErrorKind::ReconnectRequired, Reason::CredentialUnplaceable, message)
        .hint("connect again with a credential of the kind that the connector asks for, without line ends")
}

/// Refuses control characters (RFC 7617 section 2, RFC 9110 section 5.5).
fn check(what: &str, value: &[u8]) -> Result<(), SendError> {
    match value.iter().any(u8::is_ascii_control) {
        true => Err(unplaceable(format!("the {what} holds a control character"))),
        false => Ok(()),
    }
}

fn set_header(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) -> Result<(), SendError> {
    let mut value = HeaderValue::from_bytes(value)
        .map_err(|_| unplaceable("the credential holds characters that a header cannot carry"))?;
    // Keeps it out of `Debug` output and of HTTP/2's compression table.
    value.set_sensitive(true);
    headers.remove(&name);
    headers.insert(name, value);
    Ok(())
}

fn set_query(url: &mut Url, name: &str, value: &str) {
    // What the guest sent otherwise stays as it was matched, byte by byte.
    let is_other = |pair: &&str| {
        let pair_name = pair.split('=').next().unwrap_or_default().replace('+', " ");
        !pair.is_empty() && *percent_decode_str(&pair_name).decode_utf8_lossy() != *name
    };
    let before = url.query().unwrap_or_default();
    // All the room at once: a string that grows leaves a copy behind.
    let mut query = Zeroizing::new(String::with_capacity(before.len() + 3 * (name.len() + value.len()) + 2));
    for pair in before.split('&').filter(is_other) {
        query.push_str(pair);
        query.push('&');
    }
    query.extend(utf8_percent_encode(name, QUERY_VALUE));
    query.push('=');
    query.extend(utf8_percent_encode(value, QUERY_VALUE));
    url.set_query(Some(&query));
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn token(text: &str) -> Material {
        Material::Token(Secret::from(text.to_owned()))
    }

    fn basic(username: &str, password: &str) -> Material {
        basic_with(username, password, BasicSecret::Password)
    }

    fn basic_with(username: &str, password: &str, secret: BasicSecret) -> Material {
        let [username, password] = [username, password].map(|text| Secret::from(text.to_owned()));
        Material::Basic { username, password, secret }
    }

    fn header(name: &str, prefix: &str) -> Placement {
        Placement::Header { name: name.to_owned(), prefix: prefix.to_owned() }
    }

    fn query(name: &str) -> Placement {
        Placement::Query { name: name.to_owned() }
    }

    fn placed(placement: &Placement, material: &Material, url: &str) -> Result<(Url, HeaderMap, Placed), SendError> {
        let mut url = Url::parse(url).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer guest".parse().unwrap());
        headers.append("x-api-key", "guest".parse().unwrap());
        headers.append("x-api-key", "guest too".parse().unwrap());
        let secrets = place(placement, material, &mut url, &mut headers)?;
        Ok((url, headers, secrets))
    }

    #[test]
    fn header_takes_the_place_of_whatever_stood_there_and_is_sensitive() {
        let (_, headers, secrets) =
            placed(&header("X-Api-Key", "Key "), &token("canary-token"), "https://x.test/").unwrap();
        let values: Vec<_> = headers.get_all("x-api-key").iter().collect();
        assert_eq!(values, ["Key canary-token"]);
        assert!(values[0].is_sensitive());
        assert_eq!(secrets[0].as_slice(), b"canary-token");
    }

    #[test]
    fn query_takes_the_place_of_every_spelling_and_leaves_the_rest_as_it_was() {
        for (before, after) in [
            ("https://x.test/p", "https://x.test/p?key=canary%2F%20%26%2Btoken"),
            ("https://x.test/p?a=%2f+b&&key=guest", "https://x.test/p?a=%2f+b&key=canary%2F%20%26%2Btoken"),
            ("https://x.test/p?k%65y=guest&keys=1&key", "https://x.test/p?keys=1&key=canary%2F%20%26%2Btoken"),
        ] {
            let (url, _, _) = placed(&query("key"), &token("canary/ &+token"), before).unwrap();
            assert_eq!(url.as_str(), after);
        }
    }

    #[test]
    fn basic_is_rendered_as_rfc_7617_says_and_every_form_is_a_secret() {
        let (_, headers, secrets) =
            placed(&Placement::Basic, &basic("Aladdin", "open sesame"), "https://x.test/").unwrap();
        assert_eq!(headers["authorization"], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let secrets: Vec<_> = secrets.iter().map(|secret| secret.as_slice()).collect();
        let expected: [&[u8]; 3] = [b"open sesame", b"Aladdin:open sesame", b"QWxhZGRpbjpvcGVuIHNlc2FtZQ=="];
        assert_eq!(secrets, expected);
    }

    #[test]
    fn user_name_is_the_secret_where_the_password_is_too_short_to_be_one() {
        let (_, _, secrets) = placed(&Placement::Basic, &basic("canary-key", "x"), "https://x.test/").unwrap();
        assert_eq!(secrets[0].as_slice(), b"canary-key");
    }

    #[test]
    fn part_that_is_secret_is_searched_and_the_other_is_not() {
        for (material, expected) in [
            (basic_with("canary-key", "api_token", BasicSecret::Username), &["canary-key"][..]),
            (basic_with("canary-key", "", BasicSecret::Username), &["canary-key"]),
            (basic_with("canary-name", "canary-word", BasicSecret::Password), &["canary-word"]),
            (basic_with("canary-name", "canary-word", BasicSecret::Both), &["canary-name", "canary-word"]),
        ] {
            let (_, _, secrets) = placed(&Placement::Basic, &material, "https://x.test/").unwrap();
            // Behind them are the two together and what they are encoded to.
            let parts: Vec<_> = secrets[..secrets.len() - 2].iter().map(|secret| secret.as_slice()).collect();
            assert_eq!(parts, expected.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn credential_that_cannot_stand_there_is_refused_without_showing_it() {
        for (placement, material) in [
            (header("authorization", "Bearer "), token("canary\r\nX-Evil: 1")),
            (header("authorization", "Bearer "), token("canary\n")),
            (header("authorization", "Bearer "), token("canary\0token")),
            (header("no such header", ""), token("canary-token")),
            (header("authorization", "Bearer "), basic("canary", "canary-password")),
            (query("key"), token("canary\ttoken")),
            (query("key"), basic("canary", "canary-password")),
            (query("key"), Material::Token(Secret::from(vec![0xff; 9]))),
            (Placement::Basic, token("canary-token")),
            (Placement::Basic, basic("can:ary", "canary-password")),
            (Placement::Basic, basic("canary", "canary\x7fpassword")),
        ] {
            let error = placed(&placement, &material, "https://x.test/").unwrap_err();
            assert_eq!(error.reason, Reason::CredentialUnplaceable, "{placement:?}");
            assert!(!error.message.contains("canary"), "{}", error.message);
        }
    }
}
