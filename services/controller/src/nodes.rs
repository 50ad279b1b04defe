//! Storage nodes: registration, and the leader epochs that leaders ask for.

mod deregistration;
mod elections;
mod holdings;
mod in_sync;
mod wishes;

use std::sync::Arc;

use walser_metadata::NodeEntry;
use walser_metadata::value::NodeRegistration;
use walser_metastore::Revision;
use walser_model::{LeaderEpoch, NodeId, TopicPartition};
use walser_replication::control::{self, DecisionContext, PartitionRecord, Refusal, ReplicaIntegrity, Write};
use walser_replication::{NodeSet, PartitionState};
use walser_rpc::{ApiError, Reason};

use crate::cluster_view::ClusterView;
use crate::committer::{Committed, Committer, Extra};
use crate::topics::{ATTEMPTS_MAX, contended};
use crate::turns::Turns;

pub(crate) use deregistration::{HeldAside, NodeNews};
pub(crate) use elections::{Election, InHand, Known, Lacks, STEPPED_DOWN_MAX, Wish};
pub(crate) use holdings::Holdings;
pub(crate) use in_sync::Proposed;
pub(crate) use wishes::{NodeWish, lead_counts, leads_for_others};

/// Decisions about nodes. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Nodes {
    committer: Committer,
    /// Of decisions about nodes and who leads. They never wait for users.
    turns: Turns,
    /// Partitions about which operators decide.
    in_hand: InHand,
    /// Everything runs in one process: its lock on the data directory says that no other node is there.
    standalone: bool,
}

/// Refuses a node with another data directory while the node that is registered is not fenced: both would acknowledge
/// records under the same offsets.
fn check_vacant(node: NodeId, known: &NodeEntry, new: &NodeRegistration) -> Result<(), ApiError> {
    let other = &known.registration;
    let same = other.directory.is_empty() || other.directory == new.directory || other.incarnation == new.incarnation;
    if known.epoch == 0 || known.liveness.fenced || same {
        return Ok(());
    }
    let text = format!(
        "storage node {node} is in service on another data directory (instance {}); give this one an id of its \
         own, or stop that one and wait until its session is over",
        other.incarnation
    );
    Err(ApiError::new(Reason::NodeIdInUse, text).with("nodeId", node))
}

/// Refuses the address of another node that is in service: what is meant for one of them would come to the other.
pub(crate) fn check_address(
    node: NodeId,
    (view, silent): (&ClusterView, &NodeSet),
    new: &NodeRegistration,
) -> Result<(), ApiError> {
    let address = &*new.internal_address;
    let has_it = |(other, known): &(NodeId, &Arc<NodeEntry>)| {
        let in_service = known.epoch > 0 && !known.liveness.fenced && !silent.contains(*other);
        *other != node && in_service && !address.is_empty() && known.registration.internal_address == address
    };
    let Some((other, _)) = view.metadata.nodes().find(has_it) else { return Ok(()) };
    let text = format!(
        "storage node {node} says that it is at {address}, and so does storage node {other}, which is in service; give \
         each an address of its own (`storage.advertise`), or stop that one and wait until its session is over"
    );
    Err(ApiError::new(Reason::NodeAddressInUse, text).with("nodeId", node).with("otherNodeId", other))
}

/// Refuses an empty directory in place of the only copy of partitions: they would be led without their records. The
/// directory that has them can come back, or the topics can be deleted.
fn check_only_copies(node: NodeId, view: &ClusterView, known: &NodeEntry) -> Result<(), ApiError> {
    let alone: NodeSet = std::iter::once(node).collect();
    let only_here = view.metadata.partitions().filter(|partition| {
        let state = &partition.record.state;
        state.counted() == alone
    });
    let keys: Vec<_> = only_here.map(|partition| partition.record.key).collect();
    let (count, Some(first)) = (keys.len(), keys.first()) else { return Ok(()) };
    let topic = view.metadata.topic(first.topic).map(|topic| topic.name.to_string()).unwrap_or_default();
    let (number, partitions) = (first.partition, if count == 1 { "partition" } else { "partitions" });
    let text = format!(
        "storage node {node} has another data directory than before (then {}), which had the only copy of {count} \
         {partitions}, for example {topic}/{number}, that is in sync; start it with that directory (its file `meta` has the id), or give this one another \
         node id; or, where other nodes have replicas, `walser partition elect TOPIC --unclean --accept-loss` goes on with \
         what they have; or delete the topics, which deletes those records for good",
        known.registration.directory
    );
    Err(ApiError::new(Reason::NodeIdInUse, text).with("nodeId", node).with("partitions", count))
}

