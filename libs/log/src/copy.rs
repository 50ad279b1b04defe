//! A log that is built beside another one and takes its place at once: for a replica whose own log cannot be compared
//! with its leader's any more.
//!
//! It is built beside the others, with marks of its own, and is worth nothing before it is complete. Then its directory is
//! renamed, which is the moment at which it counts: whatever happens after that, it ends up in the place of the old log,
//! at the latest when the data directory is opened again.
//!
//! ```text
//! DIR/logs/copy-TOPIC-PARTITION/        being built; removed by the next start
//! DIR/logs/complete-TOPIC-PARTITION/    counts in place of DIR/logs/TOPIC-PARTITION/
//!          .../checkpoint               its marks
//!          .../log/                     what a partition's directory has
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use walser_model::{Offset, Timestamp, TopicPartition};
use walser_record_batch::{NotContinued, continuing};

use crate::checkpoint::Checkpoint;
use crate::compaction::CompactedTo;
use crate::directory_names::{DirectoryNames, parse_partition};
use crate::disk::{Disk, dir_exists, remove_dir_if_any};
use crate::log::{AppendError, KEPT_PREFIX, Log, LogConfig, LogError};
use crate::producers::Producers;
use crate::run::Run;

const LOG: &str = "log";
const BUILDING: &str = "copy-";
const COMPLETE: &str = "complete-";
/// Bytes that are appended between two flushes.
const FLUSH_BYTES: usize = 8 << 20;

/// Why a copy came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// What came is not what continues the copy.
    #[error("the batches do not continue the copy at offset {at}: {what}")]
    NotContinued {
        /// Where the copy ends. Exclusive.
        at: Offset,
        /// What is wrong with them.
        what: NotContinued,
    },
    /// The producers that came are not those at its end.
    #[error("the producers of the leader are damaged, or not those at offset {at}, where the copy ends")]
    Producers {
        /// Where the copy ends. Exclusive.
        at: Offset,
    },
    /// The disk is full.
    #[error("no space left for a copy of the leader's log")]
    NoSpace,
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A log that is being built.
#[derive(Debug)]
pub struct LogCopy {
    log: Log,
    /// Bytes appended since the last flush.
    unflushed: usize,
    checkpoint: Arc<Mutex<Checkpoint>>,
}

/// One that is complete and durable.
#[derive(Debug)]
pub struct CompleteCopy {
    partition: TopicPartition,
    log_end: Offset,
}

/// The copies of a data directory.
#[derive(Debug)]
pub(crate) struct CopyStore {
    disk: Arc<dyn Disk>,
    /// Of the directory of logs.
    names: Arc<DirectoryNames>,
    checkpoint: Arc<Mutex<Checkpoint>>,
}

// === impl LogCopy ===

impl LogCopy {
    /// Where it ends. Exclusive.
    pub fn log_end(&self) -> Offset {
        self.log.log_end()
    }

    /// Appends whole batches that continue it. Blocks as long as the disk takes.
    ///
    /// # Errors
    /// [`CopyError`]; nothing more can be done with the copy then.
    pub fn append(&mut self, batches: Bytes, now: Timestamp) -> Result<(), CopyError> {
        let at = self.log.log_end();
        let headers =
            continuing(&batches, at, self.log.latest_epoch()).map_err(|what| CopyError::NotContinued { at, what })?;
        let bytes = batches.len();
        self.log.append_decided(&Run::from(batches), &headers, now).map_err(|(_, error)| match error {
            AppendError::NoSpace => CopyError::NoSpace,
            AppendError::Log(error) => CopyError::Log(error),
            other => CopyError::Io(io::Error::other(other)),
        })?;
        self.unflushed += bytes;
        if self.unflushed >= FLUSH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), CopyError> {
        while let Some(job) = self.log.begin_flush()? {
            let outcome = job.run();
            if outcome.postponed().is_some() {
                return Err(CopyError::NoSpace);
            }
            self.log.finish_flush(&outcome)?;
        }
        self.unflushed = 0;
        Ok(())
    }

