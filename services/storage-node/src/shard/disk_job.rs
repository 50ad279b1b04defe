//! What a shard has threads do that may wait for the disk.

use std::sync::Arc;

use walser_log::{Extension, FlushJob};
use walser_model::{Clock, TopicPartition};

use super::compaction::Compacting;
use super::maintenance::Maintenance;
use super::queue::{Command, Queue};
use crate::disk_threads::{DiskJob, DiskLane};
use crate::metrics::StorageMetrics;
use crate::space::SpaceAhead;

/// Work for a thread that waits for the disk.
#[derive(Debug)]
pub(crate) enum DiskTask {
    /// Make a log durable. Lazily: no write waits for it.
    Flush { partition: TopicPartition, job: FlushJob, lazy: bool },
    /// Zero-fill space ahead of a log.
    Extend { partition: TopicPartition, extension: Extension, space: SpaceAhead },
    /// Go on with a compaction.
    Compact { partition: TopicPartition, compacting: Box<Compacting> },
    /// Everything else that has to wait.
    Maintain(Box<Maintenance>),
}

/// A task, and the shard that is told of its outcome.
#[derive(Debug)]
pub(crate) struct ShardJob {
    pub(super) task: DiskTask,
    pub(super) shard: Arc<Queue>,
}

impl DiskJob for ShardJob {
    type Outcome = Command;

    fn lane(&self) -> DiskLane {
        match &self.task {
            DiskTask::Flush { lazy: false, .. } => DiskLane::Flush,
            DiskTask::Flush { lazy: true, .. } => DiskLane::LazyFlush,
            DiskTask::Extend { .. } => DiskLane::Extend,
            DiskTask::Compact { .. } => DiskLane::Compact,
            DiskTask::Maintain(maintenance) => maintenance.lane(),
        }
    }

    fn run(self, clock: &dyn Clock, metrics: &StorageMetrics) -> Command {
        match self.task {
            DiskTask::Flush { partition, job, .. } => {
                let start = clock.monotonic();
                let outcome = job.run();
                metrics.flushed(clock.monotonic().saturating_sub(start));
                Command::Flushed { partition, outcome }
            }
            DiskTask::Extend { partition, extension, space } => {
                let outcome = extension.run();
                // From now on the disk says itself that it is taken.
                drop(space);
                Command::Extended { partition, extension, outcome }
            }
            DiskTask::Compact { partition, mut compacting } => {
                let step = compacting.advance();
                Command::CompactionAdvanced { partition, compacting, step }
            }
            DiskTask::Maintain(maintenance) => Command::Returned(maintenance.run()),
        }
    }

    fn run_and_tell(self, clock: &dyn Clock, metrics: &StorageMetrics) {
        let shard = Arc::clone(&self.shard);
        shard.push(self.run(clock, metrics));
    }
}

#[cfg(test)]
impl ShardJob {
    /// The extension that it is, if it is one.
    pub(super) fn extension(&self) -> Option<(TopicPartition, Extension)> {
        match &self.task {
            DiskTask::Extend { partition, extension, .. } => Some((*partition, extension.clone())),
            DiskTask::Flush { .. } | DiskTask::Compact { .. } | DiskTask::Maintain(_) => None,
        }
    }
}
