//! Faults in a manifest or a flow, shown with the lines in which they stand.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, renderer::DecorStyle};
use keyward_model::{
    Diagnostic, Severity,
    diagnostic::{Span, line_column},
};
use serde_json::{Value, json};

/// Text for people, with colour codes where `styled`.
pub(crate) fn render(path: &str, source: &str, diagnostics: &[Diagnostic], styled: bool) -> String {
    let renderer = if styled { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
    let mut reports = Vec::new();
    for diagnostic in diagnostics {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code);
        let mut group = match diagnostic.span {
            Some(span) => title.element(
                Snippet::source(source).path(path).annotation(AnnotationKind::Primary.span(within(source, span))),
            ),
            None => title.element(annotate_snippets::Origin::path(path)),
        };
        if let Some(hint) = &diagnostic.hint {
            group = group.element(Level::HELP.with_name("hint").message(hint.as_str()));
        }
        reports.push(renderer.render(&[group]));
    }
    reports.join("\n\n")
}

/// The same for programs, with line and column from 1.
pub(crate) fn to_json(source: &str, diagnostics: &[Diagnostic]) -> Value {
    diagnostics
        .iter()
        .map(|diagnostic| {
            let mut shape = json!({
                "severity": diagnostic.severity,
                "code": diagnostic.code,
                "message": diagnostic.message,
            });
            if let Some(span) = diagnostic.span {
                let (line, column) = line_column(source, span.start);
                shape["line"] = line.into();
                shape["column"] = column.into();
                shape["span"] = json!({"start": span.start, "end": span.end});
            }
            if let Some(hint) = &diagnostic.hint {
                shape["hint"] = hint.as_str().into();
            }
            shape
        })
        .collect()
}

/// `span` cut to the source and to whole characters: the renderer panics on anything else.
fn within(source: &str, span: Span) -> std::ops::Range<usize> {
    let floor = |offset: usize| {
        let mut offset = offset.min(source.len());
        while !source.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    };
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "name = \"github\"\nversoin = \"1.0.0\"\n";

    #[test]
    fn a_fault_is_shown_with_its_line_and_its_hint() {
        let fault = Diagnostic::error("unknown-field", "unknown field 'versoin'", Some(Span { start: 16, end: 23 }))
            .hint("did you mean 'version'?");
        insta::assert_snapshot!(render("connector.toml", SOURCE, &[fault], false), @r#"
        error[unknown-field]: unknown field 'versoin'
         --> connector.toml:2:1
          |
        2 | versoin = "1.0.0"
          | ^^^^^^^
          |
          = hint: did you mean 'version'?
        "#);
    }

    #[test]
    fn a_fault_without_a_place_names_the_file() {
        let fault = Diagnostic::warning("empty", "nothing in it", None);
        insta::assert_snapshot!(render("flow.yaml", "", &[fault], false), @r"
        warning[empty]: nothing in it
        --> flow.yaml
        ");
    }

    #[test]
    fn a_span_outside_of_the_text_or_inside_of_a_character_does_not_panic() {
        for (start, end) in [(0, 99), (99, 100), (1, 2), (2, 1)] {
            let fault = Diagnostic::error("x", "y", Some(Span { start, end }));
            assert!(!render("a", "ä", std::slice::from_ref(&fault), false).is_empty());
            assert!(to_json("ä", &[fault])[0]["line"].is_number());
        }
    }
}
