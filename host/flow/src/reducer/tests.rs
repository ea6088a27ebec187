#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use keyward_model::InvokeErrorKind;
use serde_json::json;

use super::*;
use crate::{
    dsl::check,
    testing::{flow, outcome, shown, unavailable},
};

type Answer = Result<Value, Box<InvokeError>>;

/// A run without an engine: the clock jumps to where the run waits, the snapshot is read back each time.
struct Drive {
    events: Vec<Event>,
    next: Next,
    invocations: Vec<Invocation>,
    started_at: OffsetDateTime,
    at: OffsetDateTime,
}

fn begin_of_time() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap()
}

fn drive_with(rest: &str, input: Value, limits: EngineLimits, mut answer: impl FnMut(&Invocation) -> Answer) -> Drive {
    let source = flow(rest);
    let (flow, _) = check(&source).unwrap_or_else(|faults| panic!("{}", shown(&source, &faults)));
    let run =
        RunFacts { id: "01930000-0000-7000-8000-000000000001".parse().unwrap(), input, started_at: begin_of_time() };
    let mut drive = Drive {
        events: Vec::new(),
        next: Next::Proceed,
        invocations: Vec::new(),
        started_at: run.started_at,
        at: run.started_at,
    };
    let (mut state, mut step) = (State::new(), Input::Start);
    loop {
        let advanced = advance(&flow, &run, &limits, state, step, moment(drive.at));
        drive.events.extend(advanced.events);
        state = read_back(&advanced.state, &drive.events);
        assert_eq!(state, advanced.state, "the snapshot does not read back");
        step = match advanced.next {
            Next::Proceed => Input::Proceed,
            Next::Wait(until) => {
                drive.at = until;
                Input::Woken
            }
            Next::Invoke(invocation) => {
                let answer = answer(&invocation);
                drive.at += std::time::Duration::from_millis(1);
                let expired = invocation.deadline.filter(|_| answer == Err(expire()));
                drive.invocations.push(*invocation);
                match (expired, answer) {
                    (Some(deadline), _) => {
                        drive.at = deadline;
                        Input::Expired
                    }
                    (None, Ok(output)) => Input::Completed(Box::new(outcome(output))),
                    (None, Err(error)) => Input::Failed(error),
                }
            }
            next => {
                drive.next = next;
                return drive;
            }
        };
    }
}

fn moment(at: OffsetDateTime) -> Moment {
    Moment { at, stopping: false, is_long_ago: |_| false }
}

/// The state as it is after a snapshot of it was written and read.
fn read_back(state: &State, events: &[Event]) -> State {
    let mut state: State = serde_json::from_value(serde_json::to_value(state).unwrap()).unwrap();
    for (entry, part, value) in state.recorded() {
        let event = serde_json::to_value(&events[usize::try_from(entry).unwrap() - 1]).unwrap();
        *value = part.of(&event).unwrap().clone();
    }
    state
}

fn drive(rest: &str, input: Value, answer: impl FnMut(&Invocation) -> Answer) -> Drive {
    drive_with(rest, input, EngineLimits::default(), answer)
}

/// What an answer is that never comes.
fn expire() -> Box<InvokeError> {
    Box::new(InvokeError::new(InvokeErrorKind::Timeout, keyward_model::Reason::Timeout, "never"))
}

fn no_action(invocation: &Invocation) -> Answer {
    panic!("{} was invoked", invocation.action)
}

impl Drive {
    fn output(&self) -> &Value {
        match &self.next {
            Next::Completed(output) => output,
            other => panic!("it did not complete: {other:?}"),
        }
    }

    fn error(&self) -> &Value {
        match &self.next {
            Next::Faulted(error) => error,
            other => panic!("it did not fault: {other:?}"),
        }
    }

    /// The tasks that ran to their end, in that order.
    fn ran(&self) -> Vec<&str> {
        let task = |event| match event {
            &Event::TaskCompleted { ref place, .. } | &Event::StepCompleted { ref place, .. } => {
                place.task.rsplit('/').next()
            }
            _ => None,
        };
        self.events.iter().filter_map(task).collect()
    }

