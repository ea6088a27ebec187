//! Where an answer sends a request on to, and what of the request goes along.
//!
//! | status | request | followed as |
//! |---|---|---|
//! | 301, 302 | `POST` | `GET`, without the body |
//! | 301, 302 | any other | the same method and body |
//! | 303 | `HEAD` | `HEAD` |
//! | 303 | any other | `GET`, without the body |
//! | 307, 308 | any | the same method and body |
//!
//! (RFC 9110 section 15.4.) Within one origin (scheme, host and port) the headers go along, and the host places the
//! credential anew. To another origin nothing goes along: no header, no body, no credential; what would be anything but
//! `GET` or `HEAD` there is not followed. From https to http nothing is followed. Whatever is followed is a request
//! like any other, and the rules of the action decide about it.

use http::{Method, StatusCode};
use keyward_model::{
    Body, GuestRequest, Reason, Target,
    manifest::{PATH_MARK, Placement},
    request::REDACTED,
};
use url::Url;

use crate::{denial::Denial, error::Refusal, query::is_credential};

/// The most hops of one request.
const MAX_HOPS: usize = 5;

/// A request on its way through redirects.
#[derive(Debug)]
pub struct Journey {
    /// What a hop within the origin takes along; the body is `None` where it can be sent only once.
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Body>,
    been: Vec<(Method, Url)>,
}

/// The next hop.
#[derive(Debug)]
pub struct Hop {
    /// The request.
    pub request: GuestRequest,
    /// Whether it goes to another origin, and so without the credential.
    pub is_foreign: bool,
}

impl Journey {
    /// Begins with what a guest asked for.
    pub fn new(request: &GuestRequest) -> Self {
        let body = match &request.body {
            Body::Empty => Some(Body::Empty),
            Body::Bytes(bytes) => Some(Body::Bytes(bytes.clone())),
            Body::Stream { .. } => None,
        };
        Self { headers: request.headers.clone(), body, been: Vec::new() }
    }

    /// Where the answer with `status` and the header `Location` to a request with `method` to `url` leads; `None` where
    /// it leads nowhere or what it asks for cannot be done, so that the answer is the guest's.
    ///
    /// # Errors
    /// [`Reason::RedirectDowngrade`], [`Reason::RedirectLimit`], and [`Reason::UrlMalformed`] where `location` is no URL.
    #[expect(clippy::result_large_err, reason = "as of `ActionRules::authorize`")]
    pub fn follow(
        &mut self,
        method: &Method,
        url: &Url,
        placements: &[Placement],
        status: u16,
        location: Option<&[u8]>,
    ) -> Result<Option<Hop>, Denial> {
        let Some(location) = location else { return Ok(None) };
        let Some(next_method) = next_method(status, method) else { return Ok(None) };
        self.next(method, url, placements, next_method, location).map_err(|refusal| Denial {
            reason: refusal.reason,
            message: refusal.message,
            hint: refusal.hint,
            missing_scopes: Vec::new(),
            method: method.to_string(),
            host: url.host_str().map(str::to_owned),
        })
    }

    fn next(
        &mut self,
        method: &Method,
        url: &Url,
        placements: &[Placement],
        next_method: Method,
        location: &[u8],
    ) -> Result<Option<Hop>, Refusal> {
        let malformed = || Refusal::new(Reason::UrlMalformed, "the answer redirects to what is no URL");
        let location = std::str::from_utf8(location).map_err(|_| malformed())?;
        let mut next = url.join(location).map_err(|_| malformed())?;
        next.set_fragment(None);
        if url.scheme() == "https" && next.scheme() == "http" {
            let message = "the answer redirects from https to http";
            return Err(Refusal::new(Reason::RedirectDowngrade, message)
                .hint("nothing is followed there; ask the provider for an address with https"));
        }
        let is_foreign = next.origin() != url.origin();
        let keeps_body = next_method == *method;
        if is_foreign && !matches!(next_method, Method::GET | Method::HEAD) {
            return Ok(None);
        }
        let body = match (&self.body, keeps_body && !is_foreign) {
            (_, false) => Body::Empty,
            (Some(Body::Bytes(bytes)), true) => Body::Bytes(bytes.clone()),
            (Some(_), true) => Body::Empty,
            (None, true) => return Ok(None),
        };
        // A server that repeats the query repeats what the host placed there. What another one signed is its own.
        if !is_foreign {
            drop_credential(&mut next, placements);
            mark_credential(&mut next, placements);
        }
        self.been.push((method.clone(), url.clone()));
        let key = (next_method, next);
        if self.been.len() > MAX_HOPS || self.been.contains(&key) {
            let what =
                if self.been.contains(&key) { "in a circle".to_owned() } else { format!("more than {MAX_HOPS} times") };
            return Err(Refusal::new(Reason::RedirectLimit, format!("the answer redirects {what}")));
        }
        if is_foreign {
            self.headers.clear();
            self.body = Some(Body::Empty);
        } else if !keeps_body {
            self.headers.retain(|(name, _)| !describes_body(name));
            self.body = Some(Body::Empty);
        }
        let (method, url) = key;
        let request = GuestRequest {
            method: method.to_string(),
            target: Target::Url(url.into()),
            query: Vec::new(),
            headers: self.headers.clone(),
            body,
        };
        Ok(Some(Hop { request, is_foreign }))
    }
}

