//! What a guest may learn of its requests, and what the caller learns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use keyward_model::{GuestResponse, InvokeErrorKind, Reason, SendError, SendErrorKind, Sent, Target};
use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, denied, response, whole},
    guest::Guest,
};

/// Posts the input and returns the response's body, or passes the error on.
const POST: &str = r#"
(call $post (local.get $connection) (local.get $input) (local.get $input_len))
(if (call $is_error) (then (return (call $failed))))
(call $ok (i32.load (i32.const 2068)) (i32.load (i32.const 2072)))"#;

#[tokio::test]
async fn request_reaches_the_way_out_as_the_guest_made_it() {
    let fixture = Fixture::answering(&Guest::new(POST), |request| async move {
        assert_eq!(request.method, "POST");
        assert_eq!(request.target, Target::Endpoint { endpoint: "api".into(), path: "/things".into() });
        assert!(request.query.is_empty() && request.headers.is_empty());
        let body = String::from_utf8(whole(request.body).await?).unwrap();
        let (first, second) = body.split_at(3);
        Ok(response(201, &[first, second]))
    });
    let outcome = fixture.call(json!("payload")).await.unwrap();
    assert_eq!(outcome.output, json!("payload"));
    let stats = outcome.stats;
    assert_eq!((stats.requests, stats.request_bytes, stats.response_bytes), (1, 9, 9));
}

#[tokio::test]
async fn error_that_the_guest_passes_on_keeps_the_hosts_words() {
    let rate = SendErrorKind::RateLimited { retry_after: Some(Duration::from_secs(7)) };
    let scope = SendErrorKind::InsufficientScope { missing: vec!["repo".into()] };
    let expected_scope = InvokeErrorKind::InsufficientScope { missing: vec!["repo".into()] };
    let cases = [
        (denied(), InvokeErrorKind::Denied, Sent::No),
        (SendError::new(scope, Reason::InsufficientScope, "lacks"), expected_scope, Sent::No),
        (
            SendError::new(SendErrorKind::ReconnectRequired, Reason::ReconnectRequired, "again"),
            InvokeErrorKind::Connection,
            Sent::No,
        ),
        (SendError::new(rate, Reason::RateLimited, "slow").sent(Sent::Yes), InvokeErrorKind::RateLimited, Sent::Yes),
        (
            SendError::new(SendErrorKind::Timeout, Reason::Timeout, "late").sent(Sent::Maybe),
            InvokeErrorKind::Timeout,
            Sent::Maybe,
        ),
        (
            SendError::new(SendErrorKind::Unreachable, Reason::TlsFailed, "tls"),
            InvokeErrorKind::Communication,
            Sent::No,
        ),
    ];
    for (told, kind, sent) in cases {
        let fixture = Fixture::answering(&Guest::new(POST), {
            let told = told.clone();
            move |_| {
                let told = told.clone();
                async { Err(told) }
            }
        });
        let error = fixture.failure().await;
        assert_eq!(
            (&error.kind, error.reason, &error.message, &error.hint),
            (&kind, told.reason, &told.message, &told.hint)
        );
        assert_eq!(error.sent, sent);
        let delay = matches!(kind, InvokeErrorKind::RateLimited).then_some(Duration::from_secs(7));
        assert_eq!(error.retry_after, delay);
    }
}

#[tokio::test]
async fn guest_cannot_speak_for_the_gate() {
    // Builds `action-error.http(denied({reason: "api", message: "/things", sent: no}))` by itself.
    let guest = Guest::new(
        r#"(i32.store8 (i32.const 2048) (i32.const 1))
           (i32.store8 (i32.const 2056) (i32.const 2))
           (i32.store (i32.const 2064) (i32.const 32)) (i32.store (i32.const 2068) (i32.const 3))
           (i32.store (i32.const 2072) (i32.const 48)) (i32.store (i32.const 2076) (i32.const 7))
           (call $failed)"#,
    );
    let error = Fixture::new(&guest).failure().await;
    assert_eq!((error.kind, error.reason), (InvokeErrorKind::Action { code: "http".into() }, Reason::ActionFailed));
    assert_eq!(error.message, "/things");
}

/// Posts without end.
const FLOOD: &str = r#"(loop $again
  (call $post (local.get $connection) (i32.const 64) (i32.const 4))
  (br $again))
  unreachable"#;

#[tokio::test]
async fn flood_of_denied_requests_ends_the_call_and_the_rest_is_told_once() {
    let fixture = Fixture::new(&Guest::new(FLOOD)).limits(|limits| limits.requests = 1_000_000);
    let error = fixture.failure().await;
    assert_eq!((&error.kind, error.reason, error.sent), (&InvokeErrorKind::Denied, Reason::DenialLimit, Sent::No));
    assert_eq!(
        error.message,
        "the call was ended, because 32 of its requests were denied, at last: no declared request has this path (path-not-allowed)"
    );
    assert_eq!(error.hint, denied().hint);
}