    /// The history, one line an event.
    fn history(&self) -> String {
        let place = |place: &TaskPlace| match place.iteration.as_slice() {
            [] => place.task.clone(),
            turns => format!("{} {turns:?}", place.task),
        };
        let seconds = |at: OffsetDateTime| (at - self.started_at).as_seconds_f64();
        let line = |event: &Event| match event {
            Event::TaskStarted { place: at, input, .. } => format!("task-started {} {input}", place(at)),
            Event::TaskCompleted { place: at, output } => format!("task-completed {} {output}", place(at)),
            Event::TaskSkipped { place: at } => format!("task-skipped {}", place(at)),
            Event::TaskFaulted { place: at, error } => format!("task-faulted {} {}", place(at), error["type"]),
            Event::StepStarted { place: at, attempt, action, input, .. } => {
                format!("step-started {} #{attempt} {action} {input}", place(at))
            }
            Event::StepCompleted { place: at, attempt, output, .. } => {
                format!("step-completed {} #{attempt} {output}", place(at))
            }
            Event::StepFaulted { place: at, attempt, error, .. } => {
                format!("step-faulted {} #{attempt} {}", place(at), error["status"])
            }
            Event::StepUncertain { place: at, attempt } => format!("step-uncertain {} #{attempt}", place(at)),
            Event::ErrorCaught { place: at, error } => format!("error-caught {} {}", place(at), error["status"]),
            Event::RetryScheduled { place: at, retry, until, .. } => {
                format!("retry-scheduled {} {retry} after {:.1} s", place(at), seconds(*until))
            }
            other => serde_json::to_value(other).unwrap().to_string(),
        };
        self.events.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn what_was_computed_for_long_is_recorded_before_it_goes_on() {
    let (flow, _) = check(&flow("do: [{a: {set: {x: 1}}}, {b: {set: {x: 2}}}]")).unwrap();
    let run = RunFacts { id: RunId::new(), input: json!({}), started_at: begin_of_time() };
    let slow = Moment { is_long_ago: |_| true, ..moment(begin_of_time()) };
    let (mut state, mut input, mut events) = (State::new(), Input::Start, Vec::new());
    let output = loop {
        let advanced = advance(&flow, &run, &EngineLimits::default(), state, input, slow);
        events.push(advanced.events.len());
        (state, input) = (advanced.state, Input::Proceed);
        match advanced.next {
            Next::Proceed => {}
            next => break next,
        }
    };
    assert_eq!((output, events), (Next::Completed(json!({"x": 2})), vec![1, 1, 1, 1]));
}

#[test]
fn a_value_with_too_much_text_for_the_patterns_of_a_schema_does_not_match() {
    let patterns: Vec<String> = (850..860).map(|n| format!("{{not: {{pattern: '[01]*1[01]{{{n}}}[23]'}}}}")).collect();
    let source = format!("input: {{schema: {{document: {{allOf: [{}]}}}}}}\ndo: []", patterns.join(", "));
    let short = drive(&source, json!("01"), no_action);
    assert_eq!(short.output(), "01");
    let long = drive(&source, json!("01".repeat(500_000)), no_action);
    let detail = long.error()["detail"].as_str().unwrap();
    assert!(detail.starts_with("the value is too large for a schema"), "{detail}");
}

/// Flows of computed tasks: what they give for an input.
#[test]
fn computed_flows_give_what_the_language_says() {
    let add = |name: &str| format!("{name}: {{set: {{colors: '${{ .colors + [\"{name}\"] }}'}}}}");
    let (red, green, blue) = (add("red"), add("green"), add("blue"));
    for (name, rest, input, output) in [
        ("set, with expressions anywhere", "do: [{a: {set: {x: '${ .a + 1 }', y: [1, '${ .b }'], z: 'n=${.a}, ${ .b } ${ .c }', w: plain}}}]".to_owned(),
            json!({"a": 1, "b": [true], "c": "t"}), json!({"x": 2, "y": [1, [true]], "z": "n=1, [true] t", "w": "plain"})),
        ("set to an expression", "do: [{a: {set: ' ${ .a } '}}]".to_owned(), json!({"a": [1]}), json!([1])),
        ("an expression in the input is data", "do: [{a: {set: {x: '${ .a }'}}}]".to_owned(), json!({"a": "${ .b }"}), json!({"x": "${ .b }"})),
        ("the output of a task is the input of the next", format!("do: [{{{red}}}, {{{green}}}, {{{blue}}}]"), json!({}), json!({"colors": ["red", "green", "blue"]})),
        ("no tasks", "do: []".to_owned(), json!({"a": 1}), json!({"a": 1})),
        ("do within do", format!("do: [{{a: {{do: [{{{red}}}, {{b: {{do: [{{{green}}}]}}}}]}}}}, {{{blue}}}]"), json!({}), json!({"colors": ["red", "green", "blue"]})),
        ("input.from, output.as", "do: [{a: {input: {from: .a}, set: {x: '${ . }'}, output: {as: '.x + $input + $task.input.b'}}}]".to_owned(), json!({"a": 1, "b": 10}), json!(12)),
        ("output.as as an object", "do: [{a: {set: {x: 1}, output: {as: {y: '${ .x }', t: '${ $task.name }', r: '${ $task.reference }'}}}}]".to_owned(), json!(null), json!({"y": 1, "t": "a", "r": "/do/0/a"})),
        ("export and $context", "do: [{a: {set: {x: 1}, export: {as: '{kept: .x, out: $output.x}'}}}, {b: {set: {y: 2}}}, {c: {set: {z: '${ $context }'}}}]".to_owned(), json!(null), json!({"z": {"kept": 1, "out": 1}})),
        ("the context begins as the input", "do: [{a: {set: {x: '${ $context.a }'}, export: {as: '$context + .'}}}, {b: {set: {y: '${ $context }'}}}]".to_owned(), json!({"a": 1}), json!({"y": {"a": 1, "x": 1}})),
        ("input and output of the flow", "input: {from: .a}\noutput: {as: '{out: ., raw: $workflow.input.b}'}\ndo: [{a: {set: {x: '${ .v }'}}}]".to_owned(), json!({"a": {"v": 1}, "b": 2}), json!({"out": {"x": 1}, "raw": 2})),
        ("if", "do: [{a: {if: .go, set: {x: 1}}}, {b: {if: '${ .go | not }', set: {x: 2}}}]".to_owned(), json!({"go": false}), json!({"x": 2})),
        ("a task that is skipped goes on with the next", "do: [{a: {if: 'false', set: {x: 1}, then: end}}, {b: {set: {y: '${ .in }'}}}]".to_owned(), json!({"in": 1}), json!({"y": 1})),
        ("then names a task", format!("do: [{{{}}}, {{{green}}}, {{{blue}}}]", red.replacen("}}", "}, then: blue}", 1)), json!({}), json!({"colors": ["red", "blue"]})),
        ("then: end within do skips the rest and the data flow around", "do: [{a: {do: [{b: {set: {x: 1}, then: end}}, {c: {set: {x: 2}}}], output: {as: '{y: 1}'}}}, {d: {set: {x: 3}}}]\noutput: {as: '{o: .}'}".to_owned(), json!(null), json!({"o": {"x": 1}})),
        ("then: exit within do ends the list", "do: [{a: {do: [{b: {set: {x: 1}, then: exit}}, {c: {set: {x: 2}}}], output: {as: '{y: .x}'}}}, {d: {set: {z: '${ .y }'}}}]".to_owned(), json!(null), json!({"z": 1})),
        ("then goes back", "do: [{a: {set: {n: '${ .n + 1 }'}}}, {b: {switch: [{more: {when: '.n < 5', then: a}}]}}, {c: {set: {n: '${ .n * 10 }'}}}]".to_owned(), json!({"n": 0}), json!({"n": 50})),
        ("switch, first match wins", "do: [{a: {switch: [{x: {then: d}}, {y: {when: '.n > 1', then: b}}, {z: {when: '.n > 0', then: c}}]}}, {b: {set: {is: b}, then: end}}, {c: {set: {is: c}, then: end}}, {d: {set: {is: d}}}]".to_owned(), json!({"n": 2}), json!({"is": "b"})),
        ("switch, default wherever it stands", "do: [{a: {switch: [{x: {then: d}}, {y: {when: '.n > 1', then: b}}]}}, {b: {set: {is: b}, then: end}}, {d: {set: {is: d}}}]".to_owned(), json!({"n": 0}), json!({"is": "d"})),
        ("switch without match follows then", "do: [{a: {switch: [{y: {when: '.n > 1', then: b}}], then: c}}, {b: {set: {is: b}}}, {c: {set: {is: '${ .n }'}}}]".to_owned(), json!({"n": 0}), json!({"is": 0})),
        ("for gives each turn the output of the one before", "do: [{a: {for: {each: c, at: i, in: .list}, do: [{b: {set: {sum: '${ (.sum // 0) + $c * $i }'}}}]}}]".to_owned(), json!({"list": [5, 6, 7]}), json!({"sum": 20})),
        ("for with default names over a written list", "do: [{a: {for: {in: [{v: 1}, {v: '${ .two }'}]}, do: [{b: {input: {from: '[., $item.v, $index] | flatten(1)'}, set: '${ . }'}}]}}]".to_owned(), json!({"two": 2}), json!([{"two": 2}, 1, 0, 2, 1])),
        ("for over nothing passes its input on", "do: [{a: {for: {in: '[]'}, do: [{b: {set: {x: 1}}}]}}]".to_owned(), json!({"y": 1}), json!({"y": 1})),
        ("while sees the data and the loop", "do: [{a: {for: {in: '[1, 2, 3, 4]'}, while: '(.sum // 0) < 3 and $index < 9', do: [{b: {set: {sum: '${ (.sum // 0) + $item }'}}}]}}]".to_owned(), json!({}), json!({"sum": 3})),
        ("loops in loops see both variables", "do: [{a: {for: {each: x, in: '[1, 2]'}, do: [{b: {for: {each: y, in: '[10, 20]'}, do: [{c: {set: {all: '${ .all + [$x * $y] }'}}}]}}]}}]".to_owned(), json!({}), json!({"all": [10, 20, 20, 40]})),
        ("exit in a loop ends the turn", "do: [{a: {for: {in: '[1, 2]'}, do: [{b: {set: {n: '${ (.n // 0) + $item }'}, then: exit}}, {c: {set: {n: 100}}}]}}]".to_owned(), json!({}), json!({"n": 3})),
        ("end in a loop ends the run", "do: [{a: {for: {in: '[1, 2]'}, do: [{b: {set: {n: '${ $item }'}, then: end}}]}}]".to_owned(), json!({}), json!({"n": 1})),
        ("a caught error without handler passes the input on", "do: [{a: {try: [{b: {raise: {error: {type: 'https://a', status: 400}}}}], catch: {}}}]".to_owned(), json!({"x": 1}), json!({"x": 1})),
        ("the handler sees the error under its name", "do: [{a: {try: [{b: {raise: {error: {type: 'https://a', status: 400, title: 'T ${ .x }', detail: '${ \"d\\(.x)\" }'}}}}], catch: {as: err, do: [{c: {set: {e: '${ $err }', x: '${ .x }'}}}]}}}]".to_owned(), json!({"x": 1}), json!({"e": {"type": "https://a", "status": 400, "instance": "/do/0/a/try/0/b", "title": "T 1", "detail": "d1"}, "x": 1})),
        ("catch.then leads the error's way", "do: [{a: {try: [{b: {raise: {error: {type: 'https://a', status: 400}}}}], catch: {do: [{h: {set: {h: 1}}}], then: d}, then: c}}, {c: {set: {c: '${ .h }'}, then: end}}, {d: {set: {d: '${ .h }'}}}]".to_owned(), json!({}), json!({"d": 1})),
        ("an error goes to the try that catches it", "do: [{a: {try: [{i: {try: [{b: {raise: {error: {type: 'https://a', status: 400}}}}], catch: {errors: {with: {status: 500}}}}}], catch: {errors: {with: {status: 400, instance: /do/0/a/try/0/i/try/0/b}}, do: [{c: {set: {by: outer}}}]}}}]".to_owned(), json!({}), json!({"by": "outer"})),
        ("an error in a handler goes on", "do: [{a: {try: [{i: {try: [{b: {raise: {error: {type: 'https://a', status: 400}}}}], catch: {do: [{r: {raise: {error: {type: 'https://b', status: 500}}}}]}}}], catch: {do: [{c: {set: {got: '${ $error.type }'}}}]}}}]".to_owned(), json!({}), json!({"got": "https://b"})),
        ("when and exceptWhen", "do: [{a: {try: [{i: {try: [{b: {raise: {error: {type: 'https://a', status: 400}}}}], catch: {when: '$error.status == 400 and .x', exceptWhen: '$error.type == \"https://a\"'}}}], catch: {do: [{c: {set: {by: outer}}}]}}}]".to_owned(), json!({"x": true}), json!({"by": "outer"})),
        ("an expression that fails can be caught", "do: [{a: {try: [{b: {set: {x: '${ .x | keys }'}}}], catch: {errors: {with: {type: 'https://serverlessworkflow.io/spec/1.0.0/errors/expression'}}, do: [{c: {set: {d: '${ $error.detail }', i: '${ $error.instance }'}}}]}}}]".to_owned(), json!({"x": 5}), json!({"d": ".x | keys: cannot use 5 as array or object", "i": "/do/0/a/try/0/b"})),
        ("an input that does not match can be caught", "do: [{a: {try: [{b: {input: {schema: {document: {type: string}}}, set: {x: 1}}}], catch: {errors: {with: {status: 400}}, do: [{c: {set: {d: '${ $error.detail }'}}}]}}}]".to_owned(), json!({}), json!({"d": "input: {} is not of type \"string\""})),
        ("a raised error by name", "use: {errors: {e: {type: 'https://a', status: 418, title: Teapot}}}\ndo: [{a: {try: [{b: {raise: {error: e}}}], catch: {do: [{c: {set: '${ $error }'}}]}}}]".to_owned(), json!({}), json!({"type": "https://a", "status": 418, "instance": "/do/0/a/try/0/b", "title": "Teapot"})),
        ("runtime, workflow and now", "do: [{a: {set: {n: '${ $runtime.name }', i: '${ $workflow.id }', d: '${ $workflow.definition.document.name }', s: '${ $workflow.startedAt.epoch.seconds }', t: '${ $task.startedAt.iso8601 }', now: '${ now }'}}}]".to_owned(), json!({}), json!({"n": "keyward", "i": "01930000-0000-7000-8000-000000000001", "d": "flow", "s": 1_700_000_000, "t": "2023-11-14T22:13:20Z", "now": 1_700_000_000})),
    ] {
        let drive = drive(&rest, input, no_action);
        assert_eq!(drive.output(), &output, "{name}\n{}", drive.history());
    }
}

#[test]
fn errors_that_nobody_catches_fault_the_run_with_their_place() {
    for (rest, input, kind, status, instance) in [
        (
            "do: [{a: {do: [{b: {set: {x: '${ .y | error }'}}}]}}]",
            json!({"y": "no"}),
            "expression",
            400,
            "/do/0/a/do/0/b",
        ),
        ("do: [{a: {if: '.[0]', set: {x: 1}}}]", json!({}), "expression", 400, "/do/0/a"),
        ("do: [{a: {set: {x: '${ .[] }'}}}]", json!([1, 2]), "expression", 400, "/do/0/a"),
        ("do: [{a: {for: {in: .x}, do: []}}]", json!({"x": {}}), "expression", 400, "/do/0/a"),
        (
            "do: [{a: {set: {x: 1}, output: {schema: {document: {required: [y]}}}}}]",
            json!({}),
            "validation",
            400,
            "/do/0/a",
        ),
        (
            "do: [{a: {set: {x: 1}, export: {as: ., schema: {document: {required: [y]}}}}}]",
            json!({}),
            "validation",
            400,
            "/do/0/a",
        ),
        ("input: {schema: {document: {type: string}}}\ndo: []", json!({}), "validation", 400, "/input/schema"),
        ("input: {from: '.a + 1'}\ndo: []", json!({"a": []}), "expression", 400, "/input/from"),
        ("output: {as: '.a + 1'}\ndo: []", json!({"a": []}), "expression", 400, "/output/as"),
        ("output: {schema: {document: {type: string}}}\ndo: []", json!({}), "validation", 400, "/output/schema"),
        (
            "do: [{a: {try: [{b: {set: {x: '${ error }'}}}], catch: {when: '.x.y.z + [] + {}'}}}]",
            json!({"x": 1}),
            "expression",
            400,
            "/do/0/a",
        ),
        ("do: [{'a/b~c': {set: {x: '${ error }'}}}]", json!({}), "expression", 400, "/do/0/a~1b~0c"),
    ] {
        let drive = drive(rest, input, no_action);
        let error = drive.error();
        assert!(error["type"].as_str().unwrap().ends_with(&format!("/errors/{kind}")), "{rest}: {error}");
        assert_eq!((error["status"].as_i64(), error["instance"].as_str()), (Some(status), Some(instance)), "{rest}");
        assert!(matches!(drive.events.last(), Some(Event::RunFaulted { .. })), "{rest}");
    }
}

#[test]
fn the_history_of_a_flow_tells_everything_in_order() {
    let rest = "do:\n  - list: {call: github.list, with: {repo: '${ .repo }'}, metadata: {connection: work}, output: {as: .items}}\n  - each:\n      for: {each: issue, in: .}\n      do:\n        - big: {if: '$issue > 1', call: github.close, with: {number: '${ $issue }'}}\n  - done: {set: {last: '${ .closed }'}}";
    let drive = drive(rest, json!({"repo": "a/b"}), |invocation| match invocation.action.action.as_str() {
        "list" => Ok(json!({"items": [1, 2, 3]})),
        _ => Ok(json!({"closed": invocation.input["number"]})),
    });
    insta::assert_snapshot!(drive.history());
    let keys: std::collections::BTreeSet<_> = drive.invocations.iter().map(|call| &call.idempotency_key).collect();
    assert_eq!(keys.len(), 3, "each step has a key of its own");
}

#[test]
fn a_retry_waits_as_its_policy_says_and_keeps_the_key() {
    let catch = |retry: &str| {
        format!("do: [{{t: {{try: [{{a: {{call: x.a}}}}, {{b: {{call: x.b}}}}], catch: {{retry: {retry}}}}}}}]")
    };
    for (retry, seconds) in [
        ("{delay: PT2S, limit: {attempt: {count: 3}}}", vec![2.0, 2.0, 2.0]),
        ("{delay: PT2S, backoff: {constant: {}}, limit: {attempt: {count: 2}}}", vec![2.0, 2.0]),
        ("{delay: PT2S, backoff: {linear: {}}, limit: {attempt: {count: 3}}}", vec![2.0, 4.0, 6.0]),
        (
            "{delay: {seconds: 1}, backoff: {exponential: {}}, limit: {attempt: {count: 5}}}",
            vec![1.0, 2.0, 4.0, 8.0, 16.0],
        ),
        ("{delay: '${ .pause }', limit: {attempt: {count: 1}}}", vec![90.0]),
        ("{delay: PT3S, limit: {duration: PT10S}}", vec![3.0, 3.0, 3.0]),
        ("{limit: {attempt: {count: 2}}}", vec![0.0, 0.0]),
        // Without a delay the first retries come at once, and then it waits longer and longer.
        ("{limit: {attempt: {count: 7}}}", vec![0.0, 0.0, 0.0, 1.0, 2.0, 4.0, 8.0]),
        (
            "{backoff: {exponential: {}}, limit: {attempt: {count: 11}}}",
            vec![0.0, 0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0],
        ),
        (
            "{delay: PT1S, when: '$error.status == 503 and .pause', exceptWhen: '$error.status == 500', limit: {attempt: {count: 1}}}",
            vec![1.0],
        ),
        ("{delay: PT1S, when: '$error.status == 500'}", vec![]),
        ("{delay: PT1S, exceptWhen: '$error.status == 503'}", vec![]),
    ] {
        let drive =
            drive(&catch(retry), json!({"pause": "PT1M30S"}), |invocation| match invocation.action.action.as_str() {
                "a" => Ok(invocation.input.clone()),
                _ => Err(Box::new(unavailable())),
            });
        assert_eq!(drive.error()["status"], json!(503), "{retry}");
        let mut before = drive.started_at;
        let mut waits = Vec::new();
        for event in &drive.events {
            if let Event::RetryScheduled { until, .. } = event {
                // Two invocations of a millisecond each lie between.
                waits.push(((*until - before).as_seconds_f64() * 10.0).round() / 10.0);
                before = *until;
            }
        }
        assert_eq!(waits, seconds, "{retry}");
        let b: Vec<_> = drive.invocations.iter().filter(|call| call.step.ends_with("/b")).collect();
        assert!(b.iter().all(|call| call.idempotency_key == b[0].idempotency_key), "{retry}: the key changed");
        let attempts: Vec<u32> = b.iter().map(|call| call.attempt).collect();
        assert_eq!(attempts, (1..=attempts.len() as u32).collect::<Vec<_>>(), "{retry}");
    }
}

#[test]
fn a_retry_performs_a_completed_step_anew_and_a_failed_one_as_another_attempt() {
    // `b` fails, then `c`: by then `b` has completed.
    let rest = "do: [{t: {try: [{a: {call: x.a}}, {b: {call: x.b}}, {c: {call: x.c}}], catch: {retry: {delay: PT1S, limit: {attempt: {count: 5}}}}}}]";
    let mut calls = 0;
    let drive = drive(rest, json!({}), |invocation| {
        calls += 1;
        match (invocation.action.action.as_str(), calls) {
            ("b", 2) | ("c", 5) => Err(Box::new(unavailable())),
            _ => Ok(json!({})),
        }
    });
    drive.output();
    let made = |call: &Invocation| (call.action.action.as_str().to_owned(), call.attempt);
    let made: Vec<_> = drive.invocations.iter().map(made).collect();
    let expected = [("a", 1), ("b", 1), ("a", 1), ("b", 2), ("c", 1), ("a", 1), ("b", 1), ("c", 2)];
    assert_eq!(made, expected.map(|(name, attempt)| (name.to_owned(), attempt)));
    let key = |index: usize| drive.invocations[index].idempotency_key.as_str();
    assert_eq!((key(1), key(4)), (key(3), key(7)), "the attempts at one execution have one key");
    let distinct: std::collections::BTreeSet<_> = [0, 1, 2, 4, 5, 6].map(key).into();
    assert_eq!(distinct.len(), 6, "what is performed anew has a key of its own");
}

#[test]
fn the_time_of_a_try_bounds_the_waiting_inside() {
    let rest = "do: [{o: {try: [{i: {try: [{a: {call: x.a}}], catch: {retry: {delay: PT8S, limit: {attempt: {count: 3}}}}}}], catch: {errors: {with: {status: 408}}, retry: {limit: {attempt: {count: 1, duration: PT1S}}}, do: [{late: {set: {s: '${ $error.status }'}}}]}}}]";
    let drive = drive(rest, json!({}), |_| Err(Box::new(unavailable())));
    assert_eq!(drive.output(), &json!({"s": 408}));
    // Two tries of a second each, and one call in each of them.
    let took = drive.at - drive.started_at;
    assert!((2.0..2.1).contains(&took.as_seconds_f64()), "{took}");
    assert_eq!(drive.invocations.len(), 2, "{}", drive.history());
}

#[test]
fn nothing_begins_in_a_try_whose_time_is_up() {
    // Each invocation takes a millisecond.
    let rest = "do: [{t: {try: [{a: {call: x.a}}, {b: {call: x.b}}], catch: {retry: {limit: {attempt: {count: 1, duration: {milliseconds: 1}}}}}}}]";
    let drive = drive(rest, json!({}), |invocation| match invocation.action.action.as_str() {
        "a" => Ok(json!({})),
        other => panic!("{other} was invoked"),
    });
    assert_eq!((&drive.error()["status"], drive.invocations.len()), (&json!(408), 2));
}

#[test]
fn a_try_that_is_taken_up_again_has_its_whole_time() {
    let source =
        flow("do: [{t: {try: [{a: {call: x.a}}], catch: {retry: {limit: {attempt: {count: 1, duration: PT5S}}}}}}]");
    let (flow, _) = check(&source).unwrap();
    let run = RunFacts { id: RunId::new(), input: json!({}), started_at: begin_of_time() };
    let limits = EngineLimits::default();
    let (at, later) = (begin_of_time(), begin_of_time() + time::Duration::hours(1));
    let begun = advance(&flow, &run, &limits, State::new(), Input::Start, moment(at));
    let resumed = advance(&flow, &run, &limits, begun.state, Input::Resume, moment(later));
    let Next::Invoke(invocation) = resumed.next else { panic!("{:?}", resumed.next) };
    assert_eq!((invocation.attempt, invocation.deadline), (2, Some(later + time::Duration::seconds(5))));
}

#[test]
fn jitter_lies_in_its_range_and_is_the_same_each_time() {
    let rest = "do: [{t: {try: [{a: {call: x.a}}], catch: {retry: {delay: PT1S, jitter: {from: PT2S, to: PT4S}, limit: {attempt: {count: 5}}}}}}]";
    let waits = || -> Vec<OffsetDateTime> {
        let drive = drive(rest, json!({}), |_| Err(Box::new(unavailable())));
        let until = |event: &Event| match event {
            Event::RetryScheduled { until, .. } => Some(*until),
            _ => None,
        };
        drive.events.iter().filter_map(until).collect()
    };
    let all = waits();
    assert_eq!(all, waits());
    let mut before = begin_of_time();
    let mut distinct = std::collections::BTreeSet::new();
    for until in all {
        let wait = (until - before).as_seconds_f64();
        assert!((2.9..5.1).contains(&wait), "{wait}");
        distinct.insert((wait * 100.0) as i64);
        before = until;
    }
    assert!(distinct.len() > 1, "the jitter is always the same");
}

#[test]
fn the_provider_can_ask_for_a_longer_delay() {
    let rest = "do: [{t: {try: [{a: {call: x.a}}], catch: {retry: {delay: PT1S, limit: {attempt: {count: 1}}}}}}]";
    let drive = drive(rest, json!({}), |_| {
        let mut error = unavailable();
        error.retry_after = Some(std::time::Duration::from_secs(60));
        Err(Box::new(error))
    });
    assert!(drive.at >= drive.started_at + time::Duration::seconds(60), "{}", drive.history());
}

#[test]
fn after_the_last_retry_the_handler_runs_or_the_error_goes_on() {
    let rest = |handler: &str| {
        format!(
            "do: [{{t: {{try: [{{a: {{call: x.a}}}}], catch: {{errors: {{with: {{status: 503}}}}, retry: r{handler}}}}}}}, {{n: {{set: {{got: '${{ . }}'}}}}}}]\nuse: {{retries: {{r: {{delay: PT1S, limit: {{attempt: {{count: 2}}}}}}}}}}"
        )
    };
    let fail = |_: &Invocation| -> Answer { Err(Box::new(unavailable())) };
    let with = drive(&rest(", do: [{h: {set: {s: '${ $error.status }'}}}]"), json!({}), fail);
    assert_eq!(with.output(), &json!({"got": {"s": 503}}));
    insta::assert_snapshot!(with.history());
    let jump = drive(&rest(", then: n"), json!({"x": 1}), fail);
    assert_eq!(jump.output(), &json!({"got": {"x": 1}}));
    assert_eq!(drive(&rest(""), json!({}), fail).error()["status"], json!(503));
}

#[test]
fn a_retry_that_succeeds_goes_on_as_if_nothing_had_been() {
    let rest = "do: [{t: {try: [{a: {call: x.a}}, {b: {call: x.b, with: {v: '${ .v }'}}}], catch: {retry: {delay: PT1S, limit: {attempt: {count: 9}}}}}}]";
    let mut calls = 0;
    let drive = drive(rest, json!({}), |invocation| {
        calls += 1;
        match (invocation.action.action.as_str(), calls) {
            ("a", _) => Ok(json!({"v": 7})),
            (_, 0..6) => Err(Box::new(unavailable())),
            _ => Ok(invocation.input.clone()),
        }
    });
    assert_eq!(drive.output(), &json!({"v": 7}));
    insta::assert_snapshot!(drive.history());
}

#[test]
fn an_attempt_that_takes_too_long_ends_with_a_timeout_of_its_own_try() {
    // The inner `try` would catch anything, but it is the outer one whose time is up.
    let rest = "do: [{t: {try: [{i: {try: [{a: {call: x.a}}], catch: {do: [{h: {set: {by: inner}}}]}}}], catch: {errors: {with: {type: 'https://serverlessworkflow.io/spec/1.0.0/errors/timeout'}}, retry: {delay: PT1S, limit: {attempt: {count: 1, duration: PT5S}}}, do: [{o: {set: {by: outer, s: '${ $error.status }'}}}]}}}]";
    let drive = drive(rest, json!({}), |_| Err(expire()));
    assert_eq!(drive.output(), &json!({"by": "outer", "s": 408}));
    assert_eq!(drive.invocations.len(), 2);
    insta::assert_snapshot!(drive.history());
}

#[test]
fn errors_of_actions_have_the_instance_of_their_step() {
    let rest = "do: [{tryGetPet: {try: [{getPet: {call: pets.get}}], catch: {errors: {with: {type: 'https://open-workflow-specification.org/dsl/errors/types/communication', status: 404}}, as: err, do: [{setError: {set: {error: '${ $err }'}}}]}}}]";
    let missing = |_: &Invocation| -> Answer {
        let kind = InvokeErrorKind::Action { code: "not-found".to_owned() };
        let mut error =
            InvokeError::new(kind, keyward_model::Reason::ActionFailed, "no such pet").hint("look for another");
        error.status = Some(404);
        Err(Box::new(error))
    };
    let caught = drive(rest, json!({}), missing);
    insta::assert_snapshot!(serde_json::to_string_pretty(caught.output()).unwrap());
    let uncaught = drive(&rest.replace("404", "503"), json!({}), missing);
    assert_eq!(uncaught.error()["instance"], json!("/do/0/tryGetPet/try/0/getPet"));
}

#[test]
fn visits_of_one_step_have_keys_of_their_own() {
    let rest = "do: [{a: {call: x.a, output: {as: '$input + {n: ($input.n + 1)}'}}}, {b: {switch: [{more: {when: '.n < 3', then: a}}]}}, {c: {for: {in: '[1, 2]'}, do: [{d: {call: x.d}}]}}]";
    let drive = drive(rest, json!({"n": 0}), |_| Ok(json!({})));
    let keys: std::collections::BTreeSet<_> = drive.invocations.iter().map(|call| &call.idempotency_key).collect();
    assert_eq!((drive.invocations.len(), keys.len()), (5, 5));
    assert!(drive.invocations.iter().all(|call| call.attempt == 1));
}

#[test]
fn a_run_is_bounded() {
    let limits = EngineLimits { entries: 1_000, iterations: 50, ..EngineLimits::default() };
    for (rest, what) in [
        ("do: [{a: {set: {x: 1}, then: a}}]", "more than 1000 entries"),
        ("do: [{a: {try: [{b: {set: {x: 1}, then: b}}], catch: {}}}]", "more than 1000 entries"),
        ("do: [{a: {for: {in: '[range(100)]'}, do: [{b: {set: {x: 1}}}]}}]", "more than 50 turns"),
        ("do: [{a: {for: {in: '[range(40)]'}, do: [{b: {for: {in: '[range(40)]'}, do: []}}]}}]", "more than 50 turns"),
    ] {
        let drive = drive_with(rest, json!({}), limits, no_action);
        assert!(drive.error()["detail"].as_str().unwrap().contains(what), "{rest}: {}", drive.error());
        assert!(drive.events.len() < 1_300, "{rest} wrote {} entries", drive.events.len());
    }
}

#[test]
fn an_uncertain_attempt_is_made_again_or_faults_as_the_task_says() {
    let resume = |metadata: &str| {
        let source = flow(&format!(
            "do: [{{t: {{try: [{{a: {{call: x.a, with: {{v: 1}}{metadata}}}}}], catch: {{retry: {{limit: {{attempt: {{count: 1}}}}}}}}}}}}]"
        ));
        let (flow, _) = check(&source).unwrap_or_else(|faults| panic!("{}", shown(&source, &faults)));
        let run = RunFacts { id: RunId::new(), input: json!({}), started_at: begin_of_time() };
        let limits = EngineLimits::default();
        let begun = advance(&flow, &run, &limits, State::new(), Input::Start, moment(begin_of_time()));
        let resumed = advance(&flow, &run, &limits, begun.state, Input::Resume, moment(begin_of_time()));
        (begun.next, resumed)
    };
    let (first, again) = resume("");
    let (Next::Invoke(first), Next::Invoke(second)) = (first, again.next) else { panic!("nothing is invoked") };
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert_eq!((first.idempotency_key, first.input), (second.idempotency_key, second.input));
    assert!(matches!(
        again.events[..],
        [Event::RunResumed, Event::StepUncertain { attempt: 1, .. }, Event::StepStarted { attempt: 2, .. }]
    ));

    let (_, faulted) = resume(", metadata: {onUncertain: fail}");
    // It is an error like others: here the `try` tries again, because its author says so.
    assert!(matches!(faulted.next, Next::Wait(_)));
    let [_, _, Event::StepFaulted { attempt: 1, error, .. }, Event::RetryScheduled { .. }] = &faulted.events[..] else {
        panic!("{:?}", faulted.events)
    };
    assert_eq!(error["reason"], json!("outcome-unknown"));
}

#[test]
fn a_wait_that_was_interrupted_lasts_only_the_rest() {
    let source =
        flow("do: [{t: {try: [{a: {call: x.a}}], catch: {retry: {delay: PT60S, limit: {attempt: {count: 1}}}}}}]");
    let (flow, _) = check(&source).unwrap();
    let run = RunFacts { id: RunId::new(), input: json!({}), started_at: begin_of_time() };
    let limits = EngineLimits::default();
    let at = begin_of_time();
    let begun = advance(&flow, &run, &limits, State::new(), Input::Start, moment(at));
    let failed = advance(&flow, &run, &limits, begun.state, Input::Failed(Box::new(unavailable())), moment(at));
    let until = at + time::Duration::seconds(60);
    assert_eq!(failed.next, Next::Wait(until));
    let early = advance(&flow, &run, &limits, failed.state, Input::Resume, moment(at + time::Duration::seconds(50)));
    assert_eq!(early.next, Next::Wait(until));
    let late = advance(&flow, &run, &limits, early.state, Input::Resume, moment(at + time::Duration::seconds(70)));
    assert!(matches!(late.next, Next::Invoke(_)));
}

#[test]
fn events_read_back_as_written() {
    let rest = "do: [{t: {try: [{f: {for: {in: '[1]'}, do: [{a: {call: x.a, metadata: {connection: c}}}]}}], catch: {retry: {limit: {attempt: {count: 1}}}, do: [{s: {if: 'false', set: {x: 1}}}]}}}]";
    let drive = drive(rest, json!({}), |_| Err(Box::new(unavailable())));
    for event in &drive.events {
        let json = serde_json::to_value(event).unwrap();
        assert_eq!(&serde_json::from_value::<Event>(json.clone()).unwrap(), event, "{json}");
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&drive.events[3]).unwrap());
}

/// The official scenarios that need neither the network nor a task that is not executed yet.
mod conformance {
    use super::*;

