//! Reading a log, from any thread.

mod find;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use walser_model::{LeaderEpoch, Offset, Timestamp};
use walser_record_batch::{BatchHeader, Producer, RecordError, empty_batch, verify_crc};

use crate::directory_names::DirectoryNames;
use crate::disk::Open;
use crate::generation::Generation;
use crate::log_state::{LogPin, LogState};
use crate::scan::{Scan, Step};
use crate::segment::Segment;
use crate::snapshots;

pub use find::FoundRecord;

/// Above every `max.message.bytes`.
const BATCH_BYTES_MAX: usize = 32 << 20;

/// Whole batches read from a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// One or more batches; the first may start before the offset asked for. Empty at the end.
    pub batches: Bytes,
    /// Offset after the last batch, or the offset asked for when there is none.
    pub next_offset: Offset,
}

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is not retained, or beyond the bound.
    #[error("offset {offset} is not within {start} and {end}")]
    OutOfRange {
        /// As asked.
        offset: Offset,
        /// First that can be read.
        start: Offset,
        /// First that cannot be read any more.
        end: Offset,
    },
    /// A stored batch is damaged.
    #[error("the log is damaged at offset {at}")]
    Corrupt {
        /// First offset that cannot be read.
        at: Offset,
    },
    /// A stored batch is what was appended, and its records cannot be decoded.
    #[error("the records from offset {at} on cannot be decoded: {error}")]
    Unreadable {
        /// First offset of the batch.
        at: Offset,
        /// First offset behind it.
        resume: Offset,
        /// Why not.
        error: RecordError,
    },
    /// The file system reported an error.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads what the writer has written. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogReader {
    state: Arc<LogState>,
    /// Of its directory.
    names: Arc<DirectoryNames>,
}

// === impl LogReader ===

impl LogReader {
    pub(crate) fn new(state: Arc<LogState>, names: Arc<DirectoryNames>) -> Self {
        Self { state, names }
    }

    /// The producers as of `end`, which is a log end that there was: for a copy that ends there, which has not seen what
    /// the log has deleted. Blocks as long as the disk takes.
    ///
    /// # Errors
    /// I/O errors, also when retention removes a segment meanwhile.
    pub fn producers_at(&self, end: Offset, now: Timestamp) -> io::Result<Bytes> {
        let segments = self.state.segments().clone();
        let producers = snapshots::load(&self.names, &segments, end, now)?;
        // The snapshot that reached the first segment goes with it, and what is behind does not tell of all of them.
        let first = |segments: &[Arc<Segment>]| segments.first().map(|segment| segment.base);
        if first(&segments) != first(&self.state.segments()) {
            return Err(io::Error::other("retention has removed segments meanwhile; try again"));
        }
        Ok(producers.encode(end).into())
    }

    /// What the log has in it: damage that a read meets from now on is damage of that, or of what has come later.
    pub fn generation(&self) -> Generation {
        self.state.generation()
    }

    /// Keeps the segments as they are, but for retention, until it is dropped. `None`: one is being replaced; again later.
    pub fn pin(&self) -> Option<LogPin> {
        LogPin::new(&self.state)
    }

    /// Tombstones below may be gone. Exclusive: see [`crate::Log::tombstone_floor`].
    pub fn tombstone_floor(&self) -> Offset {
        self.state.tombstone_floor()
    }

    /// Oldest offset that readers may see.
    pub fn log_start(&self) -> Offset {
        self.state.log_start()
    }

    /// Where the oldest batch begins that is still there: at or below the log start, and there where no record is left.
    /// Inclusive.
    pub fn retained(&self) -> Offset {
        self.state.retained()
    }

    /// Everything below was compacted. Exclusive.
    pub fn compacted(&self) -> Offset {
        self.state.compacted()
    }

    /// Bytes of the closed segments that lie wholly below `up_to` (exclusive): of those that were compacted, and of those that
    /// were not.
    pub fn closed_bytes(&self, up_to: Offset) -> (u64, u64) {
        let (segments, compacted) = (self.state.segments(), self.state.compacted());
        LogState::closed(&segments, up_to).fold((0, 0), |(clean, dirty), (segment, end)| {
            if end <= compacted { (clean + segment.size(), dirty) } else { (clean, dirty + segment.size()) }
        })
    }

    /// Offset after the last record written.
    pub fn log_end(&self) -> Offset {
        self.state.end()
    }

