//! Data that this node is not to hold any more: removed for a tombstone, set aside when metadata does not know it.
//!
//! Invariant: nothing is removed because metadata does not mention it.
//! Invariant: a step that is still to come is dropped once metadata knows the partition, and none is taken while the
//! controller is not obeyed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use walser_metadata::{Changes, View};
use walser_model::{NodeId, PartitionIndex, TopicId, TopicPartition};
use walser_service::Shutdown;

use crate::replica_registry::ReplicaRegistry;
use crate::shard::Command;
use crate::shard_set::ShardSet;

/// Wait before steps are tried again that have failed, or that may not be taken at present.
const RETRY: Duration = Duration::from_secs(1);
/// Partitions that the log names one by one.
const NAMED_MAX: usize = 20;

/// What is to become of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Remove,
    SetAside,
}

/// Partitions of which there is anything on this node.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// In use, or in the directory of logs.
    pub(crate) here: BTreeSet<TopicPartition>,
    /// Set aside.
    pub(crate) aside: BTreeSet<TopicPartition>,
}

/// What is to be done, and what has been.
#[derive(Debug, Default)]
struct Pending {
    steps: BTreeMap<TopicPartition, Step>,
    /// Deleted topics whose data here was taken on for removal; their tombstones come again whenever another node has
    /// confirmed. As many as there are tombstones.
    taken_on: HashSet<TopicId>,
    /// Those of them whose tombstones name this node: it is expected to confirm.
    expected: BTreeSet<TopicId>,
}

/// Removes and sets aside, one partition after the other. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disposal {
    pending: Arc<Mutex<Pending>>,
    more: Arc<Notify>,
}

impl Disposal {
    /// Takes on what a change of the metadata asks for.
    pub(crate) fn dispose(&self, changes: &Changes, view: &View, node: NodeId, held: &Held) {
        let mut pending = self.pending.lock();
        if changes.snapshot {
            pending.taken_on.clear();
            pending.expected.clear();
        }
        for topic in &changes.tombstones {
            let Some(tombstone) = view.tombstone(*topic) else {
                pending.taken_on.remove(topic);
                pending.expected.remove(topic);
                continue;
            };
            if tombstone.value.nodes.contains(&node.0) {
                pending.expected.insert(*topic);
            } else {
                pending.expected.remove(topic);
            }
            // Given up before it was finished: nobody has taken back what is set aside of it.
            if tombstone.value.keeps_data {
                continue;
            }
            if pending.taken_on.insert(*topic) {
                tracing::info!(%topic, "removing the data of a deleted topic");
                let of_topic = held.here.iter().chain(&held.aside).filter(|partition| partition.topic == *topic);
                pending.steps.extend(of_topic.map(|partition| (*partition, Step::Remove)));
            }
        }
        if changes.snapshot {
            let unknown: Vec<_> = held.here.iter().filter(|id| !view.accounts_for(**id)).collect();
            for partition in unknown.iter().take(NAMED_MAX) {
                tracing::warn!(%partition, "the metadata does not know this partition: it is set aside");
            }
            if !unknown.is_empty() {
                tracing::warn!(count = unknown.len(), "partitions are set aside: walser partition set-aside list");
            }
            pending.steps.extend(unknown.into_iter().map(|partition| (*partition, Step::SetAside)));
        }
        drop(pending);
        self.more.notify_one();
    }

    /// Drops what was still to be done with partitions that the metadata knows.
    pub(crate) fn keep(&self, known: &BTreeSet<TopicPartition>) {
        self.pending.lock().steps.retain(|partition, _| !known.contains(partition));
    }

    /// At most `limit` deleted topics of which nothing is left here and that this node is expected to confirm. Each is
    /// confirmed with every beat until its tombstone does not name this node any more.
    pub(crate) fn removed(&self, limit: usize) -> Vec<TopicId> {
        let pending = self.pending.lock();
        let removed = pending.expected.iter().filter(|topic| !pending.is_removing(**topic));
        removed.take(limit).copied().collect()
    }

    /// Whether partitions are still to be set aside.
    pub(crate) fn sets_aside(&self) -> bool {
        self.pending.lock().steps.values().any(|step| *step == Step::SetAside)
    }

    /// Takes step after step until the stop: each costs the shard some syncs, between which others are served.
    pub(crate) async fn run(self, shards: ShardSet, registry: ReplicaRegistry, shutdown: Shutdown) {
        loop {
            let failed = tokio::select! {
                failed = self.take_steps(&shards, &registry) => failed,
                () = shutdown.wait() => return,
            };
            let pause = async {
                if failed {
                    tokio::time::sleep(RETRY).await;
                } else {
                    self.more.notified().await;
                }
            };
            tokio::select! {
                () = pause => {}
                () = shutdown.wait() => return,
            }
        }
    }

