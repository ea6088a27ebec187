//! What a secret looks like before its characters are escaped: its text, or an encoding of its bytes.
//!
//! A pattern is not written out anywhere: each of its characters is worked out from the secret when it is
//! compared, so that no further copies of the secret lie in memory.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use zeroize::Zeroizing;

use super::reading::{self, Reading};

/// A secret in one encoding.
pub(super) struct Pattern {
    secret: Arc<Zeroizing<Vec<u8>>>,
    kind: Kind,
}

enum Kind {
    /// The bytes themselves.
    Bytes { fold_case: bool },
    /// Code points, where they are not the same as the bytes.
    Chars(Zeroizing<Vec<u32>>),
    /// Base64 or base32 with `shift` bytes of something else before it in the first group. It begins with the
    /// first character that holds bits of the secret only; the last one may hold bits of what stands behind.
    Grouped { base: Base, shift: usize },
    /// Hexadecimal digits, the pairs with or without something between them.
    Hex,
    /// Decimal numbers with something between them, as a byte array is often printed.
    Numbers(Zeroizing<Vec<u8>>),
}

/// How bits are grouped into characters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    /// RFC 4648 sections 4 and 5: six bits.
    Base64,
    /// RFC 4648 section 6, in either case: five bits.
    Base32,
}

/// What a character must be.
#[derive(Clone, Copy)]
enum Want {
    Byte(u8),
    /// In any case, where it is a letter.
    Letter(u8),
    Char(u32),
    /// A character with these bits under this mask.
    Bits {
        base: Base,
        bits: u8,
        mask: u8,
    },
    /// A hexadecimal digit.
    Digit(u8),
    /// What stands between two numbers.
    Separator,
}

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

#[cfg(test)]
impl Room {
    /// The most places that were looked at for one character.
    pub(super) fn most_places(&self) -> usize {
        self.places.capacity().max(self.next.capacity())
    }
}

/// The most characters that are skipped between two that count.
const SKIPPED: u8 = 64;

/// Line ends fold long lines; zero bytes are what UTF-16 and UTF-32 make of ASCII.
const SKIPPED_ANYWHERE: [u8; 3] = [0, b'\r', b'\n'];

/// What stands between the pairs of hexadecimal digits, once or several times.
const BETWEEN_PAIRS: &[u8] = b" \t:-_,;.\"'";

/// What stands between decimal numbers, once or several times.
const BETWEEN_NUMBERS: &[u8] = b" \t\r\n,;";

/// A secret of this length has enough letters to be known by them in another case.
const FOLD_CASE_FROM: usize = 16;

impl Pattern {
    /// Everything that `secret` may look like.
    pub(super) fn all(secret: &Arc<Zeroizing<Vec<u8>>>) -> Vec<Pattern> {
        let base64 = (0..3).map(|shift| Kind::Grouped { base: Base::Base64, shift });
        let base32 = (0..5).map(|shift| Kind::Grouped { base: Base::Base32, shift });
        let mut kinds =
            vec![Kind::Bytes { fold_case: secret.len() >= FOLD_CASE_FROM }, Kind::Hex, Kind::Numbers(numbers(secret))];
        kinds.extend(base64.clone().chain(base32));
        if !secret.is_ascii() {
            // What comes of UTF-8 that is read as Latin-1.
            kinds.push(Kind::Chars(code_points(secret.len(), secret.iter().map(|byte| u32::from(*byte)))));
            kinds.extend(
                std::str::from_utf8(secret)
                    .map(|text| Kind::Chars(code_points(secret.len(), text.chars().map(u32::from)))),
            );
        }
        // Base64 of base64: the text of the inner one takes the place of the secret.
        let inner = Arc::new(Zeroizing::new(STANDARD_NO_PAD.encode(&***secret).into_bytes()));
        let once = kinds.into_iter().map(|kind| Pattern { secret: secret.clone(), kind });
        once.chain(base64.map(|kind| Pattern { secret: inner.clone(), kind })).collect()
    }

