//! Bodies that are written and read chunk by chunk.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use keyward_model::{Body, GuestResponse, InvokeErrorKind, Reason, SendError, SendErrorKind, Sent};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use crate::{
    fixture::{Fixture, denied, response, whole},
    guest::Guest,
};

/// Writes the input in two chunks, then returns the response's body, read three bytes at a time.
fn stream(length: i64) -> Guest {
    Guest::new(&format!(
        r#"(local $exchange i32) (local $end i32)
        (call $start_post (local.get $connection) (i64.const {length}))
        (if (call $is_error) (then (return (call $failed))))
        (local.set $exchange (i32.load (i32.const 2056)))
        (call $write (local.get $exchange) (local.get $input) (i32.const 2) (i32.const 2048))
        (if (call $is_error) (then (return (call $failed))))
        (call $write (local.get $exchange) (i32.add (local.get $input) (i32.const 2))
          (i32.sub (local.get $input_len) (i32.const 2)) (i32.const 2048))
        (if (call $is_error) (then (return (call $failed))))
        {READ}"#
    ))
}

/// Finishes and reads.
const READ: &str = r#"
        (call $finish (local.get $exchange) (i32.const 2048))
        (if (call $is_error) (then (return (call $failed))))
        (if (i32.ne (i32.load16_u (i32.const 2056)) (i32.const 207)) (then unreachable))
        (local.set $end (i32.const 32768))
        (loop $more
          (call $read (local.get $exchange) (i32.const 3) (i32.const 2048))
          (if (call $is_error) (then (return (call $failed))))
          (if (i32.load8_u (i32.const 2056)) (then
            (if (i32.gt_u (i32.load (i32.const 2064)) (i32.const 3)) (then unreachable))
            (memory.copy (local.get $end) (i32.load (i32.const 2060)) (i32.load (i32.const 2064)))
            (local.set $end (i32.add (local.get $end) (i32.load (i32.const 2064))))
            (br $more))))
        (call $ok (i32.const 32768) (i32.sub (local.get $end) (i32.const 32768)))"#;

#[tokio::test]
async fn body_streams_out_and_response_streams_in() {
    for declared in [-1, 14] {
        let fixture = Fixture::answering(&stream(declared), move |request| async move {
            let Body::Stream { length, mut chunks } = request.body else { panic!("not a stream") };
            assert_eq!(length, u64::try_from(declared).ok());
            // Sends back each chunk as it comes.
            let first = chunks.next().await.unwrap()?;
            assert_eq!(&first[..], b"\"s");
            let body = futures_util::stream::iter([Ok(first)]).chain(chunks).boxed();
            Ok(GuestResponse { status: 207, headers: vec![], body })
        });
        let outcome = fixture.call(json!("streamed-all")).await.unwrap();
        assert_eq!(outcome.output, json!("streamed-all"));
        assert_eq!((outcome.stats.requests, outcome.stats.request_bytes, outcome.stats.response_bytes), (1, 14, 14));
    }
}

#[tokio::test]
async fn refusal_comes_before_any_chunk() {
    // A guest that would crash if it came as far as its first chunk.
    let guest = Guest::new(
        r#"(call $start_post (local.get $connection) (i64.const -1))
           (if (call $is_error) (then (return (call $failed))))
           unreachable"#,
    );
    let error = Fixture::new(&guest).failure().await;
    assert_eq!((error.kind, error.reason, error.sent), (InvokeErrorKind::Denied, denied().reason, Sent::No));
    assert_eq!(error.hint, denied().hint);
}

#[tokio::test]
async fn start_returns_as_soon_as_the_body_is_asked_for() {
    // The server answers only when it has the whole body, so a `start` that waited for that would wait for ever.
    let fixture = Fixture::answering(&stream(-1), |request| async move {
        let body = whole(request.body).await?;
        Ok(response(207, &[&String::from_utf8(body).unwrap()]))
    });
    assert_eq!(fixture.call(json!("all of it")).await.unwrap().output, json!("all of it"));
}

#[tokio::test]
async fn start_returns_with_an_answer_that_came_without_the_body() {
    let guest = Guest::new(&format!(
        r#"(local $exchange i32) (local $end i32)
        (call $start_post (local.get $connection) (i64.const -1))
        (if (call $is_error) (then (return (call $failed))))
        (local.set $exchange (i32.load (i32.const 2056)))
        {READ}"#
    ));
    let fixture = Fixture::answering(&guest, |request| async move {
        // The body is kept, as a connection does that may still send it, and not read.
        let body = futures_util::stream::once(async move {
            drop(request);
            Ok("7".into())
        });
        Ok(GuestResponse { status: 207, headers: vec![], body: body.boxed() })
    });
    assert_eq!(fixture.call(Value::Null).await.unwrap().output, json!(7));
}

