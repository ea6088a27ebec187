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
//! version of the tenant key, row version, digest of the open facts)`, where `bind` puts the length of each part
//! (4 bytes) in front of it, and purpose is `data key` for the wrapped key and `object` for the object. So a value
//! that is copied to another row, field or tenant, or put back in its own row after a later write, does not open.
//!
//! **Open facts.** What decides where a credential goes rests beside it and can be read by all, but an altered fact
//! keeps it from opening. For a connection the digest is SHA-256 of `bind(name, provider, method, owner,
//! bind(scopes), bind(endpoints))`: the owner as `kind:id`, empty where it is the organisation; the granted scopes
//! in order; each endpoint's name and its URL, by name. For other objects it is 32 zero bytes.
//!
//! **Key check.** AES-GCM does not commit to its key: one ciphertext can be made that opens under two keys.
//! The key check, HKDF-SHA256 of the tenant key with the info `bind("keyward tenant key check", tenant,
//! version)`, does commit. The key is chosen by its version, its check compared, and no other key is tried.
//!
//! What this does not protect: putting the *whole* database back to an earlier state is not noticed, and
//! the length of an object, its tenant key's version and the open facts beside it can be seen.

use keyward_model::{ConnectionFacts, TenantId};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    aead::{self, KEY, Key, NONCE, TAG},
    error::VaultError,
    store::Sealed,
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
    /// The digest of the open facts beside it, or [`NO_FACTS`].
    pub(crate) facts: [u8; 32],
}

/// In the place of the digest where no open facts are bound.
pub(crate) const NO_FACTS: [u8; 32] = [0; 32];

impl<'a> Place<'a> {
    /// The credential of the connection with these facts and this id, in the row with their version.
    pub(crate) fn of_credential(facts: &'a ConnectionFacts, id: &'a str) -> Self {
        Self {
            tenant: &facts.tenant,
            object_type: "connection",
            object_id: id,
            field: "credential",
            row_version: facts.row_version,
            facts: digest(facts),
        }
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
            &self.facts,
        ])
    }

    fn damaged(&self) -> VaultError {
        VaultError::Damaged { what: format!("the {} of {} {}", self.field, self.object_type, self.object_id) }
    }
}

