//! Where things are and what the operator allows, resolved once: file < environment < flag.

use std::{
    env, fmt, io,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Component, Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use keyward_egress::{Budget, BudgetConfig};
use keyward_model::{Rate, manifest::Limits};
use keyward_policy::{HostPort, NetworkExceptions, PolicyHost, PrivateException};
use serde::{Deserialize, Deserializer, de::Error as _};
use url::Url;

use crate::{
    arguments::Globals,
    failure::{Exit, Failure},
    files,
};

/// The configuration as the commands use it.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Where everything is kept.
    pub(crate) data_dir: PathBuf,
    /// The file that this was read from; it need not exist.
    pub(crate) file: PathBuf,
    /// Where the root key comes from, where that is configured.
    pub(crate) key: Option<KeySource>,
    /// Which private addresses and plain-text servers may be reached.
    pub(crate) network: NetworkExceptions,
    /// Certificate authorities besides the system's.
    pub(crate) authorities: Vec<TrustedFile>,
    /// What no connector's manifest may exceed.
    pub(crate) ceiling: Limits,
    /// What all calls together may ask of a connection, of a connector and of a server.
    pub(crate) budgets: BudgetConfig,
    /// How many guests may run at once.
    pub(crate) max_concurrent_calls: u32,
    /// What is logged.
    pub(crate) log: String,
    /// To whom it is told what is done.
    pub(crate) telemetry: TelemetryTable,
}

/// Where the root key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// A passphrase, asked for or taken from `KEYWARD_PASSPHRASE`.
    Passphrase,
    /// A file.
    File(PathBuf),
    /// The variable of this name.
    Env(String),
}

impl FromStr for KeySource {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "passphrase" => Ok(Self::Passphrase),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => Ok(Self::Env(name.to_owned())),
            _ => Err("write 'passphrase', 'file:<path>' or 'env:<NAME>'".to_owned()),
        }
    }
}

impl KeySource {
    /// The same, with another path where it is a file.
    fn map_path(self, path: impl FnOnce(PathBuf) -> Result<PathBuf, Failure>) -> Result<Self, Failure> {
        match self {
            Self::File(file) => path(file).map(Self::File),
            other => Ok(other),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passphrase => f.write_str("passphrase"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

/// The configuration file. Every table and every key may be left out; an unknown one is an error. Relative
/// paths are taken from the file's own directory.
///
/// ```toml
/// log = "warn"                        # as --log; a level, or 'target=level' with commas
///
/// [vault]
/// key = "file:/home/me/.config/keyward/root.key"   # or "passphrase", or "env:NAME"
///
/// [network]
/// private = ["10.1.0.0/16:443"]       # private addresses that may be reached: network:port
/// http = ["127.0.0.1:8080"]           # servers that may be spoken to without TLS: host:port
/// # certificate authorities besides the system's, each for the hosts that it may vouch for
/// authorities = [{ file = "company-ca.pem", hosts = ["*.corp.example"] }]
///
/// [limits]                            # what no connector may exceed, for each call
/// concurrent_calls = 64               # guests at once
/// memory_bytes = 268435456
/// cpu_ms = 60000
/// wall_ms = 900000
/// requests = 10000
/// exchanges = 64
/// request_bytes = 17179869184
/// response_bytes = 17179869184
/// log_bytes = 1048576
/// max_pause_s = 3600                  # the longest that a server can ask for silence
///
/// [limits.connection]                 # what all calls of a process together may ask of one connection
/// in_flight = 100                     # requests at once
/// waiting = 1000                      # requests that wait for their turn at once
/// rate = "600/m"                      # by second (s), minute, hour or day; without it, as the server says
/// request_bytes_per_hour = 1073741824
/// response_bytes_per_hour = 1073741824
///
/// [limits.connector]                  # the same keys: of one connector, over all of its connections
/// in_flight = 500
///
/// [telemetry]                         # see docs/telemetry.md
/// otlp = "http://127.0.0.1:4318"      # an OpenTelemetry collector: OTLP over HTTP
/// prometheus = "127.0.0.1:9464"       # where metrics can be read while the command runs
/// ```
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    log: Option<String>,
    vault: VaultTable,
    network: NetworkTable,
    limits: LimitsTable,
    telemetry: TelemetryTable,
}

/// To whom it is told what is done. Nobody, where it is empty; the environment has no say in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TelemetryTable {
    /// The collector that traces and metrics are sent to.
    pub(crate) otlp: Option<CollectorUrl>,
    /// Where metrics can be read.
    pub(crate) prometheus: Option<SocketAddr>,
}

/// Where a collector is: `http` or `https`, without user information, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct CollectorUrl(String);

impl TryFrom<String> for CollectorUrl {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let is_plain = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        };
        match text.parse::<Url>() {
            Ok(url) if is_plain(&url) => Ok(Self(url.as_str().trim_end_matches('/').to_owned())),
            _ => {
                Err(format!("{text:?} is not the URL of a collector: write 'http://host:port' or 'https://host:port'"))
            }
        }
    }
}

