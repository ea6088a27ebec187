//! [`VaultStore`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use keyward_model::{ConnectionFacts, ConnectionId, ConnectionState, TenantId};
use keyward_vault::{
    StoreError, VaultStore,
    store::{ConnectionRow, PendingAuthorization, RefreshAttempt, Sealed, TenantKeyRow, TenantKeyState},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Database, NOON, changes, record, tenant, user};

const LONG: Duration = Duration::from_secs(120);
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
const TEN_MINUTES: Duration = Duration::from_secs(600);

fn key(tenant: &TenantId, version: u32, state: TenantKeyState) -> TenantKeyRow {
    TenantKeyRow { tenant: tenant.clone(), version, state, wrapped: vec![version as u8; 48], created_at: NOON }
}

/// A vault in which each of `tenants` has a key of version 1.
pub(crate) async fn with_keys(store: &impl VaultStore, tenants: &[&TenantId]) {
    for (seen, tenant) in tenants.iter().enumerate() {
        let key = key(tenant, 1, TenantKeyState::Active);
        match seen {
            // These records are of a tenant that no test looks at.
            0 => store.create_vault(b"header", &key, &record(&super::tenant("any"), "created")).await.unwrap(),
            seen => store.add_tenant_key(seen as u64, &key, &record(&super::tenant("any"), "added")).await.unwrap(),
        }
    }
}

fn sealed(key_version: u32, bytes: &[u8]) -> Sealed {
    Sealed { key_version, bytes: bytes.to_vec() }
}

/// A connection that rests under key version 1.
pub(crate) fn connection(tenant: &TenantId, name: &str) -> ConnectionRow {
    ConnectionRow {
        facts: ConnectionFacts {
            tenant: tenant.clone(),
            id: ConnectionId::new(),
            name: name.parse().unwrap(),
            owner: None,
            provider: "github".to_owned(),
            method: "oauth2".to_owned(),
            account: None,
            granted_scopes: BTreeSet::new(),
            scopes_assumed: false,
            endpoints: BTreeMap::new(),
            state: ConnectionState::Active,
            expires_at: None,
            created_at: NOON,
            updated_at: NOON,
            row_version: 1,
        },
        sealed: sealed(1, &[0, 1, 254, 255]),
        refresh: None,
    }
}

/// The same connection one version later.
fn next(row: &ConnectionRow) -> ConnectionRow {
    let mut next = row.clone();
    next.facts.row_version += 1;
    next
}

fn is_conflict<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict))
}

pub(crate) async fn a_vault_is_created_once_with_its_first_key<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    assert!(store.vault().await.unwrap().is_none());
    let first = key(&tenant, 1, TenantKeyState::Active);
    store.create_vault(b"header", &first, &record(&tenant, "created")).await.unwrap();
    let again = store.create_vault(b"other", &first, &record(&tenant, "created again")).await;
    assert!(is_conflict(again));

    let vault = database.open().await.vault().await.unwrap().unwrap();
    assert_eq!((vault.header.as_slice(), vault.row_version), (&b"header"[..], 1));
    assert_eq!(store.tenant_keys().await.unwrap(), [first]);
    assert_eq!(changes(&database, &store, &tenant).await, ["created"]);
}

pub(crate) async fn a_new_root_key_replaces_every_wrapping_or_nothing<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    let mut first = key(&tenant, 1, TenantKeyState::Active);
    store.create_vault(b"old", &first, &record(&tenant, "created")).await.unwrap();
    let mut second = key(&tenant, 2, TenantKeyState::Active);
    store.add_tenant_key(1, &second, &record(&tenant, "rotated")).await.unwrap();

    first.state = TenantKeyState::DecryptOnly;
    let unchanged = [first.clone(), second.clone()];
    first.wrapped = b"first anew".to_vec();
    second.wrapped = b"second anew".to_vec();
    let refused = record(&tenant, "refused");
    let stale = store.rekey_vault(1, b"new", &[first.clone(), second.clone()], &refused).await;
    assert!(is_conflict(stale), "the version is not the one that was seen");
    let one_missing = store.rekey_vault(2, b"new", &[first.clone()], &refused).await;
    assert!(is_conflict(one_missing), "a key would stay under the old root key");
    let one_unknown = [first.clone(), second.clone(), key(&tenant, 3, TenantKeyState::DecryptOnly)];
    assert!(is_conflict(store.rekey_vault(2, b"new", &one_unknown, &refused).await));
    assert_eq!(store.tenant_keys().await.unwrap(), unchanged);
    assert_eq!(store.vault().await.unwrap().unwrap().header, b"old");

    store.rekey_vault(2, b"new", &[first.clone(), second.clone()], &record(&tenant, "rekeyed")).await.unwrap();
    let vault = store.vault().await.unwrap().unwrap();
    assert_eq!((vault.header.as_slice(), vault.row_version), (&b"new"[..], 3));
    assert_eq!(store.tenant_keys().await.unwrap(), [first, second]);
    assert_eq!(changes(&database, &store, &tenant).await, ["created", "rotated", "rekeyed"]);
}

