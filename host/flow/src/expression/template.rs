//! A value in which expressions stand, as in `with`, `set` and the object form of `as`.

use std::ops::Range;

use serde_json::Value;

use super::{Evaluation, Expression, Failure};

/// A value with expressions in it.
#[derive(Debug, Clone)]
pub(crate) enum Template {
    /// No expression.
    Literal(Value),
    /// One expression; the value is what it gives.
    Expression(Expression),
    /// Text with expressions in it; the value is a text.
    Text(Vec<TextPart>),
    /// A list.
    List(Vec<Template>),
    /// An object.
    Object(Vec<(String, Template)>),
}

/// A part of a text with expressions in it.
#[derive(Debug, Clone)]
pub(crate) enum TextPart {
    /// As it stands.
    Literal(String),
    /// What it gives: a text as it is, `null` as nothing, anything else as JSON.
    Expression(Expression),
}

impl Template {
    /// The value with every expression replaced by what it gives for `input`. All of them together may give as
    /// much as one alone.
    ///
    /// `Err` holds the expression that failed.
    pub(crate) fn evaluate<'t>(
        &'t self,
        input: &Value,
        evaluation: &Evaluation<'_>,
    ) -> Result<Value, (&'t Expression, Failure)> {
        self.fill(input, evaluation, &mut { evaluation.limits.output_bytes })
    }

    /// Whether an expression in it uses a variable, named without `$`.
    pub(crate) fn uses(&self, variable: &str) -> bool {
        match self {
            Self::Literal(_) => false,
            Self::Expression(expression) => expression.uses(variable),
            Self::Text(parts) => parts.iter().any(|part| match part {
                TextPart::Literal(_) => false,
                TextPart::Expression(expression) => expression.uses(variable),
            }),
            Self::List(items) => items.iter().any(|item| item.uses(variable)),
            Self::Object(entries) => entries.iter().any(|(_, value)| value.uses(variable)),
        }
    }

    fn fill<'t>(
        &'t self,
        input: &Value,
        evaluation: &Evaluation<'_>,
        bytes_left: &mut usize,
    ) -> Result<Value, (&'t Expression, Failure)> {
        let mut value_of = |expression: &'t Expression| {
            expression.evaluate_within(input, evaluation, bytes_left).map_err(|failure| (expression, failure))
        };
        Ok(match self {
            Self::Literal(value) => value.clone(),
            Self::Expression(expression) => value_of(expression)?,
            Self::Text(parts) => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        TextPart::Literal(literal) => text.push_str(literal),
                        TextPart::Expression(expression) => match value_of(expression)? {
                            Value::Null => {}
                            Value::String(value) => text.push_str(&value),
                            value => text.push_str(&value.to_string()),
                        },
                    }
                }
                Value::String(text)
            }
            Self::List(items) => {
                let items = items.iter().map(|item| item.fill(input, evaluation, bytes_left));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Self::Object(entries) => {
                let mut object = serde_json::Map::new();
                for (key, value) in entries {
                    object.insert(key.clone(), value.fill(input, evaluation, bytes_left)?);
                }
                Value::Object(object)
            }
        })
    }
}

/// A part of a text as it stands in a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Text.
    Literal(Range<usize>),
    /// What stands between `${` and `}`.
    Expression(Range<usize>),
}

/// Splits a text at its `${ }`. `Err` is where one begins that does not end.
///
/// The end is the brace that closes the first one; braces in jq strings and comments do not count,
/// those in a string's `\( )` do.
pub(crate) fn split(text: &str) -> Result<Vec<Segment>, usize> {
    let mut segments = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("${") {
        let begin = at + found;
        if begin > at {
            segments.push(Segment::Literal(at..begin));
        }
        let end = end_of_expression(text.as_bytes(), begin + 2).ok_or(begin)?;
        segments.push(Segment::Expression(begin + 2..end));
        at = end + 1;
    }
    if at < text.len() {
        segments.push(Segment::Literal(at..text.len()));
    }
    Ok(segments)
}

/// Where the brace stands that closes the expression that begins at `at`.
fn end_of_expression(text: &[u8], mut at: usize) -> Option<usize> {
    // What is open around the place: `}`, `)`, or `"` for a string.
    let mut open = vec![b'}'];
    loop {
        let byte = *text.get(at)?;
        match (open.last()?, byte) {
            (b'"', b'\\') if text.get(at + 1) == Some(&b'(') => {
                open.push(b')');
                at += 1;
            }
            (b'"', b'\\') => at += 1,
            (b'"', b'"') => drop(open.pop()),
            (b'"', _) => {}
            (_, b'"') => open.push(b'"'),
            (_, b'{') => open.push(b'}'),
            (_, b'(') => open.push(b')'),
            (_, b'#') => at += text[at..].iter().position(|byte| *byte == b'\n')?,
            (closing, byte) if byte == *closing => {
                open.pop();
                if open.is_empty() {
                    return Some(at);
                }
            }
            _ => {}
        }
        at += 1;
    }
}
