//! What must hold in the partition of the simulated cluster that is compacted.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use walser_model::{Offset, TopicPartition};
use walser_record_batch::{BatchHeader, Records};

use super::{Cluster, NODES, Written};

/// Records of a replica, by offset.
type Kept = BTreeMap<Offset, Written>;

/// Of each key the newest record, and its offset.
fn newest(kept: &Kept) -> BTreeMap<&Bytes, (Offset, &Option<Bytes>)> {
    kept.iter().filter_map(|(at, written)| Some((written.key.as_ref()?, (*at, &written.value)))).collect()
}

/// The values of those that are no tombstones.
fn values(kept: &Kept) -> BTreeSet<&Bytes> {
    newest(kept).into_values().filter_map(|(_, value)| value.as_ref()).collect()
}

impl Cluster {
    /// Of each key the newest record that was acknowledged is there, or a newer one, and no deleted one has come back:
    /// on every replica.
    pub(super) fn check_compacted(&mut self, id: TopicPartition) {
        let replicas: Vec<Kept> = (0..NODES).map(|node| self.kept(node, id)).collect();
        for (node, kept) in replicas.iter().enumerate() {
            for (offset, written) in kept {
                let same = |other: &Kept| other.get(offset).is_none_or(|also| also == written);
                assert!(replicas.iter().all(same), "node {node} and another one differ in {id} at {offset}");
            }
        }
        let latest = self.acknowledged.iter().filter(|((found, _), _)| *found == id);
        let latest: BTreeMap<_, _> = latest.map(|((_, at), written)| (written.key.clone(), (*at, written))).collect();
        for (node, kept) in replicas.iter().enumerate() {
            let newest = newest(kept);
            for (key, (at, written)) in &latest {
                let key = key.as_ref().expect("records of this partition have keys");
                match newest.get(key) {
                    Some((offset, value)) => {
                        assert!(
                            offset >= at,
                            "node {node}: {key:?} is back from {offset}, there was a newer one at {at}"
                        );
                        assert!(offset > at || **value == written.value, "node {node}: {at} holds another record");
                    }
                    None => assert!(
                        written.value.is_none() || self.may_be_deleted(id, key),
                        "node {node}: {key:?} is gone, with its record at {at}"
                    ),
                }
            }
            assert_eq!(values(kept), values(&replicas[0]), "node {node} has other newest values than node 0");
        }
        self.count.compactions += (0..NODES).filter(|node| self.compacted(*node, id) > Offset::ZERO).count();
        let last = replicas.iter().filter_map(|kept| kept.keys().next_back()).max();
        self.count.tombstones_gone += usize::from(latest.values().any(|(at, written)| {
            written.value.is_none() && Some(at) < last && replicas.iter().any(|kept| !kept.contains_key(at))
        }));
    }

    /// Whether somebody has tried to delete a key without an answer: it may have been done.
    fn may_be_deleted(&self, id: TopicPartition, key: &Bytes) -> bool {
        self.sent.iter().any(|(found, sent)| *found == id && sent.key.as_ref() == Some(key) && sent.value.is_none())
    }

    fn compacted(&self, node: usize, id: TopicPartition) -> Offset {
        self.nodes[node].shard.partitions.get(&id).map_or(Offset::ZERO, |partition| partition.log.compacted())
    }

    pub(super) fn kept(&self, node: usize, id: TopicPartition) -> Kept {
        let mut kept = Kept::new();
        for (_, batch) in self.batches(node, id) {
            let header = BatchHeader::parse(&batch).unwrap();
            for record in Records::open(header, &batch).unwrap().map(Result::unwrap) {
                kept.insert(record.offset, Written { key: record.key, value: record.value });
            }
        }
        kept
    }
}
