//! Sealing: how an object rests in the database.
//!
//! A sealed object is, byte by byte (numbers are big endian):
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic `KWSO` |
//! | 4 | 1 | format, 1 |
//! | 5 | 1 | algorithm, 1: AES-256-GCM for both the data key and the object |
//! | 6 | 4 | version of the tenant key |
//! | 10 | 32 | key check: see below |
//! | 42 | 12 | nonce of the data key |
//! | 54 | 32 + 16 | data key, wrapped, and its tag |
//! | 102 | 12 | nonce of the object |
//! | 114 | n + 16 | object, encrypted, and its tag |
//!
//! **Keys.** Every object has a random data key of its own, made anew at each write, so a data key encrypts
//! one message. It is wrapped under a key derived from the tenant key: HKDF-SHA256 with no salt and the info
//! `bind("keyward tenant key wraps data keys", tenant, version)`. Nonces are random; one tenant key may wrap
//! 2^31 data keys (NIST SP 800-38D), which at one write a second are 68 years.
//!
//! **Associated data.** `bind(purpose, magic, format, algorithm, tenant, object type, object id, field,
//! version of the tenant key, row version)`, where `bind` puts the length of each part (4 bytes) in front of
//! it, and purpose is `data key` for the wrapped key and `object` for the object. So a value that is copied
//! to another row, field or tenant, or put back in its own row after a later write, does not open.
//!
//! **Key check.** AES-GCM does not commit to its key: one ciphertext can be made that opens under two keys.
//! The key check, HKDF-SHA256 of the tenant key with the info `bind("keyward tenant key check", tenant,
//! version)`, does commit. The key is chosen by its version, its check compared, and no other key is tried.
//!
//! What this does not protect: putting the *whole* database back to an earlier state is not noticed, and
//! the length of an object, its tenant key's version and the open facts beside it can be seen.

use keyward_model::TenantId;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    aead::{self, KEY, Key, NONCE, TAG},
    error::VaultError,
};

const MAGIC: &[u8; 4] = b"KWSO";
const FORMAT: u8 = 1;
const ALGORITHM: u8 = 1;
const VERSION_AT: usize = 6;
const CHECK_AT: usize = 10;
const WRAPPED_AT: usize = 42;
const OBJECT_AT: usize = WRAPPED_AT + NONCE + KEY + TAG;

/// Where a sealed object rests. It opens nowhere else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// In which tenant.
    pub(crate) tenant: &'a TenantId,
    /// What kind of record, for example `connection`.
    pub(crate) object_type: &'static str,
    /// Which record.
    pub(crate) object_id: &'a str,
    /// Which of its fields.
    pub(crate) field: &'static str,
    /// The version of the row that it is written with; 0 for a record that never changes.
    pub(crate) row_version: u64,
}

impl<'a> Place<'a> {
    /// The credential of a connection, in the row with that version.
    pub(crate) fn of_credential(tenant: &'a TenantId, connection: &'a str, row_version: u64) -> Self {
        Self { tenant, object_type: "connection", object_id: connection, field: "credential", row_version }
    }

    fn associated_data(&self, purpose: &str, key_version: u32) -> Vec<u8> {
        aead::bind(&[
            purpose.as_bytes(),
            MAGIC,
            &[FORMAT],
            &[ALGORITHM],
            self.tenant.as_str().as_bytes(),
            self.object_type.as_bytes(),
            self.object_id.as_bytes(),
            self.field.as_bytes(),
            &key_version.to_be_bytes(),
            &self.row_version.to_be_bytes(),
        ])
    }

    fn damaged(&self) -> VaultError {
        VaultError::Damaged { what: format!("the {} of {} {}", self.field, self.object_type, self.object_id) }
    }
}

/// A tenant key, ready for use. The key itself is not kept, only what is derived from it.
pub(crate) struct TenantKey {
    version: u32,
    wrap: Key,
    check: [u8; 32],
}

