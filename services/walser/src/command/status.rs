//! `walser status`.

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;
use walser_proto::v1 as pb;

use super::node;
use super::screen::Screen;
use crate::args::Form;
use crate::cli::StatusArgs;
use crate::error::CliError;
use crate::message;
use crate::output::{self, bytes, plural};
use crate::records::time::since;
use crate::server::Server;

/// The exit code of a server that is not healthy.
const NOT_HEALTHY: u8 = 10;
/// The code of a problem: no controller leads.
const NOT_LED: &str = "CONTROLLER_NOT_AVAILABLE";
/// What was asked before an answer that took longer is asked for once more.
const OUTDATED_AFTER: Duration = Duration::from_secs(1);

/// What the server says at one time.
pub(super) struct Seen {
    at: Instant,
    pub(super) cluster: pb::Cluster,
    /// `None`: no controller could tell.
    nodes: Option<Vec<pb::Node>>,
}

impl Seen {
    /// Whether a controller could tell.
    pub(super) fn is_led(&self) -> bool {
        self.nodes.is_some()
    }

    pub(super) fn nodes(&self) -> &[pb::Node] {
        self.nodes.as_deref().unwrap_or_default()
    }
}

pub(crate) async fn run(arguments: StatusArgs) -> Result<ExitCode, CliError> {
    output::end_with_reader()?;
    let server = Server::of(&arguments.output.server)?;
    let form = arguments.output.output;
    let mut seen = look(&server).await?;
    let Some(seconds) = arguments.watch else {
        show(&server, form, &seen, None)?;
        return Ok(code(&seen));
    };
    let mut before = None;
    loop {
        let screen = Screen::begin(form);
        show(&server, form, &seen, before.as_ref())?;
        screen.end();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let next = again(&server, Duration::from_secs(seconds)).await;
        before = Some(std::mem::replace(&mut seen, next));
    }
}

