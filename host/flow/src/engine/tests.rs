#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use keyward_model::{ActionOutcome, InvokeError};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    Event,
    testing::{Actions, MemoryJournal, ended, flow, no_stop, unavailable},
};

fn tenant() -> TenantId {
    TenantId::default()
}

async fn start(engine: &Engine, source: &str, input: Value) -> RunId {
    engine.start(&tenant(), &Principal::local_administrator(), source, input).await.unwrap()
}

fn echo() -> Arc<dyn Invoke> {
    Arc::new(Actions(|call: &ActionCall| Ok(call.input.clone())))
}

fn names(events: &[Event]) -> Vec<String> {
    let name = |event| serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned();
    events.iter().map(name).collect()
}

#[tokio::test]
async fn a_run_completes_and_its_record_and_history_say_so() {
    struct Seen(Mutex<Vec<u64>>);
    impl Observer for Seen {
        fn recorded(&self, _: &RunId, entry: &Entry) {
            self.0.lock().unwrap().push(entry.sequence);
        }
    }
    let (journal, seen) = (MemoryJournal::new(), Arc::new(Seen(Mutex::default())));
    let engine = Engine::new(journal.clone(), echo()).observe(seen.clone());
    let source = flow("do: [{a: {call: x.a, with: {v: '${ .v + 1 }'}, metadata: {connection: work}}}]");
    let run = start(&engine, &source, json!({"v": 1})).await;
    let (before, _) = journal.history(&tenant(), &run).await.unwrap();
    assert_eq!((before.phase, &before.source), (RunPhase::Pending, &source));

    let record = engine.run(&tenant(), &run, no_stop()).await.unwrap();
    assert_eq!((record.phase, record.output), (RunPhase::Completed, Some(json!({"v": 2}))));
    let (after, entries) = journal.history(&tenant(), &run).await.unwrap();
    assert_eq!((after.phase, after.output), (RunPhase::Completed, Some(json!({"v": 2}))));
    assert_eq!(names(&journal.events(&run)), ["run-started", "step-started", "step-completed", "run-completed"]);
    assert_eq!(*seen.0.lock().unwrap(), entries.iter().map(|entry| entry.sequence).collect::<Vec<_>>());

    // Running it again changes nothing.
    assert_eq!(engine.run(&tenant(), &run, no_stop()).await.unwrap().phase, RunPhase::Completed);
    assert_eq!(journal.events(&run).len(), 4);
}

#[test]
fn a_run_can_be_spawned() {
    fn spawnable<F: Future + Send>(_: F) {}
    let engine = Engine::new(MemoryJournal::new(), echo());
    spawnable(engine.run(&tenant(), &RunId::new(), no_stop()));
}

