//! Making a log durable, in steps that run elsewhere.
//!
//! The writer never waits for a disk. It takes a [`FlushJob`] from the log, has it run on another thread, and tells
//! the log how it went. One job per log is under way at a time; what is appended meanwhile is in the next. The same
//! holds for [`Extension`](crate::Extension)s.

mod job;

use std::sync::Arc;

use walser_model::{LeaderEpoch, Offset};

use crate::disk::DiskFile;

pub(crate) use self::job::RecoveryPoint;
pub use self::job::{FlushJob, FlushLack, FlushOutcome};

/// The recovery point moves at least every so many bytes of log.
const RECOVERY_BYTES: u64 = 64 << 20;

/// What has to be synced, and what is under way.
#[derive(Debug, Default)]
pub(crate) struct Flushing {
    waiting: Unflushed,
    /// Bytes since the recovery point that the running job writes down, or the last one.
    since_recovery_point: u64,
    running: Option<Running>,
}

/// What the next job covers.
#[derive(Debug, Default)]
pub(crate) struct Unflushed {
    /// Bytes appended since the last job was taken.
    bytes: u64,
    /// Closed files that were not synced since.
    pub(crate) closed: Vec<Arc<dyn DiskFile>>,
    /// New files or a new directory: their names must become durable.
    pub(crate) names: bool,
    /// The leader epochs must be written.
    pub(crate) epochs: bool,
    /// Also when there are no records to flush.
    epochs_wanted: bool,
    /// The recovery point is to move, however little lies behind it.
    recovery_point: bool,
}

/// The job that is under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running {
    /// Exclusive.
    pub(crate) up_to: Offset,
    /// Where `up_to` lies in its segment, when the job also moves the recovery point.
    pub(crate) recovery_position: Option<u64>,
    /// The epoch that was begun last.
    pub(crate) begun: LeaderEpoch,
    /// Bytes that lay behind the recovery point when the job was taken, when it moves it.
    behind: u64,
    /// Names in the directory become durable with it.
    names: bool,
    /// The leader epochs are written, and whether somebody waits for that.
    epochs: bool,
    epochs_wanted: bool,
}

// === impl Flushing ===

impl Flushing {
    /// Of a log whose records were read and written again. Names of files and leader epochs may have waited for a flush, and
    /// still do.
    pub(crate) fn after_repair() -> Self {
        Self { waiting: Unflushed { names: true, epochs: true, ..Unflushed::default() }, ..Self::default() }
    }

    /// Records were appended.
    pub(crate) fn appended(&mut self, bytes: u64) {
        self.waiting.bytes += bytes;
        self.since_recovery_point += bytes;
    }

    /// Bytes found behind the recovery point when the log was opened.
    pub(crate) fn appended_before(&mut self, bytes: u64) {
        self.since_recovery_point += bytes;
    }

    /// A segment was closed that is not synced yet.
    pub(crate) fn segment_closed(&mut self, file: Arc<dyn DiskFile>, index: Option<Arc<dyn DiskFile>>) {
        self.waiting.closed.push(file);
        self.waiting.closed.extend(index);
        self.since_recovery_point = self.since_recovery_point.max(RECOVERY_BYTES);
    }

    /// A file is new in the directory, or has got its name again.
    pub(crate) fn names_changed(&mut self) {
        self.waiting.names = true;
    }

    /// Whether names in the directory may not be durable: a job that is to sync them need not have begun.
    pub(crate) fn names_wait(&self) -> bool {
        self.waiting.names || self.running.is_some_and(|running| running.names)
    }

    /// The leader epochs are other ones; `wanted`: somebody waits until they are durable.
    pub(crate) fn epochs_changed(&mut self, wanted: bool) {
        self.waiting.epochs = true;
        self.waiting.epochs_wanted |= wanted;
    }

    pub(crate) fn busy(&self) -> bool {
        self.running.is_some()
    }

    /// Whether there is something that no flush covers yet.
    pub(crate) fn dirty(&self) -> bool {
        let Unflushed { bytes, closed, names, epochs_wanted, recovery_point, .. } = &self.waiting;
        *bytes > 0 || !closed.is_empty() || *names || *epochs_wanted || *recovery_point
    }

    /// Whether anything is not durable yet.
    pub(crate) fn pending(&self) -> bool {
        self.busy() || self.dirty()
    }

    /// Whether somebody waits for the leader epochs to be durable.
    pub(crate) fn epochs_wanted(&self) -> bool {
        self.waiting.epochs_wanted
    }

    /// Bytes behind the recovery point that the next job does not write down.
    pub(crate) fn unclaimed_recovery_bytes(&self) -> u64 {
        if self.waiting.recovery_point { 0 } else { self.since_recovery_point }
    }

    /// Has the next job move the recovery point, if anything lies behind it.
    pub(crate) fn move_recovery_point(&mut self) {
        self.waiting.recovery_point = self.since_recovery_point > 0;
    }

    /// Whether the next job is to move the recovery point.
    pub(crate) fn recovery_point_due(&self) -> bool {
        self.waiting.recovery_point || self.since_recovery_point >= RECOVERY_BYTES
    }

    /// Begins a job that covers everything below `up_to`, and gives what it has to do. With a `recovery_position` it moves
    /// the recovery point, to there in the last segment. `begun`: the epoch that was begun last.
    pub(crate) fn begin(&mut self, up_to: Offset, recovery_position: Option<u64>, begun: LeaderEpoch) -> Unflushed {
        let waiting = std::mem::take(&mut self.waiting);
        let behind = recovery_position.map_or(0, |_| std::mem::take(&mut self.since_recovery_point));
        let Unflushed { names, epochs, epochs_wanted, .. } = waiting;
        self.running = Some(Running { up_to, recovery_position, begun, behind, names, epochs, epochs_wanted });
        waiting
    }

    /// The job has ended, which was under way.
    pub(crate) fn end(&mut self) -> Option<Running> {
        self.running.take()
    }

    /// A job has not moved the recovery point.
    pub(crate) fn recovery_point_stays(&mut self, running: Running) {
        self.since_recovery_point += running.behind;
    }

    /// A job has found too many files open: contents were synced without an error, and the rest is yet to come.
    pub(crate) fn put_back(&mut self, running: Running) {
        self.waiting.names = true;
        self.waiting.bytes = self.waiting.bytes.max(1);
        self.waiting.epochs |= running.epochs;
        self.waiting.epochs_wanted |= running.epochs_wanted;
        self.recovery_point_stays(running);
    }
}
