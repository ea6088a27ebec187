//! Which files are opened, which are refused, and who may read them.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use keyward_egress::AuditSink as _;
use keyward_store::{AuditFilter, DatabaseError, OpenError, Store};
use keyward_vault::{VaultStore as _, store::ConnectionRow};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use crate::{
    contract::{self, record, tenant},
    processes::{child, child_of, folder_of_child},
};

fn database(folder: &TempDir) -> PathBuf {
    folder.path().join("data/keyward.db")
}

/// The file as any program sees it that is not ours.
pub(crate) async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path).create_if_missing(true)).await.unwrap()
}

async fn execute(path: &Path, sql: &'static str) -> Result<(), sqlx::Error> {
    let mut connection = raw(path).await;
    sqlx::raw_sql(sql).execute(&mut connection).await?;
    connection.close().await
}

/// A database with one audit record, closed.
async fn made(path: &Path) {
    let store = Store::open(path).await.unwrap();
    store.record(record(&tenant("default"), "made")).await.unwrap();
    store.close().await;
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn told(error: &OpenError) -> String {
    format!("{error}\n{}", error.hint().unwrap_or_default())
}

#[tokio::test]
async fn what_is_made_is_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    let store = Store::open(&path).await.unwrap();
    store.record(record(&tenant("default"), "made")).await.unwrap();
    assert_eq!(mode(&folder.path().join("data")), 0o700);
    for entry in fs::read_dir(folder.path().join("data")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn a_database_that_others_could_read_is_closed_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    made(&path).await;
    // A copy that was made while another process wrote has a write-ahead log beside it.
    let writing = Store::open(&path).await.unwrap();
    writing.record(record(&tenant("default"), "made")).await.unwrap();
    let files: Vec<PathBuf> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in &files {
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let _store = Store::open(&path).await.unwrap();
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn an_empty_file_becomes_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keyward.db");
    fs::write(&path, "").unwrap();
    made(&path).await;
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.db");
    fs::write(&text, "The quick brown fox jumps over the lazy dog. ".repeat(100)).unwrap();
    let foreign = folder.path().join("foreign.db");
    execute(&foreign, "CREATE TABLE photos (id INTEGER)").await.unwrap();
    let stamped = folder.path().join("stamped.db");
    execute(&stamped, "PRAGMA application_id = 42; VACUUM").await.unwrap();
    for path in [text, foreign, stamped] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let before = fs::read(&path).unwrap();
        let error = Store::open(&path).await.unwrap_err();
        assert!(matches!(error, OpenError::NotOurs(_)), "{}: {error}", path.display());
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (before, 0o644));
    }
    assert!(matches!(Store::open(folder.path()).await, Err(OpenError::NotOurs(_))), "a folder");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    made(&path).await;
    execute(
        &path,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'later', TRUE, x'00', 1);
         UPDATE written_by SET program_version = '7.1.0';
         PRAGMA user_version = 9999",
    )
    .await
    .unwrap();
    let before = fs::read(&path).unwrap();
    let error = Store::open(&path).await.unwrap_err();
    assert!(matches!(&error, OpenError::Newer { written_by, .. } if written_by == "7.1.0"), "{error}");
    assert!(told(&error).contains("use Keyward 7.1.0 or later"), "{}", told(&error));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_schema_that_no_release_has_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    made(&path).await;
    execute(&path, "UPDATE _sqlx_migrations SET checksum = x'00'").await.unwrap();
    assert!(matches!(Store::open(&path).await, Err(OpenError::OtherSchema { version: 1, .. })));
}

#[tokio::test]
async fn a_damaged_database_is_told_as_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    made(&path).await;
    let mut bytes = fs::read(&path).unwrap();
    bytes[100..].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let error = Store::open(&path).await.unwrap_err();
    assert!(matches!(&error, OpenError::Database { source: DatabaseError::Corrupt(_), .. }), "{error}");
    assert!(told(&error).contains("restore it from a backup"), "{}", told(&error));
}

