//! Giving up the newest records: for a replica that must follow another log (KIP-101).

use std::io;
use std::sync::Arc;

use walser_model::{EpochStart, Offset};
use walser_record_batch::{BatchHeader, HEADER_LEN, Producer, empty_batch};

use super::kept::Kept;
use super::{KEPT_PREFIX, Log, LogError};
use crate::disk::Open;
use crate::epochs::Epochs;
use crate::flush::Flushing;
use crate::producers::Producers;
use crate::recovery_scan::LogPosition;
use crate::scan::{Scan, Step};
use crate::segment::Segment;

/// Where a log is cut.
#[derive(Debug)]
struct CutPlace {
    /// Of the segment's file.
    position: u64,
    /// The offset of the batch there.
    offset: Offset,
    /// What is written there: the part before the cut of a batch that stands for records which compaction has dropped, or
    /// of which all before the cut are deleted.
    part: Option<[u8; HEADER_LEN]>,
}

impl CutPlace {
    /// The place before `to`: a batch that starts there, or the end of the segment. `None`: it is inside a batch with
    /// records, some of which stay.
    fn find(segment: &Segment, to: Offset, log_start: Offset) -> io::Result<Option<Self>> {
        let file = segment.file(Open::Read)?;
        let mut scan = Scan::new(&*file, segment.place_for(to)?.0, segment.size());
        loop {
            let (position, header) = match scan.step()? {
                Step::Batch(found) if found.header.next_offset() <= to => continue,
                Step::Batch(found) => (found.position, found.header),
                Step::End | Step::Zeros(_) | Step::Invalid(_) => {
                    return Ok(Some(Self { position: segment.size(), offset: to, part: None }));
                }
            };
            let offset = header.base_offset;
            if offset == to {
                return Ok(Some(Self { position, offset, part: None }));
            }
            let part = (header.record_count == 0 || to == log_start).then(|| {
                let BatchHeader { producer_id: id, producer_epoch: epoch, base_sequence, .. } = header;
                empty_batch(offset, to, header.leader_epoch, Producer { id, epoch, base_sequence })
            });
            return Ok(part.map(|part| Self { position, offset, part: Some(part) }));
        }
    }
}

impl Log {
    /// Cuts everything at and above `to`, durably: for a replica that must follow another log (KIP-101). Where that are records
    /// which were taken for committed, or may have been as far as the caller knows (`maybe_committed`), they are kept, up
    /// to a bound of bytes, in a file beside the log, which is returned. What was committed last before a kill is not written down here.
    ///
    /// # Errors
    /// I/O errors. Where the cut had begun the log is out of service ([`Log::condition`]), and opening it again completes or
    /// undoes it; otherwise nothing has changed.
    /// [`LogError::OutOfRange`] when `to` is outside the log, or inside a batch and not the log start; [`LogError::Busy`]
    /// while a flush or an extension runs.
    pub fn truncate(&mut self, to: Offset, maybe_committed: bool) -> Result<Option<Kept>, LogError> {
        self.writable()?;
        self.idle()?;
        let (start, end) = (self.log_start(), self.log_end());
        let out_of_range = LogError::OutOfRange { offset: to, start, end };
        if to >= end {
            return if to == end { Ok(None) } else { Err(out_of_range) };
        }
        if to < start {
            return Err(out_of_range);
        }
        let segments = self.state.segments().clone();
        let at = segments.partition_point(|segment| segment.base <= to).saturating_sub(1);
        let place = CutPlace::find(&segments[at], to, start)?.ok_or(out_of_range)?;
        let gives_up = maybe_committed || to < self.marks.high_watermark;
        let kept =
            gives_up.then(|| self.keep(&LogPosition { segment: at, position: place.position }, to)).transpose()?;
        // A part of it may have happened: what is in memory is not what is on the disk any more.
        self.cut(&segments, at, &place, to).inspect_err(|error| self.fail(format!("truncate: {error}")))?;
        Ok(kept)
    }

    /// Copies all records, up to a bound of bytes, into a file beside the log, durably, and returns it; `None`: there are
    /// none. For a log in whose place another one is put.
    ///
    /// # Errors
    /// I/O errors.
    pub fn keep_records(&self) -> io::Result<Option<Kept>> {
        let retained = self.retained();
        let there = self.log_end() > retained;
        there.then(|| self.keep(&LogPosition { segment: 0, position: 0 }, retained)).transpose()
    }

