//! JSON Web Tokens (RFC 7519) as compact signed objects (RFC 7515 section 3.1), one for each request.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderName;
use keyward_model::{
    SendError,
    manifest::{Claim, Jwt, JwtAlgorithm},
};
use keyward_policy::Use;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{
    Draft, Placed, copy,
    fill::Filling,
    hmac::{decode, template},
    set_header, unplaceable,
};
use crate::credential::Material;

/// Mints a token and places it.
///
/// # Errors
/// [`keyward_model::Reason::CredentialUnplaceable`] where the connection has not what the templates name, or another
/// kind of key than the algorithm's.
pub(super) fn mint(jwt: &Jwt, filling: &Filling<'_>, draft: &mut Draft) -> Result<Placed, SendError> {
    let mut placed = Placed::new();
    let mut text = |text: &str| {
        let filled = filling.fill(&template(text, Use::Claim)?, "", draft, &mut placed)?;
        String::from_utf8(filled.to_vec()).map_err(|_| unplaceable("a part of the credential is not text"))
    };
    let mut header = json!({"alg": jwt.algorithm.as_str(), "typ": "JWT"});
    if let Some(key_id) = &jwt.key_id {
        header["kid"] = text(key_id)?.into();
    }
    let issued = filling.now.unix_timestamp() - i64::from(jwt.backdate_seconds);
    let mut claims = Map::new();
    for (name, claim) in &jwt.claims {
        let value = match claim {
            Claim::Text(template) => text(template)?.into(),
            Claim::Texts(templates) => {
                templates.iter().map(|template| text(template).map(Value::from)).collect::<Result<Value, _>>()?
            }
            Claim::Number(number) => (*number).into(),
            Claim::Flag(flag) => (*flag).into(),
        };
        claims.insert(name.clone(), value);
    }
    claims.insert("iat".to_owned(), issued.into());
    claims.insert("exp".to_owned(), (issued + i64::from(jwt.lifetime_seconds)).into());
    if jwt.not_before {
        claims.insert("nbf".to_owned(), issued.into());
    }

    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(header), encode(claims.into()));
    let signature = URL_SAFE_NO_PAD.encode(sign(jwt, filling, message.as_bytes(), &mut placed)?);
    let token = Zeroizing::new([message.as_bytes(), b".", signature.as_bytes()].concat());
    let value = Zeroizing::new([jwt.prefix.as_bytes(), &token].concat());
    let name = HeaderName::from_bytes(jwt.name.as_bytes())
        .map_err(|_| unplaceable(format!("the manifest's header name {:?} is not one", jwt.name)))?;
    set_header(&mut draft.headers, name, &value)?;
    // Whoever has the signature can guess the rest.
    placed.extend([copy(&token), copy(signature.as_bytes())]);
    Ok(placed)
}