    fn scenario(feature: &str, name: &str) -> Drive {
        let path = format!("{}/tests/data/ctk/{feature}.feature", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let scenario = text.split("Scenario: ").find(|part| part.starts_with(name)).unwrap();
        let block = |after: &str| {
            let text = scenario.split_once(after)?.1.split("\"\"\"").nth(1)?.strip_prefix("yaml")?;
            Some(crate::dsl::tree::Node::parse(text).unwrap().to_value())
        };
        let mut definition = block("Given a workflow with definition:").unwrap();
        definition.as_object_mut().unwrap().remove("document");
        let input = block("And given the workflow input is:").unwrap_or(json!({}));
        let drive = drive(&entries_of(&definition), input, no_action);
        if let Some(output) = block("Then the workflow should complete with output:") {
            assert_eq!(drive.output(), &output, "{name}");
        }
        if let Some(error) = block("Then the workflow should fault with error:") {
            assert_eq!(drive.error(), &error, "{name}");
        }
        drive
    }

    /// The entries of a flow in a form that can follow a document.
    fn entries_of(definition: &Value) -> String {
        let entries = definition.as_object().unwrap().iter().map(|(key, value)| format!("{key}: {value}"));
        entries.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn official_scenarios_pass() {
        for (feature, name, ran) in [
            ("do", "Task With Sequential Sub Tasks", &["setRed", "setGreen", "setBlue", "compositeExample"][..]),
            ("flow", "Implicit Sequence Flow", &["setRed", "setGreen", "setBlue"]),
            ("flow", "Explicit Sequence Flow", &["setRed", "setGreen", "setBlue"]),
            ("for", "For Task", &["markProcessed", "markProcessed", "markProcessed", "loopColors"]),
            ("raise", "Raise task with inline error", &[]),
            ("set", "Set Task", &["setShape"]),
            ("switch", "Switch task with matching case", &["switchColor", "setRed"]),
            ("switch", "Switch task with implicit default case", &["switchColor"]),
            ("switch", "Switch task with explicit default case", &["switchColor", "setCustomColor"]),
            ("data-flow", "Input Filtering", &["setPlayerId"]),
        ] {
            assert_eq!(scenario(feature, name).ran(), ran, "{feature}: {name}");
        }
    }
}
