//! When a server ran on a data directory last, by its wall clock: a start on a clock that has jumped must not take records
//! for old ones.
//!
//! ```text
//! "WCLK" | version u16 | 0 u16 | wall clock in milliseconds i64 | hold left in milliseconds u64 | CRC-32C u32
//! 28 bytes, big-endian
//! ```

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use walser_model::Timestamp;

use crate::checked::{seal, take, unseal};
use crate::disk::{Disk, Open, read_file};

pub(crate) const FILE_NAME: &str = "wall-clock";
const MAGIC: &[u8; 4] = b"WCLK";
const VERSION: u16 = 1;
const LEN: usize = 28;

/// What a server noted of its wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockMark {
    /// What it showed, in milliseconds.
    pub wall: Timestamp,
    /// For so long the server would not have believed it yet.
    pub hold: Duration,
}

impl ClockMark {
    /// A file that makes no sense.
    const DAMAGED: Self = Self { wall: Timestamp::MIN, hold: Duration::MAX };

    /// Reads the mark of a directory. `None`: there is none, as in directories of earlier versions. One that makes no
    /// sense is of a server that did not believe its clock.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn read(disk: &dyn Disk, root: &Path) -> io::Result<Option<Self>> {
        let bytes = read_file(disk, &root.join(FILE_NAME), LEN as u64)?;
        Ok(bytes.map(|bytes| decode(&bytes).unwrap_or(Self::DAMAGED)))
    }

    /// Writes it over the one before, without making it durable: one that is older is on the safe side.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn write(self, disk: &dyn Disk, root: &Path) -> io::Result<()> {
        disk.open(&root.join(FILE_NAME), Open::Write)?.write_at(&encode(self), 0)
    }
}

fn encode(ClockMark { wall, hold }: ClockMark) -> Vec<u8> {
    let mut out = Vec::with_capacity(LEN);
    out.put_slice(MAGIC);
    out.put_u16(VERSION);
    out.put_u16(0);
    out.put_i64(wall);
    out.put_u64(u64::try_from(hold.as_millis()).unwrap_or(u64::MAX));
    seal(&mut out, 0);
    assert_eq!(out.len(), LEN, "the file has a fixed length");
    out
}

fn decode(bytes: &[u8]) -> Option<ClockMark> {
    let mut body = unseal(bytes)?;
    let (magic, version) = (take(&mut body)?, body.try_get_u16().ok()?);
    body.try_get_u16().ok().filter(|_| &magic == MAGIC && version == VERSION)?;
    let (wall, hold) = (body.try_get_i64().ok()?, Duration::from_millis(body.try_get_u64().ok()?));
    body.is_empty().then_some(ClockMark { wall, hold })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_the_format_are_these_and_damage_is_noticed() {
        let golden = b"WCLK\0\x01\0\0\0\0\x01\x8b\xcf\xe5\x68\0\0\0\0\0\0\0\x01\x02";
        let mark = ClockMark { wall: 1_700_000_000_000, hold: Duration::from_millis(258) };
        let mut bytes = encode(mark);
        assert_eq!((&bytes[..24], bytes.len()), (&golden[..], LEN));
        assert_eq!(decode(&bytes), Some(mark));
        for at in 0..LEN {
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes), None, "byte {at}");
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes[..at]), None, "{at} bytes");
        }
    }
}
