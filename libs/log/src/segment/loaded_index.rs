//! The index of a segment in memory, and what goes with it.

use std::io;

use walser_model::{Offset, Timestamp};
use walser_record_batch::BatchHeader;

use crate::index::{Index, IndexEntry};

#[derive(Debug)]
pub(super) struct LoadedIndex {
    pub(super) index: Index,
    /// Highest timestamp of all batches.
    pub(super) max_timestamp: Timestamp,
    /// End of the last batch that was noted.
    pub(super) noted_to: u64,
    /// Offset after that batch.
    pub(super) next_offset: Offset,
    /// Behind it is something that is no batch: nothing is known of what the segment holds from there on.
    pub(super) damaged: bool,
}

impl LoadedIndex {
    /// Everything up to the batch of the last entry; what follows is yet to be noted.
    pub(super) fn new(index: Index, base: Offset) -> Self {
        let last = index.last();
        Self {
            max_timestamp: last.map_or(Timestamp::MIN, |last| last.max_timestamp_before),
            noted_to: last.map_or(0, |last| u64::from(last.position)),
            next_offset: last.map_or(base, |last| base.plus(i64::from(last.relative_offset))),
            damaged: false,
            index,
        }
    }

    /// Takes the next batch, with an index entry when the last one is `interval_bytes` behind; `None`: without.
    pub(super) fn note(
        &mut self,
        base: Offset,
        header: &BatchHeader,
        position: u64,
        interval_bytes: Option<u64>,
    ) -> io::Result<()> {
        let far = |interval| self.index.last().is_none_or(|last| position >= u64::from(last.position) + interval);
        if interval_bytes.is_some_and(far) && position >= self.noted_to {
            self.index.push(IndexEntry {
                relative_offset: narrow(header.base_offset.since(base))?,
                position: narrow(position)?,
                max_timestamp_before: self.max_timestamp,
            });
        }
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        self.noted_to = position + header.size as u64;
        self.next_offset = header.next_offset();
        Ok(())
    }
}

fn narrow(value: impl TryInto<u32>) -> io::Result<u32> {
    value.try_into().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "segment is above 4 GiB"))
}
