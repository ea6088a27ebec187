//! The functions that an expression may call.
//!
//! The set is jaq's own without what reaches out of the expression: `env` and `$ENV` give the host's
//! environment, `halt` ends the process, `input` reads, `debug` and `stderr` write, `localtime` and
//! `strflocaltime` depend on the machine. `now` gives the time at which the step is evaluated, so that
//! one step sees one time. Those that jaq-json and jaq-std implement for their own value, or in one
//! uninterrupted loop, are implemented here for ours.

use std::sync::LazyLock;

use jaq_core::{
    Error, Exn, RunPtr, ValR,
    box_iter::box_once,
    load::{
        self,
        parse::{Def, Term},
    },
    native::{self, Filter, Fun, bome, unary, v},
};
use jaq_json::Val;
use jaq_std::ValT as _;
use regex::{Regex, RegexBuilder};

use super::{
    Kind, children, json, meter,
    value::{Bounded, cut},
};

/// What is left out, with the reason for the author.
pub(super) const WITHHELD: &[(&str, &str)] = &[
    ("env", "the environment belongs to the host"),
    ("halt", "an expression cannot end the process; use `error` or a `raise` task"),
    ("halt_error", "an expression cannot end the process; use `error` or a `raise` task"),
    ("input", "an expression has one input, `.`"),
    ("inputs", "an expression has one input, `.`"),
    ("debug", "an expression does not write; the history of a run keeps every output"),
    ("stderr", "an expression does not write; the history of a run keeps every output"),
    ("localtime", "it depends on the machine; use `gmtime`"),
    ("strflocaltime", "it depends on the machine; use `strftime`"),
];

/// The longest text in which a regular expression may search, bytes.
const REGEX_TEXT_BYTES: usize = 1 << 20;
/// The longest regular expression, bytes: to read one cannot be stopped, and takes up to about a tenth of a second.
const REGEX_PATTERN_BYTES: usize = 1 << 10;
/// The size of a compiled regular expression, bytes.
const REGEX_BYTES: usize = 256 << 10;
/// The same times the bytes of the text. A search cannot be stopped, and takes up to about a second then.
const REGEX_WORK: usize = 8 << 30;

/// Definitions in place of jaq's, which deletes the paths one after the other, so that the second is not
/// where it was.
const DEFINITIONS: &str = "
    def delpaths($paths): reduce ($paths | sort | reverse)[] as $path (.; getpath($path) |= empty);
    def del(f): delpaths([path(f)]);
";

/// All definitions in the jq language; a later one stands in the place of an earlier one.
static LIBRARY: LazyLock<Vec<Def<&'static str>>> = LazyLock::new(|| {
    let jaqs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let left_out = |name| WITHHELD.iter().any(|(withheld, _)| name == *withheld);
    let ours = load::parse(DEFINITIONS, |parser| parser.defs()).unwrap_or_default();
    jaqs.filter(|definition| !left_out(definition.name)).chain(ours).collect()
});

/// The definitions that a term needs, directly or by others; compiling all of them takes milliseconds.
pub(super) fn definitions(term: &Term<&str>) -> Vec<Def<&'static str>> {
    let mut needed = vec![false; LIBRARY.len()];
    let mut called = Vec::new();
    calls_of(term, &mut called);
    while let Some((name, arity)) = called.pop() {
        for (definition, needed) in LIBRARY.iter().zip(&mut needed) {
            if !*needed && definition.name == name && definition.args.len() == arity {
                *needed = true;
                calls_of(&definition.body, &mut called);
            }
        }
    }
    LIBRARY.iter().zip(needed).filter(|(_, needed)| *needed).map(|(definition, _)| definition.clone()).collect()
}

/// Names and arities of what a term calls.
fn calls_of<'s>(term: &Term<&'s str>, called: &mut Vec<(&'s str, usize)>) {
    match term {
        Term::Call(name, arguments) => called.push((name, arguments.len())),
        // A format before a text is a filter of its own name, for example `@uri "…"`.
        Term::Str(Some(format), _) => called.push((format, 0)),
        _ => {}
    }
    children(term, &mut |child| calls_of(child, called));
}

/// The functions in Rust.
pub(super) fn natives() -> impl Iterator<Item = Fun<Kind>> {
    let ours = ours();
    let left_out: Vec<&'static str> = ours
        .iter()
        .map(|(name, ..)| *name)
        .chain(WITHHELD.iter().map(|(name, _)| *name))
        .chain(["debug_empty", "stderr_empty"])
        .collect();
    let jaqs = jaq_core::funs().chain(jaq_std::funs()).filter(move |(name, ..)| !left_out.contains(name));
    jaqs.chain(ours.map(native::run::<Kind>))
}

