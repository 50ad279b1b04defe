//! Batches of which records were to go that stay.

use walser_model::Offset;

/// The first and the last one of them. What deletes their records is not known any more in a later job: no tombstone behind
/// the first one goes, until the last one has gone with its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uncleaned {
    /// Base offset of the first one.
    pub(crate) first: Offset,
    /// Of the last one, or a higher offset.
    pub(crate) last: Offset,
}

impl Uncleaned {
    /// All that was to go is gone.
    pub(crate) const NONE: Self = Self { first: Offset(i64::MAX), last: Offset::ZERO };

    pub(crate) fn add(&mut self, base: Offset) {
        *self = Self { first: self.first.min(base), last: self.last.max(base) };
    }

    /// What is left of them in a log that was cut.
    pub(crate) fn cut(self, end: Offset) -> Self {
        if self.first < end { Self { last: self.last.min(end), ..self } } else { Self::NONE }
    }

    /// What is left of them in a log whose records below `start` have gone. Which one is the first then is not known.
    pub(crate) fn from(self, start: Offset) -> Self {
        if self.last < start { Self::NONE } else { self }
    }
}
