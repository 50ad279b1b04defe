//! Controllers that do not hear storage nodes: who fences them, and who leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use walser_controller::Config;
use walser_metadata::View;
use walser_metastore::{Memory, Metastore};

use crate::harness::{Node, Quiet, Started, config, start};

/// Two controllers of one cluster, of which the first one leads, and storage nodes that both of them hear.
struct Cluster {
    first: Started,
    second: Started,
    nodes: Vec<Node>,
    /// Of the nodes, at the second controller.
    quiet: Vec<Quiet>,
}

impl Cluster {
    async fn start(count: i32) -> Self {
        let (session, beat) = (Duration::from_millis(1_000), Duration::from_millis(100));
        let config = Config { standalone: false, session, beat, ..config() };
        let store: Arc<dyn Metastore> = Arc::new(Memory::new());
        let first = start(Arc::clone(&store), config.clone()).await;
        let second = start(store, config).await;
        let (mut nodes, mut quiet) = (Vec::new(), Vec::new());
        for number in 1..=count {
            let node = first.node(number).await;
            node.in_service().await;
            quiet.push(second.hears(&node).await);
            nodes.push(node);
        }
        Self { first, second, nodes, quiet }
    }
}

/// When nodes were fenced or unfenced last, by number.
fn liveness(view: &View) -> BTreeMap<i32, (bool, i64)> {
    view.nodes().map(|(node, entry)| (node.0, (entry.liveness.fenced, entry.live_revision))).collect()
}

/// Otherwise it takes all leads away from nodes that serve their clients, while the others hear every one of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hears_no_node_fences_none_and_lets_a_controller_lead_that_hears_them() {
    let Cluster { first, second, nodes, .. } = Cluster::start(3).await;
    let before = liveness(&first.until(|_| true).await);
    nodes.iter().for_each(|node| node.quiet.begin());
    second.leads().await;
    let after = liveness(&second.until(|_| true).await);
    assert_eq!(before, after, "nobody was fenced");
    // It goes on to lead: what it changes is seen everywhere, and nobody is fenced for it.
    second.create("t", 1).await;
    let view = first.until(|view| view.topic_named("t").is_some()).await;
    assert_eq!(liveness(&view), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_no_controller_hears_are_fenced() {
    let Cluster { first, nodes, quiet, .. } = Cluster::start(3).await;
    // One of them lives: it alone is no proof that the controllers are not cut off.
    for (node, at_second) in nodes.iter().zip(&quiet).skip(1) {
        node.quiet.begin();
        at_second.begin();
    }
    let fenced = |view: &View| view.nodes().filter(|(_, entry)| entry.liveness.fenced).count();
    let view = first.until(|view| fenced(view) == 2).await;
    assert!(!liveness(&view)[&1].0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_silent_node_of_three_is_fenced_by_the_controller_that_leads() {
    let Cluster { first, nodes, .. } = Cluster::start(3).await;
    nodes[1].quiet.begin();
    first.until(|view| liveness(view)[&2].0).await;
    first.create("t", 1).await;
}