#[tokio::test]
async fn what_cannot_run_is_refused_before_anything_is_recorded() {
    let journal = MemoryJournal::new();
    let engine = Engine::new(journal.clone(), echo());
    let principal = Principal::local_administrator();
    let start = async |source: String, input| engine.start(&tenant(), &principal, &source, input).await.unwrap_err();
    let error = start(flow("do: [{a: {wait: PT1S}}]"), json!({})).await;
    assert_eq!(error.to_string(), "the flow has 1 fault");
    assert!(matches!(error, EngineError::Invalid(faults) if faults[0].code == "unsupported"));
    let schema = "input: {schema: {document: {required: [id], properties: {id: {type: integer}}}}}\ndo: []";
    let error = start(flow(schema), json!({"id": "x"})).await;
    assert_eq!(error.to_string(), "the input does not match the flow's schema: /id: \"x\" is not of type \"integer\"");
    assert!(journal.runs(&tenant(), 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_disk_that_stays_full_interrupts_a_run_that_then_goes_on_where_it_was() {
    let journal = MemoryJournal::new();
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let count = move |call: &ActionCall| {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(json!({"n": call.attempt}))
    };
    let engine = Engine::new(journal.clone(), Arc::new(Actions(count))).patience(Duration::from_millis(150));
    let run = start(&engine, &flow("do: [{a: {call: x.a}}, {b: {set: {m: '${ .n }'}}}]"), json!({})).await;
    // The start of the step is recorded, its end is not.
    *journal.appends_left.lock().unwrap() = Some(1);
    let error = engine.run(&tenant(), &run, no_stop()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("run {run} is interrupted and can be resumed: the disk is full; nothing was written")
    );
    let (record, _) = journal.history(&tenant(), &run).await.unwrap();
    assert_eq!((record.phase, calls.load(Ordering::SeqCst)), (RunPhase::Running, 1));

    *journal.appends_left.lock().unwrap() = None;
    let record = engine.run(&tenant(), &run, no_stop()).await.unwrap();
    assert_eq!((record.output, calls.load(Ordering::SeqCst)), (Some(json!({"m": 2})), 2));
    assert_eq!(
        names(&journal.events(&run)),
        [
            "run-started",
            "step-started",
            "run-resumed",
            "step-uncertain",
            "step-started",
            "step-completed",
            "task-completed",
            "run-completed",
        ]
    );
}

#[tokio::test]
async fn what_an_action_did_is_not_forgotten_when_the_disk_is_full_for_a_moment() {
    #[derive(Default)]
    struct HeldUp(AtomicU32);
    impl Observer for HeldUp {
        fn recorded(&self, _: &RunId, _: &Entry) {}
        fn held_up(&self, _: &RunId, _: &JournalError) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    // The second lease ends while the disk is full.
    for lease in [LEASE, Duration::from_millis(40)] {
        let (journal, held_up, calls) = (MemoryJournal::new(), Arc::<HeldUp>::default(), Arc::new(AtomicU32::new(0)));
        let counted = calls.clone();
        let count = move |_: &ActionCall| Ok(json!({"n": counted.fetch_add(1, Ordering::SeqCst)}));
        let engine = Engine::new(journal.clone(), Arc::new(Actions(count))).lease(lease).observe(held_up.clone());
        let run = start(&engine, &flow("do: [{a: {call: x.a}}]"), json!({})).await;
        // The start of the step is recorded; its end is refused twice.
        *journal.appends_left.lock().unwrap() = Some(1);
        *journal.refusals_left.lock().unwrap() = Some(2);
        let record = engine.run(&tenant(), &run, no_stop()).await.unwrap();
        assert_eq!((record.phase, calls.load(Ordering::SeqCst)), (RunPhase::Completed, 1));
        assert_eq!(held_up.0.load(Ordering::SeqCst), 2);
        assert_eq!(names(&journal.events(&run)), ["run-started", "step-started", "step-completed", "run-completed"]);
    }
}

#[tokio::test]
async fn a_journal_that_makes_wait_beyond_the_lease_makes_no_step_twice() {
    let lease = Duration::from_millis(30);
    // While the action runs, or before its start is recorded.
    for during in [true, false] {
        let (journal, gate) = (MemoryJournal::new(), Gate::new());
        let engine = Engine::new(journal.clone(), gate.clone()).lease(lease);
        let run = start(&engine, &flow("do: [{a: {call: x.a}}]"), json!({})).await;
        journal.locked.send_replace(!during);
        let tenant = tenant();
        let (record, ()) = tokio::join!(engine.run(&tenant, &run, no_stop()), async {
            if during {
                gate.entered.acquire().await.unwrap().forget();
                journal.locked.send_replace(true);
            }
            gate.open.add_permits(1);
            tokio::time::sleep(lease * 4).await;
            journal.locked.send_replace(false);
        });
        assert_eq!(record.unwrap().phase, RunPhase::Completed);
        assert_eq!(names(&journal.events(&run)), ["run-started", "step-started", "step-completed", "run-completed"]);
    }
}

#[tokio::test]
async fn a_run_that_is_asked_to_stop_ends_its_step_and_goes_on_later() {
    let (journal, gate, stop) = (MemoryJournal::new(), Gate::new(), Stop::default());
    let engine = Engine::new(journal.clone(), gate.clone());
    let run = start(&engine, &flow("do: [{a: {call: x.a}}, {b: {call: x.b}}]"), json!({})).await;
    let tenant = tenant();
    let (result, ()) = tokio::join!(engine.run(&tenant, &run, &stop), async {
        gate.entered.acquire().await.unwrap().forget();
        stop.request();
        gate.open.add_permits(1);
    });
    assert!(matches!(result, Err(EngineError::Stopped { .. })), "{result:?}");
    // The end of the step is recorded, and the next one has not begun.
    assert_eq!(names(&journal.events(&run)), ["run-started", "step-started", "step-completed"]);
    // The run is given back, so it can be taken up at once.
    gate.open.add_permits(1);
    let record = engine.run(&tenant, &run, no_stop()).await.unwrap();
    assert_eq!(record.phase, RunPhase::Completed);
    assert!(!names(&journal.events(&run)).contains(&"step-uncertain".to_owned()));
}

#[tokio::test]
async fn a_run_that_waits_stops_at_once() {
    let (journal, stop) = (MemoryJournal::new(), Stop::default());
    let asked = stop.clone();
    let fail = move |_: &ActionCall| {
        asked.request();
        Err(Box::new(unavailable()))
    };
    let engine = Engine::new(journal.clone(), Arc::new(Actions(fail)));
    let retry = "retry: {delay: PT1H, limit: {attempt: {count: 1}}}";
    let source = flow(&format!("do: [{{t: {{try: [{{a: {{call: x.a}}}}], catch: {{{retry}}}}}}}]"));
    let run = start(&engine, &source, json!({})).await;
    assert!(matches!(engine.run(&tenant(), &run, &stop).await, Err(EngineError::Stopped { .. })));
    assert_eq!(journal.history(&tenant(), &run).await.unwrap().0.phase, RunPhase::Waiting);
}

#[tokio::test]
async fn a_journal_is_bounded_and_so_is_what_is_written_at_once() {
    const MIB: usize = 1 << 20;
    let journal = MemoryJournal::new();
    let limits = EngineLimits { journal_bytes: 20 << 20, ..EngineLimits::default() };
    let engine = Engine::new(journal.clone(), echo()).limits(limits);
    let source = flow("do: [{a: {for: {in: '[range(60)]'}, do: [{b: {set: {x: '${ \"x\" * 800000 }'}}}]}}]");
    let run = start(&engine, &source, json!({})).await;
    let record = engine.run(&tenant(), &run, no_stop()).await.unwrap();
    assert_eq!(record.error.unwrap()["detail"], json!("the journal of the run is larger than 20971520 bytes"));
    let appended = journal.appended.lock().unwrap();
    assert!(appended.len() > 4, "{appended:?}");
    assert!(*appended.iter().max().unwrap() < 6 * MIB, "{appended:?}");
    assert!(appended.iter().sum::<usize>() < 30 * MIB, "{appended:?}");
}

#[tokio::test]
async fn what_a_loop_writes_grows_with_its_list_and_not_with_its_square() {
    let written = async |turns: usize| {
        let journal = MemoryJournal::new();
        let engine = Engine::new(journal.clone(), echo());
        let source = flow("do: [{a: {for: {in: .list}, do: [{b: {call: x.b, with: {v: '${ $item | length }'}}}]}}]");
        let run = start(&engine, &source, json!({"list": vec!["x".repeat(5_000); turns]})).await;
        let record = engine.run(&tenant(), &run, no_stop()).await.unwrap();
        assert_eq!(record.output, Some(json!({"v": 5_000})));
        journal.appended.lock().unwrap().iter().sum::<usize>()
    };
    let (once, twice) = (written(40).await, written(80).await);
    assert!(twice < once * 5 / 2, "{once} bytes for 40 turns, {twice} for 80");
    // The list stands in the entry of the loop's start, there as input too.
    assert!(once < 40 * 5_000 * 5, "{once}");
}

#[tokio::test]
async fn a_loop_that_is_taken_up_again_has_its_list() {
    let journal = MemoryJournal::new();
    let source = flow(
        "do: [{a: {for: {in: '[.from, 20, 30]'}, do: [{b: {call: x.b, with: {v: '${ $item }', s: '${ .s + $item }'}, output: {as: '$input + .'}}}], output: {as: '{sum: .s, from: $input.from}'}}}]",
    );
    let engine = Engine::new(journal.clone(), echo()).patience(Duration::ZERO);
    let run = start(&engine, &source, json!({"from": 10})).await;
    for _ in 0..2 {
        *journal.appends_left.lock().unwrap() = Some(2);
        engine.run(&tenant(), &run, no_stop()).await.unwrap_err();
    }
    *journal.appends_left.lock().unwrap() = None;
    let record = engine.run(&tenant(), &run, no_stop()).await.unwrap();
    assert_eq!(record.output, Some(json!({"sum": 60, "from": 10})));
}

#[tokio::test]
async fn a_step_that_was_performed_stays_in_the_journal_where_its_output_is_too_large() {
    let journal = MemoryJournal::new();
    let limits = EngineLimits { snapshot_bytes: 10_000, ..EngineLimits::default() };
    let large = |_: &ActionCall| Ok(json!("x".repeat(20_000)));
    let engine = Engine::new(journal.clone(), Arc::new(Actions(large))).limits(limits);
    let run = start(&engine, &flow("do: [{a: {call: x.a, export: {as: .}}}, {b: {call: x.b}}]"), json!({})).await;
    let record = engine.run(&tenant(), &run, no_stop()).await.unwrap();
    let error = record.error.unwrap();
    assert!(error["instance"].as_str().unwrap().starts_with("/do/"), "{error}");
    assert!(error["hint"].is_string(), "{error}");
    let events = journal.events(&run);
    assert_eq!(names(&events), ["run-started", "step-started", "step-completed", "run-faulted"]);
    let Event::StepCompleted { output, .. } = &events[2] else { panic!("{events:?}") };
    assert_eq!(output, &json!({"omitted": 20_002}));
}

#[tokio::test]
async fn nothing_is_invoked_that_is_not_recorded() {
    let journal = MemoryJournal::new();
    let never = |call: &ActionCall| -> Result<Value, Box<InvokeError>> { panic!("{} was invoked", call.action) };
    let engine = Engine::new(journal.clone(), Arc::new(Actions(never))).patience(Duration::ZERO);
    let run = start(&engine, &flow("do: [{a: {call: x.a}}]"), json!({})).await;
    *journal.appends_left.lock().unwrap() = Some(0);
    assert!(matches!(engine.run(&tenant(), &run, no_stop()).await, Err(EngineError::Interrupted { .. })));
}

/// An action that waits until it is told to go on.
struct Gate {
    entered: tokio::sync::Semaphore,
    open: tokio::sync::Semaphore,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self { entered: tokio::sync::Semaphore::new(0), open: tokio::sync::Semaphore::new(0) })
    }
}

#[async_trait]
impl Invoke for Gate {
    async fn invoke(&self, call: ActionCall) -> Result<ActionOutcome, InvokeError> {
        self.entered.add_permits(1);
        self.open.acquire().await.unwrap().forget();
        Ok(crate::testing::outcome(call.input))
    }
}

#[tokio::test]
async fn the_lease_is_renewed_while_an_action_runs() {
    let (journal, gate) = (MemoryJournal::new(), Gate::new());
    let engine = Engine::new(journal.clone(), gate.clone()).lease(Duration::from_millis(30));
    let run = start(&engine, &flow("do: [{a: {call: x.a}}]"), json!({})).await;
    let mut renewed = journal.renewed.subscribe();
    let tenant = tenant();
    let (record, ()) = tokio::join!(engine.run(&tenant, &run, no_stop()), async {
        renewed.wait_for(|count| *count >= 3).await.unwrap();
        gate.open.add_permits(1);
    });
    assert_eq!(record.unwrap().phase, RunPhase::Completed);
}

#[tokio::test]
async fn two_processes_do_not_work_on_one_run() {
    let (journal, gate) = (MemoryJournal::new(), Gate::new());
    let engine = Engine::new(journal.clone(), gate.clone());
    let run = start(&engine, &flow("do: [{a: {call: x.a}}]"), json!({})).await;
    let tenant = tenant();
    let (record, ()) = tokio::join!(engine.run(&tenant, &run, no_stop()), async {
        gate.entered.acquire().await.unwrap().forget();
        let second = engine.run(&tenant, &run, no_stop()).await;
        assert!(matches!(second, Err(EngineError::Journal(JournalError::Leased { .. }))), "{second:?}");
        gate.open.add_permits(1);
    });
    assert_eq!(record.unwrap().phase, RunPhase::Completed);
}

#[tokio::test]
async fn a_lost_lease_stops_the_work_and_what_it_did_since_is_not_recorded() {
    let (journal, gate) = (MemoryJournal::new(), Gate::new());
    // With a lease this long the loss is noticed at the append, not at a renewal.
    let engine = Engine::new(journal.clone(), gate.clone());
    let source = flow("do: [{a: {call: x.a}}, {b: {call: x.b}}]");
    let run = start(&engine, &source, json!({})).await;
    let tenant = tenant();
    let (result, ()) = tokio::join!(engine.run(&tenant, &run, no_stop()), async {
        gate.entered.acquire().await.unwrap().forget();
        journal.overtake(&run);
        gate.open.add_permits(1);
    });
    let Err(EngineError::Interrupted { source, .. }) = result else { panic!("{result:?}") };
    assert!(matches!(source, JournalError::Fenced(_)));
    assert_eq!(names(&journal.events(&run)), ["run-started", "step-started"]);

    // The same with a short lease: the action is dropped in the middle.
    let engine = Engine::new(journal.clone(), gate.clone()).lease(Duration::from_millis(30));
    let run = start(&engine, &flow("do: [{a: {call: x.a}}]"), json!({})).await;
    let (result, ()) = tokio::join!(engine.run(&tenant, &run, no_stop()), async {
        gate.entered.acquire().await.unwrap().forget();
        journal.overtake(&run);
    });
    assert!(matches!(result, Err(EngineError::Interrupted { source: JournalError::Fenced(_), .. })));
}

#[tokio::test]
async fn an_attempt_beyond_its_time_is_dropped() {
    let (journal, gate) = (MemoryJournal::new(), Gate::new());
    let engine = Engine::new(journal.clone(), gate);
    let retry = "retry: {limit: {attempt: {count: 1, duration: {milliseconds: 20}}}}";
    let source = flow(&format!("do: [{{t: {{try: [{{a: {{call: x.a}}}}], catch: {{{retry}}}}}}}]"));
    let run = start(&engine, &source, json!({})).await;
    let record = engine.run(&tenant(), &run, no_stop()).await.unwrap();
    assert_eq!(record.error.unwrap()["status"], json!(408));
    let faulted = |event: &&Event| matches!(event, Event::StepFaulted { .. });
    assert_eq!(journal.events(&run).iter().filter(faulted).count(), 2);
}

#[tokio::test]
async fn a_state_that_grows_too_large_faults_the_run() {
    let journal = MemoryJournal::new();
    let limits = EngineLimits { snapshot_bytes: 10_000, ..EngineLimits::default() };
    let engine = Engine::new(journal.clone(), echo()).limits(limits);
    let source = flow("do: [{a: {set: {x: '${ \"x\" * 20000 }'}, export: {as: .}}}, {b: {call: x.b}}]");
    let run = start(&engine, &source, json!({})).await;
    let record = engine.run(&tenant(), &run, no_stop()).await.unwrap();
    assert_eq!(record.phase, RunPhase::Faulted);
    assert_eq!(record.error.unwrap()["detail"], json!("the state of the run is larger than 10000 bytes"));
}

#[tokio::test]
async fn a_value_that_could_not_be_read_back_faults_the_run() {
    let journal = MemoryJournal::new();
    let deep = |_: &ActionCall| Ok((0..125).fold(json!(1), |value, _| json!([value])));
    let engine = Engine::new(journal.clone(), Arc::new(Actions(deep)));
    let run = start(&engine, &flow("do: [{a: {call: x.a}}]"), json!({})).await;
    let record = engine.run(&tenant(), &run, no_stop()).await.unwrap();
    assert_eq!(record.error.unwrap()["detail"], json!("a value of the run is nested more than about 120 levels deep"));
    let (_, entries) = journal.history(&tenant(), &run).await.unwrap();
    let text = serde_json::to_string(&entries).unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_ok());
}

#[tokio::test]
async fn a_snapshot_of_another_version_is_refused() {
    let journal = MemoryJournal::new();
    let engine = Engine::new(journal.clone(), echo()).patience(Duration::ZERO);
    let run = start(&engine, &flow("do: [{a: {call: x.a}}]"), json!({})).await;
    *journal.appends_left.lock().unwrap() = Some(1);
    engine.run(&tenant(), &run, no_stop()).await.unwrap_err();
    let mut snapshot = journal.snapshot(&run).unwrap();
    assert!(read_snapshot(run, snapshot.clone()).is_ok());
    snapshot["format"] = json!(2);
    let error = read_snapshot(run, snapshot).unwrap_err();
    assert!(error.to_string().contains("its snapshot has format 2, this version reads 1"), "{error}");
}

#[tokio::test]
async fn a_long_computation_is_recorded_piece_by_piece() {
    let journal = MemoryJournal::new();
    let engine = Engine::new(journal.clone(), echo()).patience(Duration::ZERO);
    let source = flow("do: [{a: {for: {in: '[range(1000)]'}, do: [{b: {set: {n: '${ (.n // 0) + 1 }'}}}]}}]");
    let run = start(&engine, &source, json!({})).await;
    *journal.appends_left.lock().unwrap() = Some(2);
    engine.run(&tenant(), &run, no_stop()).await.unwrap_err();
    let recorded = journal.events(&run).len();
    assert!((500..600).contains(&recorded), "{recorded}");
    *journal.appends_left.lock().unwrap() = None;
    assert_eq!(engine.run(&tenant(), &run, no_stop()).await.unwrap().output, Some(json!({"n": 1000})));
    // Each turn is recorded once: the loop's start and end, the run's, and that it was resumed.
    assert_eq!(journal.events(&run).len(), 1000 + 5);
}

// Random flows, killed anywhere, end as if nothing had been.

/// A task that maps an object with a number `n` to another such object.
fn task() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        (1..9_i64).prop_map(|add| json!({"set": {"n": format!("${{ (.n + {add}) % 1000 }}")}})),
        (0..9_i64).prop_map(|_| json!({"call": "test.double", "with": {"n": "${ .n }"}})),
        (2..5_i64).prop_map(|part| json!({"if": format!(".n % {part} == 0"), "set": {"n": "${ .n + 7 }"}})),
        Just(json!({"call": "test.increment", "with": {"n": "${ .n }"}, "output": {"as": {"n": "${ .n }"}}})),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let list = prop::collection::vec(inner, 1..3).prop_map(|tasks| {
            Value::Array(
                tasks.into_iter().enumerate().map(|(index, task)| json!({format!("t{index}"): task})).collect(),
            )
        });
        prop_oneof![
            list.clone().prop_map(|list| json!({"do": list})),
            (list.clone(), 0..4_u32)
                .prop_map(|(list, turns)| { json!({"for": {"in": format!("[range({turns})]")}, "do": list}) }),
            list.clone().prop_map(|mut list| {
                // The first attempt at it fails, whoever asks.
                list.as_array_mut().unwrap().push(json!({"flaky": {"call": "test.flaky", "with": {"n": "${ .n }"}}}));
                json!({"try": list, "catch": {"retry": {"limit": {"attempt": {"count": 20}}}}})
            }),
            list.prop_map(|mut list| {
                let error = json!({"type": "https://example.com/odd", "status": 400});
                list.as_array_mut().unwrap().push(json!({"odd": {"if": ".n % 2 == 1", "raise": {"error": error}}}));
                let handler = json!([{"even": {"set": {"n": "${ .n + $error.status }"}}}]);
                json!({"try": list, "catch": {"errors": {"with": {"status": 400}}, "do": handler}})
            }),
        ]
    })
}

