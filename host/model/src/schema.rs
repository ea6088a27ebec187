//! What it costs to check a value against a JSON Schema.
//!
//! A reference stands for the whole of what it names, so a schema of a few lines can ask for more work
//! than a machine does in a year, and nothing stops a check that has begun. So a schema is measured
//! before it is used. The measure is how many sub-schemas are applied along one path into a value, from
//! its root to a leaf: what stands side by side in a value has its own work to show for itself, what is
//! applied to the same place again and again has not.
//!
//! Where it cannot tell, it takes the higher number: every branch of `anyOf` is applied, every pattern
//! matches every member, every schema for items is for all of them.
//!
//! A pattern is matched in time linear in the text, and in what the pattern is compiled to as well: that is
//! the second measure. What does not match is told in faults, which take memory, and a choice (`anyOf`, `oneOf`)
//! collects all that it finds in its branches: how many these may be is the third. With the size of a value they give
//! its [`Work`], which is bounded.
//!
//! `unevaluatedProperties` and `unevaluatedItems` are refused. What is left over for them is found by applying every
//! branch around them again, at each level of nesting, so that a few lines of them are beyond every bound.

use std::collections::{BTreeMap, HashMap};

use percent_encoding::percent_decode_str;
use serde_json::Value;

/// How many sub-schemas may be applied along one path into a value.
pub const MAX_COST: u64 = 10_000;
/// How many regular expressions a schema may have.
pub const MAX_PATTERNS: usize = 200;
/// How large one of them may be when it is compiled, bytes.
pub const MAX_PATTERN_BYTES: usize = 64 << 10;

/// The smallest bound on compiled patterns that is tried, bytes.
const LEAST_PATTERN_BYTES: usize = 1 << 10;
/// The most work of checking a value: some seconds.
const MAX_WORK: u64 = 100_000_000;
/// Up to so much work may be done at once, on an async worker: about a millisecond.
const QUICK_WORK: u64 = 20_000;
/// The same for telling the faults of what does not match, which is rare.
const QUICK_TELLING: u64 = 1_000_000;
/// The most memory that the faults of a value may take while they are told, bytes.
const MAX_TOLD_BYTES: u64 = 256 << 20;
/// The same where other work waits.
const QUICK_TOLD_BYTES: u64 = 8 << 20;
/// So much of that is for one fault, and so much text of the schema stands in it; the value may be repeated in it too.
const FAULT_BYTES: usize = 512;
/// So many bytes of text are read in the time in which a sub-schema is applied to a value, about 50 ns.
const TEXT_BYTES: u64 = 1 << 10;
/// Bytes of text times bytes of compiled patterns for the same time, where the patterns are of the slowest kind.
const MATCHED_BYTES: u64 = 256;

/// How deep values may nest: JSON that is deeper is not read.
const MAX_LEVELS: usize = 128;
/// How many schemas may hold one another at one place of a value: whoever checks a value recurses.
const MAX_DEPTH: u32 = 128;
/// How many edges are kept while a schema is measured, so that this itself is bounded.
const MAX_EDGES: usize = 100_000;

/// Why a schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// More than [`MAX_COST`] sub-schemas would be applied.
    #[error(
        "this schema refers to itself too often, or offers too many values: checking a value could take more than \
         {MAX_COST} sub-schemas"
    )]
    TooOften,
    /// A schema holds itself at the same place of the value, or too many hold one another.
    #[error("this schema refers to itself without end, or {MAX_DEPTH} schemas hold one another")]
    Endless,
    /// More than [`MAX_PATTERNS`] regular expressions.
    #[error("this schema has more than {MAX_PATTERNS} patterns")]
    Patterns,
    /// A reference that is no JSON pointer into the schema.
    #[error("this schema has {0}, and only references like '#/$defs/name' are followed")]
    Reference(String),
    /// A keyword for what other keywords leave over.
    #[error(
        "this schema has '{0}', whose work has no bound; write all members beside 'additionalProperties', or all items \
         beside 'items'"
    )]
    Unevaluated(String),
}

/// What a schema costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// How many sub-schemas are applied along one path into a value, at most [`MAX_COST`].
    schemas: u64,
    /// How many patterns one text of it is matched with, at most.
    patterns: u64,
    /// How large each of them is when it is compiled, at most.
    pattern_bytes: usize,
    /// How many faults there may be along one path.
    faults: u64,
    /// Whether there is a choice, which collects all faults where one is asked for.
    has_choices: bool,
}

