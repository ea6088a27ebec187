//! Installing a connector with the consent of a person, and finding its actions again.

use std::{collections::BTreeSet, fmt, path::PathBuf, sync::Arc};

use keyward_model::{
    ActionRef, AuditEvent, AuditRecord, ConnectorId, ConnectorName, Digest, Principal, TenantId,
    manifest::{Action, Manifest},
};
use time::OffsetDateTime;

use crate::{
    artifact,
    blobs::Blobs,
    difference::Difference,
    error::RegistryError,
    store::{Installed, PluginStore, StoreError},
};

/// The installed connectors of all tenants: records in the store, components in a folder.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn PluginStore>,
    blobs: Arc<Blobs>,
}

/// A connector that somebody wants to install. Only [`Registry::propose`] makes one, and it holds the
/// very bytes that the manifest was read from: what is accepted is what was shown.
pub struct Proposal {
    /// Name, version and digest.
    pub connector: ConnectorId,
    /// What it asks for; [`crate::requirements`] puts that into lines.
    pub manifest: Manifest,
    /// What changes against what is installed, as it was agreed to; `None` where nothing of that name is.
    pub difference: Option<Difference>,
    /// Whether the record of what is installed says something else than its component, and so nothing that anybody
    /// agreed to.
    pub altered: bool,
    /// Whether this very component is installed, and nothing is wrong with it.
    pub intact: bool,
    /// The component that is installed under that name.
    seen: Option<Digest>,
    tenant: TenantId,
    bytes: Vec<u8>,
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proposal")
            .field("connector", &self.connector)
            .field("difference", &self.difference)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry over `store`, with its components below `directory`, which is made when it is first needed.
    pub fn new(store: Arc<dyn PluginStore>, directory: PathBuf) -> Self {
        Self { store, blobs: Arc::new(Blobs::new(directory)) }
    }

    /// Reads a component without running anything and tells what it asks for. Nothing is kept.
    pub async fn propose(&self, tenant: &TenantId, bytes: Vec<u8>) -> Result<Proposal, RegistryError> {
        let (bytes, manifest, digest) = blocking(move || {
            let manifest = artifact::read(&bytes)?;
            let digest = artifact::digest(&bytes);
            Ok((bytes, manifest, digest))
        })
        .await?;
        let connector = ConnectorId { name: manifest.name.clone(), version: manifest.version.clone(), digest };
        let installed = self.store.find(tenant, &connector.name).await?;
        let (mut difference, mut altered, mut intact) = (None, false, false);
        if let Some(old) = &installed {
            let own = self.own_manifest(old).await;
            // The consent is to what stands in the component. Where that is gone, the record is all that is left of it.
            let agreed = own.as_deref().unwrap_or(&old.manifest);
            altered = !is_record_of(old, agreed);
            intact = own.is_ok() && !altered && old.connector == connector;
            let from = ConnectorId { version: agreed.version.clone(), ..old.connector.clone() };
            difference = Some(Difference::between(&from, agreed, &connector, &manifest));
        }
        Ok(Proposal {
            difference,
            altered,
            intact,
            seen: installed.map(|old| old.connector.digest),
            connector,
            manifest,
            tenant: tenant.clone(),
            bytes,
        })
    }

    /// Installs what was proposed. The caller has shown it to `principal`, who agrees to it, and the
    /// consent is pinned to the digest. The component is on disk before the record says that it is; the one in
    /// whose place it comes is removed, where nobody else uses it.
    ///
    /// # Errors
    /// [`RegistryError::Overtaken`] where what is installed is no longer what it was when it was proposed.
    pub async fn accept(&self, proposal: Proposal, principal: &Principal) -> Result<Installed, RegistryError> {
        let Proposal { connector, manifest, seen, tenant, bytes, .. } = proposal;
        let blobs = self.blobs.clone();
        let digest = connector.digest;
        let hold = blocking(move || {
            let hold = blobs.hold()?;
            blobs.write(&digest, &bytes, &hold)?;
            Ok(hold)
        })
        .await?;

        let installed = Installed {
            tenant,
            connector,
            manifest,
            consented_by: principal.clone(),
            consented_at: OffsetDateTime::now_utc(),
        };
        let change = if seen.is_some() { "upgraded" } else { "added" };
        let audit = audit(&installed.tenant, principal, &installed.connector, change);
        let put = self.store.put(seen.as_ref(), &installed, &audit).await;
        drop(hold);
        match put {
            Ok(()) => {}
            Err(StoreError::Conflict) => return Err(RegistryError::Overtaken(installed.connector.name)),
            Err(error) => return Err(error.into()),
        }
        // The connector is installed, whatever becomes of the one before it: the next sweep finds what this one left.
        let _ = self.sweep().await;
        Ok(installed)
    }

