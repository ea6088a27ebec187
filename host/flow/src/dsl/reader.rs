//! Reads typed values from a tree and notes every fault with its place.

use std::collections::BTreeSet;

use keyward_model::{Diagnostic, Span};

use super::{
    model::{Named, Placed},
    tree::{Key, Node, Tree},
};

/// Collects the faults. A function that reads gives `None` where it noted one.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) faults: Vec<Diagnostic>,
}

impl Reader {
    /// Notes a fault.
    pub(super) fn fault<T>(&mut self, code: &'static str, span: Span, message: impl Into<String>) -> Option<T> {
        self.faults.push(Diagnostic::error(code, message, Some(span)));
        None
    }

    /// Notes a fault with a hint.
    pub(super) fn fault_with<T>(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Option<T> {
        self.faults.push(Diagnostic { hint, ..Diagnostic::error(code, message, Some(span)) });
        None
    }

    fn wrong_kind<T>(&mut self, node: &Node, wanted: &str) -> Option<T> {
        self.fault("wrong-type", node.span, format!("expected {wanted}, found {}", node.kind()))
    }

    /// A text.
    pub(super) fn text(&mut self, node: &Node) -> Option<Placed<String>> {
        match &node.tree {
            Tree::Text(text) => Some(Placed { value: text.clone(), span: node.span }),
            Tree::Number(number) => self.fault_with(
                "wrong-type",
                node.span,
                "expected a text, found a number",
                Some(format!("put it in quotes: '{number}'")),
            ),
            _ => self.wrong_kind(node, "a text"),
        }
    }

    /// A text that is not empty.
    pub(super) fn name(&mut self, node: &Node) -> Option<Placed<String>> {
        let text = self.text(node)?;
        if text.value.is_empty() {
            return self.fault("bad-value", node.span, "expected a name, found an empty text");
        }
        Some(text)
    }

    /// A text of a few.
    pub(super) fn choice(&mut self, node: &Node, choices: &[&str]) -> Option<Placed<String>> {
        let text = self.text(node)?;
        if choices.contains(&text.value.as_str()) {
            return Some(text);
        }
        let hint = did_you_mean(&text.value, choices.iter().copied());
        self.fault_with("bad-value", node.span, format!("'{}' is none of {}", text.value, choices.join(", ")), hint)
    }

    /// A whole number.
    pub(super) fn integer(&mut self, node: &Node) -> Option<i64> {
        match &node.tree {
            Tree::Number(number) => match number.as_i64() {
                Some(number) => Some(number),
                None => self.fault("wrong-type", node.span, "expected a whole number"),
            },
            _ => self.wrong_kind(node, "a whole number"),
        }
    }

    /// A whole number with its place.
    pub(super) fn number(&mut self, node: &Node) -> Option<Placed<i64>> {
        Some(Placed { value: self.integer(node)?, span: node.span })
    }

    /// A boolean.
    pub(super) fn boolean(&mut self, node: &Node) -> Option<bool> {
        match &node.tree {
            Tree::Bool(value) => Some(*value),
            _ => self.wrong_kind(node, "true or false"),
        }
    }

    /// Any value.
    pub(super) fn any(&mut self, node: &Node) -> Option<Node> {
        Some(node.clone())
    }

    /// Any object.
    pub(super) fn object(&mut self, node: &Node) -> Option<Node> {
        self.entries(node, "an object").map(|_| node.clone())
    }

    /// Any object or a text.
    pub(super) fn object_or_text(&mut self, node: &Node) -> Option<Node> {
        match &node.tree {
            Tree::Object(_) | Tree::Text(_) => Some(node.clone()),
            _ => self.wrong_kind(node, "an object or an expression"),
        }
    }

    /// An object whose values are texts, or an expression.
    pub(super) fn texts_by_name(&mut self, node: &Node) -> Option<Node> {
        let node = self.object_or_text(node)?;
        if let Tree::Object(entries) = &node.tree {
            let texts: Vec<_> = entries.iter().map(|(_, value)| self.text(value)).collect();
            texts.into_iter().collect::<Option<Vec<_>>>()?;
        }
        Some(node)
    }

    /// A list.
    pub(super) fn list<T>(
        &mut self,
        node: &Node,
        mut item: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Tree::List(items) = &node.tree else {
            return self.wrong_kind(node, "a list");
        };
        // Every item is read, so that every fault is found.
        let read: Vec<Option<T>> = items.iter().map(|node| item(self, node)).collect();
        read.into_iter().collect()
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, node: &Node) -> Option<Vec<Placed<String>>> {
        self.list(node, Self::text)
    }

    /// An object of things with names.
    pub(super) fn by_name<T>(
        &mut self,
        node: &Node,
        mut value: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Option<Named<T>> {
        let entries = self.entries(node, "an object")?;
        let read: Vec<Option<_>> = entries.iter().map(|(key, node)| Some((placed(key), value(self, node)?))).collect();
        read.into_iter().collect()
    }

    /// A list of objects with one key each, as the language writes things with a name and an order.
    pub(super) fn list_by_name<T>(
        &mut self,
        node: &Node,
        what: &str,
        mut value: impl FnMut(&mut Self, &Key, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.list(node, |reader, item| match &item.tree {
            Tree::Object(entries) if entries.len() == 1 => value(reader, &entries[0].0, &entries[0].1),
            Tree::Object(entries) if entries.len() > 1 => reader.fault_with(
                "bad-value",
                entries[1].0.span,
                format!("expected one {what}, found {}", entries.len()),
                Some(format!("begin each {what} with '- ' and indent what belongs to it")),
            ),
            _ => reader.fault(
                "wrong-type",
                item.span,
                format!("expected a {what} as 'name: ...', found {}", item.kind()),
            ),
        })
    }

    /// The entries of an object.
    pub(super) fn entries<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [(Key, Node)]> {
        match &node.tree {
            Tree::Object(entries) => Some(entries),
            _ => self.wrong_kind(node, what),
        }
    }

    /// The fields of an object that has a fixed set of them.
    pub(super) fn fields<'r, 'n>(&'r mut self, node: &'n Node, what: &'static str) -> Option<Fields<'r, 'n>> {
        let entries = self.entries(node, what)?;
        Some(Fields {
            reader: self,
            entries,
            span: node.span,
            what,
            known: BTreeSet::new(),
            told: Vec::new(),
            good: true,
        })
    }
}

/// The key as a name.
pub(super) fn placed(key: &Key) -> Placed<String> {
    Placed { value: key.text.clone(), span: key.span }
}

/// An object while its fields are read; the order of reading is the order of the documentation.
pub(super) struct Fields<'r, 'n> {
    pub(super) reader: &'r mut Reader,
    entries: &'n [(Key, Node)],
    span: Span,
    what: &'static str,
    known: BTreeSet<&'static str>,
    /// Misspelt fields that were told.
    told: Vec<Span>,
    good: bool,
}

impl<'n> Fields<'_, 'n> {
    /// The value of a field, where it is there.
    pub(super) fn node(&mut self, name: &'static str) -> Option<&'n Node> {
        self.known.insert(name);
        self.entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
    }

    /// Whether a field is there; it still has to be read.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, _)| key.text == name)
    }

    /// A field that may be left out.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Reader, &Node) -> Option<T>,
    ) -> Option<T> {
        let node = self.node(name)?;
        let value = read(self.reader, node);
        self.good &= value.is_some();
        value
    }

    /// A field that has to be there.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Reader, &Node) -> Option<T>,
    ) -> Option<T> {
        if self.node(name).is_none() {
            let message = format!("{} needs '{name}'", self.what);
            return self.missing(&[name], message);
        }
        self.optional(name, read)
    }

