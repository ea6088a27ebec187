//! The vectors of `vectors.toml`, each against the whole of policy.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::result_large_err, reason = "the permit in the other variant is larger still")]

use std::collections::BTreeMap;

use keyward_model::{
    Body, GuestRequest, Reason, Target, TenantId,
    manifest::{Action, Endpoint, Manifest, Placement, RequestRule},
};
use keyward_policy::{
    ActionRules, Denial, NetworkExceptions, Operator, Permit, address::special_purpose, check_manifest,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    host: Vec<Host>,
    invalid: Invalid,
    request: Vec<Request>,
    headers: Headers,
    address: Addresses,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    pattern: String,
    allow: Vec<String>,
    refuse: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invalid {
    endpoints: Vec<String>,
    urls: Vec<String>,
    templates: Vec<String>,
    methods: Vec<String>,
    scopes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    ask: String,
    #[serde(default)]
    endpoint: Option<String>,
    rule: String,
    #[serde(default)]
    query: Vec<String>,
    wire: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Headers {
    allow: Vec<String>,
    refuse: Vec<String>,
    malformed_names: Vec<String>,
    malformed_values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Addresses {
    allow: Vec<String>,
    refuse: Vec<String>,
}

fn vectors() -> Vectors {
    toml::from_str(include_str!("vectors.toml")).unwrap()
}

/// A connector with one action `act` and no credential.
fn manifest(endpoints: &[(&str, &str)], requests: Vec<RequestRule>) -> Manifest {
    let action = Action {
        title: "Act".to_owned(),
        description: String::new(),
        requests,
        scopes: Vec::new(),
        idempotency: Default::default(),
        limits: Default::default(),
        input: Default::default(),
        output: Default::default(),
    };
    let endpoint = |url: &str| Endpoint { url: url.to_owned(), configurable: false, credential: true, private: false };
    Manifest {
        name: "vectors".parse().unwrap(),
        version: "1.0.0".to_owned(),
        title: "Vectors".to_owned(),
        description: String::new(),
        provider: None,
        endpoints: endpoints.iter().map(|(name, url)| ((*name).to_owned(), endpoint(url))).collect(),
        credential: Vec::new(),
        actions: BTreeMap::from([("act".parse().unwrap(), action)]),
    }
}

fn rule(method: &str, endpoint: &str, path: &str, query: &[String]) -> RequestRule {
    RequestRule {
        method: method.into(),
        endpoint: endpoint.into(),
        path: path.into(),
        query: query.to_vec(),
        redirects: false,
        once: false,
    }
}

fn ask(manifest: &Manifest, request: GuestRequest) -> Result<Permit, Denial> {
    assert_eq!(check_manifest(manifest), []);
    let network = NetworkExceptions { private: Vec::new(), http: vec!["lab.example.com:8080".parse().unwrap()] };
    ActionRules::compile(manifest, &"act".parse().unwrap(), &network.into()).unwrap().authorize(
        &TenantId::default(),
        None,
        request,
    )
}

fn get(target: Target) -> GuestRequest {
    GuestRequest { method: "GET".into(), target, query: Vec::new(), headers: Vec::new(), body: Body::Empty }
}

#[test]
fn host_patterns() {
    for Host { pattern, allow, refuse } in vectors().host {
        let manifest = manifest(&[("e", &format!("https://{pattern}"))], vec![rule("GET", "e", "/", &[])]);
        let goes = |host: &str| ask(&manifest, get(Target::Url(format!("https://{host}/"))));
        for host in allow {
            goes(&host).unwrap_or_else(|denial| panic!("{pattern} refused {host}: {denial:?}"));
        }
        for host in refuse {
            assert_eq!(goes(&host).unwrap_err().reason, Reason::HostNotAllowed, "{pattern} with {host}");
        }
    }
}

#[test]
fn what_no_manifest_may_hold() {
    let Invalid { endpoints, urls, templates, methods, scopes } = vectors().invalid;
    let refuses = |manifest: Manifest, what: &str, path: &[&str]| {
        let errors = check_manifest(&manifest);
        assert!(errors.iter().any(|error| error.path == path), "{what:?} was taken; {errors:?}");
        if !what.is_empty() {
            assert!(ActionRules::compile(&manifest, &"act".parse().unwrap(), &Operator::default()).is_err());
        }
    };
    for url in endpoints.iter().map(|host| format!("https://{host}")).chain(urls) {
        refuses(manifest(&[("e", &url)], Vec::new()), &url, &["endpoints", "e", "url"]);
    }
    let request =
        |method: &str, path: &str| manifest(&[("e", "https://a.example.com")], vec![rule(method, "e", path, &[])]);
    for template in templates {
        refuses(request("GET", &template), &template, &["actions", "act", "requests", "0", "path"]);
    }
    for method in methods {
        refuses(request(&method, "/"), &method, &["actions", "act", "requests", "0", "method"]);
    }
    for scope in scopes {
        let mut manifest = request("GET", "/");
        manifest.provider = Some("somewhere".to_owned());
        manifest.actions.values_mut().for_each(|action| action.scopes = vec![vec![scope.clone()]]);
        refuses(manifest, &scope, &["actions", "act", "scopes", "0", "0"]);
    }
}

#[test]
fn requests() {
    let endpoints = [
        ("api", "https://api.example.com/v1"),
        ("files", "https://*.files.example.com"),
        ("plain", "http://plain.example.com"),
        ("lab", "http://lab.example.com:8080"),
    ];
    for vector in vectors().request {
        let (method, target) = vector.ask.split_once(' ').unwrap();
        let endpoint = vector.endpoint.as_deref().unwrap_or("api");
        let declared = if ["CONNECT", "TRACE", "get"].contains(&method) { "GET" } else { method };
        let manifest = manifest(&endpoints, vec![rule(declared, endpoint, &vector.rule, &vector.query)]);
        let target = match target.starts_with('/') {
            true => Target::Endpoint { endpoint: endpoint.to_owned(), path: target.to_owned() },
            false => Target::Url(target.to_owned()),
        };
        let outcome = ask(&manifest, GuestRequest { method: method.to_owned(), ..get(target) });
        match (&vector.wire, &vector.reason) {
            (Some(wire), None) => {
                let permit = outcome.unwrap_or_else(|denial| panic!("{} was refused: {denial:?}", vector.ask));
                assert_eq!(permit.url().as_str(), wire, "{}", vector.ask);
            }
            (None, Some(reason)) => {
                let denial = outcome.err().unwrap_or_else(|| panic!("{} was allowed", vector.ask));
                assert_eq!(denial.reason.code(), reason, "{}", vector.ask);
            }
            _ => panic!("{} has not one outcome", vector.ask),
        }
    }
}

#[test]
fn headers() {
    let mut manifest = manifest(&[("e", "https://a.example.com")], vec![rule("GET", "e", "/", &[])]);
    manifest.provider = Some("somewhere".to_owned());
    manifest.credential =
        vec![Placement::Header { name: "X-Api-Key".to_owned(), prefix: String::new(), part: Default::default() }];
    let rules = ActionRules::compile(&manifest, &"act".parse().unwrap(), &Operator::default()).unwrap();
    let connection = keyward_model::ConnectionFacts {
        tenant: TenantId::default(),
        id: keyward_model::ConnectionId::new(),
        name: "mine".parse().unwrap(),
        owner: None,
        provider: "somewhere".to_owned(),
        method: "api-key".to_owned(),
        account: None,
        granted_scopes: Default::default(),
        scopes_assumed: true,
        endpoints: BTreeMap::new(),
        state: keyward_model::ConnectionState::Active,
        expires_at: None,
        created_at: time::OffsetDateTime::UNIX_EPOCH,
        updated_at: time::OffsetDateTime::UNIX_EPOCH,
        row_version: 1,
    };
    let ask = |name: &str, value: &str| {
        let target = Target::Endpoint { endpoint: "e".to_owned(), path: "/".to_owned() };
        let headers = vec![(name.to_owned(), value.as_bytes().to_vec())];
        let outcome = rules.authorize(&TenantId::default(), Some(&connection), GuestRequest { headers, ..get(target) });
        outcome.err().map(|denial| denial.reason)
    };
    let Headers { allow, refuse, malformed_names, malformed_values } = vectors().headers;
    for name in allow {
        assert_eq!(ask(&name, "x"), None, "{name}");
    }
    for name in refuse {
        assert_eq!(ask(&name, "x"), Some(Reason::HeaderForbidden), "{name}");
    }
    for name in malformed_names {
        assert_eq!(ask(&name, "x"), Some(Reason::HeaderMalformed), "{name:?}");
    }
    for value in malformed_values {
        assert_eq!(ask("X-Request-Id", &value), Some(Reason::HeaderMalformed), "{value:?}");
    }
}

#[test]
fn addresses() {
    let Addresses { allow, refuse } = vectors().address;
    for ip in allow {
        assert_eq!(special_purpose(ip.parse().unwrap()), None, "{ip}");
    }
    for ip in refuse {
        assert!(special_purpose(ip.parse().unwrap()).is_some(), "{ip}");
    }
}
