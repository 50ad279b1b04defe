//! Opening a log: what a clean stop, a killed process, a power loss or a damaged disk left behind.
//!
//! Everything below the recovery point is taken as it is (its batches are checked when they are read). What follows
//! is read batch by batch. The first thing that is no batch decides by the durable mark: at or above it, it is the
//! torn end of writes that nobody was promised, and is cut, with the bytes kept aside; below it, records that had
//! been made durable are damaged, and the log stays readable below and refuses everything else.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use parking_lot::{Mutex, RwLock};
use walser_model::{LeaderEpochs, Offset, Timestamp, TopicPartition};

use crate::checkpoint::{Checkpoint, Marks, Slot};
use crate::disk::{Disk, DiskFile, Open, read_file, replace_file};
use crate::epochs;
use crate::flush::Flushing;
use crate::log::{Condition, Log, LogConfig, LogError, Shared};
use crate::producers::Producers;
use crate::scan::{Scan, Step};
use crate::segment::{Segment, base_of};

const SNAPSHOT_SUFFIX: &str = ".producers";
const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;
/// At most this much of a cut tail is kept aside.
const KEPT_BYTES_MAX: u64 = 64 << 20;

/// What opening a log found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments that were read, wholly or from the recovery point on. 0 after a clean stop.
    pub scanned_segments: usize,
    /// Bytes that were read.
    pub scanned_bytes: u64,
    /// The torn end that was cut.
    pub cut: Option<CutTail>,
    /// Damage to records that had been durable.
    pub damage: Option<Damage>,
}

/// A torn end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutTail {
    /// The log ends here.
    pub offset: Offset,
    /// Bytes that were cut.
    pub bytes: u64,
    /// The file that has them.
    pub kept_in: PathBuf,
}

/// Lost or damaged records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// First offset that cannot be read.
    pub from: Offset,
    /// Everything below this had been durable.
    pub durable: Offset,
}

/// A place where the scan met something that is no batch of this log.
struct Bad {
    segment: usize,
    position: u64,
}

/// The state of a scan over segments.
struct Walk<'a> {
    segments: &'a [Arc<Segment>],
    epochs: LeaderEpochs,
    producers: Producers,
    producers_end: Offset,
    expected: Offset,
    /// Idempotent producers count as used at the time of this start.
    now: Timestamp,
    interval_bytes: u64,
    recovery: Recovery,
}

/// The path of a producer snapshot.
pub(crate) fn snapshot_path(dir: &Path, end: Offset) -> PathBuf {
    dir.join(format!("{:020}{SNAPSHOT_SUFFIX}", end.0))
}

fn snapshot_end(name: &str) -> Option<Offset> {
    name.strip_suffix(SNAPSHOT_SUFFIX)?.parse().ok().map(Offset)
}