    /// Returns the size of all segments in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.state.segments().iter().map(|segment| segment.size()).sum()
    }

    /// The latest leader epoch that was seen here, with records or without.
    pub fn latest_epoch(&self) -> LeaderEpoch {
        self.state.epochs().latest()
    }

    /// The epoch of the record at `offset`.
    pub fn epoch_of(&self, offset: Offset) -> LeaderEpoch {
        self.state.epochs().of_records.epoch_of(offset)
    }

    /// Where the largest epoch at or below `epoch` ends: for readers that may have seen another log.
    pub fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.state.epochs().of_records.end_of(epoch, self.log_end())
    }

    /// Reads whole batches from the one that holds `from` on, of about `bytes_max` but at least one, none of which
    /// reaches `below` (exclusive). Every batch has passed its checksum, and is of the leader epoch that is known of
    /// its records.
    ///
    /// # Errors
    /// [`ReadError`]. Damage behind readable batches is reported by the read that starts at it.
    pub fn read(&self, from: Offset, below: Offset, bytes_max: usize) -> Result<Slice, ReadError> {
        self.read_from((from, self.log_start()), below, bytes_max, Self::log_start)
    }

    /// The same from the oldest batch on that is still there, which may lie below the log start: for followers, whose logs
    /// are made of the same batches.
    ///
    /// # Errors
    /// As for [`LogReader::read`].
    pub fn read_retained(&self, from: Offset, below: Offset, bytes_max: usize) -> Result<Slice, ReadError> {
        self.read_from((from, self.retained()), below, bytes_max, Self::retained)
    }

    /// Reads at or above what is `start` now; a later one is found with `start_of`.
    fn read_from(
        &self,
        (from, start): (Offset, Offset),
        below: Offset,
        bytes_max: usize,
        start_of: impl Fn(&Self) -> Offset,
    ) -> Result<Slice, ReadError> {
        if from < start || from > below {
            return Err(ReadError::OutOfRange { offset: from, start, end: below });
        }
        let below = below.min(self.state.corrupt_from());
        if from >= below {
            let damaged = from >= self.state.corrupt_from() && from < self.log_end();
            return if damaged { Err(ReadError::Corrupt { at: from }) } else { Ok(Slice::empty(from)) };
        }
        let found = self.segment_of(from).ok_or(ReadError::OutOfRange { offset: from, start, end: below })?;
        let (segment, next) = found;
        // What lies behind the base of the next segment is of a write that failed.
        let (next, size) = (next.filter(|next| *next <= below), segment.size());
        let generation = self.generation();
        let read = || match read_segment(&segment, &self.state, (from, next.unwrap_or(below)), bytes_max) {
            // Nothing of this segment leads to the next one: a file between them is gone.
            Ok(slice) if slice.next_offset == from && next.is_some() => Err(ReadError::Corrupt { at: from }),
            read => read,
        };
        let error = match read() {
            Ok(slice) => return Ok(slice),
            Err(error) => error,
        };
        // What was removed or cut since it was looked up is no damage.
        let later = start_of(self);
        let removed = match &error {
            ReadError::Io(error) => error.kind() == io::ErrorKind::NotFound && later > start,
            ReadError::Corrupt { .. } => from < later,
            _ => false,
        };
        if removed {
            return Err(ReadError::OutOfRange { offset: from, start: later, end: below });
        }
        let unchanged = || {
            let found = self.segment_of(from).filter(|_| from < self.log_end() && self.generation() == generation);
            found.is_some_and(|(now, next_now)| {
                Arc::ptr_eq(&now, &segment) && next_now.filter(|next| *next <= below) == next && now.size() >= size
            })
        };
        match error {
            ReadError::Corrupt { .. } if !unchanged() => Ok(Slice::empty(from)),
            // What was cut and appended to meanwhile is no damage either.
            ReadError::Corrupt { .. } => match read() {
                Err(ReadError::Corrupt { .. }) if !unchanged() => Ok(Slice::empty(from)),
                again => again,
            },
            // Compaction has put another one in its place.
            ReadError::Io(error) if error.kind() == io::ErrorKind::NotFound && !unchanged() => {
                self.read_from((from, start), below, bytes_max, start_of)
            }
            error => Err(error),
        }
    }

    /// The segment of an offset, and where the next one begins.
    fn segment_of(&self, offset: Offset) -> Option<(Arc<Segment>, Option<Offset>)> {
        let segments = self.state.segments();
        let after = segments.partition_point(|segment| segment.base <= offset);
        let next = segments.get(after).map(|next| next.base);
        after.checked_sub(1).map(|at| (Arc::clone(&segments[at]), next))
    }
}

/// The offset of the first thing in a segment that is no batch, or the end of the segment when all of it is.
fn first_invalid(segment: &Segment) -> io::Result<Offset> {
    let file = segment.file(Open::Read)?;
    let mut scan = Scan::new(&*file, 0, segment.size());
    let mut at = segment.base;
    while let Step::Batch(found) = scan.step()? {
        at = found.header.next_offset();
    }
    Ok(at)
}

