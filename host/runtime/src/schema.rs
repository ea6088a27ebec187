//! Checks an action's input and output against the schemas of its manifest.
//!
//! The schemas come from the connector and are checked outside of its sandbox, so they get no more than they
//! need: nothing is fetched for a `$ref`, patterns are small and run in linear time, and what a schema costs is
//! measured before it is used, as is the work of checking a value.

use std::sync::Arc;

use jsonschema::{Draft, PatternOptions, Validator};
use keyward_model::{
    InvokeError, InvokeErrorKind, Reason,
    manifest::Action,
    schema::{Cost, MAX_PATTERN_BYTES, Work, cost},
};
use serde_json::Value;

use crate::{failure::MAX_WORDS, log::for_people};

/// So many faults are told at once.
const MAX_FAULTS: usize = 5;
/// The largest output that is taken, bytes of JSON. It is kept in a flow's journal.
pub(crate) const MAX_OUTPUT: usize = 4 << 20;
/// The most values in an output: each takes up to some hundred bytes of the host's memory, whatever its JSON takes.
const MAX_VALUES: u64 = 200_000;

/// The compiled schemas of one action; where there is none, anything is allowed.
pub(crate) struct Schemas {
    input: Option<Compiled>,
    output: Option<Compiled>,
}

struct Compiled {
    validator: Validator,
    cost: Cost,
}

impl Schemas {
    /// Compiles the schemas of `action`. Blocks for up to a second.
    pub(crate) fn compile(action: &Action) -> Result<Self, InvokeError> {
        Ok(Self { input: compile("input", &action.input)?, output: compile("output", &action.output)? })
    }

    /// Checks what the caller gave; `text` is its JSON.
    pub(crate) async fn check_input(self: &Arc<Self>, input: Value, text: &str) -> Result<(), InvokeError> {
        let work = work(self.input.as_ref(), values(text), text.len());
        let schemas = self.clone();
        let faults = apart(work, move || faults(schemas.input.as_ref(), &input, work)).await?;
        if faults.is_empty() {
            return Ok(());
        }
        let message = format!("the input does not match the action's schema: {faults}");
        Err(InvokeError::new(InvokeErrorKind::Validation, Reason::InputInvalid, for_people(&message, MAX_WORDS)))
    }

    /// Reads and checks what the guest returned.
    pub(crate) async fn read_output(self: &Arc<Self>, text: String) -> Result<Value, InvokeError> {
        let values = values(&text);
        if text.len() > MAX_OUTPUT || values > MAX_VALUES {
            let message = format!(
                "the output has {} bytes with {values} values and keys, the limits are {MAX_OUTPUT} and {MAX_VALUES}",
                text.len()
            );
            return Err(InvokeError::new(InvokeErrorKind::Validation, Reason::OutputInvalid, message)
                .hint("let the action return less, or in pages"));
        }
        let work = work(self.output.as_ref(), values, text.len());
        let schemas = self.clone();
        let read = move || -> Result<Value, String> {
            let output = serde_json::from_str(&text).map_err(|error| format!("the output is not JSON: {error}"))?;
            let faults = faults(schemas.output.as_ref(), &output, work);
            if faults.is_empty() {
                return Ok(output);
            }
            Err(format!("the output does not match the action's schema: {faults}"))
        };
        apart(work, read).await?.map_err(|message| {
            let message = for_people(&message, MAX_WORDS);
            InvokeError::new(InvokeErrorKind::Validation, Reason::OutputInvalid, message)
                .hint("this is a fault of the connector: its author must correct the schema or the action")
        })
    }
}

fn compile(which: &str, schema: &Value) -> Result<Option<Compiled>, InvokeError> {
    if schema.is_null() {
        return Ok(None);
    }
    let fault = |fault: String| {
        let message = format!("the manifest's {which} schema of the action is not usable: {fault}");
        InvokeError::new(InvokeErrorKind::Internal, Reason::ComponentUnsuitable, for_people(&message, MAX_WORDS))
            .hint("this is a fault of the connector: its author must correct the schema")
    };
    let cost = cost(schema).map_err(|error| fault(error.to_string()))?;
    let build = |pattern_bytes| {
        let patterns = PatternOptions::regex().size_limit(pattern_bytes).dfa_size_limit(MAX_PATTERN_BYTES);
        jsonschema::options().with_draft(Draft::Draft202012).with_pattern_options(patterns).build(schema)
    };
    let (validator, cost) = cost.build(build).map_err(|error| fault(error.to_string()))?;
    Ok(Some(Compiled { validator, cost }))
}

