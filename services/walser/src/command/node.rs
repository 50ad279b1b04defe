//! `walser node`.

mod deregister;
mod drain;
mod removable;

use std::collections::HashMap;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use walser_client::{ApiError, Reason};
use walser_proto::v1 as pb;

use self::deregister::NodeDeregisterArgs;
use self::drain::NodeDrainArgs;
use self::removable::NodeRemovableArgs;
use super::produce::now_ms;
use super::topic::lines;
use crate::args::{Form, OutputArgs, ServerArgs};
use crate::error::CliError;
use crate::message;
use crate::output::{self, bytes, table};
use crate::records::time::{since, wire_time};
use crate::server::Server;
use crate::topics;

/// Stands for what is not known.
const UNKNOWN: &str = "?";

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the storage nodes
    #[command(visible_alias = "ls", after_help = "Example:\n  walser node list -o json")]
    List(OutputArgs),
    /// Show a storage node with its disks and what is out of service on it
    #[command(after_help = "Example:\n  walser node describe 2")]
    Describe(NodeDescribeArgs),
    /// Place no new replicas on a node
    #[command(after_help = "Example:\n  walser node cordon 2")]
    Cordon(NodeChangeArgs),
    /// Give the leads of a node to others, before it is worked on; its replicas stay
    #[command(after_help = "Example:\n  walser node drain 2")]
    Drain(NodeDrainArgs),
    /// End a cordon or a drain: the node gets new replicas, and its leads back
    #[command(after_help = "Example:\n  walser node uncordon 2")]
    Uncordon(NodeChangeArgs),
    /// Say whether nodes can go for ever: that no partition has a replica there, and that they hold nothing aside
    #[command(
        after_help = "Example:\n  walser node removable --from 4\n\nIt fails with exit code 6 where one has, or where a \
                            node that is down cannot be asked."
    )]
    Removable(NodeRemovableArgs),
    /// Take a node that has left for good out of the cluster
    Deregister(NodeDeregisterArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NodeChangeArgs {
    /// Node, as listed
    pub(crate) id: i32,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NodeDescribeArgs {
    /// Node, as listed
    pub(crate) id: i32,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl NodeCommand {
    /// Whether it says itself what is so when it is interrupted.
    pub(crate) fn ends_itself(&self) -> bool {
        matches!(self, Self::Drain(_))
    }
}

pub(crate) async fn run(command: NodeCommand) -> Result<ExitCode, CliError> {
    match command {
        NodeCommand::List(arguments) => list(&arguments).await,
        NodeCommand::Describe(arguments) => describe(&arguments).await,
        NodeCommand::Cordon(arguments) => change_shown(&arguments, (Some(true), None)).await,
        NodeCommand::Drain(arguments) => drain::run(&arguments).await,
        NodeCommand::Uncordon(arguments) => change_shown(&arguments, (Some(false), Some(false))).await,
        NodeCommand::Removable(arguments) => removable::run(&arguments).await,
        NodeCommand::Deregister(arguments) => deregister::run(&arguments).await,
    }
}

/// Changes what is wanted of a node.
async fn change(
    server: &Server,
    node_id: i32,
    (cordoned, drained): (Option<bool>, Option<bool>),
) -> Result<pb::Node, CliError> {
    let request = pb::UpdateNodeRequest { node_id, cordoned, drained };
    let changed = server.answered(server.client.cluster().update_node(request).await)?;
    Ok(changed.node.unwrap_or_default())
}

/// Changes it, and shows the node.
async fn change_shown(arguments: &NodeChangeArgs, wanted: (Option<bool>, Option<bool>)) -> Result<ExitCode, CliError> {
    let server = Server::of(&arguments.server)?;
    let node = change(&server, arguments.id, wanted).await?;
    output::data(&format!("node {}  {}", node.id, state(&node)));
    Ok(ExitCode::SUCCESS)
}

/// A node by its id.
async fn find(server: &Server, id: i32) -> Result<pb::Node, CliError> {
    let mut nodes = nodes(server).await?;
    if let Some(at) = nodes.iter().position(|node| node.id == id) {
        return Ok(nodes.swap_remove(at));
    }
    Err(unknown_node(id, &nodes))
}

/// There is no node of this id among these.
fn unknown_node(id: i32, nodes: &[pb::Node]) -> CliError {
    let known: Vec<_> = nodes.iter().map(|node| node.id.to_string()).collect();
    let error = CliError::not_found(format!("no storage node {id} is registered"));
    error.with_help(format!("there are: {}", known.join(", ")))
}

/// All nodes, by id.
pub(super) async fn nodes(server: &Server) -> Result<Vec<pb::Node>, CliError> {
    listed(server).await.map_err(|failure| server.failed(failure))
}

/// Every storage node; `None` while no controller leads, which alone knows them.
pub(super) async fn nodes_while_led(server: &Server) -> Result<Option<Vec<pb::Node>>, CliError> {
    match listed(server).await {
        Ok(nodes) => Ok(Some(nodes)),
        Err(failure) if failure.reason() == Reason::ControllerNotAvailable => Ok(None),
        Err(failure) => Err(server.failed(failure)),
    }
}

async fn listed(server: &Server) -> Result<Vec<pb::Node>, ApiError> {
    let (mut nodes, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListNodesRequest { page_size: 1000, page_token, ..Default::default() };
        let page = server.client.cluster().list_nodes(request).await?.into_inner();
        nodes.extend(page.nodes);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(nodes);
        }
    }
}

/// How a node is.
pub(super) fn state(node: &pb::Node) -> String {
    let state = format!("{:?}", node.state()).to_lowercase();
    let disks = node.storage.as_ref().map_or(&[] as &[_], |storage| &storage.disks);
    let rest = match node.state() {
        // What holds as soon as it is back.
        pb::NodeState::Down if node.drained => ", drained",
        pb::NodeState::Down if node.cordoned => ", cordoned",
        pb::NodeState::Down => "",
        _ if disks.iter().any(|disk| disk.failed) => ", directory failed",
        _ if disks.iter().any(|disk| disk.full) => ", disk full",
        _ => "",
    };
    state + rest
}

/// For how long it has run.
fn uptime(node: &pb::Node) -> String {
    let start = node.start_time.filter(|_| node.state() != pb::NodeState::Down);
    start.map_or_else(|| "-".to_owned(), |start| since(start, now_ms()))
}

async fn list(arguments: &OutputArgs) -> Result<ExitCode, CliError> {
    let server = Server::of(&arguments.server)?;
    let nodes = nodes(&server).await?;
    match arguments.output {
        Form::Name => nodes.iter().for_each(|node| output::data(&node.id.to_string())),
        Form::Json => output::document(&serde_json::json!({ "nodes": message::list(&nodes)? }))?,
        Form::Ndjson => lines(&nodes)?,
        Form::Table => {
            let rows: Vec<_> = nodes.iter().map(row).collect();
            let titles = ["NODE", "STATE", "ADDRESS", "LEADS", "REPLICAS", "USED", "FREE", "UP", "VERSION"];
            output::data(&table(&titles, &rows));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Something that a node says of itself; of one that is not heard it is not known.
fn said(node: &pb::Node, what: impl Fn(&pb::StorageStats) -> String) -> String {
    node.storage.as_ref().map_or_else(|| UNKNOWN.to_owned(), what)
}

fn row(node: &pb::Node) -> Vec<String> {
    let number = |of: fn(&pb::StorageStats) -> i32| said(node, |storage| of(storage).to_string());
    let of_disks = |disks: &[pb::DiskStats], of: fn(&pb::DiskStats) -> i64| match disks {
        [] => UNKNOWN.to_owned(),
        disks => bytes(disks.iter().map(of).sum()),
    };
    let sum = |of| said(node, |storage| of_disks(&storage.disks, of));
    vec![
        node.id.to_string(),
        state(node),
        node.address.clone(),
        number(|storage| storage.leader_count),
        number(|storage| storage.replica_count),
        sum(|disk| disk.used_bytes),
        sum(|disk| disk.free_bytes),
        uptime(node),
        node.version.clone(),
    ]
}

async fn describe(arguments: &NodeDescribeArgs) -> Result<ExitCode, CliError> {
    let server = Server::of(&arguments.output.server)?;
    let node = find(&server, arguments.id).await?;
    match arguments.output.output {
        Form::Name => output::data(&node.id.to_string()),
        Form::Json => output::document(&message::json(&node)?)?,
        Form::Ndjson => output::data(&message::json(&node)?.to_string()),
        Form::Table => show(&node, &names_of(&server, &node).await?),
    }
    Ok(ExitCode::SUCCESS)
}

/// The names of the topics of which a node has something to say, by id.
async fn names_of(server: &Server, node: &pb::Node) -> Result<HashMap<String, String>, CliError> {
    if node.storage.as_ref().is_none_or(|storage| storage.problems.is_empty()) {
        return Ok(HashMap::new());
    }
    let listed = topics::list(server, false, true).await?;
    Ok(listed.into_iter().map(|topic| (topic.id, topic.name)).collect())
}

fn show(node: &pb::Node, names: &HashMap<String, String>) {
    let storage = node.storage.clone().unwrap_or_default();
    output::data(&format!("node {}  {}", node.id, state(node)));
    let roles: Vec<_> = node.roles().map(|role| format!("{role:?}").to_lowercase()).collect();
    let heard = node.heartbeat_time.map_or_else(|| "not at present".to_owned(), wire_time);
    let rows = [
        ("address", node.address.clone()),
        ("roles", roles.join(", ")),
        ("version", node.version.clone()),
        ("up", uptime(node)),
        ("heard", heard),
        ("leads", said(node, |storage| storage.leader_count.to_string())),
        ("replicas", said(node, |storage| storage.replica_count.to_string())),
    ];
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| format!("{name:<10}{value}")).collect();
    output::data(&rows.join("\n"));
    for disk in &storage.disks {
        let (used, free, total) = (bytes(disk.used_bytes), bytes(disk.free_bytes), bytes(disk.total_bytes));
        output::data(&format!("disk      {}  {used} of records, {free} of {total} free", disk.path));
        if disk.full {
            output::data("  ! full: appends are refused until space is free");
        }
        if disk.failed {
            output::data(&format!("  ! cannot be used: {}", disk.problem));
        }
    }
    for problem in &storage.problems {
        let (topic, partition, text) = (&problem.topic_id, problem.partition, &problem.problem);
        match names.get(topic) {
            Some(name) => output::data(&format!("  ! partition {name}/{partition}: {text}")),
            None => output::data(&format!("  ! partition {partition} of topic {topic}: {text}")),
        }
    }
}