/// What was invoked, and the rules that hold for it.
#[derive(Default)]
struct Witness {
    journal: Mutex<Option<Arc<MemoryJournal>>>,
    invoked: Mutex<Vec<(String, u32)>>,
}

impl Witness {
    fn answer(&self, call: &ActionCall) -> Result<Value, Box<InvokeError>> {
        let this = (call.idempotency_key.clone(), call.attempt);
        let events = self.journal.lock().unwrap().as_ref().unwrap().events(&call.run.unwrap());
        let started = |event: &Event| match event {
            Event::StepStarted { idempotency_key, attempt, .. } => (idempotency_key.clone(), *attempt) == this,
            _ => false,
        };
        assert_eq!(events.iter().filter(|event| started(event)).count(), 1, "{this:?} is not recorded once");
        let mut invoked = self.invoked.lock().unwrap();
        assert!(!invoked.contains(&this), "{this:?} was made before");
        invoked.push(this);
        let n = call.input["n"].as_i64().unwrap();
        match call.action.action.as_str() {
            "double" => Ok(json!({"n": n * 2 % 1000})),
            "flaky" if call.attempt == 1 => Err(Box::new(unavailable())),
            _ => Ok(json!({"n": n + 1})),
        }
    }
}

/// Runs a flow to its end; the journal fails after each number of appends in turn.
async fn run_with_kills(source: &str, kills: &[u64]) -> (RunRecord, Vec<Event>, usize) {
    let (journal, witness) = (MemoryJournal::new(), Arc::new(Witness::default()));
    *witness.journal.lock().unwrap() = Some(journal.clone());
    let asked = witness.clone();
    let actions: Arc<dyn Invoke> = Arc::new(Actions(move |call: &ActionCall| asked.answer(call)));
    let run = start(&Engine::new(journal.clone(), actions.clone()), source, json!({"n": 1})).await;
    for kill in kills {
        *journal.appends_left.lock().unwrap() = Some(*kill);
        // Another engine each time: nothing but the journal is left of the one before.
        let engine = Engine::new(journal.clone(), actions.clone()).patience(Duration::ZERO);
        match engine.run(&tenant(), &run, no_stop()).await {
            Ok(record) => {
                assert!(ended(&record));
                break;
            }
            Err(EngineError::Interrupted { source: JournalError::DiskFull, .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    *journal.appends_left.lock().unwrap() = None;
    let record = Engine::new(journal.clone(), actions).run(&tenant(), &run, no_stop()).await.unwrap();
    let invoked = witness.invoked.lock().unwrap().len();
    (record, journal.events(&run), invoked)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_run_killed_anywhere_ends_as_one_that_was_not(
        tasks in prop::collection::vec(task(), 1..4),
        kills in prop::collection::vec(0..6_u64, 1..6),
    ) {
        let list: Vec<Value> =
            tasks.into_iter().enumerate().map(|(index, task)| json!({format!("t{index}"): task})).collect();
        let document = json!({"dsl": "1.0.3", "namespace": "test", "name": "random", "version": "1.0.0"});
        let source = json!({"document": document, "do": list}).to_string();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (whole, killed) =
            runtime.block_on(async { (run_with_kills(&source, &[]).await, run_with_kills(&source, &kills).await) });
        let ((calm, _, _), (record, events, invoked)) = (whole, killed);
        prop_assert_eq!(&record.phase, &calm.phase);
        prop_assert_eq!(&record.output, &calm.output);
        prop_assert_eq!(record.error.is_some(), calm.error.is_some());
        let started = |event: &&Event| matches!(event, Event::StepStarted { .. });
        let starts = events.iter().filter(started).count();
        prop_assert!(invoked <= starts, "{} invocations, {} recorded", invoked, starts);
        // What has completed is not made again: a retry of its `try` performs it anew, with another key.
        let (mut open, mut done) = (None, std::collections::BTreeSet::new());
        for event in &events {
            match event {
                Event::StepStarted { idempotency_key, .. } => {
                    prop_assert!(!done.contains(idempotency_key), "{} again", idempotency_key);
                    open = Some(idempotency_key);
                }
                Event::StepCompleted { .. } => done.extend(open.take()),
                _ => {}
            }
        }
    }
}
