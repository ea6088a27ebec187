//! `+ - * / %`, each charged for what it makes before it makes it.

use std::{collections::BTreeSet, ops};

use jaq_core::{Error, ValR};
use jaq_json::{Map, Rc, Val};

use super::{super::meter, Bounded, ENTRY_BYTES, ITEM_BYTES, order::Ordered};

fn shared(val: &Val) -> bool {
    match val {
        Val::Arr(items) => Rc::strong_count(items) > 1,
        Val::Obj(entries) => Rc::strong_count(entries) > 1,
        _ => false,
    }
}

/// What the top level of a value takes.
pub(super) fn size(val: &Val) -> usize {
    match val {
        Val::Arr(items) => items.len() * ITEM_BYTES,
        Val::Obj(entries) => entries.len() * ENTRY_BYTES,
        Val::TStr(text) => text.len(),
        _ => 0,
    }
}

/// Charges for a change of `val`: all of it where it has to be copied first.
pub(super) fn charge_copy(val: &Val) {
    if shared(val) {
        meter::charge(size(val));
    }
}

macro_rules! arithmetic {
    ($($trait:ident $function:ident $work:expr;)+) => {$(
        impl ops::$trait for Bounded {
            type Output = ValR<Self>;
            fn $function(self, other: Self) -> Self::Output {
                meter::tick();
                let ((l, l_depth), (r, r_depth)) = (self.take(), other.take());
                let work: fn(Val, Val) -> std::result::Result<Val, Error<Val>> = $work;
                Self::from_part(work(l, r), l_depth.max(r_depth))
            }
        }
    )+};
}

arithmetic! {
    Add add |l, r| {
        match (&l, &r) {
            // A text that nobody else has grows in place.
            (Val::TStr(l), Val::TStr(r)) if l.is_unique() => meter::charge(r.len()),
            (Val::TStr(l), Val::TStr(r)) => meter::charge(l.len() + r.len()),
            _ => {
                charge_copy(&l);
                meter::charge(size(&r));
            }
        }
        l + r
    };
    Sub sub |l, r| match (l, r) {
        (Val::Arr(mut l), Val::Arr(r)) => {
            charge_copy(&Val::Arr(l.clone()));
            meter::charge(size(&Val::Arr(r.clone())));
            let without: BTreeSet<Ordered<'_>> = r.iter().map(Ordered).collect();
            Rc::make_mut(&mut l).retain(|item| !without.contains(&Ordered(item)));
            Ok(Val::Arr(l))
        }
        (l, r) => l - r,
    };
    Mul mul |l, r| match (l, r) {
        (Val::Obj(mut l), Val::Obj(r)) => {
            merge(&mut l, &r);
            Ok(Val::Obj(l))
        }
        (l, r) => {
            match (&l, &r) {
                (Val::TStr(text), Val::Num(times)) | (Val::Num(times), Val::TStr(text)) => {
                    let times = usize::try_from(times.as_isize().unwrap_or(isize::MAX)).unwrap_or(0);
                    meter::charge(text.len().saturating_mul(times));
                }
                (Val::Num(l), Val::Num(r)) if number_bytes(l) + number_bytes(r) > NUMBER_BYTES => {
                    return Err(Error::str("the number has too many digits"));
                }
                _ => {}
            }
            l * r
        }
    };
    Div div |l, r| {
        if let Val::TStr(text) = &l {
            meter::charge((text.len() + 1) * ITEM_BYTES);
        }
        l / r
    };
    Rem rem |l, r| l % r;
}

/// How large a whole number may become; multiplying and printing take time quadratic in it.
const NUMBER_BYTES: usize = 4 << 10;

fn number_bytes(number: &jaq_json::Num) -> usize {
    match number {
        jaq_json::Num::BigInt(number) => number.bits() as usize / 8,
        _ => 8,
    }
}

/// Puts the entries of `r` into `l`; an object into an object of the same key goes entry by entry.
fn merge(l: &mut Rc<Map>, r: &Map) {
    if Rc::strong_count(l) > 1 {
        meter::charge(l.len() * ENTRY_BYTES);
    }
    let l = Rc::make_mut(l);
    for (key, r) in r {
        meter::tick();
        meter::charge(ENTRY_BYTES);
        match (l.get_mut(key), r) {
            (Some(Val::Obj(l)), Val::Obj(r)) => merge(l, r),
            (Some(l), r) => *l = r.clone(),
            (None, r) => {
                l.insert(key.clone(), r.clone());
            }
        }
    }
}

impl ops::Neg for Bounded {
    type Output = ValR<Self>;
    fn neg(self) -> Self::Output {
        Self::from_part(-self.take().0, 0)
    }
}
