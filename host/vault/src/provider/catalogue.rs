//! Reads provider files and finds providers.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use keyward_model::diagnostic::line_column;

use super::{ConnectionMethod, Provider, Revocation};

/// The files that are built in, each by its name.
const BUILTIN: [(&str, &str); 5] = [
    ("github.toml", include_str!("../../providers/github.toml")),
    ("google.toml", include_str!("../../providers/google.toml")),
    ("http.toml", include_str!("../../providers/http.toml")),
    ("oidc.toml", include_str!("../../providers/oidc.toml")),
    ("slack.toml", include_str!("../../providers/slack.toml")),
];

/// The providers that connections can be made to.
#[derive(Debug, Clone)]
pub struct Catalogue {
    providers: BTreeMap<String, Provider>,
}

/// Why a provider file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogueError {
    /// The file or directory cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// What stands in the file is no provider.
    #[error("{file}{}: {message}", line.map(|line| format!(":{line}")).unwrap_or_default())]
    Invalid {
        /// The file.
        file: String,
        /// The line, from 1, where it can be told.
        line: Option<usize>,
        /// What is wrong.
        message: String,
    },
}

impl Catalogue {
    /// The built-in providers alone.
    pub fn builtin() -> Self {
        let providers = BUILTIN.map(|(file, text)| {
            let provider = parse(file, text).expect("the test `every_builtin_file_is_valid` parses each of them");
            (provider.id.clone(), provider)
        });
        Self { providers: providers.into() }
    }

    /// These and those of the `*.toml` files in `dir`, which take the place of providers with the same id.
    /// A directory that does not exist holds none.
    pub fn with_directory(mut self, dir: &Path) -> Result<Self, CatalogueError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |cause| CatalogueError::Unreadable { path, cause }
        };
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self),
            Err(error) => return Err(unreadable(dir)(error)),
        };
        for entry in entries {
            let path = entry.map_err(unreadable(dir))?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
                let provider = parse(&path.display().to_string(), &text)?;
                self.providers.insert(provider.id.clone(), provider);
            }
        }
        Ok(self)
    }

    /// The provider with that id.
    pub fn find(&self, id: &str) -> Option<&Provider> {
        self.providers.get(id)
    }

    /// All ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.providers.keys().map(String::as_str)
    }
}

/// Reads one file and checks what its types alone do not.
fn parse(file: &str, text: &str) -> Result<Provider, CatalogueError> {
    let provider: Provider = toml::from_str(text).map_err(|error| CatalogueError::Invalid {
        file: file.to_owned(),
        line: error.span().map(|span| line_column(text, span.start).0),
        message: error.message().to_owned(),
    })?;
    match fault(file, &provider) {
        None => Ok(provider),
        Some(Fault { table, field, message }) => {
            Err(CatalogueError::Invalid { file: file.to_owned(), line: line_of(text, table, field), message })
        }
    }
}

/// What is wrong with a provider, and where: the table is "" at the top of the file.
struct Fault {
    table: &'static str,
    field: &'static str,
    message: String,
}

/// The line of a field, from 1, where the file is written in the usual way: each table under its own header.
fn line_of(text: &str, table: &str, field: &str) -> Option<usize> {
    let mut here = "";
    let found = text.lines().position(|line| {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            here = header.split(']').next().unwrap_or_default().trim();
        }
        here == table && line.split('=').next().is_some_and(|key| key.trim() == field)
    });
    found.map(|index| index + 1)
}

/// The first fault of a provider.
fn fault(file: &str, provider: &Provider) -> Option<Fault> {
    let found = |table, field, message: &str| Some(Fault { table, field, message: message.to_owned() });
    let stem = Path::new(file).file_stem().unwrap_or_default();
    if *stem != *provider.id {
        return found("", "id", &format!("the file must be called {}.toml, as its id says", provider.id));
    }
    if provider.methods.is_empty() {
        return found("", "methods", "at least one method is needed");
    }
    let discovers = provider.issuer.is_some() || provider.issuer_from_connection;
    if provider.issuer.is_some() && provider.issuer_from_connection {
        return found("", "issuer", "either the file or each connection names the issuer, not both");
    }
    let person = provider.methods.contains(&ConnectionMethod::Oauth2);
    let grants = person || provider.methods.contains(&ConnectionMethod::ClientCredentials);
    if grants && !discovers && provider.token.endpoint.is_none() {
        return found("", "methods", "without an issuer, [token] must name its endpoint");
    }
    if person && !discovers && provider.authorization.endpoint.is_none() {
        return found("", "methods", "without an issuer, [authorization] must name its endpoint");
    }
    if provider.scopes.parameters.is_empty() {
        return found("scopes", "parameters", "at least one parameter for scopes is needed");
    }
    if provider.scopes.separator.is_empty() {
        return found("scopes", "separator", "something must stand between two scopes");
    }
    if provider.token.places.is_empty() {
        return found("token", "places", "at least one place for tokens is needed; \"\" is the whole reply");
    }
    let (token, account) = (&provider.token, &provider.account);
    let pointers = token.places.iter().map(|pointer| ("token", "places", pointer));
    let pointers = pointers.chain(account.name.iter().map(|pointer| ("account", "name", pointer)));
    let mut pointers = pointers.chain(account.works_when.iter().map(|pointer| ("account", "works_when", pointer)));
    if let Some((table, field, pointer)) = pointers.find(|(_, _, text)| !text.is_empty() && !text.starts_with('/')) {
        return found(table, field, &format!("{pointer:?} is no JSON pointer: one is empty or begins with \"/\""));
    }
    let revocation = provider.revocation.as_ref();
    let of_github = matches!(revocation, Some(Revocation::Github { .. }));
    let urls = [
        ("", "issuer", provider.issuer.as_ref()),
        ("authorization", "endpoint", provider.authorization.endpoint.as_ref()),
        ("token", "endpoint", token.endpoint.as_ref()),
        ("revocation", if of_github { "api" } else { "endpoint" }, revocation.map(Revocation::url)),
        ("account", "endpoint", account.endpoint.as_ref()),
    ];
    let (table, field, url) = urls.into_iter().find_map(|(table, field, url)| {
        let wrong = url.filter(|url| !is_plain(url))?;
        Some((table, field, wrong))
    })?;
    found(
        table,
        field,
        &format!("{url} must be https (or http, where the operator allows it), without user or fragment"),
    )
}

