//! The writer of a partition: its state, its marks, and everything except appending, flushing and recovery.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use walser_model::{Durability, LeaderEpoch, LeaderEpochs, Offset, Timestamp, TopicConfig, TopicPartition, Verdict};
use walser_record_batch::BatchHeader;

use crate::active::ActiveSegment;
use crate::checkpoint::{Checkpoint, Marks, Slot};
use crate::directory_names::DirectoryNames;
use crate::disk::Open;
use crate::epochs::Epochs;
use crate::flush::Flushing;
use crate::generation::Generation;
use crate::producers::Producers;
use crate::reader::LogReader;
use crate::segment::Segment;

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
    /// Reads and writes.
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

/// What readers share with the writer.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) segments: RwLock<Vec<Arc<Segment>>>,
    pub(crate) epochs: RwLock<Epochs>,
    pub(crate) log_start: AtomicI64,
    /// End of what was written.
    pub(crate) end: AtomicI64,
    /// First damaged offset; `i64::MAX` when there is none.
    pub(crate) corrupt_from: AtomicI64,
}

/// One partition's log, open for its one writer.
#[derive(Debug)]
pub struct Log {
    pub(crate) partition: TopicPartition,
    /// Its directory.
    pub(crate) names: Arc<DirectoryNames>,
    pub(crate) config: LogConfig,
    pub(crate) shared: Arc<Shared>,
    pub(crate) checkpoint: Arc<Mutex<Checkpoint>>,
    pub(crate) slot: Slot,
    pub(crate) marks: Marks,
    /// `None` while the log rests; then the snapshot at the log end has them.
    pub(crate) producers: Option<Producers>,
    pub(crate) active: Option<ActiveSegment>,
    pub(crate) flushing: Flushing,
    pub(crate) generation: Generation,
    /// The latest one whose start is on stable storage, of those that were begun here.
    pub(crate) epoch_on_disk: LeaderEpoch,
    pub(crate) condition: Condition,
    /// Wall-clock time of opening.
    pub(crate) opened_at: Timestamp,
    /// A recovery point, and how many syncs of the checkpoint had begun when it was written.
    pub(crate) unsynced_point: (Offset, u64),
    /// Space that was filled ahead before a kill lies behind the log end: the file is longer than what is in it.
    pub(crate) zeros_behind_end: bool,
    /// Segments below the log start whose files are still there: found at opening.
    pub(crate) deleted: Vec<Arc<Segment>>,
    /// Brings back a fault: the age of the last segment begins anew whenever it is opened for appending.
    #[cfg(feature = "faults")]
    pub age_restarts: bool,
}

