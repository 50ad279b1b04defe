//! What a view has of a topic, a partition, a node and a deletion.

use std::sync::Arc;

use walser_model::{LeaderEpoch, NodeId, PartitionIndex, TopicId, TopicPartition};
use walser_replication::control::PartitionRecord;

use crate::TopicSettings;
use crate::value::{GroupShardValue, NodeLiveness, NodeRegistration, TombstoneValue, TopicValue, UnknownFields};

#[derive(Debug, Clone)]
pub struct TopicEntry<X = ()> {
    pub id: TopicId,
    pub name: Arc<str>,
    pub value: Arc<TopicValue>,
    /// Revision of its key in the metadata store.
    pub revision: i64,
    pub settings: Arc<TopicSettings>,
    /// What the process has attached.
    pub extension: X,
    partitions: Arc<PartitionTable>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionEntry {
    /// Its state, and the revision of its key.
    pub record: PartitionRecord<TopicPartition>,
    /// Fields of its value that this version does not know.
    pub unknown: UnknownFields,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeEntry {
    pub registration: NodeRegistration,
    /// Revision of the registration: the node epoch. 0: it has not registered.
    pub epoch: i64,
    /// Whether the node is fenced or shutting down.
    pub liveness: NodeLiveness,
    /// Revision of the liveness.
    pub live_revision: i64,
}

/// A shard of groups that was given to a coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupShardEntry {
    pub value: GroupShardValue,
    /// Revision of its key.
    pub revision: i64,
}

/// A topic that is being deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TombstoneEntry {
    pub value: TombstoneValue,
    /// Revision of the tombstone.
    pub revision: i64,
}

/// The partitions of a topic by number. A copy shares the partitions, so that a change of one costs no copy of all.
#[derive(Debug, Clone, Default)]
pub(super) struct PartitionTable {
    slots: Vec<Option<Arc<PartitionEntry>>>,
    present: usize,
}

// === impl TopicEntry ===

impl<X> TopicEntry<X> {
    /// The revision at which its durability was changed last, or a later one.
    pub fn durability_revision(&self) -> i64 {
        if self.value.durability_revision > 0 { self.value.durability_revision } else { self.revision }
    }

    /// How many partitions are visible.
    pub fn partition_count(&self) -> usize {
        usize::try_from(self.value.partition_count).unwrap_or(0)
    }

    /// Returns a partition that is visible.
    pub fn partition(&self, number: PartitionIndex) -> Option<&PartitionEntry> {
        self.partitions.get(number).filter(|_| number.0 < self.value.partition_count)
    }

    /// Who leads a partition, and in which epoch. `None`: the partition is not visible.
    pub fn leader(&self, number: PartitionIndex) -> Option<(Option<NodeId>, LeaderEpoch)> {
        if !(0..self.value.partition_count).contains(&number.0) {
            return None;
        }
        let state = self.partitions.get(number).map(|entry| &entry.record.state);
        Some(state.map_or((None, LeaderEpoch::NONE), |state| (state.leader, state.leader_epoch)))
    }

    /// Every visible partition, ascending, with who leads it and in which epoch.
    pub fn leaders(&self) -> impl Iterator<Item = (PartitionIndex, Option<NodeId>, LeaderEpoch)> {
        let numbers = (0..self.value.partition_count).map(PartitionIndex);
        numbers.filter_map(|number| self.leader(number).map(|(leader, epoch)| (number, leader, epoch)))
    }

    /// Returns the visible partitions, ascending by number.
    pub fn partitions(&self) -> impl Iterator<Item = &PartitionEntry> {
        self.partitions.iter().take_while(|entry| entry.record.key.partition.0 < self.value.partition_count)
    }

    pub(super) fn table(&self) -> &PartitionTable {
        &self.partitions
    }

    pub(super) fn shared_table(&self) -> &Arc<PartitionTable> {
        &self.partitions
    }

    pub(super) fn table_mut(&mut self) -> &mut PartitionTable {
        Arc::make_mut(&mut self.partitions)
    }
}

impl<X: Clone + Default> TopicEntry<X> {
    pub(super) fn new(id: TopicId, value: Arc<TopicValue>, revision: i64, partitions: Arc<PartitionTable>) -> Self {
        let (name, settings) = (value.name.as_str().into(), Arc::new(TopicSettings::of(&value.config)));
        Self { id, name, value, revision, settings, extension: X::default(), partitions }
    }

    pub(super) fn changed(&self, value: Arc<TopicValue>, revision: i64) -> Self {
        let partitions = Arc::clone(&self.partitions);
        let mut changed = Self { extension: self.extension.clone(), ..Self::new(self.id, value, revision, partitions) };
        if changed.name == self.name {
            changed.name = Arc::clone(&self.name);
        }
        if changed.settings == self.settings {
            changed.settings = Arc::clone(&self.settings);
        }
        changed
    }
}

// === impl NodeEntry ===

impl NodeEntry {
    pub(super) fn register(&mut self, registration: NodeRegistration, revision: i64) {
        if revision > self.epoch {
            (self.registration, self.epoch) = (registration, revision);
        }
    }

    pub(super) fn live(&mut self, liveness: NodeLiveness, revision: i64) {
        if revision > self.live_revision {
            (self.liveness, self.live_revision) = (liveness, revision);
        }
    }
}

// === impl PartitionTable ===

impl PartitionTable {
    pub(super) fn get(&self, number: PartitionIndex) -> Option<&PartitionEntry> {
        self.slots.get(usize::try_from(number.0).ok()?)?.as_deref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PartitionEntry> {
        self.slots.iter().flatten().map(|entry| &**entry)
    }

    pub(super) fn len(&self) -> usize {
        self.present
    }

    pub(super) fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// Puts a partition in place of an older value of it.
    pub(super) fn put(&mut self, entry: PartitionEntry) {
        let Ok(number) = usize::try_from(entry.record.key.partition.0) else { return };
        if self.slots.len() <= number {
            self.slots.resize(number + 1, None);
        }
        let slot = &mut self.slots[number];
        let added = slot.is_none();
        if slot.as_ref().is_none_or(|known| known.record.epoch < entry.record.epoch) {
            *slot = Some(Arc::new(entry));
        }
        self.present += usize::from(added);
    }

    /// Takes a partition away.
    pub(super) fn remove(&mut self, number: PartitionIndex) {
        let slot = usize::try_from(number.0).ok().and_then(|number| self.slots.get_mut(number));
        let removed = slot.is_some_and(|slot| slot.take().is_some());
        self.present -= usize::from(removed);
        while self.slots.last().is_some_and(Option::is_none) {
            self.slots.pop();
        }
    }
}
