//! ID tokens: whose account it is. Used for the account's name and for nothing else.
//!
//! The token comes from the token endpoint over TLS, so its signature need not be checked (OpenID Connect Core
//! section 3.1.3.7, rule 6). Its claims are, so that a token that was meant for another client or another
//! authorization is noticed.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use time::OffsetDateTime;

use super::{Document, Withheld};
use crate::{oauth::same_issuer, provider::Provider, secret::Secret};

/// What the claims of an ID token must say.
pub(crate) struct Expected<'a> {
    pub(crate) issuer: Option<&'a str>,
    pub(crate) client: &'a str,
    pub(crate) nonce: Option<&'a str>,
    /// The server's time.
    pub(crate) now: OffsetDateTime,
}

/// Which claim of an ID token is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the claim `{0}` of the ID token is not what it must be")]
pub(crate) struct IdentityError(pub(crate) &'static str);

/// Clocks may differ by this much, seconds.
const SKEW: i64 = 300;

/// The claims of a JSON Web Token whose signature is not checked; `None` where it is none (opaque, encrypted).
pub(crate) fn claims(token: &Secret, withheld: &Arc<Withheld>) -> Option<Document> {
    let mut parts = token.expose_str()?.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let payload = zeroize::Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
    let document = Document::read(&payload, withheld);
    document.value("")?.is_object().then_some(document)
}

/// The account's name in an ID token, where the provider has one.
///
/// # Errors
/// The claim that is not as `expected`.
pub(crate) fn account_of(
    provider: &Provider,
    token: &Secret,
    expected: &Expected<'_>,
    withheld: &Arc<Withheld>,
) -> Result<Option<String>, IdentityError> {
    let claims = claims(token, withheld).ok_or(IdentityError("payload"))?;
    let issuer = claims.text("/iss").ok_or(IdentityError("iss"))?;
    let known =
        |wanted: &str| same_issuer(issuer, wanted) || provider.issuer_aliases.iter().any(|alias| alias == issuer);
    if expected.issuer.is_some_and(|wanted| !known(wanted)) {
        return Err(IdentityError("iss"));
    }
    let audience = match claims.value("/aud") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !audience.contains(&expected.client) {
        return Err(IdentityError("aud"));
    }
    let authorized = claims.text("/azp");
    if authorized.is_some_and(|party| party != expected.client) || (audience.len() > 1 && authorized.is_none()) {
        return Err(IdentityError("azp"));
    }
    let ends = claims.value("/exp").and_then(Value::as_f64).ok_or(IdentityError("exp"))?;
    if ends <= (expected.now.unix_timestamp() - SKEW) as f64 {
        return Err(IdentityError("exp"));
    }
    if expected.nonce.is_some() && claims.text("/nonce") != expected.nonce {
        return Err(IdentityError("nonce"));
    }
    Ok(provider.account.name.iter().find_map(|pointer| claims.name(pointer)).or_else(|| claims.name("/email")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;
    use crate::provider::Catalogue;

    fn token(claims: &Value) -> Secret {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        Secret::from(format!("{}.{}.test", part(&json!({"alg": "RS256"})), part(claims)))
    }

    #[test]
    fn each_claim_is_checked() {
        let now = datetime!(2026-11-22 12:00 UTC);
        let good = json!({
            "iss": "https://accounts.google.com", "aud": "test-client", "exp": now.unix_timestamp() + 60,
            "nonce": "test-nonce", "email": "a@example.com", "sub": "1",
        });
        let expected = Expected {
            issuer: Some("https://accounts.google.com"),
            client: "test-client",
            nonce: Some("test-nonce"),
            now,
        };
        let catalogue = Catalogue::builtin();
        let check =
            |claims: &Value| account_of(catalogue.find("google").unwrap(), &token(claims), &expected, &Arc::default());
        assert_eq!(check(&good), Ok(Some("a@example.com".to_owned())));

        for (claim, value, wrong) in [
            ("iss", json!("https://evil.example"), "iss"),
            ("iss", json!(null), "iss"),
            ("aud", json!("other"), "aud"),
            ("aud", json!(["other"]), "aud"),
            ("aud", json!(["other", "test-client"]), "azp"),
            ("azp", json!("other"), "azp"),
            ("exp", json!(now.unix_timestamp() - 301), "exp"),
            ("exp", json!("tomorrow"), "exp"),
            ("nonce", json!("replayed"), "nonce"),
            ("nonce", json!(null), "nonce"),
        ] {
            let mut claims = good.clone();
            claims[claim] = value;
            assert_eq!(check(&claims), Err(IdentityError(wrong)), "{claims}");
        }
        for (claim, value) in [("iss", json!("accounts.google.com")), ("exp", json!(now.unix_timestamp() - 299))] {
            let mut claims = good.clone();
            claims[claim] = value;
            assert!(check(&claims).is_ok(), "{claims}");
        }
    }

    #[test]
    fn what_is_no_jwt_has_no_claims() {
        for text in ["", "test", "a.b", "a.b.c.d", "a.!!.c", "a.Mw.c", "a.b.c.d.e"] {
            assert!(claims(&Secret::from(text.to_owned()), &Arc::default()).is_none(), "{text:?}");
        }
    }
}
