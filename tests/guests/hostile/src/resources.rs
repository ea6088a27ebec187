//! Time, memory, stack, chance and log without measure.

use std::{hint::black_box, time::Duration};

use keyward::{bindings::keyward::connector as wire, clock, prelude::*};

/// Nothing.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Nothing {}

/// Computes for ever.
#[action]
pub(crate) fn spin(_: Nothing) -> Result<()> {
    let mut state = 1_u64;
    loop {
        state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

/// How long.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Wait {
    /// Milliseconds.
    ms: u64,
}

/// How long it was.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Waited {
    /// How often the time was asked for.
    asked: u64,
    /// Whether the clock ever went back.
    went_back: bool,
}

/// Asks for the time until so much of it has passed: each question is a call of the host.
#[action]
pub(crate) fn wait(input: Wait) -> Result<Waited> {
    let (asked, went_back) = busy(input.ms);
    Ok(Waited { asked, went_back })
}

pub(crate) fn busy(ms: u64) -> (u64, bool) {
    let end = clock::monotonic() + Duration::from_millis(ms);
    let (mut last, mut asked, mut went_back) = (Duration::ZERO, 0, false);
    while last < end {
        let now = clock::monotonic();
        went_back |= now < last;
        last = now;
        asked += 1;
    }
    (asked, went_back)
}

/// How much memory.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct HoardMemory {
    /// Bytes at once.
    #[schemars(range(min = 1))]
    chunk: usize,
    /// Bytes in all; without end where it is left out.
    total: Option<usize>,
}

/// Takes memory and touches all of it; how much it got.
#[action]
pub(crate) fn hoard_memory(input: HoardMemory) -> Result<usize> {
    let (mut held, mut bytes) = (Vec::new(), 0);
    while input.total.is_none_or(|total| bytes < total) {
        held.push(black_box(vec![0xa5_u8; input.chunk]));
        bytes += input.chunk;
    }
    Ok(bytes)
}

/// Calls itself for ever.
#[action]
pub(crate) fn recurse(_: Nothing) -> Result<u64> {
    #[expect(unconditional_recursion, reason = "it is the attack")]
    fn deeper(depth: u64) -> u64 {
        let frame = black_box([depth; 64]);
        deeper(depth + 1) + frame[depth as usize % 64]
    }
    Ok(deeper(0))
}

/// How many.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct TakeRandom {
    /// How many bytes at once.
    count: u32,
}

/// Asks for more random bytes than the host gives at once; how many it got.
#[action]
pub(crate) fn take_random(input: TakeRandom) -> Result<usize> {
    Ok(wire::random::bytes(input.count).len())
}

/// What to log.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct FloodLog {
    /// The line, one number a byte; it need not be text.
    line: Vec<u8>,
    /// How often.
    times: u32,
}

/// Writes any bytes into the log, any number of times.
#[action]
pub(crate) fn flood_log(input: FloodLog) -> Result<()> {
    // SAFETY: it need not be text, which is the attack; nothing here looks at it.
    let line = unsafe { str::from_utf8_unchecked(&input.line) };
    for _ in 0..input.times {
        wire::log::write(wire::log::Level::Info, line);
    }
    Ok(())
}
