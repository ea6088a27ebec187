//! The root key: where it comes from and how it is derived.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use aws_lc_rs::pbkdf2;
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{
    aead::{self, Key},
    error::VaultError,
    secret::Secret,
};

/// PBKDF2-HMAC-SHA512 iterations of a new vault (OWASP's recommendation for this hash).
pub(crate) const ITERATIONS: u32 = 220_000;
/// The fewest iterations that are accepted, also from a vault's own record.
pub(crate) const ITERATIONS_FLOOR: u32 = 200_000;
/// The most iterations that are accepted, so that an altered record cannot make unlocking take for ever.
pub(crate) const ITERATIONS_CEILING: u32 = 10_000_000;
/// Bytes of a salt.
pub(crate) const SALT: usize = 32;

const PASSPHRASE_MIN_CHARS: usize = 12;
const PASSPHRASE_MAX_BYTES: usize = 1024;
/// More than a key in base64 with its line end can take.
const KEY_FILE_MAX_BYTES: u64 = 256;

/// Where the root key comes from.
#[derive(Debug)]
pub enum RootKeySource {
    /// A passphrase, through PBKDF2-HMAC-SHA512 with 220,000 iterations and a random salt. A new one must
    /// have at least 12 characters and at most 1,024 bytes.
    Passphrase(Secret),
    /// A file that holds 32 random bytes in base64 (RFC 4648 section 4). It must belong to the user and be
    /// closed to all others (mode 0600 or 0400). [`RootKeySource::generate_file`] makes one.
    File(PathBuf),
    /// The name of an environment variable that holds 32 random bytes in base64. Whoever can read the
    /// process's environment can read it; a file is better where there is a choice.
    Env(String),
}

/// The kinds of [`RootKeySource`], as the vault's record names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootKeyKind {
    /// A passphrase.
    Passphrase,
    /// A key file.
    File,
    /// An environment variable.
    Env,
}

impl fmt::Display for RootKeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase => "passphrase",
            Self::File => "key file",
            Self::Env => "key in an environment variable",
        })
    }
}

/// How a root key is derived from its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Derivation {
    /// The source is the key.
    Direct,
    /// PBKDF2-HMAC-SHA512.
    Pbkdf2 {
        /// How often.
        iterations: u32,
    },
}

impl RootKeySource {
    /// What kind of source it is.
    pub fn kind(&self) -> RootKeyKind {
        match self {
            Self::Passphrase(_) => RootKeyKind::Passphrase,
            Self::File(_) => RootKeyKind::File,
            Self::Env(_) => RootKeyKind::Env,
        }
    }

    /// Writes a new key file, closed to all but the user. It is there whole or not at all, and a file that
    /// is already there is kept.
    ///
    /// # Errors
    /// [`VaultError::KeyFile`] where there is a file of that name or it cannot be written.
    pub fn generate_file(path: &Path) -> Result<(), VaultError> {
        let fault = |problem: String| VaultError::KeyFile { path: path.to_owned(), problem, hint: None };
        let key = aead::random_key()?;
        // All the room at once: a string that grows leaves a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(KEY_FILE_MAX_BYTES as usize));
        STANDARD.encode_string(key.as_ref(), &mut text);
        text.push('\n');
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The temporary file has mode 0600 from its first moment.
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(|e| fault(format!("cannot be made: {e}")))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .map_err(|e| fault(format!("cannot be written: {e}")))?;
        file.persist_noclobber(path).map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => fault("is already there and is kept".to_owned()),
            _ => fault(format!("cannot be put in its place: {}", e.error)),
        })?;
        // The name must survive a power cut as well as the bytes.
        fs::File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|e| fault(format!("is written but its folder cannot be synced: {e}")))
    }

    /// Refuses a source that is too weak to begin a vault with.
    pub(crate) fn check_strength(&self) -> Result<(), VaultError> {
        let Self::Passphrase(passphrase) = self else { return Ok(()) };
        let chars = String::from_utf8_lossy(passphrase.expose()).chars().count();
        if chars < PASSPHRASE_MIN_CHARS {
            let problem = format!("has {chars} characters, fewer than {PASSPHRASE_MIN_CHARS}");
            return Err(VaultError::Passphrase { problem });
        }
        Ok(())
    }

    /// How a new vault derives its root key from this kind of source.
    pub(crate) fn derivation(&self) -> Derivation {
        match self {
            Self::Passphrase(_) => Derivation::Pbkdf2 { iterations: ITERATIONS },
            Self::File(_) | Self::Env(_) => Derivation::Direct,
        }
    }

    /// The 32 bytes of the root key; with a passphrase it takes some tenths of a second, in the background.
    pub(crate) async fn root_key(&self, derivation: Derivation, salt: &[u8; SALT]) -> Result<Key, VaultError> {
        match (self, derivation) {
            (Self::Passphrase(passphrase), Derivation::Pbkdf2 { iterations }) => {
                let (passphrase, salt) = (passphrase.duplicate(), *salt);
                tokio::task::spawn_blocking(move || stretch(&passphrase, iterations, &salt))
                    .await
                    .map_err(|e| VaultError::System(e.to_string()))?
            }
            (Self::File(path), Derivation::Direct) => read_file(path),
            (Self::Env(name), Derivation::Direct) => read_variable(name),
            (given, Derivation::Pbkdf2 { .. }) => {
                Err(VaultError::WrongSource { expected: RootKeyKind::Passphrase, given: given.kind() })
            }
            (given, Derivation::Direct) => {
                Err(VaultError::WrongSource { expected: RootKeyKind::File, given: given.kind() })
            }
        }
    }
}

