//! `keyward plugin add`: nothing is installed that was not shown and agreed to.

use std::path::PathBuf;

use clap::Args;
use keyward_model::manifest::Manifest;
use keyward_registry::{Difference, Proposal};
use serde_json::json;

use super::inspect;
use crate::{
    commands::{
        Context,
        connections::{self, confirm},
    },
    compiler,
    compose::Base,
    failure::{Exit, Failure},
    files, input,
    output::{Output, clean, style, styled},
};

/// Arguments of `keyward plugin add`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The component, as `keyward plugin build` makes it
    component: PathBuf,
    /// Agree without being asked; an upgrade that asks for more needs --allow-widening too
    #[arg(long, short)]
    yes: bool,
    /// With --yes: agree also to an upgrade that asks for more than what is installed
    #[arg(long, requires = "yes")]
    allow_widening: bool,
}

/// Installs it.
pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let output = context.output;
    let base = Base::open(context).await?;
    let bytes = files::read(&arguments.component)?;
    let size = bytes.len() as u64;
    keyward_runtime::check_component(&bytes)?;
    let proposal = base.registry.propose(&context.tenant, bytes).await?;
    let connector = proposal.connector.clone();
    let what = format!("{} {}", connector.name, connector.version);

    // The same bytes were agreed to before. They are only put back where they are missing or were changed on disk.
    let is_same = proposal.difference.as_ref().is_some_and(|difference| difference.from == connector);
    let known = is_same && !proposal.altered;
    if proposal.intact {
        return output.result(&json!({"connector": connector, "installed": true, "changed": false}), || {
            format!("{what} is installed already, byte for byte.")
        });
    }
    if !known {
        output.show(format_args!("{}\n", inspect::describe(&proposal.manifest, &connector.digest, size)));
        if proposal.altered {
            let text = "The record of what is installed is not what its component says. What follows is told against \
                        the component.";
            output.show(format_args!("{}\n", styled(style::ODD, text)));
        }
        if let Some(difference) = &proposal.difference {
            output.show(format_args!("{}\n", changes(difference)));
        }
        agree(context, &arguments, &proposal, &what)?;
    }
    // Compiled before it is installed: what cannot be compiled is not installed, and the first call is fast.
    compile(output, &base, &arguments.component, &proposal).await?;
    let difference = proposal.difference.clone();
    let accepted = base.registry.accept(proposal, &context.principal).await?;
    compiler::sweep(&base).await;

    let document = json!({
        "connector": accepted.connector,
        "installed": true,
        "changed": true,
        "difference": difference,
        "actions": accepted.manifest.actions.keys().collect::<Vec<_>>(),
    });
    output.result(&document, || {
        let instead = difference.filter(|_| !is_same);
        let instead = instead.map(|difference| format!(", in the place of {}", difference.from.version));
        format!("{} installed {what}{}", styled(style::GOOD, "✓"), instead.unwrap_or_default())
    })?;
    hints(context, &base, &accepted.manifest).await
}

/// What a person may want to do with a connector that was just installed.
async fn hints(context: &Context, base: &Base, manifest: &Manifest) -> Result<(), Failure> {
    let name = &manifest.name;
    if let Some(provider) = &manifest.provider {
        let connected = connections::open_facts(base, context).await?;
        if !connected.iter().any(|facts| facts.provider == *provider) {
            context.output.hint(format_args!("connect an account: keyward connect {provider} --for {name}"));
        }
    }
    if let Some((action, declared)) = manifest.actions.iter().next() {
        let usage = input::usage(&declared.input).map(|usage| format!(" {usage}")).unwrap_or_default();
        context.output.hint(format_args!("call an action: keyward call {name}.{action}{usage}"));
    }
    Ok(())
}

fn agree(context: &Context, arguments: &Arguments, proposal: &Proposal, what: &str) -> Result<(), Failure> {
    let widens = proposal.difference.as_ref().is_some_and(|difference| difference.widens);
    if arguments.yes && widens && !arguments.allow_widening {
        let mut failure =
            Failure::new(Exit::Denied, "widening-refused", format!("{what} asks for more than what is installed"))
                .hint("look at the difference, and add --allow-widening to agree to it");
        if let Some(difference) = &proposal.difference {
            failure = failure.detail("difference", json!(difference));
        }
        return Err(failure);
    }
    let question = match (&proposal.difference, widens) {
        (None, _) => format!("Install {what} and let it do this?"),
        (Some(_), true) => format!("Upgrade to {what}, which asks for MORE than before?"),
        (Some(_), false) => format!("Upgrade to {what}, which asks for no more than before?"),
    };
    confirm(context, arguments.yes, &question)
}

async fn compile(output: Output, base: &Base, component: &std::path::Path, proposal: &Proposal) -> Result<(), Failure> {
    let spinner = output.spinner(format!("Compiling {}", proposal.connector.name));
    compiler::compiler(&base.config)?.precompile(component, &proposal.connector.digest).await?;
    drop(spinner);
    Ok(())
}

/// What an upgrade changes, with what widens told first.
fn changes(difference: &Difference) -> String {
    let mut lines = vec![if difference.widens {
        styled(style::ODD, format_args!("It asks for more than {}, which is installed:", difference.from.version))
    } else {
        format!("Against {}, which is installed:", difference.from.version)
    }];
    let marked = |mark: char, look, texts: &[String]| {
        texts.iter().map(|text| styled(look, format_args!("  {mark} {}", clean(text)))).collect::<Vec<_>>()
    };
    lines.extend(marked('+', style::ODD, &difference.added));
    lines.extend(marked('~', style::ODD, &difference.changed));
    lines.extend(marked('-', style::GOOD, &difference.removed));
    if lines.len() == 1 {
        lines.push("  nothing changes in what it asks for".to_owned());
    }
    lines.join("\n")
}
