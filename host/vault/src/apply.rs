//! One request on its way out and back: the credential goes in, and never comes back.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{
    HeaderMap, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH},
};
use keyward_model::{
    BodyStream, ConnectionFacts, GuestResponse, Reason, SendError, SendErrorKind, Sent, TenantId, manifest::Placement,
    request::Body,
};
use keyward_policy::{Permit, PermitParts};
use url::{Position, Url};

use crate::{
    credential::{Live, Material},
    digest::{self, Asker, Question},
    place::{self, Draft, Payload, Placed},
    redact::{CallSecrets, RedactionCount, Redactor, Scrubber},
    vault::Vault,
    wire::{Wire, WireBody, WireError, WireLimits, WireRequest, WireResponse},
};

/// A request with its credential in it. It can be sent, once, and nothing else: it shows nothing of itself.
#[must_use = "nothing is sent until `send` is called"]
pub struct CredentialedRequest {
    outgoing: Outgoing,
    body: Body,
    ready: Ready,
    /// With the fingerprint of the credential that is in the request.
    credential: Option<(CredentialUse, [u8; 32])>,
    vault: Vault,
}

/// A response from which every secret that went out was taken.
#[derive(Debug)]
pub struct CleanResponse {
    /// The response.
    pub response: GuestResponse,
    /// How often a secret came back. It is shared: it grows while the body is read.
    pub redactions: RedactionCount,
}

/// The request as it was permitted, without a credential.
struct Outgoing {
    tenant: TenantId,
    method: Method,
    url: Url,
    headers: HeaderMap,
    limits: WireLimits,
    private: bool,
    /// How often it went out.
    sends: Arc<AtomicU32>,
}

/// What goes on the wire in place of the same parts of [`Outgoing`].
struct Ready {
    url: Url,
    headers: HeaderMap,
    body: Payload,
    placed: Placed,
    /// Whether it answers a challenge of HTTP Digest.
    is_answered: bool,
}

/// What the permit says about the credential.
struct CredentialUse {
    /// The connection as it was when the rules were checked.
    permitted: ConnectionFacts,
    scopes: Vec<String>,
    placements: Vec<Placement>,
    path_mark: Option<Range<usize>>,
}

impl Vault {
    /// Opens the credential of the connection that `permit` names, refreshed where it is due, and puts it
    /// where the connector's manifest says. A permit without a placement goes out as it is.
    ///
    /// # Errors
    /// What refreshing brings; [`Reason::CredentialUnplaceable`]; and where the connection changed since the
    /// permit was given so that the permit would not be given now: [`Reason::ConnectionWrongProvider`],
    /// [`Reason::HostNotAllowed`] or [`Reason::InsufficientScope`]. Nothing was sent then.
    pub async fn apply(&self, permit: Permit, limits: WireLimits) -> Result<CredentialedRequest, SendError> {
        let PermitParts {
            tenant, method, url, headers, body, connection, placements, path_mark, scopes, private, ..
        } = permit.into_parts();
        let outgoing = Outgoing { tenant, method, url, headers, limits, private, sends: Arc::default() };
        let (ready, credential) = match placements.is_empty() {
            true => {
                let (url, headers) = (outgoing.url.clone(), outgoing.headers.clone());
                (Ready { url, headers, body: Payload::of(&body), placed: Vec::new(), is_answered: false }, None)
            }
            false => {
                let permitted = connection.ok_or_else(|| {
                    SendError::new(SendErrorKind::Denied, Reason::ConnectionMissing, "the call has no connection")
                })?;
                let live = self.credential_for(&outgoing.tenant, &permitted.id).await?;
                let credential = CredentialUse { permitted, scopes, placements, path_mark };
                let ready = credential.place(self, &outgoing, &body, &live)?;
                if credential.digest().is_some() && !ready.is_answered && matches!(body, Body::Stream { .. }) {
                    return Err(no_challenge());
                }
                (ready, Some((credential, live.fingerprint)))
            }
        };
        Ok(CredentialedRequest { outgoing, body, ready, credential, vault: self.clone() })
    }
}