fn snapshots(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<Offset>> {
    let entries = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut ends: Vec<_> = entries.iter().filter_map(|entry| snapshot_end(&entry.name)).collect();
    ends.sort_unstable();
    Ok(ends)
}

/// Writes a snapshot durably.
pub(crate) fn write_snapshot(disk: &dyn Disk, dir: &Path, producers: &Producers, end: Offset) -> io::Result<()> {
    replace_file(disk, &snapshot_path(dir, end), &producers.encode(end))
}

/// Removes snapshots before `end`, keeping the one before the last as a spare.
pub(crate) fn remove_snapshots_below(log: &Log, end: Offset) -> io::Result<()> {
    let below: Vec<_> = snapshots(&*log.disk, &log.dir)?.into_iter().filter(|snapshot| *snapshot < end).collect();
    for old in below.iter().rev().skip(1) {
        log.disk.remove_file(&snapshot_path(&log.dir, *old))?;
    }
    Ok(())
}

/// Removes snapshots of what was cut.
pub(crate) fn remove_snapshots_above(log: &Log, end: Offset) -> io::Result<()> {
    for snapshot in snapshots(&*log.disk, &log.dir)?.into_iter().filter(|snapshot| *snapshot > end) {
        log.disk.remove_file(&snapshot_path(&log.dir, snapshot))?;
    }
    Ok(())
}

/// The newest readable snapshot at or below `end`; nothing at all stands for offset 0.
fn newest_snapshot(disk: &dyn Disk, dir: &Path, end: Offset) -> io::Result<(Producers, Offset)> {
    for snapshot in snapshots(disk, dir)?.into_iter().rev().filter(|snapshot| *snapshot <= end) {
        let bytes = read_file(disk, &snapshot_path(dir, snapshot), SNAPSHOT_BYTES_MAX)?;
        if let Some(loaded) = bytes.as_deref().and_then(Producers::decode) {
            return Ok(loaded);
        }
    }
    Ok((Producers::default(), Offset::ZERO))
}

/// The producers as of `to`: from the newest snapshot and the batches behind it.
pub(crate) fn load_producers(log: &Log, to: Offset) -> io::Result<Producers> {
    let (mut producers, from) = newest_snapshot(&*log.disk, &log.dir, to)?;
    let segments = log.shared.segments.read().clone();
    let first = segments.partition_point(|segment| segment.base <= from).saturating_sub(1);
    for segment in segments.iter().skip(first) {
        if from >= to || segment.base >= to || segment.size() == 0 {
            break;
        }
        let file = segment.file(Open::Read)?;
        let mut scan = Scan::new(&*file, segment.position_for(from)?, segment.size());
        while let Step::Batch(found) = scan.step()? {
            if found.header.base_offset >= from && found.header.base_offset < to {
                producers.record(&found.header, log.opened_at);
            }
        }
    }
    Ok(producers)
}

impl Log {
    /// Opens the log of a partition in `dir`, or describes an empty one: files appear at the first append.
    ///
    /// # Errors
    /// I/O errors. Damage is no error: it is in the [`Recovery`] and in [`Log::condition`].
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        partition: TopicPartition,
        config: LogConfig,
        checkpoint: Arc<Mutex<Checkpoint>>,
        now: Timestamp,
    ) -> Result<(Self, Recovery), LogError> {
        let claimed = checkpoint.lock().claim(partition);
        let opened = Self::open_claimed(disk, dir, (partition, claimed), config, Arc::clone(&checkpoint), now);
        if opened.is_err() {
            checkpoint.lock().unclaim(partition, claimed.0, claimed.1);
        }
        opened
    }

    fn open_claimed(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        (partition, (slot, marks)): (TopicPartition, (Slot, Option<Marks>)),
        config: LogConfig,
        checkpoint: Arc<Mutex<Checkpoint>>,
        now: Timestamp,
    ) -> Result<(Self, Recovery), LogError> {
        let marks = marks.unwrap_or_default();
        let segments = list_segments(&disk, &dir)?;
        let first = segments.first().map_or(marks.log_start, |segment| segment.base);
        let log_start = marks.log_start.max(first);
        let shared = Shared {
            segments: RwLock::new(segments),
            epochs: RwLock::new(epochs::load(&*disk, &dir.join(epochs::FILE_NAME))?),
            log_start: AtomicI64::new(log_start.0),
            end: AtomicI64::new(first.0),
            corrupt_from: AtomicI64::new(i64::MAX),
        };
        let mut log = Self {
            partition,
            dir,
            disk,
            config,
            shared: Arc::new(shared),
            checkpoint,
            slot,
            marks,
            producers: None,
            active: None,
            flushing: Flushing::default(),
            condition: Condition::Healthy,
            opened_at: now,
        };
        let recovery = if log.rested() { log.resume()? } else { log.recover()? };
        Ok((log, recovery))
    }

    /// Whether the log was stopped cleanly: its last file ends where the recovery point lies.
    fn rested(&self) -> bool {
        self.shared.segments.read().last().is_some_and(|last| {
            let where_it_ended = if last.base == self.marks.recovery_point { 0 } else { self.marks.recovery_position };
            last.base <= self.marks.recovery_point
                && last.size() == where_it_ended
                && self.marks.recovery_point >= self.marks.durable
        })
    }

    /// Goes on after a clean stop: nothing has to be read, not even opened, when no file is missing.
    fn resume(&mut self) -> io::Result<Recovery> {
        self.set_end(self.marks.recovery_point);
        let mut recovery = Recovery::default();
        let count = self.shared.segments.read().len();
        let known = self.marks.segments;
        if known != 0
            && usize::try_from(known) != Ok(count)
            && let Some(from) = self.hole()?
        {
            self.declare_damage(from, &mut recovery);
        }
        Ok(recovery)
    }

    /// Where records are missing because a segment file is. Reads the end of each segment.
    fn hole(&self) -> io::Result<Option<Offset>> {
        let segments = self.shared.segments.read().clone();
        let mut expected = self.marks.log_start;
        for segment in &segments {
            if segment.base > expected {
                return Ok(Some(expected));
            }
            expected = segment.end()?;
        }
        Ok(None)
    }

    fn recover(&mut self) -> Result<Recovery, LogError> {
        let segments = self.shared.segments.read().clone();
        let (producers, snapshot_end) = newest_snapshot(&*self.disk, &self.dir, self.marks.recovery_point)?;
        let walk = Walk {
            segments: &segments,
            epochs: self.shared.epochs.read().clone(),
            producers,
            producers_end: snapshot_end,
            expected: segments.first().map_or(self.marks.log_start, |segment| segment.base),
            now: self.opened_at,
            interval_bytes: self.config.index_interval_bytes,
            recovery: Recovery::default(),
        };
        let (walk, bad) = walk.run(snapshot_end.min(self.marks.recovery_point))?;
        let Walk { mut epochs, producers, expected: end, mut recovery, .. } = walk;
        if end < self.marks.durable {
            self.declare_damage(end, &mut recovery);
            return Ok(recovery);
        }
        if let Some(bad) = &bad {
            recovery.cut = Some(self.cut_tail(bad, end)?);
        }
        epochs.truncate(end);
        for segment in self.shared.segments.read().iter().rev().take(recovery.scanned_segments) {
            // Found in the page cache is not on the disk: what is kept counts as durable only from here on.
            segment.file(Open::Write)?.sync_data()?;
        }
        if !segments.is_empty() {
            epochs::replace(&epochs, &*self.disk, &self.dir.join(epochs::FILE_NAME))?;
            remove_snapshots_above(self, end)?;
        }
        *self.shared.epochs.write() = epochs;
        self.producers = Some(producers);
        self.set_end(end);
        self.marks.durable = end;
        self.flushing.appended_before(recovery.scanned_bytes);
        self.write_marks()?;
        Ok(recovery)
    }

    fn set_end(&mut self, end: Offset) {
        self.shared.end.store(end.0, std::sync::atomic::Ordering::Release);
        let log_start = self.log_start().min(end);
        self.shared.log_start.store(log_start.0, std::sync::atomic::Ordering::Release);
    }

    fn declare_damage(&mut self, from: Offset, recovery: &mut Recovery) {
        let durable = self.marks.durable;
        recovery.damage = Some(Damage { from, durable });
        self.condition = Condition::Corrupt { from };
        self.shared.corrupt_from.store(from.0, std::sync::atomic::Ordering::Release);
        self.set_end(durable);
    }

    /// Moves everything from `bad` on out of the log, into one file beside it.
    fn cut_tail(&self, bad: &Bad, offset: Offset) -> io::Result<CutTail> {
        let kept_in = self.dir.join(format!("cut-at-{:020}.bytes", offset.0));
        let kept = self.disk.open(&kept_in, Open::Write)?;
        kept.set_len(0)?;
        let segments = self.shared.segments.read().clone();
        let mut bytes = 0;
        for (number, segment) in segments.iter().enumerate().skip(bad.segment) {
            let from = if number == bad.segment { bad.position } else { 0 };
            let file = segment.file(Open::Write)?;
            bytes += copy(&*file, from, &*kept, bytes)?;
        }
        kept.sync_data()?;
        self.disk.sync_dir(&self.dir)?;
        // A segment of which nothing is left does not stay: its base lies behind the end of the log.
        let keep = if bad.position == 0 && bad.segment > 0 { bad.segment } else { bad.segment + 1 };
        for segment in &segments[keep..] {
            segment.remove()?;
        }
        if keep > bad.segment {
            segments[bad.segment].cut(bad.position)?.sync_data()?;
        }
        self.shared.segments.write().truncate(keep);
        self.disk.sync_dir(&self.dir)?;
        Ok(CutTail { offset, bytes, kept_in })
    }

    /// Gives up the damaged part of a corrupt log: the log ends where the damage begins, and takes writes again.
    /// What is cut is kept aside. Gives back where the log was known to end and how many bytes were set aside.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] when the log is not corrupt, [`LogError::Busy`] while a flush or an extension runs.
    pub fn repair(&mut self) -> Result<(Offset, u64), LogError> {
        let Condition::Corrupt { from } = self.condition else {
            let (start, end) = (self.log_start(), self.log_end());
            return Err(LogError::OutOfRange { offset: end, start, end });
        };
        self.idle()?;
        let known_end = self.log_end();
        // What is left is found by reading it; the damage may begin before the offset at which it was met.
        self.marks.durable = self.log_start();
        self.active = None;
        self.flushing = Flushing::default();
        self.marks.recovery_point = self.marks.recovery_point.min(from);
        self.marks.recovery_position = 0;
        self.condition = Condition::Healthy;
        self.shared.corrupt_from.store(i64::MAX, std::sync::atomic::Ordering::Release);
        let recovery =
            self.recover().inspect_err(|error| self.condition = Condition::Failed { reason: error.to_string() })?;
        Ok((known_end, recovery.cut.map_or(0, |cut| cut.bytes)))
    }
}

