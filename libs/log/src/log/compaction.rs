//! Compaction, as the writer of a log sees it: a job is taken, and what it has written is put in its place.

use std::io;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};
use walser_model::{Offset, Timestamp};

use super::{Condition, Log, LogError};
use crate::checked::{seal, take, unseal};
use crate::compaction::{
    ClosedSegment, Compactable, Compacted, CompactedTo, CompactionJob, CompactionRules, CompactionStep, Replacement,
    Uncleaned, WaitingTombstone, swap,
};
use crate::disk::{out_of_files, out_of_space, read_file, remove_file_if_any};
use crate::faults::LogFaults;
use crate::log_state::{LogState, Replacing};
use crate::segment::Segment;

/// Of the file that says up to where a log is compacted: where it is missing, all of it is compacted once more.
pub(super) const COMPACTED_NAME: &str = "compacted";
const MAGIC: &[u8; 4] = b"WCMP";
const VERSION: u16 = 2;
const FILE_BYTES_MAX: u64 = 64;
/// Stands for none.
const NO_TOMBSTONE: WaitingTombstone = WaitingTombstone { over: Timestamp::MAX, at: Offset(i64::MAX) };

impl Log {
    /// Everything below was compacted. Exclusive.
    pub fn compacted(&self) -> Offset {
        self.compacted.end
    }

    /// Tombstones below may be gone: a log that ends before that may have what they deleted, and MUST NOT be made to follow
    /// this one by appending what it lacks. Exclusive, and durable.
    pub fn tombstone_floor(&self) -> Offset {
        self.state.tombstone_floor()
    }

    /// What a compaction up to `up_to` (exclusive) would look at; `None`: nothing that is new, and no tombstone was left. Nothing
    /// here waits for the disk.
    pub fn compactable(&self, up_to: Offset) -> Option<Compactable> {
        let segments = self.state.segments();
        let mut found = Compactable::default();
        for (segment, end) in self.closed(&segments, up_to) {
            // All of them have to be looked at.
            found.tombstone = self.compacted.tombstone.filter(|_| end >= self.compacted.end);
            if end <= self.compacted.end {
                found.clean_bytes += segment.size();
                continue;
            }
            if found.dirty_bytes == 0 {
                found.first_newest = segment.newest_in_memory();
            }
            found.dirty_bytes += segment.size();
        }
        (found.dirty_bytes > 0 || found.tombstone.is_some()).then_some(found)
    }

