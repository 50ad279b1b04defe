//! The highest metadata version that a data directory has seen, so that older metadata is noticed.
//!
//! ```text
//! "WMDV" | version of the format u16 | 0 u16 | metadata version i64 | lineage 16 bytes | CRC-32C u32 of what is before
//! 36 bytes, big-endian
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};
use parking_lot::Mutex;

use crate::checked::{seal, take, unseal};
use crate::disk::{Disk, overwrite_file, read_file};

/// Name of the file in a data directory.
pub(crate) const FILE_NAME: &str = "metadata-version";

const MAGIC: &[u8; 4] = b"WMDV";
const FORMAT: u16 = 1;
const LEN: usize = 36;

/// A version of the metadata, and which history of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeenMetadata {
    /// The highest version; 0: none.
    pub version: i64,
    /// Which start of a controller it goes on from; all zeros: not known.
    pub lineage: [u8; 16],
}

/// What was seen, and the file that keeps it.
#[derive(Debug)]
pub(crate) struct MetadataVersion {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// As the file has it. Never held while a disk works.
    seen: Mutex<SeenMetadata>,
    /// Who writes the file.
    writing: Mutex<()>,
}

impl MetadataVersion {
    /// Reads the file in `root`; without one the version is 0.
    ///
    /// # Errors
    /// I/O errors, and [`io::ErrorKind::InvalidData`] for a file that is damaged or of a newer format.
    pub(crate) fn open(disk: Arc<dyn Disk>, root: &Path) -> io::Result<Self> {
        let path = root.join(FILE_NAME);
        let seen = match read_file(&*disk, &path, 4096)? {
            None => SeenMetadata::default(),
            Some(bytes) => decode(&bytes).ok_or_else(|| {
                let text = format!("{} is damaged or of a newer version", path.display());
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?,
        };
        Ok(Self { disk, path, seen: Mutex::new(seen), writing: Mutex::new(()) })
    }

    /// What is noted. Never waits for the disk.
    pub(crate) fn get(&self) -> SeenMetadata {
        *self.seen.lock()
    }

    /// Notes a version durably; a lower one changes nothing. Blocks as long as the disk takes.
    ///
    /// # Errors
    /// I/O errors; the version is as it was then. Each call writes a new file first, so that trying again is safe (R30).
    pub(crate) fn raise(&self, seen: SeenMetadata) -> io::Result<()> {
        let _writing = self.writing.lock();
        let current = self.get();
        if seen.version >= current.version && seen != current {
            let bytes = encode(seen);
            overwrite_file(&*self.disk, &self.path, &bytes)?;
            *self.seen.lock() = seen;
        }
        Ok(())
    }
}

fn encode(seen: SeenMetadata) -> Vec<u8> {
    let mut out = Vec::with_capacity(LEN);
    out.put_slice(MAGIC);
    out.put_u16(FORMAT);
    out.put_u16(0);
    out.put_i64(seen.version);
    out.put_slice(&seen.lineage);
    seal(&mut out, 0);
    assert_eq!(out.len(), LEN, "the file has a fixed length");
    out
}

fn decode(bytes: &[u8]) -> Option<SeenMetadata> {
    let mut body = unseal(bytes).filter(|_| bytes.len() == LEN)?;
    let (magic, format) = (take(&mut body)?, body.try_get_u16().ok()?);
    body.try_get_u16().ok().filter(|_| &magic == MAGIC && format == FORMAT)?;
    Some(SeenMetadata { version: body.try_get_i64().ok()?, lineage: take(&mut body)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{MemoryDisk, PowerLoss};

    #[test]
    fn the_version_survives_power_loss_never_goes_back_and_damage_is_noticed() {
        let memory = MemoryDisk::simulated(1 << 20);
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let root = Path::new("/data");
        disk.create_dir(root).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let version = MetadataVersion::open(Arc::clone(&disk), root).unwrap();
        assert_eq!(version.get(), SeenMetadata::default());
        let seen = |version, byte| SeenMetadata { version, lineage: [byte; 16] };
        version.raise(seen(77, 1)).unwrap();
        version.raise(seen(5, 2)).unwrap();
        version.raise(seen(77, 3)).unwrap();
        let after = memory.lose_power(PowerLoss::Everything);
        let again = MetadataVersion::open(Arc::new(after.clone()), root).unwrap();
        assert_eq!(again.get(), seen(77, 3), "another lineage at the same version counts");
        after.flip_bit(&root.join(FILE_NAME), 9, 2);
        assert!(MetadataVersion::open(Arc::new(after), root).is_err());
    }

    #[test]
    fn on_a_disk_without_a_free_byte_the_version_still_rises() {
        let memory = MemoryDisk::simulated(1 << 20);
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let root = Path::new("/data");
        disk.create_dir(root).unwrap();
        let version = MetadataVersion::open(Arc::clone(&disk), root).unwrap();
        version.raise(SeenMetadata { version: 7, lineage: [1; 16] }).unwrap();
        let space = disk.space(root).unwrap();
        memory.set_capacity(space.total - space.free);
        let later = SeenMetadata { version: 8, lineage: [1; 16] };
        version.raise(later).unwrap();
        assert_eq!((version.get(), MetadataVersion::open(disk, root).unwrap().get()), (later, later));
    }

    #[test]
    fn the_form_is_the_documented_one() {
        let golden = [0x57, 0x4d, 0x44, 0x56, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2];
        let bytes = encode(SeenMetadata { version: 258, lineage: [7; 16] });
        assert_eq!((&bytes[..16], &bytes[16..32]), (&golden[..], &[7; 16][..]));
    }
}
