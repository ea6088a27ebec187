#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::result_large_err, reason = "the permit in the other variant is larger still")]

use keyward_model::{
    Body, SendError, SendErrorKind,
    manifest::{Action, Endpoint},
};

use super::*;
use crate::{
    NetworkExceptions,
    testing::{connection, github},
};

fn rules(action: &str) -> ActionRules {
    compile(&github(), action)
}

fn compile(manifest: &Manifest, action: &str) -> ActionRules {
    let network = NetworkExceptions {
        private: vec!["127.0.0.1/32:4001".parse().unwrap()],
        http: vec!["127.0.0.1:4001".parse().unwrap(), "lab.example.com:80".parse().unwrap()],
    };
    ActionRules::compile(manifest, &action.parse().unwrap(), &network.into()).unwrap()
}

fn request(method: &str, path: &str) -> GuestRequest {
    let target = Target::Endpoint { endpoint: "api".into(), path: path.into() };
    GuestRequest { method: method.into(), target, query: Vec::new(), headers: Vec::new(), body: Body::Empty }
}

fn absolute(url: &str) -> GuestRequest {
    GuestRequest { target: Target::Url(url.into()), ..request("GET", "") }
}

fn authorize(rules: &ActionRules, connection: &ConnectionFacts, request: GuestRequest) -> Result<Permit, Denial> {
    rules.authorize(&TenantId::default(), Some(connection), request)
}

const ISSUE: &str = "/repos/o/r/issues/7";

#[test]
fn permit_tells_what_allowed_it() {
    let connection = connection(&["public_repo", "read:user", "gist"]);
    let permit = authorize(&rules("close-issue"), &connection, request("PATCH", ISSUE)).unwrap();
    let parts = permit.into_parts();
    assert_eq!(parts.url.as_str(), "https://api.github.com/repos/o/r/issues/7");
    assert_eq!(parts.path_template, "/repos/{owner}/{repo}/issues/{number}");
    assert_eq!(parts.scopes, ["public_repo", "read:user"]);
    assert_eq!(parts.connection, Some(connection));
    assert!(matches!(parts.placements[..], [Placement::Header { .. }]));
}

#[test]
fn query_pairs_follow_those_of_the_url() {
    let rules = rules("get-issue");
    let mut asked = absolute("https://api.github.com/repos/o/r/issues?page=2");
    asked.query = vec![("page".into(), "a b".into())];
    let permit = authorize(&rules, &connection(&[]), asked).unwrap();
    assert_eq!(permit.url().as_str(), "https://api.github.com/repos/o/r/issues?page=2&page=a%20b");
}

#[test]
fn call_without_its_connection_is_denied() {
    let denied = |tenant: &str, connection: Option<&ConnectionFacts>| {
        rules("get-issue").authorize(&tenant.parse().unwrap(), connection, request("GET", ISSUE)).unwrap_err().reason
    };
    assert_eq!(denied("default", None), Reason::ConnectionMissing);
    assert_eq!(denied("other", Some(&connection(&[]))), Reason::ConnectionUnknown);
    let slack = ConnectionFacts { provider: "slack".into(), ..connection(&[]) };
    assert_eq!(denied("default", Some(&slack)), Reason::ConnectionWrongProvider);
}

#[test]
fn connection_that_no_longer_works_must_be_connected_again() {
    for state in [ConnectionState::NeedsReconnect("the grant was revoked".into()), ConnectionState::Revoked] {
        let connection = ConnectionFacts { state, ..connection(&[]) };
        let denial = authorize(&rules("get-issue"), &connection, request("GET", ISSUE)).unwrap_err();
        assert_eq!(denial.reason, Reason::ReconnectRequired);
        let again = "its owner runs `keyward connect github --reconnect --name work`";
        assert_eq!(denial.hint.as_deref(), Some(again));
        assert_eq!(SendError::from(denial).kind, SendErrorKind::ReconnectRequired);
    }
}

#[test]
fn connection_whose_client_is_refused_goes_on_with_the_token_at_hand() {
    let state = ConnectionState::ClientRefused("invalid_client".into());
    let connection = ConnectionFacts { state, ..connection(&["repo"]) };
    assert!(authorize(&rules("get-issue"), &connection, request("GET", ISSUE)).is_ok());
}