impl CredentialedRequest {
    /// The same; how often it goes out is added to `sends`, so that it can be read while the request is on its way, and
    /// after.
    pub fn counting(mut self, sends: &Arc<AtomicU32>) -> Self {
        self.outgoing.sends = Arc::clone(sends);
        self
    }

    /// Sends it over `wire` and takes every secret out of what comes back: head, body and errors.
    ///
    /// Where the answer is 401, the body can be sent again and the credential can be refreshed, it is
    /// refreshed and the request sent once more. Where it is a challenge of HTTP Digest, that is answered, and once
    /// more where only its nonce was stale.
    ///
    /// What goes out is noted in `secrets`, which is the call's, before it does.
    ///
    /// # Errors
    /// What the wire says, without secrets; after a 401, what refreshing brings, the errors of [`Vault::apply`], and
    /// [`Reason::CredentialUnplaceable`] where a server asks for a weak answer that the manifest does not accept.
    pub async fn send(self, wire: &dyn Wire, secrets: &CallSecrets) -> Result<CleanResponse, SendError> {
        let Self { outgoing, body, ready, credential, vault } = self;
        let redactions = RedactionCount::default();
        let again = match &body {
            Body::Empty => Some(Body::Empty),
            Body::Bytes(bytes) => Some(Body::Bytes(bytes.clone())),
            Body::Stream { .. } => None,
        };
        let Ready { url, headers, body: payload, mut placed, .. } = ready;
        secrets.add(&placed);
        let cleaner = outgoing.cleaner(&placed, &redactions);
        let first = cleaner.exchange(wire, outgoing.request(url, headers, payload.or(body))).await?;

        // The server has answered the request, whatever becomes of the second attempt.
        let answered = |error: SendError| error.sent(Sent::Yes);
        if let Some((credential, used)) = credential.as_ref().filter(|(credential, _)| credential.digest().is_some()) {
            let exchange = Exchange { vault: &vault, outgoing: &outgoing, credential, used, again, cleaner, placed };
            return exchange.answer_challenges(wire, secrets, first).await.map_err(answered);
        }
        let (StatusCode::UNAUTHORIZED, Some(again), Some((credential, used))) = (first.status, again, credential)
        else {
            return Ok(cleaner.clean(first));
        };
        let id = credential.permitted.id;
        let Some(live) = vault.credential_after_refusal(&outgoing.tenant, &id, &used).await.map_err(answered)? else {
            return Ok(cleaner.clean(first));
        };
        drop(first);
        let ready = credential.place(&vault, &outgoing, &again, &live).map_err(answered)?;
        // The first credential may come back in the second response as well.
        placed.extend(ready.placed);
        secrets.add(&placed);
        let cleaner = outgoing.cleaner(&placed, &redactions);
        let request = outgoing.request(ready.url, ready.headers, ready.body.or(again));
        let second = cleaner.exchange(wire, request).await.map_err(answered)?;
        Ok(cleaner.clean(second))
    }
}

impl fmt::Debug for CredentialedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialedRequest(..)")
    }
}

impl CredentialUse {
    /// Puts the credential into what goes out, where the permit would still be given.
    fn place(&self, vault: &Vault, outgoing: &Outgoing, body: &Body, live: &Live) -> Result<Ready, SendError> {
        self.still_permits(&live.facts)?;
        let now = vault.clock.now().wall;
        let mut draft = Draft {
            url: outgoing.url.clone(),
            headers: outgoing.headers.clone(),
            body: Payload::of(body),
            path_mark: self.path_mark.clone(),
        };
        let mut placed =
            place::place(&self.placements, &live.material, &live.fields, (&outgoing.method, now), &mut draft)?;
        let is_answered = match (self.digest(), &live.material) {
            (Some(_), Material::Basic { username, password, .. }) => {
                let body: Option<&[u8]> = match &draft.body {
                    Payload::Empty => Some(&[]),
                    Payload::Bytes(bytes) => Some(bytes),
                    Payload::Stream => None,
                };
                let uri = &draft.url[Position::BeforePath..Position::AfterQuery];
                let question = Question { username, password, method: &outgoing.method, uri, body };
                let answer = vault.digests.answer(&self.asker(outgoing, &live.fingerprint), &question)?;
                if let Some((value, secrets)) = &answer {
                    place::set_header(&mut draft.headers, AUTHORIZATION, value.as_bytes())?;
                    placed.extend(secrets.iter().cloned());
                }
                answer.is_some()
            }
            _ => false,
        };
        Ok(Ready { url: draft.url, headers: draft.headers, body: draft.body, placed, is_answered })
    }

