//! What a character may look like in a response: itself, or one of its escapes.
//!
//! | escape | forms |
//! |---|---|
//! | percent | `%2b`, `%2B`, `%252B` and deeper, `%u002B`, `+` for a space |
//! | string | `\u002b`, `\u{2b}`, `\U0000002b`, `\x2b`, `\x{2b}`, `\053`, `\/`, `\"`, `\n`; with more backslashes where a string stands in a string |
//! | HTML | `&#43;`, `&#x2b;`, `&plus;`; with `&amp;` or `\u0026` for the `&` |
//! | quoted-printable | `=2B`, and `=` before a line end |
//! | wide | UTF-8, UTF-16 and UTF-32 (the zero bytes of ASCII in them are skipped by the caller) |

/// One way to read a character.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// The byte, or the code point.
    pub(super) value: u32,
    /// How many bytes of the text it takes.
    pub(super) length: u32,
}

/// All ways to read the character at one place.
pub(super) struct Readings {
    start: usize,
    list: [Reading; 16],
    count: usize,
}

/// The depth to which escapes of escapes are followed.
const DEPTH: usize = 4;

/// The bytes that an escape begins with.
pub(super) const ESCAPES: [u8; 4] = *b"%\\&=";

/// All ways to read the character at `at`, which is within `text`. `wide` asks for code points above 127 as
/// well, in UTF-8 and UTF-16.
pub(super) fn read(text: &[u8], at: usize, wide: bool) -> Readings {
    let mut readings = Readings { start: at, list: Default::default(), count: 0 };
    let byte = text[at];
    readings.add(u32::from(byte), at + 1);
    match byte {
        b'%' => readings.percent(text, at + 1),
        b'\\' => readings.backslash(text, at),
        b'&' => readings.entity(text, at + 1),
        b'=' => readings.quoted_printable(text, at + 1),
        b'+' => readings.add(u32::from(b' '), at + 1),
        _ => {}
    }
    if wide {
        readings.wide(text, at);
    }
    readings
}

