//! What matched is what is sent, whatever a guest writes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::LazyLock};

use keyward_model::{
    Body, GuestRequest, Target, TenantId,
    manifest::{Action, Endpoint, Manifest, RequestRule},
};
use keyward_policy::{ActionRules, CanonicalPath, Operator, PathTemplate};
use percent_encoding::{percent_decode, percent_decode_str};
use proptest::prelude::*;
use url::Url;

/// Pieces of which hostile paths and URLs are made.
const PIECES: &[&str] = &[
    "/",
    "/",
    "/",
    "//",
    ".",
    "..",
    "%2e",
    "%2E%2e",
    "%252e",
    "%25",
    "32",
    "65",
    "%2f",
    "%2F",
    "%5c",
    "\\",
    ";",
    "%3b",
    "a",
    "b",
    "public",
    "secret",
    "é",
    "%c3%a9",
    "%ff",
    "%",
    "%0",
    "%zz",
    "%00",
    "%0a",
    "\n",
    "\t",
    " ",
    "%20",
    "?",
    "#",
    "&",
    "=",
    "a=b",
    "+",
    "'",
    "\"",
    "<",
    "|",
    "{",
    "}",
    "@",
    ":",
    ":8443",
    ":443",
    "https://",
    "http://",
    "HTTPS://",
    "api.example.com",
    "API.example.com.",
    "evil.com",
    "127.1",
    "[::1]",
    "%61",
    "%41",
    "~",
    "!",
    "$",
    "(",
    ")",
    "*",
    ",",
    "v1",
    "/v1/",
    "\u{ff0f}",
    "\u{2024}",
    "\u{ad}",
];

fn hostile() -> impl Strategy<Value = String> {
    let pieces = proptest::collection::vec(proptest::sample::select(PIECES), 0..12).prop_map(|pieces| pieces.concat());
    prop_oneof![
        4 => pieces.clone(),
        3 => pieces.clone().prop_map(|rest| format!("/{rest}")),
        3 => pieces.clone().prop_map(|rest| format!("https://api.example.com/v1/{rest}")),
        1 => pieces.prop_map(|rest| format!("https://{rest}")),
        1 => any::<String>(),
        1 => "[ -~]{0,40}",
    ]
}

static RULES: LazyLock<ActionRules> = LazyLock::new(rules);

fn rules() -> ActionRules {
    let request = |path: &str| RequestRule {
        method: "GET".into(),
        endpoint: "api".into(),
        path: path.into(),
        query: vec!["*".into()],
        redirects: false,
        once: false,
    };
    let action = Action {
        title: "Act".to_owned(),
        description: String::new(),
        requests: ["/", "/public/{rest+}", "/{a}/x{b}:go", "/a/{b%2F}/c", "/**"].map(request).into(),
        scopes: Vec::new(),
        idempotency: Default::default(),
        limits: Default::default(),
        input: Default::default(),
        output: Default::default(),
    };
    let manifest = Manifest {
        name: "canonical".parse().unwrap(),
        version: "1.0.0".to_owned(),
        title: "Canonical".to_owned(),
        description: String::new(),
        provider: None,
        endpoints: BTreeMap::from([(
            "api".to_owned(),
            Endpoint {
                url: "https://api.example.com/v1".to_owned(),
                configurable: false,
                credential: true,
                private: false,
            },
        )]),
        credential: Vec::new(),
        actions: BTreeMap::from([("act".parse().unwrap(), action)]),
    };
    ActionRules::compile(&manifest, &"act".parse().unwrap(), &Operator::default()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn permitted_url_is_read_alike_by_every_reader(
        text in hostile(),
        absolute in any::<bool>(),
        pairs in proptest::collection::vec((hostile(), hostile()), 0..3),
    ) {
        let target = match absolute {
            true => Target::Url(text),
            false => Target::Endpoint { endpoint: "api".to_owned(), path: text },
        };
        let request = GuestRequest {
            method: "GET".to_owned(), target, query: pairs.clone(), headers: Vec::new(), body: Body::Empty,
        };
        let Ok(permit) = RULES.authorize(&TenantId::default(), None, request) else { return Ok(()) };
        let url = permit.url();

        // The library that sends it reads it back without a change, and so does the one that dials.
        let again = Url::parse(url.as_str()).unwrap();
        prop_assert_eq!(again.as_str(), url.as_str());
        let uri: http::Uri = url.as_str().parse().unwrap();
        prop_assert_eq!(uri.path(), url.path());
        prop_assert_eq!(uri.query(), url.query());
        prop_assert_eq!(uri.host(), Some("api.example.com"));

        // It goes where the endpoint says.
        prop_assert_eq!(url.origin().ascii_serialization(), "https://api.example.com");
        prop_assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
        let below = url.path().strip_prefix("/v1").unwrap();

        // Its path is in the one form already, and the template that allowed it matches it.
        let path: CanonicalPath = below.parse().unwrap();
        prop_assert_eq!(path.to_string(), below);
        let template: PathTemplate = permit.path_template().parse().unwrap();
        prop_assert!(template.matches(&path), "{} does not match {}", template, below);
        prop_assert!(url.path().split('/').all(|segment| segment != "." && segment != ".."));

        // Nor does it climb for a reader that decodes it again and again.
        for segment in below.split('/') {
            let once: Vec<u8> = percent_decode_str(segment).collect();
            let mut form = once.clone();
            loop {
                let next: Vec<u8> = percent_decode(&form).collect();
                if next == form { break }
                form = next;
            }
            let dots = |form: &[u8]| form.split(|&byte| byte == b'/').any(|part| part == b"." || part == b"..");
            let slashes = |form: &[u8]| form.iter().filter(|&&byte| byte == b'/' || byte == b'\\').count();
            prop_assert!(!dots(&form), "{}", below);
            prop_assert_eq!(slashes(&form), slashes(&once), "{}", below);
        }
        prop_assert!(url.as_str().bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'));

        // The guest's pairs arrive as they were given, behind those of the URL.
        let arrived: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        prop_assert!(arrived.ends_with(&pairs), "{:?} of {:?}", pairs, url.query());
    }

    #[test]
    fn canonical_path_is_its_own_canonical_form(text in hostile()) {
        let Ok(path) = text.parse::<CanonicalPath>() else { return Ok(()) };
        let written = path.to_string();
        prop_assert_eq!(&written.parse::<CanonicalPath>().unwrap(), &path);
        prop_assert_eq!(written.parse::<CanonicalPath>().unwrap().to_string(), written);
    }
}
