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

use super::{
    REDACTED, RedactionCount, Redactor, Scrubber,
    pattern::{Pattern, Room},
};

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
    ("hex, tabs", |s| joined(s, "\t", |b| format!("{b:02x}"))),
    ("hex, underscores", |s| joined(s, "_", |b| format!("{b:02x}"))),
    ("hex, quoted", |s| joined(s, ",", |b| format!("\"{b:02x}\""))),
    ("hex, quoted, in JSON, a pair a line", |s| joined(s, ",\n    ", |b| format!("\\\"0x{b:02x}\\\""))),
    ("hex, folded", |s| fold(&hex::encode(s), 32, "\n")),
    ("string escapes, hex", |s| each(s, |b| format!("\\x{b:02x}"))),
    ("string escapes, hex in braces", |s| each(s, |b| format!("\\x{{{b:02x}}}"))),
    ("string escapes, octal", |s| each(s, |b| format!("\\{b:03o}"))),
    ("numbers", |s| format!("{s:?}").replace(' ', "").into()),
    ("numbers, with spaces", |s| format!("{s:?}").into()),
    ("numbers, as Go prints them", |s| joined(s, " ", |b| b.to_string())),
    ("numbers, a number a line", |s| joined(s, "\n", |b| b.to_string())),
    ("numbers, in columns", |s| joined(s, " ", |b| format!("{b:>3}"))),
    ("numbers, indented by 32", |s| joined(s, &format!(",\r\n{:32}", ""), |b| b.to_string())),
    ("base64, folded, a space after", |s| fold(&STANDARD.encode(s), 20, "\n ")),
    ("base64 of base64", |s| STANDARD.encode(STANDARD.encode(s)).into()),
    ("base64 of base64, no padding", |s| STANDARD_NO_PAD.encode(STANDARD_NO_PAD.encode(s)).into()),
    ("base64 of base64, second place", |s| STANDARD.encode([b"u", STANDARD.encode(s).as_bytes()].concat()).into()),
    ("base32", |s| base32(s).into()),
    ("base32, lower", |s| base32(s).to_ascii_lowercase().into()),
    ("base32, second place", |s| base32(&[b"u", s, b"z"].concat()).into()),
    ("base32, third place", |s| base32(&[b"uu", s].concat()).into()),
    ("base32, fourth place", |s| base32(&[b"uuu", s, b"z"].concat()).into()),
    ("base32, fifth place, folded", |s| fold(&base32(&[b"uuuu", s, b"zz"].concat()), 8, "\n")),
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
    ("string escapes, eight digits", |s| chars(s, |c| format!("\\U{:08X}", u32::from(c)))),
    ("string escapes, code point in braces", |s| chars(s, |c| format!("\\x{{{:x}}}", u32::from(c)))),
    ("UTF-8 that was read as Latin-1", |s| s.iter().map(|byte| char::from(*byte)).collect::<String>().into()),
    ("UTF-8 that was read as Latin-1, in JSON", |s| each(s, |byte| format!("\\u{byte:04x}"))),
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

fn joined(secret: &[u8], between: &str, form: impl Fn(u8) -> String) -> Vec<u8> {
    secret.iter().map(|byte| form(*byte)).collect::<Vec<_>>().join(between).into()
}

fn base32(bytes: &[u8]) -> String {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let groups: Vec<_> = bits.as_bytes().chunks(5).collect();
    let character = |group: &&[u8]| {
        let value = group.iter().chain(b"0000").take(5).fold(0, |value, bit| value << 1 | (bit - b'0'));
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[usize::from(value)])
    };
    groups.iter().map(character).chain("=".repeat((8 - groups.len() % 8) % 8).chars()).collect()
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
    given(redactor, text, sizes).concat()
}

