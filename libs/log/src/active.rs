//! The segment that appends go to.

use std::io::{self, IoSlice};
use std::sync::Arc;

use walser_model::{Offset, Timestamp};
use walser_record_batch::{BatchHeader, HEADER_LEN};

use crate::directory_names::DirectoryNames;
use crate::disk::{DiskFile, Open, out_of_files, out_of_space};
use crate::extension::Extension;
use crate::segment::Segment;

/// Files below this, or below this part of a full segment, are not extended: most partitions are small.
const EXTEND_FROM_BYTES: u64 = 64 << 10;
const EXTEND_FROM_PART: u64 = 16;
/// Smallest extension, which is never more than this part of a full segment, and the largest.
const EXTENSION_BYTES_MIN: u64 = 256 << 10;
const EXTENSION_PART: u64 = 4;
const EXTENSION_BYTES_MAX: u64 = 16 << 20;
/// Where space is only taken, it is this part of what the segment has: thousands of partitions take it from each other.
const TAKEN_PART: u64 = 8;

/// The last segment of a log, open for appending.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    /// Largest timestamp of its first batch; `None` while it is empty.
    first_timestamp: Option<Timestamp>,
    /// Space is taken up to here, and reads as zeros; with fsync zeros were written and synced.
    zeroed_to: u64,
    /// The extension that runs.
    extending: Option<Extending>,
    /// No extension is begun before the segment has this size: the last one found no space, or no file to open.
    extend_at: u64,
}

/// An extension that runs.
#[derive(Debug, Clone, Copy)]
struct Extending {
    /// Where its region begins.
    from: u64,
    /// It writes zeros: nothing else may be written there.
    zeros: bool,
}

/// Whether a batch can be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The batch can be appended at once.
    Fits,
    /// Once the extension has finished that is running.
    AfterExtension,
    /// Once [`Log::prepare_append`](crate::Log::prepare_append) has been called, which waits for the disk.
    AfterPreparation,
}

impl ActiveSegment {
    /// Opens an existing segment. `Ok(Err(end))`: it ends there and not at `log_end`; records that were there have
    /// become something else, and nothing may be written in their place.
    pub(crate) fn open(segment: Arc<Segment>, log_end: Offset) -> io::Result<Result<Self, Offset>> {
        let file = segment.file(Open::Write)?;
        let zeroed_to = file.len()?;
        if zeroed_to < segment.size() {
            // Somebody has removed or cut it: what the index says does not count.
            return Ok(Err(segment.base));
        }
        // Everything that can fail for want of files does so before anything is written.
        let end = segment.end()?;
        if end != log_end {
            return Ok(Err(end));
        }
        let first_timestamp = first_timestamp(&*file, segment.size())?;
        Ok(Ok(Self { segment, file, first_timestamp, zeroed_to, extending: None, extend_at: 0 }))
    }

    /// Makes the file of the next one, which MUST be emptied before anything is written. Its name is not durable yet.
    pub(crate) fn create(names: &DirectoryNames, base: Offset) -> io::Result<Self> {
        let segment = Arc::new(Segment::new(Arc::clone(names.disk()), names.path(), base, 0));
        let file: Arc<dyn DiskFile> = segment.file(Open::Write)?;
        segment.start_index();
        Ok(Self { segment, file, first_timestamp: None, zeroed_to: 0, extending: None, extend_at: 0 })
    }

