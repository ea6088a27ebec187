//! How much of a request the host keeps for a guest before it is sent.
//!
//! A resource takes the host some hundred bytes as a rule, and a call may hold [`MAX_RESOURCES`] of them. Not so
//! headers, requests and bodies: what `wasmtime_wasi_http` keeps of them is as large as the guest likes, or at most a
//! hundred kilobytes each. Those functions of `wasi:http/types` that make one or fill it stand here, in front of its own.
//!
//! [`MAX_RESOURCES`]: crate::call::MAX_RESOURCES

use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi_http::{
    WasiHttpView,
    p2::{
        bindings::http::types::{HostOutgoingRequest, Method},
        types,
    },
};

use crate::call::CallState;

/// The interface as `wasmtime_wasi_http` adds it. With another version these functions would stand beside its own.
const TYPES: &str = "wasi:http/types@0.2.12";
/// The longest method, bytes. It is more than the way out lets through.
const MAX_METHOD: usize = 64;
/// The longest authority, bytes; a name of a host has at most 253.
const MAX_AUTHORITY: usize = 1 << 10;

type State<'a> = StoreContextMut<'a, CallState>;
type Request = Resource<types::HostOutgoingRequest>;

/// Puts the functions in the place of those that `wasmtime_wasi_http` has added.
pub(super) fn link(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES)?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: State<'_>, (request, method): (Request, Method)| {
            let fits = !matches!(&method, Method::Other(name) if name.len() > MAX_METHOD);
            Ok((if fits { store.data_mut().http().set_method(request, method)? } else { Err(()) },))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: State<'_>, (request, authority): (Request, Option<String>)| {
            let fits = authority.as_ref().is_none_or(|authority| authority.len() <= MAX_AUTHORITY);
            Ok((if fits { store.data_mut().http().set_authority(request, authority)? } else { Err(()) },))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