/// Measures a schema.
pub fn cost(schema: &Value) -> Result<Cost, SchemaError> {
    let mut measure = Measure {
        root: schema,
        numbers: HashMap::new(),
        schemas: Vec::new(),
        sites: Vec::new(),
        patterns: 0,
        has_choices: false,
        edges: 0,
    };
    measure.number(schema);
    // What a site refers to below is numbered meanwhile.
    let mut next = 0;
    while next < measure.schemas.len() {
        measure.visit(next, 0)?;
        next += 1;
    }
    let has_choices = measure.has_choices;
    let sites: Vec<Site> = measure.sites.into_iter().flatten().collect();
    let mut counts: Vec<Count> = sites.iter().map(|site| site.here).collect();
    for _ in 0..MAX_LEVELS {
        let deeper: Vec<Count> = sites.iter().map(|site| site.count(&counts)).collect();
        if deeper[0].schemas > MAX_COST {
            return Err(SchemaError::TooOften);
        }
        if deeper == counts {
            break;
        }
        counts = deeper;
    }
    let Count { schemas, patterns, faults } = counts[0];
    Ok(Cost { schemas, patterns, pattern_bytes: MAX_PATTERN_BYTES, faults, has_choices })
}

impl Cost {
    /// What it costs where there is no schema.
    pub const NOTHING: Self = Self { schemas: 1, patterns: 0, pattern_bytes: 0, faults: 0, has_choices: false };

    /// Builds a validator, with patterns that are as small when compiled as they can be: `build` gets the bound,
    /// in bytes. The cost is that of the validator then.
    pub fn build<V, E>(self, build: impl Fn(usize) -> Result<V, E>) -> Result<(V, Self), E> {
        let mut bytes = if self.patterns == 0 { MAX_PATTERN_BYTES } else { LEAST_PATTERN_BYTES };
        loop {
            match build(bytes) {
                Ok(validator) => return Ok((validator, Self { pattern_bytes: bytes, ..self })),
                Err(error) if bytes >= MAX_PATTERN_BYTES => return Err(error),
                Err(_) => bytes *= 2,
            }
        }
    }

    /// What it takes to check a value with so many values and keys in it, and so many bytes of text.
    pub fn work(&self, values: u64, text_bytes: usize) -> Work {
        let text = text_bytes as u64;
        let applied = values.saturating_add(text / TEXT_BYTES).saturating_mul(self.schemas);
        let matched = text.saturating_mul(self.patterns).saturating_mul(self.pattern_bytes as u64) / MATCHED_BYTES;
        let checking = applied.saturating_add(matched);
        // Each schema in which a fault stands may look again at all that it holds, to say what it is.
        let telling = checking.saturating_mul(self.schemas);
        let all_bytes = values.saturating_mul(FAULT_BYTES as u64).saturating_add(text).saturating_mul(self.faults);
        Work { checking, telling, all_bytes, first_bytes: if self.has_choices { all_bytes } else { 0 } }
    }
}

/// What it takes to check one value. The unit is a sub-schema applied to a value, some 50 ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    checking: u64,
    telling: u64,
    /// The memory of all faults.
    all_bytes: u64,
    /// The memory of the first one, where it is more than that of a fault.
    first_bytes: u64,
}

impl Work {
    /// Whether the value must not be checked at all.
    pub fn is_too_much(&self) -> bool {
        self.checking > MAX_WORK
    }

    /// Whether it may be done, and all faults told, where other work waits.
    pub fn is_quick(&self) -> bool {
        self.checking <= QUICK_WORK && self.telling <= QUICK_TELLING && self.all_bytes <= QUICK_TOLD_BYTES
    }

    /// Whether the first fault may be told.
    pub fn may_tell(&self) -> bool {
        self.telling <= MAX_WORK && self.first_bytes <= MAX_TOLD_BYTES
    }
}

/// Where in a value a schema below is applied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// To the member of this name.
    Member(String),
    /// To members of other names, and perhaps to any.
    Members,
    /// To items.
    Items,
}

/// What is applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    /// Sub-schemas, along one path into a value.
    schemas: u64,
    /// Patterns, to one text.
    patterns: u64,
    /// Faults that these may find, along one path into a value.
    faults: u64,
}

