//! Token requests, and other form requests at which the client proves itself.

use std::{borrow::Cow, cell::RefCell, iter, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Method;
use oauth2::{
    AuthType, AuthorizationCode, ClientId, ClientSecret, HttpRequest, HttpResponse, PkceCodeVerifier, RedirectUrl,
    RefreshToken, TokenUrl, basic::BasicClient,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::Outgoing;
use crate::{
    credential::Client,
    provider::{BasicEncoding, ClientAuthentication, TokenRules},
    secret::Secret,
};

const FORM: &str = "application/x-www-form-urlencoded";

/// What is asked of a token endpoint. A refresh names no scope and no resource: a server that refuses one may have
/// used up the refresh token before it does.
pub(crate) enum Ask<'a> {
    /// RFC 6749 section 4.1.3.
    Code { code: &'a Secret, verifier: Option<&'a Secret>, redirect_uri: &'a Url },
    /// RFC 6749 section 6.
    Refresh(&'a Secret),
    /// RFC 6749 section 4.4.2; the scopes as the provider wants them joined.
    ClientCredentials { scope: &'a str },
}

impl<'a> Ask<'a> {
    /// The secrets in it.
    fn secrets(&self) -> impl Iterator<Item = &'a Secret> {
        let (first, second) = match self {
            Self::Code { code, verifier, .. } => (Some(*code), *verifier),
            Self::Refresh(token) => (Some(*token), None),
            Self::ClientCredentials { .. } => (None, None),
        };
        first.into_iter().chain(second)
    }
}

/// A request to the token endpoint.
pub(crate) fn token_request(client: &Client, rules: &TokenRules, endpoint: &Url, ask: &Ask<'_>) -> Option<Outgoing> {
    let request = taken(client, endpoint, ask)?;
    let (body, secrets) = (Zeroizing::new(request.into_body()), ask.secrets().chain(&client.secret));
    let outgoing = Outgoing::new(Method::POST, endpoint.clone()).body(FORM, body, secrets);
    match client.authentication {
        ClientAuthentication::ClientSecretBasic => outgoing.client(client, rules.basic_encoding),
        ClientAuthentication::ClientSecretPost | ClientAuthentication::None => Some(outgoing),
    }
}

/// The request as `oauth2` makes it. Its header for HTTP Basic is not used: it writes a space as `+`, which some
/// servers take for a plus.
fn taken(client: &Client, endpoint: &Url, ask: &Ask<'_>) -> Option<HttpRequest> {
    let slot = RefCell::new(None);
    let take = |request: HttpRequest| -> Result<HttpResponse, Taken> {
        slot.replace(Some(request));
        Err(Taken)
    };
    let mut maker = BasicClient::new(ClientId::new(client.id.clone()))
        .set_token_uri(TokenUrl::from_url(endpoint.clone()))
        .set_auth_type(match client.authentication {
            ClientAuthentication::ClientSecretBasic => AuthType::BasicAuth,
            ClientAuthentication::ClientSecretPost | ClientAuthentication::None => AuthType::RequestBody,
        });
    if client.authentication != ClientAuthentication::None {
        maker = maker.set_client_secret(ClientSecret::new(client.secret.as_ref()?.expose_str()?.to_owned()));
    }
    // Each of these ends with `Taken`, as `take` never sends anything.
    match ask {
        Ask::Code { code, verifier, redirect_uri } => {
            let mut request = maker
                .exchange_code(AuthorizationCode::new(code.expose_str()?.to_owned()))
                .set_redirect_uri(Cow::Owned(RedirectUrl::from_url((*redirect_uri).clone())));
            if let Some(verifier) = verifier {
                request = request.set_pkce_verifier(PkceCodeVerifier::new(verifier.expose_str()?.to_owned()));
            }
            drop(request.request(&take));
        }
        Ask::Refresh(token) => {
            drop(maker.exchange_refresh_token(&RefreshToken::new(token.expose_str()?.to_owned())).request(&take));
        }
        Ask::ClientCredentials { scope } => {
            let mut request = maker.exchange_client_credentials();
            if !scope.is_empty() {
                request = request.add_extra_param("scope", *scope);
            }
            drop(request.request(&take));
        }
    }
    slot.into_inner()
}

/// The request was taken, not sent.
#[derive(Debug, thiserror::Error)]
#[error("the request was taken, not sent")]
struct Taken;

/// A form request about a token, at which the client proves itself (RFC 7009 section 2.1, RFC 7662 section 2.1); without
/// a client, the form alone. `None` where a secret is not text.
pub(crate) fn about_token(
    client: Option<&Client>,
    encoding: BasicEncoding,
    endpoint: &Url,
    token: &Secret,
    hint: &str,
) -> Option<Outgoing> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("token", token.expose_str()?).append_pair("token_type_hint", hint);
    let mut by_header = None;
    match client {
        None => {}
        Some(client) => match client.authentication {
            ClientAuthentication::ClientSecretBasic => by_header = Some(client),
            ClientAuthentication::ClientSecretPost => {
                form.append_pair("client_id", &client.id);
                form.append_pair("client_secret", client.secret.as_ref()?.expose_str()?);
            }
            ClientAuthentication::None => {
                form.append_pair("client_id", &client.id);
            }
        },
    }
    let body = Zeroizing::new(form.finish().into_bytes());
    let secrets = iter::once(token).chain(client.and_then(|client| client.secret.as_ref()));
    let request = Outgoing::new(Method::POST, endpoint.clone()).body(FORM, body, secrets);
    match by_header {
        Some(client) => request.client(client, encoding),
        None => Some(request),
    }
}

/// What `application/x-www-form-urlencoded` leaves as it is; the space becomes `%20`, which every decoder takes.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');

/// How a secret stands in a request: as it is, and as a form and a header for HTTP Basic encode it.
pub(super) fn spellings(secret: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let in_form: String = form_urlencoded::byte_serialize(secret).collect();
    let in_header = percent_encode(secret, ENCODED).to_string();
    let mut all: Vec<_> = [secret.to_vec(), in_header.into_bytes(), in_form.into_bytes()].map(Zeroizing::new).into();
    all.dedup();
    all
}

impl Outgoing {
    /// The same with the client's id and secret in the header (RFC 6749 section 2.3.1).
    pub(crate) fn client(self, client: &Client, encoding: BasicEncoding) -> Option<Self> {
        let secret = client.secret.as_ref()?;
        self.basic(encoding, &client.id, secret, [secret])
    }

    /// The same with a user name and a password (RFC 7617), of which `secrets` are secret.
    pub(crate) fn basic<'a>(
        self,
        encoding: BasicEncoding,
        user: &str,
        password: &Secret,
        secrets: impl IntoIterator<Item = &'a Secret>,
    ) -> Option<Self> {
        let pair = Zeroizing::new(match encoding {
            BasicEncoding::Rfc6749 => {
                let encode = |text| Zeroizing::new(utf8_percent_encode(text, ENCODED).to_string());
                format!("{}:{}", *encode(user), *encode(password.expose_str()?))
            }
            BasicEncoding::Raw => format!("{user}:{}", password.expose_str()?),
        });
        let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
        let value = Zeroizing::new(format!("Basic {}", *encoded));
        let mut request = self.withholding(secrets).authorized(&value)?;
        let rendered = [pair, encoded].map(|text| Arc::new(Zeroizing::new(text.as_bytes().to_vec())));
        request.secrets.extend(rendered);
        Some(request)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use http::header;

    use super::*;
    use crate::provider::Catalogue;

    fn client(authentication: ClientAuthentication) -> Client {
        let secret = Some(Secret::from("test %+:ä".to_owned()));
        Client { id: "id/1".to_owned(), secret, authentication }
    }

    /// The header and the form of a request.
    fn parts(request: &Outgoing) -> (Option<String>, Vec<(String, String)>) {
        let header = request.headers.get(header::AUTHORIZATION).map(|value| {
            assert!(value.is_sensitive());
            let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
            String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
        });
        (header, form_urlencoded::parse(&request.body).into_owned().collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn client_proves_itself_in_one_way_only() {
        let catalogue = Catalogue::builtin();
        let rules = &catalogue.find("oidc").unwrap().token;
        let endpoint = Url::parse("https://as.example/token").unwrap();
        let refresh = Secret::from("test-rt".to_owned());
        let grant = [("grant_type", "refresh_token"), ("refresh_token", "test-rt")];
        for (authentication, expected_header, expected_form) in [
            (ClientAuthentication::ClientSecretBasic, Some("id%2F1:test%20%25%2B%3A%C3%A4"), vec![]),
            (ClientAuthentication::ClientSecretPost, None, vec![("client_id", "id/1"), ("client_secret", "test %+:ä")]),
            (ClientAuthentication::None, None, vec![("client_id", "id/1")]),
        ] {
            let client = client(authentication);
            let request = token_request(&client, rules, &endpoint, &Ask::Refresh(&refresh)).unwrap();
            let (header, form) = parts(&request);
            assert_eq!(header.as_deref(), expected_header);
            assert_eq!(form, pairs(&[&grant[..], &expected_form].concat()));

            let request =
                about_token(Some(&client), rules.basic_encoding, &endpoint, &refresh, "refresh_token").unwrap();
            let (header, form) = parts(&request);
            assert_eq!(header.as_deref(), expected_header);
            let token = [("token", "test-rt"), ("token_type_hint", "refresh_token")];
            assert_eq!(form, pairs(&[&token[..], &expected_form].concat()));
        }
        let client = client(ClientAuthentication::ClientSecretBasic);
        let raw = Outgoing::new(Method::POST, endpoint).client(&client, BasicEncoding::Raw).unwrap();
        assert_eq!(parts(&raw).0.as_deref(), Some("id/1:test %+:ä"));
    }

    #[test]
    fn form_holds_what_the_grant_needs() {
        let catalogue = Catalogue::builtin();
        let rules = &catalogue.find("oidc").unwrap().token;
        let endpoint = Url::parse("https://as.example/token?x=1").unwrap();
        let (code, verifier) = (Secret::from("test-code".to_owned()), Secret::from("test-verifier".to_owned()));
        let redirect_uri = Url::parse("http://127.0.0.1:7/callback").unwrap();
        let client = client(ClientAuthentication::None);
        let ask = Ask::Code { code: &code, verifier: Some(&verifier), redirect_uri: &redirect_uri };
        let request = token_request(&client, rules, &endpoint, &ask).unwrap();
        assert_eq!(request.url, endpoint);
        assert_eq!(
            parts(&request).1,
            pairs(&[
                ("grant_type", "authorization_code"),
                ("code", "test-code"),
                ("code_verifier", "test-verifier"),
                ("client_id", "id/1"),
                ("redirect_uri", "http://127.0.0.1:7/callback"),
            ])
        );
        let request = token_request(&client, rules, &endpoint, &Ask::ClientCredentials { scope: "a,b" }).unwrap();
        let expected = pairs(&[("grant_type", "client_credentials"), ("client_id", "id/1"), ("scope", "a,b")]);
        assert_eq!(parts(&request).1, expected);
    }
}
