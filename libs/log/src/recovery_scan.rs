//! Reading a log batch by batch after a stop that was not clean.

use std::io;
use std::sync::Arc;

use walser_model::{LeaderEpochs, Offset, Timestamp, TimestampType};
use walser_record_batch::BatchHeader;

use crate::disk::Open;
use crate::epochs::has_epoch_of;
use crate::producers::Producers;
use crate::scan::{Scan, Step};
use crate::segment::Segment;

/// A place in a log: the number of a segment, and a position in its file in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogPosition {
    pub(crate) segment: usize,
    pub(crate) position: u64,
}

/// The state of a scan over segments.
pub(crate) struct RecoveryScan<'a> {
    pub(crate) segments: &'a [Arc<Segment>],
    pub(crate) epochs: LeaderEpochs,
    /// What was known of them before, if anything was: below the durable mark it is right.
    pub(crate) known_epochs: LeaderEpochs,
    pub(crate) producers: Producers,
    /// The producers' snapshot stands for this offset.
    pub(crate) producers_end: Offset,
    /// Offset of the next batch.
    pub(crate) expected: Offset,
    /// What begins here or behind is not wanted.
    pub(crate) up_to: Offset,
    /// The durable mark: everything below is on stable storage.
    pub(crate) durable: Offset,
    /// The first batch above the durable mark.
    pub(crate) unsynced: Option<LogPosition>,
    /// The latest LogAppendTime.
    pub(crate) append_time: Timestamp,
    /// Idempotent producers count as used at the time of this start.
    pub(crate) now: Timestamp,
    pub(crate) interval_bytes: u64,
    /// Segments and bytes that were read.
    pub(crate) scanned: (usize, u64),
    /// Where the latest batch begins, if nothing but this one says that there is its leader epoch.
    pub(crate) epoch_said_at: Option<Offset>,
    /// From here on batches contradict each other: those of one of two leader epochs are damaged in it.
    pub(crate) contradiction: Option<Offset>,
}

impl RecoveryScan<'_> {
    /// Reads from `from` to the end of the last segment, or to the first thing that is no batch.
    pub(crate) fn run(mut self, from: Offset) -> io::Result<(Self, Option<LogPosition>)> {
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
                    return Ok((self, Some(LogPosition { segment: number, position: 0 })));
                }
                segment.start_recovery(segment.base)?.0
            };
            if let Some(position) = self.segment(number, position)? {
                return Ok((self, Some(LogPosition { segment: number, position })));
            }
        }
        Ok((self, None))
    }

    /// Reads one segment from `position` on; returns where something is no batch of this log.
    fn segment(&mut self, number: usize, position: u64) -> io::Result<Option<u64>> {
        let segment = &*self.segments[number];
        let file = segment.file(Open::Read)?;
        let len = file.len()?;
        self.scanned.0 += 1;
        let mut scan = Scan::new(&*file, position, len);
        let mut end = position;
        let next = self.segments.get(number + 1).map(|next| next.base);
        let bad = loop {
            if next == Some(self.expected) {
                // The next segment goes on here: what lies behind is of a write that failed, and whose cut was lost.
                break None;
            }
            match scan.step()? {
                Step::End | Step::Zeros(_) => break None,
                Step::Invalid(at) => break Some(at),
                Step::Batch(found) => {
                    let header = found.header;
                    let known = header.next_offset() > self.durable || has_epoch_of(&self.known_epochs, &header);
                    let wanted = header.base_offset < self.up_to;
                    if header.base_offset != self.expected || !wanted || !known || self.contradicts(&header) {
                        break Some(found.position);
                    }
                    segment.note(&header, found.position, self.interval_bytes)?;
                    if self.unsynced.is_none() && header.next_offset() > self.durable {
                        self.unsynced = Some(LogPosition { segment: number, position: found.position });
                    }
                    if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
                        self.append_time = header.max_timestamp;
                    }
                    self.note_epoch(&header);
                    if header.base_offset >= self.producers_end {
                        self.producers.record(&header, self.now);
                    }
                    self.expected = header.next_offset();
                    end = found.position + found.bytes.len() as u64;
                }
            }
        };
        self.scanned.1 += end - position;
        if bad.is_none() && next.is_some() && end < len {
            // Space ahead of the end belongs to the last segment only. No flush will do it: nothing of it is new.
            let file = segment.file(Open::Write)?;
            file.set_len(end)?;
            file.sync_data()?;
        }
        segment.set_size(end);
        segment.close();
        Ok(bad)
    }

    /// Whether a batch is of an earlier leader epoch than one before it, although it goes on where that ends: epochs never go
    /// down along a log. No torn write looks like that. The earlier one may be wrong, if nothing else says that there is its epoch.
    fn contradicts(&mut self, header: &BatchHeader) -> bool {
        let before = self.epochs.epoch_of(header.base_offset.plus(-1));
        if header.leader_epoch >= before {
            return false;
        }
        self.contradiction = Some(self.epoch_said_at.unwrap_or(header.base_offset));
        self.expected = header.next_offset();
        true
    }

    fn note_epoch(&mut self, header: &BatchHeader) {
        let begins = self.epochs.assign(header.leader_epoch, header.base_offset);
        let known = !self.known_epochs.starts().is_empty() && has_epoch_of(&self.known_epochs, header);
        self.epoch_said_at = (begins && !known).then_some(header.base_offset);
    }
}
