//! What opening a log finds.

use walser_model::Offset;

use super::kept::Kept;

/// What opening a log found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments that were read, wholly or from the recovery point on. 0 after a clean stop.
    pub scanned_segments: usize,
    /// Bytes that were read.
    pub scanned_bytes: u64,
    /// The torn end that was cut.
    pub cut: Option<CutTail>,
    /// Damage to records that had been durable.
    pub damage: Option<Damage>,
    /// The leader epochs were missing or damaged, and were made again from the batches.
    pub rebuilt_epochs: bool,
    /// Their file was there, and could not be read.
    pub damaged_epochs: bool,
    /// The checkpoint has no marks of this log, although it was flushed: its entry is damaged or lost. Records that were
    /// deleted may be back, down to the start of their epoch or segment, and nobody knows what was durable.
    pub unmarked: bool,
}

/// A torn tail that recovery has cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutTail {
    /// The log ends here.
    pub offset: Offset,
    /// What was cut.
    pub kept: Kept,
}

/// Lost or damaged records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// First offset that cannot be read.
    pub from: Offset,
    /// Everything below this had been durable.
    pub durable: Offset,
}
