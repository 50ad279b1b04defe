//! Decisions become transactions of the metadata store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _};
use parking_lot::Mutex;
use walser_metadata::value::{NodeLiveness, NodeRegistration, PartitionValue};
use walser_metastore::{Compare, Metastore, Op, Outcome, Revision, StoreError, Txn};
use walser_model::{NodeId, TopicPartition};
use walser_replication::NodeSet;
use walser_replication::control::{
    self, Comparison, ControllerStart, Decision, DecisionContext, MERGED_PARTITIONS_MAX, Write,
};
use walser_rpc::{ApiError, Reason};

use crate::cluster_view::ClusterView;
use crate::error::store_failure;
use crate::keys::{delete, node, partition, put};
use crate::leadership::ControllerLead;
use crate::views::Views;

/// Transactions of one set of decisions that are under way at once.
const CONCURRENT_MAX: usize = 16;

/// What a transaction has beside its decision.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extra {
    pub(crate) compares: Vec<Compare>,
    pub(crate) ops: Vec<Op>,
    /// Of the node that the decision registers.
    pub(crate) registration: Option<NodeRegistration>,
}

/// What became of a transaction. The view includes it, or what came in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Committed {
    /// It was written, at this revision.
    At(Revision),
    /// A condition did not hold, or it is not known: the decision is to be taken again.
    Again,
}

/// Writes decisions. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Committer {
    pub(crate) store: Arc<dyn Metastore>,
    pub(crate) views: Views,
    pub(crate) lead: ControllerLead,
    pub(crate) advice: Advice,
    start: ControllerStart,
}

/// What is known of nodes at present beside the metadata. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Advice(Arc<Mutex<Advised>>);

#[derive(Debug, Default)]
struct Advised {
    /// Nodes that cannot write, as they have said with their last beat, for any reason.
    unwritable: NodeSet,
    /// Those whose data directory has failed.
    failed: NodeSet,
    /// Nodes that have not been heard for a moment.
    silent: NodeSet,
    /// The epoch of the controller that has looked who is heard; 0: none that leads.
    epoch: Revision,
}

impl Advice {
    /// Notes what a node has said of its disk. True: whether its directory has failed is another than before, or it can
    /// write again.
    pub(crate) fn note_disk(&self, node: NodeId, full: bool, failed: bool) -> bool {
        let set = |nodes: &mut NodeSet, contains: bool| match contains {
            true => nodes.insert(node),
            false => nodes.remove(node),
        };
        let mut known = self.0.lock();
        let can_write = set(&mut known.unwritable, full || failed) && !full && !failed;
        set(&mut known.failed, failed) || can_write
    }

    /// Notes who has not been heard for a moment, as a controller of this epoch knows it. True: somebody is heard again, or
    /// it is known for the first time.
    pub(crate) fn note_silent(&self, epoch: Revision, silent: NodeSet) -> bool {
        let mut known = self.0.lock();
        let first = std::mem::replace(&mut known.epoch, epoch) != epoch;
        let before = std::mem::replace(&mut known.silent, silent.clone());
        first || !before.without(&silent).is_empty()
    }

    /// Whether no node has said that it cannot write.
    pub(crate) fn all_can_write(&self) -> bool {
        self.0.lock().unwritable.is_empty()
    }

    /// Those whose data directory has failed, as they have said with their last beat.
    pub(crate) fn failed(&self) -> NodeSet {
        self.0.lock().failed.clone()
    }

    /// Forgets nodes that are not registered any more.
    pub(crate) fn retain(&self, registered: impl Fn(NodeId) -> bool) {
        let mut known = self.0.lock();
        let Advised { unwritable, failed, silent, .. } = &mut *known;
        for nodes in [unwritable, failed, silent] {
            *nodes = nodes.iter().filter(|node| registered(*node)).collect();
        }
    }

    /// `epoch`: of the controller that decides. Until it has looked who is heard, nobody is.
    fn add_to(&self, context: &mut DecisionContext, epoch: Revision) {
        let known = self.0.lock();
        context.unwritable.clone_from(&known.unwritable);
        context.failed.clone_from(&known.failed);
        context.silent = match known.epoch == epoch {
            true => known.silent.clone(),
            false => context.nodes.keys().copied().collect(),
        };
    }
}

impl Committer {
    pub(crate) fn new(store: Arc<dyn Metastore>, views: Views, lead: ControllerLead, start: ControllerStart) -> Self {
        Self { store, views, lead, advice: Advice::default(), start }
    }

    /// The view, and what decisions on it are taken on.
    ///
    /// # Errors
    /// `CONTROLLER_NOT_AVAILABLE` when this controller does not lead.
    pub(crate) fn context(&self) -> Result<(Arc<ClusterView>, DecisionContext), ApiError> {
        let epoch = self.lead.epoch()?;
        let view = self.views.load();
        let mut context = view.metadata.decision_context(epoch);
        self.advice.add_to(&mut context, epoch);
        context.start = self.start;
        Ok((view, context))
    }

    /// Commits a decision that was taken on `view`, and waits until the view includes it or what stood against it.
    pub(crate) async fn commit(
        &self,
        view: &ClusterView,
        decision: &Decision<TopicPartition>,
        extra: Extra,
    ) -> Result<Committed, ApiError> {
        if let Some(problem) = decision.problem() {
            return Err(ApiError::internal(format!(
                "a decision would write a partition in which {problem}: {decision:?}"
            )));
        }
        let txn = self.transaction(view, decision, extra);
        match self.store.transact(txn).await {
            Ok(Outcome::Committed(revision)) => {
                let reached = self.views.reached(revision).await;
                reached.map_err(|failure| maybe(&failure))?;
                Ok(Committed::At(revision))
            }
            Ok(Outcome::Conflict { revision, .. }) => {
                self.views.reached(revision).await?;
                Ok(Committed::Again)
            }
            // Nothing is decided before it is known what is there.
            Err(StoreError::Unknown(_)) => {
                self.views.catch_up().await.map_err(|failure| maybe(&failure))?;
                Ok(Committed::Again)
            }
            Err(error) => Err(store_failure(error)),
        }
    }

