//! A producer, as its partition sees it.

/// Somebody who writes to one partition.
#[derive(Debug, Clone)]
pub(crate) struct Producer {
    pub(crate) partition: usize,
    /// It repeats until it is answered.
    pub(crate) idempotent: bool,
    /// Of the batch that is on its way, or the next one.
    pub(crate) sequence: u32,
    pub(crate) on_its_way: bool,
}

impl Producer {
    pub(crate) fn new(at: usize) -> Self {
        // Of three that write to a partition the last one is plain.
        Self { partition: at / 3, idempotent: at % 3 < 2, sequence: 0, on_its_way: false }
    }
}