impl CollectorUrl {
    /// Where one kind of telemetry goes, for example `v1/traces`.
    pub(crate) fn signal(&self, path: &str) -> String {
        format!("{}/{path}", self.0)
    }
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct VaultTable {
    key: Option<toml::Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NetworkTable {
    private: Vec<PrivateException>,
    http: Vec<HostPort>,
    authorities: Vec<TrustedFile>,
}

/// A certificate authority that is trusted for some hosts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrustedFile {
    /// Its certificates, PEM.
    pub(crate) file: PathBuf,
    /// The hosts, as in `policy.toml`.
    #[serde(deserialize_with = "some_hosts")]
    pub(crate) hosts: Vec<PolicyHost>,
}

fn some_hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PolicyHost>, D::Error> {
    let hosts = Vec::deserialize(deserializer)?;
    if hosts.is_empty() {
        return Err(D::Error::custom("an authority without hosts vouches for nobody: name them, or leave it out"));
    }
    Ok(hosts)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitsTable {
    concurrent_calls: Option<u32>,
    memory_bytes: Option<u64>,
    cpu_ms: Option<u64>,
    wall_ms: Option<u64>,
    requests: Option<u32>,
    exchanges: Option<u32>,
    request_bytes: Option<u64>,
    response_bytes: Option<u64>,
    log_bytes: Option<u64>,
    max_pause_s: Option<u32>,
    connection: BudgetTable,
    connector: BudgetTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BudgetTable {
    in_flight: Option<NonZeroU32>,
    waiting: Option<u32>,
    rate: Option<Rate>,
    request_bytes_per_hour: Option<u64>,
    response_bytes_per_hour: Option<u64>,
}

impl BudgetTable {
    fn over(self, default: Budget) -> Budget {
        Budget {
            in_flight: self.in_flight.unwrap_or(default.in_flight),
            waiting: self.waiting.unwrap_or(default.waiting),
            rate: self.rate.or(default.rate),
            request_bytes_per_hour: self.request_bytes_per_hour.or(default.request_bytes_per_hour),
            response_bytes_per_hour: self.response_bytes_per_hour.or(default.response_bytes_per_hour),
        }
    }
}

impl Config {
    /// Resolves the configuration for a process with these flags and this environment.
    pub(crate) fn resolve(globals: &Globals) -> Result<Self, Failure> {
        Self::from_parts(globals, globals.config.is_none(), variable)
    }

    /// The same before the file is written: it may be missing, also where it was named.
    pub(crate) fn resolve_new(globals: &Globals) -> Result<Self, Failure> {
        Self::from_parts(globals, true, variable)
    }

    /// The same with the environment given, so that a test need not change its own.
    fn from_parts(
        globals: &Globals,
        may_be_missing: bool,
        variable: impl Fn(&str) -> Option<PathBuf>,
    ) -> Result<Self, Failure> {
        // clap has already put the flag above the environment's KEYWARD_DATA_DIR and KEYWARD_CONFIG.
        let data_dir = match &globals.data_dir {
            Some(directory) => absolute(directory)?,
            None => base_directory(&variable, "XDG_DATA_HOME", ".local/share").ok_or_else(|| {
                Failure::new(
                    Exit::Environment,
                    "no-data-directory",
                    "neither XDG_DATA_HOME nor HOME says where the data directory is",
                )
                .hint("name it with --data-dir or KEYWARD_DATA_DIR")
            })?,
        };
        if data_dir.to_str().is_none() {
            // SQLite takes no other names.
            let message = format!("the name of the data directory {} is not UTF-8", data_dir.display());
            return Err(Failure::new(Exit::Environment, "data-directory-unusable", message)
                .hint("name another one with --data-dir or KEYWARD_DATA_DIR"));
        }
        let file = absolute(globals.config.as_deref().unwrap_or(&data_dir.join("config.toml")))?;
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            // Then the defaults hold.
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_be_missing => String::new(),
            Err(error) => {
                return Err(Failure::new(
                    Exit::BadInput,
                    "config-unreadable",
                    format!("cannot read the configuration {}", file.display()),
                )
                .because(&error)
                .hint("check --config or KEYWARD_CONFIG"));
            }
        };
        let parsed = parse(&file, &text)?;
        let beside = |path: PathBuf| match file.parent() {
            Some(directory) => directory.join(path),
            None => path,
        };
        let read_key = |text: &str, origin: &str| {
            text.parse::<KeySource>().map_err(|rule| {
                let message = format!("{origin} does not say where the root key is: {text:?}");
                Failure::new(Exit::BadInput, "config-invalid", message).hint(rule)
            })
        };
        let key = match (variable("KEYWARD_KEY"), parsed.vault.key) {
            // Like a flag, a variable means a path from where the command is run.
            (Some(text), _) => {
                Some(read_key(&text.to_string_lossy(), "KEYWARD_KEY")?.map_path(|path| absolute(&path))?)
            }
            (None, Some(text)) => {
                let origin = format!("[vault] key in {}", file.display());
                Some(read_key(text.get_ref(), &origin)?.map_path(|path| Ok(beside(path)))?)
            }
            (None, None) => None,
        };
        let limits = parsed.limits;
        let ceiling = Limits::default_ceiling();
        let budgets = BudgetConfig::default();
        Ok(Self {
            key,
            network: NetworkExceptions { private: parsed.network.private, http: parsed.network.http },
            authorities: parsed
                .network
                .authorities
                .into_iter()
                .map(|trusted| TrustedFile { file: beside(trusted.file), ..trusted })
                .collect(),
            ceiling: Limits {
                memory_bytes: limits.memory_bytes.unwrap_or(ceiling.memory_bytes),
                cpu_ms: limits.cpu_ms.unwrap_or(ceiling.cpu_ms),
                wall_ms: limits.wall_ms.unwrap_or(ceiling.wall_ms),
                requests: limits.requests.unwrap_or(ceiling.requests),
                exchanges: limits.exchanges.unwrap_or(ceiling.exchanges),
                request_bytes: limits.request_bytes.unwrap_or(ceiling.request_bytes),
                response_bytes: limits.response_bytes.unwrap_or(ceiling.response_bytes),
                log_bytes: limits.log_bytes.unwrap_or(ceiling.log_bytes),
            },
            budgets: BudgetConfig {
                connection: limits.connection.over(budgets.connection),
                connector: limits.connector.over(budgets.connector),
                max_pause: limits.max_pause_s.map_or(budgets.max_pause, |s| Duration::from_secs(s.into())),
            },
            max_concurrent_calls: limits.concurrent_calls.unwrap_or(64).max(1),
            telemetry: parsed.telemetry,
            log: globals.log.clone().or(parsed.log).unwrap_or_else(|| "warn".to_owned()),
            data_dir,
            file,
        })
    }

    /// Refuses a new root key that would be kept where a copy of the data directory alone has it, or under a name that
    /// the configuration cannot hold.
    pub(crate) fn check_new_key(&self, source: &KeySource) -> Result<(), Failure> {
        let KeySource::File(path) = source else { return Ok(()) };
        let problem = if path.to_str().is_none() {
            "its name is not UTF-8"
        } else if resolved(path).starts_with(resolved(&self.data_dir)) {
            "it is in the data directory, and a copy of that must open nothing"
        } else {
            return Ok(());
        };
        let message = format!("{} cannot be the key file: {problem}", path.display());
        Err(Failure::new(Exit::Usage, "key-file-misplaced", message).hint("name another file with --key file:<path>"))
    }

    /// The database.
    pub(crate) fn database(&self) -> PathBuf {
        self.data_dir.join("keyward.db")
    }

    /// The installed components.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.data_dir.join("plugins")
    }

    /// Compiled components; it may be deleted at any time.
    pub(crate) fn cache(&self) -> PathBuf {
        self.data_dir.join("cache")
    }

    /// The operator's policy.
    pub(crate) fn policy(&self) -> PathBuf {
        self.data_dir.join("policy.toml")
    }

    /// The operator's own provider definitions.
    pub(crate) fn providers(&self) -> PathBuf {
        self.data_dir.join("providers")
    }
}

/// A variable of the environment; one that is set to nothing counts as one that is not set.
fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// `path` without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let known = path.ancestors().find_map(|above| Some((above.canonicalize().ok()?, path.strip_prefix(above).ok()?)));
    let Some((known, rest)) = known else { return path.to_owned() };
    // What does not exist yet has no links, so that `..` is the folder above by its name.
    let folded = rest.components().fold(known, |mut folded, part| {
        match part {
            Component::ParentDir => _ = folded.pop(),
            other => folded.push(other),
        }
        folded
    });
    if folded == *path { folded } else { resolved(&folded) }
}

