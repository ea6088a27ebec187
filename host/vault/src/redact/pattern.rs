//! What a secret looks like before its characters are escaped: its text, or an encoding of its bytes.
//!
//! A pattern is not written out anywhere: each of its characters is worked out from the secret when it is
//! compared, so that no further copies of the secret lie in memory.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::reading::{self, Reading, Readings};

/// A secret in one encoding.
pub(super) struct Pattern {
    secret: Arc<Zeroizing<Vec<u8>>>,
    kind: Kind,
}

enum Kind {
    /// The bytes themselves.
    Bytes { fold_case: bool },
    /// The code points, where they are not the same as the bytes.
    Chars(Zeroizing<Vec<u32>>),
    /// Base64 (RFC 4648 sections 4 and 5) with `shift` bytes of something else before it in the first group
    /// of three. The first and last character may hold bits of what stands around.
    Base64 { shift: usize },
    /// Hexadecimal digits, the pairs with or without something between them.
    Hex,
    /// Decimal numbers with commas between them, as a byte array is often printed.
    Numbers(Zeroizing<Vec<u8>>),
}

/// How a place in the text fares against a pattern.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The secret stands there and ends before this place.
    Found(usize),
    /// So far it does, and the text ends.
    Open,
    /// It does not.
    Absent,
}

/// What a character must be.
#[derive(Clone, Copy)]
enum Want {
    Byte(u8),
    /// In any case, where it is a letter.
    Letter(u8),
    Char(u32),
    /// A base64 character with these bits under this mask.
    Sextet {
        bits: u8,
        mask: u8,
    },
    /// A hexadecimal digit.
    Digit(u8),
}

/// A set of bytes.
#[derive(Clone, Copy, Default)]
pub(super) struct ByteSet([u64; 4]);

/// A place where the next character may be read.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    /// Characters that were skipped since the last one that counted.
    skipped: u8,
    after_line_end: bool,
}

/// Room for the places of one search, so that each takes what the one before left.
#[derive(Default)]
pub(super) struct Room {
    places: Vec<Place>,
    next: Vec<Place>,
}

/// The most characters that are skipped between two that count.
const SKIPPED: u8 = 24;

/// Line ends fold long lines; zero bytes are what UTF-16 and UTF-32 make of ASCII.
const SKIPPED_ANYWHERE: [u8; 3] = [0, b'\r', b'\n'];

/// A secret of this length has enough letters to be known by them in another case.
const FOLD_CASE_FROM: usize = 16;

impl Pattern {
    /// Everything that `secret` may look like.
    pub(super) fn all(secret: &Arc<Zeroizing<Vec<u8>>>) -> Vec<Pattern> {
        let mut kinds = vec![
            Kind::Bytes { fold_case: secret.len() >= FOLD_CASE_FROM },
            Kind::Base64 { shift: 0 },
            Kind::Base64 { shift: 1 },
            Kind::Base64 { shift: 2 },
            Kind::Hex,
            Kind::Numbers(numbers(secret)),
        ];
        if !secret.is_ascii() {
            kinds.extend(std::str::from_utf8(secret).map(|text| Kind::Chars(code_points(text))));
        }
        kinds.into_iter().map(|kind| Pattern { secret: secret.clone(), kind }).collect()
    }

    /// The number of characters.
    fn len(&self) -> usize {
        match &self.kind {
            Kind::Bytes { .. } => self.secret.len(),
            Kind::Chars(chars) => chars.len(),
            Kind::Base64 { shift } => (8 * (shift + self.secret.len())).div_ceil(6) - 8 * shift / 6,
            Kind::Hex => 2 * self.secret.len(),
            Kind::Numbers(text) => text.len(),
        }
    }

    /// Whether code points above 127 are to be read.
    pub(super) fn is_wide(&self) -> bool {
        matches!(self.kind, Kind::Chars(_))
    }

    /// What the character `index` must be.
    fn want(&self, index: usize) -> Want {
        match &self.kind {
            Kind::Bytes { fold_case: false } => Want::Byte(self.secret[index]),
            Kind::Bytes { fold_case: true } => Want::Letter(self.secret[index]),
            Kind::Chars(chars) => Want::Char(chars[index]),
            Kind::Base64 { shift } => self.sextet(8 * shift / 6 + index, *shift),
            Kind::Hex if index.is_multiple_of(2) => Want::Digit(self.secret[index / 2] >> 4),
            Kind::Hex => Want::Digit(self.secret[index / 2] & 15),
            Kind::Numbers(text) => Want::Byte(text[index]),
        }
    }

