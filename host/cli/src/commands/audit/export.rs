//! `keyward audit export`: the trail for other programs.

use clap::{Args, ValueEnum, value_parser};
use keyward_model::{AuditRecord, audit::ocsf};
use keyward_store::StoredRecord;

use super::Filter;
use crate::{
    commands::{Context, connections},
    compose::Base,
    failure::{Exit, Failure},
};

/// Arguments of `keyward audit export`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The form of a line
    #[arg(long, value_enum, default_value_t = Format::Records)]
    format: Format,
    /// Only records after the one with this number, where the export before ended
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = value_parser!(u64).range(..=i64::MAX as u64))]
    after: u64,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// The record as it was written, with its number and digest in the chain
    Records,
    /// Events of the Open Cybersecurity Schema Framework 1.6.0
    Ocsf,
}

/// Writes the records, page by page, so that a long trail needs no more memory than a short one.
pub(crate) async fn run(context: &Context, base: &Base, arguments: Arguments) -> Result<(), Failure> {
    let facts = connections::open_facts(base, context).await?;
    let filter = arguments.filter.resolve(&facts)?;
    let mut after = arguments.after;
    loop {
        let page = base.store.audit_page(&context.tenant, &filter, after).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.head.number;
        let lines = page.iter().map(|stored| line(stored, arguments.format)).collect::<Result<String, Failure>>()?;
        if !context.output.part(&lines)? {
            return Ok(());
        }
    }
}

fn line(StoredRecord { text, head }: &StoredRecord, format: Format) -> Result<String, Failure> {
    Ok(match format {
        // Byte for byte, because the digest is over it.
        Format::Records => format!("{{\"number\":{},\"digest\":\"{}\",\"record\":{text}}}\n", head.number, head.digest),
        Format::Ocsf => {
            let record: AuditRecord = serde_json::from_str(text).map_err(|error| {
                Failure::new(
                    Exit::Environment,
                    "database-damaged",
                    format!("audit record {} cannot be read", head.number),
                )
                .because(&error)
                .hint("`keyward audit verify` tells what was changed")
            })?;
            format!("{}\n", ocsf::event(&record, head.number))
        }
    })
}