/// Where a key file goes that nobody named: beside the user's other configuration, not in the data directory,
/// so that a copy of that directory alone opens nothing.
pub(crate) fn default_key_file() -> Result<PathBuf, Failure> {
    let base = base_directory(&variable, "XDG_CONFIG_HOME", ".config");
    base.map(|directory| directory.join("root.key")).ok_or_else(|| {
        Failure::new(
            Exit::Environment,
            "no-config-directory",
            "neither XDG_CONFIG_HOME nor HOME says where the key file is to be",
        )
        .hint("name it with --key file:<path>")
    })
}

/// A base directory of the XDG specification, version 0.8: a variable that is not absolute does not count.
fn base_directory(variable: &impl Fn(&str) -> Option<PathBuf>, name: &str, below_home: &str) -> Option<PathBuf> {
    variable(name)
        .filter(|path| path.is_absolute())
        .or_else(|| variable("HOME").filter(|home| home.is_absolute()).map(|home| home.join(below_home)))
        .map(|base| base.join("keyward"))
}

fn parse(file: &Path, text: &str) -> Result<File, Failure> {
    toml::from_str(text).map_err(|error| {
        let span = error.span().map(|span| keyward_model::Span { start: span.start, end: span.end });
        let fault = keyward_model::Diagnostic::error("config-invalid", error.message().to_owned(), span);
        Failure::faults(file.display().to_string(), text, vec![fault])
            .hint("the keys are explained in docs/cli.md, and in the file that `keyward init` writes")
    })
}