#[test]
fn missing_scopes_are_those_of_the_set_that_lacks_least() {
    let denial = authorize(&rules("close-issue"), &connection(&["gist"]), request("PATCH", ISSUE)).unwrap_err();
    assert_eq!((denial.reason, &denial.missing_scopes[..]), (Reason::InsufficientScope, &["repo".to_owned()][..]));
    let kind = SendErrorKind::InsufficientScope { missing: vec!["repo".into()] };
    assert_eq!(SendError::from(denial).kind, kind);
}

#[test]
fn rule_is_looked_for_before_scope_so_that_nobody_asks_for_a_scope_in_vain() {
    let denial = authorize(&rules("close-issue"), &connection(&[]), request("DELETE", ISSUE)).unwrap_err();
    assert_eq!(denial.reason, Reason::PathNotAllowed);
}

#[test]
fn connector_without_a_provider_goes_without_the_connection() {
    let mut manifest = github();
    manifest.provider = None;
    manifest.credential = Vec::new();
    let permit = authorize(&compile(&manifest, "get-issue"), &connection(&[]), request("GET", ISSUE)).unwrap();
    assert_eq!(permit.into_parts().connection, None);
}

#[test]
fn action_without_requests_sends_none() {
    let mut manifest = github();
    manifest.actions.values_mut().for_each(|action| action.requests.clear());
    let denial = authorize(&compile(&manifest, "get-issue"), &connection(&[]), request("GET", ISSUE)).unwrap_err();
    assert_eq!(denial.reason, Reason::ActionUnknown);
}

#[test]
fn own_url_stands_in_the_place_of_a_configurable_endpoint_alone() {
    let mut connection = connection(&[]);
    for (name, url) in [("api", "http://127.0.0.1:4001/api/v3/"), ("uploads", "https://evil.example")] {
        connection.endpoints.insert(name.into(), url.into());
    }
    let rules = rules("get-issue");
    let permit = authorize(&rules, &connection, request("GET", ISSUE)).unwrap();
    assert_eq!(permit.url().as_str(), "http://127.0.0.1:4001/api/v3/repos/o/r/issues/7");
    let next = "http://127.0.0.1:4001/api/v3/repos/o/r/issues?page=2";
    assert_eq!(authorize(&rules, &connection, absolute(next)).unwrap().url().as_str(), next);
    for (url, reason) in [
        ("https://api.github.com/repos/o/r/issues", Reason::HostNotAllowed),
        ("https://evil.example/repos/o/r/issues", Reason::HostNotAllowed),
        ("http://127.0.0.1:4001/repos/o/r/issues", Reason::HostNotAllowed),
    ] {
        assert_eq!(authorize(&rules, &connection, absolute(url)).unwrap_err().reason, reason, "{url}");
    }
}

#[test]
fn own_url_is_checked_as_any_other() {
    for (url, reason) in [
        ("http://git.example.com", Reason::SchemeNotAllowed),
        ("https://127.0.0.1:4002", Reason::AddressNotAllowed),
        ("http://127.0.0.1:4002", Reason::SchemeNotAllowed),
        ("http://lab.example.com:81", Reason::SchemeNotAllowed),
        ("https://*.example.com", Reason::UrlMalformed),
        ("https://a@example.com", Reason::UrlMalformed),
        ("nonsense", Reason::UrlMalformed),
    ] {
        let mut connection = connection(&[]);
        connection.endpoints.insert("api".into(), url.into());
        let denial = authorize(&rules("get-issue"), &connection, request("GET", ISSUE)).unwrap_err();
        assert_eq!(denial.reason, reason, "{url}");
    }
}

#[test]
fn unknown_endpoint_and_endpoint_of_many_hosts_have_no_paths() {
    let mut manifest = github();
    let sharepoint = keyward_model::manifest::Endpoint {
        url: "https://*.example.com".into(),
        configurable: false,
        credential: true,
        private: false,
    };
    manifest.endpoints.insert("files".into(), sharepoint);
    let rules = compile(&manifest, "get-issue");
    for (name, reason) in [("nowhere", Reason::EndpointUnknown), ("files", Reason::HostNotAllowed)] {
        let target = Target::Endpoint { endpoint: name.into(), path: "/".into() };
        let denial = authorize(&rules, &connection(&[]), GuestRequest { target, ..request("GET", "") }).unwrap_err();
        assert_eq!(denial.reason, reason, "{name}");
    }
}

