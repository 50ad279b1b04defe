//! The leader-epoch checkpoint: where each leader epoch of a partition starts.
//!
//! The file is a header and entries that are only ever added; a change of the past rewrites it in one step.
//!
//! ```text
//! "WLEP" | version u16 | 0 u16 | entries: epoch i32, start offset i64, CRC-32C u32 (of the 12 bytes before)
//! ```

use std::io;
use std::path::Path;
use std::sync::Arc;

use walser_model::{LeaderEpoch, LeaderEpochs, Offset};

use crate::disk::{Disk, DiskFile, Open, read_file, replace_file};

/// Name of the file in a partition's directory.
pub(crate) const FILE_NAME: &str = "leader-epochs";

const MAGIC: &[u8; 4] = b"WLEP";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 8;
const ENTRY_LEN: usize = 16;
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Reads the checkpoint. `None`: it is missing or damaged, and has to be made again from the batches.
pub(crate) fn load(disk: &dyn Disk, path: &Path) -> io::Result<Option<LeaderEpochs>> {
    let bytes = read_file(disk, path, FILE_BYTES_MAX)?;
    Ok(bytes.as_deref().and_then(decode))
}

/// Writes the whole checkpoint without making it durable; gives back the file to sync.
pub(crate) fn write(epochs: &LeaderEpochs, disk: &dyn Disk, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.open(path, Open::Write)?;
    let bytes = encode(epochs);
    file.write_at(&bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    Ok(file)
}

/// Replaces the checkpoint in one durable step.
pub(crate) fn replace(epochs: &LeaderEpochs, disk: &dyn Disk, path: &Path) -> io::Result<()> {
    replace_file(disk, path, &encode(epochs))
}

fn decode(bytes: &[u8]) -> Option<LeaderEpochs> {
    let mut epochs = LeaderEpochs::default();
    let (header, entries) = bytes.split_at_checked(HEADER_LEN)?;
    if &header[..4] != MAGIC || header[4..6] != VERSION.to_be_bytes() || entries.len() % ENTRY_LEN != 0 {
        return None;
    }
    for entry in entries.chunks_exact(ENTRY_LEN) {
        let (body, crc) = entry.split_at(12);
        if crate::crc32c(body).to_be_bytes() != crc {
            return None;
        }
        let epoch = LeaderEpoch(i32::from_be_bytes(body[..4].try_into().ok()?));
        let start = Offset(i64::from_be_bytes(body[4..].try_into().ok()?));
        epochs.assign(epoch, start);
    }
    Some(epochs)
}

fn encode(epochs: &LeaderEpochs) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + epochs.starts().len() * ENTRY_LEN);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    for start in epochs.starts() {
        let at = out.len();
        out.extend_from_slice(&start.epoch.0.to_be_bytes());
        out.extend_from_slice(&start.start.0.to_be_bytes());
        let crc = crate::crc32c(&out[at..]);
        out.extend_from_slice(&crc.to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkpoint_survives_and_damage_is_noticed() {
        let mut written = LeaderEpochs::default();
        for (epoch, start) in [(1, 0), (2, 10), (5, 30)] {
            written.assign(LeaderEpoch(epoch), Offset(start));
        }
        let mut bytes = encode(&written);
        assert_eq!(decode(&bytes), Some(written));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        for at in (0..bytes.len()).filter(|at| !(6..8).contains(at)) {
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes), None, "byte {at}");
            bytes[at] ^= 1;
        }
    }
}
