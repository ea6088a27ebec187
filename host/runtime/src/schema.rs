//! Checks an action's input and output against the schemas of its manifest.
//!
//! The schemas come from the connector and are checked outside of its sandbox, so they get no more than they
//! need: nothing is fetched for a `$ref`, and patterns run in linear time.

use jsonschema::{Draft, PatternOptions, Validator};
use keyward_model::{InvokeError, InvokeErrorKind, Reason, manifest::Action};
use serde_json::Value;

/// So many faults are told at once.
const MAX_FAULTS: usize = 5;

/// The compiled schemas of one action.
pub(crate) struct Schemas {
    input: Option<Validator>,
    output: Option<Validator>,
}

impl Schemas {
    /// Compiles the schemas of `action`; one that the manifest leaves out allows anything.
    pub(crate) fn compile(action: &Action) -> Result<Self, InvokeError> {
        Ok(Self { input: compile("input", &action.input)?, output: compile("output", &action.output)? })
    }

    /// Checks what the caller gave.
    pub(crate) fn check_input(&self, input: &Value) -> Result<(), InvokeError> {
        let faults = faults(self.input.as_ref(), input);
        if faults.is_empty() {
            return Ok(());
        }
        let message = format!("the input does not match the action's schema: {faults}");
        Err(InvokeError::new(InvokeErrorKind::Validation, Reason::InputInvalid, message))
    }

    /// Checks what the guest returned.
    pub(crate) fn check_output(&self, output: &Value) -> Result<(), InvokeError> {
        let faults = faults(self.output.as_ref(), output);
        if faults.is_empty() {
            return Ok(());
        }
        let message = format!("the output does not match the action's schema: {faults}");
        Err(InvokeError::new(InvokeErrorKind::Validation, Reason::OutputInvalid, message)
            .hint("this is a fault of the connector: its author must correct the schema or the action"))
    }
}

fn compile(which: &str, schema: &Value) -> Result<Option<Validator>, InvokeError> {
    if schema.is_null() {
        return Ok(None);
    }
    let validator = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|fault| {
            let message = format!("the manifest's {which} schema of the action is not valid: {fault}");
            InvokeError::new(InvokeErrorKind::Internal, Reason::ComponentUnsuitable, message)
                .hint("this is a fault of the connector: its author must correct the schema")
        })?;
    Ok(Some(validator))
}

/// The faults of `value` as one text, each with its JSON pointer and without the value itself, which may be
/// somebody's secret.
fn faults(validator: Option<&Validator>, value: &Value) -> String {
    let Some(validator) = validator else { return String::new() };
    // The usual case costs one pass and no allocation.
    if validator.is_valid(value) {
        return String::new();
    }
    let faults = validator.iter_errors(value).take(MAX_FAULTS).map(|fault| {
        let pointer = fault.instance_path().as_str();
        let place = if pointer.is_empty() { "at the top" } else { pointer };
        format!("{place}: {}", fault.masked())
    });
    faults.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    fn action(input: Value) -> Action {
        serde_json::from_value(json!({ "title": "t", "input": input })).unwrap()
    }

    #[test]
    fn fault_names_its_pointer_and_hides_the_value() {
        let schema =
            json!({ "type": "object", "properties": { "a": { "items": { "type": "integer" } } }, "required": ["b"] });
        let schemas = Schemas::compile(&action(schema)).unwrap();
        let error = schemas.check_input(&json!({ "a": [1, "canary"] })).unwrap_err();
        assert_eq!((error.kind, error.reason), (InvokeErrorKind::Validation, Reason::InputInvalid));
        assert!(error.message.contains("/a/1: ") && error.message.contains("at the top: "), "{}", error.message);
        assert!(!error.message.contains("canary"), "{}", error.message);
        assert_eq!(schemas.check_input(&json!({ "a": [], "b": 0 })), Ok(()));
    }

    #[test]
    fn missing_schema_allows_anything() {
        let schemas = Schemas::compile(&action(Value::Null)).unwrap();
        assert_eq!(schemas.check_input(&json!([1, { "a": null }])), Ok(()));
    }

    #[test]
    fn schema_that_points_elsewhere_is_refused_and_nothing_is_fetched() {
        for reference in ["http://127.0.0.1:9/schema.json", "file:///etc/passwd"] {
            let error = Schemas::compile(&action(json!({ "$ref": reference }))).err().unwrap();
            assert_eq!(error.reason, Reason::ComponentUnsuitable);
        }
    }

    #[test]
    fn pattern_that_would_run_for_ever_is_refused_or_quick() {
        let schemas = Schemas::compile(&action(json!({ "type": "string", "pattern": "^(a+)+$" }))).unwrap();
        assert!(schemas.check_input(&json!(format!("{}b", "a".repeat(5_000)))).is_err());
    }
}
