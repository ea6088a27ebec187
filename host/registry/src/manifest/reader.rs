//! Reads a TOML document field by field and notes every fault with its place, instead of stopping at the first.

use std::collections::BTreeMap;

use keyward_model::{Diagnostic, Span, manifest::Claim};
use toml_span::value::{Table, Value, ValueInner};

use crate::suggest::did_you_mean;

/// What is wrong so far, and where in the document.
#[derive(Default)]
pub(super) struct Faults {
    diagnostics: Vec<Diagnostic>,
    paths: Vec<Vec<String>>,
}

impl Faults {
    /// Notes a fault of `node`.
    pub(super) fn note(&mut self, node: &Node<'_, '_>, diagnostic: Diagnostic) {
        self.paths.push(node.path.clone());
        self.diagnostics.push(diagnostic);
    }

    /// Whether a fault is noted at `path`, above it or below it: what a rule says there is a consequence.
    pub(super) fn touch(&self, path: &[String]) -> bool {
        self.paths.iter().any(|faulty| faulty.starts_with(path) || path.starts_with(faulty))
    }

    /// Adds what was found by other means.
    pub(super) fn add(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// All of it in the order of the text.
    pub(super) fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort_by_key(|diagnostic| diagnostic.span.map_or((0, 0), |span| (span.start, span.end)));
        self.diagnostics
    }
}

/// A value in the document with its path and the place to point at.
pub(super) struct Node<'t, 'de> {
    value: &'t Value<'de>,
    path: Vec<String>,
    place: Span,
}

impl<'t, 'de> Node<'t, 'de> {
    /// The whole document.
    pub(super) fn root(value: &'t Value<'de>) -> Self {
        Self { value, path: Vec::new(), place: Span { start: 0, end: 0 } }
    }

    /// The node at `path`, or the deepest one on the way to it.
    pub(super) fn at(self, path: &[String]) -> Self {
        let mut node = self;
        for name in path {
            let next = match node.value.as_ref() {
                ValueInner::Table(table) => node.field(table, name),
                ValueInner::Array(array) => name.parse().ok().and_then(|index: usize| node.element(array, index)),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    /// Where to point.
    pub(super) fn place(&self) -> Option<Span> {
        Some(self.place)
    }

    fn field(&self, table: &'t Table<'de>, name: &str) -> Option<Self> {
        let (key, value) = table.get_key_value(name)?;
        // A table's own span begins at a header that may belong to another table; its key is what a person looks for.
        let place = match value.as_ref() {
            ValueInner::Table(_) | ValueInner::Array(_) => key.span,
            _ => value.span,
        };
        Some(self.child(name, value, place))
    }

    fn element(&self, array: &'t [Value<'de>], index: usize) -> Option<Self> {
        let value = array.get(index)?;
        Some(self.child(&index.to_string(), value, value.span))
    }

    fn child(&self, name: &str, value: &'t Value<'de>, place: toml_span::Span) -> Self {
        let mut path = self.path.clone();
        path.push(name.to_owned());
        Self { value, path, place: Span { start: place.start, end: place.end } }
    }

    fn wrong_type(&self, wanted: &str, faults: &mut Faults) {
        let found = self.value.as_ref().type_str();
        faults.note(
            self,
            Diagnostic::error(
                "wrong-type",
                format!("{wanted} is wanted here, and this is of type {found}"),
                self.place(),
            ),
        );
    }

    /// A text.
    pub(super) fn text(&self, faults: &mut Faults) -> Option<String> {
        let text = self.value.as_str().map(str::to_owned);
        if text.is_none() {
            self.wrong_type("a text in quotes", faults);
        }
        text
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, faults: &mut Faults) -> Option<bool> {
        let boolean = self.value.as_bool();
        if boolean.is_none() {
            self.wrong_type("`true` or `false`", faults);
        }
        boolean
    }

    /// A whole number that is not negative.
    pub(super) fn count<T: TryFrom<i64>>(&self, faults: &mut Faults) -> Option<T> {
        let Some(number) = self.value.as_integer() else {
            self.wrong_type("a whole number", faults);
            return None;
        };
        let count = T::try_from(number).ok();
        if count.is_none() {
            faults.note(self, Diagnostic::error("bad-value", format!("{number} is out of range"), self.place()));
        }
        count
    }

    /// A text, a whole number, `true` or `false`, or a list of texts.
    pub(super) fn claim(&self, faults: &mut Faults) -> Option<Claim> {
        match self.value.as_ref() {
            ValueInner::String(text) => Some(Claim::Text(text.to_string())),
            ValueInner::Integer(number) => Some(Claim::Number(*number)),
            ValueInner::Boolean(flag) => Some(Claim::Flag(*flag)),
            ValueInner::Array(_) => self.texts(faults).map(Claim::Texts),
            _ => {
                self.wrong_type("a text, a whole number, `true`, `false` or a list of texts", faults);
                None
            }
        }
    }

    /// A list, each element read by `read`, which gives something harmless for a faulty one: so the others
    /// keep their numbers, by which rules name them.
    pub(super) fn list<T>(&self, faults: &mut Faults, mut read: impl FnMut(&Self, &mut Faults) -> T) -> Option<Vec<T>> {
        let Some(array) = self.value.as_array() else {
            self.wrong_type("a list in square brackets", faults);
            return None;
        };
        Some((0..array.len()).filter_map(|index| Some(read(&self.element(array, index)?, faults))).collect())
    }

    /// Whether it is a list.
    pub(super) fn is_list(&self) -> bool {
        self.value.as_array().is_some()
    }

    /// A list of texts.
    pub(super) fn texts(&self, faults: &mut Faults) -> Option<Vec<String>> {
        self.list(faults, |node, faults| node.text(faults).unwrap_or_default())
    }

    /// A table whose keys are names of the author's choice. `read` gets each key with its node; what it
    /// refuses is left out.
    pub(super) fn named<K: Ord, T>(
        &self,
        faults: &mut Faults,
        mut read: impl FnMut(&str, &Self, &mut Faults) -> Option<(K, T)>,
    ) -> BTreeMap<K, T> {
        let Some(table) = self.value.as_table() else {
            self.wrong_type("a table", faults);
            return BTreeMap::new();
        };
        table.keys().filter_map(|key| read(&key.name, &self.field(table, &key.name)?, faults)).collect()
    }

    /// A table whose keys are fixed.
    pub(super) fn fields(&self, faults: &mut Faults) -> Option<Fields<'_, 't, 'de>> {
        let table = self.value.as_table();
        if table.is_none() {
            self.wrong_type("a table", faults);
        }
        table.map(|table| Fields { node: self, table, known: Vec::new() })
    }
}

/// The fields of one table; [`Fields::close`] complains about those that nobody asked for.
pub(super) struct Fields<'n, 't, 'de> {
    node: &'n Node<'t, 'de>,
    table: &'t Table<'de>,
    known: Vec<&'static str>,
}