    /// Whether weak answers are accepted, where the credential answers challenges of HTTP Digest.
    fn digest(&self) -> Option<bool> {
        self.placements.iter().find_map(|placement| match placement {
            Placement::Digest { weak } => Some(*weak),
            _ => None,
        })
    }

    /// Whose challenges the request may answer: those of its own origin.
    fn asker(&self, outgoing: &Outgoing, fingerprint: &[u8; 32]) -> Asker {
        Asker {
            tenant: outgoing.tenant.clone(),
            connection: self.permitted.id,
            credential: *fingerprint,
            origin: outgoing.url.origin().ascii_serialization(),
        }
    }

    /// Refuses where what the permit was given for is no longer so.
    fn still_permits(&self, live: &ConnectionFacts) -> Result<(), SendError> {
        let changed = |kind, reason, what: &str| {
            let message = format!("the connection's {what} changed while the request was checked");
            Err(SendError::new(kind, reason, message).hint("try again"))
        };
        if live.provider != self.permitted.provider {
            return changed(SendErrorKind::Denied, Reason::ConnectionWrongProvider, "provider");
        }
        if live.endpoints != self.permitted.endpoints {
            return changed(SendErrorKind::Denied, Reason::HostNotAllowed, "endpoints");
        }
        let granted = &live.granted_scopes;
        let missing: Vec<_> = self.scopes.iter().filter(|scope| !granted.contains(*scope)).cloned().collect();
        if !missing.is_empty() {
            return changed(SendErrorKind::InsufficientScope { missing }, Reason::InsufficientScope, "scopes");
        }
        Ok(())
    }
}

/// A request by HTTP Digest whose first answer is there.
struct Exchange<'a> {
    vault: &'a Vault,
    outgoing: &'a Outgoing,
    credential: &'a CredentialUse,
    /// The fingerprint of the credential.
    used: &'a [u8; 32],
    /// The body, where it can be sent again.
    again: Option<Body>,
    cleaner: Cleaner,
    placed: Placed,
}

impl Exchange<'_> {
    /// Answers a challenge, and another one where only the nonce was stale. A challenge that cannot be answered now, of
    /// a streamed body, is answered by the next request.
    async fn answer_challenges(
        self,
        wire: &dyn Wire,
        secrets: &CallSecrets,
        first: WireResponse,
    ) -> Result<CleanResponse, SendError> {
        let Self { vault, outgoing, credential, used, again, mut cleaner, mut placed } = self;
        let asker = credential.asker(outgoing, used);
        let mut response = first;
        for turn in 0.. {
            if response.status != StatusCode::UNAUTHORIZED {
                vault.digests.note_next(&asker, &response.headers);
                break;
            }
            let is_weak_accepted = credential.digest().unwrap_or_default();
            let Some(challenge) = digest::strongest(&response.headers, is_weak_accepted)? else { break };
            // Whoever is asked anew after an answer has the wrong password, but for a nonce that was too old.
            let is_refused = turn > 1 || turn == 1 && !challenge.is_stale;
            vault.digests.begin(&asker, challenge)?;
            let Some(again) = again.as_ref().filter(|_| !is_refused) else { break };
            let again = match again {
                Body::Bytes(bytes) => Body::Bytes(bytes.clone()),
                _ => Body::Empty,
            };
            let live = vault.credential_for(&outgoing.tenant, &credential.permitted.id).await?;
            if live.fingerprint != *used {
                break;
            }
            let ready = credential.place(vault, outgoing, &again, &live)?;
            placed.extend(ready.placed);
            secrets.add(&placed);
            cleaner = outgoing.cleaner(&placed, &cleaner.redactions);
            let request = outgoing.request(ready.url, ready.headers, ready.body.or(again));
            response = cleaner.exchange(wire, request).await?;
        }
        Ok(cleaner.clean(response))
    }
}

