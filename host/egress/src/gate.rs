//! The order of things: rules, credential, wire, audit.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use http::Method;
use keyward_model::{
    ActionName, AuditEvent, AuditRecord, Body, BodyStream, CallContext, ConnectorId, EchoedBy, GuestRequest,
    GuestResponse, Outbound, Reason, SendError, SendErrorKind, Sent, TenantId, manifest::Placement,
};
use keyward_policy::{ActionRules, Permit, printable_method, redirect::Journey};
use keyward_telemetry::Request;
use keyward_vault::{CallSecrets, CleanResponse, RedactionCount, Vault, WireLimits};
use time::OffsetDateTime;
use tracing::Instrument;
use url::Url;

use crate::{
    audit::AuditSink,
    budget::{BudgetConfig, Budgets, Share, Turns},
    retry::{self, MAX_ATTEMPTS, Repeat},
    wire::HttpWire,
};

/// Where the rules of an action come from.
#[async_trait]
pub trait RuleSource: Send + Sync {
    /// The rules of `action`, compiled from the manifest that was consented to.
    ///
    /// # Errors
    /// The connector is no longer installed or does not declare the action.
    async fn rules(
        &self,
        tenant: &TenantId,
        connector: &ConnectorId,
        action: &ActionName,
    ) -> Result<Arc<ActionRules>, SendError>;
}

/// The one function through which a guest's request goes out.
///
/// 1. The rules of the action are asked for a permit. Without one nothing is resolved, opened or sent.
/// 2. It waits for its turn among all who use the same connection, connector and server. Who cannot have it while
///    the call lasts is refused.
/// 3. The vault puts the credential in.
/// 4. A request that may change something (RFC 9110 section 9.2.1: not safe) is written down. If that fails,
///    it is not sent.
/// 5. The wire sends it.
/// 6. What became of it is written down: sent, failed, or refused by the budgets, the vault or the wire. If that fails, the
///    answer is withheld and the error tells that the request was sent.
///
/// Where that is safe and may help, steps 1 to 5 are done again (`retry.rs`); the last answer is the guest's, and the
/// record tells how often the request went out.
///
/// Where the answer redirects and the rule allows that, the same begins anew with where it leads.
///
/// So whatever a guest learns is on record already, denied requests as well, but for those beyond
/// [`MAX_REFUSALS`](keyward_model::MAX_REFUSALS) of a call: they cost no more than a count, which is on record when the
/// call is over. After a crash no change is
/// without a record. Where the caller goes away in the middle, the record is written behind its back, and a
/// process that ends at that moment leaves the first of the two records of a change and none of a read.
pub struct Gate {
    rules: Arc<dyn RuleSource>,
    vault: Arc<Vault>,
    wire: Arc<HttpWire>,
    audit: Arc<dyn AuditSink>,
    budgets: Arc<Budgets>,
}

impl Gate {
    /// Puts the parts together.
    pub fn new(
        rules: Arc<dyn RuleSource>,
        vault: Arc<Vault>,
        wire: Arc<HttpWire>,
        audit: Arc<dyn AuditSink>,
        budgets: BudgetConfig,
    ) -> Self {
        Self { rules, vault, wire, audit, budgets: Budgets::new(budgets) }
    }

    /// Step 1; an error comes with the host, where the request could be understood that far.
    async fn permit(&self, ctx: &CallContext, request: GuestRequest) -> Result<Permit, (SendError, Option<String>)> {
        let unknown = |error| (error, None);
        let rules = self.rules.rules(&ctx.tenant, &ctx.connector, &ctx.action).await.map_err(unknown)?;
        let connection = match &ctx.connection {
            Some(id) => Some(self.vault.connection(&ctx.tenant, id).await.map_err(|error| unknown(error.into()))?),
            None => None,
        };
        rules.authorize(&ctx.tenant, connection.as_ref(), request).map_err(|mut denial| {
            let host = denial.host.take();
            (denial.into(), host)
        })
    }

