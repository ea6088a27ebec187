//! The functions that a guest may call. They convert, count and call [`keyward_model::Outbound`]; nothing
//! is decided here.

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use keyward_model::{Body, GuestRequest, GuestResponse, SendError, Sent};
use wasmtime::component::Resource;

use crate::{
    bindings::v0_1::keyward::connector::{clock, http, log, random},
    call::{CallState, Connection},
    convert,
    exchange::{Exchange, Fault},
};

/// The most random bytes that one call of `random.bytes` gives.
const MAX_RANDOM: u32 = 4_096;

impl CallState {
    /// Sends a request with a whole body and reads the whole response.
    async fn send_whole(&mut self, request: GuestRequest) -> Result<http::Response, SendError> {
        self.usage.request()?;
        if let Body::Bytes(bytes) = &request.body {
            self.usage.sending(bytes.len())?;
        }
        let delivery = self.usage.begin(&request.method);
        let answer = self.meter.pause(self.outbound.send(&self.context, request)).await;
        self.usage.settle(delivery, answer.as_ref().map_or_else(|error| error.sent, |_| Sent::Yes));
        let GuestResponse { status, headers, body: mut chunks } = answer?;
        let mut body = Vec::new();
        while let Some(chunk) = self.meter.pause(chunks.next()).await {
            let chunk = chunk?;
            self.usage.received(chunk.len())?;
            self.usage.fits(body.len() + chunk.len())?;
            // The usual response is one chunk, which is moved rather than copied.
            if body.is_empty() { body = chunk.into() } else { body.extend_from_slice(&chunk) }
        }
        Ok(http::Response { status, headers, body })
    }

    /// Tells the guest of an error and remembers it. A limit of the call is told to the way out as well.
    async fn tell(&mut self, error: SendError) -> http::SendError {
        let told = self.usage.tell(&*self.outbound, &self.context, error);
        convert::send_error(&self.meter.pause(told).await)
    }

    /// Tells the guest of an error; a fault of its code ends the call.
    async fn tell_fault(&mut self, fault: Fault) -> wasmtime::Result<http::SendError> {
        match fault {
            Fault::Send(error) => Ok(self.tell(error).await),
            Fault::Misuse(misuse) => Err(misuse.into()),
        }
    }
}

impl http::Host for CallState {}

impl http::HostConnection for CallState {
    async fn send(
        &mut self,
        connection: Resource<Connection>,
        head: http::RequestHead,
        body: Option<Vec<u8>>,
    ) -> wasmtime::Result<Result<http::Response, http::SendError>> {
        self.table.get(&connection)?;
        match self.send_whole(convert::request(head, convert::body(body))).await {
            Ok(response) => Ok(Ok(response)),
            Err(error) => Ok(Err(self.tell(error).await)),
        }
    }

    async fn start(
        &mut self,
        connection: Resource<Connection>,
        head: http::RequestHead,
        length: Option<u64>,
    ) -> wasmtime::Result<Result<Resource<Exchange>, http::SendError>> {
        self.table.get(&connection)?;
        let request = convert::request(head, Body::Empty);
        let (outbound, context) = (self.outbound.clone(), self.context.clone());
        let started = Exchange::start(outbound, context, request, length, &self.usage);
        match self.meter.pause(started).await {
            Ok(exchange) => Ok(Ok(self.table.push(exchange)?)),
            Err(error) => Ok(Err(self.tell(error).await)),
        }
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

impl http::HostExchange for CallState {
    async fn write(
        &mut self,
        exchange: Resource<Exchange>,
        chunk: Vec<u8>,
    ) -> wasmtime::Result<Result<(), http::SendError>> {
        let written = self.table.get_mut(&exchange)?.write(chunk, &self.usage);
        match self.meter.pause(written).await {
            Ok(()) => Ok(Ok(())),
            Err(fault) => self.tell_fault(fault).await.map(Err),
        }
    }

    async fn finish(
        &mut self,
        exchange: Resource<Exchange>,
    ) -> wasmtime::Result<Result<http::ResponseHead, http::SendError>> {
        let finished = self.table.get_mut(&exchange)?.finish(&self.usage);
        match self.meter.pause(finished).await {
            Ok(head) => Ok(Ok(http::ResponseHead { status: head.status, headers: head.headers })),
            Err(fault) => self.tell_fault(fault).await.map(Err),
        }
    }

    async fn read(
        &mut self,
        exchange: Resource<Exchange>,
        max: u32,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, http::SendError>> {
        let read = self.table.get_mut(&exchange)?.read(max, &self.usage);
        match self.meter.pause(read).await {
            Ok(chunk) => Ok(Ok(chunk)),
            Err(fault) => self.tell_fault(fault).await.map(Err),
        }
    }

    async fn drop(&mut self, exchange: Resource<Exchange>) -> wasmtime::Result<()> {
        self.table.delete(exchange)?;
        Ok(())
    }
}

impl log::Host for CallState {
    fn write(&mut self, level: log::Level, text: String) -> wasmtime::Result<()> {
        self.log().write(convert::level(level), &text);
        Ok(())
    }
}

impl clock::Host for CallState {
    fn monotonic(&mut self) -> wasmtime::Result<u64> {
        Ok(u64::try_from(self.meter.start().elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn wall(&mut self) -> wasmtime::Result<u64> {
        // A host clock before 1970 is told as 1970: the type has nothing earlier.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl random::Host for CallState {
    fn bytes(&mut self, count: u32) -> wasmtime::Result<Vec<u8>> {
        // Fewer bytes than asked for could end up as a weak key without anybody noticing.
        if count > MAX_RANDOM {
            wasmtime::bail!("random.bytes was asked for {count} bytes, and gives at most {MAX_RANDOM}");
        }
        let mut bytes = vec![0; count as usize];
        getrandom::fill(&mut bytes).map_err(|error| wasmtime::format_err!("the host has no random bytes: {error}"))?;
        Ok(bytes)
    }
}
