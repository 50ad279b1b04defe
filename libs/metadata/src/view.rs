//! The metadata at one version.

mod entry;

use std::collections::BTreeMap;
use std::sync::Arc;

use rpds::HashTrieMapSync;
use walser_model::{NodeId, RESERVED_PREFIX, TopicId, TopicPartition};
use walser_replication::control::{DecisionContext, NodeRecord, PartitionRecord};

pub use entry::{GroupShardEntry, NodeEntry, PartitionEntry, TombstoneEntry, TopicEntry};

use crate::value::{PartitionValue, TopicValue};
use crate::{Changes, Delta, MetadataChange};
use entry::PartitionTable;

/// A delta that would lead back to an older version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("metadata version {got} is older than version {have}, which was applied already")]
pub struct VersionRegression {
    /// The version of the view.
    pub have: i64,
    /// The version of the delta.
    pub got: i64,
}

/// The metadata at one version. A copy shares what it has in common with the original, so that a process can publish
/// every version as a whole.
///
/// `X` is what a process attaches to each topic for itself. It stays with the topic until the topic is removed.
#[derive(Debug, Clone)]
pub struct View<X = ()> {
    version: i64,
    topics: HashTrieMapSync<TopicId, Arc<TopicEntry<X>>>,
    names: HashTrieMapSync<Arc<str>, Arc<TopicEntry<X>>>,
    /// Partitions whose topic is not there: it is being created, or deleted.
    detached: HashTrieMapSync<TopicId, Arc<PartitionTable>>,
    tombstones: HashTrieMapSync<TopicId, Arc<TombstoneEntry>>,
    nodes: Arc<BTreeMap<NodeId, Arc<NodeEntry>>>,
    group_shards: Arc<BTreeMap<i32, GroupShardEntry>>,
    /// Partitions of topics that are there or are being created.
    partition_count: usize,
}

impl<X> Default for View<X> {
    fn default() -> Self {
        Self {
            version: 0,
            topics: HashTrieMapSync::default(),
            names: HashTrieMapSync::default(),
            detached: HashTrieMapSync::default(),
            tombstones: HashTrieMapSync::default(),
            nodes: Arc::default(),
            group_shards: Arc::default(),
            partition_count: 0,
        }
    }
}

impl<X> View<X> {
    /// The version; 0 before the first delta.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// A topic by name.
    pub fn topic_named(&self, name: &str) -> Option<&Arc<TopicEntry<X>>> {
        self.names.get(name)
    }

    /// A topic by id.
    pub fn topic(&self, id: TopicId) -> Option<&Arc<TopicEntry<X>>> {
        self.topics.get(&id)
    }

    /// Every topic, in no order.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicEntry<X>>> {
        self.topics.values()
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.topics.size()
    }

    /// A partition, also one that is not visible.
    pub fn partition(&self, id: TopicPartition) -> Option<&PartitionEntry> {
        self.table(id.topic)?.get(id.partition)
    }

    /// Every partition of a topic in the metadata, also those that are not visible, ascending.
    pub fn partitions_of(&self, topic: TopicId) -> impl Iterator<Item = &PartitionEntry> {
        self.table(topic).into_iter().flat_map(PartitionTable::iter)
    }

    /// Every partition that may be led, in no order: those of topics that are there or are being created, not of those
    /// that are being deleted.
    pub fn partitions(&self) -> impl Iterator<Item = &PartitionEntry> {
        let creating = self.detached.iter().filter(|(topic, _)| !self.tombstones.contains_key(topic));
        let creating = creating.flat_map(|(_, table)| table.iter());
        self.topics.values().flat_map(|topic| topic.table().iter()).chain(creating)
    }

    /// How many partitions there are of topics that are there or are being created.
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// How many topics there are that do not belong to Walser itself, and how many partitions of others.
    pub fn user_counts(&self) -> (usize, usize) {
        let reserved = self.topics.values().filter(|topic| topic.name.starts_with(RESERVED_PREFIX));
        let (topics, partitions) = reserved
            .fold((0, 0), |(topics, partitions), topic| (topics + 1, partitions + topic.table().iter().count()));
        (self.topic_count() - topics, self.partition_count() - partitions)
    }

    /// Topics that are being created or deleted and whose partitions are not all gone.
    pub fn detached_topics(&self) -> impl Iterator<Item = TopicId> {
        self.detached.keys().copied()
    }

    /// Returns every node, ascending by id.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Arc<NodeEntry>)> {
        self.nodes.iter().map(|(node, entry)| (*node, entry))
    }

    pub fn node(&self, node: NodeId) -> Option<&Arc<NodeEntry>> {
        self.nodes.get(&node)
    }

    /// The coordinator of a shard of groups; `None`: it was never given to one.
    pub fn group_shard(&self, shard: i32) -> Option<&GroupShardEntry> {
        self.group_shards.get(&shard)
    }

    /// Every shard of groups that was given to a coordinator, ascending.
    pub fn group_shards(&self) -> impl Iterator<Item = (i32, &GroupShardEntry)> {
        self.group_shards.iter().map(|(shard, entry)| (*shard, entry))
    }

    /// The tombstone of a topic that is being deleted.
    pub fn tombstone(&self, topic: TopicId) -> Option<&Arc<TombstoneEntry>> {
        self.tombstones.get(&topic)
    }

    /// Every topic that is being deleted, in no order.
    pub fn tombstones(&self) -> impl Iterator<Item = (TopicId, &Arc<TombstoneEntry>)> {
        self.tombstones.iter().map(|(topic, entry)| (*topic, entry))
    }

    /// Whether the metadata knows what a replica on a disk belongs to: the partition is there, or its topic is being
    /// deleted.
    pub fn accounts_for(&self, id: TopicPartition) -> bool {
        self.partition(id).is_some() || self.tombstones.contains_key(&id.topic)
    }

    /// What decisions are taken on beside the partitions of this view.
    pub fn decision_context(&self, controller_epoch: i64) -> DecisionContext {
        let nodes = self.nodes.iter().map(|(node, entry)| (*node, NodeRecord::from(&**entry))).collect();
        DecisionContext { controller_epoch, revision: self.version, nodes, ..DecisionContext::default() }
    }

    fn table(&self, topic: TopicId) -> Option<&PartitionTable> {
        match self.topics.get(&topic) {
            Some(found) => Some(found.table()),
            None => self.detached.get(&topic).map(|table| &**table),
        }
    }
}

