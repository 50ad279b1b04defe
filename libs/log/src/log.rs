//! The writer of a partition. A [`Log`] composes its parts, which each have their own fields: the segment that appends go
//! to, what has to be flushed, the producers and their snapshots, and what readers share with it. What it does with them
//! is in the modules below.

mod append;
mod closing;
mod compaction;
mod damage;
mod findings;
mod flush;
mod kept;
mod listing;
mod recovery;
mod retention;
mod truncation;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_model::{
    Durability, LeaderEpoch, LeaderEpochs, Offset, SequenceCheck, Timestamp, TopicConfig, TopicPartition,
};
use walser_record_batch::BatchHeader;

use crate::active::ActiveSegment;
use crate::checkpoint::{Checkpoint, Marks, Slot};
use crate::compaction::CompactedTo;
use crate::directory_names::DirectoryNames;
use crate::disk::Open;
use crate::flush::Flushing;
use crate::generation::Generation;
use crate::log_state::LogState;
use crate::producers::Producers;
use crate::reader::LogReader;
use crate::segment::Segment;
use crate::snapshots::{self, Snapshots};

pub use append::AppendError;
pub use findings::{CutTail, Damage, Recovery};
pub use kept::Kept;

/// Begins the names of files beside a log with what was cut from it.
pub(crate) const KEPT_PREFIX: &str = "cut-at-";

/// The settings that a log needs, from its topic and its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment is closed before it would exceed this many bytes.
    pub segment_bytes: u64,
    /// A segment is closed before a batch that is newer than its first one by this much, by the time of records, and
    /// when it was created this long ago and nothing is written.
    pub segment_age: Duration,
    /// Distance of index entries in bytes of log.
    pub index_interval_bytes: u64,
    /// Whether space is zero-filled ahead of the log end.
    pub durability: Durability,
    /// Segments go away while the rest has at least this many bytes.
    pub retention_bytes: Option<u64>,
    /// Segments go away when their newest record is older.
    pub retention: Option<Duration>,
    /// Idempotent producers are forgotten after this time without a batch.
    pub producer_expiry: Duration,
}

/// Whether a log can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The log serves reads and writes.
    Healthy,
    /// Records from `from` on are damaged although they had been made durable: reads below only, no writes.
    Corrupt {
        /// First offset that is not readable.
        from: Offset,
    },
    /// A write or sync failed: nothing more is done with this log by this process.
    Failed {
        /// What the system said.
        reason: String,
    },
}

/// Why an operation on a log did not happen.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// See [`Condition::Corrupt`].
    #[error("the log is damaged from offset {from} on")]
    Corrupt {
        /// First damaged offset.
        from: Offset,
    },
    /// See [`Condition::Failed`].
    #[error("the log is out of service: {reason}")]
    Failed {
        /// What the system said.
        reason: String,
    },
    /// The offset lies outside the log.
    #[error("offset {offset} is not within {start} and {end}")]
    OutOfRange {
        /// The offset asked for.
        offset: Offset,
        /// First possible.
        start: Offset,
        /// Last possible.
        end: Offset,
    },
    /// A flush or an extension is running; the operation works once the log has been told its outcome.
    #[error("a flush or an extension of the log is running")]
    Busy,
    /// The file system reported an error.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One partition's log, open for its one writer.
#[derive(Debug)]
pub struct Log {
    partition: TopicPartition,
    /// Its directory.
    names: Arc<DirectoryNames>,
    config: LogConfig,
    state: Arc<LogState>,
    checkpoint: Arc<Mutex<Checkpoint>>,
    slot: Slot,
    /// The slot is still this log's: it is given back with the marks when the log is dropped.
    claimed: bool,
    marks: Marks,
    /// `None` while the log rests; then the snapshot at the log end has them.
    producers: Option<Producers>,
    active: Option<ActiveSegment>,
    flushing: Flushing,
    snapshots: Snapshots,
    /// The latest one whose start is on stable storage, of those that were begun here.
    epoch_on_disk: LeaderEpoch,
    condition: Condition,
    /// Wall-clock time of opening.
    opened_at: Timestamp,
    /// Space that was filled ahead before a kill lies behind the log end: the file is longer than what is in it.
    zeros_behind_end: bool,
    compacted: CompactedTo,
    /// There is a file that says so.
    compacted_file: bool,
    /// Jobs of compactions that were begun, or of which a step was refused: what comes of earlier ones does not count.
    compactions: u64,
    /// Segments below the log start whose files are still there: found at opening.
    deleted: Vec<Arc<Segment>>,
    /// Offsets from which files say that records are damaged.
    damage_notes: Vec<Offset>,
    #[cfg(feature = "faults")]
    pub faults: crate::faults::LogFaults,
}

impl From<&TopicConfig> for LogConfig {
    fn from(topic: &TopicConfig) -> Self {
        let deletes = topic.cleanup_policy.deletes();
        // What is in the last segment is not compacted.
        let lag_max = topic.compaction_lag_max.filter(|_| topic.cleanup_policy.compacts());
        Self {
            segment_bytes: topic.segment_bytes,
            segment_age: lag_max.map_or(topic.segment_age, |lag| lag.min(topic.segment_age)),
            index_interval_bytes: topic.index_interval_bytes,
            durability: topic.durability,
            retention_bytes: topic.retention_bytes.filter(|_| deletes),
            retention: topic.retention.filter(|_| deletes),
            producer_expiry: Duration::from_secs(86_400),
        }
    }
}

