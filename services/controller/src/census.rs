//! The census: what there is in the cluster, counted from the changes of the metadata store.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use walser_metastore::{Change, KeyValue, Metastore, StoreError, WatchError, WatchEvent, read_all};
use walser_model::TopicId;

use crate::keys::node::Live;
use crate::keys::partition::{self, Partition};
use crate::keys::{decode, node, topic};
use crate::metrics::ClusterMetrics;

/// Pause before the store is read again after it gave no answer.
const RETRY: Duration = Duration::from_secs(1);

/// What is counted. It holds one entry for each topic, partition and node of the metadata, which bounds them.
#[derive(Debug, Default)]
pub(crate) struct Census {
    topics: HashSet<TopicId>,
    leaders: HashMap<(TopicId, i32), Leader>,
    /// Partitions without a leader.
    without_leader: usize,
    /// Whether a node is fenced, by id.
    nodes: BTreeMap<i32, bool>,
    deleting: HashSet<TopicId>,
    leader_changes: u64,
    leader_epochs: u64,
}

/// The leader of a partition. Node -1: there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leader {
    node: i32,
    epoch: i32,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) topics: usize,
    pub(crate) partitions: usize,
    pub(crate) without_leader: usize,
    pub(crate) active_nodes: usize,
    pub(crate) fenced_nodes: usize,
    /// Deletions of topics whose data is not gone yet.
    pub(crate) operations: usize,
}

