//! From a guest's core module to a component, and what the guest says about its actions.
//!
//! A connector in Rust is built twice from the same source, so that what is shipped holds no code that makes schemas:
//!
//! 1. `cargo rustc --release --target wasm32-unknown-unknown --lib --crate-type cdylib -- --cfg keyward_describe`
//!    gives a module that exports `keyward_describe`. [`describe`] calls it and gets each action's name, doc comment
//!    and schemas.
//! 2. `cargo rustc --release --target wasm32-unknown-unknown --lib --crate-type cdylib -- -C link-arg=-zstack-size=65536`
//!    gives the module to ship. [`componentize`] makes a component of it. (A small stack keeps a fresh instance cheap;
//!    one that overflows traps.)
//!
//! Both land in `<target>/wasm32-unknown-unknown/release/<crate>.wasm`, the second in the first one's place, so a
//! module is read before the next build. Manifest and schemas are then joined by `keyward_registry::artifact::embed`.
//!
//! The guest is its author's, who may be anybody: it runs here without imports but its log, with limits on memory and
//! work, and what it says is checked before it is believed.

use std::collections::BTreeSet;

use keyward_model::ActionName;
use serde::Deserialize;
use serde_json::Value;
use wasmtime::{
    Caller, Config, Engine, Extern, Linker, Memory, Module, OptLevel, Store, StoreLimits, StoreLimitsBuilder, Trap,
    TypedFunc, WasmBacktrace, WasmBacktraceDetails,
};
use wit_component::ComponentEncoder;

use crate::{
    RuntimeError,
    backtrace::frames,
    failure::{MAX_WORDS, PANICKED},
    log::for_people,
};

/// The export that tells about the actions: `() -> i64`, the address of the text in the upper 32 bits, its length in
/// bytes in the lower.
const DESCRIBE: &str = "keyward_describe";

/// The interface of the contract whose `write` is served to a guest that describes itself: without it a panic would
/// be a trap without a text. The version follows.
const LOG: &str = "keyward:connector/log@";

/// How wit-bindgen calls the custom sections that say what a core module's imports and exports mean.
const COMPONENT_TYPE: &str = "component-type:";

/// The largest text that is taken, bytes: ten thousand actions with generous schemas.
const MAX_TEXT: usize = 32 << 20;

/// The most linear memory that a guest may use to describe itself, bytes.
const MAX_MEMORY: usize = 256 << 20;

/// The most work that a guest may do to describe itself, units of wasmtime's fuel (about one for an instruction):
/// some seconds.
const MAX_FUEL: u64 = 5_000_000_000;

/// What a guest says about one of its actions.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionDescription {
    /// The action's name; it is one that a manifest may have.
    pub name: String,
    /// The function's doc comment, one paragraph a line; it may be empty.
    #[serde(default)]
    pub doc: String,
    /// JSON Schema (2020-12) of the input; a valid one.
    pub input: Value,
    /// JSON Schema (2020-12) of the output; a valid one.
    pub output: Value,
}

/// Asks a core module that was built with `--cfg keyward_describe` about its actions.
///
/// # Errors
/// [`RuntimeError::Unsuitable`] where the module is none that can be asked or its answer is not usable,
/// [`RuntimeError::Guest`] where it crashes or breaks a limit.
pub async fn describe(core_module: &[u8]) -> Result<Vec<ActionDescription>, RuntimeError> {
    let module = core_module.to_vec();
    // Compiling and running keep a processor busy for up to seconds, which the async workers must not be.
    let task = tokio::task::spawn_blocking(move || {
        check_is_core_module(&module)?;
        read_descriptions(&ask(&module, MAX_FUEL)?, &OF_A_MODULE)
    });
    match task.await {
        Ok(outcome) => outcome,
        Err(error) => Err(RuntimeError::Engine { message: error.to_string(), hint: None }),
    }
}

/// Reads what a person wrote about the actions of a component that another tool made: a JSON array of
/// [`ActionDescription`].
///
/// # Errors
/// [`RuntimeError::Unsuitable`] where the text is no such array, or a name or schema in it is not valid.
pub fn read_actions(text: &[u8]) -> Result<Vec<ActionDescription>, RuntimeError> {
    read_descriptions(text, &OF_A_FILE)
}

/// Makes a component of a core module.
///
/// # Errors
/// [`RuntimeError::Unsuitable`] where the module is not of the world `keyward:connector/connector`.
pub fn componentize(core_module: &[u8]) -> Result<Vec<u8>, RuntimeError> {
    if !check_is_core_module(core_module)? {
        return Err(RuntimeError::unsuitable(
            "the module says nothing about the interfaces of a component",
            "does the crate depend on keyward-sdk and use `keyward::connector!(...)`?",
        ));
    }
    let component = ComponentEncoder::default()
        .validate(true)
        .module(core_module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| {
            RuntimeError::unsuitable(
                format!("the module cannot be made a component: {error:#}"),
                "build it for the target wasm32-unknown-unknown: its imports must be those of the connector world alone",
            )
        })?;
    crate::check_component(&component)?;
    Ok(component)
}

