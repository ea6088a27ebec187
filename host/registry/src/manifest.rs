//! `connector.toml`: what an author writes about a connector, read with the place of every fault.
//!
#![doc = concat!("```toml\n", include_str!("manifest/example.toml"), "```")]
//!
//! The schemas of input and output do not stand here: `keyward plugin build` generates them from the
//! types in the code, and the manifest in the component has them.

mod reader;

use std::{collections::BTreeMap, str::FromStr};

use keyward_model::{
    ActionName, ConnectorName, Diagnostic, IdError, Span,
    manifest::{
        Action, Claim, Endpoint, Hash, Hmac, Idempotency, Jwt, JwtAlgorithm, KeyEncoding, LimitOverrides, Manifest,
        Part, Placement, RequestRule, SignatureEncoding,
    },
};
use toml_span::ErrorKind;

use self::reader::{Faults, Node};
use crate::rules;

/// No manifest is larger, in bytes: the largest honest one (a thousand actions) is half of it.
pub const SOURCE_LIMIT: usize = 256 << 10;

/// Reads `connector.toml`; on failure every fault, in the order of the text.
pub fn parse_manifest(source: &str) -> Result<Manifest, Vec<Diagnostic>> {
    check(source).map(|(manifest, _)| manifest)
}

/// Reads `connector.toml` as [`parse_manifest`] does, and tells also what is allowed but likely not meant.
pub fn check(source: &str) -> Result<(Manifest, Vec<Diagnostic>), Vec<Diagnostic>> {
    if source.len() > SOURCE_LIMIT {
        let message = format!("the manifest has {} bytes, and {SOURCE_LIMIT} is the limit", source.len());
        return Err(vec![Diagnostic::error("too-large", message, None)]);
    }
    let document = toml_span::parse(source).map_err(|error| vec![syntax(source, &error)])?;

    let mut faults = Faults::default();
    let manifest = manifest(&Node::root(&document), &mut faults);
    // The rules run also where fields are faulty, so that an author sees all at once; what they say
    // about a faulty place is only its consequence.
    for rule in rules::check(&manifest) {
        if !faults.touch(&rule.path) {
            let mut diagnostic = Diagnostic::error("rule", rule.message, place(&document, source, &rule.path));
            diagnostic.hint = rule.hint;
            faults.add(diagnostic);
        }
    }
    let faults = faults.into_diagnostics();
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut warnings = Faults::default();
    for warning in rules::warnings(&manifest) {
        let place = place(&document, source, &warning.path);
        warnings.add(Diagnostic::warning(warning.code, warning.message, place).hint(warning.hint));
    }
    Ok((manifest, warnings.into_diagnostics()))
}

/// The place of `path`, where it is several lines only the first of them.
fn place(document: &toml_span::Value<'_>, source: &str, path: &[String]) -> Option<Span> {
    let span = Node::root(document).at(path).place()?;
    let first_line = source.get(span.start..span.end)?.lines().next().map_or(0, str::len);
    Some(Span { start: span.start, end: span.start + first_line })
}

fn syntax(source: &str, error: &toml_span::Error) -> Diagnostic {
    // The parser points one past the end where the text ends too early.
    let span = Span { start: error.span.start.min(source.len()), end: error.span.end.min(source.len()) };
    let first_line = |first: toml_span::Span| {
        format!("the first is on line {}", keyward_model::diagnostic::line_column(source, first.start).0)
    };
    match &error.kind {
        ErrorKind::DuplicateKey { key, first } => {
            Diagnostic::error("duplicate-field", format!("the field `{key}` stands here twice"), Some(span))
                .hint(first_line(*first))
        }
        ErrorKind::DuplicateTable { name, first } => {
            Diagnostic::error("duplicate-field", format!("the table `{name}` stands here twice"), Some(span))
                .hint(first_line(*first))
        }
        ErrorKind::UnquotedString => {
            Diagnostic::error("toml-syntax", "this is no TOML value", Some(span)).hint("texts stand in quotes")
        }
        _ => Diagnostic::error("toml-syntax", format!("this is not TOML: {error}"), Some(span)),
    }
}

