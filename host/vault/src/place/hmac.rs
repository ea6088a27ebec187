//! HMACs (RFC 2104) of what a template says.
//!
//! First go the values that have no signature in them, so that they can be signed; then the message is filled with the
//! request as it is, and last goes the signature.

use aws_lc_rs::hmac;
use base64::{
    Engine, alphabet,
    engine::{
        DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig,
        general_purpose::{STANDARD, URL_SAFE_NO_PAD},
    },
};
use http::HeaderName;
use keyward_model::{
    SendError,
    manifest::{Hash, Hmac, KeyEncoding, SignatureEncoding},
};
use keyward_policy::{Use, ValueTemplate};
use zeroize::Zeroizing;

use crate::place::{Draft, Placed, copy, fill::Filling, set_header, set_query, unplaceable};

/// Signs the request.
///
/// # Errors
/// [`keyward_model::Reason::CredentialUnplaceable`] where the connection has not what the templates name, the key is
/// not written as the manifest says, or the body is streamed and signed.
pub(super) fn sign(hmac: &Hmac, filling: &Filling<'_>, draft: &mut Draft) -> Result<Placed, SendError> {
    let mut placed = Placed::new();
    let message = template(&hmac.message, Use::Message)?;
    let key = decode(filling.part(&hmac.part, &mut placed)?, hmac.key_encoding)?;
    set_values(hmac, None, filling, draft, &mut placed)?;

    let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm(hmac.hash), &key));
    filling.feed(&message, "", draft, &mut placed, &mut |bytes| context.update(bytes))?;
    let tag = context.sign();
    let signature = match hmac.encoding {
        SignatureEncoding::Hex => hex::encode(tag),
        SignatureEncoding::Base64 => STANDARD.encode(tag),
        SignatureEncoding::Base64Url => URL_SAFE_NO_PAD.encode(tag),
    };
    set_values(hmac, Some(&signature), filling, draft, &mut placed)?;
    // The bytes, so that they are found in every encoding. The key is secret, whatever the connection says of it.
    placed.extend([copy(&key), copy(signature.as_bytes()), copy(tag.as_ref())]);
    Ok(placed)
}

/// Sets the values that have the signature in them, or those that have not.
fn set_values(
    hmac: &Hmac,
    signature: Option<&str>,
    filling: &Filling<'_>,
    draft: &mut Draft,
    placed: &mut Placed,
) -> Result<(), SendError> {
    let value = |text: &String, draft: &Draft, placed: &mut Placed| {
        let template = template(text, Use::Value)?;
        let is_due = template.has_signature() == signature.is_some();
        is_due.then(|| filling.fill(&template, signature.unwrap_or_default(), draft, placed)).transpose()
    };
    for (name, text) in &hmac.headers {
        if let Some(value) = value(text, draft, placed)? {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| unplaceable(format!("the manifest's header name {name:?} is not one")))?;
            set_header(&mut draft.headers, name, &value)?;
        }
    }
    for (name, text) in &hmac.query {
        if let Some(value) = value(text, draft, placed)? {
            let value = std::str::from_utf8(&value).map_err(|_| unplaceable("the credential is not text"))?;
            set_query(draft, name, value);
        }
    }
    Ok(())
}

pub(super) fn template(text: &str, of: Use) -> Result<ValueTemplate, SendError> {
    ValueTemplate::parse(text, of).map_err(|error| unplaceable(format!("the manifest has a fault: {error}")))
}

fn algorithm(hash: Hash) -> hmac::Algorithm {
    match hash {
        Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => hmac::HMAC_SHA256,
        Hash::Sha384 => hmac::HMAC_SHA384,
        Hash::Sha512 => hmac::HMAC_SHA512,
    }
}