/// Whether a URL can be an endpoint. That http is refused but for the operator's exceptions is the wire's rule.
pub(crate) fn is_plain(url: &url::Url) -> bool {
    matches!(url.scheme(), "https" | "http")
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none()
        && url.has_host()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_file_is_valid() {
        for (file, text) in BUILTIN {
            let provider = parse(file, text).unwrap();
            assert!(!provider.sources.is_empty(), "{file} names no source");
            for source in provider.sources.iter().filter(|source| source.verified) {
                let run = source.source.contains("run against");
                assert!(run || source.source.starts_with("https://"), "{file} names no page for {}", source.about);
            }
        }
        assert_eq!(Catalogue::builtin().ids().collect::<Vec<_>>(), ["github", "google", "http", "oidc", "slack"]);
    }

    #[test]
    fn fault_names_file_and_line() {
        let head = "id = \"x\"\ntitle = \"X\"\n";
        let cases = [
            ("methods = []\n", "x.toml:3: at least one method is needed"),
            ("methods = [\"bearer\"]\nfrob = 1\n", "x.toml:4: unknown field `frob`"),
            ("methods = [\"oauth2\"]\n", "x.toml:3: without an issuer, [token] must name its endpoint"),
            ("methods = [\"bearer\"]\nissuer = \"nonsense\"\n", "x.toml:4: "),
            ("methods = [\"bearer\"]\nissuer = \"https://u@h\"\n", "x.toml:4: https://u@h/ must be https"),
            ("methods = [\"bearer\"]\n[token]\nrotation = \"often\"\n", "x.toml:5: unknown variant `often`"),
            ("methods = [\"bearer\"]\n[token]\nplaces = [\"data\"]\n", "x.toml:5: \"data\" is no JSON pointer"),
            ("methods = [\"bearer\"]\n[account]\nname = [\"/a\", \"b\"]\n", "x.toml:5: \"b\" is no JSON pointer"),
            ("methods = [\"bearer\"]\n[account]\nworks_when = \"ok\"\n", "x.toml:5: \"ok\" is no JSON pointer"),
            ("methods = [\"bearer\"]\n[scopes]\nseparator = \"\"\n", "x.toml:5: something must stand between"),
            ("methods = [\"bearer\"]\n[scopes]\nparameters = []\n", "x.toml:5: at least one parameter"),
            (
                "methods = [\"bearer\"]\n[token]\nendpoint = \"https://h\"\n[account]\nendpoint = \"https://h#x\"\n",
                "x.toml:7: https://h/#x must be https",
            ),
            (
                "methods = [\"bearer\"]\n[revocation]\nkind = \"slack\"\nendpoint = \"ftp://h\"\n",
                "x.toml:6: ftp://h/ must be https",
            ),
            (
                "methods = [\"bearer\"]\n[revocation]\nkind = \"github\"\napi = \"https://u:p@h\"\n",
                "x.toml:6: https://u:p@h/ must be https",
            ),
        ];
        for (rest, expected) in cases {
            let error = parse("x.toml", &format!("{head}{rest}")).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{rest:?} gave {error:?}");
        }
        let error = parse("/etc/keyward/y.toml", &format!("{head}methods = [\"bearer\"]\n")).unwrap_err().to_string();
        assert_eq!(error, "/etc/keyward/y.toml:1: the file must be called x.toml, as its id says");
    }

    #[test]
    fn operators_file_takes_the_place_of_a_builtin_one() {
        let dir = tempfile::tempdir().unwrap();
        let own = "id = \"github\"\ntitle = \"Our GitHub\"\nmethods = [\"bearer\"]\n";
        std::fs::write(dir.path().join("github.toml"), own).unwrap();
        std::fs::write(dir.path().join("README"), "not read").unwrap();
        let catalogue = Catalogue::builtin().with_directory(dir.path()).unwrap();
        assert_eq!(catalogue.find("github").unwrap().title(), "Our GitHub");
        assert_eq!(catalogue.find("slack").unwrap().title(), "Slack");
        assert!(Catalogue::builtin().with_directory(&dir.path().join("none")).is_ok());
    }

    #[test]
    fn providers_own_error_codes_are_translated() {
        let catalogue = Catalogue::builtin();
        for (provider, own, standard) in [
            ("github", "bad_refresh_token", "invalid_grant"),
            ("github", "incorrect_client_credentials", "invalid_client"),
            ("slack", "invalid_refresh_token", "invalid_grant"),
            ("slack", "bad_client_secret", "invalid_client"),
            ("slack", "token_revoked", "invalid_grant"),
            ("slack", "account_inactive", "invalid_grant"),
            ("slack", "invalid_auth", "invalid_token"),
            ("oidc", "invalid_grant", "invalid_grant"),
            ("oidc", "whatever", "whatever"),
        ] {
            assert_eq!(catalogue.find(provider).unwrap().token.standard_error(own), standard);
        }
    }
}
