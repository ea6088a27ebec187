//! Opening the file: whose it is, which schema it has, who may read it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, Connection as _, SqliteConnection, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous},
};

use crate::fault::{DatabaseError, beside, classify, code, is_want_of_space, result_code};

static MIGRATOR: Migrator = sqlx::migrate!("migrations/sqlite");

/// `PRAGMA application_id` of our files, "Keyw"; set by the first migration.
const APPLICATION_ID: i64 = 0x4b65_7977;

/// How long a writer waits for another process. Our own transactions take milliseconds; this is for a
/// machine that is very busy or a backup program that copies the file.
const PATIENCE: Duration = Duration::from_secs(15);

/// Reading connections of one process. More would not read faster than a disk and a few cores do.
const READERS: u32 = 4;

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A permission is missing, or the file system is read-only.
    #[error("the database {} cannot be written: {source}", .path.display())]
    NoPermission {
        /// The database, or the folder that could not be made or written to.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is another program's, or no database at all.
    #[error("{} is not a database of Keyward", .0.display())]
    NotOurs(PathBuf),
    /// A newer version of Keyward has changed the schema.
    #[error("the database {} was written by Keyward {written_by}, which is newer than this one", .path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// The version of the program that wrote it.
        written_by: String,
    },
    /// The schema has the number that this version knows and another content.
    #[error("the database {} has a schema {version} that no released Keyward has", .path.display())]
    OtherSchema {
        /// The database.
        path: PathBuf,
        /// The number of the migration.
        version: i64,
    },
    /// The file system cannot do what write-ahead logging needs, as most network file systems cannot.
    #[error("the file system of {} does not allow write-ahead logging", .0.display())]
    NoWriteAheadLog(PathBuf),
    /// Another file operation failed.
    #[error("the database {} cannot be opened: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The database failed.
    #[error("the database {} cannot be opened: {source}", .path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// How.
        source: DatabaseError,
    },
}

impl OpenError {
    /// What to do, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoPermission { .. } => {
                "run as the user who owns the data directory, or choose another one with --data-dir".to_owned()
            }
            Self::Database { source, .. } => return source.hint().map(str::to_owned),
            Self::NotOurs(_) => {
                "choose another data directory with --data-dir; nothing was changed in this file".to_owned()
            }
            Self::Newer { written_by, .. } => {
                format!(
                    "use Keyward {written_by} or later, or another data directory with --data-dir; nothing was changed"
                )
            }
            Self::OtherSchema { .. } => {
                "it was made by a development build: use that build, or another data directory with --data-dir"
                    .to_owned()
            }
            Self::NoWriteAheadLog(_) => "choose a data directory on a local disk with --data-dir".to_owned(),
            Self::Io { .. } => return None,
        })
    }

    fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::NoPermission { path, source },
            _ if is_want_of_space(&source) => Self::Database { path, source: DatabaseError::DiskFull },
            _ => Self::Io { path, source },
        }
    }
}

/// The connections to one database.
pub(crate) struct Pools {
    pub(crate) writer: SqlitePool,
    pub(crate) readers: SqlitePool,
    pub(crate) checkpoints: SqlitePool,
    /// Whether others have left something in the write-ahead log.
    pub(crate) has_log: bool,
}

