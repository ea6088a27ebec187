#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn scope() -> Vec<String> {
    ["context", "item"].map(str::to_owned).to_vec()
}

fn evaluate_within(source: &str, input: &Value, limits: ExpressionLimits) -> Result<Value, Failure> {
    let expression = Expression::compile(source, &scope()).unwrap_or_else(|faults| panic!("{source}: {faults:?}"));
    let variable = |name: &str| json!({"name": name, "list": [1, 2]});
    let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
    expression.evaluate(input, &Evaluation { variable: &variable, limits, now })
}

fn evaluate(source: &str, input: &Value) -> Result<Value, Failure> {
    evaluate_within(source, input, ExpressionLimits::default())
}

#[test]
fn time_in_which_the_thread_has_no_processor_does_not_count() {
    let time = Duration::from_millis(100);
    let ticks = || (0..10_000).for_each(|_| meter::tick());
    let meter = Meter { time, wall_time: meter::MAX_WALL_TIME, bytes: 0, now: 0.0 };
    let stopped = || {
        ticks();
        std::thread::sleep(time * 3);
        ticks();
    };
    assert_eq!(meter.run(stopped), Ok(()));
    let busy = || loop {
        ticks();
    };
    assert_eq!(meter.run(busy), Err::<(), _>(Some(Stop::Time)));
    // But not without end.
    let meter = Meter { wall_time: time, ..meter };
    assert_eq!(meter.run(stopped), Err(Some(Stop::Time)));
}

#[test]
fn the_results_in_one_value_are_bounded_together() {
    let part = || Template::Expression(Expression::compile("\"x\" * 400", &[]).unwrap());
    let limits = ExpressionLimits { output_bytes: 1_000, ..ExpressionLimits::default() };
    let variable = |_: &str| Value::Null;
    let evaluation = Evaluation { variable: &variable, limits, now: OffsetDateTime::UNIX_EPOCH };
    let list = |count: usize| Template::List((0..count).map(|_| part()).collect());
    assert!(list(2).evaluate(&Value::Null, &evaluation).is_ok());
    let (_, failure) = list(3).evaluate(&Value::Null, &evaluation).unwrap_err();
    assert_eq!(failure.to_string(), "with it the results are together larger than 1000 bytes");
}

