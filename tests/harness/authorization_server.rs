//! A real authorization server: npm `oidc-provider`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::process::NodeServer;

/// The client id that the tests register for Keyward.
pub const CLIENT_ID: &str = "keyward-test";
/// Its secret; the percent sign must survive the encoding of RFC 6749 section 2.3.1.
pub const CLIENT_SECRET: &str = "test-secret-with-%-and-+";
/// The client id of the resource server, for introspection.
pub const RESOURCE_ID: &str = "resource-server-test";
/// Its secret.
pub const RESOURCE_SECRET: &str = "test-resource-secret";

/// `oidc-provider` on a free port.
#[derive(Debug)]
pub struct AuthorizationServer {
    _process: NodeServer,
    /// Its issuer identifier and base URL.
    pub issuer: String,
}

/// What differs between the servers of different tests.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Seconds that an access token lives.
    pub access_token_ttl: u32,
    /// Whether each refresh token is good for one use.
    pub rotate: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { access_token_ttl: 3600, rotate: true }
    }
}

impl AuthorizationServer {
    /// Starts one that knows the scopes of GitHub.
    pub fn start(options: Options) -> Result<Self> {
        let process = NodeServer::start(
            "authorization-server.mjs",
            &json!({
                "accessTokenTtl": options.access_token_ttl,
                "rotate": options.rotate,
                "scopes": ["repo", "public_repo", "read:user"],
                "clients": [
                    {
                        "client_id": CLIENT_ID,
                        "client_secret": CLIENT_SECRET,
                        "application_type": "native",
                        // A native client's loopback redirect may have any port (RFC 8252 section 7.3).
                        "redirect_uris": ["http://127.0.0.1/callback/github", "http://127.0.0.1/callback/oidc"],
                        "grant_types": ["authorization_code", "refresh_token", "client_credentials"],
                        "response_types": ["code"],
                    },
                    {
                        "client_id": RESOURCE_ID,
                        "client_secret": RESOURCE_SECRET,
                        "redirect_uris": [],
                        "response_types": [],
                        "grant_types": ["client_credentials"],
                    },
                ],
            }),
        )?;
        let issuer = process.said("issuer")?;
        Ok(Self { _process: process, issuer })
    }

    /// How often the token endpoint was asked for each grant, how often it refused, and what was revoked.
    pub async fn seen(&self) -> Result<Value> {
        Ok(reqwest::get(format!("{}/test/seen", self.issuer)).await?.error_for_status()?.json().await?)
    }

    /// Every code, code verifier and token that the token endpoint was sent or gave out, with its kind.
    pub async fn secrets(&self) -> Result<Vec<(String, String)>> {
        Ok(reqwest::get(format!("{}/test/secrets", self.issuer)).await?.error_for_status()?.json().await?)
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        self.issuer.trim_start_matches("http://").to_owned()
    }
}
