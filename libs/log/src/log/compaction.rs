//! Compaction, as the writer of a log sees it: a job is taken, and what it has written is put in its place.

use std::io;

use bytes::{Buf as _, BufMut as _};
use walser_model::Offset;

use super::{Condition, Log, LogError};
use crate::checked::{seal, take, unseal};
use crate::compaction::{
    ClosedSegment, Compacted, CompactionJob, CompactionOutcome, CompactionRules, Replacement, swap,
};
use crate::disk::{read_file, remove_file_if_any};

/// Of the file that says up to where a log is compacted: where it is missing, all of it is compacted once more.
pub(super) const COMPACTED_NAME: &str = "compacted";
const MAGIC: &[u8; 4] = b"WCMP";
const VERSION: u16 = 1;
const FILE_BYTES_MAX: u64 = 64;

impl Log {
    /// Everything below was compacted. Exclusive.
    pub fn compacted(&self) -> Offset {
        self.compacted
    }

    /// Work that compacts the closed segments that lie wholly below `up_to` (exclusive) and are durable. `None`: all that
    /// may be compacted was. Records at and above `up_to` MUST NOT be needed by any key below: it is the high watermark or
    /// less. One job of a log runs at a time.
    ///
    /// # Errors
    /// As for appending; I/O errors while looking at segments.
    pub fn begin_compaction(
        &mut self,
        up_to: Offset,
        rules: CompactionRules,
    ) -> Result<Option<CompactionJob>, LogError> {
        self.writable()?;
        let bound = up_to.min(self.marks.durable);
        let all = self.state.segments().clone();
        let mut segments = Vec::new();
        for (segment, next) in all.iter().zip(all.iter().skip(1)) {
            // Where it cannot be read its age is not known either.
            let young = segment.max_timestamp()?.map_or(true, |newest| newest > rules.newest);
            if next.base > bound || young {
                break;
            }
            segments.push(ClosedSegment { segment: segment.clone(), end: next.base });
        }
        if segments.last().is_none_or(|last| last.end <= self.compacted) {
            return Ok(None);
        }
        Ok(Some(CompactionJob {
            partition: self.partition,
            generation: self.generation,
            names: self.names.clone(),
            segments,
            from: self.compacted,
            rules,
            last_of_producers: self.producers()?.last_batches(),
            segment_bytes: self.config.segment_bytes,
            interval_bytes: self.config.index_interval_bytes,
        }))
    }

    /// Puts what a job has written in the place of what it has read, durably. `None`: the log was cut, or segments have gone,
    /// since, and nothing of it counts.
    ///
    /// # Errors
    /// After an I/O error the log is out of service; opening it again completes or undoes the compaction.
    pub fn finish_compaction(&mut self, outcome: CompactionOutcome) -> Result<Option<Compacted>, LogError> {
        self.writable()?;
        let CompactionOutcome { generation, replacements, compacted } = outcome;
        let there = generation == self.generation && replacements.iter().all(|found| self.has(found));
        if !there {
            let dir = self.names.path();
            for Replacement { new, .. } in &replacements {
                remove_file_if_any(&**self.names.disk(), &dir.join(swap::cleaned_name(new.base, generation)))?;
            }
            return Ok(None);
        }
        let done = self.swap(&replacements, compacted);
        done.inspect_err(|error| self.fail(format!("compaction: {error}")))?;
        let sum = |bytes: &dyn Fn(&Replacement) -> u64| replacements.iter().map(bytes).sum();
        let old = sum(&|found| found.old.iter().map(|segment| segment.size()).sum());
        let new = sum(&|found| found.new.size());
        Ok(Some(Compacted { up_to: compacted, bytes: (old, new) }))
    }

    /// Whether the segments of a replacement are still there, side by side.
    fn has(&self, replacement: &Replacement) -> bool {
        let segments = self.state.segments();
        let at = segments.partition_point(|segment| segment.base < replacement.new.base);
        let found = segments.get(at..at + replacement.old.len()).unwrap_or_default();
        found.len() == replacement.old.len()
            && found.iter().zip(&replacement.old).all(|(found, old)| std::sync::Arc::ptr_eq(found, old))
    }

    fn swap(&mut self, replacements: &[Replacement], compacted: Offset) -> io::Result<()> {
        let (disk, dir) = (self.names.disk().clone(), self.names.path().to_owned());
        for Replacement { new, .. } in replacements {
            disk.rename(
                &dir.join(swap::cleaned_name(new.base, self.generation)),
                &dir.join(swap::swap_name(new.base)),
            )?;
        }
        self.names.sync()?;
        let mut replaced = Vec::with_capacity(replacements.len());
        for Replacement { old, new } in replacements {
            let mut segments = self.state.segments_mut();
            let at = segments.partition_point(|segment| segment.base < new.base);
            segments.splice(at..at + old.len(), [new.clone()]);
            drop(segments);
            old.iter().for_each(|segment| segment.replace());
            replaced.push(old.iter().map(|segment| segment.base).collect());
        }
        swap::put_in_place(&*disk, &dir, &replaced, || self.names.sync())?;
        for Replacement { new, .. } in replacements {
            new.write_whole_index()?;
        }
        self.write_compacted(compacted)?;
        self.write_marks()
    }

    /// Notes up to where the log is compacted, durably.
    pub(super) fn write_compacted(&mut self, compacted: Offset) -> io::Result<()> {
        let mut bytes = Vec::new();
        bytes.put_slice(MAGIC);
        bytes.put_u16(VERSION);
        bytes.put_u16(0);
        bytes.put_i64(compacted.0);
        seal(&mut bytes, 0);
        self.names.replace_file(COMPACTED_NAME, &bytes)?;
        self.compacted = compacted;
        Ok(())
    }

    /// Takes over what is written down, as far as the log still reaches.
    pub(super) fn take_compacted(&mut self) -> io::Result<()> {
        let known = self.read_compacted()?;
        self.compacted = known.min(self.log_end());
        if known > self.compacted && self.condition == Condition::Healthy {
            self.write_compacted(self.compacted)?;
        }
        Ok(())
    }

    /// What the file says; the start where it is not there, or damaged.
    fn read_compacted(&self) -> io::Result<Offset> {
        let bytes = read_file(&**self.names.disk(), &self.names.path().join(COMPACTED_NAME), FILE_BYTES_MAX)?;
        let known = bytes.as_deref().and_then(unseal).and_then(|mut body| {
            let (magic, version) = (take(&mut body)?, body.try_get_u16().ok()?);
            body.try_get_u16().ok().filter(|_| &magic == MAGIC && version == VERSION)?;
            body.try_get_i64().ok()
        });
        Ok(Offset(known.unwrap_or(0).max(0)))
    }
}
