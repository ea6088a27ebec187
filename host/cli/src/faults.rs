//! What an error of the other crates means at the command line: its exit code is chosen here and nowhere else.

use keyward_egress::{AuditError, EgressError};
use keyward_flow::{EngineError, JournalError};
use keyward_model::{Diagnostic, IdError, InvokeError, InvokeErrorKind, Reason};
use keyward_registry::{RegistryError, StoreError as RegistryStoreError};
use keyward_runtime::RuntimeError;
use keyward_store::{DatabaseError, OpenError};
use keyward_vault::{CatalogueError, ConnectionError, RootKeyKind, StoreError, VaultError};
use serde_json::json;

use crate::failure::{Exit, Failure};

const BUSY: &str = "wait for the other process, or end it";
const DAMAGED: &str = "restore the database from a backup";

impl From<IdError> for Failure {
    fn from(error: IdError) -> Self {
        Self::new(Exit::Usage, "id-invalid", error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let code = match &error {
            OpenError::Newer { .. } => "database-newer",
            OpenError::NotOurs(_) => "database-foreign",
            _ => "database-unusable",
        };
        Self::new(Exit::Environment, code, error.to_string()).because(&error).maybe_hint(error.hint())
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        let hint = error.hint().map(str::to_owned);
        Self::new(Exit::Environment, "database-failed", error.to_string()).because(&error).maybe_hint(hint)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NameTaken(_) => Self::new(Exit::Usage, "name-taken", error.to_string())
                .hint("choose another name with --name, or add --reconnect to connect that one again"),
            StoreError::Conflict => Self::new(Exit::Environment, "conflict", error.to_string())
                .hint("another process changed it at the same time: run the command again"),
            StoreError::DiskFull => Self::new(Exit::Environment, "disk-full", error.to_string())
                .hint("free some space and run the command again"),
            StoreError::Busy => Self::new(Exit::Environment, "database-busy", error.to_string()).hint(BUSY),
            StoreError::Corrupt(_) => {
                Self::new(Exit::Environment, "database-damaged", error.to_string()).because(&error).hint(DAMAGED)
            }
            error => Self::new(Exit::Environment, "database-failed", error.to_string()).because(&error),
        }
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let hint = error.hint();
        let error = match error {
            VaultError::Store(error) => return error.into(),
            VaultError::Connection(error) => return error.into(),
            error => error,
        };
        let (exit, code) = match &error {
            VaultError::NotInitialised => (Exit::Vault, "vault-not-initialised"),
            VaultError::AlreadyInitialised => (Exit::Usage, "vault-already-initialised"),
            VaultError::WrongKey { .. } => (Exit::Vault, "wrong-key"),
            VaultError::WrongSource { .. } => (Exit::Vault, "wrong-key-source"),
            VaultError::SameRootKey { .. } => (Exit::Usage, "same-root-key"),
            VaultError::RootKeyReplaced => (Exit::Vault, "root-key-replaced"),
            VaultError::Passphrase { .. } => (Exit::Vault, "passphrase-unsuitable"),
            VaultError::KeyFile { .. } => (Exit::Vault, "key-file-unusable"),
            VaultError::KeyVariable { .. } => (Exit::Vault, "key-variable-unusable"),
            VaultError::Newer { .. } => (Exit::Vault, "vault-newer"),
            _ => (Exit::Vault, "vault-damaged"),
        };
        let failure = Self::new(exit, code, error.to_string()).because(&error).maybe_hint(hint);
        match error {
            VaultError::WrongKey { kind: RootKeyKind::File | RootKeyKind::Env } | VaultError::WrongSource { .. } => {
                failure.hint(
                    "where `keyward vault rekey` was stopped in between, the new key opens the vault already: write it \
                     into the configuration as [vault] key",
                )
            }
            _ => failure,
        }
    }
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Self {
        let (exit, code) = match &error {
            ConnectionError::Unknown(_) => (Exit::Connection, "connection-unknown"),
            ConnectionError::ProviderUnknown { .. } => (Exit::Usage, "provider-unknown"),
            ConnectionError::Unsuitable { .. } => (Exit::Usage, "connection-unsuitable"),
            ConnectionError::Discovery { .. } => (Exit::Environment, "issuer-unusable"),
            ConnectionError::RedirectUnknown => (Exit::Connection, "redirect-unknown"),
            ConnectionError::RedirectInvalid(_) => (Exit::Denied, "redirect-invalid"),
            ConnectionError::Declined { .. } => (Exit::Denied, "consent-declined"),
            ConnectionError::Refused { .. } => (Exit::Connection, "provider-refused"),
            ConnectionError::Unusable { .. } => (Exit::Connection, "provider-answer-unusable"),
            ConnectionError::Unreachable { .. } => (Exit::Environment, "provider-unreachable"),
            ConnectionError::Busy { .. } => (Exit::Environment, "connection-busy"),
            ConnectionError::NeedsReconnect { .. } => (Exit::Connection, "reconnect-required"),
            ConnectionError::ClientRefused { .. } => (Exit::Connection, "client-refused"),
            ConnectionError::NotRevoked { .. } => (Exit::Connection, "not-revoked"),
            _ => (Exit::Connection, "connection-failed"),
        };
        let failure = Self::new(exit, code, error.to_string()).because(&error).maybe_hint(error.hint());
        match &error {
            ConnectionError::Unreachable { .. } if failure.hints.is_empty() => {
                failure.hint("check the network and that the address is right, and run the command again")
            }
            ConnectionError::NeedsReconnect { name, .. } | ConnectionError::ClientRefused { name, .. } => {
                failure.hint(format!("keyward connect <provider> --reconnect --name {name}"))
            }
            _ => failure,
        }
    }
}

