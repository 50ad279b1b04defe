//! Making a log durable, in steps that run elsewhere.
//!
//! The writer never waits for a disk. It takes a [`FlushJob`] from the log, has it run on another thread, and tells
//! the log how it went. One job per log is under way at a time; what is appended meanwhile is in the next. The same
//! holds for [`Extension`]s, which zero-fill space ahead of the log end: overwriting such space is several times
//! faster to sync than growing a file, and does not depend on the file system's own threads.

use std::io;
use std::sync::Arc;

use walser_model::{Durability, LeaderEpoch, Offset};

use crate::append::out_of_space;
use crate::directory_names::DirectoryNames;
use crate::disk::{DiskFile, out_of_files};
use crate::epochs;
use crate::generation::Generation;
use crate::log::{Active, Condition, Log, LogError};
use crate::snapshots;

/// The recovery point moves at least every so many bytes of log.
const RECOVERY_BYTES: u64 = 64 << 20;
/// Files below this, or below this part of a full segment, are not extended: most partitions are small.
const EXTEND_FROM_BYTES: u64 = 64 << 10;
const EXTEND_FROM_PART: u64 = 16;
/// Smallest extension, which is never more than this part of a full segment, and the largest.
const EXTENSION_BYTES_MIN: u64 = 256 << 10;
const EXTENSION_PART: u64 = 4;
const EXTENSION_BYTES_MAX: u64 = 16 << 20;
/// Zeros between two syncs of an extension.
const SLICE_BYTES: u64 = 2 << 20;

/// What has to be synced, and what is under way.
#[derive(Debug, Default)]
pub(crate) struct Flushing {
    /// Bytes appended since the last job was taken.
    unsynced_bytes: u64,
    /// Closed files that were not synced since.
    closed: Vec<Arc<dyn DiskFile>>,
    /// New files or a new directory: their names must become durable.
    pub(crate) directories_changed: bool,
    /// The leader-epoch checkpoint must be written.
    pub(crate) epochs_changed: bool,
    /// Also when there are no records to flush.
    pub(crate) epoch_wanted: bool,
    /// Bytes since the recovery point that the running job writes down, or the last one.
    since_recovery_point: u64,
    /// The next job is to move the recovery point, however little lies behind it.
    recovery_point_wanted: bool,
    running: Option<Running>,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    up_to: Offset,
    /// Where `up_to` lies in its segment, when the job also moves the recovery point.
    recovery_position: Option<u64>,
    /// The epoch that was begun last.
    begun: LeaderEpoch,
    /// Bytes that lay behind the recovery point when the job was taken, when it moves it.
    behind: u64,
}

/// Work for a flush thread: everything below [`FlushJob::up_to`] is durable once it has run without an error.
#[derive(Debug)]
pub struct FlushJob {
    files: Vec<Arc<dyn DiskFile>>,
    /// The partition's directory and the one around it, when names in them have to become durable.
    directories: Option<[Arc<DirectoryNames>; 2]>,
    /// With the directory and the name of its file.
    snapshot: Option<(Arc<DirectoryNames>, String, Vec<u8>)>,
    /// Exclusive.
    pub up_to: Offset,
    generation: Generation,
}

/// What became of a job, for the log that it was taken from.
#[derive(Debug)]
pub struct FlushOutcome {
    generation: Generation,
    result: io::Result<Flushed>,
}

/// What a job achieved beside making the log durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flushed {
    /// Indexes and snapshot are written down as well: a restart reads from here.
    recovery_point: bool,
    /// Too many files were open for some of the work: contents are synced, names are not, nothing is durable yet.
    short_of_files: bool,
}

/// Work for a flush thread: zero-filled space ahead of the log end.
///
/// It has a file description of its own: a sync that fails reports a writeback error once per description, and must
/// not take it from the flush whose records it is about.
#[derive(Debug, Clone)]
pub struct Extension {
    file: Arc<dyn DiskFile>,
    generation: Generation,
    /// Base offset of the segment.
    segment: Offset,
    from: u64,
    to: u64,
}