    /// The body, at once where a rule may need all of it. Nothing is sent yet.
    async fn gathered(&self, ctx: &CallContext, body: Body) -> Result<Body, SendError> {
        // Where there are no rules, step 1 tells so.
        let rules = self.rules.rules(&ctx.tenant, &ctx.connector, &ctx.action).await.ok();
        match rules.and_then(|rules| rules.whole_body()) {
            Some(limit) => body.gathered(limit).await.map_err(|error| error.sent(Sent::No)),
            None => Ok(body),
        }
    }

    /// Steps 2 to 5, and again where that is safe and may help ([`retry`]).
    async fn persist(
        &self,
        permit: Permit,
        copy: Option<GuestRequest>,
        is_foreign: bool,
        departure: &Departure,
        share: &Share,
    ) -> Result<Answer, SendError> {
        let ctx = &departure.trail.ctx;
        let repeat = Repeat::of(&permit);
        let turns = share.turns(ctx, permit.url()).await?;
        let mut last = self.exchange(permit, turns, departure, share).await;
        let Some(copy) = copy else { return last };
        let mut reached = Sent::No;
        for attempt in 2..=MAX_ATTEMPTS {
            if !repeat.after(last.as_ref().map(|answer| answer.clean.response.status)) {
                break;
            }
            reached = reached.surer(last.as_ref().map_or_else(|error| error.sent, |_| Sent::Yes));
            if let Ok(answer) = &mut last {
                // Who waits holds no turn.
                answer.turns = None;
            }
            let Some(again) = retry::copy(&copy) else { break };
            if !retry::wait(attempt, share.until()).await {
                break;
            }
            // The rules may have changed meanwhile; then what came last is what the guest gets.
            let Ok(permit) = self.permit(ctx, again).await else { break };
            let permit = if is_foreign { permit.without_credential() } else { permit };
            let Ok(turns) = share.turns(ctx, permit.url()).await else { break };
            if let Ok(answer) = last {
                answer.dropped(&departure.trail).await?;
            }
            last = self.exchange(permit, turns, departure, share).await;
        }
        last.map_err(|error| SendError { sent: reached.surer(error.sent), ..error })
    }

    /// Steps 3 to 5. The turns go back when the body of the answer is over.
    async fn exchange(
        &self,
        permit: Permit,
        turns: Turns,
        departure: &Departure,
        share: &Share,
    ) -> Result<Answer, SendError> {
        let may_change = !permit.method().is_safe();
        if let Body::Bytes(bytes) = permit.body() {
            share.sending(bytes.len() as u64)?;
        }
        let ready = self.vault.apply(permit, departure.limits()).await?.counting(&departure.sends);
        if may_change && !departure.is_permitted() {
            departure.trail.write(departure.permitted(), None).await?;
            departure.is_permitted.store(true, Ordering::Relaxed);
        }
        departure.leave();
        let clean = ready.send(&*self.wire, secrets(&departure.trail.ctx)?).await?;
        turns.heard(clean.response.status, &clean.response.headers);
        Ok(Answer { clean, turns: Some(turns) })
    }
}

/// What came back, and the turns that its body holds.
struct Answer {
    clean: CleanResponse,
    turns: Option<Turns>,
}

impl Answer {
    /// It is not the last one, and nobody reads it. What it brought back of a secret is on record all the same.
    async fn dropped(self, trail: &Trail) -> Result<(), SendError> {
        let Self { clean: CleanResponse { redactions, .. }, turns } = self;
        let watch = Watch { trail: trail.clone(), redactions, request: None, received: 0, over: false, _turns: turns };
        watch.finish().await
    }
}

/// An answer whose redirects are followed, and the request that it is to.
struct Onward {
    method: Method,
    url: Url,
    placements: Vec<Placement>,
}

