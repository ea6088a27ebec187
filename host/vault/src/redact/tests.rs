#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::{REDACTED, RedactionCount, Redactor, Scrubber};

const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b' ');

type Encoding = (&'static str, fn(&[u8]) -> Vec<u8>);

/// Encodings that hold for any bytes.
const OF_BYTES: &[Encoding] = &[
    ("verbatim", |s| s.to_vec()),
    ("percent, reserved", |s| percent_encode(s, NON_ALPHANUMERIC).to_string().into()),
    ("percent, all, lower", |s| each(s, |b| format!("%{b:02x}"))),
    ("percent, all, upper", |s| each(s, |b| format!("%{b:02X}"))),
    ("percent, twice", |s| percent_encode(&percent(s), NON_ALPHANUMERIC).to_string().into()),
    ("percent, three times", |s| percent_encode(&percent(&percent(s)), NON_ALPHANUMERIC).to_string().into()),
    ("form", |s| percent_encode(s, FORM).to_string().replace(' ', "+").into()),
    ("base64", |s| STANDARD.encode(s).into()),
    ("base64, no padding", |s| STANDARD_NO_PAD.encode(s).into()),
    ("base64url", |s| URL_SAFE.encode(s).into()),
    ("base64url, no padding", |s| URL_SAFE_NO_PAD.encode(s).into()),
    ("base64, second place", |s| STANDARD.encode([b"u", s, b"z"].concat()).into()),
    ("base64, third place", |s| STANDARD.encode([b"u:", s, b"zz"].concat()).into()),
    ("base64, folded at 60 LF", |s| fold(&STANDARD.encode([b"u:", s, s].concat()), 60, "\n")),
    ("base64, folded at 64 CR LF", |s| fold(&STANDARD.encode([b"u:", s, s].concat()), 64, "\r\n")),
    ("base64, folded at 76, indented", |s| fold(&STANDARD.encode([b"u", s, s].concat()), 76, "\r\n        ")),
    ("base64, folded at 4", |s| fold(&STANDARD.encode(s), 4, "\n")),
    ("base64, folded, in JSON", |s| json(&fold(&STANDARD.encode(s), 20, "\n"))),
    ("base64, in JSON, slashes escaped", |s| STANDARD.encode(s).replace('/', "\\/").into()),
    ("base64, in a query", |s| percent(STANDARD.encode(s).as_bytes())),
    ("base64, in HTML", |s| STANDARD.encode(s).replace('+', "&#43;").into()),
    ("hex, lower", |s| hex::encode(s).into()),
    ("hex, upper", |s| hex::encode_upper(s).into()),
    ("hex, colons", |s| each(s, |b| format!("{b:02x}:"))),
    ("hex, dashes", |s| each(s, |b| format!("{b:02X}-"))),
    ("hex, spaces", |s| each(s, |b| format!("{b:02x} "))),
    ("hex, as in C", |s| each(s, |b| format!("0x{b:02x}, "))),
    ("hex, folded", |s| fold(&hex::encode(s), 32, "\n")),
    ("string escapes, hex", |s| each(s, |b| format!("\\x{b:02x}"))),
    ("string escapes, octal", |s| each(s, |b| format!("\\{b:03o}"))),
    ("numbers", |s| format!("{s:?}").replace(' ', "").into()),
    ("numbers, with spaces", |s| format!("{s:?}").into()),
    ("quoted-printable", |s| each(s, |b| format!("={b:02X}"))),
    ("quoted-printable, folded", |s| fold(&String::from_utf8(each(s, |b| format!("={b:02X}"))).unwrap(), 75, "=\r\n")),
];

/// Encodings that hold for text.
const OF_TEXT: &[Encoding] = &[
    ("JSON", json),
    ("JSON in JSON", |s| json(&json(s))),
    ("JSON in JSON in JSON", |s| json(&json(&json(s)))),
    ("JSON, all escaped", |s| utf16(s, |unit| format!("\\u{unit:04x}").into())),
    ("JSON, all escaped, upper", |s| utf16(s, |unit| format!("\\u{unit:04X}").into())),
    ("JSON, all escaped, in JSON", |s| utf16(s, |unit| format!("\\\\u{unit:04x}").into())),
    ("JSON, solidus escaped", |s| String::from_utf8(json(s)).unwrap().replace('/', "\\/").into()),
    ("JSON, not ASCII escaped", |s| {
        utf16(s, |unit| match u8::try_from(unit) {
            Ok(b @ (b'"' | b'\\')) => vec![b'\\', b],
            Ok(b) if b.is_ascii() => vec![b],
            _ => format!("\\u{unit:04x}").into(),
        })
    }),
    ("HTML, named", |s| {
        let text = String::from_utf8_lossy(s);
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        text.replace('"', "&quot;").replace('\'', "&apos;").replace('=', "&equals;").replace('+', "&plus;").into()
    }),
    ("HTML, decimal", |s| chars(s, |c| format!("&#{};", u32::from(c)))),
    ("HTML, hexadecimal", |s| chars(s, |c| format!("&#x{:X};", u32::from(c)))),
    ("HTML in HTML", |s| chars(s, |c| format!("&amp;#{};", u32::from(c)))),
    ("UTF-16LE", |s| utf16(s, |unit| unit.to_le_bytes().into())),
    ("UTF-16BE", |s| utf16(s, |unit| unit.to_be_bytes().into())),
];

fn each(secret: &[u8], form: impl Fn(u8) -> String) -> Vec<u8> {
    secret.iter().map(|byte| form(*byte)).collect::<String>().into()
}

fn chars(secret: &[u8], form: impl Fn(char) -> String) -> Vec<u8> {
    std::str::from_utf8(secret).unwrap().chars().map(form).collect::<String>().into()
}

fn utf16(secret: &[u8], form: impl Fn(u16) -> Vec<u8>) -> Vec<u8> {
    std::str::from_utf8(secret).unwrap().encode_utf16().flat_map(form).collect()
}

fn percent(secret: &[u8]) -> Vec<u8> {
    percent_encode(secret, NON_ALPHANUMERIC).to_string().into()
}

fn json(secret: &[u8]) -> Vec<u8> {
    let text = serde_json::to_string(std::str::from_utf8(secret).unwrap()).unwrap();
    text[1..text.len() - 1].into()
}

fn fold(text: &str, width: usize, end: &str) -> Vec<u8> {
    text.as_bytes().chunks(width).collect::<Vec<_>>().join(end.as_bytes())
}

fn redactor(secrets: &[&[u8]]) -> (Arc<Redactor>, RedactionCount) {
    let count = RedactionCount::default();
    let secrets: Vec<_> = secrets.iter().map(|secret| Arc::new(Zeroizing::new(secret.to_vec()))).collect();
    (Arc::new(Redactor::new(&secrets, count.clone())), count)
}

/// What comes out when `text` arrives in chunks of these sizes, over and over.
fn stream(redactor: &Arc<Redactor>, text: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut scrubber = Scrubber::new(redactor.clone());
    let (mut rest, mut out) = (text, Vec::new());
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at((*size).min(rest.len()));
        rest = after;
        out.extend_from_slice(&scrubber.push(Bytes::copy_from_slice(chunk)));
    }
    out.extend_from_slice(&scrubber.finish());
    out
}

