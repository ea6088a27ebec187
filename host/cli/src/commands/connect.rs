//! `keyward connect`: an account at a provider becomes a connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use clap::{Args, ValueEnum};
use keyward_model::{
    ActionRef, ConnectionFacts, ConnectionName,
    manifest::{Action, Manifest, Placement},
};
use keyward_vault::{
    AuthorizationStart, BasicSecret, ClientRegistration, ConnectionMethod, FieldValue, NewConnection, Provider, Secret,
    SigningKey, StaticCredential,
};
use time::OffsetDateTime;
use url::Url;

use super::{connections, plugin::installed, providers};
use crate::{
    commands::Context,
    compose::{self, Base, Unlocked},
    config::KeySource,
    failure::{Exit, Failure},
    output::{self, Output, style, styled},
    redirect::{Page, Redirect},
    scopes::{self, Purpose},
    secrets::{self, Wanted},
    signals,
};

/// Arguments of `keyward connect`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  keyward connect github --client-id Ov23... --for github.list-issues\n  \
    keyward connect http --method api-key --secret-file key.txt --name weather")]
pub(crate) struct Arguments {
    /// The provider; `keyward providers list` shows them
    provider: String,
    /// How to connect [default: the provider's first]
    #[arg(long, value_parser = method)]
    method: Option<ConnectionMethod>,
    /// The connection's name [default: the provider's id]
    #[arg(long)]
    name: Option<ConnectionName>,
    /// Connect the connection of that name again; it keeps its id and its scopes, and --scope and --for add to them
    #[arg(long)]
    reconnect: bool,
    /// A scope to ask for (repeatable)
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Ask for the least scopes that these need: '<connector>' or '<connector>.<action>' (repeatable, or with commas)
    #[arg(long = "for", value_name = "ACTION", value_delimiter = ',')]
    purposes: Vec<Purpose>,
    /// The issuer, for providers that leave it to the connection
    #[arg(long, value_name = "URL")]
    issuer: Option<Url>,
    /// The id of the client that is registered at the provider
    #[arg(long, value_name = "ID", env = "KEYWARD_CLIENT_ID", hide_env_values = true)]
    client_id: Option<String>,
    /// A file with the client's secret, '-' for standard input [default: KEYWARD_CLIENT_SECRET, or asks]
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// The user name, for the method basic, where it is not secret
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// What is secret with the method basic: 'username' where it is the key and the password is empty or known to all
    #[arg(long, value_name = "PART", value_enum, default_value_t)]
    secret_is: SecretIs,
    /// A file with the user name, where it and the password are secret [default: KEYWARD_USERNAME, or asks]
    #[arg(long, value_name = "FILE")]
    username_file: Option<PathBuf>,
    /// The password, where only the user name is secret [default: empty]
    #[arg(long, value_name = "TEXT")]
    public_password: Option<String>,
    /// The access key id, for the method aws-keys
    #[arg(long, value_name = "ID")]
    access_key_id: Option<String>,
    /// A file with the session token, for the method aws-keys with a temporary key
    #[arg(long, value_name = "FILE")]
    session_token_file: Option<PathBuf>,
    /// A file with the key, token or password, '-' for standard input [default: KEYWARD_SECRET, or asks]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// What a connector places beside the credential, where it is not secret (repeatable)
    #[arg(long = "field", value_name = "NAME=VALUE", value_parser = field)]
    fields: Vec<(String, String)>,
    /// A file with what a connector places beside the credential, where it is secret (repeatable)
    #[arg(long = "secret-field", value_name = "NAME=FILE", value_parser = field)]
    secret_fields: Vec<(String, String)>,
    /// A URL in the place of a configurable endpoint of a connector (repeatable)
    #[arg(long = "endpoint", value_name = "NAME=URL", value_parser = endpoint)]
    endpoints: Vec<(String, String)>,
    /// Do not open a browser, only show the address
    #[arg(long)]
    no_browser: bool,
    /// The port of 127.0.0.1 that the provider sends the browser back to [default: a free one]
    #[arg(long, value_name = "PORT")]
    redirect_port: Option<u16>,
    /// How long to wait for the sign-in, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

/// What is secret of user name and password.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum SecretIs {
    #[default]
    Password,
    Username,
    Both,
}

