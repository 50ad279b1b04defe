//! Nodes that have left for good: their registration goes, and whatever has their id later is a new node.
//!
//! The partitions are too many to compare them in the transaction that removes a node. They need not be: the node is
//! cordoned first, and nothing is placed on a cordoned node. Whoever creates partitions compares the live key of each of
//! their nodes. What was placed on the node before the cordon is in every view that includes the cordon, and what was
//! decided without having seen it is not written any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use walser_metadata::NodeEntry;
use walser_metadata::value::NodeLiveness;
use walser_model::{NodeId, TopicId, TopicPartition};
use walser_replication::PartitionState;
use walser_replication::control::Decision;
use walser_rpc::{ApiError, Reason, RetryAdvice};

use super::Nodes;
use super::wishes::no_such_node;
use crate::cluster_view::ClusterView;
use crate::committer::{Committed, Extra, at, maybe};
use crate::keys::{delete, node as keys, put};
use crate::topics::{ATTEMPTS_MAX, contended};

/// Topics that an error names; the rest is counted.
const NAMED_MAX: usize = 5;

/// How long it is waited for a node to be fenced that is not heard any more, and how often that is looked at.
const FENCE_WAIT: Duration = Duration::from_secs(3);
const FENCE_LOOK: Duration = Duration::from_millis(100);

/// What is known of a node beside the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeNews {
    /// Its process is there, in service or not.
    pub(crate) runs: bool,
    pub(crate) aside: HeldAside,
}

/// What a node holds aside, as it has said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldAside {
    /// It has not said to this controller that it knows.
    Unknown,
    Nothing,
    Some {
        replicas: i32,
        /// Bytes of these replicas.
        bytes: i64,
    },
}

fn refused(policy: &'static str, node: NodeId, text: String) -> ApiError {
    ApiError::new(Reason::PolicyViolation, text).with("policy", policy).with("nodeId", node)
}

/// Refuses while the node counts, or is about to.
fn check_stopped(node: NodeId, entry: &NodeEntry, news: NodeNews) -> Result<(), ApiError> {
    let what = match (entry.liveness.fenced, news.runs) {
        (true, false) => return Ok(()),
        (true, true) => "runs, and registers or has registered again",
        (false, _) => "is in service",
    };
    let text = format!(
        "storage node {node} {what}, and stays registered: stop it for good first, and try again once `walser node list` shows \
         it as down"
    );
    Err(refused("node-in-service", node, text))
}

/// How many replicas a node has of each topic, by the names of topics. Of those that are being created from what it holds
/// aside as well.
fn replicas_by_topic(node: NodeId, view: &ClusterView) -> BTreeMap<String, usize> {
    let has = |state: &PartitionState| {
        state.replicas.contains(&node) || state.adding.contains(node) || state.removing.contains(node)
    };
    let mut counts: BTreeMap<TopicId, usize> = BTreeMap::new();
    for partition in view.metadata.partitions().filter(|partition| has(&partition.record.state)) {
        *counts.entry(partition.record.key.topic).or_default() += 1;
    }
    for (topic, staged) in view.staged.iter() {
        let planned = staged.value.placed_on.iter().filter(|placed| **placed == node.0).count();
        if planned > 0 {
            counts.entry(*topic).or_insert(planned);
        }
    }
    let name = |topic: TopicId| {
        let known = view.metadata.topic(topic).map(|known| known.name.to_string());
        let staged = || view.staged.get(&topic).map(|staged| staged.value.topic.name.clone());
        known.or_else(staged).unwrap_or_else(|| topic.to_string())
    };
    counts.into_iter().map(|(topic, count)| (name(topic), count)).collect()
}

/// Refuses while a partition names the node.
fn check_no_replica(node: NodeId, view: &ClusterView) -> Result<(), ApiError> {
    let counts = replicas_by_topic(node, view);
    if counts.is_empty() {
        return Ok(());
    }
    let (total, topics) = (counts.values().sum::<usize>(), counts.len());
    let mut named: Vec<_> =
        counts.iter().take(NAMED_MAX).map(|(topic, count)| format!("{count} of topic \"{topic}\"")).collect();
    if topics > NAMED_MAX {
        named.push(format!("those of {} more topics", topics - NAMED_MAX));
    }
    let replicas = if total == 1 { "1 replica".to_owned() } else { format!("{total} replicas") };
    let text = format!(
        "storage node {node} has {replicas}: {}; it stays registered: replicas stay until their topic is deleted. Where the \
         machine is lost, a node with the same id and an empty directory gets them from the others",
        named.join(", ")
    );
    let failure = refused("node-has-replicas", node, text);
    Err(failure.with("replicas", total).with("topics", topics))
}

