//! Installing, finding and removing connectors.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use keyward_model::{
    ActionRef, AuditEvent, AuditRecord, ConnectorName, Digest, Principal, TenantId, manifest::Manifest,
};
use keyward_registry::{Installed, PluginStore, Registry, RegistryError, StoreError, artifact, parse_manifest};
use tempfile::TempDir;
use wasm_encoder::Component;

#[derive(Default)]
struct Memory(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    installed: BTreeMap<(String, String), Installed>,
    audit: Vec<AuditRecord>,
    full: bool,
}

fn key(tenant: &TenantId, name: &ConnectorName) -> (String, String) {
    (tenant.to_string(), name.to_string())
}

#[async_trait]
impl PluginStore for Memory {
    async fn installed(&self, tenant: &TenantId) -> Result<Vec<Installed>, StoreError> {
        let tables = self.0.lock().unwrap();
        Ok(tables.installed.values().filter(|installed| installed.tenant == *tenant).cloned().collect())
    }

    async fn find(&self, tenant: &TenantId, name: &ConnectorName) -> Result<Option<Installed>, StoreError> {
        Ok(self.0.lock().unwrap().installed.get(&key(tenant, name)).cloned())
    }

    async fn put(&self, seen: Option<&Digest>, installed: &Installed, audit: &AuditRecord) -> Result<(), StoreError> {
        let mut tables = self.0.lock().unwrap();
        if tables.full {
            return Err(StoreError::DiskFull);
        }
        let key = key(&installed.tenant, &installed.connector.name);
        if tables.installed.get(&key).map(|there| there.connector.digest).as_ref() != seen {
            return Err(StoreError::Conflict);
        }
        tables.installed.insert(key, installed.clone());
        tables.audit.push(audit.clone());
        Ok(())
    }

    async fn remove(&self, tenant: &TenantId, name: &ConnectorName, audit: &AuditRecord) -> Result<bool, StoreError> {
        let mut tables = self.0.lock().unwrap();
        let removed = tables.installed.remove(&key(tenant, name)).is_some();
        tables.audit.push(audit.clone());
        Ok(removed)
    }

    async fn components(&self) -> Result<BTreeSet<Digest>, StoreError> {
        Ok(self.0.lock().unwrap().installed.values().map(|installed| installed.connector.digest).collect())
    }
}

struct World {
    store: Arc<Memory>,
    folder: TempDir,
    registry: Registry,
    tenant: TenantId,
    principal: Principal,
}

fn world() -> World {
    let store = Arc::new(Memory::default());
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::new(store.clone(), folder.path().join("connectors"));
    World { store, folder, registry, tenant: TenantId::default(), principal: Principal::local_administrator() }
}

/// A connector `github` of that version.
fn connector(version: &str) -> Vec<u8> {
    changed_connector(version, |_| {})
}

