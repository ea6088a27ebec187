//! AWS Signature Version 4 in the `Authorization` header.
//!
//! It is made last, of the request as it goes on the wire: the host, the type of the body, every `x-amz-` header, the
//! URL and the body are signed. So that no server reads the URL otherwise than it was signed, path and query are first
//! written in the one form that the specification knows, with all but unreserved characters percent-encoded.
//!
//! Source: AWS Identity and Access Management User Guide, "Create a signed AWS API request"; Amazon S3 API Reference,
//! "Authenticating Requests: Using the Authorization Header".

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use http::{HeaderName, Method, header::CONTENT_TYPE};
use keyward_model::SendError;
use percent_encoding::{percent_decode_str, percent_encode};
use time::OffsetDateTime;
use url::Url;

use crate::{
    credential::AwsKeys,
    place::{Draft, Payload, Placed, UNRESERVED, check, copy, set_header, unplaceable},
};

/// Signs the request for `service` in `region`.
///
/// # Errors
/// [`keyward_model::Reason::CredentialUnplaceable`] where the keys are not text that a header can carry, a body is
/// streamed over http, or the request cannot be signed.
pub(super) fn sign_aws(
    (region, service): (&str, &str),
    keys: &AwsKeys,
    method: &Method,
    now: OffsetDateTime,
    draft: &mut Draft,
) -> Result<Placed, SendError> {
    let text = |secret: &crate::secret::Secret| {
        let text = secret.expose_str().ok_or_else(|| unplaceable("the access key is not text"))?;
        check("access key", text.as_bytes()).map(|()| text.to_owned())
    };
    let token = keys.session_token.as_ref().map(text).transpose()?;
    check("access key id", keys.access_key_id.as_bytes())?;
    let secret = text(&keys.secret_access_key)?;
    let identity = Credentials::new(keys.access_key_id.clone(), secret, token, None, "keyward").into();

    let is_s3 = keyward_policy::is_s3(service);
    let is_stream = matches!(draft.body, Payload::Stream);
    if is_stream && (!is_s3 || draft.url.scheme() != "https") {
        return Err(unplaceable("a body that is streamed goes to S3 over https alone, as it is not signed"));
    }
    let mut settings = SigningSettings::default();
    if is_s3 {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    }
    settings.payload_checksum_kind =
        if is_s3 { PayloadChecksumKind::XAmzSha256 } else { PayloadChecksumKind::NoHeader };
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(SystemTime::from(now))
        .settings(settings)
        .build()
        .map_err(|_| unplaceable("the keys cannot sign"))?
        .into();

    for name in OWN_HEADERS {
        draft.headers.remove(*name);
    }
    draft.url = strict(&draft.url)?;
    let mut headers = Vec::new();
    for (name, value) in &draft.headers {
        if *name == CONTENT_TYPE || name.as_str().starts_with("x-amz-") {
            let value =
                value.to_str().map_err(|_| unplaceable(format!("the header {name} is not ASCII, and is signed")))?;
            headers.push((name.as_str(), value));
        }
    }
    let body = match &draft.body {
        Payload::Empty => SignableBody::Bytes(&[]),
        Payload::Bytes(bytes) => SignableBody::Bytes(bytes),
        Payload::Stream => SignableBody::UnsignedPayload,
    };
    let request = SignableRequest::new(method.as_str(), draft.url.as_str(), headers.into_iter(), body)
        .map_err(|_| unplaceable("the request has no form that can be signed"))?;
    let (instructions, signature) =
        sign(request, &parameters).map_err(|_| unplaceable("the request has no form that can be signed"))?.into_parts();
    for (name, value) in instructions.headers() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unplaceable("the request cannot be signed"))?;
        set_header(&mut draft.headers, name, value.as_bytes())?;
    }
    let token = keys.session_token.as_ref().map(|token| copy(token.expose()));
    Ok([copy(signature.as_bytes())].into_iter().chain(token).collect())
}

/// The headers that the signature brings; a manifest's grammar keeps them from guests.
const OWN_HEADERS: &[&str] = &["authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"];

