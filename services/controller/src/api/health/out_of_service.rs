//! Partitions that a node cannot serve, or not all of them.

use walser_model::{NodeId, PartitionIndex};
use walser_proto::v1 as pb;
use walser_replication::PartitionState;

use super::{critical, issue};
use crate::api::availability::Availability;
use crate::cluster_view::ClusterView;

/// A partition that a node cannot serve.
pub(super) fn partition_issue(
    view: &ClusterView,
    availability: &Availability,
    node: NodeId,
    problem: &pb::PartitionProblem,
) -> pb::HealthIssue {
    let (id, partition) = (&problem.topic_id, problem.partition);
    let found = id.parse().ok().and_then(|id| view.metadata.topic(id));
    let topic = found.map_or_else(|| id.clone(), |found| found.name.to_string());
    let objects = vec![format!("topics/{topic}/partitions/{partition}"), format!("nodes/{node}")];
    let entry = found.and_then(|found| found.partition(PartitionIndex(partition)));
    let state = entry.map(|found| &found.record.state);
    let elsewhere = state.and_then(|state| state.leader).filter(|leader| *leader != node);
    let named = format!("{topic} {partition}");
    if let Some(leader) = elsewhere {
        let message = format!(
            "node {node} cannot use its replica of partition {partition} of topic \"{topic}\": {}",
            problem.problem
        );
        let leader_damaged = entry.is_some_and(|entry| availability.leader_damaged(entry));
        let hint = follower_hint(node, (leader, leader_damaged), &named, problem);
        return issue("REPLICA_OUT_OF_SERVICE", pb::HealthStatus::Degraded, message, hint, objects);
    }
    let hint = match state {
        Some(state) if state.leader.is_none() => {
            "nobody leads it: see the line about partitions without a leader".to_owned()
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
fn follower_hint(
    node: NodeId,
    (leader, leader_damaged): (NodeId, bool),
    named: &str,
    problem: &pb::PartitionProblem,
) -> String {
    if problem.node_with_more.is_some() {
        let elect = format!("`walser partition elect {named} --unclean --accept-loss --node");
        return format!(
            "say whose records stay: {elect} {node}` has node {node} lead, and what only node {leader} has is lost; \
             {elect} {leader}` has node {leader} go on to lead, and what only node {node} has is lost"
        );
    }
    if problem.damaged && leader_damaged {
        return format!(
            "the log of node {leader}, which leads the partition, is damaged as well: see what helps there"
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
    let others = state.whole();
    let others = || others.iter().filter(|other| *other != node);
    // One that is there comes before one that would have to be started.
    let whole = others().find(|other| !fenced(*other)).or_else(|| others().next());
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
    let below = "what is below the damage, and is known to be committed, can be read";
    // What lies behind the damage may be right on others that are damaged elsewhere.
    let first = if state.replicas.len() > 1 {
        ", also of what other replicas have; see \"Damaged files\" in docs/operations.md"
    } else {
        ""
    };
    let repair = format!("`walser partition repair {named} --accept-loss` gives up the rest");
    match with_more {
        Some(other) => format!(
            "{start}node {other} has more than what can be read here: `walser partition elect {named} --unclean \
             --accept-loss` has the replica lead that has most, and its log takes the place of this one"
        ),
        None if start.is_empty() => format!("{below}; {repair}{first}"),
        None => format!("{start}{below}; with all of them there and none that has more, {repair}{first}"),
    }
}
