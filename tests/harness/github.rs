//! A GitHub API that checks tokens: the stateful emulator behind a resource server that asks the authorization
//! server about every token (RFC 7662), enforces its scopes and writes down what it was sent.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    authorization_server::{AuthorizationServer, RESOURCE_ID, RESOURCE_SECRET},
    process::NodeServer,
};

const EMULATOR_TOKEN: &str = "test-emulator-token";

/// One request that reached the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// The path, as it came over the wire.
    pub path: String,
    /// The query, as it came over the wire.
    pub query: Option<String>,
    /// The bearer token as it came, for the test to look for elsewhere.
    pub token: Option<String>,
    /// Whether the authorization server calls the token active.
    pub token_active: bool,
    /// The body.
    pub body: String,
    /// What the API answered; 0 while it has not.
    pub status: u16,
}

struct Shared {
    http: reqwest::Client,
    issuer: String,
    emulator: String,
    seen: Mutex<Vec<Seen>>,
    /// The number of requests that were carried out.
    count: watch::Sender<usize>,
    /// Tokens that the API refuses, whatever the authorization server says.
    refused: Mutex<BTreeSet<String>>,
    /// From which request on (counted from 1) the answer is held back.
    hold_from: watch::Sender<Option<usize>>,
}

/// The API on a free port.
pub struct GithubApi {
    _emulator: NodeServer,
    /// Its base URL.
    pub url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl GithubApi {
    /// Starts one with the repositories `octocat/hello-world` and `octocat/other`, which trusts `authorization`.
    pub async fn start(authorization: &AuthorizationServer) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let emulator = NodeServer::start(
            "github-api.mjs",
            &json!({
                "baseUrl": url,
                "seed": {
                    "tokens": {EMULATOR_TOKEN: {"login": "octocat", "scopes": ["repo", "user"]}},
                    "github": {
                        "users": [{"login": "octocat", "name": "The Octocat"}],
                        "repos": [
                            {"owner": "octocat", "name": "hello-world", "auto_init": true},
                            {"owner": "octocat", "name": "other", "auto_init": true},
                        ],
                    },
                },
            }),
        )?;
        let shared = Arc::new(Shared {
            http: reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?,
            issuer: authorization.issuer.clone(),
            emulator: emulator.said("url")?,
            seen: Mutex::default(),
            count: watch::Sender::new(0),
            refused: Mutex::default(),
            hold_from: watch::Sender::new(None),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { _emulator: emulator, url, shared, server })
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        self.url.trim_start_matches("http://").to_owned()
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when `count` requests have been carried out.
    pub async fn wait_for(&self, count: usize) -> Result<()> {
        let mut seen = self.shared.count.subscribe();
        seen.wait_for(|seen| *seen >= count).await.context("the API has ended")?;
        Ok(())
    }

    /// Carries out the request with this number (counted from 1) and those after it, but holds their answers back
    /// until [`GithubApi::release`].
    pub fn hold_answers_from(&self, number: usize) {
        self.shared.hold_from.send_replace(Some(number));
    }

    /// Lets the answers go.
    pub fn release(&self) {
        self.shared.hold_from.send_replace(None);
    }

    /// Refuses the tokens that it has seen, as an API does that was told of their end before we were.
    pub fn refuse_tokens_so_far(&self) {
        let tokens = self.seen().into_iter().filter_map(|request| request.token);
        self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner).extend(tokens);
    }

    /// What the emulator holds at `path`, asked with its own token and not written down.
    pub async fn state(&self, path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.shared.emulator);
        let response = self.shared.http.get(url).bearer_auth(EMULATOR_TOKEN).send().await?;
        Ok(response.error_for_status()?.json().await?)
    }
}

impl Drop for GithubApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match forward(&shared, request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    }
}

async fn forward(shared: &Shared, request: Request) -> Result<Response> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 16 << 20).await?;
    let token = head
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::to_owned);
    let scopes = match &token {
        Some(token) if !shared.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(token) => {
            active_scopes(shared, token).await?
        }
        _ => None,
    };
    let index = {
        let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(Seen {
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().map(str::to_owned),
            token: token.clone(),
            token_active: scopes.is_some(),
            body: String::from_utf8_lossy(&body).into_owned(),
            status: 0,
        });
        seen.len() - 1
    };

    let response = match scopes {
        None => problem(StatusCode::UNAUTHORIZED, "Bad credentials"),
        Some(scopes) if !allows(&head.method, head.uri.path(), &scopes) => {
            problem(StatusCode::FORBIDDEN, "Resource not accessible by this token")
        }
        Some(_) => {
            let url = format!("{}{}", shared.emulator, head.uri);
            let mut forwarded = shared.http.request(head.method, url).bearer_auth(EMULATOR_TOKEN).body(body);
            for name in [header::ACCEPT, header::CONTENT_TYPE, header::USER_AGENT] {
                if let Some(value) = head.headers.get(&name) {
                    forwarded = forwarded.header(name, value);
                }
            }
            let answer = forwarded.send().await?;
            let mut response = Response::builder().status(answer.status());
            for (name, value) in answer.headers() {
                if name != header::TRANSFER_ENCODING && name != header::CONNECTION {
                    response = response.header(name, value);
                }
            }
            response.body(Body::from(answer.bytes().await?))?
        }
    };
    // Only now: a caller that is killed takes what is still to be carried out with it.
    shared.count.send_modify(|count| *count += 1);
    let mut hold = shared.hold_from.subscribe();
    let _ = hold.wait_for(|from| from.is_none_or(|from| index + 1 < from)).await;
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner)[index].status = response.status().as_u16();
    Ok(response)
}

/// The scopes of an active token; `None` where the authorization server does not call it active.
async fn active_scopes(shared: &Shared, token: &str) -> Result<Option<BTreeSet<String>>> {
    let answer: Value = shared
        .http
        .post(format!("{}/token/introspection", shared.issuer))
        .basic_auth(RESOURCE_ID, Some(RESOURCE_SECRET))
        .form(&[("token", token)])
        .send()
        .await?
        .error_for_status()?
        .json()
        .await?;
    if answer["active"] != true {
        return Ok(None);
    }
    let scopes = answer["scope"].as_str().unwrap_or_default();
    Ok(Some(scopes.split_whitespace().map(str::to_owned).collect()))
}

fn allows(method: &Method, path: &str, scopes: &BTreeSet<String>) -> bool {
    let has = |scope: &str| scopes.contains(scope);
    match *method {
        Method::GET if path == "/user" => has("read:user") || has("repo"),
        _ => has("repo") || has("public_repo"),
    }
}

fn problem(status: StatusCode, message: &str) -> Response {
    (status, axum::Json(json!({"message": message}))).into_response()
}
