//! The last batches of an idempotent producer in a partition, by which a retry is recognised (KIP-98).

use crate::{Offset, ProducerEpoch, Timestamp};

/// Batches remembered per producer: what may be in flight at once.
pub const REMEMBERED_BATCHES: usize = 5;

/// Sequences run from 0 to `i32::MAX`, and then from 0 again.
const SEQUENCE_COUNT: i64 = 1 << 31;

/// What a producer's batch is to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceCheck {
    /// The next in sequence, or not from a producer session.
    Next,
    /// One of the last five again.
    Duplicate {
        /// Offset of its first record.
        base_offset: Offset,
        /// Offset after its last record.
        next_offset: Offset,
        /// Largest timestamp of its records: with LogAppendTime, when it was appended.
        max_timestamp: Timestamp,
    },
    /// A higher epoch of the same producer has written.
    Fenced {
        /// That epoch.
        current: ProducerEpoch,
    },
    /// A batch before the last five: it was written, but where is not remembered.
    Forgotten {
        /// The sequence that would be accepted.
        expected: i32,
    },
    /// A gap, or sequences that are not those of a batch.
    OutOfOrder {
        /// The sequence that would be accepted.
        expected: i32,
    },
    /// Nothing is known of the producer here, and this is not its first batch.
    Unknown,
}

/// The sequences of a batch. Both inclusive; the last one is below the first where they wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequences {
    /// Of its first record.
    pub first: i32,
    /// Of its last record.
    pub last: i32,
}

/// A batch that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RememberedBatch {
    /// Those of its records.
    pub sequences: Sequences,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Largest timestamp of its records.
    pub max_timestamp: Timestamp,
}

/// A producer's recent past in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerWindow {
    epoch: ProducerEpoch,
    /// Oldest first, at most [`REMEMBERED_BATCHES`].
    batches: Vec<RememberedBatch>,
}

/// The sequence after `sequence`: from `i32::MAX` back to 0.
fn sequence_after(sequence: i32) -> i32 {
    sequence.checked_add(1).unwrap_or(0)
}

// === impl Sequences ===

impl Sequences {
    /// How many records they are of.
    fn count(self) -> i64 {
        (i64::from(self.last) - i64::from(self.first)).rem_euclid(SEQUENCE_COUNT) + 1
    }
}

// === impl ProducerWindow ===

impl ProducerWindow {
    /// Of a producer that has written nothing in this epoch.
    pub fn new(epoch: ProducerEpoch) -> Self {
        Self { epoch, batches: Vec::with_capacity(1) }
    }

    /// The latest epoch that has written.
    pub fn epoch(&self) -> ProducerEpoch {
        self.epoch
    }

    /// What is remembered, oldest first.
    pub fn batches(&self) -> &[RememberedBatch] {
        &self.batches
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Judges a batch before it is appended. `window`: of its producer, if anything is known of it.
    pub fn check_sequence(window: Option<&Self>, epoch: ProducerEpoch, sequences: Sequences) -> SequenceCheck {
        let first = sequences.first;
        let Some(window) = window else {
            return if first == 0 { SequenceCheck::Next } else { SequenceCheck::Unknown };
        };
        if epoch < window.epoch {
            return SequenceCheck::Fenced { current: window.epoch };
        }
        if epoch > window.epoch {
            return if first == 0 { SequenceCheck::Next } else { SequenceCheck::OutOfOrder { expected: 0 } };
        }
        if let Some(batch) = window.batches.iter().find(|batch| batch.sequences == sequences) {
            let RememberedBatch { base_offset, max_timestamp, .. } = *batch;
            let next_offset = base_offset.plus(sequences.count());
            return SequenceCheck::Duplicate { base_offset, next_offset, max_timestamp };
        }
        let expected = window.batches.last().map_or(0, |batch| sequence_after(batch.sequences.last));
        if first == expected {
            SequenceCheck::Next
        } else if window.has_forgotten(first) {
            SequenceCheck::Forgotten { expected }
        } else {
            SequenceCheck::OutOfOrder { expected }
        }
    }

    /// Whether a sequence lies before the oldest batch that is remembered, when older ones were forgotten.
    fn has_forgotten(&self, sequence: i32) -> bool {
        let Some(oldest) = self.batches.first().filter(|_| self.batches.len() == REMEMBERED_BATCHES) else {
            return false;
        };
        // Sequences wrap: what is less than half of them behind lies before, the others lie ahead.
        let behind = (i64::from(oldest.sequences.first) - i64::from(sequence)).rem_euclid(SEQUENCE_COUNT);
        behind > 0 && behind < SEQUENCE_COUNT / 2
    }

    /// Remembers a batch that is in the log; a higher epoch forgets those of the one before.
    pub fn record(&mut self, epoch: ProducerEpoch, batch: RememberedBatch) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
        if self.batches.len() == REMEMBERED_BATCHES {
            self.batches.remove(0);
        }
        self.batches.push(batch);
    }

