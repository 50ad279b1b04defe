//! Reads gzip (RFC 1952) as `java.util.zip.GZIPInputStream` does: members one after the other, each with its checksum
//! and size, and whatever follows the last one and does not begin as a member is left alone.

use std::ops::BitAnd as _;

use flate2::Crc;
use flate2::bufread::DeflateDecoder;

use super::CompressionError;
use super::output::Output;

const MAGIC: [u8; 2] = [0x1f, 0x8b];
const METHOD_DEFLATE: u8 = 8;
const FLAG_HEADER_CRC: u8 = 0x02;
const FLAG_EXTRA: u8 = 0x04;
const FLAG_NAME: u8 = 0x08;
const FLAG_COMMENT: u8 = 0x10;

/// Modification time, extra flags and operating system: bytes of the header without a meaning here.
const FIXED_FIELDS_LEN: usize = 6;

/// Up to this many bytes behind a member are never another one: a header and a trailer alone have as many.
const TAIL_LEN_MAX: usize = 18;

/// Decompresses all members of `stream`.
pub(super) fn decompress(stream: &[u8], out: &mut Output) -> Result<(), CompressionError> {
    let mut deflate = DeflateDecoder::new(body_of(stream).map_err(|detail| out.malformed(detail))?);
    loop {
        let start = out.plain().len();
        out.read_from(&mut deflate)?;
        let rest = check_trailer(deflate.get_ref(), &out.plain()[start..]).map_err(|detail| out.malformed(detail))?;
        match body_of(rest) {
            Ok(body) if rest.len() > TAIL_LEN_MAX => deflate.reset(body),
            _ => return Ok(()),
        };
    }
}

/// What follows the header of a member.
fn body_of(member: &[u8]) -> Result<&[u8], &'static str> {
    const CUT: &str = "a member's header is cut";
    let (magic, rest) = member.split_first_chunk::<2>().ok_or(CUT)?;
    if *magic != MAGIC {
        return Err("a member does not begin with 1f 8b");
    }
    let (&[method, flags], rest) = rest.split_first_chunk::<2>().ok_or(CUT)?;
    if method != METHOD_DEFLATE {
        return Err("a member's method is not deflate (8)");
    }
    let mut rest = rest.get(FIXED_FIELDS_LEN..).ok_or(CUT)?;
    if flags & FLAG_EXTRA != 0 {
        let (length, tail) = rest.split_first_chunk::<2>().ok_or(CUT)?;
        rest = tail.get(usize::from(u16::from_le_bytes(*length))..).ok_or(CUT)?;
    }
    for text in [FLAG_NAME, FLAG_COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|byte| *byte == 0).ok_or(CUT)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & FLAG_HEADER_CRC != 0 {
        let header = &member[..member.len() - rest.len()];
        let (said, tail) = rest.split_first_chunk::<2>().ok_or(CUT)?;
        if u32::from(u16::from_le_bytes(*said)) != crc(header).sum().bitand(0xffff) {
            return Err("the checksum of a member's header is wrong");
        }
        rest = tail;
    }
    Ok(rest)
}

/// Compares checksum and size behind a member with what it decompressed to; returns what follows them.
fn check_trailer<'a>(trailer: &'a [u8], plain: &[u8]) -> Result<&'a [u8], &'static str> {
    let (said, rest) = trailer.split_first_chunk::<4>().ok_or("a member is cut")?;
    let (size, rest) = rest.split_first_chunk::<4>().ok_or("a member is cut")?;
    let seen = crc(plain);
    if u32::from_le_bytes(*said) != seen.sum() {
        return Err("the checksum of a member is wrong");
    }
    // The size is that of the plain bytes modulo 2^32, as in `amount`.
    if u32::from_le_bytes(*size) != seen.amount() {
        return Err("the size of a member is wrong");
    }
    Ok(rest)
}

fn crc(bytes: &[u8]) -> Crc {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc
}
