//! A runtime that compiles components and calls nothing: it needs neither a key nor the network.

use std::sync::Arc;

use async_trait::async_trait;
use keyward_model::{
    ActionCall, CallContext, GuestRequest, GuestResponse, InvokeError, InvokeErrorKind, Outbound, Reason, SendError,
    SendErrorKind,
};
use keyward_runtime::{Catalog, Resolved, Runtime};

use crate::{
    compose::{self, Base},
    config::Config,
    failure::Failure,
    files,
};

/// The compiler for components, with the same engine and cache as calls have.
pub(crate) fn compiler(config: &Config) -> Result<Runtime, Failure> {
    Ok(Runtime::new(compose::runtime_config(config), Arc::new(Closed), Arc::new(Closed))?)
}

/// Removes what was compiled of components that nobody uses any more. It is told in the log where that fails: it takes
/// space and harms nothing.
pub(crate) async fn sweep(base: &Base) {
    let swept = async {
        let used = base.registry.components().await?;
        let compiler = compiler(&base.config)?;
        compiler.retain(used).await.map_err(|error| files::cannot("sweep", &base.config.cache(), &error))
    };
    if let Err(failure) = swept.await {
        tracing::warn!(%failure, "what was compiled of removed components is still there");
    }
}

/// Finds nothing and sends nothing.
struct Closed;

#[async_trait]
impl Catalog for Closed {
    async fn resolve(&self, call: &ActionCall) -> Result<Arc<Resolved>, InvokeError> {
        let message = format!("{} cannot be called here", call.action);
        Err(InvokeError::new(InvokeErrorKind::NotFound, Reason::ActionUnknown, message))
    }
}

#[async_trait]
impl Outbound for Closed {
    async fn send(&self, _: &CallContext, _: GuestRequest) -> Result<GuestResponse, SendError> {
        Err(SendError::new(SendErrorKind::Denied, Reason::ActionUnknown, "nothing is sent from here"))
    }

    async fn refused(&self, _: &CallContext, _: Reason) -> Result<(), SendError> {
        Ok(())
    }

    async fn clean(&self, _: &CallContext, _: &mut [&mut String]) -> Result<u64, SendError> {
        Ok(0)
    }

    async fn ended(&self, _: &CallContext) -> Result<(), SendError> {
        Ok(())
    }
}