impl<X: Clone + Default> View<X> {
    /// Applies a delta as a whole, and returns what it has touched. One that leads to a version that was applied already
    /// changes nothing.
    ///
    /// # Errors
    /// [`VersionRegression`] for a snapshot of an older version; nothing is changed.
    pub fn apply(&mut self, delta: Delta) -> Result<Changes, VersionRegression> {
        if delta.snapshot {
            return self.replace(delta);
        }
        let mut changes = Changes::default();
        if delta.version <= self.version {
            return Ok(changes);
        }
        self.version = delta.version;
        self.change_all(delta.changes, &mut changes);
        Ok(changes)
    }

    fn replace(&mut self, delta: Delta) -> Result<Changes, VersionRegression> {
        if delta.version < self.version {
            return Err(VersionRegression { have: self.version, got: delta.version });
        }
        let mut next = Self { version: delta.version, ..Self::default() };
        let mut changes = Changes { snapshot: true, ..Changes::default() };
        next.change_all(delta.changes, &mut changes);
        for topic in self.topics.values() {
            changes.topics.insert(topic.id);
            if let Some(same) = next.topics.get(&topic.id) {
                let mut same = TopicEntry::clone(same);
                same.extension = topic.extension.clone();
                next.put_topic(same);
            }
        }
        let detached = self.detached.values().map(|table| &**table);
        let tables = self.topics.values().map(|topic| topic.table()).chain(detached);
        changes.partitions.extend(tables.flat_map(PartitionTable::iter).map(|entry| entry.record.key));
        changes.nodes.extend(self.nodes.keys());
        changes.tombstones.extend(self.tombstones.keys());
        changes.group_shards.extend(self.group_shards.keys());
        *self = next;
        Ok(changes)
    }