fn next_method(status: u16, method: &Method) -> Option<Method> {
    match StatusCode::from_u16(status).ok()? {
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND if *method == Method::POST => Some(Method::GET),
        StatusCode::SEE_OTHER if *method != Method::HEAD => Some(Method::GET),
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::SEE_OTHER
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => Some(method.clone()),
        _ => None,
    }
}

fn describes_body(name: &str) -> bool {
    name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("content-"))
}

fn drop_credential(url: &mut Url, placements: &[Placement]) {
    let Some(query) = url.query() else { return };
    let name = |piece: &str| {
        let name = piece.split('=').next().unwrap_or_default().replace('+', " ");
        percent_encoding::percent_decode_str(&name).decode_utf8_lossy().into_owned()
    };
    let left: Vec<_> = query.split('&').filter(|piece| !is_credential(&name(piece), placements)).collect();
    let left = left.join("&");
    url.set_query(if left.is_empty() { None } else { Some(&left) });
}

/// A server that repeats the path repeats the credential there. It was taken out of the answer, and the host places it
/// anew, where the rule has the place for it.
fn mark_credential(url: &mut Url, placements: &[Placement]) {
    if placements.iter().any(|placement| matches!(placement, Placement::Path { .. })) {
        url.set_path(&url.path().replace(REDACTED, PATH_MARK));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::result_large_err, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const FROM: &str = "https://api.example.com/v1/items?page=2";

    fn request(body: Body) -> GuestRequest {
        let headers = [("x-a", "1"), ("Content-Type", "text/plain"), ("content-language", "de")];
        GuestRequest {
            method: "POST".into(),
            target: Target::Url(FROM.into()),
            query: Vec::new(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.into())).into(),
            body,
        }
    }

    fn follow(method: &str, status: u16, location: &str) -> Result<Option<Hop>, Denial> {
        let key = [Placement::Query { name: "api_key".into(), part: Default::default() }];
        Journey::new(&request(Body::Bytes("body".into()))).follow(
            &method.parse().unwrap(),
            &FROM.parse().unwrap(),
            &key,
            status,
            Some(location.as_bytes()),
        )
    }

    fn method(method: &str, status: u16, location: &str) -> Option<(String, bool, usize)> {
        let hop = follow(method, status, location).unwrap()?;
        let has_body = matches!(&hop.request.body, Body::Bytes(bytes) if bytes == "body");
        Some((hop.request.method, has_body, hop.request.headers.len()))
    }

    #[test]
    fn method_and_body_follow_the_status() {
        for (status, from, expected) in [
            (301, "POST", ("GET", false, 1)),
            (302, "POST", ("GET", false, 1)),
            (303, "POST", ("GET", false, 1)),
            (303, "PUT", ("GET", false, 1)),
            (303, "HEAD", ("HEAD", true, 3)),
            (301, "PUT", ("PUT", true, 3)),
            (302, "GET", ("GET", true, 3)),
            (307, "POST", ("POST", true, 3)),
            (308, "DELETE", ("DELETE", true, 3)),
        ] {
            let (to, has_body, headers) = expected;
            assert_eq!(method(from, status, "/v1/other"), Some((to.to_owned(), has_body, headers)), "{status} {from}");
        }
        for status in [200, 201, 300, 304, 305, 306, 399, 400, 999] {
            assert_eq!(method("GET", status, "/v1/other"), None, "{status}");
        }
        let mut journey = Journey::new(&request(Body::Empty));
        assert!(journey.follow(&Method::GET, &FROM.parse().unwrap(), &[], 302, None).unwrap().is_none());
    }

    #[test]
    fn nothing_goes_along_to_another_origin() {
        for location in [
            "https://cdn.example.net/f?sig=1",
            "//cdn.example.net/f?sig=1",
            "https://api.example.com:8443/f",
            "https://api.example.com.evil.example/f",
        ] {
            for (from, status) in [("GET", 302), ("GET", 307), ("POST", 303), ("POST", 302)] {
                let hop = follow(from, status, location).unwrap().unwrap();
                assert!(hop.is_foreign && matches!(hop.request.body, Body::Empty), "{location}");
                assert_eq!((hop.request.method.as_str(), hop.request.headers.len()), ("GET", 0), "{location}");
            }
            // As a GET it would be another request than the one that was asked for.
            for (from, status) in [("POST", 307), ("PUT", 301), ("DELETE", 308), ("OPTIONS", 307)] {
                assert!(follow(from, status, location).unwrap().is_none(), "{from} {status}");
            }
        }
        for location in ["https://api.example.com/f", "https://API.example.com:443/f", "../f", "?page=3"] {
            assert!(!follow("GET", 302, location).unwrap().unwrap().is_foreign, "{location}");
        }
    }

    #[test]
    fn what_left_the_origin_does_not_get_its_headers_back() {
        let mut journey = Journey::new(&request(Body::Bytes("body".into())));
        let other: Url = "https://cdn.example.net/f".parse().unwrap();
        journey.follow(&Method::GET, &FROM.parse().unwrap(), &[], 302, Some(other.as_str().as_bytes())).unwrap();
        let back = journey.follow(&Method::GET, &other, &[], 302, Some(b"https://api.example.com/x")).unwrap().unwrap();
        assert!(back.is_foreign && back.request.headers.is_empty() && matches!(back.request.body, Body::Empty));
    }

    #[test]
    fn body_that_can_be_sent_only_once_is_not_sent_again() {
        let stream = || Body::Stream { length: None, chunks: Box::pin(futures_util::stream::empty()) };
        let from = FROM.parse().unwrap();
        let mut journey = Journey::new(&request(stream()));
        assert!(journey.follow(&Method::PUT, &from, &[], 307, Some(b"/x")).unwrap().is_none());
        assert!(Journey::new(&request(stream())).follow(&Method::PUT, &from, &[], 303, Some(b"/x")).unwrap().is_some());
    }

    #[test]
    fn downgrade_circle_and_too_many_hops_are_refused() {
        let reason = |location: &str| follow("GET", 302, location).unwrap_err().reason;
        assert_eq!(reason("http://api.example.com/v1/items"), Reason::RedirectDowngrade);
        assert_eq!(reason("http://other.example/"), Reason::RedirectDowngrade);
        assert_eq!(reason(FROM), Reason::RedirectLimit);
        assert_eq!(reason("#top"), Reason::RedirectLimit);
        assert_eq!(reason(""), Reason::RedirectLimit);
        assert_eq!(reason("https://exa mple.com/"), Reason::UrlMalformed);

        let mut journey = Journey::new(&request(Body::Empty));
        let mut at: Url = FROM.parse().unwrap();
        for hop in 1..=6 {
            let location = format!("/v1/{hop}");
            let followed = journey.follow(&Method::GET, &at, &[], 302, Some(location.as_bytes()));
            match hop {
                6 => assert_eq!(followed.unwrap_err().reason, Reason::RedirectLimit),
                _ => assert!(followed.unwrap().is_some()),
            }
            at = at.join(&location).unwrap();
        }
    }

    #[test]
    fn credential_that_the_server_repeats_in_the_path_is_placed_anew() {
        let url = |placements: &[Placement], location: &str| {
            let followed = Journey::new(&request(Body::Empty)).follow(
                &Method::GET,
                &FROM.parse().unwrap(),
                placements,
                307,
                Some(location.as_bytes()),
            );
            match followed.unwrap().unwrap().request.target {
                Target::Url(url) => url,
                Target::Endpoint { .. } => unreachable!("a redirect has a URL"),
            }
        };
        let in_path = [Placement::Path { part: Default::default() }];
        for location in ["/bot[redacted]/n", "https://api.example.com/bot[redacted]/n"] {
            assert_eq!(url(&in_path, location), "https://api.example.com/bot%7Bcredential%7D/n");
            assert_eq!(url(&[], location), "https://api.example.com/bot[redacted]/n");
        }
        let foreign = "https://cdn.example.net/bot[redacted]/n";
        assert_eq!(url(&in_path, foreign), foreign);
    }

    #[test]
    fn credential_that_the_server_repeats_in_the_query_is_dropped() {
        let url = |location: &str| match follow("GET", 302, location).unwrap().unwrap().request.target {
            Target::Url(url) => url,
            Target::Endpoint { .. } => unreachable!("a redirect has a URL"),
        };
        assert_eq!(url("/x?a=1&api_key=[redacted]&b=2"), "https://api.example.com/x?a=1&b=2");
        assert_eq!(url("/x?API%5Fkey=k"), "https://api.example.com/x");
        assert_eq!(url("/x?a=1#part"), "https://api.example.com/x?a=1");
        let signed = "https://cdn.example.net/f?alt=media&api_key=signed";
        assert_eq!(url(signed), signed, "another server's own parameter");
    }
}
