//! A guest that takes too much is stopped, and others do not notice.

use std::{sync::Arc, time::Duration};

use keyward_model::{ActionOutcome, Invoke, InvokeError, InvokeErrorKind, Reason, Sent};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

use crate::{
    fixture::{Fixture, call, response},
    guest::Guest,
};

const ENDLESS: &str = "(loop $again (br $again)) unreachable";

#[tokio::test]
async fn guest_that_computes_for_ever_is_stopped() {
    let fixture = Fixture::new(&Guest::new(ENDLESS)).limits(|limits| limits.cpu_ms = 20);
    let error = fixture.failure().await;
    assert_eq!((error.kind, error.reason), (InvokeErrorKind::Guest, Reason::CpuLimit));
    assert_eq!(error.message, "the guest used more than 20 ms of processor time");
    assert!(error.hint.unwrap().starts_with("raise `limits.cpu_ms` of the action in connector.toml"));
    assert!(error.backtrace.unwrap().contains("!run"));
}

/// On one thread, so that another call is served only if the endless ones yield, and set up as the binary does.
#[test]
fn other_calls_are_served_while_guests_compute_for_ever() {
    let guest = Guest::new(&format!(
        r#"(if (i32.gt_u (local.get $input_len) (i32.const 4)) (then {ENDLESS}))
           (call $get (local.get $connection))
           (call $ok (local.get $input) (local.get $input_len))"#
    ));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(1).build().unwrap();
    runtime.block_on(async {
        let fixture = Fixture::answering(&guest, |_| async {
            // The timer stands for the network: both are looked at between polls.
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(response(200, &["{}"]))
        });
        let endless = [(); 2].map(|()| {
            let runtime = fixture.runtime.clone();
            tokio::spawn(async move { runtime.invoke(call(json!("endless"))).await })
        });
        for _ in 0..3 {
            assert_eq!(fixture.call(Value::Null).await.unwrap().output, Value::Null);
        }
        for call in endless {
            assert!(!call.is_finished());
            call.abort();
        }
    });
}

#[tokio::test]
async fn time_in_which_the_guest_waits_is_not_its_processor_time() {
    let guest = Guest::new("(call $get (local.get $connection)) (call $ok (i32.const 64) (i32.const 4))");
    let fixture = Fixture::answering(&guest, |_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        // The host's own work is not the guest's either.
        std::thread::sleep(Duration::from_millis(300));
        Ok(response(200, &["{}"]))
    });
    let fixture = fixture.limits(|limits| limits.cpu_ms = 250);
    assert_eq!(fixture.call(Value::Null).await.unwrap().output, Value::Null);
}

#[tokio::test]
async fn guest_that_takes_memory_for_ever_is_stopped_at_its_limit() {
    let hog = Guest::new("(loop $more (drop (memory.grow (i32.const 16))) (br $more)) unreachable");
    let fixture = Fixture::new(&hog).limits(|limits| limits.memory_bytes = 4 << 20);
    let error = fixture.failure().await;
    assert_eq!((error.kind, error.reason), (InvokeErrorKind::Guest, Reason::MemoryLimit));
    assert!(error.message.ends_with("the limit is 4194304"), "{}", error.message);
    assert!(error.backtrace.unwrap().contains("!run"));
}

#[tokio::test]
async fn guest_that_starts_with_more_memory_than_its_limit_is_stopped() {
    let fixture = Fixture::new(&Guest::echo().pages(65)).limits(|limits| limits.memory_bytes = 4 << 20);
    assert_eq!(fixture.failure().await.reason, Reason::MemoryLimit);
}

#[tokio::test]
async fn limits_of_the_call_are_below_the_ceiling() {
    let guest = Guest::new("(loop $more (drop (memory.grow (i32.const 256))) (br $more)) unreachable");
    let fixture = Fixture::new(&guest).limits(|limits| limits.memory_bytes = u64::MAX);
    let error = fixture.failure().await;
    assert!(error.message.ends_with("the limit is 268435456"), "{}", error.message);
    assert!(error.hint.unwrap().starts_with("raise `[limits] memory_bytes` in config.toml"));
}

