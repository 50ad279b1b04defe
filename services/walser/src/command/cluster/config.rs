//! `walser cluster config`: what topics have that do not say otherwise.

use std::process::ExitCode;

use crate::cli::{ClusterConfigCommand, ClusterConfigSetArgs};
use crate::command::topic::{pairs, show_configs};
use crate::error::CliError;
use crate::output;
use crate::server::Server;

pub(super) async fn run(command: ClusterConfigCommand) -> Result<ExitCode, CliError> {
    match command {
        ClusterConfigCommand::List(arguments) => {
            let server = Server::of(&arguments.server)?;
            show_configs(arguments.output, &server.cluster_configs().await?)?;
            Ok(ExitCode::SUCCESS)
        }
        ClusterConfigCommand::Set(arguments) => set(arguments).await,
    }
}

async fn set(arguments: ClusterConfigSetArgs) -> Result<ExitCode, CliError> {
    let ClusterConfigSetArgs { settings, unset, dry_run, server } = arguments;
    let server = Server::of(&server)?;
    let changed = server.change_cluster_config(pairs(&settings)?, unset, dry_run).await?;
    let is = if dry_run { "would be" } else { "=" };
    changed.iter().for_each(|(name, value)| output::data(&format!("{name} {is} {value}")));
    if changed.is_empty() {
        output::note("nothing is different");
    }
    Ok(ExitCode::SUCCESS)
}