    /// Forgets batches at or after `end`.
    pub fn truncate(&mut self, end: Offset) {
        self.batches.retain(|batch| batch.base_offset < end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(window: &mut ProducerWindow, epoch: i16, first: i32, last: i32, base_offset: i64) {
        let sequences = Sequences { first, last };
        let batch = RememberedBatch { sequences, base_offset: Offset(base_offset), max_timestamp: base_offset };
        window.record(ProducerEpoch(epoch), batch);
    }

    fn judged(window: &ProducerWindow, epoch: i16, first: i32, last: i32) -> SequenceCheck {
        ProducerWindow::check_sequence(Some(window), ProducerEpoch(epoch), Sequences { first, last })
    }

    #[test]
    fn sequences_are_accepted_once_and_in_order() {
        let of_nobody =
            |first| ProducerWindow::check_sequence(None, ProducerEpoch(0), Sequences { first, last: first });
        assert_eq!((of_nobody(0), of_nobody(3)), (SequenceCheck::Next, SequenceCheck::Unknown));
        let mut window = ProducerWindow::new(ProducerEpoch(0));
        for first in (0..70).step_by(10) {
            assert_eq!(judged(&window, 0, first, first + 9), SequenceCheck::Next);
            recorded(&mut window, 0, first, first + 9, i64::from(first));
        }
        let recent = SequenceCheck::Duplicate { base_offset: Offset(20), next_offset: Offset(30), max_timestamp: 20 };
        assert_eq!(judged(&window, 0, 20, 29), recent);
        assert_eq!(judged(&window, 0, 10, 19), SequenceCheck::Forgotten { expected: 70 });
        assert_eq!(judged(&window, 0, 25, 34), SequenceCheck::OutOfOrder { expected: 70 }, "no batch of these");
        assert_eq!(judged(&window, 0, 71, 71), SequenceCheck::OutOfOrder { expected: 70 });
        assert_eq!(judged(&window, 1, 5, 5), SequenceCheck::OutOfOrder { expected: 0 });
        recorded(&mut window, 1, 0, 0, 70);
        assert_eq!(judged(&window, 0, 70, 70), SequenceCheck::Fenced { current: ProducerEpoch(1) });
        window.truncate(Offset(70));
        assert!(window.is_empty());
    }

    #[test]
    fn sequences_wrap_after_the_largest() {
        let mut window = ProducerWindow::new(ProducerEpoch(0));
        recorded(&mut window, 0, i32::MAX, 1, 0);
        let again = SequenceCheck::Duplicate { base_offset: Offset(0), next_offset: Offset(3), max_timestamp: 0 };
        assert_eq!(judged(&window, 0, i32::MAX, 1), again);
        assert_eq!(judged(&window, 0, 2, 2), SequenceCheck::Next);
        for sequence in 2..7 {
            recorded(&mut window, 0, sequence, sequence, 3);
        }
        assert_eq!(judged(&window, 0, i32::MAX, i32::MAX), SequenceCheck::Forgotten { expected: 7 });
        assert_eq!(judged(&window, 0, 1 << 30, 1 << 30), SequenceCheck::OutOfOrder { expected: 7 }, "far ahead");
    }
}
