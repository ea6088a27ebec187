//! The right to send requests, and what an action may know about its call.

use crate::{
    Request, Result, SendError, host,
    http::{Exchange, RequestHead, Response, Target},
};

/// The right to send requests with one connection of the user's, and what is known about this call.
///
/// The host hands it in and adds the credential itself. An action that needs no connection gets one without a
/// credential.
#[derive(Debug)]
pub struct Connection {
    raw: host::RawConnection,
    call: Call,
}

/// One call of an action.
#[derive(Debug, Clone)]
pub struct Call {
    pub(crate) action: String,
    pub(crate) idempotency_key: String,
    pub(crate) attempt: u32,
}

impl Call {
    /// The action's name in the manifest.
    pub fn action(&self) -> &str {
        &self.action
    }

    /// The same for every attempt at one execution of a step, and another one where the step is performed anew; send it
    /// where the API takes an idempotency key.
    pub fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }

    /// Which attempt it is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

impl Connection {
    pub(crate) fn new(raw: host::RawConnection, call: Call) -> Self {
        Self { raw, call }
    }

    /// What is known about this call.
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// A `GET` of a path template below the endpoint `api`, for example `/repos/{owner}/{repo}`; see
    /// [`Connection::request`].
    pub fn get(&self, path: &str) -> Request<'_> {
        self.request("GET", path)
    }

    /// A `POST`; see [`Connection::request`].
    pub fn post(&self, path: &str) -> Request<'_> {
        self.request("POST", path)
    }

    /// A `PUT`; see [`Connection::request`].
    pub fn put(&self, path: &str) -> Request<'_> {
        self.request("PUT", path)
    }

    /// A `PATCH`; see [`Connection::request`].
    pub fn patch(&self, path: &str) -> Request<'_> {
        self.request("PATCH", path)
    }

    /// A `DELETE`; see [`Connection::request`].
    pub fn delete(&self, path: &str) -> Request<'_> {
        self.request("DELETE", path)
    }

    /// A request of any method for a path template below the endpoint `api`; [`Request::endpoint`] names another
    /// one, [`Request::path`] fills the template.
    pub fn request(&self, method: &str, path: &str) -> Request<'_> {
        Request::below_endpoint(self, method, path)
    }

    /// A request for an absolute URL that the API returned, such as an upload session. The host sends it only where
    /// it lies below a declared endpoint and matches a declared request.
    pub fn request_url(&self, method: &str, url: &str) -> Request<'_> {
        Request::to(self, method, Target::Url(url.to_owned()))
    }

    /// Sends a request exactly as given and returns the whole response.
    ///
    /// # Errors
    /// What the host or the network has against it.
    pub fn send(&self, head: RequestHead, body: Option<Vec<u8>>) -> Result<Response, SendError> {
        self.raw.send(head, body)
    }

    /// Starts a request exactly as given, whose body is written and whose response is read chunk by chunk. `length`
    /// is that of the body where it is known. A `GET` or `HEAD` without a length, and any request with the length 0,
    /// has no body.
    ///
    /// # Errors
    /// What the host has against its head.
    pub fn start(&self, head: RequestHead, length: Option<u64>) -> Result<Exchange, SendError> {
        self.raw.start(head, length).map(Exchange)
    }
}
