//! Files are written whole or not at all: a temporary one beside the place, then a rename.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use keyward_registry::artifact::COMPONENT_LIMIT;

use crate::failure::{Exit, Failure};

/// Who may read a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The owner alone (0600).
    Private,
    /// Everybody (0644).
    Public,
}

/// Writes `bytes` to `path`; it replaces what is there in one step, and is on disk when this returns.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: Mode) -> Result<(), Failure> {
    put(path, bytes, mode, true).map_err(|error| cannot("write", path, &error))
}

/// Writes `bytes` to `path` where nothing is yet; `false` where something is.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: Mode) -> Result<bool, Failure> {
    match put(path, bytes, mode, false) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(cannot("write", path, &error)),
    }
}

fn put(path: &Path, bytes: &[u8], mode: Mode, replace: bool) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    file.write_all(bytes)?;
    // Temporary files are made 0600; only then does it become readable by others, where it may.
    if mode == Mode::Public {
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    file.as_file().sync_all()?;
    if replace { file.persist(path) } else { file.persist_noclobber(path) }.map_err(|error| error.error)?;
    // Without this the rename itself may be lost when the machine stops.
    fs::File::open(parent)?.sync_all()
}

/// Makes a directory with all above it, for the owner alone where it is new.
pub(crate) fn make_private_directory(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| cannot("create", path, &error))
}

/// Reads a text file that the user named.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    let bytes = read(path)?;
    String::from_utf8(bytes)
        .map_err(|_| Failure::new(Exit::BadInput, "file-not-text", format!("{} is not UTF-8 text", path.display())))
}

/// Reads a file that the user named.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::File::open(path).and_then(read_bounded).map_err(|error| {
        let failure =
            Failure::new(Exit::BadInput, "file-unreadable", format!("cannot read {}", path.display())).because(&error);
        match error.kind() {
            io::ErrorKind::NotFound if path.is_absolute() => failure.hint("check the path"),
            io::ErrorKind::NotFound => failure.hint("check the path; it is taken from the current directory"),
            io::ErrorKind::IsADirectory => failure.hint("name a file in it"),
            _ => failure,
        }
    })
}

/// Reads what a person gives to its end. Nothing that is of use is longer than the largest component; a device may
/// have no end.
pub(crate) fn read_bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(COMPONENT_LIMIT as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > COMPONENT_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is longer than {} MiB", COMPONENT_LIMIT >> 20),
        ));
    }
    Ok(bytes)
}

/// Runs `read` where it may wait for a person without holding up an interruption. The process does not wait for it.
pub(crate) async fn waiting<T: Send + 'static>(read: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(read).await?
}

/// A file or directory of ours cannot be made.
pub(crate) fn cannot(verb: &str, path: &Path, error: &io::Error) -> Failure {
    let failure =
        Failure::new(Exit::Environment, "file-unwritable", format!("cannot {verb} {}", path.display())).because(error);
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            failure.hint("choose a place that you may write to, for example with --data-dir")
        }
        io::ErrorKind::StorageFull => failure.hint("free some space and run the command again; nothing was written"),
        _ => failure,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_readable_by_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write(&path, b"test", Mode::Private).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn write_new_leaves_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(write_new(&path, b"first", Mode::Private).unwrap());
        assert!(!write_new(&path, b"second", Mode::Private).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn a_file_without_an_end_and_a_folder_are_refused() {
        let endless = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(
            (endless.exit, endless.causes.as_slice()),
            (Exit::BadInput, &["it is longer than 64 MiB".to_owned()][..])
        );
        assert_eq!(read(Path::new("/")).unwrap_err().hints, ["name a file in it"]);
    }

    #[test]
    fn a_file_that_cannot_be_written_names_the_place() {
        let failure = write(Path::new("/proc/none/key"), b"", Mode::Private).unwrap_err();
        assert_eq!(failure.exit, Exit::Environment);
        assert!(failure.message.contains("/proc/none/key"));
    }
}