// === impl Flushing ===

impl Flushing {
    pub(crate) fn appended(&mut self, bytes: u64) {
        self.unsynced_bytes += bytes;
        self.since_recovery_point += bytes;
    }

    /// Bytes found behind the recovery point when the log was opened.
    pub(crate) fn appended_before(&mut self, bytes: u64) {
        self.since_recovery_point += bytes;
    }

    pub(crate) fn segment_closed(&mut self, file: Arc<dyn DiskFile>, index: Option<Arc<dyn DiskFile>>) {
        self.closed.push(file);
        self.closed.extend(index);
        self.since_recovery_point = self.since_recovery_point.max(RECOVERY_BYTES);
    }

    pub(crate) fn busy(&self) -> bool {
        self.running.is_some()
    }

    /// Whether anything is not durable yet.
    pub(crate) fn pending(&self) -> bool {
        self.busy()
            || self.unsynced_bytes > 0
            || !self.closed.is_empty()
            || self.directories_changed
            || self.recovery_point_wanted
            || self.epoch_wanted
    }
}

// === impl FlushOutcome ===

impl FlushOutcome {
    /// Whether too many files were open for some of the work: nothing is durable yet, and nothing is lost.
    pub fn short_of_files(&self) -> bool {
        self.result.as_ref().is_ok_and(|flushed| flushed.short_of_files)
    }

    /// What the system said, where the job failed.
    pub fn error(&self) -> Option<&io::Error> {
        self.result.as_ref().err()
    }
}

// === impl FlushJob ===

impl FlushJob {
    /// Runs the job. Blocks as long as the disk takes. After an error nothing is known of what the job covers, and it
    /// MUST NOT be tried again.
    pub fn run(&self) -> FlushOutcome {
        FlushOutcome { generation: self.generation, result: self.sync() }
    }

    fn sync(&self) -> io::Result<Flushed> {
        for file in &self.files {
            file.sync_data()?;
        }
        if let Some([directory, around]) = &self.directories {
            match directory.sync().and_then(|()| around.sync()) {
                Err(error) if out_of_files(&error) => {
                    return Ok(Flushed { recovery_point: false, short_of_files: true });
                }
                other => other?,
            }
        }
        let done = |recovery_point| Flushed { recovery_point, short_of_files: false };
        let Some((names, name, snapshot)) = &self.snapshot else { return Ok(done(false)) };
        match names.replace_file(name, snapshot) {
            Ok(()) => Ok(done(true)),
            // Without room for a snapshot the recovery point waits; the records are durable.
            Err(error) if out_of_space(&error) || out_of_files(&error) => Ok(done(false)),
            Err(error) => Err(error),
        }
    }
}

// === impl Extension ===

impl Extension {
    /// Bytes that it fills.
    pub fn len(&self) -> usize {
        usize::try_from(self.to - self.from).unwrap_or(usize::MAX)
    }

    /// Whether it fills none.
    pub fn is_empty(&self) -> bool {
        self.to == self.from
    }

    /// Writes and syncs the zeros. Blocks as long as the disk takes.
    ///
    /// # Errors
    /// The first error. Without space this is harmless: the log then grows as it is written.
    pub fn run(&self) -> io::Result<()> {
        static CHUNK: [u8; 256 << 10] = [0; 256 << 10];
        let mut at = self.from;
        while at < self.to {
            let len = usize::try_from(self.to - at).unwrap_or(usize::MAX).min(CHUNK.len());
            self.file.write_at(&CHUNK[..len], at)?;
            at += len as u64;
            // In slices: whoever syncs meanwhile waits behind one of them, not behind all.
            if (at - self.from).is_multiple_of(SLICE_BYTES) && at < self.to {
                self.file.sync_data()?;
            }
        }
        self.file.sync_data()
    }

    /// Bytes that are filled.
    pub fn bytes(&self) -> u64 {
        self.to - self.from
    }
}