    /// Makes all of it durable. `producers`: those of the leader at the end of the copy ([`crate::LogReader::producers_at`]),
    /// since the copy has not seen the batches that the leader has deleted. `None`: those that it has seen. Blocks as long
    /// as the disk takes. `tombstone_floor`: of the leader's log ([`crate::LogReader::tombstone_floor`]).
    ///
    /// # Errors
    /// [`CopyError`], also when the producers are damaged or of another end; nothing more can be done with the copy then.
    pub fn complete(mut self, producers: Option<&[u8]>, tombstone_floor: Offset) -> Result<CompleteCopy, CopyError> {
        self.flush()?;
        // Also where there are no records: that it is there says that the copy is yet to be moved.
        self.log.keep_directory()?;
        if tombstone_floor > Offset::ZERO {
            self.log.write_compacted(CompactedTo::NONE, tombstone_floor.min(self.log.log_end()))?;
        }
        if let Some(bytes) = producers {
            let at = self.log.log_end();
            let found = Producers::decode(bytes).filter(|(_, end)| *end == at);
            let (producers, _) = found.ok_or(CopyError::Producers { at })?;
            self.log.adopt_producers(producers)?;
        }
        let (partition, log_end) = (self.log.partition(), self.log.log_end());
        self.log.release_idle()?;
        self.log.write_marks()?;
        self.log.close();
        Checkpoint::sync(&self.checkpoint)?;
        Ok(CompleteCopy { partition, log_end })
    }
}

// === impl CompleteCopy ===

impl CompleteCopy {
    /// Offset after its last record.
    pub fn log_end(&self) -> Offset {
        self.log_end
    }
}

// === impl CopyStore ===

impl CopyStore {
    /// Brings every copy that was complete into its place, and removes the others.
    pub(crate) fn open(disk: Arc<dyn Disk>, checkpoint: Arc<Mutex<Checkpoint>>) -> io::Result<Self> {
        let names = checkpoint.lock().names();
        let store = Self { disk, names, checkpoint };
        for entry in store.disk.list(store.names.path())? {
            if let Some(partition) = entry.name.strip_prefix(COMPLETE).and_then(parse_partition) {
                // A sync of an earlier process may have failed, and this name be in the cache only.
                store.names.write_again(&store.complete(partition))?;
                store.finish(partition)?;
            } else if entry.name.starts_with(BUILDING) {
                remove_dir_if_any(&*store.disk, &store.names.path().join(entry.name))?;
            }
        }
        Ok(store)
    }

    fn building(&self, partition: TopicPartition) -> PathBuf {
        self.names.path().join(format!("{BUILDING}{partition}"))
    }

    fn complete(&self, partition: TopicPartition) -> PathBuf {
        self.names.path().join(format!("{COMPLETE}{partition}"))
    }

    /// Begins a copy of a log that starts at `log_start` (inclusive); what was left of another one is removed.
    pub(crate) fn begin(
        &self,
        partition: TopicPartition,
        config: LogConfig,
        log_start: Offset,
        now: Timestamp,
    ) -> Result<LogCopy, CopyError> {
        let dir = self.building(partition);
        remove_dir_if_any(&*self.disk, &dir)?;
        self.disk.create_dir(&dir)?;
        let checkpoint = Arc::new(Mutex::new(Checkpoint::open(&self.disk, &dir)?));
        let (disk, place) = (Arc::clone(&self.disk), dir.join(LOG));
        let (mut log, _) = Log::open(disk, place, partition, config, Arc::clone(&checkpoint), now)?;
        log.start_at(log_start)?;
        Ok(LogCopy { log, unflushed: 0, checkpoint })
    }

    /// Removes a copy that nobody wants.
    pub(crate) fn discard(&self, partition: TopicPartition) -> io::Result<()> {
        remove_dir_if_any(&*self.disk, &self.building(partition))
    }

    /// Puts a copy in the place of a log that is not open.
    ///
    /// # Errors
    /// I/O errors: [`CopyStore::finish`] continues, and so does the next start.
    pub(crate) fn install(&self, copy: &CompleteCopy) -> io::Result<()> {
        let partition = copy.partition;
        self.disk.rename(&self.building(partition), &self.complete(partition))?;
        self.finish(partition).map(drop)
    }

    /// Moves files with records that were cut from the old log to the new one, durably.
    fn hand_over_kept(&self, old: &Path, new: &Path) -> io::Result<()> {
        if !dir_exists(&*self.disk, old)? {
            return Ok(());
        }
        let mut kept = self.disk.list(old)?;
        kept.retain(|entry| entry.name.starts_with(KEPT_PREFIX));
        for entry in &kept {
            self.disk.rename(&old.join(&entry.name), &new.join(&entry.name))?;
        }
        if kept.is_empty() { Ok(()) } else { self.disk.sync_dir(new) }
    }