/// Base64 with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of a key that is written so.
pub(super) fn decode(key: &[u8], encoding: KeyEncoding) -> Result<Zeroizing<Vec<u8>>, SendError> {
    let base64 = |key: &[u8]| {
        let standard = key.iter().map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        });
        LENIENT.decode(Zeroizing::new(standard.collect::<Vec<_>>())).ok()
    };
    let bytes = match encoding {
        KeyEncoding::Text => Some(key.to_vec()),
        KeyEncoding::Hex => hex::decode(key).ok(),
        KeyEncoding::Base64 => base64(key),
        KeyEncoding::Whsec => key.strip_prefix(b"whsec_").and_then(base64),
    };
    match bytes.map(Zeroizing::new) {
        Some(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => Err(unplaceable(format!("the key is not written as the connector says (`{}`)", encoding.as_str()))),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use http::{HeaderMap, Method};
    use keyward_model::{Reason, manifest::Part};
    use time::{OffsetDateTime, macros::datetime};
    use url::Url;

    use super::*;
    use crate::{
        credential::{FieldValue, Fields, Material},
        place::Payload,
        secret::Secret,
    };

    /// A request that is signed, with the field `api-key`.
    struct Case {
        method: Method,
        url: &'static str,
        body: Payload,
        now: OffsetDateTime,
        key: &'static str,
        headers: HeaderMap,
    }

    impl Case {
        fn new(method: Method, url: &'static str, body: &'static str, unix_ms: i128, key: &'static str) -> Self {
            let now = OffsetDateTime::from_unix_timestamp_nanos(unix_ms * 1_000_000).unwrap();
            let body = if body.is_empty() { Payload::Empty } else { Payload::Bytes(body.into()) };
            Self { method, url, body, now, key, headers: HeaderMap::new() }
        }

        fn sign(self, hmac: &Hmac) -> Result<(Draft, Placed), SendError> {
            let material = Material::Token(Secret::from(self.key.to_owned()));
            let open = FieldValue::Open("open-api-key".to_owned());
            let fields = Fields::from([("api-key".to_owned(), open.into())]);
            let mut draft =
                Draft { url: Url::parse(self.url).unwrap(), headers: self.headers, body: self.body, path_mark: None };
            let filling = Filling::new(&material, &fields, (&self.method, self.now))?;
            let placed = sign(hmac, &filling, &mut draft)?;
            Ok((draft, placed))
        }
    }

    fn hmac(hash: Hash, message: &str, encoding: SignatureEncoding, header: &str) -> Hmac {
        Hmac {
            hash,
            part: Part::Token,
            key_encoding: KeyEncoding::Text,
            message: message.to_owned(),
            encoding,
            headers: [("x-signature".to_owned(), header.to_owned())].into(),
            query: Default::default(),
        }
    }

    /// GitHub, "Validating webhook deliveries"; Slack, "Verifying requests from Slack".
    #[test]
    fn examples_of_services_are_met() {
        let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        for (case, message, header, expected) in [
            (
                Case::new(Method::POST, "https://x.test/", "Hello, World!", 0, "It's a Secret to Everybody"),
                "{body}",
                "sha256={signature}",
                "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
            ),
            (
                Case::new(Method::POST, "https://x.test/", body, 1_531_420_618_000, "8f742231b10e8888abcd99yyyzzz85a5"),
                "v0:{timestamp}:{body}",
                "v0={signature}",
                "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
            ),
        ] {
            let hmac = hmac(Hash::Sha256, message, SignatureEncoding::Hex, header);
            let (draft, _) = case.sign(&hmac).unwrap();
            assert_eq!(draft.headers["x-signature"], expected);
            assert!(draft.headers["x-signature"].is_sensitive());
        }
    }

    /// Standard Webhooks, the example of its reference libraries.
    #[test]
    fn standard_webhook_is_signed() {
        let mut hmac =
            hmac(Hash::Sha256, "{header:webhook-id}.{timestamp}.{body}", SignatureEncoding::Base64, "v1,{signature}");
        hmac.key_encoding = KeyEncoding::Whsec;
        hmac.headers.insert("webhook-timestamp".to_owned(), "{timestamp}".to_owned());
        let mut case = Case::new(
            Method::POST,
            "https://x.test/",
            r#"{"test": 2432232314}"#,
            1_614_265_330_000,
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        );
        case.headers.insert("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".parse().unwrap());
        let (draft, _) = case.sign(&hmac).unwrap();
        assert_eq!(draft.headers["x-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(draft.headers["webhook-timestamp"], "1614265330");
    }

    /// Binance, "SIGNED Endpoint Examples for POST /api/v3/order", as a query string.
    #[test]
    fn signature_of_the_query_is_its_last_parameter() {
        let mut hmac = hmac(Hash::Sha256, "{query}{body}", SignatureEncoding::Hex, "");
        hmac.headers = [("x-mbx-apikey".to_owned(), "{part:api-key}".to_owned())].into();
        hmac.query = ["timestamp", "signature"].map(|name| (name.to_owned(), format!("{{{name}}}"))).into();
        hmac.query.insert("timestamp".to_owned(), "{timestamp-ms}".to_owned());
        let query = "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000";
        let url = "https://x.test/api/v3/order?symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000";
        let key = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j";
        let (draft, placed) = Case::new(Method::POST, url, "", 1_499_827_319_559, key).sign(&hmac).unwrap();
        let signature = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71";
        let expected = format!("{query}&timestamp=1499827319559&signature={signature}");
        assert_eq!(draft.url.query(), Some(&*expected));
        assert_eq!(draft.headers["x-mbx-apikey"], "open-api-key");
        for secret in [key, signature] {
            assert!(placed.iter().any(|placed| placed.as_slice() == secret.as_bytes()), "{secret}");
        }
        assert!(!placed.iter().any(|placed| placed.as_slice() == b"open-api-key"), "it is not secret");
    }

    #[test]
    fn each_placeholder_is_what_goes_on_the_wire() {
        let sha256 = "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5";
        for (slot, expected) in [
            ("{method} {host}{path}", "POST x.test:8443/a%20b"),
            ("{query}", "c=%2F&d"),
            ("{path-and-query}", "/a%20b?c=%2F&d"),
            ("{url}", "https://x.test:8443/a%20b?c=%2F&d"),
            ("{body}|{body-sha256-hex}", &*format!("body|{sha256}")),
            ("{body-sha256-base64}", "Iw2DWNyOiJC0xY3utikS7i8gNXrpKlzIYbmOaP4xrLU="),
            ("{timestamp} {timestamp-ms}", "1793367003 1793367003045"),
            ("{timestamp-rfc3339}", "2026-10-30T13:30:03Z"),
            ("{timestamp-rfc3339-ms}", "2026-10-30T13:30:03.045Z"),
            ("{timestamp-http}", "Fri, 30 Oct 2026 13:30:03 GMT"),
            ("{header:x-many}|{header:x-none}|{part:api-key}", "one, two||open-api-key"),
            ("{{{part:token}}}", "{canary-key}"),
        ] {
            let now = datetime!(2026-10-30 13:30:03.045 UTC);
            let (material, fields) = (
                Material::Token(Secret::from("canary-key".to_owned())),
                Fields::from([("api-key".to_owned(), FieldValue::Open("open-api-key".to_owned()).into())]),
            );
            let mut headers = HeaderMap::new();
            headers.append("x-many", "one".parse().unwrap());
            headers.append("x-many", "two".parse().unwrap());
            let url = Url::parse("https://x.test:8443/a%20b?c=%2F&d#e").unwrap();
            let draft = Draft { url, headers, body: Payload::Bytes("body".into()), path_mark: None };
            let filling = Filling::new(&material, &fields, (&Method::POST, now)).unwrap();
            let template = ValueTemplate::parse(slot, Use::Message).unwrap();
            let filled = filling.fill(&template, "", &draft, &mut Placed::new()).unwrap();
            assert_eq!(std::str::from_utf8(&filled).unwrap(), expected, "{slot}");
        }
    }

    #[test]
    fn nonce_is_one_in_a_request_and_another_in_the_next() {
        let mut hmac = hmac(Hash::Sha512, "{nonce}", SignatureEncoding::Base64Url, "{signature}");
        hmac.headers.insert("x-a".to_owned(), "{nonce}".to_owned());
        hmac.query.insert("b".to_owned(), "{nonce}".to_owned());
        let signed = || {
            let (draft, _) = Case::new(Method::GET, "https://x.test/", "", 0, "canary-key").sign(&hmac).unwrap();
            let nonce = draft.headers["x-a"].to_str().unwrap().to_owned();
            assert_eq!(draft.url.query(), Some(&*format!("b={nonce}")));
            assert_eq!(nonce.len(), 32);
            nonce
        };
        assert_ne!(signed(), signed());
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        for (text, encoding, expected) in [
            ("00ffA5", KeyEncoding::Hex, Some(&b"\x00\xff\xa5"[..])),
            ("AP+l", KeyEncoding::Base64, Some(b"\x00\xff\xa5")),
            ("AP-l", KeyEncoding::Base64, Some(b"\x00\xff\xa5")),
            ("AP8=", KeyEncoding::Base64, Some(b"\x00\xff")),
            ("AP8", KeyEncoding::Base64, Some(b"\x00\xff")),
            ("whsec_AP8", KeyEncoding::Whsec, Some(b"\x00\xff")),
            ("AP8", KeyEncoding::Text, Some(b"AP8")),
            ("AP8", KeyEncoding::Whsec, None),
            ("AP 8", KeyEncoding::Base64, None),
            ("0ff", KeyEncoding::Hex, None),
            ("", KeyEncoding::Text, None),
        ] {
            let decoded = decode(text.as_bytes(), encoding);
            assert_eq!(decoded.as_ref().ok().map(|bytes| bytes.as_slice()), expected, "{text} {encoding:?}");
        }
        let mut hex = hmac(Hash::Sha1, "{method}", SignatureEncoding::Hex, "{signature}");
        hex.key_encoding = KeyEncoding::Hex;
        let error = Case::new(Method::GET, "https://x.test/", "", 0, "canary-key").sign(&hex).map(drop).unwrap_err();
        assert_eq!(error.reason, Reason::CredentialUnplaceable);
        assert!(!error.message.contains("canary"), "{}", error.message);
    }

    #[test]
    fn streamed_body_is_not_signed() {
        for message in ["{body}", "{body-sha256-hex}"] {
            let mut case = Case::new(Method::POST, "https://x.test/", "", 0, "canary-key");
            case.body = Payload::Stream;
            let hmac = hmac(Hash::Sha256, message, SignatureEncoding::Hex, "{signature}");
            assert!(case.sign(&hmac).is_err(), "{message}");
        }
    }
}