#[tokio::test]
async fn recursion_without_end_is_a_stack_overflow_in_both_of_its_forms() {
    let deep = Guest::new(
        "(call $run (local.get $action) (local.get $action_len) (local.get $input) (local.get $input_len) (local.get $key) (local.get $key_len) (local.get $attempt) (local.get $connection))",
    );
    // As a compiled language does it: each frame takes its part of a stack in memory and writes to it.
    let shadow = Guest::new(
        r#"(global.set $stack (i32.sub (global.get $stack) (i32.const 64)))
           (i32.store offset=8 (global.get $stack) (i32.const 1))
           (call $run (local.get $action) (local.get $action_len) (local.get $input) (local.get $input_len) (local.get $key) (local.get $key_len) (local.get $attempt) (local.get $connection))"#,
    );
    for guest in [deep, shadow] {
        let error = Fixture::new(&guest).failure().await;
        assert_eq!((error.kind, error.reason), (InvokeErrorKind::Guest, Reason::StackOverflow), "{}", error.message);
        assert!(error.backtrace.unwrap().matches("!run").count() > 10);
    }
}

#[tokio::test]
async fn memory_fault_elsewhere_is_a_crash() {
    let guest = Guest::new("(i32.store (i32.const 0x20000000) (i32.const 1)) unreachable");
    let error = Fixture::new(&guest).failure().await;
    assert_eq!(error.reason, Reason::GuestTrap);
    assert!(error.message.contains("out of bounds memory access"), "{}", error.message);
}

#[tokio::test]
async fn call_that_waits_too_long_ends_and_says_whether_something_may_have_happened() {
    let post = "(call $post (local.get $connection) (i32.const 64) (i32.const 4)) unreachable";
    for (body, sent) in [("(call $get (local.get $connection)) unreachable", Sent::No), (post, Sent::Maybe)] {
        let fixture = Fixture::answering(&Guest::new(body), |_| std::future::pending());
        let error = fixture.limits(|limits| limits.wall_ms = 30).failure().await;
        assert_eq!((error.kind, error.reason, error.sent), (InvokeErrorKind::Timeout, Reason::WallLimit, sent));
    }
}

/// A fixture for one call at a time, whose guest waits until the test lets it.
fn one_turn() -> (Fixture, Arc<Notify>, Arc<Semaphore>) {
    let guest = Guest::new("(call $get (local.get $connection)) (call $ok (i32.const 64) (i32.const 4))");
    let (waiting, open) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let fixture = Fixture::with_turns(&guest, 1, {
        let (waiting, open) = (waiting.clone(), open.clone());
        move |_| {
            let (waiting, open) = (waiting.clone(), open.clone());
            async move {
                waiting.notify_one();
                open.acquire().await.unwrap().forget();
                Ok(response(200, &["{}"]))
            }
        }
    });
    (fixture, waiting, open)
}

fn spawn(fixture: &Fixture) -> tokio::task::JoinHandle<Result<ActionOutcome, InvokeError>> {
    let runtime = fixture.runtime.clone();
    tokio::spawn(async move { runtime.invoke(call(Value::Null)).await })
}

#[tokio::test]
async fn cancelled_call_frees_its_turn() {
    let (fixture, waiting, open) = one_turn();
    for _ in 0..3 {
        let first = spawn(&fixture);
        waiting.notified().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
    }
    open.add_permits(1);
    assert!(fixture.call(Value::Null).await.is_ok());
}

