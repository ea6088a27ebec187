use super::*;
use crate::{
    header,
    secret::Secret,
    testing::{self, KeyFile, MemoryStore, NoWire},
};

fn passphrase(text: &str) -> RootKeySource {
    RootKeySource::Passphrase(Secret::from(text.to_owned()))
}

async fn initialise(store: &MemoryStore, source: &RootKeySource) -> Result<(), VaultError> {
    Vault::initialise(store, source, &TenantId::default(), &Principal::local_administrator()).await
}

async fn unlock(store: &Arc<MemoryStore>, source: &RootKeySource) -> Result<Vault, VaultError> {
    Vault::unlock(store.clone(), source, testing::options(Arc::new(NoWire))).await
}

#[tokio::test]
async fn passphrase_opens_what_it_began_and_another_does_not() {
    let store = Arc::new(MemoryStore::default());
    initialise(&store, &passphrase("test passphrase")).await.unwrap();
    unlock(&store, &passphrase("test passphrase")).await.unwrap();
    let error = unlock(&store, &passphrase("test passphrasf")).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "this is not the key that the vault was initialised with (a passphrase), or the vault's record was altered"
    );
    assert!(error.hint().unwrap().starts_with("check the passphrase"));
}

#[tokio::test]
async fn file_opens_what_it_began_and_another_does_not() {
    let (store, key, other) = (Arc::new(MemoryStore::default()), KeyFile::generate(), KeyFile::generate());
    initialise(&store, &key.source).await.unwrap();
    unlock(&store, &key.source).await.unwrap();
    let error = unlock(&store, &other.source).await.err().unwrap();
    assert!(matches!(error, VaultError::WrongKey { kind: RootKeyKind::File }), "{error}");
    let error = unlock(&store, &passphrase("test passphrase")).await.err().unwrap();
    assert_eq!(error.to_string(), "the vault was initialised with a key file, and a passphrase was given");
}

#[tokio::test]
async fn vault_is_made_once() {
    let (store, key) = (Arc::new(MemoryStore::default()), KeyFile::generate());
    initialise(&store, &key.source).await.unwrap();
    let before = store.tables().vault.clone().unwrap().header;
    assert!(matches!(initialise(&store, &key.source).await, Err(VaultError::AlreadyInitialised)));
    assert_eq!(store.tables().vault.clone().unwrap().header, before);
    assert_eq!(store.audited(), ["initialised"]);
}

#[tokio::test]
async fn weak_passphrase_begins_no_vault() {
    let store = Arc::new(MemoryStore::default());
    for text in ["", "too short"] {
        let error = initialise(&store, &passphrase(text)).await.unwrap_err();
        assert!(matches!(error, VaultError::Passphrase { .. }), "{error}");
    }
    assert!(store.tables().vault.is_none());
}

#[tokio::test]
async fn there_is_nothing_to_unlock_before_the_beginning() {
    let (store, key) = (Arc::new(MemoryStore::default()), KeyFile::generate());
    let error = unlock(&store, &key.source).await.err().unwrap();
    assert!(matches!(error, VaultError::NotInitialised), "{error}");
    assert!(!Vault::status(&*store).await.unwrap().is_initialised());
}

#[tokio::test]
async fn status_is_told_without_a_key() {
    let store = Arc::new(MemoryStore::default());
    initialise(&store, &passphrase("test passphrase")).await.unwrap();
    let status = Vault::status(&*store).await.unwrap();
    let expected = RootKeyStatus { source: RootKeyKind::Passphrase, pbkdf2_iterations: Some(220_000) };
    assert_eq!(status.root_key, Some(expected));
    let keys: Vec<_> = status.keys.iter().map(|key| (key.tenant.as_str(), key.version, key.state)).collect();
    assert_eq!(keys, [("default", 1, TenantKeyState::Active)]);
}

#[tokio::test]
async fn lowered_iterations_are_noticed() {
    let store = Arc::new(MemoryStore::default());
    initialise(&store, &passphrase("test passphrase")).await.unwrap();
    let set = |iterations: u32| {
        store.tables().vault.as_mut().unwrap().header[7..11].copy_from_slice(&iterations.to_be_bytes());
    };
    set(1);
    let error = unlock(&store, &passphrase("test passphrase")).await.err().unwrap();
    assert!(matches!(error, VaultError::WeakDerivation { found: 1, floor: 200_000 }), "{error}");
    set(200_000);
    let error = unlock(&store, &passphrase("test passphrase")).await.err().unwrap();
    assert!(matches!(error, VaultError::WrongKey { .. }), "{error}");
}

#[tokio::test]
async fn database_of_a_newer_version_is_refused_as_such() {
    let (store, key) = (Arc::new(MemoryStore::default()), KeyFile::generate());
    initialise(&store, &key.source).await.unwrap();
    store.tables().keys[0].wrapped[4] = 2;
    assert!(matches!(unlock(&store, &key.source).await, Err(VaultError::Newer { what: "a tenant key", .. })));
    store.tables().vault.as_mut().unwrap().header[4] = 2;
    assert!(matches!(unlock(&store, &key.source).await, Err(VaultError::Newer { what: "the vault's record", .. })));
    assert!(matches!(Vault::status(&*store).await, Err(VaultError::Newer { .. })));
}

#[tokio::test]
async fn tenant_key_of_another_vault_is_not_taken() {
    let (store, other, key) = (Arc::new(MemoryStore::default()), Arc::new(MemoryStore::default()), KeyFile::generate());
    initialise(&store, &key.source).await.unwrap();
    initialise(&other, &key.source).await.unwrap();
    store.tables().keys = other.tables().keys.clone();
    let error = unlock(&store, &key.source).await.err().unwrap();
    assert_eq!(error.to_string(), "key version 1 of tenant default was altered, cut short or moved from another place");
}

#[tokio::test]
async fn no_key_and_no_passphrase_rests_in_the_store() {
    let store = Arc::new(MemoryStore::default());
    initialise(&store, &passphrase("canary passphrase")).await.unwrap();
    let header = store.tables().vault.clone().unwrap().header;
    let parameters = header::Parameters::parse(&header).unwrap();
    let root = passphrase("canary passphrase").root_key(parameters.derivation, &parameters.salt).await.unwrap();
    let unlocked = parameters.open(&header, &root).unwrap();
    let row = store.tables().keys[0].clone();
    let tenant_key = unlocked.open_tenant_key(&row.tenant, row.version, &row.wrapped).unwrap();
    for secret in [b"canary passphrase".as_slice(), root.as_slice(), unlocked.seed.as_slice(), tenant_key.as_slice()] {
        for stored in [&header, &row.wrapped] {
            assert!(!stored.windows(secret.len()).any(|window| window == secret));
        }
    }
}
