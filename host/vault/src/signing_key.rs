//! Private keys that sign.
//!
//! A key comes in as PEM: PKCS#8 (RFC 5958), PKCS#1 (RFC 8017 appendix A.1.2) or SEC 1 (RFC 5915). What it can sign with
//! is known from the key itself. It rests as PKCS#8.

use std::fmt;

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
        RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use keyward_model::manifest::JwtAlgorithm;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{connect::ConnectionError, credential::text, secret::Secret};

/// A private key, and what it can sign with.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    family: Family,
    /// PKCS#8 in base64.
    #[serde(with = "text")]
    pkcs8: Secret,
}

/// The kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Family {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl SigningKey {
    /// Reads a private key in PEM: RSA of 2,048 to 8,192 bits, P-256, P-384 or Ed25519.
    ///
    /// # Errors
    /// [`ConnectionError::Unsuitable`] where it is no such key, is encrypted, or its parts do not belong together.
    pub fn read(pem: &Secret) -> Result<Self, ConnectionError> {
        let pem = pem.expose();
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| refusal(pem))?;
        let found = match &der {
            PrivateKeyDer::Pkcs1(key) => rsa(RsaKeyPair::from_der(key.secret_pkcs1_der()).ok()),
            PrivateKeyDer::Sec1(key) => ecdsa(key.secret_sec1_der()),
            PrivateKeyDer::Pkcs8(key) => {
                let key = key.secret_pkcs8_der();
                rsa(RsaKeyPair::from_pkcs8(key).ok()).or_else(|| ecdsa(key)).or_else(|| {
                    let read = Ed25519KeyPair::from_pkcs8(key).is_ok();
                    read.then(|| (Family::Ed25519, Zeroizing::new(key.to_vec())))
                })
            }
            _ => None,
        };
        let (family, pkcs8) = found.ok_or_else(|| {
            let hint = "use an RSA key of 2048 to 8192 bits, or one on P-256, P-384 or Ed25519";
            unsuitable("the private key is damaged or of a kind that is not known", hint)
        })?;
        Ok(Self { family, pkcs8: Secret::from(STANDARD.encode(&pkcs8)) })
    }

    /// What it is, for people.
    pub fn kind(&self) -> &'static str {
        match self.family {
            Family::Rsa => "an RSA key",
            Family::P256 => "a key on P-256",
            Family::P384 => "a key on P-384",
            Family::Ed25519 => "a key on Ed25519",
        }
    }

    /// Whether it can sign so.
    pub fn fits(&self, algorithm: JwtAlgorithm) -> bool {
        use JwtAlgorithm::{EdDsa, Es256, Es384, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        match algorithm {
            Hs256 | Hs384 | Hs512 => false,
            Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512 => self.family == Family::Rsa,
            Es256 => self.family == Family::P256,
            Es384 => self.family == Family::P384,
            EdDsa => self.family == Family::Ed25519,
        }
    }

    /// The signature of `message` by RFC 7518 and RFC 8037; `None` where the key cannot make one.
    pub(crate) fn sign(&self, algorithm: JwtAlgorithm, message: &[u8]) -> Option<Vec<u8>> {
        use JwtAlgorithm::{EdDsa, Es256, Es384, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        if !self.fits(algorithm) {
            return None;
        }
        let pkcs8 = Zeroizing::new(STANDARD.decode(self.pkcs8.expose()).ok()?);
        let with_rsa = |padding: &'static dyn RsaEncoding| {
            let key = RsaKeyPair::from_pkcs8(&pkcs8).ok()?;
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(padding, &SystemRandom::new(), message, &mut signature).ok()?;
            Some(signature)
        };
        let with_ecdsa = |algorithm: &'static EcdsaSigningAlgorithm| {
            let key = EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8).ok()?;
            Some(key.sign(&SystemRandom::new(), message).ok()?.as_ref().to_vec())
        };
        match algorithm {
            Rs256 => with_rsa(&RSA_PKCS1_SHA256),
            Rs384 => with_rsa(&RSA_PKCS1_SHA384),
            Rs512 => with_rsa(&RSA_PKCS1_SHA512),
            Ps256 => with_rsa(&RSA_PSS_SHA256),
            Ps384 => with_rsa(&RSA_PSS_SHA384),
            Ps512 => with_rsa(&RSA_PSS_SHA512),
            Es256 => with_ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
            Es384 => with_ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
            EdDsa => Some(Ed25519KeyPair::from_pkcs8(&pkcs8).ok()?.sign(message).as_ref().to_vec()),
            Hs256 | Hs384 | Hs512 => None,
        }
    }

    pub(crate) fn duplicate(&self) -> Self {
        Self { family: self.family, pkcs8: self.pkcs8.duplicate() }
    }

    /// What names the key, for a keyed fingerprint.
    pub(crate) fn secret(&self) -> &Secret {
        &self.pkcs8
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("family", &self.family).finish_non_exhaustive()
    }
}

type Found = (Family, Zeroizing<Vec<u8>>);

fn rsa(key: Option<RsaKeyPair>) -> Option<Found> {
    let pkcs8 = key?.as_der().ok()?;
    Some((Family::Rsa, Zeroizing::new(pkcs8.as_ref().to_vec())))
}

