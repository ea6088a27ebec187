//! Issues and their comments.

use keyward::prelude::*;

use crate::api::{Account, GitHub, PAGE, checked, collect};

/// Which issues of which repository.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ListIssues {
    /// The account that owns the repository.
    owner: String,
    /// The repository's name.
    repository: String,
    /// Which issues.
    #[serde(default)]
    state: StateFilter,
    /// Only issues with all of these labels.
    #[serde(default)]
    labels: Vec<String>,
    /// How many to ask for at once, pull requests among them; 100 where it is left out.
    #[schemars(range(min = 1, max = 100))]
    per_page: Option<u32>,
    /// How many at most.
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1, max = 1000))]
    limit: u32,
}

fn default_limit() -> u32 {
    100
}

/// Which issues a list has.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum StateFilter {
    /// Those that are open.
    #[default]
    Open,
    /// Those that are closed.
    Closed,
    /// Both.
    All,
}

impl StateFilter {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::All => "all",
        }
    }
}

/// Issues, newest first.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Issues {
    /// The issues.
    issues: Vec<Issue>,
    /// Whether there are, or may be, more than these.
    more: bool,
}

/// An issue.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Issue {
    /// Its number within the repository.
    number: u64,
    /// Its title.
    title: String,
    /// Its text in Markdown; empty where it has none.
    body: String,
    /// `open` or `closed`.
    state: String,
    /// Why it is in this state, for example `completed` or `not_planned`.
    state_reason: Option<String>,
    /// The names of its labels.
    labels: Vec<String>,
    /// The accounts that it is assigned to.
    assignees: Vec<String>,
    /// The account that opened it; none where that was deleted.
    author: Option<String>,
    /// How many comments it has.
    comments: u64,
    /// Its page for people.
    url: String,
    /// When it was opened (RFC 3339).
    created_at: String,
    /// When it was last changed (RFC 3339).
    updated_at: String,
    /// When it was closed (RFC 3339).
    closed_at: Option<String>,
}

/// An issue as GitHub has it.
#[derive(Deserialize)]
struct RawIssue {
    number: u64,
    title: String,
    body: Option<String>,
    state: String,
    state_reason: Option<String>,
    labels: Vec<RawLabel>,
    #[serde(default)]
    assignees: Vec<Account>,
    user: Option<Account>,
    comments: u64,
    html_url: String,
    created_at: String,
    updated_at: String,
    closed_at: Option<String>,
    pull_request: Option<keyward::serde::de::IgnoredAny>,
}

/// GitHub's description allows a label to be its bare name.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawLabel {
    Name(String),
    Label { name: Option<String> },
}

impl From<RawIssue> for Issue {
    fn from(raw: RawIssue) -> Self {
        let name = |label| match label {
            RawLabel::Name(name) => Some(name),
            RawLabel::Label { name } => name,
        };
        Self {
            number: raw.number,
            title: raw.title,
            body: raw.body.unwrap_or_default(),
            state: raw.state,
            state_reason: raw.state_reason,
            labels: raw.labels.into_iter().filter_map(name).collect(),
            assignees: raw.assignees.into_iter().map(|account| account.login).collect(),
            author: raw.user.map(|account| account.login),
            comments: raw.comments,
            url: raw.html_url,
            created_at: raw.created_at,
            updated_at: raw.updated_at,
            closed_at: raw.closed_at,
        }
    }
}

/// Lists the issues of a repository, newest first. Pull requests, which GitHub counts among them, are left out.
#[action]
pub(crate) fn list_issues(input: ListIssues, connection: &Connection) -> Result<Issues> {
    let labels = input.labels.join(",");
    let request = connection
        .get("/repos/{owner}/{repo}/issues")
        .path("owner", input.owner)
        .path("repo", input.repository)
        .query("state", input.state.as_str())
        .query_opt("labels", (!labels.is_empty()).then_some(labels));
    // Full pages even for a small limit: any number of pull requests may come before the first issue.
    let per_page = input.per_page.unwrap_or(PAGE);
    let issue = |raw: RawIssue| raw.pull_request.is_none().then(|| raw.into());
    let (issues, more) = collect(request, per_page, input.limit, issue)?;
    Ok(Issues { issues, more })
}

