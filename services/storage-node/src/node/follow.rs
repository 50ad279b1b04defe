//! Metadata takes effect on this node: what it is to lead, to remove, and to set aside.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use walser_log::SeenMetadata;
use walser_metadata::{Changes, Delta, PartitionEntry, View};
use walser_model::{ClusterId, LeaderEpoch, TopicPartition};
use walser_replication::{NodeSet, Role};
use walser_rpc::{
    ApiError, ControllerClient, CutOffPatience, LedPartition, MetadataSeen, MetadataStream, Outage, Reason,
};

use super::{Begun, Membership, RETRY, is_foreign};
use crate::disposal::Held;
use crate::shard::{Command, PartitionMetadata};

/// Deltas of the metadata that are acted on together.
const DELTAS_MAX: usize = 256;
/// Pause before a leader epoch is asked for again.
const RENEW_RETRY: Duration = Duration::from_secs(1);

impl Membership {
    /// Acts on nothing that this controller says: writes are refused, reads go on.
    pub(super) fn disobey(&self, failure: ApiError) {
        if self.registry.refuse_writes(failure.clone()) {
            tracing::error!(error = %failure, "the controller's metadata is not that of this node: writes are refused");
        }
        if self.node_epoch.load(Ordering::Acquire) == 0 {
            self.engine.shards.queues().for_each(|queue| queue.push(Command::ServeReads));
        }
    }

