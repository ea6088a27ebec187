//! `keyward plugin list` and `remove`.

use clap::Args;
use keyward_model::ConnectorName;
use keyward_registry::{Installed, RegistryError};
use serde_json::json;

use crate::{
    commands::{Context, connections::confirm},
    compiler,
    compose::Base,
    failure::Failure,
    output::{self, style, styled},
};

/// Arguments of `keyward plugin remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// The connector's name
    name: ConnectorName,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Lists the installed connectors.
pub(super) async fn list(context: &Context) -> Result<(), Failure> {
    let base = Base::open(context).await?;
    let all = base.registry.installed(&context.tenant).await?;
    let mut faults = Vec::new();
    for installed in &all {
        faults.push(base.registry.verify(installed).await.err());
    }
    let document: Vec<_> = all
        .iter()
        .zip(&faults)
        .map(|(installed, fault)| {
            json!({
                "connector": installed.connector,
                "title": installed.manifest.title,
                "provider": installed.manifest.provider,
                "actions": installed.manifest.actions.keys().collect::<Vec<_>>(),
                "consented_by": installed.consented_by,
                "consented_at": output::rfc3339(installed.consented_at),
                "fault": fault.as_ref().map(ToString::to_string),
            })
        })
        .collect();
    context.output.result(&document, || {
        if all.is_empty() {
            return "No connectors are installed.".to_owned();
        }
        output::table(
            ["name", "version", "provider", "actions", "agreed", "digest"],
            all.iter().map(|installed| {
                let digest = installed.connector.digest.to_string();
                [
                    installed.connector.name.to_string(),
                    installed.connector.version.clone(),
                    installed.manifest.provider.clone().unwrap_or_else(|| "-".to_owned()),
                    installed.manifest.actions.len().to_string(),
                    output::moment(installed.consented_at),
                    // As many digits as tell components apart at a glance; --json has them all.
                    digest.chars().take("sha256:".len() + 12).collect(),
                ]
            }),
        )
    })?;
    for (installed, fault) in all.iter().zip(faults) {
        if let Some(fault) = fault {
            context.output.warn(format_args!("{} cannot be used: {fault}", installed.connector.name));
        }
    }
    if all.is_empty() {
        context.output.hint("install one with `keyward plugin add`, or make one with `keyward plugin new`");
    }
    Ok(())
}

/// Removes a connector.
pub(super) async fn remove(context: &Context, arguments: RemoveArguments) -> Result<(), Failure> {
    let base = Base::open(context).await?;
    let installed = find(&base, context, &arguments.name).await?;
    let what = format!("{} {}", installed.connector.name, installed.connector.version);
    confirm(context, arguments.yes, &format!("Remove the connector {what}? Flows that use it will fail."))?;
    let removed = base.registry.remove(&context.tenant, &arguments.name, &context.principal).await?;
    compiler::sweep(&base).await;
    context.output.result(&json!({"connector": installed.connector, "removed": removed}), || {
        format!("{} removed the connector {what}", styled(style::GOOD, "✓"))
    })
}

/// The installed connector of that name. Whether it is what was agreed to is not looked at.
pub(in crate::commands) async fn find(
    base: &Base,
    context: &Context,
    name: &ConnectorName,
) -> Result<Installed, Failure> {
    let mut all = base.registry.installed(&context.tenant).await?;
    match all.iter().position(|installed| installed.connector.name == *name) {
        Some(at) => Ok(all.swap_remove(at)),
        None => Err(RegistryError::NotInstalled {
            connector: name.clone(),
            installed: all.into_iter().map(|installed| installed.connector.name).collect(),
        }
        .into()),
    }
}
