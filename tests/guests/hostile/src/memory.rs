//! Looking for a secret in one's own memory.

use core::arch::wasm32::memory_size;

use keyward::prelude::*;

use crate::requests::{AnyRequest, Outcome, send};

/// What to look for. The values come masked, so that the input is not what is found.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct SearchMemory {
    /// The requests to send before.
    requests: Vec<AnyRequest>,
    /// The values, each byte combined with `mask` by exclusive or.
    masked: Vec<Vec<u8>>,
    /// The mask; not 0.
    #[schemars(range(min = 1))]
    mask: u8,
}

/// What was found.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Found {
    /// How often each value is in memory.
    counts: Vec<u32>,
    /// How much memory was searched, bytes.
    searched: usize,
    /// How the requests ended.
    outcomes: Vec<Outcome>,
}

/// Sends requests, keeps what came back, and searches all of its memory.
#[action]
pub(crate) fn search_memory(input: SearchMemory, connection: &Connection) -> Result<Found> {
    let outcomes = input.requests.into_iter().map(|request| send(request, connection)).collect();
    let searched = memory_size::<0>() * (64 << 10);
    let counts = input.masked.iter().map(|masked| count(searched, masked, input.mask)).collect();
    Ok(Found { counts, searched, outcomes })
}

/// How often the value is in the first `size` bytes of memory. It is never put together: the comparison unmasks one
/// byte at a time, in a register.
fn count(size: usize, masked: &[u8], mask: u8) -> u32 {
    let Some(last) = size.checked_sub(masked.len()).filter(|_| !masked.is_empty()) else { return 0 };
    // SAFETY: the address is below the memory's size. Reading as volatile, what the compiler thinks of the memory's
    // owner does not matter, and address 0 is as good as any.
    let byte = |address: usize| unsafe { core::ptr::read_volatile(address as *const u8) };
    let here = |start: usize| masked.iter().enumerate().all(|(at, masked)| byte(start + at) ^ mask == *masked);
    (1..=last).filter(|start| here(*start)).count() as u32
}
