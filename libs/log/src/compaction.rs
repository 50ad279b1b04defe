//! Compaction: of each key the newest record stays, as Kafka's log cleaner has it.
//!
//! [`crate::Log::begin_compaction`] gives a [`CompactionJob`], which reads and writes files beside the writer of the log, on
//! a thread of its own; [`crate::Log::take_compaction_step`] puts what it has written in the place of what it has read. The
//! job goes twice over closed segments:
//!
//! 1. The part that was not compacted before is read, and the latest offset of each key noted, until the memory is full.
//! 2. All segments from the first one to the last one read are written anew, several small ones into one, each of which takes
//!    its place before the next one is written. A record goes where a later one of its key was noted; a tombstone goes when
//!    its time is over and every replica has it, and everything that it deletes has gone: that lies before it.
//!
//! Offsets stay, and there is a batch for each of them: see docs/decisions/0012.

mod offset_map;
mod rewrite;
pub(crate) mod swap;
mod uncleaned;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use walser_model::{LeaderEpochs, Offset, ProducerId, Timestamp, TopicPartition, whole_millis};
use walser_record_batch::{BatchHeader, retain};

pub(crate) use rewrite::Replacement;
pub(crate) use uncleaned::Uncleaned;

use crate::compaction::offset_map::OffsetMap;
use crate::directory_names::DirectoryNames;
use crate::disk::{Open, remove_file_if_any};
use crate::faults::LogFaults;
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
    /// Which one of the log's it is.
    pub(crate) number: u64,
    pub(crate) names: Arc<DirectoryNames>,
    /// Those that were known of its records when it began.
    pub(crate) epochs: LeaderEpochs,
    /// Closed ones, from the first one on.
    pub(crate) segments: Vec<ClosedSegment>,
    /// What lies below was compacted before. Exclusive.
    pub(crate) from: Offset,
    /// What earlier jobs could not clean.
    pub(crate) uncleaned: Uncleaned,
    /// The tombstone that an earlier job has left and that may go first.
    pub(crate) tombstone: Option<WaitingTombstone>,
    pub(crate) rules: CompactionRules,
    /// The base offset of the last batch of each producer that is known, wherever in the log it lies.
    pub(crate) last_of_producers: HashMap<ProducerId, Offset>,
    /// A segment that is made of several is not made of more bytes than these.
    pub(crate) segment_bytes: u64,
    pub(crate) interval_bytes: u64,
    /// Of the second pass, once the first one is done.
    pub(crate) pass: Option<Pass>,
    /// Records from here on are damaged.
    pub(crate) damaged_at: Option<Offset>,
    pub(crate) faults: LogFaults,
}

/// What a job has written so far, for the log that it was taken from.
#[derive(Debug)]
pub struct CompactionStep {
    pub(crate) generation: Generation,
    pub(crate) number: u64,
    /// A file that does not count yet. `None`: nothing of the segments would change.
    pub(crate) replacement: Option<Replacement>,
    /// With the last step: what the log is to remember.
    pub(crate) compacted: Option<CompactedTo>,
    /// With the last step, if anything was looked at.
    pub(crate) left: Option<CompactionRest>,
}

/// What a compaction has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactionRest {
    /// Records with a value, or without a key: one of each key, where there was memory for all keys.
    pub records: u64,
    /// Records without a value.
    pub tombstones: u64,
}

/// What a log remembers of its compactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompactedTo {
    /// Everything below is compacted. Exclusive.
    pub(crate) end: Offset,
    pub(crate) uncleaned: Uncleaned,
    /// The tombstone that may go first, of those that are left.
    pub(crate) tombstone: Option<WaitingTombstone>,
}

/// A tombstone whose time is not over, or that some replica does not have yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingTombstone {
    /// It may go after this time (its delete horizon, KIP-534), in milliseconds since the Unix epoch.
    pub over: Timestamp,
    /// Its offset.
    pub at: Offset,
}

/// How much there is to compact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compactable {
    /// Bytes of segments that were compacted.
    pub clean_bytes: u64,
    /// Bytes of those that were not.
    pub dirty_bytes: u64,
    /// The newest timestamp of the first of those, if it is in memory.
    pub first_newest: Option<Timestamp>,
    /// Of the tombstones that were left, the one that may go first.
    pub tombstone: Option<WaitingTombstone>,
}

/// What a step of a compaction has achieved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of the segments that were replaced.
    pub bytes_before: u64,
    /// Bytes of the one that took their place.
    pub bytes_after: u64,
    /// What the whole compaction has left; with its last step, if it had anything to look at.
    pub left: Option<CompactionRest>,
}

