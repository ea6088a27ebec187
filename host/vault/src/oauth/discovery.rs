//! Authorization server metadata (RFC 8414; OpenID Connect Discovery 1.0).

use http::Method;
use serde::Deserialize;
use url::Url;

use super::{Outgoing, fetch};
use crate::{
    connect::ConnectionError,
    provider::{ClientAuthentication, is_plain},
    wire::Wire,
};

/// What an authorization server says of itself; RFC 8414 section 2 names the members.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) issuer: String,
    pub(crate) token_endpoint: Url,
    #[serde(default)]
    pub(crate) authorization_endpoint: Option<Url>,
    #[serde(default)]
    pub(crate) revocation_endpoint: Option<Url>,
    #[serde(default)]
    pub(crate) introspection_endpoint: Option<Url>,
    #[serde(default)]
    pub(crate) userinfo_endpoint: Option<Url>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) scopes_supported: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) authorization_response_iss_parameter_supported: Option<bool>,
}

impl Metadata {
    /// How a client with a secret proves itself here; HTTP Basic where the metadata does not say (RFC 8414).
    pub(crate) fn client_authentication(&self) -> Option<ClientAuthentication> {
        let Some(supported) = &self.token_endpoint_auth_methods_supported else {
            return Some(ClientAuthentication::ClientSecretBasic);
        };
        [
            ("client_secret_basic", ClientAuthentication::ClientSecretBasic),
            ("client_secret_post", ClientAuthentication::ClientSecretPost),
        ]
        .into_iter()
        .find_map(|(name, method)| supported.iter().any(|supported| supported == name).then_some(method))
    }

    /// What makes the metadata unusable for `issuer`, where something does.
    fn fault(&self, issuer: &Url) -> Option<String> {
        if !same_issuer(&self.issuer, issuer.as_str()) {
            return Some(format!("it says that its issuer is {:?}", self.issuer.chars().take(200).collect::<String>()));
        }
        let endpoints = [
            &Some(self.token_endpoint.clone()),
            &self.authorization_endpoint,
            &self.revocation_endpoint,
            &self.introspection_endpoint,
            &self.userinfo_endpoint,
        ];
        // The wire checks where it dials, but a browser opens the authorization endpoint. Where http was good
        // enough to fetch the metadata, the operator has allowed it.
        let safe = |url: &Url| is_plain(url) && (url.scheme() == "https" || issuer.scheme() == "http");
        let unsafe_one = endpoints.into_iter().flatten().find(|url| !safe(url))?;
        Some(format!("its endpoint {unsafe_one} is not https"))
    }
}

/// Whether two texts name the same issuer. RFC 9207 section 2.4 compares the characters; here a root with and one
/// without its slash are the same as well, because an issuer that passed through [`Url`] always has it.
pub(crate) fn same_issuer(one: &str, other: &str) -> bool {
    one == other || matches!((Url::parse(one), Url::parse(other)), (Ok(one), Ok(other)) if one == other)
}

/// Fetches the metadata of an issuer, first where RFC 8414 puts it, then where OpenID Connect Discovery does.
///
/// # Errors
/// Where no place holds metadata that names this very issuer.
pub(crate) async fn discover(wire: &dyn Wire, issuer: &Url) -> Result<Metadata, ConnectionError> {
    if !is_plain(issuer) || issuer.query().is_some() {
        let message = format!("{issuer} is no issuer: it must be an https URL without query and fragment");
        return Err(ConnectionError::Unsuitable { message, hint: None });
    }
    let mut seen = Vec::new();
    for url in places(issuer) {
        let shown = url.to_string();
        let fetched = fetch(wire, Outgoing::new(Method::GET, url))
            .await
            .map_err(|cause| ConnectionError::Unreachable { what: issuer.to_string(), cause })?;
        if !fetched.status.is_success() {
            seen.push(format!("{shown} answers with HTTP status {}", fetched.status.as_u16()));
            continue;
        }
        match serde_json::from_slice::<Metadata>(fetched.body.expose()) {
            Err(_) => seen.push(format!("{shown} holds no metadata of an authorization server")),
            Ok(metadata) => match metadata.fault(issuer) {
                Some(fault) => seen.push(format!("{shown} cannot be used: {fault}")),
                None => return Ok(metadata),
            },
        }
    }
    Err(ConnectionError::Discovery { issuer: issuer.to_string(), seen: seen.join("; ") })
}

/// Where the metadata of an issuer may be.
fn places(issuer: &Url) -> [Url; 2] {
    let path = issuer.path().trim_end_matches('/');
    [format!("/.well-known/oauth-authorization-server{path}"), format!("{path}/.well-known/openid-configuration")].map(
        |path| {
            let mut url = issuer.clone();
            url.set_path(&path);
            url
        },
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_is_looked_for_by_insertion_then_by_appending() {
        for (issuer, inserted, appended) in [
            (
                "https://as.example",
                "https://as.example/.well-known/oauth-authorization-server",
                "https://as.example/.well-known/openid-configuration",
            ),
            (
                "https://as.example:8/api/oidc/",
                "https://as.example:8/.well-known/oauth-authorization-server/api/oidc",
                "https://as.example:8/api/oidc/.well-known/openid-configuration",
            ),
        ] {
            assert_eq!(places(&Url::parse(issuer).unwrap()).map(String::from), [inserted, appended]);
        }
    }

    #[test]
    fn metadata_must_name_the_issuer_and_safe_endpoints() {
        let good = json!({
            "issuer": "https://as.example/a",
            "authorization_endpoint": "https://as.example//auth",
            "token_endpoint": "https://as.example/token",
        });
        let fault = |issuer: &str, member: &str, value: &str| {
            let mut metadata = good.clone();
            metadata[member] = value.into();
            let metadata: Metadata = serde_json::from_value(metadata).unwrap();
            metadata.fault(&Url::parse(issuer).unwrap())
        };
        let issuer = "https://as.example/a";
        assert_eq!(fault(issuer, "issuer", issuer), None);
        assert!(fault("https://as.example/b", "issuer", issuer).is_some());
        assert!(fault(issuer, "issuer", "https://as.example/a/").is_some());
        assert_eq!(fault("https://as.example", "issuer", "https://as.example"), None, "a root may lack its slash");
        for (member, value) in [
            ("authorization_endpoint", "javascript:alert(1)"),
            ("authorization_endpoint", "http://as.example/auth"),
            ("token_endpoint", "http://as.example/token"),
            ("revocation_endpoint", "https://user@as.example/revoke"),
            ("userinfo_endpoint", "https://as.example/me#x"),
        ] {
            assert!(fault(issuer, member, value).is_some(), "{member} {value}");
        }
        assert_eq!(fault("http://127.0.0.1:4/", "issuer", "http://127.0.0.1:4"), None, "operator's own exception");
    }

    #[test]
    fn client_authentication_follows_the_metadata() {
        for (methods, expected) in [
            (json!(null), Some(ClientAuthentication::ClientSecretBasic)),
            (json!(["client_secret_post", "client_secret_basic"]), Some(ClientAuthentication::ClientSecretBasic)),
            (json!(["none", "client_secret_post"]), Some(ClientAuthentication::ClientSecretPost)),
            (json!(["private_key_jwt"]), None),
        ] {
            let metadata: Metadata = serde_json::from_value(json!({
                "issuer": "https://as.example",
                "token_endpoint": "https://as.example/token",
                "token_endpoint_auth_methods_supported": methods,
            }))
            .unwrap();
            assert_eq!(metadata.client_authentication(), expected);
        }
    }
}