    /// Which one of several fields is there; it still has to be read.
    pub(super) fn one_of(&mut self, names: &[&'static str]) -> Option<&'static str> {
        self.known.extend(names);
        let mut found = names.iter().filter(|name| self.has(name));
        match (found.next(), found.next()) {
            (Some(name), None) => Some(name),
            (None, _) => {
                let message = format!("{} needs one of {}", self.what, names.join(", "));
                self.missing(names, message)
            }
            (Some(first), Some(second)) => {
                self.good = false;
                let (what, first, second) = (self.what, *first, *second);
                let span =
                    self.entries.iter().find(|(key, _)| key.text == second).map_or(self.span, |(key, _)| key.span);
                self.reader.fault("bad-value", span, format!("{what} has either '{first}' or '{second}'"))
            }
        }
    }

    /// One of these fields has to be there and is not. A misspelt one is told in its place.
    fn missing<T>(&mut self, names: &[&'static str], message: String) -> Option<T> {
        self.good = false;
        let misspelt = self.entries.iter().find(|(key, _)| {
            !self.known.contains(key.text.as_str()) && names.iter().any(|name| alike(&key.text, name))
        });
        match misspelt {
            Some((key, _)) => {
                self.told.push(key.span);
                let hint = did_you_mean(&key.text, names.iter().copied());
                self.unknown(key, hint)
            }
            None => self.reader.fault("missing-field", self.span, message),
        }
    }

    fn unknown<T>(&mut self, key: &Key, hint: Option<String>) -> Option<T> {
        let message = format!("{} has no field '{}'", self.what, key.text);
        self.reader.fault_with("unknown-field", key.span, message, hint)
    }

    /// Ends the reading: `None` where a field was bad, and any field that was not asked for is.
    pub(super) fn end(mut self) -> Option<()> {
        for (key, _) in self.entries {
            if !self.known.contains(key.text.as_str()) && !self.told.contains(&key.span) {
                self.good = false;
                let hint = did_you_mean(&key.text, self.known.iter().copied());
                self.unknown::<()>(key, hint);
            }
        }
        self.good.then_some(())
    }
}

fn alike(written: &str, meant: &str) -> bool {
    let distance = strsim::damerau_levenshtein(&written.to_lowercase(), &meant.to_lowercase());
    written != meant && distance <= (meant.len() / 3).min(3)
}

/// A hint that names what was likely meant.
pub(super) fn did_you_mean<'c>(written: &str, choices: impl IntoIterator<Item = &'c str>) -> Option<String> {
    let distance = |choice: &str| strsim::damerau_levenshtein(&written.to_lowercase(), &choice.to_lowercase());
    choices
        .into_iter()
        .filter(|choice| alike(written, choice))
        .min_by_key(|choice| distance(choice))
        .map(|choice| format!("did you mean '{choice}'?"))
}