/// Copies everything up to the last byte that is not zero; gives back how much.
fn copy(from: &dyn DiskFile, start: u64, to: &dyn DiskFile, at: u64) -> io::Result<u64> {
    const CHUNK: usize = 1 << 20;
    let (mut position, mut used) = (start, 0);
    loop {
        let mut chunk = Vec::new();
        from.read_at(&mut chunk, position, CHUNK)?;
        if let Some(last) = chunk.iter().rposition(|byte| *byte != 0) {
            used = position - start + last as u64 + 1;
            if at + used <= KEPT_BYTES_MAX {
                to.write_at(&chunk[..=last], at + (position - start))?;
            }
        }
        position += chunk.len() as u64;
        if chunk.len() < CHUNK {
            return Ok(used);
        }
    }
}

fn list_segments(disk: &Arc<dyn Disk>, dir: &Path) -> io::Result<Vec<Arc<Segment>>> {
    let entries = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        if entry.name.ends_with(".tmp") {
            disk.remove_file(&dir.join(&entry.name))?;
        } else if let Some(base) = base_of(&entry.name) {
            segments.push(Arc::new(Segment::new(Arc::clone(disk), dir, base, entry.len)));
        }
    }
    segments.sort_unstable_by_key(|segment| segment.base);
    Ok(segments)
}