pub(crate) async fn a_new_active_key_makes_the_others_decrypt_only<D: Database>(database: D) {
    let (store, one, two) = (database.open().await, tenant("one"), tenant("two"));
    store.create_vault(b"h", &key(&one, 1, TenantKeyState::Active), &record(&one, "created")).await.unwrap();
    store.add_tenant_key(1, &key(&two, 1, TenantKeyState::Active), &record(&two, "added")).await.unwrap();
    store.add_tenant_key(2, &key(&one, 2, TenantKeyState::Active), &record(&one, "rotated")).await.unwrap();
    let states: Vec<_> =
        store.tenant_keys().await.unwrap().into_iter().map(|key| (key.tenant, key.version, key.state)).collect();
    assert_eq!(
        states,
        [
            (one.clone(), 1, TenantKeyState::DecryptOnly),
            (one, 2, TenantKeyState::Active),
            (two, 1, TenantKeyState::Active)
        ]
    );
}

pub(crate) async fn a_key_is_not_added_over_a_vault_that_has_changed<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    let new = key(&tenant, 2, TenantKeyState::Active);
    assert!(is_conflict(store.add_tenant_key(1, &new, &record(&tenant, "too early")).await), "there is no vault");
    store.create_vault(b"h", &key(&tenant, 1, TenantKeyState::Active), &record(&tenant, "created")).await.unwrap();
    store.add_tenant_key(1, &new, &record(&tenant, "rotated")).await.unwrap();
    let third = key(&tenant, 3, TenantKeyState::Active);
    assert!(is_conflict(store.add_tenant_key(1, &third, &record(&tenant, "stale")).await));
    assert!(is_conflict(store.add_tenant_key(2, &new, &record(&tenant, "same number")).await));
    assert_eq!(store.tenant_keys().await.unwrap().len(), 2);
    assert_eq!(changes(&database, &store, &tenant).await, ["created", "rotated"]);
}

pub(crate) async fn only_a_decrypt_only_key_is_removed<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    store.create_vault(b"h", &key(&tenant, 1, TenantKeyState::Active), &record(&tenant, "created")).await.unwrap();
    store.add_tenant_key(1, &key(&tenant, 2, TenantKeyState::Active), &record(&tenant, "rotated")).await.unwrap();
    let remove = async |version| store.remove_tenant_key(&tenant, version, &record(&tenant, "removed")).await;
    assert!(is_conflict(remove(2).await));
    assert!(remove(1).await.unwrap());
    assert_eq!(store.vault().await.unwrap().unwrap().row_version, 3);
    assert!(remove(1).await.unwrap(), "it is gone");
    assert_eq!(store.vault().await.unwrap().unwrap().row_version, 3, "nothing happened");
    assert_eq!(store.tenant_keys().await.unwrap(), [key(&tenant, 2, TenantKeyState::Active)]);
    assert_eq!(changes(&database, &store, &tenant).await, ["created", "rotated", "removed"]);
}

/// Two keys, of which the second is active.
async fn rotated<D: Database>(database: &D) -> (D::Store, TenantId) {
    let (store, tenant) = (database.open().await, tenant("default"));
    with_keys(&store, &[&tenant]).await;
    store.add_tenant_key(1, &key(&tenant, 2, TenantKeyState::Active), &record(&tenant, "rotated")).await.unwrap();
    (store, tenant)
}

