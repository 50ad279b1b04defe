//! The topics of the cluster, as far as groups need to know them.

use std::collections::BTreeMap;

use walser_model::{PartitionIndex, TopicId, TopicName, TopicPartition};

use crate::error::GroupError;
use crate::subscription::{Pattern, Subscription};

/// A change of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicChange {
    /// The topic exists, with this id and partition count. A topic that was created again has another id.
    Present { name: TopicName, id: TopicId, partition_count: i32 },
    /// Metadata does not have the topic.
    Absent { name: TopicName },
}

/// Names, ids and partition counts.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    by_name: BTreeMap<TopicName, (TopicId, i32)>,
    by_id: BTreeMap<TopicId, TopicName>,
}

impl Topics {
    /// Takes a change. Returns the topic's name if something is different.
    pub(crate) fn change(&mut self, change: TopicChange) -> Option<TopicName> {
        let (name, now) = match change {
            TopicChange::Present { name, id, partition_count } => (name, Some((id, partition_count.max(0)))),
            TopicChange::Absent { name } => (name, None),
        };
        let before = match now {
            Some(now) => self.by_name.insert(name.clone(), now),
            None => self.by_name.remove(&name),
        };
        if before == now {
            return None;
        }
        if let Some((id, _)) = before {
            self.by_id.remove(&id);
        }
        if let Some((id, _)) = now {
            self.by_id.insert(id, name.clone());
        }
        Some(name)
    }

    /// Partitions of a topic; 0 when it does not exist.
    pub(crate) fn partition_count(&self, topic: TopicId) -> i32 {
        self.by_id.get(&topic).and_then(|name| self.by_name.get(name)).map_or(0, |(_, count)| *count)
    }

    /// The ids of the topics that a subscription names.
    pub(crate) fn named<'a>(&'a self, subscription: &'a Subscription) -> impl Iterator<Item = TopicId> + 'a {
        subscription.topics.iter().filter_map(|name| self.by_name.get(name)).map(|(id, _)| *id)
    }

    /// The ids of the topics that a pattern matches.
    pub(crate) fn matched<'a>(&'a self, pattern: &'a Pattern) -> impl Iterator<Item = TopicId> + 'a {
        self.by_name.iter().filter(|(name, _)| pattern.matches(name)).map(|(_, (id, _))| *id)
    }

    /// The name of a topic; `None`: it is gone.
    pub(crate) fn name(&self, topic: TopicId) -> Option<&TopicName> {
        self.by_id.get(&topic)
    }

    /// Checks that a partition exists.
    pub(crate) fn check(&self, partition: &TopicPartition) -> Result<(), GroupError> {
        let topic = partition.topic;
        let Some(name) = self.by_id.get(&topic) else { return Err(GroupError::TopicNotFound { topic }) };
        let partition_count = self.partition_count(topic);
        if (0..partition_count).contains(&partition.partition.0) {
            return Ok(());
        }
        Err(GroupError::PartitionNotFound { topic: name.clone(), partition: partition.partition.0, partition_count })
    }
}

/// The partitions of a topic.
pub(crate) fn partitions(topic: TopicId, count: i32) -> impl Iterator<Item = TopicPartition> {
    (0..count).map(move |partition| TopicPartition::new(topic, PartitionIndex(partition)))
}