impl From<CatalogueError> for Failure {
    fn from(error: CatalogueError) -> Self {
        Self::new(Exit::BadInput, "provider-file-invalid", error.to_string())
            .because(&error)
            .hint("correct the file in <data-dir>/providers, or remove it")
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        Self::new(Exit::Environment, "audit-failed", error.to_string())
            .because(&error)
            .hint("nothing goes on until it can be written")
    }
}

impl From<EgressError> for Failure {
    fn from(error: EgressError) -> Self {
        Self::new(Exit::Environment, "network-unusable", error.to_string()).because(&error)
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let (exit, code) = match &error {
            RegistryError::NotInstalled { .. } => (Exit::Usage, "connector-unknown"),
            RegistryError::NoAction { .. } => (Exit::Usage, "action-unknown"),
            RegistryError::OtherVersion { .. } => (Exit::Usage, "version-differs"),
            RegistryError::Overtaken(_) => (Exit::Environment, "conflict"),
            RegistryError::DiskFull => (Exit::Environment, "disk-full"),
            RegistryError::ComponentMissing { .. } => (Exit::Environment, "component-missing"),
            RegistryError::ComponentChanged { .. } => (Exit::Denied, "component-changed"),
            RegistryError::ManifestChanged(_) => (Exit::Denied, "manifest-changed"),
            RegistryError::Io { .. } => (Exit::Environment, "file-failed"),
            RegistryError::Store(RegistryStoreError::Busy) => (Exit::Environment, "database-busy"),
            RegistryError::Store(RegistryStoreError::Corrupt(_)) => (Exit::Environment, "database-damaged"),
            RegistryError::Store(_) => (Exit::Environment, "database-failed"),
            _ => (Exit::BadInput, "component-invalid"),
        };
        Self::new(exit, code, error.to_string()).because(&error).maybe_hint(error.hint())
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        let (exit, code) = match &error {
            RuntimeError::Unsuitable { .. } => (Exit::BadInput, "component-unsuitable"),
            RuntimeError::Guest { .. } => (Exit::BadInput, "guest-failed"),
            RuntimeError::CacheDirectory { .. } => (Exit::Environment, "cache-unusable"),
            _ => (Exit::Environment, "runtime-failed"),
        };
        let failure =
            Self::new(exit, code, error.to_string()).because(&error).maybe_hint(error.hint().map(str::to_owned));
        match error {
            RuntimeError::Guest { backtrace: Some(backtrace), .. } => failure.note(backtrace),
            _ => failure,
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        let told = |exit, code| Self::new(exit, code, message.clone()).because(&error);
        match error {
            EngineError::Journal(error) => error.into(),
            EngineError::Input(_) => {
                told(Exit::BadInput, "input-invalid").hint("give the input with --input, or as name=value")
            }
            EngineError::Invalid(faults) => Self::new(Exit::BadInput, "flow-invalid", message).note(texts(&faults)),
            EngineError::Interrupted { source: source @ JournalError::Fenced(_), .. } => source.into(),
            EngineError::Stopped { run } => {
                told(Exit::Interrupted, "interrupted").hint(format!("go on with it: keyward runs resume {run}"))
            }
            EngineError::Interrupted { run, source } => Self::new(Exit::Interrupted, "interrupted", message)
                .because(&source)
                .hint(format!("mend the cause and go on with it: keyward runs resume {run}")),
            EngineError::Snapshot { .. } => {
                told(Exit::Environment, "run-of-another-version").hint("resume it with the version that started it")
            }
            EngineError::Source { diagnostics, .. } => Self::new(Exit::Environment, "run-of-another-version", message)
                .note(texts(&diagnostics))
                .hint("resume it with the version that started it"),
            _ => told(Exit::Internal, "internal"),
        }
    }
}

/// Faults in a text that is not at hand, a line each.
fn texts(faults: &[Diagnostic]) -> String {
    faults.iter().map(|fault| format!("{}: {}", fault.code, fault.message)).collect::<Vec<_>>().join("\n")
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        let told = |exit, code| Self::new(exit, code, error.to_string()).because(&error);
        match &error {
            JournalError::Unknown(_) => told(Exit::Usage, "run-unknown").hint("`keyward runs list` shows the newest"),
            JournalError::Leased { .. } | JournalError::Fenced(_) => {
                told(Exit::Environment, "run-taken").hint("it goes on there; `keyward runs show` tells how far it is")
            }
            JournalError::DiskFull => {
                told(Exit::Environment, "disk-full").hint("free some space and run the command again")
            }
            JournalError::Busy => told(Exit::Environment, "database-busy").hint(BUSY),
            JournalError::Corrupt(_) => told(Exit::Environment, "database-damaged").hint(DAMAGED),
            _ => told(Exit::Environment, "database-failed"),
        }
    }
}

