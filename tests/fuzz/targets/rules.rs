//! The rules that the targets ask.

use std::collections::BTreeMap;

use keyward_model::manifest::{Action, Endpoint, Manifest, Placement, RequestRule};
use keyward_policy::{ActionRules, Operator};

/// One action with every kind of template, and an endpoint of each kind.
pub fn rules() -> ActionRules {
    let request = |(endpoint, path): (&str, &str)| RequestRule {
        method: "GET".into(),
        endpoint: endpoint.into(),
        path: path.into(),
        query: vec!["*".into()],
        redirects: true,
        once: false,
    };
    let requests =
        [("api", "/"), ("api", "/public/{rest+}"), ("api", "/{a}/x{b}:go"), ("api", "/a/{b%2F}/c"), ("files", "/**")];
    let endpoint =
        |url: &str, credential| Endpoint { url: url.into(), configurable: false, credential, private: false };
    let action = Action {
        title: "Act".into(),
        description: String::new(),
        requests: requests.map(request).into(),
        scopes: Vec::new(),
        idempotency: Default::default(),
        limits: Default::default(),
        input: Default::default(),
        output: Default::default(),
    };
    let manifest = Manifest {
        name: "fuzzed".parse().unwrap(),
        version: "1.0.0".into(),
        title: "Fuzzed".into(),
        description: String::new(),
        provider: None,
        endpoints: BTreeMap::from([
            ("api".into(), endpoint("https://api.example.com/v1", true)),
            ("files".into(), endpoint("https://*.files.example.com", false)),
        ]),
        credential: vec![Placement::Query { name: "api_key".into(), part: Default::default() }],
        actions: BTreeMap::from([("act".parse().unwrap(), action)]),
    };
    // A credential needs a provider in a file that an author writes; the rules alone do not ask for one.
    ActionRules::compile(&manifest, &"act".parse().unwrap(), &Operator::default())
        .or_else(|_| {
            let manifest = Manifest { credential: Vec::new(), ..manifest };
            ActionRules::compile(&manifest, &"act".parse().unwrap(), &Operator::default())
        })
        .unwrap()
}

/// Whether a permitted URL is below one of the endpoints, as another reader of URLs sees it.
pub fn is_declared(url: &url::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let is_api = host == "api.example.com" && (url.path() == "/v1" || url.path().starts_with("/v1/"));
    let is_file = host.ends_with(".files.example.com");
    url.scheme() == "https"
        && url.port().is_none()
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none()
        && (is_api || is_file)
}
