//! Takes secrets out of what comes back.
//!
//! The search is for exact values: every secret that went into a request, and every rendered form of it, in
//! every encoding that a server plausibly produces. So a false alarm is next to impossible, and nothing is
//! known of secrets that did not go into the request.
//!
//! | layer | what is found |
//! |---|---|
//! | encodings of the whole | the bytes; base64 and base64url at each of the three alignments and base32 at each of the five, padded or not; base64 of the base64 of the secret alone; hexadecimal digits, with or without `0x`, spaces or any of `:-_,;."'` between the pairs; decimal numbers with spaces, lines, commas or semicolons between them |
//! | escapes of each character (`redact/reading.rs`) | percent, JSON and other strings, HTML, quoted-printable, UTF-8, UTF-16, UTF-32; mixed with plain characters at will; UTF-8 that was taken for Latin-1 |
//! | between characters | line ends, with the indentation after them |
//!
//! The layers multiply: base64 folded into lines inside of a JSON string is found. Letters match in any case
//! where a secret has 16 bytes or more. Not found: what was compressed or encrypted, dumps with addresses or with
//! text beside the numbers (`hexdump -C`, `xxd`), binary and octal numbers, characters in another order or apart
//! from each other (`{"0":"g","1":"h"}`), letters that were decomposed (Unicode NFD), base85, other encodings of
//! encodings, a part of the secret.
//!
//! **Streams.** A secret may straddle chunks, so the last bytes of what came are held back until more comes or the
//! body ends. How many depends on the length of the secrets alone, never on what the bytes are: were only what may
//! be the beginning of a secret held back, the sizes of the chunks would tell a guest which of its guesses is one.
//! For the same reason what is held when a body breaks off is thrown away. Only a whole secret changes a length.
//!
//! **Work.** A table of pairs tells at nearly every place that nothing begins there. Where something may, the text
//! is compared for as long as it fits; how often that can be is bounded by how often the secret repeats itself, so
//! a server cannot make it slow by what it sends, nor by the size of its chunks.

mod pattern;
mod reading;

use std::{
    array,
    borrow::Cow,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use self::pattern::{Pattern, Room};

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
    /// The most bytes that a secret is followed over.
    extent: usize,
    count: RedactionCount,
}

/// What the first three bytes of a secret may be, in any of its forms.
struct Beginnings {
    /// Marks for each pair of bytes. Of a byte above 127 the lower bits count, which keeps the table small.
    pairs: Box<[u8; 1 << 14]>,
    /// Which patterns may begin with each byte.
    patterns: [Vec<u16>; 256],
}

/// The pair may be the first two bytes.
const FIRST: u8 = 1;
/// The pair may be the first two bytes of an escape; how that goes on is not known.
const ESCAPE: u8 = 2;
/// The pair may be the second and the third byte, where the first is no escape.
const SECOND: u8 = 4;

impl Beginnings {
    /// So many places are looked at together.
    const BLOCK: usize = 32;

    fn of(patterns: &[Pattern]) -> Self {
        let mut all = Self { pairs: Box::new([0; 1 << 14]), patterns: [const { Vec::new() }; 256] };
        for (number, pattern) in (0..).zip(patterns) {
            pattern.each_beginning(|first, second| {
                let is_escape = reading::ESCAPES.contains(&first);
                all.pairs[Self::index(first, second)] |= if is_escape { ESCAPE } else { FIRST };
                let with_first = &mut all.patterns[usize::from(first)];
                if with_first.last() != Some(&number) {
                    with_first.push(number);
                }
            });
            pattern.each_second(|second, third| all.pairs[Self::index(second, third)] |= SECOND);
        }
        all
    }

    fn index(first: u8, second: u8) -> usize {
        usize::from(first & 127) << 7 | usize::from(second & 127)
    }

    fn marks(&self, first: u8, second: u8) -> u8 {
        self.pairs[Self::index(first, second)]
    }

    /// Whether a secret may begin with a pair that has the marks `this`, where the pair from its second byte has `next`.
    fn begins(this: u8, next: u8) -> bool {
        (this & FIRST & (next / SECOND)) | (this & ESCAPE) != 0
    }

    /// The first of `places` in `text` where a secret may begin.
    fn first(&self, text: &[u8], places: Range<usize>) -> Option<usize> {
        let end = places.end.min(text.len().saturating_sub(2));
        let mut at = places.start;
        while at + Self::BLOCK <= end {
            let block: &[u8; Self::BLOCK + 2] = text[at..].first_chunk()?;
            let marks: [u8; Self::BLOCK + 1] = array::from_fn(|place| self.marks(block[place], block[place + 1]));
            let begins = |place: usize| Self::begins(marks[place], marks[place + 1]);
            // Without a branch for each place.
            if (0..Self::BLOCK).fold(false, |any, place| any | begins(place)) {
                return (0..Self::BLOCK).find(|place| begins(*place)).map(|place| at + place);
            }
            at += Self::BLOCK;
        }
        let marks = |at: usize| self.marks(text[at], text[at + 1]);
        (at..end).find(|at| Self::begins(marks(*at), marks(at + 1)))
    }
}

