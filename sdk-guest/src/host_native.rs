//! The host in native unit tests: what [`FakeHost`](crate::testing::FakeHost) scripted.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    SendError,
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

    pub(crate) fn start(&self, head: RequestHead, length: Option<u64>) -> Result<RawExchange, SendError> {
        let state = RefCell::new(State::Writing { head, length, body: Vec::new() });
        Ok(RawExchange { script: self.0.clone(), state })
    }
}

/// An exchange asks the script when its request is complete, for only then is the request known. What Keyward ends
/// the call for fails the test, in Keyward's words.
#[derive(Debug)]
pub(crate) struct RawExchange {
    script: Rc<RefCell<Script>>,
    state: RefCell<State>,
}

#[derive(Debug)]
enum State {
    Writing { head: RequestHead, length: Option<u64>, body: Vec<u8> },
    Reading { body: Vec<u8>, at: usize },
    Failed(SendError),
}

impl RawExchange {
    pub(crate) fn write(&self, chunk: &[u8]) -> Result<(), SendError> {
        match &mut *self.state.borrow_mut() {
            State::Writing { head, length, .. } if has_no_body(&head.method, *length) => {
                assert!(chunk.is_empty(), "exchange.write was called on a request that was started without a body");
                Ok(())
            }
            State::Writing { length, body, .. } => {
                body.extend_from_slice(chunk);
                if length.is_some_and(|length| body.len() as u64 > length) {
                    wrong_length(body, *length);
                }
                Ok(())
            }
            State::Reading { .. } => panic!("exchange.write was called after exchange.finish"),
            State::Failed(error) => Err(error.clone()),
        }
    }

    pub(crate) fn finish(&self) -> Result<ResponseHead, SendError> {
        let mut state = self.state.borrow_mut();
        let (head, body) = match &mut *state {
            State::Writing { head, length, body } => {
                if length.is_some_and(|length| body.len() as u64 != length) {
                    wrong_length(body, *length);
                }
                (head.clone(), std::mem::take(body))
            }
            State::Reading { .. } => panic!("exchange.finish was called twice"),
            State::Failed(error) => return Err(error.clone()),
        };
        let body = if body.is_empty() { None } else { Some(body) };
        match self.script.borrow_mut().answer(head, body) {
            Ok(Response { status, headers, body }) => {
                *state = State::Reading { body, at: 0 };
                Ok(ResponseHead { status, headers })
            }
            Err(error) => {
                *state = State::Failed(error.clone());
                Err(error)
            }
        }
    }

    pub(crate) fn read(&self, max: u32) -> Result<Option<Vec<u8>>, SendError> {
        match &mut *self.state.borrow_mut() {
            State::Writing { .. } => panic!("exchange.read was called before exchange.finish"),
            State::Reading { body, at } if *at < body.len() => {
                let end = body.len().min(at.saturating_add(max as usize));
                let chunk = body[*at..end].to_vec();
                *at = end;
                Ok(Some(chunk))
            }
            State::Reading { .. } => Ok(None),
            State::Failed(error) => Err(error.clone()),
        }
    }
}

/// See [`Connection::start`](crate::Connection::start).
fn has_no_body(method: &str, length: Option<u64>) -> bool {
    length == Some(0) || (length.is_none() && matches!(method, "GET" | "HEAD"))
}

fn wrong_length(body: &[u8], declared: Option<u64>) -> ! {
    let (written, declared) = (body.len(), declared.unwrap_or_default());
    panic!("the guest wrote {written} bytes of a body that it declared as {declared} bytes long")
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use crate::{
        SendError, SendErrorKind,
        http::{Exchange, Headers, RequestHead, Target},
        testing::FakeHost,
    };

    fn start(host: &FakeHost, method: &str, length: Option<u64>) -> Exchange {
        let target = Target::Endpoint { endpoint: "api".to_owned(), path: "/a".to_owned() };
        let head = RequestHead { method: method.to_owned(), target, query: Vec::new(), headers: Headers::default() };
        host.connection().start(head, length).unwrap()
    }

    #[test]
    #[should_panic(expected = "exchange.write was called after exchange.finish")]
    fn write_after_finish_fails_the_test() {
        let host = FakeHost::new();
        host.on("POST", "/a").respond(200, ());
        let exchange = start(&host, "POST", None);
        exchange.finish().unwrap();
        let _ = exchange.write(b"");
    }

    #[test]
    #[should_panic(expected = "exchange.finish was called twice")]
    fn finish_twice_fails_the_test() {
        let host = FakeHost::new();
        host.on("GET", "/a").respond(200, ());
        let exchange = start(&host, "GET", None);
        exchange.finish().unwrap();
        let _ = exchange.finish();
    }

    #[test]
    #[should_panic(expected = "exchange.read was called before exchange.finish")]
    fn read_before_finish_fails_the_test() {
        let _ = start(&FakeHost::new(), "GET", None).read(1);
    }

    #[test]
    #[should_panic(expected = "exchange.write was called on a request that was started without a body")]
    fn body_of_a_get_fails_the_test() {
        let _ = start(&FakeHost::new(), "GET", None).write(b"x");
    }

    #[test]
    #[should_panic(expected = "exchange.write was called on a request that was started without a body")]
    fn body_of_no_length_fails_the_test() {
        let _ = start(&FakeHost::new(), "POST", Some(0)).write(b"x");
    }

    #[test]
    #[should_panic(expected = "the guest wrote 3 bytes of a body that it declared as 2 bytes long")]
    fn body_longer_than_declared_fails_the_test() {
        let exchange = start(&FakeHost::new(), "GET", Some(2));
        exchange.write(b"ab").unwrap();
        let _ = exchange.write(b"c");
    }

    #[test]
    #[should_panic(expected = "the guest wrote 1 bytes of a body that it declared as 2 bytes long")]
    fn body_shorter_than_declared_fails_the_test() {
        let exchange = start(&FakeHost::new(), "POST", Some(2));
        exchange.write(b"a").unwrap();
        let _ = exchange.finish();
    }

    #[test]
    fn failed_request_is_told_again_by_every_later_call() {
        let host = FakeHost::new();
        let error = SendError::new(SendErrorKind::Timeout, "timeout", "no answer");
        host.on("GET", "/a").fail(error.clone());
        let exchange = start(&host, "GET", None);
        exchange.write(b"").unwrap();
        for _ in 0..2 {
            assert_eq!(exchange.finish(), Err(error.clone()));
        }
        assert_eq!(exchange.write(b"x"), Err(error.clone()));
        assert_eq!(exchange.read(1), Err(error));
    }
}