/// What the second pass goes by, and how far it is.
#[derive(Debug)]
pub(crate) struct Pass {
    map: OffsetMap,
    /// The keys of all records below were noted, from where the last compaction ended. Exclusive.
    end: Offset,
    uncleaned: Uncleaned,
    /// Of each known producer that has any, the base offset of its last batch below `end`. It stays, with or without records:
    /// the log may be cut behind it. `None`: it lies in what was compacted before, or in what this job does not look at; of
    /// those without records more than one may stay then, until another job.
    last_of_producers: HashMap<ProducerId, Option<Offset>>,
    /// Of the tombstones that are left, the one that may go first.
    tombstone: Option<WaitingTombstone>,
    /// What it has left so far.
    left: CompactionRest,
    /// Number of the segment that is next.
    next: usize,
    /// Nothing is left to say.
    ended: bool,
}

/// A segment is damaged from an offset on.
#[derive(Debug, thiserror::Error)]
#[error("the segment of {base} is damaged at offset {at}")]
struct Damaged {
    base: Offset,
    at: Offset,
}

fn damaged(segment: &Segment, at: Offset) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Damaged { base: segment.base, at })
}

fn interrupted() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "the compaction was ended")
}

// === impl CompactedTo ===

impl CompactedTo {
    /// Nothing was compacted.
    pub(crate) const NONE: Self = Self { end: Offset::ZERO, uncleaned: Uncleaned::NONE, tombstone: None };

    /// What holds of a log that was cut.
    pub(crate) fn cut(self, to: Offset) -> Self {
        let end = self.end.min(to);
        let uncleaned = self.uncleaned.cut(end);
        // Others may be left below.
        let left = self.tombstone.map(|left| if left.at < end { left } else { WaitingTombstone::UNKNOWN });
        Self { end, uncleaned, tombstone: left.filter(|left| left.at < end) }
    }
}

// === impl WaitingTombstone ===

impl WaitingTombstone {
    /// Nobody knows which are left: it is looked for them once.
    pub(crate) const UNKNOWN: Self = Self { over: 0, at: Offset::ZERO };

    /// Whether it goes at a time, where tombstones stay at and above `floor`.
    pub fn goes(&self, now: Timestamp, floor: Offset) -> bool {
        self.over < now && self.at < floor
    }

    /// The one of the two that may go first.
    fn first(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        one.into_iter().chain(other).min_by_key(|left| left.over)
    }
}

// === impl CompactionRules ===

impl CompactionRules {
    /// From when on the tombstones may go that are found first now.
    fn horizon(&self) -> Timestamp {
        self.now.saturating_add(whole_millis(self.delete_retention))
    }
}

// === impl Pass ===

impl Pass {
    /// `dirty`: of producers that have batches in what was not compacted before, the last one below `end`.
    fn new(job: &CompactionJob, map: OffsetMap, end: Offset, dirty: &HashMap<ProducerId, Offset>) -> Self {
        let below_end = |(id, last): (&ProducerId, &Offset)| {
            let last = if *last < end { Some(*last) } else { dirty.get(id).copied() };
            (*id, last)
        };
        let last_of_producers = job.last_of_producers.iter().map(below_end).collect();
        Self {
            map,
            end,
            uncleaned: job.uncleaned,
            last_of_producers,
            tombstone: None,
            left: CompactionRest::default(),
            next: 0,
            ended: false,
        }
    }

    /// Whether a batch stays without its records, because of its producer.
    fn keeps_empty(&self, header: &BatchHeader) -> bool {
        let last = self.last_of_producers.get(&header.producer_id);
        last.is_some_and(|last| last.is_none_or(|last| last == header.base_offset))
    }
}

// === impl CompactionJob ===

impl CompactionJob {
    /// Whether the memory was for fewer keys than there are, where the log is compacted up to an offset now (exclusive).
    pub fn had_too_little_memory(&self, compacted: Offset) -> bool {
        let end = self.segments.last().map_or(self.from, |last| last.end);
        compacted > self.from && compacted < end
    }

    /// Works until there is something for the log to take, which MUST happen before the next call. `None`: the job has
    /// ended. `pace` is called with the bytes of each batch that was read, may wait, and ends the job with false.
    ///
    /// # Errors
    /// I/O errors; `InvalidData` where a segment is damaged, `Interrupted` where `pace` wanted it. What the log has taken
    /// counts; calling again MUST NOT happen.
    pub fn advance(&mut self, pace: impl FnMut(usize) -> bool) -> io::Result<Option<CompactionStep>> {
        let step = self.work(pace);
        let damage = step.as_ref().err().and_then(|error| error.get_ref()?.downcast_ref::<Damaged>());
        self.damaged_at = damage.map(|damage| damage.at);
        step
    }

    fn work(&mut self, mut pace: impl FnMut(usize) -> bool) -> io::Result<Option<CompactionStep>> {
        let mut pass = match self.pass.take() {
            Some(pass) => pass,
            None => self.note_keys(&mut pace)?,
        };
        let step = self.next_step(&mut pass, &mut pace);
        self.pass = Some(pass);
        step
    }

