//! One connector whose every action is an attack on the host or on the credential. The acceptance tests run it and
//! look at what came of it. Refused requests are told as data, so that a test sees what the guest saw.
//!
//! It exists as a guest only: half of it is about a guest's own memory and handles.
#![cfg(target_arch = "wasm32")]

mod ends;
mod memory;
mod requests;
mod resources;
mod streams;

use ends::{big_output, fail, panic, raw_output, wrong_output};
use memory::search_memory;
use requests::{
    any_request, assemble, follow_redirects, forge_handle, forge_header, many_requests, no_request, scoped_request,
};
use resources::{flood_log, hoard_memory, recurse, spin, take_random, wait};
use streams::{hoard_exchanges, misuse_exchange, slow_loris, stream_down, stream_up};

keyward::connector!(
    any_request,
    scoped_request,
    no_request,
    search_memory,
    assemble,
    forge_header,
    follow_redirects,
    many_requests,
    stream_up,
    stream_down,
    slow_loris,
    misuse_exchange,
    hoard_exchanges,
    forge_handle,
    spin,
    wait,
    hoard_memory,
    recurse,
    take_random,
    flood_log,
    panic,
    fail,
    big_output,
    raw_output,
    wrong_output,
);
