//! `keyward doctor`: is everything in order, and what to do where it is not.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::SystemTime,
};

use keyward_model::ConnectionState;
use keyward_policy::OperatorPolicy;
use keyward_store::Store;
use keyward_vault::{Vault, VaultOptions, VaultStatus};
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;

use super::{connections, vault};
use crate::{
    commands::Context,
    compose::{self, Base},
    config::{Config, KeySource},
    failure::{Exit, Failure},
    output::{self, style, styled},
    policy::Current,
    secrets,
    toolchain::{Choice, Toolchain},
};

/// Below this the next run may not be able to write its journal.
const SPACE_NEEDED: u64 = 64 << 20;
/// Below this the operator should make room.
const SPACE_WANTED: u64 = 1 << 30;
/// No clock was ever right that shows less than the day on which this was written.
const EARLIEST: OffsetDateTime = time::macros::datetime!(2026-01-01 0:00 UTC);

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), hint: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), hint: Some(hint.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, found: found.into(), hint: Some(hint.into()) }
    }

    fn failed(name: &'static str, failure: &Failure) -> Self {
        let found = std::iter::once(&failure.message).chain(&failure.causes).cloned().collect::<Vec<_>>().join(": ");
        Self {
            name,
            verdict: Verdict::Fail,
            found,
            hint: (!failure.hints.is_empty()).then(|| failure.hints.join("; ")),
        }
    }
}

/// Looks at everything; fails where anything is out of order.
pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let spinner = context.output.spinner("Looking around");
    let mut checks = Vec::new();
    let mut key = None;
    match context.config() {
        Ok(config) => {
            key = config.key.clone();
            installation(context, config, &mut checks).await;
        }
        Err(failure) => checks.push(Check::failed("configuration", &failure)),
    }
    checks.push(clock(OffsetDateTime::now_utc()));
    checks.push(toolchain(key.as_ref()).await);
    drop(spinner);

    let failed = checks.iter().filter(|check| check.verdict == Verdict::Fail).count();
    context.output.result(&json!({"ok": failed == 0, "checks": checks}), || describe(&checks))?;
    if failed == 0 {
        return Ok(());
    }
    let message = format!("{failed} {} out of order", if failed == 1 { "thing is" } else { "things are" });
    Err(Failure::new(Exit::Failed, "out-of-order", message))
}

/// The data directory and what is in it. Each check is made where those before it allow.
async fn installation(context: &Context, config: Config, checks: &mut Vec<Check>) {
    checks.push(configuration(&config));
    if !config.database().is_file() {
        let found = format!("there is no installation in {}", config.data_dir.display());
        checks.push(Check::fail("data directory", found, "run `keyward init`, or name another one with --data-dir"));
        return;
    }
    checks.push(data_directory(&config.data_dir));
    checks.push(space(&config.data_dir));
    checks.push(cache(&config));
    let store = match Store::open(&config.database()).await {
        Ok(store) => {
            checks.push(Check::ok("database", config.database().display().to_string()));
            store
        }
        Err(error) => return checks.push(Check::failed("database", &error.into())),
    };
    let status = match Vault::status(&store).await {
        Ok(status) => status,
        Err(error) => return checks.push(Check::failed("vault", &error.into())),
    };
    checks.push(vault_check(context, &config, &store, &status).await);
    match Base::open(context).await {
        Ok(base) => {
            checks.push(policy(&base).await);
            checks.push(connectors(context, &base).await);
            checks.push(accounts(context, &base).await);
        }
        Err(failure) => checks.push(Check::failed("connectors", &failure)),
    }
}

fn configuration(config: &Config) -> Check {
    const NAME: &str = "configuration";
    match fs::metadata(&config.file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Check::warn(NAME, format!("{} is not there", config.file.display()), "`keyward init` writes one")
        }
        Err(error) => Check::fail(NAME, format!("{}: {error}", config.file.display()), "make it readable for yourself"),
        Ok(metadata) if metadata.permissions().mode() & 0o022 != 0 => Check::fail(
            NAME,
            format!("{} can be changed by others", config.file.display()),
            // Whoever writes it decides which private addresses a connector may reach.
            format!("chmod go-w {}", config.file.display()),
        ),
        Ok(_) => {
            let mut found = config.file.display().to_string();
            let exceptions = config.network.private.len() + config.network.http.len();
            if exceptions > 0 {
                found.push_str(&format!(", with {exceptions} exceptions for the network"));
            }
            Check::ok(NAME, found)
        }
    }
}

