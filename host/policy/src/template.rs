//! Templates of paths.

use std::fmt;

use keyward_model::manifest::PATH_MARK;

use crate::{
    error::RuleError,
    path::{CanonicalPath, Encoded},
};

/// A template of paths, for example `/repos/{owner}/{repo}/issues`; the grammar stands in [`crate::grammar`].
///
/// ```
/// use keyward_policy::PathTemplate;
/// let template: PathTemplate = "/values/{range}:append".parse().unwrap();
/// assert!(template.matches(&"/values/A1:B2:append".parse().unwrap()));
/// assert!(!template.matches(&"/values/A1:B2:clear".parse().unwrap()));
/// assert!(!template.matches(&"/values/:append".parse().unwrap()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    text: String,
    /// At most one of them spans several segments.
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// This text, decoded.
    Literal(String),
    /// [`PATH_MARK`] between these two.
    Credential { before: String, after: String },
    /// Any text between these two.
    Variable { before: String, after: String, span: Span },
}

/// What a variable may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Span {
    /// One segment without an encoded slash.
    One,
    /// One segment that may have encoded slashes.
    OneWithSlashes,
    /// One or more segments without encoded slashes.
    Many,
}

impl PathTemplate {
    /// Whether the path is one that the template stands for.
    pub fn matches(&self, path: &CanonicalPath) -> bool {
        self.matches_segments(path.segments())
    }

    pub(crate) fn matches_segments(&self, path: &[String]) -> bool {
        let Some(many) = self.segments.iter().position(Segment::is_many) else {
            return self.segments.len() == path.len()
                && self.segments.iter().zip(path).all(|(segment, text)| segment.matches(std::slice::from_ref(text)));
        };
        let (head, tail) = (&self.segments[..many], &self.segments[many + 1..]);
        if path.len() <= head.len() + tail.len() {
            return false;
        }
        let (first, rest) = path.split_at(head.len());
        let (middle, last) = rest.split_at(rest.len() - tail.len());
        let each = |segments: &[Segment], texts: &[String]| {
            segments.iter().zip(texts).all(|(segment, text)| segment.matches(std::slice::from_ref(text)))
        };
        each(head, first) && self.segments[many].matches(middle) && each(tail, last)
    }

    /// Whether it has [`PATH_MARK`].
    pub(crate) fn has_mark(&self) -> bool {
        self.mark(self.segments.len()).is_some()
    }

    /// In a path of `length` segments that matches: the index of the segment with [`PATH_MARK`], and the fixed text
    /// before it. What else in the path reads as the mark is what the guest says it is: text.
    pub(crate) fn mark(&self, length: usize) -> Option<(usize, &str)> {
        let (index, before) = self.segments.iter().enumerate().find_map(|(index, segment)| match segment {
            Segment::Credential { before, .. } => Some((index, before.as_str())),
            _ => None,
        })?;
        let many_before = self.segments[..index].iter().any(Segment::is_many);
        Some((if many_before { index + length - self.segments.len() } else { index }, before))
    }

    /// The leading segments of the template, as written, that match the path's; for hints.
    pub(crate) fn common_start(&self, path: &[String]) -> Vec<String> {
        let written = self.text.split('/').skip(1);
        self.segments
            .iter()
            .zip(written)
            .zip(path)
            .take_while(|((segment, _), text)| !segment.is_many() && segment.matches(std::slice::from_ref(*text)))
            .map(|((_, written), _)| written.to_owned())
            .collect()
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for PathTemplate {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(RuleError::new("a path template starts with '/'").hint(format!("write `/{text}`")));
        };
        let segments: Vec<Segment> = rest.split('/').map(Segment::parse).collect::<Result<_, _>>()?;
        if segments.iter().filter(|segment| segment.is_many()).count() > 1 {
            return Err(RuleError::new("a path template has more than one variable for several segments"));
        }
        // The literals together with a text in each variable's place make a path, so its rules hold for them.
        let example: String = segments.iter().map(|segment| format!("/{}", segment.example())).collect();
        CanonicalPath::parse(&example)?;
        let mut names: Vec<&str> = rest.split('/').filter_map(variable_name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(RuleError::new(format!("the variable {:?} stands twice in the path template", twice[0])));
        }
        Ok(Self { text: text.to_owned(), segments })
    }
}

fn variable_name(segment: &str) -> Option<&str> {
    let inner = segment.split_once('{')?.1.split_once('}')?.0;
    Some(inner.trim_end_matches("%2F").trim_end_matches('+'))
}

