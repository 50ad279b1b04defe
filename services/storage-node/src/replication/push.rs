//! How far a follower has been pushed a partition.

use walser_log::Slice;
use walser_model::{LeaderEpoch, Offset};
use walser_record_batch::Batches;
use walser_replication::{Frame, ReplicationSessionId};

use crate::replica_registry::PartitionHandle;

/// A follower to which a partition is pushed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Push {
    pub(crate) open: ReplicationSessionId,
    /// In which this node leads.
    leader_epoch: LeaderEpoch,
    /// What is pushed next. Inclusive.
    next: Offset,
    /// High watermark and log start, as they were told last.
    told: Option<(Offset, Offset, Offset)>,
}

/// What there is to push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToPush {
    /// This node does not lead in that epoch any more.
    Over,
    Nothing,
    /// No records, but a high watermark or a log start.
    Marks,
    /// Records from `from` (inclusive) up to `below` (exclusive).
    Records {
        from: Offset,
        below: Offset,
    },
}

/// Whole batches from an offset on that are still in memory, about `bytes_max` of them. `None`: there are none.
pub(crate) fn read_tail(replica: &PartitionHandle, from: Offset, below: Offset, bytes_max: usize) -> Option<Slice> {
    let batches = replica.tail.read(from, below, bytes_max)?;
    let (last, _) = Batches::of(batches.clone()).last()?.ok()?;
    Some(Slice { batches, next_offset: last.next_offset() })
}

impl Push {
    pub(crate) fn new(open: ReplicationSessionId, leader_epoch: LeaderEpoch, from: Offset) -> Self {
        Self { open, leader_epoch, next: from, told: None }
    }

    fn leads(&self, replica: &PartitionHandle) -> bool {
        replica.serving() && replica.epoch() == self.leader_epoch
    }

    /// What there is to push of a replica.
    pub(crate) fn look(&self, replica: &PartitionHandle) -> ToPush {
        let below = replica.reader.log_end();
        if !self.leads(replica) {
            ToPush::Over
        } else if below > self.next {
            ToPush::Records { from: self.next, below }
        } else if self.told != Some(Self::marks(replica)) {
            ToPush::Marks
        } else {
            ToPush::Nothing
        }
    }

    /// High watermark, log start and tombstone floor.
    fn marks(replica: &PartitionHandle) -> (Offset, Offset, Offset) {
        (replica.high_watermark(), replica.reader.log_start(), replica.tombstone_floor())
    }

    /// The frame for batches that end at `end` (exclusive), or without any at the place that is reached. `None`: this node
    /// does not lead in that epoch any more, and what was read meanwhile may be another's.
    pub(crate) fn frame(&mut self, replica: &PartitionHandle, end: Option<Offset>) -> Option<Frame> {
        let marks = Self::marks(replica);
        let (high_watermark, log_start, tombstone_floor) = marks;
        let (base, end) = (self.next, end.unwrap_or(self.next));
        if !self.leads(replica) {
            return None;
        }
        (self.next, self.told) = (end, Some(marks));
        let Self { open, leader_epoch, .. } = *self;
        Some(Frame { leader_epoch, open, base, end, high_watermark, log_start, tombstone_floor })
    }
}
