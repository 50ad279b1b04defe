//! The sparse index of a segment: offset and time in one file.
//!
//! Each entry stands at the start of a batch and also carries the highest timestamp of everything before it in the
//! segment, so that one search serves both look-ups and both always agree. Entries are checksummed one by
//! one; a file with a bad entry is thrown away and made again from the log (`docs/formats/partition.md`).
//!
//! ```text
//! | relative offset u32 | position u32 | max timestamp before i64 | CRC-32C u32 |   20 bytes, big-endian
//! ```

use std::ops::Range;

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

/// Entries in the order of the file, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entries(Vec<IndexEntry>);

/// The index of a segment in memory. Of those entries that are in the file some are kept, so that a full segment costs no more
/// than [`COARSE_MAX`] of them; which one between two of them is looked for, the file says.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    /// Every `stride`-th entry of the file, from the first one on.
    coarse: Vec<IndexEntry>,
    stride: usize,
    /// Entries that are in the file.
    filed: usize,
    /// Those that are not, behind them.
    recent: Vec<IndexEntry>,
    last: Option<IndexEntry>,
}

/// Where the last entry is that is not behind something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Floor {
    Here(IndexEntry),
    /// Among these numbers of the file, or else the one that is known.
    Filed {
        known: IndexEntry,
        numbers: Range<usize>,
    },
}

/// Most entries of the file that are kept: of a segment of 2 MiB, by default, all of them. 10,000 active partitions with full
/// segments hold some 100 MB of them.
const COARSE_MAX: usize = 512;

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

// === impl Entries ===

impl Entries {
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
        Self(entries)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(&self.0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn last(&self) -> Option<IndexEntry> {
        self.0.last().copied()
    }

    /// Adds those that follow.
    pub(crate) fn extend(&mut self, more: &[IndexEntry]) {
        self.0.extend_from_slice(more);
    }

    /// Drops entries from number `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Drops entries at or after `position`.
    pub(crate) fn truncate_at(&mut self, position: u32) {
        let keep = self.0.partition_point(|entry| entry.position < position);
        self.0.truncate(keep);
    }

    /// Drops entries after `relative_offset`.
    pub(crate) fn truncate_above(&mut self, relative_offset: u32) {
        let keep = self.0.partition_point(|entry| entry.relative_offset <= relative_offset);
        self.0.truncate(keep);
    }

    /// The last entry of those that are `not_behind` something; they come first.
    pub(crate) fn floor(&self, not_behind: impl Fn(&IndexEntry) -> bool) -> Option<IndexEntry> {
        floor(&self.0, not_behind).map(|at| self.0[at])
    }
}

fn encode(entries: &[IndexEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * ENTRY_LEN);
    entries.iter().for_each(|entry| entry.encode(&mut out));
    out
}

fn floor(entries: &[IndexEntry], not_behind: impl Fn(&IndexEntry) -> bool) -> Option<usize> {
    entries.partition_point(not_behind).checked_sub(1)
}

// === impl Index ===

impl Default for Index {
    fn default() -> Self {
        Self { coarse: Vec::new(), stride: 1, filed: 0, recent: Vec::new(), last: None }
    }
}

impl Index {
    /// Of entries that are in the file.
    pub(crate) fn of_file(entries: &Entries) -> Self {
        let mut index = Self::of_recent(entries);
        index.file(entries.len());
        index
    }

