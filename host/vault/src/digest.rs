//! HTTP Digest (RFC 7616): challenges of servers, and what answers them.
//!
//! Until a server has sent a challenge, requests go out bare. A challenge is kept for its connection and origin, in
//! memory, so that later requests answer it beforehand, each with the next count. So no answer ever goes to another
//! origin than the one that asked for it. What is accepted of a server:
//!
//! | | |
//! |---|---|
//! | algorithm | `SHA-512-256`, `SHA-256`, and `MD5` where the manifest says `weak = true`, each with or without `-sess`; the first of these that is offered |
//! | quality of protection | `auth`, else `auth-int` where the body is not streamed; none (RFC 2069) where the manifest says `weak = true` |
//!
//! Not checked: `rspauth`, by which a server proves that it knows the password; `domain` is not used.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{self, SHA256, SHA512_256};
use http::{HeaderMap, HeaderName, Method};
use http_auth::{ChallengeRef, parser::ChallengeParser};
use keyward_model::{ConnectionId, Reason, SendError, SendErrorKind, Sent, TenantId};
use md5::{Digest as _, Md5};
use moka::sync::Cache;
use percent_encoding::utf8_percent_encode;
use zeroize::Zeroizing;

use crate::{
    aead,
    place::{Placed, UNRESERVED, copy, unplaceable},
    secret::Secret,
};

/// For how long a challenge is kept after its last use. A server that has forgotten it by then sends another one.
const IDLE: Duration = Duration::from_secs(3600);

/// The most challenges that are kept; one has some hundred bytes.
const MAX_SESSIONS: u64 = 10_000;

/// The longest value of a challenge, bytes.
const MAX_VALUE: usize = 2048;

/// The challenges at hand.
pub(crate) struct Sessions(Cache<Asker, Arc<Mutex<Session>>>);

/// Who asked, and for whose credential.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Asker {
    pub(crate) tenant: TenantId,
    pub(crate) connection: ConnectionId,
    /// Names the credential without showing it.
    pub(crate) credential: [u8; 32],
    /// Scheme, host and port.
    pub(crate) origin: String,
}

/// A challenge, and how often it was answered.
struct Session {
    challenge: Challenge,
    count: u32,
    /// What the key of an algorithm with `-sess` is made of, once for a challenge (RFC 7616 section 3.4.2).
    first_nonce: String,
    first_cnonce: String,
}

/// What a server asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    hash: Hash,
    is_session: bool,
    /// The algorithm as the server named it, where it did.
    algorithm: Option<String>,
    qop: Option<Qop>,
    userhash: bool,
    /// Whether the server would have taken the last answer but for its nonce.
    pub(crate) is_stale: bool,
}

/// From the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hash {
    Md5,
    Sha256,
    Sha512_256,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Qop {
    Auth,
    AuthInt,
}

/// What is answered for.
pub(crate) struct Question<'a> {
    pub(crate) username: &'a Secret,
    pub(crate) password: &'a Secret,
    pub(crate) method: &'a Method,
    /// Path and query, as they go on the wire.
    pub(crate) uri: &'a str,
    /// `None` where it is streamed.
    pub(crate) body: Option<&'a [u8]>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self(Cache::builder().time_to_idle(IDLE).max_capacity(MAX_SESSIONS).build())
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions(..)")
    }
}

impl Sessions {
    /// Keeps a challenge in the place of the one before.
    pub(crate) fn begin(&self, asker: &Asker, challenge: Challenge) -> Result<(), SendError> {
        let (first_nonce, first_cnonce) = (challenge.nonce.clone(), cnonce()?);
        let session = Session { challenge, count: 0, first_nonce, first_cnonce };
        self.0.insert(asker.clone(), Arc::new(Mutex::new(session)));
        Ok(())
    }

    /// The value of `Authorization` that answers the challenge at hand, and what of it is secret; `None` where there is
    /// no challenge.
    pub(crate) fn answer(
        &self,
        asker: &Asker,
        question: &Question<'_>,
    ) -> Result<Option<(Zeroizing<String>, Placed)>, SendError> {
        let Some(session) = self.0.get(asker) else { return Ok(None) };
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = session.count.checked_add(1) else {
            self.0.invalidate(asker);
            return Ok(None);
        };
        session.count = count;
        let cnonce = if session.challenge.is_session { session.first_cnonce.clone() } else { cnonce()? };
        session.answer(question, &cnonce).map(Some)
    }

    /// Reads `Authentication-Info` (RFC 7616 section 3.5): the nonce that the next answer has.
    pub(crate) fn note_next(&self, asker: &Asker, headers: &HeaderMap) {
        let info = HeaderName::from_static("authentication-info");
        let Some(text) = headers.get(info).and_then(|value| value.to_str().ok()) else { return };
        // It has the form of a challenge, without the scheme.
        let text = format!("Digest {text}");
        let Some(Ok(read)) = ChallengeParser::new(&text).next() else { return };
        if let (Some(next), Some(session)) = (value(&read, "nextnonce"), self.0.get(asker)) {
            let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
            session.challenge.nonce = next;
            session.count = 0;
        }
    }
}

