//! A secret does not pass in any of these forms, wherever the chunks end, and chunks change nothing.
#![no_main]

use std::{fmt::Write as _, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use keyward_vault::{RedactionCount, Redactor, Scrubber};
use libfuzzer_sys::fuzz_target;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use zeroize::Zeroizing;

#[derive(Debug, arbitrary::Arbitrary)]
struct Input {
    secret: Vec<u8>,
    pieces: Vec<Piece>,
    chunks: Vec<u8>,
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Piece {
    Text(Vec<u8>),
    Plain,
    Hex,
    Percent,
    Base64,
    Part(u8),
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fuzz_target!(|input: Input| {
    let secret = input.secret;
    if !(8..=200).contains(&secret.len()) {
        return;
    }
    let mut text = Vec::new();
    for piece in &input.pieces {
        match piece {
            Piece::Text(bytes) => text.extend_from_slice(bytes),
            Piece::Plain => text.extend_from_slice(&secret),
            Piece::Hex => text.extend_from_slice(hex(&secret).as_bytes()),
            Piece::Percent => text.extend_from_slice(percent_encode(&secret, NON_ALPHANUMERIC).to_string().as_bytes()),
            Piece::Base64 => text.extend_from_slice(STANDARD.encode(&secret).as_bytes()),
            Piece::Part(count) => text.extend_from_slice(&secret[..usize::from(*count) % secret.len()]),
        }
    }
    let redactor = Arc::new(Redactor::new(&[Arc::new(Zeroizing::new(secret.clone()))], RedactionCount::default()));
    let scrub = |sizes: &mut dyn Iterator<Item = usize>| {
        let mut scrubber = Scrubber::new(redactor.clone());
        let (mut clean, mut rest) = (Vec::new(), &text[..]);
        while !rest.is_empty() {
            let (chunk, next) = rest.split_at(sizes.next().unwrap_or(rest.len()).clamp(1, rest.len()));
            clean.extend_from_slice(&scrubber.push(chunk));
            rest = next;
        }
        clean.extend_from_slice(&scrubber.finish());
        clean
    };
    let whole = scrub(&mut std::iter::empty());
    let parts = scrub(&mut input.chunks.iter().map(|size| usize::from(*size)));
    assert_eq!(whole, parts, "chunks change what is found");
    let holds = |form: &[u8]| whole.windows(form.len()).any(|window| window == form);
    // What is put in the place of one secret could complete another.
    if secret.iter().any(|byte| b"[]".contains(byte)) || secret == b"redacted" {
        return;
    }
    assert!(!holds(&secret), "plain");
    assert!(!holds(hex(&secret).as_bytes()), "hexadecimal");
    assert!(!holds(percent_encode(&secret, NON_ALPHANUMERIC).to_string().as_bytes()), "percent");
});
