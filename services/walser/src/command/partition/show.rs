//! `walser partition list` and `walser partition describe`.

use std::process::ExitCode;

use clap::{ArgGroup, Args};
use clap_complete::engine::ArgValueCompleter;
use serde_json::json;
use walser_proto::v1 as pb;

use crate::args::{Form, OutputArgs};
use crate::command::topic::known;
use crate::complete;
use crate::error::CliError;
use crate::message;
use crate::output::{self, bytes, count, table};
use crate::server::Server;

/// Partitions asked for at once.
const PAGE: i32 = 2000;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").args(["topic", "unhealthy"]).required(true).multiple(true)))]
pub(crate) struct PartitionListArgs {
    /// Topic; without it, all of them, with --unhealthy
    #[arg(add = ArgValueCompleter::new(complete::topics))]
    topic: Option<String>,
    /// Only those that lack copies or a leader, are failed or damaged
    #[arg(short = 'u', long)]
    unhealthy: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PartitionDescribeArgs {
    /// Topic
    #[arg(add = ArgValueCompleter::new(complete::topics))]
    topic: String,
    /// Partition, from 0
    partition: i32,
    #[command(flatten)]
    output: OutputArgs,
}

pub(in crate::command) type Found = (String, pb::Partition);

/// Partitions of a topic, or of all.
pub(in crate::command) async fn partitions(
    server: &Server,
    topic: &str,
    only_unhealthy: bool,
) -> Result<Vec<Found>, CliError> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            pb::ListPartitionsRequest { topic: topic.to_owned(), page_size: PAGE, page_token, only_unhealthy };
        let page = server.answered(server.client.topics().list_partitions(request).await)?;
        found.extend(page.partitions.into_iter().filter_map(|info| Some((info.topic, info.partition?))));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

pub(super) async fn list(arguments: PartitionListArgs) -> Result<ExitCode, CliError> {
    let server = Server::of(&arguments.output.server)?;
    let found = partitions(&server, arguments.topic.as_deref().unwrap_or_default(), arguments.unhealthy).await?;
    match arguments.output.output {
        Form::Name => found.iter().for_each(|found| output::data(&name(found))),
        Form::Json => {
            let all = found.iter().map(document).collect::<Result<Vec<_>, _>>()?;
            output::document(&json!({ "partitions": all }))?;
        }
        Form::Ndjson => {
            for found in &found {
                output::data(&document(found)?.to_string());
            }
        }
        Form::Table if found.is_empty() => output::data("no partition lacks anything"),
        Form::Table => show(&found),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn describe(arguments: PartitionDescribeArgs) -> Result<ExitCode, CliError> {
    let PartitionDescribeArgs { topic, partition, output } = arguments;
    let server = Server::of(&output.server)?;
    let found = partitions(&server, &topic, false).await?;
    let Some(found) = found.into_iter().find(|(_, found)| found.partition == partition) else {
        return Err(CliError::not_found(format!("topic \"{topic}\" has no partition {partition}")));
    };
    match output.output {
        Form::Name => output::data(&name(&found)),
        Form::Json => output::document(&document(&found)?)?,
        Form::Ndjson => output::data(&document(&found)?.to_string()),
        Form::Table => {
            let part = &found.1;
            output::data(&format!("{}  epoch {}", name(&found), part.leader_epoch));
            show(&[found]);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn name((topic, partition): &Found) -> String {
    format!("{topic}/{}", partition.partition)
}

pub(in crate::command) fn document((topic, partition): &Found) -> Result<serde_json::Value, CliError> {
    Ok(json!({ "topic": topic, "partition": message::json(partition)? }))
}

fn show(found: &[Found]) {
    show_partitions(found.iter().map(|found| (name(found), &found.1)));
}

/// Shows partitions, each with what it is called there.
pub(crate) fn show_partitions<'a>(partitions: impl Iterator<Item = (String, &'a pb::Partition)> + Clone) {
    let rows: Vec<_> = partitions.clone().map(|(name, partition)| row(name, partition)).collect();
    output::data(&table(&["PARTITION", "LEADER", "REPLICAS", "IN SYNC", "FIRST", "NEXT", "SIZE"], &rows));
    for (name, partition) in partitions {
        if let Some(problem) = &partition.problem {
            let repair = if partition.damaged { "; see `walser partition repair`" } else { "" };
            output::data(&format!("  ! partition {name}: {problem}{repair}"));
        }
        for lag in partition.lags.iter().filter(|lag| !partition.isr.contains(&lag.node_id)) {
            output::data(&format!("  . partition {name}: the replica of node {} {}", lag.node_id, behind(lag)));
        }
    }
}

fn behind(lag: &pb::ReplicaLag) -> String {
    let seconds = lag.behind.map_or(0, |behind| behind.seconds);
    match lag.offsets {
        Some(1) => format!("is 1 record and {seconds} s behind"),
        Some(offsets) => format!("is {} records and {seconds} s behind", count(offsets)),
        None => format!("has not said for {seconds} s what it has"),
    }
}

fn row(name: String, partition: &pb::Partition) -> Vec<String> {
    let ids = |nodes: &[i32]| nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    vec![
        name,
        partition.leader.map_or_else(|| "none !".to_owned(), |leader| leader.to_string()),
        ids(&partition.replicas),
        ids(&partition.isr),
        known(partition.log_start_offset, count),
        known(partition.high_watermark, count),
        known(partition.size_bytes, bytes),
    ]
}
