//! A runtime with one installed connector, and a way out that the test decides on.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use futures_util::{StreamExt, future::BoxFuture, stream};
use keyward_model::{
    ActionCall, ActionOutcome, Body, CallContext, ConnectorId, Digest, GuestRequest, GuestResponse, Invoke,
    InvokeError, Outbound, Principal, Reason, SendError, SendErrorKind, TenantId,
    manifest::{Action, Limits},
};
use keyward_runtime::{Catalog, Resolved, Runtime, RuntimeConfig};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::guest::Guest;

/// What the way out answers.
pub(crate) type Answer =
    Box<dyn Fn(GuestRequest) -> BoxFuture<'static, Result<GuestResponse, SendError>> + Send + Sync>;

/// A runtime with one connector; any action of it exists.
pub(crate) struct Fixture {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) directory: TempDir,
    catalog: Arc<OneConnector>,
    refused: Arc<Mutex<Vec<Reason>>>,
    secret: Withheld,
}

struct OneConnector {
    connector: ConnectorId,
    component: PathBuf,
    action: Mutex<Action>,
    limits: Mutex<Limits>,
}

#[async_trait]
impl Catalog for OneConnector {
    async fn resolve(&self, _: &ActionCall) -> Result<Arc<Resolved>, InvokeError> {
        Ok(Arc::new(Resolved {
            connector: self.connector.clone(),
            component: self.component.clone(),
            action: self.action.lock().unwrap().clone(),
            connection: None,
            limits: *self.limits.lock().unwrap(),
        }))
    }
}

struct Scripted {
    answer: Answer,
    refused: Arc<Mutex<Vec<Reason>>>,
    secret: Withheld,
}

/// What the way out takes out of the guest's words, or why it cannot.
type Withheld = Arc<Mutex<Option<Result<String, SendError>>>>;

#[async_trait]
impl Outbound for Scripted {
    async fn send(&self, ctx: &CallContext, request: GuestRequest) -> Result<GuestResponse, SendError> {
        let answer = (self.answer)(request).await;
        if let Err(SendError { kind: kind @ (SendErrorKind::Denied | SendErrorKind::RateLimited { .. }), .. }) = &answer
        {
            ctx.refusals.count(kind);
        }
        answer
    }

    async fn refused(&self, _: &CallContext, limit: Reason) -> Result<(), SendError> {
        self.refused.lock().unwrap().push(limit);
        Ok(())
    }

    async fn clean(&self, _: &CallContext, words: &mut [&mut String]) -> Result<u64, SendError> {
        let secret = self.secret.lock().unwrap();
        let Some(secret) = &*secret else { return Ok(0) };
        let secret = secret.as_ref().map_err(Clone::clone)?;
        let holding = words.iter_mut().filter(|text| text.contains(secret));
        Ok(holding.map(|text| **text = text.replace(secret, "[redacted]")).count() as u64)
    }

    async fn ended(&self, ctx: &CallContext) -> Result<(), SendError> {
        let unrecorded = ctx.refusals.unrecorded();
        let reasons = unrecorded.iter().filter(|(_, count)| *count > 0).map(|(reason, _)| *reason);
        self.refused.lock().unwrap().extend(reasons);
        Ok(())
    }
}

impl Fixture {
    /// `guest` with a way out that refuses everything.
    pub(crate) fn new(guest: &Guest) -> Self {
        Self::answering(guest, |_| async { Err(denied()) })
    }