/// Refuses what is no core module; tells whether it says what its interfaces are.
fn check_is_core_module(bytes: &[u8]) -> Result<bool, RuntimeError> {
    let malformed = |error: wasmparser::BinaryReaderError| {
        RuntimeError::unsuitable(
            format!("this is no WebAssembly module: {error}"),
            "give the .wasm file that cargo built for wasm32-unknown-unknown",
        )
    };
    let mut typed = false;
    for payload in wasmparser::Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            wasmparser::Payload::Version { encoding: wasmparser::Encoding::Component, .. } => {
                return Err(RuntimeError::unsuitable(
                    "this is a component already, not a core module",
                    "build for the target wasm32-unknown-unknown, or add the component as it is",
                ));
            }
            wasmparser::Payload::CustomSection(section) => typed |= section.name().starts_with(COMPONENT_TYPE),
            _ => {}
        }
    }
    Ok(typed)
}

/// Runs the export, with so much fuel, and copies its text out.
fn ask(module: &[u8], fuel: u64) -> Result<Vec<u8>, RuntimeError> {
    let mut config = Config::new();
    // The code runs once.
    config.consume_fuel(true).cranelift_opt_level(OptLevel::None);
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    let engine =
        Engine::new(&config).map_err(|error| RuntimeError::Engine { message: format!("{error:#}"), hint: None })?;
    let module = Module::new(&engine, module).map_err(|error| {
        RuntimeError::unsuitable(
            format!("the module is not valid: {error:#}"),
            "build it with a Rust toolchain for wasm32-unknown-unknown, without experimental WebAssembly features",
        )
    })?;
    if module.get_export(DESCRIBE).is_none() {
        return Err(RuntimeError::unsuitable(
            format!("the module does not export `{DESCRIBE}`"),
            format!("build it with `-- --cfg {DESCRIBE}`; does the crate use `keyward::connector!(...)`?"),
        ));
    }

    let limits = StoreLimitsBuilder::new()
        .memory_size(MAX_MEMORY)
        .table_elements(1 << 20)
        .instances(1)
        .memories(1)
        .tables(16)
        .trap_on_grow_failure(true)
        .build();
    let mut store = Store::new(&engine, Asked { limits, panic: None });
    store.limiter(|asked| &mut asked.limits);
    store.set_fuel(fuel).map_err(|error| crashed(&error, &store))?;
    let linker = linker(&engine, &module).map_err(|error| crashed(&error, &store))?;
    let instance = linker.instantiate(&mut store, &module).map_err(|error| crashed(&error, &store))?;
    let export: TypedFunc<(), u64> = instance.get_typed_func(&mut store, DESCRIBE).map_err(|error| {
        RuntimeError::unsuitable(format!("`{DESCRIBE}` is not what it should be: {error:#}"), UPDATE)
    })?;
    let place = export.call(&mut store, ()).map_err(|error| crashed(&error, &store))?;
    let Some(memory) = instance.get_memory(&mut store, "memory") else {
        return Err(RuntimeError::unsuitable("the module does not export its memory", UPDATE));
    };
    copy_out(&memory, &store, place)
}

const UPDATE: &str = "leave the export to `keyward::connector!(...)` of the SDK of this release";

/// What a guest may use while it is asked, and the panic that it told of.
struct Asked {
    limits: StoreLimits,
    panic: Option<String>,
}

/// Types and doc comments are known without the host: whatever is asked of it is refused, but for a panic's text.
fn linker(engine: &Engine, module: &Module) -> wasmtime::Result<Linker<Asked>> {
    let mut linker = Linker::new(engine);
    // A module may import the same thing twice.
    linker.allow_shadowing(true);
    for import in module.imports().filter(|import| import.module().starts_with(LOG) && import.name() == "write") {
        linker.func_wrap(import.module(), import.name(), listen)?;
    }
    linker.define_unknown_imports_as_traps(module)?;
    Ok(linker)
}

/// `log.write` as a core module sees it; the text's address and length.
fn listen(mut caller: Caller<'_, Asked>, _level: u32, address: u32, length: u32) {
    let Some(memory) = caller.get_export("memory").and_then(Extern::into_memory) else { return };
    let Some(rest) = memory.data(&caller).get(address as usize..) else { return };
    let text = String::from_utf8_lossy(&rest[..rest.len().min(length as usize).min(MAX_WORDS)]);
    if text.starts_with(PANICKED) {
        let panic = for_people(&text, MAX_WORDS);
        caller.data_mut().panic = Some(panic);
    }
}