pub(crate) async fn a_key_that_something_rests_under_is_not_removed<D: Database>(database: D) {
    let (store, tenant) = rotated(&database).await;
    let (row, later) = (connection(&tenant, "github"), OffsetDateTime::now_utc() + LONG);
    store.insert_connection(&row, &record(&tenant, "created")).await.unwrap();
    store.put_pending(&pending(1, later)).await.unwrap();
    store.put_pending(&pending(2, OffsetDateTime::now_utc() - LONG)).await.unwrap();
    let remove = async || store.remove_tenant_key(&tenant, 1, &record(&tenant, "removed")).await.unwrap();
    assert!(!remove().await);
    assert_eq!(store.connections_under_other_keys(&tenant, 2).await.unwrap(), [row.facts.id]);
    assert_eq!(store.connections_under_other_keys(&tenant, 1).await.unwrap(), []);

    let mut moved = next(&row);
    moved.sealed.key_version = 2;
    store.update_connection(1, &moved, None, None).await.unwrap();
    assert_eq!(store.connections_under_other_keys(&tenant, 2).await.unwrap(), []);
    assert!(!remove().await, "an authorization waits");
    assert!(store.take_pending(&[1; 32]).await.unwrap().is_some());
    assert!(remove().await, "the other authorization has ended");
    assert_eq!(store.tenant_keys().await.unwrap().len(), 1);
    assert_eq!(changes(&database, &store, &tenant).await, ["rotated", "created", "removed"]);
}

pub(crate) async fn nothing_is_written_under_a_key_that_is_gone<D: Database>(database: D) {
    let (store, tenant) = rotated(&database).await;
    let mut kept = connection(&tenant, "kept");
    kept.sealed.key_version = 2;
    store.insert_connection(&kept, &record(&tenant, "created")).await.unwrap();
    assert!(store.remove_tenant_key(&tenant, 1, &record(&tenant, "removed")).await.unwrap());

    let late = connection(&tenant, "late");
    let mut back = next(&kept);
    back.sealed.key_version = 1;
    for refused in [
        store.insert_connection(&late, &record(&tenant, "refused")).await,
        store.update_connection(1, &back, None, Some(&record(&tenant, "refused"))).await,
        store.put_pending(&pending(1, OffsetDateTime::now_utc() + LONG)).await,
    ] {
        assert!(matches!(refused, Err(StoreError::KeyGone)), "{refused:?}");
    }
    assert_eq!(store.connections(&tenant).await.unwrap(), [kept.facts]);
    assert_eq!(changes(&database, &store, &tenant).await, ["rotated", "created", "removed"]);
}

pub(crate) async fn a_connection_reads_back_as_written<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    with_keys(&store, &[&tenant]).await;
    let plain = connection(&tenant, "plain");
    let mut full = connection(&tenant, "full");
    full.facts.owner = Some(user("ada"));
    full.facts.account = Some("ada@example.com".to_owned());
    full.facts.granted_scopes = ["repo".to_owned(), "read:user".to_owned()].into();
    full.facts.scopes_assumed = true;
    full.facts.endpoints = [("api".to_owned(), "https://git.example.com".to_owned())].into();
    full.facts.state = ConnectionState::NeedsReconnect("the grant has ended".to_owned());
    full.facts.expires_at = Some(NOON);
    full.refresh = Some(RefreshAttempt { id: Uuid::now_v7(), token_fingerprint: vec![7; 32], started_at: NOON });
    for row in [&plain, &full] {
        store.insert_connection(row, &record(&tenant, "created")).await.unwrap();
    }
    let other = database.open().await;
    for row in [&plain, &full] {
        let read = other.connection(&tenant, &row.facts.id).await.unwrap().unwrap();
        assert_eq!((&read.facts, &read.sealed, &read.refresh), (&row.facts, &row.sealed, &row.refresh));
        assert_eq!(other.connection_id(&tenant, &row.facts.name).await.unwrap(), Some(row.facts.id));
    }
    assert_eq!(other.connections(&tenant).await.unwrap(), [full.facts.clone(), plain.facts]);

    let mut emptied = next(&full);
    emptied.refresh = None;
    emptied.facts.expires_at = None;
    emptied.facts.state = ConnectionState::Revoked;
    store.update_connection(1, &emptied, None, None).await.unwrap();
    let read = other.connection(&tenant, &full.facts.id).await.unwrap().unwrap();
    assert_eq!((read.facts, read.refresh), (emptied.facts, None));
}

pub(crate) async fn a_name_belongs_to_one_connection_of_a_tenant<D: Database>(database: D) {
    let (store, one, two) = (database.open().await, tenant("one"), tenant("two"));
    with_keys(&store, &[&one, &two]).await;
    let first = connection(&one, "github");
    store.insert_connection(&first, &record(&one, "created")).await.unwrap();
    let taken = store.insert_connection(&connection(&one, "github"), &record(&one, "refused")).await;
    assert!(matches!(taken, Err(StoreError::NameTaken(name)) if name == "github"));
    store.insert_connection(&connection(&two, "github"), &record(&two, "created")).await.unwrap();

    let second = connection(&one, "other");
    store.insert_connection(&second, &record(&one, "created")).await.unwrap();
    let mut renamed = next(&second);
    renamed.facts.name = "github".parse().unwrap();
    let taken = store.update_connection(1, &renamed, None, None).await;
    assert!(matches!(taken, Err(StoreError::NameTaken(name)) if name == "github"));

    assert!(is_conflict(store.insert_connection(&first, &record(&one, "refused")).await), "the id is taken");
    assert_eq!(
        store.connection(&two, &first.facts.id).await.unwrap().map(|row| row.facts.id),
        None,
        "tenants are apart"
    );
}

