//! Components that other tools made, and what they get of WASI.

use keyward_model::{InvokeErrorKind, LogLevel, Reason};
use serde_json::Value;

use crate::{fixture::Fixture, guest::Guest};

const WIT: &str = r#"
package wasi:io@0.2.3 {
  interface error { resource error; }
  interface poll { resource pollable; }
  interface streams {
    use error.{error};
    variant stream-error { last-operation-failed(error), closed }
    resource output-stream { blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>; }
  }
}
package wasi:cli@0.2.3 {
  interface stdout { use wasi:io/streams@0.2.3.{output-stream}; get-stdout: func() -> output-stream; }
  interface stderr { use wasi:io/streams@0.2.3.{output-stream}; get-stderr: func() -> output-stream; }
  interface environment {
    get-environment: func() -> list<tuple<string, string>>;
    get-arguments: func() -> list<string>;
  }
  interface exit { exit: func(status: result); }
}
package wasi:filesystem@0.2.3 {
  interface types { resource descriptor; }
  interface preopens { use types.{descriptor}; get-directories: func() -> list<tuple<descriptor, string>>; }
}
package wasi:sockets@0.2.3 {
  interface network { resource network; }
  interface instance-network { use network.{network}; instance-network: func() -> network; }
  interface tcp {
    use network.{network};
    use wasi:io/poll@0.2.3.{pollable};
    resource tcp-socket { subscribe: func() -> pollable; }
  }
}
"#;

#[tokio::test]
async fn standard_output_and_error_go_to_the_log_by_lines() {
    let guest = Guest::new(
        r#"(local $out i32)
           (local.set $out (call $stdout))
           (call $print (local.get $out) (i32.const 128) (i32.const 5) (i32.const 2048))
           (call $print (local.get $out) (i32.const 133) (i32.const 16) (i32.const 2048))
           (call $print (call $stderr) (i32.const 80) (i32.const 8) (i32.const 2048))
           (call $ok (i32.const 64) (i32.const 4))"#,
    )
    .imports(
        WIT,
        "import wasi:cli/stdout@0.2.3; import wasi:cli/stderr@0.2.3; import wasi:io/streams@0.2.3;",
        r#"(import "wasi:cli/stdout@0.2.3" "get-stdout" (func $stdout (result i32)))
           (import "wasi:cli/stderr@0.2.3" "get-stderr" (func $stderr (result i32)))
           (import "wasi:io/streams@0.2.3" "[method]output-stream.blocking-write-and-flush"
             (func $print (param i32 i32 i32 i32)))"#,
    );
    let log = Fixture::new(&guest).call(Value::Null).await.unwrap().log;
    let lines: Vec<_> = log.iter().map(|line| (line.level, &*line.text)).collect();
    assert_eq!(lines, [(LogLevel::Info, "hello"), (LogLevel::Info, "world, and more"), (LogLevel::Warn, "panicked")]);
}

#[tokio::test]
async fn environment_arguments_and_files_are_empty() {
    // Crashes if any of the three lists has an entry.
    let guest = Guest::new(
        r#"(call $environment (i32.const 2048)) (if (i32.load (i32.const 2052)) (then unreachable))
           (call $arguments (i32.const 2048)) (if (i32.load (i32.const 2052)) (then unreachable))
           (call $directories (i32.const 2048)) (if (i32.load (i32.const 2052)) (then unreachable))
           (call $ok (i32.const 64) (i32.const 4))"#,
    )
    .imports(
        WIT,
        "import wasi:cli/environment@0.2.3; import wasi:filesystem/preopens@0.2.3;",
        r#"(import "wasi:cli/environment@0.2.3" "get-environment" (func $environment (param i32)))
           (import "wasi:cli/environment@0.2.3" "get-arguments" (func $arguments (param i32)))
           (import "wasi:filesystem/preopens@0.2.3" "get-directories" (func $directories (param i32)))"#,
    );
    assert_eq!(Fixture::new(&guest).call(Value::Null).await.unwrap().output, Value::Null);
}

/// A guest that can use sockets, and does if its input is not `null`.
fn with_sockets() -> Guest {
    Guest::new(
        r#"(if (i32.gt_u (local.get $input_len) (i32.const 4)) (then (drop (call $network)) (drop (call $subscribe (i32.const 0)))))
           (call $ok (i32.const 64) (i32.const 4))"#,
    )
    .imports(
        WIT,
        "import wasi:io/poll@0.2.3; import wasi:sockets/instance-network@0.2.3; import wasi:sockets/tcp@0.2.3;",
        r#"(import "wasi:sockets/instance-network@0.2.3" "instance-network" (func $network (result i32)))
           (import "wasi:sockets/tcp@0.2.3" "[method]tcp-socket.subscribe" (func $subscribe (param i32) (result i32)))"#,
    )
}

#[tokio::test]
async fn component_that_imports_sockets_runs_until_it_uses_one() {
    let fixture = Fixture::new(&with_sockets());
    assert_eq!(fixture.call(Value::Null).await.unwrap().output, Value::Null);
    let error = fixture.call("use one".into()).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (InvokeErrorKind::Guest, Reason::GuestTrap));
    assert!(
        error.message.starts_with(
            "the guest called wasi:sockets/instance-network@0.2.3#instance-network, and a connector has no sockets"
        ),
        "{}",
        error.message
    );
    assert!(error.backtrace.unwrap().contains("!run"));
}

#[tokio::test]
async fn guest_that_exits_is_told_as_that() {
    let guest = Guest::new("(call $exit (i32.const 1)) unreachable").imports(
        WIT,
        "import wasi:cli/exit@0.2.3;",
        r#"(import "wasi:cli/exit@0.2.3" "exit" (func $exit (param i32)))"#,
    );
    let error = Fixture::new(&guest).failure().await;
    assert_eq!(error.message, "the guest ended itself with exit code 1");
}
