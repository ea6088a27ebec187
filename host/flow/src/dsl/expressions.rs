//! Expressions, templates and schemas of a source are compiled, with the place of every fault.

use keyward_model::{Diagnostic, Span, schema};
use serde_json::Value;

use super::{
    model::{Placed, Schema, SchemaSource},
    program::DataSchema,
    tree::{Node, Tree},
    unsupported::unsupported,
};
use crate::expression::{Expression, Fault, Segment, Template, TextPart, split};

/// Where an expression stands; it decides which variables have a value
/// (the table at the end of *Runtime expression arguments* in the specification).
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// `input.from` of the flow.
    FlowInput,
    /// `output.as` of the flow.
    FlowOutput,
    /// `if` and `input.from` of a task.
    TaskInput,
    /// The definition of a task, and its `output.as`.
    Task,
    /// `export.as` of a task.
    Export,
}

impl Place {
    /// The names that have a meaning of their own.
    pub(super) const NAMES: [&'static str; 8] =
        ["context", "input", "output", "task", "workflow", "runtime", "secrets", "authorization"];

    /// The variables that have a value here; `locals` are those of loops and handlers around.
    pub(super) fn scope(self, locals: &[String]) -> Vec<String> {
        let names: &[&str] = match self {
            Self::FlowInput => &["workflow", "runtime"],
            Self::FlowOutput => &["context", "workflow", "runtime"],
            Self::TaskInput => &["context", "task", "workflow", "runtime"],
            Self::Task => &["context", "input", "task", "workflow", "runtime"],
            Self::Export => &["context", "input", "output", "task", "workflow", "runtime"],
        };
        names.iter().map(|name| (*name).to_owned()).chain(locals.iter().cloned()).collect()
    }
}

/// Compiles what stands in a source, and collects the diagnostics.
pub(super) struct Compiler<'s> {
    pub(super) source: &'s str,
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl Compiler<'_> {
    /// An expression that needs no `${ }`, and may have it.
    pub(super) fn expression(&mut self, text: &Placed<String>, scope: &[String]) -> Option<Expression> {
        let whole = text.value.trim();
        let begin = text.value.len() - text.value.trim_start().len();
        let inner = match split(whole).as_deref() {
            Ok([Segment::Expression(range)]) => begin + range.start..begin + range.end,
            _ => begin..begin + whole.len(),
        };
        self.compile(&text.value, inner, text.span, scope)
    }

    /// A value in which every `${ }` is an expression.
    pub(super) fn template(&mut self, node: &Node, scope: &[String]) -> Option<Template> {
        match &node.tree {
            Tree::Text(text) => self.text(text, node.span, scope),
            Tree::List(items) => {
                let items: Vec<Option<Template>> = items.iter().map(|item| self.template(item, scope)).collect();
                let items: Vec<Template> = items.into_iter().collect::<Option<_>>()?;
                Some(match items.iter().all(|item| matches!(item, Template::Literal(_))) {
                    true => Template::Literal(node.to_value()),
                    false => Template::List(items),
                })
            }
            Tree::Object(entries) => {
                let entries: Vec<Option<(String, Template)>> =
                    entries.iter().map(|(key, value)| Some((key.text.clone(), self.template(value, scope)?))).collect();
                let entries: Vec<(String, Template)> = entries.into_iter().collect::<Option<_>>()?;
                Some(match entries.iter().all(|(_, value)| matches!(value, Template::Literal(_))) {
                    true => Template::Literal(node.to_value()),
                    false => Template::Object(entries),
                })
            }
            _ => Some(Template::Literal(node.to_value())),
        }
    }

    fn text(&mut self, text: &str, span: Span, scope: &[String]) -> Option<Template> {
        let segments = match split(text) {
            Ok(segments) => segments,
            Err(at) => {
                let span = self.place(text, at..at + 2, span);
                let fault = Diagnostic::error("bad-expression", "this '${' is not closed", Some(span));
                self.diagnostics.push(fault.hint("end the expression with '}'"));
                return None;
            }
        };
        let blank = |segment: &Segment| match segment {
            Segment::Literal(range) => text[range.clone()].trim().is_empty(),
            Segment::Expression(_) => false,
        };
        let mut expressions = segments.iter().filter(|segment| !blank(segment));
        // Spaces around a single expression do not make it a text.
        if let (Some(Segment::Expression(range)), None) = (expressions.next(), expressions.next()) {
            return self.compile(text, range.clone(), span, scope).map(Template::Expression);
        }
        if segments.iter().all(|segment| matches!(segment, Segment::Literal(_))) {
            return Some(Template::Literal(Value::String(text.to_owned())));
        }
        let parts: Vec<Option<TextPart>> = segments
            .into_iter()
            .map(|segment| match segment {
                Segment::Literal(range) => Some(TextPart::Literal(text[range].to_owned())),
                Segment::Expression(range) => self.compile(text, range, span, scope).map(TextPart::Expression),
            })
            .collect();
        parts.into_iter().collect::<Option<_>>().map(Template::Text)
    }

