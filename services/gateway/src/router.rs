//! The way to the leader of a partition.

use std::sync::Arc;

use walser_model::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use walser_proto::internal::v1::PartitionRef;
use walser_rpc::{Failure, Network, Reason, StorageLink};

use crate::metadata::{Metadata, TopicView};
use crate::topics::checked_partition;

/// A partition with its way.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) node: NodeId,
    pub(crate) link: Arc<dyn StorageLink>,
    pub(crate) reference: PartitionRef,
}

/// The topic is not the one that the caller has used under its name.
pub(crate) fn recreated(current: &TopicView, old: TopicId) -> Failure {
    let text = format!("topic \"{}\" was deleted and created again", current.name);
    let failure = Failure::new(Reason::TopicRecreated, text).with("topic", &current.name);
    failure.with("oldId", old).with("newId", current.id)
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
        let link = self.network.storage_link(node).ok_or_else(unavailable)?;
        let id = TopicPartition::new(topic.id, number);
        Ok(Route { node, link, reference: walser_proto::partition_ref(id, epoch) })
    }

    /// Whether a partition has a leader that can be reached, as far as is known.
    pub(crate) fn is_led(&self, topic: &TopicView, partition: i32) -> bool {
        self.route(topic, partition).is_ok()
    }
}
