//! The same work without sandbox and gate: the request, the bearer token, parsing and mapping of the answer.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What the connector reads of an issue.
#[derive(Deserialize)]
struct ApiIssue {
    number: u64,
    title: String,
    state: String,
    html_url: String,
    user: ApiUser,
    labels: Vec<ApiLabel>,
}

#[derive(Deserialize)]
struct ApiUser {
    login: String,
}

#[derive(Deserialize)]
struct ApiLabel {
    name: String,
}

/// What it gives out.
#[derive(Serialize)]
struct Issue {
    number: u64,
    title: String,
    state: String,
    url: String,
    author: String,
    labels: Vec<String>,
}

/// A plain client.
pub(crate) struct Native {
    http: reqwest::Client,
    url: String,
}

impl Native {
    pub(crate) fn new(authority: &str) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { http, url: format!("http://{authority}/repos/octocat/hello-world/issues") })
    }

    /// One request and its mapping to JSON text.
    pub(crate) async fn list_issues(&self) -> Result<String> {
        let response = self
            .http
            .get(&self.url)
            .query(&[("state", "open"), ("per_page", "100")])
            .bearer_auth(super::stack::TOKEN)
            .header("accept", "application/vnd.github+json")
            .send()
            .await?
            .error_for_status()?;
        let issues: Vec<ApiIssue> = serde_json::from_slice(&response.bytes().await?)?;
        let issues: Vec<Issue> = issues
            .into_iter()
            .map(|issue| Issue {
                number: issue.number,
                title: issue.title,
                state: issue.state,
                url: issue.html_url,
                author: issue.user.login,
                labels: issue.labels.into_iter().map(|label| label.name).collect(),
            })
            .collect();
        Ok(serde_json::to_string(&issues)?)
    }
}
