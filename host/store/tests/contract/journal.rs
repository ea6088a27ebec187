//! [`Journal`].

use std::time::Duration;

use keyward_flow::journal::{Append, Entry, FlowId, Journal, JournalError, Loaded, RunLease, RunPhase, RunRecord};
use keyward_model::{RunId, TenantId};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{Database, NOON, tenant, user};

const LONG: Duration = Duration::from_secs(120);
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
const TEN_MINUTES: Duration = Duration::from_secs(600);

/// A new run.
pub(crate) fn run(tenant: &TenantId) -> RunRecord {
    RunRecord {
        id: RunId::new(),
        tenant: tenant.clone(),
        principal: user("ada"),
        flow: FlowId { namespace: "finance".to_owned(), name: "refund".to_owned(), version: "1.2.0".to_owned() },
        source: "do: []\n# ü".to_owned(),
        input: json!({"z": 1, "a": [null, 0.1, 18446744073709551615u64, "\u{0}\n"]}),
        phase: RunPhase::Pending,
        output: None,
        error: None,
        created_at: NOON,
        updated_at: NOON,
    }
}

/// Entries of these numbers.
pub(crate) fn entries(sequences: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    sequences.map(|sequence| Entry { sequence, at: NOON, event: json!({"number": sequence}) }).collect()
}

/// Appends entries with the last one's number as the snapshot.
pub(crate) async fn append(
    store: &impl Journal,
    run: &RunId,
    lease: RunLease,
    entries: &[Entry],
) -> Result<(), JournalError> {
    let snapshot = json!({"last": entries.last().map(|entry| entry.sequence)});
    let append = Append { entries, snapshot: &snapshot, phase: RunPhase::Running, output: None, error: None };
    store.append(run, lease, append).await
}

async fn created<D: Database>(database: &D) -> (D::Store, TenantId, RunId) {
    let (store, tenant) = (database.open().await, tenant("default"));
    let run = run(&tenant);
    store.create(&run).await.unwrap();
    (store, tenant, run.id)
}

