use std::{collections::BTreeSet, sync::Arc};

use keyward_model::ConnectionFacts;

use super::*;
use crate::{
    connect::{ClientRegistration, NewConnection, StaticCredential},
    secret::Secret,
    store::{ConnectionRow, PendingAuthorization, Sealed, VaultStore},
    testing::{self, KeyFile, MemoryStore, NoWire, Tables},
};

/// A vault with three connections, the credential of each being `canary` and its name.
struct World {
    store: Arc<MemoryStore>,
    key: KeyFile,
    vault: Vault,
    tenant: TenantId,
    principal: Principal,
}

impl World {
    async fn new() -> Self {
        let (store, key) = (Arc::new(MemoryStore::default()), KeyFile::generate());
        testing::initialise(&store, &key.source).await;
        let vault = testing::unlock(&store, &key.source, Arc::new(NoWire)).await;
        let world =
            Self { store, key, vault, tenant: TenantId::default(), principal: Principal::local_administrator() };
        for name in ["one", "two", "three"] {
            world.insert(&world.vault, name).await;
        }
        world
    }

    async fn process(&self) -> Vault {
        testing::unlock(&self.store, &self.key.source, Arc::new(NoWire)).await
    }

    async fn insert(&self, vault: &Vault, name: &str) {
        let facts = testing::facts(name);
        let sealed = seal(vault, &facts, name);
        let row = ConnectionRow { facts, sealed, refresh: None };
        self.store.insert_connection(&row, &testing::audit()).await.unwrap();
    }

    async fn rotate(&self) -> RotateReport {
        self.vault.rotate(&self.tenant, &self.principal).await.unwrap()
    }

    /// The pending authorization of some state, sealed with the keys that `vault` has in memory.
    fn pending(&self, vault: &Vault, expires_at: OffsetDateTime) -> PendingAuthorization {
        let facts = testing::facts("any");
        let sealed = vault.keyring.seal(&Place::of_credential(&facts, "any"), b"canary").unwrap();
        PendingAuthorization { state_hash: [7; 32], tenant: self.tenant.clone(), sealed, expires_at }
    }

    /// The key versions under which objects rest, after `vault` has opened each and found what was in it.
    async fn rests_under(&self, vault: &Vault) -> BTreeSet<u32> {
        let rows: Vec<_> = self.store.tables().connections.values().cloned().collect();
        let mut versions = BTreeSet::new();
        for row in rows {
            let id = row.facts.id.to_string();
            let place = Place::of_credential(&row.facts, &id);
            let opened = vault.keyring.open_fresh(&*self.store, &place, &row.sealed).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&opened), format!("canary {}", row.facts.name));
            versions.insert(row.sealed.key_version);
        }
        versions
    }

    fn key_versions(&self) -> Vec<(u32, TenantKeyState)> {
        self.store.tables().keys.iter().map(|key| (key.version, key.state)).collect()
    }
}

/// The credential of `facts`, sealed with the keys that `vault` has in memory.
fn seal(vault: &Vault, facts: &ConnectionFacts, name: &str) -> Sealed {
    let id = facts.id.to_string();
    vault.keyring.seal(&Place::of_credential(facts, &id), format!("canary {name}").as_bytes()).unwrap()
}

use TenantKeyState::{Active, DecryptOnly};

#[tokio::test]
async fn rotation_seals_everything_under_a_new_key_and_removes_the_old_one() {
    let world = World::new().await;
    let report = world.rotate().await;
    assert_eq!((report.version, report.resealed), (2, 3));
    assert_eq!((report.removed, report.kept), (vec![1], vec![]));
    assert_eq!(world.rests_under(&world.vault).await, [2].into());
    assert_eq!(world.key_versions(), [(2, Active)]);
    assert!(world.store.audited().ends_with(&["rotated".to_owned(), "removed key 1".to_owned()]));
    assert_eq!(world.store.tables().vault.as_ref().unwrap().row_version, 3);
}

#[tokio::test]
async fn key_is_kept_while_an_authorization_that_rests_under_it_waits() {
    let world = World::new().await;
    let later = OffsetDateTime::now_utc() + time::Duration::minutes(10);
    world.store.put_pending(&world.pending(&world.vault, later)).await.unwrap();
    let report = world.rotate().await;
    assert_eq!((report.removed, report.kept), (vec![], vec![1]));
    world.store.tables().pending[0].expires_at = OffsetDateTime::now_utc();
    let report = world.rotate().await;
    assert_eq!((report.removed, report.kept), (vec![1, 2], vec![]));
    assert!(world.store.tables().pending.is_empty());
}

