//! Opening a log: what a clean stop, a killed process, a power loss or a damaged disk left behind.
//!
//! Everything below the recovery point is taken as it is (its batches are checked when they are read). What follows
//! is read batch by batch. The first invalid batch ends the scan. At or above the durable mark it is a torn tail, of
//! writes that were never acknowledged, and is cut, with the bytes kept aside; below it, durable records are damaged,
//! and the log stays readable below and refuses everything else.
//!
//! What lies above the durable mark is written again before it counts: bytes, leader epochs, and the names of files
//! and directories. After a failed sync the cache may hold it clean, and a sync alone would write nothing (rule R30).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use walser_model::{LeaderEpoch, LeaderEpochs, Offset, Timestamp, TopicPartition};

use super::findings::Recovery;
use super::listing::{Listing, list};
use super::{Condition, Log, LogConfig, LogError};
use crate::checkpoint::{Checkpoint, Marks, Slot};
use crate::compaction::CompactedTo;
use crate::directory_names::DirectoryNames;
use crate::disk::Disk;
use crate::epochs::{self, Epochs};
use crate::flush::Flushing;
use crate::log_state::LogState;
use crate::recovery_scan::{LogPosition, RecoveryScan};
use crate::segment::Segment;
use crate::snapshots::{self, Snapshots};

