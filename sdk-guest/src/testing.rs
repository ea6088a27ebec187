//! A host for native unit tests: the test scripts what the API answers, and the action runs as it would in Keyward.
//!
//! ```
//! # use keyward::prelude::*;
//! # #[derive(Deserialize, JsonSchema)] struct Who { login: String }
//! # #[derive(Serialize, Deserialize, JsonSchema, Debug)] struct User { id: u64 }
//! # /// Finds somebody.
//! # #[action]
//! # fn find_user(input: Who, connection: &Connection) -> Result<User> {
//! #     connection.get("/users/{login}").path("login", input.login).send()?.error_for_status()?.json()
//! # }
//! use keyward::{SendError, SendErrorKind, testing::FakeHost};
//!
//! let host = FakeHost::new();
//! host.on("GET", "/users/ada").respond(200, json!({"id": 1}));
//! host.on("GET", "/users/bob").fail(SendError::new(SendErrorKind::Timeout, "timeout", "no answer"));
//!
//! assert_eq!(host.call::<find_user>(json!({"login": "ada"})).unwrap(), json!({"id": 1}));
//! assert!(matches!(host.call::<find_user>(json!({"login": "bob"})), Err(Error::Http(_))));
//! assert_eq!(host.requests().len(), 2);
//! ```
//!
//! Not checked here: what the manifest allows, and what the input's schema asks beyond the types, such as a range. A
//! request that the manifest does not declare passes in a unit test and is refused by Keyward.

use std::{cell::RefCell, rc::Rc, time::Duration};

use serde_json::Value;

use crate::{
    Action, Call, Connection, Result, SendError, action,
    host::{RawConnection, WALL},
    http::{Headers, RequestHead, Response, Target},
};

/// A host that answers as the test scripted. Each answer is given once, in the order of the script where several
/// fit. A request without an answer fails the test, and so does an answer that nobody asked for.
#[derive(Debug, Default)]
pub struct FakeHost {
    script: Rc<RefCell<Script>>,
}

/// A request as the host got it.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The request without its body.
    pub head: RequestHead,
    /// Its body.
    pub body: Option<Vec<u8>>,
}

impl Recorded {
    /// The body as JSON; null where there is none.
    ///
    /// # Panics
    /// Where the body is no JSON.
    pub fn json(&self) -> Value {
        let Some(body) = &self.body else { return Value::Null };
        match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(error) => panic!("the request's body is no JSON ({error}): {}", String::from_utf8_lossy(body)),
        }
    }
}

/// The body of a scripted response.
#[derive(Debug)]
pub enum ReplyBody {
    /// JSON, with its content type.
    Json(Value),
    /// Bytes as they are.
    Bytes(Vec<u8>),
}

impl From<Value> for ReplyBody {
    fn from(value: Value) -> Self {
        Self::Json(value)
    }
}

impl From<&[u8]> for ReplyBody {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_owned())
    }
}

impl From<()> for ReplyBody {
    fn from((): ()) -> Self {
        Self::Bytes(Vec::new())
    }
}

impl FakeHost {
    /// A host with an empty script.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the script of one request: of this method, to a path below an endpoint (percent-encoded, without
    /// query) or to an absolute URL.
    pub fn on(&self, method: &str, path_or_url: &str) -> Expected<'_> {
        Expected { host: self, method: method.to_owned(), place: path_or_url.to_owned(), query: Vec::new() }
    }

    /// A connection to this host, for the action.
    pub fn connection(&self) -> Connection {
        self.connection_for("test")
    }

    /// Runs an action as Keyward does: from JSON to JSON. `A` has the name of the action's function.
    ///
    /// # Errors
    /// What the action returns, and [`Error::InvalidInput`](crate::Error::InvalidInput) where the input does not fit.
    ///
    /// # Panics
    /// Where the output is no JSON.
    pub fn call<A: Action>(&self, input: Value) -> Result<Value> {
        let output = action::run::<A>(&input.to_string(), &self.connection_for(A::NAME))?;
        match serde_json::from_str(&output) {
            Ok(output) => Ok(output),
            Err(error) => panic!("the output is no JSON: {error}"),
        }
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.script.borrow().recorded.clone()
    }

    /// Stops the wall clock of this test at that time since 1970-01-01T00:00:00Z.
    pub fn set_wall_clock(&self, since_epoch: Duration) {
        WALL.set(Some(since_epoch));
    }

    fn connection_for(&self, action: &str) -> Connection {
        let call = Call { action: action.to_owned(), idempotency_key: "test-key".to_owned(), attempt: 1 };
        Connection::new(RawConnection(self.script.clone()), call)
    }
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        WALL.set(None);
        let script = self.script.borrow();
        if !std::thread::panicking() && !script.expected.is_empty() {
            panic!("nobody asked for:\n{}", script.list());
        }
    }
}

