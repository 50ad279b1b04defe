//! The way to the leader of a partition.

use std::sync::Arc;

use walser_model::{LeaderEpoch, NodeId, PartitionIndex, TopicPartition};
use walser_rpc::{Connection, Failure, LedPartition, Network, Reason, StorageClient};

use crate::error::{partition_missing, recreated};
use crate::metadata::{Metadata, TopicView};

/// A partition with its way.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) node: NodeId,
    pub(crate) storage: Arc<dyn StorageClient>,
    pub(crate) partition: LedPartition,
}

/// The partition's number, if the topic has it.
pub(crate) fn checked_partition(topic: &TopicView, partition: i32) -> Result<PartitionIndex, Failure> {
    let found = (0..topic.value.partition_count).contains(&partition).then_some(PartitionIndex(partition));
    found.ok_or_else(|| partition_missing(&topic.name, partition, topic.partition_count()))
}

/// Finds leaders. Clones share the metadata.
#[derive(Debug, Clone)]
pub(crate) struct Router {
    metadata: Metadata,
    network: Network,
}

impl Router {
    pub(crate) fn new(metadata: Metadata, network: Network) -> Self {
        Self { metadata, network }
    }

    /// The way to a partition's leader. The topic may have been deleted or moved since it was looked up.
    pub(crate) fn route(&self, topic: &TopicView, partition: i32) -> Result<Route, Failure> {
        let current = self.metadata.topic(&topic.name);
        let current = match &current {
            Some(current) if current.id == topic.id => current,
            Some(current) => return Err(recreated(current, topic.id)),
            None => {
                let failure = Failure::new(Reason::TopicNotFound, format!("topic \"{}\" was deleted", topic.name));
                return Err(failure.with("topic", &topic.name));
            }
        };
        let number = checked_partition(current, partition)?;
        let (leader, epoch) = current.leader(number).unwrap_or((None, LeaderEpoch::NONE));
        let unavailable = || {
            let text = format!("partition {partition} of topic \"{}\" has no leader now", topic.name);
            let failure = Failure::new(Reason::LeaderNotAvailable, text).with("topic", &topic.name);
            failure.with("partition", partition)
        };
        let node = leader.ok_or_else(unavailable)?;
        let storage = self.network.storage_client(node).ok_or_else(unavailable)?;
        let id = TopicPartition::new(topic.id, number);
        Ok(Route { node, storage, partition: LedPartition { id, leader_epoch: epoch } })
    }

    /// Whether a partition has a leader that can be reached, as far as is known.
    pub(crate) fn is_led(&self, topic: &TopicView, partition: i32) -> bool {
        self.route(topic, partition).is_ok()
    }

    /// A connection to a storage node, if it is known.
    pub(crate) fn storage(&self, node: NodeId) -> Result<Connection, Failure> {
        let unknown = || Failure::new(Reason::LeaderNotAvailable, "the leader is not known");
        self.network.storage(node).ok_or_else(unknown)
    }

    /// Waits until the leader of a partition is another one than `known`, or there is one again.
    pub(crate) async fn leader_moves(&self, topic: &TopicView, partition: i32, known: Option<NodeId>) {
        let mut changes = self.metadata.changes();
        loop {
            changes.borrow_and_update();
            if self.route(topic, partition).ok().map(|route| route.node) != known {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
