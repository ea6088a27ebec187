//! The value that jaq works on: `jaq_json::Val`, bounded.
//!
//! Every way in which jaq can make, copy, compare or print a value passes through a trait of this type,
//! so each of them is metered (see [`super::meter`]), and a value that is nested too deep never comes
//! to be: it could neither be dropped nor compared without overflowing the stack. Where `Val` would
//! recurse on its own through a value that shares its parts (`[., .]`, forty times over, is a tree of
//! 2^40 leaves), this type has its own recursion, with a tick at each step.
//!
//! It is also JSON and nothing else: no byte strings, and the keys of objects are strings.

mod arithmetic;
mod order;

use std::fmt;

use jaq_core::{
    Error, Exn, ValR, ValX,
    box_iter::{BoxIter, box_once},
    path::Opt,
    val::Range,
};
use jaq_json::{Map, Rc, Val};

use self::arithmetic::{charge_copy, size};
use super::meter;

/// How deep a value may nest.
pub(crate) const MAX_DEPTH: u32 = 512;

/// What one value takes in an array, for the meter.
const ITEM_BYTES: usize = size_of::<Val>();
/// What one entry takes in an object, for the meter: key, value and hash.
const ENTRY_BYTES: usize = 2 * size_of::<Val>() + 16;

/// A value and an upper bound of its depth.
///
/// The bound follows from how the value was made: a part of a value is less deep than the whole, and
/// what holds a value is one deeper. Where it reaches [`MAX_DEPTH`] the true depth is counted.
pub(crate) struct Bounded {
    val: Val,
    depth: u32,
}

type Result<T> = std::result::Result<T, Error<Bounded>>;

impl Bounded {
    /// Wraps a value that is at most `depth` deep.
    fn new(val: Val, depth: u32) -> Self {
        meter::born();
        let depth = match &val {
            Val::Arr(items) if items.is_empty() => 1,
            Val::Obj(entries) if entries.is_empty() => 1,
            Val::Arr(_) | Val::Obj(_) if depth <= MAX_DEPTH => depth,
            Val::Arr(_) | Val::Obj(_) => {
                let depth = true_depth(&val);
                if depth > MAX_DEPTH {
                    meter::too_deep();
                }
                depth
            }
            _ => 0,
        };
        Self { val, depth }
    }

    /// Wraps a value of which nothing is known.
    pub(crate) fn foreign(val: Val) -> Self {
        let depth = true_depth(&val);
        Self::new(val, depth)
    }

    /// The value inside.
    pub(crate) fn val(&self) -> &Val {
        &self.val
    }

    fn take(mut self) -> (Val, u32) {
        (std::mem::take(&mut self.val), self.depth)
    }

    fn part(&self, val: Val) -> Self {
        Self::new(val, self.depth.saturating_sub(1))
    }

    fn text(bytes: impl Into<bytes::Bytes>) -> Self {
        Self::new(Val::utf8_str(bytes), 0)
    }

    /// The value as JSON text.
    pub(crate) fn to_json(&self) -> String {
        struct Metered(String);
        impl fmt::Write for Metered {
            fn write_str(&mut self, part: &str) -> fmt::Result {
                meter::tick();
                meter::charge(part.len());
                self.0.push_str(part);
                Ok(())
            }
        }
        let mut text = Metered(String::new());
        // Writing into a string does not fail.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{}", self.val));
        text.0
    }

    /// The value as the text of an error: a text as it is, anything else as JSON, cut.
    pub(crate) fn message(&self) -> String {
        match &self.val {
            Val::TStr(text) => cut(&String::from_utf8_lossy(text)),
            val => cut(val),
        }
    }

    fn from_part(part: std::result::Result<Val, Error<Val>>, depth: u32) -> Result<Self> {
        part.map(|val| Self::new(val, depth)).map_err(|error| Error::str(cut(&error)))
    }

    /// The key that an index gives for an object.
    fn key<'a>(&self, index: &'a Bounded) -> Result<&'a Val> {
        match &index.val {
            key @ Val::TStr(_) => Ok(key),
            _ => Err(Error::index(self.clone(), index.clone())),
        }
    }
}

/// The text of an error, cut; values stand in it.
pub(crate) fn cut(error: &impl fmt::Display) -> String {
    struct Cut(String);
    impl fmt::Write for Cut {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            let left = 300_usize.saturating_sub(self.0.chars().count());
            self.0.extend(part.chars().take(left));
            // An error ends the printing of a large value early.
            if part.chars().count() > left { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut text = Cut(String::new());
    if fmt::Write::write_fmt(&mut text, format_args!("{error}")).is_err() {
        text.0.push('…');
    }
    text.0
}

fn true_depth(val: &Val) -> u32 {
    meter::tick();
    match val {
        Val::Arr(items) => 1 + items.iter().map(true_depth).max().unwrap_or(0),
        Val::Obj(entries) => 1 + entries.values().map(true_depth).max().unwrap_or(0),
        _ => 0,
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        meter::died();
    }
}

impl Clone for Bounded {
    fn clone(&self) -> Self {
        meter::tick();
        meter::born();
        Self { val: self.val.clone(), depth: self.depth }
    }
}

impl fmt::Debug for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&cut(self))
    }
}