fn changed_connector(version: &str, change: impl FnOnce(&mut Manifest)) -> Vec<u8> {
    let mut manifest = parse_manifest(include_str!("../src/manifest/example.toml")).unwrap();
    manifest.version = version.to_owned();
    change(&mut manifest);
    artifact::embed(&Component::new().finish(), &manifest).unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.file_name() != "lock" {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
    found
}

impl World {
    async fn install(&self, tenant: &TenantId, version: &str) -> Installed {
        let proposal = self.registry.propose(tenant, connector(version)).await.unwrap();
        self.registry.accept(proposal, &self.principal).await.unwrap()
    }

    async fn find(&self, action: &str) -> Result<String, RegistryError> {
        let action: ActionRef = action.parse().unwrap();
        self.registry.find(&self.tenant, &action).await.map(|(_, action)| action.title)
    }

    fn changes(&self) -> Vec<String> {
        let change = |record: &AuditRecord| match &record.event {
            AuditEvent::Consent { change } => {
                format!("{change} {}", record.connector.as_ref().unwrap().version)
            }
            other => panic!("{other:?}"),
        };
        self.store.0.lock().unwrap().audit.iter().map(change).collect()
    }
}

#[tokio::test]
async fn what_is_accepted_is_on_disk_under_its_digest_and_recorded_with_the_consent() {
    let world = world();
    let bytes = connector("0.1.0");
    let proposal = world.registry.propose(&world.tenant, bytes.clone()).await.unwrap();
    assert_eq!(proposal.difference, None);
    assert_eq!(proposal.connector.digest, artifact::digest(&bytes));
    assert!(!world.folder.path().join("connectors").exists(), "a proposal keeps nothing");

    let installed = world.registry.accept(proposal, &world.principal).await.unwrap();
    let path = world.registry.component_path(&installed.connector.digest);
    let hex = hex::encode(artifact::digest(&bytes).as_bytes());
    assert!(path.ends_with(format!("{}/{hex}.wasm", &hex[..2])));
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(fs::metadata(&path).unwrap().permissions().readonly());
    assert_eq!(installed.consented_by, world.principal);
    assert_eq!(world.registry.installed(&world.tenant).await.unwrap(), [installed]);
    assert_eq!(world.changes(), ["added 0.1.0"]);
    assert_eq!(files(world.folder.path()).len(), 1, "nothing is left over");
}

#[tokio::test]
async fn an_upgrade_is_shown_as_a_difference_and_replaces() {
    let world = world();
    let old = world.install(&world.tenant, "0.1.0").await;
    let proposal = world.registry.propose(&world.tenant, connector("0.2.0")).await.unwrap();
    let difference = proposal.difference.clone().unwrap();
    assert_eq!(difference.from, old.connector);
    assert_eq!(difference.changed, ["version 0.1.0 → 0.2.0"]);
    assert!(!difference.widens);
    world.registry.accept(proposal, &world.principal).await.unwrap();
    let installed = world.registry.installed(&world.tenant).await.unwrap();
    assert_eq!(installed.iter().map(|one| one.connector.version.as_str()).collect::<Vec<_>>(), ["0.2.0"]);
    assert_eq!(world.changes(), ["added 0.1.0", "upgraded 0.2.0"]);
}

#[tokio::test]
async fn consent_to_a_difference_that_no_longer_holds_is_not_taken() {
    let world = world();
    let first = world.registry.propose(&world.tenant, connector("0.1.0")).await.unwrap();
    let second = world.registry.propose(&world.tenant, connector("0.2.0")).await.unwrap();
    world.registry.accept(first, &world.principal).await.unwrap();
    let overtaken = world.registry.accept(second, &world.principal).await.unwrap_err();
    insta::assert_snapshot!(overtaken, @"the connector `github` was changed by somebody else since the proposal was made");
    assert_eq!(world.changes(), ["added 0.1.0"]);
}

#[tokio::test]
async fn an_action_is_found_by_name_and_by_pinned_version() {
    let world = world();
    world.install(&world.tenant, "0.1.0").await;
    assert_eq!(world.find("github.list-issues").await.unwrap(), "List issues");
    assert_eq!(world.find("github.list-issues:0.1.0@default").await.unwrap(), "List issues");
}

#[tokio::test]
async fn what_is_not_found_is_told_with_what_there_is() {
    let world = world();
    let told = async |action: &str| {
        let error = world.find(action).await.unwrap_err();
        format!("{error}\n{}", error.hint().unwrap_or_default())
    };
    insta::assert_snapshot!(told("github.list-issues").await, @"
    no connector `github` is installed
    install one with `keyward plugin add`
    ");
    world.install(&world.tenant, "0.1.0").await;
    insta::assert_snapshot!(told("githug.list-issues").await, @"
    no connector `githug` is installed
    did you mean `github`?
    ");
    insta::assert_snapshot!(told("slack.post").await, @"
    no connector `slack` is installed
    known are: github
    ");
    insta::assert_snapshot!(told("github.list-isues").await, @"
    the connector `github` 0.1.0 has no action `list-isues`
    did you mean `list-issues`?
    ");
    insta::assert_snapshot!(told("github.list-issues:0.2.0@default").await, @"
    github.list-issues:0.2.0@default is pinned to a version, and 0.1.0 is installed
    change the pin, or install that version with `keyward plugin add`
    ");
    let other: TenantId = "other".parse().unwrap();
    let error = world.registry.find(&other, &"github.list-issues".parse().unwrap()).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::NotInstalled { installed, .. } if installed.is_empty()),
        "tenants are apart"
    );
}

#[tokio::test]
async fn a_component_that_is_gone_or_changed_is_never_used_and_installing_again_repairs_it() {
    let world = world();
    let installed = world.install(&world.tenant, "0.1.0").await;
    let path = world.registry.component_path(&installed.connector.digest);
    assert!(world.find("github.list-issues").await.is_ok());

    fs::remove_file(&path).unwrap();
    assert!(matches!(world.find("github.list-issues").await, Err(RegistryError::ComponentMissing { .. })));
    world.install(&world.tenant, "0.1.0").await;
    assert!(world.find("github.list-issues").await.is_ok());

    // The same length, so that only the content tells.
    let mut changed = connector("0.1.0");
    *changed.last_mut().unwrap() ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, &changed).unwrap();
    assert!(matches!(world.find("github.list-issues").await, Err(RegistryError::ComponentChanged { .. })));
    world.install(&world.tenant, "0.1.0").await;
    assert_eq!(fs::read(&path).unwrap(), connector("0.1.0"));
    assert!(world.find("github.list-issues").await.is_ok());
}

#[tokio::test]
async fn a_record_that_says_something_else_than_the_component_is_never_used_and_installing_again_repairs_it() {
    let world = world();
    let alterations: [fn(&mut Installed); 3] = [
        |installed| installed.manifest.endpoints.values_mut().for_each(|it| it.url = "https://evil.example".to_owned()),
        |installed| {
            let action = installed.manifest.actions.values().next().unwrap().clone();
            installed.manifest.actions.insert("added".parse().unwrap(), action);
        },
        |installed| installed.connector.version = "0.2.0".to_owned(),
    ];
    for alter in alterations {
        world.install(&world.tenant, "0.1.0").await;
        assert!(world.find("github.list-issues").await.is_ok());
        world.store.0.lock().unwrap().installed.values_mut().for_each(alter);
        for action in ["github.list-issues", "github.added"] {
            let error = world.find(action).await.unwrap_err();
            assert!(matches!(error, RegistryError::ManifestChanged(_)), "{error}");
        }
        let installed = world.registry.installed(&world.tenant).await.unwrap();
        let state = world.registry.verify(&installed[0]).await;
        assert!(matches!(state, Err(RegistryError::ManifestChanged(_))), "{state:?}");
        // What was agreed to stands in the component: the same one again changes nothing, and one that asks for
        // what the record says in its place asks for more.
        let same = world.registry.propose(&world.tenant, connector("0.1.0")).await.unwrap();
        assert_eq!((same.altered, same.intact), (true, false));
        let wider = changed_connector("0.3.0", |manifest| {
            manifest.endpoints.values_mut().for_each(|it| it.url = "https://evil.example".to_owned());
        });
        let wider = world.registry.propose(&world.tenant, wider).await.unwrap();
        for (proposal, widens) in [(&same, false), (&wider, true)] {
            let difference = proposal.difference.as_ref().unwrap();
            assert_eq!((difference.from.version.as_str(), difference.widens), ("0.1.0", widens), "{difference:?}");
        }
    }
    world.install(&world.tenant, "0.1.0").await;
    assert!(world.find("github.list-issues").await.is_ok());
    let proposal = world.registry.propose(&world.tenant, connector("0.1.0")).await.unwrap();
    assert_eq!((proposal.altered, proposal.intact), (false, true));
}

#[tokio::test]
async fn removing_keeps_what_other_tenants_use_and_sweeps_the_rest() {
    let world = world();
    let other: TenantId = "other".parse().unwrap();
    let name: ConnectorName = "github".parse().unwrap();
    world.install(&world.tenant, "0.1.0").await;
    let kept = world.install(&other, "0.1.0").await;
    world.install(&world.tenant, "0.2.0").await;
    let interrupted = world.registry.component_path(&kept.connector.digest).with_extension("1.tmp");
    fs::write(&interrupted, "half").unwrap();

    assert!(world.registry.remove(&world.tenant, &name, &world.principal).await.unwrap());
    let hex = hex::encode(kept.connector.digest.as_bytes());
    assert_eq!(files(world.folder.path()), [format!("{hex}.wasm")]);
    assert!(!world.registry.remove(&world.tenant, &name, &world.principal).await.unwrap());
    assert!(world.registry.remove(&other, &name, &world.principal).await.unwrap());
    assert_eq!(files(world.folder.path()), [""; 0]);
    assert_eq!(world.changes().last().unwrap(), "removed 0.1.0");
}

#[tokio::test]
async fn many_may_install_and_remove_at_once_and_nothing_installed_lacks_its_component() {
    let world = Arc::new(world());
    let work = (0..8).map(|number| {
        let world = world.clone();
        tokio::spawn(async move {
            let tenant: TenantId = format!("tenant-{number}").parse().unwrap();
            let name: ConnectorName = "github".parse().unwrap();
            for round in 0..10 {
                world.install(&tenant, if number % 2 == 0 { "0.1.0" } else { "0.2.0" }).await;
                world.registry.find(&tenant, &"github.list-issues".parse().unwrap()).await.unwrap();
                if round < 9 {
                    world.registry.remove(&tenant, &name, &world.principal).await.unwrap();
                }
            }
        })
    });
    for task in work.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    world.registry.sweep().await.unwrap();
    assert_eq!(files(world.folder.path()).len(), 2);
}

#[tokio::test]
async fn a_full_store_installs_nothing_and_what_was_there_stays() {
    let world = world();
    world.install(&world.tenant, "0.1.0").await;
    let proposal = world.registry.propose(&world.tenant, connector("0.2.0")).await.unwrap();
    world.store.0.lock().unwrap().full = true;
    assert!(matches!(world.registry.accept(proposal, &world.principal).await, Err(RegistryError::DiskFull)));
    assert_eq!(world.find("github.list-issues:0.1.0@default").await.unwrap(), "List issues");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_a_clear_error() {
    let world = world();
    let file = world.folder.path().join("file");
    fs::write(&file, "").unwrap();
    let registry = Registry::new(world.store.clone(), file.join("connectors"));
    let proposal = registry.propose(&world.tenant, connector("0.1.0")).await.unwrap();
    let error = registry.accept(proposal, &world.principal).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot create") && error.contains("connectors"), "{error}");
}