    /// `guest` with a way out that answers so.
    pub(crate) fn answering<F>(guest: &Guest, answer: impl Fn(GuestRequest) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<GuestResponse, SendError>> + Send + 'static,
    {
        Self::with_turns(guest, 8, answer)
    }

    /// The same for so many calls at once.
    pub(crate) fn with_turns<F>(
        guest: &Guest,
        turns: u32,
        answer: impl Fn(GuestRequest) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<GuestResponse, SendError>> + Send + 'static,
    {
        let directory = tempfile::tempdir().unwrap();
        let (component, bytes) = (directory.path().join("connector.wasm"), guest.build());
        std::fs::write(&component, &bytes).unwrap();
        let digest = Digest::from_sha256(Sha256::digest(&bytes).into());
        let catalog = Arc::new(OneConnector {
            connector: ConnectorId { name: "test".parse().unwrap(), version: "1.0.0".to_owned(), digest },
            component,
            action: Mutex::new(serde_json::from_value(json!({ "title": "test" })).unwrap()),
            limits: Mutex::new(Limits::default()),
        });
        let config = RuntimeConfig {
            cache_dir: directory.path().join("cache"),
            max_concurrent_calls: turns,
            ceiling: Limits::default_ceiling(),
        };
        let refused = Arc::<Mutex<Vec<_>>>::default();
        let answer: Answer = Box::new(move |request| Box::pin(answer(request)));
        let secret = Withheld::default();
        let outbound = Scripted { answer, refused: refused.clone(), secret: secret.clone() };
        let runtime = Runtime::new(config, catalog.clone(), Arc::new(outbound)).unwrap();
        Self { runtime: Arc::new(runtime), directory, catalog, refused, secret }
    }

    /// The same with other limits.
    pub(crate) fn limits(self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.catalog.limits.lock().unwrap());
        self
    }

    /// The same, where the way out takes `secret` out of the guest's words, or fails to.
    pub(crate) fn withholding(self, secret: Result<&str, SendError>) -> Self {
        *self.secret.lock().unwrap() = Some(secret.map(str::to_owned));
        self
    }

    /// The same with schemas.
    pub(crate) fn schemas(self, input: Value, output: Value) -> Self {
        let action = json!({ "title": "test", "input": input, "output": output });
        *self.catalog.action.lock().unwrap() = serde_json::from_value(action).unwrap();
        self
    }

    /// Where the component lies, and its digest.
    pub(crate) fn component(&self) -> (PathBuf, Digest) {
        (self.catalog.component.clone(), self.catalog.connector.digest)
    }

    /// The catalog, for another runtime.
    pub(crate) fn catalog(&self) -> Arc<dyn Catalog> {
        self.catalog.clone()
    }

    /// The limits that the way out was told of.
    pub(crate) fn refused(&self) -> Vec<Reason> {
        self.refused.lock().unwrap().clone()
    }

    /// Calls the action `go` with `input`.
    pub(crate) async fn call(&self, input: Value) -> Result<ActionOutcome, InvokeError> {
        self.runtime.invoke(call(input)).await
    }

    /// Calls the action and expects it to fail.
    pub(crate) async fn failure(&self) -> InvokeError {
        self.call(Value::Null).await.expect_err("the call should have failed")
    }
}

/// A way out that refuses everything.
pub(crate) fn closed() -> Arc<dyn Outbound> {
    Arc::new(Scripted {
        answer: Box::new(|_| Box::pin(async { Err(denied()) })),
        refused: Arc::default(),
        secret: Withheld::default(),
    })
}

/// A call of the action `go`.
pub(crate) fn call(input: Value) -> ActionCall {
    ActionCall {
        tenant: TenantId::default(),
        principal: Principal::local_administrator(),
        on_behalf_of: None,
        flow: None,
        run: None,
        step: None,
        attempt: 1,
        action: "test.go".parse().unwrap(),
        connection: None,
        input,
        idempotency_key: "key".to_owned(),
    }
}

/// What a gate says that lets nothing through.
pub(crate) fn denied() -> SendError {
    SendError::new(SendErrorKind::Denied, Reason::PathNotAllowed, "no declared request has this path")
        .hint("declare it in connector.toml")
}

/// A response with `status` whose body comes in `chunks`.
pub(crate) fn response(status: u16, chunks: &[&str]) -> GuestResponse {
    let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(chunk.to_string().into())).collect();
    GuestResponse { status, headers: Vec::new(), body: stream::iter(chunks).boxed() }
}

/// All of a request's body.
pub(crate) async fn whole(body: Body) -> Result<Vec<u8>, SendError> {
    match body {
        Body::Empty => Ok(Vec::new()),
        Body::Bytes(bytes) => Ok(bytes.into()),
        Body::Stream { mut chunks, .. } => {
            let mut whole = Vec::new();
            while let Some(chunk) = chunks.next().await {
                whole.extend_from_slice(&chunk?);
            }
            Ok(whole)
        }
    }
}
