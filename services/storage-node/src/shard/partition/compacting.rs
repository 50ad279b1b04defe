//! A partition whose log is compacted.

use std::time::Duration;

use walser_log::{Compacted, CompactionJob, CompactionRules, CompactionStep, Condition};
use walser_model::{Offset, Timestamp, whole_millis};
use walser_rpc::EndedCompaction;

use super::{KeptLog, Partition};
use crate::compactor::CompactionTurn;
use crate::shard::ShardContext;
use crate::shard::compaction::{Compacting, Dirtiness};

impl Partition {
    /// Whether of each key the newest record stays, and this node has to do with the partition.
    fn compacts(&self) -> bool {
        let role = self.replica.leader().is_some() || self.replica.follower().is_some_and(|it| !it.replaces_log());
        role && self.config.cleanup_policy.compacts() && self.unreadable.is_none()
    }

    /// Below this compaction may drop tombstones: all replicas have them.
    fn tombstone_floor(&self) -> Offset {
        let log = KeptLog(&self.log);
        match (self.replica.leader(), self.replica.follower()) {
            (Some(leader), _) => leader.tombstone_floor(&log),
            (None, Some(follower)) => follower.tombstone_floor(&log),
            (None, None) => Offset::ZERO,
        }
    }

    /// Has followers told below what tombstones may go; returns whether that is new.
    pub(crate) fn show_tombstone_floor(&self) -> bool {
        let leader = self.replica.leader().filter(|_| self.config.cleanup_policy.compacts());
        let Some(floor) = leader.map(|leader| leader.tombstone_floor(&KeptLog(&self.log))) else { return false };
        let news = floor != self.handle.tombstone_floor();
        if news {
            self.handle.show_tombstone_floor(floor);
        }
        news
    }

    /// How much of it is to be compacted; `None`: nothing at present. Nothing here waits for the disk.
    pub(crate) fn dirtiness(&self, now: Duration, millis: Timestamp) -> Option<Dirtiness> {
        if !self.compacts() || now < self.compaction_at || *self.log.condition() != Condition::Healthy {
            return None;
        }
        let found = self.log.compactable(self.handle.high_watermark())?;
        let (dirty_bytes, bytes) = (u128::from(found.dirty_bytes), u128::from(found.clean_bytes + found.dirty_bytes));
        let ratio = dirty_bytes * 1_000_000 / bytes.max(1);
        // Of what is not in memory the age is not known.
        let age = found.first_newest.map(|newest| millis.saturating_sub(newest));
        let lag_max = self.config.compaction_lag_max.map(whole_millis);
        let overdue = lag_max.is_some_and(|most| age.is_none_or(|age| age >= most));
        let dirty = ratio >= u128::from(self.config.dirty_ratio_min);
        let (new, floor) = (found.dirty_bytes > 0, self.tombstone_floor());
        let some_goes = found.tombstone.is_some_and(|left| left.goes(millis, floor));
        let lag_min = whole_millis(self.config.compaction_lag_min);
        // As the job has it: without a lag the time of a record says nothing. It may lie in the future.
        let old_enough = lag_min == 0 || age.is_none_or(|age| age >= lag_min);
        let only_tombstones = !(new && old_enough && (overdue || dirty));
        let overdue = overdue && new && old_enough;
        (!only_tombstones || some_goes).then_some(Dirtiness { overdue, ratio, only_tombstones })
    }

    /// Begins a compaction that is `due`. Blocks as long as the disk takes.
    pub(crate) fn begin_compaction(&mut self, turn: CompactionTurn, due: Dirtiness, context: &ShardContext) {
        let now = context.clock.now_millis();
        let lag_min = whole_millis(self.config.compaction_lag_min);
        let rules = CompactionRules {
            now,
            delete_retention: self.config.delete_retention,
            tombstone_floor: self.tombstone_floor(),
            newest: if lag_min == 0 { Timestamp::MAX } else { now.saturating_sub(lag_min) },
            memory_bytes: context.compactor.limits.memory_bytes,
        };
        self.compaction_rests(context);
        // For tombstones alone it does not look at what is new: those found there would make the next one due.
        let all = self.handle.high_watermark();
        let old = all.min(self.log.compacted());
        let begun = self.log.begin_compaction(if due.only_tombstones { old } else { all }, rules);
        let begun = match begun {
            // What was compacted ends within a segment.
            Ok(None) if due.only_tombstones => self.log.begin_compaction(all, rules),
            begun => begun,
        };
        match begun {
            Ok(Some(job)) => {
                let begun = context.clock.monotonic();
                self.compacting = Some(Box::new(Compacting::new(job, turn, begun)));
                self.handle.compaction_begins();
            }
            Ok(None) => {}
            Err(error) => self.compaction_failed(&error, context),
        }
    }

    /// Puts in place what a job has written. Blocks as long as the disk takes.
    pub(crate) fn take_step(&mut self, mut compacting: Box<Compacting>, step: CompactionStep, context: &ShardContext) {
        match self.log.take_compaction_step(step) {
            Ok(Some(done)) => {
                compacting.done.bytes_before += done.bytes_before;
                compacting.done.bytes_after += done.bytes_after;
                compacting.done.left = compacting.done.left.or(done.left);
                self.compacting = Some(compacting);
            }
            // It was cut, or is being copied: it begins anew later.
            Ok(None) => self.compaction_rests(context),
            Err(error) => self.compaction_failed(&error, context),
        }
    }

    pub(crate) fn compaction_failed(&mut self, error: &dyn std::error::Error, context: &ShardContext) {
        self.compaction_rests(context);
        let partition = context.named(self.log.partition());
        tracing::warn!(%partition, %error, "compaction has failed, and is tried again");
    }

    /// Notes the damage that a job has met, as one that a read has met. Whether that is new.
    pub(crate) fn note_damage_met_by(&mut self, job: &CompactionJob, context: &ShardContext) -> bool {
        self.log.damage_met_by(job).is_some_and(|from| self.note_damage(from, context))
    }

    pub(crate) fn compaction_ended(&mut self, compacting: &Compacting, context: &ShardContext) {
        let Compacted { bytes_before, bytes_after, left } = compacting.done;
        let took = context.clock.monotonic().saturating_sub(compacting.begun);
        context.metrics.compacted(bytes_before, bytes_after);
        let left = left.map(|left| (left.records, left.tombstones));
        let ended = context.clock.now_millis();
        self.handle.compaction_ended(EndedCompaction { ended, bytes_before, bytes_after, left });
        self.compaction_rests(context);
        if compacting.job.had_too_little_memory(self.log.compacted()) {
            // It goes on with the keys for which there was no room.
            self.compaction_at = context.clock.monotonic();
        }
        let partition = context.named(self.log.partition());
        tracing::info!(%partition, up_to = %self.log.compacted(), bytes_before, bytes_after, ?took, "compacted");
    }

    /// It is not compacted again at once.
    pub(crate) fn compaction_rests(&mut self, context: &ShardContext) {
        self.compaction_at = context.clock.monotonic() + context.retention_check;
        self.handle.compaction_rests();
    }
}