impl Readings {
    pub(super) fn iter(&self) -> impl Iterator<Item = Reading> + '_ {
        self.list[..self.count].iter().copied()
    }

    fn add(&mut self, value: u32, next: usize) {
        // There is room for every form of every kind of escape at its full depth; were there not, a reading
        // would be missed and nothing worse.
        if let Some(free) = self.list.get_mut(self.count) {
            *free = Reading { value, length: (next - self.start) as u32 };
            self.count += 1;
        }
    }

    fn percent(&mut self, text: &[u8], mut at: usize) {
        for _ in 0..DEPTH {
            if byte_at(text, at) == Some(b'u') {
                if let Some(value) = hex(text, at + 1, 4) {
                    self.add(value, at + 5);
                }
                return;
            }
            let Some(value) = hex(text, at, 2) else { return };
            at += 2;
            self.add(value, at);
            if value != u32::from(b'%') {
                return;
            }
        }
    }

    fn backslash(&mut self, text: &[u8], start: usize) {
        let mut at = start + 1;
        for _ in 0..1 << DEPTH {
            let Some(byte) = byte_at(text, at) else { return };
            at += 1;
            match byte {
                b'\\' => {
                    // One backslash is written as 2, 4, 8 of them, by the depth of the string.
                    if (at - start).is_power_of_two() {
                        self.add(u32::from(b'\\'), at);
                    }
                    continue;
                }
                b'u' => self.unicode(text, start, at),
                b'U' => {
                    if let Some(value) = hex(text, at, 8) {
                        self.add(value, at + 8);
                    }
                }
                b'x' if byte_at(text, at) == Some(b'{') => self.braced(text, at + 1),
                b'x' => {
                    if let Some(value) = hex(text, at, 2) {
                        self.add(value, at + 2);
                    }
                }
                b'n' => self.add(u32::from(b'\n'), at),
                b'r' => self.add(u32::from(b'\r'), at),
                b't' => self.add(u32::from(b'\t'), at),
                b'0'..=b'7' => {
                    let digit = |byte: Option<u8>| byte.and_then(|byte| (byte as char).to_digit(8));
                    let (second, third) = (digit(byte_at(text, at)), digit(byte_at(text, at + 1)));
                    match (second, third) {
                        (Some(second), Some(third)) => {
                            self.add(u32::from(byte - b'0') << 6 | second << 3 | third, at + 2);
                        }
                        (None, _) if byte == b'0' => self.add(0, at),
                        _ => {}
                    }
                }
                punctuation if punctuation.is_ascii_punctuation() => self.add(u32::from(punctuation), at),
                _ => {}
            }
            return;
        }
    }

    /// Hexadecimal digits and what ends the brace that was opened before them.
    fn braced(&mut self, text: &[u8], at: usize) {
        let mut value: u32 = 0;
        for offset in at..at + 9 {
            match byte_at(text, offset) {
                Some(b'}') => return self.add(value, offset + 1),
                Some(byte) => match (byte as char).to_digit(16) {
                    Some(digit) => value = value << 4 | digit,
                    None => return,
                },
                None => return,
            }
        }
    }

    /// `\u` was read from `start` to `at`.
    fn unicode(&mut self, text: &[u8], start: usize, at: usize) {
        if byte_at(text, at) == Some(b'{') {
            return self.braced(text, at + 1);
        }
        let Some(value) = hex(text, at, 4) else { return };
        let next = at + 4;
        self.add(value, next);
        match value {
            // Half of a code point above U+FFFF; the other half is written in the same manner.
            0xd800..0xdc00 => {
                let slashes = &text[start..at];
                if text[next..].starts_with(slashes)
                    && let Some(low @ 0xdc00..0xe000) = hex(text, next + slashes.len(), 4)
                {
                    self.add(0x10000 + ((value - 0xd800) << 10) + (low - 0xdc00), next + slashes.len() + 4);
                }
            }
            0x26 => self.entity(text, next),
            _ => {}
        }
    }

    /// What follows a `&`.
    fn entity(&mut self, text: &[u8], mut at: usize) {
        for _ in 0..DEPTH {
            if !text[at.min(text.len())..].starts_with(b"amp;") {
                break;
            }
            at += 4;
            self.add(u32::from(b'&'), at);
        }
        match byte_at(text, at) {
            Some(b'#') => self.numeric_entity(text, at + 1),
            Some(byte) if byte.is_ascii_alphabetic() => {
                for (name, value) in ENTITIES {
                    if name[0] == byte && text[at..].starts_with(name) {
                        self.add(u32::from(*value), at + name.len());
                    }
                }
            }
            _ => {}
        }
    }

    fn numeric_entity(&mut self, text: &[u8], mut at: usize) {
        let radix = match byte_at(text, at) {
            Some(b'x' | b'X') => {
                at += 1;
                16
            }
            _ => 10,
        };
        let mut value: u32 = 0;
        for digits in 0..9 {
            match byte_at(text, at) {
                Some(b';') if digits > 0 => return self.add(value, at + 1),
                Some(byte) => match (byte as char).to_digit(radix) {
                    Some(digit) => value = value.saturating_mul(radix).saturating_add(digit),
                    // The semicolon may be missing.
                    None if digits > 0 => return self.add(value, at),
                    None => return,
                },
                None => {
                    if digits > 0 {
                        self.add(value, at);
                    }
                    return;
                }
            }
            at += 1;
        }
    }

    fn quoted_printable(&mut self, text: &[u8], at: usize) {
        match byte_at(text, at) {
            Some(b'\n') => self.add(u32::from(b'\n'), at + 1),
            Some(b'\r') if byte_at(text, at + 1) == Some(b'\n') => self.add(u32::from(b'\n'), at + 2),
            Some(_) => {
                if let Some(value) = hex(text, at, 2) {
                    self.add(value, at + 2);
                }
            }
            None => {}
        }
    }

    fn wide(&mut self, text: &[u8], at: usize) {
        let rest = &text[at..];
        let length = match rest[0] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        if length > 1
            && let Some(Ok(text)) = rest.get(..length).map(std::str::from_utf8)
        {
            text.chars().for_each(|c| self.add(c.into(), at + length));
        }
        for unit in [u16::from_le_bytes, u16::from_be_bytes] {
            let units = rest.chunks_exact(2).take(2).map(|pair| unit([pair[0], pair[1]]));
            if let Some(Ok(c)) = char::decode_utf16(units).next() {
                self.add(c.into(), at + 2 * c.len_utf16());
            }
        }
    }
}

