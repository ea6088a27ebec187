//! Takes secrets out of what comes back.
//!
//! The search is for exact values: every secret that went into a request, and every rendered form of it, in
//! every encoding that a server plausibly produces. So a false alarm is next to impossible, and nothing is
//! known of secrets that did not go into the request.
//!
//! | layer | what is found |
//! |---|---|
//! | encodings of the whole | the bytes; base64 and base64url at each of the three alignments, padded or not; hexadecimal digits with or without `:`, `-`, space, comma or `0x` between the pairs; decimal numbers with commas |
//! | escapes of each character (`redact/reading.rs`) | percent, JSON and other strings, HTML, quoted-printable, UTF-16, UTF-32; mixed with plain characters at will |
//! | between characters | line ends, with the indentation after them |
//!
//! The layers multiply: base64 folded into lines inside of a JSON string is found. Letters match in any case
//! where a secret has 16 bytes or more. Not found: what was compressed or encrypted, base64 of base64, base32,
//! the characters in another order, a part of the secret.
//!
//! **Streams.** A secret may straddle chunks, so what may be the beginning of one is held back until it is
//! known: at most `96 + 24n` bytes, and a few more for an escape, where `n` is the length of the longest
//! encoding. A chunk in which nothing is found is handed on as it is, without a copy.
//!
//! **Work.** Two bytes decide at nearly every place. Where they fit, the text is compared for as long as it
//! fits; how often that can be is bounded by how often the secret repeats itself, so a server cannot make it
//! slow by what it sends, nor by the size of its chunks.

mod pattern;
mod reading;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use self::{
    pattern::{ByteSet, Outcome, Pattern, Room},
    reading::Readings,
};

/// What stands in the place of a secret.
pub(crate) const REDACTED: &[u8] = b"[redacted]";
/// Shorter values are not searched: they would be found by chance.
pub(crate) const SHORTEST: usize = 8;

/// How often a secret was taken out of one response. It is shared: it grows while the body is read.
#[derive(Debug, Clone, Default)]
pub struct RedactionCount(Arc<AtomicU64>);

impl RedactionCount {
    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes a set of secrets out of what it is given.
pub(crate) struct Redactor {
    patterns: Vec<Pattern>,
    beginnings: Beginnings,
    count: RedactionCount,
}

/// How a secret may begin.
struct Beginnings {
    /// For each byte of the text, the bytes that may follow.
    pairs: Box<[ByteSet; 256]>,
    /// What the first character may be once its escape is undone.
    first: ByteSet,
    /// Whether the first character may be above 127.
    is_wide: bool,
}

impl Beginnings {
    fn of(patterns: &[Pattern]) -> Self {
        let mut pairs = Box::new([ByteSet::default(); 256]);
        let mut all = ByteSet::default();
        for pattern in patterns {
            let (first, second) = pattern.beginnings();
            all.join(&first);
            for byte in (0..=u8::MAX).filter(|byte| first.has(*byte)) {
                pairs[usize::from(byte)].join(&second);
            }
        }
        if !patterns.is_empty() {
            reading::ESCAPES.iter().for_each(|byte| pairs[usize::from(*byte)] = ByteSet::ALL);
        }
        Self { pairs, first: all, is_wide: patterns.iter().any(Pattern::is_wide) }
    }

    fn has(&self, first: u8, second: u8) -> bool {
        self.pairs[usize::from(first)].has(second)
    }

    fn has_first(&self, first: u8) -> bool {
        !self.pairs[usize::from(first)].is_empty()
    }

    fn has_one_of(&self, readings: &Readings) -> bool {
        let has = |value| u8::try_from(value).is_ok_and(|byte| self.first.has(byte));
        self.is_wide || readings.iter().any(|reading| has(reading.value))
    }
}

impl Redactor {
    /// For these secrets, counting in `count`. Values of fewer than eight bytes are left out.
    pub(crate) fn new(secrets: &[Arc<Zeroizing<Vec<u8>>>], count: RedactionCount) -> Self {
        let patterns: Vec<_> =
            secrets.iter().filter(|secret| secret.len() >= SHORTEST).flat_map(Pattern::all).collect();
        let beginnings = Beginnings::of(&patterns);
        Self { patterns, beginnings, count }
    }

    /// Whether there is anything to search for.
    pub(crate) fn is_idle(&self) -> bool {
        self.patterns.is_empty()
    }

