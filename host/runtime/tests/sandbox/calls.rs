//! A call from its input to its outcome, and what keeps one from starting.

use std::os::unix::fs::PermissionsExt;

use keyward_model::{InvokeErrorKind, LogLevel, Reason, SendError, SendErrorKind, Sent};
use keyward_runtime::RuntimeError;
use serde_json::{Value, json};

use crate::{fixture::Fixture, guest::Guest};

#[tokio::test]
async fn output_is_what_the_guest_returned() {
    let fixture = Fixture::new(&Guest::echo());
    let input = json!({ "text": "grüße", "n": [1, 2.5, null] });
    let outcome = fixture.call(input.clone()).await.unwrap();
    assert_eq!(outcome.output, input);
    assert_eq!((outcome.stats.requests, outcome.stats.memory_bytes), (0, 65_536));
}

#[tokio::test]
async fn call_never_sees_what_another_left_in_memory() {
    // Returns `0` or `1`, by what it finds at 3000, and leaves something there.
    let fixture = Fixture::new(&Guest::new(
        r#"(i32.store8 (i32.const 3000) (i32.add (i32.load8_u (i32.const 3000)) (i32.const 1)))
           (i32.store8 (i32.const 3001) (i32.add (i32.load8_u (i32.const 3000)) (i32.const 47)))
           (call $ok (i32.const 3001) (i32.const 1))"#,
    ));
    for _ in 0..20 {
        assert_eq!(fixture.call(Value::Null).await.unwrap().output, json!(0));
    }
}

#[tokio::test]
async fn input_that_does_not_match_its_schema_never_reaches_the_guest() {
    let fixture = Fixture::new(&Guest::new("unreachable"))
        .schemas(json!({ "type": "object", "properties": { "n": { "type": "integer" } } }), Value::Null);
    let error = fixture.call(json!({ "n": "one" })).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (InvokeErrorKind::Validation, Reason::InputInvalid));
    assert!(error.message.contains("/n: "), "{}", error.message);
}

#[tokio::test]
async fn output_that_does_not_match_its_schema_is_the_connectors_fault() {
    let fixture = Fixture::new(&Guest::echo()).schemas(Value::Null, json!({ "type": "integer" }));
    let error = fixture.call(json!("one")).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (InvokeErrorKind::Validation, Reason::OutputInvalid));
    let fixture = Fixture::new(&Guest::new("(call $ok (i32.const 48) (i32.const 7))"));
    let error = fixture.failure().await;
    assert_eq!(error.reason, Reason::OutputInvalid);
    assert!(error.message.starts_with("the output is not JSON"), "{}", error.message);
}

#[tokio::test]
async fn panic_is_told_with_its_text_the_call_stack_and_the_last_lines() {
    let fixture = Fixture::new(&Guest::new(
        r#"(call $log (i32.const 2) (i32.const 128) (i32.const 5))
           (call $log (i32.const 4) (i32.const 80) (i32.const 36))
           unreachable"#,
    ));
    let error = fixture.failure().await;
    assert_eq!((error.kind, error.reason, error.sent), (InvokeErrorKind::Guest, Reason::GuestTrap, Sent::No));
    assert_eq!(error.message, "the guest panicked at src/lib.rs:7:9: it broke");
    let backtrace = error.backtrace.unwrap();
    assert!(backtrace.contains("!run"), "{backtrace}");
    assert!(backtrace.ends_with("last log lines:\n  hello\n  panicked at src/lib.rs:7:9: it broke"), "{backtrace}");
    assert_eq!(error.log.len(), 2);
}

/// A name of some hundred bytes that would take 2^60 bytes demangled: each template argument holds the one before it twice.
#[tokio::test]
async fn crash_with_a_name_that_stands_for_too_much_is_told_at_once() {
    let digit = |n: u32| char::from_digit(n % 36, 36).unwrap_or('0').to_ascii_uppercase();
    let place = |n: u32| match n {
        0 => "S_".to_owned(),
        1..=36 => format!("S{}_", digit(n - 1)),
        _ => format!("S{}{}_", digit((n - 1) / 36), digit(n - 1)),
    };
    let levels: String = (0..60).map(|n| format!("S_I{0}{0}E", place(n + 1))).collect();
    let name = format!("_Z1f1AIiiE{levels}");
    let crash = format!("(call ${name}) unreachable) (func ${name} unreachable");
    let fault = format!("(call ${name}) unreachable) (func ${name} (i32.store (i32.const 0x20000000) (i32.const 1))");
    for body in [crash, fault] {
        let fixture = Fixture::new(&Guest::new(&body));
        let (path, digest) = fixture.component();
        fixture.runtime.precompile(&path, &digest).await.unwrap();
        let start = std::time::Instant::now();
        let error = fixture.failure().await;
        assert!(start.elapsed() < std::time::Duration::from_secs(1));
        assert_eq!(error.reason, Reason::GuestTrap);
        assert!(error.backtrace.unwrap().contains("!_Z1f1AIiiE"));
    }
}

#[tokio::test]
async fn log_lines_come_with_the_outcome_and_cannot_forge_others() {
    let fixture = Fixture::new(&Guest::new(
        r#"(call $log (i32.const 3) (i32.const 128) (i32.const 11))
           (call $ok (i32.const 64) (i32.const 4))"#,
    ));
    let log = fixture.call(Value::Null).await.unwrap().log;
    assert_eq!(log.len(), 1);
    assert_eq!((log[0].level, &*log[0].text), (LogLevel::Warn, "hello world"));
}

/// The text that the guests below say.
const SAID: &str = "hello\nworld";