impl Gate {
    /// Sends one request and gives its answer, with what is needed where a redirect of it would be followed.
    async fn hop(
        &self,
        trail: &Trail,
        request: GuestRequest,
        is_foreign: bool,
    ) -> Result<(GuestResponse, Option<Onward>), SendError> {
        let ctx = &trail.ctx;
        let method = printable_method(&request.method);
        let mut told = Request::begin(ctx, &request.method, length(&request.body));
        let share = self.budgets.share(ctx);
        let request = GuestRequest { body: share.outgoing(request.body), ..request };
        let copy = retry::copy(&request);
        let permit = match self.permit(ctx, request).await {
            Ok(permit) => permit,
            Err((error, host)) => {
                told.failed(error.reason, 0);
                if ctx.refusals.count(&error.kind) {
                    let event = AuditEvent::RequestDenied { method, host, path_template: None };
                    trail.write(event, Some(error.reason)).await?;
                }
                return Err(error);
            }
        };
        // What has left the origin does not get its credential back.
        let permit = if is_foreign { permit.without_credential() } else { permit };
        let onward = permit.redirects().then(|| Onward {
            method: permit.method().clone(),
            url: permit.url().clone(),
            placements: permit.placements().to_vec(),
        });
        let mut departure = Departure::new(trail.clone(), &permit);
        told.permitted(&permit);
        let outcome = self.persist(permit, copy, is_foreign, &departure, &share).instrument(told.span()).await;
        match &outcome {
            Ok(answer) => told.answered(answer.clean.response.status, departure.sends()),
            Err(error) => told.failed(error.reason, departure.sends()),
        }
        let (event, sent, reason) = match &outcome {
            Ok(answer) => (departure.arrived(Some(answer.clean.response.status), Sent::Yes), Sent::Yes, None),
            Err(error) if is_refusal(error) => (departure.refused(), Sent::No, Some(error.reason)),
            Err(error) => (departure.arrived(None, error.sent), error.sent, Some(error.reason)),
        };
        tracing::debug!(?event, ?reason, "request");
        let is_counted = |error| is_refusal(error) && !ctx.refusals.count(&error.kind);
        // What was written down as permitted is written down as refused.
        if departure.is_permitted() || !outcome.as_ref().is_err_and(is_counted) {
            trail.write(event, reason).await.map_err(|error| error.sent(sent))?;
        }
        let Answer { clean: CleanResponse { response, redactions }, turns } = outcome?;
        let watch =
            Watch { trail: trail.clone(), redactions, request: Some(told), received: 0, over: false, _turns: turns };
        let body = watched(share.incoming(response.body), watch);
        Ok((GuestResponse { body, ..response }, onward))
    }
}

#[async_trait]
impl Outbound for Gate {
    async fn send(&self, ctx: &CallContext, mut request: GuestRequest) -> Result<GuestResponse, SendError> {
        if ctx.refusals.is_flood() {
            let error = SendError::new(SendErrorKind::Denied, Reason::DenialLimit, "the call is being ended");
            ctx.refusals.count(&error.kind);
            return Err(error);
        }
        let trail = Trail { audit: Arc::clone(&self.audit), ctx: ctx.clone() };
        if let Body::Stream { .. } = request.body {
            request.body = self.gathered(ctx, request.body).await?;
        }
        let mut journey = Journey::new(&request);
        let mut is_foreign = false;
        let (mut response, mut onward) = self.hop(&trail, request, is_foreign).await?;
        // From here on a server has answered, whatever becomes of the rest.
        while let Some(Onward { method, url, placements }) = onward.take() {
            let followed = journey.follow(&method, &url, &placements, response.status, location(&response));
            let hop = match followed {
                Ok(Some(hop)) => hop,
                Ok(None) => break,
                Err(denial) => {
                    let host = denial.host.clone();
                    let event = AuditEvent::RequestDenied { method: denial.method.clone(), host, path_template: None };
                    trail.write(event, Some(denial.reason)).await.map_err(|error| error.sent(Sent::Yes))?;
                    return Err(SendError::from(denial).sent(Sent::Yes));
                }
            };
            // Its turns go back before the next ones are waited for: there may be no others.
            drop(response);
            request = hop.request;
            is_foreign |= hop.is_foreign;
            (response, onward) = self.hop(&trail, request, is_foreign).await.map_err(|error| error.sent(Sent::Yes))?;
        }
        Ok(response)
    }

    async fn refused(&self, ctx: &CallContext, limit: Reason) -> Result<(), SendError> {
        let trail = Trail { audit: Arc::clone(&self.audit), ctx: ctx.clone() };
        trail.write(AuditEvent::LimitReached, Some(limit)).await
    }

