//! The operator's policy: the file as it is now, against what was agreed to.

use std::io;

use keyward_model::{AuditEvent, AuditRecord, Diagnostic, Span};
use keyward_policy::{OperatorPolicy, operator::PolicyDifference};
use keyward_store::{AcceptedPolicy, Store};
use time::OffsetDateTime;

use crate::{
    commands::Context,
    config::Config,
    failure::{Exit, Failure},
};

/// The policy of the file, and how it differs from the one that was agreed to last.
pub(crate) struct Current {
    /// The text of the file; empty where there is none.
    pub(crate) text: String,
    /// What it says.
    pub(crate) policy: OperatorPolicy,
    /// What was agreed to.
    pub(crate) accepted: Option<AcceptedPolicy>,
    /// What changes.
    pub(crate) difference: PolicyDifference,
}

impl Current {
    /// Reads both.
    pub(crate) async fn read(config: &Config, store: &Store) -> Result<Self, Failure> {
        let path = config.policy();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let message = format!("cannot read the policy {}", path.display());
                return Err(Failure::new(Exit::BadInput, "policy-unreadable", message)
                    .because(&error)
                    .hint("make it readable for the user who runs keyward; without its rules nothing is called"));
            }
        };
        let policy = parse(&path.display().to_string(), &text)?;
        let accepted = store.accepted_policy().await?;
        let old = match &accepted {
            Some(accepted) => parse("the policy that was agreed to", &accepted.text)?,
            None => OperatorPolicy::default(),
        };
        let difference = old.difference(&policy);
        Ok(Self { text, policy, accepted, difference })
    }

    /// The policy that holds. One that allows less than what was agreed to is on record from now on; one that could
    /// allow more does not hold.
    pub(crate) async fn in_force(context: &Context, config: &Config, store: &Store) -> Result<OperatorPolicy, Failure> {
        let current = Self::read(config, store).await?;
        current.check_accepted(config)?;
        if !current.difference.is_empty() {
            current.accept(context, store, "narrowed").await?;
        }
        Ok(current.policy)
    }

    /// Fails where the file could allow more than what was agreed to.
    pub(crate) fn check_accepted(&self, config: &Config) -> Result<(), Failure> {
        if self.difference.widening.is_empty() {
            return Ok(());
        }
        let message = format!("{} could allow more than what was agreed to", config.policy().display());
        Err(Failure::new(Exit::Denied, "policy-not-accepted", message)
            .hint("`keyward policy show` tells what changes, and `keyward policy accept` takes it")
            .detail("difference", serde_json::json!(self.difference)))
    }

    /// Agrees to the file as it is.
    pub(crate) async fn accept(&self, context: &Context, store: &Store, change: &str) -> Result<(), Failure> {
        let at = OffsetDateTime::now_utc();
        let new = AcceptedPolicy { text: self.text.clone(), by: context.principal.clone(), at };
        let old = self.accepted.as_ref().map(|accepted| accepted.text.as_str());
        let event = AuditEvent::Policy { change: change.to_owned() };
        let record = AuditRecord::new(at, &context.tenant, &context.principal, event);
        if store.accept_policy(old, &new, &record).await? {
            return Ok(());
        }
        Err(Failure::new(Exit::Environment, "conflict", "another process agreed to a policy at the same moment")
            .hint("run the command again"))
    }
}

fn parse(name: &str, text: &str) -> Result<OperatorPolicy, Failure> {
    toml::from_str(text).map_err(|error| {
        let span = error.span().map(|span| Span { start: span.start, end: span.end });
        let fault = Diagnostic::error("policy-invalid", error.message().to_owned(), span);
        Failure::faults(name.to_owned(), text, vec![fault]).hint("the keys are explained in docs/policy.md")
    })
}
