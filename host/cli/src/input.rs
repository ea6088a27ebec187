//! The input of an action or a flow, from a file, standard input or `name=value` arguments.

use std::{io, path::Path};

use serde_json::{Map, Value};

use crate::{
    failure::{Exit, Failure},
    files, suggest,
};

/// Reads `--input`: JSON text, `@file`, or `-` for standard input. Without it the input is an empty object.
pub(crate) async fn read(argument: Option<&str>) -> Result<Value, Failure> {
    let (text, origin) = match argument {
        None => return Ok(Value::Object(Map::new())),
        Some("-") => {
            let text = files::waiting(|| {
                let bytes = files::read_bounded(io::stdin().lock())?;
                String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))
            });
            let text = text.await.map_err(|error| {
                Failure::new(Exit::BadInput, "input-unreadable", "cannot read the input from standard input")
                    .because(&error)
            })?;
            (text, "standard input".to_owned())
        }
        Some(argument) => match argument.strip_prefix('@') {
            Some(path) => (files::read_text(Path::new(path))?, path.to_owned()),
            None => (argument.to_owned(), "--input".to_owned()),
        },
    };
    serde_json::from_str(&text).map_err(|error| {
        Failure::new(Exit::BadInput, "input-not-json", format!("{origin} is not valid JSON")).because(&error).hint(
            "give JSON text, '@<file>' or '-'; for an action you may also write name=value, and name:=value for JSON",
        )
    })
}

/// Puts `name=value` and `name:=json` arguments into `input`. A value is read as the type that `schema`
/// gives to the property; where it gives none, or text, the value is taken as text. `what` has the input:
/// an action or a flow.
pub(crate) fn with_arguments(
    mut input: Value,
    arguments: &[String],
    schema: &Value,
    what: &str,
) -> Result<Value, Failure> {
    if arguments.is_empty() {
        return Ok(input);
    }
    let Value::Object(object) = &mut input else {
        return Err(Failure::new(Exit::Usage, "input-not-object", "name=value needs an input that is a JSON object"));
    };
    for argument in arguments {
        let (name, value) = assignment(argument, schema, what)?;
        object.insert(name, value);
    }
    Ok(input)
}

/// What a schema asks for, as it is written at the command line: `owner=<string> [page=<integer>]`.
pub(crate) fn usage(schema: &Value) -> Option<String> {
    let properties = schema.get("properties")?.as_object().filter(|properties| !properties.is_empty())?;
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let inputs = properties.iter().map(|(name, property)| {
        let mut types = types_of(property, schema, 0);
        types.retain(|kind| *kind != "null");
        let (equals, kind) = match types[..] {
            [] => ("=", "any".to_owned()),
            // What is no single word is written as JSON.
            ["array" | "object"] => (":=", types.join("|")),
            _ => ("=", types.join("|")),
        };
        let input = format!("{name}{equals}<{kind}>");
        if required.contains(&name.as_str()) { input } else { format!("[{input}]") }
    });
    Some(inputs.collect::<Vec<_>>().join(" "))
}

fn assignment(argument: &str, schema: &Value, what: &str) -> Result<(String, Value), Failure> {
    let wrong = |message: String| Failure::new(Exit::Usage, "argument-invalid", message);
    let (name, text) = argument.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
        wrong(format!("{argument:?} gives the {what} no input"))
            .hint("write name=value, or name:=value where the value is JSON")
    })?;
    if let Some(name) = name.strip_suffix(':') {
        let value = serde_json::from_str(text)
            .map_err(|error| wrong(format!("the value of {name} is not valid JSON")).because(&error))?;
        return Ok((name.to_owned(), value));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let Some(property) = properties.and_then(|properties| properties.get(name)) else {
        // Where the schema lists properties, a name that is not there is a typo, unless it says that there are others.
        let others = schema.get("additionalProperties").is_some_and(|others| *others != Value::Bool(false));
        if let Some(properties) = properties.filter(|_| !others) {
            return Err(wrong(format!("the {what} has no input {name:?}"))
                .maybe_hint(suggest::hint(name, properties.keys().map(String::as_str))));
        }
        return Ok((name.to_owned(), Value::String(text.to_owned())));
    };
    let types = types_of(property, schema, 0);
    typed(text, &types).map(|value| (name.to_owned(), value)).ok_or_else(|| {
        wrong(format!("{name} must be {}, and {text:?} is not", types.join(" or ")))
            .hint(format!("for a list or an object write {name}:=<JSON>"))
    })
}

/// `text` as the first of `types` that it can be read as.
fn typed(text: &str, types: &[&str]) -> Option<Value> {
    // Text comes last: with ["string", "null"] the word null is nothing, with ["integer", "string"] 5 is a number.
    let read = |kind: &&str| match *kind {
        "null" => (text == "null").then_some(Value::Null),
        "boolean" => text.parse().ok().map(Value::Bool),
        "integer" => text.parse::<i64>().ok().map(Value::from).or_else(|| text.parse::<u64>().ok().map(Value::from)),
        "number" => serde_json::from_str(text).ok().filter(Value::is_number),
        "array" => serde_json::from_str(text).ok().filter(Value::is_array),
        "object" => serde_json::from_str(text).ok().filter(Value::is_object),
        _ => None,
    };
    types
        .iter()
        .find_map(read)
        .or_else(|| (types.is_empty() || types.contains(&"string")).then(|| Value::String(text.to_owned())))
}

