//! The audit trail.

use std::time::Duration;

use keyward_egress::AuditSink;
use keyward_model::{AuditEvent, AuditRecord, CallId, ConnectionId, ConnectorId, Digest, Reason, RunId, Sent};
use keyward_store::AuditFilter;
use uuid::Uuid;

use super::{Database, NOON, record, tenant, user};

/// A record with everything in it.
fn full() -> AuditRecord {
    AuditRecord {
        on_behalf_of: Some(user("grace")),
        flow: Some("team/report:1.0.0".to_owned()),
        run: Some(RunId::new()),
        step: Some("/do/0/fetch".to_owned()),
        call: Some(CallId::new()),
        connector: Some(ConnectorId {
            name: "github".parse().unwrap(),
            version: "0.1.0".to_owned(),
            digest: Digest::from_sha256([7; 32]),
        }),
        action: Some("list-issues".parse().unwrap()),
        connection: Some(ConnectionId::new()),
        event: AuditEvent::RequestSent {
            method: "GET".to_owned(),
            host: "api.github.com".to_owned(),
            path_template: "/repos/{owner}/{repo}/issues".to_owned(),
            scopes: vec!["repo".to_owned()],
            status: Some(200),
            sent: Sent::Yes,
            sends: 1,
            duration_ms: 17,
        },
        ..record(&tenant("default"), "")
    }
}

pub(crate) async fn records_read_back_in_the_order_of_writing<D: Database>(database: D) {
    let store = database.open().await;
    let first = full();
    let mut second = full();
    // Order is that of writing, whatever the clocks say.
    second.at = NOON - Duration::from_secs(60);
    second.event = AuditEvent::RequestDenied { method: "DELETE".to_owned(), host: None, path_template: None };
    second.reason = Some(Reason::PathNotAllowed);
    for record in [&first, &second] {
        store.record(record.clone()).await.unwrap();
    }
    let other = database.open().await;
    assert_eq!(database.audit(&other, &tenant("default"), &AuditFilter::default()).await, [first, second]);
}

pub(crate) async fn a_filter_narrows_and_the_newest_are_kept<D: Database>(database: D) {
    let store = database.open().await;
    let mut written = Vec::new();
    for number in 0..4u64 {
        let mut record = full();
        record.at = NOON + Duration::from_secs(number);
        written.push(record);
    }
    written[1].event = AuditEvent::RequestDenied { method: "PUT".to_owned(), host: None, path_template: None };
    written[3].event = AuditEvent::CallRefused { action: "github.star".parse().unwrap(), connection: None };
    written[2].action = Some("create-issue".parse().unwrap());
    written[3].connection = written[0].connection;
    for record in &written {
        store.record(record.clone()).await.unwrap();
    }
    let none = AuditFilter::default();
    for (filter, expected) in [
        (none.clone(), &[0, 1, 2, 3][..]),
        (AuditFilter { run: written[1].run, ..none.clone() }, &[1]),
        (AuditFilter { connection: written[0].connection, ..none.clone() }, &[0, 3]),
        (AuditFilter { action: written[2].action.clone(), ..none.clone() }, &[2]),
        (AuditFilter { denied_only: true, ..none.clone() }, &[1, 3]),
        (AuditFilter { since: Some(written[2].at), ..none.clone() }, &[2, 3]),
        (AuditFilter { limit: Some(2), ..none.clone() }, &[2, 3]),
        (AuditFilter { limit: Some(1), connection: written[0].connection, ..none.clone() }, &[3]),
        (AuditFilter { run: written[0].run, denied_only: true, ..none.clone() }, &[]),
        (AuditFilter { limit: Some(0), ..none }, &[]),
    ] {
        let read = database.audit(&store, &tenant("default"), &filter).await;
        let expected: Vec<_> = expected.iter().map(|&number| written[number as usize].clone()).collect();
        assert_eq!(read, expected, "{filter:?}");
    }
}

pub(crate) async fn tenants_see_their_own_records<D: Database>(database: D) {
    let (store, one, two) = (database.open().await, tenant("one"), tenant("two"));
    store.record(record(&one, "one")).await.unwrap();
    store.record(record(&two, "two")).await.unwrap();
    assert_eq!(super::changes(&database, &store, &one).await, ["one"]);
}

pub(crate) async fn a_record_is_not_written_twice<D: Database>(database: D) {
    let store = database.open().await;
    let mut record = full();
    record.id = Uuid::now_v7();
    store.record(record.clone()).await.unwrap();
    assert!(store.record(record).await.is_err());
    assert_eq!(database.audit(&store, &tenant("default"), &AuditFilter::default()).await.len(), 1);
}

pub(crate) async fn a_record_that_cannot_be_written_takes_none_of_the_others_with_it<D: Database>(database: D) {
    let store = database.open().await;
    let first = full();
    store.record(first.clone()).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..10 {
        let (store, record) = (store.clone(), if number == 4 { first.clone() } else { full() });
        writers.spawn(async move { (number, store.record(record).await.is_ok()) });
    }
    for (number, is_written) in writers.join_all().await {
        assert_eq!(is_written, number != 4, "{number}");
    }
    assert_eq!(database.audit(&store, &tenant("default"), &AuditFilter::default()).await.len(), 10);
}

pub(crate) async fn records_of_many_callers_are_all_there_when_they_are_told<D: Database>(database: D) {
    let store = database.open().await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            let records: Vec<_> = std::iter::repeat_with(full).take(40).collect();
            for record in &records {
                store.record(record.clone()).await.unwrap();
            }
            records
        });
    }
    let written = writers.join_all().await;
    let other = database.open().await;
    let read = database.audit(&other, &tenant("default"), &AuditFilter::default()).await;
    assert_eq!(read.len(), 8 * 40);
    for records in written {
        // What one caller wrote after another stands after it.
        let own: Vec<_> = read.iter().filter(|record| records.contains(record)).collect();
        assert_eq!(own, records.iter().collect::<Vec<_>>());
    }
}

pub(crate) async fn a_record_is_written_although_its_caller_goes_away<D: Database>(database: D) {
    let store = database.open().await;
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.record(full()).await })
        })
        .collect();
    tokio::task::yield_now().await;
    callers.iter().for_each(tokio::task::JoinHandle::abort);
    for caller in callers {
        let _ = caller.await;
    }
    // What was begun before is written before this one, or with it.
    store.record(full()).await.unwrap();
    let count = database.audit(&store, &tenant("default"), &AuditFilter::default()).await.len();
    assert_eq!(count, 21);
}
