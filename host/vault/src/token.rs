//! Replies of a token endpoint, read as leniently as the providers write them.
//!
//! A reply is kept as [`RawReply`] and stored sealed before [`read`] looks into it: what can no longer be fetched a
//! second time must not be lost to a parser. Nothing of a reply but `error` and `error_description` ever stands in a
//! message, and nothing at all is shown or stored in the open before everything that was sent is taken out of it.

mod identity;
mod withheld;

use std::{collections::BTreeSet, sync::Arc};

use keyward_policy::scope::is_scope_token;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{Duration, OffsetDateTime};
use url::form_urlencoded;
use zeroize::Zeroize;

use crate::{
    credential::{Tokens, text},
    provider::Provider,
    secret::Secret,
};

pub(crate) use identity::{Expected, account_of, claims};
pub(crate) use withheld::Withheld;

/// A reply as it came.
#[derive(Serialize, Deserialize)]
pub(crate) struct RawReply {
    pub(crate) status: u16,
    /// When it came, by the server's clock where it tells it, else by ours.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) received_at: OffsetDateTime,
    /// Seconds by which the server's clock is ahead of ours.
    pub(crate) clock_offset: i64,
    #[serde(with = "text")]
    pub(crate) body: Secret,
}

impl RawReply {
    pub(crate) fn duplicate(&self) -> Self {
        Self { body: self.body.duplicate(), ..*self }
    }
}

/// What a good reply holds.
pub(crate) struct Reply {
    pub(crate) tokens: Tokens,
    /// `None` where the reply is silent about scopes.
    pub(crate) scopes: Option<BTreeSet<String>>,
    pub(crate) token_type: Option<String>,
    pub(crate) id_token: Option<Secret>,
    /// What the tokens, too, are read through.
    pub(crate) withheld: Arc<Withheld>,
}

/// What the provider says against a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// The code of RFC 6749 section 5.2, translated from the provider's own; empty where there is none.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
}

impl Refusal {
    /// The grant is dead: the refresh token or code is invalid, expired, revoked or was used.
    pub(crate) fn ends_grant(&self) -> bool {
        self.code == "invalid_grant"
    }

    /// The access token is dead.
    pub(crate) fn ends_token(&self) -> bool {
        self.ends_grant() || self.code == "invalid_token"
    }

    /// The client registration is refused; the grant may be as good as ever.
    pub(crate) fn blames_client(&self) -> bool {
        matches!(self.code.as_str(), "invalid_client" | "unauthorized_client") || self.status == 401
    }
}

/// A JSON document of a provider, which is wiped. Names and scopes in it are read without what was sent.
pub(crate) struct Document {
    value: Value,
    withheld: Arc<Withheld>,
}

impl Document {
    /// Reads JSON, or the form encoding that some providers still answer with; anything else is an empty document.
    pub(crate) fn read(body: &[u8], withheld: &Arc<Withheld>) -> Self {
        Self::json(body, withheld).unwrap_or_else(|| {
            // A page of HTML reads as a form as well, with names that nobody asks for.
            let members = form_urlencoded::parse(body)
                .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
                .collect::<serde_json::Map<_, _>>();
            Self { value: members.into(), withheld: withheld.clone() }
        })
    }

    /// Reads JSON and nothing else.
    pub(crate) fn json(body: &[u8], withheld: &Arc<Withheld>) -> Option<Self> {
        Some(Self { value: serde_json::from_slice(body).ok()?, withheld: withheld.clone() })
    }

    /// The text at a JSON pointer, where it is text and not empty.
    pub(crate) fn text(&self, pointer: &str) -> Option<&str> {
        self.value(pointer)?.as_str().filter(|text| !text.is_empty())
    }

    /// A name at a JSON pointer, cut to what a person reads: text, or a number as some providers write their ids.
    pub(crate) fn name(&self, pointer: &str) -> Option<String> {
        let name = match self.value(pointer)? {
            Value::Number(number) => number.to_string(),
            _ => self.withheld.printable(self.text(pointer)?),
        };
        Some(name).filter(|name| !name.is_empty())
    }

    /// What is said with `true` or `false` at a JSON pointer.
    pub(crate) fn flag(&self, pointer: &str) -> Option<bool> {
        self.value(pointer)?.as_bool()
    }

