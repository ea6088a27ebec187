//! Several processes on one file, killed processes, full disks. A child is this binary again, running
//! one of the ignored tests.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use keyward_egress::AuditSink as _;
use keyward_flow::journal::{Journal as _, JournalError, RunLease};
use keyward_model::RunId;
use keyward_store::{AuditFilter, Store};
use keyward_vault::{StoreError, VaultStore as _};
use serde_json::json;

use crate::{
    contract::{
        journal::{append, entries, run},
        record, tenant,
        vault::{connection, with_keys},
    },
    opening::integrity,
};

const FOLDER: &str = "KEYWARD_TEST_FOLDER";
const RUN: &str = "KEYWARD_TEST_RUN";
const PROCESSES: u64 = 4;
const APPENDS: u64 = 25;

/// The ignored test `name` as a process of its own, which finds `folder` in its environment.
pub(crate) fn child(name: &str, folder: &Path) -> Command {
    child_of(&std::env::current_exe().unwrap(), name, folder)
}

/// The same by another copy of the test's binary.
pub(crate) fn child_of(binary: &Path, name: &str, folder: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(["--exact", name, "--ignored", "--nocapture"]).env(FOLDER, folder);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

pub(crate) fn folder_of_child() -> PathBuf {
    std::env::var_os(FOLDER).unwrap().into()
}

fn database(folder: &Path) -> PathBuf {
    folder.join("keyward.db")
}

/// The end of a child's input is the sign to start, which all get at the same time.
fn wait_for_start() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn start_all(children: &mut [Child]) {
    for child in children.iter_mut() {
        drop(child.stdin.take());
    }
}

fn succeeded(children: Vec<Child>) {
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn processes_that_make_the_database_at_once_all_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut children: Vec<Child> =
        (0..6).map(|_| child("processes::child_makes_the_database", folder.path()).spawn().unwrap()).collect();
    start_all(&mut children);
    succeeded(children);
    let store = Store::open(&database(folder.path())).await.unwrap();
    assert_eq!(store.audit_records(&tenant("default"), &AuditFilter::default()).await.unwrap().len(), 6);
}

#[tokio::test]
#[ignore = "a child of the test above"]
async fn child_makes_the_database() {
    wait_for_start();
    let store = Store::open(&database(&folder_of_child())).await.unwrap();
    store.record(record(&tenant("default"), "opened")).await.unwrap();
}

#[tokio::test]
async fn processes_that_append_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path());
    let store = Store::open(&path).await.unwrap();
    let shared = run(&tenant("default"));
    store.create(&shared).await.unwrap();
    let mut children: Vec<Child> = (0..PROCESSES)
        .map(|_| {
            let mut child = child("processes::child_appends", folder.path());
            child.env(RUN, shared.id.to_string()).spawn().unwrap()
        })
        .collect();
    start_all(&mut children);
    succeeded(children);

    let (_, history) = store.history(&tenant("default"), &shared.id).await.unwrap();
    assert_eq!(history, entries(1..=PROCESSES * APPENDS));
    let audit = store.audit_records(&tenant("default"), &AuditFilter::default()).await.unwrap();
    assert_eq!(audit.len() as u64, PROCESSES * APPENDS);
    for run in store.runs(&tenant("default"), 100).await.unwrap() {
        let (_, history) = store.history(&tenant("default"), &run.id).await.unwrap();
        assert!(run.id == shared.id || history == entries(1..=APPENDS));
    }
    store.close().await;
    assert_eq!(integrity(&path).await, "ok");
}

/// Appends to a run of its own, to one that it shares with the others, and to the audit trail.
#[tokio::test]
#[ignore = "a child of the test above"]
async fn child_appends() {
    let store = Store::open(&database(&folder_of_child())).await.unwrap();
    let tenant = tenant("default");
    let own = run(&tenant);
    let shared: RunId = std::env::var(RUN).unwrap().parse().unwrap();
    wait_for_start();
    store.create(&own).await.unwrap();
    let own_lease = store.claim(&tenant, &own.id, Duration::from_secs(120)).await.unwrap().lease;
    for number in 1..=APPENDS {
        append(&store, &own.id, own_lease, &entries(number..=number)).await.unwrap();
        let (lease, last) = claim(&store, &shared).await;
        append(&store, &shared, lease, &entries(last + 1..=last + 1)).await.unwrap();
        store.release(&shared, lease).await.unwrap();
        store.record(record(&tenant, "appended")).await.unwrap();
    }
}

