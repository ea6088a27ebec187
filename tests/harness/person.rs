//! A person at a browser, who signs in at `oidc-provider` and agrees or declines.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http::StatusCode;
use url::Url;

/// What the person does on the consent page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Agrees to what is asked.
    Agree,
    /// Goes back to the application without agreeing.
    Decline,
}

/// The page that the person sees at the end.
#[derive(Debug)]
pub struct LastPage {
    /// Its status.
    pub status: StatusCode,
    /// Its text.
    pub body: String,
    /// Its address.
    pub url: Url,
}

/// Opens `url` as a browser would, signs in as `login`, decides, and follows the redirect back to the application.
pub async fn sign_in(url: &str, login: &str, decision: Decision) -> Result<LastPage> {
    let browser = reqwest::Client::builder()
        .cookie_store(true)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(30))
        .build()?;
    let provider = Url::parse(url)?;
    let mut here = provider.clone();
    let mut response = browser.get(here.clone()).send().await?;
    // Sign-in, consent and the way between them take 8 steps; more is a loop.
    for _ in 0..16 {
        if response.status().is_redirection() {
            let location = response.headers().get("location").context("redirect without location")?.to_str()?;
            here = here.join(location)?;
            response = browser.get(here.clone()).send().await?;
            continue;
        }
        let status = response.status();
        let body = response.text().await?;
        if here.origin() != provider.origin() || !here.path().starts_with("/interaction/") {
            return Ok(LastPage { status, body, url: here });
        }
        let asks_for_login = body.contains(r#"name="login""#);
        response = match (asks_for_login, decision) {
            (true, _) => {
                let form = [("prompt", "login"), ("login", login), ("password", "test-password")];
                browser.post(here.clone()).form(&form).send().await?
            }
            (false, Decision::Agree) => browser.post(here.clone()).form(&[("prompt", "consent")]).send().await?,
            (false, Decision::Decline) => browser.get(format!("{here}/abort")).send().await?,
        };
    }
    bail!("the sign-in did not end; last page {}", here.path())
}
