//! New keys without downtime.
//!
//! **Rotating** gives a tenant a new active key and seals everything again under it, one object after the
//! other, while other processes go on reading and writing: a row that was changed meanwhile is read again.
//! An interrupted rotation leaves everything readable and the next one finishes it, because only what does
//! not rest under the active key is touched. An old key is removed when nothing rests under it and its
//! successor is an hour old: by then every process knows the successor ([`crate::keys`]), and every
//! authorization that was sealed under the old key has had its redirect or has ended.
//!
//! **Rekeying** replaces the root key: the same tenant keys are wrapped anew in one transaction, and no
//! object is touched. Both change the vault's row version, so that neither can overtake the other.

use std::collections::BTreeSet;

use keyward_model::{ConnectionId, Principal, TenantId};
use time::{Duration, OffsetDateTime};

use crate::{
    aead,
    error::VaultError,
    header::Parameters,
    root::RootKeySource,
    seal::{self, Place},
    store::{StoreError, TenantKeyRow, TenantKeyState, VaultRow},
    vault::{Vault, audit},
};

/// How long an empty key is kept after its successor was made.
const KEPT: Duration = Duration::hours(1);
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
    /// Old versions that are kept: something rests under them, or their successor is less than an hour old.
    /// The next rotation looks at them again.
    pub kept: Vec<u32>,
    /// Connections whose credential cannot be opened under any key; their owners must connect again.
    pub unreadable: Vec<ConnectionId>,
}

/// What one look at a connection found.
enum Resealed {
    /// It rested under the active key.
    NotNeeded(u32),
    /// It was sealed again, under this version.
    Done(u32),
    /// It was deleted meanwhile.
    Gone,
    /// It cannot be opened; the version that it names, where it names one.
    Unreadable(Option<u32>),
}

impl Vault {
    /// Gives `tenant` a new key, seals everything again under it, and removes the old keys that nothing
    /// needs any more.
    ///
    /// # Errors
    /// [`VaultError::TenantUnknown`]; [`VaultError::RootKeyReplaced`]; [`VaultError::Contended`];
    /// [`VaultError::Store`]. Whatever the error, everything can still be opened, and calling it again
    /// finishes the work.
    pub async fn rotate(&self, tenant: &TenantId, principal: &Principal) -> Result<RotateReport, VaultError> {
        let version = self.add_key(tenant, principal).await?;
        let mut report =
            RotateReport { version, resealed: 0, removed: Vec::new(), kept: Vec::new(), unreadable: Vec::new() };
        let mut in_use = BTreeSet::new();
        for facts in self.store.connections(tenant).await? {
            match self.reseal(tenant, &facts.id).await? {
                Resealed::NotNeeded(version) => _ = in_use.insert(version),
                Resealed::Done(version) => {
                    in_use.insert(version);
                    report.resealed += 1;
                }
                Resealed::Gone => {}
                Resealed::Unreadable(version) => {
                    in_use.extend(version);
                    report.unreadable.push(facts.id);
                }
            }
        }
        self.remove_empty_keys(tenant, &in_use, &mut report).await?;
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
            let Some(mut row) = self.store.connection(tenant, id).await? else { return Ok(Resealed::Gone) };
            let seen = row.facts.row_version;
            let place = Place::of_credential(tenant, &object_id, seen);
            let version = seal::key_version(&place, &row.sealed).ok();
            let active = self.keyring.active_version(tenant)?;
            if version == Some(active) {
                return Ok(Resealed::NotNeeded(active));
            }
            let opened = match self.keyring.open_fresh(&*self.store, &place, &row.sealed).await {
                Ok(opened) => opened,
                Err(VaultError::Damaged { .. } | VaultError::KeyUnknown { .. } | VaultError::Newer { .. }) => {
                    return Ok(Resealed::Unreadable(version));
                }
                Err(error) => return Err(error),
            };
            // The row version is part of what is sealed, so a row that is sealed again has a new one.
            row.facts.row_version = seen + 1;
            let place = Place { row_version: seen + 1, ..place };
            row.sealed = self.keyring.seal(&place, &opened)?;
            match self.store.update_connection(seen, &row, None, None).await {
                Ok(()) => {
                    self.rows.put(&row);
                    return Ok(Resealed::Done(seal::key_version(&place, &row.sealed)?));
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(VaultError::Contended { attempts: ATTEMPTS })
    }

    async fn remove_empty_keys(
        &self,
        tenant: &TenantId,
        in_use: &BTreeSet<u32>,
        report: &mut RotateReport,
    ) -> Result<(), VaultError> {
        let mut keys = self.store.tenant_keys().await?;
        keys.retain(|key| key.tenant == *tenant);
        keys.sort_by_key(|key| key.version);
        let now = OffsetDateTime::now_utc();
        for pair in keys.windows(2) {
            let [old, successor] = pair else { continue };
            if in_use.contains(&old.version) || successor.created_at + KEPT > now {
                report.kept.push(old.version);
            } else {
                self.store.remove_tenant_key(tenant, old.version).await?;
                report.removed.push(old.version);
            }
        }
        Ok(())
    }

    /// Replaces the root key. The old one opens the vault no longer; copies of the database that were made
    /// before still open with it, so [`Vault::rotate`] afterwards where the old one may be known to others.
    ///
    /// # Errors
    /// [`VaultError::Passphrase`], [`VaultError::KeyFile`] or [`VaultError::KeyVariable`] where the new
    /// source cannot be used; [`VaultError::RootKeyReplaced`]; [`VaultError::Contended`];
    /// [`VaultError::Store`]. Whatever the error, the old key still opens the vault.
    pub async fn rekey(&self, new: &RootKeySource, principal: &Principal) -> Result<(), VaultError> {
        new.check_strength()?;
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