#[test]
fn values_are_those_of_jq() {
    let run = || {
        for (source, input, output) in [
            (".", json!({"a": [1, 2.5, "x", null, true]}), json!({"a": [1, 2.5, "x", null, true]})),
            (".a.b.c", json!({"a": null}), json!(null)),
            (".[1:]", json!([1, 2, 3]), json!([2, 3])),
            (".[-1]", json!([1, 2, 3]), json!(3)),
            (".[1.7]", json!([1, 2, 3]), json!(2)),
            (".[1:3]", json!("aäbc"), json!("äb")),
            ("[.[1,2]]", json!([1, 2]), json!([2, null])),
            ("empty", json!(1), json!(null)),
            (".a.b = 1", json!(null), json!({"a": {"b": 1}})),
            (".[2] = 1", json!([]), json!([null, null, 1])),
            (".[0:2] = [9]", json!([1, 2, 3]), json!([9, 3])),
            (".a |= . + 1", json!({"a": 1, "b": 2}), json!({"a": 2, "b": 2})),
            (".[] += 1", json!([1, 2]), json!([2, 3])),
            ("map_values(. + 1)", json!({"b": 1, "a": 2}), json!({"b": 2, "a": 3})),
            ("del(.[0, 2])", json!([1, 2, 3]), json!([2])),
            ("del(.a)", json!({"a": 1, "b": 2, "c": 3}), json!({"b": 2, "c": 3})),
            ("to_entries", json!({"a": 1}), json!([{"key": "a", "value": 1}])),
            ("with_entries(.value += 1)", json!({"a": 1}), json!({"a": 2})),
            ("[paths]", json!({"a": [1]}), json!([["a"], ["a", 0]])),
            ("[..]", json!([[1]]), json!([[[1]], [1], 1])),
            ("walk(if type == \"number\" then . + 1 else . end)", json!([1, [2]]), json!([2, [3]])),
            (". * {a: {c: 2}}", json!({"a": {"b": 1}}), json!({"a": {"b": 1, "c": 2}})),
            (". - [2]", json!([1, 2, 3, 2]), json!([1, 3])),
            (". * 3", json!("ab"), json!("ababab")),
            (". / \",\"", json!("a,b"), json!(["a", "b"])),
            (
                "sort",
                json!([{"b": 1}, [2], "a", 3, null, false, true]),
                json!([null, false, true, 3, "a", [2], {"b": 1}]),
            ),
            ("sort_by(.a) | map(.b)", json!([{"a": 2, "b": 1}, {"a": 1, "b": 2}]), json!([2, 1])),
            ("group_by(.a) | map(length)", json!([{"a": 1}, {"a": 2}, {"a": 1}]), json!([2, 1])),
            ("unique", json!([2, 1, 2]), json!([1, 2])),
            ("[min, max]", json!([2, 1]), json!([1, 2])),
            ("[index(\"b\"), rindex(\"b\")]", json!("abcb"), json!([1, 3])),
            ("indices([1, 2])", json!([1, 2, 1, 2]), json!([0, 2])),
            (".[[1, 2]]", json!([1, 2, 1, 2]), json!([0, 2])),
            ("contains({a: [1]})", json!({"a": [1, 2], "b": 3}), json!(true)),
            ("inside(\"foobar\")", json!("bar"), json!(true)),
            ("has(\"a\")", json!({"a": null}), json!(true)),
            ("has(1)", json!([1]), json!(false)),
            ("length", json!("äb"), json!(2)),
            ("length", json!(-5), json!(5)),
            ("tojson", json!({"a": [1, "x"]}), json!("{\"a\":[1,\"x\"]}")),
            ("fromjson", json!("{\"a\": [1.5]}"), json!({"a": [1.5]})),
            ("tostring", json!([1]), json!("[1]")),
            ("tonumber", json!("12"), json!(12)),
            ("\"Hello \\(.name)!\"", json!({"name": "Ada"}), json!("Hello Ada!")),
            ("[test(\"^a+$\"), test(\"A\"), test(\"A\"; \"i\")]", json!("aa"), json!([true, false, true])),
            ("[match(\"(?<x>b)\"; \"g\") | [.offset, .captures[0].name]]", json!("äbb"), json!([[1, "x"], [2, "x"]])),
            ("capture(\"(?<y>[0-9]+)-(?<m>[0-9]+)\")", json!("2026-11"), json!({"y": "2026", "m": "11"})),
            ("gsub(\"a\"; \"b\")", json!("aXa"), json!("bXb")),
            ("[splits(\", *\")]", json!("a, b,c"), json!(["a", "b", "c"])),
            ("[@base64, (@base64 | @base64d)]", json!("a"), json!(["YQ==", "a"])),
            ("@uri \"?q=\\(.)\"", json!("a b"), json!("?q=a%20b")),
            ("@uri", json!("a b"), json!("a%20b")),
            ("todate", json!(1_700_000_000), json!("2023-11-14T22:13:20Z")),
            ("now", json!(null), json!(1_700_000_000)),
            ("strftime(\"%Y\")", json!(1_700_000_000), json!("2023")),
            ("$context.list + [$item.name]", json!(null), json!([1, 2, "item"])),
            ("reduce .[] as $x (0; . + $x)", json!([1, 2, 3]), json!(6)),
            ("[foreach .[] as $x (0; . + $x)]", json!([1, 2, 3]), json!([1, 3, 6])),
            ("[limit(3; range(10))]", json!(null), json!([0, 1, 2])),
            ("first(range(5; 10))", json!(null), json!(5)),
            ("[.[] as {a: $x} | $x]", json!([{"a": 1}]), json!([1])),
            ("try error(\"x\") catch .", json!(null), json!("x")),
            (".a? // \"none\"", json!(5), json!("none")),
            ("def f($n): if $n == 0 then 0 else f($n - 1) end; f(1000)", json!(null), json!(0)),
            ("def f($n): if $n == 0 then 0 else 1 + f($n - 1) end; f(50)", json!(null), json!(50)),
            ("def twice(f): f | f; twice(. + 1)", json!(1), json!(3)),
            ("nan", json!(null), json!(null)),
            ("18446744073709551615", json!(null), json!(u64::MAX)),
            ("ltrimstr(\"a\") | ascii_upcase", json!("abc"), json!("BC")),
            ("getpath([\"a\", 0])", json!({"a": [7]}), json!(7)),
            ("pick(.a.b)", json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 1}})),
            ("transpose", json!([[1, 2], [3, 4]]), json!([[1, 3], [2, 4]])),
            ("[.[] | tostring] | join(\"-\")", json!([1, 2]), json!("1-2")),
            ("bsearch(2)", json!([1, 2, 3]), json!(1)),
            ("@sh", json!("it's"), json!("'it'\\''s'")),
        ] {
            assert_eq!(evaluate(source, &input), Ok(output), "{source} of {input}");
        }
    };
    meter::on_large_stack(run).unwrap();
}

