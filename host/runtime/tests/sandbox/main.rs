//! The sandbox as its callers see it: guests in WebAssembly text, a fake catalog and a fake way out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod fixture;
mod guest;
mod limits;
mod requests;
mod streams;
mod wasi;
