//! The vault's record: how the root key is derived, and the proof that a key is the right one.
//!
//! Byte by byte (numbers are big endian):
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic `KWVH` |
//! | 4 | 1 | format, 1 |
//! | 5 | 1 | source of the root key: 1 passphrase, 2 file, 3 environment |
//! | 6 | 1 | derivation: 0 the source is the key, 1 PBKDF2-HMAC-SHA512 |
//! | 7 | 4 | iterations; 0 where there are none |
//! | 11 | 32 | salt, random |
//! | 43 | 12 | nonce of the seed |
//! | 55 | 32 + 16 | seed, encrypted with AES-256-GCM, and its tag; associated data: bytes 0 to 43 |
//! | 103 | 32 | canary: HMAC-SHA256 of bytes 0 to 103 |
//!
//! Two keys are derived from the root key by HKDF-SHA256 with the salt: `keyward root key wraps` (for the
//! seed and the tenant keys) and `keyward root key canary`. A wrong root key, and any altered byte of the
//! record, shows in the canary before anything is opened with the key. The *seed* is a random key that stays
//! the same for ever: fingerprints are made with keys derived from it, so they last through a new root key
//! and new tenant keys.
//!
//! A tenant key rests as `KWTK`, format 1, algorithm 1 (AES-256-GCM), nonce (12), key (32), tag (16), with
//! the associated data `bind("tenant key", magic, format, algorithm, tenant, version)`.

use keyward_model::TenantId;
use subtle::ConstantTimeEq;

use crate::{
    aead::{self, KEY, Key, NONCE, TAG},
    error::VaultError,
    root::{Derivation, ITERATIONS_CEILING, ITERATIONS_FLOOR, RootKeyKind, RootKeySource, SALT},
};

const MAGIC: &[u8; 4] = b"KWVH";
const FORMAT: u8 = 1;
const SALT_AT: usize = 11;
const SEED_AT: usize = SALT_AT + SALT;
const CANARY_AT: usize = SEED_AT + NONCE + KEY + TAG;
const LENGTH: usize = CANARY_AT + 32;

const TENANT_KEY_MAGIC: &[u8; 4] = b"KWTK";
const TENANT_KEY_HEAD: [u8; 2] = [FORMAT, 1];

/// What the record says without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub(crate) source: RootKeyKind,
    pub(crate) derivation: Derivation,
    pub(crate) salt: [u8; SALT],
}

/// What the root key opens.
pub(crate) struct Unlocked {
    wrap: Key,
    pub(crate) seed: Key,
}

impl Parameters {
    /// Those of a new record for `source`.
    pub(crate) fn fresh(source: &RootKeySource) -> Result<Self, VaultError> {
        let mut salt = [0; SALT];
        aead::fill_random(&mut salt)?;
        Ok(Self { source: source.kind(), derivation: source.derivation(), salt })
    }

    /// Reads them, and refuses what we would not have written.
    pub(crate) fn parse(header: &[u8]) -> Result<Self, VaultError> {
        let damaged = || VaultError::Damaged { what: "the vault's record".to_owned() };
        if header.len() < 5 || !header.starts_with(MAGIC) {
            return Err(damaged());
        }
        if header[4] != FORMAT {
            return Err(VaultError::Newer { what: "the vault's record", found: header[4], known: FORMAT });
        }
        if header.len() != LENGTH {
            return Err(damaged());
        }
        let source = match header[5] {
            1 => RootKeyKind::Passphrase,
            2 => RootKeyKind::File,
            3 => RootKeyKind::Env,
            _ => return Err(damaged()),
        };
        let iterations = u32::from_be_bytes([header[7], header[8], header[9], header[10]]);
        let derivation = match (source, header[6]) {
            (RootKeyKind::Passphrase, 1) if iterations < ITERATIONS_FLOOR => {
                return Err(VaultError::WeakDerivation { found: iterations, floor: ITERATIONS_FLOOR });
            }
            (RootKeyKind::Passphrase, 1) if iterations <= ITERATIONS_CEILING => Derivation::Pbkdf2 { iterations },
            (RootKeyKind::File | RootKeyKind::Env, 0) if iterations == 0 => Derivation::Direct,
            _ => return Err(damaged()),
        };
        let mut salt = [0; SALT];
        salt.copy_from_slice(&header[SALT_AT..SEED_AT]);
        Ok(Self { source, derivation, salt })
    }