/// The JSON types that a property may have, as far as they can be told: none means any.
fn types_of<'a>(property: &'a Value, root: &'a Value, depth: u8) -> Vec<&'a str> {
    // A schema may refer to itself; four levels are more than generated ones have.
    if depth > 4 {
        return Vec::new();
    }
    if let Some(reference) = property.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return target.map(|target| types_of(target, root, depth + 1)).unwrap_or_default();
    }
    match property.get("type") {
        Some(Value::String(one)) => return vec![one],
        Some(Value::Array(several)) => return several.iter().filter_map(Value::as_str).collect(),
        _ => {}
    }
    if property.get("enum").and_then(Value::as_array).is_some_and(|all| all.iter().all(Value::is_string)) {
        return vec!["string"];
    }
    let branches = ["anyOf", "oneOf"].iter().find_map(|name| property.get(name).and_then(Value::as_array));
    let mut types: Vec<&str> = Vec::new();
    for kind in branches.into_iter().flatten().flat_map(|branch| types_of(branch, root, depth + 1)) {
        if !types.contains(&kind) {
            types.push(kind);
        }
    }
    types
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "owner": {"type": "string"},
                "page": {"type": ["integer", "null"]},
                "ratio": {"type": "number"},
                "draft": {"type": "boolean"},
                "labels": {"type": "array", "items": {"type": "string"}},
                "state": {"anyOf": [{"$ref": "#/$defs/State"}, {"type": "null"}]},
                "any": {}
            },
            "$defs": {"State": {"type": "string", "enum": ["open", "closed"]}},
            "additionalProperties": false
        })
    }

    fn one(argument: &str) -> Result<Value, Failure> {
        assignment(argument, &schema(), "action").map(|(_, value)| value)
    }

    #[test]
    fn a_value_has_the_type_that_the_schema_gives() {
        for (argument, value) in [
            ("owner=7", json!("7")),
            ("owner=a=b", json!("a=b")),
            ("owner=", json!("")),
            ("page=7", json!(7)),
            ("page=null", json!(null)),
            ("ratio=0.5", json!(0.5)),
            ("draft=true", json!(true)),
            ("labels=[\"a\"]", json!(["a"])),
            ("labels:=[\"b\"]", json!(["b"])),
            ("state=open", json!("open")),
            ("state=null", json!(null)),
            ("any=7", json!("7")),
            ("any:=7", json!(7)),
        ] {
            assert_eq!(one(argument).unwrap(), value, "{argument}");
        }
    }

    #[test]
    fn a_value_of_another_type_or_an_unknown_name_is_refused() {
        for argument in ["page=x", "draft=yes", "labels=a", "ratio=\"1\"", "onwer=x", "=x", "owner", "any:=x"] {
            assert_eq!(one(argument).unwrap_err().exit, Exit::Usage, "{argument}");
        }
        let unknown = assignment("onwer=x", &schema(), "flow").unwrap_err();
        assert_eq!(unknown.hints, ["did you mean `owner`?"]);
        assert_eq!(unknown.message, "the flow has no input \"onwer\"");
    }

    #[test]
    fn a_schema_is_told_as_it_is_written() {
        let mut schema = schema();
        schema["required"] = json!(["owner"]);
        assert_eq!(
            usage(&schema).unwrap(),
            "owner=<string> [page=<integer>] [ratio=<number>] [draft=<boolean>] [labels:=<array>] [state=<string>] [any=<any>]"
        );
        assert_eq!(usage(&json!({})), None);
    }

    #[test]
    fn an_unknown_name_is_taken_where_the_schema_says_that_there_are_others() {
        let open = json!({"properties": {"owner": {}}, "additionalProperties": {"type": "string"}});
        assert_eq!(assignment("other=1", &open, "flow").unwrap(), ("other".to_owned(), json!("1")));
        assert!(assignment("other=1", &json!({"properties": {"owner": {}}}), "flow").is_err());
        assert!(assignment("other=1", &Value::Null, "flow").is_ok());
    }

    #[tokio::test]
    async fn arguments_go_above_the_input() {
        let input = read(Some(r#"{"owner": "a", "page": 1}"#)).await.unwrap();
        let all = with_arguments(input, &["owner=b".to_owned()], &schema(), "action").unwrap();
        assert_eq!(all, json!({"owner": "b", "page": 1}));
        assert!(with_arguments(json!([]), &["owner=b".to_owned()], &schema(), "action").is_err());
    }

    #[tokio::test]
    async fn input_that_is_no_json_is_told_with_its_origin() {
        let failure = read(Some("{")).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.exit), ("input-not-json", Exit::BadInput));
        assert_eq!(read(None).await.unwrap(), json!({}));
    }
}