/// The digest of what decides where a connection's credential goes.
fn digest(facts: &ConnectionFacts) -> [u8; 32] {
    let owner = facts.owner.as_ref().map(ToString::to_string).unwrap_or_default();
    let scopes: Vec<_> = facts.granted_scopes.iter().map(|scope| scope.as_bytes()).collect();
    let endpoints: Vec<_> = facts.endpoints.iter().flat_map(|(name, url)| [name.as_bytes(), url.as_bytes()]).collect();
    let bound = aead::bind(&[
        facts.name.as_str().as_bytes(),
        facts.provider.as_bytes(),
        facts.method.as_bytes(),
        owner.as_bytes(),
        &aead::bind(&scopes),
        &aead::bind(&endpoints),
    ]);
    Sha256::digest(bound).into()
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

    /// Seals `plaintext` so that it opens at `place` only.
    pub(crate) fn seal(&self, place: &Place<'_>, plaintext: &[u8]) -> Result<Sealed, VaultError> {
        let data_key = aead::random_key()?;
        let key_aad = place.associated_data("data key", self.version);
        let object_aad = place.associated_data("object", self.version);
        let bytes = [
            MAGIC.as_slice(),
            &[FORMAT, ALGORITHM],
            &self.version.to_be_bytes(),
            &self.check,
            &aead::seal(&self.wrap, &key_aad, data_key.as_ref())?,
            &aead::seal(&data_key, &object_aad, plaintext)?,
        ]
        .concat();
        Ok(Sealed { key_version: self.version, bytes })
    }

    /// Opens what was sealed at `place` under this version of the key.
    pub(crate) fn open(&self, place: &Place<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let damaged = |_| place.damaged();
        let version = key_version(place, sealed)?;
        let sealed = &sealed.bytes;
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

/// The version of the tenant key under which `sealed` rests, which its bytes and the store must tell alike.
pub(crate) fn key_version(place: &Place<'_>, sealed: &Sealed) -> Result<u32, VaultError> {
    let Sealed { key_version, bytes: sealed } = sealed;
    if sealed.len() < OBJECT_AT + NONCE + TAG || !sealed.starts_with(MAGIC) {
        return Err(place.damaged());
    }
    if sealed[4] != FORMAT {
        return Err(VaultError::Newer { what: "a sealed object", found: sealed[4], known: FORMAT });
    }
    if sealed[5] != ALGORITHM {
        return Err(VaultError::Newer { what: "the algorithm of a sealed object", found: sealed[5], known: ALGORITHM });
    }
    if sealed[VERSION_AT..CHECK_AT] != key_version.to_be_bytes() {
        return Err(place.damaged());
    }
    Ok(*key_version)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use keyward_model::{Principal, PrincipalKind};

    use super::*;
    use crate::testing;

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    /// The connection `work` in its row version 7, with something of each kind of fact.
    fn facts() -> ConnectionFacts {
        ConnectionFacts {
            method: "oauth2".to_owned(),
            owner: Some(Principal { kind: PrincipalKind::User, id: "ada".to_owned() }),
            granted_scopes: ["repo".to_owned(), "read:user".to_owned()].into(),
            endpoints: [("api".to_owned(), "https://git.example.com".to_owned())].into(),
            row_version: 7,
            ..testing::facts("work")
        }
    }

    fn place(tenant: &TenantId) -> Place<'_> {
        Place {
            tenant,
            object_type: "connection",
            object_id: ID,
            field: "credential",
            row_version: 7,
            facts: digest(&facts()),
        }
    }

    fn altered(sealed: &Sealed, alter: impl FnOnce(&mut Vec<u8>)) -> Sealed {
        let mut altered = sealed.clone();
        alter(&mut altered.bytes);
        altered
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
             4bbce6d95cc66786aceab60db8b4ed69bc3ac95fdbaebcd9d675b4c2b54f6a91d90ee322a3a10156afec78b7f3ffd5ad6b50515253\
             5455565758595a5bc5c5db66115f1b6c5d617e7f157d7da6b8b1c655a782d791336b9e4724bd",
        )
        .unwrap();
        let sealed = Sealed { key_version: 3, bytes: sealed };
        let opened = key(&tenant, 3).open(&Place::of_credential(&facts(), ID), &sealed).unwrap();
        assert_eq!(opened.as_slice(), b"test plaintext");
    }

    #[test]
    fn what_is_sealed_opens_at_its_place() {
        let tenant = tenant("default");
        let place = place(&tenant);
        for plaintext in [b"".as_slice(), b"canary", &[0; 100_000]] {
            let sealed = key(&tenant, 3).seal(&place, plaintext).unwrap();
            assert_eq!(sealed.bytes.len(), OBJECT_AT + NONCE + plaintext.len() + TAG);
            assert_eq!(key_version(&place, &sealed).unwrap(), 3);
            assert_eq!(key(&tenant, 3).open(&place, &sealed).unwrap().as_slice(), plaintext);
        }
    }

    #[test]
    fn same_object_never_looks_the_same_twice() {
        let tenant = tenant("default");
        let place = place(&tenant);
        let [a, b] = [(); 2].map(|()| key(&tenant, 3).seal(&place, b"canary").unwrap().bytes);
        assert_eq!(a[..WRAPPED_AT], b[..WRAPPED_AT]);
        assert_ne!(a[WRAPPED_AT..OBJECT_AT], b[WRAPPED_AT..OBJECT_AT]);
        assert_ne!(a[OBJECT_AT..], b[OBJECT_AT..]);
    }

    #[test]
    fn object_opens_at_no_other_place() {
        let (tenant, other) = (tenant("default"), tenant("other"));
        let place = place(&tenant);
        let sealed = key(&tenant, 3).seal(&place, b"canary").unwrap();
        for elsewhere in [
            Place { tenant: &other, ..place },
            Place { object_type: "authorization", ..place },
            Place { object_id: "01890a5d-ac96-774b-bcce-b302099a8058", ..place },
            Place { field: "pending", ..place },
            Place { row_version: 6, ..place },
            Place { row_version: 8, ..place },
            Place { facts: NO_FACTS, ..place },
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
    fn credential_opens_beside_no_altered_fact_that_decides_where_it_goes() {
        let sealed = key(&tenant("default"), 3).seal(&Place::of_credential(&facts(), ID), b"canary").unwrap();
        type Alteration = fn(&mut ConnectionFacts);
        let alterations: [(&str, Alteration); 10] = [
            ("name", |facts| facts.name = "other".parse().unwrap()),
            ("provider", |facts| facts.provider = "http".to_owned()),
            ("method", |facts| facts.method = "basic".to_owned()),
            ("no owner", |facts| facts.owner = None),
            ("another owner", |facts| facts.owner.as_mut().unwrap().id = "eve".to_owned()),
            ("a scope more", |facts| _ = facts.granted_scopes.insert("admin".to_owned())),
            ("a scope less", |facts| _ = facts.granted_scopes.pop_last()),
            ("an endpoint's URL", |facts| *facts.endpoints.get_mut("api").unwrap() = "https://evil.example".to_owned()),
            ("an endpoint more", |facts| _ = facts.endpoints.insert("z".to_owned(), "https://evil.example".to_owned())),
            ("no endpoint", |facts| facts.endpoints.clear()),
        ];
        for (what, alter) in alterations {
            let mut altered = facts();
            alter(&mut altered);
            let result = key(&altered.tenant, 3).open(&Place::of_credential(&altered, ID), &sealed);
            assert!(matches!(result, Err(VaultError::Damaged { .. })), "opened beside {what}");
        }
    }

    #[test]
    fn store_that_names_another_key_than_the_bytes_is_damaged() {
        let tenant = tenant("default");
        let mut sealed = key(&tenant, 3).seal(&place(&tenant), b"canary").unwrap();
        sealed.key_version = 4;
        for version in [3, 4] {
            let result = key(&tenant, version).open(&place(&tenant), &sealed);
            assert!(matches!(result, Err(VaultError::Damaged { .. })));
        }
    }

    #[test]
    fn object_opens_under_no_other_key() {
        let (tenant, other) = (tenant("default"), tenant("other"));
        let place = place(&tenant);
        let sealed = key(&tenant, 3).seal(&place, b"canary").unwrap();
        let random = TenantKey::new(&tenant, 3, &aead::random_key().unwrap());
        assert!(matches!(random.open(&place, &sealed), Err(VaultError::Damaged { .. })));
        assert!(matches!(key(&other, 3).open(&place, &sealed), Err(VaultError::Damaged { .. })));
        assert!(matches!(key(&tenant, 4).open(&place, &sealed), Err(VaultError::KeyUnknown { version: 3, .. })));
    }

    #[test]
    fn parts_of_two_versions_cannot_be_mixed() {
        let tenant = tenant("default");
        let place = place(&tenant);
        let [a, b] = [b"canary one", b"canary two"].map(|text| key(&tenant, 3).seal(&place, text).unwrap());
        let mixed = Sealed { key_version: 3, bytes: [&a.bytes[..OBJECT_AT], &b.bytes[OBJECT_AT..]].concat() };
        assert!(matches!(key(&tenant, 3).open(&place, &mixed), Err(VaultError::Damaged { .. })));
    }

    #[test]
    fn every_altered_byte_and_every_cut_is_noticed() {
        let tenant = tenant("default");
        let place = place(&tenant);
        let sealed = key(&tenant, 3).seal(&place, b"canary").unwrap();
        for at in 0..sealed.bytes.len() {
            for bit in 0..8 {
                let altered = altered(&sealed, |bytes| bytes[at] ^= 1 << bit);
                let error = key(&tenant, 3).open(&place, &altered).unwrap_err();
                match at {
                    4 | 5 => assert!(matches!(error, VaultError::Newer { .. }), "{error}"),
                    _ => assert!(matches!(error, VaultError::Damaged { .. }), "byte {at}: {error}"),
                }
            }
            let cut = altered(&sealed, |bytes| bytes.truncate(at));
            assert!(matches!(key(&tenant, 3).open(&place, &cut), Err(VaultError::Damaged { .. })));
        }
        assert!(key(&tenant, 3).open(&place, &altered(&sealed, |bytes| bytes.push(0))).is_err());
    }
}