#[tokio::test]
async fn key_that_something_rests_under_is_kept() {
    let world = World::new().await;
    let id = world.store.connections(&world.tenant).await.unwrap()[0].id;
    let damage = |tables: &mut Tables| {
        let row = tables.connections.values_mut().find(|row| row.facts.id == id).unwrap();
        *row.sealed.bytes.last_mut().unwrap() ^= 1;
    };
    damage(&mut world.store.tables());
    world.rotate().await;
    let report = world.rotate().await;
    assert_eq!(report.unreadable, [id]);
    assert_eq!((report.removed, report.kept), (vec![2], vec![1]));
    // A backup of the row still opens.
    damage(&mut world.store.tables());
    assert_eq!(world.rests_under(&world.vault).await, [1, 3].into());
}

#[tokio::test]
async fn what_newer_software_sealed_stops_the_rotation_and_is_not_called_unreadable() {
    let world = World::new().await;
    let set = |format: u8| {
        let mut tables = world.store.tables();
        tables.connections.values_mut().next().unwrap().sealed.bytes[4] = format;
    };
    set(2);
    let error = world.vault.rotate(&world.tenant, &world.principal).await.unwrap_err();
    assert!(matches!(error, VaultError::Newer { found: 2, .. }), "{error}");
    set(1);
    assert!(!world.rests_under(&world.vault).await.contains(&3));
}

#[tokio::test]
async fn row_that_changes_meanwhile_is_read_again() {
    let world = World::new().await;
    let other = world.process().await;
    world.store.tables().before_update = Some(Box::new(move |tables| {
        // Another process, which has the old keys, writes each row.
        for row in tables.connections.values_mut() {
            row.facts.row_version += 1;
            row.facts.account = Some("changed".to_owned());
            row.sealed = seal(&other, &row.facts, row.facts.name.as_str());
        }
    }));
    let report = world.rotate().await;
    assert_eq!(report.resealed, 3);
    assert_eq!(world.rests_under(&world.vault).await, [2].into());
    let tables = world.store.tables();
    assert!(tables.connections.values().all(|row| row.facts.account.as_deref() == Some("changed")));
}

#[tokio::test]
async fn connection_that_is_deleted_meanwhile_is_no_error() {
    let world = World::new().await;
    world.store.tables().before_update = Some(Box::new(|tables| tables.connections.clear()));
    assert_eq!(world.rotate().await.resealed, 0);
}

#[tokio::test]
async fn mark_of_a_refresh_survives() {
    let world = World::new().await;
    let mark = crate::store::RefreshAttempt {
        id: uuid::Uuid::now_v7(),
        token_fingerprint: vec![7; 32],
        started_at: OffsetDateTime::now_utc(),
    };
    world.store.tables().connections.values_mut().for_each(|row| row.refresh = Some(mark.clone()));
    world.rotate().await;
    assert!(world.store.tables().connections.values().all(|row| row.refresh.as_ref() == Some(&mark)));
}

#[tokio::test]
async fn interrupted_rotation_leaves_everything_readable_and_is_finished_by_the_next() {
    let world = World::new().await;
    let other = world.process().await;
    // One is sealed again, then the disk is full.
    world.store.tables().before_update = Some(Box::new(|tables| tables.disk_full = true));
    assert!(matches!(
        world.vault.rotate(&world.tenant, &world.principal).await,
        Err(VaultError::Store(StoreError::DiskFull))
    ));
    world.store.tables().disk_full = false;
    assert_eq!(world.rests_under(&other).await, [1, 2].into());
    let report = world.rotate().await;
    assert_eq!((report.version, report.resealed), (3, 3));
    assert_eq!(world.rests_under(&other).await, [3].into());
}

#[tokio::test]
async fn other_process_opens_what_it_has_no_key_for_yet() {
    let world = World::new().await;
    let other = world.process().await;
    world.rotate().await;
    assert_eq!(world.rests_under(&other).await, [2].into());
}

#[tokio::test]
async fn process_that_knows_only_a_removed_key_seals_again_and_loses_nothing() {
    let world = World::new().await;
    let (stale, staler) = (world.process().await, world.process().await);
    let new = |name: &str| NewConnection {
        tenant: world.tenant.clone(),
        principal: world.principal.clone(),
        name: name.parse().unwrap(),
        owner: None,
        provider: "github".to_owned(),
        issuer: None,
        client: ClientRegistration::default(),
        scopes: BTreeSet::new(),
        endpoints: Default::default(),
        fields: Default::default(),
        reconnect: None,
    };
    let canary = || StaticCredential::Bearer(Secret::from("canary".to_owned()));
    let mut opened = {
        let facts = world.vault.connect_static(new("four"), canary()).await.unwrap();
        stale.read(&world.tenant, &facts.id).await.unwrap()
    };
    world.store.tables().connections.retain(|_, row| row.facts.id == opened.row.facts.id);
    opened.row.facts.row_version += 1;
    assert_eq!(world.rotate().await.removed, [1]);
    // A write to a row that is there, and a new row.
    stale.write(&mut opened, None, None).await.unwrap();
    staler.connect_static(new("five"), canary()).await.unwrap();
    for row in world.store.tables().connections.values() {
        assert_eq!(row.sealed.key_version, 2);
    }
    for facts in world.store.connections(&world.tenant).await.unwrap() {
        let fresh = world.process().await.read(&world.tenant, &facts.id).await.unwrap();
        assert!(fresh.credential.material().is_some());
    }
}

