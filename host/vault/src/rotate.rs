//! New keys without downtime.
//!
//! **Rotating** gives a tenant a new active key and seals everything again under it, one object after the
//! other, while other processes go on reading and writing: a row that was changed meanwhile is read again.
//! An interrupted rotation leaves everything readable and the next one finishes it, because only what does
//! not rest under the active key is touched. An old key is removed when nothing rests under it, which the store
//! itself knows: it refuses to remove a key that something needs, and refuses what another process, which does not
//! know the new key yet, has sealed under one that is gone. That process reads the keys and seals again.
//!
//! **Rekeying** replaces the root key: the same tenant keys are wrapped anew in one transaction, and no
//! object is touched. Both change the vault's row version, so that neither can overtake the other.

use keyward_model::{ConnectionId, Principal, TenantId};
use time::OffsetDateTime;

use crate::{
    aead,
    error::VaultError,
    header::Parameters,
    root::RootKeySource,
    seal::Place,
    store::{StoreError, TenantKeyRow, TenantKeyState, VaultRow},
    vault::{Vault, audit},
};

/// How often a change is tried that others get in the way of.
const ATTEMPTS: u32 = 16;

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RotateReport {
    /// The version that is active now.
    pub version: u32,
    /// How many objects were sealed again.
    pub resealed: u64,
    /// Old versions that were removed.
    pub removed: Vec<u32>,
    /// Old versions that are kept because something rests under them: a connection that cannot be opened or was
    /// written meanwhile, or an authorization that waits for its redirect. The next rotation looks at them again.
    pub kept: Vec<u32>,
    /// Connections whose credential cannot be opened under any key; their owners must connect again.
    pub unreadable: Vec<ConnectionId>,
}

/// What one look at a connection found.
enum Resealed {
    /// It rests under the active key by now, or was deleted.
    NotNeeded,
    /// It was sealed again.
    Done,
    /// It cannot be opened.
    Unreadable,
}

impl Vault {
    /// Gives `tenant` a new key, seals everything again under it, and removes the old keys that nothing
    /// needs any more.
    ///
    /// # Errors
    /// [`VaultError::TenantUnknown`]; [`VaultError::RootKeyReplaced`]; [`VaultError::Newer`] where newer software
    /// sealed something; [`VaultError::Contended`]; [`VaultError::Store`]. Whatever the error, everything can still
    /// be opened, and calling it again finishes the work.
    pub async fn rotate(&self, tenant: &TenantId, principal: &Principal) -> Result<RotateReport, VaultError> {
        let version = self.add_key(tenant, principal).await?;
        let mut report =
            RotateReport { version, resealed: 0, removed: Vec::new(), kept: Vec::new(), unreadable: Vec::new() };
        for id in self.store.connections_under_other_keys(tenant, version).await? {
            match self.reseal(tenant, &id).await? {
                Resealed::NotNeeded => {}
                Resealed::Done => report.resealed += 1,
                Resealed::Unreadable => report.unreadable.push(id),
            }
        }
        self.remove_empty_keys(tenant, principal, &mut report).await?;
        self.keyring.reload(&*self.store).await?;
        Ok(report)
    }

    async fn add_key(&self, tenant: &TenantId, principal: &Principal) -> Result<u32, VaultError> {
        let key = aead::random_key()?;
        for _ in 0..ATTEMPTS {
            let (vault, keys) = self.vault_and_keys().await?;
            let newest = keys.iter().filter(|key| key.tenant == *tenant).map(|key| key.version).max();
            let version = newest.ok_or_else(|| VaultError::TenantUnknown(tenant.clone()))? + 1;
            let row = TenantKeyRow {
                tenant: tenant.clone(),
                version,
                state: TenantKeyState::Active,
                wrapped: self.keyring.root().wrap_tenant_key(tenant, version, &key)?,
                created_at: OffsetDateTime::now_utc(),
            };
            match self.store.add_tenant_key(vault.row_version, &row, &audit(tenant, principal, "rotated")).await {
                Err(StoreError::Conflict) => continue,
                result => result?,
            }
            self.keyring.reload(&*self.store).await?;
            return Ok(version);
        }
        Err(VaultError::Contended { attempts: ATTEMPTS })
    }

