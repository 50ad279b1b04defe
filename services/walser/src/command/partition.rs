//! `walser partition`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use walser_client::Client;
use walser_proto::v1 as pb;

use super::set_aside::{self, SetAsideCommand};
use super::topic::answered;
use crate::cli::ServerArgs;
use crate::error::CliError;
use crate::output::{self, bytes, count};

#[derive(Debug, Subcommand)]
pub(crate) enum PartitionCommand {
    /// Give up the damaged part of a partition that has no other copy
    Repair(PartitionRepairArgs),
    /// Data that storage nodes hold aside because the metadata did not know its topic
    #[command(subcommand)]
    SetAside(SetAsideCommand),
}

#[derive(Debug, Args)]
pub(crate) struct PartitionRepairArgs {
    pub(crate) topic: String,
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
    let client = Client::new(&server.server)?;
    let topic_partition = Some(pb::TopicPartition { topic: topic.clone(), partition });
    let request = pb::RepairPartitionRequest { topic_partition, accept_loss };
    let repaired = answered(client.cluster().repair_partition(request).await, &server)?;
    output::data(&format!(
        "{topic}/{partition}: the log ended at {}, it ends at {} now; {} were kept aside",
        count(repaired.old_end_offset),
        count(repaired.new_end_offset),
        bytes(repaired.set_aside_bytes),
    ));
    Ok(ExitCode::SUCCESS)
}