/// Opens the connections to the database at `path`.
pub(crate) async fn pools(path: &Path) -> Result<Pools, OpenError> {
    // Two processes that make or migrate the same file would get in each other's way where SQLite does
    // not wait (the change to write-ahead mode), so whoever comes second waits here.
    let path_ = path.to_owned();
    let turn = match tokio::task::spawn_blocking(move || prepare(&path_)).await {
        Ok(turn) => turn?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let opened = open(path).await;
    drop(turn);
    match opened {
        Ok(pools) => Ok(pools),
        Err(failed) => Err(failed.told(path).await),
    }
}

async fn open(path: &Path) -> Result<Pools, Failed> {
    let has_log = fs::metadata(beside(path, "-wal")).is_ok_and(|log| log.len() > 0);
    let mut first = SqliteConnection::connect_with(&options(path)).await?;
    let schema = check(&mut first).await?;
    tighten(path)?;
    initialise(&mut first, schema).await?;
    // One connection is always open until the pools are, so that the write-ahead log is not folded back
    // into the file and made again.
    let pools = connect(path, has_log).await?;
    first.close().await?;
    Ok(pools)
}

fn options(path: &Path) -> SqliteConnectOptions {
    // The statements are all in this crate, and a slow one says no more than that the disk is busy.
    let options = SqliteConnectOptions::new().filename(path).disable_statement_logging();
    options.busy_timeout(PATIENCE).foreign_keys(true)
}

async fn connect(path: &Path, has_log: bool) -> Result<Pools, sqlx::Error> {
    let writing = options(path)
        .synchronous(SqliteSynchronous::Full)
        // What is deleted is overwritten: a credential that was removed is not to be found in the file.
        .pragma("secure_delete", "ON")
        // A function in a schema that somebody else has written runs nothing.
        .pragma("trusted_schema", "OFF");
    let reading = options(path).pragma("query_only", "ON").pragma("trusted_schema", "OFF");
    // While it waited for readers it would keep out every writer.
    let checkpointing = options(path).busy_timeout(Duration::ZERO).pragma("trusted_schema", "OFF");
    // The connections are files of this process: they neither grow old nor break unnoticed.
    let pool = || {
        let options = SqlitePoolOptions::new().idle_timeout(None).max_lifetime(None).test_before_acquire(false);
        options.after_release(|connection, _| Box::pin(is_at_rest(connection)))
    };
    let writer = pool().max_connections(1).connect_with(writing).await?;
    let readers = pool().max_connections(READERS).connect_with(reading).await?;
    let checkpoints = pool().max_connections(1).connect_with(checkpointing).await?;
    Ok(Pools { writer, readers, checkpoints, has_log })
}

/// Whether a connection that comes back to its pool may be used again.
///
/// On a full disk SQLite itself rolls the transaction back. The driver's own rollback then fails, since
/// there is none any more, and it believes for ever that one is open and begins no other (sqlx 0.9.0).
async fn is_at_rest(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if connection.is_in_transaction() {
        // The rollback of a dropped transaction may still be on its way; the answer comes after it.
        connection.ping().await?;
    }
    Ok(!connection.is_in_transaction())
}

/// Makes the file where there is none, for the owner alone, and waits for the turn to open it. The turn
/// ends when the returned file is dropped.
///
/// An existing database is not opened here: closing it again would give up the locks that SQLite holds
/// on it for other connections of this process (that is how POSIX locks work).
fn prepare(path: &Path) -> Result<File, OpenError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder).map_err(|error| OpenError::io(folder, error))?;
    }
    let turn_path = beside(path, "-lock");
    let turn = owner_only(OpenOptions::new().create(true).write(true))
        .open(&turn_path)
        .map_err(|error| OpenError::io(&turn_path, error))?;
    turn.lock().map_err(|error| OpenError::io(&turn_path, error))?;

    match owner_only(OpenOptions::new().create_new(true).write(true)).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !fs::metadata(path).map_err(|error| OpenError::io(path, error))?.is_file() {
                return Err(OpenError::NotOurs(path.to_owned()));
            }
        }
        Err(error) => return Err(OpenError::io(path, error)),
    }
    Ok(turn)
}

#[cfg(unix)]
fn owner_only(options: &mut OpenOptions) -> &mut OpenOptions {
    // SQLite gives the files that it makes beside the database the mode of the database.
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600)
}

#[cfg(not(unix))]
fn owner_only(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// Takes from others what a copy or a careless restore has given them: the database and the files beside it.
#[cfg(unix)]
fn tighten(path: &Path) -> Result<(), OpenError> {
    use std::os::unix::fs::PermissionsExt as _;
    for path in [path.to_owned(), beside(path, "-wal"), beside(path, "-shm"), beside(path, "-lock")] {
        let mode = match fs::metadata(&path) {
            Ok(metadata) => metadata.permissions().mode() & 0o7777,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(OpenError::io(&path, error)),
        };
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "others could read it; that is ended");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o700))
                .map_err(|error| OpenError::io(&path, error))?;
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn tighten(_path: &Path) -> Result<(), OpenError> {
    Ok(())
}

/// What went wrong before it has a path.
enum Failed {
    Sqlx(sqlx::Error),
    Migrate(MigrateError),
    Open(OpenError),
    NotOurs,
    Newer(String),
    NoWriteAheadLog,
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlx(error)
    }
}

