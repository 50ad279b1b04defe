//! Which of the contents of a log a piece of work belongs to.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number for what a log has in it between two changes that are no appends: opening, truncation and repair begin
/// another one. Work that ends later says the one that it was taken from, and is ignored by any other: it tells of
/// files that may not be there any more. No two are equal within a process, so that a log which is closed and opened
/// again is another one, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64);

/// The one that a log has now.
#[derive(Debug)]
pub(crate) struct AtomicGeneration(AtomicU64);

// === impl Generation ===

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Generation {
    /// One that nobody has had.
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

// === impl AtomicGeneration ===

impl Default for AtomicGeneration {
    fn default() -> Self {
        Self(AtomicU64::new(Generation::next().0))
    }
}

impl AtomicGeneration {
    pub(crate) fn load(&self) -> Generation {
        Generation(self.0.load(Ordering::Acquire))
    }

    /// Begins another one.
    pub(crate) fn begin(&self) {
        self.0.store(Generation::next().0, Ordering::Release);
    }
}