/// A request that the test expects, until its answer is told.
#[derive(Debug)]
#[must_use = "tell the answer with `respond` or `fail`"]
pub struct Expected<'h> {
    host: &'h FakeHost,
    method: String,
    place: String,
    query: Vec<(String, String)>,
}

impl Expected<'_> {
    /// Expects this query parameter among the request's.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Answers with a status and a body: JSON, bytes or `()`.
    pub fn respond(self, status: u16, body: impl Into<ReplyBody>) {
        self.respond_with(status, &[], body);
    }

    /// Answers with a status, headers and a body.
    pub fn respond_with(self, status: u16, headers: &[(&str, &str)], body: impl Into<ReplyBody>) {
        let mut headers: Vec<_> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        let body = match body.into() {
            ReplyBody::Json(value) => {
                headers.push(("content-type".to_owned(), b"application/json".to_vec()));
                value.to_string().into_bytes()
            }
            ReplyBody::Bytes(bytes) => bytes,
        };
        self.answer(Ok(Response { status, headers: Headers(headers), body }));
    }

    /// Lets the request fail.
    pub fn fail(self, error: SendError) {
        self.answer(Err(error));
    }

    fn answer(self, answer: Result<Response, SendError>) {
        let Self { host, method, place, query } = self;
        host.script.borrow_mut().expected.push(Expectation { method, place, query, answer });
    }
}

/// What was scripted and what came.
#[derive(Debug, Default)]
pub(crate) struct Script {
    expected: Vec<Expectation>,
    recorded: Vec<Recorded>,
}

#[derive(Debug)]
struct Expectation {
    method: String,
    place: String,
    query: Vec<(String, String)>,
    answer: Result<Response, SendError>,
}

impl Script {
    pub(crate) fn answer(&mut self, head: RequestHead, body: Option<Vec<u8>>) -> Result<Response, SendError> {
        let Some(index) = self.expected.iter().position(|expectation| expectation.fits(&head)) else {
            panic!(
                "no answer was scripted for {} {:?} with {:?}; left are:\n{}",
                head.method,
                head.target,
                head.query,
                self.list()
            );
        };
        self.recorded.push(Recorded { head, body });
        self.expected.remove(index).answer
    }

    fn list(&self) -> String {
        self.expected
            .iter()
            .map(|Expectation { method, place, query, .. }| format!("  {method} {place} {query:?}\n"))
            .collect()
    }
}

impl Expectation {
    fn fits(&self, head: &RequestHead) -> bool {
        let place = match &head.target {
            Target::Endpoint { path, .. } => path,
            Target::Url(url) => url,
        };
        self.method == head.method
            && self.place == *place
            && self.query.iter().all(|parameter| head.query.contains(parameter))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_come_in_order_where_several_fit() {
        let host = FakeHost::new();
        host.on("GET", "/a").query("page", "2").respond(200, json!(2));
        host.on("GET", "/a").respond(200, json!(0));
        host.on("GET", "/a").respond(200, json!(1));
        let connection = host.connection();
        let bodies: Vec<u8> =
            [1, 1, 2].map(|page| connection.get("/a").query("page", page).send().unwrap().json().unwrap()).into();
        assert_eq!(bodies, [0, 1, 2]);
        assert_eq!(host.requests()[2].head.query, [("page".to_owned(), "2".to_owned())]);
    }

    #[test]
    #[should_panic(expected = "no answer was scripted for POST")]
    fn request_without_an_answer_fails_the_test() {
        let host = FakeHost::new();
        host.on("GET", "/a").respond(200, ());
        let _ = host.connection().post("/a").send();
    }

    #[test]
    #[should_panic(expected = "nobody asked for:\n  GET /a")]
    fn answer_that_nobody_asked_for_fails_the_test() {
        let host = FakeHost::new();
        host.on("GET", "/a").respond(200, ());
    }
}
