//! The sparse index of a segment: offset and time in one file.
//!
//! Each entry stands at the start of a batch and also carries the highest timestamp of everything before it in the
//! segment, so that one binary search serves both look-ups and both always agree. Entries are checksummed one by
//! one; a file with a bad entry is thrown away and made again from the log (`docs/formats/partition.md`).
//!
//! ```text
//! | relative offset u32 | position u32 | max timestamp before i64 | CRC-32C u32 |   20 bytes, big-endian
//! ```

use bytes::{Buf as _, BufMut as _};
use walser_model::Timestamp;

use crate::checked::{seal, unseal};

/// Bytes of an encoded entry.
pub(crate) const ENTRY_LEN: usize = 20;

/// The start of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Base offset of the batch, relative to the segment's.
    pub(crate) relative_offset: u32,
    /// Where the batch starts in the segment file.
    pub(crate) position: u32,
    /// Highest timestamp of all batches before it in the segment; `i64::MIN` when there are none.
    pub(crate) max_timestamp_before: Timestamp,
}

/// The entries of a segment in memory, ascending.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    entries: Vec<IndexEntry>,
}

// === impl IndexEntry ===

impl IndexEntry {
    fn encode(self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u32(self.relative_offset);
        out.put_u32(self.position);
        out.put_i64(self.max_timestamp_before);
        seal(out, start);
    }

    fn decode(bytes: &[u8; ENTRY_LEN]) -> Option<Self> {
        let mut body = unseal(bytes)?;
        Some(Self {
            relative_offset: body.try_get_u32().ok()?,
            position: body.try_get_u32().ok()?,
            max_timestamp_before: body.try_get_i64().ok()?,
        })
    }
}

// === impl Index ===

impl Index {
    /// Reads the longest valid, strictly ascending run of entries at the start of `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let mut entries: Vec<IndexEntry> = Vec::with_capacity(bytes.len() / ENTRY_LEN);
        for chunk in bytes.chunks_exact(ENTRY_LEN) {
            let Some(entry) = chunk.try_into().ok().and_then(IndexEntry::decode) else { break };
            let ascending = entries
                .last()
                .is_none_or(|last| entry.relative_offset > last.relative_offset && entry.position > last.position);
            if !ascending {
                break;
            }
            entries.push(entry);
        }
        Self { entries }
    }

    /// The encoded entries from number `from` on.
    pub(crate) fn encode_from(&self, from: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len().saturating_sub(from) * ENTRY_LEN);
        for entry in self.entries.iter().skip(from) {
            entry.encode(&mut out);
        }
        out
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn push(&mut self, entry: IndexEntry) {
        self.entries.push(entry);
    }

    pub(crate) fn last(&self) -> Option<IndexEntry> {
        self.entries.last().copied()
    }

    /// Drops entries at or after `position`.
    pub(crate) fn truncate_at(&mut self, position: u32) {
        let keep = self.entries.partition_point(|entry| entry.position < position);
        self.entries.truncate(keep);
    }

    /// Drops entries after `relative_offset`.
    pub(crate) fn truncate_above(&mut self, relative_offset: u32) {
        let keep = self.entries.partition_point(|entry| entry.relative_offset <= relative_offset);
        self.entries.truncate(keep);
    }

    /// The last entry at or before an offset: where to start reading for it.
    pub(crate) fn floor_offset(&self, relative_offset: u32) -> Option<IndexEntry> {
        let after = self.entries.partition_point(|entry| entry.relative_offset <= relative_offset);
        after.checked_sub(1).map(|at| self.entries[at])
    }

    /// The last entry before which every record is older than `timestamp`: where to start looking for it.
    pub(crate) fn floor_timestamp(&self, timestamp: Timestamp) -> Option<IndexEntry> {
        let after = self.entries.partition_point(|entry| entry.max_timestamp_before < timestamp);
        after.checked_sub(1).map(|at| self.entries[at])
    }

    /// Memory held, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<IndexEntry>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn index(steps: &[(u32, u32, i64)]) -> Index {
        let mut index = Index::default();
        let (mut offset, mut position, mut newest) = (0, 0, i64::MIN);
        for (records, bytes, timestamp) in steps {
            index.push(IndexEntry { relative_offset: offset, position, max_timestamp_before: newest });
            offset += records + 1;
            position += bytes + 61;
            newest = newest.max(*timestamp);
        }
        index
    }

    #[test]
    fn the_bytes_of_an_entry_are_the_documented_ones() {
        let entry = IndexEntry { relative_offset: 258, position: 3, max_timestamp_before: -2 };
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        let golden = [0, 0, 1, 2, 0, 0, 0, 3, 255, 255, 255, 255, 255, 255, 255, 254, 0x58, 0x58, 0xc9, 0x01];
        assert_eq!(bytes, golden);
    }

    proptest! {
        #[test]
        fn entries_survive_and_damage_ends_the_run(
            steps in vec((0..1000u32, 0..10_000u32, 0..1_000_000i64), 1..50),
            at in any::<prop::sample::Index>(),
        ) {
            let index = index(&steps);
            let mut bytes = index.encode_from(0);
            prop_assert_eq!(&Index::decode(&bytes).entries, &index.entries);
            let at = at.index(bytes.len());
            bytes[at] ^= 4;
            prop_assert_eq!(&Index::decode(&bytes).entries, &index.entries[..at / ENTRY_LEN]);
        }

        #[test]
        fn floors_agree_with_a_linear_search(
            steps in vec((0..10u32, 0..100u32, 0..100i64), 1..50),
            offset in 0..600u32,
            timestamp in 0..110i64,
        ) {
            let index = index(&steps);
            let by_offset = index.entries.iter().rev().find(|entry| entry.relative_offset <= offset);
            prop_assert_eq!(index.floor_offset(offset), by_offset.copied());
            let by_time = index.entries.iter().rev().find(|entry| entry.max_timestamp_before < timestamp);
            prop_assert_eq!(index.floor_timestamp(timestamp), by_time.copied());
        }
    }
}