impl From<&TopicConfig> for LogConfig {
    fn from(topic: &TopicConfig) -> Self {
        Self {
            segment_bytes: topic.segment_bytes,
            segment_age: topic.segment_age,
            index_interval_bytes: topic.index_interval_bytes,
            durability: topic.durability,
            retention_bytes: topic.retention_bytes,
            retention: topic.retention,
            producer_expiry: Duration::from_secs(86_400),
        }
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn log_start(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    pub(crate) fn end(&self) -> Offset {
        Offset(self.end.load(Ordering::Acquire))
    }

    pub(crate) fn corrupt_from(&self) -> Offset {
        Offset(self.corrupt_from.load(Ordering::Acquire))
    }
}

// === impl Log ===

impl Log {
    /// The partition.
    pub fn partition(&self) -> TopicPartition {
        self.partition
    }

    /// A handle for readers.
    pub fn reader(&self) -> LogReader {
        LogReader::new(Arc::clone(&self.shared))
    }

    /// Offset after the last record written.
    pub fn log_end(&self) -> Offset {
        self.shared.end()
    }

    /// Oldest offset that readers may see.
    pub fn log_start(&self) -> Offset {
        self.shared.log_start()
    }

    /// Everything below is on stable storage.
    pub fn durable(&self) -> Offset {
        self.marks.durable
    }

    /// Whether the log can be used.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Bytes of log.
    pub fn size_bytes(&self) -> u64 {
        self.shared.segments.read().iter().map(|segment| segment.size()).sum()
    }

    /// The latest leader epoch that has records, or had some that are deleted.
    pub fn latest_epoch(&self) -> LeaderEpoch {
        self.shared.epochs.read().of_records.latest()
    }

    /// The largest leader epoch at or below `epoch`, and where it ends (exclusive). `None` when every one is higher.
    pub fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.shared.epochs.read().of_records.end_of(epoch, self.log_end())
    }

    /// Every leader epoch that has records, and where it starts.
    pub fn epochs(&self) -> LeaderEpochs {
        self.shared.epochs.read().of_records.clone()
    }

    /// Takes new settings; they hold from the next append on.
    pub fn configure(&mut self, config: LogConfig) {
        self.config = config;
    }

    /// An error unless the log takes writes.
    pub(crate) fn writable(&self) -> Result<(), LogError> {
        match &self.condition {
            Condition::Healthy => Ok(()),
            Condition::Corrupt { from } => Err(LogError::Corrupt { from: *from }),
            Condition::Failed { reason } => Err(LogError::Failed { reason: reason.clone() }),
        }
    }

    /// Notes that a read has met damage at `from`: nothing from there on is readable, and nothing more is written.
    pub fn note_damage(&mut self, from: Offset) {
        if self.condition == Condition::Healthy && from < self.log_end() {
            self.condition = Condition::Corrupt { from };
            self.shared.corrupt_from.store(from.0, Ordering::Release);
        }
    }

    /// An error when the log is out of service; a damaged one still finishes what it has begun.
    pub(crate) fn in_service(&self) -> Result<(), LogError> {
        match &self.condition {
            Condition::Failed { reason } => Err(LogError::Failed { reason: reason.clone() }),
            Condition::Healthy | Condition::Corrupt { .. } => Ok(()),
        }
    }

    /// An error while a flush or an extension writes to, or syncs, the files of this log.
    pub(crate) fn idle(&self) -> Result<(), LogError> {
        if self.flush_running() || self.extension_running() { Err(LogError::Busy) } else { Ok(()) }
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
    pub fn admit(&mut self, header: &BatchHeader, now: Timestamp) -> Result<Verdict, LogError> {
        let producers = self.producers()?;
        let verdict = producers.judge(header);
        if verdict == Verdict::Next {
            producers.record(header, now);
        }
        Ok(verdict)
    }

    /// Judges a batch and takes nothing into account.
    ///
    /// # Errors
    /// As for [`Log::admit`].
    pub fn judge(&mut self, header: &BatchHeader) -> Result<Verdict, LogError> {
        Ok(self.producers()?.judge(header))
    }

    /// Closes files and drops indexes of segments that take no appends any more; reading opens them again. Never waits
    /// for the disk.
    pub fn rest_closed_segments(&self) {
        let segments = self.shared.segments.read();
        for segment in segments.iter().rev().skip(1) {
            segment.rest_at_once();
        }
    }

    /// The producers, loaded from the snapshot at the log end where the log rests.
    pub(crate) fn producers(&mut self) -> io::Result<&mut Producers> {
        if self.producers.is_none() {
            let loaded = crate::snapshots::load_producers(self, self.log_end())?;
            self.producers = Some(loaded);
        }
        Ok(self.producers.as_mut().expect("just loaded"))
    }

    /// Writes the file of leader epochs anew, durably.
    pub(crate) fn replace_epochs(&self) -> io::Result<()> {
        let epochs = self.shared.epochs.read().clone();
        crate::epochs::replace(&epochs, &self.names)
    }

    /// Writes the marks into the checkpoint, without making them durable.
    pub(crate) fn write_marks(&mut self) -> io::Result<()> {
        self.note_marks();
        self.checkpoint.lock().write(&mut self.slot, self.partition, &self.marks)
    }

    /// Makes the marks of all partitions that were written so far durable.
    pub(crate) fn sync_marks(&self) -> io::Result<()> {
        Checkpoint::sync(&self.checkpoint)
    }

    /// Brings those marks up to date that follow from the segments.
    pub(crate) fn note_marks(&mut self) {
        self.marks.log_start = self.log_start();
        self.marks.segments = u32::try_from(self.shared.segments.read().len()).unwrap_or(u32::MAX);
    }

    /// The latest time that a leader has stamped records of this log with (LogAppendTime), in milliseconds; 0: none.
    pub fn append_time(&self) -> Timestamp {
        self.marks.append_time
    }

    /// Notes the high watermark for the next write of the marks.
    pub fn note_high_watermark(&mut self, high_watermark: Offset) {
        self.marks.high_watermark = self.marks.high_watermark.max(high_watermark);
    }

    /// Closes files and drops indexes and producers once everything is durable and written down, so that an idle
    /// partition costs next to nothing. The next append or read opens what it needs. `false`: there is still
    /// something in flight.
    ///
    /// # Errors
    /// I/O errors while writing index and snapshot.
    pub fn rest(&mut self) -> Result<bool, LogError> {
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
            && let Some(last) = self.shared.segments.read().last()
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
        for segment in self.shared.segments.read().iter() {
            segment.rest();
        }
        Ok(true)
    }

    /// Moves the recovery point to the log end, which is durable.
    fn write_recovery_point(&mut self) -> io::Result<()> {
        self.producers()?;
        let Some(producers) = &self.producers else { return Ok(()) };
        let end = self.log_end();
        let last = self.shared.segments.read().last().cloned();
        if let Some((last, tail)) = last.as_ref().and_then(|last| Some((last, last.unwritten_index()?))) {
            last.write_index(&tail)?.sync_data()?;
            self.names.sync()?;
        }
        crate::snapshots::write(&self.names, producers, end)?;
        let needed_from = self.durable_recovery_point();
        self.marks.recovery_point = end;
        self.marks.recovery_position = last.map_or(0, |last| last.size());
        self.write_marks()?;
        self.note_recovery_point(end);
        needed_from.map_or(Ok(()), |from| crate::snapshots::remove_below(&self.names, from))
    }

    /// Memory held for this partition, roughly, in bytes: what does not depend on its records.
    pub fn memory_bytes(&self) -> usize {
        let segments = self.shared.segments.read();
        let indexes: usize = segments.iter().map(|segment| segment.memory_bytes()).sum();
        let producers = self.producers.as_ref().map_or(0, Producers::len) * 256;
        size_of::<Self>() + size_of::<Shared>() + segments.len() * (size_of::<Segment>() + 128) + indexes + producers
    }

    /// Closes every file that nothing is in flight for, and returns how many. The next append or read opens them again.
    /// Never waits for the disk.
    pub fn close_files(&mut self) -> usize {
        let before = self.open_files();
        let busy = self.flushing.pending() || self.extension_running();
        if !busy {
            self.active = None;
        }
        for segment in self.shared.segments.read().iter().rev().skip(usize::from(busy)) {
            segment.close_at_once();
        }
        before - self.open_files()
    }

    /// Files that are open for this partition.
    pub fn open_files(&self) -> usize {
        self.shared.segments.read().iter().filter(|segment| segment.open()).count()
    }

    /// Closes the log: its marks are there for the next opening.
    pub(crate) fn close(self) {
        let Self { checkpoint, partition, slot, marks, .. } = self;
        checkpoint.lock().unclaim(partition, slot, Some(marks));
    }

    /// The last recovery point that a power loss cannot take back, if it is known: the checkpoint is synced only now and
    /// then.
    pub(crate) fn durable_recovery_point(&self) -> Option<Offset> {
        let (_, completed) = self.checkpoint.lock().syncs();
        let (written, during) = self.unsynced_point;
        (completed > during).then_some(written)
    }

    /// A recovery point was written, and is not synced yet.
    pub(crate) fn note_recovery_point(&mut self, point: Offset) {
        if self.durable_recovery_point().is_some() {
            self.unsynced_point = (point, self.checkpoint.lock().syncs().0);
        }
    }

    /// The directory of this partition.
    pub fn dir(&self) -> &Path {
        self.names.path()
    }

    /// Removes the partition's directory and gives its marks back.
    ///
    /// # Errors
    /// I/O errors; calling again continues.
    pub fn remove(self) -> io::Result<()> {
        self.active.iter().for_each(|active| active.segment().rest());
        let removed = match self.names.disk().remove_dir(self.names.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.checkpoint.lock().names().sync(),
        };
        match removed {
            Ok(()) => self.checkpoint.lock().release(self.slot),
            Err(error) => {
                // The marks must be found by the next attempt.
                self.close();
                Err(error)
            }
        }
    }
}