impl Log {
    /// Whether there is something that no flush covers yet.
    pub fn dirty(&self) -> bool {
        self.flushing.unsynced_bytes > 0
            || !self.flushing.closed.is_empty()
            || self.flushing.recovery_point_wanted
            || self.flushing.directories_changed
            || self.flushing.epoch_wanted
    }

    /// Whether somebody waits for the start of a leader epoch to be durable.
    pub fn epoch_wanted(&self) -> bool {
        self.flushing.epoch_wanted
    }

    /// Bytes of log that a restart would have to read, and that nothing is being done about.
    pub fn unclaimed_recovery_bytes(&self) -> u64 {
        if self.flushing.recovery_point_wanted { 0 } else { self.flushing.since_recovery_point }
    }

    /// Has the next flush move the recovery point to the log end.
    pub fn move_recovery_point(&mut self) {
        self.flushing.recovery_point_wanted = self.flushing.since_recovery_point > 0;
    }

    /// Whether a flush is under way.
    pub fn flush_running(&self) -> bool {
        self.flushing.busy()
    }

    /// Whether space is being filled ahead.
    pub fn extension_running(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.extending_from.is_some())
    }

    /// Takes the work that makes everything appended so far durable. `None`: there is nothing to do, or the last
    /// job has not been answered by [`Log::finish_flush`].
    ///
    /// # Errors
    /// [`LogError::Busy`] when too many files are open: the same call works once others are closed. Other I/O errors
    /// while writing index entries or epochs take the log out of service.
    pub fn begin_flush(&mut self) -> Result<Option<FlushJob>, LogError> {
        self.in_service()?;
        if self.flushing.busy() || !self.flushing.pending() {
            return Ok(None);
        }
        match self.flush_job() {
            Ok(job) => Ok(Some(job)),
            // Nothing was taken from what has to be flushed.
            Err(error) if out_of_files(&error) => Err(LogError::Busy),
            Err(error) => {
                self.fail(error.to_string());
                Err(error.into())
            }
        }
    }

    fn flush_job(&mut self) -> io::Result<FlushJob> {
        let up_to = self.log_end();
        let mut files = Vec::new();
        if self.flushing.epochs_changed {
            // Synced before the log: no record of an epoch is acknowledged before the epoch's start is durable.
            if self.shared.segments.read().is_empty() {
                // A log that never had a record has no directory.
                self.disk.create_dir(&self.dir)?;
            }
            let epochs = self.shared.epochs.read().clone();
            files.push(epochs::write(&epochs, &*self.disk, &self.dir.join(epochs::FILE_NAME))?);
            self.flushing.directories_changed = true;
        }
        files.extend(self.flushing.closed.iter().cloned());
        let wanted = self.flushing.recovery_point_wanted;
        let mut recovery_point = wanted || self.flushing.since_recovery_point >= RECOVERY_BYTES;
        files.extend(self.active.as_ref().map(|active| Arc::clone(&active.file)));
        let last = self.shared.segments.read().last().cloned();
        if let Some(last) = last.as_ref().filter(|_| recovery_point) {
            // The snapshot stands for what a restart need not read.
            self.producers()?;
            match last.write_index() {
                Ok(index) => {
                    files.extend(index);
                    self.flushing.directories_changed = true;
                }
                // Without room for an index the recovery point waits; the records do not.
                Err(error) if out_of_space(&error) || out_of_files(&error) => recovery_point = false,
                Err(error) => return Err(error),
            }
        }
        let names = || [Arc::clone(&self.names), self.checkpoint.lock().names()];
        let directories = self.flushing.directories_changed.then(names);
        let producers = self.producers.as_ref().filter(|_| recovery_point);
        let snapshot = producers
            .map(|producers| (Arc::clone(&self.names), snapshots::snapshot_name(up_to), producers.encode(up_to)));
        self.flushing.closed.clear();
        self.flushing.recovery_point_wanted = false;
        self.flushing.epochs_changed = false;
        self.flushing.epoch_wanted = false;
        self.flushing.directories_changed = false;
        self.flushing.unsynced_bytes = 0;
        let behind = if recovery_point { std::mem::take(&mut self.flushing.since_recovery_point) } else { 0 };
        let recovery_position = recovery_point.then(|| last.map_or(0, |last| last.size()));
        let begun = self.shared.epochs.read().begun();
        self.flushing.running = Some(Running { up_to, recovery_position, behind, begun });
        Ok(FlushJob { generation: self.generation, files, directories, snapshot, up_to })
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
        if let Some(running) = running.filter(|_| outcome.short_of_files()) {
            // Contents were synced without an error; the names are yet to come, with the next job.
            self.flushing.directories_changed = true;
            self.flushing.unsynced_bytes = self.flushing.unsynced_bytes.max(1);
            self.flushing.since_recovery_point += running.behind;
        } else if let Some(running) = running {
            self.marks.durable = self.marks.durable.max(running.up_to);
            self.epoch_on_disk = running.begun;
            let mut recovery_point_moved = false;
            let written_down = outcome.result.as_ref().is_ok_and(|flushed| flushed.recovery_point);
            if !written_down {
                self.flushing.since_recovery_point += running.behind;
            }
            // Deleting may have moved it further meanwhile.
            let moved = written_down && running.up_to >= self.marks.recovery_point;
            if let Some(position) = running.recovery_position.filter(|_| moved) {
                self.marks.recovery_point = running.up_to;
                self.marks.recovery_position = position;
                recovery_point_moved = true;
            }
            if let Err(error) = self.write_marks() {
                self.fail(error.to_string());
                return Err(error.into());
            }
            if recovery_point_moved && let Err(error) = self.remove_old_snapshots(running.up_to) {
                tracing::warn!(partition = %self.partition, %error, "old snapshots stay");
            }
        }
        Ok(self.marks.durable)
    }

    /// Takes the work of zero-filling more space, when the log comes near the end of what is filled.
    pub fn begin_extension(&mut self) -> Option<Extension> {
        if self.config.durability != Durability::Fsync || self.condition != Condition::Healthy {
            return None;
        }
        let segment_bytes = self.config.segment_bytes;
        let active = self.active.as_mut()?;
        let size = active.segment.size();
        let extend_from = EXTEND_FROM_BYTES.min(segment_bytes / EXTEND_FROM_PART);
        let step = size.clamp(EXTENSION_BYTES_MIN.min(segment_bytes / EXTENSION_PART), EXTENSION_BYTES_MAX);
        let ahead = active.zeroed_to.saturating_sub(size);
        if active.extending_from.is_some() || size < extend_from || ahead > step / 2 {
            return None;
        }
        // Appends go on below `from` meanwhile: into filled space, or into a gap that is as long as a step.
        let from = active.zeroed_to.max(size + step / 4).next_multiple_of(4096);
        let to = (from + step).min(segment_bytes.next_multiple_of(4096));
        if to <= from {
            return None;
        }
        let file = match active.segment.open_apart() {
            Ok(file) => file,
            // Appends grow the file as they are written, which is slower and right.
            Err(error) => {
                tracing::debug!(partition = %self.partition, %error, "the segment is not extended");
                return None;
            }
        };
        active.extending_from = Some(from);
        Some(Extension { file, generation: self.generation, segment: active.segment.base, from, to })
    }

    /// Takes the outcome of an extension. One from before a truncation, a repair or another opening changes nothing.
    pub fn finish_extension(&mut self, extension: &Extension, outcome: &io::Result<()>) {
        if extension.generation != self.generation {
            return;
        }
        let of_it = |active: &&mut Active| {
            active.segment.base == extension.segment && active.extending_from == Some(extension.from)
        };
        let Some(active) = self.active.as_mut().filter(of_it) else { return };
        active.extending_from = None;
        match outcome {
            Ok(()) => active.zeroed_to = extension.to,
            Err(error) if out_of_space(error) => active.zeroed_to = extension.from,
            Err(error) => self.fail(format!("extend: {error}")),
        }
    }
}