// === impl Walk ===

impl Walk<'_> {
    /// Reads from `from` to the end of the last segment, or to the first thing that is no batch.
    fn run(mut self, from: Offset) -> io::Result<(Self, Option<Bad>)> {
        let first = self.segments.partition_point(|segment| segment.base <= from).saturating_sub(1);
        let mut at_start = true;
        for number in first..self.segments.len() {
            let segment = Arc::clone(&self.segments[number]);
            let position = if at_start {
                let (position, offset) = segment.start_recovery(from)?;
                self.expected = offset;
                at_start = false;
                position
            } else {
                if segment.base != self.expected {
                    return Ok((self, Some(Bad { segment: number, position: 0 })));
                }
                segment.start_recovery(segment.base)?.0
            };
            if let Some(position) = self.segment(&segment, position)? {
                return Ok((self, Some(Bad { segment: number, position })));
            }
        }
        Ok((self, None))
    }

    /// Reads one segment from `position` on; gives back where something is no batch of this log.
    fn segment(&mut self, segment: &Segment, position: u64) -> io::Result<Option<u64>> {
        let file = segment.file(Open::Read)?;
        let len = file.len()?;
        self.recovery.scanned_segments += 1;
        let mut scan = Scan::new(&*file, position, len);
        let mut end = position;
        let bad = loop {
            match scan.step()? {
                Step::End => break None,
                Step::Invalid(at) => break (!zeros_from(&*file, at)?).then_some(at),
                Step::Batch(found) => {
                    let header = found.header;
                    if header.base_offset != self.expected || header.leader_epoch < self.epochs_before(&header) {
                        break Some(found.position);
                    }
                    segment.note(&header, found.position, self.interval_bytes)?;
                    self.epochs.assign(header.leader_epoch, header.base_offset);
                    if header.base_offset >= self.producers_end {
                        self.producers.record(&header, self.now);
                    }
                    self.expected = header.next_offset();
                    end = found.position + found.bytes.len() as u64;
                }
            }
        };
        self.recovery.scanned_bytes += end - position;
        let last = self.segments.last().is_some_and(|last| last.base == segment.base);
        if bad.is_none() && !last && end < len {
            // Space ahead of the end belongs to the last segment only.
            segment.file(Open::Write)?.set_len(end)?;
        }
        segment.set_size(end);
        Ok(bad)
    }

    /// The epoch of the batch before: epochs never go down along a log.
    fn epochs_before(&self, header: &walser_record_batch::BatchHeader) -> walser_model::LeaderEpoch {
        self.epochs.epoch_of(header.base_offset.plus(-1))
    }
}

/// Whether a file has only zeros from `position` on: space that was filled ahead of the log.
fn zeros_from(file: &dyn DiskFile, mut position: u64) -> io::Result<bool> {
    const CHUNK: usize = 256 << 10;
    loop {
        let mut chunk = Vec::new();
        file.read_at(&mut chunk, position, CHUNK)?;
        if chunk.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if chunk.len() < CHUNK {
            return Ok(true);
        }
        position += chunk.len() as u64;
    }
}
