//! What the controller does by itself: it fences silent nodes, takes them out of their partitions, elects leaders, lets
//! nodes come back, and finishes what an earlier controller has begun.
//!
//! One task follows the view. Partitions that a change has touched are looked at again ([`control::reconcile`]); when
//! this controller begins to lead, all of them are. What nodes say wakes it as well. Nothing of it is remembered
//! beyond the view: a successor finds the same work.

mod fencing;
mod preferred;
mod recovery;
mod stops;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use walser_metadata::{Changes, PartitionEntry};
use walser_metastore::Revision;
use walser_model::{Clock, NodeId, TopicId, TopicPartition};
use walser_replication::NodeSet;
use walser_replication::control::{self, Decision, DecisionContext};
use walser_rpc::ApiError;

use crate::cluster_view::ClusterView;
use crate::committer::{Committed, Extra};
use crate::config::Config;
use crate::nodes::{Nodes, check_address};
use crate::restore::RefusedNodes;
use crate::sessions::Sessions;
use crate::topics::Topics;

/// Pause before duties are tried again that could not be done.
const RETRY: Duration = Duration::from_millis(500);
/// Pause before decisions are taken again that were overtaken: this controller may not lead any more, and not know.
const OVERTAKEN: Duration = Duration::from_millis(20);
/// Pause while there is nothing to do: whether this controller leads is looked at then, too.
const IDLE: Duration = Duration::from_secs(1);

/// Wakes the duties. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct DutyBell {
    rings: Arc<Notify>,
    /// All partitions are to be looked at.
    for_all: Arc<AtomicBool>,
}

impl DutyBell {
    /// There is something to do that the view does not show.
    pub(crate) fn ring(&self) {
        self.rings.notify_one();
    }

    /// All partitions are to be looked at again: what they depend on beside the view's changes is another.
    pub(crate) fn ring_for_all(&self) {
        self.for_all.store(true, Ordering::Release);
        self.ring();
    }
}

/// The duties of a controller. `S`: statistics of nodes, which play no part here.
#[derive(Debug, Clone)]
pub(crate) struct Duties<S> {
    pub(crate) nodes: Nodes,
    pub(crate) topics: Topics,
    pub(crate) sessions: Sessions<S>,
    pub(crate) refused: RefusedNodes,
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) bell: DutyBell,
}

/// What is to be looked at again.
#[derive(Debug, Default)]
struct Dirty {
    all: bool,
    partitions: BTreeSet<TopicPartition>,
    /// Topics that may be being created or deleted.
    topics: BTreeSet<TopicId>,
}

impl Dirty {
    /// Adds what a change of the view has touched.
    fn touch(&mut self, before: &ClusterView, view: &ClusterView, changes: &Changes) {
        let default = |view: &ClusterView| view.cluster.as_ref().map(|record| record.min_insync_replicas);
        // Partitions have their own min.insync.replicas, which follows.
        self.all |= changes.snapshot || default(before) != default(view);
        if self.all {
            return;
        }
        let metadata = &view.metadata;
        self.partitions.extend(&changes.partitions);
        self.topics.extend(changes.partitions.iter().map(|id| id.topic));
        self.topics.extend(&changes.tombstones);
        let of_topics = changes.topics.iter().flat_map(|topic| metadata.partitions_of(*topic));
        self.partitions.extend(of_topics.map(|partition| partition.record.key));
        if changes.nodes.iter().any(|node| metadata.node(*node).is_none()) {
            // Nobody waits for its confirmations any more.
            self.topics.extend(metadata.tombstones().map(|(topic, _)| topic));
        }
        if !changes.nodes.is_empty() {
            let on_node = |partition: &&PartitionEntry| {
                partition.record.state.replicas.iter().any(|node| changes.nodes.contains(node))
            };
            self.partitions.extend(metadata.partitions().filter(on_node).map(|partition| partition.record.key));
        }
    }

    /// Topics that are being created or deleted, of those that were touched.
    fn unfinished(&self, view: &ClusterView) -> BTreeSet<TopicId> {
        let unfinished = |id: &TopicId| view.staged.contains_key(id) || view.metadata.tombstone(*id).is_some();
        if self.all {
            let deleting = view.metadata.tombstones().map(|(id, _)| id);
            return view.staged.keys().copied().chain(deleting).collect();
        }
        // Of staged topics and of deletions that are under way there are few, and a step of the view need not name them:
        // whoever had them in hand may have given up, because this controller did not lead for a moment.
        let staged = view.staged.keys().copied();
        let left = |id: &TopicId| view.metadata.partitions_of(*id).next().is_some();
        let deleting = view.metadata.tombstones().map(|(id, _)| id).filter(left);
        self.topics.iter().copied().filter(unfinished).chain(staged).chain(deleting).collect()
    }