impl Count {
    fn plus(self, other: Self, times: u64) -> Self {
        Self {
            schemas: self.schemas.saturating_add(other.schemas.saturating_mul(times)),
            patterns: self.patterns.saturating_add(other.patterns.saturating_mul(times)),
            faults: self.faults.saturating_add(other.faults.saturating_mul(times)),
        }
    }
}

/// What a schema applies, with everything that it holds in place.
#[derive(Debug, Clone, Default)]
struct Site {
    /// To the value itself, and to its keys.
    here: Count,
    /// How many of the sub-schemas hold one another.
    depth: u32,
    /// Which, how often, to what is inside of the value.
    below: BTreeMap<Place, BTreeMap<usize, u64>>,
}

impl Site {
    /// With what is applied inside of the value, by the schemas of these counts. A text is at one place of it only.
    fn count(&self, counts: &[Count]) -> Count {
        let sum = |place: &Place| {
            let schemas = self.below.get(place).into_iter().flatten();
            schemas.fold(Count::default(), |sum, (schema, times)| sum.plus(counts[*schema], *times))
        };
        let members = sum(&Place::Members);
        let of = |place| match place {
            &Place::Member(_) => sum(place).plus(members, 1),
            _ => sum(place),
        };
        self.below.keys().map(of).fold(self.here, |most, below| Count {
            schemas: most.schemas.max(self.here.schemas.saturating_add(below.schemas)),
            patterns: most.patterns.max(below.patterns),
            faults: most.faults.max(self.here.faults.saturating_add(below.faults)),
        })
    }
}

struct Measure<'s> {
    root: &'s Value,
    /// Schemas by where they stand in memory.
    numbers: HashMap<*const Value, usize>,
    schemas: Vec<&'s Value>,
    /// `None` while a schema is not measured, or is being measured.
    sites: Vec<Option<Site>>,
    patterns: usize,
    has_choices: bool,
    edges: usize,
}

impl<'s> Measure<'s> {
    fn number(&mut self, schema: &'s Value) -> usize {
        let next = self.schemas.len();
        let number = *self.numbers.entry(std::ptr::from_ref(schema)).or_insert(next);
        if number == next {
            self.schemas.push(schema);
            self.sites.push(None);
        }
        number
    }

    /// Measures a schema that stands in `depth` others at the same place of the value.
    fn visit(&mut self, number: usize, depth: u32) -> Result<Site, SchemaError> {
        if let Some(site) = &self.sites[number] {
            return Ok(site.clone());
        }
        // A schema that holds itself comes here too, as it is not measured before its parts are.
        if depth > MAX_DEPTH {
            return Err(SchemaError::Endless);
        }
        let mut site = Site { here: Count { schemas: 1, patterns: 0, faults: 1 }, ..Site::default() };
        if let Value::Object(keywords) = self.schemas[number] {
            for (keyword, value) in keywords {
                site.here.faults = site.here.faults.saturating_add(faults(keyword, value));
                self.keyword(&mut site, number, keyword, value, depth)?;
            }
        }
        self.edges += site.below.values().map(BTreeMap::len).sum::<usize>();
        if site.here.schemas > MAX_COST || site.depth > MAX_DEPTH || self.edges > MAX_EDGES {
            return Err(SchemaError::TooOften);
        }
        self.sites[number] = Some(site.clone());
        Ok(site)
    }

