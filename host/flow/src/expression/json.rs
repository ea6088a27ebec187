//! Between the JSON of the journal and the values of jq.

use jaq_json::{Map, Num, Rc, Val};
use serde_json::{Number, Value};

use super::meter;

/// A value for jq.
pub(super) fn to_jq(value: &Value) -> Val {
    meter::tick();
    match value {
        Value::Null => Val::Null,
        Value::Bool(value) => Val::Bool(*value),
        Value::Number(number) => Val::Num(match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Num::from_integral(whole),
            (None, Some(whole)) => Num::from_integral(whole),
            (None, None) => Num::Float(number.as_f64().unwrap_or(f64::NAN)),
        }),
        Value::String(text) => Val::utf8_str(text.clone()),
        Value::Array(items) => Val::Arr(Rc::new(items.iter().map(to_jq).collect())),
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| (Val::utf8_str(key.clone()), to_jq(value)));
            Val::obj(entries.collect::<Map>())
        }
    }
}

/// What a value for the journal may still take.
pub(super) struct Room {
    /// Bytes as JSON.
    pub(super) bytes: usize,
    /// Levels of lists and objects.
    pub(super) levels: usize,
}

/// Why a value does not fit.
pub(super) enum TooMuch {
    Bytes,
    Levels,
}

/// A value for the journal, where it fits.
///
/// As in jq, what is not a number becomes `null` and the infinite the largest number. Whole numbers
/// beyond 64 bits lose precision.
pub(super) fn from_jq(val: &Val, room: &mut Room) -> Result<Value, TooMuch> {
    meter::tick();
    let mut take = |bytes: usize| {
        room.bytes = room.bytes.checked_sub(bytes).ok_or(TooMuch::Bytes)?;
        Ok(())
    };
    Ok(match val {
        Val::Null => {
            take(4)?;
            Value::Null
        }
        Val::Bool(value) => {
            take(4)?;
            Value::Bool(*value)
        }
        Val::Num(number) => {
            take(8)?;
            number_from_jq(number)
        }
        Val::TStr(text) | Val::BStr(text) => {
            take(text.len() + 2)?;
            Value::String(String::from_utf8_lossy(text).into_owned())
        }
        Val::Arr(items) => {
            take(2)?;
            room.levels = room.levels.checked_sub(1).ok_or(TooMuch::Levels)?;
            let items = items.iter().map(|item| from_jq(item, room)).collect::<Result<_, _>>()?;
            room.levels += 1;
            Value::Array(items)
        }
        Val::Obj(entries) => {
            take(2)?;
            room.levels = room.levels.checked_sub(1).ok_or(TooMuch::Levels)?;
            let mut object = serde_json::Map::new();
            for (key, value) in entries.iter() {
                // Every key is a text, see `Bounded`.
                if let Value::String(key) = from_jq(key, room)? {
                    object.insert(key, from_jq(value, room)?);
                }
            }
            room.levels += 1;
            Value::Object(object)
        }
    })
}

fn number_from_jq(number: &Num) -> Value {
    use jaq_std::ValT as _;
    if let Some(whole) = number.as_isize() {
        return Value::from(whole as i64);
    }
    if let Num::BigInt(whole) = number
        && let Ok(whole) = u64::try_from(&**whole)
    {
        return Value::from(whole);
    }
    let float = Val::Num(number.clone()).as_f64().unwrap_or(f64::NAN);
    // A whole number without a fraction is written as one, as jq does.
    if float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0 {
        return Value::from(float as i64);
    }
    let finite = if float.is_nan() { return Value::Null } else { float.clamp(f64::MIN, f64::MAX) };
    Number::from_f64(finite).map_or(Value::Null, Value::Number)
}
