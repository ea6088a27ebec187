//! Components on disk, named by their content: `<2 hex digits>/<64 hex digits>.wasm`, read-only.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use keyward_model::{Digest, manifest::Manifest};
use uuid::Uuid;

use crate::{artifact, error::RegistryError};

/// The folder of components.
#[derive(Debug)]
pub(crate) struct Blobs {
    directory: PathBuf,
    /// The files whose content was compared with their digest, as they were then, and their manifests. Reading a whole
    /// component for each call would cost more than the call; a file that was replaced or written to
    /// has another of these values and is read again. A plain lock: nothing waits while it is held.
    verified: Mutex<HashMap<Digest, (Seen, Arc<Manifest>)>>,
}

#[derive(Debug, PartialEq)]
struct Seen {
    length: u64,
    modified: Option<SystemTime>,
    #[cfg(unix)]
    inode: u64,
    #[cfg(unix)]
    changed: (i64, i64),
}

/// Held while a blob is written and recorded (shared) or while unused ones are removed (alone), so that
/// no process removes a blob that another has written and not yet recorded.
pub(crate) struct Hold {
    _file: File,
}

impl Blobs {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, verified: Mutex::default() }
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        let hex = hex::encode(digest.as_bytes());
        self.directory.join(&hex[..2]).join(format!("{hex}.wasm"))
    }

    /// Keeps others from removing blobs until the hold is dropped.
    pub(crate) fn hold(&self) -> Result<Hold, RegistryError> {
        let (file, path) = self.lock_file()?;
        file.lock_shared().map_err(|error| RegistryError::io("lock", path, error))?;
        Ok(Hold { _file: file })
    }

    fn lock_file(&self) -> Result<(File, PathBuf), RegistryError> {
        create_directory(&self.directory)?;
        let path = self.directory.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| RegistryError::io("open", &path, error))?;
        Ok((file, path))
    }

    /// Writes a blob so that its path shows all of it or nothing, and it is there after a power cut.
    /// One that is there and whole is left alone; one that was changed is replaced.
    pub(crate) fn write(&self, digest: &Digest, bytes: &[u8], _hold: &Hold) -> Result<(), RegistryError> {
        match self.verify(digest) {
            Ok(_) => return Ok(()),
            Err(RegistryError::ComponentMissing { .. } | RegistryError::ComponentChanged { .. }) => {}
            Err(error) => return Err(error),
        }
        let path = self.path(digest);
        let folder = path.parent().unwrap_or(&self.directory);
        create_directory(folder)?;

        let temporary = path.with_extension(format!("{}.tmp", Uuid::new_v4()));
        let written = write_new(&temporary, bytes)
            .map_err(|error| RegistryError::io("write", &temporary, error))
            .and_then(|()| fs::rename(&temporary, &path).map_err(|error| RegistryError::io("write", &path, error)))
            .and_then(|()| sync_directory(folder));
        if written.is_err() {
            // What is left over takes space and is good for nothing; the first error is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Compares the file's content with the digest and reads the manifest in it.
    pub(crate) fn verify(&self, digest: &Digest) -> Result<Arc<Manifest>, RegistryError> {
        let path = self.path(digest);
        let missing = |error: io::Error, what| match error.kind() {
            io::ErrorKind::NotFound => RegistryError::ComponentMissing { digest: *digest, path: path.clone() },
            _ => RegistryError::io(what, &path, error),
        };
        let seen = fs::metadata(&path).map(|metadata| seen(&metadata)).map_err(|error| missing(error, "read"))?;
        if let Some((known, manifest)) = self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(digest)
            && *known == seen
        {
            return Ok(manifest.clone());
        }
        let bytes = fs::read(&path).map_err(|error| missing(error, "read"))?;
        let found = artifact::digest(&bytes);
        if found != *digest {
            return Err(RegistryError::ComponentChanged { digest: *digest, found, path });
        }
        let manifest = Arc::new(as_recorded(&artifact::read(&bytes)?)?);
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest, (seen, manifest.clone()));
        Ok(manifest)
    }

    /// Keeps others from installing, where nobody is at it just now. Only then is the list of used blobs
    /// final, and what it does not name may be swept.
    pub(crate) fn hold_alone(&self) -> Result<Option<Hold>, RegistryError> {
        let (file, path) = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Hold { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(RegistryError::io("lock", path, error)),
        }
    }

    /// Removes every blob that `used` does not name, and what interrupted writes left; tells how many blobs.
    pub(crate) fn sweep(&self, used: &BTreeSet<Digest>, _alone: &Hold) -> Result<usize, RegistryError> {
        let used: BTreeSet<PathBuf> = used.iter().map(|digest| self.path(digest)).collect();
        let mut removed = 0;
        for folder in entries(&self.directory)?.into_iter().filter(|path| path.is_dir()) {
            for path in entries(&folder)?.into_iter().filter(|path| !used.contains(path)) {
                fs::remove_file(&path).map_err(|error| RegistryError::io("remove", &path, error))?;
                removed += usize::from(path.extension().is_some_and(|extension| extension == "wasm"));
            }
        }
        Ok(removed)
    }
}

/// The manifest as a store gives it back that keeps it as JSON. A number in a schema may lose its last digit on the
/// way, so only what has gone the same way compares equal.
fn as_recorded(manifest: &Manifest) -> Result<Manifest, RegistryError> {
    serde_json::to_string(manifest)
        .and_then(|text| serde_json::from_str(&text))
        .map_err(|error| RegistryError::ManifestUnreadable(error.to_string()))
}

fn seen(metadata: &fs::Metadata) -> Seen {
    #[cfg(unix)]
    use std::os::unix::fs::MetadataExt as _;
    Seen {
        length: metadata.len(),
        modified: metadata.modified().ok(),
        #[cfg(unix)]
        inode: metadata.ino(),
        // The time of the last change of anything; unlike the one of writing it cannot be set by a program.
        #[cfg(unix)]
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, RegistryError> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|error| RegistryError::io("list", folder, error))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    let mut permissions = file.metadata()?.permissions();
    permissions.set_readonly(true);
    file.set_permissions(permissions)?;
    file.sync_all()
}

/// Creates a folder for the owner alone, and those above it, so that it is there after a power cut.
fn create_directory(path: &Path) -> Result<(), RegistryError> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| RegistryError::io("create", path, error))?;
    path.parent().map_or(Ok(()), sync_directory)
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> Result<(), RegistryError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| RegistryError::io("write", path, error))
}

/// Other systems do not open folders as files and write their entries without being asked.
#[cfg(not(unix))]
fn sync_directory(_path: &Path) -> Result<(), RegistryError> {
    Ok(())
}