#[tokio::test]
async fn what_is_sealed_under_an_old_key_that_is_still_there_is_found_by_the_next_rotation() {
    let world = World::new().await;
    let other = world.process().await;
    let later = OffsetDateTime::now_utc() + time::Duration::minutes(10);
    world.store.put_pending(&world.pending(&world.vault, later)).await.unwrap();
    world.rotate().await;
    world.insert(&other, "late").await;
    assert_eq!(world.rests_under(&world.vault).await, [1, 2].into());
    world.store.tables().pending.clear();
    let report = world.rotate().await;
    assert_eq!((report.resealed, report.removed), (4, vec![1, 2]));
    assert_eq!(world.rests_under(&other).await, [3].into());
}

#[tokio::test]
async fn two_processes_may_rotate_at_once() {
    let world = World::new().await;
    let other = world.process().await;
    let (principal, tenant) = (&world.principal, &world.tenant);
    let (one, two) = tokio::join!(world.vault.rotate(tenant, principal), other.rotate(tenant, principal));
    let mut versions = [one.unwrap().version, two.unwrap().version];
    versions.sort_unstable();
    assert_eq!(versions, [2, 3]);
    assert_eq!(world.key_versions().last(), Some(&(3, Active)));
    let fresh = world.process().await;
    assert!(!world.rests_under(&fresh).await.contains(&1));
}

#[tokio::test]
async fn tenant_without_a_key_is_not_rotated() {
    let world = World::new().await;
    let error = world.vault.rotate(&"other".parse().unwrap(), &world.principal).await.unwrap_err();
    assert!(matches!(error, VaultError::TenantUnknown(_)), "{error}");
}

#[tokio::test]
async fn new_root_key_opens_everything_and_the_old_one_nothing() {
    let world = World::new().await;
    world.rotate().await;
    let new = RootKeySource::Passphrase(Secret::from("test passphrase".to_owned()));
    world.vault.rekey(&new, &world.principal).await.unwrap();
    assert_eq!(world.store.audited().last().unwrap(), "rekeyed");
    let options = || testing::options(Arc::new(NoWire));
    let error = Vault::unlock(world.store.clone(), &world.key.source, options()).await.err().unwrap();
    assert!(matches!(error, VaultError::WrongSource { .. }), "{error}");
    let opened = Vault::unlock(world.store.clone(), &new, options()).await.unwrap();
    assert_eq!(world.rests_under(&opened).await, [2].into());
    // The process that did it goes on, with the new root key.
    assert_eq!(world.rests_under(&world.vault).await, [2].into());
    assert_eq!(world.rotate().await.version, 3);
    assert_eq!(world.rests_under(&opened).await, [3].into());
}

#[tokio::test]
async fn process_with_the_old_root_key_goes_on_until_it_needs_a_new_one() {
    let world = World::new().await;
    let (other, new) = (world.process().await, KeyFile::generate());
    world.vault.rekey(&new.source, &world.principal).await.unwrap();
    assert_eq!(world.rests_under(&other).await, [1].into());
    other.keyring.reload(&*world.store).await.unwrap();
    for result in [
        other.rotate(&world.tenant, &world.principal).await.err(),
        other.rekey(&KeyFile::generate().source, &world.principal).await.err(),
    ] {
        assert!(matches!(result, Some(VaultError::RootKeyReplaced)), "{result:?}");
    }
    world.rotate().await;
    let result = other.keyring.reload(&*world.store).await;
    assert!(matches!(result, Err(VaultError::RootKeyReplaced)), "{result:?}");
}

#[tokio::test]
async fn root_key_is_not_replaced_by_itself() {
    let world = World::new().await;
    let header = || world.store.tables().vault.clone().unwrap().header;
    let before = header();
    let error = world.vault.rekey(&world.key.source, &world.principal).await.unwrap_err();
    assert!(matches!(error, VaultError::SameRootKey { .. }), "{error}");
    assert!(error.hint().unwrap().contains("a file that does not exist yet"));
    assert_eq!(header(), before);

    let passphrase = || RootKeySource::Passphrase(Secret::from("test passphrase".to_owned()));
    world.vault.rekey(&passphrase(), &world.principal).await.unwrap();
    let before = header();
    let error = world.vault.rekey(&passphrase(), &world.principal).await.unwrap_err();
    assert!(matches!(error, VaultError::SameRootKey { .. }), "{error}");
    assert_eq!(header(), before);
    let other = RootKeySource::Passphrase(Secret::from("test passphrasf".to_owned()));
    world.vault.rekey(&other, &world.principal).await.unwrap();
}