/// Looks until the server answers: one that is watched may be restarted.
async fn again(server: &Server, pause: Duration) -> Seen {
    loop {
        match look(server).await {
            Ok(seen) => return seen,
            Err(error) => {
                error.show();
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Asks the server, until what it says of nodes and of problems is of the same time.
pub(super) async fn look(server: &Server) -> Result<Seen, CliError> {
    let asked = Instant::now();
    // At the same time: while no controller leads, one is waited for.
    let (nodes, cluster) = tokio::join!(node::nodes_while_led(server), cluster(server));
    let (mut nodes, mut cluster) = (nodes?, cluster?);
    let down = |node: &pb::Node| node.state() == pb::NodeState::Down;
    let changing = asked.elapsed() > OUTDATED_AFTER || nodes.as_ref().is_none_or(|nodes| nodes.iter().any(down));
    if changing && is_led(&cluster) {
        nodes = node::nodes_while_led(server).await?;
        // What is wrong is asked last: a node that is shown as down is told there, too.
        cluster = self::cluster(server).await?;
    }
    Ok(Seen { at: Instant::now(), cluster, nodes })
}

async fn cluster(server: &Server) -> Result<pb::Cluster, CliError> {
    let answer = server.answered(server.client.cluster().get_cluster(pb::GetClusterRequest {}).await)?;
    Ok(answer.cluster.unwrap_or_default())
}

/// Whether a controller has answered.
fn is_led(cluster: &pb::Cluster) -> bool {
    let issues = cluster.health.iter().flat_map(|health| &health.issues);
    issues.into_iter().all(|issue| issue.code != NOT_LED)
}

fn is_healthy(seen: &Seen) -> bool {
    seen.cluster.health.as_ref().is_some_and(|health| health.status() == pb::HealthStatus::Ok)
}

fn code(seen: &Seen) -> ExitCode {
    if is_healthy(seen) { ExitCode::SUCCESS } else { ExitCode::from(NOT_HEALTHY) }
}

fn show(server: &Server, form: Form, seen: &Seen, before: Option<&Seen>) -> Result<(), CliError> {
    match form {
        Form::Table => table(server, seen, before),
        Form::Name => output::data(&seen.cluster.name),
        Form::Json | Form::Ndjson => {
            let document = document(seen)?;
            if form == Form::Json { output::document(&document)? } else { output::data(&document.to_string()) }
        }
    }
    Ok(())
}

/// The cluster and its nodes as JSON.
pub(super) fn document(seen: &Seen) -> Result<serde_json::Value, CliError> {
    let cluster = message::json(&seen.cluster)?;
    let nodes = seen.nodes.as_deref().map(message::list).transpose()?;
    Ok(serde_json::json!({ "cluster": cluster, "nodes": nodes }))
}

fn table(server: &Server, seen: &Seen, before: Option<&Seen>) {
    let cluster = &seen.cluster;
    let health = cluster.health.clone().unwrap_or_default();
    let storage_nodes = match &seen.nodes {
        Some(nodes) => plural(i64::try_from(nodes.len()).unwrap_or(0), "storage node"),
        None => "storage nodes not known".to_owned(),
    };
    let mode = cluster.mode.to_lowercase();
    let name = if cluster.name.is_empty() { "?" } else { &cluster.name };
    let context = server.context.as_ref().map_or_else(String::new, |name| format!(" · context {name}"));
    output::data(&format!("{name}   {}{context} · v{} · {mode} · {storage_nodes}", server.address, cluster.version));
    if is_healthy(seen) {
        output::data("OK");
    } else {
        let problems = i64::try_from(health.issues.len()).unwrap_or(0);
        output::data(&format!("{:?}      {}", health.status(), plural(problems, "problem")).to_uppercase());
    }
    for issue in &health.issues {
        output::data(&format!("  ! {} ({})\n      {}", issue.message, issue.code, issue.hint));
    }
    for node in seen.nodes() {
        let past = before.and_then(|before| Some((before, before.nodes().iter().find(|past| past.id == node.id)?)));
        show_node(seen, node, past);
    }
    if !cluster.controller.is_empty() {
        let coordinators = plural(i64::from(cluster.group_coordinator_count), "group coordinator");
        output::data(&format!("controller  {} leads · {coordinators}", cluster.controller));
    }
    let topics = plural(i64::from(health.topic_count), "topic");
    output::data(&format!("{topics} · {}", plural(i64::from(health.partition_count), "partition")));
}

fn show_node(seen: &Seen, node: &pb::Node, before: Option<(&Seen, &pb::Node)>) {
    let state = node::state(node);
    let up = node.start_time.filter(|_| node.state() != pb::NodeState::Down);
    let uptime = up.map_or_else(String::new, |start| format!(" · up {}", since(start, super::produce::now_ms())));
    output::data(&format!("node {}  {} · {state}{uptime}", node.id, node.address));
    let storage = node.storage.clone().unwrap_or_default();
    if let Some((past, past_node)) = before {
        let elapsed = (seen.at - past.at).as_secs_f64().max(0.001);
        let past = past_node.storage.clone().unwrap_or_default();
        let rate = |now: i64, then: i64| per_second(now - then, elapsed);
        output::data(&format!(
            "        in {} records/s, {}/s · out {}/s",
            output::count(rate(storage.appended_records, past.appended_records)),
            bytes(rate(storage.appended_bytes, past.appended_bytes)),
            bytes(rate(storage.read_bytes, past.read_bytes)),
        ));
    }
    for disk in &storage.disks {
        let (used, free) = (bytes(disk.used_bytes), bytes(disk.free_bytes));
        output::data(&format!("        {}  {used} of records, {free} free", disk.path));
    }
    if storage.set_aside_count > 0 {
        let (replicas, size) = (plural(i64::from(storage.set_aside_count), "replica"), bytes(storage.set_aside_bytes));
        output::data(&format!("        {replicas} set aside, {size}: `walser partition set-aside list`"));
    }
}

/// A process that began anew counts from zero: no rate is below that.
fn per_second(count: i64, seconds: f64) -> i64 {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a rate for people")]
    let rate = (count.max(0) as f64 / seconds) as i64;
    rate
}