// Each function below reads what it can. What is faulty is noted and replaced by a harmless value, and
// since any fault refuses the whole manifest, that value is never seen outside.

fn manifest(node: &Node<'_, '_>, faults: &mut Faults) -> Manifest {
    let mut read = Manifest {
        name: stand_in(),
        version: "0.0.0".to_owned(),
        title: String::new(),
        description: String::new(),
        provider: None,
        endpoints: BTreeMap::new(),
        credential: Vec::new(),
        actions: BTreeMap::new(),
    };
    let Some(mut fields) = node.fields(faults) else { return read };
    if let Some(name) = fields.required("name", faults, name::<ConnectorName>) {
        read.name = name;
    }
    read.version = fields.required("version", faults, Node::text).unwrap_or(read.version);
    read.title = fields.required("title", faults, Node::text).unwrap_or_default();
    read.description = fields.optional("description", faults, Node::text).unwrap_or_default();
    read.provider = fields.optional("provider", faults, Node::text);
    read.endpoints = fields
        .optional("endpoints", faults, |node, faults| {
            Some(node.named(faults, |name, node, faults| Some((name.to_owned(), endpoint(node, faults)))))
        })
        .unwrap_or_default();
    read.credential = fields.optional("credential", faults, placements).unwrap_or_default();
    read.actions = fields
        .required("actions", faults, |node, faults| {
            Some(node.named(faults, |key, node, faults| {
                let action = action(node, faults);
                Some((named::<ActionName>(key, node, faults)?, action))
            }))
        })
        .unwrap_or_default();
    fields.close(faults);
    read
}

fn stand_in() -> ConnectorName {
    // A slug of one letter is always well formed.
    "x".parse().unwrap_or_else(|_| unreachable!("`x` is a connector name"))
}

fn name<T: FromStr<Err = IdError>>(node: &Node<'_, '_>, faults: &mut Faults) -> Option<T> {
    let text = node.text(faults)?;
    named(&text, node, faults)
}

/// The name that stands at `node`, as its value or its key.
fn named<T: FromStr<Err = IdError>>(text: &str, node: &Node<'_, '_>, faults: &mut Faults) -> Option<T> {
    text.parse()
        .map_err(|error: IdError| {
            let mut fault = Diagnostic::error("bad-name", error.to_string(), node.place());
            let likely = text.to_lowercase().replace(['_', ' ', '.', '/'], "-");
            fault.hint = likely.parse::<T>().ok().map(|_| format!("write `{likely}`"));
            faults.note(node, fault);
        })
        .ok()
}

fn endpoint(node: &Node<'_, '_>, faults: &mut Faults) -> Endpoint {
    let mut read = Endpoint { url: String::new(), configurable: false, credential: true, private: false };
    let Some(mut fields) = node.fields(faults) else { return read };
    read.url = fields.required("url", faults, Node::text).unwrap_or_default();
    read.configurable = fields.optional("configurable", faults, Node::boolean).unwrap_or_default();
    read.credential = fields.optional("credential", faults, Node::boolean).unwrap_or(true);
    read.private = fields.optional("private", faults, Node::boolean).unwrap_or_default();
    fields.close(faults);
    read
}

/// One place, or a list of them.
fn placements(node: &Node<'_, '_>, faults: &mut Faults) -> Option<Vec<Placement>> {
    let harmless = |node: &Node<'_, '_>, faults: &mut Faults| placement(node, faults).unwrap_or(Placement::Basic);
    if !node.is_list() {
        return Some(vec![harmless(node, faults)]);
    }
    let read = node.list(faults, harmless)?;
    if read.is_empty() {
        let fault = Diagnostic::error("bad-value", "the credential goes to no place at all", node.place());
        faults.note(node, fault.hint("leave `credential` out where requests carry none"));
        return Some(vec![Placement::Basic]);
    }
    Some(read)
}

