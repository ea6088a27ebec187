//! Policy and wire read a permitted request alike, and what is permitted is declared.
#![no_main]

mod rules;

use std::sync::LazyLock;

use keyward_model::{Body, GuestRequest, Target, TenantId};
use keyward_policy::ActionRules;
use libfuzzer_sys::fuzz_target;
use url::Url;

static RULES: LazyLock<ActionRules> = LazyLock::new(rules::rules);

#[derive(Debug, arbitrary::Arbitrary)]
struct Input {
    method: Option<String>,
    absolute: bool,
    target: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, Vec<u8>)>,
}

fn authorize(
    method: &str,
    target: Target,
    query: Vec<(String, String)>,
    headers: Vec<(String, Vec<u8>)>,
) -> Option<Url> {
    let request = GuestRequest { method: method.to_owned(), target, query, headers, body: Body::Empty };
    let permit = RULES.authorize(&TenantId::default(), None, request).ok()?;
    let parts = permit.into_parts();
    for name in ["authorization", "host", "cookie", "content-length", "transfer-encoding", "accept-encoding"] {
        assert!(!parts.headers.contains_key(name), "{name}");
    }
    Some(parts.url)
}

fuzz_target!(|input: Input| {
    let method = input.method.unwrap_or_else(|| "GET".to_owned());
    let target = match input.absolute {
        true => Target::Url(input.target),
        false => Target::Endpoint { endpoint: "api".into(), path: input.target },
    };
    let Some(url) = authorize(&method, target, input.query, input.headers) else { return };
    assert_eq!(method, "GET");
    assert!(rules::is_declared(&url), "{url}");
    assert_eq!(Url::parse(url.as_str()).unwrap(), url, "the wire reads another URL");
    // What was permitted is permitted again, as the same.
    let again = authorize("GET", Target::Url(url.as_str().to_owned()), Vec::new(), Vec::new());
    assert_eq!(again, Some(url));
});