    fn keyword(
        &mut self,
        site: &mut Site,
        number: usize,
        keyword: &str,
        value: &'s Value,
        depth: u32,
    ) -> Result<(), SchemaError> {
        let listed = || value.as_array().into_iter().flatten();
        let named = || value.as_object().into_iter().flatten();
        match keyword {
            "$ref" => {
                let target = self.target(value)?;
                self.hold(site, target, depth)?;
            }
            "$dynamicRef" | "$recursiveRef" => return Err(SchemaError::Reference(format!("a '{keyword}'"))),
            "$id" if number != 0 && value.is_string() => {
                return Err(SchemaError::Reference("an '$id' inside of it".to_owned()));
            }
            // Another draft is read by other rules.
            "$schema" if number != 0 => return Err(SchemaError::Reference("a '$schema' inside of it".to_owned())),
            "unevaluatedProperties" | "unevaluatedItems" => return Err(SchemaError::Unevaluated(keyword.to_owned())),
            "allOf" | "anyOf" | "oneOf" => {
                self.has_choices |= keyword != "allOf";
                for schema in listed() {
                    self.hold(site, schema, depth)?;
                }
            }
            "not" | "if" | "then" | "else" | "propertyNames" => self.hold(site, value, depth)?,
            "dependentSchemas" | "dependencies" | "dependentRequired" => {
                for (_, schema) in named() {
                    self.hold(site, schema, depth)?;
                }
            }
            // Texts are looked up, and everything else is compared with one after the other.
            "enum" if !listed().all(|option| option.is_string() || option.is_null()) => {
                site.here.schemas = site.here.schemas.saturating_add(listed().count() as u64);
            }
            "properties" => {
                for (name, schema) in named() {
                    self.apply(site, Place::Member(name.clone()), schema);
                }
            }
            "patternProperties" => {
                for (_, schema) in named() {
                    self.pattern(site)?;
                    self.apply(site, Place::Members, schema);
                }
            }
            "additionalProperties" => self.apply(site, Place::Members, value),
            "items" if value.is_array() => listed().for_each(|schema| self.apply(site, Place::Items, schema)),
            "prefixItems" => listed().for_each(|schema| self.apply(site, Place::Items, schema)),
            "items" | "additionalItems" | "contains" => self.apply(site, Place::Items, value),
            "pattern" => self.pattern(site)?,
            _ => {}
        }
        Ok(())
    }

    /// `schema` is applied to the same place of the value.
    fn hold(&mut self, site: &mut Site, schema: &'s Value, depth: u32) -> Result<(), SchemaError> {
        let number = self.number(schema);
        let inner = self.visit(number, depth + 1)?;
        site.here = site.here.plus(inner.here, 1);
        site.depth = site.depth.max(inner.depth + 1);
        for (place, schemas) in inner.below {
            let here = site.below.entry(place).or_default();
            for (schema, times) in schemas {
                let sum = here.entry(schema).or_default();
                *sum = sum.saturating_add(times);
            }
        }
        Ok(())
    }

    /// `schema` is applied to what is inside of the value.
    fn apply(&mut self, site: &mut Site, place: Place, schema: &'s Value) {
        let number = self.number(schema);
        *site.below.entry(place).or_default().entry(number).or_default() += 1;
    }

    fn pattern(&mut self, site: &mut Site) -> Result<(), SchemaError> {
        site.here.patterns += 1;
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS { Err(SchemaError::Patterns) } else { Ok(()) }
    }

    /// What a reference leads to: the place that `jsonschema` finds, which decodes the pointer (RFC 6901 section 6), and
    /// only where it could not take the references behind it from another place than the root.
    fn target(&self, reference: &Value) -> Result<&'s Value, SchemaError> {
        let text = reference.as_str().unwrap_or_default();
        let refused =
            || SchemaError::Reference(format!("the reference '{}'", text.chars().take(80).collect::<String>()));
        let pointer = text.strip_prefix('#').ok_or_else(refused)?;
        // What does not begin with a raw slash is an anchor, and of an escape but `~0` and `~1` readers make what they
        // will.
        let pointer =
            Some(pointer).filter(|pointer| pointer.is_empty() || pointer.starts_with('/')).ok_or_else(refused)?;
        let pointer = percent_decode_str(pointer).decode_utf8().map_err(|_| refused())?;
        if pointer.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
            return Err(refused());
        }
        for (end, _) in pointer.match_indices('/').skip(1).chain([(pointer.len(), "")]) {
            let here = self.root.pointer(&pointer[..end]).ok_or_else(refused)?;
            if end > 0 && ["$id", "id"].iter().any(|id| here.get(id).is_some_and(Value::is_string)) {
                return Err(SchemaError::Reference("an '$id' inside of it".to_owned()));
            }
        }
        self.root.pointer(&pointer).ok_or_else(refused)
    }
}