/// Whether nobody else has everything, but nodes that are there on directories that cannot be used. What this node has said of
/// its own was said by the process before.
fn is_only_usable(state: &PartitionState, node: NodeId, context: &DecisionContext) -> bool {
    others_cannot(state, node, |other| context.alive(other) && context.failed.contains(other))
}

/// Whether that is so as far as is known: nothing is known of the directory of a node that is not heard. It is heard soon, or
/// fenced.
fn may_be_only_usable(state: &PartitionState, node: NodeId, context: &DecisionContext) -> bool {
    let may_be_failed = |other| context.failed.contains(other) || context.silent.contains(other);
    others_cannot(state, node, |other| context.alive(other) && may_be_failed(other))
}

fn others_cannot(state: &PartitionState, node: NodeId, cannot: impl Fn(NodeId) -> bool) -> bool {
    let whole = state.whole();
    whole.contains(node) && whole.iter().all(|other| other == node || cannot(other))
}

/// Whether the last that a node has said is that its directory had failed, where that counts against it: another one has
/// everything, also on a directory that has failed. Otherwise it is all there is.
fn has_failed(state: &PartitionState, node: NodeId, context: &DecisionContext) -> bool {
    context.failed.contains(node) && !control::is_only_eligible(state, node)
}

/// Refuses an older copy of a directory in place of the only one that has everything: what was acknowledged since would
/// be lost everywhere, although that directory can come back.
fn check_older_copies(node: NodeId, view: &ClusterView, context: &DecisionContext) -> Result<(), ApiError> {
    let records = view.metadata.partitions().map(|partition| &partition.record);
    let copied = records.filter(|record| record.state.replicas.len() > 1);
    let doubtful: Vec<_> = copied.filter(|record| may_be_only_usable(&record.state, node, context)).collect();
    if doubtful.is_empty() {
        return Ok(());
    }
    let count = doubtful.iter().filter(|record| is_only_usable(&record.state, node, context)).count();
    if count == 0 {
        let text = format!(
            "storage node {node} comes with an older copy of its data directory; whether other nodes have all of {} \
             partitions and can use their directories is not known until they are heard; it tries again",
            doubtful.len()
        );
        return Err(ApiError::new(Reason::ControllerNotAvailable, text).with("nodeId", node));
    }
    let text = format!(
        "the data directory of storage node {node}, or only its logs, is an older copy, or its file logs/checkpoint is gone: the node has served since, and its replicas were the \
         only ones in sync of {count} partitions; put the latest directory back, or mend that of another node in sync, if one has failed; or `walser partition elect TOPIC \
         --unclean --accept-loss` goes on with what other nodes have; or delete the topics, which deletes those records \
         for good"
    );
    Err(ApiError::new(Reason::DataRollback, text).with("nodeId", node).with("partitions", count))
}

impl Nodes {
    pub(crate) fn new(committer: Committer, turns: Turns, standalone: bool) -> Self {
        Self { committer, turns, in_hand: InHand::default(), standalone }
    }