/// What is found of a log before it is read.
struct Found {
    /// The leader epochs are to be found again, from here on.
    rebuilt_from: Option<Offset>,
    snapshots: Vec<Offset>,
    /// The checkpoint has marks of it.
    marked: bool,
    damaged_epochs: bool,
    unmarked: bool,
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
        let (slot, marks) = checkpoint.lock().claim(partition);
        let claimed = (partition, (slot, marks));
        let opened = Self::open_claimed(disk, dir, claimed, config, Arc::clone(&checkpoint), now);
        let (mut log, found) = opened.inspect_err(|_| checkpoint.lock().unclaim(partition, slot, marks))?;
        match log.complete(found) {
            Ok(recovery) => Ok((log, recovery)),
            Err(error) => {
                log.give_back(marks);
                Err(error)
            }
        }
    }

    fn open_claimed(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        (partition, (slot, marks)): (TopicPartition, (Slot, Option<Marks>)),
        config: LogConfig,
        checkpoint: Arc<Mutex<Checkpoint>>,
        now: Timestamp,
    ) -> Result<(Self, Found), LogError> {
        let (marked, marks) = (marks.is_some(), marks.unwrap_or_default());
        let mut listing = list(&disk, &dir)?;
        listing.remove_spanned(&*disk, &dir, &marks)?;
        let Listing { mut segments, snapshots, damage_notes, epochs_file, compacted_file, exists } = listing;
        let around = checkpoint.lock().names();
        prove_directory(&*disk, &dir, &around, (exists, segments.is_empty()), &marks)?;
        let deleted = below_start(&mut segments, marks.log_start);
        let first = segments.first().map_or(marks.log_start, |segment| segment.base);
        // The log start is durable before anything below it is removed: where there are marks, they are right.
        let mut epochs = if exists { epochs::load(&*disk, &dir.join(epochs::FILE_NAME))? } else { None };
        let first_epoch =
            epochs.as_ref().and_then(|epochs| epochs.of_records.starts().first().map(|start| start.start));
        let log_start = if marked { marks.log_start } else { found_start(first, first_epoch, &damage_notes) };
        let unmarked = !marked && epochs.is_some() && segments.iter().any(|segment| segment.size() > 0);
        let damaged_epochs = epochs_file && epochs.is_none();
        if let Some(epochs) = epochs.as_mut().filter(|_| segments.is_empty()) {
            // Without a batch there is nothing but what was begun.
            epochs.of_records = LeaderEpochs::default();
        }
        // Without a batch there is nothing that an epoch could be missing of.
        let rebuild_epochs = epochs.is_none() && segments.iter().any(|segment| segment.size() > 0);
        let epoch_on_disk = epochs.as_ref().map_or(LeaderEpoch::NONE, Epochs::begun);
        let state = LogState::new(segments, epochs.unwrap_or_default(), log_start, first);
        let names = Arc::new(DirectoryNames::new(disk, &dir));
        let begun = checkpoint.lock().syncs().0;
        let log = Self {
            partition,
            snapshots: Snapshots::new(Arc::clone(&names), marks.recovery_point, begun),
            names,
            config,
            state: Arc::new(state),
            checkpoint,
            slot,
            claimed: true,
            marks,
            producers: None,
            active: None,
            flushing: Flushing::default(),
            epoch_on_disk,
            condition: Condition::Healthy,
            opened_at: now,
            zeros_behind_end: false,
            compacted: CompactedTo::NONE,
            compacted_file,
            compactions: 0,
            deleted,
            damage_notes,
            #[cfg(feature = "faults")]
            faults: crate::faults::LogFaults::NONE,
        };
        Ok((log, Found { rebuilt_from: rebuild_epochs.then_some(first), snapshots, marked, damaged_epochs, unmarked }))
    }

    /// Reads what has to be read, and brings in order what is found.
    fn complete(&mut self, found: Found) -> Result<Recovery, LogError> {
        let Found { rebuilt_from, snapshots, marked, damaged_epochs, unmarked } = found;
        let mut recovery = self.resume_or_recover(rebuilt_from, &snapshots, marked)?;
        if self.marks.high_watermark > self.log_end() {
            // Written at once: records may come that nobody has committed.
            self.marks.high_watermark = self.log_end();
            self.write_marks()?;
        }
        if self.compacted_file {
            self.take_compacted()?;
        }
        self.take_up_damage(&mut recovery)?;
        self.renew_names()?;
        self.state.segments().iter().for_each(|segment| segment.close());
        Ok(Recovery { rebuilt_epochs: rebuilt_from.is_some(), damaged_epochs, unmarked, ..recovery })
    }

    /// Goes on where a clean stop has left the log, or reads what a kill may have left unfinished: all of it from
    /// `rebuilt_from` on where the leader epochs are to be found again. `marked`: the checkpoint has marks of it.
    fn resume_or_recover(
        &mut self,
        rebuilt_from: Option<Offset>,
        snapshots: &[Offset],
        marked: bool,
    ) -> Result<Recovery, LogError> {
        if let Some(noted) = self.damage_notes.iter().max().filter(|_| !marked) {
            // Damage is met in what was durable: all of them tell that it reached so far.
            self.marks.durable = noted.plus(1);
        }
        if rebuilt_from.is_none() && self.rested() {
            return Ok(self.resume()?);
        }
        let from = rebuilt_from.unwrap_or(self.marks.recovery_point);
        if let Some(hole) = self.first_gap(from)?.filter(|_| marked) {
            let mut recovery = Recovery::default();
            self.declare_damage(hole, Offset::ZERO, &mut recovery);
            return Ok(recovery);
        }
        self.recover(snapshots, from, (self.marks.durable, false))
    }

    /// Whether the log was stopped cleanly: its last file ends where the recovery point lies.
    fn rested(&self) -> bool {
        self.state.segments().last().is_some_and(|last| {
            let where_it_ended = if last.base == self.marks.recovery_point { 0 } else { self.marks.recovery_position };
            let named = last.base == self.marks.recovery_point || last.size() > 0;
            last.base <= self.marks.recovery_point
                && named
                && last.size() == where_it_ended
                && self.marks.recovery_point >= self.marks.durable.max(self.marks.log_start)
        })
    }

    /// Goes on after a clean stop: nothing has to be read, not even opened, when no file is missing.
    fn resume(&mut self) -> io::Result<Recovery> {
        self.set_end(self.marks.recovery_point);
        let mut recovery = Recovery::default();
        self.reconcile_epochs();
        let count = self.state.segments().len();
        let known = self.marks.segments;
        let missing = known != 0 && usize::try_from(known) != Ok(count);
        if let Some(from) = self.first_gap(if missing { Offset(i64::MAX) } else { Offset::ZERO })? {
            self.declare_damage(from, Offset::ZERO, &mut recovery);
        }
        Ok(recovery)
    }

    /// Where records are missing because a segment file is, of those that end below `up_to`. The log start is durable
    /// before anything below it is removed, so the first segment has it. Reads the end of each segment.
    fn first_gap(&self, up_to: Offset) -> io::Result<Option<Offset>> {
        let segments = self.state.segments().clone();
        let mut expected = self.marks.log_start;
        for (at, segment) in segments.iter().enumerate() {
            if segment.base > expected {
                return Ok(Some(expected));
            }
            // What is read from here on is compared with what comes before it.
            if segments.get(at + 1).is_none_or(|next| next.base > up_to) {
                return Ok(None);
            }
            expected = segment.end()?;
            // There may be more of them than files may be open.
            segment.close();
        }
        Ok(None)
    }

    /// Reads the log from `from` on, or from the newest one of `snapshots` (ends, ascending) below it, up to what is no batch of
    /// it, or begins at `up_to` or behind. What lies below `synced` is on stable storage.
    fn scan<'a>(
        &self,
        segments: &'a [Arc<Segment>],
        snapshots: &[Offset],
        (from, up_to): (Offset, Offset),
        synced: Offset,
    ) -> io::Result<(RecoveryScan<'a>, Option<LogPosition>)> {
        let (producers, producers_end) =
            snapshots::newest(&self.names, snapshots, self.marks.recovery_point.max(from))?;
        let first_read = producers_end.min(from);
        // What is read says itself of which epoch it is: the file may know of records that did not get to the disk, in
        // whose place there are others.
        let known_epochs = self.state.epochs().of_records.clone();
        let mut epochs = known_epochs.clone();
        epochs.truncate(first_read);
        let scan = RecoveryScan {
            segments,
            epochs,
            known_epochs,
            producers,
            producers_end,
            expected: segments.first().map_or(self.marks.log_start, |segment| segment.base),
            up_to,
            durable: synced,
            unsynced: None,
            append_time: self.marks.append_time,
            now: self.opened_at,
            interval_bytes: self.config.index_interval_bytes,
            scanned: (0, 0),
            epoch_said_at: None,
            contradiction: None,
        };
        scan.run(first_read)
    }

    /// Takes what is to be read from `from` on for what there is. What lies below `synced` is on stable storage. `gives_up`: what
    /// is damaged, instead of saying so.
    fn recover(
        &mut self,
        snapshots: &[Offset],
        from: Offset,
        (synced, gives_up): (Offset, bool),
    ) -> Result<Recovery, LogError> {
        let segments = self.state.segments().clone();
        let last_file = segments.last().map(|last| (last, last.size()));
        let (mut scan, mut invalid) = self.scan(&segments, snapshots, (from, Offset(i64::MAX)), synced)?;
        if let Some(damaged) = scan.contradiction.filter(|_| gives_up) {
            (scan, invalid) = self.scan(&segments, snapshots, (from, damaged), synced)?;
        }
        self.zeros_behind_end = last_file.is_some_and(|(last, listed)| last.size() < listed);
        let contradiction = scan.contradiction;
        let RecoveryScan { epochs: of_records, producers, expected: end, unsynced, append_time, scanned, .. } = scan;
        let (scanned_segments, scanned_bytes) = scanned;
        let mut recovery = Recovery { scanned_segments, scanned_bytes, ..Recovery::default() };
        // What is found does not reach the log start.
        let ends_below = end < self.marks.log_start && self.marks.durable <= self.marks.log_start;
        let damaged = end < self.marks.durable && !(ends_below && (gives_up || self.begun_anew()));
        if let Some(from) = contradiction.or_else(|| damaged.then_some(end)) {
            self.declare_damage(from, end, &mut recovery);
            self.know_epochs_below(from, of_records);
            return Ok(recovery);
        }
        if ends_below {
            recovery.cut = invalid.map(|invalid| self.cut_tail(&invalid, end)).transpose()?;
            let begun = self.state.epochs().begun;
            self.begin_at(self.marks.log_start, begun)?;
            return Ok(recovery);
        }
        if let Some(invalid) = &invalid {
            recovery.cut = Some(self.cut_tail(invalid, end)?);
        }
        let mut epochs = self.state.epochs().clone();
        if !of_records.starts().is_empty() {
            epochs.of_records = of_records;
            epochs.of_records.forget_before(self.log_start());
        }
        epochs.reconcile(self.log_start(), end);
        if let Some(from) = unsynced {
            self.write_again(from)?;
        }
        if unsynced.is_some() || invalid.is_some() || epochs != *self.state.epochs() {
            epochs::replace(&epochs, &self.names)?;
            self.sync_names()?;
        }
        if snapshots.last().is_some_and(|last| *last > end) {
            self.snapshots.remove_above(end)?;
        }
        *self.state.epochs_mut() = epochs;
        self.producers = Some(producers);
        self.set_end(end);
        self.flushing.appended_before(recovery.scanned_bytes);
        let before = self.marks;
        self.marks.high_watermark = self.marks.high_watermark.min(end);
        (self.marks.durable, self.marks.append_time) = (end, append_time);
        self.note_marks();
        if self.marks != before {
            self.write_marks()?;
        }
        Ok(recovery)
    }

    /// Whether the log was begun anew at its start: names of what was removed before that may have come back with the power.
    fn begun_anew(&self) -> bool {
        let Marks { log_start, durable, recovery_point, recovery_position, .. } = self.marks;
        durable == log_start && recovery_point == log_start && recovery_position == 0
    }

    /// Writes everything from `from` on once more, durably.
    fn write_again(&self, from: LogPosition) -> io::Result<()> {
        for (number, segment) in self.state.segments().iter().enumerate().skip(from.segment) {
            segment.write_again(if number == from.segment { from.position } else { 0 })?;
        }
        Ok(())
    }

    /// Writes the name of a last segment without records again, which need not be on the disk. The next flush makes it
    /// durable, before it acknowledges anything.
    fn renew_names(&mut self) -> io::Result<()> {
        if self.condition != Condition::Healthy {
            return Ok(());
        }
        let last = self.state.last_segment();
        if let Some(last) = last.filter(|last| last.size() == 0) {
            last.write_name_again()?;
            self.flushing.names_changed();
        }
        Ok(())
    }

    /// Makes the directory of the partition, durably, where it has none yet.
    pub(crate) fn keep_directory(&self) -> io::Result<()> {
        self.names.disk().create_dir(self.names.path())?;
        self.sync_names()
    }

    /// Makes the names of the partition's files durable, and that of its directory.
    pub(super) fn sync_names(&self) -> io::Result<()> {
        self.names.sync()?;
        let names = self.checkpoint.lock().names();
        names.sync()
    }

    /// Takes up which epochs were found below the damage, in memory: what is read there is compared with them.
    fn know_epochs_below(&self, damage: Offset, mut found: LeaderEpochs) {
        found.truncate(damage);
        found.forget_before(self.log_start());
        let mut epochs = self.state.epochs_mut();
        for known in epochs.of_records.starts().iter().filter(|known| known.start >= damage) {
            found.assign(known.epoch, known.start);
        }
        epochs.of_records = found;
    }

    /// Drops epochs that begin at the log end or above: a truncation did not get to that. The file follows with the next
    /// flush: it says something else only of records that come before.
    fn reconcile_epochs(&mut self) {
        let (log_start, end) = (self.log_start(), self.log_end());
        let mut epochs = self.state.epochs_mut();
        let before = epochs.clone();
        epochs.reconcile(log_start, end);
        if *epochs != before {
            self.flushing.epochs_changed(false);
        }
    }

    pub(super) fn set_end(&mut self, end: Offset) {
        self.state.set_end(end);
        let log_start = self.log_start().min(end);
        self.state.set_log_start(log_start);
    }

    /// What a repair has found is made durable, and nothing says any more that the log is damaged.
    fn finish_repair(&mut self) -> io::Result<()> {
        self.snapshots.remove_above(self.log_end())?;
        self.write_marks()?;
        self.sync_marks()?;
        self.forget_damage(Offset::ZERO)?;
        // A log that was opened as damaged has not had its names renewed.
        self.renew_names()
    }

    /// Gives up the damaged part of a corrupt log: the log ends where the damage begins, and takes writes again.
    /// What is cut is kept aside, up to a bound. Gives back where the log was known to end and how many bytes were set aside.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] when the log is not corrupt, [`LogError::Busy`] while a flush or an extension runs.
    pub fn repair(&mut self) -> Result<(Offset, u64), LogError> {
        let Condition::Corrupt { .. } = self.condition else {
            let (start, end) = (self.log_start(), self.log_end());
            return Err(LogError::OutOfRange { offset: end, start, end });
        };
        self.idle()?;
        let (known_end, synced, before) = (self.log_end(), self.marks.durable, self.marks);
        // What is left is found by reading it; the damage may begin before the offset at which it was met.
        self.marks.durable = self.log_start();
        self.active = None;
        self.forget_missing()?;
        self.flushing = Flushing::after_repair();
        self.state.begin_generation();
        (self.marks.recovery_point, self.marks.recovery_position) = (self.log_start(), 0);
        self.condition = Condition::Healthy;
        self.state.set_corrupt_from(None);
        let first = self.state.segments().first().map(|segment| segment.base);
        if let Some(first) = first.filter(|first| *first > self.log_start()) {
            // The files of the first records are missing: what comes behind them is kept.
            self.state.set_log_start(first);
            (self.marks.durable, self.marks.recovery_point) = (first, first);
        }
        if let Some(first) = first.filter(|first| *first < self.log_start()) {
            // It is not begun anew there.
            self.marks.recovery_point = first;
        }
        self.snapshots.point_goes_back(self.marks.recovery_point);
        // All of it is read: the damage may lie below what the index and a snapshot vouch for.
        let snapshots = self.snapshots.list()?;
        // What is damaged may be that there is nothing, not even the directory.
        let there = self.names.disk().create_dir(self.names.path()).and_then(|()| self.sync_names());
        let recovery =
            there.map_err(LogError::from).and_then(|()| self.recover(&snapshots, self.log_start(), (synced, true)));
        let recovery = recovery.inspect_err(|error| {
            // What is below was durable all the same.
            self.marks = before;
            self.fail(error.to_string());
        })?;
        let finished = self.finish_repair().and_then(|()| self.take_compacted());
        finished.inspect_err(|error| self.fail(format!("repair: {error}")))?;
        // What readers have met meanwhile is not of what comes now.
        self.state.begin_generation();
        Ok((known_end, recovery.cut.map_or(0, |cut| cut.kept.bytes)))
    }
}