/// The kinds of places.
const PLACES: &[&str] =
    &["header", "query", "basic", "cookie", "path", "form", "json", "aws-sigv4", "hmac", "jwt", "digest"];

fn placement(node: &Node<'_, '_>, faults: &mut Faults) -> Option<Placement> {
    let mut fields = node.fields(faults)?;
    let kind = fields.required("in", faults, |node, faults| one_of(node, PLACES, faults))?;
    let name = match kind {
        "basic" | "path" | "aws-sigv4" | "hmac" | "digest" => String::new(),
        _ => fields.required("name", faults, Node::text).unwrap_or_default(),
    };
    let part = match kind {
        "basic" | "aws-sigv4" | "digest" => Part::Token,
        _ => fields.optional("part", faults, Node::text).map(Part::from).unwrap_or_default(),
    };
    let read = match kind {
        "header" => {
            let prefix = fields.optional("prefix", faults, Node::text).unwrap_or_default();
            Placement::Header { name, prefix, part }
        }
        "query" => Placement::Query { name, part },
        "cookie" => Placement::Cookie { name, part },
        "path" => Placement::Path { part },
        "form" => Placement::Form { name, part },
        "json" => Placement::Json { name, part },
        "aws-sigv4" => Placement::AwsSigv4 {
            region: fields.required("region", faults, Node::text).unwrap_or_default(),
            service: fields.required("service", faults, Node::text).unwrap_or_default(),
        },
        "hmac" => Placement::Hmac(Hmac {
            hash: fields.required("hash", faults, |node, faults| word(node, Hash::ALL, faults)).unwrap_or(Hash::Sha256),
            part,
            key_encoding: fields
                .optional("key_encoding", faults, |node, faults| word(node, KeyEncoding::ALL, faults))
                .unwrap_or_default(),
            message: fields.required("message", faults, Node::text).unwrap_or_default(),
            encoding: fields
                .optional("encoding", faults, |node, faults| word(node, SignatureEncoding::ALL, faults))
                .unwrap_or_default(),
            headers: fields.optional("headers", faults, templates).unwrap_or_default(),
            query: fields.optional("query", faults, templates).unwrap_or_default(),
        }),
        "digest" => Placement::Digest { weak: fields.optional("weak", faults, Node::boolean).unwrap_or_default() },
        "jwt" => Placement::Jwt(Jwt {
            name,
            prefix: fields.optional("prefix", faults, Node::text).unwrap_or_default(),
            algorithm: fields
                .required("algorithm", faults, |node, faults| word(node, JwtAlgorithm::ALL, faults))
                .unwrap_or(JwtAlgorithm::Hs256),
            part,
            key_encoding: fields
                .optional("key_encoding", faults, |node, faults| word(node, KeyEncoding::ALL, faults))
                .unwrap_or_default(),
            key_id: fields.optional("key_id", faults, Node::text),
            lifetime_seconds: fields.required("lifetime_seconds", faults, Node::count).unwrap_or(1),
            backdate_seconds: fields.optional("backdate_seconds", faults, Node::count).unwrap_or_default(),
            not_before: fields.optional("not_before", faults, Node::boolean).unwrap_or_default(),
            claims: fields.optional("claims", faults, claims).unwrap_or_default(),
        }),
        _ => Placement::Basic,
    };
    fields.close(faults);
    Some(read)
}

/// Texts by name.
fn templates(node: &Node<'_, '_>, faults: &mut Faults) -> Option<BTreeMap<String, String>> {
    Some(node.named(faults, |name, node, faults| Some((name.to_owned(), node.text(faults)?))))
}

fn claims(node: &Node<'_, '_>, faults: &mut Faults) -> Option<BTreeMap<String, Claim>> {
    Some(node.named(faults, |name, node, faults| Some((name.to_owned(), node.claim(faults)?))))
}