#[test]
fn what_grows_or_changes_in_place_is_not_charged_as_a_copy() {
    // Copied each time, what these build would take far more than the limit.
    for (source, output) in [
        ("reduce range(10000) as $i ({a: [range(10000)]}; .a[$i] = 0) | .a | add", 0),
        ("[range(20000) | tostring] | join(\",\") | length", 108_889),
        ("reduce range(20000) as $i ([]; . + [$i]) | length", 20_000),
        ("reduce range(20000) as $i ({}; .[$i | tostring] = $i) | length", 20_000),
        ("reduce range(5000) as $i ({}; . + {(\"k\\($i)\"): $i}) | length", 5_000),
        ("[range(20000) | {k: ., v: \"x\"}] | map(.k) | add", 199_990_000),
    ] {
        let limits = ExpressionLimits { time: Duration::from_secs(60), ..ExpressionLimits::default() };
        let run = || evaluate_within(source, &Value::Null, limits);
        assert_eq!(meter::on_large_stack(run).unwrap(), Ok(json!(output)), "{source}");
    }
}

#[test]
fn an_error_is_told_in_few_words() {
    let long = json!("x".repeat(100_000));
    let Err(Failure::Raised(message)) = evaluate(". + 1", &long) else { panic!("it gave a value") };
    assert!(message.starts_with("cannot calculate \"xxx"), "{message}");
    assert!(message.chars().count() < 310, "{message}");
    assert_eq!(evaluate(".[]", &json!([1, 2])), Err(Failure::Many));
    assert_eq!(evaluate("error(\"no\")", &json!(null)), Err(Failure::Raised("no".to_owned())));
    assert!(matches!(evaluate("{(1): 2}", &json!(null)), Err(Failure::Raised(_))));
    assert!(matches!(evaluate(".[\"a\"]", &json!([1])), Err(Failure::Raised(_))));
}

