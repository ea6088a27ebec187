#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::PathBuf};

use keyward_model::CallStats;
use serde_json::json;

use super::*;
use crate::testing::{flow, shown};

fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path)
}

/// The specification's schema, and whether it takes a source.
struct OfficialSchema(jsonschema::Validator);

impl OfficialSchema {
    fn load() -> Self {
        let source = fs::read_to_string(data("workflow.schema.yaml")).unwrap();
        let schema = Node::parse(&source).unwrap().to_value();
        Self(jsonschema::validator_for(&schema).unwrap())
    }

    fn takes(&self, source: &str) -> bool {
        self.0.is_valid(&Node::parse(source).unwrap().to_value())
    }
}

/// Every example of the specification, with what it is refused for; none: it can be executed.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("authentication-bearer-uri-format.yaml", &["unsupported 'call: http'"]),
    ("authentication-oauth2-secret.yaml", &["unsupported 'call: http'", "unsupported 'use.secrets'"]),
    ("authentication-oidc-secret.yaml", &["unsupported 'call: http'", "unsupported 'use.secrets'"]),
    ("authentication-reusable.yaml", &["unsupported 'call: http'", "unsupported 'use.authentications'"]),
    ("call-asyncapi-subscribe-consume-amount.yaml", &["unsupported 'call: asyncapi'"]),
    ("call-asyncapi-subscribe-consume-until.yaml", &["unsupported 'call: asyncapi'"]),
    ("call-custom-function-cataloged.yaml", &["unsupported a function from a URL"]),
    ("call-grpc.yaml", &["unsupported 'call: grpc'"]),
    ("call-http-endpoint-interpolation.yaml", &["unsupported 'call: http'"]),
    ("call-http-query-parameters.yaml", &["unsupported 'call: http'"]),
    ("call-mcp.yaml", &["unsupported 'call: mcp'"]),
    ("call-openapi.yaml", &["unsupported 'call: openapi'"]),
    ("do-multiple.yaml", &["unsupported 'call: http'"]),
    ("emit.yaml", &["unsupported 'emit'"]),
    ("for.yaml", &["unsupported 'listen'"]),
    ("listen-to-all-read-envelope.yaml", &["unsupported 'listen'"]),
    ("listen-to-any-filter.yaml", &["unsupported 'listen'"]),
    ("listen-to-any-until-condition.yaml", &["unsupported 'listen'"]),
    ("listen-to-any.yaml", &["unsupported 'listen'"]),
    ("mock-service-extension.yaml", &["unsupported 'call: http'", "unsupported 'use.extensions'"]),
    ("raise-reusable.yaml", &[]),
    ("run-container-cleanup-eventually.yaml", &["refused containers"]),
    ("run-container-with-name.yaml", &["refused containers"]),
    ("run-container.yaml", &["refused containers"]),
    ("run-return-code.yaml", &["refused containers"]),
    ("run-return-stderr.yaml", &["refused containers"]),
    ("run-shell-stdin-and-arguments.yaml", &["refused shell commands"]),
    ("schedule-cron.yaml", &["unsupported 'call: http'", "unsupported 'schedule'"]),
    ("set-expression.yaml", &["unsupported 'schedule'"]),
    ("star-wars-homeworld.yaml", &["unsupported 'call: http'"]),
    ("try-catch-retry-inline.yaml", &["unsupported 'call: http'"]),
    ("try-catch-then-directive.yaml", &["unsupported 'call: http'"]),
    ("try-catch.yaml", &["unsupported 'call: http'"]),
    ("wait-duration-iso8601.yaml", &["unsupported 'wait'"]),
];

fn refusals(diagnostics: &[Diagnostic]) -> BTreeSet<String> {
    let what = |message: &str| {
        let message = message.strip_prefix("Keyward does not run ").unwrap_or(message);
        message.strip_suffix(" is not supported by this version of Keyward").unwrap_or(message).to_owned()
    };
    diagnostics.iter().map(|fault| format!("{} {}", fault.code, what(&fault.message))).collect()
}

