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
//! from each other (`{"0":"g","1":"h"}`), letters that were decomposed (Unicode NFD), charsets other than ASCII, Latin-1
//! and those of Unicode, CSS escapes, base85, other encodings of
//! encodings, a part of the secret.
//!
//! **Streams.** A secret may straddle chunks, so the last bytes of what came are held back until more comes or the
//! body ends. How many depends on the length of the secrets alone, never on what the bytes are: were only what may
//! be the beginning of a secret held back, the sizes of the chunks would tell a guest which of its guesses is one.
//! For the same reason what is held when a body breaks off is thrown away. Only a whole secret changes a length.
//!
//! **Work.** A table tells at nearly every place, by three bytes, that nothing begins there. Where something may, the text
//! is compared for as long as it fits; how often that can be is bounded by how often the secret repeats itself, so
//! a server cannot make it slow by what it sends, nor by the size of its chunks.

mod call;
mod pattern;
mod reading;

use std::{
    borrow::Cow,
    iter,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

pub use self::call::CallSecrets;
use self::pattern::{Pattern, Room};

/// What stands in the place of a secret.
pub(crate) const REDACTED: &[u8] = keyward_model::request::REDACTED.as_bytes();
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
pub struct Redactor {
    patterns: Vec<Pattern>,
    filter: Filter,
    /// The most bytes that a secret is followed over.
    extent: usize,
    count: RedactionCount,
}

/// Tells at nearly every place of a text, by three bytes alone, that no secret begins there.
///
/// The ways to begin are dealt into eight groups, and of each byte it is known in which groups it may be the first,
/// the second and the third.
struct Filter {
    /// Groups as bits: in the lowest [`GROUPS`] those where the byte may be the first, then the second, then the third.
    groups: Box<[u32; 256]>,
    /// Which patterns may begin with this byte, or with an escape of it. Patterns with the same number but for a
    /// multiple of 64 share a bit.
    first: Box<[u64; 256]>,
    /// Which may begin with a character beyond these.
    first_beyond: u64,
}

/// How many groups there are; three times as many bits fit into a word.
const GROUPS: u32 = 10;
/// So many are for two characters and a third, or what may stand in its place: patterns share one that have much in
/// common, or by chance.
const PLAIN: usize = 7;
/// A character, and two bytes of an escape.
const BEFORE_ESCAPE: u32 = 1 << PLAIN;
/// A character, and what does not count; or half of a character.
const BEFORE_SKIPPED: u32 = 1 << (PLAIN + 1);
/// Two bytes of an escape.
const ESCAPED: u32 = 1 << (PLAIN + 2);

impl Filter {
    /// So many places are looked at together.
    const BLOCK: usize = 16;

    fn of(patterns: &[Pattern]) -> Self {
        let mut groups = Box::new([(BEFORE_SKIPPED | ESCAPED) << (2 * GROUPS); 256]);
        let (mut first, mut first_beyond) = (Box::new([0; 256]), 0);
        for (number, pattern) in patterns.iter().enumerate() {
            let bit = Self::bit(number);
            let mut add = |byte: u8, place: u32, group: u32| groups[usize::from(byte)] |= group << (GROUPS * place);
            pattern.each_escape(0, |start, second| {
                add(start, 0, ESCAPED);
                add(second, 1, ESCAPED);
            });
            pattern.each_half(|start, second| {
                add(start, 0, BEFORE_SKIPPED);
                add(second, 1, BEFORE_SKIPPED);
                first[usize::from(start)] |= bit;
            });
            let plain = 1 << pattern.group(number, PLAIN);
            pattern.each_byte(0, |byte| {
                add(byte, 0, plain | BEFORE_ESCAPE | BEFORE_SKIPPED);
                first[usize::from(byte)] |= bit;
            });
            pattern.each_byte(1, |byte| add(byte, 1, plain));
            pattern.each_escape(1, |start, second| {
                add(start, 1, BEFORE_ESCAPE);
                add(second, 2, BEFORE_ESCAPE);
            });
            pattern.each_skipped(1, |byte| add(byte, 1, BEFORE_SKIPPED));
            pattern.each_byte(2, |byte| add(byte, 2, plain));
            reading::ESCAPES.into_iter().for_each(|start| add(start, 2, plain));
            pattern.each_skipped(2, |byte| add(byte, 2, plain));
            if let Some(value) = pattern.first_code_point() {
                *usize::try_from(value).ok().and_then(|value| first.get_mut(value)).unwrap_or(&mut first_beyond) |= bit;
            }
        }
        Self { groups, first, first_beyond }
    }

    fn bit(number: usize) -> u64 {
        1 << (number % 64)
    }

    /// Those of `patterns` that may begin at the start of `text`.
    fn candidates<'a>(&self, text: &[u8], patterns: &'a [Pattern]) -> impl Iterator<Item = &'a Pattern> {
        let mut bits = if reading::ESCAPES.contains(&text[0]) {
            reading::read(text, 0, self.first_beyond != 0).iter().fold(0, |bits, reading| {
                let value = usize::try_from(reading.value).ok();
                bits | value.and_then(|value| self.first.get(value)).unwrap_or(&self.first_beyond)
            })
        } else {
            self.first[usize::from(text[0])]
        };
        let numbers = iter::from_fn(move || {
            let bit = (bits != 0).then(|| bits.trailing_zeros() as usize);
            bits &= bits.wrapping_sub(1);
            bit
        });
        numbers.flat_map(|number| patterns[number..].iter().step_by(64))
    }

    /// The places where something may begin, one bit for each of the block's.
    fn block(&self, text: &[u8; Self::BLOCK + 2]) -> u32 {
        let mut groups = [0; Self::BLOCK + 2];
        for (groups, byte) in groups.iter_mut().zip(text) {
            *groups = self.groups[usize::from(*byte)];
        }
        let mut here = [0; Self::BLOCK];
        for (place, here) in here.iter_mut().enumerate() {
            *here = groups[place] & (groups[place + 1] >> GROUPS) & (groups[place + 2] >> (2 * GROUPS));
        }
        // Nearly always nothing does.
        match here.iter().fold(0, |any, here| any | here) {
            0 => 0,
            _ => here.iter().rev().fold(0, |bits, here| bits << 1 | u32::from(*here != 0)),
        }
    }

    /// Calls `see` with each of `places` in `text` where a secret may begin, in order; it answers from which place on
    /// to go on.
    fn each(&self, text: &[u8], places: Range<usize>, mut see: impl FnMut(usize) -> usize) {
        let end = places.end.min(text.len().saturating_sub(2));
        let (mut at, mut from) = (places.start, places.start);
        while at < end {
            let mut bits = match text[at..].first_chunk() {
                Some(block) => self.block(block),
                None => {
                    // What is added behind begins nowhere, because only places before `end` count.
                    let mut block = [0; Self::BLOCK + 2];
                    block[..text.len() - at].copy_from_slice(&text[at..]);
                    self.block(&block)
                }
            };
            while bits != 0 {
                let place = at + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if (from..end).contains(&place) {
                    from = see(place);
                }
            }
            at = from.max(at + Self::BLOCK);
        }
    }
}