fn around(before: &[u8], encoded: &[u8], after: &[u8]) -> Vec<u8> {
    [before, encoded, after].concat()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Sends `secret` through every encoding, with something around it, and asks that it is gone.
fn check(encodings: &[Encoding], secret: &[u8], before: &[u8], after: &[u8], sizes: &[usize]) {
    let (redactor, count) = redactor(&[secret]);
    for (name, encode) in encodings {
        let counted = count.get();
        let encoded = encode(secret);
        let text = around(before, &encoded, after);
        let out = redactor.bytes(&text).into_owned();
        let shown = String::from_utf8_lossy(&out);
        assert!(!contains(&out, &encoded), "{name}: {shown}");
        assert!(!contains(&out, secret), "{name}: {shown}");
        assert!(contains(&out, REDACTED), "{name}: {shown}");
        assert_eq!(stream(&redactor, &text, sizes), out, "{name}, in chunks of {sizes:?}: {shown}");
        assert!(count.get() >= counted + 2, "{name}");
    }
}

fn any_bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    // Half of it looks like the text of a response, half is anything.
    prop_oneof![
        "[ -~\\r\\n]{0,40}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..most),
        "[%\\\\&=+u0-9a-f#;x25amp]{0,12}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn token_is_found_in_every_encoding_between_anything_in_any_chunks(
        secret in "[A-Za-z0-9._~+/=-]{8,120}",
        before in any_bytes(40),
        after in any_bytes(40),
        sizes in proptest::collection::vec(1_usize..50, 1..8),
    ) {
        check(OF_BYTES, secret.as_bytes(), &before, &after, &sizes);
        check(OF_TEXT, secret.as_bytes(), &before, &after, &sizes);
    }

    #[test]
    fn password_is_found_in_every_encoding_between_anything_in_any_chunks(
        secret in "[ -~]{8,40}",
        before in any_bytes(40),
        after in any_bytes(40),
        sizes in proptest::collection::vec(1_usize..50, 1..8),
    ) {
        check(OF_BYTES, secret.as_bytes(), &before, &after, &sizes);
        check(OF_TEXT, secret.as_bytes(), &before, &after, &sizes);
    }

    #[test]
    fn password_in_any_script_is_found_in_every_encoding(
        secret in "[a-zà-ÿа-я一-龥😀-😏]{8,20}",
        sizes in proptest::collection::vec(1_usize..50, 1..8),
    ) {
        check(OF_BYTES, secret.as_bytes(), b"{\"x\":\"", b"\"}", &sizes);
        check(OF_TEXT, secret.as_bytes(), b"{\"x\":\"", b"\"}", &sizes);
    }

    #[test]
    fn key_of_any_bytes_is_found_in_every_encoding_of_bytes(
        secret in proptest::collection::vec(any::<u8>(), 8..64),
        sizes in proptest::collection::vec(1_usize..50, 1..8),
    ) {
        check(OF_BYTES, &secret, b"x", b"y", &sizes);
    }

    #[test]
    fn text_without_the_secret_passes_unchanged_in_any_chunks(
        secret in "[A-Za-z0-9._~+/=-]{8,80}",
        text in proptest::collection::vec(any_bytes(400), 1..8),
        sizes in proptest::collection::vec(1_usize..50, 1..8),
    ) {
        let text = text.concat();
        let (redactor, count) = redactor(&[secret.as_bytes()]);
        prop_assert_eq!(redactor.bytes(&text).into_owned(), text.clone());
        prop_assert_eq!(stream(&redactor, &text, &sizes), text);
        prop_assert_eq!(count.get(), 0);
    }

    #[test]
    fn secret_with_one_character_changed_passes_unchanged(
        // No character of an escape, which may stand for itself as well.
        secret in "[g-tvwyz]{8,60}",
        at in any::<prop::sample::Index>(),
    ) {
        let mut other = secret.clone().into_bytes();
        let at = at.index(other.len());
        other[at] = if other[at] == b'-' { b'.' } else { b'-' };
        let (redactor, _) = redactor(&[secret.as_bytes()]);
        for (name, encode) in OF_BYTES.iter().chain(OF_TEXT) {
            let encoded = encode(&other);
            prop_assert_eq!(redactor.bytes(&encoded).into_owned(), encoded.clone(), "{}", name);
        }
    }
}