/// PBKDF2-HMAC-SHA512 (RFC 8018 section 5.2), 32 bytes.
fn stretch(passphrase: &Secret, iterations: u32, salt: &[u8; SALT]) -> Result<Key, VaultError> {
    let bytes = passphrase.expose();
    let refuse = |problem: &str| Err(VaultError::Passphrase { problem: problem.to_owned() });
    if bytes.is_empty() {
        return refuse("is empty");
    }
    if bytes.len() > PASSPHRASE_MAX_BYTES {
        return refuse("is longer than 1024 bytes");
    }
    let Some(iterations) = NonZeroU32::new(iterations).filter(|n| n.get() >= ITERATIONS_FLOOR) else {
        return Err(VaultError::WeakDerivation { found: iterations, floor: ITERATIONS_FLOOR });
    };
    let mut key = Key::default();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, iterations, salt, bytes, key.as_mut());
    Ok(key)
}

fn read_file(path: &Path) -> Result<Key, VaultError> {
    let fault = |problem: String, hint: Option<String>| VaultError::KeyFile { path: path.to_owned(), problem, hint };
    let file = fs::File::open(path).map_err(|e| {
        let hint = "put the file back from its copy, or change [vault] key; without it the credentials can only be \
                    connected again";
        let hint = (e.kind() == io::ErrorKind::NotFound).then(|| hint.to_owned());
        fault(format!("cannot be opened: {e}"), hint)
    })?;
    // The opened file is asked, not the path, so that the two cannot differ.
    let metadata = file.metadata().map_err(|e| fault(format!("cannot be examined: {e}"), None))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if metadata.mode() & 0o077 != 0 {
            let problem = format!("is open to others (mode {:04o})", metadata.mode() & 0o7777);
            return Err(fault(problem, Some(format!("chmod 600 {}", path.display()))));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(fault(
                "belongs to another user".to_owned(),
                Some(format!("chown it to the user that runs Keyward: {}", path.display())),
            ));
        }
    }
    if !metadata.is_file() {
        return Err(fault("is not a file".to_owned(), None));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(KEY_FILE_MAX_BYTES as usize));
    file.take(KEY_FILE_MAX_BYTES).read_to_end(&mut text).map_err(|e| fault(format!("cannot be read: {e}"), None))?;
    decode_key(&text).ok_or_else(|| {
        fault(
            "does not hold 32 random bytes in base64".to_owned(),
            Some("`keyward vault init` makes such a file, and so does `openssl rand -base64 32`".to_owned()),
        )
    })
}

fn read_variable(name: &str) -> Result<Key, VaultError> {
    let fault = |problem| VaultError::KeyVariable { name: name.to_owned(), problem };
    let text = Zeroizing::new(std::env::var(name).map_err(|_| fault("is not set, or is not text"))?);
    decode_key(text.as_bytes()).ok_or_else(|| fault("does not hold 32 random bytes in base64"))
}

