//! The way to the leader of a partition.

use std::sync::Arc;

use walser_model::{LeaderEpoch, NodeId, PartitionIndex, TopicPartition};
use walser_rpc::{ApiError, Connection, LedPartition, Network, Reason, StorageClient};

use crate::error::{partition_missing, recreated};
use crate::metadata::{Metadata, TopicView};

/// A partition with its way.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) node: NodeId,
    pub(crate) storage: Arc<dyn StorageClient>,
    pub(crate) partition: LedPartition,
}

/// Who leads a partition, and in which epoch, as far as is known.
pub(crate) type LedBy = Option<(NodeId, LeaderEpoch)>;

/// The partition's number, if the topic has it.
pub(crate) fn checked_partition(topic: &TopicView, partition: i32) -> Result<PartitionIndex, ApiError> {
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
    pub(crate) fn route(&self, topic: &TopicView, partition: i32) -> Result<Route, ApiError> {
        let current = self.metadata.topic(&topic.name);
        let current = match &current {
            Some(current) if current.id == topic.id => current,
            Some(current) => return Err(recreated(current, topic.id)),
            None => {
                let failure = ApiError::new(Reason::TopicNotFound, format!("topic \"{}\" was deleted", topic.name));
                return Err(failure.with("topic", &topic.name));
            }
        };
        let number = checked_partition(current, partition)?;
        let (leader, epoch) = current.leader(number).unwrap_or((None, LeaderEpoch::NONE));
        let unavailable = || {
            let text = format!("partition {partition} of topic \"{}\" has no leader now", topic.name);
            let failure = ApiError::new(Reason::LeaderNotAvailable, text).with("topic", &topic.name);
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
    pub(crate) fn storage(&self, node: NodeId) -> Result<Connection, ApiError> {
        let unknown = || ApiError::new(Reason::LeaderNotAvailable, "the leader is not known");
        self.network.storage(node).ok_or_else(unknown)
    }

    /// Who leads a partition. The topic may have been deleted since it was looked up: then nobody does.
    pub(crate) fn led_by(&self, topic: &TopicView, partition: i32) -> LedBy {
        let current = self.metadata.topic(&topic.name).filter(|current| current.id == topic.id)?;
        let (leader, epoch) = current.leader(PartitionIndex(partition))?;
        Some((leader?, epoch))
    }

    /// Waits until another than `known` leads a partition, or the same one in another epoch, or somebody again.
    pub(crate) async fn leader_changes(&self, topic: &TopicView, partition: i32, known: LedBy) {
        let mut changes = self.metadata.changes();
        loop {
            changes.borrow_and_update();
            if self.led_by(topic, partition) != known {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use walser_metadata::value::TopicValue;
    use walser_metadata::{Delta, MetadataChange};
    use walser_model::TopicId;
    use walser_replication::PartitionState;

    use super::*;

    /// A topic "t" of one partition that node 1 leads in an epoch.
    fn led_in(epoch: i32) -> Vec<MetadataChange> {
        let id = TopicId::from_bytes([7; 16]);
        let mut state = PartitionState::new(vec![NodeId(1)], 1);
        state.leader_epoch = LeaderEpoch(epoch);
        let value = TopicValue { name: "t".to_owned(), partition_count: 1, ..TopicValue::default() };
        let partition = TopicPartition::new(id, PartitionIndex(0));
        vec![
            MetadataChange::Topic { id, value: Arc::new(value), revision: 1 },
            MetadataChange::Partition { id: partition, value: Box::new(state.into()), revision: epoch.into() },
        ]
    }

    #[tokio::test]
    async fn a_change_of_leader_or_epoch_ends_the_wait_and_other_changes_do_not() {
        let metadata = Metadata::default();
        let router = Router::new(metadata.clone(), Network::default());
        let snapshot = |version, changes| Delta { version, snapshot: true, changes };
        metadata.apply(snapshot(1, led_in(4)));
        let topic = metadata.topic("t").unwrap();
        let asked = router.led_by(&topic, 0);
        assert_eq!(asked, Some((NodeId(1), LeaderEpoch(4))));
        let mut change = Box::pin(router.leader_changes(&topic, 0, asked));
        assert!((&mut change).now_or_never().is_none());
        metadata.apply(snapshot(2, led_in(4)));
        assert!((&mut change).now_or_never().is_none(), "a later version with the same leader");
        metadata.apply(snapshot(3, led_in(5)));
        change.await;
        let mut deleted = Box::pin(router.leader_changes(&topic, 0, router.led_by(&topic, 0)));
        assert!((&mut deleted).now_or_never().is_none());
        metadata.apply(snapshot(4, Vec::new()));
        deleted.await;
        assert_eq!(router.led_by(&topic, 0), None);
    }
}
