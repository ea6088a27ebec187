//! The connected account.

use keyward::prelude::*;

use crate::api::{GitHub, checked};

/// Nothing: the connection tells who it is.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct CurrentUser {}

/// An account.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct User {
    /// Its name in URLs; it can be changed.
    login: String,
    /// Its number; it never changes.
    id: u64,
    /// Its name for people.
    name: Option<String>,
    /// Its public e-mail address.
    email: Option<String>,
    /// Its page for people.
    #[serde(rename(deserialize = "html_url"))]
    url: String,
}

/// Tells whose account is connected.
#[action]
pub(crate) fn current_user(_: CurrentUser, connection: &Connection) -> Result<User> {
    checked(connection.get("/user").github().send()?)?.json()
}

#[cfg(test)]
mod tests {
    use keyward::{SendError, SendErrorKind, testing::FakeHost};

    use super::*;

    #[test]
    fn user_is_read_with_the_headers_that_github_wants() {
        let host = FakeHost::new();
        host.on("GET", "/user").respond(
            200,
            json!({
                "login": "ada", "id": 3, "name": "Ada Lovelace", "email": null,
                "html_url": "https://github.test/ada", "public_repos": 1,
            }),
        );
        let output = host.call::<current_user>(json!({}));
        assert_eq!(
            output,
            Ok(json!({
                "login": "ada", "id": 3, "name": "Ada Lovelace", "email": null, "url": "https://github.test/ada",
            }))
        );
        let headers = &host.requests()[0].head.headers;
        assert_eq!(headers.text("accept"), Some("application/vnd.github+json"));
        assert_eq!(headers.text("x-github-api-version"), Some("2022-11-28"));
        assert!(headers.text("user-agent").is_some_and(|agent| agent.starts_with("keyward-github/")));
        assert_eq!(headers.text("authorization"), None, "it is the host's");
    }

    #[test]
    fn connection_that_no_longer_works_is_passed_on_as_such() {
        let host = FakeHost::new();
        let error = SendError::new(SendErrorKind::ReconnectRequired, "reconnect-required", "connect again");
        host.on("GET", "/user").fail(error.clone());
        assert_eq!(host.call::<current_user>(json!({})), Err(Error::Http(error)));
    }
}