fn copy_out(memory: &Memory, store: &Store<Asked>, place: u64) -> Result<Vec<u8>, RuntimeError> {
    let (address, length) = ((place >> 32) as usize, place as u32 as usize);
    if length > MAX_TEXT {
        return Err(RuntimeError::unsuitable(
            format!("the descriptions are {length} bytes long, more than the {MAX_TEXT} that are taken"),
            "split the connector",
        ));
    }
    let text = memory.data(store).get(address..).and_then(|rest| rest.get(..length));
    text.map(<[u8]>::to_vec)
        .ok_or_else(|| RuntimeError::unsuitable("the descriptions lie outside the module's memory", UPDATE))
}

/// What to do about faulty descriptions, which depends on where they come from.
struct Advice {
    format: &'static str,
    name: &'static str,
    schema: &'static str,
}

const OF_A_MODULE: Advice = Advice {
    format: UPDATE,
    name: "name it with `#[action(name = \"...\")]`",
    schema: "look at the `#[schemars(...)]` attributes of its type",
};

const OF_A_FILE: Advice = Advice {
    format: "write an array of `{\"name\": \"...\", \"input\": {...}, \"output\": {...}}`, one for each action",
    name: "name it as connector.toml does",
    schema: "write JSON Schema of 2020-12",
};

fn read_descriptions(text: &[u8], advice: &Advice) -> Result<Vec<ActionDescription>, RuntimeError> {
    let descriptions: Vec<ActionDescription> = serde_json::from_slice(text).map_err(|error| {
        RuntimeError::unsuitable(format!("the descriptions cannot be read: {error}"), advice.format)
    })?;
    let mut names = BTreeSet::new();
    for action in &descriptions {
        if let Err(error) = action.name.parse::<ActionName>() {
            return Err(RuntimeError::unsuitable(error.to_string(), advice.name));
        }
        if !names.insert(&action.name) {
            return Err(RuntimeError::unsuitable(format!("two actions are named `{}`", action.name), "rename one"));
        }
        for (what, schema) in [("input", &action.input), ("output", &action.output)] {
            if let Err(error) = jsonschema::draft202012::meta::validate(schema) {
                let message = format!(
                    "the {what} of `{}` has no valid schema: {error} at {:?}",
                    action.name,
                    error.instance_path().as_str()
                );
                return Err(RuntimeError::unsuitable(message, advice.schema));
            }
        }
    }
    Ok(descriptions)
}