    /// The segment.
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The file that a flush syncs.
    pub(crate) fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }

    /// Whether space is being filled ahead.
    pub(crate) fn extension_running(&self) -> bool {
        self.extending.is_some()
    }

    /// Whether a batch can be appended behind `before` bytes that come first. A segment is closed before it would exceed
    /// `segment_bytes` or span 2^32 offsets, and before a batch that is newer than its first one by `age_millis`.
    pub(crate) fn admission(
        &self,
        before: usize,
        batch: &BatchHeader,
        segment_bytes: u64,
        age_millis: i64,
    ) -> Admission {
        let size = self.segment.size() + before as u64;
        let end = size + batch.size as u64;
        // By the time of records, as in Kafka: it is theirs that retention looks at.
        let old = self.first_timestamp.is_some_and(|first| batch.max_timestamp.saturating_sub(first) >= age_millis);
        // An index entry has 32 bits for what the offset is beyond the base, and an empty batch may span many.
        let far = batch.next_offset().since(self.segment.base) > i64::from(u32::MAX);
        let next = size > 0 && (end > segment_bytes || far || old && self.extending.is_none());
        match self.extending {
            Some(running) if running.zeros && end > running.from || next => Admission::AfterExtension,
            _ if next => Admission::AfterPreparation,
            _ => Admission::Fits,
        }
    }

    /// Appends batches that fit. `Err` with how many of them are in the segment, and how many bytes of it are good.
    pub(crate) fn write(
        &mut self,
        run: &mut [IoSlice<'_>],
        headers: &[BatchHeader],
        index_interval_bytes: u64,
    ) -> Result<(), (usize, io::Error)> {
        let mut position = self.segment.size();
        self.file.write_pieces_at(run, position).map_err(|error| (0, error))?;
        for (count, header) in headers.iter().enumerate() {
            self.segment.note(header, position, index_interval_bytes).map_err(|error| (count, error))?;
            position += header.size as u64;
        }
        if let Some(first) = headers.iter().find(|header| has_records(header)) {
            self.first_timestamp.get_or_insert(first.max_timestamp);
        }
        Ok(())
    }

    /// Cuts what a failed append may have left behind the end, or recovery would bring it back.
    pub(crate) fn cut_behind_end(&mut self) -> io::Result<()> {
        let end = self.segment.size();
        self.file.set_len(end)?;
        self.zeroed_to = self.zeroed_to.min(end);
        Ok(())
    }

    /// Whether space is taken behind the end.
    pub(crate) fn has_space_ahead(&self) -> bool {
        self.zeroed_to > self.segment.size()
    }

    /// Cuts the zeros behind the end, which may lie farther ahead than is known: an extension may have ended early.
    /// Returns whether there were any.
    pub(crate) fn trim(&self) -> io::Result<bool> {
        let longer = self.file.len()? > self.segment.size();
        if longer {
            self.file.set_len(self.segment.size())?;
        }
        Ok(longer)
    }

    /// Brings back a fault: the age begins anew.
    #[cfg(feature = "faults")]
    pub(crate) fn restart_age(&mut self) {
        self.first_timestamp = None;
    }

    /// Begins an extension when the end comes near that of what is taken: the region to take, and to fill with `zeros`.
    pub(crate) fn begin_extension(&mut self, segment_bytes: u64, zeros: bool) -> Option<(u64, u64)> {
        let size = self.segment.size();
        let extend_from = EXTEND_FROM_BYTES * if zeros { 1 } else { TAKEN_PART };
        let extend_from = extend_from.min(segment_bytes / EXTEND_FROM_PART).max(self.extend_at);
        let step = extension_step(if zeros { size } else { size / TAKEN_PART }, segment_bytes);
        let ahead = self.zeroed_to.saturating_sub(size);
        if self.extending.is_some() || size < extend_from || ahead > step / 2 {
            return None;
        }
        // Where zeros are written, appends go on below them meanwhile: into filled space, or into a gap.
        let gap = if zeros { step / 4 } else { 0 };
        let from = self.zeroed_to.max(size + gap).next_multiple_of(4096);
        let to = (from + step).min(segment_bytes.next_multiple_of(4096));
        if to <= from {
            return None;
        }
        self.extending = Some(Extending { from, zeros });
        Some((from, to))
    }

    /// Takes the outcome of an extension.
    ///
    /// # Errors
    /// What a disk says that is neither full nor short of files.
    pub(crate) fn finish_extension(&mut self, extension: &Extension, outcome: &io::Result<()>) -> Result<(), String> {
        if self.segment.base != extension.segment.base
            || self.extending.is_none_or(|running| running.from != extension.from)
        {
            return Ok(());
        }
        self.extending = None;
        match outcome {
            Ok(()) => self.zeroed_to = extension.to,
            // What is only taken ahead is nothing that anybody relies on: a write says itself what is wrong.
            Err(error) if !extension.zeros || is_harmless(error) => {
                // What was filled of it counts for nothing; the file grows as it is written.
                self.extend_at = self.segment.size() + (extension.to - extension.from);
            }
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }
}

/// Whether an extension has failed for want of something that the log can do without.
fn is_harmless(error: &io::Error) -> bool {
    out_of_space(error) || out_of_files(error)
}

fn extension_step(size: u64, segment_bytes: u64) -> u64 {
    size.clamp(EXTENSION_BYTES_MIN.min(segment_bytes / EXTENSION_PART), EXTENSION_BYTES_MAX)
}

/// One without stands for what compaction has dropped, and has no time.
fn has_records(header: &BatchHeader) -> bool {
    header.record_count > 0
}

/// Largest timestamp of the first batch of a segment with `size` bytes of log. `None`: it has no records.
fn first_timestamp(file: &dyn DiskFile, size: u64) -> io::Result<Option<Timestamp>> {
    if size == 0 {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.read_at(&mut bytes, 0, HEADER_LEN)?;
    Ok(BatchHeader::parse(&bytes).ok().filter(has_records).map(|header| header.max_timestamp))
}