    /// The decisions that are due for what was touched.
    fn decisions(&self, view: &ClusterView, context: &DecisionContext) -> Vec<Decision<TopicPartition>> {
        let metadata = &view.metadata;
        let due = |partition: &PartitionEntry| {
            let record = &partition.record;
            control::reconcile(context, record, min_isr(view, partition).unwrap_or(record.state.min_isr))
        };
        if self.all {
            return metadata.partitions().filter_map(due).collect();
        }
        let living = self.partitions.iter().filter(|id| metadata.tombstone(id.topic).is_none());
        living.filter_map(|id| metadata.partition(*id)).filter_map(due).collect()
    }
}

/// Whether nothing is left of a topic that is being deleted, on any node that is registered.
fn is_removed(view: &ClusterView, id: TopicId) -> bool {
    let awaited = |node: &i32| view.metadata.node(NodeId(*node)).is_some();
    let confirmed = view.metadata.tombstone(id).is_some_and(|tombstone| !tombstone.value.nodes.iter().any(awaited));
    confirmed && view.metadata.partitions_of(id).next().is_none()
}

/// The effective `min.insync.replicas` of a partition by the settings of its topic; `None`: it is being created.
fn min_isr(view: &ClusterView, partition: &PartitionEntry) -> Option<usize> {
    view.min_isr(view.metadata.topic(partition.record.key.topic)?).ok()
}

