//! Free space: appends stop before the disk is full, so that everything else still works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use walser_log::DataDirectory;

/// The reserve where nobody says otherwise: 5 % of the disk, within these bounds, and at most a quarter of it.
const RESERVE_MIN: u64 = 16 << 20;
const RESERVE_MAX: u64 = 1 << 30;
/// After so many bytes the disk is looked at again: others write to it too.
const LOOK_EVERY_BYTES: u64 = 64 << 20;

/// Whether appends are refused for want of space. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct SpaceGuard {
    full: Arc<AtomicBool>,
    /// Bytes that may be written before the disk is looked at again.
    left: Arc<AtomicI64>,
    reserve: Option<u64>,
}

impl SpaceGuard {
    pub(crate) fn new(reserve: Option<u64>) -> Self {
        Self { full: Arc::default(), left: Arc::default(), reserve }
    }

    fn reserve_of(&self, total: u64) -> u64 {
        self.reserve.unwrap_or_else(|| (total / 20).clamp(RESERVE_MIN, RESERVE_MAX).min(total / 4))
    }

    /// Whether so many bytes can be written without touching the reserve.
    pub(crate) fn take(&self, bytes: usize, directory: &DataDirectory) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.left.fetch_sub(bytes, Ordering::Relaxed) >= bytes {
            return true;
        }
        // Where the disk does not say, the write itself will.
        let Ok(space) = directory.space() else { return true };
        let left = space.free.saturating_sub(self.reserve_of(space.total)).min(LOOK_EVERY_BYTES);
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        self.left.store((left - bytes).max(0), Ordering::Relaxed);
        left >= bytes
    }

    /// Whether appends are refused.
    pub(crate) fn full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// A write found no space.
    pub(crate) fn note_full(&self) {
        if !self.full.swap(true, Ordering::AcqRel) {
            tracing::error!("disk full: appends are refused until space is free");
        }
    }

    /// Looks at the disk. The ballast goes when it is full, and comes back when there is space again.
    pub(crate) fn check(&self, directory: &DataDirectory) -> std::io::Result<()> {
        let space = directory.space()?;
        let reserve = self.reserve_of(space.total);
        if space.free < reserve {
            if !self.full.swap(true, Ordering::AcqRel) {
                tracing::error!(free = space.free, reserve, "disk nearly full: appends are refused");
            }
            if space.free < reserve / 2 {
                directory.drop_ballast()?;
            }
        } else if space.free >= reserve + reserve / 8 && self.full.swap(false, Ordering::AcqRel) {
            // Not at the very edge: appends would be refused again with the next batch.
            tracing::warn!(free = space.free, "space is free again: appends go on");
            directory.take_ballast()?;
        }
        Ok(())
    }
}
