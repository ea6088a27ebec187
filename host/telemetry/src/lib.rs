//! What is told of the work to those who watch it: one constructor for each span, and nothing that takes
//! any text of a connector.
//!
//! Only spans of [`TARGET`] are exported, and only this crate makes them. What they carry comes from types that hold
//! no secret, query, body, or path as it was asked for: a [`Permit`] gives its host and the declared template, a
//! [`Reason`] its code, a [`CallContext`] names that were installed. So a connector, which chooses what it asks for,
//! chooses none of it; of a denied request there is neither host nor path. Metrics are made of the same spans when they
//! close.
//!
//! | span | what of | fields |
//! |---|---|---|
//! | `run` | a run of a flow, by one process | [`FLOW`], [`RUN`], [`OUTCOME`] |
//! | `step` | one attempt at a step's action | [`STEP`], [`ATTEMPT`], [`OUTCOME`] |
//! | `call` | a call of an action | [`CONNECTOR`], [`VERSION`], [`ACTION`], [`CALL`], [`OUTCOME`] |
//! | `request` | a request of a connector, until the end of the answer's body; each hop of a redirect is one | [`CONNECTOR`], [`ACTION`], [`METHOD`], [`HOST`], [`PORT`], [`TEMPLATE`], [`STATUS`], [`REQUEST_BYTES`], [`RESPONSE_BYTES`], [`RESENDS`], [`REDACTIONS`], [`ERROR`] |
//! | `refresh` | an exchange of a refresh token | [`PROVIDER`], [`OUTCOME`] |
//! | `commit` | a transaction of the store; for metrics only | [`OUTCOME`] |
//!
//! Names are those of the OpenTelemetry semantic conventions for HTTP clients (1.37) where these have one, else they
//! begin with `keyward.`. An outcome is `ok` or a code of [`Reason`], of a run `faulted`, `stopped`
//! or `interrupted`; that of a request stands in [`ERROR`], and only where it failed. Where nobody listens, a span costs one comparison.

use keyward_model::{CallContext, Reason, RunId};
use keyward_policy::Permit;
use tracing::{Span, debug_span, field::Empty, info_span};

/// The target of every span that is exported.
pub const TARGET: &str = "keyward::telemetry";

/// The flow, as `namespace/name:version`.
pub const FLOW: &str = "keyward.flow";
/// The id of the run.
pub const RUN: &str = "keyward.run";
/// The step, as a JSON pointer into the flow.
pub const STEP: &str = "keyward.step";
/// Which attempt, from 1.
pub const ATTEMPT: &str = "keyward.attempt";
/// The connector's name.
pub const CONNECTOR: &str = "keyward.connector";
/// The connector's version.
pub const VERSION: &str = "keyward.connector.version";
/// The action's name.
pub const ACTION: &str = "keyward.action";
/// The id of the call, as in the audit trail.
pub const CALL: &str = "keyward.call";
/// The provider's name.
pub const PROVIDER: &str = "keyward.provider";
/// `ok`, or a code of what went wrong.
pub const OUTCOME: &str = "keyward.outcome";
/// How often a secret was taken out of the answer.
pub const REDACTIONS: &str = "keyward.redactions";
/// The method; `_OTHER` where it is none of RFC 9110 and RFC 5789.
pub const METHOD: &str = "http.request.method";
/// The host of the declared endpoint, or of the connection's.
pub const HOST: &str = "server.address";
/// The port.
pub const PORT: &str = "server.port";
/// The declared path template.
pub const TEMPLATE: &str = "url.template";
/// The HTTP status.
pub const STATUS: &str = "http.response.status_code";
/// Bytes of the request's body, where they are known when it leaves.
pub const REQUEST_BYTES: &str = "http.request.body.size";
/// Bytes of the answer's body, decoded, as far as it was read.
pub const RESPONSE_BYTES: &str = "http.response.body.size";
/// How often it was sent again, where it was.
pub const RESENDS: &str = "http.request.resend_count";
/// Why it failed: a reason code, or the status where that is the failure.
pub const ERROR: &str = "error.type";

/// The outcome of what went well.
pub const OK: &str = "ok";

/// A span whose outcome is told once it is known.
#[derive(Debug, Clone)]
pub struct Work(Span);

impl Work {
    /// The span, to be entered.
    pub fn span(&self) -> Span {
        self.0.clone()
    }