#[tokio::test]
async fn request_without_body_streams_its_response() {
    let guest = Guest::new(&format!(
        r#"(local $exchange i32) (local $end i32)
        (call $start_get (local.get $connection))
        (if (call $is_error) (then (return (call $failed))))
        (local.set $exchange (i32.load (i32.const 2056)))
        {READ}"#
    ));
    let fixture = Fixture::answering(&guest, |request| async move {
        assert!(matches!(request.body, Body::Empty));
        Ok(response(207, &["[1,", "", "2,3", "]"]))
    });
    assert_eq!(fixture.call(Value::Null).await.unwrap().output, json!([1, 2, 3]));
    let error = Fixture::new(&guest).failure().await;
    assert_eq!(error.kind, InvokeErrorKind::Denied);
}

#[tokio::test]
async fn answer_before_the_whole_body_is_an_answer() {
    let fixture = Fixture::answering(&stream(-1), |request| async move {
        let Body::Stream { mut chunks, .. } = request.body else { panic!("not a stream") };
        chunks.next().await;
        Ok(response(207, &["\"enough\""]))
    });
    assert_eq!(fixture.call(json!("a long body")).await.unwrap().output, json!("enough"));
}

/// The server answers, keeps the connection and reads no more.
#[tokio::test]
async fn refusal_in_the_middle_ends_the_upload_and_reaches_the_guest() {
    // Writes the same chunk a thousand times, and once more after the head.
    let guest = |after: &str| {
        Guest::new(&format!(
            r#"(local $exchange i32) (local $end i32) (local $n i32)
            (call $start_post (local.get $connection) (i64.const -1))
            (if (call $is_error) (then (return (call $failed))))
            (local.set $exchange (i32.load (i32.const 2056)))
            (loop $again
              (call $write (local.get $exchange) (local.get $input) (local.get $input_len) (i32.const 2048))
              (if (call $is_error) (then (return (call $failed))))
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br_if $again (i32.lt_u (local.get $n) (i32.const 1000))))
            {}"#,
            READ.replace("207", "413").replacen("(local.set $end", &format!("{after} (local.set $end"), 1)
        ))
    };
    let refuse = |read_first: bool| {
        move |request: keyward_model::GuestRequest| async move {
            let Body::Stream { mut chunks, .. } = request.body else { panic!("not a stream") };
            if read_first {
                chunks.next().await.unwrap()?;
            }
            // Ends in an error where the guest's body was closed or taken for whole.
            let kept = async move {
                let next = futures_util::FutureExt::now_or_never(async { while chunks.next().await.is_some() {} });
                assert!(next.is_none(), "the body has ended");
                Ok("\"too large\"".into())
            };
            Ok(GuestResponse { status: 413, headers: vec![], body: futures_util::stream::once(kept).boxed() })
        }
    };
    for read_first in [true, false] {
        let fixture = Fixture::answering(&guest(""), refuse(read_first));
        let outcome = fixture.call(json!("a chunk")).await.unwrap();
        assert_eq!(outcome.output, json!("too large"));
    }
    let late = "(call $write (local.get $exchange) (local.get $input) (local.get $input_len) (i32.const 2048))";
    let error = Fixture::answering(&guest(late), refuse(true)).call(json!("a chunk")).await.unwrap_err();
    assert!(error.message.contains("write was called after exchange.finish"), "{}", error.message);
}

#[tokio::test]
async fn failure_in_the_middle_reaches_the_guest_at_its_next_word() {
    let lost =
        || SendError::new(SendErrorKind::Unreachable, Reason::Unreachable, "the server is gone").sent(Sent::Maybe);
    let while_writing = Fixture::answering(&stream(-1), move |request| async move {
        let Body::Stream { mut chunks, .. } = request.body else { panic!("not a stream") };
        chunks.next().await;
        Err(lost())
    });
    let while_reading = Fixture::answering(&stream(-1), move |request| async move {
        whole(request.body).await?;
        let body = futures_util::stream::iter([Ok("12".into()), Err(lost().sent(Sent::Yes))]).boxed();
        Ok(GuestResponse { status: 207, headers: vec![], body })
    });
    for (fixture, sent) in [(while_writing, Sent::Maybe), (while_reading, Sent::Yes)] {
        let error = fixture.call(json!("a long body")).await.unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (InvokeErrorKind::Communication, "the server is gone"));
        assert_eq!(error.sent, sent);
    }
}

#[tokio::test]
async fn body_of_another_length_than_declared_is_never_completed() {
    for (declared, words) in [
        (15, "wrote 14 bytes of a body that it declared as 15"),
        (13, "wrote 14 bytes of a body that it declared as 13"),
    ] {
        let completed = Arc::new(Notify::new());
        let fixture = Fixture::answering(&stream(declared), {
            let completed = completed.clone();
            move |request| {
                let completed = completed.clone();
                async move {
                    whole(request.body).await?;
                    completed.notify_one();
                    Ok(response(207, &[]))
                }
            }
        });
        let error = fixture.call(json!("streamed-all")).await.unwrap_err();
        assert_eq!((error.reason, error.sent), (Reason::GuestTrap, Sent::Maybe));
        assert!(error.message.contains(words), "{}", error.message);
        drop(fixture);
        assert!(futures_util::FutureExt::now_or_never(completed.notified()).is_none());
    }
}