#[test]
fn every_example_is_read_and_refused_for_the_documented_reason_or_taken() {
    let files: BTreeSet<String> =
        fs::read_dir(data("examples")).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, EXAMPLES.iter().map(|(file, _)| (*file).to_owned()).collect(), "the table is not complete");
    let schema = OfficialSchema::load();
    for (file, expected) in EXAMPLES {
        let source = fs::read_to_string(data("examples").join(file)).unwrap();
        assert!(schema.takes(&source), "{file} is not of the schema");
        parse(&source).unwrap_or_else(|faults| panic!("{file}: {}", shown(&source, &faults)));
        let found = match check(&source) {
            Ok((_, warnings)) => refusals(&warnings),
            Err(faults) => {
                assert!(faults.iter().all(|fault| fault.hint.is_some()), "{file}: {}", shown(&source, &faults));
                refusals(&faults)
            }
        };
        assert_eq!(found, expected.iter().map(|what| (*what).to_owned()).collect(), "{file}");
    }
}

#[test]
fn every_conformance_flow_is_read() {
    let mut count = 0;
    for file in fs::read_dir(data("ctk")).unwrap() {
        let feature = fs::read_to_string(file.unwrap().path()).unwrap();
        for part in feature.split("Given a workflow with definition:").skip(1) {
            let source = part.split("\"\"\"").nth(1).unwrap().strip_prefix("yaml").unwrap();
            parse(source).unwrap_or_else(|faults| panic!("{}", shown(source, &faults)));
            count += 1;
        }
    }
    assert_eq!(count, 21);
}

/// Flows with structural faults: the schema refuses them and so do we.
const MALFORMED: &[&str] = &[
    "dO: []",
    "do: {a: {set: {b: 1}}}",
    "do: [{a: {set: {}}}]",
    "do: [{a: {}}]",
    "do: [{a: {sett: {b: 1}}}]",
    "do: [{a: {set: {b: 1}}, b: {set: {b: 1}}}]",
    "do: [{a: {set: {b: 1}, iff: '.x'}}]",
    "do: [{a: {set: {b: 1}, if: true}}]",
    "do: [{a: {set: {b: 1}, call: x.y}}]",
    "do: [{a: {try: [], catch: {retry: {backoff: {linaer: {}}}}}}]",
    "do: [{a: {call: http, wiht: {method: get, endpoint: 'https://a'}}}]",
    "do: [{a: {call: 5}}]",
    "do: [{a: {call: http}}]",
    "do: [{a: {call: http, with: {method: get}}}]",
    "do: [{a: {call: http, with: {method: get, endpoint: 'https://a', output: all}}}]",
    "do: [{a: {call: grpc, with: {proto: {endpoint: a}, service: {name: a, host: b, port: 70000}, method: c}}}]",
    "do: [{a: {call: asyncapi, with: {document: {endpoint: a}, operation: b}}}]",
    "do: [{a: {call: mcp, with: {method: tools/call, transport: {}}}}]",
    "do: [{a: {call: a2a, with: {method: nope}}}]",
    "do: [{a: {for: {each: x}, do: []}}]",
    "do: [{a: {for: {in: .x}}}]",
    "do: [{a: {fork: {}}}]",
    "do: [{a: {fork: {branches: [], compete: maybe}}}]",
    "do: [{a: {listen: {to: {}}}}]",
    "do: [{a: {listen: {to: {one: {with: {}}}}}}]",
    "do: [{a: {listen: {to: {one: {with: {type: a}}, all: []}}}}]",
    "do: [{a: {raise: {}}}]",
    "do: [{a: {raise: {error: {type: 'https://a'}}}}]",
    "do: [{a: {raise: {error: {type: 'https://a', status: '400'}}}}]",
    "do: [{a: {run: {}}}]",
    "do: [{a: {run: {shell: {command: a}, return: nothing}}}]",
    "do: [{a: {run: {container: {image: a, lifetime: {cleanup: eventually}}}}}]",
    "do: [{a: {run: {script: {language: js}}}}]",
    "do: [{a: {run: {workflow: {namespace: a, name: b}}}}]",
    "do: [{a: {switch: []}}]",
    "do: [{a: {switch: [{b: {when: .x}}]}}]",
    "do: [{a: {try: [], catch: {as: 5}}}]",
    "do: [{a: {try: []}}]",
    "do: [{a: {try: [], catch: {errors: {with: {}}}}}]",
    "do: [{a: {try: [], catch: {retry: {backoff: {}}}}}]",
    "do: [{a: {try: [], catch: {retry: {limit: {count: 5}}}}}]",
    "do: [{a: {try: [], catch: {retry: {jitter: {from: {seconds: 1}}}}}}]",
    "do: [{a: {wait: {}}}]",
    "do: [{a: {wait: {second: 5}}}]",
    "do: [{a: {wait: 30s}}]",
    "do: [{a: {wait: {seconds: 1.5}}}]",
    "do: [{a: {emit: {event: {with: {source: 'https://a'}}}}}]",
    "do: [{a: {set: {b: 1}, timeout: {}}}]",
    "do: [{a: {set: {b: 1}, input: {schema: {}}}}]",
    "do: [{a: {set: {b: 1}, output: {from: .x}}}]",
    "do: []\nuse: {secret: []}",
    "do: []\nuse: {authentications: {a: {basic: {username: b}}}}",
    "do: []\nuse: {authentications: {a: {oauth2: {grant: client_credentials}}}}",
    "do: []\nuse: {extensions: [{a: {extend: everything}}]}",
    "do: []\nschedule: {read: data}",
    "do: []\nevaluate: {mode: lose}",
];

