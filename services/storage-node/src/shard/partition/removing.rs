//! Removing the oldest records: a few segments at a time, between which the partition is here and serves.

use walser_log::Condition;
use walser_replication::ReplicaEvent;

use super::Partition;
use crate::shard::ShardContext;
use crate::shard::maintenance::Task;

/// What is left to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Files of segments below the log start.
    Deleted,
    /// What retention does not keep.
    Retention { trusted: bool },
}

impl Partition {
    /// Removes some of what retention does not keep, and with `close_old` closes a segment for its age first. `trusted`: is
    /// the wall clock believed? Blocks as long as the disk takes.
    pub(crate) fn retain(&mut self, context: &ShardContext, trusted: bool, close_old: bool) {
        let (partition, now) = (context.named(self.log.partition()), context.clock.now_millis());
        // The clock may have jumped since this was decided.
        let trusted = trusted && context.retention_clock.is_trusted(&*context.clock);
        let rested = self.log.open_files() == 0;
        if close_old && let Err(error) = self.log.close_old_segment(now) {
            tracing::warn!(%partition, %error, "an old segment could not be closed");
        }
        match self.log.apply_retention(now, trusted, self.handle.high_watermark()) {
            Ok(0) => {}
            Ok(removed) => {
                tracing::info!(%partition, removed, "segments removed by retention");
                let more = self.log.retention_due(now, trusted, self.handle.high_watermark());
                self.left = more.then_some(Left::Retention { trusted });
            }
            Err(error) => tracing::warn!(%partition, %error, "retention did not finish"),
        }
        self.step(ReplicaEvent::LogChanged, context);
        if let Condition::Corrupt { from } = *self.log.condition() {
            self.note_damage(from, context);
            self.keep_damage(context);
        }
        self.log.release_closed_segments();
        if rested && self.log.open_files() > 0 {
            self.release_idle(context);
        }
    }

    /// Goes on removing what was deleted. Blocks as long as the disk takes.
    pub(crate) fn remove_deleted(&mut self, context: &ShardContext) {
        match self.log.remove_deleted() {
            Ok(()) => self.note_left(),
            // The next look at retention finds it.
            Err(error) => {
                tracing::warn!(partition = %context.named(self.log.partition()), %error, "what was deleted is not removed")
            }
        }
    }

    /// Records were deleted, and some of them are still there.
    pub(super) fn note_left(&mut self) {
        if self.log.has_deleted() {
            self.left = Some(Left::Deleted);
        }
    }

    /// What is to follow a removal that did not remove everything.
    pub(crate) fn take_left(&mut self) -> Option<Task> {
        Some(match self.left.take()? {
            Left::Deleted => Task::RemoveDeleted,
            Left::Retention { trusted } => Task::Retain { trusted, close_old: false },
        })
    }
}
