//! A connector whose requests go out over `wasi:http`, as those of connectors in other languages do. The acceptance
//! tests look at what of the host's rules it can get around.
#![cfg(target_arch = "wasm32")]

use keyward::prelude::*;
use wasip2::{
    clocks::monotonic_clock::subscribe_duration,
    http::{
        outgoing_handler::handle,
        types::{
            ErrorCode, Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions,
            Scheme,
        },
    },
    io::streams::{InputStream, StreamError},
};

keyward::connector!(any_request, upload, download, hoard, hoard_unsent, hoard_pollables);

/// Any request at all: what it says reaches the host as it is.
#[derive(Deserialize, JsonSchema)]
struct AnyRequest {
    /// The method, in any spelling.
    #[serde(default = "get")]
    method: String,
    /// `<scheme>://<authority><path and query>`, cut at those places and not looked at.
    url: String,
    /// Headers.
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// The body.
    body: Option<String>,
    /// How long to wait for the first byte, milliseconds.
    first_byte_ms: Option<u64>,
}

fn get() -> String {
    "GET".to_owned()
}

/// Everything that came back.
#[derive(Default, Serialize, JsonSchema)]
struct Outcome {
    /// The status; 0 where there was no response.
    status: u16,
    /// The headers.
    headers: Vec<(String, String)>,
    /// The body.
    body: String,
    /// The error code, or where the guest's side refused it.
    error: Option<String>,
}

/// Sends a request.
#[action]
fn any_request(input: AnyRequest, _connection: &Connection) -> Result<Outcome> {
    Ok(any(&input).unwrap_or_else(|error| Outcome { error: Some(error), ..Outcome::default() }))
}

fn any(input: &AnyRequest) -> Result<Outcome, String> {
    let request = request(&input.method, &input.url, &input.headers)?;
    let options = RequestOptions::new();
    if let Some(ms) = input.first_byte_ms {
        options.set_first_byte_timeout(Some(ms * 1_000_000)).map_err(|()| "options")?;
    }
    let body = request.body().map_err(|()| "body")?;
    let response = handle(request, Some(options)).map_err(code)?;
    if let Some(text) = &input.body {
        let stream = body.write().map_err(|()| "write")?;
        for chunk in text.as_bytes().chunks(4096) {
            stream.blocking_write_and_flush(chunk).map_err(broken)?;
        }
    }
    OutgoingBody::finish(body, None).map_err(code)?;
    let response = arrived(&response)?;
    let headers = response.headers().entries();
    let headers = headers.into_iter().map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()));
    let mut outcome = Outcome { status: response.status(), headers: headers.collect(), ..Outcome::default() };
    let mut body = Vec::new();
    match read(&response, |chunk| body.extend(chunk)) {
        Ok(()) => outcome.body = String::from_utf8_lossy(&body).into_owned(),
        Err(error) => outcome.error = Some(error),
    }
    Ok(outcome)
}

/// A request, as its parts say.
fn request(method: &str, url: &str, headers: &[(String, String)]) -> Result<OutgoingRequest, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no scheme")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let fields: Vec<_> = headers.iter().map(|(name, value)| (name.clone(), value.as_bytes().to_vec())).collect();
    let request = OutgoingRequest::new(Fields::from_list(&fields).map_err(|error| format!("{error:?}"))?);
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    request.set_scheme(Some(&scheme)).map_err(|()| "scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "authority")?;
    request.set_path_with_query(Some(path)).map_err(|()| "path")?;
    let method = match method {
        "GET" => Method::Get,
        "POST" => Method::Post,
        other => Method::Other(other.to_owned()),
    };
    request.set_method(&method).map_err(|()| "method")?;
    Ok(request)
}

fn code(code: ErrorCode) -> String {
    format!("{code:?}")
}

fn broken(error: StreamError) -> String {
    match error {
        StreamError::Closed => "closed".to_owned(),
        StreamError::LastOperationFailed(error) => error.to_debug_string(),
    }
}

/// Waits for the response.
fn arrived(response: &wasip2::http::types::FutureIncomingResponse) -> Result<IncomingResponse, String> {
    response.subscribe().block();
    match response.get() {
        Some(Ok(Ok(response))) => Ok(response),
        Some(Ok(Err(error))) => Err(code(error)),
        Some(Err(())) | None => Err("no response".to_owned()),
    }
}

/// Reads the body to its end.
fn read(response: &IncomingResponse, mut take: impl FnMut(Vec<u8>)) -> Result<(), String> {
    let body = response.consume().map_err(|()| "consume")?;
    let stream: InputStream = body.stream().map_err(|()| "stream")?;
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(chunk) => take(chunk),
            Err(StreamError::Closed) => break,
            Err(error) => return Err(broken(error)),
        }
    }
    drop(stream);
    drop(IncomingBody::finish(body));
    Ok(())
}

/// What to send.
#[derive(Deserialize, JsonSchema)]
struct Upload {
    /// Where to.
    url: String,
    /// How many bytes.
    bytes: u64,
    /// The length that is declared, where one is.
    declared: Option<u64>,
    /// How it ends.
    end: End,
}

/// How a body ends.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum End {
    /// As it should.
    Finish,
    /// With a trailer.
    Trailers,
    /// By being dropped.
    Drop,
    /// Not before the call ends.
    Return,
    /// With the guest.
    Panic,
}

/// How a stream ended.
#[derive(Serialize, JsonSchema)]
struct Streamed {
    /// The status; 0 where there was no response.
    status: u16,
    /// How many bytes went or came.
    bytes: u64,
    /// Why it ended early.
    error: Option<String>,
}

