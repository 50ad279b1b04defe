//! When a partition is flushed, and what follows from it.

use std::time::Duration;

use walser_log::{FlushJob, FlushLack, FlushOutcome};
use walser_model::Durability;
use walser_replication::ReplicaEvent;

use super::Partition;
use crate::shard::ShardContext;

/// Time after which a flush that found no file to open is tried again.
const FLUSH_RETRY: Duration = Duration::from_millis(20);
/// Time after which one that found no space is tried again.
const SPACE_RETRY: Duration = Duration::from_secs(1);
/// Time after which it is tried again to write down that a log has failed.
const KEEP_AGAIN: Duration = Duration::from_secs(5);

impl Partition {
    /// The flush that is due now, if any.
    pub(crate) fn flush_due(&mut self, context: &ShardContext) -> Option<FlushJob> {
        if !self.log.dirty() {
            return None;
        }
        let now = context.clock.monotonic();
        let lazy = self.flushes_lazily();
        if self.flush_delay.is_some_and(|delay| now.saturating_sub(self.last_flush) < delay) {
            return None;
        }
        let hurried = std::mem::take(&mut self.flush_hurried);
        if self.flush_delay.take().is_none()
            && lazy
            && !hurried
            && !self.log.epoch_wanted()
            && now.saturating_sub(self.last_flush) < self.config.flush_interval
        {
            return None;
        }
        match self.log.begin_flush() {
            Ok(job) => {
                self.last_flush = if job.is_some() { now } else { self.last_flush };
                job
            }
            Err(error) => {
                tracing::error!(partition = %context.named(self.log.partition()), %error, "flush cannot begin");
                self.show_log();
                self.note_failure(context);
                None
            }
        }
    }

    /// Has the next flush come before its time, if nothing else would have one come: until records are flushed, their file
    /// stays open. Returns whether there is one to come.
    pub(crate) fn hurry_flush(&mut self) -> bool {
        self.flush_hurried =
            self.flushes_lazily() && self.log.dirty() && !self.log.flush_running() && self.flush_delay.is_none();
        self.flush_hurried
    }

    /// Whether writes do not wait for flushes.
    pub(crate) fn flushes_lazily(&self) -> bool {
        self.config.durability == Durability::PageCache
    }

    /// When a flush is due by itself, in monotonic time: with the page cache, or after one that could not begin.
    pub(crate) fn lazy_flush_at(&self) -> Option<Duration> {
        let lazy = self.flushes_lazily() || self.flush_delay.is_some();
        let after = match self.flush_delay {
            Some(delay) => delay,
            None if self.log.epoch_wanted() => Duration::ZERO,
            None => self.config.flush_interval,
        };
        (lazy && self.log.dirty() && !self.log.flush_running()).then(|| self.last_flush + after)
    }

    /// Whether the log has failed, what has counted from the page cache may be lost with that, and nothing says so on the disk.
    pub(crate) fn failure_unkept(&self) -> bool {
        self.keep_failure_at.is_some()
    }

    /// Writes down that the log has failed: what has counted from the page cache may be lost with the next start. Blocks as
    /// long as the disk takes.
    pub(crate) fn keep_failure(&mut self, context: &ShardContext) {
        if let Err(error) = context.directory.note_failed_log() {
            let partition = context.named(self.log.partition());
            tracing::warn!(%partition, %error, "it is not written down that the log has failed");
            self.keep_failure_at = Some(context.clock.monotonic() + KEEP_AGAIN);
        }
    }

    /// Takes the outcome of a flush.
    pub(crate) fn flushed(&mut self, outcome: &FlushOutcome, context: &ShardContext) {
        if let Some(lack) = outcome.postponed() {
            let delay = match lack {
                FlushLack::Files => FLUSH_RETRY,
                FlushLack::Space => {
                    context.space.note_full(&context.directory);
                    SPACE_RETRY
                }
            };
            (self.flush_delay, self.last_flush) = (Some(delay), context.clock.monotonic());
        }
        match self.log.finish_flush(outcome) {
            Ok(_) => self.step(ReplicaEvent::LogChanged, context),
            Err(error) => {
                tracing::error!(partition = %context.named(self.log.partition()), %error, "flush failed: partition out of service");
                self.show_log();
            }
        }
        self.note_failure(context);
    }
}
