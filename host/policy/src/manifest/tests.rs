#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use keyward_model::manifest::{Endpoint, Placement};

use super::*;
use crate::{ActionRules, NetworkExceptions, Operator, testing::github};

fn paths(errors: &[RuleError]) -> Vec<String> {
    errors.iter().map(|error| error.path.join(".")).collect()
}

#[test]
fn sound_manifest_has_no_faults() {
    assert_eq!(check_manifest(&github()), []);
}

#[test]
fn every_fault_is_found_with_its_place() {
    let mut manifest = github();
    manifest.title = String::new();
    manifest.description = "a\nb".into();
    manifest.provider = Some("Git Hub".into());
    manifest.endpoints.insert(
        "Bad Name".into(),
        Endpoint { url: "https://x.example".into(), configurable: false, credential: true, private: false },
    );
    manifest.endpoints.insert(
        "lab".into(),
        Endpoint { url: "https://10.1.2.3".into(), configurable: false, credential: true, private: true },
    );
    manifest.endpoints.insert(
        "near".into(),
        Endpoint { url: "https://[::1]".into(), configurable: false, credential: true, private: false },
    );
    manifest.endpoints.insert(
        "worse".into(),
        Endpoint { url: "ftp://x".into(), configurable: false, credential: true, private: false },
    );
    manifest.credential =
        vec![Placement::Header { name: "host".into(), prefix: String::new(), part: Default::default() }];
    let action = manifest.actions.get_mut(&"get-issue".parse().unwrap()).unwrap();
    action.title = " x".into();
    action.requests[0].method = "get".into();
    action.requests[0].endpoint = "nowhere".into();
    action.requests[0].path = "issues".into();
    action.requests[1].query = vec!["a".into(), "b*".into()];
    action.scopes = vec![vec![], vec!["a".into(), "b c".into()]];
    action.limits.cpu_ms = Some(0);
    assert_eq!(
        paths(&check_manifest(&manifest)),
        [
            "title",
            "description",
            "provider",
            "endpoints.Bad Name",
            "endpoints.near.url",
            "endpoints.worse.url",
            "credential.name",
            "actions.get-issue.title",
            "actions.get-issue.requests.0.method",
            "actions.get-issue.requests.0.endpoint",
            "actions.get-issue.requests.0.path",
            "actions.get-issue.requests.1.query.1",
            "actions.get-issue.scopes.0",
            "actions.get-issue.scopes.1.1",
            "actions.get-issue.limits.cpu_ms",
        ]
    );
}

#[test]
fn url_of_an_endpoint_shows_as_it_is_dialled() {
    // The i of the host is a Cyrillic letter.
    for (url, hint) in [
        ("https://api.g\u{456}thub.com", "`api.xn--gthub-n2e.com`"),
        ("https://*.b\u{fc}cher.example", "`*.xn--bcher-kva.example`"),
        ("https://api.example.com/\u{fc}", "encode the path"),
    ] {
        let error = crate::check_endpoint_url(url, &NetworkExceptions::default()).unwrap_err();
        assert!(error.message.contains("outside ASCII"), "{error}");
        assert!(error.hint.unwrap().contains(hint), "{url}");
    }
}

#[test]
fn credential_and_scopes_need_a_provider() {
    let manifest = Manifest { provider: None, ..github() };
    assert_eq!(paths(&check_manifest(&manifest)), ["credential", "actions.close-issue.scopes"]);
}

#[test]
fn manifest_without_actions_is_refused() {
    let manifest = Manifest { actions: BTreeMap::new(), ..github() };
    assert_eq!(paths(&check_manifest(&manifest)), ["actions"]);
}

#[test]
fn credential_query_name_may_not_be_listed() {
    let mut manifest = github();
    manifest.credential = vec![Placement::Query { name: "page".into(), part: Default::default() }];
    assert_eq!(paths(&check_manifest(&manifest)), ["actions.get-issue.requests.1.query.0"]);
}

#[test]
fn rules_are_compiled_for_declared_and_sound_actions_alone() {
    let compile = |manifest: &Manifest, action: &str| {
        let compiled = ActionRules::compile(manifest, &action.parse().unwrap(), &Operator::default());
        compiled.map(drop).map_err(|errors| paths(&errors))
    };
    let mut manifest = github();
    assert_eq!(compile(&manifest, "nothing"), Err(vec!["actions.nothing".to_owned()]));
    manifest.actions.get_mut(&"close-issue".parse().unwrap()).unwrap().requests[0].path = "x".into();
    assert_eq!(compile(&manifest, "close-issue"), Err(vec!["actions.close-issue.requests.0.path".to_owned()]));
    // A fault in one action does not stop the others.
    assert_eq!(compile(&manifest, "get-issue"), Ok(()));
}

#[test]
fn mark_stands_in_every_path_where_the_credential_goes_and_in_no_other() {
    let faults = |path: &str, placed: bool, carries: bool| {
        let mut manifest = github();
        if placed {
            manifest.credential = vec![Placement::Path { part: Default::default() }];
        }
        manifest.endpoints.values_mut().for_each(|endpoint| endpoint.credential = carries);
        manifest.actions.values_mut().flat_map(|action| &mut action.requests).for_each(|rule| rule.path = path.into());
        check_manifest(&manifest).len()
    };
    assert_eq!(faults("/bot{credential}/x", true, true), 0);
    assert_eq!(faults("/x", false, true), 0);
    assert_eq!(faults("/x", true, false), 0);
    assert_eq!(faults("/x", true, true), 3);
    assert_eq!(faults("/bot{credential}/x", false, true), 3);
    assert_eq!(faults("/bot{credential}/x", true, false), 3);
}
