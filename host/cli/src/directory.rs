//! Which connector, component, connection and rules belong to a call: the registry and the vault's open facts, asked
//! together for the runtime and the gate.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use keyward_egress::RuleSource;
use keyward_model::{
    ActionCall, ActionName, ActionRef, ConnectionFacts, ConnectionName, ConnectionState, ConnectorId, Digest,
    InvokeError, InvokeErrorKind, Reason, SendError, SendErrorKind, TenantId,
    manifest::{Limits, Manifest},
};
use keyward_policy::{ActionRules, Operator, operator::Call};
use keyward_registry::Registry;
use keyward_runtime::{Catalog, Resolved};
use keyward_vault::{Vault, VaultError};
use moka::sync::Cache;

use crate::suggest;

/// Answers the runtime and the gate.
pub(crate) struct Directory {
    registry: Arc<Registry>,
    vault: Arc<Vault>,
    operator: Operator,
    ceiling: Limits,
    /// What calls named in the last moments.
    resolved: Cache<Named, Arc<Resolved>>,
    /// Compiled rules. They follow from the manifest that was agreed to with this digest and from the operator's
    /// exceptions, which stay while the process runs, so an entry is never out of date. A read for each request must not wait for another: hence the kind of lock.
    rules: RwLock<HashMap<(TenantId, Digest, ActionName), Arc<ActionRules>>>,
}

/// What decides what a call means: tenant, action and, where it has one, the connection's name.
type Named = (TenantId, ActionRef, Option<ConnectionName>);

/// For how long a name goes on meaning what it meant. So long does a process that runs need to see that another
/// installed, removed or connected something; the gate looks at the connection again for each request.
const FRESH: Duration = Duration::from_secs(1);

/// The most names that are remembered.
const MAX_NAMES: u64 = 10_000;

impl Directory {
    /// Over what is installed and connected, with the operator's exceptions and ceiling.
    pub(crate) fn new(registry: Arc<Registry>, vault: Arc<Vault>, operator: Operator, ceiling: Limits) -> Self {
        let resolved = Cache::builder().time_to_live(FRESH).max_capacity(MAX_NAMES).build();
        Self { registry, vault, operator, ceiling, resolved, rules: RwLock::default() }
    }
}

/// The connection for a call of a connector among `all`: the one that the call names, or the only one of the
/// connector's provider; `None` where the connector uses none.
pub(crate) fn connection_for<'a>(
    all: &'a [ConnectionFacts],
    named: Option<&ConnectionName>,
    manifest: &Manifest,
) -> Result<Option<&'a ConnectionFacts>, Box<InvokeError>> {
    let Some(provider) = &manifest.provider else {
        return match named {
            None => Ok(None),
            Some(name) => Err(no_connection(
                Reason::ConnectionWrongProvider,
                format!("the connector {} uses no connection, and the call names {name}", manifest.name),
                "leave the connection out",
            )),
        };
    };
    let facts = match named {
        Some(name) => all.iter().find(|facts| facts.name == *name).ok_or_else(|| {
            let known = all.iter().filter(|facts| facts.provider == *provider).map(|facts| facts.name.as_str());
            let hint = suggest::hint(name.as_str(), known).unwrap_or_else(|| connect(provider));
            no_connection(Reason::ConnectionUnknown, format!("there is no connection {name}"), hint)
        })?,
        None => the_only(all, provider)?,
    };
    if facts.provider != *provider {
        return Err(no_connection(
            Reason::ConnectionWrongProvider,
            format!(
                "the connection {} is one of {}, and the connector {} needs one of {provider}",
                facts.name, facts.provider, manifest.name
            ),
            connect(provider),
        ));
    }
    Ok(Some(facts))
}

/// The one connection of `provider`; a revoked one counts only where there is no other, so that the gate refuses the call
/// for what it is and puts that into the audit trail.
fn the_only<'a>(all: &'a [ConnectionFacts], provider: &str) -> Result<&'a ConnectionFacts, Box<InvokeError>> {
    let of_provider = || all.iter().filter(|facts| facts.provider == provider);
    let mut usable: Vec<_> = of_provider().filter(|facts| facts.state != ConnectionState::Revoked).collect();
    if usable.is_empty() {
        usable = of_provider().collect();
    }
    let (message, hint) = match usable[..] {
        [one] => return Ok(one),
        [] => (format!("there is no connection of the provider {provider}"), connect(provider)),
        _ => {
            let names: Vec<_> = usable.iter().map(|facts| facts.name.as_str()).collect();
            let hint = "name one with --connection, or in a flow with 'metadata: {connection: ...}'; a run that has \
                        begun goes on once there is only one";
            (
                format!("there are {} connections of the provider {provider}", names.len()),
                format!("{hint}: {}", names.join(", ")),
            )
        }
    };
    Err(no_connection(Reason::ConnectionMissing, message, hint))
}