    /// The number of characters.
    fn len(&self) -> usize {
        match &self.kind {
            Kind::Bytes { .. } => self.secret.len(),
            Kind::Chars(chars) => chars.len(),
            Kind::Grouped { base, shift } => {
                (8 * (shift + self.secret.len())).div_ceil(base.width()) - (8 * shift).div_ceil(base.width())
            }
            Kind::Hex => 2 * self.secret.len(),
            Kind::Numbers(text) => text.len(),
        }
    }

    /// Whether code points above 127 are to be read.
    fn is_wide(&self) -> bool {
        matches!(self.kind, Kind::Chars(_))
    }

    /// What the character `index` must be.
    fn want(&self, index: usize) -> Want {
        match &self.kind {
            Kind::Bytes { fold_case: false } => Want::Byte(self.secret[index]),
            Kind::Bytes { fold_case: true } => Want::Letter(self.secret[index]),
            Kind::Chars(chars) => Want::Char(chars[index]),
            Kind::Grouped { base, shift } => self.bits(*base, *shift, (8 * shift).div_ceil(base.width()) + index),
            Kind::Hex if index.is_multiple_of(2) => Want::Digit(self.secret[index / 2] >> 4),
            Kind::Hex => Want::Digit(self.secret[index / 2] & 15),
            Kind::Numbers(text) if text[index] == b',' => Want::Separator,
            Kind::Numbers(text) => Want::Byte(text[index]),
        }
    }

    /// The bits of character `index` of the groups that begin `shift` bytes before the secret.
    fn bits(&self, base: Base, shift: usize, index: usize) -> Want {
        let (mut bits, mut mask) = (0_u16, 0_u16);
        let start = base.width() * index;
        for at in [start / 8, start / 8 + 1] {
            (bits, mask) = (bits << 8, mask << 8);
            if let Some(byte) = at.checked_sub(shift).and_then(|at| self.secret.get(at)) {
                bits |= u16::from(*byte);
                mask |= 0xff;
            }
        }
        let below = 16 - base.width() - start % 8;
        let cut = |bits: u16| (bits >> below) as u8 & ((1 << base.width()) - 1);
        Want::Bits { base, bits: cut(bits), mask: cut(mask) }
    }

    /// Whether `byte`, which stands before the pattern, holds the first bits of the secret beside others. It need not
    /// do so for the secret to be there: the character may be escaped, or a line end may stand between.
    pub(super) fn begins_in(&self, byte: u8) -> bool {
        match self.kind {
            Kind::Grouped { base, shift } if !(8 * shift).is_multiple_of(base.width()) => {
                self.bits(base, shift, 8 * shift / base.width()).accepts(byte.into())
            }
            _ => false,
        }
    }

    /// Whether `value` may stand between the characters `index - 1` and `index` without counting.
    fn skips(&self, index: usize, value: u32, after_line_end: bool) -> bool {
        let Ok(byte) = u8::try_from(value) else { return false };
        SKIPPED_ANYWHERE.contains(&byte)
            || match &self.kind {
                _ if after_line_end && matches!(byte, b' ' | b'\t') => true,
                Kind::Hex => index.is_multiple_of(2) && BETWEEN_PAIRS.contains(&byte),
                Kind::Numbers(text) => text[index - 1] == b',' && BETWEEN_NUMBERS.contains(&byte),
                _ => false,
            }
    }

    /// In which of `count` groups, where those of one group have much in common, the pattern `number` is.
    pub(super) fn group(&self, number: usize, count: usize) -> usize {
        match self.kind {
            Kind::Hex => 0,
            Kind::Numbers(_) => 1,
            _ => 2 + number % (count - 2),
        }
    }

    /// Calls `see` with the first two bytes of each escape of the character `index`, and of what may be skipped before.
    pub(super) fn each_escape(&self, index: usize, mut see: impl FnMut(u8, u8)) {
        self.want(index).each_value(|value| reading::each_beginning(value, &mut see));
        if index > 0 && !self.is_wide() {
            self.skipped(index).for_each(|byte| reading::each_beginning(byte.into(), &mut see));
        }
    }

