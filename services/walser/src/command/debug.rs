//! `walser debug`: what helps to find a fault, from the processes of a cluster.

mod archive;
mod bundle;
mod log_level;
mod metadata;
mod processes;

use std::process::ExitCode;

use clap::Subcommand;

use self::bundle::DebugBundleArgs;
use self::log_level::DebugLogLevelArgs;
use crate::error::CliError;

#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Collect versions, settings, health, metrics, recent log lines and metadata in one file
    Bundle(DebugBundleArgs),
    /// Show or change which log lines processes write, without a restart
    LogLevel(DebugLogLevelArgs),
}

pub(crate) async fn run(command: DebugCommand) -> Result<ExitCode, CliError> {
    match command {
        DebugCommand::Bundle(arguments) => Box::pin(bundle::run(arguments)).await,
        DebugCommand::LogLevel(arguments) => log_level::run(&arguments).await,
    }
}
