//! Idempotent producers of a partition: the last batches of each, so that a retry is recognised.
//!
//! Follows KIP-98 and Kafka's `ProducerStateManager`: the last five batches of every producer id are remembered; the
//! state is rebuilt from the batches themselves, and a snapshot saves reading them all again.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use walser_model::{
    Offset, ProducerEpoch, ProducerId, ProducerWindow, RememberedBatch, SequenceCheck, Sequences, Timestamp,
    whole_millis,
};
use walser_record_batch::BatchHeader;

use crate::checked::{CRC_LEN, seal, take, unseal};

/// Producers remembered per partition; the least recently used give way.
pub const PRODUCERS_MAX: usize = 100_000;

const MAGIC: &[u8; 4] = b"WPRS";
const VERSION: u16 = 2;
const HEADER_LEN: usize = 20;
const PRODUCER_LEN: usize = 20;
const BATCH_LEN: usize = 24;

/// A producer that is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownProducer {
    last_used: Timestamp,
    /// Never empty.
    window: ProducerWindow,
}

/// All producers of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Producers {
    by_id: HashMap<ProducerId, KnownProducer>,
}

fn sequences(header: &BatchHeader) -> Sequences {
    Sequences { first: header.base_sequence, last: header.last_sequence() }
}

// === impl Producers ===

impl Producers {
    /// Judges a batch before it is appended.
    pub fn check_sequence(&self, header: &BatchHeader) -> SequenceCheck {
        if !header.producer_id.is_some() {
            return SequenceCheck::Next;
        }
        let window = self.by_id.get(&header.producer_id).map(|known| &known.window);
        ProducerWindow::check_sequence(window, header.producer_epoch, sequences(header))
    }

    /// Remembers a batch. `header` carries its final base offset; `now` is the wall clock, never the time of records.
    pub fn record(&mut self, header: &BatchHeader, now: Timestamp) {
        if !header.producer_id.is_some() {
            return;
        }
        if self.by_id.len() >= PRODUCERS_MAX && !self.by_id.contains_key(&header.producer_id) {
            self.evict();
        }
        let BatchHeader { base_offset, max_timestamp, producer_epoch, .. } = *header;
        let batch = RememberedBatch { sequences: sequences(header), base_offset, max_timestamp };
        let fresh = || KnownProducer { last_used: 0, window: ProducerWindow::new(producer_epoch) };
        let known = self.by_id.entry(header.producer_id).or_insert_with(fresh);
        known.window.record(producer_epoch, batch);
        known.last_used = known.last_used.max(now);
    }

    /// Drops the tenth that was used least recently, so that eviction is rare.
    fn evict(&mut self) {
        let mut ages: Vec<_> = self.by_id.iter().map(|(id, producer)| (producer.last_used, *id)).collect();
        ages.sort_unstable();
        for (_, id) in ages.iter().take(PRODUCERS_MAX / 10) {
            self.by_id.remove(id);
        }
    }

    /// Forgets producers whose last batch came longer than `age` ago.
    pub fn expire(&mut self, now: Timestamp, age: Duration) {
        let oldest = now.saturating_sub(whole_millis(age));
        self.by_id.retain(|_, producer| producer.last_used >= oldest);
    }

    /// Forgets batches at or after `end`.
    pub fn truncate(&mut self, end: Offset) {
        self.by_id.values_mut().for_each(|known| known.window.truncate(end));
        self.by_id.retain(|_, known| !known.window.is_empty());
    }

    /// The base offset of the last batch of each.
    pub(crate) fn last_batches(&self) -> HashMap<ProducerId, Offset> {
        let last = |known: &KnownProducer| known.window.batches().last().map(|batch| batch.base_offset);
        self.by_id.iter().filter_map(|(id, known)| Some((*id, last(known)?))).collect()
    }

