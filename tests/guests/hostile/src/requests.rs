//! Requests that the manifest does not allow.

use keyward::{
    SendError, SendErrorKind, Sent,
    bindings::keyward::connector::http as wire,
    http::{Headers, RequestHead, ResponseHead, Target},
    prelude::*,
};

/// Any request at all: what it says reaches the host as it is.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct AnyRequest {
    /// The method, in any spelling.
    #[serde(default = "get")]
    pub(crate) method: String,
    /// The endpoint's name.
    #[serde(default = "api")]
    pub(crate) endpoint: String,
    /// The path below the endpoint.
    #[serde(default)]
    pub(crate) path: String,
    /// An absolute URL in the place of endpoint and path.
    pub(crate) url: Option<String>,
    /// Query parameters.
    #[serde(default)]
    pub(crate) query: Vec<(String, String)>,
    /// Headers.
    #[serde(default)]
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: Option<String>,
    /// Whether to send it by an exchange.
    #[serde(default)]
    pub(crate) stream: bool,
    /// Whether to panic with everything that came back.
    #[serde(default)]
    pub(crate) panic: bool,
}

fn get() -> String {
    "GET".to_owned()
}

fn api() -> String {
    "api".to_owned()
}

/// Everything that came back.
#[derive(Default, Serialize, JsonSchema)]
pub(crate) struct Outcome {
    /// The status; 0 where there was no response.
    pub(crate) status: u16,
    /// The headers.
    headers: Vec<(String, String)>,
    /// The body.
    body: String,
    /// Why there was no response, or not all of it.
    error: Option<Refusal>,
}

/// A [`SendError`] as data.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Refusal {
    /// The case, for example `denied`.
    kind: &'static str,
    /// The reason code.
    reason: String,
    /// The text.
    message: String,
    /// Whether the request reached the server: `no`, `maybe` or `yes`.
    sent: &'static str,
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        let kind = match error.kind {
            SendErrorKind::Denied => "denied",
            SendErrorKind::InsufficientScope { .. } => "insufficient-scope",
            SendErrorKind::ReconnectRequired => "reconnect-required",
            SendErrorKind::RateLimited { .. } => "rate-limited",
            SendErrorKind::Timeout => "timeout",
            SendErrorKind::TooLarge { .. } => "too-large",
            SendErrorKind::Unreachable => "unreachable",
            _ => "other",
        };
        let sent = match error.sent {
            Sent::No => "no",
            Sent::Maybe => "maybe",
            Sent::Yes => "yes",
        };
        Self { kind, reason: error.reason, message: error.message, sent }
    }
}

impl From<SendError> for Outcome {
    fn from(error: SendError) -> Self {
        Self { error: Some(error.into()), ..Self::default() }
    }
}

impl Outcome {
    fn new(status: u16, headers: Headers, body: &[u8]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = headers.0.into_iter().map(|(name, value)| (name, text(&value))).collect();
        Self { status, headers, body: text(body), error: None }
    }
}

/// Sends a request as it is.
pub(crate) fn send(request: AnyRequest, connection: &Connection) -> Outcome {
    let AnyRequest { method, endpoint, path, url, query, headers, body, stream, panic } = request;
    let target = match url {
        Some(url) => Target::Url(url),
        None => Target::Endpoint { endpoint, path },
    };
    let headers = Headers(headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect());
    let head = RequestHead { method, target, query, headers };
    let body = body.map(String::into_bytes);
    let outcome = if stream {
        by_exchange(head, body, connection)
    } else {
        match connection.send(head, body) {
            Ok(response) => Outcome::new(response.status, response.headers, &response.body),
            Err(error) => error.into(),
        }
    };
    if panic {
        panic!("{} {:?} {}", outcome.status, outcome.headers, outcome.body);
    }
    outcome
}

fn by_exchange(head: RequestHead, body: Option<Vec<u8>>, connection: &Connection) -> Outcome {
    let begun = connection.start(head, None).and_then(|exchange| {
        exchange.write(&body.unwrap_or_default())?;
        let head = exchange.finish()?;
        Ok((exchange, head))
    });
    let (exchange, ResponseHead { status, headers }) = match begun {
        Ok(begun) => begun,
        Err(error) => return error.into(),
    };
    let mut body = Vec::new();
    let error = loop {
        match exchange.read(7) {
            Ok(Some(chunk)) => body.extend(chunk),
            Ok(None) => break None,
            Err(error) => break Some(error.into()),
        }
    };
    Outcome { error, ..Outcome::new(status, headers, &body) }
}

/// Sends any request and tells all that came back.
#[action]
pub(crate) fn any_request(input: AnyRequest, connection: &Connection) -> Result<Outcome> {
    Ok(send(input, connection))
}

/// The same, where the manifest names a scope.
#[action]
pub(crate) fn scoped_request(input: AnyRequest, connection: &Connection) -> Result<Outcome> {
    Ok(send(input, connection))
}

/// The same, where the manifest declares no request.
#[action]
pub(crate) fn no_request(input: AnyRequest, connection: &Connection) -> Result<Outcome> {
    Ok(send(input, connection))
}