fn no_challenge() -> SendError {
    let message = "the body is streamed, and the server's challenge for HTTP Digest is not known yet";
    SendError::new(SendErrorKind::Denied, Reason::CredentialUnplaceable, message)
        .hint("send a request without a body to the same server first, or the body at once")
}

impl Outgoing {
    fn request(&self, url: Url, headers: HeaderMap, body: Body) -> WireRequest {
        self.sends.fetch_add(1, Ordering::Relaxed);
        WireRequest { method: self.method.clone(), url, headers, body, limits: self.limits, private: self.private }
    }

    fn cleaner(&self, placed: &Placed, redactions: &RedactionCount) -> Cleaner {
        let redactor = Arc::new(Redactor::new(placed, redactions.clone()));
        Cleaner { redactor, redactions: redactions.clone(), is_head: self.method == Method::HEAD }
    }
}

/// Takes the secrets of one request out of all that comes back for it.
struct Cleaner {
    redactor: Arc<Redactor>,
    redactions: RedactionCount,
    is_head: bool,
}

impl Cleaner {
    async fn exchange(&self, wire: &dyn Wire, request: WireRequest) -> Result<WireResponse, SendError> {
        wire.exchange(request).await.map_err(|error| clean_error(&self.redactor, error))
    }

    fn clean(&self, response: WireResponse) -> CleanResponse {
        let WireResponse { status, headers, body } = response;
        let mut clean = Vec::with_capacity(headers.len());
        for (name, value) in &headers {
            // The length would be wrong once something is taken out of the body.
            if *name == CONTENT_LENGTH && !self.is_head && !self.redactor.is_idle() {
                continue;
            }
            let clean_name = self.redactor.text(name.as_str().to_owned());
            // What takes the place of a secret has brackets, which the name of a header cannot have.
            let name = if clean_name == name.as_str() { clean_name } else { "redacted".to_owned() };
            clean.push((name, self.redactor.bytes(value.as_bytes()).into_owned()));
        }
        let body = clean_body(self.redactor.clone(), body);
        let response = GuestResponse { status: status.as_u16(), headers: clean, body };
        CleanResponse { response, redactions: self.redactions.clone() }
    }
}

/// How many bytes of a body are searched without a pause.
const AT_ONCE: usize = 16 << 10;

fn clean_body(redactor: Arc<Redactor>, body: WireBody) -> BodyStream {
    if redactor.is_idle() {
        return Box::pin(body.map(move |chunk| chunk.map_err(|error| clean_error(&redactor, error))));
    }
    let reading = (body, Bytes::new(), Scrubber::new(redactor.clone()), redactor);
    Box::pin(stream::unfold(Some(reading), async |reading| {
        let (mut body, mut chunk, mut scrubber, redactor) = reading?;
        loop {
            // Piece by piece, so that others have their turn and a limit of time its effect.
            while !chunk.is_empty() {
                let clean = scrubber.push(&chunk.split_to(chunk.len().min(AT_ONCE)));
                if !chunk.is_empty() {
                    tokio::task::yield_now().await;
                }
                if !clean.is_empty() {
                    return Some((Ok(clean), Some((body, chunk, scrubber, redactor))));
                }
            }
            match body.next().await {
                Some(Ok(next)) => chunk = next,
                // What is held back may be the first part of a secret, so it goes no further.
                Some(Err(error)) => return Some((Err(clean_error(&redactor, error)), None)),
                None => {
                    let clean = scrubber.finish();
                    return (!clean.is_empty()).then_some((Ok(clean), None));
                }
            }
        }
    }))
}

/// Makes the wire's error the guest's, without secrets.
fn clean_error(redactor: &Redactor, error: WireError) -> SendError {
    let mut error = SendError::from(error);
    error.message = redactor.text(error.message);
    error.hint = error.hint.map(|hint| redactor.text(hint));
    error
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
