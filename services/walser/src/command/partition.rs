//! `walser partition`.

mod show;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use walser_proto::v1 as pb;
use walser_rpc::ApiError;

use self::show::{PartitionDescribeArgs, PartitionListArgs};
use super::set_aside::{self, SetAsideCommand};
use crate::args::ServerArgs;
use crate::complete;
use crate::error::CliError;
use crate::output::{self, bytes, count};
use crate::server::Server;

pub(super) use show::{document, partitions, show_partitions};

/// Partitions that one request names.
const ELECTED_AT_ONCE: usize = 10_000;
/// Partitions that an error names.
const NAMED_MAX: usize = 5;

#[derive(Debug, Subcommand)]
pub(crate) enum PartitionCommand {
    /// List the partitions of a topic, or those of all topics that lack something
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  walser partition list orders\n  walser partition list --unhealthy"
    )]
    List(PartitionListArgs),
    /// Show a partition: who leads it, who has it, what it holds
    #[command(after_help = "Example:\n  walser partition describe orders 3")]
    Describe(PartitionDescribeArgs),
    /// Give up the damaged part of a partition of which no copy is whole
    #[command(after_help = "Example:\n  walser partition repair orders 3 --accept-loss")]
    Repair(PartitionRepairArgs),
    /// Give the lead to the preferred replica, to a node, or to one that is behind
    #[command(
        after_help = "Examples:\n  walser partition elect orders\n  walser partition elect orders 3 --node 2\n  \
                            walser partition elect orders 3 --unclean --accept-loss"
    )]
    Elect(PartitionElectArgs),
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

#[derive(Debug, Args)]
pub(crate) struct PartitionElectArgs {
    /// Topic
    #[arg(add = ArgValueCompleter::new(complete::topics))]
    pub(crate) topic: String,
    /// Partition, from 0; without it, all of the topic
    pub(crate) partition: Option<i32>,
    /// Node that is to lead; without it, the first replica, which gets the lead
    /// back after some seconds in any case, unless its node is drained
    #[arg(long, value_name = "ID")]
    pub(crate) node: Option<i32>,
    /// Where nobody leads, the leader's log is damaged, or it reaches too few:
    /// whoever has most, or --node, though it need not have everything
    #[arg(long)]
    pub(crate) unclean: bool,
    /// What the elected replica lacks is lost, what it had not deleted yet can
    /// be read again; say that you know
    #[arg(long, requires = "unclean")]
    pub(crate) accept_loss: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

pub(crate) async fn run(command: PartitionCommand) -> Result<ExitCode, CliError> {
    match command {
        PartitionCommand::List(arguments) => show::list(arguments).await,
        PartitionCommand::Describe(arguments) => show::describe(arguments).await,
        PartitionCommand::Repair(arguments) => repair(arguments).await,
        PartitionCommand::Elect(arguments) => elect(arguments).await,
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

async fn elect(arguments: PartitionElectArgs) -> Result<ExitCode, CliError> {
    let PartitionElectArgs { topic, partition, node, unclean, accept_loss, server } = arguments;
    if unclean && !accept_loss {
        let error = CliError::usage("an unclean election loses the records that the elected replica does not have");
        return Err(error.with_help("start the nodes that are down if they can come back; else say --accept-loss"));
    }
    let server = Server::of(&server)?;
    let client = &server.client;
    let numbers = match partition {
        Some(partition) => partition..partition.saturating_add(1),
        None => {
            let request = pb::GetTopicRequest { name: topic.clone() };
            let found = server.answered(client.topics().get_topic(request).await)?.topic.unwrap_or_default();
            0..found.partition_count
        }
    };
    let named: Vec<_> = numbers.map(|partition| pb::TopicPartition { topic: topic.clone(), partition }).collect();
    let mut failed: Vec<(ApiError, Vec<i32>)> = Vec::new();
    for part in named.chunks(ELECTED_AT_ONCE) {
        let request = pb::ElectLeadersRequest { partitions: part.to_vec(), node_id: node, unclean };
        for result in server.answered(client.cluster().elect_leaders(request).await)?.results {
            let partition = result.topic_partition.map(|named| named.partition).unwrap_or_default();
            if let Some(failure) = result.error {
                let failure = ApiError::from(failure);
                match failed.iter_mut().find(|(before, _)| before.message() == failure.message()) {
                    Some((_, partitions)) => partitions.push(partition),
                    None => failed.push((failure, vec![partition])),
                }
                continue;
            }
            let leader = result.leader.map_or_else(|| "nobody".to_owned(), |leader| format!("node {leader}"));
            let what = if result.elected { "leads now" } else { "leads" };
            output::data(&format!("{topic}/{partition}: {leader} {what}"));
        }
    }
    let mut errors: Vec<_> = failed
        .into_iter()
        .map(|(failure, partitions)| {
            server.failed(failure).with_why(format!("so it is with {}", named_partitions(&partitions)))
        })
        .collect();
    let Some(last) = errors.pop() else { return Ok(ExitCode::SUCCESS) };
    errors.iter().for_each(CliError::show);
    Err(last)
}

fn named_partitions(partitions: &[i32]) -> String {
    let named = output::first_of(partitions.iter().map(ToString::to_string), partitions.len(), NAMED_MAX);
    format!("{} {named}", if partitions.len() == 1 { "partition" } else { "partitions" })
}