/// How many values and keys stand in a JSON text; an empty list or object counts as two.
fn values(text: &str) -> u64 {
    let (mut values, mut in_string, mut escaped) = (1, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b':' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

fn work(schema: Option<&Compiled>, values: u64, bytes: usize) -> Work {
    schema.map_or(Cost::NOTHING, |schema| schema.cost).work(values, bytes)
}

/// Does `job`, on a thread where it may block if it is long. Dropped, it goes on there to its end, which the bound
/// on work keeps near.
async fn apart<T: Send + 'static>(work: Work, job: impl FnOnce() -> T + Send + 'static) -> Result<T, InvokeError> {
    if work.is_quick() {
        return Ok(job());
    }
    tokio::task::spawn_blocking(job).await.map_err(|error| {
        let message = format!("a value could not be checked: {error}");
        InvokeError::new(InvokeErrorKind::Internal, Reason::Internal, message)
    })
}

/// The faults of `value` as one text, each with its JSON pointer and without the value itself, which may be
/// somebody's secret.
fn faults(schema: Option<&Compiled>, value: &Value, work: Work) -> String {
    let Some(Compiled { validator, .. }) = schema else { return String::new() };
    if work.is_too_much() {
        return "it is too large for a schema of this size with these patterns; make it less at once, or the schema \
                smaller"
            .to_owned();
    }
    // The usual case costs one pass and no allocation.
    if validator.is_valid(value) {
        return String::new();
    }
    if !work.may_tell() {
        return "it is too large for this schema to tell where".to_owned();
    }
    let told = |fault: jsonschema::ValidationError<'_>| {
        let pointer = fault.instance_path().as_str();
        let place = if pointer.is_empty() { "at the top" } else { pointer };
        format!("{place}: {}", fault.masked())
    };
    if work.is_quick() {
        validator.iter_errors(value).take(MAX_FAULTS).map(told).collect::<Vec<_>>().join("; ")
    } else {
        // All of them are collected before the first is told, and there may be millions.
        validator.validate(value).err().map(told).unwrap_or_default()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    fn schemas(input: Value, output: Value) -> Result<Arc<Schemas>, InvokeError> {
        let action = json!({ "title": "t", "input": input, "output": output });
        Schemas::compile(&serde_json::from_value(action).unwrap()).map(Arc::new)
    }

    async fn check(schemas: &Arc<Schemas>, input: Value) -> Result<(), InvokeError> {
        let text = input.to_string();
        schemas.check_input(input, &text).await
    }

    #[tokio::test]
    async fn fault_names_its_pointer_and_hides_the_value() {
        let schema =
            json!({ "type": "object", "properties": { "a": { "items": { "type": "integer" } } }, "required": ["b"] });
        let schemas = schemas(schema, Value::Null).unwrap();
        let error = check(&schemas, json!({ "a": [1, "canary"] })).await.unwrap_err();
        assert_eq!((error.kind, error.reason), (InvokeErrorKind::Validation, Reason::InputInvalid));
        assert!(error.message.contains("/a/1: ") && error.message.contains("at the top: "), "{}", error.message);
        assert!(!error.message.contains("canary"), "{}", error.message);
        assert_eq!(check(&schemas, json!({ "a": [], "b": 0 })).await, Ok(()));
    }

    #[tokio::test]
    async fn missing_schema_allows_anything() {
        let schemas = schemas(Value::Null, Value::Null).unwrap();
        assert_eq!(check(&schemas, json!([1, { "a": null }])).await, Ok(()));
    }

    #[test]
    fn schema_that_points_elsewhere_is_refused_and_nothing_is_fetched() {
        for reference in ["http://127.0.0.1:9/schema.json", "file:///etc/passwd"] {
            let error = schemas(json!({ "$ref": reference }), Value::Null).err().unwrap();
            assert_eq!(error.reason, Reason::ComponentUnsuitable);
        }
    }

    #[test]
    fn pattern_that_could_take_for_ever_or_much_memory_is_refused() {
        let start = std::time::Instant::now();
        let large: serde_json::Map<_, _> =
            (0..200).map(|i| (format!("p{i}"), json!({ "pattern": format!("\\pL{{100}}x{i}") }))).collect();
        for schema in [json!({ "pattern": "^(a+)+\\1$" }), json!({ "properties": large })] {
            let error = schemas(schema, Value::Null).err().unwrap();
            assert_eq!(error.reason, Reason::ComponentUnsuitable);
        }
        assert!(start.elapsed().as_secs() < 1);
    }

    /// Patterns that no automaton of a bounded size matches at once, of about 60 KiB each.
    fn slow_patterns(count: usize) -> Value {
        let patterns =
            (850..850 + count).map(|times| json!({"not": {"pattern": format!("[01]*1[01]{{{times}}}[23]")}}));
        json!({ "allOf": patterns.collect::<Vec<_>>() })
    }

    /// A JSON string of zeros and ones without a rule.
    fn bits(length: usize) -> String {
        let mut state = 88_172_645_463_325_252_u64;
        let bits = (0..length).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state.is_multiple_of(2) { '0' } else { '1' }
        });
        format!("\"{}\"", bits.collect::<String>())
    }

    #[tokio::test]
    async fn text_that_patterns_would_take_for_ever_to_match_is_refused_at_once() {
        let schemas = schemas(Value::Null, slow_patterns(10)).unwrap();
        let start = std::time::Instant::now();
        let error = schemas.read_output(bits(1_000_000)).await.unwrap_err();
        assert_eq!(error.reason, Reason::OutputInvalid);
        assert!(error.message.contains("too large for a schema"), "{}", error.message);
        assert!(start.elapsed().as_secs() < 1, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn matching_that_takes_long_does_not_hold_up_other_work() {
        let schemas = schemas(Value::Null, slow_patterns(1)).unwrap();
        let limit = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(limit, schemas.read_output(bits(20_000))).await.is_err());
        assert!(schemas.read_output(bits(20_000)).await.is_ok());
    }

    #[tokio::test]
    async fn simple_patterns_take_the_largest_output() {
        let schemas = schemas(Value::Null, json!({ "items": { "pattern": "^[a-z]+$" } })).unwrap();
        let items = vec!["x".repeat(1000); 4000];
        assert!(schemas.read_output(json!(items).to_string()).await.is_ok());
    }

    #[test]
    fn references_that_stand_for_too_much_are_refused() {
        let level = |level: usize| {
            let next = json!({ "$ref": format!("#/$defs/a{}", level + 1) });
            (format!("a{level}"), json!({ "allOf": [next, next] }))
        };
        let levels: serde_json::Map<_, _> = (0..40).map(level).chain([("a40".to_owned(), json!({}))]).collect();
        let error = schemas(Value::Null, json!({ "$ref": "#/$defs/a0", "$defs": levels })).err().unwrap();
        assert_eq!(error.reason, Reason::ComponentUnsuitable);
        assert!(error.message.contains("refers to itself too often"), "{}", error.message);
    }

    #[tokio::test]
    async fn output_of_too_many_values_is_refused_before_it_is_read() {
        let schemas = schemas(Value::Null, json!({ "items": { "type": "integer" } })).unwrap();
        let numbers = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert!(schemas.read_output(numbers(150_000)).await.is_ok());
        for text in [numbers(200_000), "{".repeat(300_000), format!("\"{}\"", "x".repeat(MAX_OUTPUT))] {
            let error = schemas.read_output(text).await.unwrap_err();
            assert_eq!(error.reason, Reason::OutputInvalid);
            assert_eq!(error.hint.as_deref(), Some("let the action return less, or in pages"));
        }
    }

    #[tokio::test]
    async fn faults_of_many_values_are_told_in_few_words() {
        let schema = json!({ "items": { "type": "integer" }, "additionalProperties": false });
        let schemas = schemas(Value::Null, schema).unwrap();
        let long = json!({ "x".repeat(100_000): 0 }).to_string();
        for text in [format!("[{}0]", "{},".repeat(90_000)), long] {
            let error = schemas.read_output(text).await.unwrap_err();
            assert!(error.message.starts_with("the output does not match"), "{}", error.message);
            assert!(error.message.len() < 2 * MAX_WORDS, "{}", error.message.len());
        }
    }

    #[tokio::test]
    async fn one_fault_is_told_where_all_would_take_much_memory() {
        let names: Vec<_> = (0..1000).map(|number| format!("n{number}")).collect();
        let schemas = schemas(Value::Null, json!({ "items": { "required": names } })).unwrap();
        for (items, told) in [(1, MAX_FAULTS), (100, 1)] {
            let error = schemas.read_output(json!(vec![json!({}); items]).to_string()).await.unwrap_err();
            assert_eq!(error.message.matches("required property").count(), told, "{}", error.message);
        }
    }

    #[test]
    fn values_are_counted_outside_of_strings() {
        for (text, count) in [("1", 1), ("[]", 2), (r#"{"a":[1,2]}"#, 5), (r#"["[,:{\"[,"]"#, 2), (r#""\\","#, 2)] {
            assert_eq!(values(text), count, "{text}");
        }
    }
}
