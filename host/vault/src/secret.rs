//! Bytes that must never be shown.

use std::fmt;

use zeroize::Zeroizing;

/// Bytes that must never be shown: a passphrase, a token, a key, a password.
///
/// It can be made by anyone and read only inside this crate. There is no `Clone`, `Display`, `Serialize` or
/// `PartialEq`, and `Debug` prints `Secret(..)`. The bytes are overwritten when it is dropped; what a caller
/// copied them from is the caller's to clear.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The bytes.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text; `None` where they are not UTF-8.
    pub(crate) fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Another copy, which is overwritten by itself.
    pub(crate) fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text.into_bytes()))
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn debug_shows_neither_bytes_nor_length() {
        assert_eq!(format!("{:?}", Secret::from("canary-token".to_owned())), "Secret(..)");
    }
}
