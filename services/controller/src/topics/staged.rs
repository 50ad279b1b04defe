//! Partitions that are too many for one transaction: a creation that was begun is finished, by whoever leads.

use std::collections::BTreeSet;
use std::time::Duration;

use walser_metadata::value::StagedPartitions;
use walser_metastore::Compare;
use walser_model::{LeaderEpoch, NodeId, PartitionIndex, TopicId, TopicPartition};
use walser_replication::control::{self, Decision, DecisionContext};
use walser_rpc::{ApiError, Reason};

use super::{ATTEMPTS_MAX, InHand, OTHER_PATIENCE, Topics, contended, effective};
use crate::cluster_view::ClusterView;
use crate::committer::{Committed, Extra};
use crate::keys::topic;
use crate::placement::Places;

/// Pause before what could not be finished is tried again; it doubles up to the other one.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The nodes of one partition.
fn replicas(places: &Places, staged: &StagedPartitions, id: TopicPartition) -> Result<Vec<NodeId>, ApiError> {
    let number = id.partition.0;
    let index = usize::try_from(number - staged.first).unwrap_or(0);
    let Some(node) = staged.placed_on.get(index).copied().filter(|node| *node >= 0).map(NodeId) else {
        return places.place(id.topic, number, staged.topic.replication_factor);
    };
    if places.is_usable(node) {
        return Ok(vec![node]);
    }
    let text = format!(
        "storage node {node} holds partition {number} and takes none at present: it is not in service, or \
         cordoned, or its data directory has failed; `walser status` says which; start it, mend it, or `walser node \
         uncordon {node}`, and try again"
    );
    Err(ApiError::new(Reason::LeaderNotAvailable, text).with("nodeId", node))
}

fn not_in_service(replicas: &[NodeId]) -> ApiError {
    let text = format!("none of the storage nodes {replicas:?} is in service any more; try again");
    ApiError::new(Reason::LeaderNotAvailable, text)
}

impl Topics {
    /// The decisions that create the partitions which are still missing.
    pub(super) fn partitions_to_create(
        &self,
        view: &ClusterView,
        context: &DecisionContext,
        id: TopicId,
        staged: &StagedPartitions,
    ) -> Result<Vec<Decision<TopicPartition>>, ApiError> {
        let topic = &staged.topic;
        let setting = effective(&topic.config, topic.replication_factor)?.min_insync_replicas;
        let min_isr = view.cluster()?.min_isr(setting, topic.replication_factor);
        let missing = (staged.first..topic.partition_count)
            .map(|number| TopicPartition::new(id, PartitionIndex(number)))
            .filter(|id| view.metadata.partition(*id).is_none());
        let (places, mut decisions) = (Places::of(&view.metadata, &context.failed, &topic.name), Vec::new());
        for id in missing {
            let replicas = replicas(&places, staged, id)?;
            let created = control::create(context, id, &replicas, min_isr, LeaderEpoch(staged.leader_epoch));
            // Never fewer than are missing: a topic would be written without them.
            decisions.push(created.ok_or_else(|| not_in_service(&replicas))?);
        }
        Ok(decisions)
    }

    /// Waits until a creation that another call, or an earlier controller, has begun is finished or given up.
    pub(super) async fn until_finished(&self, id: TopicId, name: &str) -> Result<(), ApiError> {
        let waiting = async {
            loop {
                let view = self.committer.views.load();
                if !view.staged.contains_key(&id) {
                    return;
                }
                self.committer.views.changed(view.metadata.version(), OTHER_PATIENCE).await;
            }
        };
        tokio::time::timeout(OTHER_PATIENCE, waiting).await.map_err(|_| {
            let text = format!(
                "partitions of topic \"{name}\" are staged and are not created yet after {} s; they are as soon as enough \
                 nodes are in service; try again later, or delete the topic",
                OTHER_PATIENCE.as_secs()
            );
            ApiError::new(Reason::ControllerNotAvailable, text).with("topic", name)
        })
    }

    /// Creates what is missing of the staged partitions of a topic, and then makes them visible.
    pub(super) async fn finish_staged(&self, in_hand: &InHand) -> Result<(), ApiError> {
        let id = in_hand.id;
        for _ in 0..ATTEMPTS_MAX {
            let (view, context) = self.committer.context()?;
            let Some(staged) = view.staged.get(&id) else { return Ok(()) };
            let decisions = self.partitions_to_create(&view, &context, id, &staged.value)?;
            if !decisions.is_empty() {
                // A deletion of the topic removes the staged value, and with it the right to create more.
                let compares = vec![Compare::ModifiedAt(topic::staged_key(id), staged.revision)];
                self.committer.commit_all(&view, decisions, &Extra { compares, ..Extra::default() }).await?;
                continue;
            }
            let Some(publication) = self.publication(&view, id, &staged.value) else { return Ok(()) };
            if self.committer.commit(&view, &Decision::new(&context), publication).await? != Committed::Again {
                return Ok(());
            }
        }
        Err(contended())
    }

    /// Finishes creations and deletions that no call of this process has in hand: an earlier controller began it, or a
    /// deletion has only taken the topic. Each by a task of its own.
    pub(crate) fn finish_what_was_begun(&self, view: &ClusterView, topics: &BTreeSet<TopicId>) {
        for id in topics {
            let staged = view.staged.contains_key(id);
            let left = view.metadata.tombstone(*id).is_some() && view.metadata.partitions_of(*id).next().is_some();
            if (staged || left)
                && let Some(in_hand) = self.take(*id)
            {
                tokio::spawn(self.clone().finish(in_hand));
            }
        }
    }

    /// Finishes the creation or deletion of a topic, however often that takes; a controller that does not lead any more
    /// leaves it to its successor.
    async fn finish(self, in_hand: InHand) {
        let mut pause = RETRY;
        loop {
            let finished = match self.finish_staged(&in_hand).await {
                Ok(()) => self.finish_deletion(&in_hand).await,
                failed => failed,
            };
            let Err(failure) = finished else { return };
            if self.committer.lead.epoch().is_err() {
                return;
            }
            tracing::warn!(topic = %in_hand.id, %failure, "what was begun of a topic could not be finished; retrying");
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(RETRY_MAX);
        }
    }
}