    /// The closed ones of its segments that lie wholly below an offset (exclusive) and are durable, each with its end.
    fn closed<'a>(
        &self,
        segments: &'a [Arc<Segment>],
        up_to: Offset,
    ) -> impl Iterator<Item = (&'a Arc<Segment>, Offset)> + use<'a> {
        let up_to = if self.faults().compacts_uncommitted { Offset(i64::MAX) } else { up_to };
        LogState::closed(segments, up_to.min(self.marks.durable))
    }

    /// Work that compacts the closed segments that lie wholly below `up_to` (exclusive) and are durable. `None`: all that
    /// may be compacted was. Records at and above `up_to` MUST NOT be needed by any key below: it is the high watermark or
    /// less. One job of a log runs at a time: what comes of an earlier one does not count any more.
    ///
    /// # Errors
    /// As for appending; I/O errors while looking at segments.
    pub fn begin_compaction(
        &mut self,
        up_to: Offset,
        rules: CompactionRules,
    ) -> Result<Option<CompactionJob>, LogError> {
        self.writable()?;
        self.compactions += 1;
        if Replacing::new(&self.state).is_none() {
            return Ok(None);
        }
        let all = self.state.segments().clone();
        let mut segments = Vec::new();
        for (segment, end) in self.closed(&all, up_to) {
            // Of what was compacted the age was asked before.
            if rules.newest < Timestamp::MAX && end > self.compacted.end {
                let newest = segment.max_timestamp()?;
                // There may be more of them than files may be open.
                segment.close();
                // Where it cannot be read its age is not known either.
                if newest.map_or(true, |newest| newest > rules.newest) {
                    break;
                }
            }
            segments.push(ClosedSegment { segment: Arc::clone(segment), end });
        }
        let tombstone = self.compacted.tombstone;
        let some_goes = tombstone.is_some_and(|left| left.goes(rules.now, rules.tombstone_floor));
        let Some(end) = segments
            .last()
            .map(|last| last.end)
            .filter(|end| *end > self.compacted.end || some_goes && *end == self.compacted.end)
        else {
            return Ok(None);
        };
        let faults = self.faults();
        let faulty = faults.drops_tombstones;
        let rules = if faulty { CompactionRules { tombstone_floor: Offset(i64::MAX), ..rules } } else { rules };
        // Before anything goes; that there is such a file tells a start to look for names that have come back.
        let floor = rules.tombstone_floor.min(end).max(self.tombstone_floor());
        if (floor > self.tombstone_floor() || !self.compacted_file) && !faulty {
            self.write_compacted(self.compacted, floor)?;
        }
        let epochs = self.state.epochs().of_records.clone();
        let mut last_of_producers = self.producers()?.last_batches();
        if faults.drops_last_batches {
            last_of_producers.clear();
        }
        Ok(Some(CompactionJob {
            partition: self.partition,
            generation: self.state.generation(),
            number: self.compactions,
            names: self.names.clone(),
            epochs,
            segments,
            from: self.compacted.end,
            uncleaned: if faulty { Uncleaned::NONE } else { self.compacted.uncleaned.from(self.retained()) },
            tombstone,
            rules,
            last_of_producers,
            segment_bytes: self.config.segment_bytes,
            interval_bytes: self.config.index_interval_bytes,
            pass: None,
            damaged_at: None,
            faults,
        }))
    }

    /// None outside of simulations.
    #[cfg_attr(not(feature = "faults"), expect(clippy::unused_self, reason = "the same face as with faults"))]
    fn faults(&self) -> LogFaults {
        #[cfg(feature = "faults")]
        return self.faults;
        #[cfg(not(feature = "faults"))]
        LogFaults::NONE
    }

    /// Puts what a job has written in the place of what it has read, durably. `None`: the log was cut, or segments have gone,
    /// since, or somebody holds a [`crate::LogPin`]; the step does not count, nor does any behind it.
    ///
    /// # Errors
    /// I/O errors. Where it is not known which of the files count, the log is out of service; opening it again completes or
    /// undoes the step. Otherwise the log goes on with what it had.
    pub fn take_compaction_step(&mut self, step: CompactionStep) -> Result<Option<Compacted>, LogError> {
        let CompactionStep { generation, number, replacement, compacted, left } = step;
        let (writable, replacing) = (self.writable(), Replacing::new(&self.state));
        let there = replacement.as_ref().is_none_or(|found| replacing.is_some() && self.has(found));
        let counts = there && generation == self.state.generation() && number == self.compactions;
        if writable.is_err() || !counts {
            self.compactions += 1;
            if let Some(Replacement { new, .. }) = replacement {
                let path = self.names.path().join(swap::cleaned_name(new.base, generation));
                remove_file_if_any(&**self.names.disk(), &path)?;
            }
            return writable.map(|()| None);
        }
        let mut done = Compacted { left, ..Compacted::default() };
        if let Some(replacement) = replacement {
            self.replace(&replacement)?;
            done.bytes_before = replacement.old.iter().map(|segment| segment.size()).sum();
            done.bytes_after = replacement.new.size();
        }
        if let Some(compacted) = compacted {
            self.write_compacted(compacted, self.tombstone_floor())?;
        }
        Ok(Some(done))
    }

    /// Where the damage begins that a job has met, unless the log was cut, or the records have gone, since.
    pub fn damage_met_by(&self, job: &CompactionJob) -> Option<Offset> {
        job.damaged_at.filter(|at| job.generation == self.state.generation() && *at >= self.log_start())
    }

    /// Whether the segments of a replacement are still there, side by side.
    fn has(&self, replacement: &Replacement) -> bool {
        let segments = self.state.segments();
        let at = segments.partition_point(|segment| segment.base < replacement.new.base);
        let found = segments.get(at..at + replacement.old.len()).unwrap_or_default();
        found.len() == replacement.old.len()
            && found.iter().zip(&replacement.old).all(|(found, old)| Arc::ptr_eq(found, old))
    }

    fn replace(&mut self, replacement: &Replacement) -> Result<(), LogError> {
        self.make_it_count(replacement.new.base)?;
        let Replacement { old, new } = replacement;
        {
            let mut segments = self.state.segments_mut();
            let at = segments.partition_point(|segment| segment.base < new.base);
            segments.splice(at..at + old.len(), [new.clone()]);
        }
        old.iter().for_each(|segment| segment.replace());
        let bases: Vec<_> = old.iter().map(|segment| segment.base).collect();
        let (disk, dir) = (self.names.disk(), self.names.path());
        let placed = swap::put_in_place(&**disk, dir, &[bases], || self.names.sync());
        placed.inspect_err(|error| self.fail(format!("compaction: {error}")))?;
        // The index is made again from the log where it is not there.
        if let Err(error) = new.write_whole_index() {
            tracing::warn!(partition = %self.partition, %error, "the index of a compacted segment is not written");
        }
        Ok(self.write_marks()?)
    }

    /// Gives a file that was written the name by which it counts.
    fn make_it_count(&mut self, base: Offset) -> Result<(), LogError> {
        let (disk, dir) = (self.names.disk().clone(), self.names.path());
        let (cleaned, swap) =
            (dir.join(swap::cleaned_name(base, self.state.generation())), dir.join(swap::swap_name(base)));
        let renamed = disk.rename(&cleaned, &swap).and_then(|()| self.names.sync());
        if let Err(error) = renamed {
            let gone = remove_file_if_any(&*disk, &swap).and_then(|()| remove_file_if_any(&*disk, &cleaned));
            self.flushing.names_changed();
            if !out_of_files(&error) && !out_of_space(&error) || gone.is_err() {
                self.fail(format!("compaction: {error}"));
            }
            return Err(error.into());
        }
        Ok(())
    }

    /// Notes up to where the log is compacted, and below what tombstones may be gone, durably.
    pub(crate) fn write_compacted(&mut self, compacted: CompactedTo, floor: Offset) -> io::Result<()> {
        let mut bytes = Vec::new();
        bytes.put_slice(MAGIC);
        bytes.put_u16(VERSION);
        bytes.put_u16(0);
        bytes.put_i64(compacted.end.0);
        bytes.put_i64(floor.0);
        bytes.put_i64(compacted.uncleaned.first.0);
        // A version before this one reads no further.
        let left = compacted.tombstone.unwrap_or(NO_TOMBSTONE);
        bytes.put_i64(left.over);
        bytes.put_i64(left.at.0);
        bytes.put_i64(compacted.uncleaned.last.0);
        seal(&mut bytes, 0);
        self.names.replace_file(COMPACTED_NAME, &bytes)?;
        self.compacted_file = true;
        self.know_compacted(compacted, floor);
        Ok(())
    }

    fn know_compacted(&mut self, compacted: CompactedTo, floor: Offset) {
        self.compacted = compacted;
        self.state.set_compacted(compacted.end);
        self.state.set_tombstone_floor(floor);
    }

    /// Takes over what is written down, as far as the log still reaches.
    pub(super) fn take_compacted(&mut self) -> io::Result<()> {
        let (known, floor) = self.read_compacted()?;
        let end = self.log_end();
        self.know_compacted(known.cut(end), floor.min(end));
        if known.end.max(floor) > end && self.condition == Condition::Healthy {
            self.write_compacted(self.compacted, floor.min(end))?;
        }
        Ok(())
    }

    /// Both are at most where a log ends that was cut.
    pub(super) fn cut_compacted(&mut self, to: Offset) -> io::Result<()> {
        let floor = self.tombstone_floor();
        if self.compacted.end.max(floor) > to {
            self.write_compacted(self.compacted.cut(to), floor.min(to))?;
        }
        Ok(())
    }

    /// What the file says. Where it is damaged nothing is compacted, and any tombstone may be gone.
    fn read_compacted(&self) -> io::Result<(CompactedTo, Offset)> {
        let bytes = read_file(&**self.names.disk(), &self.names.path().join(COMPACTED_NAME), FILE_BYTES_MAX)?;
        let Some(bytes) = bytes else { return Ok((CompactedTo::NONE, Offset::ZERO)) };
        let known = unseal(&bytes).and_then(|mut body| {
            let (magic, version) = (take(&mut body)?, body.try_get_u16().ok()?);
            body.try_get_u16().ok().filter(|_| &magic == MAGIC && version == VERSION)?;
            let mut next = || Some(Offset(body.try_get_i64().ok().filter(|offset| *offset >= 0)?));
            let (end, floor, first) = (next()?, next()?, next()?);
            // The version before this one did not note which are left.
            let left = match body.try_get_i64() {
                Ok(over) => WaitingTombstone { over, at: Offset(body.try_get_i64().ok()?) },
                Err(_) => WaitingTombstone::UNKNOWN,
            };
            let tombstone = Some(left).filter(|left| *left != NO_TOMBSTONE && left.at < end);
            // Nor, where there are any, which one is the last.
            let last = match body.try_get_i64() {
                Ok(last) => Offset(last),
                Err(_) if first == Uncleaned::NONE.first => Uncleaned::NONE.last,
                Err(_) => Offset(i64::MAX),
            };
            Some((CompactedTo { end, uncleaned: Uncleaned { first, last }, tombstone }, floor))
        });
        Ok(known.unwrap_or((CompactedTo::NONE, Offset(i64::MAX))))
    }
}