    async fn clean(&self, ctx: &CallContext, words: &mut [&mut String]) -> Result<u64, SendError> {
        let Some(secrets) = ctx.memory.recall::<CallSecrets>() else { return Ok(0) };
        let count = secrets.clean(words).await;
        if count > 0 {
            let trail = Trail { audit: Arc::clone(&self.audit), ctx: ctx.clone() };
            let event = AuditEvent::SecretRedacted { count, by: EchoedBy::Guest };
            trail.write(event, Some(Reason::SecretEchoed)).await.map_err(|error| error.sent(Sent::Yes))?;
        }
        Ok(count)
    }

    async fn ended(&self, ctx: &CallContext) -> Result<(), SendError> {
        let trail = Trail { audit: Arc::clone(&self.audit), ctx: ctx.clone() };
        for (reason, count) in ctx.refusals.unrecorded() {
            if count > 0 {
                trail.write(AuditEvent::RequestsRefused { count }, Some(reason)).await?;
            }
        }
        Ok(())
    }
}

/// What went into the requests of the call.
fn secrets(ctx: &CallContext) -> Result<&CallSecrets, SendError> {
    ctx.memory.keep().ok_or_else(|| {
        SendError::new(SendErrorKind::Other, Reason::Internal, "the call is remembered by another way out")
    })
}

/// The length of a body, where it is known.
fn length(body: &Body) -> Option<u64> {
    match body {
        Body::Empty => Some(0),
        Body::Bytes(bytes) => Some(bytes.len() as u64),
        Body::Stream { length, .. } => *length,
    }
}

/// The one place that an answer names.
fn location(response: &GuestResponse) -> Option<&[u8]> {
    let mut named = response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("location"));
    match (named.next(), named.next()) {
        (Some((_, location)), None) => Some(location),
        _ => None,
    }
}

/// Whether the budgets, the vault or the wire refused what the rules had permitted.
fn is_refusal(error: &SendError) -> bool {
    error.sent == Sent::No
        && matches!(
            error.kind,
            SendErrorKind::Denied
                | SendErrorKind::InsufficientScope { .. }
                | SendErrorKind::ReconnectRequired
                | SendErrorKind::RateLimited { .. }
        )
}

/// The audit trail of one request.
#[derive(Clone)]
struct Trail {
    audit: Arc<dyn AuditSink>,
    ctx: CallContext,
}

impl Trail {
    /// Writes one record; it is durable when this returns.
    async fn write(&self, event: AuditEvent, reason: Option<Reason>) -> Result<(), SendError> {
        let ctx = &self.ctx;
        let record = AuditRecord {
            on_behalf_of: ctx.on_behalf_of.clone(),
            flow: ctx.flow.clone(),
            run: ctx.run,
            step: ctx.step.clone(),
            call: Some(ctx.call),
            connector: Some(ctx.connector.clone()),
            action: Some(ctx.action.clone()),
            connection: ctx.connection,
            reason,
            ..AuditRecord::new(OffsetDateTime::now_utc(), &ctx.tenant, &ctx.principal, event)
        };
        self.audit.record(record).await.map_err(|error| {
            tracing::error!(%error, call = %ctx.call, "the audit trail cannot be written");
            SendError::new(SendErrorKind::Other, Reason::StoreFailed, "the audit trail cannot be written")
                .hint("see the host's log for the cause; nothing goes on until it can be written")
        })
    }

    /// Writes one record after the caller has gone away. Nobody is left to be told of a failure but the log.
    fn write_behind(&self, event: AuditEvent, reason: Reason) {
        let trail = self.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { trail.write(event, Some(reason)).await });
        }
    }
}

/// A permitted request on its way. Dropped before it arrived, it is on record as cancelled.
struct Departure {
    trail: Trail,
    method: String,
    host: String,
    path_template: String,
    scopes: Vec<String>,
    /// When it first went to the wire.
    left: OnceLock<Instant>,
    /// How often the vault has sent it.
    sends: Arc<AtomicU32>,
    /// Whether it is on record as permitted.
    is_permitted: AtomicBool,
    over: bool,
}

