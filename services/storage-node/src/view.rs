//! What metadata says, as a storage node sees it. Pure: groups of messages in, what has changed out.

use std::collections::{BTreeSet, HashMap};

use walser_model::{LeaderEpoch, NodeId, PartitionIndex, TopicConfig, TopicId, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_replication::PartitionState;

/// The settings of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicSettings {
    /// What could be read; defaults for the rest.
    pub(crate) config: TopicConfig,
    /// Why some of it could not be read. The topic exists: its data stays, and takes no writes.
    pub(crate) unreadable: Option<String>,
}

/// Everything, as of one version.
#[derive(Debug, Default)]
pub(crate) struct View {
    topics: HashMap<TopicId, TopicSettings>,
    partitions: HashMap<TopicPartition, pbi::PartitionMetadata>,
    /// Deleted topics whose data is to be removed.
    tombstones: BTreeSet<TopicId>,
    version: i64,
}

/// What a group of messages has changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// The group was a snapshot: what it does not mention is not known.
    pub(crate) snapshot: bool,
    /// Partitions that are there and may have changed.
    pub(crate) partitions: BTreeSet<TopicPartition>,
    /// Topics that were deleted.
    pub(crate) tombstones: BTreeSet<TopicId>,
}

fn topic_id(raw: &[u8]) -> Option<TopicId> {
    raw.try_into().ok().map(TopicId::from_bytes)
}

/// The settings in a topic's overrides.
fn settings(topic: &walser_proto::v1::Topic) -> TopicSettings {
    let pairs = topic.config.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    match TopicConfig::from_overrides(pairs) {
        Ok(config) => TopicSettings { config, unreadable: None },
        Err(error) => {
            tracing::error!(topic = topic.name, %error, "topic settings are not readable: it takes no writes");
            // Nothing may be deleted by a default that nobody has chosen.
            let config = TopicConfig { retention: None, retention_bytes: None, ..TopicConfig::default() };
            TopicSettings { config, unreadable: Some(error.to_string()) }
        }
    }
}

// === impl View ===

impl View {
    /// Applies a committed group of messages as a whole.
    pub(crate) fn apply(&mut self, group: &[pbi::WatchMetadataResponse]) -> Changes {
        let mut changes = Changes { snapshot: group.iter().any(|message| message.reset), ..Changes::default() };
        if changes.snapshot {
            *self = Self::default();
        }
        for message in group {
            self.version = self.version.max(message.version);
            for topic in &message.topics {
                let Ok(id) = topic.id.parse::<TopicId>() else { continue };
                self.topics.insert(id, settings(topic));
                let numbers = 0..topic.partition_count;
                changes.partitions.extend(numbers.map(|number| TopicPartition::new(id, PartitionIndex(number))));
            }
            for partition in &message.partitions {
                let Some((id, _)) = partition.r#ref.as_ref().and_then(walser_proto::topic_partition) else { continue };
                self.partitions.insert(id, partition.clone());
                changes.partitions.insert(id);
            }
            for topic in message.removed_topic_ids.iter().filter_map(|raw| topic_id(raw)) {
                self.forget(topic, &mut changes);
            }
            for topic in message.tombstones.iter().filter_map(|tombstone| topic_id(&tombstone.topic_id)) {
                self.forget(topic, &mut changes);
                self.tombstones.insert(topic);
                changes.tombstones.insert(topic);
            }
        }
        changes
    }

    fn forget(&mut self, topic: TopicId, changes: &mut Changes) {
        self.topics.remove(&topic);
        self.partitions.retain(|id, _| id.topic != topic);
        changes.partitions.retain(|id| id.topic != topic);
    }

    /// Highest version applied.
    pub(crate) fn version(&self) -> i64 {
        self.version
    }

    /// Whether the metadata accounts for a partition: it is there, or its topic was deleted.
    pub(crate) fn accounts_for(&self, partition: TopicPartition) -> bool {
        self.partitions.contains_key(&partition) || self.tombstones.contains(&partition.topic)
    }

