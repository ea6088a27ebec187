//! How much of a request the host keeps for a guest before it is sent.
//!
//! A resource takes the host some hundred bytes as a rule, and a call may hold [`MAX_RESOURCES`] of them. Not so
//! headers, requests and bodies: what `wasmtime_wasi_http` keeps of them is as large as the guest likes, or at most a
//! hundred kilobytes each. Those functions of `wasi:http/types` that make one or fill it stand here, in front of its own.
//!
//! [`MAX_RESOURCES`]: crate::call::MAX_RESOURCES

use std::any::Any;

use http::{HeaderValue, header::CONTENT_TYPE};
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceTable},
};
use wasmtime_wasi_http::{
    FieldMap, FieldMapError, WasiHttpCtxView, WasiHttpView,
    p2::{
        bindings::http::types::{self, HeaderError, Host, HostFields, Method},
        body::HostOutgoingBody,
        types::{HostOutgoingRequest, HostOutgoingResponse},
    },
};

use super::http::MAX_FIELDS;
use crate::{call::CallState, limits::Breach};

/// The interface as `wasmtime_wasi_http` adds it. With another version these functions would stand beside its own.
const TYPES: &str = "wasi:http/types@0.2.12";
/// The longest method, bytes. It is more than the way out lets through.
const MAX_METHOD: usize = 64;
/// The longest authority, bytes; a name of a host has at most 253.
const MAX_AUTHORITY: usize = 1 << 10;
/// Headers, requests and bodies that a call may hold at once before they are sent. Each takes the host at most
/// 128 KiB: the headers and the path of a request have 64 KiB each, and so has what waits of a body.
const MAX_UNSENT: usize = 1_024;

type State<'a> = StoreContextMut<'a, CallState>;
type Fields = Resource<FieldMap>;
type Request = Resource<HostOutgoingRequest>;

/// Puts the functions in the place of those that `wasmtime_wasi_http` has added.
pub(super) fn link(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    use types::HostOutgoingRequest as Requests;
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES)?;
    types.func_wrap("[constructor]fields", |mut store: State<'_>, (): ()| {
        Ok((HostFields::new(&mut room(&mut store)?)?,))
    })?;
    types.func_wrap("[static]fields.from-list", |mut store: State<'_>, (list,): (Vec<(String, Vec<u8>)>,)| {
        let mut http = room(&mut store)?;
        let made: Result<Fields, HeaderError> = match http.from_list(list) {
            Ok(fields) => Ok(fields),
            Err(error) => Err(http.convert_header_error(error)?),
        };
        Ok((made,))
    })?;
    types.func_wrap("[method]fields.clone", |mut store: State<'_>, (fields,): (Fields,)| {
        Ok((HostFields::clone(&mut room(&mut store)?, fields)?,))
    })?;
    types.func_wrap("[constructor]outgoing-request", |mut store: State<'_>, (headers,): (Fields,)| {
        Ok((Requests::new(&mut room(&mut store)?, headers)?,))
    })?;
    types.func_wrap("[method]outgoing-request.headers", |mut store: State<'_>, (request,): (Request,)| {
        let mut http = room(&mut store)?;
        let headers = Requests::headers(&mut http, request)?;
        // They may outlive the request. As headers that may change they count as the guest's own, and take no more.
        http.table.get_mut(&headers)?.set_mutable(0);
        Ok((headers,))
    })?;
    types.func_wrap("[method]outgoing-request.body", |mut store: State<'_>, (request,): (Request,)| {
        Ok((Requests::body(&mut room(&mut store)?, request)?,))
    })?;
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
    // It takes as much as a request.
    types.func_wrap(
        "[constructor]outgoing-response",
        |_: State<'_>, (_,): (Fields,)| -> wasmtime::Result<(Resource<HostOutgoingResponse>,)> {
            wasmtime::bail!("it made an outgoing-response, and a connector receives no requests")
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The call's side of `wasi:http`, where one more is not too many.
///
/// What the guest makes is counted, and what it has let go of since is found by looking when the count is full. So
/// there is no function to watch that lets go of one.
fn room<'a>(store: &'a mut State<'_>) -> wasmtime::Result<WasiHttpCtxView<'a>> {
    let state = store.data_mut();
    if state.unsent == MAX_UNSENT {
        state.unsent = held(&mut state.table)? + state.http.as_ref().map_or(0, |http| http.waiting());
    }
    if state.unsent >= MAX_UNSENT {
        let what = "requests, headers and bodies that are not sent";
        return Err(Breach::Held { limit: MAX_UNSENT, what }.into());
    }
    state.unsent += 1;
    Ok(state.http())
}

/// How many the guest holds in its table. Requests that it has handed over may wait beside it.
fn held(table: &mut ResourceTable) -> wasmtime::Result<usize> {
    // No headers take it: those that cannot change, which share those of a response, give another error.
    let too_long = HeaderValue::try_from("x".repeat(MAX_FIELDS))?;
    let is_unsent = |resource: &mut (dyn Any + Send)| {
        resource.is::<HostOutgoingRequest>()
            || resource.is::<HostOutgoingBody>()
            || resource.downcast_mut::<FieldMap>().is_some_and(|fields| {
                fields.append_raw(CONTENT_TYPE, too_long.clone()) != Err(FieldMapError::Immutable)
            })
    };
    Ok(table.iter_mut().filter_map(|resource| is_unsent(resource).then_some(())).count())
}