    /// The six bits of base64 character `index` of the groups that begin `shift` bytes before the secret.
    fn sextet(&self, index: usize, shift: usize) -> Want {
        let (mut bits, mut mask) = (0_u16, 0_u16);
        let first = 6 * index / 8;
        for at in [first, first + 1] {
            (bits, mask) = (bits << 8, mask << 8);
            if let Some(byte) = at.checked_sub(shift).and_then(|at| self.secret.get(at)) {
                bits |= u16::from(*byte);
                mask |= 0xff;
            }
        }
        let below = 10 - 6 * index % 8;
        let six = |bits: u16| (bits >> below & 0x3f) as u8;
        Want::Sextet { bits: six(bits), mask: six(mask) }
    }

    /// Whether `value` may stand between the characters `index - 1` and `index` without counting.
    fn skips(&self, index: usize, value: u32, after_line_end: bool) -> bool {
        const CR: u32 = '\r' as u32;
        const LF: u32 = '\n' as u32;
        match (value, &self.kind) {
            (0 | CR | LF, _) => true,
            (0x20 | 0x09, _) if after_line_end => true,
            (_, Kind::Hex) => index.is_multiple_of(2) && matches!(u8::try_from(value), Ok(b':' | b'-' | b' ' | b',')),
            (0x20, Kind::Numbers(text)) => text[index - 1] == b',',
            _ => false,
        }
    }

    /// The bytes that the pattern may begin with, apart from those that begin an escape, and for each of
    /// them the bytes that may follow.
    pub(super) fn beginnings(&self) -> (ByteSet, ByteSet) {
        let mut first = ByteSet::default();
        self.want(0).each_byte(|byte| first.add(byte));
        if self.is_wide() {
            // The second byte may be anything: another half of a character.
            return (first, ByteSet::ALL);
        }
        let mut second = ByteSet::default();
        self.want(1).each_byte(|byte| second.add(byte));
        reading::ESCAPES.iter().for_each(|byte| second.add(*byte));
        SKIPPED_ANYWHERE.iter().for_each(|byte| second.add(*byte));
        (first, second)
    }

    /// Whether the pattern may begin with one of `readings`.
    pub(super) fn may_begin(&self, readings: &Readings) -> bool {
        let want = self.want(0);
        self.is_wide() || readings.iter().any(|reading| want.accepts(reading.value))
    }

    /// Whether `byte` before the character `index` can be read as itself only, and cannot be skipped.
    fn is_plain(&self, index: usize, byte: u8) -> bool {
        match self.kind {
            Kind::Chars(_) => false,
            // The second is the beginning of `0x`.
            Kind::Hex if index.is_multiple_of(2) => byte.is_ascii_alphanumeric() && byte != b'0',
            _ => byte > b' ' && byte != b'+' && !reading::ESCAPES.contains(&byte),
        }
    }

    /// Whether the secret stands at `start`. The work is bounded by the length of what fits, because each
    /// place of the text is looked at once for each character of the pattern.
    pub(super) fn find(&self, text: &[u8], start: usize, last: bool, room: &mut Room) -> Outcome {
        let length = self.len();
        // What is longer than this is no escape of the secret that anybody writes; the bound is what keeps
        // the text that is held back small.
        let end = start.saturating_add(64 + 16 * length);
        let Room { places, next } = room;
        places.clear();
        places.push(Place { at: start, skipped: 0, after_line_end: false });
        // Whether a way leads to the end of the text.
        let mut open = false;
        let ended = |open: bool| if open && !last { Outcome::Open } else { Outcome::Absent };
        for index in 0..length {
            let want = self.want(index);
            // Nearly always there is one way to read one character.
            if let [place] = places.as_mut_slice()
                && let Some(byte) = text.get(place.at)
                && self.is_plain(index, *byte)
            {
                if !want.accepts((*byte).into()) {
                    return ended(open);
                }
                *place = Place { at: place.at + 1, skipped: 0, after_line_end: false };
                continue;
            }
            next.clear();
            let mut current = 0;
            while let Some(place) = places.get(current).copied() {
                current += 1;
                if place.at >= text.len() {
                    open = true;
                    continue;
                }
                if place.at > end {
                    continue;
                }
                let readings = reading::read(text, place.at, self.is_wide());
                open |= readings.cut;
                for Reading { value, length } in readings.iter() {
                    let at = place.at + length as usize;
                    if want.accepts(value) {
                        add(next, Place { at, skipped: 0, after_line_end: false });
                    }
                    if index > 0 && place.skipped < SKIPPED && self.skips(index, value, place.after_line_end) {
                        let after_line_end = place.after_line_end || matches!(value, 0x0a | 0x0d);
                        add(places, Place { at, skipped: place.skipped + 1, after_line_end });
                    }
                }
                if matches!(self.kind, Kind::Hex) && index > 0 && index.is_multiple_of(2) {
                    match &text[place.at..] {
                        [b'0', b'x', ..] => add(places, Place { at: place.at + 2, ..place }),
                        [b'0'] => open = true,
                        _ => {}
                    }
                }
            }
            if next.is_empty() {
                return ended(open);
            }
            std::mem::swap(places, next);
        }
        if open && !last {
            // A longer way may lead to the end as well.
            return Outcome::Open;
        }
        // The longest way takes the most of the secret's traces away.
        places.iter().map(|place| place.at).max().map_or(Outcome::Absent, Outcome::Found)
    }
}