#[tokio::test]
async fn damage_below_the_surface_is_told_when_it_is_met() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    made(&path).await;
    // The page where the records begin. What opening reads is whole.
    let (root, size): (i64, i64) =
        sqlx::query_as("SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = 'audit_records'")
            .fetch_one(&mut raw(&path).await)
            .await
            .unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[((root - 1) * size) as usize..(root * size) as usize].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let store = Store::open(&path).await.unwrap();
    let error = store.audit_records(&tenant("default"), &AuditFilter::default()).await.unwrap_err();
    assert!(matches!(error, DatabaseError::Corrupt(_)), "{error}");
}

#[tokio::test]
async fn a_record_that_makes_no_sense_is_told_and_not_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    made(&path).await;
    execute(
        &path,
        "INSERT INTO tenant_keys (tenant, version, state, wrapped, created_at)
         VALUES ('default', -1, 'active', x'00', 0)",
    )
    .await
    .unwrap();
    let store = Store::open(&path).await.unwrap();
    let error = store.tenant_keys().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the database failed: the database holds a key version that cannot be read: it is out of range"
    );
}

#[tokio::test]
async fn nobody_changes_or_removes_an_audit_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    made(&path).await;
    for sql in [
        "UPDATE audit_records SET record = '{}'",
        "DELETE FROM audit_records",
        "INSERT OR REPLACE INTO audit_records SELECT * FROM audit_records",
        "INSERT OR REPLACE INTO audit_records (id, tenant, principal_kind, principal_id, at, denied, record, number, digest)
         SELECT 'another', tenant, principal_kind, principal_id, at, denied, record, number, digest FROM audit_records",
        "PRAGMA foreign_keys = OFF; UPDATE audit_records SET tenant = 'other'",
    ] {
        let error = execute(&path, sql).await.unwrap_err().to_string();
        assert!(error.contains("append-only"), "{sql}: {error}");
    }
    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.audit_records(&tenant("default"), &AuditFilter::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_deleted_is_not_to_be_found_in_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    let store = Store::open(&path).await.unwrap();
    let tenant = tenant("default");
    let row = canary(&store).await;
    assert!(is_found(&path), "the search finds what is there");
    store.delete_connection(&tenant, &row.facts.id, 1, &record(&tenant, "deleted")).await.unwrap();
    assert!(!is_found(&path));
}

const CANARY: &[u8] = b"canary-of-the-sealed-credential";

/// A connection whose credential is longer than a page, so that it has pages of its own.
async fn canary(store: &Store) -> ConnectionRow {
    let tenant = tenant("default");
    contract::vault::with_keys(store, &[&tenant]).await;
    let mut row = contract::vault::connection(&tenant, "github");
    row.sealed.bytes = CANARY.repeat(300);
    store.insert_connection(&row, &record(&tenant, "created")).await.unwrap();
    row
}

/// Whether the canary is in one of the files.
fn is_found(path: &Path) -> bool {
    let files = fs::read_dir(path.parent().unwrap()).unwrap();
    let mut bytes = files.map(|entry| fs::read(entry.unwrap().path()).unwrap());
    bytes.any(|bytes| bytes.windows(CANARY.len()).any(|window| window == CANARY))
}

/// A transaction of another process, begun with `sql`.
async fn held(path: &Path, sql: &'static str) -> SqliteConnection {
    let mut other = raw(path).await;
    sqlx::raw_sql(sql).execute(&mut other).await.unwrap();
    other
}

const SOON: Duration = Duration::from_secs(1);

#[tokio::test]
async fn deleting_waits_for_no_reader_and_is_forgotten_when_the_reader_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    let (store, other) = (Store::open(&path).await.unwrap(), Store::open(&path).await.unwrap());
    let tenant = tenant("default");
    let row = canary(&store).await;
    let reader = held(&path, "BEGIN; SELECT count(*) FROM connections").await;

    let audit = record(&tenant, "deleted");
    let deleting = store.delete_connection(&tenant, &row.facts.id, 1, &audit);
    tokio::time::timeout(SOON, deleting).await.expect("it waits for the reader").unwrap();
    let writing = other.record(record(&tenant, "written"));
    tokio::time::timeout(SOON, writing).await.expect("it waits for the deletion").unwrap();
    assert!(is_found(&path), "the reader still sees it");

    reader.close().await.unwrap();
    store.record(record(&tenant, "written")).await.unwrap();
    assert!(!is_found(&path));
}