    /// Registers a node; returns its node epoch. Its earlier incarnation is fenced and swept out of every in-sync set and
    /// every lead first, so that nothing of it counts any more (rules R17 and R18). It is unfenced once it has seen that
    /// (amendment A10). `held`: what it says of its directory. Where that is not all that the node had, it neither counts
    /// nor is eligible until it has followed a leader (rule R20, amendment A5). `registered`: is called before the next
    /// decision about nodes is taken. `admits`: whether nodes such as this one may register, asked in its turn.
    pub(crate) async fn register(
        &self,
        node: NodeId,
        registration: &NodeRegistration,
        held: &Holdings,
        (admits, registered): (impl Fn() -> Result<(), ApiError>, impl Fn(Revision)),
    ) -> Result<Revision, ApiError> {
        for _ in 0..ATTEMPTS_MAX {
            let _turn = self.turns.next().await?;
            admits()?;
            let (view, context) = self.committer.context()?;
            // One that is not heard may have moved; where it has not, this one is not unfenced.
            check_address(node, (&view, &context.silent), registration)?;
            let known = view.metadata.node(node);
            let replaced = known.filter(|known| self.replaces_directory(known, registration, &view, held));
            if let Some(known) = replaced {
                // Nobody else is in service where one process is everything.
                if !self.standalone {
                    check_vacant(node, known, registration)?;
                }
                check_only_copies(node, &view, known)?;
            }
            let older = known.is_some_and(|known| held.are_older(known));
            if older && replaced.is_none() {
                check_older_copies(node, &view, &context)?;
            }
            let integrity = |record: &PartitionRecord<TopicPartition>| {
                if replaced.is_some() {
                    return ReplicaIntegrity::Gone;
                }
                let topic = view.metadata.topic(record.key.topic);
                let page_cache = topic.is_some_and(|topic| held.counted_unflushed(topic));
                let failed = has_failed(&record.state, node, &context);
                control::counted(&context, &record.state, node, held.integrity(record.key, older, (page_cache, failed)))
            };
            let records = view.metadata.partitions().map(|partition| &partition.record);
            let records = records.map(|record| (record, integrity(record))).collect::<Vec<_>>();
            let decisions = control::admit(&context, node, records.iter().copied());
            let registers = |write: &Write<TopicPartition>| matches!(write, Write::Registration(_));
            match decisions.first() {
                Some(decision) if decision.writes.iter().any(registers) => {
                    let extra = Extra { registration: Some(registration.clone()), ..Extra::default() };
                    if let Committed::At(revision) = self.committer.commit(&view, decision, extra).await? {
                        held.report(node, (older && replaced.is_none(), context.failed.contains(node)));
                        registered(revision);
                        return Ok(revision);
                    }
                }
                Some(_) => drop(self.committer.commit_all(&view, decisions, &Extra::default()).await?),
                None => {
                    return Err(ApiError::internal(format!("storage node {node} can be neither swept nor registered")));
                }
            }
        }
        Err(contended())
    }

    /// Whether a node comes with another data directory than the one it was registered with. Where one process is
    /// everything, metadata and data lie in one directory: with data that the metadata knows it is the same one, which
    /// has lost its id; without any, somebody has put only the metadata there.
    fn replaces_directory(
        &self,
        known: &NodeEntry,
        new: &NodeRegistration,
        view: &ClusterView,
        held: &Holdings,
    ) -> bool {
        let before = &known.registration.directory;
        let another = known.epoch > 0 && !before.is_empty() && *before != new.directory;
        let same = || view.metadata.partitions().any(|partition| held.has(partition.record.key));
        another && !(self.standalone && same())
    }

    /// Begins a new leader epoch of a partition for the node that leads it in `epoch`, above that and `above`; returns
    /// the new one. `records_lost`: the node gives up records of its log, see [`control::give_up_records`].
    pub(crate) async fn renew_epoch(
        &self,
        node_epoch: Revision,
        id: TopicPartition,
        epoch: LeaderEpoch,
        (above, records_lost): (LeaderEpoch, bool),
    ) -> Result<LeaderEpoch, ApiError> {
        let stale = || {
            let text = format!("the caller does not lead partition {id} in epoch {} any more", epoch.0);
            ApiError::new(Reason::StaleEpoch, text).with("epoch", epoch.0)
        };
        let mut written = None;
        for _ in 0..ATTEMPTS_MAX {
            let _turn = self.turns.next().await?;
            let (view, context) = self.committer.context()?;
            let found = view.metadata.partition(id).filter(|_| view.metadata.tombstone(id.topic).is_none());
            let record = &found.ok_or_else(stale)?.record;
            if written.as_ref() == Some(&record.state) {
                // By this very call, when the outcome was not known.
                return Ok(record.state.leader_epoch);
            }
            let decided = if records_lost {
                control::give_up_records(&context, record, node_epoch, epoch)
            } else {
                control::renew_epoch(&context, record, node_epoch, epoch, above)
            };
            let decision = decided.map_err(|refusal| match refusal {
                Refusal::Needless(other) => needless_repair(other),
                _ => stale(),
            })?;
            let next = decision.partition_states().next().cloned();
            let next = next.ok_or_else(|| ApiError::internal("a decision about a partition does not write it"))?;
            if self.committer.commit(&view, &decision, Extra::default()).await? != Committed::Again {
                return Ok(next.leader_epoch);
            }
            written = Some(next);
        }
        Err(contended())
    }