    /// Takes each step once; returns whether some are left that have failed or may not be taken.
    async fn take_steps(&self, shards: &ShardSet, registry: &ReplicaRegistry) -> bool {
        let all: Vec<_> = self.pending.lock().steps.keys().copied().collect();
        for partition in all {
            if registry.writes_refused().is_some() {
                return true;
            }
            let Some(outcome) = self.begin(partition, shards) else { continue };
            match outcome.await {
                Ok(Ok(())) => drop(self.pending.lock().steps.remove(&partition)),
                Ok(Err(error)) => {
                    tracing::warn!(partition = %registry.names.partition(partition), %error, "a partition could not be moved or removed")
                }
                // The shard has stopped, and the process with it.
                Err(_stopped) => return true,
            }
        }
        !self.pending.lock().steps.is_empty()
    }

    /// Hands a step to its shard, unless it was dropped meanwhile. Under the lock, so that it comes before whatever is
    /// ordered because the metadata knows the partition again.
    fn begin(&self, partition: TopicPartition, shards: &ShardSet) -> Option<oneshot::Receiver<std::io::Result<()>>> {
        let pending = self.pending.lock();
        let step = *pending.steps.get(&partition)?;
        let (done, outcome) = oneshot::channel();
        shards.queue(partition).push(match step {
            Step::Remove => Command::Remove { partition, done },
            Step::SetAside => Command::SetAside { partition, done },
        });
        Some(outcome)
    }
}

impl Pending {
    /// Whether something of a deleted topic is still to be removed.
    fn is_removing(&self, topic: TopicId) -> bool {
        let first = TopicPartition::new(topic, PartitionIndex(i32::MIN));
        let of_topic = self.steps.range(first..).take_while(|(partition, _)| partition.topic == topic);
        of_topic.into_iter().any(|(_, step)| *step == Step::Remove)
    }
}

#[cfg(test)]
mod tests {
    use walser_metadata::value::TombstoneValue;
    use walser_metadata::{Delta, MetadataChange};

    use super::*;

    fn topic(byte: u8) -> TopicId {
        TopicId::from_bytes([byte; 16])
    }

    fn partition(byte: u8, number: i32) -> TopicPartition {
        TopicPartition::new(topic(byte), PartitionIndex(number))
    }

    fn steps(disposal: &Disposal) -> Vec<(TopicPartition, Step)> {
        disposal.pending.lock().steps.iter().map(|(partition, step)| (*partition, *step)).collect()
    }

    fn tombstone(byte: u8, nodes: &[i32], revision: i64) -> MetadataChange {
        let value = TombstoneValue { nodes: nodes.to_vec(), ..TombstoneValue::default() };
        MetadataChange::Tombstone { topic: topic(byte), value: Box::new(value), revision }
    }

    #[test]
    fn what_was_to_be_restored_stays_when_that_is_given_up() {
        let disposal = Disposal::default();
        let held = Held { here: [].into(), aside: [partition(2, 0)].into() };
        let value = TombstoneValue { keeps_data: true, ..TombstoneValue::default() };
        let changes = vec![MetadataChange::Tombstone { topic: topic(2), value: Box::new(value), revision: 1 }];
        for snapshot in [true, false] {
            let mut view = View::default();
            let changes = view.apply(Delta { version: 1, snapshot, changes: changes.clone() }).unwrap();
            disposal.dispose(&changes, &view, NodeId(1), &held);
            assert_eq!(steps(&disposal), []);
        }
    }

    #[test]
    fn only_tombstones_remove_and_what_is_known_again_is_kept() {
        let disposal = Disposal::default();
        let held = Held {
            here: [partition(1, 0), partition(2, 0), partition(3, 0)].into(),
            aside: [partition(2, 1), partition(4, 0)].into(),
        };
        let mut view = View::default();
        let changes = vec![tombstone(2, &[1], 1), tombstone(9, &[1, 2], 1), tombstone(8, &[2], 1)];
        let changes = view.apply(Delta { version: 1, snapshot: true, changes }).unwrap();
        disposal.dispose(&changes, &view, NodeId(1), &held);
        let (remove, aside) = (Step::Remove, Step::SetAside);
        // Nothing is known of topic 4, and it is aside already.
        let expected = [(partition(1, 0), aside), (partition(2, 0), remove), (partition(2, 1), remove)];
        assert_eq!(steps(&disposal), [&expected[..], &[(partition(3, 0), aside)]].concat());
        assert_eq!(disposal.removed(9), [topic(9)], "nothing of it is here, and this node is expected to say so");
        disposal.keep(&[partition(3, 0)].into());
        assert_eq!(steps(&disposal), expected);
        for number in [0, 1] {
            assert_eq!(disposal.removed(9), [topic(9)], "partition {number} of the other one is left");
            disposal.pending.lock().steps.remove(&partition(2, number));
        }
        assert_eq!(disposal.removed(9), [topic(2), topic(9)], "confirmed with every beat");
        assert_eq!(disposal.removed(1), [topic(2)]);

        // The controller has taken both; of one, another node has something.
        let changes = vec![MetadataChange::TombstoneRemoved(topic(2)), tombstone(9, &[2], 2)];
        let changes = view.apply(Delta { version: 2, snapshot: false, changes }).unwrap();
        disposal.dispose(&changes, &view, NodeId(1), &held);
        assert!(disposal.removed(9).is_empty());
        assert_eq!(steps(&disposal), expected[..1], "a tombstone that comes again removes nothing again");
    }
}