impl Segment {
    fn parse(text: &str) -> Result<Self, RuleError> {
        match text {
            "*" => return Ok(Self::variable("", "", Span::One)),
            "**" => return Ok(Self::variable("", "", Span::Many)),
            _ if text.contains('*') => {
                return Err(RuleError::new(format!("the template segment {text:?} has its star in a wrong place"))
                    .hint("`*` and `**` are whole segments; a variable within one is `{name}`"));
            }
            _ => {}
        }
        let Some((before, rest)) = text.split_once('{') else {
            if text.contains('}') {
                return Err(RuleError::new(format!("the template segment {text:?} has a '}}' without '{{'")));
            }
            return Ok(Self::Literal(decode_literal(text)?));
        };
        let Some((inner, after)) = rest.split_once('}') else {
            return Err(RuleError::new(format!("the template segment {text:?} has a '{{' without '}}'")));
        };
        if inner.contains('{') || before.contains('}') || after.contains(['{', '}']) {
            return Err(RuleError::new(format!("the template segment {text:?} has more than one variable"))
                .hint("one segment has at most one variable, with fixed text before and after it"));
        }
        if inner == "credential" {
            let (before, after) = (decode_literal(before)?, decode_literal(after)?);
            return Ok(Self::Credential { before, after });
        }
        let (name, span) = match inner {
            _ if inner.ends_with('+') => (&inner[..inner.len() - 1], Span::Many),
            _ if inner.ends_with("%2F") => (&inner[..inner.len() - 3], Span::OneWithSlashes),
            _ => (inner, Span::One),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(RuleError::new(format!("the template variable {inner:?} has no valid name"))
                .hint("write `{name}`, `{name+}` for one or more segments, or `{name%2F}` to allow encoded slashes"));
        }
        if name == "credential" {
            return Err(RuleError::new(format!("the template variable {inner:?} is kept for the credential"))
                .hint("`{credential}` is where the host puts it, one segment; name other variables otherwise"));
        }
        Ok(Self::variable(&decode_literal(before)?, &decode_literal(after)?, span))
    }

    fn variable(before: &str, after: &str, span: Span) -> Self {
        Self::Variable { before: before.to_owned(), after: after.to_owned(), span }
    }

    fn is_many(&self) -> bool {
        matches!(self, Self::Variable { span: Span::Many, .. })
    }

    /// Whether these segments of a path (one, or more where [`Self::is_many`]) are what it stands for.
    fn matches(&self, path: &[String]) -> bool {
        let (before, after, span) = match self {
            Self::Literal(literal) => return matches!(path, [text] if text == literal),
            Self::Credential { before, after } => {
                let between = |text: &String| {
                    let rest = text.strip_prefix(before.as_str())?.strip_prefix(PATH_MARK)?;
                    Some(rest == after)
                };
                return matches!(path, [text] if between(text) == Some(true));
            }
            Self::Variable { before, after, span } => (before, after, *span),
        };
        if span != Span::OneWithSlashes && path.iter().any(|segment| segment.contains('/')) {
            return false;
        }
        match path {
            [] => false,
            [text] => text
                .strip_prefix(before.as_str())
                .and_then(|text| text.strip_suffix(after.as_str()))
                .is_some_and(|value| !value.is_empty()),
            // Something must be there even for a server that merges slashes.
            [first, between @ .., last] => {
                match (first.strip_prefix(before.as_str()), last.strip_suffix(after.as_str())) {
                    (Some(first), Some(last)) => {
                        !first.is_empty() || !last.is_empty() || between.iter().any(|segment| !segment.is_empty())
                    }
                    _ => false,
                }
            }
        }
    }

    /// A path segment that it stands for.
    fn example(&self) -> String {
        match self {
            Self::Literal(text) => Encoded(text).to_string(),
            Self::Variable { before, after, .. } | Self::Credential { before, after } => {
                format!("{}x{}", Encoded(before), Encoded(after))
            }
        }
    }
}