/// `text` of a configuration file with `source` in the place of its key source; `None` where it names none.
pub(crate) fn with_key(file: &Path, text: &str, source: &KeySource) -> Result<Option<String>, Failure> {
    let Some(key) = parse(file, text)?.vault.key else { return Ok(None) };
    let mut changed = text.to_owned();
    changed.replace_range(key.span(), &toml::Value::String(source.to_string()).to_string());
    Ok(Some(changed))
}

/// `text` of a configuration file that names no key source, with `source` in it.
///
/// # Errors
/// Where the text is not a configuration afterwards that names this source.
pub(crate) fn with_new_key(file: &Path, text: &str, source: &KeySource) -> Result<String, Failure> {
    let key = format!("key = {}\n", toml::Value::String(source.to_string()));
    let is_header = |line: &str| {
        let line = line.split('#').next().unwrap_or_default().trim();
        line.strip_prefix('[').and_then(|line| line.strip_suffix(']')).is_some_and(|name| name.trim() == "vault")
    };
    let mut changed = String::with_capacity(text.len() + key.len() + 16);
    let mut found = false;
    for line in text.lines() {
        changed.push_str(line);
        changed.push('\n');
        if !found && is_header(line) {
            changed.push_str(&key);
            found = true;
        }
    }
    if !found {
        changed.push_str(&format!("\n[vault]\n{key}"));
    }
    // It was edited as text, so that comments stay; what came of it is read before it replaces what the user wrote.
    match parse(file, &changed)?.vault.key {
        Some(key) if *key.get_ref() == source.to_string() => Ok(changed),
        _ => Err(Failure::new(
            Exit::BadInput,
            "config-invalid",
            format!("cannot put the key source into {}", file.display()),
        )
        .hint(format!("write it by hand: [vault] {}", key.trim_end()))),
    }
}

