//! A producer, as its partition sees it.

use crate::key::Key;

/// Producers of a partition.
pub(crate) const PRODUCERS: usize = 3;

/// Somebody who writes to one partition.
#[derive(Debug, Clone)]
pub(crate) struct Producer {
    pub(crate) partition: Key,
    /// It repeats until it is answered.
    pub(crate) idempotent: bool,
    /// Of the batch that is on its way, or the next one.
    pub(crate) sequence: u32,
    pub(crate) on_its_way: bool,
}

/// Whether a producer waits for each answer, and repeats. Of those that write to a partition the last one does not.
pub(crate) fn is_idempotent(at: usize) -> bool {
    at % PRODUCERS < 2
}

impl Producer {
    /// The producer of that number, with its first sequence; of those that write to a partition the last one is plain.
    pub(crate) fn new(at: usize, generation: u32, sequence: u32) -> Self {
        let partition = Key { slot: at / PRODUCERS, generation };
        Self { partition, idempotent: is_idempotent(at), sequence, on_its_way: false }
    }
}