/// How many faults a keyword may find at one place by itself: one for each name that is required, otherwise one. One
/// that repeats much of the schema counts for more.
fn faults(keyword: &str, value: &Value) -> u64 {
    let of_text = |bytes: usize| 1 + (bytes / FAULT_BYTES) as u64;
    let of_names = |names: &Value| -> u64 {
        let names = names.as_array().into_iter().flatten();
        names.map(|name| of_text(name.as_str().map_or(0, str::len))).sum()
    };
    match keyword {
        "required" => of_names(value),
        "dependentRequired" | "dependencies" => {
            value.as_object().into_iter().flatten().map(|(_, names)| of_names(names)).sum()
        }
        "pattern" | "format" => of_text(value.as_str().map_or(0, str::len)),
        "not" => of_text(value.to_string().len()),
        _ => 1,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_costs_what_it_applies_along_one_path() {
        for (schema, expected) in [
            (json!(true), 1),
            (json!({"type": "string"}), 1),
            // Members beside one another are not on one path.
            (json!({"properties": {"a": {"type": "string"}, "b": {"anyOf": [{}, {}]}}}), 4),
            (json!({"properties": {"a": {}}, "additionalProperties": {}, "patternProperties": {"x": {}}}), 4),
            (json!({"allOf": [{}, {"not": {}}], "if": {}, "then": {}}), 6),
            (json!({"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "string"}, "unused": {"not": {}}}}), 3),
            (json!({"items": {"items": {}}, "contains": {}}), 4),
            // Texts are looked up, other values are compared with one after the other.
            (json!({"enum": ["a", "b", null]}), 1),
            (json!({"enum": [["a"], ["b"], null]}), 4),
            (json!({"dependentRequired": {"a": ["b", "c"], "b": ["a"]}}), 3),
        ] {
            assert_eq!(cost(&schema).map(|cost| cost.schemas), Ok(expected), "{schema}");
        }
    }

    #[test]
    fn what_refers_to_itself_further_inside_is_taken() {
        for schema in [
            json!({"properties": {"next": {"$ref": "#"}}}),
            json!({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}),
            json!({"anyOf": [{"type": "string"}, {"items": {"$ref": "#"}}, {"additionalProperties": {"$ref": "#"}}]}),
            // As generated for an enum of expressions.
            json!({"$ref": "#/$defs/E", "$defs": {"E": {"oneOf": [
                {"properties": {"and": {"items": {"$ref": "#/$defs/E"}}}, "required": ["and"]},
                {"properties": {"not": {"$ref": "#/$defs/E"}}, "required": ["not"]},
            ]}}}),
        ] {
            assert!(cost(&schema).is_ok(), "{schema}: {:?}", cost(&schema));
        }
    }

    #[test]
    fn what_would_take_for_ever_is_refused() {
        let chain = |link: fn(Value) -> Value| {
            let definition = |n| (format!("d{n}"), link(json!({"$ref": format!("#/$defs/d{}", n + 1)})));
            let mut definitions: serde_json::Map<String, Value> = (0..40).map(definition).collect();
            definitions.insert("d40".to_owned(), json!({}));
            json!({"$ref": "#/$defs/d0", "$defs": definitions})
        };
        for schema in [
            chain(|next| json!({"anyOf": [next, next]})),
            chain(|next| json!({"allOf": [next], "not": next})),
            chain(|next| json!({"patternProperties": {"a": next, "b": next}})),
            chain(|next| json!({"items": next, "contains": next})),
            json!({"items": {"enum": (0..100_000).map(|number| json!([number])).collect::<Vec<_>>()}}),
            json!({"anyOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]}),
        ] {
            assert_eq!(cost(&schema), Err(SchemaError::TooOften), "{schema}");
        }
        assert_eq!(cost(&json!({"allOf": [{"$ref": "#"}]})), Err(SchemaError::Endless));
        let deep = (0..200).fold(json!({}), |schema, _| json!({"not": schema}));
        assert_eq!(cost(&deep), Err(SchemaError::Endless));
    }

    #[test]
    fn patterns_are_counted() {
        let with = |count: usize| json!({"allOf": vec![json!({"pattern": "a"}); count]});
        assert!(cost(&with(MAX_PATTERNS)).is_ok());
        assert_eq!(cost(&with(MAX_PATTERNS + 1)), Err(SchemaError::Patterns));
    }

    #[test]
    fn a_text_is_matched_with_the_patterns_of_its_place() {
        let pattern = || json!({"pattern": "a"});
        for (schema, expected) in [
            (json!({"type": "string"}), 0),
            (json!({"properties": {"a": pattern(), "b": pattern()}}), 1),
            (json!({"properties": {"a": pattern()}, "additionalProperties": pattern()}), 2),
            (json!({"patternProperties": {"a": pattern(), "b": {}}, "propertyNames": pattern()}), 3),
            (json!({"pattern": "a", "items": {"$ref": "#"}}), 1),
            (json!({"anyOf": vec![json!({"$ref": "#/$defs/a"}); 30], "$defs": {"a": pattern()}}), 30),
        ] {
            assert_eq!(cost(&schema).map(|cost| cost.patterns), Ok(expected), "{schema}");
        }
    }

    #[test]
    fn work_is_bounded_by_the_text_the_patterns_and_their_size() {
        let of = |schema: Value, needed: usize| {
            let built = |bytes: usize| if bytes >= needed { Ok(()) } else { Err(()) };
            cost(&schema).unwrap().build(built).unwrap().1
        };
        let (one, ten) = (json!({"pattern": "a"}), json!({"allOf": vec![json!({"pattern": "a"}); 10]}));
        const MIB: usize = 1 << 20;
        // Small patterns are for large texts, and large patterns for small ones.
        assert!(!of(one.clone(), 300).work(1, 4 * MIB).is_too_much());
        assert!(!of(ten.clone(), 2000).work(1, MIB).is_too_much());
        assert!(!of(one.clone(), 60_000).work(1, MIB / 4).is_too_much());
        assert!(of(one.clone(), 60_000).work(1, MIB).is_too_much());
        assert!(of(ten.clone(), 60_000).work(1, MIB / 8).is_too_much());
        // What is short is done at once.
        assert!(of(one, 300).work(1, 4000).is_quick());
        assert!(!of(ten, 60_000).work(1, 4000).is_quick());
        // A text is read by whatever is applied to it.
        let lengths = json!({"allOf": vec![json!({"maxLength": 9}); 5000]});
        assert!(!of(lengths, 0).work(1, 4 * MIB).is_quick());
    }

    #[test]
    fn what_looks_at_what_is_left_over_is_refused() {
        for keyword in ["unevaluatedProperties", "unevaluatedItems"] {
            let inner = json!({"anyOf": [{"properties": {"a": {}}}], keyword: false});
            for schema in [inner.clone(), json!({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": inner}})] {
                assert_eq!(cost(&schema), Err(SchemaError::Unevaluated(keyword.to_owned())));
            }
            assert!(cost(&json!({"properties": {keyword: {}}, "required": [keyword]})).is_ok());
        }
    }

    #[test]
    fn telling_the_faults_takes_no_more_memory_than_there_is_for_it() {
        let work = |schema: &Value, values| cost(schema).unwrap().work(values, 0);
        let names = |count: usize| (0..count).map(|number| format!("n{number}")).collect::<Vec<_>>();
        let few = json!({"items": {"required": names(20)}});
        let many = json!({"items": {"required": names(10_000)}});
        assert!(work(&few, 100).is_quick());
        // The first fault is found without the others, but not among those of a choice.
        assert!(!work(&many, 2000).is_quick() && work(&many, 2000).may_tell());
        assert!(work(&json!({"anyOf": [few, {"type": "null"}]}), 2000).may_tell());
        assert!(!work(&json!({"anyOf": [many, {"type": "null"}]}), 2000).may_tell());
        // What a fault repeats of the schema or of the value counts as well.
        let long = "n".repeat(1 << 20);
        for keywords in [
            json!({"required": [long]}),
            json!({"not": {"const": long}}),
            json!({"dependentRequired": {"a": [long]}}),
            json!({"dependencies": {"a": names(10_000)}}),
        ] {
            assert!(!work(&json!({"oneOf": [{"items": keywords}]}), 2000).may_tell());
        }
        let branches = json!({"anyOf": vec![json!({"additionalProperties": false}); 1000]});
        assert!(!cost(&branches).unwrap().work(4, 1 << 20).may_tell());
    }

    #[test]
    fn a_schema_is_built_once_where_it_has_no_patterns() {
        let tries = std::cell::Cell::new(0);
        let built = |_| {
            tries.set(tries.get() + 1);
            Err::<(), ()>(())
        };
        assert!(cost(&json!({"type": "string"})).unwrap().build(built).is_err());
        assert_eq!(tries.get(), 1);
    }

    #[test]
    fn a_reference_is_measured_where_it_leads() {
        let mut chain: Vec<_> = (0..40)
            .map(|level| {
                let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
                (format!("d{level}"), json!({"anyOf": [next, {"$ref": next["$ref"], "title": "a"}]}))
            })
            .collect();
        chain.push(("d40".to_owned(), json!({"type": "array"})));
        let chain: Value = Value::Object(chain.into_iter().collect());
        let mut encoded = json!({"$ref": "#/$defs/d%30", "$defs": chain});
        encoded["$defs"]["d%30"] = true.into();
        assert_eq!(cost(&encoded), Err(SchemaError::TooOften));
        let mut elsewhere = json!({"$ref": "#/$defs/x/$defs/d0", "$defs": {"d1": true}});
        elsewhere["$defs"]["x"] = json!({"$id": "http://x.example/", "$defs": chain});
        assert_eq!(cost(&elsewhere), Err(SchemaError::Reference("an '$id' inside of it".to_owned())));
    }

    /// Each place has a value and a number of patterns of its own.
    #[test]
    fn reference_is_measured_at_the_place_that_is_applied() {
        let names = [
            "d0", "d%30", "a/b", "a~1b", "a%2Fb", "ö", "%C3%B6", "~2", "", " ", "a%b", "0", "00", "~", "~~", "~~0",
            "~~1", "~/", "/",
        ];
        let place = |number: usize| json!({"const": number, "allOf": vec![json!({"pattern": "a"}); number]});
        let mut places: serde_json::Map<_, _> =
            names.iter().enumerate().map(|(number, name)| ((*name).to_owned(), place(number + 1))).collect();
        let list = names.len() + 1;
        places.insert("list".into(), json!({"prefixItems": [place(list), place(list + 1)]}));
        let mut taken = 0;
        for written in [
            "d0",
            "d%30",
            "d%2530",
            "a~1b",
            "a%2Fb",
            "a%2fb",
            "a~01b",
            "a%7E1b",
            "a%7e01b",
            "a%252Fb",
            "%C3%B6",
            "ö",
            "%c3%b6",
            "%25C3%25B6",
            "~2",
            "~02",
            "%7E2",
            "",
            "%20",
            " ",
            "a%b",
            "a%25b",
            "%FF",
            "0",
            "00",
            "list/prefixItems/0",
            "list/prefixItems/1",
            "list/prefixItems/01",
            "list/prefixItems/+1",
            "list/prefixItems/%31",
            "list%2FprefixItems/0",
            "list/prefixItems/2",
            "nowhere",
            "~~1",
            "~~0",
            "%7E~1",
            "~",
            "~0~1",
            "~0~01",
            "~1",
        ] {
            let schema = json!({"$ref": format!("#/$defs/{written}"), "$defs": places});
            let Ok(cost) = cost(&schema) else { continue };
            let Ok(applied) = jsonschema::validator_for(&schema) else { continue };
            taken += 1;
            for value in 1..=list + 1 {
                assert_eq!(applied.is_valid(&json!(value)), cost.patterns == value as u64, "{written}: {value}");
            }
        }
        assert!(taken > 15, "{taken}");
        let anchor = json!({"$id": "#%2F$defs%2Fd0", "allOf": [{"type": "array"}]});
        let schema = json!({"$ref": "#%2F$defs%2Fd0", "$defs": {"d0": true, "evil": anchor}});
        assert!(matches!(cost(&schema), Err(SchemaError::Reference(_))));
        let inner = json!({"$schema": "http://json-schema.org/draft-04/schema#", "id": "http://x.example/"});
        let refused = Err(SchemaError::Reference("a '$schema' inside of it".to_owned()));
        assert_eq!(cost(&json!({"allOf": [inner]})), refused);
    }

    #[test]
    fn a_reference_that_leaves_the_schema_is_refused() {
        for (schema, what) in [
            (json!({"$ref": "https://example.com/a"}), "the reference 'https://example.com/a'"),
            (json!({"$ref": "#/$defs/a"}), "the reference '#/$defs/a'"),
            (json!({"$dynamicRef": "#a"}), "a '$dynamicRef'"),
            (json!({"items": {"$id": "b"}}), "an '$id' inside of it"),
        ] {
            assert_eq!(cost(&schema), Err(SchemaError::Reference(what.to_owned())));
        }
        // A member may have any name.
        assert!(cost(&json!({"$ref": "#/$defs/Gr%C3%B6%C3%9Fe%20~1", "$defs": {"Gr\u{f6}\u{df}e /": {}}})).is_ok());
        assert!(cost(&json!({"$id": "https://example.com/a", "properties": {"$ref": {}, "$id": {}}})).is_ok());
    }
}