impl<'t, 'de> Fields<'_, 't, 'de> {
    /// Reads a field that may be left out.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        faults: &mut Faults,
        read: impl FnOnce(&Node<'t, 'de>, &mut Faults) -> Option<T>,
    ) -> Option<T> {
        self.known.push(name);
        self.node.field(self.table, name).and_then(|node| read(&node, faults))
    }

    /// Reads a field that must be there.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        faults: &mut Faults,
        read: impl FnOnce(&Node<'t, 'de>, &mut Faults) -> Option<T>,
    ) -> Option<T> {
        if !self.table.contains_key(name) {
            let missing =
                Diagnostic::error("missing-field", format!("the field `{name}` is missing"), self.node.place());
            let mut path = self.node.path.clone();
            path.push(name.to_owned());
            faults.paths.push(path);
            faults.diagnostics.push(missing);
        }
        self.optional(name, faults, read)
    }

    /// Refuses a field, with the reason for it.
    pub(super) fn refuse(&mut self, name: &'static str, faults: &mut Faults, message: &str, hint: &str) {
        let Some(node) = self.node.field(self.table, name) else { return };
        let place = self.key_place(name);
        faults.note(&node, Diagnostic::error("generated-field", message, place).hint(hint));
    }

    /// Ends the reading: every field that was not asked for is a fault. Fields that were refused are not told twice.
    pub(super) fn close(self, faults: &mut Faults) {
        for key in self.table.keys() {
            let name = key.name.as_ref();
            let Some(node) = self.node.field(self.table, name) else { continue };
            if self.known.contains(&name) || faults.paths.contains(&node.path) {
                continue;
            }
            let mut unknown =
                Diagnostic::error("unknown-field", format!("there is no field `{name}` here"), self.key_place(name));
            unknown.hint = did_you_mean(name, self.known.iter().copied());
            faults.note(&node, unknown);
        }
    }

    fn key_place(&self, name: &str) -> Option<Span> {
        let (key, _) = self.table.get_key_value(name)?;
        Some(Span { start: key.span.start, end: key.span.end })
    }
}