/// The same URL with every segment of the path, and every name and value of the query, decoded once and encoded anew.
/// `+` in a query is a space, and a name without a value has an empty one.
fn strict(url: &Url) -> Result<Url, SendError> {
    let encode = |text: &str| percent_encode(&percent_decode_str(text).collect::<Vec<_>>(), UNRESERVED).to_string();
    let path: Vec<_> = url.path().split('/').map(encode).collect();
    let pairs = url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let query: Vec<_> = pairs
        .map(|pair| {
            let spaced = pair.replace('+', "%20");
            let (name, value) = spaced.split_once('=').unwrap_or((&spaced, ""));
            format!("{}={}", encode(name), encode(value))
        })
        .collect();
    let mut text = format!("{}{}", &url[..url::Position::BeforePath], path.join("/"));
    if !query.is_empty() {
        text = format!("{text}?{}", query.join("&"));
    }
    match Url::parse(&text) {
        Ok(strict) if strict.as_str() == text => Ok(strict),
        _ => Err(unplaceable("the request has no form that can be signed")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use http::HeaderMap;
    use time::macros::datetime;

    use super::*;
    use crate::secret::Secret;

    fn keys(id: &str, secret: &str, token: Option<&str>) -> AwsKeys {
        AwsKeys {
            access_key_id: id.to_owned(),
            secret_access_key: Secret::from(secret.to_owned()),
            session_token: token.map(|token| Secret::from(token.to_owned())),
        }
    }

    fn draft(url: &str, body: Payload) -> Draft {
        Draft { url: Url::parse(url).unwrap(), headers: HeaderMap::new(), body, path_mark: None }
    }

    /// `get-vanilla` and others of AWS's own suite (`aws-sig-v4-test-suite`, service `service` in `us-east-1`, 30 August
    /// 2015): those with a path of unreserved characters and no header of their own.
    #[test]
    fn vectors_of_the_official_suite_are_met() {
        const UNRESERVED: &str = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let token = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
        let long_token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        let unreserved = (&*format!("/{UNRESERVED}"), &*format!("/?{UNRESERVED}={UNRESERVED}"));
        for (method, target, token, expected) in [
            ("GET", "/", None, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (
                "GET",
                "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
                None,
                "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac",
            ),
            (
                "GET",
                "/?Param2=value2&Param1=value1",
                None,
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            ("GET", "/?Param1=value1", None, "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"),
            ("GET", "/?%E1%88%B4=bar", None, "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"),
            ("GET", unreserved.1, None, "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"),
            ("GET", unreserved.0, None, "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"),
            ("POST", "/", None, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            ("POST", "/?Param1=value1", None, "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"),
            ("GET", "/", Some(token), "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"),
            ("POST", "/", Some(long_token), "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"),
        ] {
            let keys = keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token);
            let mut draft = draft(&format!("https://example.amazonaws.com{target}"), Payload::Empty);
            let now = datetime!(2015-08-30 12:36:00 UTC);
            let placed = sign_aws(("us-east-1", "service"), &keys, &method.parse().unwrap(), now, &mut draft).unwrap();
            assert_eq!(std::str::from_utf8(&placed[0]).unwrap(), expected, "{method} {target}");
            let signed = if token.is_some() { "host;x-amz-date;x-amz-security-token" } else { "host;x-amz-date" };
            let header = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={signed}, Signature={expected}"
            );
            assert_eq!(draft.headers["authorization"], header);
            assert!(draft.headers["authorization"].is_sensitive());
            assert_eq!(draft.headers["x-amz-date"], "20150830T123600Z");
            assert_eq!(draft.headers.get("x-amz-security-token").map(|value| value.to_str().unwrap()), token);
            assert_eq!(placed.len(), 1 + usize::from(token.is_some()));
        }
    }

    /// The examples of the Amazon S3 API Reference.
    #[test]
    fn examples_of_s3_are_met() {
        for (target, expected) in [
            ("/?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            ("/?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ] {
            let keys = keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None);
            let mut draft = draft(&format!("https://examplebucket.s3.amazonaws.com{target}"), Payload::Empty);
            let now = datetime!(2013-05-24 00:00:00 UTC);
            let placed = sign_aws(("us-east-1", "s3"), &keys, &Method::GET, now, &mut draft).unwrap();
            assert_eq!(std::str::from_utf8(&placed[0]).unwrap(), expected, "{target}");
        }
    }

    fn signed(
        service: &str,
        url: &str,
        body: Payload,
        header: Option<(&'static str, &'static str)>,
    ) -> Result<Draft, SendError> {
        let keys = keys("AKIDEXAMPLE", "canary-secret-key", None);
        let mut draft = draft(url, body);
        draft.headers.insert("authorization", "guest".parse().unwrap());
        draft.headers.insert("x-amz-content-sha256", "guest".parse().unwrap());
        if let Some((name, value)) = header {
            draft.headers.insert(name, value.parse().unwrap());
        }
        let now = datetime!(2015-08-30 12:36:00 UTC);
        sign_aws(("us-east-1", service), &keys, &Method::PUT, now, &mut draft).map(|_| draft)
    }

    #[test]
    fn everything_that_counts_is_in_the_signature() {
        let signature = |service, url, body: &'static str, header| {
            let body = Payload::Bytes(body.into());
            signed(service, url, body, header).unwrap().headers["authorization"].to_str().unwrap().to_owned()
        };
        for service in ["s3", "service"] {
            let of = signature(service, "https://x.test/a?b=1", "body", Some(("content-type", "text/plain")));
            for (url, body, header) in [
                ("https://x.test/b?b=1", "body", ("content-type", "text/plain")),
                ("https://x.test/a?b=2", "body", ("content-type", "text/plain")),
                ("https://x.test:8443/a?b=1", "body", ("content-type", "text/plain")),
                ("https://x.test/a?b=1", "Body", ("content-type", "text/plain")),
                ("https://x.test/a?b=1", "body", ("content-type", "text/html")),
                ("https://x.test/a?b=1", "body", ("x-amz-acl", "public-read")),
            ] {
                assert_ne!(signature(service, url, body, Some(header)), of, "{service} {url} {body} {header:?}");
            }
            let other = signature(service, "https://x.test/%61?b=1", "body", Some(("content-type", "text/plain")));
            assert_eq!(other, of, "what goes on the wire is the same");
        }
        let digest = "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5";
        assert_eq!(
            signed("s3", "https://x.test/", Payload::Bytes("body".into()), None).unwrap().headers["x-amz-content-sha256"],
            digest
        );
    }

    #[test]
    fn url_goes_out_in_the_form_that_is_signed() {
        for (before, after) in [
            ("https://x.test/a:b@c,d/%7e%C3%A9//", "https://x.test/a%3Ab%40c%2Cd/~%C3%A9//"),
            ("https://x.test/a%2Fb?x=a+b&acl&c=d=e&f=%2a*", "https://x.test/a%2Fb?x=a%20b&acl=&c=d%3De&f=%2A%2A"),
            ("https://x.test/", "https://x.test/"),
        ] {
            for service in ["s3", "service"] {
                assert_eq!(signed(service, before, Payload::Empty, None).unwrap().url.as_str(), after);
            }
        }
    }

    #[test]
    fn streamed_body_is_unsigned_over_https_to_s3_alone() {
        let draft = signed("s3", "https://x.test/a", Payload::Stream, None).unwrap();
        assert_eq!(draft.headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
        assert!(signed("s3", "http://x.test/a", Payload::Stream, None).is_err());
        assert!(signed("service", "https://x.test/a", Payload::Stream, None).is_err());
        assert!(
            !signed("service", "https://x.test/a", Payload::Empty, None)
                .unwrap()
                .headers
                .contains_key("x-amz-content-sha256")
        );
        assert!(signed("service", "https://x.test/a", Payload::Empty, Some(("x-amz-meta", "é"))).is_err());
    }
}
