//! Compiled components on disk.
//!
//! Loading one means running whatever machine code lies in the file, so the directory must be ours alone,
//! and an entry is loaded only after its digest was checked. Anything else that lies there under an entry's
//! name (cut off, foreign, of another engine) is compiled again and replaced.
//!
//! An entry is called `<digest of the component>.cwasm` and lies in a directory that is called after the
//! engine's settings. It holds wasmtime's artefact and behind it, so that the artefact can be mapped into
//! memory from the start of the file, a trailer of [`TRAILER`] bytes:
//!
//! | bytes | content |
//! |---|---|
//! | 16 | [`MAGIC`] |
//! | 32 | SHA-256 of the engine's settings and wasmtime's version |
//! | 32 | SHA-256 of the component that was compiled |
//! | 32 | SHA-256 of the artefact |
//!
//! Writers make a temporary file, sync it and rename it, so a reader sees a whole entry or none, and two
//! processes that compile the same component at once both end with a good one.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    hash::{Hash, Hasher},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use keyward_model::Digest;
use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

use crate::RuntimeError;

/// The first bytes of the trailer; the digit is the version of the format.
const MAGIC: &[u8; 16] = b"keyward-cwasm-1\n";
/// The length of the trailer.
const TRAILER: usize = 16 + 3 * 32;
/// The entries of other settings are removed when nobody opened them for so long: of an older wasmtime, as a rule.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How much of a file is read at once while its digest is computed.
const READ_BUFFER: usize = 256 << 10;

/// The cache of one engine.
pub(crate) struct Cache {
    engine: Engine,
    directory: PathBuf,
    fingerprint: [u8; 32],
}

impl Cache {
    /// Opens the cache below `root`, which is made if it is missing, and removes the entries of settings that are
    /// out of use.
    ///
    /// # Errors
    /// [`RuntimeError::CacheDirectory`] if somebody else could write there.
    pub(crate) fn open(engine: &Engine, root: &Path) -> Result<Self, RuntimeError> {
        let fingerprint = fingerprint(engine);
        let directory = root.join(hex::encode(&fingerprint[..16]));
        for path in [root, &directory] {
            make_private(path)?;
        }
        if let Err(error) = prune(root, &directory) {
            tracing::warn!(directory = %root.display(), %error, "what is out of use in the cache stays there");
        }
        Ok(Self { engine: engine.clone(), directory, fingerprint })
    }

    /// The component with `digest`: loaded if it was compiled before, else compiled from what `source` reads
    /// and kept. Blocks for as long as a compilation takes, which is seconds for a large component.
    pub(crate) fn load(&self, digest: &Digest, source: &Path) -> Result<Component, RuntimeError> {
        match self.find(digest) {
            Ok(Some(component)) => return Ok(component),
            Ok(None) => {}
            Err(fault) => {
                tracing::warn!(entry = %self.entry(digest).display(), %fault, "a cache entry is compiled again")
            }
        }
        let bytes = read_checked(source, digest)?;
        let artefact = self.engine.precompile_component(&bytes).map_err(|error| {
            RuntimeError::unsuitable(
                format!("the component does not compile: {error:#}"),
                "build it again, with a tool chain of this version of Keyward",
            )
        })?;
        let kept = self.keep(digest, &artefact);
        if let Err(fault) = &kept {
            tracing::warn!(directory = %self.directory.display(), %fault, "a compiled component is not kept");
        } else if let Ok(Some(component)) = self.find(digest) {
            // From the file, so that its pages can be shared and dropped.
            return Ok(component);
        }
        // SAFETY: `artefact` was made by this engine a moment ago and has not left this function.
        #[expect(unsafe_code, reason = "wasmtime cannot check machine code")]
        let component = unsafe { Component::deserialize(&self.engine, &artefact) };
        component.map_err(|error| {
            RuntimeError::unsuitable(
                format!("the component does not fit the sandbox: {error:#}"),
                "let it start with less memory, smaller tables or fewer modules",
            )
        })
    }

    /// The entry of `digest`, if there is one that is whole and ours.
    fn find(&self, digest: &Digest) -> Result<Option<Component>, String> {
        let path = self.entry(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        self.verify(file, digest).map_err(|fault| fault.to_string())?;
        // SAFETY: the artefact's digest is the one that an engine of the same settings and version wrote
        // beside it. Nobody else can have written it, nor replaced it since: the directory is ours and
        // closed to others (`make_private`), and our own writers only ever rename a whole entry over it.
        #[expect(unsafe_code, reason = "wasmtime cannot check machine code")]
        let component = unsafe { Component::deserialize_file(&self.engine, &path) };
        component.map(Some).map_err(|error| format!("{error:#}"))
    }

    /// Reads an entry once from begin to end and compares its digests.
    fn verify(&self, mut file: File, digest: &Digest) -> io::Result<()> {
        let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let length = file.metadata()?.len();
        let Some(artefact) = length.checked_sub(TRAILER as u64) else {
            return Err(damaged("it is too short"));
        };
        let mut hasher = Sha256::new();
        let mut left = artefact;
        let mut buffer = vec![0; READ_BUFFER];
        while left > 0 {
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = file.read(&mut buffer[..wanted])?;
            if read == 0 {
                return Err(damaged("it was cut off"));
            }
            hasher.update(&buffer[..read]);
            left -= read as u64;
        }
        let mut trailer = [0; TRAILER];
        file.read_exact(&mut trailer)?;
        if trailer == self.trailer(digest, hasher.finalize().into()) {
            Ok(())
        } else if trailer.starts_with(MAGIC) {
            Err(damaged("its digests are wrong"))
        } else {
            Err(damaged("it is no entry of this cache"))
        }
    }

    /// Writes the entry of `digest`.
    fn keep(&self, digest: &Digest, artefact: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&self.directory)?;
        file.write_all(artefact)?;
        file.write_all(&self.trailer(digest, Sha256::digest(artefact).into()))?;
        file.as_file().sync_all()?;
        file.persist(self.entry(digest))?;
        // The name survives a crash as well.
        File::open(&self.directory)?.sync_all()
    }

