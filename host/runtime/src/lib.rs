//! Runs guests in their sandbox.
//!
//! A call names an action; the [`Catalog`] finds its connector, and the [`Runtime`] runs it in a fresh
//! instance: [`wasmtime`] keeps the guest within its memory and processor time, and the only way out is
//! [`keyward_model::Outbound`]. This crate knows neither credentials nor the network.
//!
//! Read in this order: [`invoke`](Runtime) for the way of a call, `engine` for the settings and their
//! reasons, `call`, `host` and `exchange` for what a guest can do, `limits`, `failure` and `backtrace` for how it ends,
//! `cache` and `connectors` for how a component is loaded, `check` and `wasi` for which ones are taken.
//! [`build`] makes components and is not part of a call.
//!
//! Absent: reuse of an instance (a call never sees what another left), files, environment, sockets.

#![expect(clippy::result_large_err, reason = "the port's error ends a call: it is moved a few times at most")]

pub mod build;

mod backtrace;
mod bindings;
mod cache;
mod call;
mod catalog;
mod check;
mod connectors;
mod convert;
mod engine;
mod error;
mod exchange;
mod failure;
mod host;
mod invoke;
mod limits;
mod log;
mod schema;
mod wasi;

pub use catalog::{Catalog, Resolved};
pub use check::check_component;
pub use error::RuntimeError;
pub use invoke::{Runtime, RuntimeConfig};
