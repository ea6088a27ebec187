//! What the sandbox asks of whoever knows the installed plugins and the connections.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use keyward_model::{
    ActionCall, ConnectionId, ConnectorId, InvokeError,
    manifest::{Action, Limits},
};

/// Finds what a call names.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// Finds connector, action, connection and limits of `call`.
    ///
    /// # Errors
    /// Whatever keeps the call from being made; it goes to the caller as it is.
    async fn resolve(&self, call: &ActionCall) -> Result<Arc<Resolved>, InvokeError>;
}

/// What a call names, found.
#[derive(Debug)]
pub struct Resolved {
    /// The connector, down to the bytes.
    pub connector: ConnectorId,
    /// The component's file. Its content must have the digest of `connector`.
    pub component: PathBuf,
    /// What the manifest declares for the action.
    pub action: Action,
    /// With which connection, where there is one.
    pub connection: Option<ConnectionId>,
    /// What the call may use; the ceiling of the runtime applies as well.
    pub limits: Limits,
}