pub(crate) async fn a_write_over_a_changed_record_is_a_conflict<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    with_keys(&store, &[&tenant]).await;
    let first = connection(&tenant, "github");
    assert!(is_conflict(store.update_connection(1, &next(&first), None, None).await), "there is none");
    store.insert_connection(&first, &record(&tenant, "created")).await.unwrap();
    let mut second = next(&first);
    second.sealed.bytes = b"second".to_vec();
    store.update_connection(1, &second, None, Some(&record(&tenant, "refreshed"))).await.unwrap();
    let stale = store.update_connection(1, &next(&first), None, Some(&record(&tenant, "stale"))).await;
    assert!(is_conflict(stale));
    assert!(is_conflict(store.delete_connection(&tenant, &first.facts.id, 1, &record(&tenant, "stale")).await));
    assert_eq!(store.connection(&tenant, &first.facts.id).await.unwrap().unwrap().sealed.bytes, b"second");
    assert_eq!(changes(&database, &store, &tenant).await, ["created", "refreshed"]);
}

pub(crate) async fn of_writers_that_saw_the_same_version_one_wins<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    with_keys(&store, &[&tenant]).await;
    let first = connection(&tenant, "github");
    store.insert_connection(&first, &record(&tenant, "created")).await.unwrap();
    let mut writers = Vec::new();
    for _ in 0..8 {
        let (store, row) = (database.open().await, next(&first));
        writers.push(tokio::spawn(async move { store.update_connection(1, &row, None, None).await }));
    }
    let mut won = 0;
    for writer in writers {
        match writer.await.unwrap() {
            Ok(()) => won += 1,
            other => assert!(is_conflict(other)),
        }
    }
    assert_eq!(won, 1);
}

pub(crate) async fn a_deleted_connection_is_gone_and_its_name_free<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    with_keys(&store, &[&tenant]).await;
    let first = connection(&tenant, "github");
    store.insert_connection(&first, &record(&tenant, "created")).await.unwrap();
    store.delete_connection(&tenant, &first.facts.id, 1, &record(&tenant, "deleted")).await.unwrap();
    assert!(store.connection(&tenant, &first.facts.id).await.unwrap().is_none());
    assert_eq!(store.connections(&tenant).await.unwrap(), []);
    store.insert_connection(&connection(&tenant, "github"), &record(&tenant, "created")).await.unwrap();
    assert_eq!(changes(&database, &store, &tenant).await, ["created", "deleted", "created"]);
}

pub(crate) async fn a_refresh_is_leased_to_one_at_a_time<D: Database>(database: D) {
    let (store, other, tenant) = (database.open().await, database.open().await, tenant("default"));
    with_keys(&store, &[&tenant]).await;
    let row = connection(&tenant, "github");
    let id = row.facts.id;
    assert!(is_conflict(store.lease_refresh(&tenant, &id, LONG).await), "waiting for what is gone would never end");
    store.insert_connection(&row, &record(&tenant, "created")).await.unwrap();

    let first = store.lease_refresh(&tenant, &id, LONG).await.unwrap().unwrap();
    assert_eq!(other.lease_refresh(&tenant, &id, LONG).await.unwrap(), None);
    store.update_connection(1, &next(&row), Some(first), None).await.unwrap();
    store.release_refresh(&tenant, &id, first).await.unwrap();
    let second = other.lease_refresh(&tenant, &id, LONG).await.unwrap().unwrap();
    assert!(second.fence > first.fence);

    store.release_refresh(&tenant, &id, first).await.unwrap();
    assert_eq!(store.lease_refresh(&tenant, &id, LONG).await.unwrap(), None, "a stale release frees nothing");
}

pub(crate) async fn a_lease_that_was_overtaken_cannot_write<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    with_keys(&store, &[&tenant]).await;
    let row = connection(&tenant, "github");
    store.insert_connection(&row, &record(&tenant, "created")).await.unwrap();
    let first = store.lease_refresh(&tenant, &row.facts.id, Duration::ZERO).await.unwrap().unwrap();
    let second = store.lease_refresh(&tenant, &row.facts.id, LONG).await.unwrap().unwrap();
    assert!(is_conflict(store.update_connection(1, &next(&row), Some(first), None).await));
    store.update_connection(1, &next(&row), Some(second), None).await.unwrap();
}

