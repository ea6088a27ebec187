//! Guests as WebAssembly text, made into components here.
//!
//! A guest is the body of `run` with these parts around it:
//!
//! | place | what |
//! |---|---|
//! | 0 | the strings of [`STRINGS`] |
//! | 1024 | what `run` returns: `result<string, action-error>` |
//! | 2048 | what a function of the host returned |
//! | 4096 | the heap, which only grows |
//!
//! `run` has the parameters `$action $action_len $input $input_len $key $key_len $attempt $connection`.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Strings that a body can use, by their offset.
const STRINGS: &[(u32, &str)] = &[
    (0, "GET"),
    (16, "POST"),
    (32, "api"),
    (48, "/things"),
    (64, "null"),
    (80, "panicked at src/lib.rs:7:9: it broke"),
    (128, "hello\nworld, and more"),
];

const FRAME: &str = r#"
(module
  (import "keyward:connector/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  (import "keyward:connector/clock@0.1.0" "monotonic" (func $monotonic (result i64)))
  (import "keyward:connector/random@0.1.0" "bytes" (func $random (param i32 i32)))
  (import "keyward:connector/http@0.1.0" "[method]connection.send"
    (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "keyward:connector/http@0.1.0" "[method]connection.start"
    (func $start (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32)))
  (import "keyward:connector/http@0.1.0" "[method]exchange.write" (func $write (param i32 i32 i32 i32)))
  (import "keyward:connector/http@0.1.0" "[method]exchange.finish" (func $finish (param i32 i32)))
  (import "keyward:connector/http@0.1.0" "[method]exchange.read" (func $read (param i32 i32 i32)))
  (import "keyward:connector/http@0.1.0" "[resource-drop]exchange" (func $drop (param i32)))
  IMPORTS
  (memory (export "memory") PAGES)
  STRINGS
  (global $heap (mut i32) (i32.const 4096))
  (global $stack (mut i32) (i32.const 4096))

  (func $alloc (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
    (local $start i32)
    (local.set $start (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $start) (local.get $size)))
    (if (i32.gt_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16)))))))
    (local.get $start))

  (func $ok (param $ptr i32) (param $len i32) (result i32)
    (i32.store8 (i32.const 1024) (i32.const 0))
    (i32.store (i32.const 1032) (local.get $ptr))
    (i32.store (i32.const 1036) (local.get $len))
    (i32.const 1024))

  ;; Passes the error at 2048 on as `action-error.http`.
  (func $failed (result i32)
    (i32.store8 (i32.const 1024) (i32.const 1))
    (i32.store8 (i32.const 1032) (i32.const 2))
    (memory.copy (i32.const 1040) (i32.const 2056) (i32.const 48))
    (i32.const 1024))

  ;; Whether the function of the host failed.
  (func $is_error (result i32) (i32.load8_u (i32.const 2048)))

  (func $get (param $connection i32)
    (call $send (local.get $connection) (i32.const 0) (i32.const 3)
      (i32.const 0) (i32.const 32) (i32.const 3) (i32.const 48) (i32.const 7)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2048)))

  (func $post (param $connection i32) (param $body i32) (param $len i32)
    (call $send (local.get $connection) (i32.const 16) (i32.const 4)
      (i32.const 0) (i32.const 32) (i32.const 3) (i32.const 48) (i32.const 7)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 1) (local.get $body) (local.get $len) (i32.const 2048)))

  ;; `length` of -1 is none.
  (func $start_post (param $connection i32) (param $length i64)
    (call $start (local.get $connection) (i32.const 16) (i32.const 4)
      (i32.const 0) (i32.const 32) (i32.const 3) (i32.const 48) (i32.const 7)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (i64.ge_s (local.get $length) (i64.const 0)) (local.get $length) (i32.const 2048)))

  (func $start_get (param $connection i32)
    (call $start (local.get $connection) (i32.const 0) (i32.const 3)
      (i32.const 0) (i32.const 32) (i32.const 3) (i32.const 48) (i32.const 7)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 0) (i64.const 0) (i32.const 2048)))

  (func $run (export "keyward:connector/actions@0.1.0#run")
    (param $action i32) (param $action_len i32) (param $input i32) (param $input_len i32)
    (param $key i32) (param $key_len i32) (param $attempt i32) (param $connection i32) (result i32)
    BODY)
)
"#;

/// A guest under construction.
pub(crate) struct Guest {
    pages: u32,
    world: String,
    imports: String,
    body: String,
}

impl Guest {
    /// A guest that does `body` when it is called.
    pub(crate) fn new(body: &str) -> Self {
        Self { pages: 1, world: String::new(), imports: String::new(), body: body.to_owned() }
    }

    /// Returns its input.
    pub(crate) fn echo() -> Self {
        Self::new("(call $ok (local.get $input) (local.get $input_len))")
    }

    /// Starts with so many pages of memory.
    pub(crate) fn pages(mut self, pages: u32) -> Self {
        self.pages = pages;
        self
    }

    /// Imports more: `wit` holds the packages, `world` the imports, `imports` the core imports.
    pub(crate) fn imports(mut self, wit: &str, world: &str, imports: &str) -> Self {
        self.world = format!(
            "package test:guest;\nworld guest {{\n  include keyward:connector/connector@0.1.0;\n{world}\n}}\n{wit}"
        );
        self.imports = imports.to_owned();
        self
    }

    /// The component.
    pub(crate) fn build(&self) -> Vec<u8> {
        let strings: String = STRINGS.iter().map(|(at, text)| format!("(data (i32.const {at}) {text:?})\n")).collect();
        let text = FRAME
            .replace("IMPORTS", &self.imports)
            .replace("PAGES", &self.pages.to_string())
            .replace("STRINGS", &strings)
            .replace("BODY", &self.body);
        let mut module = wat::parse_str(&text).unwrap();
        let mut resolve = Resolve::default();
        let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/connector.wit");
        let (contract, world) = (resolve.push_file(wit).unwrap(), "connector");
        let (package, world) = match &*self.world {
            "" => (contract, world),
            world => (resolve.push_str("guest.wit", world).unwrap(), "guest"),
        };
        let world = resolve.select_world(&[package], Some(world)).unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
    }
}
