//! Faults of earlier versions, brought back by the world around the shard: each of them lost acknowledged records, or
//! kept what was to go.

use walser_log::MemoryDisk;

use crate::disk_threads::DiskThreads;
use crate::shard::{Command, Shard, ShardJob};

/// What an earlier version did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Records were written where an extension was still to write zeros.
    WritesUnderExtensions,
    /// What a failed sync had left in the cache counted as durable after a restart, without being written again.
    CleanPagesCount,
    /// The age of a segment began anew whenever it was opened.
    AgeRestarts,
}

impl Fault {
    pub(super) const ALL: [Self; 3] = [Self::WritesUnderExtensions, Self::CleanPagesCount, Self::AgeRestarts];

    /// Done before each start.
    pub(super) fn before_start(self, disk: &MemoryDisk) {
        if self == Self::CleanPagesCount {
            disk.skip_unchanged_writes();
        }
    }

    /// Done before each turn.
    pub(super) fn before_turn(self, shard: &mut Shard) {
        match self {
            Self::WritesUnderExtensions => tell_extensions_early(&shard.disk_threads, shard),
            Self::CleanPagesCount => {}
            Self::AgeRestarts => {
                for partition in shard.partitions.values_mut() {
                    partition.log.faults.age_restarts = true;
                }
            }
        }
    }
}

/// The shard hears that extensions have finished that have not begun.
fn tell_extensions_early(disk_threads: &DiskThreads<ShardJob>, shard: &Shard) {
    for (partition, extension) in disk_threads.waiting_extensions(ShardJob::extension) {
        shard.queue.push(Command::Extended { partition, extension, outcome: Ok(()) });
    }
}