const TOKEN: &[u8] = b"gho_canary0Token+with/all=Kinds_of~chars";

#[test]
fn each_encoding_is_replaced_as_a_whole() {
    for (name, encode) in OF_BYTES.iter().chain(OF_TEXT) {
        // These hold something else beside the secret, or end with a separator.
        if name.contains("folded at 6")
            || name.contains("folded at 76")
            || name.contains("place")
            || matches!(*name, "hex, colons" | "hex, dashes" | "hex, spaces" | "hex, as in C" | "UTF-16LE" | "UTF-16BE")
        {
            continue;
        }
        let (redactor, count) = redactor(&[TOKEN]);
        let text = around(b"<", &encode(TOKEN), b">");
        let out = String::from_utf8(redactor.bytes(&text).into_owned()).unwrap();
        let out = out.replace(['[', ']', '='], "").replace("%3D", "");
        assert!(matches!(out.as_str(), "<redacted>" | "<0xredacted>"), "{name}: {out}");
        assert_eq!(count.get(), 1, "{name}");
    }
}

#[test]
fn secret_cut_at_every_place_is_found() {
    let (redactor, _) = redactor(&[TOKEN]);
    for (name, encode) in OF_BYTES.iter().chain(OF_TEXT) {
        let text = around(b"before ", &encode(TOKEN), b" after");
        let whole = redactor.bytes(&text).into_owned();
        for cut in 1..text.len() {
            assert_eq!(stream(&redactor, &text, &[cut, text.len()]), whole, "{name}, cut at {cut}");
        }
        assert_eq!(stream(&redactor, &text, &[1]), whole, "{name}, byte by byte");
    }
}