impl Streamed {
    fn new(bytes: u64, outcome: Result<u16, String>) -> Self {
        match outcome {
            Ok(status) => Self { status, bytes, error: None },
            Err(error) => Self { status: 0, bytes, error: Some(error) },
        }
    }
}

/// Streams a request's body.
#[action]
fn upload(input: Upload, _connection: &Connection) -> Result<Streamed> {
    let mut bytes = 0;
    let outcome = send(&input, &mut bytes);
    Ok(Streamed::new(bytes, outcome))
}

fn send(input: &Upload, bytes: &mut u64) -> Result<u16, String> {
    let length = input.declared.map(|length| ("content-length".to_owned(), length.to_string()));
    let request = request("POST", &input.url, length.as_slice())?;
    let body = request.body().map_err(|()| "body")?;
    let response = handle(request, None).map_err(code)?;
    let stream = body.write().map_err(|()| "write")?;
    let chunk = [b'x'; 4096];
    let mut outcome = Ok(());
    while *bytes < input.bytes && outcome.is_ok() {
        let count = (input.bytes - *bytes).min(4096);
        outcome = stream.blocking_write_and_flush(&chunk[..count as usize]);
        *bytes += if outcome.is_ok() { count } else { 0 };
    }
    match input.end {
        End::Return => {
            std::mem::forget((stream, body, response));
            return Ok(0);
        }
        End::Panic => panic!("with a body half written"),
        _ => drop(stream),
    }
    match input.end {
        End::Drop => drop(body),
        End::Trailers => {
            let trailers = Fields::from_list(&[("x-trailer".to_owned(), b"1".to_vec())]);
            OutgoingBody::finish(body, Some(trailers.map_err(|error| format!("{error:?}"))?)).map_err(code)?;
        }
        // What the response says is said better, where the stream broke.
        _ => match (OutgoingBody::finish(body, None), outcome) {
            (Err(error), Ok(())) => return Err(code(error)),
            _ => {}
        },
    }
    Ok(arrived(&response)?.status())
}

/// What to read.
#[derive(Deserialize, JsonSchema)]
struct Download {
    /// Where from.
    url: String,
}

/// Streams a response's body and keeps none of it.
#[action]
fn download(input: Download, _connection: &Connection) -> Result<Streamed> {
    let mut bytes = 0;
    let outcome = request("GET", &input.url, &[]).and_then(|request| {
        let response = arrived(&handle(request, None).map_err(code)?)?;
        read(&response, |chunk| bytes += chunk.len() as u64)?;
        Ok(response.status())
    });
    Ok(Streamed::new(bytes, outcome))
}

/// How many.
#[derive(Deserialize, JsonSchema)]
struct Hoard {
    /// Where from.
    url: String,
    /// How many.
    count: u32,
    /// Whether what came back is let go.
    #[serde(default)]
    release: bool,
}

/// How many there were.
#[derive(Serialize, JsonSchema)]
struct Hoarded {
    /// How many there were.
    held: u32,
    /// Why there were no more.
    error: Option<String>,
}

/// Sends requests one after another.
#[action]
fn hoard(input: Hoard, _connection: &Connection) -> Result<Hoarded> {
    let mut kept = Vec::new();
    for held in 0..input.count {
        let outcome =
            request("GET", &input.url, &[]).and_then(|request| arrived(&handle(request, None).map_err(code)?));
        match outcome {
            Ok(response) if input.release => drop(response),
            Ok(response) => kept.push(response),
            Err(error) => return Ok(Hoarded { held, error: Some(error) }),
        }
    }
    Ok(Hoarded { held: input.count, error: None })
}

/// What to make.
#[derive(Deserialize, JsonSchema)]
struct HoardPollables {
    /// How many.
    count: u32,
}

/// Makes resources and lets go of none.
#[action]
fn hoard_pollables(input: HoardPollables, _connection: &Connection) -> Result<u32> {
    for _ in 0..input.count {
        std::mem::forget(subscribe_duration(1));
    }
    Ok(input.count)
}

/// What to make.
#[derive(Deserialize, JsonSchema)]
struct HoardUnsent {
    /// How many requests.
    count: u32,
    /// How many bytes of headers in each.
    header_bytes: usize,
    /// How many bytes of body in each.
    body_bytes: usize,
    /// Which part of each is kept, where it is not all.
    keep: Option<Keep>,
}

/// A part of a request.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Keep {
    /// Nothing.
    None,
    /// Headers that are in no request.
    Fields,
    /// What the request tells of its headers.
    Headers,
    /// A copy of what the request tells of its headers.
    Copy,
    /// The body.
    Body,
}

/// Makes requests that are never sent.
#[action]
fn hoard_unsent(input: HoardUnsent, _connection: &Connection) -> Result<u32> {
    for _ in 0..input.count {
        let header = ("x-a".to_owned(), "x".repeat(input.header_bytes));
        let Ok(request) = request("POST", "https://api.example.com/", &[header]) else { return Ok(0) };
        let Ok(body) = request.body() else { return Ok(0) };
        let Ok(stream) = body.write() else { return Ok(0) };
        let mut left = input.body_bytes as u64;
        while let Ok(permit) = stream.check_write()
            && permit.min(left) > 0
        {
            let _ = stream.write(&vec![b'x'; permit.min(left) as usize]);
            left -= permit.min(left);
        }
        match input.keep {
            None => std::mem::forget((request, body, stream)),
            Some(Keep::None) => {}
            Some(Keep::Fields) => std::mem::forget(Fields::from_list(&request.headers().entries())),
            Some(Keep::Headers) => std::mem::forget(request.headers()),
            Some(Keep::Copy) => std::mem::forget(request.headers().clone()),
            Some(Keep::Body) => std::mem::forget((body, stream)),
        }
    }
    Ok(input.count)
}