impl TenantKey {
    /// Version `version` of `tenant`'s key.
    pub(crate) fn new(tenant: &TenantId, version: u32, key: &Key) -> Self {
        let derive = |label: &str| {
            let info = aead::bind(&[label.as_bytes(), tenant.as_str().as_bytes(), &version.to_be_bytes()]);
            aead::derive(key.as_ref(), &[], &info)
        };
        let wrap = derive("keyward tenant key wraps data keys");
        let check = *derive("keyward tenant key check");
        Self { version, wrap, check }
    }

    /// Its version.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// Seals `plaintext` so that it opens at `place` only.
    pub(crate) fn seal(&self, place: &Place<'_>, plaintext: &[u8]) -> Result<Vec<u8>, VaultError> {
        let data_key = aead::random_key()?;
        let key_aad = place.associated_data("data key", self.version);
        let object_aad = place.associated_data("object", self.version);
        Ok([
            MAGIC.as_slice(),
            &[FORMAT, ALGORITHM],
            &self.version.to_be_bytes(),
            &self.check,
            &aead::seal(&self.wrap, &key_aad, data_key.as_ref())?,
            &aead::seal(&data_key, &object_aad, plaintext)?,
        ]
        .concat())
    }

    /// Opens what was sealed at `place` under this version of the key.
    pub(crate) fn open(&self, place: &Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let damaged = |_| place.damaged();
        let version = key_version(place, sealed)?;
        if version != self.version {
            return Err(VaultError::KeyUnknown { tenant: place.tenant.clone(), version });
        }
        if !bool::from(sealed[CHECK_AT..WRAPPED_AT].ct_eq(&self.check)) {
            return Err(place.damaged());
        }
        let key_aad = place.associated_data("data key", version);
        let data_key = aead::open_key(&self.wrap, &key_aad, &sealed[WRAPPED_AT..OBJECT_AT]).map_err(damaged)?;
        let object_aad = place.associated_data("object", version);
        aead::open(&data_key, &object_aad, &sealed[OBJECT_AT..]).map_err(damaged)
    }
}