    /// The installed connectors of a tenant, by name.
    pub async fn installed(&self, tenant: &TenantId) -> Result<Vec<Installed>, RegistryError> {
        Ok(self.store.installed(tenant).await?)
    }

    /// The installed connector and the action that `action` means. The component is at
    /// [`Registry::component_path`]; its content was compared with the digest that was agreed to, and the record
    /// with the manifest in it.
    pub async fn find(&self, tenant: &TenantId, action: &ActionRef) -> Result<(Installed, Action), RegistryError> {
        let Some(installed) = self.store.find(tenant, &action.connector).await? else {
            let installed = self.store.installed(tenant).await?;
            return Err(RegistryError::NotInstalled {
                connector: action.connector.clone(),
                installed: installed.into_iter().map(|installed| installed.connector.name).collect(),
            });
        };
        if action.version.as_ref().is_some_and(|version| *version != installed.connector.version) {
            return Err(RegistryError::OtherVersion { action: action.clone(), installed: installed.connector.version });
        }
        self.verify(&installed).await?;
        let actions = &installed.manifest.actions;
        let Some(found) = actions.get(&action.action).cloned() else {
            return Err(RegistryError::NoAction {
                action: action.clone(),
                actions: actions.keys().map(ToString::to_string).collect(),
                version: installed.connector.version,
            });
        };
        Ok((installed, found))
    }

    /// Whether an installed connector is what was agreed to: its component is there, byte for byte, and its record says
    /// what stands in it.
    ///
    /// # Errors
    /// [`RegistryError::ComponentMissing`], [`RegistryError::ComponentChanged`] or [`RegistryError::ManifestChanged`]
    /// where it is not, and others where that cannot be told.
    pub async fn verify(&self, installed: &Installed) -> Result<(), RegistryError> {
        // The rules come from the record, and only the component is pinned by the consent.
        if is_record_of(installed, &*self.own_manifest(installed).await?) {
            Ok(())
        } else {
            Err(RegistryError::ManifestChanged(installed.connector.name.clone()))
        }
    }

    /// The manifest that stands in the component, which is there byte for byte.
    async fn own_manifest(&self, installed: &Installed) -> Result<Arc<Manifest>, RegistryError> {
        let blobs = self.blobs.clone();
        let digest = installed.connector.digest;
        blocking(move || blobs.verify(&digest)).await
    }

    /// The components that any tenant uses.
    pub async fn components(&self) -> Result<BTreeSet<Digest>, RegistryError> {
        Ok(self.store.components().await?)
    }

    /// Where the component with that digest is, or would be.
    pub fn component_path(&self, digest: &Digest) -> PathBuf {
        self.blobs.path(digest)
    }

    /// Removes a connector from a tenant; `false` where there was none. Components that nobody uses any
    /// more are removed from the disk.
    pub async fn remove(
        &self,
        tenant: &TenantId,
        name: &ConnectorName,
        principal: &Principal,
    ) -> Result<bool, RegistryError> {
        let Some(installed) = self.store.find(tenant, name).await? else { return Ok(false) };
        let audit = audit(tenant, principal, &installed.connector, "removed");
        let removed = self.store.remove(tenant, name, &audit).await?;
        self.sweep().await?;
        Ok(removed)
    }

    /// Removes the components that no tenant uses, those of earlier versions too, and tells how many.
    /// Where somebody is installing at the same time nothing is done: the next sweep finds them as well.
    pub async fn sweep(&self) -> Result<usize, RegistryError> {
        let blobs = self.blobs.clone();
        let Some(alone) = blocking(move || blobs.hold_alone()).await? else { return Ok(0) };
        let used = self.store.components().await?;
        let blobs = self.blobs.clone();
        blocking(move || blobs.sweep(&used, &alone)).await
    }
}

/// Whether the record says what stands in its component.
fn is_record_of(installed: &Installed, own: &Manifest) -> bool {
    installed.manifest == *own && installed.connector.version == own.version
}

fn audit(tenant: &TenantId, principal: &Principal, connector: &ConnectorId, change: &str) -> AuditRecord {
    let event = AuditEvent::Consent { change: change.to_owned() };
    let record = AuditRecord::new(OffsetDateTime::now_utc(), tenant, principal, event);
    AuditRecord { connector: Some(connector.clone()), ..record }
}

/// Runs what reads or writes files, or takes long, where it does not hold up other work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Nothing cancels the task, so it can only have panicked, and that goes on here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
