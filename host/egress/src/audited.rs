//! Calls that are refused before they begin.

use std::sync::Arc;

use async_trait::async_trait;
use keyward_model::{ActionCall, ActionOutcome, AuditEvent, AuditRecord, Invoke, InvokeError, InvokeErrorKind, Reason};
use time::OffsetDateTime;

use crate::audit::{AuditError, AuditSink};

/// The same actions; a call that is refused before it begins is on record when its error is told.
///
/// Such a call names a connector, action or connection that is not there, or has an input that does not fit. What is
/// refused later is a request, and the gate writes it down.
pub struct Audited {
    inner: Arc<dyn Invoke>,
    audit: Arc<dyn AuditSink>,
}

impl Audited {
    /// Over `inner`.
    pub fn new(inner: Arc<dyn Invoke>, audit: Arc<dyn AuditSink>) -> Self {
        Self { inner, audit }
    }
}

#[async_trait]
impl Invoke for Audited {
    async fn invoke(&self, call: ActionCall) -> Result<ActionOutcome, InvokeError> {
        let record = record(&call);
        let outcome = self.inner.invoke(call).await;
        let Some(refused) = outcome.as_ref().err().filter(|error| is_refusal(error)) else { return outcome };
        let record = AuditRecord { at: OffsetDateTime::now_utc(), reason: Some(refused.reason), ..record };
        match self.audit.record(record).await {
            Ok(()) => outcome,
            Err(error) => {
                tracing::error!(%error, "the audit trail cannot be written");
                let message = "the audit trail cannot be written";
                Err(InvokeError::new(InvokeErrorKind::Internal, Reason::StoreFailed, message)
                    .hint("see the host's log for the cause; nothing goes on until it can be written"))
            }
        }
    }
}

/// Writes down that `call` was refused before anything was asked to carry it out.
///
/// # Errors
/// The record could not be written.
pub async fn record_refusal(audit: &dyn AuditSink, call: &ActionCall, reason: Reason) -> Result<(), AuditError> {
    audit.record(AuditRecord { reason: Some(reason), ..record(call) }).await
}

/// Whether the call did not begin because of what it named or was given.
fn is_refusal(error: &InvokeError) -> bool {
    !error.began
        && matches!(
            error.reason,
            Reason::InputInvalid
                | Reason::ComponentChanged
                | Reason::ComponentUnsuitable
                | Reason::ActionUnknown
                | Reason::ConnectionMissing
                | Reason::ConnectionUnknown
                | Reason::ConnectionWrongProvider
                | Reason::PolicyDenied
        )
}

fn record(call: &ActionCall) -> AuditRecord {
    let event = AuditEvent::CallRefused { action: call.action.clone(), connection: call.connection.clone() };
    AuditRecord {
        on_behalf_of: call.on_behalf_of.clone(),
        flow: call.flow.clone(),
        run: call.run,
        step: call.step.clone(),
        action: Some(call.action.action.clone()),
        ..AuditRecord::new(OffsetDateTime::now_utc(), &call.tenant, &call.principal, event)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use keyward_model::{Principal, Sent, TenantId};

    use super::*;

    /// Fails every call so.
    struct Failing(InvokeError);

    #[async_trait]
    impl Invoke for Failing {
        async fn invoke(&self, _: ActionCall) -> Result<ActionOutcome, InvokeError> {
            Err(self.0.clone())
        }
    }

    /// Keeps records; `None` where it is broken.
    struct Records(Option<Mutex<Vec<AuditRecord>>>);

    #[async_trait]
    impl AuditSink for Records {
        async fn record(&self, record: AuditRecord) -> Result<(), AuditError> {
            let records = self.0.as_ref().ok_or_else(|| AuditError("the disk of the test is full".into()))?;
            records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
            Ok(())
        }
    }

    fn call() -> ActionCall {
        ActionCall {
            tenant: TenantId::default(),
            principal: Principal::local_administrator(),
            on_behalf_of: None,
            flow: Some("team/report:1.0.0".to_owned()),
            run: None,
            step: Some("/do/0/a".to_owned()),
            attempt: 1,
            action: "github.star:1.0.0@default".parse().unwrap(),
            connection: Some("work".parse().unwrap()),
            input: Default::default(),
            idempotency_key: "key".to_owned(),
        }
    }

    async fn recorded(kind: InvokeErrorKind, reason: Reason, began: bool) -> Vec<AuditRecord> {
        let records = Arc::new(Records(Some(Mutex::default())));
        let inner = Arc::new(Failing(InvokeError { began, ..InvokeError::new(kind, reason, "no") }));
        let error = Audited::new(inner, records.clone()).invoke(call()).await.unwrap_err();
        assert_eq!(error.reason, reason);
        records.0.as_ref().unwrap().lock().unwrap().clone()
    }

    #[tokio::test]
    async fn call_that_is_refused_before_it_begins_is_on_record_once() {
        for (kind, reason) in [
            (InvokeErrorKind::NotFound, Reason::ActionUnknown),
            (InvokeErrorKind::Connection, Reason::ConnectionUnknown),
            (InvokeErrorKind::Connection, Reason::ConnectionMissing),
            (InvokeErrorKind::Connection, Reason::ConnectionWrongProvider),
            (InvokeErrorKind::Validation, Reason::InputInvalid),
            (InvokeErrorKind::Internal, Reason::ComponentUnsuitable),
            (InvokeErrorKind::Denied, Reason::ComponentChanged),
            (InvokeErrorKind::Denied, Reason::PolicyDenied),
        ] {
            let [record] = recorded(kind, reason, false).await.try_into().unwrap();
            let event = AuditEvent::CallRefused { action: call().action, connection: call().connection };
            assert_eq!((record.event, record.reason), (event, Some(reason)));
            assert_eq!(
                (record.flow, record.step, record.action),
                (call().flow, call().step, Some(call().action.action))
            );
        }
    }

    #[tokio::test]
    async fn what_the_gate_has_written_down_and_what_is_no_refusal_is_not_written_again() {
        for (kind, reason) in [
            (InvokeErrorKind::Denied, Reason::PathNotAllowed),
            (InvokeErrorKind::Denied, Reason::ConnectionUnknown),
            (InvokeErrorKind::Denied, Reason::ActionUnknown),
            (InvokeErrorKind::Validation, Reason::InputInvalid),
            (InvokeErrorKind::NotFound, Reason::ActionUnknown),
            (InvokeErrorKind::Connection, Reason::ReconnectRequired),
            (InvokeErrorKind::RateLimited, Reason::RequestLimit),
            (InvokeErrorKind::RateLimited, Reason::RateLimited),
            (InvokeErrorKind::Communication, Reason::TooLarge),
            (InvokeErrorKind::Validation, Reason::OutputInvalid),
            (InvokeErrorKind::Guest, Reason::GuestTrap),
        ] {
            assert_eq!(recorded(kind, reason, true).await, [], "{reason}");
        }
    }

    #[tokio::test]
    async fn refusal_that_cannot_be_recorded_is_a_failure_of_the_store() {
        let refused = InvokeError::new(InvokeErrorKind::Validation, Reason::InputInvalid, "no");
        let error = Audited::new(Arc::new(Failing(refused)), Arc::new(Records(None))).invoke(call()).await.unwrap_err();
        assert_eq!((error.reason, error.sent), (Reason::StoreFailed, Sent::No));
        assert!(!error.message.contains("disk of the test"), "{}", error.message);
    }
}