fn ecdsa(der: &[u8]) -> Option<Found> {
    let on = |algorithm| EcdsaKeyPair::from_private_key_der(algorithm, der).ok()?.to_pkcs8v1().ok();
    let (family, pkcs8) = match on(&ECDSA_P256_SHA256_FIXED_SIGNING) {
        Some(pkcs8) => (Family::P256, pkcs8),
        None => (Family::P384, on(&ECDSA_P384_SHA384_FIXED_SIGNING)?),
    };
    Some((family, Zeroizing::new(pkcs8.as_ref().to_vec())))
}

/// Why the text holds no private key.
fn refusal(pem: &[u8]) -> ConnectionError {
    let text = String::from_utf8_lossy(pem);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return unsuitable("the private key is encrypted", "decrypt it with `openssl pkey`, and delete the copy after");
    }
    if text.contains("BEGIN PUBLIC KEY") || text.contains("BEGIN CERTIFICATE") {
        return unsuitable("the file has a public key or a certificate", "give the private key that belongs to it");
    }
    let hint = "give the whole file with `-----BEGIN PRIVATE KEY-----`, RSA PRIVATE KEY or EC PRIVATE KEY";
    unsuitable("the file has no private key in PEM", hint)
}

fn unsuitable(message: &str, hint: &str) -> ConnectionError {
    ConnectionError::Unsuitable { message: message.to_owned(), hint: Some(hint.to_owned()) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod tests {
    use aws_lc_rs::{
        encoding::EcPrivateKeyRfc5915Der,
        rsa::KeySize,
        signature::{
            ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, KeyPair, RSA_PKCS1_2048_8192_SHA256,
            RSA_PSS_2048_8192_SHA384, UnparsedPublicKey, VerificationAlgorithm,
        },
    };
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> Secret {
        let body: Vec<_> =
            STANDARD.encode(der).as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        Secret::from(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", body.join("\n")))
    }

    /// The key of RFC 8037 appendix A.1.
    pub(crate) fn ed25519() -> SigningKey {
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let der = [&hex::decode("302e020100300506032b657004220420").unwrap()[..], &seed].concat();
        SigningKey::read(&pem("PRIVATE KEY", &der)).unwrap()
    }

    /// RFC 8037 appendix A.4.
    #[test]
    fn example_of_rfc_8037_is_met() {
        let signature =
            ed25519().sign(JwtAlgorithm::EdDsa, b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc");
        let expected = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        assert_eq!(URL_SAFE_NO_PAD.encode(signature.unwrap()), expected);
    }

    fn is_by(public: &[u8], verification: &'static dyn VerificationAlgorithm, signature: Option<Vec<u8>>) -> bool {
        UnparsedPublicKey::new(verification, public).verify(b"message", &signature.unwrap()).is_ok()
    }

    #[test]
    fn each_key_signs_with_its_own_algorithms_alone() {
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let key = SigningKey::read(&pem("PRIVATE KEY", rsa.as_der().unwrap().as_ref())).unwrap();
        let public = rsa.public_key().as_ref();
        assert!(is_by(public, &RSA_PKCS1_2048_8192_SHA256, key.sign(JwtAlgorithm::Rs256, b"message")));
        assert!(is_by(public, &RSA_PSS_2048_8192_SHA384, key.sign(JwtAlgorithm::Ps384, b"message")));

        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let sec1: EcPrivateKeyRfc5915Der<'_> = p256.private_key().as_der().unwrap();
        for pem in [pem("EC PRIVATE KEY", sec1.as_ref()), pem("PRIVATE KEY", p256.to_pkcs8v1().unwrap().as_ref())] {
            let key = SigningKey::read(&pem).unwrap();
            let signature = key.sign(JwtAlgorithm::Es256, b"message");
            assert!(is_by(p256.public_key().as_ref(), &ECDSA_P256_SHA256_FIXED, signature));
            assert!(key.sign(JwtAlgorithm::Es384, b"message").is_none());
        }
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let wide = SigningKey::read(&pem("PRIVATE KEY", p384.to_pkcs8v1().unwrap().as_ref())).unwrap();
        let signature = wide.sign(JwtAlgorithm::Es384, b"message");
        assert!(is_by(p384.public_key().as_ref(), &ECDSA_P384_SHA384_FIXED, signature));

        for (key, own) in [(&key, "RPS"), (&wide, "ES3"), (&ed25519(), "Ed")] {
            for (name, algorithm) in JwtAlgorithm::ALL {
                let is_own = match own {
                    "RPS" => name.starts_with("RS") || name.starts_with("PS"),
                    own => name.starts_with(own),
                };
                assert_eq!(key.fits(*algorithm), is_own, "{} {name}", key.kind());
            }
        }
        assert!(!format!("{key:?}").contains(key.pkcs8.expose_str().unwrap()));
    }

    #[test]
    fn what_is_no_private_key_is_told_from_what_is() {
        let message = |text: &str| match SigningKey::read(&Secret::from(text.to_owned())).unwrap_err() {
            ConnectionError::Unsuitable { message, .. } => message,
            other => panic!("{other:?}"),
        };
        let block = |label: &str| format!("-----BEGIN {label}-----\nMAA=\n-----END {label}-----\n");
        assert_eq!(message("canary-key"), "the file has no private key in PEM");
        assert_eq!(message(&block("ENCRYPTED PRIVATE KEY")), "the private key is encrypted");
        assert_eq!(message(&block("PUBLIC KEY")), "the file has a public key or a certificate");
        for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
            assert_eq!(message(&block(label)), "the private key is damaged or of a kind that is not known", "{label}");
        }
    }
}