/// A path of a flag or a variable is taken from where the command is run.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| files::cannot("use", path, &error))
}

/// The configuration that `keyward init` writes.
pub(crate) fn template(source: &KeySource) -> String {
    let key = toml::Value::String(source.to_string());
    format!(
        r#"# The configuration of Keyward. A flag goes before a variable of the environment, and that before this file.

# What is logged to standard error: a level, or 'target=level' with commas.
#log = "warn"

[vault]
# Where the root key comes from: "passphrase", "file:<path>" or "env:<NAME>".
# Change it with `keyward vault rekey`: the vault must be wrapped anew.
key = {key}

[network]
# Private addresses that may be reached, as network:port. None by default.
#private = ["10.1.0.0/16:443"]
# Servers that may be spoken to without TLS, as host:port. None by default.
#http = ["127.0.0.1:8080"]
# Certificate authorities besides the system's, PEM files, each for the hosts that it may vouch for.
#authorities = [{{ file = "company-ca.pem", hosts = ["*.corp.example"] }}]

[limits]
# What no connector may exceed in one call, whatever its manifest says.
#concurrent_calls = 64
#memory_bytes = {memory}
#cpu_ms = {cpu}
#wall_ms = {wall}
#requests = {requests}
#exchanges = {exchanges}
#request_bytes = {request_bytes}
#response_bytes = {response_bytes}
#log_bytes = {log_bytes}
# The longest that a server can ask for silence.
#max_pause_s = 3600

[limits.connection]
# What all calls of a process together may ask of one connection, and the same for one connector below. A rate
# is by second (s), minute (m), hour (h) or day (d). Without a rate and without bytes, only the server limits them.
#in_flight = 100
#waiting = 1000
#rate = "600/m"
#request_bytes_per_hour = 1073741824
#response_bytes_per_hour = 1073741824

[limits.connector]
#in_flight = 500
#waiting = 1000
"#,
        memory = Limits::default_ceiling().memory_bytes,
        cpu = Limits::default_ceiling().cpu_ms,
        wall = Limits::default_ceiling().wall_ms,
        requests = Limits::default_ceiling().requests,
        exchanges = Limits::default_ceiling().exchanges,
        request_bytes = Limits::default_ceiling().request_bytes,
        response_bytes = Limits::default_ceiling().response_bytes,
        log_bytes = Limits::default_ceiling().log_bytes,
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn resolve(text: &str, flags: Globals, variables: &[(&str, &str)]) -> Result<Config, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let globals = Globals { config: Some(flags.config.unwrap_or(file)), ..flags };
        Config::from_parts(&globals, false, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| PathBuf::from(value))
        })
    }

    const HOME: (&str, &str) = ("HOME", "/home/test");

    #[test]
    fn a_flag_goes_before_the_environment_and_that_before_the_file() {
        let file = "log = \"info\"\n[vault]\nkey = \"env:FROM_FILE\"\n";
        let config = resolve(file, Globals::default(), &[HOME]).unwrap();
        assert_eq!((config.log.as_str(), config.key), ("info", Some(KeySource::Env("FROM_FILE".to_owned()))));
        let flags = Globals { log: Some("debug".to_owned()), ..Globals::default() };
        let config = resolve(file, flags, &[HOME, ("KEYWARD_KEY", "passphrase")]).unwrap();
        assert_eq!((config.log.as_str(), config.key), ("debug", Some(KeySource::Passphrase)));
    }

    #[test]
    fn the_data_directory_follows_xdg() {
        let place = |variables: &[(&str, &str)]| {
            resolve("", Globals::default(), variables).map(|config| config.data_dir.display().to_string())
        };
        assert_eq!(place(&[HOME]).unwrap(), "/home/test/.local/share/keyward");
        assert_eq!(place(&[HOME, ("XDG_DATA_HOME", "/data")]).unwrap(), "/data/keyward");
        assert_eq!(place(&[HOME, ("XDG_DATA_HOME", "data")]).unwrap(), "/home/test/.local/share/keyward");
        assert_eq!(place(&[]).unwrap_err().code, "no-data-directory");
    }

    #[test]
    fn a_missing_file_matters_only_where_it_was_named() {
        let named = Globals { config: Some("/nonexistent/config.toml".into()), ..Globals::default() };
        assert_eq!(
            Config::from_parts(&named, false, |_| Some("/home/test".into())).unwrap_err().code,
            "config-unreadable"
        );
        let unnamed = Globals { data_dir: Some("/nonexistent".into()), ..Globals::default() };
        let config = Config::from_parts(&unnamed, true, |_| None).unwrap();
        assert_eq!((config.log.as_str(), config.key), ("warn", None));
    }

    #[test]
    fn the_template_is_valid_as_it_is_and_with_every_comment_taken_off() {
        let source = KeySource::File("/a \"b\"/root.key".into());
        let template = template(&source);
        let config = resolve(&template, Globals::default(), &[HOME]).unwrap();
        assert_eq!(config.key, Some(source));
        assert_eq!(config.ceiling, Limits::default_ceiling());
        let all: String = template
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .map(|line| format!("{line}\n"))
            .collect();
        let config = resolve(&all, Globals::default(), &[HOME]).unwrap();
        assert_eq!(config.network.private.len(), 1);
        assert_eq!(config.network.http.len(), 1);
        assert_eq!(config.ceiling, Limits::default_ceiling());
        let default = BudgetConfig::default();
        assert_eq!((config.budgets.connector, config.budgets.max_pause), (default.connector, default.max_pause));
        let connection = Budget {
            rate: "600/m".parse().ok(),
            request_bytes_per_hour: Some(1 << 30),
            response_bytes_per_hour: Some(1 << 30),
            ..default.connection
        };
        assert_eq!(config.budgets.connection, connection);
    }

    #[test]
    fn relative_paths_are_beside_the_file() {
        let text = "[vault]\nkey = \"file:root.key\"\n[network]\nauthorities = [{file = \"ca.pem\", hosts = [\"a.example\"]}]\n";
        let config = resolve(text, Globals::default(), &[HOME]).unwrap();
        let directory = config.file.parent().unwrap();
        assert_eq!(config.key, Some(KeySource::File(directory.join("root.key"))));
        assert_eq!(config.authorities[0].file, directory.join("ca.pem"));
    }

    #[test]
    fn a_path_in_the_environment_is_taken_from_where_the_command_is_run() {
        let config = resolve("", Globals::default(), &[HOME, ("KEYWARD_KEY", "file:root.key")]).unwrap();
        assert_eq!(config.key, Some(KeySource::File(std::env::current_dir().unwrap().join("root.key"))));
        let failure = resolve("", Globals::default(), &[HOME, ("KEYWARD_KEY", "root.key")]).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.hints.len()), ("config-invalid", 1));
    }

    #[test]
    fn a_new_key_file_is_not_taken_from_the_data_directory_however_it_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (data, link) = (directory.path().join("data"), directory.path().join("link"));
        std::fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink(&data, &link).unwrap();
        let globals = Globals { data_dir: Some(data.clone()), ..Globals::default() };
        let config = Config::from_parts(&globals, true, |_| None).unwrap();
        let check = |path: PathBuf| config.check_new_key(&KeySource::File(path)).map_err(|failure| failure.exit);
        for path in [
            data.join("root.key"),
            data.join("new/root.key"),
            link.join("k"),
            link.join("../data/k"),
            data.join("../missing/../data/k"),
        ] {
            assert_eq!(check(path.clone()), Err(Exit::Usage), "{}", path.display());
        }
        assert_eq!(check(directory.path().join("root.key")), Ok(()));
        assert_eq!(check(directory.path().join("data.key")), Ok(()));
        let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"k\xff");
        assert_eq!(check(directory.path().join(odd)), Err(Exit::Usage));
    }

    #[test]
    fn a_data_directory_that_the_database_cannot_name_is_told() {
        let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"d\xff");
        let globals = Globals { data_dir: Some(odd.into()), ..Globals::default() };
        let failure = Config::from_parts(&globals, true, |_| None).unwrap_err();
        assert_eq!((failure.exit, failure.hints.len()), (Exit::Environment, 1));
    }

    #[test]
    fn what_the_file_says_wrongly_is_told_with_its_place() {
        for text in [
            "[vualt]\n",
            "[network]\nprivate = [\"nonsense\"]\n",
            "log = 1\n",
            "[limits]\ncpu = 1\n",
            "[limits]\nmax_pause_s = -1\n",
            "[limits.connection]\nin_flight = 0\n",
            "[limits.connection]\nin_flight = -1\n",
            "[limits.connection]\nwaiting = 4294967296\n",
            "[limits.connection]\nrate = 10\n",
            "[limits.connector]\nrate = \"10/w\"\n",
            "[limits.connector]\nmax_pause_s = 1\n",
            "[telemetry]\notlp = \"http://user@host\"\n",
            "=\n",
        ] {
            let failure = resolve(text, Globals::default(), &[HOME]).unwrap_err();
            assert_eq!((failure.exit, failure.code.as_str()), (Exit::BadInput, "file-invalid"), "{text}");
            assert!(failure.faults.as_ref().unwrap().diagnostics[0].span.is_some(), "{text}");
        }
        let failure = resolve("[vault]\nkey = \"file:\"\n", Globals::default(), &[HOME]).unwrap_err();
        assert_eq!(failure.code, "config-invalid");
    }

    #[test]
    fn a_new_key_source_leaves_the_rest_of_the_file_as_it_was() {
        let text = "# mine\n[vault]\nkey = \"passphrase\" # why\n";
        let changed = with_key(Path::new("c"), text, &KeySource::Env("K".to_owned())).unwrap();
        assert_eq!(changed.as_deref(), Some("# mine\n[vault]\nkey = \"env:K\" # why\n"));
        assert_eq!(with_key(Path::new("c"), "[vault]\n", &KeySource::Passphrase).unwrap(), None);
        for (text, changed) in [
            ("log = 'info'\n", "log = 'info'\n\n[vault]\nkey = \"env:K\"\n"),
            ("[ vault ] # mine\n# why\n[limits]", "[ vault ] # mine\nkey = \"env:K\"\n# why\n[limits]\n"),
        ] {
            assert_eq!(with_new_key(Path::new("c"), text, &KeySource::Env("K".to_owned())).unwrap(), changed);
        }
        assert!(with_new_key(Path::new("c"), "vault = {}\n", &KeySource::Passphrase).is_err());
    }
}