    /// Whether `true` stands at a JSON pointer.
    pub(crate) fn is_true(&self, pointer: &str) -> bool {
        self.flag(pointer) == Some(true)
    }

    /// The value at a JSON pointer.
    pub(crate) fn value(&self, pointer: &str) -> Option<&Value> {
        self.value.pointer(pointer)
    }

    /// The scopes at a JSON pointer; see [`scopes`].
    pub(crate) fn scopes(&self, pointer: &str, separator: &str) -> Option<BTreeSet<String>> {
        scopes(self.value(pointer)?, separator, &self.withheld)
    }

    /// Takes a secret out, so that no copy of it stays.
    fn take(&mut self, pointer: &str) -> Option<Secret> {
        match self.value.pointer_mut(pointer)? {
            Value::String(text) if !text.is_empty() => Some(Secret::from(std::mem::take(text))),
            _ => None,
        }
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        fn wipe(value: &mut Value) {
            match value {
                Value::String(text) => text.zeroize(),
                Value::Array(values) => values.iter_mut().for_each(wipe),
                Value::Object(members) => members.values_mut().for_each(wipe),
                Value::Null | Value::Bool(_) | Value::Number(_) => {}
            }
        }
        wipe(&mut self.value);
    }
}

/// Reads a reply of the token endpoint.
///
/// The only thing that must be there is an access token. A missing or odd `expires_in`, `scope` or `token_type` is
/// no error: when this runs, the old refresh token may already be dead.
///
/// # Errors
/// Where there is no access token: what the provider says instead, without what is `withheld`.
pub(crate) fn read(provider: &Provider, reply: &RawReply, withheld: &Arc<Withheld>) -> Result<Reply, Refusal> {
    let mut document = Document::read(reply.body.expose(), withheld);
    let rules = &provider.token;
    let found = rules
        .places
        .iter()
        .find_map(|place| Some((place, document.take(&format!("{place}/access_token"))?)))
        .filter(|_| (200..300).contains(&reply.status));
    let Some((place, access)) = found else {
        return Err(refusal(provider, reply.status, &document));
    };
    let at = |name: &str| format!("{place}/{name}");
    let lifetime = document
        .value(&at("expires_in"))
        .and_then(seconds)
        .or_else(|| rules.lifetime_untold.and_then(|seconds| Some(Duration::seconds(i64::try_from(seconds).ok()?))));
    let after = |lifetime: Duration| reply.received_at.checked_add(lifetime);
    let scopes = document.value(&at("scope")).and_then(|value| told_scopes(provider, value, withheld));
    Ok(Reply {
        tokens: Tokens {
            access,
            refresh: document.take(&at("refresh_token")),
            received_at: reply.received_at,
            expires_at: lifetime.and_then(after),
            refresh_expires_at: document.value(&at("refresh_token_expires_in")).and_then(seconds).and_then(after),
            clock_offset: reply.clock_offset,
        },
        scopes,
        token_type: document.text(&at("token_type")).map(str::to_owned),
        id_token: document.take(&at("id_token")),
        withheld: withheld.clone(),
    })
}

/// What the provider says against a request, from any JSON error reply.
pub(crate) fn refusal(provider: &Provider, status: u16, document: &Document) -> Refusal {
    let printable = |text: &str| document.withheld.printable(text);
    let own = document.text("/error").or_else(|| document.text("/error/code")).unwrap_or_default();
    let code = printable(provider.token.standard_error(own));
    let message = match (printable(own), document.text("/error_description")) {
        (own, _) if own.is_empty() => format!("it answered with HTTP status {status}"),
        (own, None) => own,
        (own, Some(description)) => format!("{own}: {}", printable(description)),
    };
    Refusal { status, code, message }
}

/// A lifetime in seconds as a number or as text; zero and less mean that the provider does not say.
fn seconds(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    (1.0..=MAX_LIFETIME).contains(&seconds).then(|| Duration::seconds(seconds as i64))
}

/// Ten years. More is written in milliseconds or means for ever, and nobody knows which: such a token is used until it
/// is refused, as one whose end is not told.
const MAX_LIFETIME: f64 = 10.0 * 365.0 * 86_400.0;

