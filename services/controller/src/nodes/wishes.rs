//! What operators want of a node: that it gets no new replicas, that it leads nothing. The decisions that follow find it in
//! the metadata.

use std::collections::HashMap;
use std::sync::Arc;

use walser_metadata::value::NodeLiveness;
use walser_metastore::Compare;
use walser_model::{NodeId, TopicPartition};
use walser_replication::control::{Decision, DecisionContext};
use walser_rpc::{ApiError, Reason};

use super::Nodes;
use crate::cluster_view::ClusterView;
use crate::committer::Extra;
use crate::keys::{node as keys, put};
use crate::topics::{ATTEMPTS_MAX, contended};

/// A change of what is wanted of a node; `None`: as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeWish {
    pub(crate) cordoned: Option<bool>,
    pub(crate) drained: Option<bool>,
}

/// Whether a node leads what another node could lead. One that is silent is heard again, or fenced, in a moment.
pub(crate) fn leads_for_others(view: &ClusterView, context: &DecisionContext, node: NodeId) -> bool {
    let could = |other: NodeId| {
        let found = context.node(other).filter(|_| other != node && !context.unwritable.contains(other));
        found.is_some_and(|found| !found.fenced && !found.shutting_down && !found.drained)
    };
    let states = view.metadata.partitions().map(|partition| &partition.record.state);
    states.filter(|state| state.leader == Some(node)).any(|state| state.isr.iter().any(could))
}

/// How many partitions each node leads, as the metadata has it.
pub(crate) fn lead_counts(view: &ClusterView) -> HashMap<NodeId, i32> {
    let mut counts = HashMap::new();
    for leader in view.metadata.partitions().filter_map(|partition| partition.record.state.leader) {
        *counts.entry(leader).or_insert(0) += 1;
    }
    counts
}

pub(super) fn no_such_node(view: &ClusterView, node: NodeId) -> ApiError {
    let known = view.metadata.nodes().filter(|(_, entry)| entry.epoch > 0).map(|(id, _)| id.to_string());
    let text = format!("no storage node {node} is registered; there are: {}", known.collect::<Vec<_>>().join(", "));
    ApiError::new(Reason::NodeNotFound, text).with("nodeId", node)
}

impl Nodes {
    /// Changes what is wanted of a node; returns the view then. Done before changes nothing.
    pub(crate) async fn obey(&self, node: NodeId, wish: NodeWish) -> Result<Arc<ClusterView>, ApiError> {
        for _ in 0..ATTEMPTS_MAX {
            let _turn = self.turns().next().await?;
            let (view, context) = self.committer().context()?;
            let entry = view.metadata.node(node).filter(|entry| entry.epoch > 0);
            let entry = entry.ok_or_else(|| no_such_node(&view, node))?;
            let before = &entry.liveness;
            let (cordoned, drained) =
                (wish.cordoned.unwrap_or(before.cordoned), wish.drained.unwrap_or(before.drained));
            let after = NodeLiveness { cordoned, drained, ..before.clone() };
            if after == *before {
                return Ok(view);
            }
            let key = keys::live_key(node);
            let compares = vec![Compare::ModifiedAt(key.clone(), entry.live_revision)];
            let extra = Extra { compares, ops: vec![put(key, &after)], registration: None };
            // Written or overtaken: the next look shows it.
            self.committer().commit(&view, &Decision::<TopicPartition>::new(&context), extra).await?;
        }
        Err(contended())
    }
}