impl From<OpenError> for Failed {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl Failed {
    async fn told(self, path: &Path) -> OpenError {
        let error = match self {
            Self::Open(error) => return error,
            Self::NotOurs => return OpenError::NotOurs(path.to_owned()),
            Self::NoWriteAheadLog => return OpenError::NoWriteAheadLog(path.to_owned()),
            Self::Newer(written_by) => return OpenError::Newer { path: path.to_owned(), written_by },
            Self::Migrate(MigrateError::VersionMismatch(version)) => {
                return OpenError::OtherSchema { path: path.to_owned(), version };
            }
            Self::Migrate(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => error,
            Self::Migrate(other) => sqlx::Error::Migrate(Box::new(other)),
            Self::Sqlx(error) => error,
        };
        let path = path.to_owned();
        match result_code(&error).map(|code| code & 0xff) {
            Some(code::NOTADB) => OpenError::NotOurs(path),
            Some(code::PERM | code::READONLY | code::CANTOPEN | code::AUTH) => {
                OpenError::NoPermission { path, source: io::Error::other(error) }
            }
            _ => {
                let source = classify(&path, error).await;
                OpenError::Database { path, source }
            }
        }
    }
}

/// Makes sure that the file is ours before anything is done to it, and tells which schema it has.
async fn check(connection: &mut SqliteConnection) -> Result<i64, Failed> {
    let id: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
    if id != APPLICATION_ID {
        let things: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await?;
        if id != 0 || things != 0 {
            return Err(Failed::NotOurs);
        }
    }
    // `user_version` is the newest migration, so that it can be told without knowing any table.
    let schema: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?;
    if schema > newest() {
        let written_by =
            sqlx::query_scalar("SELECT program_version FROM written_by").fetch_one(&mut *connection).await?;
        return Err(Failed::Newer(written_by));
    }
    Ok(schema)
}

/// The newest schema that this version knows.
fn newest() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// Brings the file from `schema` to ours.
async fn initialise(connection: &mut SqliteConnection, schema: i64) -> Result<(), Failed> {
    // The mode is kept in the file, so setting it once would do; but a file that a tool has copied may have lost it.
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(&mut *connection).await?;
    if mode != "wal" {
        return Err(Failed::NoWriteAheadLog);
    }

    if schema == newest() {
        // Nothing is written, so that a command need not wait for another process that writes.
        return is_as_released(connection).await;
    }

    // All migrations and what we note about them are one transaction: another schema than that before
    // and that after is never seen, whatever happens in between.
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    MIGRATOR.run(&mut *tx).await.map_err(Failed::Migrate)?;
    sqlx::query(
        "INSERT INTO written_by (id, program_version) VALUES (1, ?1)
         ON CONFLICT (id) DO UPDATE SET program_version = excluded.program_version",
    )
    .bind(env!("CARGO_PKG_VERSION"))
    .execute(&mut *tx)
    .await?;
    let version = format!("PRAGMA user_version = {}", newest());
    sqlx::query(sqlx::AssertSqlSafe(version)).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

/// Whether the migrations that made the schema are those that we know.
async fn is_as_released(connection: &mut SqliteConnection) -> Result<(), Failed> {
    let applied: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations ORDER BY version").fetch_all(connection).await?;
    let known: Vec<_> = MIGRATOR.iter().map(|migration| (migration.version, migration.checksum.to_vec())).collect();
    if applied == known {
        return Ok(());
    }
    let other = known.iter().zip(&applied).find(|(known, applied)| known != applied);
    let version = other.map_or_else(newest, |(known, _)| known.0);
    Err(Failed::Migrate(MigrateError::VersionMismatch(version)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// What cannot be seen from outside: a commit that was not synchronised is lost by a power cut alone.
    #[tokio::test]
    async fn connections_are_durable_and_readers_cannot_write() {
        let folder = tempfile::tempdir().unwrap();
        let Pools { writer, readers, .. } = pools(&folder.path().join("keyward.db")).await.unwrap();
        for (pool, pragma, expected) in [
            (&writer, "PRAGMA synchronous", "2"),
            (&writer, "PRAGMA journal_mode", "wal"),
            (&writer, "PRAGMA foreign_keys", "1"),
            (&writer, "PRAGMA secure_delete", "1"),
            (&writer, "PRAGMA trusted_schema", "0"),
            (&readers, "PRAGMA query_only", "1"),
            (&readers, "PRAGMA trusted_schema", "0"),
        ] {
            let value = match sqlx::query_scalar::<_, i64>(pragma).fetch_one(pool).await {
                Ok(number) => number.to_string(),
                Err(_) => sqlx::query_scalar::<_, String>(pragma).fetch_one(pool).await.unwrap(),
            };
            assert_eq!(value, expected, "{pragma}");
        }
        assert!(sqlx::query("DELETE FROM vault").execute(&readers).await.is_err());
    }
}
