//! `keyward audit`: who did what, where, allowed or denied.

mod export;
mod verify;

use std::{collections::HashMap, time::Duration};

use clap::{Args, Subcommand};
use keyward_model::{
    ActionName, AuditEvent, AuditRecord, ConnectionFacts, ConnectionId, ConnectionName, EchoedBy, RunId, Sent,
};
use keyward_store::AuditFilter;
use time::OffsetDateTime;

use super::connections;
use crate::{commands::Context, compose::Base, failure::Failure, output};

/// Arguments of `keyward audit`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "The reason codes are explained in docs/reasons.md. A record never holds a secret, a query or a body."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    filter: Filter,
    /// At most the newest so many
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 100)]
    limit: u32,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check that no record was changed, left out or put in
    Verify(verify::Arguments),
    /// Write all records as lines of JSON, the oldest first
    Export(export::Arguments),
}

/// Which records.
#[derive(Debug, Args)]
struct Filter {
    /// Only of this run
    #[arg(long, value_name = "ID")]
    run: Option<RunId>,
    /// Only with this connection: its name, or its id where it was deleted
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
    /// Only of actions of this name, for example 'create-issue'
    #[arg(long, value_name = "NAME")]
    action: Option<ActionName>,
    /// Only requests and calls that were refused
    #[arg(long)]
    denied: bool,
    /// Only from this time on: '2026-11-22T13:00:00Z', or how long ago: '30m', '12h', '7d'
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<OffsetDateTime>,
}

impl Filter {
    /// For the store; `facts` are the connections that there are.
    fn resolve(&self, facts: &[ConnectionFacts]) -> Result<AuditFilter, Failure> {
        let connection = match &self.connection {
            None => None,
            // A deleted connection has no name any more, but its records are there.
            Some(text) => match text.parse::<ConnectionId>() {
                Ok(id) => Some(id),
                Err(_) => Some(connections::named(facts, &text.parse::<ConnectionName>()?)?.id),
            },
        };
        Ok(AuditFilter {
            run: self.run,
            connection,
            action: self.action.clone(),
            denied_only: self.denied,
            since: self.since,
            limit: None,
        })
    }
}

fn since(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(at) = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339) {
        return Ok(at);
    }
    ago(text)
        .and_then(|span| OffsetDateTime::now_utc().checked_sub(span.try_into().ok()?))
        .ok_or_else(|| "write a time as 2026-11-22T13:00:00Z, or how long ago as 30m, 12h or 7d".to_owned())
}

fn ago(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

/// Shows, checks or exports the records.
pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let base = Base::open(context).await?;
    match arguments.command {
        None => show(context, &base, &arguments.filter, arguments.limit).await,
        Some(Command::Verify(arguments)) => verify::run(context, &base, arguments).await,
        Some(Command::Export(arguments)) => export::run(context, &base, arguments).await,
    }
}

async fn show(context: &Context, base: &Base, filter: &Filter, limit: u32) -> Result<(), Failure> {
    let facts = connections::open_facts(base, context).await?;
    let names: HashMap<ConnectionId, ConnectionName> =
        facts.iter().map(|facts| (facts.id, facts.name.clone())).collect();
    let filter = AuditFilter { limit: Some(limit), ..filter.resolve(&facts)? };
    let records = base.store.audit_records(&context.tenant, &filter).await?;
    context.output.result(&records, || {
        if records.is_empty() {
            return "There are no such records.".to_owned();
        }
        output::table(
            ["time", "event", "by", "action", "connection", "what", "reason"],
            records.iter().map(|record| row(record, &names)),
        )
    })
}

fn row(record: &AuditRecord, names: &HashMap<ConnectionId, ConnectionName>) -> [String; 7] {
    let none = || "-".to_owned();
    let (event, what) = event(&record.event);
    let action = match (&record.connector, &record.action) {
        (Some(connector), Some(action)) => format!("{}.{action}", connector.name),
        (Some(connector), None) => format!("{} {}", connector.name, connector.version),
        (None, _) => match &record.event {
            AuditEvent::CallRefused { action, .. } => format!("{}.{}", action.connector, action.action),
            _ => none(),
        },
    };
    let connection =
        record.connection.map_or_else(none, |id| names.get(&id).map_or_else(|| id.to_string(), ToString::to_string));
    [
        output::moment(record.at),
        event.to_owned(),
        record.principal.to_string(),
        action,
        connection,
        what,
        record.reason.map_or_else(none, |reason| reason.code().to_owned()),
    ]
}