/// An error of the guest's run, in words for its author.
fn crashed(error: &wasmtime::Error, store: &Store<Asked>) -> RuntimeError {
    let message = match (error.downcast_ref::<Trap>(), &store.data().panic) {
        (Some(Trap::OutOfFuel), _) => "it did not come to an end in describing itself".to_owned(),
        (Some(_), Some(panic)) => format!("it {panic}"),
        (Some(trap), None) => trap.to_string(),
        (None, _) => for_people(&error.root_cause().to_string(), MAX_WORDS),
    };
    let backtrace =
        error.downcast_ref().map(|backtrace: &WasmBacktrace| frames(backtrace).collect::<Vec<_>>().join("\n"));
    RuntimeError::Guest { message, backtrace }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const GREET: &str = r#"[{"name":"greet","doc":"Greets.","input":{"type":"object"},"output":true}]"#;

    /// A module whose memory holds `text` at 16 and whose export has this body.
    fn module(text: &str, body: &str) -> Vec<u8> {
        let data: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        wat::parse_str(format!(
            r#"(module
                (import "keyward:connector/clock@0.1.0" "wall" (func $wall (result i64)))
                (import "keyward:connector/log@0.1.0" "write" (func $log (param i32 i32 i32)))
                (memory (export "memory") 1)
                (data (i32.const 16) "{data}")
                (func (export "keyward_describe") (result i64) {body}))"#
        ))
        .unwrap()
    }

    fn place(address: u64, length: usize) -> String {
        format!("(i64.const {})", address << 32 | length as u64)
    }

    fn describing(text: &str) -> Vec<u8> {
        module(text, &place(16, text.len()))
    }

    async fn message(module: &[u8]) -> String {
        describe(module).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn descriptions_are_read_from_linear_memory() {
        let actions = describe(&describing(GREET)).await.unwrap();
        assert_eq!(actions.len(), 1);
        assert_eq!((actions[0].name.as_str(), actions[0].doc.as_str()), ("greet", "Greets."));
        assert_eq!(actions[0].input, serde_json::json!({"type": "object"}));
    }

    #[tokio::test]
    async fn lying_about_place_or_length_is_refused() {
        for (address, length, expected) in [
            (16, 65_536, "outside the module's memory"),
            (65_536, 1, "outside the module's memory"),
            (0xffff_ffff, 0x1f_ffff, "outside the module's memory"),
            (16, 0xffff_ffff, "more than the"),
            (16, 3, "cannot be read"),
            (0, 16, "cannot be read"),
        ] {
            let message = message(&module(GREET, &place(address, length))).await;
            assert!(message.contains(expected), "{address} {length}: {message}");
        }
    }

    #[tokio::test]
    async fn answer_that_is_not_usable_is_refused() {
        let deep = format!("{}{}", "[".repeat(100_000 / 2), "]".repeat(10));
        for (text, expected) in [
            ("", "cannot be read"),
            ("\u{0}", "cannot be read"),
            ("{}", "cannot be read"),
            (r#"[{"name":"a"}]"#, "missing field"),
            (r#"[{"name":"a","doc":"","input":{},"output":{},"more":1}]"#, "unknown field"),
            (r#"[{"name":"A b","doc":"","input":{},"output":{}}]"#, "not a valid action name"),
            (
                r#"[{"name":"a","doc":"","input":{},"output":{}},{"name":"a","doc":"","input":{},"output":{}}]"#,
                "two actions",
            ),
            (r#"[{"name":"a","doc":"","input":{"type":"thing"},"output":{}}]"#, "the input of `a` has no valid schema"),
            (r#"[{"name":"a","doc":"","input":{},"output":7}]"#, "the output of `a` has no valid schema"),
            (deep.as_str(), "cannot be read"),
        ] {
            let message = message(&describing(text)).await;
            assert!(message.contains(expected), "{}: {message}", &text[..text.len().min(80)]);
        }
    }

    #[test]
    fn guest_without_end_memory_or_manners_is_stopped() {
        let in_start = |text| wat::parse_str(format!(r#"(module {text} (func (export "keyward_describe")))"#)).unwrap();
        for (module, expected) in [
            (module(GREET, "(loop (br 0)) (i64.const 0)"), "did not come to an end"),
            (module(GREET, "(drop (memory.grow (i32.const 8192))) (i64.const 0)"), "memory"),
            (module(GREET, "(call $wall)"), "has not been defined"),
            (module(GREET, "unreachable"), "unreachable"),
            (in_start("(func $f (loop (br 0))) (start $f)"), "did not come to an end"),
            (in_start("(memory 60000)"), "memory"),
        ] {
            let error = ask(&module, 1_000_000).unwrap_err();
            assert!(matches!(error, RuntimeError::Guest { .. }), "{error:?}");
            assert!(error.to_string().contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn panic_in_describing_is_told_with_its_text() {
        let text = "panicked at src/lib.rs:7:9: no such type";
        let log = |length: usize| format!("(call $log (i32.const 4) (i32.const 16) (i32.const {length}))");
        for (length, expected) in [(text.len(), text), (usize::MAX >> 32, text), (3, "unreachable")] {
            let error = ask(&module(text, &format!("{} unreachable", log(length))), 1_000_000).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        let outside = "(call $log (i32.const 4) (i32.const -1) (i32.const -1)) unreachable";
        assert!(ask(&module(text, outside), 1_000_000).unwrap_err().to_string().contains("unreachable"));
    }

    #[tokio::test]
    async fn module_that_cannot_be_asked_is_told_why() {
        for (text, expected) in [
            ("(module)", "does not export `keyward_describe`"),
            (r#"(module (func (export "keyward_describe")))"#, "is not what it should be"),
            (r#"(module (func (export "keyward_describe") (result i64) (i64.const 0)))"#, "does not export its memory"),
            ("(component)", "this is a component already"),
        ] {
            let message = message(&wat::parse_str(text).unwrap()).await;
            assert!(message.contains(expected), "{text}: {message}");
        }
        assert!(message(b"#!/bin/sh").await.contains("this is no WebAssembly module"));
        assert!(message(b"").await.contains("this is no WebAssembly module"));
    }

    #[test]
    fn only_a_module_that_tells_its_interfaces_becomes_a_component() {
        let bare = wat::parse_str("(module)").unwrap();
        let error = componentize(&bare).unwrap_err();
        assert!(error.hint().unwrap().contains("keyward::connector!"), "{error:?}");
        let component = wat::parse_str("(component)").unwrap();
        assert!(componentize(&component).unwrap_err().to_string().contains("a component already"));
        let lying = wat::parse_str(r#"(module (@custom "component-type:x" "nonsense"))"#).unwrap();
        assert!(componentize(&lying).unwrap_err().to_string().contains("cannot be made a component"));
    }
}