    /// How it ended: well, or with a code that stands in the source, as that of a [`Reason`] does.
    pub fn ended(&self, failure: Option<&'static str>) {
        self.0.record(OUTCOME, failure.unwrap_or(OK));
        if failure.is_some() {
            self.0.record("otel.status_code", "error");
        }
    }
}

/// A run of a flow.
pub fn run(flow: &str, run: RunId) -> Work {
    let span = info_span!(target: TARGET, parent: None, "run", { FLOW } = flow, { RUN } = %run, { OUTCOME } = Empty,
        otel.status_code = Empty);
    Work(span)
}

/// One attempt at a step's action.
pub fn step(pointer: &str, attempt: u32) -> Work {
    Work(info_span!(target: TARGET, "step", { STEP } = pointer, { ATTEMPT } = attempt, { OUTCOME } = Empty,
        otel.status_code = Empty))
}

/// A call of an action.
pub fn call(ctx: &CallContext) -> Work {
    Work(info_span!(target: TARGET, "call", { CONNECTOR } = ctx.connector.name.as_str(),
        { VERSION } = ctx.connector.version.as_str(), { ACTION } = ctx.action.as_str(), { CALL } = %ctx.call,
        { OUTCOME } = Empty, otel.status_code = Empty))
}

/// An exchange of a refresh token at a provider of the catalogue.
pub fn refresh(provider: &str) -> Work {
    Work(info_span!(target: TARGET, "refresh", { PROVIDER } = provider, otel.kind = "client", { OUTCOME } = Empty,
        otel.status_code = Empty))
}

/// A transaction of the store. Its parent is whoever happens to write, so it is no part of a trace.
pub fn commit() -> Work {
    Work(debug_span!(target: TARGET, parent: None, "commit", { OUTCOME } = Empty, otel.status_code = Empty))
}

/// A request of a connector. Dropped before it ended, it was cancelled.
#[derive(Debug)]
pub struct Request {
    span: Span,
    over: bool,
}

impl Request {
    /// One that is about to be checked, with the length of its body where that is known.
    pub fn begin(ctx: &CallContext, method: &str, length: Option<u64>) -> Self {
        let method = standard(method);
        let span = info_span!(target: TARGET, "request", otel.name = method, otel.kind = "client",
            { CONNECTOR } = ctx.connector.name.as_str(), { ACTION } = ctx.action.as_str(), { METHOD } = method,
            { REQUEST_BYTES } = length, { HOST } = Empty, { PORT } = Empty, { TEMPLATE } = Empty, { STATUS } = Empty,
            { RESPONSE_BYTES } = Empty, { RESENDS } = Empty, { REDACTIONS } = Empty, { ERROR } = Empty,
            otel.status_code = Empty);
        Self { span, over: false }
    }

    /// The span, to be entered.
    pub fn span(&self) -> Span {
        self.span.clone()
    }

    /// The rules permit it. It comes before the span is entered: from then on exporters keep its name.
    pub fn permitted(&self, permit: &Permit) {
        if self.span.is_disabled() {
            return;
        }
        let (url, template) = (permit.url(), permit.path_template());
        self.span.record("otel.name", format!("{} {template}", permit.method()));
        self.span.record(TEMPLATE, template);
        self.span.record(HOST, url.host_str());
        self.span.record(PORT, url.port_or_known_default());
    }

    /// The head of the answer is here, after so many sends.
    pub fn answered(&self, status: u16, sends: u32) {
        self.span.record(STATUS, status);
        self.resent(sends);
        if status >= 400 && !self.span.is_disabled() {
            self.span.record(ERROR, status.to_string());
            self.span.record("otel.status_code", "error");
        }
    }

    /// The body of the answer is over, or given up, after so many bytes with so many secrets in them.
    pub fn received(&mut self, bytes: u64, redactions: u64) {
        self.over = true;
        self.span.record(RESPONSE_BYTES, bytes);
        if redactions > 0 {
            self.span.record(REDACTIONS, redactions);
        }
    }

    /// There is no answer, or not all of it.
    pub fn failed(&mut self, reason: Reason, sends: u32) {
        self.over = true;
        self.resent(sends);
        self.span.record(ERROR, reason.code());
        self.span.record("otel.status_code", "error");
    }

    fn resent(&self, sends: u32) {
        if sends > 1 {
            self.span.record(RESENDS, sends - 1);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.over {
            self.failed(Reason::Cancelled, 0);
        }
    }
}

/// A method by its own name, where it has one that everybody knows: a connector may ask for any.
fn standard(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("_OTHER")
}
