//! Partitions that a node cannot serve, or not all of them.

use walser_model::{NodeId, PartitionIndex};
use walser_proto::v1 as pb;
use walser_replication::PartitionState;

use super::{critical, issue};
use crate::cluster_view::ClusterView;

/// A partition that a node cannot serve.
pub(super) fn partition_issue(view: &ClusterView, node: NodeId, problem: &pb::PartitionProblem) -> pb::HealthIssue {
    let (id, partition) = (&problem.topic_id, problem.partition);
    let found = id.parse().ok().and_then(|id| view.metadata.topic(id));
    let topic = found.map_or_else(|| id.clone(), |found| found.name.to_string());
    let objects = vec![format!("topics/{topic}/partitions/{partition}"), format!("nodes/{node}")];
    let state = found.and_then(|found| found.partition(PartitionIndex(partition))).map(|found| &found.record.state);
    let elsewhere = state.and_then(|state| state.leader).filter(|leader| *leader != node);
    let named = format!("{topic} {partition}");
    if let Some(leader) = elsewhere {
        let message = format!(
            "node {node} cannot use its replica of partition {partition} of topic \"{topic}\": {}",
            problem.problem
        );
        let hint = follower_hint(node, leader, &named, problem);
        return issue("REPLICA_OUT_OF_SERVICE", pb::HealthStatus::Degraded, message, hint, objects);
    }
    let hint = match state {
        Some(state) if state.leader.is_none() => {
            "nobody leads it; start the nodes that are down, which may have its records".to_owned()
        }
        Some(state) if problem.damaged => damaged_hint(view, node, state, &named, problem.node_with_more),
        _ if problem.problem.starts_with("cannot be opened") => {
            format!("remove the cause; node {node} tries to open it again by itself")
        }
        _ => format!("look at the disk and the log of node {node}, then restart it"),
    };
    let message =
        format!("partition {partition} of topic \"{topic}\" is out of service on node {node}: {}", problem.problem);
    critical("PARTITION_OUT_OF_SERVICE", message, hint, objects)
}

/// What helps a replica that another one leads. `named`: its topic and number, as commands take them.
fn follower_hint(node: NodeId, leader: NodeId, named: &str, problem: &pb::PartitionProblem) -> String {
    if problem.node_with_more.is_some() {
        return format!(
            "if node {leader} has lost them, `walser partition elect {named} --unclean --node {node} --accept-loss` has \
             node {node} lead; what is only on node {leader} is lost then"
        );
    }
    if problem.damaged {
        return format!(
            "node {leader} leads the partition, and its log takes the place of the damaged one; restart node {node} if \
             this stays"
        );
    }
    format!("node {leader} leads the partition; look at the disk and the log of node {node}, then restart it")
}

/// What helps a leader whose log is damaged.
fn damaged_hint(
    view: &ClusterView,
    node: NodeId,
    state: &PartitionState,
    named: &str,
    with_more: Option<i32>,
) -> String {
    let fenced = |other| view.metadata.node(other).is_some_and(|found| found.liveness.fenced);
    let whole = state.whole().iter().find(|other| *other != node);
    let away: Vec<_> = state.replicas.iter().filter(|other| fenced(**other)).map(ToString::to_string).collect();
    let start = match whole {
        Some(other) if !fenced(other) => {
            return format!("node {other} has everything, and takes the lead; nothing needs to be repaired");
        }
        Some(other) => format!("start node {other}, which has everything; "),
        None if !away.is_empty() => {
            format!("first start the nodes that are down, which may have what is damaged here: {}; ", away.join(", "))
        }
        None => String::new(),
    };
    let repair =
        format!("`walser partition repair {named} --accept-loss` gives up the rest, also where others have it");
    match with_more {
        Some(other) => format!(
            "{start}node {other} has more than what can be read here: `walser partition elect {named} --unclean --node \
             {other} --accept-loss` has it lead; without node {other}, {repair}"
        ),
        None if state.replicas.len() > 1 => format!(
            "{start}what is below can be read; `walser partition elect {named} --unclean --accept-loss` has the replica lead \
             that has most; only after that {repair}"
        ),
        None => format!("what is below can be read; {repair}"),
    }
}
