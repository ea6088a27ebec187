//! The chain of the audit trail, against somebody who can write the file.

use std::path::Path;

use keyward_egress::AuditSink as _;
use keyward_model::{AuditEvent, Digest, TenantId};
use keyward_store::{AuditFault, AuditFilter, AuditHead, Store};

use crate::{contract, opening::raw};

async fn change(path: &Path, sql: &'static str) {
    let triggers = "DROP TRIGGER IF EXISTS audit_records_are_not_changed;
                    DROP TRIGGER IF EXISTS audit_records_are_not_removed;
                    DROP TRIGGER IF EXISTS audit_records_are_not_replaced";
    let mut raw = raw(path).await;
    sqlx::raw_sql(triggers).execute(&mut raw).await.unwrap();
    let changed = sqlx::raw_sql(sql).execute(&mut raw).await.unwrap().rows_affected();
    assert!(changed > 0, "{sql}");
}

async fn write(store: &Store, tenant: &TenantId, count: usize) {
    for number in 0..count {
        store.record(contract::record(tenant, &format!("change-{number}"))).await.unwrap();
    }
}

async fn check(store: &Store, known: Option<AuditHead>) -> (u64, Option<AuditFault>) {
    let verdict = store.verify_audit(&TenantId::default(), known).await.unwrap();
    (verdict.head.number, verdict.fault)
}

#[tokio::test]
async fn every_change_of_a_record_is_told_at_its_place() {
    for (sql, sound, fault) in [
        ("UPDATE audit_records SET record = replace(record, 'change-2', 'change-9')", 2, AuditFault::Changed(3)),
        ("UPDATE audit_records SET digest = replace(digest, 'a', 'b') WHERE number = 3", 2, AuditFault::Changed(3)),
        ("UPDATE audit_records SET digest = 'nothing' WHERE number = 1", 0, AuditFault::Changed(1)),
        ("UPDATE audit_records SET record = 'nothing' WHERE number = 5", 4, AuditFault::Changed(5)),
        ("DELETE FROM audit_records WHERE number = 3", 2, AuditFault::Missing(3)),
        ("DELETE FROM audit_records WHERE number < 3", 0, AuditFault::Missing(1)),
        (
            "DELETE FROM audit_records WHERE number = 3; UPDATE audit_records SET number = number - 1 WHERE number = 4;
             UPDATE audit_records SET number = number - 1 WHERE number = 5",
            2,
            AuditFault::Changed(3),
        ),
        ("UPDATE audit_records SET denied = 1 WHERE number = 2", 1, AuditFault::Misfiled(2)),
        ("UPDATE audit_records SET at = at + 1 WHERE number = 4", 3, AuditFault::Misfiled(4)),
        ("UPDATE audit_records SET id = 'another' WHERE number = 4", 3, AuditFault::Misfiled(4)),
        ("UPDATE audit_records SET run = 'another' WHERE number = 4", 3, AuditFault::Misfiled(4)),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keyward.db");
        let store = Store::open(&path).await.unwrap();
        write(&store, &TenantId::default(), 5).await;
        assert_eq!(check(&store, None).await, (5, None));
        change(&path, sql).await;
        assert_eq!(check(&store, None).await, (sound, Some(fault)), "{sql}");
    }
}