/// Claims a run as soon as nobody else has it.
async fn claim(store: &Store, run: &RunId) -> (RunLease, u64) {
    loop {
        match store.claim(&tenant("default"), run, Duration::from_secs(120)).await {
            Ok(loaded) => return (loaded.lease, loaded.last_sequence),
            Err(JournalError::Leased { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_it_was_told_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path());
    let store = Store::open(&path).await.unwrap();
    for acknowledged in [1, 2, 5, 11, 23, 31] {
        let run = run(&tenant("default"));
        store.create(&run).await.unwrap();
        let mut child =
            child("processes::child_appends_until_killed", folder.path()).env(RUN, run.id.to_string()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let told = lines.by_ref().take(acknowledged).map(Result::unwrap).last().unwrap();
        assert_eq!(told, acknowledged.to_string());
        child.kill().unwrap();
        child.wait().unwrap();
        // What it was told between our reading and its end counts as well.
        let told = lines.map(|line| line.unwrap().parse::<u64>().unwrap()).last().unwrap_or(acknowledged as u64);

        let store = Store::open(&path).await.unwrap();
        let (_, history) = store.history(&tenant("default"), &run.id).await.unwrap();
        let last = history.len() as u64;
        assert_eq!(history, entries(1..=last), "without gaps");
        assert!(last == told || last == told + 1, "{told} were acknowledged, {last} are there");
        let loaded = store.claim(&tenant("default"), &run.id, Duration::from_secs(120)).await.unwrap();
        assert_eq!((loaded.last_sequence, loaded.snapshot), (last, Some(json!({"last": last}))));
        append(&store, &run.id, loaded.lease, &entries(last + 1..=last + 1)).await.unwrap();
    }
    store.close().await;
    assert_eq!(integrity(&path).await, "ok");
}

#[tokio::test]
#[ignore = "a child of the test above"]
#[expect(clippy::print_stderr, reason = "this is how the parent is told")]
async fn child_appends_until_killed() {
    let store = Store::open(&database(&folder_of_child())).await.unwrap();
    let run: RunId = std::env::var(RUN).unwrap().parse().unwrap();
    // A lease that has ended, so that the parent need not wait for its end.
    let lease = store.claim(&tenant("default"), &run, Duration::ZERO).await.unwrap().lease;
    for number in 1.. {
        append(&store, &run, lease, &entries(number..=number)).await.unwrap();
        eprintln!("{number}");
    }
}

/// A size limit for files stands for a quota: the system refuses to let a file grow.
#[tokio::test]
async fn where_a_file_cannot_grow_the_disk_is_full_and_nothing_is_half_written() {
    let folder = tempfile::tempdir().unwrap();
    // The units are of 512 or 1024 bytes. The signal would end the process before it sees the error.
    let limited = "trap '' XFSZ; ulimit -f 1500; exec \"$0\" \"$@\"";
    let output = through_shell("sh", &["-c", limited], folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let path = database(folder.path());
    let store = Store::open(&path).await.unwrap();
    store.record(record(&tenant("default"), "there is room again")).await.unwrap();
    store.close().await;
    assert_eq!(integrity(&path).await, "ok");
}

/// A small file system in memory, which lasts as long as the child.
#[test]
fn where_the_file_system_is_full_nothing_is_half_written_and_it_goes_on_when_there_is_room() {
    let possible = Command::new("unshare").args(["-Urm", "true"]).output().is_ok_and(|output| output.status.success());
    if !possible {
        assert!(std::env::var_os("CI").is_none(), "`unshare -Urm` is not allowed here, and this is not to go untested");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mounted = format!("mount -t tmpfs -o size=1200k none \"${FOLDER}\" && exec \"$0\" \"$@\"");
    let output = through_shell("unshare", &["-Urm", "sh", "-c", &mounted], folder.path())
        .env(BALLAST, "200000")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const BALLAST: &str = "KEYWARD_TEST_BALLAST";

/// The child that fills the disk, started by another program that limits it.
fn through_shell(program: &str, arguments: &[&str], folder: &Path) -> Command {
    let direct = child("processes::child_fills_the_disk", folder);
    let mut command = Command::new(program);
    command.args(arguments).arg(direct.get_program()).args(direct.get_args()).env(FOLDER, folder);
    command.stdin(Stdio::null());
    command
}

#[tokio::test]
#[ignore = "a child of the tests above"]
async fn child_fills_the_disk() {
    let folder = folder_of_child();
    let ballast = folder.join("ballast");
    let bytes = std::env::var(BALLAST).ok().map(|bytes| bytes.parse().unwrap());
    if let Some(bytes) = bytes {
        fs::write(&ballast, vec![1; bytes]).unwrap();
    }
    let store = Store::open(&database(&folder)).await.unwrap();
    let tenant = tenant("default");
    with_keys(&store, &[&tenant]).await;
    let run = run(&tenant);
    store.create(&run).await.unwrap();
    let lease = store.claim(&tenant, &run.id, Duration::from_secs(120)).await.unwrap().lease;
    let large = |number| {
        let mut entries = entries(number..=number);
        entries[0].event = json!("x".repeat(20_000));
        entries
    };
    let mut written = 0;
    let error = loop {
        assert!(written < 1_000, "the disk is never full");
        match append(&store, &run.id, lease, &large(written + 1)).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, JournalError::DiskFull), "{error:?}");
    assert!(written > 1, "it was full from the start");
    // Larger than all there is: what was kept for the write-ahead log may be used anew meanwhile.
    let mut row = connection(&tenant, "github");
    row.sealed.bytes = vec![1; 4 << 20];
    let refused = store.insert_connection(&row, &record(&tenant, "refused")).await;
    assert!(matches!(refused, Err(StoreError::DiskFull)), "{refused:?}");
    let mut large_record = record(&tenant, "refused");
    large_record.step = Some("x".repeat(4 << 20));
    let refused = store.record(large_record).await.unwrap_err();
    assert_eq!(refused.to_string(), "the audit trail cannot be written: the disk is full; nothing was written");

    // The same handle still reads, and what it reads is what it was told.
    assert_eq!(store.history(&tenant, &run.id).await.unwrap().1.len() as u64, written);
    assert!(store.connection(&tenant, &row.facts.id).await.unwrap().is_none());
    assert_eq!(store.audit_records(&tenant, &AuditFilter::default()).await.unwrap(), []);
    if bytes.is_some() {
        fs::remove_file(&ballast).unwrap();
        append(&store, &run.id, lease, &large(written + 1)).await.unwrap();
        store.close().await;
        assert_eq!(integrity(&database(&folder)).await, "ok");
    }
}
