//! What the controller knows: the metadata of everybody, and what only it needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use walser_metadata::value::StagedPartitions;
use walser_metadata::{Changes, Delta, MetadataChange, TopicEntry, View};
use walser_metastore::{Change, KeyValue, Revision};
use walser_model::TopicId;
use walser_rpc::ApiError;

use crate::keys::cluster::{self, ClusterRecord};
use crate::keys::lineage::{self, Lineage, Lineages};
use crate::keys::node::{self, NodeKey};
use crate::keys::{decode, group_shard, partition, topic};

/// Partitions that are being created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Staged {
    pub(crate) value: StagedPartitions,
    pub(crate) revision: Revision,
}

/// The metadata store at one revision. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClusterView {
    pub(crate) metadata: View,
    pub(crate) cluster: Option<Arc<ClusterRecord>>,
    pub(crate) lineages: Arc<Lineages>,
    pub(crate) staged: Arc<BTreeMap<TopicId, Staged>>,
    /// When each key was changed last that is of no topic and no partition.
    changed: Arc<BTreeMap<String, Revision>>,
}

impl ClusterView {
    /// Everything in the store, as of `revision`. Versions never go back: a view that is newer is an error, and so is one that
    /// has seen a later state of any key. Such a store is an older copy, whatever its revision is.
    pub(crate) fn replace(&mut self, entries: &[KeyValue], revision: Revision) -> Result<Changes, ApiError> {
        if let Some(older) = entries.iter().find(|entry| self.has_seen_later(entry)) {
            let text = format!("key {} is as it was at revision {}", older.key, older.mod_revision);
            return Err(ApiError::metadata_rollback(self.metadata.version(), older.mod_revision).with("key", text));
        }
        let mut next = Self::default();
        let mut delta = Delta { version: revision, snapshot: true, changes: Vec::new() };
        for entry in entries {
            next.put(entry, &mut delta.changes)?;
        }
        let mut metadata = self.metadata.clone();
        let changes = metadata.apply(delta).map_err(|error| ApiError::metadata_rollback(error.have, error.got))?;
        *self = Self { metadata, ..next };
        Ok(changes)
    }

    /// The changes of one revision.
    pub(crate) fn apply(&mut self, changes: &[Change], revision: Revision) -> Result<Changes, ApiError> {
        let mut delta = Delta { version: revision, snapshot: false, changes: Vec::new() };
        for change in changes {
            match change {
                Change::Put(entry) => self.put(entry, &mut delta.changes)?,
                Change::Delete { key } => self.delete(key, &mut delta.changes),
            }
        }
        self.metadata.apply(delta).map_err(|error| ApiError::metadata_rollback(error.have, error.got))
    }

    /// Whether this view includes a later state of a key than that: another value, or that it was deleted.
    fn has_seen_later(&self, entry: &KeyValue) -> bool {
        let known = if let Some(id) = partition::parse(&entry.key) {
            self.metadata.partition(id).map(|found| found.record.epoch)
        } else if let Some(id) = topic::parse(&entry.key) {
            self.metadata.topic(id).map(|found| found.revision)
        } else if is_of_neither(&entry.key) {
            self.changed.get(&entry.key).copied()
        } else {
            return false;
        };
        let version = self.metadata.version();
        known.map_or(entry.mod_revision <= version, |known| entry.mod_revision < known)
    }

    /// The cluster's record.
    pub(crate) fn cluster(&self) -> Result<&ClusterRecord, ApiError> {
        self.cluster.as_deref().ok_or_else(|| ApiError::internal("the cluster has no record"))
    }

    /// The effective `min.insync.replicas` of a topic.
    pub(crate) fn min_isr(&self, topic: &TopicEntry) -> Result<usize, ApiError> {
        let setting = topic.settings.config.min_insync_replicas;
        Ok(self.cluster()?.min_isr(setting, topic.value.replication_factor))
    }

    /// The topic that is being created under a name.
    pub(crate) fn staged_name(&self, name: &str) -> Option<TopicId> {
        let mut creations = self.staged.iter().filter(|(_, staged)| staged.value.first == 0);
        creations.find(|(_, staged)| staged.value.topic.name == name).map(|(id, _)| *id)
    }

