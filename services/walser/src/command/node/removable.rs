//! `walser node removable`: whether nodes can go for ever.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use walser_proto::v1 as pb;

use crate::args::ServerArgs;
use crate::command::partition::partitions;
use crate::error::{CliError, UNAVAILABLE, WRONG_STATE};
use crate::output::{self, bytes, count, plural};
use crate::server::Server;
use crate::topics;

/// Topics that a line names; the rest is counted.
const NAMED_MAX: usize = 5;

#[derive(Debug, Args)]
pub(crate) struct NodeRemovableArgs {
    /// The first of the nodes that are to go, as listed; all above go, too
    #[arg(long, value_name = "NODE")]
    from: i32,
    #[command(flatten)]
    server: ServerArgs,
}

/// What nodes have that would go with them.
#[derive(Debug, Default, PartialEq)]
struct Holdings {
    /// Replicas by node, and by the names of topics.
    replicas: BTreeMap<i32, BTreeMap<String, i64>>,
    /// Replicas that are set aside, and their bytes, by node.
    aside: BTreeMap<i32, (i64, i64)>,
    /// Nodes of which it is not known what they hold aside, and whether they are down.
    unknown: BTreeMap<i32, bool>,
}

/// Succeeds where no partition, of whichever topic, has a replica on one of the nodes, and none holds data aside.
pub(super) async fn run(arguments: &NodeRemovableArgs) -> Result<ExitCode, CliError> {
    let (server, from) = (Server::of(&arguments.server)?, arguments.from);
    let going: Vec<_> = super::nodes(&server).await?.into_iter().filter(|node| node.id >= from).collect();
    let mut held = Holdings { replicas: replicas(&server, from).await?, ..Holdings::default() };
    if !going.is_empty() {
        let answer = server.client.cluster().list_set_aside(pb::ListSetAsideRequest {}).await;
        held.add_aside(&going, &server.answered(answer)?);
    }
    for node in going.iter().filter(|node| !node.cordoned) {
        let id = node.id;
        output::note(&format!("! node {id} is not cordoned, the next topic may come there: walser node cordon {id}"));
    }
    if let Some(error) = held.error() {
        return Err(error);
    }
    output::data(&format!("no replica is on a node from {from} on, and nothing is set aside there"));
    Ok(ExitCode::SUCCESS)
}

