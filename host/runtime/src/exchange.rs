//! A request whose body the guest writes, and whose response it reads, chunk by chunk.
//!
//! The port takes the request's body as a stream, so it is driven by a task of its own that feeds from a
//! channel of one chunk: the guest waits in `write` until the network has taken what it wrote before. The
//! task ends with the exchange, and the exchange with the call. A body that the guest did not finish ends in
//! an error, so that a server never takes a part for the whole.
//!
//! A server may answer before it has the whole body. Where it refuses the request (status 400 and above), what the
//! guest still writes is dropped, because nobody may ever read it (RFC 9112 section 9.5); else it goes on.
//!
//! ```text
//! guest: write ──► channel of 1 ──► Outbound::send (task) ──► answer ──► finish, read :guest
//! ```

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt, stream::Fuse};
use keyward_model::{
    Body, BodyStream, CallContext, GuestRequest, GuestResponse, Outbound, Reason, SendError, SendErrorKind, Sent,
};
use tokio::{
    sync::{
        OwnedSemaphorePermit, mpsc,
        oneshot::{self, error::RecvError},
    },
    task::AbortHandle,
};
use tracing::Instrument;

use crate::call::{Undelivered, Usage};

/// A call of the guest in the wrong order, or a body of another length than declared. It ends the call with
/// the guest's backtrace, because no answer could help code that does this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misuse {
    #[error("exchange.write was called after exchange.finish")]
    WriteAfterFinish,
    #[error("exchange.finish was called twice")]
    FinishedTwice,
    #[error("exchange.read was called before exchange.finish")]
    ReadBeforeFinish,
    #[error("exchange.write was called on a request that was started without a body")]
    NoBody,
    #[error("the guest wrote {written} bytes of a body that it declared as {declared} bytes long")]
    Length { written: u64, declared: u64 },
}

/// A fault of the guest's code, or an error to tell it.
pub(crate) enum Fault {
    Misuse(Misuse),
    Send(SendError),
}

impl From<Misuse> for Fault {
    fn from(misuse: Misuse) -> Self {
        Self::Misuse(misuse)
    }
}

impl From<SendError> for Fault {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

/// One exchange.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Exchange {
    body: Writing,
    answer: Answer,
    delivery: Option<Undelivered>,
    /// Counts it as open until it is dropped.
    _open: OwnedSemaphorePermit,
    _task: AbortOnDrop,
}

/// The request's body.
enum Writing {
    /// The request has none.
    None,
    /// It is being written.
    Open {
        chunks: mpsc::Sender<Bytes>,
        /// Set when the guest has finished it. Closing the channel alone means that it was given up.
        whole: Arc<AtomicBool>,
        declared: Option<u64>,
        written: u64,
    },
    /// The server refused the request before the body was whole, and nothing more is sent. The channel stays open
    /// until the exchange ends: closing it would end the connection, perhaps before the response was read.
    Refused { _chunks: mpsc::Sender<Bytes> },
    /// The guest has finished it, or it was given up.
    Over,
}

/// What the server said.
enum Answer {
    /// Nothing yet.
    Awaited(oneshot::Receiver<Result<GuestResponse, SendError>>),
    /// It answered; the guest has not asked yet.
    Here(GuestResponse),
    /// The guest reads the body; `rest` is what is left of the last chunk.
    Reading { body: Fuse<BodyStream>, rest: Bytes },
    /// There is none.
    Failed(SendError),
}