/// 32 bytes from base64 with white space around it. One byte repeated is a placeholder, not a key.
fn decode_key(text: &[u8]) -> Option<Key> {
    let bytes = Zeroizing::new(STANDARD.decode(text.trim_ascii()).ok()?);
    let key = aead::to_key(&bytes)?;
    (!key.iter().all(|byte| *byte == key[0])).then_some(key)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::aead::KEY;

    fn passphrase(text: &str) -> RootKeySource {
        RootKeySource::Passphrase(Secret::from(text.to_owned()))
    }

    async fn read(path: &Path) -> Result<Key, VaultError> {
        RootKeySource::File(path.to_owned()).root_key(Derivation::Direct, &[0; SALT]).await
    }

    #[cfg(unix)]
    fn set_mode(path: &Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn passphrase_is_stretched_as_another_implementation_does_it() {
        let salt = std::array::from_fn(|i| i as u8);
        let key = passphrase("test passphrase").root_key(Derivation::Pbkdf2 { iterations: 220_000 }, &salt).await;
        let expected = "f392bcf7afd79333d8f0cd25f9aa26171b3f22f8528a290531aafc5f38aaa191";
        assert_eq!(hex::encode(key.unwrap().as_slice()), expected);
    }

    #[tokio::test]
    async fn passphrase_is_neither_empty_nor_endless_nor_stretched_too_little() {
        for (text, iterations) in [("", 220_000), (&*"x".repeat(1025), 220_000), ("test passphrase", 199_999)] {
            let key = passphrase(text).root_key(Derivation::Pbkdf2 { iterations }, &[0; SALT]).await;
            assert!(matches!(key, Err(VaultError::Passphrase { .. } | VaultError::WeakDerivation { .. })));
        }
    }

    #[test]
    fn new_passphrase_has_twelve_characters() {
        assert!(passphrase("éééééé").check_strength().is_err());
        assert!(passphrase("elevenchars").check_strength().is_err());
        assert!(passphrase("twelve chars").check_strength().is_ok());
    }

    #[tokio::test]
    async fn generated_file_reads_back_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        RootKeySource::generate_file(&path).unwrap();
        let key = read(&path).await.unwrap();
        let error = RootKeySource::generate_file(&path).unwrap_err();
        assert!(error.to_string().ends_with("is already there and is kept"), "{error}");
        assert_eq!(read(&path).await.unwrap(), key);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the temporary file is left behind");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        RootKeySource::generate_file(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601, 0o666] {
            set_mode(&path, mode);
            let error = read(&path).await.unwrap_err();
            assert!(error.to_string().contains("is open to others"), "{error}");
            assert_eq!(error.hint().unwrap(), format!("chmod 600 {}", path.display()));
        }
        for mode in [0o600, 0o400] {
            set_mode(&path, mode);
            read(&path).await.unwrap();
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn file_without_a_key_is_refused_without_showing_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        for text in [
            "".to_owned(),
            "canary".to_owned(),
            STANDARD.encode([7; 31]),
            STANDARD.encode([7; 33]),
            // One byte repeated is a placeholder.
            STANDARD.encode([0; 32]),
            "x".repeat(1 << 20),
        ] {
            fs::write(&path, &text).unwrap();
            set_mode(&path, 0o600);
            let error = read(&path).await.unwrap_err();
            assert!(error.to_string().ends_with("does not hold 32 random bytes in base64"), "{error}");
        }
        assert!(matches!(read(folder.path()).await, Err(VaultError::KeyFile { .. })));
    }

    #[tokio::test]
    async fn file_that_is_gone_is_told_with_the_way_back() {
        let error = read(Path::new("/nonexistent/root.key")).await.unwrap_err();
        assert!(error.hint().unwrap().starts_with("put the file back from its copy"), "{error}");
    }

    #[tokio::test]
    async fn variable_that_is_not_set_is_named() {
        let source = RootKeySource::Env("KEYWARD_TEST_NO_SUCH_KEY".to_owned());
        let error = source.root_key(Derivation::Direct, &[0; SALT]).await.unwrap_err();
        assert_eq!(error.to_string(), "the environment variable KEYWARD_TEST_NO_SUCH_KEY is not set, or is not text");
    }

    #[test]
    fn key_in_base64_may_have_white_space_around_it() {
        let key: [u8; KEY] = std::array::from_fn(|i| i as u8);
        let text = format!(" {}\r\n", STANDARD.encode(key));
        assert_eq!(*decode_key(text.as_bytes()).unwrap(), key);
    }

    #[tokio::test]
    async fn source_of_another_kind_is_told_from_a_wrong_key() {
        let error = passphrase("test passphrase").root_key(Derivation::Direct, &[0; SALT]).await.unwrap_err();
        assert!(matches!(error, VaultError::WrongSource { given: RootKeyKind::Passphrase, .. }), "{error}");
        let file = RootKeySource::File("none".into());
        let error = file.root_key(Derivation::Pbkdf2 { iterations: 220_000 }, &[0; SALT]).await.unwrap_err();
        assert!(matches!(error, VaultError::WrongSource { expected: RootKeyKind::Passphrase, .. }), "{error}");
    }
}