impl fmt::Display for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Ticking<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Ticking<'_, '_> {
            fn write_str(&mut self, part: &str) -> fmt::Result {
                meter::tick();
                meter::charge(part.len());
                self.0.write_str(part)
            }
        }
        fmt::Write::write_fmt(&mut Ticking(f), format_args!("{}", self.val))
    }
}

// Making values.

impl From<bool> for Bounded {
    fn from(value: bool) -> Self {
        Self::new(Val::Bool(value), 0)
    }
}

impl From<isize> for Bounded {
    fn from(value: isize) -> Self {
        Self::new(Val::from(value), 0)
    }
}

impl From<usize> for Bounded {
    fn from(value: usize) -> Self {
        Self::new(Val::from(value), 0)
    }
}

impl From<f64> for Bounded {
    fn from(value: f64) -> Self {
        Self::new(Val::from(value), 0)
    }
}

impl From<String> for Bounded {
    fn from(value: String) -> Self {
        meter::charge(value.len());
        Self::text(value)
    }
}

impl From<Range<Bounded>> for Bounded {
    fn from(range: Range<Bounded>) -> Self {
        let bound = |bound: Option<Bounded>| bound.map(|bound| bound.take().0);
        Self::new(Val::from(bound(range.start)..bound(range.end)), 1)
    }
}

impl FromIterator<Self> for Bounded {
    fn from_iter<I: IntoIterator<Item = Self>>(values: I) -> Self {
        let mut deepest = 0;
        let items: Vec<Val> = values
            .into_iter()
            .map(|value| {
                meter::tick();
                meter::charge(ITEM_BYTES);
                deepest = deepest.max(value.depth);
                value.take().0
            })
            .collect();
        Self::new(Val::Arr(Rc::new(items)), deepest + 1)
    }
}

impl jaq_core::ValT for Bounded {
    fn from_num(text: &str) -> ValR<Self> {
        meter::charge(text.len());
        Self::from_part(Val::from_num(text), 0)
    }

    fn from_map<I: IntoIterator<Item = (Self, Self)>>(entries: I) -> ValR<Self> {
        let mut deepest = 0;
        let mut map = Map::default();
        for (key, value) in entries {
            meter::tick();
            meter::charge(ENTRY_BYTES);
            if !matches!(key.val, Val::TStr(_)) {
                return Err(Error::typ(key, "key of an object"));
            }
            deepest = deepest.max(value.depth);
            map.insert(key.take().0, value.take().0);
        }
        Ok(Self::new(Val::obj(map), deepest + 1))
    }