impl<S: Clone + Default + Send + 'static> Duties<S> {
    /// Does the duties for as long as the process runs.
    pub(crate) async fn run(self) {
        let views = self.nodes.committer().views.clone();
        let mut led: Revision = 0;
        let mut dirty = Dirty::default();
        let (mut view, mut steps) = views.subscribe();
        loop {
            let leads = self.nodes.committer().lead.epoch().unwrap_or(0);
            if leads != led {
                // What an earlier controller has left behind is looked for once.
                (led, dirty.all) = (leads, true);
            }
            let pause = match self.once(&view, &mut dirty).await {
                _ if leads == 0 => RETRY,
                Ok(_) if dirty.all => OVERTAKEN,
                Ok(true) => Duration::ZERO,
                Ok(false) => IDLE,
                Err(failure) => {
                    tracing::warn!(%failure, "a duty of the controller could not be done; retrying");
                    dirty.all = true;
                    RETRY
                }
            };
            tokio::select! {
                biased;
                step = steps.next() => {
                    let Some((next, changes)) = step else { return };
                    dirty.touch(&view, &next, &changes);
                    view = next;
                }
                () = self.bell.rings.notified() => dirty.all |= self.bell.for_all.swap(false, Ordering::AcqRel),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Does what is due; returns whether there may be more at once.
    async fn once(&self, view: &Arc<ClusterView>, dirty: &mut Dirty) -> Result<bool, ApiError> {
        let unfinished = dirty.unfinished(view);
        let mut overtaken = false;
        let confirmed = self.sessions.take_confirmed();
        if !confirmed.is_empty() || unfinished.iter().any(|id| is_removed(view, *id)) {
            overtaken = !self.topics.confirm_removed(&confirmed, self.clock.now_millis()).await?;
        }
        self.topics.finish_what_was_begun(view, &unfinished);
        self.unfence(view).await?;
        self.see_off().await?;
        self.relieve_unwritable().await?;
        let _turn = self.nodes.turns().next().await?;
        let (view, context) = self.nodes.committer().context()?;
        let decisions = dirty.decisions(&view, &context);
        *dirty = Dirty { all: overtaken, ..Dirty::default() };
        if decisions.is_empty() {
            return Ok(false);
        }
        // What stands against a decision is a step of the view, and touches its partition again; an outcome that is not
        // known need not be one.
        dirty.all |= !self.nodes.committer().commit_all(&view, decisions, &Extra::default()).await?;
        Ok(true)
    }

    /// Lets fenced nodes that have seen their fence count again.
    async fn unfence(&self, view: &ClusterView) -> Result<(), ApiError> {
        for (node, entry) in view.metadata.nodes().filter(|(_, node)| node.epoch > 0 && node.liveness.fenced) {
            let (now, limit) = (self.clock.monotonic(), self.config.session);
            let Some(seen) = self.sessions.seen(node, entry.epoch, now, limit) else { continue };
            if seen < entry.live_revision.max(entry.epoch) || self.refused.refuses(node, &entry.registration, now) {
                continue;
            }
            let _turn = self.nodes.turns().next().await?;
            let (view, context) = self.nodes.committer().context()?;
            let Some(entry) = view.metadata.node(node) else { continue };
            if let Err(why) = check_address(node, (&view, &NodeSet::EMPTY), &entry.registration) {
                if self.refused.turned_away(node, now).is_none() {
                    tracing::warn!(node = %node, %why, "a node is not taken back into service");
                }
                self.refused.turn_away(node, why, now);
                continue;
            }
            let partitions = view.metadata.partitions().map(|partition| &partition.record);
            let Some(decision) = control::unfence(&context, node, seen, partitions) else { continue };
            if self.nodes.committer().commit(&view, &decision, Extra::default()).await? != Committed::Again {
                self.refused.registered(node, &entry.registration.directory);
                tracing::info!(node = %node, "node in service");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use walser_metadata::value::{PartitionValue, TombstoneValue};
    use walser_metadata::{Delta, MetadataChange};
    use walser_model::PartitionIndex;
    use walser_replication::PartitionState;

    use super::*;
    use crate::keys::cluster::ClusterRecord;

    /// The call that has changed it may not live to see its change.
    #[test]
    fn another_default_of_min_insync_replicas_touches_all_partitions_whoever_has_written_it() {
        let view = |min_insync_replicas, name: &str| {
            let record = ClusterRecord::new("c".into(), name.to_owned(), 5);
            let record = ClusterRecord { min_insync_replicas, ..record };
            let mut view = ClusterView::default();
            view.cluster.replace(Arc::new(record));
            view
        };
        let touched = |before: &ClusterView, after: &ClusterView| {
            let mut dirty = Dirty::default();
            dirty.touch(before, after, &Changes::default());
            dirty.all
        };
        assert!(touched(&view(1, "a"), &view(2, "a")));
        assert!(!touched(&view(2, "a"), &view(2, "b")));
    }

    #[test]
    fn a_deletion_is_looked_at_again_when_a_node_that_it_waits_for_is_deregistered() {
        let topic = TopicId::from_bytes([1; 16]);
        let value = Box::new(TombstoneValue { nodes: vec![1], ..TombstoneValue::default() });
        let registered = |node| MetadataChange::Registration { node: NodeId(node), value: Box::default(), revision: 1 };
        let changes = vec![MetadataChange::Tombstone { topic, value, revision: 1 }, registered(1), registered(2)];
        let mut before = ClusterView::default();
        before.metadata.apply(Delta { version: 1, snapshot: true, changes }).unwrap();
        for (node, awaited) in [(1, true), (2, false)] {
            let mut view = before.clone();
            let changes = vec![MetadataChange::NodeRemoved(NodeId(node))];
            let changes = view.metadata.apply(Delta { version: 2, snapshot: false, changes }).unwrap();
            let mut dirty = Dirty::default();
            dirty.touch(&before, &view, &changes);
            assert_eq!(dirty.unfinished(&view), BTreeSet::from([topic]));
            assert_eq!(is_removed(&view, topic), awaited, "it waits for node 1 alone");
        }
    }

    #[test]
    fn a_deletion_that_nobody_has_in_hand_any_more_is_found_without_a_change() {
        let (left, gone) = (TopicId::from_bytes([1; 16]), TopicId::from_bytes([2; 16]));
        let tombstone = |topic| {
            let value = Box::new(TombstoneValue { nodes: vec![1], ..TombstoneValue::default() });
            MetadataChange::Tombstone { topic, value, revision: 1 }
        };
        let value = Box::new(PartitionValue::from(PartitionState::new(vec![NodeId(1)], 1)));
        let partition =
            MetadataChange::Partition { id: TopicPartition::new(left, PartitionIndex(0)), value, revision: 1 };
        let mut view = ClusterView::default();
        let changes = vec![tombstone(left), tombstone(gone), partition];
        view.metadata.apply(Delta { version: 1, snapshot: true, changes }).unwrap();
        assert_eq!(Dirty::default().unfinished(&view), BTreeSet::from([left]));
    }
}
