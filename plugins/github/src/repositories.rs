//! Repositories.

use keyward::prelude::*;

use crate::api::{Account, PAGE, collect};

/// Which repositories.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ListRepositories {
    /// Those of which visibility.
    #[serde(default)]
    visibility: Visibility,
    /// How many to ask for at once; as many as fit where it is left out.
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

/// Which repositories a list has.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Visibility {
    /// Public and private ones.
    #[default]
    All,
    /// Public ones.
    Public,
    /// Private ones.
    Private,
}

impl Visibility {
    fn as_str(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// Repositories, in the order of their full names.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Repositories {
    /// The repositories.
    repositories: Vec<Repository>,
    /// Whether there are, or may be, more than these.
    more: bool,
}

/// A repository.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Repository {
    /// The account that owns it.
    owner: String,
    /// Its name.
    name: String,
    /// What it is, in a sentence; empty where it does not tell.
    description: String,
    /// Whether only chosen accounts see it.
    private: bool,
    /// Whether it is read-only for good.
    archived: bool,
    /// The branch that is shown at first.
    default_branch: String,
    /// How many issues and pull requests are open.
    open_issues: u64,
    /// Its page for people.
    url: String,
    /// When it was last changed (RFC 3339).
    updated_at: Option<String>,
}

#[derive(Deserialize)]
struct RawRepository {
    owner: Account,
    name: String,
    description: Option<String>,
    private: bool,
    #[serde(default)]
    archived: bool,
    default_branch: String,
    open_issues_count: u64,
    html_url: String,
    updated_at: Option<String>,
}

impl From<RawRepository> for Repository {
    fn from(raw: RawRepository) -> Self {
        Self {
            owner: raw.owner.login,
            name: raw.name,
            description: raw.description.unwrap_or_default(),
            private: raw.private,
            archived: raw.archived,
            default_branch: raw.default_branch,
            open_issues: raw.open_issues_count,
            url: raw.html_url,
            updated_at: raw.updated_at,
        }
    }
}

/// Lists the repositories that the connected account may see.
#[action]
pub(crate) fn list_repositories(input: ListRepositories, connection: &Connection) -> Result<Repositories> {
    let request =
        connection.get("/user/repos").query("visibility", input.visibility.as_str()).query("sort", "full_name");
    let per_page = input.per_page.unwrap_or_else(|| input.limit.min(PAGE));
    let (repositories, more) = collect(request, per_page, input.limit, |raw: RawRepository| Some(raw.into()))?;
    Ok(Repositories { repositories, more })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use keyward::testing::FakeHost;

    use super::*;

    fn repository(name: &str) -> Value {
        json!({
            "id": 1, "name": name, "full_name": format!("ada/{name}"), "private": true,
            "owner": {"login": "ada", "id": 3, "type": "User"},
            "html_url": format!("https://github.test/ada/{name}"), "description": null, "archived": false,
            "default_branch": "main", "open_issues_count": 3, "updated_at": "2026-11-22T14:11:04Z",
        })
    }

    #[test]
    fn repositories_come_from_all_pages() {
        let host = FakeHost::new();
        let next = r#"<https://api.github.com/user/repos?visibility=private&per_page=1&page=2>; rel="next""#;
        host.on("GET", "/user/repos").query("visibility", "private").query("per_page", "1").respond_with(
            200,
            &[("link", next)],
            json!([repository("engine")]),
        );
        host.on("GET", "https://api.github.com/user/repos?visibility=private&per_page=1&page=2")
            .respond(200, json!([repository("notes")]));
        let output = host.call::<list_repositories>(json!({"visibility": "private", "per_page": 1})).unwrap();
        assert_eq!(output["more"], json!(false));
        assert_eq!(output["repositories"][1]["name"], json!("notes"));
        assert_eq!(
            output["repositories"][0],
            json!({
                "owner": "ada", "name": "engine", "description": "", "private": true, "archived": false,
                "default_branch": "main", "open_issues": 3, "url": "https://github.test/ada/engine",
                "updated_at": "2026-11-22T14:11:04Z",
            })
        );
    }
}