fn connect(provider: &str) -> String {
    format!("connect an account with `keyward connect {provider}`")
}

fn no_connection(reason: Reason, message: String, hint: impl Into<String>) -> Box<InvokeError> {
    Box::new(InvokeError::new(InvokeErrorKind::Connection, reason, message).hint(hint))
}

fn unreadable(error: &VaultError) -> InvokeError {
    InvokeError::new(InvokeErrorKind::Internal, Reason::StoreFailed, format!("cannot read the connections: {error}"))
}

#[async_trait]
impl Catalog for Directory {
    async fn resolve(&self, call: &ActionCall) -> Result<Arc<Resolved>, InvokeError> {
        let named = (call.tenant.clone(), call.action.clone(), call.connection.clone());
        if let Some(resolved) = self.resolved.get(&named) {
            return Ok(resolved);
        }
        let (installed, action) = self.registry.find(&call.tenant, &call.action).await?;
        let all = self.vault.connections(&call.tenant).await.map_err(|error| unreadable(&error))?;
        let connection = connection_for(&all, call.connection.as_ref(), &installed.manifest).map_err(|error| *error)?;
        let action_call = Call {
            connector: &call.action.connector,
            action: &call.action.action,
            connection: connection.map(|facts| &facts.name),
        };
        self.operator.policy.check_call(action_call).map_err(|denial| {
            InvokeError::new(InvokeErrorKind::Denied, Reason::PolicyDenied, denial.message).hint(denial.hint)
        })?;
        let resolved = Arc::new(Resolved {
            component: self.registry.component_path(&installed.connector.digest),
            limits: Limits::default().with(action.limits, self.ceiling),
            connector: installed.connector,
            action,
            connection: connection.map(|facts| facts.id),
        });
        self.resolved.insert(named, Arc::clone(&resolved));
        Ok(resolved)
    }
}

#[async_trait]
impl RuleSource for Directory {
    async fn rules(
        &self,
        tenant: &TenantId,
        connector: &ConnectorId,
        action: &ActionName,
    ) -> Result<Arc<ActionRules>, SendError> {
        let key = (tenant.clone(), connector.digest, action.clone());
        // A panic elsewhere cannot leave the map half changed, so a poisoned lock is as good as any.
        if let Some(rules) = self.rules.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(rules));
        }
        let denied = |message: String| SendError::new(SendErrorKind::Denied, Reason::ActionUnknown, message);
        let wanted = ActionRef { connector: connector.name.clone(), action: action.clone(), version: None };
        let (installed, _) = self.registry.find(tenant, &wanted).await.map_err(|error| denied(error.to_string()))?;
        if installed.connector.digest != connector.digest {
            return Err(denied(format!("the connector {} was replaced during the call", connector.name)));
        }
        let rules = ActionRules::compile(&installed.manifest, action, &self.operator).map_err(|errors| {
            let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
            denied(format!("the rules of {}.{action} are not valid: {}", connector.name, texts.join("; ")))
        })?;
        let rules = Arc::new(rules);
        self.rules.write().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&rules));
        Ok(rules)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use keyward_model::ConnectionId;
    use time::OffsetDateTime;

    use super::*;

    fn facts(name: &str, provider: &str, state: ConnectionState) -> ConnectionFacts {
        ConnectionFacts {
            tenant: TenantId::default(),
            id: ConnectionId::new(),
            name: name.parse().unwrap(),
            owner: None,
            provider: provider.to_owned(),
            method: "oauth2".to_owned(),
            account: None,
            granted_scopes: Default::default(),
            scopes_assumed: false,
            endpoints: Default::default(),
            state,
            expires_at: None,
            created_at: OffsetDateTime::UNIX_EPOCH,
            updated_at: OffsetDateTime::UNIX_EPOCH,
            row_version: 1,
        }
    }

    #[test]
    fn without_a_name_the_only_connection_of_the_provider_is_taken() {
        let all = [
            facts("work", "github", ConnectionState::Active),
            facts("old", "github", ConnectionState::Revoked),
            facts("mail", "google", ConnectionState::Active),
        ];
        assert_eq!(the_only(&all, "github").unwrap().name.as_str(), "work");
        assert_eq!(the_only(&all[1..2], "github").unwrap().name.as_str(), "old");
    }

    #[test]
    fn several_connections_are_listed_and_none_is_guessed() {
        let all = [
            facts("work", "github", ConnectionState::Active),
            facts("home", "github", ConnectionState::NeedsReconnect("expired".to_owned())),
        ];
        let error = the_only(&all, "github").unwrap_err();
        assert_eq!(error.reason, Reason::ConnectionMissing);
        assert!(error.hint.unwrap().ends_with("work, home"));
        assert_eq!(
            the_only(&all, "slack").unwrap_err().hint.unwrap(),
            "connect an account with `keyward connect slack`"
        );
    }
}