fn ours() -> [Filter<RunPtr<Kind>>; 11] {
    [
        ("now", v(0), |_| bome(Ok(Bounded::from(meter::now())))),
        ("fromjson", v(0), |cv| bome(from_json(&cv.1))),
        ("tojson", v(0), |cv| bome(Ok(Bounded::from(cv.1.to_json())))),
        ("length", v(0), |cv| bome(length(cv.1))),
        ("contains", v(1), |cv| unary(cv, |whole, part| Ok(contains(whole.val(), part.val()).into()))),
        ("has", v(1), |cv| unary(cv, |value, key| has(&value, &key))),
        ("indices", v(1), |cv| unary(cv, |value, part| indices(&value, &part))),
        ("bsearch", v(1), |cv| unary(cv, |list, value| bsearch(&list, &value))),
        ("matches", v(2), |cv| matches(cv, Wanted { between: false, matches: true })),
        ("split_matches", v(2), |cv| matches(cv, Wanted { between: true, matches: true })),
        ("split_", v(2), |cv| matches(cv, Wanted { between: true, matches: false })),
    ]
}

fn from_json(text: &Bounded) -> ValR<Bounded> {
    let bytes = text.try_as_utf8_bytes()?;
    // A value takes at most this much more than its text, for example `[0,0,…]`.
    meter::charge(bytes.len().saturating_mul(8));
    let value = serde_json::from_slice(bytes)
        .map_err(|error| Error::str(format_args!("cannot parse {} as JSON: {error}", cut(text))))?;
    Ok(Bounded::foreign(json::to_jq(&value)))
}

fn length(value: Bounded) -> ValR<Bounded> {
    Ok(match value.val() {
        Val::Null => Bounded::from(0_usize),
        Val::TStr(text) => Bounded::from(String::from_utf8_lossy(text).chars().count()),
        Val::Arr(items) => Bounded::from(items.len()),
        Val::Obj(entries) => Bounded::from(entries.len()),
        Val::Num(_) if value < Bounded::from(0_isize) => return -value,
        Val::Num(_) => value,
        Val::Bool(_) | Val::BStr(_) => return Err(Error::str(format_args!("{value} has no length"))),
    })
}

fn contains(whole: &Val, part: &Val) -> bool {
    meter::tick();
    match (whole, part) {
        (Val::TStr(whole), Val::TStr(part)) => String::from_utf8_lossy(whole).contains(&*String::from_utf8_lossy(part)),
        (Val::Arr(whole), Val::Arr(parts)) => parts.iter().all(|part| whole.iter().any(|whole| contains(whole, part))),
        (Val::Obj(whole), Val::Obj(parts)) => {
            parts.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| contains(whole, part)))
        }
        (whole, part) => whole == part,
    }
}

fn has(value: &Bounded, key: &Bounded) -> ValR<Bounded> {
    Ok(match (value.val(), key.val()) {
        (Val::Obj(entries), key @ Val::TStr(_)) => entries.contains_key(key),
        (Val::Arr(items), Val::Num(_)) => {
            key.as_isize().and_then(|index| usize::try_from(index).ok()).is_some_and(|index| index < items.len())
        }
        _ => return Err(Error::index(value.clone(), key.clone())),
    }
    .into())
}

/// Where `part` begins in `whole`.
pub(super) fn indices(whole: &Bounded, part: &Bounded) -> ValR<Bounded> {
    let equal = |l: &Val, r: &Val| Bounded::foreign(l.clone()) == Bounded::foreign(r.clone());
    let found = |places: Vec<usize>| Ok(places.into_iter().map(Bounded::from).collect());
    match (whole.val(), part.val()) {
        (Val::Null, _) => Ok(whole.clone()),
        (Val::TStr(text), Val::TStr(part)) => {
            let (text, part) = (String::from_utf8_lossy(text), String::from_utf8_lossy(part));
            if part.is_empty() {
                return found(Vec::new());
            }
            let begins = text.char_indices().enumerate().filter(|(_, (byte, _))| {
                meter::tick();
                text[*byte..].starts_with(&*part)
            });
            found(begins.map(|(character, _)| character).collect())
        }
        (Val::Arr(_), Val::Arr(part)) if part.is_empty() => found(Vec::new()),
        (Val::Arr(items), Val::Arr(part)) => {
            let windows = items.windows(part.len()).enumerate();
            let same = |window: &[Val]| window.iter().zip(part.iter()).all(|(l, r)| equal(l, r));
            found(windows.filter(|(_, window)| same(window)).map(|(place, _)| place).collect())
        }
        (Val::Arr(items), part) => {
            found(items.iter().enumerate().filter(|(_, item)| equal(item, part)).map(|(place, _)| place).collect())
        }
        _ => Err(Error::index(whole.clone(), part.clone())),
    }
}

fn bsearch(list: &Bounded, value: &Bounded) -> ValR<Bounded> {
    let Val::Arr(items) = list.val() else {
        return Err(Error::typ(list.clone(), "array"));
    };
    let place = items.binary_search_by(|item| Bounded::foreign(item.clone()).cmp(value));
    Ok(match place {
        Ok(place) => Bounded::from(place),
        Err(place) => Bounded::from(-1 - place as isize),
    })
}

/// What a search gives: the texts between the matches, the matches, or both in turn.
#[derive(Clone, Copy)]
struct Wanted {
    between: bool,
    matches: bool,
}