/// Fields that the schema lets pass without a meaning: we say that they have none.
const IGNORED_BY_THE_SCHEMA: &[&str] = &["do: []\nfoo: 1"];

#[test]
fn what_the_schema_refuses_is_refused_with_a_place_and_mostly_a_hint() {
    let schema = OfficialSchema::load();
    let taken: Vec<&&str> = MALFORMED.iter().filter(|rest| schema.takes(&flow(rest))).collect();
    assert!(taken.is_empty(), "the schema takes {taken:#?}");
    let mut all = String::new();
    for rest in MALFORMED.iter().chain(IGNORED_BY_THE_SCHEMA) {
        let source = flow(rest);
        let faults = parse(&source).err().unwrap_or_else(|| panic!("{rest} was taken"));
        assert!(faults.iter().all(|fault| fault.span.is_some()), "{rest}");
        all.push_str(&format!("{rest}\n{}\n\n", shown(&source, &faults)));
    }
    insta::assert_snapshot!(all);
}

/// Well-formed flows with parts that nothing of the schema refuses and we can say more about.
const WRONG: &[&str] = &[
    // Names and directives.
    "do:\n  - a: {set: {x: 1}, then: c}\n  - b: {set: {x: 1}, then: aa}\n  - a: {set: {x: 1}}",
    "do:\n  - a: {do: [{b: {set: {x: 1}, then: c}}]}\n  - c: {switch: [{one: {then: nd}}, {two: {then: end}}]}",
    "do:\n  - a: {try: [{b: {set: {x: 1}}}], catch: {then: nowhere}}",
    // Expressions.
    "do:\n  - a: {set: {x: '${ .a | }', y: 'plain', z: 'a ${ .b'}}",
    "do:\n  - a:\n      if: .x ==\n      set: '${ $contxt.a }'",
    "do:\n  - a: {input: {from: $input}, set: {x: '${ $output }'}}",
    "do:\n  - a: {set: {token: '${ $secrets.github }'}}",
    "do:\n  - a:\n      set:\n        text: >\n          Hello ${ .name |}\n          and goodbye",
    "do:\n  - a: {set: .x}",
    "do:\n  - a: {for: {each: $x, at: input, in: .a}, do: [{b: {set: {y: '${ $x }'}}}]}",
    "do:\n  - a: {set: {x: '${ env }'}}",
    // Actions.
    "do:\n  - a: {call: create-issue}",
    "do:\n  - a: {call: GitHub.createIssue}",
    "do:\n  - a: {call: 'github.create-issue:1.0.0@other'}",
    "do:\n  - a: {call: 'github.create-issue:1.0.0'}",
    "do:\n  - a: {call: human.task, with: {title: x}}",
    "do:\n  - a: {call: x.y, metadata: {connection: Not A Name}}",
    "do:\n  - a: {call: x.y, metadata: {connection: [a], onUncertain: maybe}}",
    // Retries and errors.
    "do:\n  - a: {try: [{b: {call: x.y}}], catch: {retry: often}}\nuse: {retries: {oftenn: {delay: PT1S}}}",
    "do:\n  - a: {raise: {error: missing}}",
    "do:\n  - a: {raise: {error: {type: 'https://a', status: 4000}}}",
    "do:\n  - a: {try: [{b: {call: x.y}}], catch: {retry: {delay: PT5, limit: {attempt: {count: 0}}}}}",
    "do:\n  - a: {try: [{b: {call: x.y}}], catch: {retry: {delay: P1M, backoff: {linear: {increment: PT1S}}}}}",
    "do:\n  - a: {try: [{b: {call: x.y}}], catch: {retry: {backoff: {constant: {}}, limit: {attempt: {count: 0}}}}}",
    "do: [{a: {set: {x: 1}}}]\nuse: {retries: {r: {when: '.x |'}}}",
    // Schemas.
    "do: [{a: {set: {x: 1}}}]\ninput: {schema: {document: {type: objekt}}}",
    "do: [{a: {set: {x: 1}}}]\ninput: {schema: {document: {$ref: 'https://example.com/schema.json'}}}",
    "do: [{a: {set: {x: 1}}}]\ninput: {schema: {resource: {endpoint: 'https://example.com/schema.json'}}}",
    "do: [{a: {set: {x: 1}}}]\ninput: {schema: {format: avro, document: {}}}",
    // What is not executed.
    "do: [{a: {fork: {branches: [{b: {wait: PT1S}}, {c: {emit: {event: {with: {type: x}}}}}]}}}]",
    "do: [{a: {set: {x: 1}, timeout: {after: PT1S}}}]\ntimeout: t\nuse: {timeouts: {t: {after: PT1S}}}",
    "do: [{a: {run: {script: {language: js, code: '1'}}}}]\nevaluate: {language: javascript, mode: loose}",
    "do: [{a: {run: {workflow: {namespace: a, name: b, version: '1.0.0'}}}}]\nuse: {catalogs: {c: {endpoint: 'https://a'}}}",
];