    /// Follows the metadata for as long as it is that of this node.
    pub(super) async fn follow_metadata(&self, begun: &mut Option<Begun>) -> ApiError {
        let mut outage = Outage::of("the metadata stream from the controller");
        let (mut turns, patience) = (self.controllers.iter().cycle(), CutOffPatience::of(self.controllers.len()));
        loop {
            // Any of them will do, and another one where one fails.
            let controller = turns.next().unwrap_or(&self.controller);
            match self.follow_once((controller, &patience), begun, &mut outage).await {
                Err(failure) if is_foreign(&failure) => return failure,
                Err(failure) => {
                    if begun.is_some() {
                        self.health.set_problems(vec![format!("following the metadata: {failure}")]);
                    }
                    outage.failed(&failure);
                }
                Ok(never) => match never {},
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow_once(
        &self,
        (controller, patience): (&ControllerClient, &CutOffPatience),
        begun: &mut Option<Begun>,
        outage: &mut Outage,
    ) -> Result<Infallible, ApiError> {
        // A controller that is behind it waits until it is not.
        let mut stream = MetadataStream::open(controller, self.latest_seen(), patience).await?;
        loop {
            let deltas = stream.next_deltas(DELTAS_MAX).await?;
            let view = self.act_on(deltas, stream.seen()).await?;
            // A stream that opens and whose metadata cannot be acted on is not over it.
            outage.ended();
            if self.serves(&view)
                && let Some(begun) = begun.take()
            {
                let _ = begun.send(Ok(()));
            }
        }
    }

    /// Acts on deltas, which lead to metadata of the history in `seen`; returns that metadata.
    async fn act_on(&self, deltas: Vec<Delta>, seen: &MetadataSeen) -> Result<Arc<View>, ApiError> {
        let before = self.view.load().version();
        let mut view = View::clone(&self.view.load());
        let mut changes = Changes::default();
        for delta in deltas {
            let touched = view.apply(delta).map_err(|error| ApiError::metadata_rollback(error.have, error.got))?;
            changes.merge(touched);
        }
        let epoch = self.node_epoch.load(Ordering::Acquire);
        if before < epoch && epoch <= view.version() {
            // A controller may not have seen the registration at first. Of what it said then nothing was acted on (rule R1).
            changes.partitions.extend(view.partitions().map(|partition| partition.record.key));
        }
        // What only says which nodes are there is not acted on; but once this incarnation counts, a copy of the directory
        // from before is told by not having seen that.
        let registered = self.is_news_of_registration(&view);
        if !changes.of_no_topic() || registered {
            let lineage = seen.lineage.parse::<ClusterId>();
            let lineage = lineage.map(ClusterId::to_bytes).unwrap_or_default();
            self.note(SeenMetadata { version: view.version(), lineage }, registered).await?;
        }
        self.take_effect(&view, &changes)?;
        let view = Arc::new(view);
        self.engine.shards.settle().await;
        // What a beat reports has taken effect.
        self.view.store(Arc::clone(&view));
        self.applied.store(Arc::new(seen.clone()));
        self.registry.contact.applied(view.version());
        self.registry.accept_writes();
        if self.fenced(&view) {
            self.beat_now.send_replace(());
        }
        Ok(view)
    }

    /// Writes down what was seen, before it is acted on: a controller that is behind it later is behind what this node
    /// has done. `registered`: it says that this incarnation is registered.
    async fn note(&self, seen: SeenMetadata, registered: bool) -> Result<(), ApiError> {
        let directory = Arc::clone(&self.engine.directory);
        let node_epoch = self.node_epoch.load(Ordering::Acquire);
        let noted = tokio::task::spawn_blocking(move || {
            if registered {
                // First: it is not asked again once the metadata is noted.
                directory.note_registration(node_epoch)?;
            }
            directory.note_metadata(seen)
        });
        let noted = noted.await;
        let failed = |error: &dyn std::fmt::Display| {
            ApiError::new(Reason::StorageError, format!("the metadata version cannot be written: {error}"))
        };
        noted.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }

    /// Whether the directory does not know yet that this incarnation has registered.
    fn is_news_of_registration(&self, view: &View) -> bool {
        let epoch = self.node_epoch.load(Ordering::Acquire);
        self.engine.directory.metadata_seen().version < epoch && epoch <= view.version()
    }

    /// Whether this incarnation is registered and does not count.
    fn fenced(&self, view: &View) -> bool {
        let epoch = self.node_epoch.load(Ordering::Acquire);
        view.node(self.config.node).is_some_and(|node| node.epoch == epoch && node.liveness.fenced)
    }

    /// Whether this node counts, and leads every partition that no other node can lead.
    fn serves(&self, view: &View) -> bool {
        let epoch = self.node_epoch.load(Ordering::Acquire);
        let counts = view.node(self.config.node).is_some_and(|node| node.epoch == epoch && !node.liveness.fenced);
        let alone: NodeSet = std::iter::once(self.config.node).collect();
        let waits = |partition: &PartitionEntry| {
            let state = &partition.record.state;
            state.leader.is_none() && state.whole() == alone
        };
        counts && !view.partitions().any(waits)
    }

    /// Nothing takes effect when it is not known what is here: the stream begins again, with a snapshot.
    fn take_effect(&self, view: &View, changes: &Changes) -> Result<(), ApiError> {
        let disposes = changes.snapshot || !changes.tombstones.is_empty();
        let held = if disposes { Some(self.held()?) } else { None };
        self.registry.names.show(view);
        self.network.dial_changed(view, changes);
        for topic in changes.topics.iter().filter_map(|topic| view.topic(*topic)) {
            if let Some(error) = &topic.settings.unreadable {
                tracing::error!(topic = %topic.name, error, "topic settings are not readable: it takes no writes");
            }
        }
        if let Some(held) = held {
            self.disposal.dispose(changes, view, self.config.node, &held);
        }
        let of_topics = changes.topics.iter().flat_map(|topic| view.partitions_of(*topic));
        let mut partitions = changes.partitions.clone();
        partitions.extend(of_topics.map(|partition| partition.record.key));
        // Those of a topic that is being deleted leave the metadata one after the other.
        partitions.retain(|id| view.partition(*id).is_some() && view.tombstone(id.topic).is_none());
        self.disposal.keep(&partitions);
        for partition in partitions {
            self.order(partition, view);
        }
        Ok(())
    }

    /// Partitions of which there is anything on this node.
    fn held(&self) -> Result<Held, ApiError> {
        let open = self.registry.all().into_iter().map(|(partition, _)| partition);
        let found = self.engine.directory.partitions();
        let unlisted =
            |error| ApiError::new(Reason::StorageError, format!("the data directory cannot be listed: {error}"));
        let found = found.map_err(unlisted)?;
        let aside = self.engine.directory.set_aside_partitions().into_iter().map(|aside| aside.partition);
        let here = open.chain(found.into_iter().map(|found| found.partition)).collect();
        Ok(Held { here, aside: aside.collect() })
    }

    /// Has the controller begin a leader epoch above that of what was set aside: its offsets were used before.
    fn renew_epoch(&self, partition: TopicPartition, epoch: LeaderEpoch, above: LeaderEpoch) {
        if self.renewing.lock().insert((partition, epoch)) {
            tokio::spawn(self.clone().until_renewed(partition, epoch, above));
        }
    }

    /// Asks until another epoch has begun, whoever began it.
    async fn until_renewed(self, partition: TopicPartition, epoch: LeaderEpoch, above: LeaderEpoch) {
        let mut outage = Outage::of("a leader epoch above that of what was set aside");
        loop {
            let node_epoch = self.node_epoch.load(Ordering::Acquire);
            let led = LedPartition { id: partition, leader_epoch: epoch };
            match self.controller.renew_leader_epoch(node_epoch, led, above).await {
                Ok(_) => break,
                Err(failure) => outage.failed(&failure),
            }
            tokio::time::sleep(RENEW_RETRY).await;
            let view = self.view.load();
            let state = view.partition(partition).map(|found| &found.record.state);
            if state.is_none_or(|state| state.leader != Some(self.config.node) || state.leader_epoch != epoch) {
                break;
            }
        }
        self.renewing.lock().remove(&(partition, epoch));
    }

    /// Tells the shard of a partition what metadata says of it. One whose topic is being created or deleted waits.
    fn order(&self, id: TopicPartition, view: &View) {
        let Some(topic) = view.topic(id.topic) else { return };
        let Some(found) = topic.partition(id.partition) else { return };
        let (state, partition_epoch) = (&found.record.state, found.record.epoch);
        let queue = self.engine.shards.queue(id);
        if let Some(problem) = state.problem() {
            let named = self.registry.names.partition(id);
            tracing::error!(partition = %named, problem, "metadata of a partition contradicts itself, and is not acted on");
            queue.push(Command::Resign(id));
            return;
        }
        let metadata = PartitionMetadata {
            partition: id,
            node_epoch: self.node_epoch.load(Ordering::Acquire),
            version: view.version(),
            state: state.clone(),
            partition_epoch,
            settings: Arc::clone(&topic.settings),
        };
        let leads = metadata.role(self.config.node) == Role::Lead;
        let aside =
            self.engine.directory.set_aside_partition(id).filter(|aside| aside.leader_epoch >= state.leader_epoch);
        if let Some(aside) = aside.filter(|_| leads) {
            self.registry.set_unusable(id, "it is being taken back from what was set aside".to_owned());
            self.renew_epoch(id, state.leader_epoch, aside.leader_epoch);
            return;
        }
        queue.push(Command::Install(Box::new(metadata)));
    }
}

#[cfg(test)]
mod tests;
