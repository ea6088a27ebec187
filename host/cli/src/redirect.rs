//! The loopback server that receives the answer of an authorization (RFC 8252 section 7.3).
//!
//! It listens on 127.0.0.1 alone, answers only to a loopback `Host` (a page of another site that has its
//! name resolved to 127.0.0.1 gets nothing), and hands over the first answer that carries our state.
//! Whether that answer is genuine is for the vault to say; here it is only told apart from noise.
//!
//! Each provider has a redirect URI of its own, so that the answer of one is never taken for that of another, even
//! where neither names itself by `iss` (RFC 9700 section 4.4.2.2).

use std::{net::Ipv4Addr, sync::Arc};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use url::{Url, form_urlencoded};

use crate::failure::{Exit, Failure};

/// What the person reads in the browser at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// One line.
    pub(crate) title: String,
    /// A sentence or two.
    pub(crate) text: String,
    /// Whether it went well.
    pub(crate) good: bool,
}

/// The server while it listens.
pub(crate) struct Redirect {
    url: Url,
    answers: mpsc::Receiver<String>,
    page: watch::Sender<Option<Page>>,
    state: Arc<watch::Sender<Option<String>>>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

struct Shared {
    path: String,
    authorities: [String; 2],
    state: Arc<watch::Sender<Option<String>>>,
    answers: mpsc::Sender<String>,
    page: watch::Receiver<Option<Page>>,
}

impl Redirect {
    /// Listens on `port`, or on a free one, for the answer of `provider`.
    pub(crate) async fn listen(port: Option<u16>, provider: &str) -> Result<Self, Failure> {
        let refused = |error: &std::io::Error| {
            Failure::new(Exit::Environment, "cannot-listen", "cannot listen on 127.0.0.1 for the redirect")
                .because(error)
                .hint("choose another port with --redirect-port")
        };
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, port.unwrap_or(0))).await.map_err(|error| refused(&error))?;
        let port = listener.local_addr().map_err(|error| refused(&error))?.port();
        let mut url = Url::parse(&format!("http://127.0.0.1:{port}/callback")).map_err(|error| {
            Failure::new(Exit::Internal, "internal", "the redirect URL is not valid").because(&error)
        })?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(provider);
        }
        // One answer is enough; what comes while it is being worked on waits for the same page.
        let (answer, answers) = mpsc::channel(1);
        let (page, shown) = watch::channel(None);
        let state = Arc::new(watch::channel(None).0);
        let shared = Shared {
            path: url.path().to_owned(),
            authorities: [format!("127.0.0.1:{port}"), format!("localhost:{port}")],
            state: Arc::clone(&state),
            answers: answer,
            page: shown,
        };
        let router = Router::new().route("/callback/{provider}", get(callback)).with_state(Arc::new(shared));
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(async move {
            let serve = axum::serve(listener, router).with_graceful_shutdown(async move {
                let _ = stopped.await;
            });
            if let Err(error) = serve.await {
                tracing::warn!(%error, "the redirect server failed");
            }
        });
        Ok(Self { url, answers, page, state, stop, server })
    }

    /// The redirect URI to name to the provider.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// From now on an answer with this state is taken.
    pub(crate) fn expect(&self, state: &str) {
        self.state.send_replace(Some(state.to_owned()));
    }

    /// The query of the first answer.
    pub(crate) async fn answer(&mut self) -> Option<String> {
        self.answers.recv().await
    }

    /// Shows `page` to everybody who waits or comes again, and ends.
    pub(crate) async fn finish(self, page: Page) {
        self.page.send_replace(Some(page));
        let _ = self.stop.send(());
        // A browser may keep a second connection open without ever using it.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), self.server).await;
    }
}