    fn next_step(&self, pass: &mut Pass, pace: Pace<'_>) -> io::Result<Option<CompactionStep>> {
        let (generation, number) = (self.generation, self.number);
        while let Some(group) = self.next_group(pass) {
            let written = rewrite::rewrite(self, &self.segments[group.clone()], pass, pace);
            if !matches!(&written, Ok(Some(_))) {
                self.remove_written(&self.segments[group.clone()]);
            }
            pass.next = group.end;
            if let Some(replacement) = written? {
                return Ok(Some(CompactionStep {
                    generation,
                    number,
                    replacement: Some(replacement),
                    compacted: None,
                    left: None,
                }));
            }
        }
        let ended = std::mem::replace(&mut pass.ended, true);
        let rewrote = self.rewrites(pass);
        let (tombstone, left) = if rewrote { (pass.tombstone, Some(pass.left)) } else { (self.tombstone, None) };
        let compacted = CompactedTo { end: pass.end, uncleaned: pass.uncleaned, tombstone };
        Ok((!ended).then_some(CompactionStep {
            generation,
            number,
            replacement: None,
            compacted: Some(compacted),
            left,
        }))
    }

    /// Removes the file that was written for a group, where it still has the name of one that does not count.
    fn remove_written(&self, group: &[ClosedSegment]) {
        let Some(first) = group.first() else { return };
        let path = self.names.path().join(swap::cleaned_name(first.segment.base, self.generation));
        if let Err(error) = remove_file_if_any(&**self.names.disk(), &path) {
            // The next start removes it.
            tracing::warn!(partition = %self.partition, %error, "a file of a compaction that ended early stays");
        }
    }

    /// The first pass.
    fn note_keys(&self, pace: Pace<'_>) -> io::Result<Pass> {
        let (mut map, mut last) = (OffsetMap::new(self.rules.memory_bytes, self.from), HashMap::new());
        let mut up_to = self.from;
        for ClosedSegment { segment, end } in self.segments.iter().filter(|closed| closed.end > self.from) {
            up_to = *end;
            let file = segment.file(Open::Read)?;
            let (position, first) = segment.place_for(self.from.max(segment.base))?;
            let mut scan = Scan::new(&*file, position, segment.size());
            let mut expected = None;
            while let Step::Batch(found) = scan.step()? {
                let (header, read) = (found.header, found.bytes.len());
                if expected == Some(up_to) {
                    break;
                }
                if expected.is_some_and(|expected| expected != header.base_offset) || header.next_offset() > up_to {
                    return Err(damaged(segment, expected.unwrap_or(first)));
                }
                expected = Some(header.next_offset());
                if header.next_offset() > self.from && header.record_count > 0 && !header.attributes.control() {
                    let batch = Bytes::copy_from_slice(found.bytes);
                    // Within a batch, too: a batch may have more keys than there is memory for.
                    let mut full_at = None;
                    // What cannot be decoded has no keys.
                    let _all = retain(&header, &batch, None, |record, _| {
                        let new = full_at.is_none() && record.offset >= self.from;
                        if new && record.key.is_some_and(|key| !map.note(key, record.offset)) {
                            full_at = Some(record.offset);
                        }
                        true
                    });
                    if let Some(end) = full_at {
                        if header.base_offset < end {
                            self.note_producer(&mut last, &header);
                        }
                        segment.close();
                        return Ok(Pass::new(self, map, end, &last));
                    }
                }
                self.note_producer(&mut last, &header);
                if !pace(read) {
                    return Err(interrupted());
                }
            }
            // Where no key is noted nothing is read a second time, and nobody else would say so.
            if expected != Some(up_to) {
                return Err(damaged(segment, expected.unwrap_or(first)));
            }
            segment.close();
        }
        Ok(Pass::new(self, map, up_to, &last))
    }

    fn note_producer(&self, last: &mut HashMap<ProducerId, Offset>, header: &BatchHeader) {
        if self.last_of_producers.contains_key(&header.producer_id) {
            last.insert(header.producer_id, header.base_offset);
        }
    }

    /// Whether anything may go.
    fn rewrites(&self, pass: &Pass) -> bool {
        let goes = |left: WaitingTombstone| left.goes(self.rules.now, self.rules.tombstone_floor);
        !pass.map.is_empty() || self.tombstone.is_some_and(goes)
    }

    /// The next segments that become one, by their bytes.
    fn next_group(&self, pass: &Pass) -> Option<Range<usize>> {
        let below = self.segments.partition_point(|closed| closed.segment.base < pass.end);
        let rest = self.segments[..below].get(pass.next..).filter(|_| self.rewrites(pass))?;
        let first = rest.first()?;
        let mut bytes = first.segment.size();
        let more = rest[1..].iter().take_while(|closed| {
            bytes += closed.segment.size();
            let span = closed.end.since(first.segment.base);
            bytes <= self.segment_bytes && i32::try_from(span).is_ok()
        });
        Some(pass.next..pass.next + 1 + more.count())
    }
}
