//! Compaction in a shard: which partition is next, and its job on its way.
//!
//! ```text
//!   looks for one  --turn-->  Task::BeginCompaction  -->  DiskTask::Compact  <-->  Task::TakeStep  -->  turn is given back
//!   (shard)                   (partition is lent)         (a thread of its own)    (partition is lent)
//! ```
//!
//! The job reads and writes beside the partition; what it has written is put in place by whoever has the partition. However
//! that ends, the turn ends with it.

use std::io;
use std::time::Duration;

use walser_log::{Compacted, CompactionJob, CompactionStep};
use walser_model::TopicPartition;

use super::Shard;
use super::disk_job::DiskTask;
use super::maintenance::Task;
use crate::compactor::CompactionTurn;

/// Partitions that are tried between two looks and of which nothing may be compacted: each costs a look at all of them.
const VAIN_COMPACTIONS_MAX: u32 = 16;

/// A compaction that is under way.
#[derive(Debug)]
pub(crate) struct Compacting {
    pub(super) job: CompactionJob,
    turn: CompactionTurn,
    /// Monotonic time at which it began.
    pub(super) begun: Duration,
    /// What was put in place so far.
    pub(super) done: Compacted,
}

/// How much there is to do in a partition; the greater, the more wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Dirtiness {
    /// It has waited for longer than it may.
    pub(super) overdue: bool,
    /// Of the bytes that may be compacted, those that were not yet, in millionths.
    pub(super) ratio: u128,
    /// Nothing but tombstones that were left is to be looked at.
    pub(super) only_tombstones: bool,
}

impl Compacting {
    /// One that begins, at a monotonic time.
    pub(super) fn new(job: CompactionJob, turn: CompactionTurn, begun: Duration) -> Self {
        Self { job, turn, begun, done: Compacted::default() }
    }

    /// Goes on until there is something to be put in place. Blocks as long as the disk takes.
    pub(super) fn advance(&mut self) -> io::Result<Option<CompactionStep>> {
        let Self { job, turn, .. } = self;
        job.advance(|bytes| turn.spend(bytes))
    }
}

impl Shard {
    /// Shows which tombstones may go, and begins the compaction that is most wanted, if nothing else is compacted.
    pub(super) fn compact(&mut self, now: Duration) {
        for (id, partition) in &self.partitions {
            if partition.show_tombstone_floor() {
                self.touched.insert(*id);
            }
        }
        self.vain_compactions = 0;
        if self.compaction_held.strong_count() > 0 {
            return;
        }
        if self.may_compact() {
            self.begin_most_wanted(now);
        } else {
            self.context.compactor.withdraw(self.compaction_seat);
        }
    }

    fn may_compact(&self) -> bool {
        let context = &self.context;
        context.writes_refused().is_none() && context.retention_clock.is_trusted(&*context.clock)
    }

    fn begin_most_wanted(&mut self, now: Duration) {
        let context = &self.context;
        let millis = context.clock.now_millis();
        let wanted =
            self.partitions.iter().filter_map(|(id, partition)| Some((*id, partition.dirtiness(now, millis)?)));
        let Some((id, due)) = wanted.max_by_key(|(_, dirtiness)| *dirtiness) else {
            return context.compactor.withdraw(self.compaction_seat);
        };
        if let Some(turn) = context.compactor.try_turn(self.compaction_seat) {
            (self.compaction_held, self.compaction_begins) = (turn.held(), Some(id));
            self.lend(id, Task::BeginCompaction { turn, due });
        }
    }

    /// The turn was given back.
    fn compact_next(&mut self) {
        let own = self.compaction_held.strong_count() > 0;
        if !own && self.may_compact() && !self.context.compactor.is_wanted() {
            self.begin_most_wanted(self.context.clock.monotonic());
        }
    }

    /// A job has come to something that is to be put in place, or to its end.
    pub(super) fn compaction_advanced(
        &mut self,
        id: TopicPartition,
        compacting: Box<Compacting>,
        step: io::Result<Option<CompactionStep>>,
    ) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        match step {
            Ok(Some(step)) => return self.lend(id, Task::TakeStep { compacting, step }),
            Ok(None) => partition.compaction_ended(&compacting, &self.context),
            // The node stops.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => partition.compaction_rests(&self.context),
            Err(error) => {
                partition.compaction_failed(&error, &self.context);
                if error.kind() == io::ErrorKind::NotFound {
                    self.lend(id, Task::LookForFiles);
                } else if partition.note_damage_met_by(&compacting.job, &self.context) {
                    self.lend(id, Task::KeepDamage);
                }
            }
        }
        drop(compacting);
        self.compact_next();
    }

    /// Hands a job that has begun, or whose step was taken, to the thread that compacts. Where nothing of the partition may
    /// be compacted after all, the next one has its chance.
    pub(super) fn go_on_compacting(&mut self, id: TopicPartition) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if let Some(compacting) = partition.compacting.take() {
            self.compaction_begins = None;
            return self.submit(DiskTask::Compact { partition: id, compacting });
        }
        let in_vain = self.compaction_held.strong_count() == 0
            && self.compaction_begins.take_if(|begins| *begins == id).is_some();
        if in_vain && self.vain_compactions < VAIN_COMPACTIONS_MAX {
            self.vain_compactions += 1;
            self.compact_next();
        }
    }
}
