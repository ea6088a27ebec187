//! Requests, built part by part.

use std::fmt::Display;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use crate::{
    Connection, Error, Pages, Result, Upload,
    http::{Headers, RequestHead, Response, Target},
};

/// What stands for itself in a path segment: the unreserved characters (RFC 3986, section 2.3). All else is encoded,
/// so that a value can neither end its segment nor begin a query.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A request under construction. Nothing is sent before [`Request::send`], [`Request::start`] or the first page of
/// [`Request::paginate`]; the first fault of its parts is told there.
#[derive(Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request<'c> {
    pub(crate) connection: &'c Connection,
    pub(crate) head: RequestHead,
    pub(crate) body: Option<Vec<u8>>,
    length: Option<u64>,
    fault: Option<Error>,
}

impl<'c> Request<'c> {
    pub(crate) fn below_endpoint(connection: &'c Connection, method: &str, path: &str) -> Self {
        let target = Target::Endpoint { endpoint: "api".to_owned(), path: path.to_owned() };
        Self::to(connection, method, target)
    }

    pub(crate) fn to(connection: &'c Connection, method: &str, target: Target) -> Self {
        let head = RequestHead { method: method.to_owned(), target, query: Vec::new(), headers: Headers::default() };
        Self { connection, head, body: None, length: None, fault: None }
    }

    /// The endpoint of the manifest that the path lies below, where it is not `api`.
    pub fn endpoint(mut self, name: &str) -> Self {
        match &mut self.head.target {
            Target::Endpoint { endpoint, .. } => *endpoint = name.to_owned(),
            Target::Url(_) => self.blame(Error::other("an absolute URL has no endpoint to choose")),
        }
        self
    }

    /// Fills `{name}`, or `{name%2F}`, of the path template, which has the form of the manifest's. The value is always
    /// one whole segment, or the part of one that the template leaves to it: it is percent-encoded, and an empty one,
    /// `.` and `..` are refused as invalid input. (The host refuses an encoded `/`, except for `{name%2F}`.)
    pub fn path(mut self, name: &str, value: impl Display) -> Self {
        match segment(name, &value.to_string()) {
            Ok(value) => self.fill(&[format!("{{{name}}}"), format!("{{{name}%2F}}")], &value),
            Err(error) => self.blame(error),
        }
        self
    }

    /// Fills `{name+}` of the path template with one segment or more, each as of [`Request::path`].
    pub fn segments(mut self, name: &str, values: impl IntoIterator<Item = impl Display>) -> Self {
        let segments: Result<Vec<_>> = values.into_iter().map(|value| segment(name, &value.to_string())).collect();
        match segments {
            Ok(segments) if segments.is_empty() => self.blame(not_a_segment(name, "")),
            Ok(segments) => self.fill(&[format!("{{{name}+}}")], &segments.join("/")),
            Err(error) => self.blame(error),
        }
        self
    }

    /// Adds a query parameter; it is encoded on its way.
    pub fn query(mut self, name: &str, value: impl Display) -> Self {
        self.head.query.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds a query parameter where there is a value.
    pub fn query_opt(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Adds a header. The host refuses those that belong to it, `authorization` among them.
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.head.headers.0.push((name.to_owned(), value.into()));
        self
    }

    /// Makes `body` the request's JSON body, with `content-type: application/json` unless another was set.
    pub fn json(mut self, body: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => self.body = Some(body),
            Err(error) => self.blame(error.into()),
        }
        let typed = self.head.headers.all("content-type").next().is_some();
        if typed { self } else { self.header("content-type", "application/json") }
    }

    /// Makes `body` the request's body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// The length of the whole body, bytes; for [`Request::start`], where it is written chunk by chunk. Another length
    /// than this ends the action.
    pub fn length(mut self, length: u64) -> Self {
        self.length = Some(length);
        self
    }

    /// Sends it and reads the whole response. Any status is a response; [`Response::error_for_status`] makes an
    /// error of a bad one.
    ///
    /// # Errors
    /// [`Error::Http`] with what the host or the network has against it, and faults of its parts.
    pub fn send(self) -> Result<Response> {
        let Self { connection, head, body, .. } = self.complete()?;
        Ok(connection.send(head, body)?)
    }

    /// Starts it; its body, if any, is written chunk by chunk, and so is the response read. A body that was set
    /// with [`Request::body`] or [`Request::json`] is written first; more may follow only where [`Request::length`]
    /// says so.
    ///
    /// # Errors
    /// As of [`Request::send`].
    pub fn start(self) -> Result<Upload> {
        let Self { connection, head, body, length, .. } = self.complete()?;
        let length = length.or(body.as_ref().map(|body| body.len() as u64));
        let exchange = connection.start(head, length)?;
        if let Some(body) = body {
            exchange.write(&body)?;
        }
        Ok(Upload::new(exchange))
    }