/// Where a log begins of which there are no marks: with its first file, or with what was noted below it. Where that file is
/// missing, too, nobody else knows that there was one.
fn found_start(first: Offset, first_epoch: Option<Offset>, damage_notes: &[Offset]) -> Offset {
    let start = first.max(first_epoch.unwrap_or(first));
    damage_notes.iter().fold(start, |start, noted| start.min(*noted))
}

/// Makes the name of a partition's directory durable where nothing has proven yet that it is: what is found counts as
/// durable from here on. `found`: whether it exists, and has no segment.
fn prove_directory(
    disk: &dyn Disk,
    dir: &Path,
    around: &DirectoryNames,
    found: (bool, bool),
    marks: &Marks,
) -> io::Result<()> {
    match found {
        (true, empty) if empty || marks.durable <= marks.log_start => around.write_again(dir)?,
        // All records were deleted, and the directory went with the power. The log start counts as durable, and would be
        // taken for a proof that the directory is, too, once it is back.
        (false, _) if marks.log_start > Offset::ZERO && marks.durable <= marks.log_start => disk.create_dir(dir)?,
        _ => return Ok(()),
    }
    around.sync()
}

/// Takes out the segments that lie wholly below the log start: a deletion of records was interrupted, or a power loss
/// has brought some of the names back. Some may be missing between them. They are removed when the log start is known to
/// be durable: what says it here may be in the cache and not on the disk.
fn below_start(segments: &mut Vec<Arc<Segment>>, log_start: Offset) -> Vec<Arc<Segment>> {
    let first = segments.partition_point(|segment| segment.base <= log_start).saturating_sub(1);
    segments.drain(..first).collect()
}