    /// Applies changes. Those of partitions come last and topic by topic: the table of a topic is copied once for all.
    fn change_all(&mut self, all: Vec<MetadataChange>, changes: &mut Changes) {
        let mut by_topic: BTreeMap<TopicId, Vec<(TopicPartition, Option<PartitionEntry>)>> = BTreeMap::new();
        for change in all {
            match change {
                MetadataChange::Partition { id, value, revision } => {
                    let PartitionValue { state, unknown } = *value;
                    let record = PartitionRecord { key: id, state, epoch: revision };
                    by_topic.entry(id.topic).or_default().push((id, Some(PartitionEntry { record, unknown })));
                }
                MetadataChange::PartitionRemoved(id) => by_topic.entry(id.topic).or_default().push((id, None)),
                MetadataChange::Topic { id, value, revision } => {
                    changes.topics.insert(id);
                    self.counting(id, |view| view.topic_changed(id, value, revision));
                }
                MetadataChange::TopicRemoved(id) => {
                    changes.topics.insert(id);
                    self.counting(id, |view| view.topic_removed(id));
                }
                MetadataChange::Tombstone { topic, value, revision } => {
                    changes.tombstones.insert(topic);
                    let entry = Arc::new(TombstoneEntry { value: *value, revision });
                    self.counting(topic, |view| view.tombstones.insert_mut(topic, entry));
                }
                MetadataChange::TombstoneRemoved(topic) => {
                    changes.tombstones.insert(topic);
                    self.counting(topic, |view| {
                        view.tombstones.remove_mut(&topic);
                    });
                }
                MetadataChange::Registration { node, value, revision } => {
                    changes.nodes.insert(node);
                    self.node_changed(node, |entry| entry.register(*value, revision));
                }
                MetadataChange::Liveness { node, value, revision } => {
                    changes.nodes.insert(node);
                    self.node_changed(node, |entry| entry.live(value, revision));
                }
                MetadataChange::GroupShard { shard, value, revision } => {
                    changes.group_shards.insert(shard);
                    let shards = Arc::make_mut(&mut self.group_shards);
                    if shards.get(&shard).is_none_or(|known| known.revision < revision) {
                        shards.insert(shard, GroupShardEntry { value: *value, revision });
                    }
                }
                MetadataChange::NodeRemoved(node) => {
                    changes.nodes.insert(node);
                    Arc::make_mut(&mut self.nodes).remove(&node);
                }
            }
        }
        for (topic, partitions) in by_topic {
            changes.partitions.extend(partitions.iter().map(|(id, _)| *id));
            self.counting(topic, |view| view.partitions_changed(topic, partitions));
        }
    }

    /// Changes something of a topic, and counts its partitions before and after: those of a topic that is being deleted
    /// do not count.
    fn counting(&mut self, topic: TopicId, change: impl FnOnce(&mut Self)) {
        let counted = |view: &Self| match view.topics.get(&topic) {
            Some(found) => found.table().len(),
            None if view.tombstones.contains_key(&topic) => 0,
            None => view.detached.get(&topic).map_or(0, |table| table.len()),
        };
        let before = counted(self);
        change(self);
        self.partition_count = self.partition_count - before + counted(self);
    }

    fn topic_changed(&mut self, id: TopicId, value: Arc<TopicValue>, revision: i64) {
        let entry = match self.topics.get(&id) {
            Some(known) if known.revision >= revision => return,
            Some(known) => known.changed(value, revision),
            None => {
                let table = self.detached.get(&id).cloned().unwrap_or_default();
                self.detached.remove_mut(&id);
                TopicEntry::new(id, value, revision, table)
            }
        };
        self.put_topic(entry);
    }

    fn put_topic(&mut self, entry: TopicEntry<X>) {
        let entry = Arc::new(entry);
        if let Some(before) = self.topics.get(&entry.id)
            && before.name != entry.name
        {
            let name = Arc::clone(&before.name);
            self.names.remove_mut(&*name);
        }
        self.names.insert_mut(Arc::clone(&entry.name), Arc::clone(&entry));
        self.topics.insert_mut(entry.id, entry);
    }

    fn topic_removed(&mut self, id: TopicId) {
        let Some(gone) = self.topics.get(&id).cloned() else { return };
        self.topics.remove_mut(&id);
        if self.names.get(&*gone.name).is_some_and(|topic| topic.id == id) {
            self.names.remove_mut(&*gone.name);
        }
        if !gone.table().is_empty() {
            self.detached.insert_mut(id, Arc::clone(gone.shared_table()));
        }
    }

    fn partitions_changed(&mut self, topic: TopicId, partitions: Vec<(TopicPartition, Option<PartitionEntry>)>) {
        let change = |table: &mut PartitionTable| {
            for (id, entry) in partitions {
                match entry {
                    Some(entry) => table.put(entry),
                    None => table.remove(id.partition),
                }
            }
        };
        if let Some(found) = self.topics.get(&topic) {
            let mut entry = TopicEntry::clone(found);
            change(entry.table_mut());
            return self.put_topic(entry);
        }
        let mut table = self.detached.get(&topic).cloned().unwrap_or_default();
        self.detached.remove_mut(&topic);
        change(Arc::make_mut(&mut table));
        if !table.is_empty() {
            self.detached.insert_mut(topic, table);
        }
    }

    fn node_changed(&mut self, node: NodeId, change: impl FnOnce(&mut NodeEntry)) {
        let nodes = Arc::make_mut(&mut self.nodes);
        change(Arc::make_mut(nodes.entry(node).or_default()));
    }
}

impl From<&NodeEntry> for NodeRecord {
    fn from(entry: &NodeEntry) -> Self {
        Self {
            epoch: entry.epoch,
            live_revision: entry.live_revision,
            fenced: entry.liveness.fenced,
            shutting_down: entry.liveness.shutting_down,
            drained: entry.liveness.drained,
        }
    }
}

#[cfg(test)]
mod tests;