/// How many replicas nodes have of each topic.
async fn replicas(server: &Server, from: i32) -> Result<BTreeMap<i32, BTreeMap<String, i64>>, CliError> {
    let mut all: BTreeMap<i32, BTreeMap<String, i64>> = BTreeMap::new();
    for topic in topics::list(server, false, true).await? {
        let found = match partitions(server, &topic.name, false).await {
            Ok(found) => found,
            // It was deleted meanwhile.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        let on_node = found.iter().flat_map(|(_, partition)| &partition.replicas).filter(|replica| **replica >= from);
        for replica in on_node {
            *all.entry(*replica).or_default().entry(topic.name.clone()).or_default() += 1;
        }
    }
    Ok(all)
}

// === impl Holdings ===

impl Holdings {
    /// Adds what the nodes that are to go hold aside.
    fn add_aside(&mut self, going: &[pb::Node], listed: &pb::ListSetAsideResponse) {
        for node in going {
            let own = listed.replicas.iter().filter(|replica| replica.node_id == node.id);
            let (replicas, bytes) = own.fold((0, 0), |(count, bytes), own| (count + 1, bytes + own.size_bytes));
            if replicas > 0 {
                self.aside.insert(node.id, (replicas, bytes));
            }
            if listed.unreachable_node_ids.contains(&node.id) {
                self.unknown.insert(node.id, node.state() == pb::NodeState::Down);
            }
        }
    }

    /// Why the nodes cannot go; `None`: they can. One that runs and has not said everything yet can be asked again.
    fn error(&self) -> Option<CliError> {
        let mut what: Vec<String> = Vec::new();
        let holds = |(node, topics): (&i32, &BTreeMap<String, i64>)| {
            format!("node {node} holds {}", plural(topics.values().sum(), "replica"))
        };
        what.extend(self.replicas.iter().map(holds));
        let aside = |(node, (replicas, size)): (&i32, &(i64, i64))| {
            format!("node {node} holds {} aside ({})", plural(*replicas, "partition"), bytes(*size))
        };
        what.extend(self.aside.iter().map(aside));
        let unknown = |(node, down): (&i32, &bool)| {
            let why = if *down { "it is down" } else { "it has not told everything yet" };
            format!("it is not known what node {node} holds aside: {why}")
        };
        what.extend(self.unknown.iter().map(unknown));
        if what.is_empty() {
            return None;
        }
        let settled = !self.replicas.is_empty() || !self.aside.is_empty() || self.unknown.values().any(|down| *down);
        let code = if settled { WRONG_STATE } else { UNAVAILABLE };
        let error = CliError::failed(what.join(", ")).with_code(code).with_help(self.help());
        Some(self.replicas.iter().fold(error, |error, (node, topics)| error.with_why(of_topics(*node, topics))))
    }

    fn help(&self) -> String {
        let replicas = "replicas stay where they are until their topic is deleted: `walser topic describe TOPIC` shows where \
                        those of a topic are";
        let aside = "`walser partition set-aside list` shows what is held aside, to be restored or deleted";
        let down = "start the node that is down; where it is gone for good: `walser node deregister ID`";
        let helps = [
            (!self.replicas.is_empty(), replicas),
            (!self.aside.is_empty(), aside),
            (self.unknown.values().any(|down| *down), down),
            (self.unknown.values().any(|down| !*down), "ask again in a moment"),
        ];
        helps.iter().filter(|(holds, _)| *holds).map(|(_, help)| *help).collect::<Vec<_>>().join("; ")
    }
}

/// `node 4: 2,500 of many, 1 of t and those of 3 more topics`.
fn of_topics(node: i32, topics: &BTreeMap<String, i64>) -> String {
    let named: Vec<_> =
        topics.iter().take(NAMED_MAX).map(|(topic, replicas)| format!("{} of {topic}", count(*replicas))).collect();
    let more = match topics.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and those of {}", plural(i64::try_from(more).unwrap_or(i64::MAX), "more topic")),
    };
    format!("node {node}: {}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: i32, state: pb::NodeState) -> pb::Node {
        pb::Node { id, state: state.into(), ..Default::default() }
    }

    fn aside(node_id: i32, size_bytes: i64) -> pb::SetAside {
        pb::SetAside { node_id, size_bytes, ..Default::default() }
    }

    fn listed(replicas: Vec<pb::SetAside>, unreachable_node_ids: &[i32]) -> Holdings {
        let going = [node(4, pb::NodeState::Active), node(5, pb::NodeState::Down)];
        let mut held = Holdings::default();
        let unreachable_node_ids = unreachable_node_ids.to_vec();
        held.add_aside(&going, &pb::ListSetAsideResponse { replicas, unreachable_node_ids });
        held
    }

    #[test]
    fn nodes_that_hold_nothing_can_go_whatever_others_hold() {
        assert!(listed(vec![aside(1, 10)], &[2]).error().is_none());
    }

    #[test]
    fn data_that_is_held_aside_or_may_be_keeps_a_node() {
        let held = listed(vec![aside(4, 10), aside(4, 5), aside(1, 7)], &[5]);
        assert_eq!((held.aside.get(&4), held.unknown.get(&5)), (Some(&(2, 15)), Some(&true)));
        let error = held.error().unwrap();
        assert!(error.what().contains("node 4 holds 2 partitions aside"), "{error:?}");
        assert!(error.what().contains("it is not known what node 5 holds aside: it is down"), "{error:?}");
        let starting = listed(Vec::new(), &[4]).error().unwrap();
        assert!(starting.what().contains("has not told everything yet"), "{starting:?}");
    }

    #[test]
    fn topics_are_named_and_counted() {
        let topics: BTreeMap<_, _> = (1..=7).map(|number| (format!("t{number}"), number * 1_000)).collect();
        let text = "node 4: 1,000 of t1, 2,000 of t2, 3,000 of t3, 4,000 of t4, 5,000 of t5 and those of 2 more topics";
        assert_eq!(of_topics(4, &topics), text);
        assert_eq!(of_topics(4, &topics.into_iter().take(1).collect()), "node 4: 1,000 of t1");
    }
}
