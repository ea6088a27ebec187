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
mod record;
mod vault;

use std::{fmt, path::Path, sync::Arc};

use sqlx::{Sqlite, SqlitePool, Transaction};

pub use audit::AuditFilter;
pub use fault::DatabaseError;
pub use open::OpenError;

use fault::{Failure, told};

/// The database. A clone is another handle on the same connections.
#[derive(Clone)]
pub struct Store {
    path: Arc<Path>,
    /// Of one connection: SQLite has one writer at a time, and those who wait here are served in turn.
    writer: SqlitePool,
    readers: SqlitePool,
    audit: Arc<audit::Queue>,
}

impl Store {
    /// Opens the database at `path`; makes it, and the folders above it, where there is none, for the owner
    /// alone; and brings an older one to this version's schema. Several processes may do so at once.
    ///
    /// # Errors
    /// See [`OpenError`], which tells also what to do.
    pub async fn open(path: &Path) -> Result<Store, OpenError> {
        let (writer, readers) = open::pools(path).await?;
        Ok(Store { path: path.into(), writer, readers, audit: Arc::default() })
    }

    /// Waits for what is being written and closes the file. Other handles on the same store are closed too.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Begins a transaction that writes.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
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
