//! Whether the JSON Schemas in a manifest can be used at all, so that a broken one is told when the
//! connector is installed and not when it is first called.

use jsonschema::PatternOptions;
use keyward_model::schema::{MAX_PATTERN_BYTES, cost};
use serde_json::Value;

/// Checks one schema (JSON Schema 2020-12); `null` stands for none. References outside the schema are
/// never fetched. Patterns must be of the kind that is matched in linear time: the text that a
/// connector's pattern is matched against comes from others, and a back-reference or look-around makes
/// the host's time grow beyond every limit of the call. What it costs to check a value is measured for
/// the same reason ([`keyward_model::schema`]).
pub(crate) fn check(schema: &Value) -> Result<(), String> {
    match schema {
        Value::Null => Ok(()),
        Value::Object(_) | Value::Bool(_) => {
            cost(schema).map_err(|fault| fault.to_string())?;
            let patterns = PatternOptions::regex().size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES);
            let built = jsonschema::draft202012::options().with_pattern_options(patterns).build(schema);
            built.map(|_| ()).map_err(|error| {
                // The error repeats the faulty part, which may be all of it.
                error.to_string().chars().take(200).collect()
            })
        }
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
    fn schema_that_would_take_for_ever_is_refused_at_once() {
        let start = std::time::Instant::now();
        let level = |level: usize| {
            let next = json!({"$ref": format!("#/$defs/a{}", level + 1)});
            (format!("a{level}"), json!({"allOf": [next, next]}))
        };
        let mut levels: serde_json::Map<_, _> = (0..40).map(level).collect();
        levels.insert("a40".to_owned(), json!({}));
        let patterns: serde_json::Map<_, _> =
            (0..300).map(|i| (format!("p{i}"), json!({"pattern": format!("\\pL{{100}}x{i}")}))).collect();
        for schema in [json!({"$ref": "#/$defs/a0", "$defs": levels}), json!({"properties": patterns})] {
            assert!(check(&schema).is_err());
        }
        assert!(start.elapsed().as_secs() < 1);
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
            json!({"pattern": "\\pL{100}"}),
        ] {
            assert!(check(&schema).is_err(), "{schema} passed");
        }
    }
}
