//! `keyward policy`: what the operator allows, and why a request would pass or not.

use clap::{Args, Subcommand};
use keyward_model::{ActionRef, Body, ConnectionName, GuestRequest, Reason, Target};
use keyward_policy::{
    ActionRules, Operator,
    operator::{Call, PolicyDifference},
};
use serde_json::json;

use super::connections::{self, confirm};
use crate::{
    commands::Context,
    compose::Base,
    directory,
    failure::{Exit, Failure},
    output::{self, style, styled},
    policy::Current,
};

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the policy, and what differs from what was agreed to
    Show,
    /// Agree to a policy that could allow more than before
    Accept(AcceptArguments),
    /// Tell whether a request would pass, and why; nothing is sent
    Check(CheckArguments),
}

/// Arguments of `keyward policy accept`.
#[derive(Debug, Args)]
pub(crate) struct AcceptArguments {
    /// Agree without being asked
    #[arg(long, short)]
    yes: bool,
}

/// Arguments of `keyward policy check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  keyward policy check github.create-issue POST /repos/octo-org/hello/issues\n  \
    keyward policy check github.list-issues GET 'https://api.github.com/repositories/1/issues?page=2'")]
pub(crate) struct CheckArguments {
    /// The action that would make the request: <connector>.<action>
    action: ActionRef,
    /// The method
    method: String,
    /// An absolute URL, or a path below the endpoint
    #[arg(value_name = "URL|PATH")]
    target: String,
    /// The endpoint that a path is below
    #[arg(long, default_value = "api")]
    endpoint: String,
    /// A query parameter (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    query: Vec<String>,
    /// The connection [default: the only one of the connector's provider]
    #[arg(long, short)]
    connection: Option<ConnectionName>,
}

/// Does it.
pub(crate) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let base = Base::open(context).await?;
    match command {
        Command::Show => show(context, &base).await,
        Command::Accept(arguments) => accept(context, &base, &arguments).await,
        Command::Check(arguments) => check(context, &base, arguments).await,
    }
}

async fn show(context: &Context, base: &Base) -> Result<(), Failure> {
    let current = Current::read(&base.config, &base.store).await?;
    let accepted = current.accepted.as_ref();
    let document = json!({
        "file": base.config.policy().display().to_string(),
        "policy": current.policy,
        "accepted_at": accepted.map(|accepted| output::rfc3339(accepted.at)),
        "accepted_by": accepted.map(|accepted| accepted.by.to_string()),
        "difference": current.difference,
    });
    context.output.result(&document, || {
        let mut text = if current.policy.allow.is_empty() && current.policy.deny.is_empty() {
            format!(
                "Every request that a manifest declares is allowed: {} has no line.\n",
                base.config.policy().display()
            )
        } else {
            let lines =
                |key: &str, lines: &[_]| lines.iter().map(|line| format!("{key}: {line}\n")).collect::<String>();
            lines("allow", &current.policy.allow) + &lines("deny", &current.policy.deny)
        };
        if !current.difference.is_empty() {
            text.push_str(&format!("\nAgainst what was agreed to:\n{}", changes(&current.difference)));
        }
        text
    })
}

async fn accept(context: &Context, base: &Base, arguments: &AcceptArguments) -> Result<(), Failure> {
    let current = Current::read(&base.config, &base.store).await?;
    let difference = &current.difference;
    if !difference.is_empty() {
        context.output.show(changes(difference));
        let widens = !difference.widening.is_empty();
        if widens {
            confirm(context, arguments.yes, "Agree to this policy, which could allow more than before?")?;
        }
        current.accept(context, &base.store, if widens { "widened" } else { "narrowed" }).await?;
    }
    context.output.result(&json!({"changed": !difference.is_empty(), "difference": difference}), || {
        if difference.is_empty() {
            "Nothing differs from what was agreed to.".to_owned()
        } else {
            format!("{} the policy holds from now on", styled(style::GOOD, "✓"))
        }
    })
}

/// What changes, a line each, what could allow more first.
fn changes(difference: &PolicyDifference) -> String {
    let widening = difference.widening.iter().map(|line| format!("{} {line}\n", styled(style::ODD, "allows more:")));
    let narrowing = difference.narrowing.iter().map(|line| format!("allows less: {line}\n"));
    widening.chain(narrowing).collect()
}

async fn check(context: &Context, base: &Base, arguments: CheckArguments) -> Result<(), Failure> {
    let (installed, _) = base.registry.find(&context.tenant, &arguments.action).await?;
    let facts = connections::open_facts(base, context).await?;
    let connection = directory::connection_for(&facts, arguments.connection.as_ref(), &installed.manifest)
        .map_err(|error| Failure::from(*error))?;
    let current = Current::read(&base.config, &base.store).await?;
    let policy = current.policy.clone();
    let action = &arguments.action;
    let call = Call {
        connector: &action.connector,
        action: &action.action,
        connection: connection.map(|connection| &connection.name),
    };
    policy.check_call(call).map_err(|denial| denied(Reason::PolicyDenied, denial.message, Some(denial.hint)))?;
    let operator = Operator { network: base.config.network.clone(), policy };
    let rules = ActionRules::compile(&installed.manifest, &action.action, &operator).map_err(|errors| {
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        Failure::new(Exit::BadInput, "manifest-invalid", texts.join("; "))
    })?;
    let target = if arguments.target.starts_with('/') {
        Target::Endpoint { endpoint: arguments.endpoint, path: arguments.target }
    } else {
        Target::Url(arguments.target)
    };
    let query = arguments.query.iter().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let request = GuestRequest {
        method: arguments.method,
        target,
        query: query.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        headers: Vec::new(),
        body: Body::Empty,
    };
    let permit = rules
        .authorize(&context.tenant, connection, request)
        .map_err(|denial| denied(denial.reason, denial.message, denial.hint))?;
    current.check_accepted(&base.config)?;
    let url = permit.url().to_string();
    let document = json!({
        "allowed": true,
        "method": permit.method().as_str(),
        "url": url,
        "path_template": permit.path_template(),
        "scopes": permit.scopes(),
        "connection": connection.map(|connection| &connection.name),
        "credential": !permit.placements().is_empty(),
        "redirects": permit.redirects(),
    });
    context.output.result(&document, || {
        let none = || "none".to_owned();
        let credential = match (connection, permit.placements()) {
            (Some(connection), [_, ..]) => format!("of the connection {}", connection.name),
            _ => none(),
        };
        let scopes = if permit.scopes().is_empty() { none() } else { permit.scopes().join(" ") };
        let redirects = if permit.redirects() { "followed" } else { "handed to the connector" };
        let facts = output::facts([
            ("request", format!("{} {url}", permit.method())),
            ("declared as", permit.path_template().to_owned()),
            ("credential", credential),
            ("scopes", scopes),
            ("redirects", redirects.to_owned()),
        ]);
        format!(
            "{} would be sent, where its name has an address that may be dialled\n{facts}",
            styled(style::GOOD, "✓")
        )
    })
}

fn denied(reason: Reason, message: String, hint: Option<String>) -> Failure {
    Failure::new(Exit::Denied, reason.code(), message).maybe_hint(hint)
}