fn method(text: &str) -> Result<ConnectionMethod, String> {
    text.parse().map_err(|error: keyward_vault::UnknownMethod| error.to_string())
}

fn endpoint(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, url)) if !name.is_empty() && !url.is_empty() => Ok((name.to_owned(), url.to_owned())),
        _ => Err("write <name>=<URL>, with the name of an endpoint in the connector's manifest".to_owned()),
    }
}

fn field(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write <name>=<value>, with the name of a field that the connector's manifest places".to_owned()),
    }
}

/// Connects.
pub(crate) async fn run(context: &Context, mut arguments: Arguments) -> Result<(), Failure> {
    let output = context.output;
    let base = Base::open(context).await?;
    let catalogue = compose::catalogue(&base.config)?;
    let provider = providers::find(&catalogue, &arguments.provider)?;
    let existing = existing(context, &base, &arguments, provider).await?;
    let method = method_of(&arguments, provider, existing.as_ref())?;
    check_flags(&arguments, method)?;
    if provider.needs_issuer() && arguments.issuer.is_none() && existing.is_none() && of_an_issuer(method) {
        let message = format!("{} leaves the issuer to the connection", provider.title());
        return Err(Failure::new(Exit::Usage, "issuer-missing", message).hint("give its URL with --issuer"));
    }
    let new = NewConnection {
        tenant: context.tenant.clone(),
        principal: context.principal.clone(),
        name: name_of(&arguments, provider, existing.as_ref())?,
        owner: None,
        provider: provider.id().to_owned(),
        issuer: arguments.issuer.take(),
        client: ClientRegistration::default(),
        scopes: scopes_of(context, &base, &arguments, provider, existing.as_ref()).await?,
        endpoints: endpoints_of(&base, &arguments)?,
        fields: fields_of(&arguments).await?,
        reconnect: existing.as_ref().map(|facts| facts.id),
    };
    // What is asked of the person comes before the passphrase, and both before anything is sent.
    let facts = match method {
        ConnectionMethod::Oauth2 => {
            let client = client(output, &arguments, provider, existing.is_some(), false).await?;
            let unlocked = base.unlock(context).await?;
            authorize(output, &unlocked, NewConnection { client, ..new }, &arguments, provider).await?
        }
        ConnectionMethod::ClientCredentials => {
            let client = client(output, &arguments, provider, existing.is_some(), true).await?;
            let vault = base.unlock(context).await?.vault;
            let _spinner = output.spinner(format!("Asking {} for a token", provider.title()));
            vault.connect_client_credentials(NewConnection { client, ..new }).await?
        }
        ConnectionMethod::ApiKey
        | ConnectionMethod::Basic
        | ConnectionMethod::Bearer
        | ConnectionMethod::AwsKeys
        | ConnectionMethod::SigningKey => {
            let credential = credential(output, &arguments, method).await?;
            check_signing(context, &base, &arguments, provider, &credential).await?;
            base.unlock(context).await?.vault.connect_static(new, credential).await?
        }
    };
    output.result(&facts, || {
        let again = if existing.is_some() { "connected again" } else { "connected" };
        let title = styled(style::GOOD, format_args!("✓ {} is {again}", facts.name));
        format!("{title}\n{}", connections::describe(&facts))
    })?;
    output.hint(format_args!("check it with `keyward connections test {}`", facts.name));
    Ok(())
}