    fn put(&mut self, entry: &KeyValue, changes: &mut Vec<MetadataChange>) -> Result<(), ApiError> {
        let revision = entry.mod_revision;
        if is_of_neither(&entry.key) {
            Arc::make_mut(&mut self.changed).insert(entry.key.clone(), revision);
        }
        if let Some(id) = partition::parse(&entry.key) {
            changes.push(MetadataChange::Partition { id, value: Box::new(decode(entry)?), revision });
        } else if let Some(id) = topic::parse(&entry.key) {
            changes.push(MetadataChange::Topic { id, value: Arc::new(decode(entry)?), revision });
        } else if let Some(topic) = topic::parse_deleting(&entry.key) {
            changes.push(MetadataChange::Tombstone { topic, value: Box::new(decode(entry)?), revision });
        } else if let Some(id) = topic::parse_staged(&entry.key) {
            Arc::make_mut(&mut self.staged).insert(id, Staged { value: decode(entry)?, revision });
        } else if let Some((node, key)) = node::parse(&entry.key) {
            changes.push(match key {
                NodeKey::Registration => {
                    MetadataChange::Registration { node, value: Box::new(decode(entry)?), revision }
                }
                NodeKey::Liveness => MetadataChange::Liveness { node, value: decode(entry)?, revision },
            });
        } else if let Some(shard) = group_shard::parse(&entry.key) {
            changes.push(MetadataChange::GroupShard { shard, value: Box::new(decode(entry)?), revision });
        } else if entry.key.starts_with(lineage::PREFIX) {
            let found = decode::<Lineage>(entry)?;
            let first = found.first(entry.create_revision);
            Arc::make_mut(&mut self.lineages).put(&entry.key, found.id, first);
        } else if entry.key == cluster::KEY {
            self.cluster = Some(Arc::new(decode(entry)?));
        }
        Ok(())
    }

    fn delete(&mut self, key: &str, changes: &mut Vec<MetadataChange>) {
        if self.changed.contains_key(key) {
            Arc::make_mut(&mut self.changed).remove(key);
        }
        if let Some(id) = partition::parse(key) {
            changes.push(MetadataChange::PartitionRemoved(id));
        } else if let Some(id) = topic::parse(key) {
            changes.push(MetadataChange::TopicRemoved(id));
        } else if let Some(id) = topic::parse_deleting(key) {
            changes.push(MetadataChange::TombstoneRemoved(id));
        } else if let Some(id) = topic::parse_staged(key) {
            Arc::make_mut(&mut self.staged).remove(&id);
        } else if let Some((node, NodeKey::Registration)) = node::parse(key) {
            changes.push(MetadataChange::NodeRemoved(node));
        } else if key.starts_with(lineage::PREFIX) {
            Arc::make_mut(&mut self.lineages).delete(key);
        }
    }
}

