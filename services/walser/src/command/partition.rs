//! `walser partition`.

use std::process::ExitCode;

use walser_client::Client;
use walser_proto::v1 as pb;

use super::topic::answered;
use crate::cli::{PartitionCommand, PartitionRepairArgs};
use crate::error::CliError;
use crate::output::{self, bytes, count};

pub(crate) async fn run(command: PartitionCommand) -> Result<ExitCode, CliError> {
    let PartitionCommand::Repair(arguments) = command;
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
