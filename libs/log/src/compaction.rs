//! Compaction: of each key the newest record stays, as Kafka's log cleaner has it.
//!
//! [`crate::Log::begin_compaction`] gives a [`CompactionJob`], which reads and writes files beside the writer of the log, on
//! a thread of its own; [`crate::Log::finish_compaction`] puts what it has written in the place of what it has read. The job
//! goes twice over closed segments:
//!
//! 1. The part that was not compacted before is read, and the latest offset of each key noted, until the memory is full.
//! 2. All segments from the first one to the last one read are written anew, several small ones into one. A record goes where
//!    a later one of its key was noted; a tombstone goes when its time is over and every replica has it.
//!
//! Offsets stay, and there is a batch for each of them: see docs/decisions/0012.

mod offset_map;
mod rewrite;
pub(crate) mod swap;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use walser_model::{Offset, ProducerId, Timestamp, TopicPartition};
use walser_record_batch::retain;

pub(crate) use rewrite::Replacement;

use crate::compaction::offset_map::OffsetMap;
use crate::directory_names::DirectoryNames;
use crate::disk::Open;
use crate::generation::Generation;
use crate::scan::{Scan, Step};
use crate::segment::Segment;

/// What goes, and how much memory finding it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionRules {
    /// Wall-clock time, in milliseconds since the Unix epoch.
    pub now: Timestamp,
    /// How long a tombstone stays after the first compaction that finds it (`delete.retention.ms`).
    pub delete_retention: Duration,
    /// Tombstones stay at and above it: below, all replicas have everything. Exclusive.
    pub tombstone_floor: Offset,
    /// Segments with records that are newer stay, and all behind them (`min.compaction.lag.ms`).
    pub newest: Timestamp,
    /// Bytes of memory for keys.
    pub memory_bytes: usize,
}

/// Called with bytes that were read; false: the job is to end.
pub(crate) type Pace<'a> = &'a mut dyn FnMut(usize) -> bool;

/// A segment that takes no appends any more.
#[derive(Debug)]
pub(crate) struct ClosedSegment {
    pub(crate) segment: Arc<Segment>,
    /// Exclusive.
    pub(crate) end: Offset,
}

/// Work for a thread of its own.
#[derive(Debug)]
pub struct CompactionJob {
    pub partition: TopicPartition,
    pub(crate) generation: Generation,
    pub(crate) names: Arc<DirectoryNames>,
    /// Closed ones, from the first one on.
    pub(crate) segments: Vec<ClosedSegment>,
    /// What lies below was compacted before. Exclusive.
    pub(crate) from: Offset,
    pub(crate) rules: CompactionRules,
    /// The base offset of the last batch of each producer that is known.
    pub(crate) last_of_producers: HashMap<ProducerId, Offset>,
    /// A segment that is made of several is not made of more bytes than these.
    pub(crate) segment_bytes: u64,
    pub(crate) interval_bytes: u64,
}

/// What a job has written, for the log that it was taken from.
#[derive(Debug)]
pub struct CompactionOutcome {
    pub(crate) generation: Generation,
    /// In order; each is a file that does not count yet.
    pub(crate) replacements: Vec<Replacement>,
    /// Everything below is compacted once they count. Exclusive.
    pub(crate) compacted: Offset,
}

/// What a compaction has achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Everything below is compacted. Exclusive.
    pub up_to: Offset,
    /// Bytes of the segments that were replaced, and of those in their place.
    pub bytes: (u64, u64),
}

fn damaged(segment: &Segment, at: Offset) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the segment of {} is damaged at offset {at}", segment.base))
}

fn interrupted() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "the compaction was ended")
}

// === impl CompactionRules ===

impl CompactionRules {
    /// From when on the tombstones may go that are found first now.
    fn horizon(&self) -> Timestamp {
        self.now.saturating_add(i64::try_from(self.delete_retention.as_millis()).unwrap_or(i64::MAX))
    }
}

// === impl CompactionJob ===

impl CompactionJob {
    /// Reads and writes. `pace` is called with the bytes of each batch that was read, may wait, and ends the job with false.
    ///
    /// # Errors
    /// I/O errors; `InvalidData` where a segment is damaged, `Interrupted` where `pace` wanted it. Files that were written
    /// do not count.
    pub fn run(&self, mut pace: impl FnMut(usize) -> bool) -> io::Result<CompactionOutcome> {
        let mut replacements = Vec::new();
        let (map, compacted) = self.keys(&mut pace)?;
        if !map.is_empty() {
            for group in self.groups(compacted) {
                replacements.extend(rewrite::rewrite(self, group, (&map, compacted), &mut pace)?);
            }
        }
        Ok(CompactionOutcome { generation: self.generation, replacements, compacted })
    }

    /// The first pass: the latest offset of each key, and up to where that is known. Exclusive.
    fn keys(&self, pace: Pace<'_>) -> io::Result<(OffsetMap, Offset)> {
        let mut map = OffsetMap::new(self.rules.memory_bytes);
        let mut up_to = self.from;
        for ClosedSegment { segment, end } in self.segments.iter().filter(|closed| closed.end > self.from) {
            up_to = *end;
            let file = segment.file(Open::Read)?;
            let mut scan = Scan::new(&*file, segment.position_for(self.from.max(segment.base))?, segment.size());
            let mut expected = None;
            while let Step::Batch(found) = scan.step()? {
                let (header, read) = (found.header, found.bytes.len());
                if expected == Some(up_to) {
                    break;
                }
                if expected.is_some_and(|expected| expected != header.base_offset) || header.next_offset() > up_to {
                    return Err(damaged(segment, expected.unwrap_or(segment.base)));
                }
                expected = Some(header.next_offset());
                if header.next_offset() > self.from && header.record_count > 0 && !header.attributes.control() {
                    let batch = Bytes::copy_from_slice(found.bytes);
                    let mut fits = true;
                    // What cannot be decoded has no keys.
                    let _all = retain(&header, &batch, None, |record, _| {
                        fits = fits && record.key.is_none_or(|key| map.note(key, record.offset));
                        true
                    });
                    if !fits {
                        // Those of its keys that were noted are of records that stay, or go for them later.
                        let whole = header.base_offset.max(self.from);
                        let end = if whole > self.from { whole } else { header.next_offset() };
                        return Ok((map, end));
                    }
                }
                if !pace(read) {
                    return Err(interrupted());
                }
            }
            segment.close();
        }
        Ok((map, up_to))
    }

    /// Segments below an offset that become one each, by their bytes.
    fn groups(&self, below: Offset) -> impl Iterator<Item = &[ClosedSegment]> {
        let count = self.segments.partition_point(|closed| closed.segment.base < below);
        let mut rest = &self.segments[..count];
        std::iter::from_fn(move || {
            let first = rest.first()?;
            let mut bytes = first.segment.size();
            let more = rest[1..].iter().take_while(|closed| {
                bytes += closed.segment.size();
                let span = closed.end.since(first.segment.base);
                bytes <= self.segment_bytes && i32::try_from(span).is_ok()
            });
            let (group, behind) = rest.split_at(1 + more.count());
            rest = behind;
            Some(group)
        })
    }
}