impl Departure {
    fn new(trail: Trail, permit: &Permit) -> Self {
        let url = permit.url();
        let host = url.host_str().unwrap_or_default();
        Self {
            trail,
            method: permit.method().to_string(),
            host: url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
            path_template: permit.path_template().to_owned(),
            scopes: permit.scopes().to_vec(),
            left: OnceLock::new(),
            sends: Arc::default(),
            is_permitted: AtomicBool::new(false),
            over: false,
        }
    }

    /// Half of the call's time for one silence of a server, so that the guest can still tell of it.
    fn limits(&self) -> WireLimits {
        let limits = &self.trail.ctx.limits;
        WireLimits { timeout: Duration::from_millis(limits.wall_ms / 2), response_bytes: limits.response_bytes }
    }

    fn is_permitted(&self) -> bool {
        self.is_permitted.load(Ordering::Relaxed)
    }

    fn permitted(&self) -> AuditEvent {
        AuditEvent::RequestPermitted {
            method: self.method.clone(),
            host: self.host.clone(),
            path_template: self.path_template.clone(),
            scopes: self.scopes.clone(),
        }
    }

    /// It goes to the wire.
    fn leave(&self) {
        self.left.get_or_init(Instant::now);
    }

    /// How often it was given to the wire so far.
    fn sends(&self) -> u32 {
        self.sends.load(Ordering::Relaxed)
    }

    /// It was refused after the rules had permitted it.
    fn refused(&mut self) -> AuditEvent {
        self.over = true;
        AuditEvent::RequestDenied {
            method: self.method.clone(),
            host: Some(self.host.clone()),
            path_template: Some(self.path_template.clone()),
        }
    }

    fn arrived(&mut self, status: Option<u16>, sent: Sent) -> AuditEvent {
        self.over = true;
        let lasted = self.left.get().map_or(Duration::ZERO, Instant::elapsed);
        AuditEvent::RequestSent {
            method: self.method.clone(),
            host: self.host.clone(),
            path_template: self.path_template.clone(),
            scopes: self.scopes.clone(),
            status,
            sent,
            sends: self.sends(),
            duration_ms: u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        if !self.over {
            let sent = if self.left.get().is_some() { Sent::Maybe } else { Sent::No };
            let event = self.arrived(None, sent);
            self.trail.write_behind(event, Reason::Cancelled);
        }
    }
}

/// Sees to it that secrets which came back are on record when the body is over, or given up, and that the turns go back
/// then.
struct Watch {
    trail: Trail,
    redactions: RedactionCount,
    /// The span, where this is the answer that it ends with.
    request: Option<Request>,
    /// Bytes of the body so far.
    received: u64,
    over: bool,
    _turns: Option<Turns>,
}

impl Watch {
    fn event(&mut self) -> Option<AuditEvent> {
        self.over = true;
        let count = self.redactions.get();
        if let Some(request) = &mut self.request {
            request.received(self.received, count);
        }
        (count > 0).then_some(AuditEvent::SecretRedacted { count, by: EchoedBy::Server })
    }

    async fn finish(mut self) -> Result<(), SendError> {
        match self.event() {
            Some(event) => self.trail.write(event, Some(Reason::SecretEchoed)).await.map_err(|e| e.sent(Sent::Yes)),
            None => Ok(()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.over
            && let Some(event) = self.event()
        {
            self.trail.write_behind(event, Reason::SecretEchoed);
        }
    }
}

/// The same body; before its end is told, the watch finishes.
fn watched(body: BodyStream, watch: Watch) -> BodyStream {
    Box::pin(stream::unfold(Some((body, watch)), |reading| async {
        let (mut body, mut watch) = reading?;
        match body.next().await {
            Some(Ok(chunk)) => {
                watch.received += chunk.len() as u64;
                Some((Ok(chunk), Some((body, watch))))
            }
            end => match (watch.finish().await, end) {
                (Err(error), _) | (Ok(()), Some(Err(error))) => Some((Err(error), None)),
                (Ok(()), _) => None,
            },
        }
    }))
}

#[cfg(test)]
mod tests;