/// How to say it.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Say {
    /// In the output.
    Output,
    /// As numbers in the output.
    Numbers,
    /// In the log.
    Log,
    /// In several lines of the log.
    Lines,
    /// As the text of a panic.
    Panic,
    /// As the text of an error, beyond where that is cut.
    Fail,
    /// As the code of an error.
    Code,
}

/// What to put together.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Assemble {
    /// How the server encodes it.
    encoding: String,
    /// How to say it.
    say: Say,
}

/// Gets the token in two parts that show it nowhere, and says the whole.
#[action]
pub(crate) fn assemble(input: Assemble, connection: &Connection) -> Result<Value> {
    let mut token = String::new();
    for number in [1, 2] {
        let part = connection
            .get("/part/{number}/{encoding}")
            .path("number", number)
            .path("encoding", &input.encoding)
            .send()?;
        token.push_str(&String::from_utf8_lossy(&part.body));
    }
    match input.say {
        Say::Output => return Ok(token.into()),
        Say::Numbers => return Ok(token.into_bytes().into()),
        Say::Log => keyward::info!("the token is {token}"),
        Say::Lines => {
            let (first, second) = token.split_at(token.len() / 2);
            keyward::info!("{first}");
            keyward::info!("{second}");
        }
        Say::Panic => panic!("the token is {token}"),
        Say::Fail => return Err(Error::Other(format!("{} {token}", "x".repeat(2030)))),
        Say::Code => {
            return Err(Failure {
                code: token,
                message: "see the code".to_owned(),
                status: None,
                retryable: false,
                retry_after: None,
            }
            .into());
        }
    }
    Ok(Value::Null)
}

/// A header of any bytes.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ForgeHeader {
    /// The path.
    path: String,
    /// The name.
    name: String,
    /// The value, one number a byte.
    value: Vec<u8>,
}

/// Sends a header that may be the host's, or no header at all.
#[action]
pub(crate) fn forge_header(input: ForgeHeader, connection: &Connection) -> Result<Outcome> {
    let target = Target::Endpoint { endpoint: api(), path: input.path };
    let headers = Headers(vec![(input.name, input.value)]);
    let head = RequestHead { method: get(), target, query: Vec::new(), headers };
    Ok(match connection.send(head, None) {
        Ok(response) => Outcome::new(response.status, response.headers, &response.body),
        Err(error) => error.into(),
    })
}

/// Where to begin.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct FollowRedirects {
    /// The first request.
    first: AnyRequest,
    /// How many redirects to follow.
    hops: u32,
}

/// Follows redirects by hand, wherever they lead; each hop's outcome.
#[action]
pub(crate) fn follow_redirects(input: FollowRedirects, connection: &Connection) -> Result<Vec<Outcome>> {
    let mut outcomes = vec![send(input.first, connection)];
    for _ in 0..input.hops {
        let location = outcomes.last().and_then(|outcome| {
            let header = outcome.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("location"));
            header.map(|(_, location)| location.clone())
        });
        let Some(location) = location else { break };
        let request = AnyRequest {
            method: get(),
            endpoint: api(),
            path: String::new(),
            url: Some(location),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            stream: false,
            panic: false,
        };
        outcomes.push(send(request, connection));
    }
    Ok(outcomes)
}

/// How many requests.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ManyRequests {
    /// The path.
    path: String,
    /// How many.
    count: u32,
    /// Whether a refused one ends it.
    stop: bool,
}

/// How many were answered.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answered {
    /// How many were answered.
    answered: u32,
    /// How the last one ended.
    last: Outcome,
}

/// Sends requests as fast as it can.
#[action]
pub(crate) fn many_requests(input: ManyRequests, connection: &Connection) -> Result<Answered> {
    let (mut answered, mut last) = (0, Outcome::default());
    for _ in 0..input.count {
        let target = Target::Endpoint { endpoint: api(), path: input.path.clone() };
        let head = RequestHead { method: get(), target, query: Vec::new(), headers: Headers::default() };
        last = match connection.send(head, None) {
            Ok(response) => {
                answered += 1;
                Outcome::new(response.status, response.headers, &response.body)
            }
            Err(error) => error.into(),
        };
        if input.stop && last.error.is_some() {
            break;
        }
    }
    Ok(Answered { answered, last })
}

/// Which handle.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ForgeHandle {
    /// Its number.
    handle: u32,
    /// The path.
    path: String,
}

/// Uses a connection that it was not given.
#[action]
pub(crate) fn forge_handle(input: ForgeHandle, _: &Connection) -> Result<u16> {
    // SAFETY: it is not: the handle belongs to nobody, which is the attack.
    let connection = unsafe { wire::Connection::from_handle(input.handle) };
    let target = wire::Target::Endpoint(wire::EndpointPath { endpoint: api(), path: input.path });
    let head = wire::RequestHead { method: get(), target, query: Vec::new(), headers: Vec::new() };
    Ok(connection.send(&head, None).map_or(0, |response| response.status))
}