    fn bytes(&self) -> Vec<u8> {
        let source = match self.source {
            RootKeyKind::Passphrase => 1,
            RootKeyKind::File => 2,
            RootKeyKind::Env => 3,
        };
        let (derivation, iterations) = match self.derivation {
            Derivation::Direct => (0, 0),
            Derivation::Pbkdf2 { iterations } => (1, iterations),
        };
        [MAGIC.as_slice(), &[FORMAT, source, derivation], &iterations.to_be_bytes(), &self.salt].concat()
    }

    fn keys(&self, root: &Key) -> (Key, Key) {
        let wrap = aead::derive(root.as_ref(), &self.salt, b"keyward root key wraps");
        let canary = aead::derive(root.as_ref(), &self.salt, b"keyward root key canary");
        (wrap, canary)
    }

    /// The whole record, with `seed` in it.
    pub(crate) fn write(&self, root: &Key, seed: &Key) -> Result<(Vec<u8>, Unlocked), VaultError> {
        let (wrap, canary) = self.keys(root);
        let mut header = self.bytes();
        let sealed = aead::seal(&wrap, &header, seed.as_ref())?;
        header.extend_from_slice(&sealed);
        let mac = aead::mac(&canary, &header);
        header.extend_from_slice(&mac);
        Ok((header, Unlocked { wrap, seed: seed.clone() }))
    }

    /// Opens the record `header`, whose parameters these are.
    pub(crate) fn open(&self, header: &[u8], root: &Key) -> Result<Unlocked, VaultError> {
        let (wrap, canary) = self.keys(root);
        let wrong = || VaultError::WrongKey { kind: self.source };
        if !bool::from(aead::mac(&canary, &header[..CANARY_AT]).ct_eq(&header[CANARY_AT..])) {
            return Err(wrong());
        }
        let seed = aead::open_key(&wrap, &header[..SEED_AT], &header[SEED_AT..CANARY_AT]).map_err(|_| wrong())?;
        Ok(Unlocked { wrap, seed })
    }
}

impl Unlocked {
    /// Wraps a tenant key for the database.
    pub(crate) fn wrap_tenant_key(&self, tenant: &TenantId, version: u32, key: &Key) -> Result<Vec<u8>, VaultError> {
        let sealed = aead::seal(&self.wrap, &tenant_key_data(tenant, version), key.as_ref())?;
        Ok([TENANT_KEY_MAGIC.as_slice(), &TENANT_KEY_HEAD, &sealed].concat())
    }

    /// Opens a wrapped tenant key.
    pub(crate) fn open_tenant_key(&self, tenant: &TenantId, version: u32, wrapped: &[u8]) -> Result<Key, VaultError> {
        let damaged = || VaultError::KeyDamaged { tenant: tenant.clone(), version };
        let rest = wrapped.strip_prefix(TENANT_KEY_MAGIC).ok_or_else(damaged)?;
        let (head, sealed) = rest.split_first_chunk::<2>().ok_or_else(damaged)?;
        if *head != TENANT_KEY_HEAD {
            return Err(VaultError::Newer { what: "a tenant key", found: head[0].max(head[1]), known: FORMAT });
        }
        aead::open_key(&self.wrap, &tenant_key_data(tenant, version), sealed).map_err(|_| damaged())
    }
}