    /// Calls `see` with the first two bytes of the character that it begins with, where that may be a wide one.
    pub(super) fn each_half(&self, mut see: impl FnMut(u8, u8)) {
        let Some(c) = self.first_code_point().and_then(char::from_u32) else { return };
        let [low, high] = c.encode_utf16(&mut [0; 2])[0].to_le_bytes();
        see(low, high);
        see(high, low);
        if let [first, second, ..] = *c.encode_utf8(&mut [0; 4]).as_bytes() {
            see(first, second);
        }
        // In Latin-1 it is the whole character, and in a form a plus may stand for a space.
        let whole = [(high == 0).then_some(low), (c == ' ').then_some(b'+')];
        for first in whole.into_iter().flatten() {
            (0..=u8::MAX).for_each(|second| see(first, second));
        }
    }

    /// The code point that it begins with, where code points are compared.
    pub(super) fn first_code_point(&self) -> Option<u32> {
        match &self.kind {
            Kind::Chars(chars) => chars.first().copied(),
            _ => None,
        }
    }

    /// Calls `see` with every byte that the character `index` may be, not escaped.
    pub(super) fn each_byte(&self, index: usize, see: impl FnMut(u8)) {
        if !self.is_wide() {
            self.want(index).each_byte(see);
        }
    }

    /// Calls `see` with every byte that may be skipped before the character `index`, not escaped.
    pub(super) fn each_skipped(&self, index: usize, see: impl FnMut(u8)) {
        if self.is_wide() {
            return;
        }
        // The plus is a space in a form.
        let plus = self.skips(index, b' '.into(), false).then_some(b'+');
        // The zero is the beginning of `0x`.
        let zero = (matches!(self.kind, Kind::Hex) && index.is_multiple_of(2)).then_some(b'0');
        self.skipped(index).chain(plus).chain(zero).for_each(see);
    }

    /// The bytes that may be skipped before the character `index`.
    fn skipped(&self, index: usize) -> impl Iterator<Item = u8> {
        let all = SKIPPED_ANYWHERE.iter().chain(BETWEEN_PAIRS).copied();
        all.filter(move |byte| self.skips(index, (*byte).into(), false))
    }

    /// Whether `byte` before the character `index` can be read as itself only, and cannot be skipped.
    fn is_plain(&self, index: usize, byte: u8) -> bool {
        match self.kind {
            Kind::Chars(_) => false,
            // The second is the beginning of `0x`.
            Kind::Hex if index.is_multiple_of(2) => byte.is_ascii_alphanumeric() && byte != b'0',
            Kind::Numbers(_) => byte.is_ascii_digit(),
            _ => byte > b' ' && byte != b'+' && !reading::ESCAPES.contains(&byte),
        }
    }

    /// Where the secret ends, if it stands at the start of `text`. The work is bounded by the length of what
    /// fits, because each place of the text is looked at once for each character of the pattern.
    pub(super) fn find(&self, text: &[u8], room: &mut Room) -> Option<usize> {
        let Room { places, next } = room;
        places.clear();
        places.push(Place { at: 0, skipped: 0, after_line_end: false });
        for index in 0..self.len() {
            let want = self.want(index);
            // Nearly always there is one way to read one character.
            if let [place] = places.as_mut_slice()
                && let Some(byte) = text.get(place.at)
                && self.is_plain(index, *byte)
            {
                if !want.accepts((*byte).into()) {
                    return None;
                }
                *place = Place { at: place.at + 1, skipped: 0, after_line_end: false };
                continue;
            }
            next.clear();
            let mut current = 0;
            while let Some(place) = places.get(current).copied() {
                current += 1;
                if place.at >= text.len() {
                    continue;
                }
                for Reading { value, length } in reading::read(text, place.at, self.is_wide()).iter() {
                    let at = place.at + length as usize;
                    if want.accepts(value) {
                        add(next, Place { at, skipped: 0, after_line_end: false });
                    }
                    if index > 0 && place.skipped < SKIPPED && self.skips(index, value, place.after_line_end) {
                        let after_line_end = place.after_line_end || matches!(value, 0x0a | 0x0d);
                        add(places, Place { at, skipped: place.skipped + 1, after_line_end });
                    }
                }
                if matches!(self.kind, Kind::Hex)
                    && index > 0
                    && index.is_multiple_of(2)
                    && place.skipped < SKIPPED
                    && text[place.at..].starts_with(b"0x")
                {
                    add(places, Place { at: place.at + 2, skipped: place.skipped + 1, ..place });
                }
            }
            if next.is_empty() {
                return None;
            }
            std::mem::swap(places, next);
        }
        // The longest way takes the most of the secret's traces away.
        places.iter().map(|place| place.at).max()
    }
}