fn read_segment(
    segment: &Segment,
    state: &LogState,
    (from, below): (Offset, Offset),
    bytes_max: usize,
) -> Result<Slice, ReadError> {
    /// Between an index entry and the batch looked for there are rarely more bytes than this.
    const INDEX_GAP_BYTES: usize = 8 << 10;
    let file = segment.file(Open::Read)?;
    let (mut position, mut expected) = segment.place_for(from)?;
    let mut wanted = bytes_max.saturating_add(INDEX_GAP_BYTES);
    loop {
        let left = usize::try_from(segment.size().saturating_sub(position)).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        file.read_at(&mut bytes, position, wanted.min(left))?;
        let intact = |header: &BatchHeader, batch: &[u8]| verify_crc(batch).is_ok() && state.has_epoch_of(header);
        match select((&bytes, expected), (from, below), bytes_max, bytes.len() == left, intact)? {
            Selected::Range { first, end, next_offset } => {
                let batches = Bytes::from(bytes).slice(first..end);
                return Ok(Slice { batches, next_offset });
            }
            Selected::Gone { base, next, epoch } => {
                let batch = empty_batch(base, next, epoch, Producer::NONE);
                return Ok(Slice { batches: Bytes::copy_from_slice(&batch), next_offset: next });
            }
            Selected::Skipped(skipped, next) if skipped > 0 => (position, expected) = (position + skipped as u64, next),
            Selected::Skipped(..) if wanted < left => wanted = wanted.saturating_mul(4),
            // The segment ends before the offset, and the next one begins behind it: a file between them is gone.
            Selected::Skipped(..) if left == 0 => return Err(ReadError::Corrupt { at: from }),
            Selected::Skipped(..) => return Ok(Slice::empty(from)),
        }
    }
}

enum Selected {
    /// The batches to return.
    Range { first: usize, end: usize, next_offset: Offset },
    /// Offsets within a batch that stands for records which compaction has dropped: such batches are joined, and may have
    /// begun or ended there before.
    Gone { base: Offset, next: Offset, epoch: LeaderEpoch },
    /// The window has only whole batches before the one looked for, of this many bytes, and maybe a part of it. Beside that: the
    /// base offset of what follows them.
    Skipped(usize, Offset),
}

/// Chooses whole batches within a window of the log, the first of which begins at `expected`. `complete`: the log ends with the
/// window. `intact`: whether a batch is as it was appended.
fn select(
    (window, mut expected): (&[u8], Offset),
    (from, below): (Offset, Offset),
    bytes_max: usize,
    complete: bool,
    intact: impl Fn(&BatchHeader, &[u8]) -> bool,
) -> Result<Selected, ReadError> {
    let mut at = 0;
    let mut chosen: Option<(usize, Offset)> = None;
    loop {
        let rest = &window[at..];
        let header = match BatchHeader::parse(rest) {
            // No batch is that large: its length is damaged, and must not decide how much is read.
            Ok(header) if header.size > BATCH_BYTES_MAX && chosen.is_none() => {
                return Err(ReadError::Corrupt { at: from });
            }
            Ok(header) if header.size <= rest.len() => header,
            _ if rest.is_empty() || !complete => break,
            _ if chosen.is_some() => break,
            _ => return Err(ReadError::Corrupt { at: from }),
        };
        // Checksums do not cover the base offset: what does not follow is damage, as is what ends before it begins.
        if header.base_offset != expected || header.next_offset() <= expected {
            match chosen {
                Some(_) => break,
                None => return Err(ReadError::Corrupt { at: from }),
            }
        }
        if header.next_offset() > from {
            let (base, next) = (header.base_offset.max(from), header.next_offset().min(below));
            let part = (base, next) != (header.base_offset, header.next_offset());
            if part && header.record_count == 0 && chosen.is_none() && intact(&header, &rest[..header.size]) {
                return Ok(Selected::Gone { base, next, epoch: header.leader_epoch });
            }
            let over = chosen.is_some_and(|(first, _)| at + header.size - first > bytes_max);
            if over || header.next_offset() > below {
                // One that reaches beyond what there is may be damaged in its length.
                match chosen {
                    None if !intact(&header, &rest[..header.size]) => return Err(ReadError::Corrupt { at: from }),
                    _ => break,
                }
            }
            if !intact(&header, &rest[..header.size]) {
                // What comes before the damage is good; the next read starts at the damage and says so.
                return match chosen {
                    Some((first, next_offset)) => Ok(Selected::Range { first, end: at, next_offset }),
                    None => Err(ReadError::Corrupt { at: header.base_offset.max(from) }),
                };
            }
            chosen = Some((chosen.map_or(at, |(first, _)| first), header.next_offset()));
        }
        at += header.size;
        expected = header.next_offset();
    }
    match chosen {
        Some((first, next_offset)) => Ok(Selected::Range { first, end: at, next_offset }),
        None => Ok(Selected::Skipped(at, expected)),
    }
}

// === impl Slice ===

impl Slice {
    /// Nothing at this offset yet.
    pub fn empty(at: Offset) -> Self {
        Self { batches: Bytes::new(), next_offset: at }
    }
}