    fn key_values(self) -> BoxIter<'static, ValR<(Self, Self), Self>> {
        let part = self.depth.saturating_sub(1);
        match self.take().0 {
            val @ (Val::Arr(_) | Val::Obj(_)) => {
                charge_copy(&val);
                Box::new(val.key_values().map(move |pair| match pair {
                    Ok((key, value)) => Ok((Self::new(key, 0), Self::new(value, part))),
                    Err(error) => Err(Error::str(cut(&error))),
                }))
            }
            val => box_once(Err(Error::typ(Self::new(val, 0), "array or object"))),
        }
    }

    fn values(self) -> Box<dyn Iterator<Item = ValR<Self>>> {
        let part = self.depth.saturating_sub(1);
        match self.take().0 {
            val @ (Val::Arr(_) | Val::Obj(_)) => {
                charge_copy(&val);
                Box::new(val.values().map(move |value| Self::from_part(value, part)))
            }
            val => box_once(Err(Error::typ(Self::new(val, 0), "array or object"))),
        }
    }

    fn index(self, index: &Self) -> ValR<Self> {
        meter::tick();
        match (&self.val, &index.val) {
            (Val::Null, Val::TStr(_) | Val::Num(_) | Val::Null | Val::Obj(_)) => Ok(Self::new(Val::Null, 0)),
            (Val::Obj(entries), _) => {
                let part = entries.get(self.key(index)?).cloned().unwrap_or_default();
                Ok(self.part(part))
            }
            // Finding an array within an array compares, so it is done by our comparison.
            (Val::Arr(_), Val::Arr(_)) => super::functions::indices(&self, index),
            (Val::Arr(items), Val::Num(_)) => {
                let position = index.val.clone();
                let part = Val::Arr(items.clone()).index(&whole(position));
                Self::from_part(part, self.depth.saturating_sub(1))
            }
            (Val::Arr(_) | Val::TStr(_), Val::Obj(range)) => {
                let bound = |name| range.get(&Val::utf8_str(name)).cloned().map(|bound| Self::new(bound, 0));
                let (start, end) = (bound("start"), bound("end"));
                self.range(start.as_ref()..end.as_ref())
            }
            _ => Err(Error::index(self, index.clone())),
        }
    }

    fn range(self, range: Range<&Self>) -> ValR<Self> {
        meter::tick();
        meter::charge(size(&self.val));
        let bound = |bound: Option<&Self>| bound.map(|bound| whole(bound.val.clone()));
        let (start, end) = (bound(range.start), bound(range.end));
        let (val, depth) = self.take();
        match val {
            Val::Null => Ok(Self::new(Val::Null, 0)),
            val => Self::from_part(val.range(start.as_ref()..end.as_ref()), depth),
        }
    }

    fn map_values<'a, I: Iterator<Item = ValX<'a, Self>>>(self, opt: Opt, f: impl Fn(Self) -> I) -> ValX<'a, Self> {
        let part = self.depth.saturating_sub(1);
        match self.take() {
            (val @ Val::Arr(_), _) => {
                charge_copy(&val);
                val.values()
                    .map(|value| Self::from_part(value, part).map_err(Exn::from))
                    .flat_map(|value| Parts::of(value, &f))
                    .collect()
            }
            (val @ Val::Obj(_), _) => {
                charge_copy(&val);
                let mut deepest = 0;
                let mut map = Map::default();
                for pair in val.key_values() {
                    let (key, value) = pair.map_err(|error| Exn::from(Error::str(cut(&error))))?;
                    if let Some(value) = f(Self::new(value, part)).next().transpose()? {
                        meter::charge(ENTRY_BYTES);
                        deepest = deepest.max(value.depth);
                        map.insert(key, value.take().0);
                    }
                }
                Ok(Self::new(Val::obj(map), deepest + 1))
            }
            (val, depth) => opt.fail(Self::new(val, depth), |val| Exn::from(Error::typ(val, "array or object"))),
        }
    }

    fn map_index<'a, I: Iterator<Item = ValX<'a, Self>>>(
        self,
        index: &Self,
        opt: Opt,
        f: impl Fn(Self) -> I,
    ) -> ValX<'a, Self> {
        meter::tick();
        let part = self.depth.saturating_sub(1);
        match (&self.val, &index.val) {
            (Val::Arr(_) | Val::TStr(_), Val::Obj(range)) => {
                let bound = |name| range.get(&Val::utf8_str(name)).cloned().map(|bound| Self::new(bound, 0));
                let (start, end) = (bound("start"), bound("end"));
                return self.map_range(start.as_ref()..end.as_ref(), opt, f);
            }
            // As in jq, an object or an array comes to be where there is none yet.
            (Val::Obj(_) | Val::Null, Val::TStr(_)) => {}
            (Val::Arr(_) | Val::Null, Val::Num(_)) => {}
            _ => return opt.fail(self, |val| Exn::from(Error::index(val, index.clone()))),
        }
        let (val, depth) = self.take();
        charge_copy(&val);
        meter::charge(ENTRY_BYTES);
        let val = match (val, &index.val) {
            (Val::Null, Val::TStr(_)) => Val::obj(Map::default()),
            (Val::Null, _) => Val::Arr(Rc::default()),
            (val, _) => val,
        };
        let deepest = std::cell::Cell::new(depth);
        let into = |value: ValX<'a, Self>| {
            value.map(|value| {
                deepest.set(deepest.get().max(value.depth + 1));
                value.take().0
            })
        };
        match val {
            Val::Obj(mut entries) => {
                let map = Rc::make_mut(&mut entries);
                // Taken out and not copied, so that what is inside of it can be changed in place.
                let old = map.get_mut(&index.val).map(std::mem::take).unwrap_or_default();
                match f(Self::new(old, part)).next().map(into).transpose()? {
                    Some(new) => {
                        map.insert(index.val.clone(), new);
                    }
                    None => {
                        map.shift_remove(&index.val);
                    }
                }
                Ok(Self::new(Val::Obj(entries), deepest.get()))
            }
            Val::Arr(mut items) => {
                let Some(position) = position(&index.val, items.len()) else {
                    let error = Error::str(format_args!("index {} is out of bounds", cut(index)));
                    return opt.fail(Self::new(Val::Arr(items), depth), |_| Exn::from(error));
                };
                let list = Rc::make_mut(&mut items);
                let old = list.get_mut(position).map(std::mem::take).unwrap_or_default();
                let new = f(Self::new(old, part)).next().map(into).transpose()?;
                match new {
                    Some(new) => {
                        if position >= list.len() {
                            meter::charge((position + 1 - list.len()).saturating_mul(ITEM_BYTES));
                            list.resize(position + 1, Val::Null);
                        }
                        list[position] = new;
                    }
                    None if position < list.len() => {
                        list.remove(position);
                    }
                    None => {}
                }
                Ok(Self::new(Val::Arr(items), deepest.get()))
            }
            val => opt.fail(Self::new(val, depth), |val| Exn::from(Error::typ(val, "array or object"))),
        }
    }

    fn map_range<'a, I: Iterator<Item = ValX<'a, Self>>>(
        self,
        range: Range<&Self>,
        opt: Opt,
        f: impl Fn(Self) -> I,
    ) -> ValX<'a, Self> {
        meter::tick();
        meter::charge(size(&self.val));
        let bound = |bound: Option<&Self>| bound.map(|bound| whole(bound.val.clone()));
        let (start, end) = (bound(range.start), bound(range.end));
        let (val, depth) = self.take();
        let deepest = std::cell::Cell::new(depth);
        let failed = std::cell::Cell::new(None);
        // The exception of `f` belongs to our type, so it waits beside the call that cannot carry it.
        let mapped = val.map_range(start.as_ref()..end.as_ref(), opt, |part| {
            f(Self::new(part, depth)).map(|value| match value {
                Ok(value) => {
                    deepest.set(deepest.get().max(value.depth));
                    meter::charge(size(&value.val));
                    Ok(value.take().0)
                }
                Err(error) => {
                    failed.set(Some(error));
                    Err(Exn::from(Error::str("")))
                }
            })
        });
        match (failed.take(), mapped) {
            (Some(error), _) => Err(error),
            (None, Ok(val)) => Ok(Self::new(val, deepest.get())),
            (None, Err(error)) => Err(match error.get_err() {
                Ok(error) => Exn::from(Error::str(cut(&error))),
                Err(_) => Exn::from(Error::str("a slice can only be replaced by its own kind")),
            }),
        }
    }

    fn as_bool(&self) -> bool {
        self.val.as_bool()
    }

    fn into_string(self) -> Self {
        match &self.val {
            Val::TStr(_) => self,
            _ => Self::text(self.to_json()),
        }
    }
}