/// The connection to make again, where that is asked for.
async fn existing(
    context: &Context,
    base: &Base,
    arguments: &Arguments,
    provider: &Provider,
) -> Result<Option<ConnectionFacts>, Failure> {
    let all = connections::open_facts(base, context).await?;
    if arguments.reconnect {
        let facts = match &arguments.name {
            Some(name) => connections::named(&all, name)?,
            None => the_only(&all, provider)?.clone(),
        };
        if facts.provider != provider.id() {
            let message =
                format!("the connection {} is one of {}, not of {}", facts.name, facts.provider, provider.id());
            return Err(Failure::new(Exit::Usage, "provider-differs", message)
                .hint(format!("keyward connect {} --reconnect --name {}", facts.provider, facts.name)));
        }
        return Ok(Some(facts));
    }
    let name = name_of(arguments, provider, None)?;
    if all.iter().any(|facts| facts.name == name) {
        return Err(Failure::new(Exit::Usage, "name-taken", format!("there is a connection {name} already"))
            .hint("choose another name with --name, or add --reconnect to connect that one again"));
    }
    Ok(None)
}

fn the_only<'a>(all: &'a [ConnectionFacts], provider: &Provider) -> Result<&'a ConnectionFacts, Failure> {
    let of_provider: Vec<_> = all.iter().filter(|facts| facts.provider == provider.id()).collect();
    match of_provider[..] {
        [one] => Ok(one),
        [] => {
            let message = format!("there is no connection of {} to connect again", provider.id());
            Err(Failure::new(Exit::Connection, "connection-unknown", message).hint("leave --reconnect out"))
        }
        _ => {
            let names: Vec<_> = of_provider.iter().map(|facts| facts.name.as_str()).collect();
            let message = format!("there are {} connections of {}", names.len(), provider.id());
            Err(Failure::new(Exit::Usage, "connection-ambiguous", message)
                .hint(format!("name one with --name: {}", names.join(", "))))
        }
    }
}

fn name_of(
    arguments: &Arguments,
    provider: &Provider,
    existing: Option<&ConnectionFacts>,
) -> Result<ConnectionName, Failure> {
    match (existing, &arguments.name) {
        (Some(facts), _) => Ok(facts.name.clone()),
        (None, Some(name)) => Ok(name.clone()),
        (None, None) => provider.id().parse().map_err(|_| {
            Failure::new(Exit::Usage, "name-missing", format!("{} is no name for a connection", provider.id()))
                .hint("give one with --name")
        }),
    }
}

fn method_of(
    arguments: &Arguments,
    provider: &Provider,
    existing: Option<&ConnectionFacts>,
) -> Result<ConnectionMethod, Failure> {
    let known = provider.methods();
    let chosen = arguments
        .method
        .or_else(|| existing.and_then(|facts| facts.method.parse().ok()))
        .or_else(|| known.first().copied());
    match chosen {
        Some(method) if known.contains(&method) => Ok(method),
        _ => {
            let names: Vec<_> = known.iter().map(|method| method.as_str()).collect();
            let message = format!("{} cannot be connected in that way", provider.title());
            Err(Failure::new(Exit::Usage, "method-unsuitable", message)
                .hint(format!("--method is one of: {}", names.join(", "))))
        }
    }
}

/// Refuses flags that the method does not use: what they say would be lost.
fn check_flags(arguments: &Arguments, method: ConnectionMethod) -> Result<(), Failure> {
    let (pasted, named) = (!of_an_issuer(method), method == ConnectionMethod::Basic);
    let signs = method == ConnectionMethod::AwsKeys;
    let flags = [
        ("--issuer", arguments.issuer.is_some(), pasted),
        ("--client-secret-file", arguments.client_secret_file.is_some(), pasted),
        ("--secret-file", arguments.secret_file.is_some(), !pasted),
        ("--username", arguments.username.is_some(), !named),
        ("--username-file", arguments.username_file.is_some(), !named),
        ("--public-password", arguments.public_password.is_some(), !named),
        ("--access-key-id", arguments.access_key_id.is_some(), !signs),
        ("--session-token-file", arguments.session_token_file.is_some(), !signs),
        ("--secret-is", arguments.secret_is != SecretIs::default(), !named),
    ];
    match flags.into_iter().find(|(_, given, useless)| *given && *useless) {
        None => Ok(()),
        Some((flag, ..)) => {
            let message = format!("the method {method} does not use {flag}");
            Err(Failure::new(Exit::Usage, "flag-unsuitable", message)
                .hint(format!("leave {flag} out, or choose another method with --method")))
        }
    }
}

