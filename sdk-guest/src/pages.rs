//! Lists that come page by page.

use crate::{Request, Result, http::Response};

/// The pages of a list, by the `Link` header with `rel="next"` (RFC 8288) that GitHub and many others send.
///
/// Each item is a page, whatever its status; after an error and after a status other than 200 to 299 there are no
/// more. The next page's URL must be absolute, and the host checks it like any other.
#[derive(Debug)]
pub struct Pages<'c> {
    next: Option<Request<'c>>,
}

impl<'c> Pages<'c> {
    pub(crate) fn new(first: Request<'c>) -> Self {
        Self { next: Some(first) }
    }

    /// Whether there is a page that was not fetched yet.
    pub fn more(&self) -> bool {
        self.next.is_some()
    }

    fn fetch(&mut self, request: Request<'c>) -> Result<Response> {
        let Request { connection, head, body, .. } = request.complete()?;
        let (method, headers) = (head.method.clone(), head.headers.clone());
        let page = connection.send(head, body)?;
        if page.is_success() {
            self.next = next_page(&page).map(|url| Request::followed_to(connection, &method, url, headers));
        }
        Ok(page)
    }
}

impl Iterator for Pages<'_> {
    type Item = Result<Response>;

    fn next(&mut self) -> Option<Self::Item> {
        let request = self.next.take()?;
        Some(self.fetch(request))
    }
}

/// The URL that the `Link` headers call `next`.
fn next_page(page: &Response) -> Option<String> {
    page.headers
        .all("link")
        .filter_map(|value| std::str::from_utf8(value).ok())
        .find_map(|value| links(value).find(|(_, relations)| is_next(relations)).map(|(url, _)| url.to_owned()))
}

fn is_next(relations: &str) -> bool {
    relations.split_ascii_whitespace().any(|relation| relation.eq_ignore_ascii_case("next"))
}

/// Each `<url>; ...; rel="relations"` of a `Link` header (RFC 8288, section 3). What does not follow the grammar ends
/// the list.
fn links(mut rest: &str) -> impl Iterator<Item = (&str, &str)> {
    std::iter::from_fn(move || {
        let (url, after) = rest.trim_start_matches([' ', '\t', ',']).strip_prefix('<')?.split_once('>')?;
        let mut relations = None;
        rest = after;
        loop {
            rest = rest.trim_start();
            let Some(parameter) = rest.strip_prefix(';') else { break };
            let (name, after) = until(parameter, &['=', ';', ',']);
            let (value, after) = match after.strip_prefix('=') {
                Some(after) => match after.trim_start().strip_prefix('"') {
                    Some(quoted) => quoted_string(quoted)?,
                    None => until(after, &[';', ',']),
                },
                None => ("", after),
            };
            if name.trim().eq_ignore_ascii_case("rel") {
                relations.get_or_insert(value.trim());
            }
            rest = after;
        }
        Some((url, relations.unwrap_or_default()))
    })
}

/// The text before the first of `ends`, and the rest from there.
fn until<'t>(text: &'t str, ends: &[char]) -> (&'t str, &'t str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// The text before the closing quote, with its escapes, and the rest behind that quote.
fn quoted_string(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    Some((&text[..end], &text[end + 1..]))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Error, SendError, SendErrorKind, http::Headers, testing::FakeHost};

    #[test]
    fn next_is_found_in_every_form_of_the_header() {
        for (header, next) in [
            (
                r#"<https://a.test/?page=2>; rel="next", <https://a.test/?page=9>; rel="last""#,
                Some("https://a.test/?page=2"),
            ),
            (r#"<https://a.test/1>; rel="prev",<https://a.test/3>;rel=next"#, Some("https://a.test/3")),
            (r#"<https://a.test/a,b;c>; title="x, y; z"; rel="last NEXT""#, Some("https://a.test/a,b;c")),
            (r#"<https://a.test/1>; crossorigin, <https://a.test/2>; rel="next""#, Some("https://a.test/2")),
            (r#"<https://a.test/2>; crossorigin; rel = "next""#, Some("https://a.test/2")),
            (r#"<https://a.test/2>; title="a \"b\\"; rel=next"#, Some("https://a.test/2")),
            (r#"<https://a.test/2>; rel"#, None),
            (r#"<https://a.test/1>; rel="prev""#, None),
            (r#"<https://a.test/1>; rel="prev"; rel="next""#, None),
            (r#"<https://a.test/1>; title="next""#, None),
            ("https://a.test/1; rel=next", None),
            ("<https://a.test/1; rel=next", None),
            ("", None),
        ] {
            let headers = Headers(vec![("Link".into(), header.into())]);
            let page = Response { status: 200, headers, body: Vec::new() };
            assert_eq!(next_page(&page).as_deref(), next, "{header}");
        }
    }

    #[test]
    fn pages_follow_next_with_the_same_headers_until_there_is_none() {
        let host = FakeHost::new();
        let next = r#"<https://api.test/list?page=2>; rel="next""#;
        host.on("GET", "/list").query("per_page", "1").respond_with(200, &[("link", next)], json!([1]));
        host.on("GET", "https://api.test/list?page=2").respond(200, json!([2]));
        let connection = host.connection();
        let mut pages = connection.get("/list").query("per_page", 1).header("accept", "a/b").paginate();
        let bodies: Vec<_> = pages.by_ref().map(|page| page.unwrap().text().unwrap().to_owned()).collect();
        assert_eq!(bodies, ["[1]", "[2]"]);
        assert!(!pages.more());
        assert!(host.requests().iter().all(|request| request.head.headers.text("accept") == Some("a/b")));
    }

    #[test]
    fn bad_status_is_the_last_page_and_an_error_the_end() {
        let host = FakeHost::new();
        host.on("GET", "/list").respond_with(500, &[("link", r#"<https://api.test/2>; rel="next""#)], ());
        host.on("GET", "/other").fail(SendError::new(SendErrorKind::Timeout, "timeout", "no answer"));
        let connection = host.connection();
        let mut pages = connection.get("/list").paginate();
        assert_eq!(pages.next().unwrap().unwrap().status, 500);
        assert!(pages.next().is_none());
        let mut pages = connection.get("/other").paginate();
        assert!(matches!(pages.next().unwrap(), Err(Error::Http(_))));
        assert!(pages.next().is_none());
    }
}
