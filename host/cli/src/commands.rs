//! One module for each command.

pub(crate) mod audit;
pub(crate) mod call;
pub(crate) mod connect;
pub(crate) mod connections;
pub(crate) mod doctor;
pub(crate) mod flow;
pub(crate) mod generate;
pub(crate) mod init;
pub(crate) mod plugin;
pub(crate) mod policy;
pub(crate) mod providers;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod vault;

use keyward_model::{Principal, TenantId};

use crate::{
    arguments::{Command, Globals},
    config::Config,
    failure::Failure,
    output::Output,
};

/// What every command is given.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// How to speak.
    pub(crate) output: Output,
    /// The options that all commands share.
    pub(crate) globals: Globals,
    /// The tenant that the command line administers.
    pub(crate) tenant: TenantId,
    /// As whom it acts.
    pub(crate) principal: Principal,
}

impl Context {
    /// The context of a process with these options: the local administrator of the tenant `default`.
    pub(crate) fn new(globals: Globals) -> Self {
        Self {
            output: Output::new(globals.json, globals.quiet),
            globals,
            tenant: TenantId::default(),
            principal: Principal::local_administrator(),
        }
    }

    /// The configuration. It is read only by commands that need it, so that the others work anywhere.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        Config::resolve(&self.globals)
    }

    /// The configuration of an installation that is still to be made.
    pub(crate) fn new_config(&self) -> Result<Config, Failure> {
        Config::resolve_new(&self.globals)
    }
}

/// Does what was asked for.
pub(crate) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Init(arguments) => init::run(context, arguments).await,
        Command::Plugin(command) => plugin::run(context, command).await,
        Command::Connect(arguments) => connect::run(context, *arguments).await,
        Command::Connections(command) => connections::run(context, command).await,
        Command::Providers(command) => providers::run(context, command),
        Command::Call(arguments) => call::run(context, arguments).await,
        Command::Run(arguments) => run::run(context, arguments).await,
        Command::Flow(command) => flow::run(context, command).await,
        Command::Runs(command) => runs::run(context, command).await,
        Command::Audit(arguments) => audit::run(context, arguments).await,
        Command::Policy(command) => policy::run(context, command).await,
        Command::Vault(command) => vault::run(context, command).await,
        Command::Doctor => doctor::run(context).await,
        Command::Completions(arguments) => generate::completions(context, arguments),
        Command::Man(arguments) => generate::man(context, arguments),
    }
}