fn cnonce() -> Result<String, SendError> {
    let mut random = [0; 16];
    aead::fill_random(&mut random)?;
    Ok(hex::encode(random))
}

/// The strongest challenge of a response with status 401; `None` where it asks for something else.
///
/// # Errors
/// [`Reason::CredentialUnplaceable`] where the server offers only what is accepted with `weak = true`.
pub(crate) fn strongest(headers: &HeaderMap, is_weak_accepted: bool) -> Result<Option<Challenge>, SendError> {
    let texts: Vec<_> =
        headers.get_all(http::header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut found: Vec<_> = texts
        .iter()
        .flat_map(|text| ChallengeParser::new(text).map_while(Result::ok))
        .filter_map(|c| read(&c))
        .collect();
    let had_any = !found.is_empty();
    found.retain(|challenge| is_weak_accepted || challenge.hash > Hash::Md5 && challenge.qop.is_some());
    // Of two that are as strong, the one that the server names first.
    found.reverse();
    match found.into_iter().max_by_key(|challenge| challenge.hash) {
        None if had_any => Err(SendError::new(
            SendErrorKind::Denied,
            Reason::CredentialUnplaceable,
            "the server offers HTTP Digest only with MD5, or without protection against replay",
        )
        .hint("over https, `weak = true` in the manifest's `credential` accepts it")
        .sent(Sent::Yes)),
        strongest => Ok(strongest),
    }
}

fn value(challenge: &ChallengeRef<'_>, name: &str) -> Option<String> {
    let (_, value) = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    Some(value.to_unescaped()).filter(|text| text.len() <= MAX_VALUE)
}

/// A challenge that can be answered.
fn read(challenge: &ChallengeRef<'_>) -> Option<Challenge> {
    if !challenge.scheme.eq_ignore_ascii_case("digest") {
        return None;
    }
    let algorithm = value(challenge, "algorithm");
    let upper = algorithm.as_deref().unwrap_or("MD5").to_ascii_uppercase();
    let (name, is_session) = upper.strip_suffix("-SESS").map_or((&*upper, false), |name| (name, true));
    let hash = match name {
        "MD5" => Hash::Md5,
        "SHA-256" => Hash::Sha256,
        "SHA-512-256" => Hash::Sha512_256,
        _ => return None,
    };
    let qop = match value(challenge, "qop") {
        None => None,
        Some(list) => {
            let has = |wanted: &str| list.split(',').any(|one| one.trim().eq_ignore_ascii_case(wanted));
            Some(if has("auth") {
                Qop::Auth
            } else if has("auth-int") {
                Qop::AuthInt
            } else {
                return None;
            })
        }
    };
    let is_true = |name| value(challenge, name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    Some(Challenge {
        realm: value(challenge, "realm")?,
        nonce: value(challenge, "nonce")?,
        opaque: value(challenge, "opaque"),
        hash,
        is_session,
        algorithm,
        qop,
        userhash: is_true("userhash"),
        is_stale: is_true("stale"),
    })
}

impl Hash {
    /// In hexadecimal digits in small letters, of the pieces with colons between them.
    fn of(self, pieces: &[&[u8]]) -> Zeroizing<String> {
        let text = Zeroizing::new(pieces.join(&b':'));
        Zeroizing::new(match self {
            Self::Md5 => hex::encode(Md5::digest(&*text)),
            Self::Sha256 => hex::encode(digest::digest(&SHA256, &text)),
            Self::Sha512_256 => hex::encode(digest::digest(&SHA512_256, &text)),
        })
    }
}

impl Session {
    /// RFC 7616 sections 3.4 to 3.4.4.
    fn answer(&self, question: &Question<'_>, cnonce: &str) -> Result<(Zeroizing<String>, Placed), SendError> {
        let Challenge { realm, nonce, hash, qop, .. } = &self.challenge;
        let Question { username, password, method, uri, body } = question;
        let name = username.expose_str().ok_or_else(|| unplaceable("the user name is not text"))?;
        let count = format!("{:08x}", self.count);

        let mut key = hash.of(&[username.expose(), realm.as_bytes(), password.expose()]);
        if self.challenge.is_session {
            key = hash.of(&[key.as_bytes(), self.first_nonce.as_bytes(), self.first_cnonce.as_bytes()]);
        }
        let target = match qop {
            Some(Qop::AuthInt) => {
                let body = body.ok_or_else(|| unplaceable("the body is streamed, and the server wants it signed"))?;
                hash.of(&[method.as_str().as_bytes(), uri.as_bytes(), hash.of(&[body]).as_bytes()])
            }
            Some(Qop::Auth) | None => hash.of(&[method.as_str().as_bytes(), uri.as_bytes()]),
        };
        let qop = qop.map(|qop| if qop == Qop::Auth { "auth" } else { "auth-int" });
        let response = match qop {
            Some(qop) => {
                let pieces = [&**key, nonce, &count, cnonce, qop, &**target];
                hash.of(&pieces.map(str::as_bytes))
            }
            None => hash.of(&[key.as_bytes(), nonce.as_bytes(), target.as_bytes()]),
        };

        let mut text = Zeroizing::new(String::with_capacity(1024));
        text.push_str("Digest ");
        let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if self.challenge.userhash {
            let hidden = hash.of(&[name.as_bytes(), realm.as_bytes()]);
            text.push_str(&format!("username=\"{}\", userhash=true", &**hidden));
        } else if is_plain {
            text.push_str(&format!("username={}", quoted(name)));
        } else {
            // RFC 8187 section 3.2.
            text.push_str("username*=UTF-8''");
            text.extend(utf8_percent_encode(name, UNRESERVED));
        }
        text.push_str(&format!(", realm={}, nonce={}, uri={}", quoted(realm), quoted(nonce), quoted(uri)));
        if let Some(algorithm) = &self.challenge.algorithm {
            text.push_str(&format!(", algorithm={algorithm}"));
        }
        if let Some(qop) = qop {
            text.push_str(&format!(", qop={qop}, nc={count}, cnonce=\"{cnonce}\""));
        }
        if let Some(opaque) = &self.challenge.opaque {
            text.push_str(&format!(", opaque={}", quoted(opaque)));
        }
        text.push_str(&format!(", response=\"{}\"", &**response));
        Ok((text, vec![copy(response.as_bytes())]))
    }
}

/// A quoted string by RFC 9110 section 5.6.4.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn headers(challenges: &[&str]) -> HeaderMap {
        let name = http::header::WWW_AUTHENTICATE;
        challenges.iter().map(|text| (name.clone(), text.parse().unwrap())).collect()
    }

    fn challenge(text: &str) -> Challenge {
        strongest(&headers(&[text]), true).unwrap().unwrap()
    }

    /// The value of a parameter in an answer.
    fn parameter(answer: &str, name: &str) -> Option<String> {
        value(&ChallengeParser::new(answer).next().unwrap().unwrap(), name)
    }

    fn answer(text: &str, (name, password): (&str, &str), uri: &str, body: &[u8], cnonce: &str) -> String {
        let [username, password] = [name, password].map(|text| Secret::from(text.to_owned()));
        let challenge = challenge(text);
        let first_nonce = challenge.nonce.clone();
        let session = Session { challenge, count: 1, first_nonce, first_cnonce: cnonce.to_owned() };
        let question =
            Question { username: &username, password: &password, method: &Method::GET, uri, body: Some(body) };
        session.answer(&question, cnonce).unwrap().0.to_string()
    }

    const MUFASA: (&str, &str) = ("Mufasa", "Circle of Life");

    /// RFC 7616 section 3.9.1.
    #[test]
    fn examples_with_md5_and_sha256_are_met() {
        for (algorithm, expected) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let text = format!(
                r#"Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS""#
            );
            let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
            let answer = answer(&text, MUFASA, "/dir/index.html", b"", cnonce);
            assert_eq!(parameter(&answer, "response").as_deref(), Some(expected));
            for (name, expected) in [
                ("username", "Mufasa"),
                ("realm", "http-auth@example.org"),
                ("uri", "/dir/index.html"),
                ("algorithm", algorithm),
                ("nonce", "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"),
                ("nc", "00000001"),
                ("cnonce", cnonce),
                ("qop", "auth"),
                ("opaque", "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"),
            ] {
                assert_eq!(parameter(&answer, name).as_deref(), Some(expected), "{algorithm} {name}");
            }
        }
    }

    /// RFC 7616 section 3.9.2, with the values of erratum 4897: those of the RFC are of a cut SHA-512.
    #[test]
    fn example_with_sha512_256_and_a_hidden_name_is_met() {
        let text = r#"Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", charset=UTF-8, userhash=true"#;
        let name = ("J\u{e4}s\u{f8}n Doe", "Secret, or not?");
        let answer = answer(text, name, "/doe.json", b"", "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v");
        let expected = "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5";
        assert_eq!(parameter(&answer, "response").as_deref(), Some(expected));
        let expected = "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b";
        assert_eq!(parameter(&answer, "username").as_deref(), Some(expected));
        assert_eq!(parameter(&answer, "userhash").as_deref(), Some("true"));
    }

    /// RFC 2617 section 3.5, and RFC 2069 section 2.4 with erratum 749.
    #[test]
    fn older_examples_are_met() {
        let text = r#"Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41""#;
        let name = ("Mufasa", "Circle Of Life");
        let with_count = answer(text, name, "/dir/index.html", b"", "0a4f113b");
        assert_eq!(parameter(&with_count, "response").as_deref(), Some("6629fae49393a05397450978507c4ef1"));
        assert_eq!(parameter(&with_count, "algorithm"), None, "the server named none");

        let text = r#"Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093""#;
        let bare = answer(text, ("Mufasa", "CircleOfLife"), "/dir/index.html", b"", "");
        assert_eq!(parameter(&bare, "response").as_deref(), Some("1949323746fe6a43ef61f9606e7febea"));
        assert_eq!(parameter(&bare, "nc"), None);
    }

    #[test]
    fn body_and_session_are_in_the_answer_where_they_are_asked_for() {
        let of = |algorithm: &str, qop: &str, body: &[u8], cnonce: &str| {
            let text = format!(r#"Digest realm="r", qop="{qop}", algorithm={algorithm}, nonce="n""#);
            parameter(&answer(&text, MUFASA, "/", body, cnonce), "response").unwrap()
        };
        let sha = |text: &str| hex::encode(digest::digest(&SHA256, text.as_bytes()));
        let key = sha("Mufasa:r:Circle of Life");
        let signed = format!("{key}:n:00000001:c:auth-int:{}", sha(&format!("GET:/:{}", sha("body"))));
        assert_eq!(of("SHA-256", "auth-int", b"body", "c"), sha(&signed));
        assert_eq!(of("SHA-256", "auth", b"body", "c"), of("SHA-256", "auth", b"", "c"));
        let session = format!("{}:n:00000001:c:auth:{}", sha(&format!("{key}:n:c")), sha("GET:/"));
        assert_eq!(of("SHA-256-sess", "auth", b"", "c"), sha(&session));
    }

    #[test]
    fn strongest_challenge_is_taken_and_a_weak_one_only_where_it_is_accepted() {
        let digest = |algorithm: &str, nonce: &str| {
            format!(r#"Digest realm="r", qop="auth", algorithm={algorithm}, nonce="{nonce}""#)
        };
        let nonce = |challenges: &[String], weak| {
            let texts: Vec<&str> = challenges.iter().map(String::as_str).collect();
            strongest(&headers(&texts), weak).map(|found| found.map(|challenge| challenge.nonce))
        };
        let found = |text: &str| Some(text.to_owned());
        let (md5, sha, sha512) = (digest("MD5", "a"), digest("SHA-256", "b"), digest("sha-512-256-sess", "c"));
        assert_eq!(nonce(&[md5.clone(), sha.clone(), sha512.clone()], false).unwrap(), found("c"));
        assert_eq!(nonce(&[format!("Basic realm=\"x\", {md5}, {sha}")], true).unwrap(), found("b"));
        assert_eq!(nonce(&[sha.clone(), digest("SHA-256", "d")], false).unwrap(), found("b"));
        assert_eq!(nonce(std::slice::from_ref(&md5), true).unwrap(), found("a"));
        let bare = r#"Digest realm="r", nonce="n""#.to_owned();
        for challenges in
            [vec![md5.clone()], vec![md5, bare], vec![digest("SHA-256", "a").replace("qop=\"auth\", ", "")]]
        {
            let error = nonce(&challenges, false).unwrap_err();
            assert_eq!((error.reason, error.sent), (Reason::CredentialUnplaceable, Sent::Yes), "{challenges:?}");
        }
        for other in
            ["Basic realm=\"r\"", "Digest", "Digest realm=\"r\", qop=\"x\", nonce=\"n\"", "Negotiate", "\"", ""]
        {
            assert_eq!(nonce(&[other.to_owned()], true).unwrap(), None, "{other}");
        }
        assert_eq!(nonce(&[digest("SHA-3", "a")], true).unwrap(), None);
    }

    #[test]
    fn names_and_realms_are_written_so_that_they_end_where_they_end() {
        let text = r#"Digest realm="a\"b\\c", qop="auth", algorithm=SHA-256, nonce="n", opaque="\"""#;
        let plain = answer(text, ("o\"neil\\", "x"), "/", b"", "c");
        assert!(plain.starts_with(r#"Digest username="o\"neil\\", realm="a\"b\\c", nonce="n", uri="/""#), "{plain}");
        assert!(plain.contains(r#", opaque="\"", response=""#), "{plain}");
        let foreign = answer(text, ("J\u{e4}s\u{f8}n", "x"), "/", b"", "c");
        assert!(foreign.starts_with("Digest username*=UTF-8''J%C3%A4s%C3%B8n, realm="), "{foreign}");
    }
}