/// Whether an authorization server has to be found.
fn of_an_issuer(method: ConnectionMethod) -> bool {
    matches!(method, ConnectionMethod::Oauth2 | ConnectionMethod::ClientCredentials)
}

/// The scopes to ask for: those that are named, and the least that the named actions need beside them and beside those
/// that a connection which is made again has. That it asks for its own again is the vault's doing.
async fn scopes_of(
    context: &Context,
    base: &Base,
    arguments: &Arguments,
    provider: &Provider,
    existing: Option<&ConnectionFacts>,
) -> Result<BTreeSet<String>, Failure> {
    let given: BTreeSet<String> = arguments.scopes.iter().cloned().collect();
    let granted = existing.map(|facts| facts.granted_scopes.clone()).unwrap_or_default();
    let mut actions: Vec<Action> = Vec::new();
    for Purpose { connector, action } in &arguments.purposes {
        let manifest = match action {
            None => {
                let installed = installed::find(base, context, connector).await?;
                base.registry.verify(&installed).await?;
                let manifest = installed.manifest;
                actions.extend(manifest.actions.values().cloned());
                manifest
            }
            Some(action) => {
                let wanted = ActionRef { connector: connector.clone(), action: action.clone(), version: None };
                let (found, action) = base.registry.find(&context.tenant, &wanted).await?;
                actions.push(action);
                found.manifest
            }
        };
        if manifest.provider.as_deref() != Some(provider.id()) {
            let wants = manifest.provider.as_deref().unwrap_or("no account at all");
            let message = format!("the connector {connector} uses {wants}, not {}", provider.id());
            return Err(Failure::new(Exit::Usage, "provider-differs", message));
        }
    }
    Ok(scopes::asked(given, &granted, &actions, provider))
}

/// What connectors place beside the credential.
async fn fields_of(arguments: &Arguments) -> Result<BTreeMap<String, FieldValue>, Failure> {
    let mut all = BTreeMap::new();
    let mut given = |name: &str, value| match all.insert(name.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(Failure::new(Exit::Usage, "field-twice", format!("the field {name} is given twice"))),
    };
    for (name, value) in &arguments.fields {
        given(name, FieldValue::Open(value.clone()))?;
    }
    for (name, file) in &arguments.secret_fields {
        let file = PathBuf::from(file);
        given(name, FieldValue::Secret(secrets::from_file(name, &file).await?))?;
    }
    Ok(all)
}

fn endpoints_of(base: &Base, arguments: &Arguments) -> Result<BTreeMap<String, String>, Failure> {
    let mut all = BTreeMap::new();
    for (name, url) in &arguments.endpoints {
        let url = keyward_policy::check_endpoint_url(url, &base.config.network).map_err(|error| {
            Failure::new(
                Exit::Usage,
                "endpoint-invalid",
                format!("the endpoint {name} cannot be used: {}", error.message),
            )
            .maybe_hint(error.hint)
        })?;
        all.insert(name.clone(), url.to_string());
    }
    Ok(all)
}

/// The client to act as. What is not given for a connection that is made again stays as it was; a new secret alone goes
/// with the old id.
async fn client(
    output: Output,
    arguments: &Arguments,
    provider: &Provider,
    again: bool,
    secret_needed: bool,
) -> Result<ClientRegistration, Failure> {
    let wanted = Wanted {
        what: "Client secret",
        file: arguments.client_secret_file.as_deref(),
        variable: "KEYWARD_CLIENT_SECRET",
        flag: "--client-secret-file",
    };
    let id = match &arguments.client_id {
        Some(id) => id.clone(),
        None if again => return Ok(ClientRegistration { id: None, secret: secrets::given(wanted).await? }),
        None if output.can_ask() => inquire::Text::new(&format!("Client id at {}:", provider.title()))
            .prompt()
            .map_err(|error| secrets::interrupted(&error))?,
        None => String::new(),
    };
    if id.is_empty() {
        let message = format!("a client that is registered at {} is needed", provider.title());
        return Err(Failure::new(Exit::Usage, "client-missing", message).hint(
            "give its id with --client-id, and its secret in KEYWARD_CLIENT_SECRET or with --client-secret-file",
        ));
    }
    let secret: Option<Secret> = if secret_needed {
        Some(secrets::read(output, wanted).await?)
    } else {
        // A public client has none; so an empty answer is one.
        secrets::read_optional(output, wanted).await?
    };
    Ok(ClientRegistration { id: Some(id), secret })
}