#[test]
fn what_is_wrong_in_a_well_formed_flow_is_told_with_its_place() {
    let mut all = String::new();
    for rest in WRONG {
        let source = flow(rest);
        let faults = check(&source).err().unwrap_or_else(|| panic!("{rest} was taken"));
        assert!(faults.iter().all(|fault| fault.span.is_some()), "{rest}: {}", shown(&source, &faults));
        all.push_str(&format!("{rest}\n{}\n\n", shown(&source, &faults)));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_schema_that_would_take_for_ever_is_a_fault() {
    let definitions: String = (0..40)
        .map(|n| format!("d{n}: {{anyOf: [{{$ref: '#/$defs/d{0}'}}, {{$ref: '#/$defs/d{0}'}}]}}, ", n + 1))
        .collect();
    let source = flow(&format!(
        "do: []\ninput: {{schema: {{document: {{$ref: '#/$defs/d0', $defs: {{{definitions}d40: {{}}}}}}}}}}"
    ));
    let faults = check(&source).unwrap_err();
    assert_eq!((faults[0].code, faults.len()), ("bad-schema", 1));
    assert!(faults[0].message.starts_with("this schema refers to itself too often"), "{}", faults[0].message);
    // A pattern that is short as written and long as compiled.
    let large = flow("do: []\ninput: {schema: {document: {pattern: '^((a?){100}){1000}$'}}}");
    assert_eq!(check(&large).unwrap_err()[0].code, "bad-schema");
    for pattern in ["^[a-z0-9-]{1,64}$", "^[\\w.+-]+@[\\w-]+\\.[\\w.]+$", "^\\d{4}-\\d{2}-\\d{2}$", "^\\p{L}+$"] {
        let source = flow(&format!("do: []\ninput: {{schema: {{document: {{pattern: '{pattern}'}}}}}}"));
        assert!(check(&source).is_ok(), "{pattern}: {}", shown(&source, &check(&source).unwrap_err()));
    }
}

#[test]
fn a_retry_without_end_is_a_warning() {
    for (retry, warned) in [
        ("{}", true),
        ("{delay: PT1S}", true),
        ("{limit: {attempt: {duration: PT1S}}}", true),
        ("{limit: {attempt: {count: 1}}}", false),
        ("{limit: {duration: PT1H}}", false),
        ("r", true),
        ("s", false),
    ] {
        let source = flow(&format!(
            "do: [{{t: {{try: [], catch: {{retry: {retry}}}}}}}]\nuse: {{retries: {{r: {{delay: PT1S}}, s: {{limit: {{duration: PT1S}}}}}}}}"
        ));
        let (_, warnings) = check(&source).unwrap();
        let codes: Vec<_> = warnings.iter().map(|warning| warning.code).collect();
        // The policy `r` is without end, whoever uses it, and is told once.
        let own = usize::from(warned && retry != "r");
        assert_eq!(codes, vec!["unbounded-retry"; 1 + own], "{retry}");
    }
}

/// The flows that people are shown, with what is odd about them: nothing.
#[test]
fn every_flow_in_the_documents_and_examples_can_be_run() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let texts = |folder: &str, extension: &str| -> Vec<(PathBuf, String)> {
        let files = fs::read_dir(root.join(folder)).unwrap().map(|file| file.unwrap().path());
        let files = files.filter(|file| file.extension().is_some_and(|found| found == extension));
        files.map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect()
    };
    let mut count = 0;
    let mut good = |place: &PathBuf, source: &str| {
        count += 1;
        match check(source) {
            Ok((_, warnings)) if warnings.is_empty() => {}
            Ok((_, faults)) | Err(faults) => panic!("{}: {}", place.display(), shown(source, &faults)),
        }
    };
    for (place, source) in texts("examples", "yaml") {
        good(&place, &source);
    }
    for (place, text) in texts("docs", "md") {
        for block in text.split("```yaml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            // A part of a flow stands in one that is whole.
            match block.starts_with("document:") {
                true => good(&place, block),
                false => good(&place, &flow(&format!("do:\n{block}"))),
            }
        }
    }
    assert!(count >= 3, "{count}");
}

#[test]
fn the_document_has_a_known_version_and_good_names() {
    let document = |dsl: &str, namespace: &str, name: &str, version: &str| {
        format!("document: {{dsl: {dsl}, namespace: {namespace}, name: {name}, version: {version}}}\ndo: []")
    };
    for good in ["1.0.0", "1.0.3", "'1.0.9'"] {
        assert!(check(&document(good, "a", "A-1", "1.0.0-rc.1")).is_ok(), "{good}");
    }
    let mut all = String::new();
    for source in [
        document("1.1.0", "a", "b", "1.0.0"),
        document("0.9.0", "a", "b", "1.0.0"),
        document("1.0", "a", "b", "1.0.0"),
        document("'1.0'", "-a", "a_b", "v1"),
        document("1.0.3-alpha", "'a b'", &"x".repeat(64), "1.0"),
        "do: []".to_owned(),
        "".to_owned(),
        "- a".to_owned(),
    ] {
        let faults = check(&source).err().unwrap_or_else(|| panic!("{source} was taken"));
        all.push_str(&format!("{source}\n{}\n\n", shown(&source, &faults)));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_broken_or_hostile_source_is_a_fault() {
    meter::on_large_stack(broken_sources).unwrap();
}

fn broken_sources() {
    let nested = format!("a: {}{}", "[".repeat(300), "]".repeat(300));
    let blocks: String = (0..200).map(|depth| format!("{}a:\n", "  ".repeat(depth))).collect();
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let inner = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
    }
    let long = format!("a: '{}'", "x".repeat(2 << 20));
    let many = format!("a: [{}]", "1,".repeat(60_000));
    let mut all = String::new();
    for source in
        ["a: [", "a: b: c", "a: 1\na: 2", "a: *b", "a: !!binary ä", "---\na: 1\n---\nb: 2", "a: .nan", "? [x]\n: 1"]
    {
        let fault = Node::parse(source).err().unwrap_or_else(|| panic!("{source:?} was taken"));
        all.push_str(&format!("{source:?}\n{}\n\n", shown(source, &[*fault])));
    }
    for (name, source) in [("nested", nested), ("blocks", blocks), ("bomb", bomb), ("long", long), ("many", many)] {
        let fault = Node::parse(&source).err().unwrap_or_else(|| panic!("{name} was taken"));
        all.push_str(&format!("{name}\n{}: {}\n\n", fault.code, fault.message));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn json_is_taken_as_well_with_tabs_and_places() {
    let source = "{\n\t\"document\": {\"dsl\": \"1.0.3\", \"namespace\": \"a\", \"name\": \"b\", \"version\": \"1.0.0\"},\n\t\"do\": [\n\t\t{\"a\": {\"set\": {\"x\": \"${ .y + }\"}}}\n\t]\n}";
    let faults = check(source).unwrap_err();
    insta::assert_snapshot!(shown(source, &faults), @r#"4:30 "+" bad-expression: expected term at the end"#);
    assert!(check(&source.replace(" + }", " }")).is_ok());
}

#[test]
fn yaml_values_are_those_of_version_1_2() {
    let tree =
        Node::parse("a: no\nb: 0x10\nc: 1_000\nd: ~\ne: 1e3\nf: '1'\ng: 2026-11-22\nh: &x [1]\ni: *x\nj: -5").unwrap();
    let value = serde_json::json!({
        "a": "no", "b": 16, "c": 1000, "d": null, "e": 1000.0, "f": "1", "g": "2026-11-22", "h": [1], "i": [1], "j": -5
    });
    assert_eq!(tree.to_value(), value);
}

#[test]
fn a_flow_tells_its_calls_and_what_is_suspicious() {
    let source = flow(
        "title: x\ndo:\n  - end: {set: {x: 1}}\n  - loop:\n      for: {in: .a}\n      do:\n        - make:\n            call: \
         github.create-issue:1.2.0@default\n            metadata: {conection: work}\n  - list: {call: github.list, \
         metadata: {connection: work}}",
    )
    .replace("title: x\n", "");
    let (flow, warnings) = check(&source).unwrap_or_else(|faults| panic!("{}", shown(&source, &faults)));
    let calls: Vec<String> = flow
        .calls()
        .map(|call| format!("{} {} {:?}", call.step, call.action, call.connection.map(|name| name.to_string())))
        .collect();
    assert_eq!(
        calls,
        ["/do/1/loop/do/0/make github.create-issue:1.2.0@default None", "/do/2/list github.list Some(\"work\")",]
    );
    assert!(warnings.iter().all(|warning| warning.severity == Severity::Warning));
    insta::assert_snapshot!(shown(&source, &warnings), @r#"
    3:5 "end" reserved-name: no 'then' can name this task: 'end' is a directive
    9:24 "conection" unknown-metadata: 'conection' in the metadata means nothing to Keyward
        hint: did you mean 'connection'?
    "#);
}

#[test]
fn deep_nesting_is_checked_and_deeper_refused() {
    let nested = |depth: usize| {
        let mut task = serde_json::json!({"set": {"x": 1}});
        for _ in 0..depth {
            task = serde_json::json!({"do": [{"a": task}]});
        }
        let document = serde_json::json!({"dsl": "1.0.3", "namespace": "a", "name": "b", "version": "1.0.0"});
        serde_json::json!({"document": document, "do": [{"a": task}]}).to_string()
    };
    assert!(check(&nested(15)).is_ok());
    assert!(check(&nested(100)).is_err());
}

/// The steps that lie ahead of a run with these events, by name.
fn ahead(tasks: &str, events: &[(&str, &str)]) -> Vec<String> {
    let source = format!("document: {{dsl: 1.0.3, namespace: n, name: f, version: 1.0.0}}\ndo:\n{tasks}");
    let (flow, _) = check(&source).unwrap();
    let entry = |(event, task): &(&str, &str)| Entry {
        sequence: 1,
        at: time::OffsetDateTime::UNIX_EPOCH,
        event: match *event {
            "step-completed" => {
                json!({"event": event, "task": task, "attempt": 1, "output": 1, "stats": CallStats::default()})
            }
            "error-caught" => json!({"event": event, "task": task, "error": {}}),
            "task-started" => json!({"event": event, "task": task, "input": {}}),
            _ => json!({"event": event, "task": task, "output": {}}),
        },
    };
    let history: Vec<Entry> = events.iter().map(entry).collect();
    assert!(history.iter().all(|entry| serde_json::from_value::<Event>(entry.event.clone()).is_ok()));
    let calls = flow.calls_ahead(&history).into_iter();
    calls.map(|call| call.step.rsplit('/').next().unwrap().to_owned()).collect()
}

#[test]
fn calls_that_lie_behind_a_run_are_not_ahead_of_it() {
    let tasks = "
  - a: {call: x.a}
  - choose: {switch: [{case: {when: '.b', then: d}}]}
  - b: {call: x.b}
  - inner: {do: [{c: {call: x.c}}, {d: {call: x.d}}]}
  - d: {call: x.d}
";
    assert_eq!(ahead(tasks, &[]), ["a", "b", "c", "d", "d"]);
    assert_eq!(ahead(tasks, &[("step-completed", "/do/0/a")]), ["b", "c", "d", "d"]);
    // It was begun, and what became of it is not known.
    assert_eq!(ahead(tasks, &[("task-started", "/do/0/a")]), ["a", "b", "c", "d", "d"]);
    // What was passed over lies behind it as well.
    assert_eq!(ahead(tasks, &[("step-completed", "/do/0/a"), ("task-started", "/do/4/d")]), ["d"]);
    let inside = [("task-started", "/do/3/inner"), ("step-completed", "/do/3/inner/do/0/c")];
    assert_eq!(ahead(tasks, &inside), ["d", "d"]);
    assert_eq!(ahead(tasks, &[("task-completed", "/do/3/inner")]), ["d"]);
}

#[test]
fn calls_that_a_run_may_come_to_again_are_ahead_of_it() {
    let looped = "
  - each: {for: {each: n, in: '[1, 2]'}, do: [{a: {call: x.a}}]}
  - b: {call: x.b}
";
    assert_eq!(ahead(looped, &[("step-completed", "/do/0/each/do/0/a")]), ["a", "b"]);
    assert_eq!(ahead(looped, &[("task-completed", "/do/0/each")]), ["b"]);
    let back = "
  - a: {call: x.a}
  - b: {call: x.b}
  - again: {switch: [{case: {when: '.again', then: b}}]}
  - c: {call: x.c}
";
    assert_eq!(ahead(back, &[("task-completed", "/do/2/again")]), ["b", "c"]);
    let tried = |retry: &str| {
        format!(
            "
  - some:
      try: [{{a: {{call: x.a}}}}, {{b: {{call: x.b}}}}]
      catch: {{{retry}do: [{{c: {{call: x.c}}}}]}}
"
        )
    };
    let completed = ("step-completed", "/do/0/some/try/0/a");
    assert_eq!(ahead(&tried(""), &[completed]), ["b", "c"]);
    let retry = "retry: {delay: {seconds: 1}, limit: {attempt: {count: 2}}}, ";
    assert_eq!(ahead(&tried(retry), &[completed]), ["a", "b", "c"]);
    assert_eq!(ahead(&tried(retry), &[completed, ("task-started", "/do/0/some/catch/do/0/c")]), ["c"]);
}