// === impl Log ===

impl Log {
    pub fn partition(&self) -> TopicPartition {
        self.partition
    }

    /// A handle for readers.
    pub fn reader(&self) -> LogReader {
        LogReader::new(Arc::clone(&self.state), Arc::clone(&self.names))
    }

    /// Where the oldest batch begins that is still there: at or below the log start, and there where no record is left.
    /// Inclusive.
    pub fn retained(&self) -> Offset {
        self.state.retained()
    }

    /// What the log has in it now.
    pub fn generation(&self) -> Generation {
        self.state.generation()
    }

    /// Offset after the last record written.
    pub fn log_end(&self) -> Offset {
        self.state.end()
    }

    /// Oldest offset that readers may see.
    pub fn log_start(&self) -> Offset {
        self.state.log_start()
    }

    /// Everything below is on stable storage.
    pub fn durable(&self) -> Offset {
        self.marks.durable
    }

    /// Whether the log can be used.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Returns the size of all segments in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.state.segments().iter().map(|segment| segment.size()).sum()
    }

    /// The latest leader epoch that has records, or had some that are deleted.
    pub fn latest_epoch(&self) -> LeaderEpoch {
        self.state.epochs().of_records.latest()
    }

    /// The largest leader epoch at or below `epoch`, and where it ends (exclusive). `None` when every one is higher.
    pub fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.state.epochs().of_records.end_of(epoch, self.log_end())
    }

    /// The leader epoch of the record before an offset, or [`LeaderEpoch::NONE`].
    pub fn epoch_before(&self, offset: Offset) -> LeaderEpoch {
        let epochs = self.state.epochs();
        let before = epochs.of_records.starts().iter().rev().find(|found| found.start < offset);
        before.map_or(LeaderEpoch::NONE, |found| found.epoch)
    }

    /// Every leader epoch that has records, and where it starts.
    pub fn epochs(&self) -> LeaderEpochs {
        self.state.epochs().of_records.clone()
    }

    /// Takes new settings; they hold from the next append on.
    pub fn configure(&mut self, config: LogConfig) {
        self.config = config;
    }

    /// An error unless the log takes writes.
    fn writable(&self) -> Result<(), LogError> {
        match &self.condition {
            Condition::Healthy => Ok(()),
            Condition::Corrupt { from } => Err(LogError::Corrupt { from: *from }),
            Condition::Failed { reason } => Err(LogError::Failed { reason: reason.clone() }),
        }
    }

    /// An error when the log is out of service; a damaged one still finishes what it has begun.
    fn in_service(&self) -> Result<(), LogError> {
        match &self.condition {
            Condition::Failed { reason } => Err(LogError::Failed { reason: reason.clone() }),
            Condition::Healthy | Condition::Corrupt { .. } => Ok(()),
        }
    }

    /// An error while a flush or an extension writes to, or syncs, the files of this log.
    fn idle(&self) -> Result<(), LogError> {
        if self.is_busy() { Err(LogError::Busy) } else { Ok(()) }
    }

    /// Whether a flush or an extension is under way.
    pub fn is_busy(&self) -> bool {
        self.flush_running() || self.extension_running()
    }

    /// Takes the log out of service.
    pub fn fail(&mut self, reason: impl Into<String>) {
        if !matches!(self.condition, Condition::Failed { .. }) {
            self.condition = Condition::Failed { reason: reason.into() };
        }
    }

    /// Judges a batch against what is known of its producer, and takes it into account for those that follow when it
    /// is the next. `header` carries the base offset that the batch is about to get.
    ///
    /// # Errors
    /// When the snapshot of a resting log cannot be read.
    pub fn check_and_record(&mut self, header: &BatchHeader, now: Timestamp) -> Result<SequenceCheck, LogError> {
        let producers = self.producers()?;
        let check = producers.check_sequence(header);
        if check == SequenceCheck::Next {
            producers.record(header, now);
        }
        Ok(check)
    }

    /// Judges a batch and takes nothing into account.
    ///
    /// # Errors
    /// As for [`Log::check_and_record`].
    pub fn check_sequence(&mut self, header: &BatchHeader) -> Result<SequenceCheck, LogError> {
        Ok(self.producers()?.check_sequence(header))
    }

    /// Closes files and drops indexes of segments that take no appends any more; reading opens them again. Never waits
    /// for the disk.
    pub fn release_closed_segments(&self) {
        let segments = self.state.segments();
        for segment in segments.iter().rev().skip(1) {
            segment.rest_at_once();
        }
    }

    /// The producers, loaded from the snapshot at the log end where the log rests.
    fn producers(&mut self) -> io::Result<&mut Producers> {
        if self.producers.is_none() {
            self.producers = Some(self.load_producers(self.log_end())?);
        }
        Ok(self.producers.as_mut().expect("just loaded"))
    }

    /// The producers as of an offset, from what is on the disk.
    fn load_producers(&self, to: Offset) -> io::Result<Producers> {
        let segments = self.state.segments().clone();
        snapshots::load(&self.names, &segments, to, self.opened_at)
    }

    /// Writes the file of leader epochs anew, durably.
    fn replace_epochs(&self) -> io::Result<()> {
        let epochs = self.state.epochs().clone();
        crate::epochs::replace(&epochs, &self.names)
    }

    /// Writes the marks into the checkpoint, without making them durable.
    pub(crate) fn write_marks(&mut self) -> io::Result<()> {
        self.note_marks();
        self.checkpoint.lock().write(&mut self.slot, self.partition, &self.marks)
    }

    /// Makes the marks of all partitions that were written so far durable.
    fn sync_marks(&self) -> io::Result<()> {
        Checkpoint::sync(&self.checkpoint)
    }

    /// Brings those marks up to date that follow from the segments.
    fn note_marks(&mut self) {
        self.marks.log_start = self.log_start();
        // Of one that is damaged some may be missing, which the next start is to notice.
        if !matches!(self.condition, Condition::Corrupt { .. }) {
            self.marks.segments = u32::try_from(self.state.segments().len()).unwrap_or(u32::MAX);
        }
    }

    /// The latest time that a leader has stamped records of this log with (LogAppendTime), in milliseconds; 0: none.
    pub fn append_time(&self) -> Timestamp {
        self.marks.append_time
    }

    /// Notes the high watermark that was learnt in a leader epoch, for the next write of the marks.
    pub fn note_high_watermark(&mut self, high_watermark: Offset, epoch: LeaderEpoch) {
        self.marks.high_watermark = high_watermark.min(self.log_end());
        self.marks.high_watermark_epoch = Some(epoch);
    }

    /// The high watermark that was noted last, also by an earlier process, and the leader epoch in which it was learnt; or
    /// [`LeaderEpoch::NONE`] where that is not known. It may be behind what readers have seen, and is never beyond the log
    /// end.
    pub fn high_watermark(&self) -> (Offset, LeaderEpoch) {
        (self.marks.high_watermark, self.marks.high_watermark_epoch.unwrap_or(LeaderEpoch::NONE))
    }

    /// Closes files and drops indexes and producers once everything is durable and written down, so that an idle
    /// partition costs next to nothing. The next append or read opens what it needs. `false`: there is still
    /// something in flight.
    ///
    /// # Errors
    /// I/O errors while writing index and snapshot.
    pub fn release_idle(&mut self) -> Result<bool, LogError> {
        // A log that is out of service or damaged must not look like one that was stopped cleanly.
        if self.condition != Condition::Healthy || self.flushing.pending() || self.extension_running() {
            return Ok(false);
        }
        if let Some(active) = self.active.take()
            && active.trim()?
        {
            active.file().sync_data()?;
        }
        if std::mem::take(&mut self.zeros_behind_end)
            && let Some(last) = self.state.segments().last()
        {
            // The length of the last file tells the next start that there is nothing to read.
            let file = last.file(Open::Write)?;
            file.set_len(last.size())?;
            file.sync_data()?;
        }
        if self.marks.recovery_point < self.log_end() {
            self.write_recovery_point()?;
        }
        self.producers = None;
        for segment in self.state.segments().iter() {
            segment.release_idle();
        }
        Ok(true)
    }

    /// Moves the recovery point to the log end, which is durable.
    fn write_recovery_point(&mut self) -> io::Result<()> {
        self.producers()?;
        let Some(producers) = &self.producers else { return Ok(()) };
        let end = self.log_end();
        let last = self.state.last_segment();
        if let Some(index) = last.as_ref().map(|last| last.write_whole_index()).transpose()?.flatten() {
            index.sync_data()?;
            self.names.sync()?;
        }
        self.snapshots.write(producers, end)?;
        let needed_from = self.snapshots.durable_point(self.checkpoint.lock().syncs().1);
        self.marks.recovery_point = end;
        self.marks.recovery_position = last.map_or(0, |last| last.size());
        self.write_marks()?;
        let syncs = self.checkpoint.lock().syncs();
        self.snapshots.note_point(end, syncs);
        needed_from.map_or(Ok(()), |from| snapshots::remove_below(&self.names, from))
    }

    /// Takes over the producers of the log that this one was copied from, as of the log end.
    pub(crate) fn adopt_producers(&mut self, producers: Producers) -> io::Result<()> {
        self.producers = Some(producers);
        self.write_recovery_point()
    }

    /// Memory held for this partition, roughly, in bytes: what does not depend on its records.
    pub fn memory_bytes(&self) -> usize {
        let segments = self.state.segments();
        let indexes: usize = segments.iter().map(|segment| segment.memory_bytes()).sum();
        let producers = self.producers.as_ref().map_or(0, Producers::len) * 256;
        size_of::<Self>() + size_of::<LogState>() + segments.len() * (size_of::<Segment>() + 128) + indexes + producers
    }

    /// The directory of this partition.
    pub fn dir(&self) -> &Path {
        self.names.path()
    }
}