    /// Seals one connection's credential under the active key, where it is not yet.
    async fn reseal(&self, tenant: &TenantId, id: &ConnectionId) -> Result<Resealed, VaultError> {
        let object_id = id.to_string();
        for _ in 0..ATTEMPTS {
            let Some(mut row) = self.store.connection(tenant, id).await? else { return Ok(Resealed::NotNeeded) };
            if row.sealed.key_version == self.keyring.active_version(tenant)? {
                return Ok(Resealed::NotNeeded);
            }
            let seen = row.facts.row_version;
            let place = Place::of_credential(&row.facts, &object_id);
            let opened = match self.keyring.open_fresh(&*self.store, &place, &row.sealed).await {
                Ok(opened) => opened,
                Err(error) if error.is_unopenable() => {
                    // Another rotation may have sealed it again and removed the old key since the row was read.
                    let now = self.store.connection(tenant, id).await?;
                    if now.is_some_and(|now| now.facts.row_version == seen) {
                        return Ok(Resealed::Unreadable);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            // The row version is part of what is sealed, so a row that is sealed again has a new one.
            row.facts.row_version = seen + 1;
            row.sealed = self.keyring.seal(&Place::of_credential(&row.facts, &object_id), &opened)?;
            match self.store.update_connection(seen, &row, None, None).await {
                Ok(()) => {
                    self.rows.put(&row);
                    return Ok(Resealed::Done);
                }
                Err(StoreError::Conflict) => {}
                Err(StoreError::KeyGone) => self.keyring.reload(&*self.store).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(VaultError::Contended { attempts: ATTEMPTS })
    }

    async fn remove_empty_keys(
        &self,
        tenant: &TenantId,
        principal: &Principal,
        report: &mut RotateReport,
    ) -> Result<(), VaultError> {
        let keys = self.store.tenant_keys().await?;
        let old = |key: &&TenantKeyRow| key.tenant == *tenant && key.state == TenantKeyState::DecryptOnly;
        for key in keys.iter().filter(old) {
            let audit = audit(tenant, principal, &format!("removed key {}", key.version));
            let is_gone = self.store.remove_tenant_key(tenant, key.version, &audit).await?;
            if is_gone { &mut report.removed } else { &mut report.kept }.push(key.version);
        }
        Ok(())
    }

    /// Replaces the root key. The old one opens the vault no longer; copies of the database that were made
    /// before still open with it, so [`Vault::rotate`] afterwards where the old one may be known to others.
    ///
    /// # Errors
    /// [`VaultError::Passphrase`], [`VaultError::KeyFile`] or [`VaultError::KeyVariable`] where the new
    /// source cannot be used; [`VaultError::SameRootKey`]; [`VaultError::KeyDamaged`] where a tenant key does not
    /// open and so cannot be wrapped anew; [`VaultError::RootKeyReplaced`]; [`VaultError::Contended`];
    /// [`VaultError::Store`]. Whatever the error, the old key still opens the vault.
    pub async fn rekey(&self, new: &RootKeySource, principal: &Principal) -> Result<(), VaultError> {
        new.check_strength()?;
        if self.is_root_key(new).await? {
            return Err(VaultError::SameRootKey { kind: new.kind() });
        }
        let parameters = Parameters::fresh(new)?;
        let root_key = new.root_key(parameters.derivation, &parameters.salt).await?;
        let old = self.keyring.root();
        let (header, root) = parameters.write(&root_key, &old.seed)?;
        for _ in 0..ATTEMPTS {
            let (vault, mut keys) = self.vault_and_keys().await?;
            for row in &mut keys {
                let key = old.open_tenant_key(&row.tenant, row.version, &row.wrapped)?;
                row.wrapped = root.wrap_tenant_key(&row.tenant, row.version, &key)?;
            }
            // The vault belongs to the installation; the trail of its first tenant tells of it.
            let tenant = keys.iter().min_by_key(|row| row.created_at).map(|row| row.tenant.clone()).unwrap_or_default();
            match self.store.rekey_vault(vault.row_version, &header, &keys, &audit(&tenant, principal, "rekeyed")).await
            {
                Err(StoreError::Conflict) => continue,
                result => result?,
            }
            self.keyring.replace_root(root, header);
            return Ok(());
        }
        Err(VaultError::Contended { attempts: ATTEMPTS })
    }

    /// Whether `source` opens the vault already.
    async fn is_root_key(&self, source: &RootKeySource) -> Result<bool, VaultError> {
        let header = self.keyring.header();
        let parameters = Parameters::parse(&header)?;
        match source.root_key(parameters.derivation, &parameters.salt).await {
            Ok(key) => Ok(parameters.open(&header, &key).is_ok()),
            Err(VaultError::WrongSource { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The vault's record, which must still be the one that was unlocked, and then the keys: keys that are
    /// added in between change the record's row version, so a write that names it fails.
    async fn vault_and_keys(&self) -> Result<(VaultRow, Vec<TenantKeyRow>), VaultError> {
        let vault = self.store.vault().await?.ok_or(VaultError::NotInitialised)?;
        if vault.header != self.keyring.header() {
            return Err(VaultError::RootKeyReplaced);
        }
        Ok((vault, self.store.tenant_keys().await?))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