impl From<InvokeError> for Failure {
    fn from(error: InvokeError) -> Self {
        let mut failure = Self::new(exit_of(&error), error.reason.code(), error.message.clone())
            .maybe_hint(error.hint.clone())
            .detail("sent", json!(error.sent));
        match &error.kind {
            InvokeErrorKind::Action { code } => failure = failure.detail("action_code", code.as_str()),
            InvokeErrorKind::InsufficientScope { missing } => {
                failure = failure.detail("missing_scopes", json!(missing));
            }
            _ => {}
        }
        if let Some(status) = error.status {
            failure = failure.detail("status", status);
        }
        if let Some(retryable) = error.retryable {
            failure = failure.detail("retryable", retryable);
        }
        if !error.log.is_empty() {
            failure = failure.detail("log", json!(error.log));
        }
        if let Some(delay) = error.retry_after {
            failure = failure
                .detail("retry_after_ms", delay.as_millis() as u64)
                .hint(format!("try again after {}", crate::output::duration(delay)));
        }
        match error.backtrace {
            Some(backtrace) => failure.note(backtrace),
            None => failure,
        }
    }
}

fn exit_of(error: &InvokeError) -> Exit {
    match (&error.kind, error.reason) {
        (_, Reason::ReconnectRequired) | (InvokeErrorKind::Connection, _) => Exit::Connection,
        (InvokeErrorKind::NotFound, _) => Exit::Usage,
        (InvokeErrorKind::Validation, Reason::InputInvalid) => Exit::BadInput,
        (InvokeErrorKind::Denied | InvokeErrorKind::InsufficientScope { .. }, _) => Exit::Denied,
        (
            InvokeErrorKind::Communication,
            Reason::Unreachable | Reason::NameUnresolved | Reason::TlsFailed | Reason::Timeout,
        ) => Exit::Environment,
        (InvokeErrorKind::Internal, Reason::StoreFailed | Reason::ComponentUnsuitable) => Exit::Environment,
        (InvokeErrorKind::Internal, _) => Exit::Internal,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn an_invocation_ends_with_the_exit_code_of_its_kind() {
        for (kind, reason, exit) in [
            (InvokeErrorKind::NotFound, Reason::ActionUnknown, Exit::Usage),
            (InvokeErrorKind::Validation, Reason::InputInvalid, Exit::BadInput),
            (InvokeErrorKind::Validation, Reason::OutputInvalid, Exit::Failed),
            (InvokeErrorKind::Denied, Reason::PathNotAllowed, Exit::Denied),
            (InvokeErrorKind::InsufficientScope { missing: Vec::new() }, Reason::InsufficientScope, Exit::Denied),
            (InvokeErrorKind::Connection, Reason::ConnectionMissing, Exit::Connection),
            (InvokeErrorKind::Communication, Reason::ReconnectRequired, Exit::Connection),
            (InvokeErrorKind::Communication, Reason::Unreachable, Exit::Environment),
            (InvokeErrorKind::Communication, Reason::RateLimited, Exit::Failed),
            (InvokeErrorKind::Denied, Reason::ComponentChanged, Exit::Denied),
            (InvokeErrorKind::Internal, Reason::ComponentUnsuitable, Exit::Environment),
            (InvokeErrorKind::Guest, Reason::GuestTrap, Exit::Failed),
            (InvokeErrorKind::Action { code: "not-found".to_owned() }, Reason::ActionFailed, Exit::Failed),
            (InvokeErrorKind::Internal, Reason::StoreFailed, Exit::Environment),
            (InvokeErrorKind::Internal, Reason::Internal, Exit::Internal),
        ] {
            assert_eq!(exit_of(&InvokeError::new(kind.clone(), reason, "x")), exit, "{kind:?} {reason}");
        }
    }

    #[test]
    fn what_others_hold_or_a_disk_has_damaged_is_told_with_a_next_step() {
        let damage = || Box::<dyn std::error::Error + Send + Sync>::from("test");
        for (failure, code) in [
            (Failure::from(VaultError::from(StoreError::Busy)), "database-busy"),
            (Failure::from(VaultError::from(StoreError::Corrupt(damage()))), "database-damaged"),
            (Failure::from(JournalError::Busy), "database-busy"),
            (Failure::from(JournalError::Corrupt(damage())), "database-damaged"),
            (Failure::from(RegistryError::from(RegistryStoreError::Busy)), "database-busy"),
            (Failure::from(RegistryError::from(RegistryStoreError::Corrupt(damage()))), "database-damaged"),
        ] {
            assert_eq!((failure.exit, failure.code.as_str(), failure.hints.len()), (Exit::Environment, code, 1));
        }
    }

    #[test]
    fn a_wrong_passphrase_is_the_vaults_exit_code_and_has_a_hint() {
        let failure = Failure::from(VaultError::WrongKey { kind: keyward_vault::RootKeyKind::Passphrase });
        assert_eq!((failure.exit, failure.code.as_str(), failure.hints.len()), (Exit::Vault, "wrong-key", 1));
    }

    #[test]
    fn a_key_that_a_stopped_rekey_may_have_replaced_is_told_with_that_way_out() {
        let failure = Failure::from(VaultError::WrongKey { kind: keyward_vault::RootKeyKind::File });
        assert!(failure.hints.iter().any(|hint| hint.contains("vault rekey")), "{:?}", failure.hints);
    }

    #[test]
    fn the_same_fault_has_the_same_exit_code_before_the_call_and_in_it() {
        let faults: [fn() -> RegistryError; 4] = [
            || RegistryError::NotInstalled { connector: "x".parse().unwrap(), installed: Vec::new() },
            || RegistryError::ComponentChanged {
                digest: keyward_model::Digest::from_sha256([0; 32]),
                found: keyward_model::Digest::from_sha256([1; 32]),
                path: "x".into(),
            },
            || RegistryError::ComponentMissing {
                digest: keyward_model::Digest::from_sha256([0; 32]),
                path: "x".into(),
            },
            || RegistryError::DiskFull,
        ];
        for fault in faults {
            let (before, during) = (Failure::from(fault()), Failure::from(InvokeError::from(fault())));
            assert_eq!(before.exit, during.exit, "{}", fault());
        }
    }
}
