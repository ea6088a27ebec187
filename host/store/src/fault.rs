//! What the database says when it fails, in words that a caller can act on.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use keyward_egress::AuditError;

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The disk is full, or a quota or a file size limit is reached.
    #[error("the disk is full; nothing was written")]
    DiskFull,
    /// Others have kept the database from us for longer than their writes should take.
    #[error("others keep the database busy")]
    Busy(#[source] sqlx::Error),
    /// The file is damaged.
    #[error("the database file is damaged: {0}")]
    Corrupt(#[source] sqlx::Error),
    /// A record is there, but is not what it should be.
    #[error("the database holds a {what} that cannot be read: {why}")]
    Unreadable {
        /// What it should be.
        what: &'static str,
        /// Why it is not.
        why: String,
    },
    /// The caller broke the contract of the trait; nothing was written.
    #[error("{0}")]
    Misused(&'static str),
    /// Anything else.
    #[error(transparent)]
    Other(sqlx::Error),
}

impl DatabaseError {
    /// What to do, where there is something to do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::DiskFull => Some("free some space and try again"),
            Self::Busy(_) => Some("wait for the other process, or end it"),
            Self::Corrupt(_) => Some(
                "restore it from a backup; `sqlite3 <file> .recover` may save what is readable. Keep the -wal file beside it",
            ),
            Self::Unreadable { .. } | Self::Misused(_) | Self::Other(_) => None,
        }
    }
}

/// The result codes of SQLite that mean something to us. Extended codes have the primary one in their lowest byte.
pub(crate) mod code {
    pub(crate) const PERM: i32 = 3;
    pub(crate) const BUSY: i32 = 5;
    pub(crate) const READONLY: i32 = 8;
    pub(crate) const CORRUPT: i32 = 11;
    pub(crate) const FULL: i32 = 13;
    pub(crate) const CANTOPEN: i32 = 14;
    const CONSTRAINT: i32 = 19;
    pub(crate) const CONSTRAINT_FOREIGNKEY: i32 = CONSTRAINT | 3 << 8;
    pub(crate) const AUTH: i32 = 23;
    pub(crate) const NOTADB: i32 = 26;
    const IOERR: i32 = 10;
    pub(crate) const IOERR_WRITE: i32 = IOERR | 3 << 8;
    pub(crate) const IOERR_TRUNCATE: i32 = IOERR | 6 << 8;
    pub(crate) const IOERR_SHMSIZE: i32 = IOERR | 19 << 8;
}

/// SQLite's extended result code, where the error is SQLite's.
pub(crate) fn result_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// What ends the work on a call: a refusal in the words of its trait, or a fault of the database.
pub(crate) enum Failure<E> {
    Refused(E),
    Sqlx(sqlx::Error),
    Database(DatabaseError),
}

impl<E> From<sqlx::Error> for Failure<E> {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlx(error)
    }
}

impl<E> From<DatabaseError> for Failure<E> {
    fn from(error: DatabaseError) -> Self {
        Self::Database(error)
    }
}

/// The result of some work on the database at `path` in the words of its trait.
pub(crate) async fn told<T, E: From<DatabaseError>>(path: &Path, result: Result<T, Failure<E>>) -> Result<T, E> {
    match result {
        Ok(value) => Ok(value),
        Err(Failure::Refused(error)) => Err(error),
        Err(Failure::Database(error)) => Err(error.into()),
        Err(Failure::Sqlx(error)) => Err(classify(path, error).await.into()),
    }
}

/// What an error of the database at `path` means.
pub(crate) async fn classify(path: &Path, error: sqlx::Error) -> DatabaseError {
    let Some(code) = result_code(&error) else {
        return match error {
            sqlx::Error::PoolTimedOut => DatabaseError::Busy(error),
            other => DatabaseError::Other(other),
        };
    };
    match (code, code & 0xff) {
        (_, code::FULL) => DatabaseError::DiskFull,
        (_, code::BUSY) => DatabaseError::Busy(error),
        (_, code::CORRUPT | code::NOTADB) => DatabaseError::Corrupt(error),
        // SQLite says "full" for a full file system only; where a quota or a size limit is reached, and
        // where the disk fails, it says that it cannot write. The last must not send the operator to free space.
        (code::IOERR_WRITE | code::IOERR_TRUNCATE | code::IOERR_SHMSIZE, _) if !disk_fails(path).await => {
            DatabaseError::DiskFull
        }
        _ => DatabaseError::Other(error),
    }
}

/// Whether writing beside the database fails for another reason than want of space.
async fn disk_fails(path: &Path) -> bool {
    let probe = beside(path, "-probe");
    let written = tokio::task::spawn_blocking(move || {
        let written = write_and_sync(&probe);
        // It may never have been made.
        let _ = fs::remove_file(&probe);
        written
    });
    match written.await {
        Ok(Err(error)) => !is_want_of_space(&error),
        Ok(Ok(())) | Err(_) => false,
    }
}

fn write_and_sync(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&[0; 4096])?;
    file.sync_all()
}

/// Whether there is no room for what was to be written.
pub(crate) fn is_want_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// The file beside the database whose name has `suffix` after the database's.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl From<DatabaseError> for keyward_vault::StoreError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DiskFull => Self::DiskFull,
            DatabaseError::Busy(_) => Self::Busy,
            DatabaseError::Corrupt(error) => Self::Corrupt(Box::new(error)),
            other => Self::Database(Box::new(other)),
        }
    }
}

impl From<DatabaseError> for keyward_flow::JournalError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DiskFull => Self::DiskFull,
            DatabaseError::Busy(_) => Self::Busy,
            DatabaseError::Corrupt(error) => Self::Corrupt(Box::new(error)),
            other => Self::Database(Box::new(other)),
        }
    }
}

impl From<DatabaseError> for keyward_registry::StoreError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DiskFull => Self::DiskFull,
            DatabaseError::Busy(_) => Self::Busy,
            DatabaseError::Corrupt(error) => Self::Corrupt(Box::new(error)),
            other => Self::Database(Box::new(other)),
        }
    }
}

impl From<DatabaseError> for AuditError {
    fn from(error: DatabaseError) -> Self {
        Self(Box::new(error))
    }
}
