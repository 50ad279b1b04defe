//! `walser partition`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use walser_proto::v1 as pb;

use super::set_aside::{self, SetAsideCommand};
use crate::args::ServerArgs;
use crate::complete;
use crate::error::CliError;
use crate::output::{self, bytes, count};
use crate::server::Server;

#[derive(Debug, Subcommand)]
pub(crate) enum PartitionCommand {
    /// Give up the damaged part of a partition that has no other copy
    #[command(after_help = "Example:\n  walser partition repair orders 3 --accept-loss")]
    Repair(PartitionRepairArgs),
    /// Data that storage nodes hold aside because the metadata did not know its topic
    #[command(subcommand, after_help = "Example:\n  walser partition set-aside list")]
    SetAside(SetAsideCommand),
}

#[derive(Debug, Args)]
pub(crate) struct PartitionRepairArgs {
    /// Topic
    #[arg(add = ArgValueCompleter::new(complete::topics))]
    pub(crate) topic: String,
    /// Partition, from 0
    pub(crate) partition: i32,
    /// Records at and above the damage are lost; say that you know
    #[arg(long)]
    pub(crate) accept_loss: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

pub(crate) async fn run(command: PartitionCommand) -> Result<ExitCode, CliError> {
    match command {
        PartitionCommand::Repair(arguments) => repair(arguments).await,
        PartitionCommand::SetAside(command) => set_aside::run(command).await,
    }
}

async fn repair(arguments: PartitionRepairArgs) -> Result<ExitCode, CliError> {
    let PartitionRepairArgs { topic, partition, accept_loss, server } = arguments;
    if !accept_loss {
        let error = CliError::usage("a repair gives up every record at and above the damage");
        return Err(error.with_help("say --accept-loss if you mean it; what is cut is kept beside the log"));
    }
    let server = Server::of(&server)?;
    let client = &server.client;
    let topic_partition = Some(pb::TopicPartition { topic: topic.clone(), partition });
    let request = pb::RepairPartitionRequest { topic_partition, accept_loss };
    let repaired = server.answered(client.cluster().repair_partition(request).await)?;
    output::data(&format!(
        "{topic}/{partition}: the log ended at {}, it ends at {} now; {} were kept aside",
        count(repaired.old_end_offset),
        count(repaired.new_end_offset),
        bytes(repaired.set_aside_bytes),
    ));
    Ok(ExitCode::SUCCESS)
}