/// What happened, in a word and in detail.
fn event(event: &AuditEvent) -> (&'static str, String) {
    match event {
        AuditEvent::RequestSent { method, host, path_template, status, sent, sends, duration_ms, .. } => {
            let (word, outcome) = match (status, sent) {
                (Some(status), _) => ("sent", status.to_string()),
                (None, Sent::No) => ("failed", "not sent".to_owned()),
                (None, Sent::Maybe | Sent::Yes) => ("sent", "no answer".to_owned()),
            };
            let again = if *sends > 1 { format!(", sent {sends} times") } else { String::new() };
            (word, format!("{method} {host}{path_template} → {outcome} in {duration_ms} ms{again}"))
        }
        AuditEvent::RequestPermitted { method, host, path_template, .. } => {
            ("permitted", format!("{method} {host}{path_template}"))
        }
        AuditEvent::RequestDenied { method, host, path_template } => {
            let host = host.as_deref().unwrap_or("(no host)");
            ("denied", format!("{method} {host}{}", path_template.as_deref().unwrap_or_default()))
        }
        AuditEvent::CallRefused { action, connection } => {
            let with = connection.as_ref().map(|name| format!(" with {name}")).unwrap_or_default();
            ("refused", format!("call of {action}{with}"))
        }
        AuditEvent::LimitReached => ("refused", "a request beyond a limit of the call".to_owned()),
        AuditEvent::RequestsRefused { count } => {
            let requests = if *count == 1 { "request" } else { "requests" };
            ("refused", format!("{count} more {requests} of the call"))
        }
        AuditEvent::SecretRedacted { count, by } => {
            let place = match by {
                EchoedBy::Server => "in the response",
                EchoedBy::Guest => "in what the connector said",
            };
            let often = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
            ("redacted", format!("{often} {place}"))
        }
        AuditEvent::Connection { change } => ("connection", change.clone()),
        AuditEvent::Consent { change } => ("consent", change.clone()),
        AuditEvent::Policy { change } => ("policy", change.clone()),
        AuditEvent::Vault { change } => ("vault", change.clone()),
        other => ("other", format!("{other:?}")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_told_in_a_word_and_in_detail() {
        let sent = |status, sent, sends| AuditEvent::RequestSent {
            method: "GET".to_owned(),
            host: "a.example".to_owned(),
            path_template: "/{id}".to_owned(),
            scopes: Vec::new(),
            status,
            sent,
            sends,
            duration_ms: 5,
        };
        let denied = |path_template| AuditEvent::RequestDenied {
            method: "PUT".to_owned(),
            host: Some("a.example".to_owned()),
            path_template,
        };
        let refused = AuditEvent::CallRefused { action: "a.b".parse().unwrap(), connection: "work".parse().ok() };
        for (what, word, detail) in [
            (sent(Some(200), Sent::Yes, 1), "sent", "GET a.example/{id} → 200 in 5 ms"),
            (sent(Some(201), Sent::Yes, 2), "sent", "GET a.example/{id} → 201 in 5 ms, sent 2 times"),
            (sent(None, Sent::Maybe, 1), "sent", "GET a.example/{id} → no answer in 5 ms"),
            (sent(None, Sent::No, 1), "failed", "GET a.example/{id} → not sent in 5 ms"),
            (denied(None), "denied", "PUT a.example"),
            (denied(Some("/{id}".to_owned())), "denied", "PUT a.example/{id}"),
            (refused, "refused", "call of a.b with work"),
            (AuditEvent::LimitReached, "refused", "a request beyond a limit of the call"),
            (AuditEvent::RequestsRefused { count: 1 }, "refused", "1 more request of the call"),
            (AuditEvent::RequestsRefused { count: 70 }, "refused", "70 more requests of the call"),
        ] {
            assert_eq!(event(&what), (word, detail.to_owned()));
        }
    }

    #[test]
    fn a_time_is_a_moment_or_how_long_ago() {
        assert_eq!(ago("30m"), Some(Duration::from_secs(1800)));
        assert_eq!(ago("7d"), Some(Duration::from_secs(7 * 86400)));
        for text in ["", "m", "5", "5w", "-5m", "ä", "99999999999999999999d"] {
            assert_eq!(ago(text), None, "{text}");
        }
        assert_eq!(since("1970-01-01T00:00:00Z"), Ok(OffsetDateTime::UNIX_EPOCH));
        assert!(since("yesterday").is_err() && since("18446744073709551615s").is_err());
    }
}
