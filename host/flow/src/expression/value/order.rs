//! Comparison, in the order of jq: null, false, true, numbers, strings, arrays, objects.
//!
//! With a tick at each step, as a value that shares its parts can be compared for ever.

use std::cmp::Ordering;

use jaq_json::{Map, Rc, Val};

use super::{super::meter, Bounded};

pub(super) fn equal(l: &Val, r: &Val) -> bool {
    meter::tick();
    match (l, r) {
        (Val::Arr(l), Val::Arr(r)) => {
            Rc::ptr_eq(l, r) || l.len() == r.len() && l.iter().zip(r.iter()).all(|(l, r)| equal(l, r))
        }
        (Val::Obj(l), Val::Obj(r)) => {
            Rc::ptr_eq(l, r) || l.len() == r.len() && l.iter().all(|(key, l)| r.get(key).is_some_and(|r| equal(l, r)))
        }
        (l, r) => l == r,
    }
}

pub(super) fn order(l: &Val, r: &Val) -> Ordering {
    meter::tick();
    match (l, r) {
        (Val::Arr(l), Val::Arr(r)) => {
            let parts = l.iter().zip(r.iter()).map(|(l, r)| order(l, r));
            parts.into_iter().find(|part| part.is_ne()).unwrap_or_else(|| l.len().cmp(&r.len()))
        }
        (Val::Obj(l), Val::Obj(r)) => {
            let sorted = |entries: &Map| {
                let mut keys: Vec<Val> = entries.keys().cloned().collect();
                keys.sort();
                keys
            };
            let (l_keys, r_keys) = (sorted(l), sorted(r));
            l_keys.cmp(&r_keys).then_with(|| {
                let parts = l_keys.iter().map(|key| order(&l[key], &r[key]));
                parts.into_iter().find(|part| part.is_ne()).unwrap_or(Ordering::Equal)
            })
        }
        (l, r) => l.cmp(r),
    }
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        equal(&self.val, &other.val)
    }
}

impl Eq for Bounded {}

impl PartialOrd for Bounded {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bounded {
    fn cmp(&self, other: &Self) -> Ordering {
        order(&self.val, &other.val)
    }
}

/// A value in the order of [`order`].
pub(super) struct Ordered<'a>(pub(super) &'a Val);

impl PartialEq for Ordered<'_> {
    fn eq(&self, other: &Self) -> bool {
        equal(self.0, other.0)
    }
}

impl Eq for Ordered<'_> {}

impl PartialOrd for Ordered<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.0, other.0)
    }
}
