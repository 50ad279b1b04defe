//! What leads from one version of the metadata to a later one.

use std::collections::BTreeSet;
use std::sync::Arc;

use walser_model::{NodeId, TopicId, TopicPartition};

use crate::value::{GroupShardValue, NodeLiveness, NodeRegistration, PartitionValue, TombstoneValue, TopicValue};

/// One change. `revision`: of the changed key in the metadata store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataChange {
    /// A topic is there, or has changed. Its partitions below `partition_count` are visible from now on.
    Topic {
        /// The topic.
        id: TopicId,
        /// Its value.
        value: Arc<TopicValue>,
        /// Revision of the key.
        revision: i64,
    },
    /// A topic is gone for users. Its partitions need not be gone yet.
    TopicRemoved(TopicId),
    /// A partition is there, or has changed.
    Partition {
        /// The partition.
        id: TopicPartition,
        /// Its value.
        value: Box<PartitionValue>,
        /// Revision of the key: the partition epoch.
        revision: i64,
    },
    /// A partition is gone.
    PartitionRemoved(TopicPartition),
    /// A node has registered.
    Registration {
        /// The node.
        node: NodeId,
        /// Its registration.
        value: Box<NodeRegistration>,
        /// Revision of the key: the node epoch.
        revision: i64,
    },
    /// A node was fenced, or is not any more, or wants to stop.
    Liveness {
        /// The node.
        node: NodeId,
        /// Whether it counts.
        value: NodeLiveness,
        /// Revision of the key.
        revision: i64,
    },
    /// A node is gone from the metadata.
    NodeRemoved(NodeId),
    /// A topic is being deleted, or a node has confirmed that it has nothing of it any more.
    Tombstone {
        /// The topic that was.
        topic: TopicId,
        /// Its tombstone.
        value: Box<TombstoneValue>,
        /// Revision of the key.
        revision: i64,
    },
    /// Nothing is left of a deleted topic.
    TombstoneRemoved(TopicId),
    /// A shard of groups was given to a coordinator.
    GroupShard {
        /// Its number.
        shard: i32,
        /// To which one.
        value: Box<GroupShardValue>,
        /// Revision of the key.
        revision: i64,
    },
}

/// Changes that take effect together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// The version to which it leads.
    pub version: i64,
    /// It starts from nothing: what it does not mention is not there.
    pub snapshot: bool,
    /// In any order; of a key at most one.
    pub changes: Vec<MetadataChange>,
}

/// What a delta has touched: whatever was added, changed or removed. What is not in the view afterwards was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The delta was a snapshot: everything is in here, what was there before included.
    pub snapshot: bool,
    /// Topics. A partition may have become visible, or have ceased to be, with its topic.
    pub topics: BTreeSet<TopicId>,
    pub partitions: BTreeSet<TopicPartition>,
    pub nodes: BTreeSet<NodeId>,
    /// Topics that are being deleted, or of which nothing is left.
    pub tombstones: BTreeSet<TopicId>,
    /// Shards of groups that were given to another coordinator.
    pub group_shards: BTreeSet<i32>,
}

impl Changes {
    /// Whether no topic and no partition was touched.
    pub fn of_no_topic(&self) -> bool {
        let Self { snapshot, topics, partitions, nodes: _, tombstones, group_shards: _ } = self;
        !snapshot && topics.is_empty() && partitions.is_empty() && tombstones.is_empty()
    }

    /// Adds the changes of a later delta.
    pub fn merge(&mut self, later: Self) {
        self.snapshot |= later.snapshot;
        self.topics.extend(later.topics);
        self.partitions.extend(later.partitions);
        self.nodes.extend(later.nodes);
        self.tombstones.extend(later.tombstones);
        self.group_shards.extend(later.group_shards);
    }
}