#[tokio::test]
async fn what_a_reader_has_kept_is_forgotten_when_the_store_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    // Another process, so that closing is not the last one's, which empties the log anyhow.
    let (store, _other) = (Store::open(&path).await.unwrap(), Store::open(&path).await.unwrap());
    let row = canary(&store).await;
    let reader = held(&path, "BEGIN; SELECT count(*) FROM connections").await;
    let audit = record(&row.facts.tenant, "deleted");
    store.delete_connection(&row.facts.tenant, &row.facts.id, 1, &audit).await.unwrap();
    reader.close().await.unwrap();
    store.close().await;
    assert!(!is_found(&path));
}

#[tokio::test]
async fn what_a_process_that_is_gone_could_not_forget_is_forgotten_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    let store = Store::open(&path).await.unwrap();
    let row = canary(&store).await;
    let mut reader = held(&path, "BEGIN; SELECT count(*) FROM connections").await;
    let audit = record(&row.facts.tenant, "deleted");
    store.delete_connection(&row.facts.tenant, &row.facts.id, 1, &audit).await.unwrap();
    // It is not closed, and what it knows ends with it; the reader stays, so that no end of a connection empties the
    // log by itself.
    drop(store);
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();

    let next = Store::open(&path).await.unwrap();
    assert!(is_found(&path), "nothing was written yet");
    next.record(record(&row.facts.tenant, "written")).await.unwrap();
    assert!(!is_found(&path));
}

#[tokio::test]
async fn opening_and_reading_wait_for_no_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    made(&path).await;
    let _writer = held(&path, "BEGIN IMMEDIATE").await;
    let reading = async {
        let store = Store::open(&path).await.unwrap();
        store.audit_records(&tenant("default"), &AuditFilter::default()).await.unwrap()
    };
    assert_eq!(tokio::time::timeout(SOON, reading).await.expect("it waits for the writer").len(), 1);
}

#[tokio::test]
async fn opening_and_closing_beside_a_writer_of_the_same_process_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(&folder);
    let store = Store::open(&path).await.unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..100 {
                store.record(record(&tenant("default"), "written")).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let other = Store::open(&path).await.unwrap();
        other.audit_records(&tenant("default"), &AuditFilter::default()).await.unwrap();
        other.close().await;
    }
    writer.await.unwrap();
    store.close().await;
    assert_eq!(integrity(&path).await, "ok");
    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.audit_records(&tenant("default"), &AuditFilter::default()).await.unwrap().len(), 100);
}

/// What SQLite says about the whole file.
pub(crate) async fn integrity(path: &Path) -> String {
    sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut raw(path).await).await.unwrap()
}

#[test]
fn a_folder_without_permission_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let name = "opening::child_opens_without_permission";
    // The permissions of a file do not hold the superuser back; so another user runs a copy where it may read it.
    let public = tempfile::tempdir().unwrap();
    let output = if fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        fs::set_permissions(public.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let copy = public.path().join("test");
        fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        child_of(&copy, name, folder.path()).current_dir("/").uid(65534).gid(65534).output().unwrap()
    } else {
        child(name, folder.path()).output().unwrap()
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
#[ignore = "a child of the test above"]
async fn child_opens_without_permission() {
    let folder = folder_of_child();
    for path in [folder.join("keyward.db"), folder.join("data/keyward.db")] {
        let error = Store::open(&path).await.unwrap_err();
        assert!(matches!(error, OpenError::NoPermission { .. }), "{error:?}");
        assert!(told(&error).contains("data directory"), "{}", told(&error));
    }
}