    /// A partition, with the settings of its topic.
    pub(crate) fn partition(&self, id: TopicPartition) -> Option<(PartitionState, i64, &TopicSettings)> {
        let metadata = self.partitions.get(&id)?;
        Some((partition_state(metadata), metadata.partition_epoch, self.topics.get(&id.topic)?))
    }
}

/// What metadata says of a partition, as far as it is told to nodes.
fn partition_state(metadata: &pbi::PartitionMetadata) -> PartitionState {
    let replicas = metadata.replicas.iter().map(|node| NodeId(*node)).collect();
    let min_isr = usize::try_from(metadata.min_isr).unwrap_or(1);
    let epoch = metadata.r#ref.as_ref().map_or(LeaderEpoch::NONE.0, |reference| reference.leader_epoch);
    PartitionState {
        leader: (metadata.leader >= 0).then_some(NodeId(metadata.leader)),
        leader_epoch: LeaderEpoch(epoch),
        isr: metadata.isr.iter().map(|node| NodeId(*node)).collect(),
        ..PartitionState::new(replicas, min_isr)
    }
}

#[cfg(test)]
mod tests {
    use walser_proto::v1 as pb;

    use super::*;

    fn id(byte: u8) -> TopicId {
        TopicId::from_bytes([byte; 16])
    }

    fn topic(byte: u8, setting: &str) -> pbi::WatchMetadataResponse {
        let config = [(setting.to_owned(), "3600000".to_owned())].into();
        let topic = pb::Topic { id: id(byte).to_string(), partition_count: 1, config, ..Default::default() };
        pbi::WatchMetadataResponse { version: 5, topics: vec![topic], ..Default::default() }
    }

    fn partition(byte: u8, number: i32) -> pbi::WatchMetadataResponse {
        let partition = TopicPartition::new(id(byte), PartitionIndex(number));
        let r#ref = Some(walser_proto::partition_ref(partition, LeaderEpoch(1)));
        let partition = pbi::PartitionMetadata { r#ref, leader: 1, replicas: vec![1], ..Default::default() };
        pbi::WatchMetadataResponse { version: 5, partitions: vec![partition], ..Default::default() }
    }

    fn at(byte: u8, number: i32) -> TopicPartition {
        TopicPartition::new(id(byte), PartitionIndex(number))
    }

    #[test]
    fn only_what_is_there_or_was_deleted_is_accounted_for() {
        let mut view = View::default();
        let reset = pbi::WatchMetadataResponse { reset: true, ..Default::default() };
        let tombstone = pbi::TopicTombstone { topic_id: id(9).to_bytes().to_vec().into(), version: 4 };
        let deleted = pbi::WatchMetadataResponse { tombstones: vec![tombstone], ..Default::default() };
        // Partitions come before their topics, as from the store.
        let changes = view.apply(&[reset.clone(), partition(1, 0), topic(1, "retention.ms"), deleted]);
        assert!(changes.snapshot);
        assert_eq!(changes.tombstones, BTreeSet::from([id(9)]));
        assert!(view.accounts_for(at(1, 0)) && view.accounts_for(at(9, 3)));
        assert!(!view.accounts_for(at(2, 0)), "a topic that is not mentioned");
        assert!(!view.accounts_for(at(1, 1)), "a partition beyond the count");
        view.apply(&[reset]);
        assert!(!view.accounts_for(at(1, 0)) && !view.accounts_for(at(9, 3)), "a snapshot starts anew");
    }

    #[test]
    fn a_topic_whose_settings_cannot_be_read_is_there_and_keeps_everything() {
        let mut view = View::default();
        view.apply(&[partition(1, 0), topic(1, "segment.millis")]);
        let (_, _, settings) = view.partition(at(1, 0)).unwrap();
        assert!(settings.unreadable.as_ref().unwrap().contains("segment.millis"), "{settings:?}");
        assert_eq!((settings.config.retention, settings.config.retention_bytes), (None, None));
    }
}