#[test]
fn every_occurrence_of_every_secret_is_replaced_and_counted() {
    let (redactor, count) = redactor(&[b"canary-one", b"canary-two-longer", b"short"]);
    let text = "canary-one canary-one, canary-two-longer; short Canary-Two-Longer canary-onecanary-one";
    let clean = redactor.text(text.to_owned());
    assert_eq!(clean, "[redacted] [redacted], [redacted]; short [redacted] [redacted][redacted]");
    assert_eq!(count.get(), 6);
}

#[test]
fn longer_of_two_secrets_that_begin_alike_is_taken_whole() {
    let (redactor, _) = redactor(&[b"canary-token", b"canary-token-and-more"]);
    assert_eq!(redactor.text("x canary-token-and-more y".to_owned()), "x [redacted] y");
    assert_eq!(stream(&redactor, b"x canary-token-and-more y", &[15]), b"x [redacted] y");
    assert_eq!(stream(&redactor, b"x canary-token-and-less y", &[15]), b"x [redacted]-and-less y");
}

#[test]
fn beginning_of_a_secret_is_held_back_and_given_at_the_end() {
    let (redactor, count) = redactor(&[TOKEN]);
    let mut scrubber = Scrubber::new(redactor);
    let part = Bytes::copy_from_slice(&[b"text ".as_slice(), &TOKEN[..20]].concat());
    assert_eq!(scrubber.push(part), "text ");
    assert_eq!(scrubber.finish(), &TOKEN[..20]);
    assert_eq!(count.get(), 0);
}

#[test]
fn clean_chunk_is_handed_on_without_a_copy() {
    let (redactor, _) = redactor(&[TOKEN]);
    let mut scrubber = Scrubber::new(redactor);
    let chunk = Bytes::from("{\"items\":[1,2,3]}\n".repeat(1000));
    let out = scrubber.push(chunk.clone());
    assert_eq!((out.as_ptr(), out.len()), (chunk.as_ptr(), chunk.len()));
}

#[test]
fn what_is_held_back_is_bounded_whatever_the_server_sends() {
    let (redactor, _) = redactor(&[TOKEN]);
    let mut scrubber = Scrubber::new(redactor);
    let (mut sent, mut received) = (0, 0);
    // The token's first half, drawn out with line ends and escapes as far as they are followed.
    let mut text = Vec::new();
    for byte in &TOKEN[..30] {
        text.extend_from_slice(format!("%25252525{byte:02x}\r\n\r\n\r\n\r\n\r\n\r\n").as_bytes());
    }
    for chunk in text.chunks(7).cycle().take(5_000) {
        sent += chunk.len();
        received += scrubber.push(Bytes::copy_from_slice(chunk)).len();
        assert!(sent - received <= 96 + 24 * 4 * TOKEN.len() + 96, "{} bytes are held back", sent - received);
    }
}

#[test]
fn text_stays_text_where_a_secret_is_taken_out() {
    let (redactor, _) = redactor(&["schlüssel-canary".as_bytes()]);
    assert_eq!(redactor.text("ä schlüssel-canary ö".to_owned()), "ä [redacted] ö");
}