fn data_directory(path: &Path) -> Check {
    const NAME: &str = "data directory";
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Check::fail(NAME, format!("{}: {error}", path.display()), "check its permissions"),
    };
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Check::fail(
            NAME,
            format!("{} belongs to another user", path.display()),
            "run keyward as the user who owns it",
        );
    }
    if let Err(error) = tempfile::NamedTempFile::new_in(path) {
        return Check::fail(NAME, format!("{} cannot be written: {error}", path.display()), "check the file system");
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Check::warn(
            NAME,
            format!("{} is open to others (mode {:o})", path.display(), metadata.permissions().mode() & 0o7777),
            format!("chmod 700 {}", path.display()),
        );
    }
    Check::ok(NAME, path.display().to_string())
}

fn space(path: &Path) -> Check {
    const NAME: &str = "disk space";
    let free = match rustix::fs::statvfs(path) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(error) => return Check::warn(NAME, format!("cannot be told: {error}"), "look yourself"),
    };
    let found = format!("{} free", output::bytes(free));
    if free < SPACE_NEEDED {
        Check::fail(NAME, found, "make room: a run cannot go on when its journal cannot be written")
    } else if free < SPACE_WANTED {
        Check::warn(NAME, found, "make room soon")
    } else {
        Check::ok(NAME, found)
    }
}

fn cache(config: &Config) -> Check {
    const NAME: &str = "compile cache";
    let path = config.cache();
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Check::ok(NAME, "empty; it is made when the first connector is compiled")
        }
        Err(error) => Check::fail(NAME, format!("{}: {error}", path.display()), "check its permissions"),
        // What lies in it is loaded as machine code.
        Ok(metadata)
            if metadata.permissions().mode() & 0o022 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() =>
        {
            Check::fail(
                NAME,
                format!("{} can be changed by others", path.display()),
                format!("remove it (it is made again): rm -r {}", path.display()),
            )
        }
        Ok(_) => Check::ok(NAME, path.display().to_string()),
    }
}

/// Whether the configured key opens the vault. A passphrase is not asked for.
async fn vault_check(context: &Context, config: &Config, store: &Store, status: &VaultStatus) -> Check {
    const NAME: &str = "vault";
    let Some(root) = status.root_key else {
        return Check::fail(NAME, "it is not initialised", "run `keyward init`");
    };
    let Some(source) = &config.key else {
        let found = format!("it asks for a {}, and the configuration names no source", root.source);
        return Check::fail(NAME, found, "write [vault] key = \"...\" into the configuration");
    };
    if *source == KeySource::Passphrase && !secrets::passphrase_is_set() {
        return Check::ok(NAME, "initialised; not opened, because that would ask for the passphrase");
    }
    let opened = async {
        let key = secrets::root_key(context.output, source)?;
        let wire = compose::wire(config)?;
        let options = VaultOptions { wire, providers: std::sync::Arc::new(compose::catalogue(config)?) };
        Vault::unlock(std::sync::Arc::new(store.clone()), &key, options).await.map_err(Failure::from)
    };
    match opened.await {
        Err(failure) => Check::failed(NAME, &failure),
        Ok(vault) => {
            if let Some(damaged) = vault.damaged_keys().into_iter().next() {
                return Check::failed(NAME, &damaged.into());
            }
            let old = status.keys.iter().find(|key| vault::is_due(key, OffsetDateTime::now_utc()));
            match old {
                Some(key) => Check::warn(
                    NAME,
                    format!("opens with {source}; the key of tenant {} is old", key.tenant),
                    "run `keyward vault rotate`",
                ),
                None => Check::ok(NAME, format!("opens with {source}")),
            }
        }
    }
}

/// Whether the operator's policy can be read, and was agreed to.
async fn policy(base: &Base) -> Check {
    const NAME: &str = "policy";
    let file = base.config.policy();
    match Current::read(&base.config, &base.store).await {
        Err(failure) => Check::failed(NAME, &failure),
        Ok(current) => match current.check_accepted(&base.config) {
            Err(failure) => Check::failed(NAME, &failure),
            Ok(()) if current.policy == OperatorPolicy::default() => {
                Check::ok(NAME, "every request that a manifest declares is allowed")
            }
            Ok(()) => Check::ok(NAME, file.display().to_string()),
        },
    }
}

