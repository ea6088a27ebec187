//! The host in native unit tests: what [`FakeHost`](crate::testing::FakeHost) scripted.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    SendError, SendErrorKind, Sent,
    http::{RequestHead, Response, ResponseHead},
    log::Level,
    testing::Script,
};

#[derive(Debug)]
pub(crate) struct RawConnection(pub(crate) Rc<RefCell<Script>>);

impl RawConnection {
    pub(crate) fn send(&self, head: RequestHead, body: Option<Vec<u8>>) -> Result<Response, SendError> {
        self.0.borrow_mut().answer(head, body)
    }

    pub(crate) fn start(&self, head: RequestHead, _length: Option<u64>) -> Result<RawExchange, SendError> {
        let state = RefCell::new(State::Writing { head, body: Vec::new() });
        Ok(RawExchange { script: self.0.clone(), state })
    }
}

/// An exchange asks the script when its request is complete, for only then is the request known.
#[derive(Debug)]
pub(crate) struct RawExchange {
    script: Rc<RefCell<Script>>,
    state: RefCell<State>,
}

#[derive(Debug)]
enum State {
    Writing { head: RequestHead, body: Vec<u8> },
    Reading { body: Vec<u8>, at: usize },
    Failed,
}

impl RawExchange {
    pub(crate) fn write(&self, chunk: &[u8]) -> Result<(), SendError> {
        match &mut *self.state.borrow_mut() {
            State::Writing { body, .. } => {
                body.extend_from_slice(chunk);
                Ok(())
            }
            _ => Err(out_of_order("the request's body has ended")),
        }
    }

    pub(crate) fn finish(&self) -> Result<ResponseHead, SendError> {
        let mut state = self.state.borrow_mut();
        let State::Writing { head, body } = std::mem::replace(&mut *state, State::Failed) else {
            return Err(out_of_order("the request's body has ended"));
        };
        let body = if body.is_empty() { None } else { Some(body) };
        let response = self.script.borrow_mut().answer(head, body)?;
        *state = State::Reading { body: response.body, at: 0 };
        Ok(ResponseHead { status: response.status, headers: response.headers })
    }

    pub(crate) fn read(&self, max: u32) -> Result<Option<Vec<u8>>, SendError> {
        match &mut *self.state.borrow_mut() {
            State::Reading { body, at } if *at < body.len() => {
                let end = body.len().min(at.saturating_add(max as usize));
                let chunk = body[*at..end].to_vec();
                *at = end;
                Ok(Some(chunk))
            }
            State::Reading { .. } => Ok(None),
            _ => Err(out_of_order("there is no response to read")),
        }
    }
}

fn out_of_order(message: &str) -> SendError {
    SendError::new(SendErrorKind::Other, "internal", message).sent(Sent::Maybe)
}

/// Standard error, which the test harness shows for a test that failed.
pub(crate) fn log(level: Level, text: &str) {
    eprintln!("{level:?}: {text}");
}

thread_local! {
    /// The wall clock as a test set it. Each test has a thread of its own.
    pub(crate) static WALL: Cell<Option<Duration>> = const { Cell::new(None) };
    static START: Instant = Instant::now();
    static RANDOM: Cell<u64> = const { Cell::new(0x9E37_79B9_7F4A_7C15) };
}

pub(crate) fn monotonic() -> u64 {
    START.with(Instant::elapsed).as_nanos() as u64
}

pub(crate) fn wall() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WALL.get().unwrap_or_else(now).as_millis() as u64
}

/// Xorshift: the same bytes in every run, so that tests repeat.
pub(crate) fn random(count: u32) -> Vec<u8> {
    let next = || {
        let mut x = RANDOM.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        RANDOM.set(x);
        (x >> 32) as u8
    };
    (0..count).map(|_| next()).collect()
}