async fn credential(
    output: Output,
    arguments: &Arguments,
    method: ConnectionMethod,
) -> Result<StaticCredential, Failure> {
    let secret = async |what| {
        let file = arguments.secret_file.as_deref();
        secrets::read(output, Wanted { what, file, variable: "KEYWARD_SECRET", flag: "--secret-file" }).await
    };
    Ok(match method {
        ConnectionMethod::Basic => basic(output, arguments, secret).await?,
        ConnectionMethod::ApiKey => StaticCredential::ApiKey(secret("API key").await?),
        ConnectionMethod::AwsKeys => {
            let access_key_id = arguments.access_key_id.clone().ok_or_else(|| {
                Failure::new(Exit::Usage, "access-key-missing", "the method aws-keys needs an access key id")
                    .hint("give it with --access-key-id")
            })?;
            let session_token = match &arguments.session_token_file {
                Some(file) => Some(secrets::from_file("session token", file).await?),
                None => None,
            };
            let secret_access_key = secret("Secret access key").await?;
            StaticCredential::AwsKeys { access_key_id, secret_access_key, session_token }
        }
        ConnectionMethod::SigningKey => {
            let key = SigningKey::read(&secret("Private key").await?);
            StaticCredential::SigningKey(key.map_err(keyward_vault::VaultError::from)?)
        }
        _ => StaticCredential::Bearer(secret("Token").await?),
    })
}

/// Refuses a credential that a connector cannot sign with: each that `--for` names, or, where none is named, all that
/// are installed for the provider.
async fn check_signing(
    context: &Context,
    base: &Base,
    arguments: &Arguments,
    provider: &Provider,
    credential: &StaticCredential,
) -> Result<(), Failure> {
    let is_named = !arguments.purposes.is_empty();
    let mut manifests = Vec::new();
    for purpose in &arguments.purposes {
        manifests.push(installed::find(base, context, &purpose.connector).await?.manifest);
    }
    if !is_named && matches!(credential, StaticCredential::SigningKey(_)) {
        let all = base.registry.installed(&context.tenant).await?.into_iter().map(|installed| installed.manifest);
        manifests.extend(all.filter(|manifest| manifest.provider.as_deref() == Some(provider.id())));
    }
    let faults: Vec<_> =
        manifests.iter().filter_map(|manifest| Some((manifest, misfit(manifest, credential)?))).collect();
    let signing =
        manifests.iter().filter(|manifest| manifest.credential.iter().any(|place| matches!(place, Placement::Jwt(_))));
    match faults.first() {
        Some((manifest, fault)) if is_named || faults.len() == signing.count() => {
            let message = format!("the connector {} {fault}", manifest.name);
            Err(Failure::new(Exit::Usage, "key-unsuitable", message)
                .hint("its pages say which kind of key the provider gives; --for names the connectors that count"))
        }
        _ => Ok(()),
    }
}

/// Why the connector cannot sign tokens with the credential.
fn misfit(manifest: &Manifest, credential: &StaticCredential) -> Option<String> {
    manifest.credential.iter().find_map(|place| {
        let Placement::Jwt(jwt) = place else { return None };
        let algorithm = jwt.algorithm.as_str();
        match credential {
            StaticCredential::SigningKey(key) if key.fits(jwt.algorithm) => None,
            StaticCredential::SigningKey(key) if jwt.algorithm.is_symmetric() => {
                Some(format!("signs with a shared secret ({algorithm}), and this is {}", key.kind()))
            }
            StaticCredential::SigningKey(key) => Some(format!("signs {algorithm}, and this is {}", key.kind())),
            _ if jwt.algorithm.is_symmetric() => None,
            _ => Some(format!("signs {algorithm}, which needs a private key: --method signing-key")),
        }
    })
}