pub(crate) async fn an_ended_lease_is_overtaken<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    with_keys(&store, &[&tenant]).await;
    let row = connection(&tenant, "github");
    store.insert_connection(&row, &record(&tenant, "created")).await.unwrap();
    let ended = store.lease_refresh(&tenant, &row.facts.id, Duration::ZERO).await.unwrap().unwrap();
    // Nobody has overtaken it yet, so it is still the newest.
    store.update_connection(1, &next(&row), Some(ended), None).await.unwrap();
    let overtaking = store.lease_refresh(&tenant, &row.facts.id, LONG).await.unwrap().unwrap();
    assert_eq!(overtaking.fence, ended.fence + 1);
}

pub(crate) async fn a_lease_of_a_wrong_clock_is_overtaken<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    with_keys(&store, &[&tenant]).await;
    let row = connection(&tenant, "github");
    store.insert_connection(&row, &record(&tenant, "created")).await.unwrap();
    // However long a lease is asked for, it is no longer than one that counts.
    let first = store.lease_refresh(&tenant, &row.facts.id, TEN_YEARS).await.unwrap().unwrap();
    assert_eq!(store.lease_refresh(&tenant, &row.facts.id, LONG).await.unwrap(), None);
    database.postpone_leases(TEN_MINUTES).await;
    let second = store.lease_refresh(&tenant, &row.facts.id, LONG).await.unwrap().unwrap();
    assert_eq!(second.fence, first.fence + 1);
    assert_eq!(store.lease_refresh(&tenant, &row.facts.id, LONG).await.unwrap(), None);
}

fn pending(hash: u8, expires_at: OffsetDateTime) -> PendingAuthorization {
    PendingAuthorization { state_hash: [hash; 32], tenant: tenant("default"), sealed: sealed(1, &[hash]), expires_at }
}

pub(crate) async fn a_waiting_authorization_is_taken_once<D: Database>(database: D) {
    let (store, other) = (database.open().await, database.open().await);
    with_keys(&store, &[&tenant("default")]).await;
    let later = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap() + LONG;
    store.put_pending(&pending(1, later)).await.unwrap();
    assert!(is_conflict(store.put_pending(&pending(1, later)).await));
    let (first, second) = tokio::join!(store.take_pending(&[1; 32]), other.take_pending(&[1; 32]));
    let taken: Vec<_> = [first.unwrap(), second.unwrap()].into_iter().flatten().collect();
    assert_eq!(taken.len(), 1);
    assert_eq!((&taken[0].sealed, taken[0].expires_at), (&sealed(1, &[1]), later));
    assert!(store.take_pending(&[2; 32]).await.unwrap().is_none());
}

pub(crate) async fn ended_authorizations_are_cleared<D: Database>(database: D) {
    let store = database.open().await;
    with_keys(&store, &[&tenant("default")]).await;
    let now = OffsetDateTime::now_utc();
    store.put_pending(&pending(1, now - LONG)).await.unwrap();
    store.put_pending(&pending(2, now + LONG)).await.unwrap();
    store.put_pending(&pending(3, now + LONG)).await.unwrap();
    assert!(store.take_pending(&[1; 32]).await.unwrap().is_none());
    assert!(store.take_pending(&[2; 32]).await.unwrap().is_some());
}

pub(crate) async fn a_refused_change_leaves_no_audit_record<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    with_keys(&store, &[&tenant]).await;
    let row = connection(&tenant, "github");
    store.insert_connection(&row, &record(&tenant, "created")).await.unwrap();
    let mut skipping = next(&row);
    skipping.facts.row_version = 5;
    assert!(store.update_connection(1, &skipping, None, Some(&record(&tenant, "refused"))).await.is_err());
    let mut early = connection(&tenant, "other");
    early.facts.row_version = 2;
    assert!(store.insert_connection(&early, &record(&tenant, "refused")).await.is_err());
    // The other way round: where the record cannot be written, the change is not made.
    let written = record(&tenant, "renamed");
    keyward_egress::AuditSink::record(&store, written.clone()).await.unwrap();
    assert!(store.update_connection(1, &next(&row), None, Some(&written)).await.is_err());
    assert_eq!(store.connection(&tenant, &row.facts.id).await.unwrap().unwrap().facts.row_version, 1);
    assert_eq!(changes(&database, &store, &tenant).await, ["created", "renamed"]);
}