#[test]
fn credential_query_parameter_is_refused_whatever_the_rule_allows() {
    let mut manifest = github();
    manifest.credential = vec![Placement::Query { name: "api_key".into(), part: Default::default() }];
    manifest.actions.values_mut().for_each(|action| action.requests[0].query = vec!["*".into()]);
    let rules = compile(&manifest, "get-issue");
    let pair = |name: &str| GuestRequest { query: vec![(name.into(), "x".into())], ..request("GET", ISSUE) };
    for name in ["api_key", "API_KEY", " api_key"] {
        let denial = authorize(&rules, &connection(&[]), pair(name)).unwrap_err();
        assert_eq!(denial.reason, Reason::QueryNotAllowed, "{name}");
    }
    let url = "https://api.github.com/repos/o/r/issues/7?%61pi_key=x";
    assert_eq!(authorize(&rules, &connection(&[]), absolute(url)).unwrap_err().reason, Reason::QueryNotAllowed);
    assert!(authorize(&rules, &connection(&[]), pair("pageToken")).is_ok());
}

#[test]
fn field_of_the_credential_is_not_in_the_query_either() {
    let name = || "api_key".to_owned();
    for place in [
        Placement::Form { name: name(), part: Default::default() },
        Placement::Json { name: name(), part: Default::default() },
    ] {
        let mut manifest = github();
        manifest.credential = vec![place];
        manifest.actions.values_mut().for_each(|action| action.requests[0].query = vec!["*".into()]);
        let rules = compile(&manifest, "close-issue");
        let asked = |name: &str| {
            let asked = GuestRequest { query: vec![(name.into(), "x".into())], ..request("PATCH", ISSUE) };
            authorize(&rules, &connection(&["repo"]), asked).map(|_| ()).map_err(|denial| denial.reason)
        };
        for name in ["api_key", "API.KEY", "api_key[]"] {
            assert_eq!(asked(name), Err(Reason::QueryNotAllowed), "{name}");
        }
        assert_eq!(asked("page"), Ok(()));
        manifest.actions.values_mut().for_each(|action| action.requests[0].query = vec![name()]);
        let network = NetworkExceptions::default().into();
        assert!(ActionRules::compile(&manifest, &"close-issue".parse().unwrap(), &network).is_err());
    }
}

#[test]
fn endpoint_without_the_credential_has_any_body_also_by_its_url() {
    let mut manifest = github();
    manifest.credential = vec![Placement::Json { name: "secret".into(), part: Default::default() }];
    let open = Endpoint { credential: false, ..manifest.endpoints["api"].clone() };
    manifest.endpoints.insert("open".into(), open);
    let action = manifest.actions.get_mut(&"get-issue".parse().unwrap()).unwrap();
    action.requests.iter_mut().for_each(|rule| rule.endpoint = "open".into());
    let rules = compile(&manifest, "get-issue");
    let target = Target::Endpoint { endpoint: "open".into(), path: ISSUE.into() };
    for asked in [GuestRequest { target, ..request("GET", "") }, absolute(&format!("https://api.github.com{ISSUE}"))] {
        let permit = authorize(&rules, &connection(&["repo"]), asked).unwrap();
        assert!(permit.placements().is_empty());
    }
}

#[test]
fn credential_in_the_body_asks_for_a_method_that_has_one() {
    let mut manifest = github();
    manifest.credential = vec![Placement::Json { name: "secret".into(), part: Default::default() }];
    let compiled =
        |action: &str| ActionRules::compile(&manifest, &action.parse().unwrap(), &NetworkExceptions::default().into());
    let errors = compiled("get-issue").unwrap_err();
    assert!(errors[0].to_string().contains("a GET request has no body"), "{}", errors[0]);
    assert!(compiled("close-issue").is_ok());
}