/// User name and password, each from where it may come: what is secret never from a flag's value.
async fn basic(
    output: Output,
    arguments: &Arguments,
    secret: impl AsyncFn(&'static str) -> Result<Secret, Failure>,
) -> Result<StaticCredential, Failure> {
    for (flag, given, has_meaning) in [
        ("--username", arguments.username.is_some(), arguments.secret_is == SecretIs::Password),
        ("--username-file", arguments.username_file.is_some(), arguments.secret_is == SecretIs::Both),
        ("--public-password", arguments.public_password.is_some(), arguments.secret_is == SecretIs::Username),
    ] {
        if given && !has_meaning {
            let message = format!("{flag} has no meaning with that --secret-is");
            return Err(Failure::new(Exit::Usage, "secret-unsuitable", message)
                .hint("a secret user name comes from a file, the environment or a prompt; so does a secret password"));
        }
    }
    Ok(match arguments.secret_is {
        SecretIs::Password => {
            let username = match &arguments.username {
                Some(name) => name.clone(),
                None if output.can_ask() => {
                    inquire::Text::new("User name:").prompt().map_err(|error| secrets::interrupted(&error))?
                }
                None => {
                    return Err(Failure::new(Exit::Usage, "username-missing", "the method basic needs a user name")
                        .hint("give it with --username"));
                }
            };
            let password = secret("Password").await?;
            StaticCredential::Basic { username: username.into(), password, secret: BasicSecret::Password }
        }
        SecretIs::Username => {
            let password = arguments.public_password.clone().unwrap_or_default().into();
            StaticCredential::Basic { username: secret("User name").await?, password, secret: BasicSecret::Username }
        }
        SecretIs::Both => {
            let file = arguments.username_file.as_deref();
            let wanted = Wanted { what: "User name", file, variable: "KEYWARD_USERNAME", flag: "--username-file" };
            let username = secrets::read(output, wanted).await?;
            StaticCredential::Basic { username, password: secret("Password").await?, secret: BasicSecret::Both }
        }
    })
}

/// Sends the person to the provider and waits for the browser to come back.
async fn authorize(
    output: Output,
    unlocked: &Unlocked,
    new: NewConnection,
    arguments: &Arguments,
    provider: &Provider,
) -> Result<ConnectionFacts, Failure> {
    let vault = &unlocked.vault;
    let mut redirect = Redirect::listen(arguments.redirect_port, provider.id()).await?;
    let start = vault.begin_authorization(new, redirect.url()).await?;
    redirect.expect(&start.state);
    // Also where a program reads: it, too, must have somebody open this address.
    output.always(format_args!("Open this address to sign in at {}:\n\n{}\n", provider.title(), start.url));
    if !arguments.no_browser && !open_browser(&start.url, unlocked.base.config.key.as_ref()) {
        output.warn("no browser could be opened; open the address yourself");
    }
    let spinner = output.spinner("Waiting for the sign-in");
    let ended = tokio::select! {
        answer = redirect.answer() => answer,
        _ = tokio::time::sleep(patience(&start, arguments.timeout)) => {
            return Err(Failure::new(Exit::Connection, "sign-in-timeout", "nobody signed in in time; nothing was changed")
                .hint("run the command again"));
        }
        () = signals::interrupted() => {
            return Err(Failure::new(Exit::Interrupted, "interrupted", "interrupted; nothing was changed"));
        }
    };
    let Some(query) = ended else {
        return Err(Failure::new(Exit::Internal, "internal", "the redirect server ended before an answer came"));
    };
    spinner.now("Exchanging the answer for tokens");
    let finished = vault.finish_authorization(&query).await.map_err(Failure::from);
    let ends_at = finished.as_ref().ok().and_then(|connected| connected.ends_at);
    let finished = finished.map(|connected| connected.facts);
    redirect.finish(page(provider, &finished)).await;
    if let Some(at) = ends_at {
        output.warn(format_args!(
            "{} gave no refresh token: the connection stops working at {}",
            provider.title(),
            output::moment(at)
        ));
        output.hint("a scope, often offline_access, or a setting of the client at the provider may be needed for one");
    }
    finished
}

/// Starts the first program that opens addresses; `false` where there is none.
fn open_browser(url: &Url, key: Option<&KeySource>) -> bool {
    open::commands(url.as_str()).into_iter().any(|mut command| {
        secrets::withhold(&mut command, key);
        // In a group of its own, so that Ctrl-C does not end the browser too.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().is_ok()
    })
}

/// How long to wait: as long as asked for, and no longer than the authorization lasts.
fn patience(start: &AuthorizationStart, timeout: u64) -> Duration {
    let left = (start.expires_at - OffsetDateTime::now_utc()).try_into().unwrap_or(Duration::ZERO);
    Duration::from_secs(timeout).min(left)
}

fn page(provider: &Provider, finished: &Result<ConnectionFacts, Failure>) -> Page {
    match finished {
        Ok(facts) => {
            let account = facts.account.as_ref().map(|account| format!(" as {account}")).unwrap_or_default();
            Page {
                title: format!("{} is connected", provider.title()),
                text: format!("The connection {}{account} is ready. You can close this page.", facts.name),
                good: true,
            }
        }
        Err(failure) => Page {
            title: format!("{} is not connected", provider.title()),
            text: output::clean(&format!(
                "{}. The command line tells what to do. You can close this page.",
                capitalised(&failure.message)
            )),
            good: false,
        },
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + characters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_name_and_a_url() {
        assert_eq!(endpoint("api=http://x/?a=b"), Ok(("api".to_owned(), "http://x/?a=b".to_owned())));
        for text in ["", "api", "=x", "api="] {
            assert!(endpoint(text).is_err(), "{text}");
        }
    }

    #[test]
    fn flags_that_the_method_does_not_use_are_refused() {
        use clap::FromArgMatches;
        let parse = |flags: &[&str]| {
            let command = Arguments::augment_args(clap::Command::new("connect"));
            let matches = command.try_get_matches_from(["connect", "oidc"].iter().chain(flags));
            matches.and_then(|matches| Arguments::from_arg_matches(&matches))
        };
        for (method, flags, good) in [
            (ConnectionMethod::Oauth2, &["--issuer", "https://as.example"][..], true),
            (ConnectionMethod::Bearer, &["--issuer", "https://as.example"], false),
            (ConnectionMethod::ApiKey, &["--client-secret-file", "x"], false),
            (ConnectionMethod::ClientCredentials, &["--client-secret-file", "x"], true),
            (ConnectionMethod::Oauth2, &["--secret-file", "x"], false),
            (ConnectionMethod::Bearer, &["--secret-file", "x"], true),
            (ConnectionMethod::Basic, &["--username", "x"], true),
            (ConnectionMethod::ApiKey, &["--username", "x"], false),
            (ConnectionMethod::Basic, &["--secret-is", "username", "--public-password", "x"], true),
            (ConnectionMethod::Bearer, &["--secret-is", "username"], false),
            (ConnectionMethod::ApiKey, &["--public-password", "x"], false),
            (ConnectionMethod::Basic, &["--secret-is", "both", "--username-file", "x"], true),
            (ConnectionMethod::Oauth2, &["--username-file", "x"], false),
            (ConnectionMethod::AwsKeys, &["--access-key-id", "x", "--session-token-file", "y"], true),
            (ConnectionMethod::ApiKey, &["--access-key-id", "x"], false),
        ] {
            let arguments = parse(flags).expect("the flags are known");
            assert_eq!(check_flags(&arguments, method).is_ok(), good, "{method} {flags:?}");
        }
        assert!(parse(&["--timeout", "601"]).is_err(), "the authorization itself ends after ten minutes");
    }

    #[test]
    fn a_failed_sign_in_is_told_in_the_browser_too() {
        let vault = keyward_vault::Catalogue::builtin();
        let provider = vault.find("github").expect("it is built in");
        let page = page(provider, &Err(Failure::new(Exit::Denied, "consent-denied", "the person said no")));
        assert!(!page.good && page.text.starts_with("The person said no"), "{page:?}");
    }
}