#[tokio::test]
async fn record_that_was_put_in_is_told_whatever_its_number() {
    const COPY: &str =
        "INSERT INTO audit_records (id, tenant, principal_kind, principal_id, at, denied, record, number, digest)
        SELECT 'forged' || abs(random()), tenant, principal_kind, principal_id, at, denied, record,";
    for (number, faults) in [
        ("0", [AuditFault::PutIn(1)].as_slice()),
        ("-5", &[AuditFault::PutIn(1)]),
        // Which of the two comes first is not said.
        ("2", &[AuditFault::Misfiled(2), AuditFault::Changed(3)]),
        ("7", &[AuditFault::Missing(6)]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keyward.db");
        let store = Store::open(&path).await.unwrap();
        write(&store, &TenantId::default(), 5).await;
        let mut raw = raw(&path).await;
        let unguarded = "PRAGMA ignore_check_constraints = on; DROP INDEX audit_records_by_tenant;
                         DROP TRIGGER audit_records_are_not_replaced";
        sqlx::raw_sql(unguarded).execute(&mut raw).await.unwrap();
        let put_in = format!("{COPY} {number}, digest FROM audit_records WHERE number = 2");
        sqlx::raw_sql(sqlx::AssertSqlSafe(put_in)).execute(&mut raw).await.unwrap();
        let fault = check(&store, None).await.1.unwrap();
        assert!(faults.contains(&fault), "{number}: {fault}");
    }
}

#[tokio::test]
async fn head_that_was_kept_tells_a_trail_that_was_made_anew_or_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keyward.db");
    let (store, tenant) = (Store::open(&path).await.unwrap(), TenantId::default());
    assert_eq!(check(&store, Some(AuditHead::EMPTY)).await, (0, None));
    write(&store, &tenant, 4).await;
    let known = store.verify_audit(&tenant, None).await.unwrap().head;
    assert_eq!(known.to_string().parse(), Ok(known));
    write(&store, &tenant, 2).await;
    assert_eq!(check(&store, Some(known)).await, (6, None));
    assert_eq!(check(&store, Some(AuditHead::EMPTY)).await, (6, None));

    let other = AuditHead { digest: Digest::from_sha256([1; 32]), ..known };
    assert_eq!(check(&store, Some(other)).await, (3, Some(AuditFault::Replaced(4))));
    let other = AuditHead { number: 0, ..known };
    assert_eq!(check(&store, Some(other)).await, (0, Some(AuditFault::Replaced(0))));

    change(&path, "DELETE FROM audit_records WHERE number > 2").await;
    assert_eq!(check(&store, None).await, (2, None), "the trail alone cannot tell");
    assert_eq!(check(&store, Some(known)).await, (2, Some(AuditFault::Missing(3))));
    // A trail that goes on from there is another one.
    write(&store, &tenant, 5).await;
    assert_eq!(check(&store, None).await, (7, None));
    assert_eq!(check(&store, Some(known)).await, (3, Some(AuditFault::Replaced(4))));
}

#[tokio::test]
async fn each_tenant_has_a_chain_and_writers_continue_it_together() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keyward.db");
    let tenants: [TenantId; 2] = ["one", "two"].map(|name| name.parse().unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for tenant in tenants.iter().cycle().take(6) {
        // Each with a connection of its own, as another process has it.
        let store = Store::open(&path).await.unwrap();
        let tenant = tenant.clone();
        writers.spawn(async move { write(&store, &tenant, 30).await });
    }
    writers.join_all().await;
    let store = Store::open(&path).await.unwrap();
    for tenant in &tenants {
        let verdict = store.verify_audit(tenant, None).await.unwrap();
        assert_eq!((verdict.head.number, verdict.fault), (90, None));
    }
}

#[tokio::test]
async fn long_trail_is_read_page_by_page_and_checks_outside() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("keyward.db")).await.unwrap();
    let tenant = TenantId::default();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (store, tenant) = (store.clone(), tenant.clone());
        writers.spawn(async move { write(&store, &tenant, 45).await });
    }
    writers.join_all().await;
    let mut denied = contract::record(&tenant, "");
    denied.event = AuditEvent::LimitReached;
    store.record(denied).await.unwrap();

    let (mut head, mut pages) = (AuditHead::EMPTY, 0);
    loop {
        let page = store.audit_page(&tenant, &AuditFilter::default(), head.number).await.unwrap();
        if page.is_empty() {
            break;
        }
        pages += 1;
        for stored in page {
            head = head.after(&stored.text);
            assert_eq!(head, stored.head);
        }
    }
    assert_eq!((head.number, pages), (2251, 3));
    assert_eq!(store.verify_audit(&tenant, Some(head)).await.unwrap().head, head);
    let only_denied = AuditFilter { denied_only: true, ..AuditFilter::default() };
    assert_eq!(store.audit_page(&tenant, &only_denied, 0).await.unwrap().len(), 1);
}