#[tokio::test]
async fn secret_is_taken_out_of_whatever_the_guest_says() {
    let log = "(call $log (i32.const 4) (i32.const 128) (i32.const 11))";
    let panic = "(call $log (i32.const 4) (i32.const 80) (i32.const 36)) unreachable";
    let other = r#"(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 4))
        (i32.store (i32.const 1040) (i32.const 128)) (i32.store (i32.const 1044) (i32.const 11)) (i32.const 1024)"#;

    // As the guest wrote it: a line end may be within what is sought.
    let guest = Guest::new(&format!("{log} (call $ok (i32.const 64) (i32.const 4))"));
    let outcome = Fixture::new(&guest).withholding(Ok(SAID)).call(Value::Null).await.unwrap();
    assert_eq!(outcome.log[0].text, "[redacted]");

    let outcome = Fixture::new(&Guest::echo()).withholding(Ok("hello")).call(json!(["hello"])).await.unwrap();
    assert_eq!(outcome.output, json!(["[redacted]"]));

    let error = Fixture::new(&Guest::new(panic)).withholding(Ok("broke")).failure().await;
    assert_eq!(error.message, "the guest panicked at src/lib.rs:7:9: it [redacted]");
    assert!(error.backtrace.unwrap().ends_with("it [redacted]"));
    assert!(error.log[0].text.ends_with("it [redacted]"));

    let error = Fixture::new(&Guest::new(other)).withholding(Ok(SAID)).failure().await;
    assert_eq!((error.reason, error.message.as_str()), (Reason::ActionFailed, "[redacted]"));
}

#[tokio::test]
async fn output_that_no_longer_fits_tells_that_a_secret_was_in_it() {
    let fixture = Fixture::new(&Guest::echo()).withholding(Ok("1,2,3"));
    let error = fixture.call(json!([1, 2, 3])).await.unwrap_err();
    assert_eq!(error.reason, Reason::OutputInvalid);
    assert!(error.hint.unwrap().contains("secret-echoed"));
}

#[tokio::test]
async fn words_that_cannot_be_cleaned_are_not_told() {
    let failed = SendError::new(SendErrorKind::Other, Reason::StoreFailed, "the audit trail cannot be written");
    for end in ["(call $ok (i32.const 64) (i32.const 4))", "unreachable"] {
        let guest = Guest::new(&format!("(call $log (i32.const 4) (i32.const 128) (i32.const 11)) {end}"));
        let error = Fixture::new(&guest).withholding(Err(failed.clone())).failure().await;
        assert_eq!((error.reason, error.message), (Reason::StoreFailed, failed.message.clone()));
        assert_eq!((error.log, error.backtrace, error.began), (vec![], None, true));
    }
}

#[tokio::test]
async fn more_random_bytes_than_the_contract_says_end_the_call() {
    let fixture = Fixture::new(&Guest::new(
        r#"(call $random (i32.const 4096) (i32.const 2048))
           (if (i32.ne (i32.load (i32.const 2052)) (i32.const 4096)) (then unreachable))
           (call $random (i32.const 4097) (i32.const 2048))
           (call $ok (i32.const 64) (i32.const 4))"#,
    ));
    let error = fixture.failure().await;
    assert_eq!(error.reason, Reason::GuestTrap);
    assert!(error.message.contains("asked for 4097 bytes, and gives at most 4096"), "{}", error.message);
}

#[tokio::test]
async fn component_that_changed_after_it_was_installed_is_refused() {
    let fixture = Fixture::new(&Guest::echo());
    std::fs::write(fixture.component().0, Guest::new("unreachable").build()).unwrap();
    let error = fixture.failure().await;
    assert_eq!(error.reason, Reason::ComponentUnsuitable);
    assert!(error.message.contains("was installed"), "{}", error.message);
}

#[tokio::test]
async fn component_whose_types_do_not_fit_is_refused_when_it_is_compiled() {
    let wit = "package acme:db@1.0.0 { interface query { ask: func(); } }";
    let guest = Guest::echo().imports(
        wit,
        "import acme:db/query@1.0.0;",
        r#"(import "acme:db/query@1.0.0" "ask" (func $ask))"#,
    );
    let bytes = guest.build();
    let error = keyward_runtime::check_component(&bytes).unwrap_err();
    assert!(error.to_string().ends_with("acme:db/query@1.0.0"), "{error}");
    let fixture = Fixture::new(&guest);
    let (path, digest) = fixture.component();
    let error = fixture.runtime.precompile(&path, &digest).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Unsuitable { .. }), "{error}");
    assert!(keyward_runtime::check_component(&Guest::echo().build()).is_ok());
}

#[tokio::test]
async fn component_that_is_larger_than_the_sandbox_is_refused_when_it_is_compiled() {
    let fixture = Fixture::new(&Guest::echo().pages(5_000));
    let (path, digest) = fixture.component();
    let error = fixture.runtime.precompile(&path, &digest).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Unsuitable { .. }), "{error}");
    assert!(error.to_string().contains("does not fit the sandbox"), "{error}");
}

#[tokio::test]
async fn cache_directory_that_others_can_write_to_is_refused() {
    let fixture = Fixture::new(&Guest::echo());
    let open = fixture.directory.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    let config = keyward_runtime::RuntimeConfig {
        cache_dir: open,
        max_concurrent_calls: 1,
        ceiling: keyward_model::manifest::Limits::default_ceiling(),
    };
    let outbound = crate::fixture::closed();
    let error = keyward_runtime::Runtime::new(config, fixture.catalog(), outbound).err().unwrap();
    assert!(matches!(error, RuntimeError::CacheDirectory { .. }), "{error}");
    assert!(error.hint().unwrap().contains("chmod 700"));
}