fn sign(jwt: &Jwt, filling: &Filling<'_>, message: &[u8], placed: &mut Placed) -> Result<Vec<u8>, SendError> {
    let hash = match jwt.algorithm {
        JwtAlgorithm::Hs256 => hmac::HMAC_SHA256,
        JwtAlgorithm::Hs384 => hmac::HMAC_SHA384,
        JwtAlgorithm::Hs512 => hmac::HMAC_SHA512,
        algorithm => {
            let Material::SigningKey(key) = filling.material else {
                return Err(unplaceable("the connector signs with a private key, and the connection has none"));
            };
            return key.sign(algorithm, message).ok_or_else(|| {
                unplaceable(format!("the connection has {}, which cannot sign {}", key.kind(), algorithm.as_str()))
            });
        }
    };
    let key = decode(filling.part(&jwt.part, placed)?, jwt.key_encoding)?;
    placed.push(copy(&key));
    Ok(hmac::sign(&hmac::Key::new(hash, &key), message).as_ref().to_vec())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use http::{HeaderMap, Method};
    use keyward_model::{
        Reason,
        manifest::{KeyEncoding, Part},
    };
    use time::macros::datetime;
    use url::Url;

    use super::*;
    use crate::{
        credential::{FieldValue, Fields},
        place::Payload,
        secret::Secret,
        signing_key::tests::ed25519,
    };

    fn jwt(text: &str) -> Jwt {
        serde_json::from_str(text).unwrap()
    }

    fn minted(jwt: &Jwt, material: &Material) -> Result<(HeaderMap, Placed), SendError> {
        let open = FieldValue::Open("open-id".to_owned());
        let hidden = FieldValue::Secret(Secret::from("canary-team".to_owned()));
        let fields = Fields::from([("key-id".to_owned(), open.into()), ("team".to_owned(), hidden.into())]);
        let url = Url::parse("https://x.test/a?b=c").unwrap();
        let mut draft = Draft { url, headers: HeaderMap::new(), body: Payload::Bytes("body".into()), path_mark: None };
        let now = datetime!(2026-10-30 13:30:03.045 UTC);
        let filling = Filling::new(material, &fields, (&Method::POST, now)).unwrap();
        let placed = mint(jwt, &filling, &mut draft)?;
        Ok((draft.headers, placed))
    }

    fn token(text: &str) -> Material {
        Material::Token(Secret::from(text.to_owned()))
    }

    /// Header, claims and signature.
    fn parts(token: &str) -> (Value, Value, Vec<u8>) {
        let parts: Vec<_> = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
        let [header, claims, signature] = &parts[..] else { panic!("{token}") };
        (serde_json::from_slice(header).unwrap(), serde_json::from_slice(claims).unwrap(), signature.clone())
    }

    #[test]
    fn token_has_the_claims_of_the_manifest_and_the_times_of_the_host() {
        let jwt = jwt(r#"{"name": "X-Token", "prefix": "Bearer ", "algorithm": "EdDSA", "lifetime_seconds": 600,
            "backdate_seconds": 60, "not_before": true, "key_id": "k-{part:key-id}", "claims": {
            "iss": "{part:team}", "aud": ["a", "{host}"], "uri": "{method} {path-and-query}", "admin": false, "v": 2,
            "body": "{body-sha256-hex}"}}"#);
        let (headers, placed) = minted(&jwt, &Material::SigningKey(ed25519())).unwrap();
        assert!(headers["x-token"].is_sensitive());
        let token = headers["x-token"].to_str().unwrap().strip_prefix("Bearer ").unwrap();
        let (header, claims, signature) = parts(token);
        assert_eq!(header, json!({"alg": "EdDSA", "typ": "JWT", "kid": "k-open-id"}));
        let (now, body) = (1_793_367_003, "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5");
        assert_eq!(
            claims,
            json!({"iss": "canary-team", "aud": ["a", "x.test"], "uri": "POST /a?b=c", "admin": false, "v": 2,
                "body": body, "iat": now - 60, "nbf": now - 60, "exp": now + 540})
        );
        let message = token.rsplit_once('.').unwrap().0;
        assert_eq!(Some(signature), ed25519().sign(JwtAlgorithm::EdDsa, message.as_bytes()));
        for secret in ["canary-team", token, token.rsplit_once('.').unwrap().1] {
            assert!(placed.iter().any(|placed| placed.as_slice() == secret.as_bytes()), "{secret}");
        }
    }

    /// RFC 7515 appendix A.1, whose key is in base64url. Its own header and claims have spaces and line ends, which
    /// no token of ours has, so the signature is made of them as they are.
    #[test]
    fn shared_secret_signs_as_in_rfc_7515() {
        let mut jwt = jwt(r#"{"name": "authorization", "algorithm": "HS256", "lifetime_seconds": 60}"#);
        jwt.key_encoding = KeyEncoding::Base64;
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let (material, fields) = (token(key), Fields::new());
        let filling = Filling::new(&material, &fields, (&Method::GET, time::OffsetDateTime::UNIX_EPOCH));
        let message = b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = sign(&jwt, &filling.unwrap(), message, &mut Placed::new()).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.encode(signature), "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    }

    #[test]
    fn key_of_another_kind_is_refused_without_showing_it() {
        let of = |algorithm: &str| {
            jwt(&format!(r#"{{"name": "authorization", "algorithm": "{algorithm}", "lifetime_seconds": 60}}"#))
        };
        let mut hex = of("HS256");
        hex.key_encoding = KeyEncoding::Hex;
        let mut missing = of("HS256");
        missing.part = Part::Password;
        for (jwt, material) in [
            (of("ES256"), token("canary-key")),
            (of("ES256"), Material::SigningKey(ed25519())),
            (of("HS256"), Material::SigningKey(ed25519())),
            (hex, token("canary-key")),
            (missing, token("canary-key")),
        ] {
            let error = minted(&jwt, &material).unwrap_err();
            assert_eq!(error.reason, Reason::CredentialUnplaceable, "{jwt:?}");
            assert!(!error.message.contains("canary"), "{}", error.message);
        }
        assert!(minted(&of("HS512"), &token("canary-key")).is_ok());
    }
}