    /// Of entries that are yet to be written.
    pub(crate) fn of_recent(entries: &Entries) -> Self {
        Self { recent: entries.0.clone(), last: entries.last(), ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.filed + self.recent.len()
    }

    /// Entries that are in the file.
    pub(crate) fn filed(&self) -> usize {
        self.filed
    }

    /// Those that are not, behind them.
    pub(crate) fn recent(&self) -> &[IndexEntry] {
        &self.recent
    }

    pub(crate) fn encode_recent(&self) -> Vec<u8> {
        encode(&self.recent)
    }

    pub(crate) fn push(&mut self, entry: IndexEntry) {
        self.recent.push(entry);
        self.last = Some(entry);
    }

    pub(crate) fn last(&self) -> Option<IndexEntry> {
        self.last
    }

    /// The file has the first `len` entries now; no fewer than before.
    pub(crate) fn file(&mut self, len: usize) {
        let count = len.saturating_sub(self.filed).min(self.recent.len());
        for entry in self.recent.drain(..count) {
            if self.filed.is_multiple_of(self.stride) {
                if self.coarse.len() == COARSE_MAX {
                    let mut number = 0;
                    self.coarse.retain(|_| {
                        number += 1;
                        number % 2 == 1
                    });
                    self.stride *= 2;
                }
                if self.filed.is_multiple_of(self.stride) {
                    self.coarse.push(entry);
                }
            }
            self.filed += 1;
        }
        self.recent.shrink_to(RECENT_KEPT);
    }

    /// The last entry of those that are `not_behind` something; they come first.
    pub(crate) fn floor(&self, not_behind: impl Fn(&IndexEntry) -> bool) -> Option<Floor> {
        if let Some(at) = floor(&self.recent, &not_behind) {
            return Some(Floor::Here(self.recent[at]));
        }
        let at = floor(&self.coarse, &not_behind)?;
        let known = self.coarse[at];
        if self.stride == 1 {
            return Some(Floor::Here(known));
        }
        let first = at * self.stride;
        Some(Floor::Filed { known, numbers: first..(first + self.stride).min(self.filed) })
    }

    /// Memory held, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        (self.coarse.capacity() + self.recent.capacity()) * size_of::<IndexEntry>()
    }
}

/// Space for entries that is kept when they have been written.
const RECENT_KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn entries(steps: &[(u32, u32, i64)]) -> Entries {
        let mut entries = Vec::new();
        let (mut offset, mut position, mut newest) = (0, 0, i64::MIN);
        for (records, bytes, timestamp) in steps {
            entries.push(IndexEntry { relative_offset: offset, position, max_timestamp_before: newest });
            offset += records + 1;
            position += bytes + 61;
            newest = newest.max(*timestamp);
        }
        Entries(entries)
    }

    /// As a segment does it, with the file at hand.
    fn found(index: &Index, file: &Entries, not_behind: impl Fn(&IndexEntry) -> bool) -> Option<IndexEntry> {
        match index.floor(&not_behind)? {
            Floor::Here(entry) => Some(entry),
            Floor::Filed { known, numbers } => {
                let found = Entries(file.0[numbers].to_vec()).floor(not_behind);
                assert!(found.is_some_and(|found| found.position >= known.position));
                found
            }
        }
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
            let entries = entries(&steps);
            let mut bytes = entries.encode();
            prop_assert_eq!(&Entries::decode(&bytes), &entries);
            let at = at.index(bytes.len());
            bytes[at] ^= 4;
            prop_assert_eq!(&Entries::decode(&bytes).0, &entries.0[..at / ENTRY_LEN]);
        }

        #[test]
        fn floors_agree_with_a_linear_search_however_much_is_in_the_file(
            steps in vec((0..10u32, 0..100u32, 0..100i64), 1..50),
            repeats in 1..100usize,
            filed in vec(any::<prop::sample::Index>(), 0..5),
            offset in 0..30_000u32,
            timestamp in 0..110i64,
        ) {
            let entries = entries(&steps.repeat(repeats));
            let mut index = Index::default();
            entries.0.iter().for_each(|entry| index.push(*entry));
            for len in filed {
                index.file(len.index(entries.len() + 1));
                prop_assert_eq!((index.len(), index.last()), (entries.len(), entries.last()));
                prop_assert!(index.coarse.len() <= COARSE_MAX);
                let by_offset = |entry: &IndexEntry| entry.relative_offset <= offset;
                let expected = entries.0.iter().rev().find(|entry| by_offset(entry)).copied();
                prop_assert_eq!(found(&index, &entries, by_offset), expected);
                let by_time = |entry: &IndexEntry| entry.max_timestamp_before < timestamp;
                let expected = entries.0.iter().rev().find(|entry| by_time(entry)).copied();
                prop_assert_eq!(found(&index, &entries, by_time), expected);
                let recent = entries.0[index.filed()..].to_vec();
                prop_assert_eq!(index.encode_recent(), Entries(recent).encode());
            }
        }
    }

    #[test]
    fn a_full_segment_costs_as_much_memory_as_a_small_one() {
        let entries = entries(&vec![(1, 4096, 1); 262_144]);
        let index = Index::of_file(&entries);
        assert!(index.memory_bytes() <= 10_000, "{} bytes", index.memory_bytes());
        assert_eq!((index.len(), index.filed(), index.stride), (262_144, 262_144, 512));
    }
}
