//! [`PluginStore`].

use keyward_model::{ConnectorId, ConnectorName, Digest, TenantId};
use keyward_registry::{Installed, PluginStore, StoreError};
use serde_json::json;

use super::{Database, NOON, changes, record, tenant, user};

fn installed(tenant: &TenantId, name: &str, content: u8) -> Installed {
    let manifest = json!({
        "name": name, "version": "0.1.0", "title": "Ä",
        "actions": {"list": {"title": "List", "input": {"type": "object"}}},
    });
    Installed {
        tenant: tenant.clone(),
        connector: ConnectorId {
            name: name.parse().unwrap(),
            version: "0.1.0".to_owned(),
            digest: Digest::from_sha256([content; 32]),
        },
        manifest: serde_json::from_value(manifest).unwrap(),
        consented_by: user("ada"),
        consented_at: NOON,
    }
}

fn name(name: &str) -> ConnectorName {
    name.parse().unwrap()
}

pub(crate) async fn an_installed_connector_reads_back_as_written<D: Database>(database: D) {
    let (store, one, two) = (database.open().await, tenant("one"), tenant("two"));
    let (slack, github) = (installed(&one, "slack", 1), installed(&one, "github", 2));
    for connector in [&slack, &github] {
        store.put(None, connector, &record(&one, "added")).await.unwrap();
    }
    let other = database.open().await;
    assert_eq!(other.find(&one, &name("slack")).await.unwrap(), Some(slack.clone()));
    assert_eq!(PluginStore::installed(&other, &one).await.unwrap(), [github, slack]);
    assert_eq!(other.find(&two, &name("slack")).await.unwrap(), None, "tenants are apart");
    assert_eq!(PluginStore::installed(&other, &two).await.unwrap(), []);
}

pub(crate) async fn a_connector_is_replaced_only_over_what_was_seen<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    let (old, new) = (installed(&tenant, "github", 1), installed(&tenant, "github", 2));
    let refused = record(&tenant, "refused");
    let is_conflict = |result| matches!(result, Err(StoreError::Conflict));
    assert!(is_conflict(store.put(Some(&old.connector.digest), &new, &refused).await), "there is none");
    store.put(None, &old, &record(&tenant, "added")).await.unwrap();
    assert!(is_conflict(store.put(None, &new, &refused).await));
    assert!(is_conflict(store.put(Some(&new.connector.digest), &new, &refused).await));
    store.put(Some(&old.connector.digest), &new, &record(&tenant, "upgraded")).await.unwrap();
    assert_eq!(PluginStore::installed(&store, &tenant).await.unwrap(), [new]);
    assert_eq!(changes(&database, &store, &tenant).await, ["added", "upgraded"]);
}

pub(crate) async fn removing_tells_whether_there_was_something<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    store.put(None, &installed(&tenant, "github", 1), &record(&tenant, "added")).await.unwrap();
    assert!(store.remove(&tenant, &name("github"), &record(&tenant, "removed")).await.unwrap());
    assert!(!store.remove(&tenant, &name("github"), &record(&tenant, "removed again")).await.unwrap());
    assert_eq!(store.find(&tenant, &name("github")).await.unwrap(), None);
    assert_eq!(changes(&database, &store, &tenant).await, ["added", "removed"]);
}

pub(crate) async fn components_of_all_tenants_are_listed_once<D: Database>(database: D) {
    let (store, one, two) = (database.open().await, tenant("one"), tenant("two"));
    for (tenant, name, content) in [(&one, "a", 1), (&two, "a", 1), (&two, "b", 2)] {
        store.put(None, &installed(tenant, name, content), &record(tenant, "added")).await.unwrap();
    }
    let components = store.components().await.unwrap();
    assert_eq!(components, [Digest::from_sha256([1; 32]), Digest::from_sha256([2; 32])].into());
}