impl Redactor {
    /// For these secrets, counting in `count`. Values of fewer than eight bytes are left out.
    pub(crate) fn new(secrets: &[Arc<Zeroizing<Vec<u8>>>], count: RedactionCount) -> Self {
        let secrets = || secrets.iter().filter(|secret| secret.len() >= SHORTEST);
        let patterns: Vec<_> = secrets().flat_map(Pattern::all).collect();
        let longest = secrets().map(|secret| secret.len()).max().unwrap_or_default();
        Self { beginnings: Beginnings::of(&patterns), patterns, extent: extent(longest), count }
    }

    /// Whether there is anything to search for.
    pub(crate) fn is_idle(&self) -> bool {
        self.patterns.is_empty()
    }

    /// `input` without the secrets.
    pub(crate) fn bytes<'a>(&self, input: &'a [u8]) -> Cow<'a, [u8]> {
        let found = self.search(input, 0..input.len());
        if found.is_empty() { Cow::Borrowed(input) } else { Cow::Owned(replace(input, &found).to_vec()) }
    }

    /// `input` without the secrets.
    pub(crate) fn text(&self, input: String) -> String {
        match self.bytes(input.as_bytes()) {
            Cow::Borrowed(_) => input,
            Cow::Owned(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    /// The secrets that begin within `places` of `text`, or with bits of the byte before; the last may end behind.
    fn search(&self, text: &[u8], places: Range<usize>) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        if self.is_idle() {
            return found;
        }
        let mut room = Room::default();
        let mut at = places.start;
        while let Some(start) = self.beginnings.first(text, at..places.end) {
            // Never looks further, so that what is found does not depend on where a chunk ends.
            let rest = &text[start..text.len().min(start + self.extent)];
            let before = start.checked_sub(1).filter(|before| found.last().is_none_or(|last| last.end <= *before));
            let mut secret: Option<Range<usize>> = None;
            // An escape may begin any pattern, and what it stands for few.
            let escape = reading::ESCAPES.contains(&rest[0]).then(|| reading::read(rest, 0, true));
            for number in &self.beginnings.patterns[usize::from(rest[0])] {
                let pattern = &self.patterns[usize::from(*number)];
                if escape.as_ref().is_some_and(|readings| !pattern.may_begin(readings)) {
                    continue;
                }
                let Some(length) = pattern.find(rest, &mut room) else { continue };
                let first = before.filter(|before| pattern.begins_in(text[*before])).unwrap_or(start);
                let end = start + length;
                secret = Some(secret.map_or(first..end, |other| other.start.min(first)..other.end.max(end)));
            }
            at = start + 1;
            if let Some(secret) = secret {
                self.count.add_one();
                at = secret.end;
                found.push(secret);
            }
        }
        found
    }
}

/// Over how many bytes a secret of this length is followed: forty for each of its own is a list of numbers, one a
/// line, indented by thirty-two, or any escape that is plausible. It tells no more of the length than its order.
fn extent(length: usize) -> usize {
    256 + 40 * length.next_power_of_two()
}

fn replace(text: &[u8], found: &[Range<usize>]) -> Bytes {
    let mut clean = BytesMut::with_capacity(text.len() + REDACTED.len() * found.len());
    let mut at = 0;
    for secret in found {
        clean.extend_from_slice(&text[at..secret.start]);
        clean.extend_from_slice(REDACTED);
        at = secret.end;
    }
    clean.extend_from_slice(&text[at..]);
    clean.freeze()
}

/// Takes secrets out of a stream of chunks.
pub(crate) struct Scrubber {
    redactor: Arc<Redactor>,
    /// What was not given yet.
    held: BytesMut,
    /// How many bytes at the front of `held` are known not to begin a secret: at most the last one that is, because
    /// it may hold bits of a secret that begins behind it.
    settled: usize,
}

impl Scrubber {
    pub(crate) fn new(redactor: Arc<Redactor>) -> Self {
        Self { redactor, held: BytesMut::new(), settled: 0 }
    }

    /// Takes the next chunk and gives what came before the last bytes, clean; that may be nothing.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Bytes {
        if self.held.capacity() - self.held.len() < chunk.len() {
            // At least as much as is moved, so that small chunks do not make it quadratic.
            self.held.reserve(chunk.len().max(self.redactor.extent));
        }
        self.held.extend_from_slice(chunk);
        // A secret that begins before this place ends within what is held.
        match self.held.len().checked_sub(self.redactor.extent) {
            Some(until) if until > self.settled => self.give(until, until - 1),
            _ => Bytes::new(),
        }
    }

    /// Gives what was held back, at the end of the body.
    pub(crate) fn finish(mut self) -> Bytes {
        let all = self.held.len();
        self.give(all, all)
    }

    /// Gives the text up to `cut`, or up to the end of the last secret that begins before `until`.
    fn give(&mut self, until: usize, cut: usize) -> Bytes {
        let found = self.redactor.search(&self.held, self.settled..until);
        let end = found.last().map_or(0, |secret| secret.end);
        let cut = cut.max(end);
        self.settled = until.max(end) - cut;
        let text = self.held.split_to(cut).freeze();
        if found.is_empty() { text } else { replace(&text, &found) }
    }
}

#[cfg(test)]
mod tests;