/// Counts, and shows what was counted, for as long as the process runs.
pub(crate) async fn follow(store: Arc<dyn Metastore>, metrics: ClusterMetrics) {
    let mut census = Census::default();
    loop {
        if let Err(error) = follow_once(&*store, &mut census, &metrics).await {
            tracing::debug!(%error, "the metadata cannot be counted");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Counts everything, then changes, until the store does not have the history any more.
async fn follow_once(store: &dyn Metastore, census: &mut Census, metrics: &ClusterMetrics) -> Result<(), StoreError> {
    let all = read_all(store, "").await?;
    census.replace(&all.entries);
    metrics.show(census, all.revision);
    let mut watch = store.watch("", all.revision).await?;
    loop {
        let revision = match watch.next().await {
            Ok(WatchEvent::Changes { revision, changes }) => {
                changes.iter().for_each(|change| census.apply(change));
                revision
            }
            Ok(WatchEvent::Progress { revision }) => revision,
            Err(WatchError::Compacted { .. }) => return Ok(()),
            Err(WatchError::Unavailable(why)) => return Err(StoreError::Unavailable(why)),
        };
        metrics.show(census, revision);
    }
}

// === impl Census ===

impl Census {
    /// Counts anew; elections are counted by what was known before.
    fn replace(&mut self, entries: &[KeyValue]) {
        let before = std::mem::take(self);
        let (leader_changes, leader_epochs) = (before.leader_changes, before.leader_epochs);
        *self = Self { leaders: before.leaders, leader_changes, leader_epochs, ..Self::default() };
        entries.iter().for_each(|entry| self.put(entry));
        let there: HashSet<_> = entries.iter().filter_map(|entry| partition::parse(&entry.key)).collect();
        self.leaders.retain(|id, _| there.contains(id));
        self.without_leader = self.leaders.values().filter(|leader| leader.node < 0).count();
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(entry) => self.put(entry),
            Change::Delete { key } => self.delete(key),
        }
    }

    fn put(&mut self, entry: &KeyValue) {
        if let Some(id) = partition::parse(&entry.key) {
            // What cannot be read is reported where it is used.
            let Ok(Partition { leader: node, leader_epoch: epoch, .. }) = decode(entry) else { return };
            self.without_leader += usize::from(node < 0);
            if let Some(before) = self.leaders.insert(id, Leader { node, epoch }) {
                self.without_leader = self.without_leader.saturating_sub(usize::from(before.node < 0));
                self.leader_changes += u64::from(before.node != node);
                self.leader_epochs += u64::from(before.epoch < epoch);
            }
        } else if let Some(id) = topic::parse(&entry.key) {
            self.topics.insert(id);
        } else if let Some(id) = topic::parse_deleting(&entry.key) {
            self.deleting.insert(id);
        } else if let Some((id, false)) = node::parse(&entry.key)
            && let Ok(Live { fenced }) = decode(entry)
        {
            self.nodes.insert(id, fenced);
        }
    }

    fn delete(&mut self, key: &str) {
        if let Some(id) = partition::parse(key) {
            let gone = self.leaders.remove(&id).is_some_and(|leader| leader.node < 0);
            self.without_leader = self.without_leader.saturating_sub(usize::from(gone));
        } else if let Some(id) = topic::parse(key) {
            self.topics.remove(&id);
        } else if let Some(id) = topic::parse_deleting(key) {
            self.deleting.remove(&id);
        } else if let Some((id, false)) = node::parse(key) {
            self.nodes.remove(&id);
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        let fenced_nodes = self.nodes.values().filter(|fenced| **fenced).count();
        Totals {
            topics: self.topics.len(),
            partitions: self.leaders.len(),
            without_leader: self.without_leader,
            active_nodes: self.nodes.len() - fenced_nodes,
            fenced_nodes,
            operations: self.deleting.len(),
        }
    }

    /// Changes of leaders, and leader epochs begun, since this was asked last.
    pub(crate) fn take_elections(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.leader_changes), std::mem::take(&mut self.leader_epochs))
    }
}

#[cfg(test)]
mod tests {
    use walser_metastore::Op;

    use super::*;
    use crate::keys::put;
    use crate::keys::topic::{Deleting, Topic};

    fn id(byte: u8) -> TopicId {
        TopicId::from_bytes([byte; 16])
    }

    fn entry(op: Op) -> KeyValue {
        let Op::Put { key, value, .. } = op else { panic!("put makes a put") };
        KeyValue { key, value, create_revision: 1, mod_revision: 1, lease: 0 }
    }

    fn led(topic: u8, number: i32, leader: i32, leader_epoch: i32) -> KeyValue {
        let value = Partition { replicas: vec![1], leader, leader_epoch, isr: vec![1], min_isr: 1 };
        entry(put(partition::key(id(topic), number), &value))
    }

    fn named(byte: u8) -> KeyValue {
        let value = Topic {
            name: "t".to_owned(),
            partition_count: 1,
            replication_factor: 1,
            config: BTreeMap::new(),
            labels: BTreeMap::new(),
            description: String::new(),
            created_ms: 0,
        };
        entry(put(topic::key(id(byte)), &value))
    }

    fn live(number: i32, fenced: bool) -> KeyValue {
        entry(put(node::live_key(number), &Live { fenced }))
    }

    #[test]
    fn everything_is_counted_once_and_changes_of_leaders_as_they_come() {
        let mut census = Census::default();
        census.replace(&[named(1), led(1, 0, 1, 1), led(1, 1, 1, 1), live(1, false), live(2, true)]);
        let totals = Totals { topics: 1, partitions: 2, active_nodes: 1, fenced_nodes: 1, ..Totals::default() };
        assert_eq!(census.totals(), totals);
        assert_eq!(census.take_elections(), (0, 0), "leaders that were there before did not change");

        // The node is fenced, and registers again.
        census.apply(&Change::Put(led(1, 0, -1, 2)));
        census.apply(&Change::Put(live(1, true)));
        assert_eq!(census.totals(), Totals { without_leader: 1, active_nodes: 0, fenced_nodes: 2, ..totals });
        census.apply(&Change::Put(led(1, 0, 1, 3)));
        census.apply(&Change::Put(led(1, 1, 1, 2)));
        assert_eq!(census.take_elections(), (2, 3));

        let deleting =
            Deleting { name: "t".into(), operation: "op-1".into(), partition_count: 2, started_ms: 0, nodes: vec![1] };
        let key = topic::deleting_key(id(1));
        census.apply(&Change::Put(entry(put(key.clone(), &deleting))));
        let gone = [topic::key(id(1)), partition::key(id(1), 0), partition::key(id(1), 1)];
        gone.into_iter().for_each(|key| census.apply(&Change::Delete { key }));
        let left = Totals { fenced_nodes: 2, operations: 1, ..Totals::default() };
        assert_eq!(census.totals(), left);
        census.apply(&Change::Delete { key });
        assert_eq!(census.totals(), Totals { operations: 0, ..left });
    }

    #[test]
    fn counting_anew_notices_what_changed_meanwhile() {
        let mut census = Census::default();
        census.replace(&[led(1, 0, 1, 1), led(1, 1, 1, 1), led(2, 0, 1, 1)]);
        census.replace(&[led(1, 0, 2, 5), led(1, 1, 1, 1), led(3, 0, 1, 1)]);
        assert_eq!(census.take_elections(), (1, 1));
        assert_eq!(census.totals().partitions, 3);
    }
}