/// The version of the tenant key under which `sealed` rests.
pub(crate) fn key_version(place: &Place<'_>, sealed: &[u8]) -> Result<u32, VaultError> {
    if sealed.len() < OBJECT_AT + NONCE + TAG || !sealed.starts_with(MAGIC) {
        return Err(place.damaged());
    }
    if sealed[4] != FORMAT {
        return Err(VaultError::Newer { what: "a sealed object", found: sealed[4], known: FORMAT });
    }
    if sealed[5] != ALGORITHM {
        return Err(VaultError::Newer { what: "the algorithm of a sealed object", found: sealed[5], known: ALGORITHM });
    }
    let mut version = [0; 4];
    version.copy_from_slice(&sealed[VERSION_AT..CHECK_AT]);
    Ok(u32::from_be_bytes(version))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    /// The key 00 01 02 .. 1f.
    fn key(tenant: &TenantId, version: u32) -> TenantKey {
        TenantKey::new(tenant, version, &Key::new(std::array::from_fn(|i| i as u8)))
    }

    #[test]
    fn what_another_implementation_sealed_by_the_specification_opens() {
        let tenant = tenant("default");
        let sealed = hex::decode(
            "4b57534f010100000003b76af5b510bb0e4606098fbe39a8519f8f6623969f90dedb54ab6fa0d297cc48404142434445464748494a\
             4bbce6d95cc66786aceab60db8b4ed69bc3ac95fdbaebcd9d675b4c2b54f6a91d928f75500993b226d219d954e14078e7150515253\
             5455565758595a5bc5c5db66115f1b6c5d617e7f157d137626b9bebbc5b0f2bc1f980b938c2d",
        )
        .unwrap();
        let opened = key(&tenant, 3).open(&Place::of_credential(&tenant, ID, 7), &sealed).unwrap();
        assert_eq!(opened.as_slice(), b"test plaintext");
    }

    #[test]
    fn what_is_sealed_opens_at_its_place() {
        let tenant = tenant("default");
        let place = Place::of_credential(&tenant, ID, 7);
        for plaintext in [b"".as_slice(), b"canary", &[0; 100_000]] {
            let sealed = key(&tenant, 3).seal(&place, plaintext).unwrap();
            assert_eq!(sealed.len(), OBJECT_AT + NONCE + plaintext.len() + TAG);
            assert_eq!(key_version(&place, &sealed).unwrap(), 3);
            assert_eq!(key(&tenant, 3).open(&place, &sealed).unwrap().as_slice(), plaintext);
        }
    }

    #[test]
    fn same_object_never_looks_the_same_twice() {
        let tenant = tenant("default");
        let place = Place::of_credential(&tenant, ID, 7);
        let [a, b] = [(); 2].map(|()| key(&tenant, 3).seal(&place, b"canary").unwrap());
        assert_eq!(a[..WRAPPED_AT], b[..WRAPPED_AT]);
        assert_ne!(a[WRAPPED_AT..OBJECT_AT], b[WRAPPED_AT..OBJECT_AT]);
        assert_ne!(a[OBJECT_AT..], b[OBJECT_AT..]);
    }

    #[test]
    fn object_opens_at_no_other_place() {
        let (tenant, other) = (tenant("default"), tenant("other"));
        let place = Place::of_credential(&tenant, ID, 7);
        let sealed = key(&tenant, 3).seal(&place, b"canary").unwrap();
        for elsewhere in [
            Place { tenant: &other, ..place },
            Place { object_type: "authorization", ..place },
            Place { object_id: "01890a5d-ac96-774b-bcce-b302099a8058", ..place },
            Place { field: "pending", ..place },
            Place { row_version: 6, ..place },
            Place { row_version: 8, ..place },
            // The same bytes with the border between two parts moved.
            Place { object_id: "", field: "01890a5d-ac96-774b-bcce-b302099a8057credential", ..place },
        ] {
            assert!(
                matches!(key(&tenant, 3).open(&elsewhere, &sealed), Err(VaultError::Damaged { .. })),
                "opened at {elsewhere:?}"
            );
        }
    }

    #[test]
    fn object_opens_under_no_other_key() {
        let (tenant, other) = (tenant("default"), tenant("other"));
        let place = Place::of_credential(&tenant, ID, 7);
        let sealed = key(&tenant, 3).seal(&place, b"canary").unwrap();
        let random = TenantKey::new(&tenant, 3, &aead::random_key().unwrap());
        assert!(matches!(random.open(&place, &sealed), Err(VaultError::Damaged { .. })));
        assert!(matches!(key(&other, 3).open(&place, &sealed), Err(VaultError::Damaged { .. })));
        assert!(matches!(key(&tenant, 4).open(&place, &sealed), Err(VaultError::KeyUnknown { version: 3, .. })));
    }

    #[test]
    fn parts_of_two_versions_cannot_be_mixed() {
        let tenant = tenant("default");
        let place = Place::of_credential(&tenant, ID, 7);
        let [a, b] = [b"canary one", b"canary two"].map(|text| key(&tenant, 3).seal(&place, text).unwrap());
        let mixed = [&a[..OBJECT_AT], &b[OBJECT_AT..]].concat();
        assert!(matches!(key(&tenant, 3).open(&place, &mixed), Err(VaultError::Damaged { .. })));
    }

    #[test]
    fn every_altered_byte_and_every_cut_is_noticed() {
        let tenant = tenant("default");
        let place = Place::of_credential(&tenant, ID, 7);
        let sealed = key(&tenant, 3).seal(&place, b"canary").unwrap();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut altered = sealed.clone();
                altered[at] ^= 1 << bit;
                let error = key(&tenant, 3).open(&place, &altered).unwrap_err();
                match at {
                    4 | 5 => assert!(matches!(error, VaultError::Newer { .. }), "{error}"),
                    VERSION_AT..CHECK_AT => assert!(matches!(error, VaultError::KeyUnknown { .. }), "{error}"),
                    _ => assert!(matches!(error, VaultError::Damaged { .. }), "byte {at}: {error}"),
                }
            }
            assert!(matches!(key(&tenant, 3).open(&place, &sealed[..at]), Err(VaultError::Damaged { .. })));
        }
        assert!(key(&tenant, 3).open(&place, &[sealed.as_slice(), &[0]].concat()).is_err());
    }
}