impl Want {
    fn accepts(self, value: u32) -> bool {
        if let Self::Char(want) = self {
            return value == want;
        }
        let Ok(byte) = u8::try_from(value) else { return false };
        match self {
            Self::Byte(want) => byte == want,
            Self::Letter(want) => byte.eq_ignore_ascii_case(&want),
            Self::Char(_) => false,
            Self::Sextet { bits, mask } => from_base64(byte).is_some_and(|sextet| sextet & mask == bits),
            Self::Digit(want) => (byte as char).to_digit(16) == Some(want.into()),
        }
    }

    /// Calls `see` with every byte that it may begin with, not escaped.
    fn each_byte(self, mut see: impl FnMut(u8)) {
        let mut either = |byte: u8| {
            see(byte);
            if byte == b' ' {
                // A form writes it so.
                see(b'+');
            }
        };
        match self {
            Self::Byte(want) => either(want),
            Self::Letter(want) => {
                either(want.to_ascii_lowercase());
                either(want.to_ascii_uppercase());
            }
            Self::Char(want) => {
                let Some(c) = char::from_u32(want) else { return };
                either(c.encode_utf8(&mut [0; 4]).as_bytes()[0]);
                c.encode_utf16(&mut [0; 2])[0].to_le_bytes().into_iter().for_each(either);
            }
            Self::Sextet { bits, mask } => {
                for (sextet, byte) in (0_u8..).zip(BASE64) {
                    if sextet & mask == bits {
                        either(*byte);
                        match byte {
                            b'+' => either(b'-'),
                            b'/' => either(b'_'),
                            _ => {}
                        }
                    }
                }
            }
            Self::Digit(want) => {
                let digit = b"0123456789abcdef"[usize::from(want)];
                either(digit);
                either(digit.to_ascii_uppercase());
            }
        }
    }
}

impl ByteSet {
    pub(super) const ALL: Self = Self([u64::MAX; 4]);

    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte / 64)] |= 1 << (byte % 64);
    }

    pub(super) fn join(&mut self, other: &Self) {
        for (bits, more) in self.0.iter_mut().zip(other.0) {
            *bits |= more;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    pub(super) fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] >> (byte % 64) & 1 == 1
    }
}

fn add(places: &mut Vec<Place>, place: Place) {
    if !places.iter().any(|other| other.at == place.at) {
        places.push(place);
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn from_base64(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

fn code_points(text: &str) -> Zeroizing<Vec<u32>> {
    // All the room at once, so that the list never grows and leaves no copy behind.
    let mut chars = Zeroizing::new(Vec::with_capacity(text.len()));
    chars.extend(text.chars().map(u32::from));
    chars
}

fn numbers(secret: &[u8]) -> Zeroizing<Vec<u8>> {
    // As above: four bytes for each at most.
    let mut text = Zeroizing::new(Vec::with_capacity(4 * secret.len()));
    for (index, byte) in secret.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        for divisor in [100, 10, 1] {
            if *byte >= divisor || divisor == 1 {
                text.push(b'0' + byte / divisor % 10);
            }
        }
    }
    text
}
