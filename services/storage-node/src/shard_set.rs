//! The shards of a node, and which one owns a partition.

use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use walser_model::TopicPartition;

use crate::shard::{Queue, Room};

/// Queues and byte budgets of all shards. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct ShardSet {
    shards: Arc<[(Arc<Queue>, Room)]>,
}

/// The number of the shard that owns a partition.
pub(crate) fn owner(partition: TopicPartition, shard_count: usize) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    partition.hash(&mut hasher);
    usize::try_from(hasher.finish() % shard_count as u64).expect("the remainder is below a usize")
}

impl ShardSet {
    pub(crate) fn new(shards: Vec<(Arc<Queue>, Room)>) -> Self {
        Self { shards: shards.into() }
    }

    pub(crate) fn queue(&self, partition: TopicPartition) -> &Arc<Queue> {
        &self.shards[owner(partition, self.shards.len())].0
    }

    pub(crate) fn room(&self, partition: TopicPartition) -> &Room {
        &self.shards[owner(partition, self.shards.len())].1
    }

    /// All queues.
    pub(crate) fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.shards.iter().map(|(queue, _)| queue)
    }
}