async fn callback(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !shared.authorities.iter().any(|authority| authority.eq_ignore_ascii_case(host)) {
        return (StatusCode::MISDIRECTED_REQUEST, "this server answers to 127.0.0.1 alone\n").into_response();
    }
    if uri.path() != shared.path {
        return (StatusCode::NOT_FOUND, "Keyward waits for another provider\n").into_response();
    }
    let query = query.unwrap_or_default();
    let answered = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "state").map(|(_, value)| value);
    let expected = shared.state.borrow().clone();
    if expected.is_none() || expected.as_deref() != answered.as_deref() {
        return show(
            StatusCode::BAD_REQUEST,
            &Page {
                title: "This is not the answer that Keyward waits for".to_owned(),
                text: "Nothing was changed. Use the address that the command line shows.".to_owned(),
                good: false,
            },
        );
    }
    // A second hit (a reload, a browser that asks twice) is not handed over: it gets the page of the first.
    let _ = shared.answers.try_send(query);
    let mut page = shared.page.clone();
    match page.wait_for(Option::is_some).await {
        Ok(page) => match page.as_ref() {
            Some(page) => show(StatusCode::OK, page),
            None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        },
        Err(_) => (StatusCode::GONE, "Keyward no longer waits for this answer\n").into_response(),
    }
}

fn show(status: StatusCode, page: &Page) -> Response {
    let mark = if page.good { "✓" } else { "✗" };
    let colour = if page.good { "#1a7f37" } else { "#b3261e" };
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title} · Keyward</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:32rem;margin:18vh auto;padding:0 1.5rem;\
         color-scheme:light dark}}h1{{font-size:1.4rem}}h1 span{{color:{colour}}}p{{overflow-wrap:anywhere}}</style>\n\
         <h1><span aria-hidden=\"true\">{mark}</span> {title}</h1>\n<p>{text}</p>\n</html>\n",
        title = escape(&page.title),
        text = escape(&page.text),
    );
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ];
    (status, headers, Html(html)).into_response()
}

/// `text` as HTML text.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
        escaped
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn hit(url: &Url, target: &str, host: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", url.port().unwrap())).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn authority(redirect: &Redirect) -> String {
        format!("127.0.0.1:{}", redirect.url().port().unwrap())
    }

    #[tokio::test]
    async fn two_hits_hand_over_one_answer_and_see_the_same_page() {
        let mut redirect = Redirect::listen(None, "github").await.unwrap();
        let (url, host) = (redirect.url().clone(), authority(&redirect));
        redirect.expect("state-test");
        let target = "/callback/github?code=code-test&state=state-test";
        let first = tokio::spawn({
            let (url, host) = (url.clone(), host.clone());
            async move { hit(&url, target, &host).await }
        });
        assert_eq!(redirect.answer().await.unwrap(), "code=code-test&state=state-test");
        let page = Page { title: "Connected <x>".to_owned(), text: "You can close this".to_owned(), good: true };
        redirect.page.send_replace(Some(page.clone()));
        for answer in [first.await.unwrap(), hit(&url, target, &host).await] {
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Connected &lt;x&gt;"), "{answer}");
        }
        redirect.finish(page).await;
        assert!(TcpStream::connect(("127.0.0.1", url.port().unwrap())).await.is_err(), "it still listens");
    }

    #[tokio::test]
    async fn an_answer_without_our_state_is_not_taken() {
        let mut redirect = Redirect::listen(None, "github").await.unwrap();
        let (url, host) = (redirect.url().clone(), authority(&redirect));
        assert!(
            hit(&url, "/callback/github?state=", &host).await.starts_with("HTTP/1.1 400"),
            "before one is expected"
        );
        redirect.expect("state-test");
        for target in [
            "/callback/github",
            "/callback/github?state=other",
            "/callback/github?code=state-test",
            "/callback/github?state=",
        ] {
            assert!(hit(&url, target, &host).await.starts_with("HTTP/1.1 400"), "{target}");
        }
        for target in ["/favicon.ico", "/callback?state=state-test", "/callback/slack?state=state-test"] {
            assert!(hit(&url, target, &host).await.starts_with("HTTP/1.1 404"), "{target}");
        }
        assert!(redirect.answers.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_host_that_is_not_loopback_gets_nothing() {
        let mut redirect = Redirect::listen(None, "github").await.unwrap();
        redirect.expect("state-test");
        let port = redirect.url().port().unwrap();
        for host in ["evil.example", "evil.example:80", "127.0.0.1", &format!("127.0.0.1.evil.example:{port}")] {
            let answer = hit(redirect.url(), "/callback/github?state=state-test", host).await;
            assert!(answer.starts_with("HTTP/1.1 421"), "{host}: {answer}");
        }
        assert!(redirect.answers.try_recv().is_err());
    }
}