/// The head of a response.
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Exchange {
    /// Starts `request`, whose body will be written where it can have one, and waits until the gate has let
    /// it pass: until it asks for the body, or until there is an answer.
    ///
    /// A `GET` or `HEAD`, and any request with a declared length of 0, has no body. There the gate has
    /// nothing to ask for, so this waits for the answer's head.
    pub(crate) async fn start(
        outbound: Arc<dyn Outbound>,
        context: Arc<CallContext>,
        mut request: GuestRequest,
        length: Option<u64>,
        usage: &Usage,
    ) -> Result<Self, SendError> {
        usage.request()?;
        let open = usage.exchange()?;
        let bodiless = length == Some(0) || (length.is_none() && matches!(&*request.method, "GET" | "HEAD"));
        let (asked, asked_for_body) = oneshot::channel();
        let body = if bodiless {
            Writing::None
        } else {
            let (chunks, written) = mpsc::channel(1);
            let whole = Arc::new(AtomicBool::new(false));
            let body = WrittenBody { written, whole: whole.clone(), asked: Some(asked), over: false };
            request.body = Body::Stream { length, chunks: Box::pin(body) };
            Writing::Open { chunks, whole, declared: length, written: 0 }
        };
        let delivery = Some(usage.begin(&request.method));
        let (answered, answer) = oneshot::channel();
        let task = async move {
            // Nobody waits any more if the exchange was dropped meanwhile.
            let _ = answered.send(outbound.send(&context, request).await);
        };
        let task = AbortOnDrop(tokio::spawn(task.in_current_span()).abort_handle());
        let mut exchange = Self { body, answer: Answer::Awaited(answer), delivery, _open: open, _task: task };
        tokio::select! {
            biased;
            answered = exchange.answered(usage) => answered?,
            // Where there is no body, or it was dropped unread, only the answer is left to wait for.
            Ok(()) = asked_for_body => {}
        }
        Ok(exchange)
    }

    /// Writes a chunk and returns when there is room for another, or when the server has refused the request.
    pub(crate) async fn write(&mut self, chunk: Vec<u8>, usage: &Usage) -> Result<(), Fault> {
        if let Answer::Failed(error) = &self.answer {
            return Err(error.clone().into());
        }
        self.stop_if_refused();
        let (declared, written) = match &mut self.body {
            Writing::Open { declared, written, .. } => (declared, written),
            Writing::Refused { .. } if matches!(self.answer, Answer::Here(_)) => return Ok(()),
            Writing::Refused { .. } | Writing::Over => return Err(Misuse::WriteAfterFinish.into()),
            Writing::None if chunk.is_empty() => return Ok(()),
            Writing::None => return Err(Misuse::NoBody.into()),
        };
        *written = written.saturating_add(chunk.len() as u64);
        if let Some(declared) = *declared
            && *written > declared
        {
            return Err(Misuse::Length { written: *written, declared }.into());
        }
        if let Err(error) = usage.sending(chunk.len()) {
            self.body = Writing::Over;
            return Err(self.fail(error.sent(Sent::Maybe), usage).into());
        }
        if chunk.is_empty() {
            return Ok(());
        }
        loop {
            let Writing::Open { chunks, .. } = &self.body else { return Ok(()) };
            let early = async {
                match &mut self.answer {
                    Answer::Awaited(answer) => answer.await,
                    _ => std::future::pending().await,
                }
            };
            let answer = tokio::select! {
                room = chunks.reserve() => match room {
                    Ok(room) => {
                        room.send(chunk.into());
                        return Ok(());
                    }
                    Err(_) => None,
                },
                answer = early => Some(answer),
            };
            match answer {
                Some(answer) => self.arrived(answer, usage)?,
                // The body is not read any further: there is an answer already, which `finish` tells, or an error.
                None => return Ok(self.answered(usage).await?),
            }
            self.stop_if_refused();
        }
    }

    /// Ends the request's body and waits for the head of the response.
    pub(crate) async fn finish(&mut self, usage: &Usage) -> Result<Head, Fault> {
        match (&self.answer, &self.body) {
            (Answer::Failed(error), _) => return Err(error.clone().into()),
            (_, Writing::Over) => return Err(Misuse::FinishedTwice.into()),
            (answer, &Writing::Open { declared: Some(declared), written, ref chunks, .. })
                if written != declared && (matches!(answer, Answer::Awaited(_)) || !chunks.is_closed()) =>
            {
                return Err(Misuse::Length { written, declared }.into());
            }
            (_, Writing::Open { whole, .. }) => whole.store(true, Ordering::Release),
            (_, Writing::None | Writing::Refused { .. }) => {}
        }
        if !matches!(self.body, Writing::Refused { .. }) {
            // Drops the sender, which closes the channel.
            self.body = Writing::Over;
        }
        self.answered(usage).await?;
        match std::mem::replace(&mut self.answer, Answer::Failed(lost())) {
            Answer::Here(GuestResponse { status, headers, body }) => {
                // A guest may read on after the end, and a stream need not stand that.
                self.answer = Answer::Reading { body: body.fuse(), rest: Bytes::new() };
                Ok(Head { status, headers })
            }
            other => {
                self.answer = other;
                Err(Misuse::FinishedTwice.into())
            }
        }
    }

    /// Reads at most `max` bytes of the response's body; none at its end.
    pub(crate) async fn read(&mut self, max: u32, usage: &Usage) -> Result<Option<Vec<u8>>, Fault> {
        let (body, rest) = match &mut self.answer {
            Answer::Reading { body, rest } => (body, rest),
            Answer::Failed(error) => return Err(error.clone().into()),
            Answer::Awaited(_) | Answer::Here(_) => return Err(Misuse::ReadBeforeFinish.into()),
        };
        while rest.is_empty() {
            match body.next().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.fail(error, usage).into()),
                Some(Ok(chunk)) => {
                    if let Err(error) = usage.received(chunk.len()) {
                        return Err(self.fail(error, usage).into());
                    }
                    *rest = chunk;
                }
            }
        }
        let length = rest.len().min(usize::try_from(max).unwrap_or(usize::MAX));
        Ok(Some(rest.split_to(length).into()))
    }

    /// Waits until there is an answer or an error.
    async fn answered(&mut self, usage: &Usage) -> Result<(), SendError> {
        if let Answer::Awaited(answer) = &mut self.answer {
            let answer = answer.await;
            self.arrived(answer, usage)?;
        }
        match &self.answer {
            Answer::Failed(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// The task of the exchange has told what the server said.
    fn arrived(
        &mut self,
        answer: Result<Result<GuestResponse, SendError>, RecvError>,
        usage: &Usage,
    ) -> Result<(), SendError> {
        match answer.unwrap_or_else(|_| Err(lost())) {
            Ok(response) => {
                self.settle(Sent::Yes, usage);
                self.answer = Answer::Here(response);
                Ok(())
            }
            Err(error) => Err(self.fail(error, usage)),
        }
    }

    /// Sends no more of the body where the server has refused the request.
    fn stop_if_refused(&mut self) {
        if !matches!(&self.answer, Answer::Here(response) if response.status >= 400) {
            return;
        }
        self.body = match std::mem::replace(&mut self.body, Writing::Over) {
            Writing::Open { chunks, .. } => Writing::Refused { _chunks: chunks },
            other => other,
        };
    }

    fn fail(&mut self, error: SendError, usage: &Usage) -> SendError {
        self.settle(error.sent, usage);
        self.answer = Answer::Failed(error.clone());
        error
    }

    fn settle(&mut self, sent: Sent, usage: &Usage) {
        if let Some(delivery) = self.delivery.take() {
            usage.settle(delivery, sent);
        }
    }
}

/// The task of the exchange ended without an answer: it panicked, or the runtime shuts down.
pub(crate) fn lost() -> SendError {
    SendError::new(SendErrorKind::Other, Reason::Internal, "the request was lost in the host").sent(Sent::Maybe)
}

/// What the guest writes, as the port reads it.
struct WrittenBody {
    written: mpsc::Receiver<Bytes>,
    whole: Arc<AtomicBool>,
    /// Told when the body is asked for: by then the head was let through.
    asked: Option<oneshot::Sender<()>>,
    over: bool,
}

impl Stream for WrittenBody {
    type Item = Result<Bytes, SendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(asked) = self.asked.take() {
            // Nobody waits any more if the exchange was dropped meanwhile.
            let _ = asked.send(());
        }
        if self.over {
            return Poll::Ready(None);
        }
        let Some(chunk) = std::task::ready!(self.written.poll_recv(cx)) else {
            self.over = true;
            return Poll::Ready(if self.whole.load(Ordering::Acquire) { None } else { Some(Err(given_up())) });
        };
        Poll::Ready(Some(Ok(chunk)))
    }
}

/// The guest ended, or dropped the exchange, before it finished the body.
pub(crate) fn given_up() -> SendError {
    let message = "the guest did not finish the request's body";
    SendError::new(SendErrorKind::Other, Reason::GuestTrap, message).sent(Sent::Maybe)
}

/// Ends a task with the value that it works for.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
