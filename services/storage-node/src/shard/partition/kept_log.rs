//! The log of a partition, as decisions ask about it.

use walser_log::Log;
use walser_model::{LeaderEpoch, Offset};
use walser_replication::ReplicaLog;

/// A log on this node.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeptLog<'a>(pub(super) &'a Log);

impl ReplicaLog for KeptLog<'_> {
    fn start(&self) -> Offset {
        self.0.log_start()
    }

    fn end(&self) -> Offset {
        self.0.log_end()
    }

    fn durable(&self) -> Offset {
        self.0.durable()
    }

    fn latest_epoch(&self) -> LeaderEpoch {
        self.0.latest_epoch()
    }

    fn begun(&self) -> LeaderEpoch {
        self.0.begun_epoch()
    }

    fn end_of(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.0.end_of_epoch(epoch)
    }
}
