//! What an author is told about a `connector.toml`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use keyward_model::{Diagnostic, Severity, diagnostic::line_column};
use keyward_registry::{manifest::check, parse_manifest};

const GOOD: &str = include_str!("../src/manifest/example.toml");

/// The diagnostics as lines: place, the text there, code, message, hint.
fn shown(source: &str, diagnostics: &[Diagnostic]) -> String {
    let line = |diagnostic: &Diagnostic| {
        let place = diagnostic.span.map_or("-".to_owned(), |span| {
            let (line, column) = line_column(source, span.start);
            format!("{line}:{column} {:?}", &source[span.start..span.end])
        });
        let hint = diagnostic.hint.as_ref().map_or(String::new(), |hint| format!("\n    {hint}"));
        format!("{place} {}: {}{hint}", diagnostic.code, diagnostic.message)
    };
    diagnostics.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_of_the_manual_is_good() {
    let manual = include_str!("../../../docs/plugins.md");
    let example = manual.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let (manifest, warnings) = check(example).unwrap_or_else(|faults| panic!("{}", shown(example, &faults)));
    assert_eq!(warnings, []);
    assert_eq!(manifest.name.as_str(), "weather");
}

#[test]
fn the_examples_of_credentials_in_the_manual_are_good() {
    let manual = include_str!("../../../docs/plugins.md");
    let blocks = manual.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut kinds = Vec::new();
    for block in blocks.filter(|block| block.starts_with("[credential]") || block.starts_with("[[credential]]")) {
        let head = r#"name = "a"
version = "0.1.0"
title = "A"
provider = "http"
endpoints.api.url = "https://api.example"
actions.go = { title = "Go", requests = [{ method = "POST", endpoint = "api", path = "/go" }] }
"#;
        let source = format!("{head}{block}");
        let (manifest, _) = check(&source).unwrap_or_else(|faults| panic!("{}", shown(&source, &faults)));
        kinds.push(serde_json::to_value(&manifest.credential).unwrap()[0]["in"].as_str().unwrap().to_owned());
    }
    assert_eq!(kinds, ["header", "hmac", "hmac", "jwt", "digest"]);
}

fn faults(source: &str) -> String {
    let faults = parse_manifest(source).unwrap_err();
    assert!(faults.iter().all(|fault| fault.severity == Severity::Error));
    shown(source, &faults)
}

#[test]
fn the_example_of_the_documentation_is_good_and_read_in_full() {
    let (manifest, warnings) = check(GOOD).unwrap();
    assert_eq!(warnings, []);
    insta::assert_json_snapshot!(manifest, @r#"
    {
      "name": "github",
      "version": "0.1.0",
      "title": "GitHub",
      "description": "Issues and repositories",
      "provider": "github",
      "endpoints": {
        "api": {
          "url": "https://api.github.com",
          "configurable": true
        },
        "downloads": {
          "url": "https://*.githubusercontent.com",
          "configurable": false,
          "credential": false
        }
      },
      "credential": {
        "in": "header",
        "name": "Authorization",
        "prefix": "Bearer "
      },
      "actions": {
        "download": {
          "title": "Download an archive",
          "requests": [
            {
              "method": "GET",
              "endpoint": "api",
              "path": "/repos/{owner}/{repo}/tarball/{ref+}",
              "redirects": true
            },
            {
              "method": "GET",
              "endpoint": "downloads",
              "path": "/**",
              "query": [
                "*"
              ]
            }
          ],
          "idempotency": "safe",
          "limits": {}
        },
        "list-issues": {
          "title": "List issues",
          "requests": [
            {
              "method": "GET",
              "endpoint": "api",
              "path": "/repos/{owner}/{repo}/issues",
              "query": [
                "state"
              ]
            }
          ],
          "scopes": [
            [
              "repo"
            ],
            [
              "public_repo"
            ]
          ],
          "idempotency": "safe",
          "limits": {
            "wall_ms": 10000
          }
        }
      }
    }
    "#);
}

#[test]
fn faults_of_several_places_are_told_where_they_are() {
    let head = r#"name = "a"
version = "0.1.0"
title = "A"
provider = "http"
endpoints.api.url = "https://api.example"
actions.go = { title = "Go", requests = [{ method = "POST", endpoint = "api", path = "/go" }] }
"#;
    insta::assert_snapshot!(faults(&format!(
        r#"{head}
[[credential]]
in = "header"
name = "Host"

[[credential]]
in = "cooky"
name = "a"

[[credential]]
in = "path"
name = "b"

[[credential]]
in = "form"
name = "c"
part = "Secret"

[[credential]]
in = "json"
name = "c"
"#
    )), @r#"
    6:87 "/go" rule: the path has no {credential}, and the credential goes there
        write {credential} where it goes, for example `/bot{credential}/send`
    10:9 "Host" rule: the header "Host" cannot hold a credential: it follows from the URL
    13:7 "cooky" bad-value: `cooky` is not one of: header, query, basic, cookie, path, form, json, aws-sigv4, hmac, jwt, digest
    18:1 "name" unknown-field: there is no field `name` here
        known are: in, part
    23:9 "Secret" rule: "Secret" is not a part of a credential
        use `token`, `username`, `password`, or the name of a field of the connection: a-z, 0-9 and single '-'
    26:7 "json" rule: two parts of the credential go to the same place, this and number 3
        numbers begin at 0; a body has one type, and a header one value
    "#);
    insta::assert_snapshot!(faults(&format!("credential = []\n{head}")), @r#"
    1:1 "credential" bad-value: the credential goes to no place at all
        leave `credential` out where requests carry none
    "#);
    let good =
        r#"credential = [{ in = "header", name = "x-id", part = "client-id" }, { in = "json", name = "secret" }]"#;
    let (manifest, _) = check(&format!("{good}\n{head}")).unwrap();
    insta::assert_json_snapshot!(manifest.credential, @r#"
    [
      {
        "in": "header",
        "name": "x-id",
        "prefix": "",
        "part": "client-id"
      },
      {
        "in": "json",
        "name": "secret"
      }
    ]
    "#);
}

#[test]
fn faults_of_a_signature_are_told_where_they_are() {
    let signed = |credential: &str| {
        faults(&format!(
            r#"name = "a"
version = "0.1.0"
title = "A"
provider = "http"
endpoints.api.url = "https://api.example"
actions.go = {{ title = "Go", requests = [{{ method = "POST", endpoint = "api", path = "/go" }}] }}
credential = {credential}
"#
        ))
    };
    insta::assert_snapshot!(
        signed(r#"{ in = "hmac", hash = "sha-256", message = "{timestamp}{bdy}", headers = { x-sign = "{signature}" }, encodng = "hex" }"#),
        @r#"
    7:37 "sha-256" bad-value: `sha-256` is not one of: sha1, sha256, sha384, sha512
        did you mean `sha256`?
    7:58 "{timestamp}{bdy}" rule: {bdy} is no placeholder
        known are {method}, {host}, {path}, {query}, {path-and-query}, {url}, {body}, {body-sha256-hex}, {body-sha256-base64}, {body-sha512-hex}, {body-sha512-base64}, {timestamp}, {timestamp-ms}, {timestamp-rfc3339}, {timestamp-rfc3339-ms}, {timestamp-http}, {nonce}, {part:<name>}, {header:<name>}; a brace is written twice
    7:115 "encodng" unknown-field: there is no field `encodng` here
        did you mean `encoding`?
    "#
    );
    insta::assert_snapshot!(
        signed(r#"{ in = "hmac", hash = "sha256", message = "{body}", headers = { x-sign = "{signature}", host = "{nonce}" } }"#),
        @r#"7:110 "{nonce}" rule: the header "host" cannot hold a credential: it follows from the URL"#
    );
    insta::assert_snapshot!(
        signed(r#"{ in = "hmac", hash = "sha256", message = "{body}", headers = { x-time = "{timestamp}" } }"#),
        @r#"
    7:22 "hmac" rule: the signature goes nowhere
        add for example `headers = { x-signature = "{signature}" }`, or the same for `query`
    "#
    );
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    insta::assert_snapshot!(faults(
        r#"name = "Git_Hub"
version = "1.0"
titel = "GitHub"
provider = 7

[endpoints.api]
url = "ftp://api.github.com"
configurable = "yes"

[credential]
in = "heading"

[actions.list-issues]
title = "List"
requests = [
    { method = "get", endpoint = "ap", path = "/repos/{owner" },
    { method = "GET", path = "/x", querry = [] },
]
scopes = ["repo"]
idempotency = "saf"
limits = { wall_ms = -1, memory = 3 }
input = { type = "object" }

[actions.Create_Issue]
title = ""
"#
    ), @r#"
    1:1 "" missing-field: the field `title` is missing
    1:9 "Git_Hub" bad-name: "Git_Hub" is not a valid connector name: use 1 to 63 characters a-z, 0-9 and single '-', starting with a letter and not ending with '-'
        write `git-hub`
    2:12 "1.0" rule: "1.0" is not a semantic version: unexpected end of input while parsing minor version number
        write three numbers, for example "0.1.0"
    3:1 "titel" unknown-field: there is no field `titel` here
        did you mean `title`?
    4:12 "7" wrong-type: a text in quotes is wanted here, and this is of type integer
    7:8 "ftp://api.github.com" rule: the URL has another scheme than https
        write for example `https://api.example.com` or `https://api.example.com/v1`
    8:17 "yes" wrong-type: `true` or `false` is wanted here, and this is of type string
    11:7 "heading" bad-value: `heading` is not one of: header, query, basic, cookie, path, form, json, aws-sigv4, hmac, jwt, digest
    16:17 "get" rule: the method "get" is not a word in capitals
        write `GET`
    16:35 "ap" rule: there is no endpoint "ap"
        the manifest declares "api"
    16:48 "/repos/{owner" rule: the template segment "{owner" has a '{' without '}'
    17:5 "{ method = \"GET\", path = \"/x\", querry = [] }" missing-field: the field `endpoint` is missing
    17:36 "querry" unknown-field: there is no field `querry` here
        did you mean `query`?
    19:12 "repo" wrong-type: a list in square brackets is wanted here, and this is of type string
    20:16 "saf" bad-value: `saf` is not one of: safe, idempotent, key, none
        did you mean `safe`?
    21:22 "-1" bad-value: -1 is out of range
    21:26 "memory" unknown-field: there is no field `memory` here
        known are: memory_bytes, cpu_ms, wall_ms, requests, exchanges, request_bytes, response_bytes, log_bytes
    22:1 "input" generated-field: the schema of the input does not stand in the manifest
        remove it: `keyward plugin build` generates it from the type in the code
    24:10 "Create_Issue" bad-name: "Create_Issue" is not a valid action name: use 1 to 63 characters a-z, 0-9 and single '-', starting with a letter and not ending with '-'
        write `create-issue`
    "#);
}

#[test]
fn what_follows_from_a_fault_is_not_told_as_another() {
    let missing_url = GOOD.replace("url = \"https://api.github.com\"\n", "");
    insta::assert_snapshot!(faults(&missing_url), @r#"7:12 "api" missing-field: the field `url` is missing"#);
    let bad_name = GOOD.replace("list-issues", "list_issues");
    insta::assert_snapshot!(faults(&bad_name), @r#"
    16:10 "list_issues" bad-name: "list_issues" is not a valid action name: use 1 to 63 characters a-z, 0-9 and single '-', starting with a letter and not ending with '-'
        write `list-issues`
    "#);
}

#[test]
fn rules_of_the_policy_point_into_the_file() {
    insta::assert_snapshot!(faults(&GOOD.replacen("endpoint = \"api\"", "endpoint = \"apu\"", 1)), @r#"
    18:43 "apu" rule: there is no endpoint "apu"
        the manifest declares "api", "downloads"
    "#);
    insta::assert_snapshot!(faults(&GOOD.replacen("\"/repos/{owner}", "\"repos/{owner}", 1)), @r#"
    18:57 "repos/{owner}/{repo}/issues" rule: a path template starts with '/'
        write `/repos/{owner}/{repo}/issues`
    "#);
    insta::assert_snapshot!(faults(&GOOD.replace("\"public_repo\"", "\"public repo\"")), @r#"
    19:23 "public repo" rule: "public repo" is not a scope (RFC 6749 section 3.3)
        write each scope as a text of its own
    "#);
    insta::assert_snapshot!(faults(&GOOD.replace("provider = ", "# ")), @r#"
    11:2 "credential" rule: a credential is placed, but no provider is named whose connections have one
        add `provider = "<id>"`, or leave `credential` out
    19:1 "scopes" rule: scopes are needed, but no provider is named that could grant them
        add `provider = "<id>"`, or leave `scopes` out
    "#);
    insta::assert_snapshot!(faults(&GOOD.replace("\"GitHub\"", "\"Git\\u202eHub\"")), @r#"3:10 "Git\\u202eHub" rule: the character U+202E cannot stand in a text that people read"#);
    let without_credential: String =
        GOOD.lines().filter(|line| !line.contains("[credential]")).collect::<Vec<_>>().join("\n");
    let without_credential =
        without_credential.replace("in = \"header\"\nname = \"Authorization\"\nprefix = \"Bearer \"\n", "");
    insta::assert_snapshot!(faults(&without_credential), @r#"
    5:13 "github" rule: a provider is named, but not where its credential goes
        add [credential] with `in`, for example in = "header", name = "Authorization", prefix = "Bearer "
    "#);
    insta::assert_snapshot!(faults("name = 'a'\nversion = '1.0.0'\ntitle = 'A'\nactions = {}"), @r#"4:1 "actions" rule: the manifest declares no action"#);
}

#[test]
fn text_that_is_not_toml_is_told_with_its_place() {
    for (source, place) in [
        ("name = github", "1:8"),
        ("name = \"github", "1:8"),
        ("name = \"a\"\nname = \"b\"", "2:1"),
        ("[actions.a]\n[actions.a]\ntitle = 'x'", "2:1"),
        ("title = 2026-11-22", "1:9"),
        ("name =", "1:7"),
        ("= 1", "1:1"),
    ] {
        let told = faults(source);
        assert!(told.starts_with(place), "{source:?}: {told}");
    }
    insta::assert_snapshot!(faults("name = github"), @r#"
    1:8 "github" toml-syntax: this is no TOML value
        texts stand in quotes
    "#);
    insta::assert_snapshot!(faults("name = \"a\"\ntitle = \"A\"\nname = \"b\""), @r#"
    3:1 "name" duplicate-field: the field `name` stands here twice
        the first is on line 1
    "#);
}

#[test]
fn what_is_allowed_but_likely_not_meant_is_a_warning() {
    let warned = |source: &str| shown(source, &check(source).unwrap().1);
    insta::assert_snapshot!(warned(&GOOD.replacen("idempotency = \"safe\"", "idempotency = \"none\"", 1)), @r#"
    20:16 "none" idempotency-unsaid: `list-issues` only reads, but is not declared as safe to repeat
        write idempotency = "safe", so that a flow may try it again after a lost connection
    "#);
    insta::assert_snapshot!(warned(&GOOD.replacen("\"GET\"", "\"DELETE\"", 1)), @r#"
    20:16 "safe" safe-but-writes: `list-issues` is declared as reading only, but may change things
        write "idempotent" where twice is as once, else "key" or "none"
    "#);
    insta::assert_snapshot!(warned(&GOOD.replace("[credential]", "[endpoints.unused]\nurl = \"https://example.com\"\n[credential]")), @r#"
    11:12 "unused" unused-endpoint: no action makes a request to the endpoint `unused`
        remove it: whoever installs the connector is asked to agree to it
    "#);
}

#[test]
fn a_manifest_of_any_size_or_depth_ends_in_an_answer() {
    let large = format!("{GOOD}#{}", "x".repeat(256 << 10));
    insta::assert_snapshot!(faults(&large).replace(&large.len().to_string(), "[n]"), @"- too-large: the manifest has [n] bytes, and 262144 is the limit");
    assert!(faults(&format!("a = {}", "[".repeat(100_000))).contains("toml-syntax"));
    assert!(faults(&format!("{} = 1", ["a"; 50_000].join("."))).contains("toml-syntax"));
}

#[test]
fn no_damaged_manifest_makes_the_reader_fail() {
    let places: Vec<usize> = GOOD.char_indices().map(|(place, _)| place).collect();
    for &place in &places {
        // Both may be good or bad; what counts is that there is an answer with places in the text.
        for damaged in [GOOD[..place].to_owned(), format!("{}{}", &GOOD[..place], &GOOD[place + 1..])] {
            if let Err(faults) = check(&damaged) {
                assert!(!faults.is_empty());
                shown(&damaged, &faults);
            }
        }
    }
}
