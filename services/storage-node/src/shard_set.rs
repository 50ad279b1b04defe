//! The shards of a node, and which one owns a partition.

use std::hash::{Hash as _, Hasher as _};
use std::io::ErrorKind;
use std::sync::Arc;

use tokio::sync::oneshot;
use walser_log::{Generation, ReadError, out_of_files};
use walser_model::TopicPartition;
use walser_rpc::AppendBudget;

use crate::shard::{Command, Queue};

/// Queues and byte budgets of all shards. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct ShardSet {
    shards: Arc<[(Arc<Queue>, AppendBudget)]>,
}

/// The number of the shard that owns a partition.
pub(crate) fn owner(partition: TopicPartition, shard_count: usize) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    partition.hash(&mut hasher);
    usize::try_from(hasher.finish() % shard_count as u64).expect("the remainder is below a usize")
}

impl ShardSet {
    pub(crate) fn new(shards: Vec<(Arc<Queue>, AppendBudget)>) -> Self {
        Self { shards: shards.into() }
    }

    pub(crate) fn queue(&self, partition: TopicPartition) -> &Arc<Queue> {
        &self.shards[owner(partition, self.shards.len())].0
    }

    pub(crate) fn room(&self, partition: TopicPartition) -> &AppendBudget {
        &self.shards[owner(partition, self.shards.len())].1
    }

    /// What a read has met in what the log had in it then is noted: with damage the partition takes no writes from then on, with
    /// a disk that fails it is out of service here. A file that was not found is looked for.
    pub(crate) fn note_damage(&self, partition: TopicPartition, generation: Generation, error: &ReadError) {
        match error {
            ReadError::Corrupt { at } => {
                self.queue(partition).push(Command::Damaged { partition, from: *at, generation });
            }
            ReadError::Io(error) if error.kind() == ErrorKind::NotFound => {
                self.queue(partition).push(Command::FileMissing(partition));
            }
            // What the system says, and not the log itself.
            ReadError::Io(error) if error.raw_os_error().is_some() && !out_of_files(error) => {
                let problem = error.to_string();
                self.queue(partition).push(Command::ReadFailed { partition, problem, generation });
            }
            _ => {}
        }
    }

    /// Waits until every shard has carried out what was pushed before this call.
    pub(crate) async fn settle(&self) {
        let mut waiting = Vec::new();
        for queue in self.queues() {
            let (done, settled) = oneshot::channel();
            queue.push(Command::Barrier(done));
            waiting.push(settled);
        }
        for settled in waiting {
            // A shard that has stopped drops its end: nothing is carried out any more.
            let _ = settled.await;
        }
    }

    /// All queues.
    pub(crate) fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.shards.iter().map(|(queue, _)| queue)
    }
}