impl Base {
    /// The bits of a character.
    fn width(self) -> usize {
        match self {
            Self::Base64 => 6,
            Self::Base32 => 5,
        }
    }

    /// The characters that stand for these bits.
    fn characters(self, bits: u8) -> [u8; 2] {
        const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        match (self, bits) {
            (Self::Base64, 62) => *b"+-",
            (Self::Base64, 63) => *b"/_",
            (Self::Base64, _) => [BASE64[usize::from(bits)]; 2],
            (Self::Base32, _) => {
                let character = BASE32[usize::from(bits)];
                [character, character.to_ascii_lowercase()]
            }
        }
    }

    /// The bits that a character stands for.
    fn value(self, byte: u8) -> Option<u8> {
        Some(match (self, byte) {
            (_, b'A'..=b'Z') => byte - b'A',
            (Self::Base64, b'a'..=b'z') => byte - b'a' + 26,
            (Self::Base64, b'0'..=b'9') => byte - b'0' + 52,
            (Self::Base64, b'+' | b'-') => 62,
            (Self::Base64, b'/' | b'_') => 63,
            (Self::Base32, b'a'..=b'z') => byte - b'a',
            (Self::Base32, b'2'..=b'7') => byte - b'2' + 26,
            _ => return None,
        })
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
            Self::Bits { base, bits, mask } => base.value(byte).is_some_and(|value| value & mask == bits),
            Self::Digit(want) => (byte as char).to_digit(16) == Some(want.into()),
            Self::Separator => BETWEEN_NUMBERS.contains(&byte),
        }
    }

    /// Calls `see` with every character that it may be, where all of its bits are known.
    fn each_value(self, mut see: impl FnMut(u32)) {
        let mut each = |bytes: &[u8]| bytes.iter().for_each(|byte| see((*byte).into()));
        match self {
            Self::Byte(want) => each(&[want]),
            Self::Letter(want) => each(&[want.to_ascii_lowercase(), want.to_ascii_uppercase()]),
            Self::Char(want) => see(want),
            Self::Bits { base, bits, .. } => each(&base.characters(bits)),
            Self::Digit(want) => {
                let digit = b"0123456789abcdef"[usize::from(want)];
                each(&[digit, digit.to_ascii_uppercase()]);
            }
            Self::Separator => each(BETWEEN_NUMBERS),
        }
    }

    /// Calls `see` with every byte that it may begin with, not escaped.
    fn each_byte(self, mut see: impl FnMut(u8)) {
        self.each_value(|value| {
            let Ok(byte) = u8::try_from(value) else { return };
            see(byte);
            if byte == b' ' {
                // A form writes it so.
                see(b'+');
            }
        });
    }
}

/// Keeps the places in the order of the text, so that every way to one is known when it is left.
fn add(places: &mut Vec<Place>, place: Place) {
    match places.binary_search_by_key(&place.at, |other| other.at) {
        Ok(index) => {
            let other = &mut places[index];
            other.skipped = other.skipped.min(place.skipped);
            other.after_line_end |= place.after_line_end;
        }
        Err(index) => places.insert(index, place),
    }
}

/// `most` is at least their number: with all the room at once the list never grows and leaves no copy behind.
fn code_points(most: usize, points: impl Iterator<Item = u32>) -> Zeroizing<Vec<u32>> {
    let mut chars = Zeroizing::new(Vec::with_capacity(most));
    chars.extend(points);
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