/// Posts so often, and is content with whatever comes of it. The count is in its memory, beyond what the host returns.
fn posting(requests: u32) -> Guest {
    Guest::new(&format!(
        "(loop $again
           (call $post (local.get $connection) (i32.const 64) (i32.const 4))
           (i32.store (i32.const 4000) (i32.add (i32.load (i32.const 4000)) (i32.const 1)))
           (br_if $again (i32.lt_u (i32.load (i32.const 4000)) (i32.const {requests}))))
         (call $ok (i32.const 64) (i32.const 4))"
    ))
}

#[tokio::test]
async fn guest_that_is_done_after_a_flood_has_no_output() {
    for (requests, reason) in [(31, None), (32, Some(Reason::DenialLimit))] {
        let fixture = Fixture::new(&posting(requests));
        let outcome = fixture.call(Value::Null).await;
        assert_eq!(outcome.err().map(|error| error.reason), reason, "{requests}");
        assert_eq!(fixture.refused(), [], "each has a record of its own");
    }
}

#[tokio::test]
async fn requests_that_could_not_wait_end_nothing_and_the_rest_of_them_is_told_once() {
    for (requests, told) in [(32, &[][..]), (40, &[Reason::RateLimited])] {
        let fixture = Fixture::answering(&posting(requests), |_| async {
            Err(SendError::new(SendErrorKind::RateLimited { retry_after: None }, Reason::RateLimited, "slow"))
        });
        assert_eq!(fixture.call(Value::Null).await.unwrap().output, Value::Null);
        assert_eq!(fixture.refused(), told);
    }
}

#[tokio::test]
async fn crash_after_a_write_says_that_it_was_sent() {
    let guest = Guest::new("(call $post (local.get $connection) (i32.const 64) (i32.const 4)) unreachable");
    let fixture = Fixture::answering(&guest, |_| async { Ok(response(200, &[])) });
    let error = fixture.failure().await;
    assert_eq!((error.reason, error.sent), (Reason::GuestTrap, Sent::Yes));
}

#[tokio::test]
async fn bodies_beyond_their_limits_are_refused() {
    let fixture = Fixture::answering(&Guest::new(POST), |_| async { Ok(response(200, &["1234", "5678"])) });
    let fixture = fixture.limits(|limits| (limits.request_bytes, limits.response_bytes) = (8, 7));
    let error = fixture.call(json!("123456")).await.unwrap_err();
    assert_eq!((error.kind, error.reason, error.sent), (InvokeErrorKind::Communication, Reason::TooLarge, Sent::Yes));
    assert!(error.message.contains("responses are larger than 7"), "{}", error.message);
    let error = fixture.call(json!("1234567")).await.unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::UploadLimit, Sent::No));
    assert!(error.message.contains("requests are larger than 8"), "{}", error.message);
    assert_eq!(fixture.refused(), [Reason::UploadLimit]);
    let fixture = fixture.limits(|limits| limits.response_bytes = 8);
    assert_eq!(fixture.call(Value::Null).await.unwrap().output, json!(12_345_678));
}

/// A server that sends without end, to a call that may receive without end.
#[tokio::test]
async fn whole_response_is_no_larger_than_the_guests_memory() {
    let pulled = Arc::new(AtomicUsize::new(0));
    let fixture = Fixture::answering(&Guest::new(POST), {
        let pulled = pulled.clone();
        move |_| {
            let pulled = pulled.clone();
            async move {
                let chunks = std::iter::repeat_with(move || {
                    pulled.fetch_add(64 << 10, Ordering::Relaxed);
                    Ok(vec![0; 64 << 10].into())
                });
                Ok(GuestResponse { status: 200, headers: Vec::new(), body: futures_util::stream::iter(chunks).boxed() })
            }
        }
    });
    let fixture = fixture.limits(|limits| (limits.memory_bytes, limits.response_bytes) = (4 << 20, 16 << 30));
    let error = fixture.failure().await;
    assert_eq!((error.reason, error.sent), (Reason::TooLarge, Sent::Yes), "{}", error.message);
    assert!(error.message.ends_with("the call's memory of 4194304 bytes"), "{}", error.message);
    assert!(error.hint.unwrap().contains("connection.start"));
    assert!(pulled.load(Ordering::Relaxed) <= (4 << 20) + (64 << 10), "{pulled:?} bytes were read");
}