#[tokio::test]
async fn words_in_the_wrong_order_end_the_call() {
    let started = "(local $exchange i32) (call $start_get (local.get $connection)) (local.set $exchange (i32.load (i32.const 2056)))";
    let finish = "(call $finish (local.get $exchange) (i32.const 2048))";
    let read = "(call $read (local.get $exchange) (i32.const 3) (i32.const 2048))";
    let write = "(call $write (local.get $exchange) (i32.const 64) (i32.const 4) (i32.const 2048))";
    for (order, words) in [
        (vec![read], "read was called before exchange.finish"),
        (vec![finish, finish], "finish was called twice"),
        (vec![finish, read, finish], "finish was called twice"),
        (vec![finish, write], "write was called after exchange.finish"),
        (vec![write], "started without a body"),
    ] {
        let body = format!("{started} {} unreachable", order.join(" "));
        let fixture = Fixture::answering(&Guest::new(&body), |_| async { Ok(response(207, &["{}"])) });
        let error = fixture.failure().await;
        assert_eq!(error.reason, Reason::GuestTrap);
        assert!(error.message.contains(words), "{} instead of {words}", error.message);
    }
}

/// A stream may panic when it is asked on after its end, and `io::Read` of the SDK may well ask.
#[tokio::test]
async fn reading_on_after_the_end_is_the_end_again() {
    let read = "(call $read (local.get $exchange) (i32.const 3) (i32.const 2048)) (if (call $is_error) (then unreachable)) (if (i32.load8_u (i32.const 2056)) (then unreachable))";
    let guest = Guest::new(&format!(
        r#"(local $exchange i32)
        (call $start_get (local.get $connection))
        (local.set $exchange (i32.load (i32.const 2056)))
        (call $finish (local.get $exchange) (i32.const 2048))
        {read} {read} {read}
        (call $ok (i32.const 64) (i32.const 4))"#
    ));
    let fixture = Fixture::answering(&guest, |_| async {
        let body = futures_util::stream::unfold((), |()| async { None });
        Ok(GuestResponse { status: 207, headers: vec![], body: body.boxed() })
    });
    fixture.call(Value::Null).await.unwrap();
}

#[tokio::test]
async fn exchange_ends_with_its_call() {
    let guest = Guest::new("(call $start_post (local.get $connection) (i64.const -1)) unreachable");
    /// Tells when the exchange's task is dropped; only what is alive then can tell anything else before.
    struct OnDrop(mpsc::UnboundedSender<&'static str>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            let _ = self.0.send("dropped");
        }
    }
    let (tell, mut told) = mpsc::unbounded_channel();
    let fixture = Fixture::answering(&guest, move |request| {
        let tell = tell.clone();
        async move {
            let dropped = OnDrop(tell.clone());
            let Body::Stream { mut chunks, .. } = request.body else { panic!("not a stream") };
            tell.send("entered").unwrap();
            // The call may end before the task is dropped; then the body was cut off, and that is an error.
            match chunks.next().await {
                Some(Err(_)) => {}
                _ => tell.send("the body went on").unwrap(),
            }
            std::future::pending::<()>().await;
            drop(dropped);
            Err(denied())
        }
    });
    let error = fixture.failure().await;
    assert_eq!((error.reason, error.sent), (Reason::GuestTrap, Sent::Maybe));
    let mut next = async || tokio::time::timeout(Duration::from_secs(10), told.recv()).await.unwrap();
    assert_eq!((next().await, next().await), (Some("entered"), Some("dropped")));
}

/// The part that was written may lie in a connection's task by then, which nobody aborts.
#[tokio::test]
async fn body_that_the_guest_did_not_finish_ends_in_an_error() {
    let start = "(local $exchange i32) (call $start_post (local.get $connection) (i64.const -1)) (local.set $exchange (i32.load (i32.const 2056)))";
    let write = "(call $write (local.get $exchange) (local.get $input) (local.get $input_len) (i32.const 2048))";
    let dropped = "(call $drop (local.get $exchange)) (call $ok (i32.const 64) (i32.const 4))";
    for end in ["unreachable", dropped, "(loop $again (br $again)) unreachable"] {
        let guest = Guest::new(&format!("{start} {write} {end}"));
        let (tell, mut told) = mpsc::unbounded_channel();
        let fixture = Fixture::answering(&guest, move |request| {
            let tell = tell.clone();
            async move {
                tokio::spawn(async move { tell.send(whole(request.body).await) });
                std::future::pending().await
            }
        });
        let fixture = fixture.limits(|limits| (limits.cpu_ms, limits.request_bytes) = (20, 100));
        let _ = fixture.call(json!("a part")).await;
        assert!(told.recv().await.unwrap().is_err(), "a part was taken for the whole after {end}");
        // More than the call may send.
        let _ = fixture.call(json!("x".repeat(200))).await;
        assert!(told.recv().await.unwrap().is_err());
    }
}