/// Calls `see` with the first two bytes of each escape of a character.
pub(super) fn each_beginning(value: u32, mut see: impl FnMut(u8, u8)) {
    b"uUx\\".iter().for_each(|byte| see(b'\\', *byte));
    b"u2".iter().for_each(|byte| see(b'%', *byte));
    b"#a".iter().for_each(|byte| see(b'&', *byte));
    if value < 0o1000 {
        see(b'\\', b'0' + (value >> 6) as u8);
    }
    let Ok(byte) = u8::try_from(value) else { return };
    let digit = b"0123456789abcdef"[usize::from(byte >> 4)];
    for digit in [digit, digit.to_ascii_uppercase()] {
        see(b'%', digit);
        see(b'=', digit);
    }
    match byte {
        b'\n' => {
            [(b'\\', b'n'), (b'=', b'\r'), (b'=', b'\n')].into_iter().for_each(|(first, second)| see(first, second))
        }
        b'\r' => see(b'\\', b'r'),
        b'\t' => see(b'\\', b't'),
        _ if byte.is_ascii_punctuation() => see(b'\\', byte),
        _ => {}
    }
    if byte.is_ascii_alphanumeric() {
        // It has no name.
        return;
    }
    ENTITIES.iter().filter(|(_, of)| *of == byte).for_each(|(name, _)| see(b'&', name[0]));
}

/// `digits` hexadecimal digits at `at`.
fn hex(text: &[u8], at: usize, digits: usize) -> Option<u32> {
    let digits = text.get(at..at + digits)?;
    digits.iter().try_fold(0, |value, byte| Some(value << 4 | (*byte as char).to_digit(16)?))
}

fn byte_at(text: &[u8], at: usize) -> Option<u8> {
    text.get(at).copied()
}

/// Names of the characters that a secret is likely to hold (HTML Living Standard, section 13.5).
const ENTITIES: &[(&[u8], u8)] = &[
    (b"amp;", b'&'),
    (b"AMP;", b'&'),
    (b"apos;", b'\''),
    (b"ast;", b'*'),
    (b"bsol;", b'\\'),
    (b"colon;", b':'),
    (b"comma;", b','),
    (b"commat;", b'@'),
    (b"dollar;", b'$'),
    (b"equals;", b'='),
    (b"excl;", b'!'),
    (b"grave;", b'`'),
    (b"gt;", b'>'),
    (b"GT;", b'>'),
    (b"Hat;", b'^'),
    (b"lbrace;", b'{'),
    (b"lbrack;", b'['),
    (b"lcub;", b'{'),
    (b"lowbar;", b'_'),
    (b"lpar;", b'('),
    (b"lsqb;", b'['),
    (b"lt;", b'<'),
    (b"LT;", b'<'),
    (b"NewLine;", b'\n'),
    (b"num;", b'#'),
    (b"percnt;", b'%'),
    (b"period;", b'.'),
    (b"plus;", b'+'),
    (b"quest;", b'?'),
    (b"quot;", b'"'),
    (b"QUOT;", b'"'),
    (b"rbrace;", b'}'),
    (b"rbrack;", b']'),
    (b"rcub;", b'}'),
    (b"rpar;", b')'),
    (b"rsqb;", b']'),
    (b"semi;", b';'),
    (b"sol;", b'/'),
    (b"Tab;", b'\t'),
    (b"verbar;", b'|'),
    (b"vert;", b'|'),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_character_is_read() {
        for form in [
            "+",
            "%2b",
            "%2B",
            "%252b",
            "%25252B",
            "%u002b",
            "\\u002b",
            "\\u002B",
            "\\\\u002b",
            "\\u{2b}",
            "\\U0000002B",
            "\\x2b",
            "\\x{2b}",
            "\\053",
            "\\+",
            "&#43;",
            "&#043;",
            "&#x2b;",
            "&#X2B;",
            "&#43",
            "&plus;",
            "&amp;#43;",
            "&amp;plus;",
            "\\u0026#43;",
            "=2B",
            "=2b",
        ] {
            let found =
                read(form.as_bytes(), 0, false).iter().any(|r| r.value == 0x2b && r.length as usize == form.len());
            assert!(found, "{form}");
            let mut told = form == "+";
            each_beginning(0x2b, |first, second| told |= form.as_bytes().starts_with(&[first, second]));
            assert!(told, "{form}");
        }
    }

    #[test]
    fn wide_characters_are_read_in_every_form() {
        let forms: [(&[u8], char); 8] = [
            ("é".as_bytes(), 'é'),
            (b"\\u00e9", 'é'),
            (b"&#233;", 'é'),
            (&[0xe9, 0], 'é'),
            (&[0, 0xe9], 'é'),
            (&[0xe9], 'é'),
            (b"\\ud83d\\ude00", '\u{1f600}'),
            (&[0x3d, 0xd8, 0x00, 0xde], '\u{1f600}'),
        ];
        for (form, c) in forms {
            let found = read(form, 0, true).iter().any(|r| r.value == u32::from(c) && r.length as usize == form.len());
            assert!(found, "{form:?}");
        }
    }
}
