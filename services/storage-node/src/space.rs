//! Free space: appends stop before the disk is full, so that everything else still works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use walser_log::DataDirectory;

/// The reserve where nobody says otherwise: 5 % of the disk, at most 1 GiB.
const RESERVE_MAX: u64 = 1 << 30;

/// Whether appends are refused for want of space. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct SpaceGuard {
    full: Arc<AtomicBool>,
    reserve: Option<u64>,
}

impl SpaceGuard {
    pub(crate) fn new(reserve: Option<u64>) -> Self {
        Self { full: Arc::default(), reserve }
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
        let reserve = self.reserve.unwrap_or_else(|| (space.total / 20).min(RESERVE_MAX));
        if space.free < reserve {
            if !self.full.swap(true, Ordering::AcqRel) {
                tracing::error!(free = space.free, reserve, "disk nearly full: appends are refused");
            }
            if space.free < reserve / 2 {
                directory.drop_ballast()?;
            }
        } else if self.full.swap(false, Ordering::AcqRel) {
            tracing::warn!(free = space.free, "space is free again: appends go on");
            directory.take_ballast()?;
        }
        Ok(())
    }
}