/// The scopes that a provider tells, where what it tells means something.
pub(crate) fn told_scopes(provider: &Provider, value: &Value, withheld: &Withheld) -> Option<BTreeSet<String>> {
    let told = scopes(value, &provider.scopes.separator, withheld);
    told.filter(|told| !(told.is_empty() && provider.scopes.empty_is_silent))
}

/// Scopes as text with the provider's separator or spaces, or as an array. What is no scope token (RFC 6749 section
/// 3.3) is left out, and so is what goes beyond all measure or was sent to the provider: it would be stored and shown.
fn scopes(value: &Value, separator: &str, withheld: &Withheld) -> Option<BTreeSet<String>> {
    let told: Vec<&str> = match value {
        Value::String(text) => text.split(' ').flat_map(|part| part.split(separator)).collect(),
        Value::Array(values) => values.iter().map(Value::as_str).collect::<Option<_>>()?,
        _ => return None,
    };
    let fits = |scope: &&str| is_scope_token(scope) && scope.len() <= MAX_SCOPE;
    let fitting = told.into_iter().filter(fits).take(MAX_SCOPES);
    Some(fitting.filter(|scope| !withheld.is_in(scope)).map(str::to_owned).collect())
}

/// The longest scope that is believed, bytes, and the most scopes.
const MAX_SCOPE: usize = 512;
const MAX_SCOPES: usize = 500;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;
    use crate::provider::Catalogue;

    const AT: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);

    fn raw(status: u16, body: &str) -> RawReply {
        RawReply { status, received_at: AT, clock_offset: 0, body: Secret::from(body.to_owned()) }
    }

    fn read_as(provider: &str, status: u16, body: &str) -> Result<Reply, Refusal> {
        let sent = Arc::new(Withheld::of(vec![Arc::new(b"test-sent-secret".to_vec().into())]));
        read(Catalogue::builtin().find(provider).unwrap(), &raw(status, body), &sent)
    }

    fn set(scopes: &[&str]) -> Option<BTreeSet<String>> {
        Some(scopes.iter().map(|scope| (*scope).to_owned()).collect())
    }

    #[test]
    fn lifetime_is_read_however_it_is_written() {
        let after = |seconds| Some(AT + Duration::seconds(seconds));
        for (member, expected) in [
            (r#","expires_in":3600"#, after(3600)),
            (r#","expires_in":"3600""#, after(3600)),
            (r#","expires_in":3599.9"#, after(3599)),
            (r#","expires_in":0"#, None),
            (r#","expires_in":-1"#, None),
            (r#","expires_in":null"#, None),
            (r#","expires_in":"soon""#, None),
            (r#","expires_in":1e300"#, None),
            // An hour is 3,600,000 ms, which may be 41 days; 14 days in ms cannot be meant as seconds.
            (r#","expires_in":1209600000"#, None),
            (r#","expires_in":{}"#, None),
            ("", None),
        ] {
            let reply = read_as("oidc", 200, &format!(r#"{{"access_token":"test-at"{member}}}"#)).ok().unwrap();
            assert_eq!(reply.tokens.expires_at, expected, "{member}");
        }
        let google = read_as("google", 200, r#"{"access_token":"test-at"}"#).ok().unwrap();
        assert_eq!(google.tokens.expires_at, after(3600), "the provider file tells what the reply leaves out");
    }

    #[test]
    fn scopes_are_read_however_they_are_separated() {
        for (provider, member, expected) in [
            ("oidc", r#","scope":"a b""#, set(&["a", "b"])),
            ("oidc", r#","scope":"""#, set(&[])),
            ("oidc", r#","scope":["a","b"]"#, set(&["a", "b"])),
            ("oidc", r#","scope":"a,b""#, set(&["a,b"])),
            ("oidc", "", None),
            ("oidc", r#","scope":7"#, None),
            ("oidc", r#","scope":"a test-sent-secret""#, set(&["a"])),
            ("oidc", r#","scope":"a \"b\" \\c \u001b[31m ä""#, set(&["a"])),
            ("github", r#","scope":"repo,user""#, set(&["repo", "user"])),
            ("github", r#","scope":"repo user""#, set(&["repo", "user"])),
            ("github", r#","scope":"""#, None),
        ] {
            let reply = read_as(provider, 200, &format!(r#"{{"access_token":"test-at"{member}}}"#)).ok().unwrap();
            assert_eq!(reply.scopes, expected, "{member}");
        }
    }

    #[test]
    fn what_a_provider_tells_without_measure_is_cut() {
        let document = json!({"name": format!("a\u{1b}{}", "b".repeat(200_000)), "empty": "\n", "id": 7});
        let document = Document::read(document.to_string().as_bytes(), &Arc::default());
        assert_eq!(document.name("/name").unwrap().len(), 200);
        assert!(document.name("/name").unwrap().starts_with("abb"));
        assert_eq!(document.name("/empty"), None);
        assert_eq!(document.name("/id").unwrap(), "7");
        let sent = Arc::new(Withheld::of(vec![Arc::new(b"test-sent-secret".to_vec().into())]));
        let document = Document::read(br#"{"name":"test-sent-secret"}"#, &sent);
        assert_eq!(document.name("/name").unwrap(), "[redacted]");
        let many: Vec<_> = (0..10_000).map(|index| format!("scope-{index}")).collect();
        assert_eq!(scopes(&json!(many), " ", &Withheld::default()).unwrap().len(), MAX_SCOPES);
        assert_eq!(scopes(&json!("b".repeat(MAX_SCOPE + 1)), " ", &Withheld::default()), set(&[]));
    }

    #[test]
    fn tokens_are_found_where_the_provider_puts_them() {
        for (provider, body, access, refresh) in [
            ("oidc", r#"{"access_token":"test-a","refresh_token":"test-r"}"#, "test-a", Some("test-r")),
            ("oidc", r#"{"access_token":"test-a","refresh_token":""}"#, "test-a", None),
            ("github", "access_token=test-a&scope=repo&token_type=bearer", "test-a", None),
            ("slack", r#"{"ok":true,"access_token":"test-bot","authed_user":{"id":"U1"}}"#, "test-bot", None),
            (
                "slack",
                r#"{"ok":true,"authed_user":{"access_token":"test-user","refresh_token":"test-r"}}"#,
                "test-user",
                Some("test-r"),
            ),
        ] {
            let reply = read_as(provider, 200, body).ok().unwrap();
            assert_eq!(reply.tokens.access.expose_str(), Some(access));
            assert_eq!(reply.tokens.refresh.as_ref().and_then(Secret::expose_str), refresh);
        }
    }

    #[test]
    fn refusal_is_recognised_whatever_the_status() {
        for (provider, status, body, code, message) in [
            (
                "oidc",
                400,
                r#"{"error":"invalid_grant","error_description":"gone"}"#,
                "invalid_grant",
                "invalid_grant: gone",
            ),
            ("github", 200, r#"{"error":"bad_refresh_token"}"#, "invalid_grant", "bad_refresh_token"),
            ("github", 200, "error=bad_verification_code", "invalid_grant", "bad_verification_code"),
            ("slack", 200, r#"{"ok":false,"error":"bad_client_secret"}"#, "invalid_client", "bad_client_secret"),
            ("oidc", 200, "<html>test-sent-secret</html>", "", "it answered with HTTP status 200"),
            ("oidc", 502, "", "", "it answered with HTTP status 502"),
            // A token in an error reply is not a grant.
            ("oidc", 400, r#"{"access_token":"test-a","error":"x"}"#, "x", "x"),
        ] {
            let refusal = read_as(provider, status, body).err().unwrap();
            assert_eq!((refusal.code.as_str(), refusal.message.as_str()), (code, message));
        }
    }

    #[test]
    fn message_never_quotes_what_was_sent_nor_control_characters() {
        let body = format!(
            r#"{{"error":"invalid_grant","error_description":"token test-sent-secret\u001b[31m {}"}}"#,
            "x".repeat(500)
        );
        let refusal = read_as("oidc", 400, &body).err().unwrap();
        assert!(refusal.message.starts_with("invalid_grant: token [redacted][31m xxx"));
        assert!(refusal.message.len() < 230);
    }
}