#[tokio::test]
async fn calls_wait_for_their_turn_and_the_pool_refuses_none() {
    let (fixture, waiting, open) = one_turn();
    let calls: Vec<_> = (0..20).map(|_| spawn(&fixture)).collect();
    waiting.notified().await;
    open.add_permits(20);
    for call in calls {
        assert!(call.await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn call_that_gets_no_turn_in_time_says_so() {
    let (fixture, waiting, open) = one_turn();
    let first = spawn(&fixture);
    waiting.notified().await;
    let fixture = fixture.limits(|limits| limits.wall_ms = 20);
    let error = fixture.failure().await;
    assert_eq!((error.kind, error.reason), (InvokeErrorKind::Timeout, Reason::WallLimit));
    assert!(error.message.starts_with("too many calls run at once"), "{}", error.message);
    open.add_permits(1);
    assert!(first.await.unwrap().is_ok());
}

#[tokio::test]
async fn log_is_cut_at_its_limit_with_one_last_line() {
    let fixture = Fixture::new(&Guest::new(
        r#"(local $n i32)
           (loop $again
             (call $log (i32.const 2) (i32.const 128) (i32.const 5))
             (local.set $n (i32.add (local.get $n) (i32.const 1)))
             (br_if $again (i32.lt_u (local.get $n) (i32.const 1000))))
           (call $ok (i32.const 64) (i32.const 4))"#,
    ))
    .limits(|limits| limits.log_bytes = 20);
    let log = fixture.call(Value::Null).await.unwrap().log;
    let texts: Vec<_> = log.iter().map(|line| &*line.text).collect();
    assert_eq!(texts, ["hello", "hello", "hello", "he", "log limit reached"]);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_before_the_way_out() {
    // Sends until it is refused, once more, and passes that on.
    let guest = Guest::new(
        r#"(loop $again (call $get (local.get $connection)) (br_if $again (i32.eqz (call $is_error))))
           (call $get (local.get $connection)) (call $failed)"#,
    );
    let sent = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let fixture = Fixture::answering(&guest, {
        let sent = sent.clone();
        move |_| {
            sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async { Ok(response(200, &["{}"])) }
        }
    });
    let fixture = fixture.limits(|limits| limits.requests = 3);
    let error = fixture.failure().await;
    assert_eq!((error.kind, error.reason), (InvokeErrorKind::RateLimited, Reason::RequestLimit));
    assert_eq!(fixture.refused(), [Reason::RequestLimit], "the way out is told once");
    assert_eq!(sent.load(std::sync::atomic::Ordering::Relaxed), 3);
}

#[tokio::test]
async fn exchanges_beyond_the_limit_are_refused_until_one_is_dropped() {
    let start = "(call $start_get (local.get $connection)) (if (call $is_error) (then (return (call $failed))))";
    let done = "(call $ok (i32.const 64) (i32.const 4))";
    let answer = |_| async { Ok(response(207, &["{}"])) };
    let three = Fixture::answering(&Guest::new(&[start, start, start, done].join(" ")), answer);
    let three = three.limits(|limits| limits.exchanges = 2);
    let error = three.failure().await;
    assert_eq!(three.refused(), [Reason::ExchangeLimit]);
    assert_eq!((error.kind, error.reason), (InvokeErrorKind::RateLimited, Reason::ExchangeLimit), "{}", error.message);
    assert!(error.hint.unwrap().contains("limits.exchanges"));

    let drop = "(call $drop (i32.load (i32.const 2056)))";
    let one_less = Fixture::answering(&Guest::new(&[start, start, drop, start, done].join(" ")), answer);
    assert!(one_less.limits(|limits| limits.exchanges = 2).call(Value::Null).await.is_ok());
}

/// A hundred query parameters that are all the same 40,000 bytes of the guest's one page.
#[tokio::test]
async fn guest_cannot_make_the_host_copy_more_than_its_memory() {
    let guest = Guest::new(
        r#"(local $n i32) (local $entry i32)
           (loop $fill
             (local.set $entry (i32.add (i32.const 61440) (i32.mul (local.get $n) (i32.const 16))))
             (i32.store offset=4 (local.get $entry) (i32.const 40000))
             (local.set $n (i32.add (local.get $n) (i32.const 1)))
             (br_if $fill (i32.lt_u (local.get $n) (i32.const 100))))
           (call $send (local.get $connection) (i32.const 0) (i32.const 3)
             (i32.const 0) (i32.const 32) (i32.const 3) (i32.const 48) (i32.const 7)
             (i32.const 61440) (i32.const 100) (i32.const 0) (i32.const 0)
             (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2048))
           unreachable"#,
    );
    let fixture = Fixture::answering(&guest, |_| async { panic!("the request was copied") });
    let error = fixture.limits(|limits| limits.memory_bytes = 2 << 20).failure().await;
    assert_eq!((error.kind, error.reason), (InvokeErrorKind::Guest, Reason::GuestTrap));
    assert!(error.message.contains("too much data"), "{}", error.message);
}