/// As [`stream`], chunk by chunk.
fn given(redactor: &Arc<Redactor>, text: &[u8], sizes: &[usize]) -> Vec<Bytes> {
    let mut scrubber = Scrubber::new(redactor.clone());
    let (mut rest, mut out) = (text, Vec::new());
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at((*size).min(rest.len()));
        rest = after;
        out.push(scrubber.push(chunk));
    }
    out.push(scrubber.finish());
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
    fn sizes_of_chunks_tell_nothing_of_a_part_of_the_secret(
        secret in "[ -~]{8,60}",
        form in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        before in any_bytes(6000),
        after in any_bytes(6000),
        sizes in proptest::collection::vec(1_usize..3000, 1..8),
    ) {
        let (redactor, count) = redactor(&[secret.as_bytes()]);
        let forms: Vec<_> = OF_BYTES.iter().chain(OF_TEXT).collect();
        let encoded = form.get(&forms).1(secret.as_bytes());
        let guess = around(&before, &encoded[..cut.index(encoded.len())], &after);
        let lengths = |text: &[u8]| given(&redactor, text, &sizes).iter().map(Bytes::len).collect::<Vec<_>>();
        let of_guess = lengths(&guess);
        // The cut may have taken a padding or separator only.
        prop_assume!(count.get() == 0);
        prop_assert_eq!(of_guess, lengths(&vec![b'-'; guess.len()]));
    }

    #[test]
    fn secret_with_one_character_changed_passes_unchanged(
        // No character of an escape, which may stand for itself as well.
        secret in "[g-tvwyz]{8,60}",
        at in any::<prop::sample::Index>(),
    ) {
        let mut other = secret.clone().into_bytes();
        let at = at.index(other.len());
        // Its lower four bits are those of no character of the secret. The upper ones of the first may stand in a character
        // that is not compared.
        other[at] = b'5';
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
            || matches!(*name, "hex, quoted" | "hex, quoted, in JSON, a pair a line" | "base64 of base64")
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
fn bits_of_the_secret_in_the_character_before_are_taken_too() {
    let (redactor, count) = redactor(&[TOKEN]);
    for place in 0..5 {
        for (encoded, width) in [
            (STANDARD_NO_PAD.encode([&b"u".repeat(place), TOKEN].concat()), 6),
            (base32(&[&b"u".repeat(place), TOKEN].concat()), 5),
        ] {
            let whole = &encoded[..8 * place / width];
            let clean = redactor.text(encoded.clone());
            assert_eq!(clean.trim_end_matches('='), format!("{whole}[redacted]"), "{encoded}");
            for cut in 1..encoded.len() {
                assert_eq!(stream(&redactor, encoded.as_bytes(), &[cut, encoded.len()]), clean.as_bytes());
            }
        }
    }
    assert!(count.get() > 0);
}

#[test]
fn beginning_of_a_secret_is_given_at_the_end_of_the_body() {
    let (redactor, count) = redactor(&[TOKEN]);
    let mut scrubber = Scrubber::new(redactor);
    assert_eq!(scrubber.push(b"text "), "");
    assert_eq!(scrubber.push(&TOKEN[..20]), "");
    assert_eq!(scrubber.finish(), [b"text ", &TOKEN[..20]].concat());
    assert_eq!(count.get(), 0);
}

#[test]
fn run_of_hexadecimal_prefixes_is_not_followed_to_its_end() {
    let token = [b"eyJ".as_slice(), &[b'x'; 1_800]].concat();
    let [hex, ..] = &Pattern::all(&Arc::new(Zeroizing::new(token)))[1..] else { panic!() };
    let text = ["65", &"0x".repeat(40_000)].concat();
    let mut room = Room::default();
    assert_eq!(hex.find(text.as_bytes(), &mut room), None);
    assert!(room.most_places() < 200, "{} places", room.most_places());
}

#[test]
fn as_much_is_held_back_whatever_the_server_sends() {
    let (redactor, _) = redactor(&[TOKEN]);
    // The token's first half, drawn out with line ends and escapes as far as they are followed.
    let mut drawn_out = Vec::new();
    for byte in &TOKEN[..30] {
        drawn_out.extend_from_slice(format!("%25252525{byte:02x}\r\n\r\n\r\n\r\n\r\n\r\n").as_bytes());
    }
    for text in [drawn_out.as_slice(), b"{\"items\":[1,2,3]}\n", &TOKEN[..39], b"\\\\\\\\", b"\n"] {
        let mut scrubber = Scrubber::new(redactor.clone());
        let (mut sent, mut received) = (0, 0);
        for chunk in text.repeat(5_000 / text.len() + 1).chunks(7) {
            sent += chunk.len();
            received += scrubber.push(chunk).len();
            assert_eq!(sent - received, sent.min(2817), "{}", String::from_utf8_lossy(text));
        }
    }
}

#[test]
fn text_stays_text_where_a_secret_is_taken_out() {
    let (redactor, _) = redactor(&["schlüssel-canary".as_bytes()]);
    assert_eq!(redactor.text("ä schlüssel-canary ö".to_owned()), "ä [redacted] ö");
}

/// The escape of the fold could be the secret's own, and then no line would end before the tab.
#[test]
fn secret_with_an_escape_of_its_own_is_found_where_its_line_is_folded() {
    let (redactor, _) = redactor(&[br"canary-3$Z)\nAQlf"]);
    assert_eq!(*redactor.bytes(b"a canary-3$Z)\\n\\r\\n\tAQlf b"), *b"a [redacted] b");
}
