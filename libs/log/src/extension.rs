//! Space ahead of the log end.
//!
//! With fsync it is filled with zeros: overwriting them is several times faster to sync than growing a file, and does not
//! depend on the file system's own threads. With the page cache it is only taken: a write then finds blocks that it would
//! have to reserve one by one (a tenth of the CPU of a write on ext4).
//!
//! Invariant: while an extension fills space, nothing else writes there.

use std::io;
use std::sync::Arc;

use crate::generation::Generation;
use crate::segment::Segment;

/// Zeros between two syncs of an extension.
const SLICE_BYTES: u64 = 2 << 20;

/// Work for a flush thread: space ahead of the log end.
///
/// It opens a file description of its own: a sync that fails reports a writeback error once per description, and must
/// not take it from the flush whose records it is about.
#[derive(Debug, Clone)]
pub struct Extension {
    pub(crate) generation: Generation,
    pub(crate) segment: Arc<Segment>,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Written and synced, instead of only taken.
    pub(crate) zeros: bool,
}

// === impl Extension ===

impl Extension {
    /// Bytes that it takes.
    pub fn len(&self) -> usize {
        usize::try_from(self.to - self.from).unwrap_or(usize::MAX)
    }

    /// Whether it takes none.
    pub fn is_empty(&self) -> bool {
        self.to == self.from
    }

    /// Takes the space; with fsync, writes and syncs the zeros. Blocks as long as the disk takes.
    ///
    /// # Errors
    /// The first error. Without space, without a file to open, or on a file system that takes none ahead, this is
    /// harmless: the log then grows as it is written.
    pub fn run(&self) -> io::Result<()> {
        static CHUNK: [u8; 256 << 10] = [0; 256 << 10];
        let file = self.segment.open_apart()?;
        if !self.zeros {
            return file.allocate(self.from, self.to - self.from);
        }
        let mut at = self.from;
        while at < self.to {
            let len = usize::try_from(self.to - at).unwrap_or(usize::MAX).min(CHUNK.len());
            file.write_at(&CHUNK[..len], at)?;
            at += len as u64;
            // In slices: whoever syncs meanwhile waits behind one of them, not behind all.
            if (at - self.from).is_multiple_of(SLICE_BYTES) && at < self.to {
                file.sync_data()?;
            }
        }
        file.sync_data()
    }
}