/// Each of these would take for ever, end the process, or fill the memory if jaq were left to itself.
const HOSTILE: &[&str] = &[
    "def f: f; f",
    "def f: 1 + f; f",
    "def f: f | f; f",
    "def f: [f]; f",
    "def f: .a | f; f |= 1",
    "def f: ., f; [f]",
    "[repeat(1)]",
    "last(repeat(1))",
    "last(range(1e18))",
    "[range(1e18)]",
    "reduce range(1e18) as $x (0; . + $x)",
    "[limit(1e18; repeat(1))] | length",
    "until(false; .)",
    "path(last(recurse(.a)))",
    "last(path(recurse(.a)))",
    "[recurse([.])] | length",
    "reduce range(1000000) as $x (null; [.])",
    "reduce range(1000000) as $x (null; {a: .})",
    "reduce range(1000000) as $x (null; .a |= {a: .})",
    "reduce range(60) as $x (1; [., .]) | tojson | length",
    "reduce range(60) as $x (1; [., .])",
    "reduce range(60) as $x (1; {a: ., b: .}) | . * .",
    "reduce range(60) as $x (1; [., .]) as $a | reduce range(60) as $x (1; [., .]) | . == $a",
    "reduce range(60) as $x (1; [., .]) as $a | reduce range(60) as $x (1; [., .]) | . < $a",
    "reduce range(60) as $x (1; [., .]) as $a | reduce range(60) as $x (1; [., .]) | contains($a)",
    "reduce range(60) as $x (1; [., .]) as $a | [$a] - [reduce range(60) as $x (1; [., .])]",
    "reduce range(60) as $x (1; [., .]) | flatten | length",
    "reduce range(60) as $x (1; [., .]) | walk(.)",
    "\"x\" * 1e15",
    "\"x\" * 1000000000000",
    "reduce range(100) as $x (\"x\"; . + .)",
    "reduce range(100) as $x ([1]; . + .) | length",
    "[range(1000000)] as $a | [range(1000) | $a + [.]] | length",
    "[range(1000000)] as $a | def f: $a[] | f; f",
    "reduce range(100) as $x (10; . * .)",
    ".[1e15] = 1",
    "[range(100000)] | combinations | length",
    "error(reduce range(60) as $x (1; [., .]))",
    "try error(reduce range(60) as $x (1; [., .])) catch tojson",
    "\"a\" * 100000 | gsub(\"(a|a|a)*b\"; \"\") | until(false; .)",
    "\"a\" * 100000 | [match(\".*[^A-Z]|[a-z]\"; \"g\")] | length | until(false; .)",
    "test(\"(((a{100}){100}){100})\")",
    "[splits(\"a\"; null)]",
    "1e1000000 | until(. == 0; . / 2)",
    "[.[]?, range(200000)] | sort_by(-.)",
    "@json \"\\(reduce range(60) as $x (1; [., .]))\"",
    "label $out | foreach repeat(1) as $x (0; . + 1)",
    "getpath([range(1e18)])",
    "[range(1e18)] |= .",
    "implode | until(false; .)",
];

#[test]
fn a_hostile_expression_hurts_only_itself() {
    let limits = ExpressionLimits { time: Duration::from_millis(100), memory_bytes: 64 << 20, output_bytes: 1 << 20 };
    let run = || {
        for source in HOSTILE {
            let result = evaluate_within(source, &Value::Null, limits);
            assert!(result.is_err(), "{source} gave {result:?}");
            // The thread is as good as before.
            assert_eq!(evaluate("1 + 1", &Value::Null), Ok(json!(2)), "after {source}");
        }
    };
    meter::on_large_stack(run).unwrap();
    run();
}

#[test]
fn a_search_ends_soon() {
    // Zeros and ones without a rule: no automaton of a bounded size matches them at once.
    let mut state = 88_172_645_463_325_252_u64;
    let mut bit = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state.is_multiple_of(2) { '0' } else { '1' }
    };
    let text: String = (0..1_000_000).map(|_| bit()).collect();
    let start = meter::computed();
    let message = |source: &str, text: &str| evaluate(source, &json!(text)).unwrap_err().to_string();
    let too_large = message("[range(12) as $i | test(\"[01]*1[01]{700}[23]\")]", &text);
    assert!(too_large.contains("too large for a text of 1000000 bytes"), "{too_large}");
    let too_long = message("[range(12) as $i | test(\"[01]*1[01]{400}[23]\")]", &text[..100_000]);
    assert_eq!(too_long, "it takes longer than 1000 ms");
    let too_long = message("test(\"a\" * 9000)", "");
    assert_eq!(too_long, "a regular expression has at most 1024 bytes");
    let took = meter::computed() - start;
    assert!(took < Duration::from_secs(4), "{took:?}");
    // Small ones search in much.
    assert_eq!(evaluate("test(\"[0-9]+[a-z]?$\")", &json!(text)), Ok(json!(true)));
}

