//! Whether the JSON Schemas in a manifest can be used at all, so that a broken one is told when the
//! connector is installed and not when it is first called.

use jsonschema::PatternOptions;
use serde_json::Value;

/// Checks one schema (JSON Schema 2020-12); `null` stands for none. References outside the schema are
/// never fetched. Patterns must be of the kind that is matched in linear time: the text that a
/// connector's pattern is matched against comes from others, and a back-reference or look-around makes
/// the host's time grow beyond every limit of the call.
pub(crate) fn check(schema: &Value) -> Result<(), String> {
    match schema {
        Value::Null => Ok(()),
        Value::Object(_) | Value::Bool(_) => jsonschema::draft202012::options()
            .with_pattern_options(PatternOptions::regex())
            .build(schema)
            .map(|_| ())
            .map_err(|error| {
                // The error repeats the faulty part, which may be all of it.
                error.to_string().chars().take(200).collect()
            }),
        _ => Err("it must be an object".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::check;

    #[test]
    fn usable_schemas_pass() {
        for schema in [
            json!(null),
            json!(true),
            json!({}),
            json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string", "pattern": "^[a-z]+$"}}}),
        ] {
            assert_eq!(check(&schema), Ok(()));
        }
    }

    #[test]
    fn broken_schemas_are_refused_and_nothing_is_fetched() {
        for schema in [
            json!("text"),
            json!({"type": "nothing"}),
            json!({"type": 1}),
            json!({"$ref": "https://example.com/schema.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"$ref": "#/$defs/missing"}),
            json!({"pattern": "("}),
            json!({"pattern": "^(a+)+\\1$"}),
        ] {
            assert!(check(&schema).is_err(), "{schema} passed");
        }
    }
}
