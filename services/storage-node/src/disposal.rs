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
use walser_model::{TopicId, TopicPartition};
use walser_service::Shutdown;

use crate::board::Board;
use crate::shard::Command;
use crate::shard_set::ShardSet;
use crate::view::{Changes, View};

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
    /// Deleted topics of which nothing is left here, not yet told to the controller.
    removed: HashSet<TopicId>,
    /// Tombstones that were taken on since the last snapshot; they come again with every confirmation of another node.
    taken_on: HashSet<TopicId>,
}

/// Removes and sets aside, one partition after the other. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disposal {
    pending: Arc<Mutex<Pending>>,
    more: Arc<Notify>,
}

impl Disposal {
    /// Takes on what a change of the metadata asks for.
    pub(crate) fn dispose(&self, changes: &Changes, view: &View, held: &Held) {
        let mut pending = self.pending.lock();
        if changes.snapshot {
            pending.taken_on.clear();
        }
        for topic in &changes.tombstones {
            if !pending.taken_on.insert(*topic) {
                continue;
            }
            tracing::info!(%topic, "removing the data of a deleted topic");
            let of_topic = held.here.iter().chain(&held.aside).filter(|partition| partition.topic == *topic);
            pending.steps.extend(of_topic.map(|partition| (*partition, Step::Remove)));
            pending.note_removed(*topic);
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

    /// Deleted topics of which nothing is left here and that the controller is to be told.
    pub(crate) fn removed(&self) -> Vec<TopicId> {
        self.pending.lock().removed.iter().copied().collect()
    }

    /// The controller was told.
    pub(crate) fn told(&self, topics: &[TopicId]) {
        self.pending.lock().removed.retain(|topic| !topics.contains(topic));
    }

    /// Takes step after step until the stop: each costs the shard some syncs, between which others are served.
    pub(crate) async fn run(self, shards: ShardSet, board: Board, shutdown: Shutdown) {
        loop {
            let failed = tokio::select! {
                failed = self.take_steps(&shards, &board) => failed,
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
    async fn take_steps(&self, shards: &ShardSet, board: &Board) -> bool {
        let all: Vec<_> = self.pending.lock().steps.keys().copied().collect();
        for partition in all {
            if board.writes_refused().is_some() {
                return true;
            }
            let Some(outcome) = self.begin(partition, shards) else { continue };
            match outcome.await {
                Ok(Ok(())) => self.pending.lock().done(partition),
                Ok(Err(error)) => {
                    tracing::warn!(partition = %board.names.partition(partition), %error, "a partition could not be moved or removed")
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
    fn done(&mut self, partition: TopicPartition) {
        if self.steps.remove(&partition) == Some(Step::Remove) {
            self.note_removed(partition.topic);
        }
    }

    fn note_removed(&mut self, topic: TopicId) {
        let left = |(partition, step): (&TopicPartition, &Step)| partition.topic == topic && *step == Step::Remove;
        if !self.steps.iter().any(left) {
            self.removed.insert(topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use walser_model::PartitionIndex;

    use super::*;

    fn partition(topic: u8, number: i32) -> TopicPartition {
        TopicPartition::new(TopicId::from_bytes([topic; 16]), PartitionIndex(number))
    }

    fn steps(disposal: &Disposal) -> Vec<(TopicPartition, Step)> {
        disposal.pending.lock().steps.iter().map(|(partition, step)| (*partition, *step)).collect()
    }

    #[test]
    fn only_tombstones_remove_and_what_is_known_again_is_kept() {
        let disposal = Disposal::default();
        let held = Held {
            here: [partition(1, 0), partition(2, 0), partition(3, 0)].into(),
            aside: [partition(2, 1), partition(4, 0)].into(),
        };
        let tombstones = [TopicId::from_bytes([2; 16]), TopicId::from_bytes([9; 16])].into();
        let mut view = View::default();
        let tombstone = walser_proto::internal::v1::TopicTombstone { topic_id: vec![2; 16].into(), version: 1 };
        let message =
            walser_proto::internal::v1::WatchMetadataResponse { tombstones: vec![tombstone], ..Default::default() };
        view.apply(&[message]);
        let changes = Changes { snapshot: true, tombstones, ..Changes::default() };
        disposal.dispose(&changes, &view, &held);
        let (remove, aside) = (Step::Remove, Step::SetAside);
        let expected = [(partition(1, 0), aside), (partition(2, 0), remove), (partition(2, 1), remove)];
        assert_eq!(steps(&disposal), [&expected[..], &[(partition(3, 0), aside)]].concat());
        assert_eq!(disposal.removed(), [TopicId::from_bytes([9; 16])], "nothing of it is here");
        disposal.keep(&[partition(3, 0)].into());
        assert_eq!(steps(&disposal), expected);
        disposal.pending.lock().done(partition(2, 0));
        assert_eq!(disposal.removed().len(), 1, "one of its partitions is left");
        disposal.pending.lock().done(partition(2, 1));
        assert_eq!(disposal.removed().len(), 2);
        disposal.told(&disposal.removed());
        disposal.dispose(&Changes { snapshot: false, ..changes }, &view, &Held::default());
        assert!(disposal.removed().is_empty(), "a tombstone that comes again is not confirmed again");
    }
}