/// Refuses where records may lie on the node that nobody else has, unless they are given up.
fn check_nothing_aside(node: NodeId, aside: HeldAside) -> Result<(), ApiError> {
    let help = format!(
        "start it, and look at `walser partition set-aside list`; or say that what it holds aside is given up: `walser node \
         deregister {node} --accept-loss`"
    );
    let failure = match aside {
        HeldAside::Nothing => return Ok(()),
        HeldAside::Some { replicas, bytes } => {
            let text = format!(
                "storage node {node} holds data aside that the metadata does not know: {replicas} partitions ({bytes} \
                 bytes), and stays registered: {help}"
            );
            refused("node-holds-data-aside", node, text).with("setAside", replicas)
        }
        HeldAside::Unknown => {
            let text = format!(
                "it is not known whether storage node {node} holds data aside: this controller has not heard it say so since \
                 it registered; it stays registered: {help}"
            );
            refused("node-may-hold-data-aside", node, text)
        }
    };
    Err(failure)
}

/// A deregistration as an operator has asked for it, and how far it is.
struct Asked {
    node: NodeId,
    accept_loss: bool,
    /// The node, once its removal was written, or may have been.
    begun: Option<Arc<NodeEntry>>,
    /// Something was written, or may have been.
    written: bool,
}

impl Nodes {
    /// Removes the registration of a node that has left for good; returns it as it was. `accept_loss`: what it holds aside
    /// is given up. `news`: what is known of the node at that moment.
    ///
    /// # Errors
    /// `NODE_NOT_FOUND`; `POLICY_VIOLATION` while the node runs, has replicas, or may hold data aside. Where a topic was
    /// placed on it at the same time it is cordoned then.
    pub(crate) async fn deregister(
        &self,
        node: NodeId,
        accept_loss: bool,
        news: impl Fn(&NodeEntry) -> NodeNews,
    ) -> Result<Arc<NodeEntry>, ApiError> {
        let mut asked = Asked { node, accept_loss, begun: None, written: false };
        let done = self.deregister_in_rounds(&mut asked, news).await;
        // Also the cordon, of which a refusal says nothing.
        done.map_err(
            |failure| if asked.written && failure.retry() != RetryAdvice::Never { maybe(&failure) } else { failure },
        )
    }

    async fn deregister_in_rounds(
        &self,
        asked: &mut Asked,
        news: impl Fn(&NodeEntry) -> NodeNews,
    ) -> Result<Arc<NodeEntry>, ApiError> {
        let (node, mut waited) = (asked.node, Duration::ZERO);
        for _ in 0..ATTEMPTS_MAX {
            let turn = self.turns().next().await?;
            let (view, context) = self.committer().context()?;
            let Some(entry) = view.metadata.node(node).filter(|entry| entry.epoch > 0) else {
                // Removed by this very call, when the outcome was not known.
                return asked.begun.take().ok_or_else(|| no_such_node(&view, node));
            };
            let known = news(entry);
            if !entry.liveness.fenced && !known.runs && waited < FENCE_WAIT {
                // It is shown as down by now, and fenced at once.
                drop(turn);
                tokio::time::sleep(FENCE_LOOK).await;
                waited += FENCE_LOOK;
                continue;
            }
            check_stopped(node, entry, known)?;
            check_no_replica(node, &view)?;
            if !asked.accept_loss {
                check_nothing_aside(node, known.aside)?;
            }
            let (registration, live) = (keys::registration_key(node), keys::live_key(node));
            let compares = vec![at(registration.clone(), entry.epoch), at(live.clone(), entry.live_revision)];
            let removes = entry.liveness.cordoned;
            let ops = if removes {
                asked.begun = Some(Arc::clone(entry));
                vec![delete(registration), delete(live)]
            } else {
                vec![put(live, &NodeLiveness { cordoned: true, ..entry.liveness.clone() })]
            };
            let extra = Extra { compares, ops, registration: None };
            let decision = Decision::<TopicPartition>::new(&context);
            asked.written = true;
            let committed = self.committer().commit(&view, &decision, extra).await?;
            if removes && committed != Committed::Again {
                return Ok(Arc::clone(entry));
            }
        }
        Err(contended())
    }
}
