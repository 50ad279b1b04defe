//! Writes that are durable here and wait for other replicas only: they hold neither room nor memory of the shard.

use std::collections::VecDeque;

use walser_model::Acks;
use walser_replication::{Leader, ReplicaLog};

use super::Waiting;

/// Most such writes of one partition; further ones are refused.
const WRITES_MAX: usize = 1024;
/// Bytes of such writes, above which further ones are refused: their senders keep the batches until they are answered.
const BYTES_MAX: usize = 4 << 20;

/// How many of the first writes that wait have given up their room. Their own bound takes its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Released {
    pub(crate) writes: usize,
    pub(crate) bytes: usize,
}

impl Released {
    /// Whether the partition takes no more writes until some of these are answered.
    pub(super) fn is_full(self) -> bool {
        self.writes >= WRITES_MAX || self.bytes >= BYTES_MAX
    }

    /// The first write does not wait any more; `released` are its bytes, if it had given up its room.
    pub(super) fn forget(&mut self, released: Option<usize>) {
        if let Some(bytes) = released {
            self.writes -= 1;
            self.bytes -= bytes;
        }
    }

    /// Takes the room of every write that the log holds as durably as its topic asks, and of refusals between them.
    pub(super) fn release(&mut self, (leader, log): (&Leader, &impl ReplicaLog), waiting: &mut VecDeque<Waiting>) {
        for write in waiting.iter_mut().skip(self.writes) {
            let durable_here = |next_offset| leader.answerable(log, Acks::Leader, next_offset, false);
            if write.outcome.as_ref().is_ok_and(|(next_offset, _)| !durable_here(*next_offset)) {
                return;
            }
            let bytes = write.job.release();
            write.released = Some(bytes);
            self.writes += 1;
            self.bytes += bytes;
        }
    }
}
