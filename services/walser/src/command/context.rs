//! `walser context`.

use std::process::ExitCode;

use clap::Subcommand;
use clap_complete::engine::ArgValueCompleter;
use walser_client::Client;

use crate::args::Form;
use crate::candidates;
use crate::context::Contexts;
use crate::error::CliError;
use crate::output::{self, table};
use crate::tls_args::TlsArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the named servers; * is the current one
    #[command(visible_alias = "ls", after_help = "Example:\n  walser context ls -o name")]
    List {
        /// Form of the output
        #[arg(short = 'o', long, value_name = "FORM", default_value = "table")]
        output: Form,
    },
    /// Show the name and address that commands talk to
    #[command(after_help = "Example:\n  PS1='[$(walser context current)] $ '")]
    Current,
    /// Name a server; the first one becomes the current one
    #[command(after_help = "Example:\n  walser context add prod 10.0.0.7:7460")]
    Add {
        /// Name
        name: String,
        /// Address
        #[arg(value_name = "HOST:PORT")]
        server: String,
        #[command(flatten)]
        tls: TlsArgs,
    },
    /// Talk to another server from now on
    #[command(visible_alias = "select", after_help = "Examples:\n  walser context use prod\n  walser context use -")]
    Use {
        /// Name; - is the one before
        #[arg(allow_hyphen_values = true, add = ArgValueCompleter::new(candidates::contexts))]
        name: String,
    },
    /// Forget a name
    #[command(visible_alias = "rm", after_help = "Example:\n  walser context remove prod")]
    Remove {
        /// Name
        #[arg(add = ArgValueCompleter::new(candidates::contexts))]
        name: String,
    },
}

pub(crate) fn run(command: ContextCommand) -> Result<ExitCode, CliError> {
    match command {
        ContextCommand::List { output } => list(&Contexts::load()?, output)?,
        ContextCommand::Current => match Contexts::load()?.current()? {
            Some((name, server)) => output::data(&format!("{name} {server}")),
            None => {
                let error = CliError::not_found("no context is chosen: commands talk to 127.0.0.1:7460");
                return Err(error.with_help("`walser context add NAME HOST:PORT` names a server"));
            }
        },
        ContextCommand::Add { name, server, tls } => {
            Client::check_address(&server)?;
            tls.load()?;
            let tls = tls.absolute()?;
            let ((), contexts) = Contexts::change(|contexts| contexts.add(&name, &server, tls))?;
            list(&contexts, Form::Table)?;
        }
        ContextCommand::Use { name } => {
            let (name, contexts) = Contexts::change(|contexts| contexts.choose(&name))?;
            output::data(&format!("{name} {}", contexts.server(&name)?));
        }
        ContextCommand::Remove { name } => {
            let ((), contexts) = Contexts::change(|contexts| contexts.remove(&name))?;
            if contexts.current()?.is_none() {
                output::note("no context is chosen now: commands talk to 127.0.0.1:7460");
            }
        }
    }
    for name in ["WALSER_SERVER", "WALSER_CONTEXT"] {
        if let Some(value) = std::env::var(name).ok().filter(|value| !value.is_empty()) {
            output::note(&format!("{name}={value} is set and goes before the current context"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(contexts: &Contexts, form: Form) -> Result<(), CliError> {
    let current = contexts.current().ok().flatten().map(|(name, _)| name);
    let json = |(name, server): (&str, &str)| serde_json::json!({ "name": name, "server": server, "current": current == Some(name) });
    match form {
        Form::Name => contexts.all().for_each(|(name, _)| output::data(name)),
        Form::Json => output::document(&contexts.all().map(json).collect::<Vec<_>>())?,
        Form::Ndjson => contexts.all().for_each(|context| output::data(&json(context).to_string())),
        Form::Table => {
            let mark = |name: &str| if current == Some(name) { "*" } else { "" }.to_owned();
            let rows: Vec<_> =
                contexts.all().map(|(name, server)| vec![mark(name), name.to_owned(), server.to_owned()]).collect();
            output::data(&table(&["", "NAME", "SERVER"], &rows));
        }
    }
    Ok(())
}
