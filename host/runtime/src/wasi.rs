//! WASI 0.2 for components that other tools made, and as little of it as they can start with.
//!
//! They get clocks, random bytes, an empty environment, no arguments, no files, an empty standard input, and
//! standard output and error that go to the call's log by lines. Requests go out by `wasi:http` as they do by the
//! contract's own connection: see `http`. Sockets and name look-up are not linked: a component that imports them can
//! be loaded, and a call of one ends the call.

mod http;
mod unsent;

pub(crate) use self::http::OutgoingHttp;

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::{
    Engine,
    component::{Component, Linker, LinkerInstance, ResourceType, types::ComponentItem},
};
use wasmtime_wasi::{
    WasiCtx, WasiCtxView, WasiView,
    cli::{IsTerminal, StdoutStream, WasiCli, WasiCliView},
    filesystem::{WasiFilesystem, WasiFilesystemView},
    p2::{OutputStream, Pollable, StreamResult, bindings},
    random::{WasiRandom, WasiRandomView},
};

use crate::{
    call::{CallState, lock},
    log::{CallLog, Stream},
};

/// The most random bytes that one call of WASI gives; it allocates them in the host.
const MAX_RANDOM: u64 = 1 << 20;
/// The most bytes that one write to standard output may have; the guest is told so and splits.
const WRITE_PERMIT: usize = 64 << 10;

/// The guest called a function that the sandbox does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the guest called {function}, and a connector has no sockets and no name look-up: it sends requests with its connection"
)]
pub(crate) struct SocketsDenied {
    function: String,
}

/// Adds what a WASI guest gets.
pub(crate) fn link(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    use bindings::{cli, filesystem, random};
    type State = CallState;
    // Streams and polling, both clocks, secure random bytes and the three standard streams.
    wasmtime_wasi::p2::add_to_linker_proxy_interfaces_async(linker)?;
    random::insecure::add_to_linker::<State, WasiRandom>(linker, State::random)?;
    random::insecure_seed::add_to_linker::<State, WasiRandom>(linker, State::random)?;
    cli::environment::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    cli::exit::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    cli::terminal_input::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    cli::terminal_output::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    cli::terminal_stdin::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    cli::terminal_stdout::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    cli::terminal_stderr::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    // The interfaces are there because a C library starts with them; without a preopened directory there is
    // no descriptor to begin from.
    filesystem::types::add_to_linker::<State, WasiFilesystem>(linker, State::filesystem)?;
    filesystem::preopens::add_to_linker::<State, WasiFilesystem>(linker, State::filesystem)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    unsent::link(linker)
}

/// Puts a function that ends the call in place of each that `component` imports from `wasi:sockets`.
pub(crate) fn deny_sockets(
    engine: &Engine,
    linker: &mut Linker<CallState>,
    component: &Component,
) -> wasmtime::Result<()> {
    let ty = component.component_type();
    // A resource that an earlier interface defined (such as a pollable) appears again where it is used, and
    // is linked already.
    let mut defined = Vec::new();
    for (name, import) in ty.imports(engine) {
        let ComponentItem::ComponentInstance(interface) = import.ty else { continue };
        let mut stub = if name.starts_with("wasi:sockets/") { Some(linker.instance(name)?) } else { None };
        for (item, export) in interface.exports(engine) {
            match export.ty {
                ComponentItem::Resource(resource) if !defined.contains(&resource) => {
                    defined.push(resource);
                    if let Some(stub) = &mut stub {
                        stub.resource(item, ResourceType::host::<SocketsDenied>(), |_, _| Ok(()))?;
                    }
                }
                ComponentItem::ComponentFunc(_) => {
                    if let Some(stub) = &mut stub {
                        deny(stub, name, item)?;
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn deny(stub: &mut LinkerInstance<'_, CallState>, interface: &str, function: &str) -> wasmtime::Result<()> {
    let denied = SocketsDenied { function: format!("{interface}#{function}") };
    stub.func_new(function, move |_, _, _, _| Err(denied.clone().into()))
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| Box::new(context(&self.log)));
        WasiCtxView { ctx, table: &mut self.table }
    }
}

fn context(log: &Arc<Mutex<CallLog>>) -> WasiCtx {
    // The builder starts with nothing: no environment, arguments, directories, standard streams or network.
    WasiCtx::builder()
        .stdout(LogStream { log: log.clone(), stream: Stream::Out })
        .stderr(LogStream { log: log.clone(), stream: Stream::Err })
        .max_random_size(MAX_RANDOM)
        .build()
}

/// Standard output or error of a guest.
#[derive(Clone)]
struct LogStream {
    log: Arc<Mutex<CallLog>>,
    stream: Stream,
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        lock(&self.log).write_bytes(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_PERMIT)
    }
}

impl AsyncWrite for LogStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.log).write_bytes(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
