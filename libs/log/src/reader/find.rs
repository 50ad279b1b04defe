//! Records that are looked up by their time or their offset.

use std::sync::Arc;

use bytes::Bytes;
use walser_model::{LeaderEpoch, Offset, Timestamp};
use walser_record_batch::{BatchHeader, Records};

use super::{LogReader, ReadError, first_invalid};
use crate::disk::Open;
use crate::scan::{Scan, Step};
use crate::segment::Segment;

/// The first record at or after a time or an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundRecord {
    pub offset: Offset,
    pub timestamp: Timestamp,
    /// The leader epoch it was written under.
    pub leader_epoch: LeaderEpoch,
}

impl LogReader {
    /// The first record at or after `timestamp` and below `below`. `None`: there is none.
    ///
    /// # Errors
    /// [`ReadError`]. Only a wrong checksum is damage; a batch that may hold the record and cannot be decoded is
    /// [`ReadError::Unreadable`].
    pub fn find_time(&self, timestamp: Timestamp, below: Offset) -> Result<Option<FoundRecord>, ReadError> {
        // What was cut and appended to meanwhile looks like damage: only what is found twice is.
        let mut before = false;
        loop {
            let segments = self.state.segments().clone();
            let found = self.find_time_in(&segments, timestamp, below);
            if matches!(found, Err(ReadError::Corrupt { .. })) && !std::mem::replace(&mut before, true) {
                continue;
            }
            let ids = |segments: &[Arc<Segment>]| segments.iter().map(Arc::as_ptr).collect::<Vec<_>>();
            // What was removed or replaced since it was looked up is no damage.
            if found.is_ok() || ids(&self.state.segments()).starts_with(&ids(&segments)) {
                return found;
            }
        }
    }

    fn find_time_in(
        &self,
        segments: &[Arc<Segment>],
        timestamp: Timestamp,
        below: Offset,
    ) -> Result<Option<FoundRecord>, ReadError> {
        // What is being appended is in the file before its leader epoch is known.
        let (start, below) = (self.log_start(), below.min(self.log_end()));
        for (number, segment) in segments.iter().enumerate() {
            let next = segments.get(number + 1).map(|next| next.base);
            if segment.base >= below || segment.size() == 0 {
                continue;
            }
            let Some(by_time) = segment.place_for_time(timestamp)? else { continue };
            // What is deleted is not looked at.
            let (position, mut expected) = by_time.max(segment.place_for(start)?);
            let file = segment.file(Open::Read)?;
            let mut scan = Scan::new(&*file, position, segment.size());
            loop {
                match scan.step()? {
                    Step::End => break,
                    // Those behind the end of a segment do not count to it.
                    Step::Zeros(_) | Step::Invalid(_) => {
                        let at = first_invalid(segment)?;
                        if next == Some(at) {
                            // The next segment goes on here: what lies behind is of a write that failed.
                            break;
                        }
                        return Err(ReadError::Corrupt { at });
                    }
                    Step::Batch(_) if next == Some(expected) || expected >= below => break,
                    // No checksum covers these.
                    Step::Batch(found)
                        if found.header.base_offset != expected || !self.state.has_epoch_of(&found.header) =>
                    {
                        return Err(ReadError::Corrupt { at: expected });
                    }
                    Step::Batch(found) => {
                        expected = found.header.next_offset();
                        if found.header.max_timestamp < timestamp {
                            continue;
                        }
                        let batch = Bytes::copy_from_slice(found.bytes);
                        if let Some(record) = first_at(&found.header, &batch, timestamp, start, below)? {
                            return Ok(Some(record));
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    /// The first record at or after `from` and below `below`: with compaction, `from` itself may be gone. `None`: there is
    /// none.
    ///
    /// # Errors
    /// As for [`LogReader::read`]; a batch that may hold the record and cannot be decoded is [`ReadError::Unreadable`].
    pub fn find_record(&self, from: Offset, below: Offset) -> Result<Option<FoundRecord>, ReadError> {
        let mut at = from.max(self.log_start());
        while at < below {
            let slice = self.read(at, below, 1)?;
            let Ok(header) = BatchHeader::parse(&slice.batches) else {
                if slice.next_offset <= at {
                    return Ok(None);
                }
                // Compaction has left nothing of these.
                at = slice.next_offset;
                continue;
            };
            let batch = slice.batches.slice(..header.size.min(slice.batches.len()));
            if let Some(record) = first_at(&header, &batch, Timestamp::MIN, at, below)? {
                return Ok(Some(record));
            }
            at = header.next_offset();
        }
        Ok(None)
    }
}

fn first_at(
    header: &BatchHeader,
    batch: &Bytes,
    timestamp: Timestamp,
    start: Offset,
    below: Offset,
) -> Result<Option<FoundRecord>, ReadError> {
    // The checksum is right: these are the bytes that were appended.
    let unreadable = |error| ReadError::Unreadable { at: header.base_offset, resume: header.next_offset(), error };
    for record in Records::open(*header, batch).map_err(unreadable)? {
        let record = record.map_err(unreadable)?;
        if record.timestamp >= timestamp && record.offset >= start && record.offset < below {
            let leader_epoch = header.leader_epoch;
            return Ok(Some(FoundRecord { offset: record.offset, timestamp: record.timestamp, leader_epoch }));
        }
    }
    Ok(None)
}
