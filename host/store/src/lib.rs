//! SQLite behind traits that belong to their callers; ciphertext only.
//!
//! [`Store`] implements the vault's, the engine's, the gate's and the registry's trait over one file.
//! What a secret is, when a lease is wanted or who may see a record is none of its business.
//!
//! * The file is in write-ahead mode with `synchronous=FULL`: what a call wrote is there after a power cut.
//! * One connection writes and begins every transaction as a writer, so that a transaction that has read
//!   never finds that it cannot write any more; a few others read beside it. Other processes may use the
//!   file at the same time.
//! * Times that decide something (leases) are the database's, in microseconds; those in records are the
//!   caller's, cut to microseconds.
//!
//! Not checked here: whether a sealed value can be opened, whether a manifest or an event makes sense.
//!
//! Read in this order: `migrations/sqlite/0001_initial.sql`, `open.rs`, `fault.rs`, `vault.rs`,
//! `journal.rs`, `plugins.rs`, `audit.rs`.

mod audit;
mod fault;
mod journal;
mod open;
mod plugins;
mod policy;
mod record;
mod vault;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sqlx::{Sqlite, SqlitePool, Transaction};

pub use audit::{
    AuditFilter, StoredRecord,
    chain::{AuditFault, AuditHead, AuditVerdict},
};
pub use fault::DatabaseError;
pub use open::OpenError;
pub use policy::AcceptedPolicy;

use fault::{Failure, told};

/// The database. A clone is another handle on the same connections.
#[derive(Clone)]
pub struct Store {
    path: Arc<Path>,
    /// Of one connection: SQLite has one writer at a time, and those who wait here are served in turn.
    writer: SqlitePool,
    readers: SqlitePool,
    /// Of one connection, which empties the write-ahead log and waits for nobody.
    checkpoints: SqlitePool,
    /// Whether the write-ahead log may hold what was removed for good.
    must_forget: Arc<AtomicBool>,
    audit: Arc<audit::Queue>,
}

impl Store {
    /// Opens the database at `path`; makes it, and the folders above it, where there is none, for the owner
    /// alone; and brings an older one to this version's schema. Several processes may do so at once.
    ///
    /// # Errors
    /// See [`OpenError`], which tells also what to do.
    pub async fn open(path: &Path) -> Result<Store, OpenError> {
        let open::Pools { writer, readers, checkpoints, has_log } = open::pools(path).await?;
        // Whoever wrote what is in the log may have removed something there, and be gone.
        let must_forget = Arc::new(AtomicBool::new(has_log));
        Ok(Store { path: path.into(), writer, readers, checkpoints, must_forget, audit: Arc::default() })
    }

    /// Waits for what is being written and closes the file. Other handles on the same store are closed too.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
        self.try_to_forget().await;
        self.checkpoints.close().await;
    }

    /// Begins a transaction that writes.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    /// Ends a transaction that has written.
    async fn commit(&self, tx: Transaction<'static, Sqlite>) -> Result<(), sqlx::Error> {
        let watched = keyward_telemetry::commit();
        let done = tx.commit().await;
        watched.ended(done.is_err().then_some("store-failed"));
        done?;
        self.try_to_forget().await;
        Ok(())
    }

    /// Folds the write-ahead log into the file and empties it, so that a wrapped key that was just removed is not
    /// to be found there either. Where somebody reads or writes it cannot be done now: the removal itself is
    /// durable, so nobody waits for that, and it is tried again after each commit and before the file is closed, and by
    /// whoever opens the file while the log is not empty.
    async fn forget_old_pages(&self) {
        self.must_forget.store(true, Ordering::Release);
        if !self.try_to_forget().await {
            tracing::warn!("what was removed is still in the write-ahead log, because another process uses it");
        }
    }

    /// Whether nothing is left to forget.
    async fn try_to_forget(&self) -> bool {
        // What is removed from here on is another turn's to forget.
        if !self.must_forget.swap(false, Ordering::AcqRel) {
            return true;
        }
        // Where others are in the way SQLite tells so in a row and not as an error.
        let checkpoint = sqlx::query_scalar::<_, bool>("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&self.checkpoints);
        let is_done = match checkpoint.await {
            Ok(is_busy) => !is_busy,
            Err(error) => {
                tracing::debug!(%error, "the write-ahead log cannot be emptied");
                false
            }
        };
        if !is_done {
            self.must_forget.store(true, Ordering::Release);
        }
        is_done
    }

    /// Does `work` and tells its failure in the caller's words.
    async fn told<T, E: From<DatabaseError>>(
        &self,
        work: impl Future<Output = Result<T, Failure<E>>> + Send,
    ) -> Result<T, E> {
        told(&self.path, work.await).await
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}
