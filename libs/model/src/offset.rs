//! Offsets and leader epochs.

use std::fmt;

/// A place in a partition's log. The first record has offset 0. Ends (log end offset, high watermark) are exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub i64);

/// Grows by one with every leader change of a partition and every restart of its leader. Stored in each batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LeaderEpoch(pub i32);

// === impl Offset ===

impl Offset {
    /// The first offset of every log.
    pub const ZERO: Self = Self(0);
    /// Above every offset of a log.
    pub const MAX: Self = Self(i64::MAX);

    /// This offset moved by `count` records, saturating at the ends of the number range.
    #[must_use]
    pub fn plus(self, count: i64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// Records from `earlier` (inclusive) to this offset (exclusive).
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl LeaderEpoch ===

impl LeaderEpoch {
    /// "No epoch": lower than every real one.
    pub const NONE: Self = Self(-1);

    /// The next epoch. Saturates: two thousand million leader changes do not happen.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