fn tenant_key_data(tenant: &TenantId, version: u32) -> Vec<u8> {
    aead::bind(&[b"tenant key", TENANT_KEY_MAGIC, &TENANT_KEY_HEAD, tenant.as_str().as_bytes(), &version.to_be_bytes()])
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// 32 bytes that count up from `first`.
    fn counted(first: u8) -> Key {
        Key::new(std::array::from_fn(|i| first + i as u8))
    }

    /// Written by another implementation: root key 60.., salt 80.., seed a0.., nonce c0...
    fn written() -> Vec<u8> {
        hex::decode(
            "4b57564801020000000000808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fc0c1c2c3c4c5c6c7c8c9\
             cacb0f21fb298f726a00978a5d5f29b2c1022d45b8510a5c6a2cf75d99046240ef640d3838d5d96fc39cbac2ac5ecdc37abd2785ce\
             af78d8cd3493dcab56ded58d6b21564f2d841292a14a3979427e2018c9",
        )
        .unwrap()
    }

    fn passphrase(iterations: u32) -> Parameters {
        Parameters {
            source: RootKeyKind::Passphrase,
            derivation: Derivation::Pbkdf2 { iterations },
            salt: *counted(0x80),
        }
    }

    fn record(parameters: &Parameters) -> Vec<u8> {
        parameters.write(&counted(0x60), &counted(0xa0)).unwrap().0
    }

    #[test]
    fn what_another_implementation_wrote_by_the_specification_opens() {
        let header = written();
        let parameters = Parameters::parse(&header).unwrap();
        assert_eq!((parameters.source, parameters.derivation), (RootKeyKind::File, Derivation::Direct));
        let unlocked = parameters.open(&header, &counted(0x60)).unwrap();
        assert_eq!(unlocked.seed, counted(0xa0));
        let wrapped = hex::decode(
            "4b57544b0101d0d1d2d3d4d5d6d7d8d9dadb58294a74854323e644fd22dfc92a4b1469d409bf6ec1a45d34bd77c0526a7315c37a01\
             cff097c1ee9a49c20e2756c4bf",
        )
        .unwrap();
        let key = unlocked.open_tenant_key(&TenantId::default(), 3, &wrapped).unwrap();
        assert_eq!(key, counted(0x00));
    }

    #[test]
    fn record_reads_back_as_written() {
        let direct = |source| Parameters { source, derivation: Derivation::Direct, salt: *counted(1) };
        for parameters in [passphrase(220_000), direct(RootKeyKind::File), direct(RootKeyKind::Env)] {
            let (root, seed) = (counted(0x60), counted(0xa0));
            let (header, unlocked) = parameters.write(&root, &seed).unwrap();
            assert_eq!(Parameters::parse(&header).unwrap(), parameters);
            let again = parameters.open(&header, &root).unwrap();
            assert_eq!(again.seed, seed);
            assert_eq!(again.wrap, unlocked.wrap);
        }
    }

    #[test]
    fn wrong_key_is_told_from_a_right_one() {
        let header = record(&passphrase(220_000));
        let error = passphrase(220_000).open(&header, &counted(0x61)).err().unwrap();
        assert!(matches!(error, VaultError::WrongKey { kind: RootKeyKind::Passphrase }), "{error}");
    }

    #[test]
    fn every_altered_byte_and_every_cut_is_noticed() {
        let header = record(&passphrase(220_000));
        for at in 0..header.len() {
            for bit in 0..8 {
                let mut altered = header.clone();
                altered[at] ^= 1 << bit;
                let opened =
                    Parameters::parse(&altered).and_then(|parameters| parameters.open(&altered, &counted(0x60)));
                assert!(opened.is_err(), "bit {bit} of byte {at} went unnoticed");
            }
            assert!(Parameters::parse(&header[..at]).is_err());
        }
        assert!(Parameters::parse(&[header.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn too_few_iterations_are_refused_before_anything_is_derived() {
        let error = Parameters::parse(&record(&passphrase(199_999))).unwrap_err();
        assert!(matches!(error, VaultError::WeakDerivation { found: 199_999, floor: 200_000 }), "{error}");
        assert!(Parameters::parse(&record(&passphrase(200_000))).is_ok());
        assert!(Parameters::parse(&record(&passphrase(u32::MAX))).is_err());
    }

    #[test]
    fn newer_format_is_told_as_such() {
        let mut header = written();
        header[4] = 2;
        // A newer record may have another length.
        header.push(0);
        let error = Parameters::parse(&header).unwrap_err();
        assert!(matches!(error, VaultError::Newer { found: 2, known: 1, .. }), "{error}");
        assert!(error.hint().unwrap().contains("newer"));
    }

    #[test]
    fn tenant_key_opens_for_its_tenant_and_version_only() {
        let (_, root) = passphrase(220_000).write(&counted(0x60), &counted(0xa0)).unwrap();
        let (tenant, other) = (TenantId::default(), "other".parse().unwrap());
        let wrapped = root.wrap_tenant_key(&tenant, 3, &counted(0)).unwrap();
        assert_eq!(root.open_tenant_key(&tenant, 3, &wrapped).unwrap(), counted(0));
        assert!(root.open_tenant_key(&tenant, 4, &wrapped).is_err());
        assert!(root.open_tenant_key(&other, 3, &wrapped).is_err());
        for at in 0..wrapped.len() {
            let mut altered = wrapped.clone();
            altered[at] ^= 1;
            assert!(root.open_tenant_key(&tenant, 3, &altered).is_err(), "byte {at}");
            assert!(root.open_tenant_key(&tenant, 3, &wrapped[..at]).is_err());
        }
    }
}