/// Which issue.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct GetIssue {
    /// The account that owns the repository.
    owner: String,
    /// The repository's name.
    repository: String,
    /// The issue's number.
    number: u64,
}

/// Reads one issue.
#[action]
pub(crate) fn get_issue(input: GetIssue, connection: &Connection) -> Result<Issue> {
    let response = connection
        .get("/repos/{owner}/{repo}/issues/{number}")
        .path("owner", input.owner)
        .path("repo", input.repository)
        .path("number", input.number)
        .github()
        .send()?;
    Ok(checked(response)?.json::<RawIssue>()?.into())
}

/// The issue to open.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct CreateIssue {
    /// The account that owns the repository.
    owner: String,
    /// The repository's name.
    repository: String,
    /// The title.
    #[schemars(length(min = 1, max = 256))]
    title: String,
    /// The text in Markdown.
    #[serde(default)]
    body: String,
    /// The names of labels; GitHub makes those that are missing. It drops them all where the account may not label.
    #[serde(default)]
    labels: Vec<String>,
    /// The accounts to assign it to.
    #[serde(default)]
    assignees: Vec<String>,
}

/// Opens an issue.
#[action]
pub(crate) fn create_issue(input: CreateIssue, connection: &Connection) -> Result<Issue> {
    let response = connection
        .post("/repos/{owner}/{repo}/issues")
        .path("owner", input.owner)
        .path("repo", input.repository)
        .github()
        .json(&json!({
            "title": input.title,
            "body": input.body,
            "labels": input.labels,
            "assignees": input.assignees,
        }))
        .send()?;
    Ok(checked(response)?.json::<RawIssue>()?.into())
}

/// The comment to write.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct CommentIssue {
    /// The account that owns the repository.
    owner: String,
    /// The repository's name.
    repository: String,
    /// The issue's number.
    number: u64,
    /// The text in Markdown.
    #[schemars(length(min = 1))]
    body: String,
}

/// A comment.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Comment {
    /// Its number, across all of GitHub.
    id: u64,
    /// Its text in Markdown.
    body: String,
    /// The account that wrote it; none where that was deleted.
    author: Option<String>,
    /// Its page for people.
    url: String,
    /// When it was written (RFC 3339).
    created_at: String,
}

#[derive(Deserialize)]
struct RawComment {
    id: u64,
    body: Option<String>,
    user: Option<Account>,
    html_url: String,
    created_at: String,
}

/// Writes a comment under an issue.
#[action]
pub(crate) fn comment_issue(input: CommentIssue, connection: &Connection) -> Result<Comment> {
    let response = connection
        .post("/repos/{owner}/{repo}/issues/{number}/comments")
        .path("owner", input.owner)
        .path("repo", input.repository)
        .path("number", input.number)
        .github()
        .json(&json!({"body": input.body}))
        .send()?;
    let raw: RawComment = checked(response)?.json()?;
    Ok(Comment {
        id: raw.id,
        body: raw.body.unwrap_or_default(),
        author: raw.user.map(|account| account.login),
        url: raw.html_url,
        created_at: raw.created_at,
    })
}

/// The issue to close.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct CloseIssue {
    /// The account that owns the repository.
    owner: String,
    /// The repository's name.
    repository: String,
    /// The issue's number.
    number: u64,
    /// Why.
    #[serde(default)]
    reason: CloseReason,
}

/// Why an issue is closed.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum CloseReason {
    /// It is done.
    #[default]
    Completed,
    /// Nobody will do it.
    NotPlanned,
}

impl CloseReason {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::NotPlanned => "not_planned",
        }
    }
}

/// Closes an issue. One that is closed stays so.
#[action]
pub(crate) fn close_issue(input: CloseIssue, connection: &Connection) -> Result<Issue> {
    let response = connection
        .patch("/repos/{owner}/{repo}/issues/{number}")
        .path("owner", input.owner)
        .path("repo", input.repository)
        .path("number", input.number)
        .github()
        .json(&json!({"state": "closed", "state_reason": input.reason.as_str()}))
        .send()?;
    Ok(checked(response)?.json::<RawIssue>()?.into())
}

#[cfg(test)]
mod tests;