fn matches<'a>(mut cv: jaq_core::Cv<'a, Kind>, wanted: Wanted) -> jaq_core::val::ValXs<'a, Bounded> {
    let flags = cv.0.pop_var();
    let pattern = cv.0.pop_var();
    box_once(search(&cv.1, &pattern, &flags, wanted).map_err(Exn::from))
}

fn text_of(value: &Bounded) -> Result<&str, Error<Bounded>> {
    std::str::from_utf8(value.try_as_utf8_bytes()?).map_err(Error::str)
}

fn search(value: &Bounded, pattern: &Bounded, flags: &Bounded, wanted: Wanted) -> ValR<Bounded> {
    let text = text_of(value)?;
    if text.len() > REGEX_TEXT_BYTES {
        return Err(Error::str(format_args!("a regular expression searches in at most {REGEX_TEXT_BYTES} bytes")));
    }
    let (regex, flags) = compile(text_of(pattern)?, text_of(flags)?, text.len())?;
    let mut parts: Vec<Bounded> = Vec::new();
    let mut end_of_last = 0;
    let mut counted = Counted { text, byte: 0, characters: 0 };
    for found in regex.captures_iter(text) {
        meter::check_time();
        let Some(whole) = found.get(0) else { continue };
        if flags.ignore_empty && whole.is_empty() {
            continue;
        }
        if wanted.between {
            parts.push(Bounded::from(text[end_of_last..whole.start()].to_owned()));
            end_of_last = whole.end();
        }
        if wanted.matches {
            let groups = found.iter().zip(regex.capture_names());
            let groups: ValR<Bounded, Bounded> = groups
                .filter_map(|(group, name)| Some((group?, name)))
                .map(|(group, name)| {
                    let mut entries = vec![
                        ("offset", Bounded::from(counted.to(group.start()))),
                        ("length", Bounded::from(group.as_str().chars().count())),
                        ("string", Bounded::from(group.as_str().to_owned())),
                    ];
                    entries.extend(name.map(|name| ("name", Bounded::from(name.to_owned()))));
                    let entries = entries.into_iter().map(|(key, value)| (Bounded::from(key.to_owned()), value));
                    <Bounded as jaq_core::ValT>::from_map(entries)
                })
                .collect();
            parts.push(groups?);
        }
        if !flags.global {
            break;
        }
    }
    meter::check_time();
    if wanted.between {
        parts.push(Bounded::from(text[end_of_last..].to_owned()));
    }
    Ok(parts.into_iter().collect())
}

/// Counts characters up to a byte; a match begins behind the one before, a group within its match may not.
struct Counted<'a> {
    text: &'a str,
    byte: usize,
    characters: usize,
}

impl Counted<'_> {
    fn to(&mut self, byte: usize) -> usize {
        if byte >= self.byte {
            self.characters += self.text[self.byte..byte].chars().count();
        } else {
            self.characters -= self.text[byte..self.byte].chars().count();
        }
        self.byte = byte;
        self.characters
    }
}

#[derive(Default)]
struct Flags {
    global: bool,
    ignore_empty: bool,
}

/// The regular expression of `pattern`, to search in a text of so many bytes.
fn compile(pattern: &str, letters: &str, text_bytes: usize) -> Result<(Regex, Flags), Error<Bounded>> {
    if pattern.len() > REGEX_PATTERN_BYTES {
        let message = format_args!("a regular expression has at most {REGEX_PATTERN_BYTES} bytes");
        return Err(Error::str(message));
    }
    let mut flags = Flags::default();
    let (mut ignore_case, mut extended, mut any_line, mut lines, mut lazy) = Default::default();
    for letter in letters.chars() {
        match letter {
            'g' => flags.global = true,
            'n' => flags.ignore_empty = true,
            'i' => ignore_case = true,
            'x' => extended = true,
            's' => any_line = true,
            'l' => lazy = true,
            'p' => (lines, any_line) = (true, true),
            _ => return Err(Error::str(format_args!("{letter:?} is no flag of a regular expression"))),
        }
    }
    let bytes = REGEX_BYTES.min(REGEX_WORK / text_bytes.max(1));
    meter::check_time();
    let regex = RegexBuilder::new(pattern)
        .size_limit(bytes)
        .dfa_size_limit(REGEX_BYTES)
        .case_insensitive(ignore_case)
        .ignore_whitespace(extended)
        .dot_matches_new_line(any_line)
        .multi_line(lines)
        .swap_greed(lazy)
        .build();
    meter::check_time();
    match regex {
        Ok(regex) => Ok((regex, flags)),
        Err(regex::Error::CompiledTooBig(_)) => Err(Error::str(format_args!(
            "the regular expression is too large for a text of {text_bytes} bytes: compiled it takes more than {bytes} \
             bytes; repeat less in it, and write [0-9A-Za-z_] for \\w and [0-9] for \\d"
        ))),
        Err(error) => Err(Error::str(format_args!("invalid regular expression: {error}"))),
    }
}