    /// `input` without the secrets.
    pub(crate) fn bytes<'a>(&self, input: &'a [u8]) -> Cow<'a, [u8]> {
        let found = self.search(input, true);
        if found.ranges.is_empty() { Cow::Borrowed(input) } else { Cow::Owned(replace(input, &found).to_vec()) }
    }

    /// `input` without the secrets.
    pub(crate) fn text(&self, input: String) -> String {
        match self.bytes(input.as_bytes()) {
            Cow::Borrowed(_) => input,
            Cow::Owned(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    /// Finds the secrets of `text`; unless it is the `last`, up to where one may begin that is not all there.
    fn search(&self, text: &[u8], last: bool) -> Found {
        let mut found = Found { ranges: Vec::new(), settled: text.len() };
        if self.is_idle() {
            return found;
        }
        let mut room = Room::default();
        let mut at = 0;
        while at < text.len() {
            let begins = match text.get(at + 1) {
                Some(second) => self.beginnings.has(text[at], *second),
                None => !last && self.beginnings.has_first(text[at]),
            };
            if !begins {
                at += 1;
                continue;
            }
            let readings = reading::read(text, at, false);
            let may_go_on = readings.cut && !last;
            if !may_go_on && !self.beginnings.has_one_of(&readings) {
                at += 1;
                continue;
            }
            let mut end = None;
            for pattern in self.patterns.iter().filter(|pattern| may_go_on || pattern.may_begin(&readings)) {
                match pattern.find(text, at, last, &mut room) {
                    // Something longer may stand here, so nothing is settled yet.
                    Outcome::Open => {
                        found.settled = at;
                        return found;
                    }
                    Outcome::Found(until) => end = end.max(Some(until)),
                    Outcome::Absent => {}
                }
            }
            match end {
                Some(end) => {
                    self.count.add_one();
                    found.ranges.push((at, end));
                    at = end;
                }
                None => at += 1,
            }
        }
        found
    }
}

struct Found {
    ranges: Vec<(usize, usize)>,
    /// Behind this nothing is decided.
    settled: usize,
}

fn replace(text: &[u8], found: &Found) -> Bytes {
    let mut clean = BytesMut::with_capacity(found.settled + REDACTED.len() * found.ranges.len());
    let mut at = 0;
    for (start, end) in &found.ranges {
        clean.extend_from_slice(&text[at..*start]);
        clean.extend_from_slice(REDACTED);
        at = *end;
    }
    clean.extend_from_slice(&text[at..found.settled]);
    clean.freeze()
}

/// Takes secrets out of a stream of chunks.
pub(crate) struct Scrubber {
    redactor: Arc<Redactor>,
    /// May be the beginning of a secret.
    held: BytesMut,
    /// Nothing is searched until so much is held.
    search_at: usize,
}

/// What is held is searched again with every chunk up to this size. Above it, only when it has grown by half:
/// a server that sends a secret byte by byte would have it searched from its beginning for each of them.
const SEARCHED_EACH_TIME: usize = 256;

impl Scrubber {
    pub(crate) fn new(redactor: Arc<Redactor>) -> Self {
        Self { redactor, held: BytesMut::new(), search_at: 0 }
    }

    /// Takes the next chunk and gives what is known to be clean, which may be nothing.
    pub(crate) fn push(&mut self, chunk: Bytes) -> Bytes {
        if self.held.is_empty() {
            return self.clean(chunk, false);
        }
        self.held.extend_from_slice(&chunk);
        if self.held.len() < self.search_at {
            return Bytes::new();
        }
        let text = self.held.split().freeze();
        self.clean(text, false)
    }

    /// Gives what was held back.
    pub(crate) fn finish(&mut self) -> Bytes {
        let text = self.held.split().freeze();
        self.clean(text, true)
    }

    fn clean(&mut self, mut text: Bytes, last: bool) -> Bytes {
        let found = self.redactor.search(&text, last);
        self.held.extend_from_slice(&text[found.settled..]);
        self.search_at = match self.held.len() {
            held @ ..=SEARCHED_EACH_TIME => held,
            held => held + held / 2,
        };
        if found.ranges.is_empty() {
            text.truncate(found.settled);
            text
        } else {
            replace(&text, &found)
        }
    }
}

#[cfg(test)]
mod tests;
