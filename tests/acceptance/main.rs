//! The acceptance tests: the `keyward` binary on loopback against real servers. One binary, so that it links once;
//! `tidy` checks that no file here is forgotten.
#![expect(clippy::unwrap_used, clippy::panic_in_result_fn, reason = "a test fails by panicking")]

mod audit;
mod canary;
mod connections;
mod crash;
mod gate;
mod languages;
mod limits;
mod mistakes;
mod plugin;
mod policy;
mod sandbox;
mod signatures;
mod spine;
mod telemetry;
mod tidy;
mod wasi_http;
