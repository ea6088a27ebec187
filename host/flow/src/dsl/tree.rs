//! A YAML or JSON document with the place of every value.
//!
//! It is read once, under a budget (an alias bomb or a deep nest is refused), into this tree; the model
//! is read from the tree, so that one pass finds every fault and each has its place.

use std::fmt;

use keyward_model::{Diagnostic, Span};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, Value};
use serde_saphyr::{Location, Spanned};

/// The largest source of a flow, bytes.
const MAX_SOURCE_BYTES: usize = 1 << 20;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where it stands; where an alias stands, if it is one.
    pub span: Span,
    /// What it is.
    pub tree: Tree,
}

/// A value of YAML's JSON schema.
#[derive(Debug, Clone)]
pub enum Tree {
    /// Null.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// An object, in the order of the source.
    Object(Vec<(Key, Node)>),
}

/// A key of an object.
#[derive(Debug, Clone)]
pub struct Key {
    /// The key.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl Node {
    /// Reads a source.
    pub(crate) fn parse(source: &str) -> Result<Self, Box<Diagnostic>> {
        if source.len() > MAX_SOURCE_BYTES {
            let message = format!("the flow is longer than {MAX_SOURCE_BYTES} bytes");
            return Err(Box::new(Diagnostic::error("too-large", message, None)));
        }
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_depth: 128,
                max_nodes: 50_000,
                max_events: 200_000,
                max_documents: 1,
            },
            alias_limits: serde_saphyr::alias_limits! {
                max_total_replayed_events: 50_000,
            },
            strict_booleans: true,
        };
        serde_saphyr::from_str_with_options(source, options).map_err(|error| {
            let error = error.without_snippet();
            let start = error.location().map(|location| offset(source, location));
            let span = start.map(|start| {
                let shown = source[start..].chars().next().map_or(0, char::len_utf8);
                Span { start, end: start + shown }
            });
            // The place is told by the span; the reader writes it behind its message.
            let text = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            let message = text.lines().next().and_then(|line| line.split(" at line ").next());
            let message = message.unwrap_or("it cannot be read");
            let fault = Diagnostic::error("yaml-syntax", message, span);
            // What happens most: an expression that makes an object, without quotes.
            let unquoted = message.starts_with("mapping values are not allowed");
            Box::new(if unquoted { fault.hint("put quotes around a text in which ': ' stands") } else { fault })
        })
    }

    /// The value without its places.
    pub fn to_value(&self) -> Value {
        match &self.tree {
            Tree::Null => Value::Null,
            Tree::Bool(value) => Value::Bool(*value),
            Tree::Number(number) => Value::Number(number.clone()),
            Tree::Text(text) => Value::String(text.clone()),
            Tree::List(items) => Value::Array(items.iter().map(Node::to_value).collect()),
            Tree::Object(entries) => {
                Value::Object(entries.iter().map(|(key, value)| (key.text.clone(), value.to_value())).collect())
            }
        }
    }

    /// What kind of value it is, with its article.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.tree {
            Tree::Null => "nothing",
            Tree::Bool(_) => "a boolean",
            Tree::Number(_) => "a number",
            Tree::Text(_) => "a text",
            Tree::List(_) => "a list",
            Tree::Object(_) => "an object",
        }
    }

    /// The value of a key, where it is an object that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.tree {
            Tree::Object(entries) => entries.iter().find(|(found, _)| found.text == key).map(|(_, value)| value),
            _ => None,
        }
    }
}

/// Where it stands in bytes, where that is known.
fn span_of(location: &Location) -> Option<Span> {
    let start = usize::try_from(location.span().byte_offset()?).ok()?;
    let length = usize::try_from(location.span().byte_len()?).ok()?;
    Some(Span { start, end: start + length })
}

/// The byte at a place of which perhaps only line and column are known.
fn offset(source: &str, location: Location) -> usize {
    let line_start = || {
        let before = (location.line() as usize).saturating_sub(1);
        source.split_inclusive('\n').take(before).map(str::len).sum::<usize>()
    };
    let in_line = |start: usize| {
        let column = (location.column() as usize).saturating_sub(1);
        let (offset, _) = source[start..].char_indices().nth(column)?;
        Some(start + offset)
    };
    let known = location.span().byte_offset().and_then(|offset| usize::try_from(offset).ok());
    let offset = known.or_else(|| in_line(line_start())).unwrap_or(source.len());
    if source.is_char_boundary(offset) { offset } else { source.len() }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Tree>::deserialize(deserializer)?;
        let span = span_of(&spanned.referenced).unwrap_or(Span { start: 0, end: 0 });
        Ok(Self { span, tree: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Tree, E> {
        Number::from_f64(value).map(Tree::Number).ok_or_else(|| E::custom("this number is not one of JSON"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Text(value))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let span = span_of(&key.referenced).unwrap_or(Span { start: 0, end: 0 });
            entries.push((Key { text: key.value, span }, map.next_value()?));
        }
        Ok(Tree::Object(entries))
    }
}
