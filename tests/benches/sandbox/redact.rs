//! The search for secrets in what comes back: bytes a second on one core, and what its tables cost for each request.

use std::{hint::black_box, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use keyward_vault::{RedactionCount, Redactor, Scrubber};
use rustix::time::{ClockId, clock_gettime};
use zeroize::Zeroizing;

use crate::{load, stack};

/// What the wire gives at once.
const CHUNK: usize = 16 << 10;
const BODY: usize = 16 << 20;
const ROUNDS: usize = 9;

pub(crate) fn measure() {
    println!("## Search for secrets, median of {ROUNDS} rounds over {} MiB", BODY >> 20);
    for (name, secrets) in secrets() {
        let tables = || Arc::new(Redactor::new(&secrets, RedactionCount::default()));
        let build = load::median((0..ROUNDS).map(|_| micros(100, || drop(black_box(tables())))).collect());
        println!("{name}: tables {build:.1} µs");
        for (name, body) in bodies() {
            let redactor = tables();
            let rounds = (0..ROUNDS).map(|_| micros(1, || scrub(&redactor, &body))).collect();
            let seconds = load::median(rounds) / 1e6;
            println!("  {name:<24} {:>6.2} GiB/s", body.len() as f64 / seconds / f64::from(1 << 30));
        }
    }
}

/// Of processor time, so that what else runs does not count.
fn micros(times: u32, mut work: impl FnMut()) -> f64 {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
    };
    let start = now();
    (0..times).for_each(|_| work());
    (now() - start) / f64::from(times)
}

fn scrub(redactor: &Arc<Redactor>, body: &[u8]) {
    let mut scrubber = Scrubber::new(Arc::clone(redactor));
    for chunk in body.chunks(CHUNK) {
        black_box(scrubber.push(chunk));
    }
    black_box(scrubber.finish());
}

type Secrets = Vec<Arc<Zeroizing<Vec<u8>>>>;

/// As they stand in a request.
fn secrets() -> [(&'static str, Secrets); 2] {
    let of = |texts: &[&str]| texts.iter().map(|text| Arc::new(Zeroizing::new(text.as_bytes().to_vec()))).collect();
    let pair = "canary-user@example.com:canary-Passw0rd+/=%";
    [
        ("bearer token of 40 bytes", of(&["gho_canary16C7e42F292c6912E7710c838347Ae1"])),
        ("Basic: password, pair, encoded", of(&["canary-Passw0rd+/=%", pair, &STANDARD.encode(pair)])),
    ]
}

/// Bodies without a secret in them.
fn bodies() -> [(&'static str, Vec<u8>); 5] {
    let issues = stack::issues().to_string();
    let quoted = serde_json::Value::String(issues.clone()).to_string();
    let links = "<li><a href=\"https://example.com/a?q=%2Fx%20y&amp;page=2\">gho &#39;canary&#39;</a></li>\r\n";
    let noise = noise();
    [
        ("JSON of an API", repeated(issues.as_bytes())),
        ("JSON within a string", repeated(quoted.as_bytes())),
        ("HTML with escapes", repeated(links.as_bytes())),
        ("base64", STANDARD.encode(&noise[..BODY / 4 * 3]).into_bytes()),
        ("any bytes", noise),
    ]
}

fn repeated(text: &[u8]) -> Vec<u8> {
    text.iter().copied().cycle().take(BODY).collect()
}

/// The same at each run (xorshift64*).
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let word = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    };
    std::iter::repeat_with(word).flatten().take(BODY).collect()
}
