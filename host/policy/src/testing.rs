//! A manifest and a connection for tests.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use keyward_model::{
    ConnectionFacts, ConnectionId, ConnectionState, TenantId,
    manifest::{Action, Endpoint, Manifest, Placement, RequestRule},
};
use time::OffsetDateTime;

/// GitHub with a configurable endpoint and the actions `get-issue` and `close-issue`.
pub(crate) fn github() -> Manifest {
    let request = |method: &str, path: &str, query: &[&str]| RequestRule {
        method: method.into(),
        endpoint: "api".into(),
        path: path.into(),
        query: query.iter().map(|&name| name.into()).collect(),
        redirects: false,
        once: false,
    };
    let action = |requests: Vec<RequestRule>, scopes: &[&[&str]]| Action {
        title: "An action".into(),
        description: String::new(),
        requests,
        scopes: scopes.iter().map(|set| set.iter().map(|&scope| scope.into()).collect()).collect(),
        idempotency: Default::default(),
        limits: Default::default(),
        input: Default::default(),
        output: Default::default(),
    };
    let issue = "/repos/{owner}/{repo}/issues/{number}";
    let get = action(vec![request("GET", issue, &[]), request("GET", "/repos/{owner}/{repo}/issues", &["page"])], &[]);
    let close = action(vec![request("PATCH", issue, &[])], &[&["repo"], &["public_repo", "read:user"]]);
    Manifest {
        name: "github".parse().unwrap(),
        version: "1.0.0".into(),
        title: "GitHub".into(),
        description: "Issues and repositories".into(),
        provider: Some("github".into()),
        endpoints: BTreeMap::from([
            (
                "api".into(),
                Endpoint { url: "https://api.github.com".into(), configurable: true, credential: true, private: false },
            ),
            (
                "uploads".into(),
                Endpoint {
                    url: "https://uploads.github.com/v1".into(),
                    configurable: false,
                    credential: true,
                    private: false,
                },
            ),
        ]),
        credential: vec![Placement::Header {
            name: "authorization".into(),
            prefix: "Bearer ".into(),
            part: Default::default(),
        }],
        actions: BTreeMap::from([("get-issue".parse().unwrap(), get), ("close-issue".parse().unwrap(), close)]),
    }
}

/// A working connection to GitHub with these scopes.
pub(crate) fn connection(scopes: &[&str]) -> ConnectionFacts {
    ConnectionFacts {
        tenant: TenantId::default(),
        id: ConnectionId::new(),
        name: "work".parse().unwrap(),
        owner: None,
        provider: "github".into(),
        method: "oauth2".into(),
        account: None,
        granted_scopes: scopes.iter().map(|&scope| scope.into()).collect(),
        scopes_assumed: false,
        endpoints: BTreeMap::new(),
        state: ConnectionState::Active,
        expires_at: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
        updated_at: OffsetDateTime::UNIX_EPOCH,
        row_version: 1,
    }
}