#[test]
fn reading_a_regular_expression_takes_less_than_an_expression_may() {
    let run = || {
        for class in ["[\\w&&\\D]", "[\\w--\\d]", "[\\pL~~\\w]", "[^\\W]", "\\PL"] {
            let pattern = format!("(?i){}", class.repeat(1020 / class.len()));
            let start = meter::computed();
            let error = evaluate(&format!("test({})", json!(pattern)), &json!("")).unwrap_err().to_string();
            let took = meter::computed() - start;
            assert!(error.contains("too large for a text"), "{class}: {error}");
            assert!(took < Duration::from_secs(1), "{class}: {took:?}");
        }
    };
    meter::on_large_stack(run).unwrap();
}

#[test]
fn a_value_as_deep_as_allowed_is_handled_and_a_deeper_one_refused() {
    let nested = |depth: u32| format!("reduce range({depth}) as $x (1; [.]) | [., (tojson | fromjson)] | .[0] == .[1]");
    let run = || {
        assert_eq!(evaluate(&nested(120), &Value::Null), Ok(json!(true)));
        assert!(matches!(evaluate(&nested(value::MAX_DEPTH + 1), &Value::Null), Err(Failure::Stopped(_))));
        // What was deep and is no longer counts by its true depth.
        let source = "reduce range(2000) as $i ({small: [1]}; .small = [.small, \"x\"] | .small = .small[0])";
        assert_eq!(evaluate(source, &Value::Null), Ok(json!({"small": [1]})));
    };
    meter::on_large_stack(run).unwrap();
}

#[test]
fn an_output_has_at_most_the_allowed_size() {
    let limits = ExpressionLimits { output_bytes: 100, ..ExpressionLimits::default() };
    assert!(evaluate_within("\"x\" * 90", &Value::Null, limits).is_ok());
    let error = evaluate_within("\"x\" * 101", &Value::Null, limits).unwrap_err();
    assert_eq!(error.to_string(), "its result is larger than 100 bytes");
    let nested = |levels: u32| evaluate(&format!("reduce range({levels}) as $x (1; [{{a: .}}])"), &Value::Null);
    assert!(nested(50).is_ok());
    assert_eq!(nested(51).unwrap_err().to_string(), "its result is nested more than 100 levels deep");
}