#[test]
fn denial_names_method_and_host_for_the_audit() {
    let deny = |request| {
        let denial = authorize(&rules("get-issue"), &connection(&[]), request).unwrap_err();
        (denial.method, denial.host)
    };
    assert_eq!(deny(request("DELETE", ISSUE)), ("DELETE".into(), Some("api.github.com".into())));
    assert_eq!(deny(absolute("https://Evil.example:8443/x")), ("GET".into(), Some("evil.example:8443".into())));
    assert_eq!(deny(absolute("https://evil.example/../x")), ("GET".into(), Some("evil.example".into())));
    assert_eq!(deny(absolute("nonsense")), ("GET".into(), None));
    assert_eq!(deny(request("DÉ\nLETE-AND-MUCH-MORE", ISSUE)).0, "D??LETE-AND-MUCH");
}

#[test]
fn hint_is_the_line_that_would_allow_it() {
    let hint = |action: &str, request| authorize(&rules(action), &connection(&[]), request).unwrap_err().hint.unwrap();
    for (action, request, expected) in [
        (
            "get-issue",
            request("PATCH", ISSUE),
            r#"add to [actions.get-issue] requests: { method = "PATCH", endpoint = "api", path = "/repos/{owner}/{repo}/issues/{number}" }"#,
        ),
        (
            "get-issue",
            request("GET", "/repos/o/r/pulls/7/files"),
            r#"add to [actions.get-issue] requests: { method = "GET", endpoint = "api", path = "/repos/{owner}/{repo}/pulls/{id}/files" }"#,
        ),
        (
            "get-issue",
            GuestRequest {
                query: vec![
                    ("page".into(), "1".into()),
                    ("per_page".into(), "5".into()),
                    ("per_page".into(), "6".into()),
                ],
                ..request("GET", "/repos/o/r/issues")
            },
            r#"add to [actions.get-issue] requests: { method = "GET", endpoint = "api", path = "/repos/{owner}/{repo}/issues", query = ["page", "per_page"] }"#,
        ),
        (
            "get-issue",
            absolute("https://uploads.github.com/v1/files"),
            r#"add to [actions.get-issue] requests: { method = "GET", endpoint = "uploads", path = "/files" }"#,
        ),
        (
            "get-issue",
            absolute("https://codeload.github.com/x"),
            r#"add to the manifest: `[endpoints.<name>]` with `url = "https://codeload.github.com"`"#,
        ),
        (
            "close-issue",
            request("PATCH", ISSUE),
            "its owner runs `keyward connect github --reconnect --name work --scope repo`",
        ),
    ] {
        assert_eq!(hint(action, request), expected);
    }
}

#[test]
fn hint_for_the_operator_is_the_line_of_the_configuration() {
    let hint = |url: &str| {
        let mut connection = connection(&[]);
        connection.endpoints.insert("api".into(), url.into());
        authorize(&rules("get-issue"), &connection, request("GET", ISSUE)).unwrap_err().hint.unwrap()
    };
    assert_eq!(
        hint("http://git.example.com:3000"),
        r#"use https, or the operator adds `http = ["git.example.com:3000"]` to `[network]`"#
    );
    assert_eq!(
        hint("https://10.0.0.1"),
        r#"name a host, or the operator adds `private = ["10.0.0.1/32:443"]` to `[network]`"#
    );
}

#[test]
fn message_holds_neither_query_values_nor_header_values() {
    let asked = GuestRequest { query: vec![("q".into(), "canary".into())], ..request("GET", ISSUE) };
    let denial = authorize(&rules("get-issue"), &connection(&[]), asked).unwrap_err();
    assert!(!format!("{denial:?}").contains("canary"));
    let headers = vec![("x-a".into(), b"canary\n".to_vec())];
    let denial = authorize(&rules("get-issue"), &connection(&[]), GuestRequest { headers, ..request("GET", ISSUE) });
    assert!(!format!("{:?}", denial.unwrap_err()).contains("canary"));
}

/// A connector that puts the credential into the path, as Telegram wants it, and one of its parts into a header.
fn telegram() -> Manifest {
    let mut manifest = github();
    let id = Placement::Header { name: "client-id".into(), prefix: String::new(), part: "client-id".to_owned().into() };
    manifest.credential = vec![id, Placement::Path { part: Default::default() }];
    manifest.endpoints.retain(|name, _| name == "api");
    let action = manifest.actions.remove(&"get-issue".parse().unwrap()).unwrap();
    let rule = |path: &str| keyward_model::manifest::RequestRule { path: path.into(), ..action.requests[0].clone() };
    let requests = vec![rule("/bot{credential}/{method}"), rule("/file/bot{credential}/{path+}")];
    manifest.actions = BTreeMap::from([("get-issue".parse().unwrap(), Action { requests, ..action })]);
    manifest
}

