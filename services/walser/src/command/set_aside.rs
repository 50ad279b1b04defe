//! `walser partition set-aside`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use walser_model::TopicId;
use walser_proto::v1 as pb;

use crate::args::{Form, OutputArgs, ServerArgs};
use crate::error::{CliError, UNAVAILABLE};
use crate::message;
use crate::output::{self, bytes, count, plural, table};
use crate::records::time::wire_time;
use crate::server::Server;

#[derive(Debug, Subcommand)]
pub(crate) enum SetAsideCommand {
    /// List the replicas that are held aside
    #[command(visible_alias = "ls", after_help = "Example:\n  walser partition set-aside list -o json")]
    List(OutputArgs),
    /// Make a topic of the data that is held aside under a topic id
    #[command(after_help = "Example:\n  walser partition set-aside restore TOPIC_ID --topic orders-2")]
    Restore(SetAsideRestoreArgs),
    /// Delete data that is held aside, for good
    #[command(after_help = "Example:\n  walser partition set-aside delete TOPIC_ID --accept-loss")]
    Delete(SetAsideDeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SetAsideRestoreArgs {
    /// Topic id, as listed
    pub(crate) topic_id: TopicId,
    /// Name that the topic gets; it must be free
    #[arg(long, value_name = "NAME")]
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SetAsideDeleteArgs {
    /// Topic id, as listed
    pub(crate) topic_id: TopicId,
    /// Only this partition
    #[arg(short = 'p', long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), allow_hyphen_values = true)]
    pub(crate) partition: Option<i32>,
    /// The records are gone for good; say that you know
    #[arg(long)]
    pub(crate) accept_loss: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

pub(crate) async fn run(command: SetAsideCommand) -> Result<ExitCode, CliError> {
    match command {
        SetAsideCommand::List(arguments) => list(arguments).await,
        SetAsideCommand::Restore(arguments) => restore(arguments).await,
        SetAsideCommand::Delete(arguments) => delete(arguments).await,
    }
}

/// A list that is not complete is printed all the same, and ends with the code of "unavailable".
async fn list(arguments: OutputArgs) -> Result<ExitCode, CliError> {
    let server = Server::of(&arguments.server)?;
    let answer = server.client.cluster().list_set_aside(pb::ListSetAsideRequest {}).await;
    let found = server.answered(answer)?;
    let complete = found.unreachable_node_ids.is_empty();
    let code = if complete { ExitCode::SUCCESS } else { ExitCode::from(UNAVAILABLE) };
    let replicas = &found.replicas;
    if arguments.output == Form::Json {
        output::document(&message::json(&found)?)?;
    } else if arguments.output == Form::Ndjson {
        for replica in replicas {
            output::data(&message::json(replica)?.to_string());
        }
    } else if arguments.output == Form::Name {
        replicas.iter().for_each(|replica| output::data(&replica.topic_id));
    } else if found.replicas.is_empty() {
        output::data(if complete {
            "nothing is set aside"
        } else {
            "nothing is set aside on the nodes that have told everything"
        });
    } else {
        let rows: Vec<_> = found.replicas.iter().map(row).collect();
        output::data(&table(&["NODE", "TOPIC ID", "PARTITION", "LOG END", "SIZE", "SET ASIDE"], &rows));
        output::note("\nTo make a topic of it: walser partition set-aside restore TOPIC_ID --topic NAME");
        output::note("To give it up:        walser partition set-aside delete TOPIC_ID --accept-loss");
    }
    if !complete {
        let ids: Vec<String> = found.unreachable_node_ids.iter().map(i32::to_string).collect();
        output::note(&format!(
            "! not all in the list, because they gave no answer or are not done: storage nodes {}",
            ids.join(", ")
        ));
    }
    Ok(code)
}

fn row(replica: &pb::SetAside) -> Vec<String> {
    vec![
        replica.node_id.to_string(),
        replica.topic_id.clone(),
        replica.partition.to_string(),
        count(replica.log_end_offset),
        bytes(replica.size_bytes),
        replica.set_aside_time.map(wire_time).unwrap_or_default(),
    ]
}

async fn restore(arguments: SetAsideRestoreArgs) -> Result<ExitCode, CliError> {
    let SetAsideRestoreArgs { topic_id, topic, server } = arguments;
    let server = Server::of(&server)?;
    let client = &server.client;
    let request = pb::RestoreSetAsideRequest { topic_id: topic_id.to_string(), topic };
    let restored = server.answered(client.cluster().restore_set_aside(request).await)?;
    let topic = restored.topic.unwrap_or_default();
    let (name, partitions) = (&topic.name, plural(i64::from(topic.partition_count), "partition"));
    output::data(&format!("restored {name}  {partitions}  [{topic_id}]"));
    output::note(
        "If it had more partitions, whose data is not there, add them before records with keys are written: \
         `walser topic add-partitions`.",
    );
    output::note(&format!(
        "Nothing of it goes for its age (retention.ms=-1) until you set that: `walser topic config {name}`."
    ));
    Ok(ExitCode::SUCCESS)
}

async fn delete(arguments: SetAsideDeleteArgs) -> Result<ExitCode, CliError> {
    let SetAsideDeleteArgs { topic_id, partition, accept_loss, server } = arguments;
    if !accept_loss {
        let error = CliError::usage("the records of data that is set aside are deleted for good");
        return Err(error.with_help("pass --accept-loss to confirm"));
    }
    let server = Server::of(&server)?;
    let client = &server.client;
    let request = pb::DeleteSetAsideRequest { topic_id: topic_id.to_string(), partition, accept_loss };
    let deleted = server.answered(client.cluster().delete_set_aside(request).await)?;
    let replicas = plural(i64::from(deleted.deleted_count), "replica");
    output::data(&format!("deleted {replicas}, {} freed  [{topic_id}]", bytes(deleted.freed_bytes)));
    Ok(ExitCode::SUCCESS)
}
