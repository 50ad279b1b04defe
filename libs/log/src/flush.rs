//! Making a log durable, in steps that run elsewhere.
//!
//! The writer never waits for a disk. It takes a [`FlushJob`] from the log, has it run on another thread, and tells
//! the log how it went. One job per log is under way at a time; what is appended meanwhile is in the next. The same
//! holds for [`Extension`]s.

mod job;

use std::io;
use std::sync::Arc;

use walser_model::{Durability, LeaderEpoch, Offset};

use crate::disk::DiskFile;
use crate::epochs;
use crate::extension::Extension;
use crate::log::{Condition, Log, LogError};

use self::job::RecoveryPoint;
pub use self::job::{FlushJob, FlushOutcome};

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
struct Unflushed {
    /// Bytes appended since the last job was taken.
    bytes: u64,
    /// Closed files that were not synced since.
    closed: Vec<Arc<dyn DiskFile>>,
    /// New files or a new directory: their names must become durable.
    names: bool,
    /// The leader epochs must be written.
    epochs: bool,
    /// Also when there are no records to flush.
    epochs_wanted: bool,
    /// The recovery point is to move, however little lies behind it.
    recovery_point: bool,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    up_to: Offset,
    /// Where `up_to` lies in its segment, when the job also moves the recovery point.
    recovery_position: Option<u64>,
    /// Bytes that lay behind the recovery point when the job was taken, when it moves it.
    behind: u64,
    /// The epoch that was begun last.
    begun: LeaderEpoch,
    /// The leader epochs are written, and whether somebody waits for that.
    epochs: bool,
    epochs_wanted: bool,
}

// === impl Flushing ===

impl Flushing {
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

    /// Whether names in the directory may not be durable.
    pub(crate) fn names_wait(&self) -> bool {
        self.waiting.names
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
    fn dirty(&self) -> bool {
        let Unflushed { bytes, closed, names, epochs_wanted, recovery_point, .. } = &self.waiting;
        *bytes > 0 || !closed.is_empty() || *names || *epochs_wanted || *recovery_point
    }

    /// Whether anything is not durable yet.
    pub(crate) fn pending(&self) -> bool {
        self.busy() || self.dirty()
    }

    /// A job has found too many files open: contents were synced without an error, and the rest is yet to come.
    fn put_back(&mut self, running: Running) {
        self.waiting.names = true;
        self.waiting.bytes = self.waiting.bytes.max(1);
        self.waiting.epochs |= running.epochs;
        self.waiting.epochs_wanted |= running.epochs_wanted;
        self.since_recovery_point += running.behind;
    }
}

impl Log {
    /// Whether there is something that no flush covers yet.
    pub fn dirty(&self) -> bool {
        self.flushing.dirty()
    }

    /// Whether somebody waits for the start of a leader epoch to be durable.
    pub fn epoch_wanted(&self) -> bool {
        self.flushing.waiting.epochs_wanted
    }

    /// Bytes of log that a restart would have to read, and that nothing is being done about.
    pub fn unclaimed_recovery_bytes(&self) -> u64 {
        if self.flushing.waiting.recovery_point { 0 } else { self.flushing.since_recovery_point }
    }

    /// Has the next flush move the recovery point to the log end.
    pub fn move_recovery_point(&mut self) {
        self.flushing.waiting.recovery_point = self.flushing.since_recovery_point > 0;
    }

    /// Whether a flush is under way.
    pub fn flush_running(&self) -> bool {
        self.flushing.busy()
    }

    /// Takes the work that makes everything appended so far durable. `None`: there is nothing to do, or the last
    /// job has not been answered by [`Log::finish_flush`]. Nothing here waits for the disk.
    ///
    /// # Errors
    /// When the log is out of service.
    pub fn begin_flush(&mut self) -> Result<Option<FlushJob>, LogError> {
        self.in_service()?;
        if self.flushing.busy() || !self.flushing.dirty() {
            return Ok(None);
        }
        Ok(Some(self.take_job()))
    }