    /// Commits decisions that were taken on `view`, merged and several at once. Returns whether all were written; those
    /// that were not are to be taken again.
    pub(crate) async fn commit_all(
        &self,
        view: &Arc<ClusterView>,
        decisions: Vec<Decision<TopicPartition>>,
        extra: &Extra,
    ) -> Result<bool, ApiError> {
        let mut failure = None;
        let sound = decisions.into_iter().filter(|decision| {
            let Some(problem) = decision.problem() else { return true };
            tracing::error!(problem, ?decision, "a decision would contradict itself; the others are written");
            failure = Some(ApiError::internal(format!("a decision would write a partition in which {problem}")));
            false
        });
        let merged = control::merge(sound, MERGED_PARTITIONS_MAX);
        let failed = Arc::new(AtomicBool::new(false));
        let mut commits = Vec::with_capacity(merged.len());
        for decision in merged {
            let (committer, view, extra, failed) = (self.clone(), Arc::clone(view), extra.clone(), Arc::clone(&failed));
            let commit = async move {
                // Where one is not taken, the others would not be: they are not tried.
                if failed.load(Ordering::Relaxed) {
                    return Ok(Committed::Again);
                }
                committer.commit(&view, &decision, extra).await
            };
            commits.push(commit.boxed());
        }
        let mut outcomes = stream::iter(commits).buffer_unordered(CONCURRENT_MAX);
        let mut all = true;
        while let Some(outcome) = outcomes.next().await {
            // What is under way comes to its end before anybody is told.
            match outcome {
                Ok(committed) => all &= committed != Committed::Again,
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(all), Err)
    }

    fn transaction(&self, view: &ClusterView, decision: &Decision<TopicPartition>, extra: Extra) -> Txn {
        let compare = |comparison: &Comparison<TopicPartition>| match comparison {
            Comparison::Controller(epoch) => self.lead.guard(*epoch),
            Comparison::Missing(id) => Compare::Missing(partition::key(*id)),
            Comparison::Partition(id, epoch) => Compare::ModifiedAt(partition::key(*id), *epoch),
            Comparison::Registration(node, epoch) => at(node::registration_key(*node), *epoch),
            Comparison::Live(node, revision) => at(node::live_key(*node), *revision),
        };
        let mut txn = Txn { compares: decision.comparisons.iter().map(compare).collect(), ops: Vec::new() };
        txn.compares.extend(extra.compares);
        for write in &decision.writes {
            txn.ops.push(match write {
                Write::Partition(id, state) => {
                    let unknown = view.metadata.partition(*id).map(|known| known.unknown.clone()).unwrap_or_default();
                    put(partition::key(*id), &PartitionValue { state: state.clone(), unknown })
                }
                Write::Delete(id) => delete(partition::key(*id)),
                Write::Registration(node) => {
                    put(node::registration_key(*node), &extra.registration.clone().unwrap_or_default())
                }
                Write::Live { node, fenced, shutting_down } => {
                    let known = view.metadata.node(*node);
                    let before = known.map(|known| known.liveness.clone()).unwrap_or_default();
                    let served_epoch = known.filter(|_| !*fenced).map_or(before.served_epoch, |known| known.epoch);
                    let (fenced, shutting_down) = (*fenced, *shutting_down);
                    put(node::live_key(*node), &NodeLiveness { fenced, shutting_down, served_epoch, ..before })
                }
            });
        }
        txn.ops.extend(extra.ops);
        txn
    }
}

/// The answer to a change that was begun, or whose end was not seen.
pub(crate) fn maybe(why: &ApiError) -> ApiError {
    let text = format!("the change was begun and may take effect later: {}", why.message());
    ApiError::new(Reason::RequestTimedOut, text).with("stage", "metadata")
}

/// The condition that a key was last changed at a revision; 0: that it does not exist.
pub(crate) fn at(key: String, revision: Revision) -> Compare {
    if revision == 0 { Compare::Missing(key) } else { Compare::ModifiedAt(key, revision) }
}

#[cfg(test)]
mod tests {
    use walser_replication::control::NodeRecord;

    use super::*;

    #[test]
    fn whoever_can_take_a_lead_again_is_told() {
        let advice = Advice::default();
        let set = |nodes: &[i32]| nodes.iter().copied().map(NodeId).collect::<NodeSet>();
        assert!(advice.note_silent(7, set(&[1, 2])), "nobody had looked in this epoch");
        assert!(!advice.note_silent(7, set(&[1, 2, 3])));
        assert!(advice.note_silent(7, set(&[1])));
        let node = NodeRecord { epoch: 0, live_revision: 0, fenced: false, shutting_down: false, drained: false };
        let silent = |epoch| {
            let mut context =
                DecisionContext { nodes: [1, 2].map(|id| (NodeId(id), node)).into(), ..Default::default() };
            advice.add_to(&mut context, epoch);
            context.silent
        };
        assert_eq!((silent(7), silent(8)), (set(&[1]), set(&[1, 2])), "who is heard is not known in a new epoch");
        assert!(!advice.note_disk(NodeId(2), true, false));
        assert!(!advice.note_disk(NodeId(2), true, false));
        assert!(advice.note_disk(NodeId(2), false, false));
        assert!(!advice.note_disk(NodeId(2), false, false));
        assert!(advice.note_disk(NodeId(2), false, true) && advice.note_disk(NodeId(2), false, false));
    }
}