#[test]
fn place_in_the_path_is_the_one_of_the_template_whatever_else_the_guest_writes() {
    const MARK: &str = "%7Bcredential%7D";
    let (manifest, connection) = (telegram(), connection(&[]));
    assert_eq!(crate::check_manifest(&manifest), []);
    let rules = compile(&manifest, "get-issue");
    for (path, start) in [
        (format!("/bot{MARK}/sendMessage"), "https://api.github.com/bot"),
        (format!("/bot{MARK}/{MARK}"), "https://api.github.com/bot"),
        (format!("/file/bot{MARK}/a/bot{MARK}/b"), "https://api.github.com/file/bot"),
    ] {
        let parts = authorize(&rules, &connection, request("GET", &path)).unwrap().into_parts();
        assert_eq!(parts.path_mark, Some(start.len()..start.len() + MARK.len()), "{path}");
        assert_eq!(&parts.url.as_str()[parts.path_mark.unwrap()], MARK);
        assert!(parts.path_template.contains("bot{credential}/"));
    }
    for path in ["/bot123/sendMessage", "/x/%7Bcredential%7D", "/bot%7Bcredential%7Dx/send", "/file/%7Bcredential%7D/x"]
    {
        let denial = authorize(&rules, &connection, request("GET", path)).unwrap_err();
        assert_eq!(denial.reason, Reason::PathNotAllowed, "{path}");
    }
    let own = connection_with_base();
    let parts = authorize(&rules, &own, request("GET", &format!("/bot{MARK}/send"))).unwrap().into_parts();
    assert_eq!(&parts.url.as_str()[..parts.path_mark.unwrap().start], "https://git.example.com/%7Bcredential%7D/bot");
}

/// With a server of its own whose base path reads as the mark.
fn connection_with_base() -> ConnectionFacts {
    let endpoints = BTreeMap::from([("api".to_owned(), "https://git.example.com/%7Bcredential%7D".to_owned())]);
    ConnectionFacts { endpoints, ..connection(&[]) }
}

#[test]
fn header_of_any_part_belongs_to_the_host() {
    let mut asked = request("GET", "/bot%7Bcredential%7D/send");
    asked.headers = vec![("Client_Id".into(), b"mine".to_vec())];
    let denial = authorize(&compile(&telegram(), "get-issue"), &connection(&[]), asked).unwrap_err();
    assert_eq!(denial.reason, Reason::HeaderForbidden);
}

#[test]
fn field_of_the_host_in_a_body_is_denied() {
    let mut manifest = github();
    manifest.credential = vec![Placement::Json { name: "secret".into(), part: Default::default() }];
    let rules = compile(&manifest, "close-issue");
    let send = |body: &'static str| {
        let headers = vec![("content-type".to_owned(), b"application/json".to_vec())];
        let asked = GuestRequest { headers, body: Body::Bytes(body.into()), ..request("PATCH", ISSUE) };
        authorize(&rules, &connection(&["repo"]), asked).map(|_| ()).map_err(|denial| denial.reason)
    };
    assert_eq!(send(r#"{"state": "closed"}"#), Ok(()));
    assert_eq!(send(r#"{"state": "closed", "Secret": "mine"}"#), Err(Reason::BodyNotAllowed));
}

#[test]
fn hint_for_a_path_with_the_mark_has_the_mark() {
    let denial =
        authorize(&compile(&telegram(), "get-issue"), &connection(&[]), request("GET", "/v2/bot%7Bcredential%7D/x"));
    let hint = denial.unwrap_err().hint.unwrap();
    assert!(hint.contains("path = \"/{id}/bot{credential}/x\""), "{hint}");
    let denial = authorize(&compile(&telegram(), "get-issue"), &connection(&[]), request("GET", "/v2/foo"));
    assert_eq!(
        denial.unwrap_err().hint.unwrap(),
        "write {credential} in the path where the host places the credential"
    );
}
