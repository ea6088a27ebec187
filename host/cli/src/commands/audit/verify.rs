//! `keyward audit verify`: whether the trail is what was written.

use clap::Args;
use keyward_store::AuditHead;
use serde_json::json;

use crate::{
    commands::Context,
    compose::Base,
    failure::{Exit, Failure},
    output::{self, style, styled},
};

/// Arguments of `keyward audit verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "Keep the head that it prints in another place: whoever can write the database can also make a new \
    trail, and only a head that was kept tells the two apart. Give it back with --head."
)]
pub(crate) struct Arguments {
    /// The head that an earlier check printed: the trail must go on from there
    #[arg(long, value_name = "NUMBER:DIGEST")]
    head: Option<AuditHead>,
}

/// Checks the trail.
pub(crate) async fn run(context: &Context, base: &Base, arguments: Arguments) -> Result<(), Failure> {
    let spinner = context.output.spinner("Checking the audit trail");
    let verdict = base.store.verify_audit(&context.tenant, arguments.head).await?;
    drop(spinner);
    let head = verdict.head;
    if let Some(fault) = verdict.fault {
        let sound = match head.number {
            0 => "no record before it".to_owned(),
            1 => "record 1 is sound".to_owned(),
            last => format!("records 1 to {last} are sound"),
        };
        return Err(Failure::new(Exit::Failed, "audit-broken", format!("the audit trail was tampered with: {fault}"))
            .hint(format!("{sound}; compare what follows with an earlier export or a backup"))
            .detail("head", head.to_string()));
    }
    context.output.result(&json!({"records": head.number, "head": head.to_string()}), || {
        let records = if head.number == 1 { "1 record".to_owned() } else { format!("{} records", head.number) };
        format!(
            "{} {records}, each as it was written\n{}",
            styled(style::GOOD, "✓"),
            output::facts([("head", head.to_string())])
        )
    })
}
