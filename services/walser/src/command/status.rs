//! `walser status`.

use std::process::ExitCode;

use walser_client::Client;
use walser_proto::v1 as pb;

use super::topic::{answered, show_json};
use crate::cli::{Form, StatusArgs};
use crate::error::CliError;
use crate::output::{self, bytes, plural};

/// The exit code of a server that is not healthy.
const NOT_HEALTHY: u8 = 10;

pub(crate) async fn run(arguments: StatusArgs) -> Result<ExitCode, CliError> {
    let server = &arguments.output.server;
    let client = Client::new(&server.server)?;
    let cluster = answered(client.cluster().get_cluster(pb::GetClusterRequest {}).await, server)?;
    let nodes = answered(client.cluster().list_nodes(pb::ListNodesRequest::default()).await, server)?;
    let cluster = cluster.cluster.unwrap_or_default();
    let health = cluster.health.clone().unwrap_or_default();
    let healthy = health.status() == pb::HealthStatus::Ok;
    let code = if healthy { ExitCode::SUCCESS } else { ExitCode::from(NOT_HEALTHY) };
    if arguments.output.output == Form::Json {
        show_json(&serde_json::json!({ "cluster": cluster, "nodes": nodes.nodes }))?;
        return Ok(code);
    }
    let count = i64::try_from(nodes.nodes.len()).unwrap_or(0);
    let mode = cluster.mode.to_lowercase();
    output::data(&format!("{}   v{} · {mode} · {}", cluster.name, cluster.version, plural(count, "storage node")));
    if healthy {
        output::data("OK");
    } else {
        let problems = i64::try_from(health.issues.len()).unwrap_or(0);
        output::data(&format!("{:?}      {}", health.status(), plural(problems, "problem")).to_uppercase());
    }
    for issue in &health.issues {
        output::data(&format!("  ! {} ({})\n      {}", issue.message, issue.code, issue.hint));
    }
    for node in &nodes.nodes {
        for disk in node.storage.iter().flat_map(|storage| &storage.disks) {
            let (used, free) = (bytes(disk.used_bytes), bytes(disk.free_bytes));
            output::data(&format!("node {}  {}  {used} of records, {free} free", node.id, disk.path));
        }
    }
    for node in &nodes.nodes {
        let held = node.storage.as_ref().filter(|storage| storage.set_aside_count > 0);
        if let Some(storage) = held {
            let (replicas, size) =
                (plural(i64::from(storage.set_aside_count), "replica"), bytes(storage.set_aside_bytes));
            output::data(&format!("node {}  {replicas} set aside, {size}: `walser partition set-aside list`", node.id));
        }
    }
    let topics = plural(i64::from(health.topic_count), "topic");
    output::data(&format!("{topics} · {}", plural(i64::from(health.partition_count), "partition")));
    Ok(code)
}