/// Whether the installed connectors are what was agreed to.
async fn connectors(context: &Context, base: &Base) -> Check {
    const NAME: &str = "connectors";
    let installed = match base.registry.installed(&context.tenant).await {
        Ok(installed) => installed,
        Err(error) => return Check::failed(NAME, &error.into()),
    };
    let mut broken = Vec::new();
    for installed in &installed {
        if let Err(fault) = base.registry.verify(installed).await {
            broken.push(format!("{}: {fault}", installed.connector.name));
        }
    }
    if broken.is_empty() {
        return Check::ok(NAME, format!("{} installed, as they were agreed to", installed.len()));
    }
    Check::fail(NAME, broken.join("; "), "install them again with `keyward plugin add`")
}

async fn accounts(context: &Context, base: &Base) -> Check {
    const NAME: &str = "connections";
    let all = match connections::open_facts(base, context).await {
        Ok(all) => all,
        Err(failure) => return Check::failed(NAME, &failure),
    };
    let broken: Vec<_> = all
        .iter()
        .filter(|facts| matches!(facts.state, ConnectionState::NeedsReconnect(_) | ConnectionState::ClientRefused(_)))
        .map(|facts| facts.name.as_str())
        .collect();
    match broken[..] {
        [] => Check::ok(NAME, format!("{}, none needs attention", all.len())),
        _ => Check::warn(
            NAME,
            format!("{} need attention: {}", broken.len(), broken.join(", ")),
            "`keyward connections show <name>` tells why; `keyward connect <provider> --reconnect --name <name>` mends it",
        ),
    }
}

/// Tokens and signatures are good for a span of time, so a clock that is far off breaks them.
fn clock(now: OffsetDateTime) -> Check {
    const NAME: &str = "clock";
    let built =
        std::env::current_exe().and_then(|program| fs::metadata(program)?.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    if now < EARLIEST || now < OffsetDateTime::from(built) - time::Duration::DAY {
        return Check::fail(
            NAME,
            format!("it shows {}, which is past", output::moment(now)),
            "set the clock, or start NTP",
        );
    }
    Check::ok(NAME, output::moment(now))
}

async fn toolchain(key: Option<&KeySource>) -> Check {
    const NAME: &str = "guest toolchain";
    let here = std::env::current_dir().unwrap_or_else(|_| "/".into());
    match Toolchain::choose(Choice::Auto, &here, key).await {
        Ok(toolchain) => Check::ok(NAME, toolchain.to_string()),
        // Only authors of connectors need it.
        Err(failure) => Check::warn(
            NAME,
            "none; `keyward plugin build` needs one",
            failure.hints.first().cloned().unwrap_or_default(),
        ),
    }
}

fn describe(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for check in checks {
        let (mark, look) = match check.verdict {
            Verdict::Ok => ("✓", style::GOOD),
            Verdict::Warn => ("!", style::ODD),
            Verdict::Fail => ("✗", style::BAD),
        };
        lines.push(format!("{} {:width$}  {}", styled(look, mark), check.name, output::clean(&check.found)));
        if let Some(hint) = &check.hint {
            lines.push(format!("  {:width$}  {} {}", "", styled(style::HINT, "hint:"), output::clean(hint)));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_shows_the_past_is_a_fault() {
        assert_eq!(clock(OffsetDateTime::UNIX_EPOCH).verdict, Verdict::Fail);
        assert_eq!(clock(OffsetDateTime::now_utc()).verdict, Verdict::Ok);
    }

    #[test]
    fn a_directory_that_is_open_to_others_is_told_with_the_command_that_closes_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(data_directory(directory.path()).verdict, Verdict::Ok);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let check = data_directory(directory.path());
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.hint.unwrap().starts_with("chmod 700 "));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_a_fault_also_where_it_is_open_to_others() {
        // Nobody can make a file there, not even root.
        assert_eq!(data_directory(Path::new("/proc")).verdict, Verdict::Fail);
    }

    #[test]
    fn checks_are_told_below_each_other() {
        let checks = [Check::ok("clock", "now"), Check::fail("disk space", "1 B free", "make room")];
        insta::assert_snapshot!(anstream::adapter::strip_str(&describe(&checks)).to_string(), @r"
        ✓ clock       now
        ✗ disk space  1 B free
                      hint: make room
        ");
    }
}