    fn compile(
        &mut self,
        text: &str,
        range: std::ops::Range<usize>,
        span: Span,
        scope: &[String],
    ) -> Option<Expression> {
        match Expression::compile(&text[range.clone()], scope) {
            Ok(expression) => Some(expression),
            Err(faults) => {
                for Fault { code, range: at, message, hint } in faults {
                    let span = self.place(text, range.start + at.start..range.start + at.end, span);
                    self.diagnostics.push(Diagnostic { hint, ..Diagnostic::error(code, message, Some(span)) });
                }
                None
            }
        }
    }

    /// The span of a part of a text; of the whole text where the source writes it in another way
    /// (with escapes, or folded over several lines).
    fn place(&self, text: &str, range: std::ops::Range<usize>, span: Span) -> Span {
        let written = self.source.get(span.start..span.end).unwrap_or_default();
        match written.find(text) {
            Some(offset) if range.is_empty() => {
                // Something is missing: the last character before is shown.
                let before = self.source[..span.start + offset + range.start].trim_end();
                let start = before.char_indices().next_back().map_or(before.len(), |(start, _)| start);
                Span { start, end: before.len() }
            }
            Some(offset) => Span { start: span.start + offset + range.start, end: span.start + offset + range.end },
            None => span,
        }
    }

    /// A JSON Schema. References are resolved within it only.
    pub(super) fn schema(&mut self, written: &Schema) -> Option<DataSchema> {
        let node = match &written.source {
            SchemaSource::Inline(node) => node,
            SchemaSource::Resource(resource) => {
                let hint = "write the schema in place, under 'document'";
                self.diagnostics.push(unsupported("a schema from a resource", resource.span, hint));
                return None;
            }
        };
        let draft = match written.format.as_ref().map(|format| format.value.as_str()) {
            None | Some("json" | "json:2020-12") => jsonschema::Draft::Draft202012,
            Some("json:2019-09") => jsonschema::Draft::Draft201909,
            Some("json:draft-07" | "json:7") => jsonschema::Draft::Draft7,
            Some(other) => {
                let span = written.format.as_ref().map_or(node.span, |format| format.span);
                let hint = "use 'json', or 'json:2020-12', 'json:2019-09' or 'json:draft-07'";
                self.diagnostics.push(unsupported(&format!("the schema format '{other}'"), span, hint));
                return None;
            }
        };
        let source = node.to_value();
        let cost = match schema::cost(&source) {
            Ok(cost) => cost,
            Err(error) => {
                self.diagnostics.push(Diagnostic::error("bad-schema", error.to_string(), Some(node.span)));
                return None;
            }
        };
        // A pattern is matched in time linear in the text, and no reference leaves the schema.
        let build = |pattern_bytes| {
            let patterns = jsonschema::PatternOptions::regex().size_limit(pattern_bytes);
            let patterns = patterns.dfa_size_limit(schema::MAX_PATTERN_BYTES);
            jsonschema::options().with_draft(draft).with_pattern_options(patterns).offline().build(&source)
        };
        match cost.build(build) {
            Ok((validator, cost)) => Some(DataSchema { source, validator: validator.into(), cost }),
            Err(error) => {
                let text: String = error.to_string().chars().take(200).collect();
                let message = format!("this is no JSON Schema: {text}");
                let mut fault = Diagnostic::error("bad-schema", message, Some(node.span));
                if text.ends_with("is not a \"regex\"") {
                    fault =
                        fault.hint("a pattern looks neither back nor around, and is of 64 KiB at most when compiled");
                }
                self.diagnostics.push(fault);
                None
            }
        }
    }
}