impl Redactor {
    /// For these secrets, counting in `count`. Values of fewer than eight bytes are left out.
    pub fn new(secrets: &[Arc<Zeroizing<Vec<u8>>>], count: RedactionCount) -> Self {
        let secrets = || secrets.iter().filter(|secret| secret.len() >= SHORTEST);
        let patterns: Vec<_> = secrets().flat_map(Pattern::all).collect();
        let longest = secrets().map(|secret| secret.len()).max().unwrap_or_default();
        Self { filter: Filter::of(&patterns), patterns, extent: extent(longest), count }
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
        self.filter.each(text, places, |start| {
            // Never looks further, so that what is found does not depend on where a chunk ends.
            let rest = &text[start..text.len().min(start + self.extent)];
            let before = start.checked_sub(1).filter(|before| found.last().is_none_or(|last| last.end <= *before));
            let mut secret: Option<Range<usize>> = None;
            for pattern in self.filter.candidates(rest, &self.patterns) {
                let Some(length) = pattern.find(rest, &mut room) else { continue };
                let first = before.filter(|before| pattern.begins_in(text[*before])).unwrap_or(start);
                let end = start + length;
                secret = Some(secret.map_or(first..end, |other| other.start.min(first)..other.end.max(end)));
            }
            let Some(secret) = secret else { return start + 1 };
            self.count.add_one();
            let end = secret.end;
            found.push(secret);
            end
        });
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
pub struct Scrubber {
    redactor: Arc<Redactor>,
    /// What was not given yet.
    held: BytesMut,
    /// How many bytes at the front of `held` are known not to begin a secret: at most the last one that is, because
    /// it may hold bits of a secret that begins behind it.
    settled: usize,
}

impl Scrubber {
    /// For one stream.
    pub fn new(redactor: Arc<Redactor>) -> Self {
        Self { redactor, held: BytesMut::new(), settled: 0 }
    }

    /// Takes the next chunk and gives what came before the last bytes, clean; that may be nothing.
    pub fn push(&mut self, chunk: &[u8]) -> Bytes {
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
    pub fn finish(mut self) -> Bytes {
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