/// Whether a key is of no topic and of no partition: of such there are few.
fn is_of_neither(key: &str) -> bool {
    ![partition::PREFIX, topic::PREFIX, topic::NAMES_PREFIX].iter().any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use walser_metadata::value::{
        GroupShardValue, NodeLiveness, NodeRegistration, PartitionValue, TombstoneValue, TopicValue,
    };
    use walser_metastore::{Memory, Metastore as _, Op, Outcome, Txn, WatchEvent, read_all};
    use walser_model::{NodeId, PartitionIndex, TopicPartition};
    use walser_replication::PartitionState;

    use super::*;
    use crate::keys::{delete, put};

    fn id(byte: u8) -> TopicId {
        TopicId::from_bytes([byte; 16])
    }

    fn at(byte: u8, number: i32) -> TopicPartition {
        TopicPartition::new(id(byte), PartitionIndex(number))
    }

    fn partition_of(byte: u8, number: i32) -> Op {
        let value = PartitionValue::from(PartitionState::new(vec![NodeId(1)], 1));
        put(partition::key(at(byte, number)), &value)
    }

    fn topic_of(byte: u8) -> Op {
        put(topic::key(id(byte)), &TopicValue { name: format!("t{byte}"), partition_count: 1, ..TopicValue::default() })
    }

    fn content(view: &ClusterView) -> HashMap<String, String> {
        let topics = view.metadata.topics().map(|topic| (format!("t{}", topic.id), format!("{:?}", topic.value)));
        let mut all: HashMap<_, _> = topics.collect();
        let partitions = (0..9).flat_map(|byte| view.metadata.partitions_of(id(byte)));
        all.extend(partitions.map(|entry| (format!("p{}", entry.record.key), format!("{entry:?}"))));
        all.extend(view.metadata.nodes().map(|(node, entry)| (format!("n{node}"), format!("{entry:?}"))));
        all.extend(view.metadata.tombstones().map(|(topic, entry)| (format!("d{topic}"), format!("{entry:?}"))));
        all.extend(view.metadata.group_shards().map(|(shard, entry)| (format!("g{shard}"), format!("{entry:?}"))));
        all.insert("rest".to_owned(), format!("{:?} {:?} {:?}", view.cluster, view.lineages, view.staged));
        all
    }

    /// Whatever is written, a view that follows the store is the one that reads it anew.
    #[tokio::test]
    async fn following_the_store_and_reading_it_lead_to_the_same_view() {
        let store = Memory::new();
        let mut watch = store.watch("", 0).await.unwrap();
        let record = ClusterRecord::new("c".into(), "walser".into(), 5);
        let staged =
            StagedPartitions { topic: TopicValue { name: "t7".into(), ..TopicValue::default() }, ..Default::default() };
        let steps = [
            vec![put(cluster::KEY.to_owned(), &record), put(lineage::key(0), &Lineage::new("a"))],
            vec![
                put(node::registration_key(NodeId(1)), &NodeRegistration::default()),
                put(node::live_key(NodeId(1)), &NodeLiveness::default()),
            ],
            vec![put(group_shard::key(3), &GroupShardValue { epoch: 1, ..GroupShardValue::default() })],
            vec![put(group_shard::key(3), &GroupShardValue { epoch: 2, ..GroupShardValue::default() })],
            vec![topic_of(1), partition_of(1, 0), put("of/a/newer/version".to_owned(), &record)],
            vec![topic_of(2), partition_of(2, 0), put(topic::staged_key(id(7)), &staged), partition_of(7, 0)],
            vec![delete(topic::key(id(1))), put(topic::deleting_key(id(1)), &TombstoneValue::default())],
            vec![delete(partition::key(at(1, 0))), put(lineage::accepted_key("b"), &Lineage::new("b"))],
            vec![delete(topic::deleting_key(id(1))), delete(topic::staged_key(id(7))), topic_of(7)],
            vec![delete(node::registration_key(NodeId(1))), delete(node::live_key(NodeId(1))), delete(lineage::key(0))],
        ];
        let mut followed = ClusterView::default();
        for ops in steps {
            let Outcome::Committed(revision) = store.transact(Txn { compares: Vec::new(), ops }).await.unwrap() else {
                panic!("no conditions")
            };
            let Ok(WatchEvent::Changes { revision: seen, changes }) = watch.next().await else { panic!("a change") };
            assert_eq!(seen, revision);
            followed.apply(&changes, revision).unwrap();
            let all = read_all(&store, "").await.unwrap();
            let mut read = ClusterView::default();
            read.replace(&all.entries, all.revision).unwrap();
            assert_eq!(content(&read), content(&followed), "at {revision}");
            assert_eq!(read.metadata.version(), revision);
        }
        assert_eq!(followed.metadata.topic_count(), 2);
        assert!(followed.replace(&[], 1).is_err(), "an older copy of the store is refused");
    }

    #[test]
    fn an_older_copy_is_one_whatever_its_revision_is() {
        let entry = |key: &str, mod_revision| {
            let value = walser_metadata::value::encode(&PartitionValue::from(PartitionState::new(vec![NodeId(1)], 1)));
            KeyValue { key: key.to_owned(), value: value.into(), create_revision: 1, mod_revision, lease: 0 }
        };
        let part = partition::key(TopicPartition::new(id(1), PartitionIndex(0)));
        for key in [part.as_str(), "pids/next"] {
            let mut view = ClusterView::default();
            view.replace(&[entry(key, 5)], 9).unwrap();
            view.replace(&[entry(key, 5)], 10).unwrap();
            view.apply(&[Change::Put(entry(key, 12))], 12).unwrap();
            let failure = view.clone().replace(&[entry(key, 5)], 1_000_000).unwrap_err();
            assert_eq!(failure.reason(), walser_rpc::Reason::MetadataRollback, "its value of then is there again");
            view.apply(&[Change::Delete { key: key.to_owned() }], 13).unwrap();
            view.clone().replace(&[entry(key, 5)], 1_000_000).unwrap_err();
            view.replace(&[entry(key, 14)], 14).unwrap();
            view.replace(&[], 20).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_absent() {
        let broken = KeyValue {
            key: topic::key(id(1)),
            value: b"{".to_vec().into(),
            create_revision: 1,
            mod_revision: 1,
            lease: 0,
        };
        let failure = ClusterView::default().replace(&[broken], 1).unwrap_err();
        assert!(failure.message().contains(&topic::key(id(1))), "{failure}");
    }
}