fn faults(source: &str) -> String {
    let faults = match Expression::compile(source, &scope()) {
        Ok(_) => return format!("{source}: compiles"),
        Err(faults) => faults,
    };
    let lines = faults.iter().map(|fault| {
        let hint = fault.hint.as_deref().map(|hint| format!(" [{hint}]")).unwrap_or_default();
        format!("{source}: {} at {:?}: {}{hint}", fault.code, fault.range, fault.message)
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn faults_say_where_and_why() {
    let sources = [
        "",
        ".a |",
        ".a ]",
        "(.a",
        "\"open",
        ".a b",
        "if . then 1",
        ". @",
        "nope(1)",
        ".x + $nope",
        "$output",
        "$secrets.token",
        "$authorization.parameter",
        "$ENV.HOME",
        "env",
        "halt",
        "input",
        "debug",
        "localtime",
        "import \"a\" as a; .",
        "def f(g): f(g | .); f(.)",
        "def f($x): f($x); .",
    ];
    let all: Vec<String> = sources.iter().map(|source| faults(source)).collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn a_monstrous_source_is_a_fault_and_not_a_crash() {
    let run = || {
        for unit in
            ["[", "(", "-", "{a:", ".a|", "try ", "1+", "def f: ", "if ", "\"\\(", ".[", "reduce ", "1 as $x|", "?//"]
        {
            let source = unit.repeat(MAX_SOURCE_BYTES / unit.len());
            let _ = Expression::compile(&source, &scope());
        }
        let chain = format!("{}.", ".a|".repeat(MAX_SOURCE_BYTES / 3 - 1));
        assert_eq!(evaluate(&chain, &Value::Null), Ok(Value::Null));
        assert!(Expression::compile(&" ".repeat(MAX_SOURCE_BYTES + 1), &scope()).is_err());
    };
    meter::on_large_stack(run).unwrap();
}

#[test]
fn text_is_split_at_its_expressions() {
    use Segment::{Expression as E, Literal as L};
    for (text, segments) in [
        ("plain", vec![L(0..5)]),
        ("${ .a }", vec![E(2..6)]),
        ("x ${.a} y", vec![L(0..2), E(4..6), L(7..9)]),
        ("${ {a: {b: 1}} }", vec![E(2..15)]),
        ("${ \"}\" }", vec![E(2..7)]),
        (r#"${ "a\"}\(.b + "}")}" }"#, vec![E(2..22)]),
        ("${ . # }\n}", vec![E(2..9)]),
        ("$x {y} $ {", vec![L(0..10)]),
    ] {
        assert_eq!(split(text), Ok(segments), "{text}");
    }
    for (text, at) in [("${ .a", 0), ("a ${ {} ", 2), ("${ \" }", 0)] {
        assert_eq!(split(text), Err(at), "{text}");
    }
}

/// Parts of random expressions; each `X` is one of them in turn.
const PARTS: &[&str] = &[
    ".",
    ".a",
    ".[]?",
    "..",
    "1",
    "\"x\"",
    "[., .]",
    "{a: ., b: .}",
    "range(100000)",
    "$item",
    "1e18",
    "error",
    "\"x\" * 100000",
    "[range(1000)]",
    "tojson",
    "paths",
    "recurse(.a?)",
    "[X]",
    "(X | X)",
    "(X, X)",
    "-(X)?",
    "reduce X as $item (X; X)",
    "foreach X as $item (X; X)",
    "(X |= X)?",
    "(X += X)?",
    "try X catch X",
    "first(X)",
    "last(X)",
    "(def f: X; f | X)",
    "(def f: X | f; f)",
    "(def f($item): X, f(X); f(X))",
    "(def f: ., (X | f); f)",
    "(def g(h): X | h; g(X))",
    "until(X; X)",
    "path(X)?",
    "[paths(X)]",
    "del(X)?",
    "(X + X)?",
    "(X * X)?",
    "(X - X)?",
    "(X == X)",
    "(X < X)",
    "(X // X)",
    "if X then X else X end",
    "{a: X, b: X}",
    "(X as [$item] | X)?",
    "walk(X)?",
    "map(X)?",
    "sort_by(X)?",
    "group_by(X)?",
    "with_entries(X)?",
    "(X | tojson | fromjson)?",
    "(X | contains(X))?",
    "(X | indices(X))?",
    "(X | gsub(\"x\"; X))?",
    "label $o | X, break $o, X",
    "(X | flatten)?",
    "(X | .[X]?)",
    "(X | .[X:X]?)",
    "([X] | combinations)?",
    "(X | @base64)",
    "limit(3; repeat(X))",
    "[while(X; X)]",
    "getpath([X])?",
    "setpath([X]; X)?",
    "pick(X)?",
    "(X | explode | implode)?",
    "(X | todate)?",
    "range(X; X; X)?",
    "(X / X)?",
    "(X % X)?",
    "\"a\\(X)b\"",
    "[splits(X; X)]?",
];

fn random_expression(choice: &mut u64, depth: u32) -> String {
    // The atoms stand first.
    let count = if depth == 0 { 17 } else { PARTS.len() as u64 };
    *choice = choice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let mut parts = PARTS[((*choice >> 33) % count) as usize].split('X');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(&random_expression(choice, depth - 1));
        text.push_str(part);
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_expression_ends_within_its_bounds(seed: u64) {
        let limits =
            ExpressionLimits { time: Duration::from_millis(20), memory_bytes: 32 << 20, output_bytes: 1 << 20 };
        let source = random_expression(&mut seed.clone(), 4);
        let run = || {
            let expression = Expression::compile(&source, &scope()).ok()?;
            let variable = |_: &str| json!({"a": {"a": [1, 2]}});
            let evaluation = Evaluation { variable: &variable, limits, now: OffsetDateTime::UNIX_EPOCH };
            expression.evaluate(&json!({"a": [1, {"b": "xax"}], "c": "x"}), &evaluation).err()
        };
        // Whatever it gives: it ends, and jaq did not panic.
        if let Some(Failure::Stopped(reason)) = meter::on_large_stack(run).unwrap() {
            prop_assert!(!reason.contains("failed on it"), "{} panics", source);
        }
    }
}