/// Reads fixed text by the rules of [`CanonicalPath`], but as part of a segment.
fn decode_literal(text: &str) -> Result<String, RuleError> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let path = CanonicalPath::parse(&format!("/{text}"))?;
    match path.segments() {
        [segment] if !segment.contains('/') => Ok(segment.clone()),
        _ => Err(RuleError::new(format!("the fixed text {text:?} has an encoded slash"))
            .hint("only a variable `{name%2F}` allows encoded slashes")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn template(text: &str) -> PathTemplate {
        text.parse().unwrap()
    }

    fn path(text: &str) -> CanonicalPath {
        text.parse().unwrap()
    }

    #[test]
    fn template_matches_whole_segments() {
        for (pattern, allowed, refused) in [
            ("/", &["/"][..], &["/a", "/a/"][..]),
            ("/api", &["/api", "/%61pi"], &["/apiary", "/api/", "/api/x", "/", "/API", "/xapi"]),
            ("/api/", &["/api/"], &["/api", "/api//"]),
            (
                "/repos/{owner}/{repo}",
                &["/repos/o/r", "/repos/o/r:x"],
                &["/repos/o", "/repos/o/", "/repos/o/r/issues", "/repos/o%2Fr/x"],
            ),
            ("/repos/*/*", &["/repos/o/r"], &["/repos//r", "/repos/o/r/x"]),
            ("/v/{id}:append", &["/v/a:append", "/v/a:b:append"], &["/v/:append", "/v/a:clear", "/v/a", "/v/aappend"]),
            ("/users('{id}')", &["/users('me')"], &["/users('')", "/users(me)", "/users('me'"]),
            ("/a/{rest+}", &["/a/b", "/a/b/c", "/a/http://x", "/a//b"], &["/a", "/a/", "/a//", "/ab/c", "/a/b%2Fc"]),
            ("/a/**", &["/a/b", "/a/b/c"], &["/a", "/a/"]),
            (
                "/root:/{path+}:/content",
                &["/root:/f.txt:/content", "/root:/d/f.txt:/content"],
                &["/root:/:/content", "/root:/f.txt/content", "/root:/content", "/root:/f:/content/x"],
            ),
            ("/**/end", &["/a/end", "/a/b/end"], &["/end", "/a/end/x"]),
            ("/p/{id%2F}/x", &["/p/g%2fp/x", "/p/12/x"], &["/p/g/p/x", "/p//x"]),
            ("/a%20b", &["/a%20b"], &["/a+b"]),
            (
                "/bot{credential}/{method}",
                &["/bot%7Bcredential%7D/send", "/bot%7bcredential%7d/send", "/bot%7Bcredential%7D/%7Bcredential%7D"],
                &["/bot123/send", "/bot%7Bcredential%7Dx/send", "/xbot%7Bcredential%7D/send", "/bot%7Bcredential%7D"],
            ),
        ] {
            let pattern = template(pattern);
            for text in allowed {
                assert!(pattern.matches(&path(text)), "{pattern} refused {text}");
            }
            for text in refused {
                assert!(!pattern.matches(&path(text)), "{pattern} took {text}");
            }
        }
    }

    #[test]
    fn prefix_and_suffix_do_not_overlap() {
        assert!(!template("/aa{x}aa").matches(&path("/aaa")));
        assert!(!template("/aa{x}aa").matches(&path("/aaaa")));
        assert!(template("/aa{x}aa").matches(&path("/aaaaa")));
    }

    #[test]
    fn mark_is_found_where_the_template_has_it_and_nowhere_else() {
        for (pattern, text, expected) in [
            ("/bot{credential}/{method}", "/bot%7Bcredential%7D/%7Bcredential%7D", Some((0, "bot"))),
            ("/{method}/{credential}", "/%7Bcredential%7D/%7Bcredential%7D", Some((1, ""))),
            ("/{rest+}/k-{credential}/x", "/a/%7Bcredential%7D/b/k-%7Bcredential%7D/x", Some((3, "k-"))),
            ("/{credential}/{rest+}", "/%7Bcredential%7D/b/%7Bcredential%7D", Some((0, ""))),
            ("/{method}", "/%7Bcredential%7D", None),
        ] {
            let (pattern, path) = (template(pattern), path(text));
            assert!(pattern.matches(&path), "{pattern} refused {text}");
            assert_eq!(pattern.mark(path.segments().len()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in [
            "",
            "a",
            "//a",
            "/{",
            "/}",
            "/{}",
            "/{a",
            "/a}",
            "/{a}{b}",
            "/{a{b}}",
            "/{a b}",
            "/{+}",
            "/{%2F}",
            "/{é}",
            "/x*",
            "/*x",
            "/***",
            "/{a+}/{b+}",
            "/**/{b+}",
            "/{a}/{a}",
            "/../x",
            "/./x",
            "/%2e%2e/x",
            "/a%2fb",
            "/a;b",
            "/a b",
            "/a?b",
            "/a#b",
            "/é",
            "/a\\b",
            "/a%00",
            "/a%",
            "/{a+%2F}",
            "/{a%2F+}",
            "/{credential+}",
            "/{credential%2F}",
            "/{credential}/{credential}",
        ] {
            assert!(text.parse::<PathTemplate>().is_err(), "{text:?} was taken");
        }
    }
}
