//! A server that gives back whatever it was sent, in every encoding that a server plausibly produces: what a guest
//! would use to read the credential.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

/// What the server saw of one request.
#[derive(Debug, Clone)]
pub struct Received {
    /// The method.
    pub method: String,
    /// Path and query, as they came over the wire.
    pub target: String,
    /// The headers.
    pub headers: Vec<(String, String)>,
}

/// An echoing server on a free port.
#[derive(Debug)]
pub struct EchoServer {
    /// Its base URL.
    pub url: String,
    received: Arc<Mutex<Vec<Received>>>,
    server: JoinHandle<()>,
}

impl EchoServer {
    /// Starts it.
    ///
    /// - `/echo/<encoding>` answers with the request's headers and query in that encoding (see [`encode`]);
    /// - `/chunks/<size>` answers with them verbatim in chunks of `size` bytes;
    /// - `/part/<number>/<encoding>` answers with one half (1 or 2) of the token in that encoding;
    /// - `/header` puts the `authorization` header's value into headers of the response;
    /// - `/redirect?to=<url>` redirects with 302, `/moved?to=<url>` with 307; `/status/<code>` answers with that status; `/bytes/<count>` with that many;
    ///   `/slow` answers after 40 s.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let received = Arc::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&received));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { url, received, server })
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        self.url.trim_start_matches("http://").to_owned()
    }

    /// Every request so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The encodings that [`encode`] knows.
pub const ENCODINGS: &[&str] = &[
    "verbatim",
    "json",
    "json-unicode",
    "percent",
    "percent-all",
    "percent-lower",
    "percent-twice",
    "base64",
    "base64-shift-1",
    "base64-shift-2",
    "base64-no-pad",
    "base64-url",
    "base64-url-no-pad",
    "base64-folded-76",
    "base64-folded-64-crlf",
    "hex",
    "hex-upper",
    "html-decimal",
    "html-hex",
    "utf16-le",
    "utf16-be",
];

/// `text` in one of [`ENCODINGS`].
pub fn encode(encoding: &str, text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let percent = |all: bool, upper: bool| -> String {
        bytes
            .iter()
            .map(|&byte| match (all || !byte.is_ascii_alphanumeric(), upper) {
                (false, _) => char::from(byte).to_string(),
                (true, true) => format!("%{byte:02X}"),
                (true, false) => format!("%{byte:02x}"),
            })
            .collect()
    };
    let folded = |width: usize, end: &str| -> String {
        let encoded = STANDARD.encode(bytes);
        let lines: Vec<String> =
            encoded.as_bytes().chunks(width).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        lines.join(end)
    };
    let shifted = |count: usize| STANDARD.encode([vec![b'~'; count], bytes.to_vec()].concat());
    let entities = |form: fn(u32) -> String| text.chars().map(|c| form(c.into())).collect::<String>();
    Some(match encoding {
        "verbatim" => bytes.to_vec(),
        "json" => json!({ "echo": text }).to_string().into_bytes(),
        "json-unicode" => entities(|code| format!("\\u{code:04x}")).into_bytes(),
        "percent" => percent(false, true).into_bytes(),
        "percent-all" => percent(true, true).into_bytes(),
        "percent-lower" => percent(true, false).into_bytes(),
        "percent-twice" => percent(true, true).replace('%', "%25").into_bytes(),
        "base64" => STANDARD.encode(bytes).into_bytes(),
        "base64-shift-1" => shifted(1).into_bytes(),
        "base64-shift-2" => shifted(2).into_bytes(),
        "base64-no-pad" => STANDARD_NO_PAD.encode(bytes).into_bytes(),
        "base64-url" => URL_SAFE.encode(bytes).into_bytes(),
        "base64-url-no-pad" => URL_SAFE_NO_PAD.encode(bytes).into_bytes(),
        "base64-folded-76" => folded(76, "\n").into_bytes(),
        "base64-folded-64-crlf" => folded(64, "\r\n").into_bytes(),
        "hex" => hex::encode(bytes).into_bytes(),
        "hex-upper" => hex::encode_upper(bytes).into_bytes(),
        "html-decimal" => entities(|code| format!("&#{code};")).into_bytes(),
        "html-hex" => entities(|code| format!("&#x{code:x};")).into_bytes(),
        "utf16-le" => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        "utf16-be" => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        _ => return None,
    })
}

async fn answer(State(received): State<Arc<Mutex<Vec<Received>>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, 16 << 20).await else { return StatusCode::BAD_REQUEST.into_response() };
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let target = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let mut text: String = headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    text.push_str(&target);
    text.push('\n');
    text.push_str(&String::from_utf8_lossy(&body));
    received.lock().unwrap_or_else(PoisonError::into_inner).push(Received {
        method: head.method.to_string(),
        target: target.clone(),
        headers,
    });

    let segments: Vec<&str> = head.uri.path().trim_start_matches('/').splitn(2, '/').collect();
    match segments.as_slice() {
        ["echo", encoding] => match encode(encoding, &text) {
            Some(encoded) => encoded.into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
        ["chunks", size] => {
            let size = size.parse().unwrap_or(1).max(1);
            let chunks: Vec<Result<Bytes, std::io::Error>> =
                text.as_bytes().chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            Body::from_stream(stream::iter(chunks)).into_response()
        }
        ["part", part] => {
            let (number, encoding) = part.split_once('/').unwrap_or((part, ""));
            let value = head.headers.get("authorization").map(|value| String::from_utf8_lossy(value.as_bytes()));
            let token = value.as_deref().and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
            match encode(encoding, token) {
                Some(encoded) => {
                    let (first, second) = encoded.split_at(encoded.len() / 2);
                    if number == "1" { first } else { second }.to_vec().into_response()
                }
                None => StatusCode::NOT_FOUND.into_response(),
            }
        }
        ["header"] => {
            let mut response = "see the headers".into_response();
            let secret = head.headers.get("authorization").map(HeaderValue::as_bytes).unwrap_or_default();
            let forms = [
                ("x-echo", secret.to_vec()),
                ("x-echo-base64", STANDARD.encode(secret).into_bytes()),
                ("x-echo-hex", hex::encode(secret).into_bytes()),
            ];
            for (name, value) in forms {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    response.headers_mut().insert(HeaderName::from_static(name), value);
                }
            }
            response
        }
        [how @ ("redirect" | "moved")] => {
            let status = if *how == "moved" { StatusCode::TEMPORARY_REDIRECT } else { StatusCode::FOUND };
            let query = url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
            let to = query.into_iter().find(|(name, _)| name == "to").map(|(_, to)| to.into_owned());
            match to.and_then(|to| HeaderValue::from_str(&to).ok()) {
                Some(to) => (status, [("location", to)]).into_response(),
                None => StatusCode::BAD_REQUEST.into_response(),
            }
        }
        ["slow"] => {
            tokio::time::sleep(Duration::from_secs(40)).await;
            "late".into_response()
        }
        ["status", code] => code
            .parse::<u16>()
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok())
            .unwrap_or(StatusCode::BAD_REQUEST)
            .into_response(),
        ["bytes", count] => vec![b'x'; count.parse().unwrap_or(0)].into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