pub(crate) async fn a_run_reads_back_as_written<D: Database>(database: D) {
    let (store, tenant) = (database.open().await, tenant("default"));
    let run = run(&tenant);
    store.create(&run).await.unwrap();
    assert!(store.create(&run).await.is_err(), "an id is given once");

    let other = database.open().await;
    let (record, entries) = other.history(&tenant, &run.id).await.unwrap();
    assert_eq!((&record, entries.as_slice()), (&run, &[][..]));
    let Loaded { record, snapshot, last_sequence, lease } = other.claim(&tenant, &run.id, LONG).await.unwrap();
    assert_eq!((record, snapshot, last_sequence), (run.clone(), None, 0));

    let (output, snapshot) = (json!({"b": 1, "a": 2}), json!([1]));
    let done = Append {
        entries: &entries_of(1),
        snapshot: &snapshot,
        phase: RunPhase::Completed,
        output: Some(&output),
        error: None,
    };
    other.append(&run.id, lease, done).await.unwrap();
    let (record, _) = store.history(&tenant, &run.id).await.unwrap();
    assert_eq!((record.phase, record.error), (RunPhase::Completed, None));
    assert_eq!(record.output.map(|output| output.to_string()).as_deref(), Some(r#"{"b":1,"a":2}"#), "order is kept");
    assert!(record.updated_at > run.updated_at);

    let error = json!({"type": "timeout", "status": 408});
    let faulted =
        Append { entries: &[], snapshot: &Value::Null, phase: RunPhase::Faulted, output: None, error: Some(&error) };
    other.append(&run.id, lease, faulted).await.unwrap();
    let (record, entries) = store.history(&tenant, &run.id).await.unwrap();
    assert_eq!((record.phase, record.output, record.error), (RunPhase::Faulted, None, Some(error)));
    assert_eq!(entries, entries_of(1));
}

fn entries_of(last: u64) -> Vec<Entry> {
    entries(1..=last)
}

pub(crate) async fn an_unknown_run_is_told<D: Database>(database: D) {
    let (store, tenant, known) = created(&database).await;
    let unknown = RunId::new();
    let lease = store.claim(&tenant, &known, LONG).await.unwrap().lease;
    assert!(matches!(store.claim(&tenant, &unknown, LONG).await, Err(JournalError::Unknown(run)) if run == unknown));
    assert!(matches!(store.history(&tenant, &unknown).await, Err(JournalError::Unknown(_))));
    assert!(matches!(append(&store, &unknown, lease, &entries_of(1)).await, Err(JournalError::Unknown(_))));
    let other = super::tenant("other");
    assert!(matches!(store.claim(&other, &known, LONG).await, Err(JournalError::Unknown(_))), "tenants are apart");
    assert!(matches!(store.history(&other, &known).await, Err(JournalError::Unknown(_))));
}

pub(crate) async fn appended_entries_and_their_snapshot_are_there_together<D: Database>(database: D) {
    let (store, tenant, run) = created(&database).await;
    let lease = store.claim(&tenant, &run, LONG).await.unwrap().lease;
    append(&store, &run, lease, &entries(1..=3)).await.unwrap();
    append(&store, &run, lease, &entries(4..=4)).await.unwrap();
    store.release(&run, lease).await.unwrap();

    let other = database.open().await;
    let loaded = other.claim(&tenant, &run, LONG).await.unwrap();
    assert_eq!((loaded.snapshot, loaded.last_sequence), (Some(json!({"last": 4})), 4));
    assert_eq!(loaded.record.phase, RunPhase::Running);
    assert_eq!(other.history(&tenant, &run).await.unwrap().1, entries_of(4));
}

pub(crate) async fn entries_are_found_by_their_numbers<D: Database>(database: D) {
    let (store, tenant, run) = created(&database).await;
    let lease = store.claim(&tenant, &run, LONG).await.unwrap().lease;
    append(&store, &run, lease, &entries(1..=4)).await.unwrap();
    let all = entries(1..=4);
    assert_eq!(store.entries(&run, &[3, 1, 9]).await.unwrap(), [all[2].clone(), all[0].clone()]);
    assert_eq!(store.entries(&RunId::new(), &[1]).await.unwrap(), []);
}

pub(crate) async fn entries_that_do_not_follow_are_refused_whole<D: Database>(database: D) {
    let (store, tenant, run) = created(&database).await;
    let lease = store.claim(&tenant, &run, LONG).await.unwrap().lease;
    append(&store, &run, lease, &entries(1..=2)).await.unwrap();
    for wrong in [entries(2..=3), entries(4..=5), [entries(3..=3), entries(5..=5)].concat()] {
        assert!(append(&store, &run, lease, &wrong).await.is_err(), "{wrong:?}");
    }
    assert_eq!(store.history(&tenant, &run).await.unwrap().1, entries_of(2));
    append(&store, &run, lease, &entries(3..=3)).await.unwrap();
}

pub(crate) async fn a_claimed_run_is_not_claimed_again_until_it_is_released<D: Database>(database: D) {
    let (store, tenant, run) = created(&database).await;
    let other = database.open().await;
    let before = OffsetDateTime::now_utc();
    let first = store.claim(&tenant, &run, LONG).await.unwrap().lease;
    let Err(JournalError::Leased { run: leased, until }) = other.claim(&tenant, &run, LONG).await else {
        panic!("it was claimed twice");
    };
    // The database's clock may be coarser and another than ours, but not by a minute.
    assert!(leased == run && (until - before - LONG).abs() < Duration::from_secs(60));
    store.release(&run, first).await.unwrap();
    let second = other.claim(&tenant, &run, LONG).await.unwrap().lease;
    assert!(second.fence > first.fence);
}

pub(crate) async fn an_ended_lease_is_overtaken_and_its_holder_fenced<D: Database>(database: D) {
    let (store, tenant, run) = created(&database).await;
    let other = database.open().await;
    let ended = store.claim(&tenant, &run, Duration::ZERO).await.unwrap().lease;
    // Nobody has overtaken it yet, so nothing that it writes can contradict another.
    append(&store, &run, ended, &entries(1..=1)).await.unwrap();
    let overtaking = other.claim(&tenant, &run, LONG).await.unwrap();
    assert_eq!(overtaking.last_sequence, 1);

    assert!(
        matches!(append(&store, &run, ended, &entries(2..=2)).await, Err(JournalError::Fenced(fenced)) if fenced == run)
    );
    assert!(matches!(store.renew(&run, ended, LONG).await, Err(JournalError::Fenced(_))));
    append(&other, &run, overtaking.lease, &entries(2..=2)).await.unwrap();
    assert_eq!(store.history(&tenant, &run).await.unwrap().1, entries_of(2));
}

pub(crate) async fn a_renewed_lease_lasts<D: Database>(database: D) {
    let (store, tenant, run) = created(&database).await;
    let lease = store.claim(&tenant, &run, Duration::ZERO).await.unwrap().lease;
    store.renew(&run, lease, LONG).await.unwrap();
    assert!(matches!(store.claim(&tenant, &run, LONG).await, Err(JournalError::Leased { .. })));
    store.renew(&run, lease, Duration::ZERO).await.unwrap();
    store.claim(&tenant, &run, LONG).await.unwrap();
}

pub(crate) async fn a_lease_of_a_wrong_clock_is_overtaken<D: Database>(database: D) {
    let (store, tenant, run) = created(&database).await;
    // However long a lease is asked for, it is no longer than one that counts.
    let first = store.claim(&tenant, &run, TEN_YEARS).await.unwrap().lease;
    assert!(matches!(store.claim(&tenant, &run, LONG).await, Err(JournalError::Leased { .. })));
    database.postpone_leases(TEN_MINUTES).await;
    store.claim(&tenant, &run, LONG).await.unwrap();
    assert!(matches!(store.renew(&run, first, LONG).await, Err(JournalError::Fenced(_))));
    assert!(matches!(store.claim(&tenant, &run, LONG).await, Err(JournalError::Leased { .. })));
}

pub(crate) async fn a_stale_release_changes_nothing<D: Database>(database: D) {
    let (store, tenant, run) = created(&database).await;
    let ended = store.claim(&tenant, &run, Duration::ZERO).await.unwrap().lease;
    store.claim(&tenant, &run, LONG).await.unwrap();
    store.release(&run, ended).await.unwrap();
    assert!(matches!(store.claim(&tenant, &run, LONG).await, Err(JournalError::Leased { .. })));
}

pub(crate) async fn of_claims_at_once_one_wins<D: Database>(database: D) {
    let (_, tenant, run) = created(&database).await;
    let mut claims = Vec::new();
    for _ in 0..8 {
        let (store, tenant) = (database.open().await, tenant.clone());
        claims.push(tokio::spawn(async move { store.claim(&tenant, &run, LONG).await }));
    }
    let mut won = 0;
    for claim in claims {
        match claim.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert!(matches!(error, JournalError::Leased { .. }), "{error}"),
        }
    }
    assert_eq!(won, 1);
}

pub(crate) async fn runs_are_listed_newest_first_and_by_tenant<D: Database>(database: D) {
    let (store, one, two) = (database.open().await, tenant("one"), tenant("two"));
    let mut ids = Vec::new();
    for age in [3, 1, 2] {
        let mut run = run(&one);
        run.created_at = NOON - Duration::from_secs(age);
        store.create(&run).await.unwrap();
        ids.push(run.id);
    }
    store.create(&run(&two)).await.unwrap();
    let listed =
        async |limit| -> Vec<RunId> { store.runs(&one, limit).await.unwrap().into_iter().map(|run| run.id).collect() };
    assert_eq!(listed(10).await, [ids[1], ids[2], ids[0]]);
    assert_eq!(listed(2).await, [ids[1], ids[2]]);
    assert_eq!(listed(0).await, []);
}