/// The results for one item of an array: those of `f`, or the error of the item.
enum Parts<I, E> {
    Many(I),
    Error(Option<E>),
}

impl<'a, I: Iterator<Item = ValX<'a, Bounded>>> Parts<I, Exn<'a, Bounded>> {
    fn of(value: ValX<'a, Bounded>, f: &impl Fn(Bounded) -> I) -> Self {
        match value {
            Ok(value) => Self::Many(f(value)),
            Err(error) => Self::Error(Some(error)),
        }
    }
}

impl<'a, I: Iterator<Item = ValX<'a, Bounded>>> Iterator for Parts<I, Exn<'a, Bounded>> {
    type Item = ValX<'a, Bounded>;
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Many(values) => values.next(),
            Self::Error(error) => error.take().map(Err),
        }
    }
}

/// A position as jq takes it: a number with a fraction counts as the whole number below.
fn whole(position: Val) -> Val {
    match position {
        Val::Num(number @ (jaq_json::Num::Float(_) | jaq_json::Num::Dec(_))) => {
            use jaq_std::ValT as _;
            match Val::Num(number).as_f64() {
                Some(float) if float.is_finite() => Val::from(float.floor() as isize),
                _ => Val::Null,
            }
        }
        position => position,
    }
}

/// The place in an array that an index means; from the end where it is negative.
fn position(index: &Val, len: usize) -> Option<usize> {
    use jaq_std::ValT as _;
    let index = whole(index.clone()).as_isize()?;
    if index >= 0 { usize::try_from(index).ok() } else { len.checked_sub(index.unsigned_abs()) }
}

impl jaq_std::ValT for Bounded {
    fn into_seq<S: FromIterator<Self>>(self) -> std::result::Result<S, Self> {
        match &self.val {
            Val::Arr(items) => {
                meter::charge(items.len() * ITEM_BYTES);
                Ok(items.iter().map(|item| self.part(item.clone())).collect())
            }
            _ => Err(self),
        }
    }

    fn is_int(&self) -> bool {
        self.val.is_int()
    }

    fn as_isize(&self) -> Option<isize> {
        self.val.as_isize()
    }

    fn as_f64(&self) -> Option<f64> {
        self.val.as_f64()
    }

    fn is_utf8_str(&self) -> bool {
        self.val.is_utf8_str()
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        self.val.as_bytes()
    }

    fn as_sub_str(&self, sub: &[u8]) -> Self {
        meter::tick();
        Self::new(self.val.as_sub_str(sub), 0)
    }

    fn from_utf8_bytes(bytes: impl AsRef<[u8]> + Send + 'static) -> Self {
        meter::charge(bytes.as_ref().len());
        Self::new(Val::from_utf8_bytes(bytes), 0)
    }
}
