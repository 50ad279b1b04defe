//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod cluster;
pub(crate) mod completion;
mod confirm;
pub(crate) mod consume;
pub(crate) mod context;
pub(crate) mod demo;
pub(crate) mod group;
pub(crate) mod log;
pub(crate) mod metadata;
pub(crate) mod node;
pub(crate) mod partition;
pub(crate) mod produce;
pub(crate) mod proto;
mod screen;
pub(crate) mod set_aside;
pub(crate) mod status;
pub(crate) mod tls;
pub(crate) mod topic;

use std::process::ExitCode;

use crate::cli::Command;
use crate::error::CliError;

/// Runs a command that talks to a server.
pub(crate) async fn remote(command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Produce(arguments) => Box::pin(produce::run(*arguments)).await,
        Command::Consume(arguments) => Box::pin(consume::run(arguments)).await,
        Command::Topic(command) => Box::pin(topic::run(command)).await,
        Command::Group(command) => Box::pin(group::run(command)).await,
        Command::Status(arguments) => Box::pin(status::run(arguments)).await,
        Command::Demo(arguments) => Box::pin(demo::run(arguments)).await,
        Command::Bench(command) => Box::pin(bench::run(command)).await,
        Command::Node(command) => node::run(command).await,
        Command::Partition(command) => Box::pin(partition::run(command)).await,
        Command::Metadata(command) => Box::pin(metadata::run(command)).await,
        _ => Err(CliError::failed("this command does not talk to a server")),
    }
}