    /// Brings a copy that counts into its place. Returns whether there was one.
    pub(crate) fn finish(&self, partition: TopicPartition) -> io::Result<bool> {
        let (complete, place) = (self.complete(partition), self.names.path().join(partition.to_string()));
        if !dir_exists(&*self.disk, &complete)? {
            return Ok(false);
        }
        // Nothing of the old log goes before it is certain that the copy counts.
        self.names.sync()?;
        let from = complete.join(LOG);
        let mut counts = true;
        if dir_exists(&*self.disk, &from)? {
            match Checkpoint::open(&self.disk, &complete)?.marks(partition) {
                Some(marks) => {
                    self.hand_over_kept(&place, &from)?;
                    remove_dir_if_any(&*self.disk, &place)?;
                    self.names.sync()?;
                    Checkpoint::take_over(&self.checkpoint, partition, Some(marks))?;
                    self.disk.rename(&from, &place)?;
                }
                // It was never completed, whatever its name says: the old log stays.
                None => counts = false,
            }
        } else if dir_exists(&*self.disk, &place)? {
            // An earlier call got no farther than the move, which may be in the cache only. The marks are those of the log
            // by now.
            self.names.write_again(&place)?;
        }
        self.names.sync()?;
        // In one step: half of it would count for another copy.
        let done = self.building(partition);
        remove_dir_if_any(&*self.disk, &done)?;
        self.disk.rename(&complete, &done)?;
        self.names.sync()?;
        remove_dir_if_any(&*self.disk, &done)?;
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use walser_model::{Compression, LeaderEpoch, PartitionIndex, TopicConfig, TopicId};
    use walser_record_batch::{BatchBuilder, BatchHeader, Batches, Producer, RecordFields, stamp_position};

    use super::*;
    use crate::{Condition, DataDirectory, MemoryDisk, PowerLoss};

    const NOW: Timestamp = 1_000;

    fn partition() -> TopicPartition {
        TopicPartition::new(TopicId::from_bytes([3; 16]), PartitionIndex(0))
    }

    fn config() -> LogConfig {
        LogConfig { segment_bytes: 4_000, ..LogConfig::from(&TopicConfig::default()) }
    }

    fn batch(base: i64, epoch: i32, value: u8) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None, 0);
        builder.append(&RecordFields { timestamp: 1, key: None, value: Some(&[value; 300]), headers: &[] });
        let mut batch = builder.build(Producer::NONE).to_vec();
        stamp_position(&mut batch, Offset(base), LeaderEpoch(epoch));
        batch.into()
    }

    fn directory(disk: &MemoryDisk) -> DataDirectory {
        DataDirectory::open(Arc::new(disk.clone()), Path::new("/data"), "test").unwrap()
    }

    fn open(directory: &DataDirectory) -> Log {
        directory.finish_copy(partition()).unwrap();
        let (disk, dir) = (directory.disk(), directory.partition_dir(partition()));
        Log::open(disk, dir, partition(), config(), directory.checkpoint(), NOW).unwrap().0
    }

    fn append(log: &mut Log, base: i64, epoch: i32, value: u8) {
        let bytes = batch(base, epoch, value);
        let header = BatchHeader::parse(&bytes).unwrap();
        log.append(&bytes.into(), &[header], NOW).map_err(|(_, error)| error).unwrap();
    }

    /// A data directory whose log has offsets 0 to 20 of epoch 1, durably.
    fn filled() -> MemoryDisk {
        let disk = MemoryDisk::simulated(1 << 30);
        let directory = directory(&disk);
        let mut log = open(&directory);
        (0..20).for_each(|base| append(&mut log, base, 1, 1));
        let job = log.begin_flush().unwrap().unwrap();
        log.finish_flush(&job.run()).unwrap();
        log.close();
        disk
    }

    /// Copies offsets 50 to 50 + `count` of epoch 7, and puts them in the place of what is there.
    fn copy(disk: &MemoryDisk, count: i64, stop_after: Option<u64>) -> Result<(), CopyError> {
        let directory = directory(disk);
        let old = open(&directory);
        stop_after.into_iter().for_each(|changes| disk.stop_after(changes));
        let mut copy = directory.begin_copy(partition(), config(), Offset(50), NOW)?;
        (50..50 + count).try_for_each(|base| copy.append(batch(base, 7, 7), NOW))?;
        let copy = copy.complete(None, Offset::ZERO)?;
        Ok(directory.install_copy(&copy, old)?)
    }

    /// Whether the log is the copy; else it is what was there before.
    fn is_copied(disk: &MemoryDisk, count: i64) -> bool {
        let log = open(&directory(disk));
        assert_eq!(*log.condition(), Condition::Healthy);
        let bounds = (log.log_start(), log.log_end(), log.durable());
        let copied = bounds == (Offset(50), Offset(50 + count), Offset(50 + count));
        let (from, value) = if copied { (50, 7) } else { (0, 1) };
        assert!(copied || bounds == (Offset(0), Offset(20), Offset(20)), "{bounds:?}");
        let read = log.reader().read(Offset(from), log.log_end(), 1 << 20);
        let read: Vec<_> = read.map_or_else(|_| Vec::new(), |slice| Batches::of(slice.batches).collect());
        assert!(!read.is_empty() || copied && count == 0);
        for batch in read {
            let (header, bytes) = batch.unwrap();
            assert_eq!(header.leader_epoch, LeaderEpoch(value));
            assert_eq!(bytes.last(), batch_of(header, u8::try_from(value).unwrap()).last());
        }
        copied
    }

    fn batch_of(header: BatchHeader, value: u8) -> Bytes {
        batch(header.base_offset.0, header.leader_epoch.0, value)
    }

    #[test]
    fn what_was_cut_from_the_old_log_is_beside_the_new_one() {
        let disk = filled();
        let directory = directory(&disk);
        let mut old = open(&directory);
        let first = old.truncate(Offset(15), true).unwrap().unwrap();
        let whole = old.keep_records().unwrap().unwrap();
        assert_ne!(first, whole);
        old.close();
        drop(directory);
        copy(&disk, 30, None).unwrap();
        let disk = disk.lose_power(PowerLoss::Everything);
        assert!(is_copied(&disk, 30));
        for kept in [first, whole] {
            let mut bytes = Vec::new();
            disk.open(&kept.path, crate::Open::Read).unwrap().read_at(&mut bytes, 0, 1 << 20).unwrap();
            assert!(Batches::of(bytes.into()).count() >= 5, "{}", kept.path.display());
        }
    }

    #[test]
    fn a_copy_takes_the_place_of_the_log_and_can_be_appended_to_also_after_a_restart() {
        for count in [0, 1, 30, 1_000] {
            let disk = filled();
            copy(&disk, count, None).unwrap();
            assert!(is_copied(&disk, count));
            let disk = disk.lose_power(PowerLoss::Everything);
            assert!(is_copied(&disk, count));
            let directory = directory(&disk);
            let mut log = open(&directory);
            append(&mut log, 50 + count, 8, 8);
            assert_eq!(log.log_end(), Offset(51 + count));
        }
    }

    #[test]
    fn wherever_it_is_interrupted_the_log_is_the_old_one_or_the_copy() {
        for count in [0, 1, 30] {
            let (mut changes, mut seen) = (0, [false; 2]);
            // The start after it may be interrupted, too.
            let starts = || [0, 1, 2, 3, 5, 8, 13].into_iter().flat_map(|more| [(more, false), (more, true)]);
            while starts().fold(false, |_, start| {
                let (copied, done) = interrupted(count, changes, start);
                seen[usize::from(copied)] = true;
                !done
            }) {
                changes += 1;
            }
            assert_eq!(seen, [true, true], "{count}");
        }
    }

    /// Copies until so many changes of the disk were made, then the process or the machine stops, and the start after that
    /// is interrupted as well. Whether the copy is there in the end, and whether it was said to be.
    fn interrupted(count: i64, changes: u64, (more, power): (u64, bool)) -> (bool, bool) {
        let disk = filled();
        let done = copy(&disk, count, Some(changes)).is_ok();
        let disk = if power { disk.lose_power(PowerLoss::Random(changes)) } else { disk.restart_process() };
        disk.stop_after(more);
        let _ = DataDirectory::open(Arc::new(disk.clone()), Path::new("/data"), "test");
        let copied = is_copied(&disk.lose_power(PowerLoss::Everything), count);
        assert!(copied || !done, "{count} records, {changes} changes, {more} at the start, power lost: {power}");
        (copied, done)
    }

    #[test]
    fn batches_that_do_not_continue_it_are_refused() {
        let disk = filled();
        let directory = directory(&disk);
        let mut copy = directory.begin_copy(partition(), config(), Offset(50), NOW).unwrap();
        copy.append(batch(50, 7, 7), NOW).unwrap();
        let mut damaged = batch(51, 7, 7).to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        for wrong in [batch(50, 7, 7), batch(52, 7, 7), batch(51, 6, 7), damaged.into(), Bytes::from_static(b"x")] {
            assert!(matches!(copy.append(wrong, NOW), Err(CopyError::NotContinued { .. })));
        }
        assert_eq!(copy.log_end(), Offset(51));
    }
}