    /// Returns how many producers are known.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether no producer is known.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The snapshot of everything before `end`.
    pub fn encode(&self, end: Offset) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + self.by_id.len() * (PRODUCER_LEN + BATCH_LEN) + CRC_LEN);
        out.put_slice(MAGIC);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_i64(end.0);
        out.put_u32(u32::try_from(self.by_id.len()).expect("the count is capped"));
        let mut sorted: Vec<_> = self.by_id.iter().collect();
        sorted.sort_unstable_by_key(|(id, _)| **id);
        for (id, producer) in sorted {
            out.put_i64(id.0);
            out.put_i16(producer.window.epoch().0);
            out.put_u16(u16::try_from(producer.window.batches().len()).expect("at most five batches"));
            out.put_i64(producer.last_used);
            for batch in producer.window.batches() {
                out.put_i32(batch.sequences.first);
                out.put_i32(batch.sequences.last);
                out.put_i64(batch.base_offset.0);
                out.put_i64(batch.max_timestamp);
            }
        }
        seal(&mut out, 0);
        out
    }

    /// Reads a snapshot and the offset that it stands for. `None` when it is damaged or of another version.
    pub fn decode(bytes: &[u8]) -> Option<(Self, Offset)> {
        let mut rest = unseal(bytes)?;
        let (magic, version) = (take(&mut rest)?, rest.try_get_u16().ok()?);
        rest.try_get_u16().ok().filter(|_| &magic == MAGIC && version == VERSION)?;
        let end = Offset(rest.try_get_i64().ok()?);
        let mut producers = Self::default();
        for _ in 0..rest.try_get_u32().ok()? {
            let id = ProducerId(rest.try_get_i64().ok()?);
            let epoch = ProducerEpoch(rest.try_get_i16().ok()?);
            let batch_count = rest.try_get_u16().ok()?;
            let last_used = rest.try_get_i64().ok()?;
            let mut window = ProducerWindow::new(epoch);
            for _ in 0..batch_count {
                let (first, last) = (rest.try_get_i32().ok()?, rest.try_get_i32().ok()?);
                let (base_offset, max_timestamp) = (Offset(rest.try_get_i64().ok()?), rest.try_get_i64().ok()?);
                window.record(
                    epoch,
                    RememberedBatch { sequences: Sequences { first, last }, base_offset, max_timestamp },
                );
            }
            producers.by_id.insert(id, KnownProducer { last_used, window });
        }
        rest.is_empty().then_some((producers, end))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use walser_model::{Compression, LeaderEpoch};
    use walser_record_batch::{BatchBuilder, Producer as Session, RecordFields, stamp_position};

    use super::*;

    fn batch(id: i64, epoch: i16, base_sequence: i32, count: i32, base_offset: i64) -> BatchHeader {
        let mut builder = BatchBuilder::new(Compression::None, 0);
        for _ in 0..count {
            builder.append(&RecordFields { timestamp: base_offset, key: None, value: None, headers: &[] });
        }
        let session = Session { id: ProducerId(id), epoch: ProducerEpoch(epoch), base_sequence };
        let mut bytes = builder.build(session).to_vec();
        stamp_position(&mut bytes, Offset(base_offset), LeaderEpoch(0));
        BatchHeader::parse(&bytes).unwrap()
    }

    #[test]
    fn sequences_are_accepted_once_and_in_order() {
        let mut producers = Producers::default();
        assert_eq!(producers.check_sequence(&batch(7, 0, 3, 1, 0)), SequenceCheck::Unknown);
        let mut offset = 0;
        for base_sequence in (0..70).step_by(10) {
            let next = batch(7, 0, base_sequence, 10, offset);
            assert_eq!(producers.check_sequence(&next), SequenceCheck::Next);
            producers.record(&next, 0);
            offset += 10;
        }
        let recent = SequenceCheck::Duplicate { base_offset: Offset(20), next_offset: Offset(30), max_timestamp: 20 };
        assert_eq!(producers.check_sequence(&batch(7, 0, 20, 10, 0)), recent);
        assert_eq!(producers.check_sequence(&batch(7, 0, 10, 10, 0)), SequenceCheck::Forgotten { expected: 70 });
        assert_eq!(
            producers.check_sequence(&batch(7, 0, 25, 10, 0)),
            SequenceCheck::OutOfOrder { expected: 70 },
            "no batch of these"
        );
        assert_eq!(producers.check_sequence(&batch(7, 0, 71, 1, 0)), SequenceCheck::OutOfOrder { expected: 70 });
        assert_eq!(producers.check_sequence(&batch(7, 1, 5, 1, 0)), SequenceCheck::OutOfOrder { expected: 0 });
        producers.record(&batch(7, 1, 0, 1, offset), 0);
        assert_eq!(
            producers.check_sequence(&batch(7, 0, 70, 1, 0)),
            SequenceCheck::Fenced { current: ProducerEpoch(1) }
        );
        producers.truncate(Offset(offset));
        assert_eq!(producers.check_sequence(&batch(7, 1, 1, 1, 0)), SequenceCheck::Unknown);
    }

    #[test]
    fn sequences_wrap_after_the_largest() {
        let mut producers = Producers::default();
        producers.record(&batch(7, 0, i32::MAX - 1, 2, 0), 0);
        assert_eq!(producers.check_sequence(&batch(7, 0, 0, 1, 2)), SequenceCheck::Next);
        for sequence in 0..5 {
            producers.record(&batch(7, 0, sequence, 1, 0), 0);
        }
        assert_eq!(producers.check_sequence(&batch(7, 0, i32::MAX, 1, 2)), SequenceCheck::Forgotten { expected: 5 });
        assert_eq!(
            producers.check_sequence(&batch(7, 0, 1 << 30, 1, 2)),
            SequenceCheck::OutOfOrder { expected: 5 },
            "far ahead"
        );
    }

    #[test]
    fn the_old_are_forgotten() {
        let mut producers = Producers::default();
        producers.record(&batch(1, 0, 0, 1, 0), 1_000);
        producers.record(&batch(2, 0, 0, 1, 1), 9_000);
        producers.expire(10_000, Duration::from_secs(5));
        assert_eq!(producers.len(), 1);
    }

    #[test]
    fn the_bytes_of_a_snapshot_are_the_documented_ones() {
        let mut producers = Producers::default();
        producers.record(&batch(258, 3, 4, 2, 7), 9);
        let golden = [
            &b"WPRS\0\x02\0\0"[..],
            &[0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0, 1, 2, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9],
            &[0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 7],
        ];
        let bytes = producers.encode(Offset(10));
        assert_eq!(bytes[..bytes.len() - CRC_LEN], golden.concat());
    }

    proptest! {
        #[test]
        fn snapshots_survive_and_damage_is_noticed(
            writes in proptest::collection::vec((0..5i64, 0..3i16, 0..100i32, 1..9i32), 0..30),
            at in any::<prop::sample::Index>(),
        ) {
            let mut producers = Producers::default();
            let mut end = 0;
            for (id, epoch, sequence, count) in writes {
                producers.record(&batch(id, epoch, sequence, count, end), end);
                end += i64::from(count);
            }
            let mut bytes = producers.encode(Offset(end));
            prop_assert_eq!(Producers::decode(&bytes), Some((producers, Offset(end))));
            let at = at.index(bytes.len());
            bytes[at] ^= 8;
            prop_assert_eq!(Producers::decode(&bytes), None);
        }
    }
}
