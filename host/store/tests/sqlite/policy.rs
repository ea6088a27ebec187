//! The operator's policy, agreed to by several processes at once.

use keyward_model::TenantId;
use keyward_store::{AcceptedPolicy, AuditFilter, Store};

use crate::contract::{self, NOON, user};

fn policy(text: &str, by: &str) -> AcceptedPolicy {
    AcceptedPolicy { text: text.to_owned(), by: user(by), at: NOON }
}

#[tokio::test]
async fn the_same_policy_is_agreed_to_once_and_another_one_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("keyward.db")).await.unwrap();
    let record = contract::record(&TenantId::default(), "narrowed");
    let (ada, bob) = (policy("deny = []", "ada"), policy("deny = []", "bob"));
    assert!(store.accept_policy(None, &ada, &record).await.unwrap());
    assert!(store.accept_policy(None, &bob, &record).await.unwrap(), "it saw none either, and means the same");
    assert!(!store.accept_policy(None, &policy("allow = []", "bob"), &record).await.unwrap());
    assert_eq!(store.accepted_policy().await.unwrap(), Some(ada));
    let records = store.audit_records(&TenantId::default(), &AuditFilter::default()).await.unwrap();
    assert_eq!(records.len(), 1);
}