    /// The turns of decisions about nodes and who leads.
    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Partitions in which nobody else elects at present.
    pub(crate) fn in_hand(&self) -> &InHand {
        &self.in_hand
    }

    /// What commits them.
    pub(crate) fn committer(&self) -> &Committer {
        &self.committer
    }
}

/// A repair would give up what another node has.
fn needless_repair(other: NodeId) -> ApiError {
    let text =
        format!("names a partition of which node {other} has everything: it takes the lead, and nothing is lost");
    ApiError::field("partition", text)
}

/// A node that is registered in this incarnation.
pub(crate) fn current(view: &ClusterView, node_epoch: Revision) -> Option<(NodeId, &Arc<NodeEntry>)> {
    view.metadata.nodes().find(|(_, node)| node.epoch == node_epoch)
}

#[cfg(test)]
mod tests {
    use walser_replication::control::NodeRecord;

    use super::*;

    fn ids(nodes: &[i32]) -> NodeSet {
        nodes.iter().copied().map(NodeId).collect()
    }

    /// Nodes 1 to 3, all in service; of some the directory has failed.
    fn context(failed: &[i32]) -> DecisionContext {
        let node = NodeRecord { epoch: 1, live_revision: 1, fenced: false, shutting_down: false, drained: false };
        let nodes = (1..=3).map(|id| (NodeId(id), node)).collect();
        DecisionContext { nodes, failed: ids(failed), ..DecisionContext::default() }
    }

    fn state(isr: &[i32], elr: &[i32]) -> PartitionState {
        let mut state = PartitionState::new((1..=3).map(NodeId).collect(), 1);
        (state.isr, state.elr, state.leader) = (ids(isr), ids(elr), None);
        state
    }

    #[test]
    fn a_directory_that_had_failed_counts_where_another_node_has_everything() {
        let (one, first) = (context(&[1, 2]), NodeId(1));
        assert!(has_failed(&state(&[1, 2], &[]), first, &one), "node 2 has its page cache, and goes on with it");
        assert!(has_failed(&state(&[], &[1, 3]), first, &one));
        assert!(!has_failed(&state(&[], &[1]), first, &one), "it is all there is");
        assert!(!has_failed(&state(&[1, 2], &[]), first, &context(&[2])));
    }

    #[test]
    fn an_older_copy_is_refused_where_nobody_else_can_be_used() {
        let first = NodeId(1);
        assert!(is_only_usable(&state(&[1], &[]), first, &context(&[1])), "its own word is of the directory before");
        assert!(is_only_usable(&state(&[], &[1, 2]), first, &context(&[2])));
        assert!(!is_only_usable(&state(&[], &[1, 2]), first, &context(&[])));
        assert!(!is_only_usable(&state(&[2], &[]), first, &context(&[2])), "it does not count itself");
        assert!(!may_be_only_usable(&state(&[], &[1, 2]), first, &context(&[])));
        let unheard = DecisionContext { silent: ids(&[2]), ..context(&[3]) };
        assert!(!is_only_usable(&state(&[], &[1, 2, 3]), first, &unheard));
        assert!(
            may_be_only_usable(&state(&[], &[1, 2, 3]), first, &unheard),
            "a new controller knows of no failed ones"
        );
        let mut gone = context(&[2]);
        gone.nodes.get_mut(&NodeId(2)).unwrap().fenced = true;
        gone.silent = ids(&[2]);
        assert!(!may_be_only_usable(&state(&[], &[1, 2]), first, &gone), "it is away, as any other one");
    }
}