    /// Removes the entries of components that `used` does not name.
    pub(crate) fn retain(&self, used: &BTreeSet<Digest>) -> io::Result<()> {
        let used: BTreeSet<PathBuf> = used.iter().map(|digest| self.entry(digest)).collect();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            // What a writer is still at has no name of an entry.
            if path.extension().is_some_and(|extension| extension == "cwasm") && !used.contains(&path) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn trailer(&self, component: &Digest, artefact: [u8; 32]) -> [u8; TRAILER] {
        let mut trailer = [0; TRAILER];
        let parts: [&[u8]; 4] = [MAGIC, &self.fingerprint, component.as_bytes(), &artefact];
        let mut rest = trailer.as_mut_slice();
        for part in parts {
            let (place, after) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = after;
        }
        trailer
    }

    fn entry(&self, digest: &Digest) -> PathBuf {
        self.directory.join(hex::encode(digest.as_bytes())).with_extension("cwasm")
    }
}

/// Marks `used` as opened now and removes its siblings that were not for [`UNUSED`].
///
/// A process that has one of them open keeps what it has mapped and compiles the rest again.
fn prune(root: &Path, used: &Path) -> io::Result<()> {
    let now = SystemTime::now();
    File::open(used)?.set_modified(now)?;
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_ours = name.len() == 32 && name.as_encoded_bytes().iter().all(u8::is_ascii_hexdigit);
        let metadata = entry.metadata()?;
        let age = now.duration_since(metadata.modified()?).unwrap_or_default();
        if is_ours && metadata.is_dir() && age > UNUSED {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Reads a component and checks that it is the one meant.
fn read_checked(path: &Path, digest: &Digest) -> Result<Vec<u8>, RuntimeError> {
    let bytes = fs::read(path).map_err(|source| RuntimeError::Read { path: path.to_owned(), source })?;
    let found = Digest::from_sha256(Sha256::digest(&bytes).into());
    if found != *digest {
        return Err(RuntimeError::unsuitable(
            format!("the component {} has the digest {found}, and {digest} was installed", path.display()),
            "the file was changed after it was installed: install the connector again",
        ));
    }
    if !bytes.starts_with(b"\0asm") {
        // wasmtime would take the text format as well, and what was installed is a binary.
        return Err(RuntimeError::unsuitable("this is no WebAssembly file", "install the connector again"));
    }
    Ok(bytes)
}

/// The engine's settings as a digest: wasmtime promises that artefacts fit between engines where they agree.
fn fingerprint(engine: &Engine) -> [u8; 32] {
    /// Passes what a `Hash` implementation writes on to SHA-256.
    struct Sink(Sha256);
    impl Hasher for Sink {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut sink = Sink(Sha256::new());
    sink.0.update(MAGIC);
    engine.precompile_compatibility_hash().hash(&mut sink);
    sink.0.finalize().into()
}

/// Makes `path` if it is missing, and checks that nobody else can write to it.
fn make_private(path: &Path) -> Result<(), RuntimeError> {
    let refuse = |message: String| RuntimeError::CacheDirectory {
        path: path.to_owned(),
        message,
        hint: format!("choose a directory of your own, or run: chown \"$USER\" {0} && chmod 700 {0}", path.display()),
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| refuse(error.to_string()))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(refuse("it belongs to another user, who could put machine code there".to_owned()));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(refuse("other users may write to it, and could put machine code there".to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use keyward_model::manifest::Limits;
    use tempfile::TempDir;

    use super::*;

    struct Fixture {
        cache: Cache,
        source: PathBuf,
        digest: Digest,
        directory: TempDir,
    }

    fn engine() -> Engine {
        crate::engine::engine(1, &Limits::default_ceiling()).unwrap()
    }

    fn fixture() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source.wasm");
        let bytes = wat::parse_str("(component (core module (func)))").unwrap();
        fs::write(&source, &bytes).unwrap();
        let digest = Digest::from_sha256(Sha256::digest(&bytes).into());
        let cache = Cache::open(&engine(), &directory.path().join("cache")).unwrap();
        Fixture { cache, source, digest, directory }
    }

    #[test]
    fn whole_entry_is_loaded_without_its_source() {
        let Fixture { cache, source, digest, directory } = fixture();
        cache.load(&digest, &source).unwrap();
        fs::remove_file(&source).unwrap();
        cache.load(&digest, &source).unwrap();
        let other = Cache::open(&engine(), &directory.path().join("cache")).unwrap();
        other.load(&digest, &source).unwrap();
    }

    #[test]
    fn entry_that_is_not_whole_and_ours_is_never_loaded_but_replaced() {
        let Fixture { cache, source, digest, directory: _directory } = fixture();
        let missing = source.with_extension("missing");
        cache.load(&digest, &source).unwrap();
        let good = fs::read(cache.entry(&digest)).unwrap();
        let artefact = good.len() - TRAILER;
        let change = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        let cases = [
            ("empty", vec![]),
            ("foreign", b"#!/bin/sh\nexit 0\n".repeat(20)),
            ("without trailer", good[..artefact].to_vec()),
            ("cut off", good[..good.len() - 1].to_vec()),
            ("extended", [&*good, b"x"].concat()),
            ("first byte", change(0)),
            ("middle of the artefact", change(artefact / 2)),
            ("magic", change(artefact)),
            ("settings", change(artefact + 16)),
            ("component", change(artefact + 48)),
            ("digest", change(good.len() - 1)),
        ];
        for (case, bytes) in cases {
            fs::write(cache.entry(&digest), bytes).unwrap();
            assert!(matches!(cache.load(&digest, &missing), Err(RuntimeError::Read { .. })), "{case} was loaded");
            cache.load(&digest, &source).unwrap();
            cache.load(&digest, &missing).unwrap_or_else(|_| panic!("{case} was not replaced"));
        }
    }

    #[test]
    fn entry_of_a_component_that_nobody_uses_is_removed() {
        let Fixture { cache, source, digest, directory: _directory } = fixture();
        cache.load(&digest, &source).unwrap();
        let other = Digest::from_sha256([7; 32]);
        fs::copy(cache.entry(&digest), cache.entry(&other)).unwrap();
        cache.retain(&BTreeSet::from([digest])).unwrap();
        assert!(cache.entry(&digest).exists());
        assert!(!cache.entry(&other).exists());
    }

    #[test]
    fn entry_of_another_component_is_not_taken_for_this_one() {
        let Fixture { cache, source, digest, directory: _directory } = fixture();
        cache.load(&digest, &source).unwrap();
        let other = Digest::from_sha256([7; 32]);
        fs::copy(cache.entry(&digest), cache.entry(&other)).unwrap();
        assert!(cache.find(&other).is_err());
    }

    #[test]
    fn engines_of_different_settings_do_not_share_entries() {
        let Fixture { cache, directory, .. } = fixture();
        let other = Cache::open(&Engine::default(), &directory.path().join("cache")).unwrap();
        assert_ne!(cache.directory, other.directory);
        assert_eq!(cache.fingerprint, fingerprint(&engine()));
    }

    #[test]
    fn settings_that_nobody_opened_for_long_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (old, recent, foreign) = ("0".repeat(32), "1".repeat(32), "notes");
        for (name, age) in [(&*old, UNUSED * 2), (&recent, UNUSED / 2), (foreign, UNUSED * 2)] {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("x.cwasm"), "x").unwrap();
            File::open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        }
        let cache = Cache::open(&engine(), directory.path()).unwrap();
        File::open(&cache.directory).unwrap().set_modified(SystemTime::now() - UNUSED * 2).unwrap();
        Cache::open(&Engine::default(), directory.path()).unwrap();
        assert!(!cache.directory.exists());
        Cache::open(&engine(), directory.path()).unwrap();
        let exists = |name: &str| directory.path().join(name).exists();
        assert_eq!((exists(&old), exists(&recent), exists(foreign)), (false, true, true));
        assert!(cache.directory.exists());
    }

    #[test]
    fn component_that_cannot_be_kept_is_used_all_the_same() {
        let Fixture { cache, source, digest, directory: _directory } = fixture();
        fs::remove_dir_all(&cache.directory).unwrap();
        cache.load(&digest, &source).unwrap();
        assert!(!cache.directory.exists());
    }

    #[test]
    fn two_that_compile_at_once_leave_one_whole_entry() {
        let Fixture { cache, source, digest, directory: _directory } = fixture();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| cache.load(&digest, &source).unwrap());
            }
        });
        assert!(cache.find(&digest).unwrap().is_some());
        assert_eq!(fs::read_dir(&cache.directory).unwrap().count(), 1);
    }

    #[test]
    fn source_with_another_digest_is_refused() {
        let Fixture { cache, source, directory: _directory, .. } = fixture();
        let error = cache.load(&Digest::from_sha256([7; 32]), &source).err().unwrap();
        assert!(matches!(error, RuntimeError::Unsuitable { .. }), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn directory_that_others_can_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        for (mode, taken) in [(0o700, true), (0o755, true), (0o775, false), (0o757, false)] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Cache::open(&engine(), directory.path()).is_ok(), taken, "{mode:o}");
        }
    }
}
