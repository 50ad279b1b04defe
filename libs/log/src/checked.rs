//! Bytes that end with their checksum, as all small files and entries of a data directory do. What is in them is written
//! and read from front to back, with [`bytes::BufMut`] and [`bytes::Buf`], big-endian.

use bytes::BufMut as _;

/// Bytes of the checksum.
pub(crate) const CRC_LEN: usize = 4;

/// Adds the CRC-32C of everything from `start` on.
pub(crate) fn seal(out: &mut Vec<u8>, start: usize) {
    let crc = crate::crc32c(&out[start..]);
    out.put_u32(crc);
}

/// What stands before the checksum. `None`: it is not of these bytes.
pub(crate) fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let (body, crc) = bytes.split_at_checked(bytes.len().checked_sub(CRC_LEN)?)?;
    (crate::crc32c(body).to_be_bytes() == crc).then_some(body)
}

/// Reads bytes of a fixed number.
pub(crate) fn take<const LEN: usize>(from: &mut &[u8]) -> Option<[u8; LEN]> {
    let (taken, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*taken)
}
