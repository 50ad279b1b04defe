//! The leader-epoch checkpoint: where each leader epoch of a partition starts.
//!
//! Answers "where does epoch E end", on which truncation after a leader change rests (KIP-101, KIP-279). The file is
//! a header and entries that are only ever added; a change of the past rewrites it in one step.
//!
//! ```text
//! "WLEP" | version u16 | 0 u16 | entries: epoch i32, start offset i64, CRC-32C u32 (of the 12 bytes before)
//! ```

use std::io;
use std::path::Path;

use walser_model::{LeaderEpoch, Offset};

use crate::disk::{Disk, Open, read_file, replace_file};

/// Name of the file in a partition's directory.
pub(crate) const FILE_NAME: &str = "leader-epochs";

const MAGIC: &[u8; 4] = b"WLEP";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 8;
const ENTRY_LEN: usize = 16;
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Where an epoch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Offset of its first record, or the log end while it has none.
    pub start: Offset,
}

/// The epochs of a log, ascending in both epoch and start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Epochs {
    starts: Vec<EpochStart>,
}

// === impl Epochs ===

impl Epochs {
    /// Reads the checkpoint; entries after damage are left out, recovery finds them again in the batches.
    pub(crate) fn load(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let bytes = read_file(disk, path, FILE_BYTES_MAX)?.unwrap_or_default();
        Ok(Self::decode(&bytes))
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut epochs = Self::default();
        let header = bytes.get(..HEADER_LEN);
        if header.is_none_or(|header| &header[..4] != MAGIC || header[4..6] != VERSION.to_be_bytes()) {
            return epochs;
        }
        for entry in bytes[HEADER_LEN..].chunks_exact(ENTRY_LEN) {
            let (body, crc) = entry.split_at(12);
            if crate::crc32c(body).to_be_bytes() != crc {
                break;
            }
            let epoch = LeaderEpoch(i32::from_be_bytes(body[..4].try_into().expect("four bytes")));
            let start = Offset(i64::from_be_bytes(body[4..].try_into().expect("eight bytes")));
            epochs.assign(epoch, start);
        }
        epochs
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + self.starts.len() * ENTRY_LEN);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        for start in &self.starts {
            let at = out.len();
            out.extend_from_slice(&start.epoch.0.to_be_bytes());
            out.extend_from_slice(&start.start.0.to_be_bytes());
            let crc = crate::crc32c(&out[at..]);
            out.extend_from_slice(&crc.to_be_bytes());
        }
        out
    }

    /// Writes the whole checkpoint without making it durable; gives back the file to sync.
    pub(crate) fn write(&self, disk: &dyn Disk, path: &Path) -> io::Result<std::sync::Arc<dyn crate::disk::DiskFile>> {
        let file = disk.open(path, Open::Write)?;
        let bytes = self.encode();
        file.write_at(&bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        Ok(file)
    }

    /// Replaces the checkpoint in one durable step.
    pub(crate) fn replace(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        replace_file(disk, path, &self.encode())
    }

    /// Begins `epoch` at `start`. An entry without records gives way; a lower or equal epoch changes nothing.
    /// Gives back whether anything changed.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        if self.starts.last().is_some_and(|last| epoch <= last.epoch || start < last.start) {
            return false;
        }
        while self.starts.last().is_some_and(|last| last.start >= start) {
            self.starts.pop();
        }
        self.starts.push(EpochStart { epoch, start });
        true
    }

    /// The latest epoch, or [`LeaderEpoch::NONE`].
    pub fn latest(&self) -> LeaderEpoch {
        self.starts.last().map_or(LeaderEpoch::NONE, |last| last.epoch)
    }

    /// The epoch that a record at `offset` was written under, or [`LeaderEpoch::NONE`].
    pub fn epoch_of(&self, offset: Offset) -> LeaderEpoch {
        let after = self.starts.partition_point(|start| start.start <= offset);
        after.checked_sub(1).map_or(LeaderEpoch::NONE, |at| self.starts[at].epoch)
    }

    /// The largest epoch at or below `epoch`, and where it ends (exclusive; `log_end` for the latest). `None` when
    /// every epoch is higher.
    pub fn end_of(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        let after = self.starts.partition_point(|start| start.epoch <= epoch);
        let found = self.starts[after.checked_sub(1)?];
        let end = self.starts.get(after).map_or(log_end, |next| next.start);
        Some((found.epoch, end))
    }

    /// Drops epochs that start at or after `end`.
    pub(crate) fn truncate(&mut self, end: Offset) {
        self.starts.retain(|start| start.start < end);
    }

    /// Moves the start of what lies before `log_start` up to it, dropping epochs that have no records left.
    pub(crate) fn forget_before(&mut self, log_start: Offset) {
        let keep_from = self.starts.partition_point(|start| start.start <= log_start).saturating_sub(1);
        self.starts.drain(..keep_from);
        if let Some(first) = self.starts.first_mut() {
            first.start = first.start.max(log_start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(starts: &[(i32, i64)]) -> Epochs {
        let mut epochs = Epochs::default();
        for (epoch, start) in starts {
            epochs.assign(LeaderEpoch(*epoch), Offset(*start));
        }
        epochs
    }

    #[test]
    fn the_checkpoint_survives_and_damage_cuts_it() {
        let written = epochs(&[(1, 0), (2, 10), (5, 30)]);
        let mut bytes = written.encode();
        assert_eq!(Epochs::decode(&bytes), written);
        bytes[HEADER_LEN + ENTRY_LEN + 5] ^= 1;
        assert_eq!(Epochs::decode(&bytes), epochs(&[(1, 0)]));
        assert_eq!(Epochs::decode(b"nonsense"), Epochs::default());
    }

    #[test]
    fn an_epoch_without_records_is_replaced() {
        assert_eq!(epochs(&[(1, 0), (2, 10), (3, 10)]), epochs(&[(1, 0), (3, 10)]));
        assert_eq!(epochs(&[(3, 0), (2, 10)]), epochs(&[(3, 0)]));
    }

    #[test]
    fn ends_are_those_of_kip_279() {
        let epochs = epochs(&[(1, 0), (3, 10), (5, 30)]);
        let end = |epoch| epochs.end_of(LeaderEpoch(epoch), Offset(50)).map(|(epoch, end)| (epoch.0, end.0));
        assert_eq!(end(0), None);
        assert_eq!(end(1), Some((1, 10)));
        assert_eq!(end(2), Some((1, 10)));
        assert_eq!(end(4), Some((3, 30)));
        assert_eq!(end(9), Some((5, 50)));
        assert_eq!(epochs.epoch_of(Offset(29)), LeaderEpoch(3));
    }

    #[test]
    fn deleted_records_take_their_epochs_along() {
        let mut all = epochs(&[(1, 0), (3, 10), (5, 30)]);
        all.forget_before(Offset(12));
        assert_eq!(all, epochs(&[(3, 12), (5, 30)]));
    }
}