    /// Sends it and then whatever the `Link` header calls `next` (RFC 8288), page after page, with the same headers.
    pub fn paginate(self) -> Pages<'c> {
        Pages::new(self)
    }

    /// The same method and headers for another URL, without query or body.
    pub(crate) fn followed_to(connection: &'c Connection, method: &str, url: String, headers: Headers) -> Self {
        let mut request = Self::to(connection, method, Target::Url(url));
        request.head.headers = headers;
        request
    }

    /// The request itself, or the first fault of its parts.
    pub(crate) fn complete(mut self) -> Result<Self> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        // Where the host puts the credential; only here it is written for the host, and not where a value was filled in.
        if let Target::Endpoint { path, .. } = &mut self.head.target {
            *path = path.replacen("{credential}", "%7Bcredential%7D", 1);
        }
        if let Target::Endpoint { path, .. } = &self.head.target
            && path.contains('{')
        {
            return Err(Error::other(format!("not all of the path {path} was filled")));
        }
        Ok(self)
    }

    /// Puts `value`, which is encoded and so has no brace, in the place of the first of `places` that is there.
    fn fill(&mut self, places: &[String], value: &str) {
        if let Target::Endpoint { path, .. } = &mut self.head.target
            && let Some(place) = places.iter().find(|place| path.contains(*place))
        {
            *path = path.replacen(place, value, 1);
        } else {
            let target = match &self.head.target {
                Target::Endpoint { path, .. } => path,
                Target::Url(url) => url,
            };
            let error = Error::other(format!("{target} has no {}", places.join(" or ")));
            self.blame(error);
        }
    }

    fn blame(&mut self, fault: Error) {
        self.fault.get_or_insert(fault);
    }
}

/// A value as a segment of a path.
fn segment(name: &str, value: &str) -> Result<String> {
    match value {
        "" | "." | ".." => Err(not_a_segment(name, value)),
        value => Ok(utf8_percent_encode(value, SEGMENT).to_string()),
    }
}

fn not_a_segment(name: &str, value: &str) -> Error {
    Error::invalid_input(format!("{name} cannot be {value:?}: it is a part of the request's path"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::testing::FakeHost;

    #[test]
    fn path_value_is_always_one_whole_segment() {
        for (value, path) in [
            ("o", "/repos/o/x"),
            ("a/b", "/repos/a%2Fb/x"),
            ("a?b#c", "/repos/a%3Fb%23c/x"),
            ("..;", "/repos/..%3B/x"),
            ("%2e", "/repos/%252e/x"),
            ("é ", "/repos/%C3%A9%20/x"),
            ("{x}", "/repos/%7Bx%7D/x"),
            ("a\0\r\n", "/repos/a%00%0D%0A/x"),
        ] {
            let host = FakeHost::new();
            host.on("GET", path).respond(200, serde_json::Value::Null);
            host.connection().get("/repos/{owner}/x").path("owner", value).send().unwrap();
        }
    }

    #[test]
    fn place_of_the_credential_is_left_to_the_host() {
        let host = FakeHost::new();
        host.on("GET", "/bot%7Bcredential%7D/%7Bcredential%7D").respond(200, serde_json::Value::Null);
        host.connection().get("/bot{credential}/{method}").path("method", "{credential}").send().unwrap();
        assert!(host.connection().get("/{credential}/{credential}").send().is_err());
    }

    #[test]
    fn path_value_that_is_no_segment_is_invalid_input() {
        let host = FakeHost::new();
        for value in ["", ".", ".."] {
            let error = host.connection().get("/repos/{owner}").path("owner", value).send().unwrap_err();
            assert!(matches!(error, Error::InvalidInput(_)), "{value:?}: {error:?}");
        }
    }

    #[test]
    fn templates_are_filled_in_every_form_that_a_manifest_has() {
        let host = FakeHost::new();
        let connection = host.connection();
        for (request, path) in [
            (connection.get("/values/{range}:append").path("range", "A1:B2"), "/values/A1%3AB2:append"),
            (connection.get("/users('{id}')").path("id", "o'n"), "/users('o%27n')"),
            (connection.get("/projects/{id%2F}").path("id", "a/b"), "/projects/a%2Fb"),
            (connection.get("/root:/{file+}:/content").segments("file", ["a b", "c"]), "/root:/a%20b/c:/content"),
        ] {
            host.on("GET", path).respond(200, ());
            request.send().unwrap();
        }
        for values in [vec![], vec!["a", ".."], vec!["", "a"]] {
            let error = connection.get("/{file+}").segments("file", values).send().unwrap_err();
            assert!(matches!(error, Error::InvalidInput(_)), "{error:?}");
        }
    }

    #[test]
    fn template_and_parameters_must_fit() {
        let host = FakeHost::new();
        let connection = host.connection();
        for request in [
            connection.get("/{a}"),
            connection.get("/a").path("a", 1),
            connection.get("/{a}").path("a", 1).path("a", 1),
            connection.get("/{a}").segments("a", [1]),
            connection.request_url("GET", "https://x.test/{a}").path("a", 1),
            connection.request_url("GET", "https://x.test/").endpoint("uploads"),
        ] {
            assert!(matches!(request.send().unwrap_err(), Error::Other(_)));
        }
    }

    #[test]
    fn json_body_brings_its_content_type_unless_one_was_set() {
        let host = FakeHost::new();
        host.on("POST", "/a").respond(200, ());
        host.on("POST", "/b").respond(200, ());
        host.connection().post("/a").json(&[1]).send().unwrap();
        host.connection().post("/b").header("Content-Type", "application/x+json").json(&[1]).send().unwrap();
        let types: Vec<_> = host
            .requests()
            .iter()
            .map(|request| request.head.headers.text("content-type").unwrap().to_owned())
            .collect();
        assert_eq!(types, ["application/json", "application/x+json"]);
    }
}