    /// Copies everything from a position on into a file beside the log, durably.
    fn keep(&self, from: &LogPosition, to: Offset) -> io::Result<Kept> {
        self.keep_tail(from, &format!("{KEPT_PREFIX}{:020}-to-{:020}", to.0, self.log_end().0))
    }

    /// Does it, in an order in which a crash at any step leaves a log that opens: either as it was, or shorter.
    fn cut(&mut self, segments: &[Arc<Segment>], at: usize, place: &CutPlace, to: Offset) -> Result<(), LogError> {
        self.active = None;
        self.state.begin_generation();
        // First the marks: a durable mark above the end of the log would be taken for damage.
        self.marks.durable = self.marks.durable.min(place.offset);
        if self.marks.recovery_point > place.offset {
            self.marks.recovery_point = place.offset;
            self.marks.recovery_position = place.position;
        }
        self.marks.high_watermark = self.marks.high_watermark.min(to);
        self.write_marks()?;
        self.sync_marks()?;
        // Readers see that it ends there before anything is gone.
        self.state.set_end(to);
        self.cut_compacted(to)?;
        // A snapshot above the end must not meet other records under the same offsets.
        self.snapshots.remove_above(to)?;
        // The newest segment first, so that what is left has no gap.
        for segment in segments[at + 1..].iter().rev() {
            segment.remove()?;
            self.names.sync()?;
        }
        self.state.segments_mut().truncate(at + 1);
        let file = segments[at].cut(place.position)?;
        if let Some(part) = &place.part {
            file.write_at(part, place.position)?;
            segments[at].grow_to(place.position + part.len() as u64);
        }
        file.sync_data()?;
        if place.part.is_some() {
            self.marks.durable = to;
        }
        self.state.epochs_mut().truncate(to);
        self.replace_epochs()?;
        self.producers = Some(self.load_producers(to)?);
        self.write_marks()?;
        // What readers have met meanwhile is not of what comes now.
        self.state.begin_generation();
        Ok(())
    }

    /// Begins a log without records anew at an offset, durably: for a replica whose leader has nothing before that any more.
    /// What it knows of leader epochs is forgotten.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] when there are records, or the log begins beyond the offset already; [`LogError::Busy`] while
    /// a flush or an extension runs. After an I/O error the log is out of service; opening it again finds it as it was, or
    /// begun anew.
    pub fn start_at(&mut self, offset: Offset) -> Result<(), LogError> {
        self.writable()?;
        self.idle()?;
        let (start, end) = (self.log_start(), self.log_end());
        if end > start || offset < start {
            return Err(LogError::OutOfRange { offset, start, end });
        }
        let known = *self.state.epochs() != Epochs::default();
        let outcome = if offset == start && !known { Ok(()) } else { self.begin_at(offset, None) };
        outcome.inspect_err(|error| self.fail(format!("start anew: {error}")))?;
        Ok(())
    }

    /// Begins it anew at an offset, durably. Of leader epochs it knows then what was `begun` here, if the log reaches that.
    pub(super) fn begin_at(&mut self, offset: Offset, begun: Option<EpochStart>) -> io::Result<()> {
        self.active = None;
        self.state.begin_generation();
        self.flushing = Flushing::default();
        // What says by its name where the log began goes first. Then the marks say it: the old ones, or the new.
        let segments = std::mem::take(&mut *self.state.segments_mut());
        segments.iter().try_for_each(|segment| segment.remove())?;
        let begun = begun.filter(|begun| begun.start <= offset);
        let kept = Epochs { begun, ..Epochs::default() };
        let epochs = std::mem::replace(&mut *self.state.epochs_mut(), kept);
        if !segments.is_empty() || epochs != Epochs::default() {
            self.names.disk().create_dir(self.names.path())?;
            self.snapshots.remove_above(Offset(-1))?;
            // Its sync is that of the names, too.
            self.replace_epochs()?;
            self.epoch_on_disk = self.state.epochs().begun();
        }
        self.producers = Some(Producers::default());
        self.state.set_end(offset);
        self.state.set_log_start(offset);
        self.marks.durable = offset;
        (self.marks.recovery_point, self.marks.recovery_position) = (offset, 0);
        (self.marks.high_watermark, self.marks.high_watermark_epoch) = (offset, None);
        self.write_marks()?;
        self.sync_marks()
    }
}