    fn take_job(&mut self) -> FlushJob {
        let up_to = self.log_end();
        let waiting = std::mem::take(&mut self.flushing.waiting);
        let moves = waiting.recovery_point || self.flushing.since_recovery_point >= RECOVERY_BYTES;
        let last = self.shared.segments.read().last().cloned();
        // A snapshot stands for what a restart need not read. Producers that are to be read again first have none.
        let moving = last.zip(self.producers.as_ref()).filter(|_| moves);
        let recovery_position = moving.as_ref().map(|(last, _)| last.size());
        let recovery_point = moving.map(|(last, producers)| {
            let snapshot = producers.encode(up_to);
            RecoveryPoint { index: last.unwritten_index().map(|tail| (last, tail)), snapshot }
        });
        let behind = recovery_point.as_ref().map_or(0, |_| std::mem::take(&mut self.flushing.since_recovery_point));
        let active = self.active.as_ref().map(|active| Arc::clone(active.file()));
        let names = waiting.names || waiting.epochs;
        let epochs = self.shared.epochs.read().clone();
        self.flushing.running = Some(Running {
            up_to,
            recovery_position,
            behind,
            begun: epochs.begun(),
            epochs: waiting.epochs,
            epochs_wanted: waiting.epochs_wanted,
        });
        FlushJob {
            partition: self.partition,
            generation: self.generation,
            up_to,
            names: Arc::clone(&self.names),
            around: names.then(|| self.checkpoint.lock().names()),
            epochs: waiting.epochs.then(|| epochs::encode(&epochs)),
            files: waiting.closed.into_iter().chain(active).collect(),
            snapshots_needed_from: self.durable_recovery_point().filter(|_| recovery_point.is_some()),
            recovery_point,
        }
    }

    /// Takes the outcome of a job. An error takes the log out of service for good (rule R30). An outcome from
    /// before a truncation, a repair or another opening changes nothing.
    ///
    /// # Errors
    /// When writing the marks fails, which has the same consequence.
    pub fn finish_flush(&mut self, outcome: &FlushOutcome) -> Result<Offset, LogError> {
        if outcome.generation != self.generation {
            return Ok(self.marks.durable);
        }
        let running = self.flushing.running.take();
        if let Some(error) = outcome.error() {
            self.fail(format!("sync: {error}"));
        }
        self.in_service()?;
        let (Some(running), Ok(flushed)) = (running, &outcome.result) else { return Ok(self.marks.durable) };
        if flushed.short_of_files {
            self.flushing.put_back(running);
            return Ok(self.marks.durable);
        }
        self.marks.durable = self.marks.durable.max(running.up_to);
        self.epoch_on_disk = running.begun;
        if !flushed.recovery_point {
            self.flushing.since_recovery_point += running.behind;
        }
        // Deleting may have moved it further meanwhile.
        let moved = flushed.recovery_point && running.up_to >= self.marks.recovery_point;
        if let Some(position) = running.recovery_position.filter(|_| moved) {
            (self.marks.recovery_point, self.marks.recovery_position) = (running.up_to, position);
        }
        if let Err(error) = self.write_marks() {
            self.fail(error.to_string());
            return Err(error.into());
        }
        if moved {
            self.note_recovery_point(running.up_to);
        }
        Ok(self.marks.durable)
    }

    /// Whether space is being filled ahead.
    pub fn extension_running(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.extension_running())
    }

    /// Takes the work of zero-filling more space, when the log comes near the end of what is filled.
    pub fn begin_extension(&mut self) -> Option<Extension> {
        if self.config.durability != Durability::Fsync || self.condition != Condition::Healthy {
            return None;
        }
        let active = self.active.as_mut()?;
        let (from, to) = active.begin_extension(self.config.segment_bytes)?;
        Some(Extension { generation: self.generation, segment: Arc::clone(active.segment()), from, to })
    }

    /// Takes the outcome of an extension. One from before a truncation, a repair or another opening changes nothing.
    pub fn finish_extension(&mut self, extension: &Extension, outcome: &io::Result<()>) {
        if extension.generation != self.generation {
            return;
        }
        let Some(active) = &mut self.active else { return };
        if let Err(error) = active.finish_extension(extension, outcome) {
            self.fail(format!("extend: {error}"));
        }
    }
}