fn word<T: Copy>(node: &Node<'_, '_>, words: &[(&'static str, T)], faults: &mut Faults) -> Option<T> {
    let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
    let chosen = one_of(node, &names, faults)?;
    words.iter().find(|(name, _)| *name == chosen).map(|(_, word)| *word)
}

fn action(node: &Node<'_, '_>, faults: &mut Faults) -> Action {
    let mut read = Action {
        title: String::new(),
        description: String::new(),
        requests: Vec::new(),
        scopes: Vec::new(),
        idempotency: Idempotency::None,
        limits: LimitOverrides::default(),
        input: serde_json::Value::Null,
        output: serde_json::Value::Null,
    };
    let Some(mut fields) = node.fields(faults) else { return read };
    read.title = fields.required("title", faults, Node::text).unwrap_or_default();
    read.description = fields.optional("description", faults, Node::text).unwrap_or_default();
    read.requests = fields.optional("requests", faults, |node, faults| node.list(faults, request)).unwrap_or_default();
    read.scopes = fields
        .optional("scopes", faults, |node, faults| {
            node.list(faults, |node, faults| node.texts(faults).unwrap_or_default())
        })
        .unwrap_or_default();
    read.idempotency = fields.optional("idempotency", faults, idempotency).unwrap_or_default();
    read.limits = fields.optional("limits", faults, limits).unwrap_or_default();
    for generated in ["input", "output"] {
        fields.refuse(
            generated,
            faults,
            &format!("the schema of the {generated} does not stand in the manifest"),
            "remove it: `keyward plugin build` generates it from the type in the code",
        );
    }
    fields.close(faults);
    read
}

fn request(node: &Node<'_, '_>, faults: &mut Faults) -> RequestRule {
    let mut read = RequestRule::default();
    let Some(mut fields) = node.fields(faults) else { return read };
    read.method = fields.required("method", faults, Node::text).unwrap_or_default();
    read.endpoint = fields.required("endpoint", faults, Node::text).unwrap_or_default();
    read.path = fields.required("path", faults, Node::text).unwrap_or_default();
    read.query = fields.optional("query", faults, Node::texts).unwrap_or_default();
    read.redirects = fields.optional("redirects", faults, Node::boolean).unwrap_or_default();
    read.once = fields.optional("once", faults, Node::boolean).unwrap_or_default();
    fields.close(faults);
    read
}

fn idempotency(node: &Node<'_, '_>, faults: &mut Faults) -> Option<Idempotency> {
    Some(match one_of(node, &["safe", "idempotent", "key", "none"], faults)? {
        "safe" => Idempotency::Safe,
        "idempotent" => Idempotency::Idempotent,
        "key" => Idempotency::Key,
        _ => Idempotency::None,
    })
}

fn limits(node: &Node<'_, '_>, faults: &mut Faults) -> Option<LimitOverrides> {
    let mut fields = node.fields(faults)?;
    let read = LimitOverrides {
        memory_bytes: fields.optional("memory_bytes", faults, Node::count),
        cpu_ms: fields.optional("cpu_ms", faults, Node::count),
        wall_ms: fields.optional("wall_ms", faults, Node::count),
        requests: fields.optional("requests", faults, Node::count),
        exchanges: fields.optional("exchanges", faults, Node::count),
        request_bytes: fields.optional("request_bytes", faults, Node::count),
        response_bytes: fields.optional("response_bytes", faults, Node::count),
        log_bytes: fields.optional("log_bytes", faults, Node::count),
    };
    fields.close(faults);
    Some(read)
}

fn one_of(node: &Node<'_, '_>, choices: &[&'static str], faults: &mut Faults) -> Option<&'static str> {
    let text = node.text(faults)?;
    let chosen = choices.iter().copied().find(|choice| *choice == text);
    if chosen.is_none() {
        let mut fault =
            Diagnostic::error("bad-value", format!("`{text}` is not one of: {}", choices.join(", ")), node.place());
        fault.hint =
            crate::suggest::nearest(&text, choices.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        faults.note(node, fault);
    }
    chosen
}