#[tokio::test]
async fn root_key_is_not_replaced_where_a_tenant_key_could_not_be_carried_over() {
    let world = World::new().await;
    let id = world.store.connections(&world.tenant).await.unwrap()[0].id;
    world.store.tables().connections.values_mut().find(|row| row.facts.id == id).unwrap().sealed.bytes[60] ^= 1;
    world.rotate().await;
    world.store.tables().keys[0].wrapped[20] ^= 1;
    let vault = world.process().await;
    let error = vault.rekey(&KeyFile::generate().source, &world.principal).await.unwrap_err();
    assert!(matches!(error, VaultError::KeyDamaged { version: 1, .. }), "{error}");
    assert_eq!(world.key_versions(), [(1, DecryptOnly), (2, Active)]);
    // The way that the hint tells.
    vault.delete(&world.tenant, &id, &world.principal).await.unwrap();
    assert_eq!(vault.rotate(&world.tenant, &world.principal).await.unwrap().removed, [1, 2]);
    vault.rekey(&KeyFile::generate().source, &world.principal).await.unwrap();
}

#[tokio::test]
async fn weak_passphrase_replaces_no_root_key() {
    let world = World::new().await;
    let weak = RootKeySource::Passphrase(Secret::from("short".to_owned()));
    assert!(matches!(world.vault.rekey(&weak, &world.principal).await, Err(VaultError::Passphrase { .. })));
    world.process().await;
}

#[tokio::test]
async fn key_added_while_the_root_key_is_replaced_is_wrapped_by_the_new_one() {
    let world = World::new().await;
    let (other, new) = (world.process().await, KeyFile::generate());
    // The other process adds a key between this one's reading the keys and its writing them.
    let (key, row_version) = (aead::random_key().unwrap(), 1);
    let row = TenantKeyRow {
        tenant: world.tenant.clone(),
        version: 2,
        state: DecryptOnly,
        wrapped: other.keyring.root().wrap_tenant_key(&world.tenant, 2, &key).unwrap(),
        created_at: OffsetDateTime::now_utc(),
    };
    world.store.tables().before_keys = Some(Box::new(move |tables| {
        let vault = tables.vault.as_mut().unwrap();
        assert_eq!(vault.row_version, row_version);
        vault.row_version += 1;
        tables.keys.push(row);
    }));
    world.vault.rekey(&new.source, &world.principal).await.unwrap();
    let opened = testing::unlock(&world.store, &new.source, Arc::new(NoWire)).await;
    assert_eq!(world.key_versions(), [(1, Active), (2, DecryptOnly)]);
    assert_eq!(world.rests_under(&opened).await, [1].into());
}

#[tokio::test]
async fn root_key_replaced_while_a_key_is_added_stops_the_adding() {
    let world = World::new().await;
    let (other, new) = (world.process().await, KeyFile::generate());
    let parameters = Parameters::fresh(&new.source).unwrap();
    let root_key = new.source.root_key(parameters.derivation, &parameters.salt).await.unwrap();
    let (header, _) = parameters.write(&root_key, &other.keyring.root().seed).unwrap();
    world.store.tables().before_keys = Some(Box::new(move |tables| {
        let vault = tables.vault.as_mut().unwrap();
        vault.row_version += 1;
        vault.header = header;
    }));
    let error = world.vault.rotate(&world.tenant, &world.principal).await.unwrap_err();
    assert!(matches!(error, VaultError::RootKeyReplaced), "{error}");
    assert_eq!(world.key_versions(), [(1, Active)]);
}

#[tokio::test]
async fn fingerprint_lasts_through_new_keys_and_differs_by_tenant_and_label() {
    let world = World::new().await;
    let print = |vault: &Vault| vault.keyring.fingerprint(&world.tenant, "test", b"canary");
    let before = print(&world.vault);
    world.rotate().await;
    let new = KeyFile::generate();
    world.vault.rekey(&new.source, &world.principal).await.unwrap();
    assert_eq!(print(&world.vault), before);
    assert_eq!(print(&testing::unlock(&world.store, &new.source, Arc::new(NoWire)).await), before);
    assert_ne!(world.vault.keyring.fingerprint(&world.tenant, "other", b"canary"), before);
    assert_ne!(world.vault.keyring.fingerprint(&"other".parse().unwrap(), "test", b"canary"), before);
    assert_ne!(world.vault.keyring.fingerprint(&world.tenant, "test", b"canarz"), before);
}
