//! LZ4 frames (format 1.6.x) as Kafka's `Lz4BlockInputStream` reads them: exactly one frame, of independent blocks. What
//! follows its end mark is left alone; size and checksum of the content are there or not, and never looked at.

use std::ops::RangeInclusive;

use twox_hash::XxHash32;

use super::CompressionError;
use super::output::Output;

const MAGIC: [u8; 4] = 0x184d_2204u32.to_le_bytes();

const VERSION: u8 = 1;
const FLAG_INDEPENDENT: u8 = 0x20;
const FLAG_BLOCK_CHECKSUM: u8 = 0x10;
const FLAG_CONTENT_SIZE: u8 = 0x08;
const FLAG_CONTENT_CHECKSUM: u8 = 0x04;
/// The reserved bit and the one of dictionaries.
const FLAGS_REFUSED: u8 = 0x03;
/// Codes of the largest block: 64 KiB, 256 KiB, 1 MiB, 4 MiB.
const BLOCK_SIZES: RangeInclusive<u8> = 4..=7;
/// The top bit of a block's size: the block is stored, not compressed.
const STORED: u32 = 1 << 31;

/// A block ends with literals: where a match follows literals, its offset, the next token and five literals are left.
const INPUT_BEHIND_LITERALS_MIN: usize = 8;
/// A match does not begin in the last 12 bytes that a block may have, and does not reach into the last 5.
const MATCH_START_MARGIN: usize = 12;
const MATCH_END_MARGIN: usize = 5;
/// What the four bits of a length add up to before more bytes follow, and the least length of a match.
const LENGTH_EXTENDED: usize = 15;
const MATCH_LEN_MIN: usize = 4;

const CUT: &str = "the frame is cut";

/// What a frame's header says of its blocks.
#[derive(Debug, Clone, Copy)]
struct Frame {
    flags: u8,
    /// Bytes of the largest block, inclusive, as written and as decompressed.
    block_max: usize,
}

/// A block as it stands in a frame.
#[derive(Debug, Clone, Copy)]
struct Block<'a> {
    bytes: &'a [u8],
    /// Not compressed.
    stored: bool,
}

/// Decompresses the first frame of `stream`.
pub(super) fn decompress(stream: &[u8], out: &mut Output) -> Result<(), CompressionError> {
    let (frame, mut rest) = header(stream).map_err(|detail| out.malformed(detail))?;
    while let Some((block, tail)) = frame.block(rest).map_err(|detail| out.malformed(detail))? {
        if block.stored {
            out.append(block.bytes.len())?.copy_from_slice(block.bytes);
        } else {
            let length = decompressed_len(block.bytes, frame.block_max).map_err(|detail| out.malformed(detail))?;
            if length == 0 {
                // Nothing came out of a block: for the reference, the data has ended.
                return Ok(());
            }
            let decoded = lz4_flex::block::decompress_into(block.bytes, out.append(length)?);
            decoded.map_err(|error| out.malformed(error))?;
        }
        rest = tail;
    }
    Ok(())
}

fn header(stream: &[u8]) -> Result<(Frame, &[u8]), &'static str> {
    let (magic, header) = stream.split_first_chunk::<4>().ok_or(CUT)?;
    if *magic != MAGIC {
        return Err("it does not begin with the magic of a frame, 04 22 4d 18");
    }
    let (&[flags, descriptor], rest) = header.split_first_chunk::<2>().ok_or(CUT)?;
    if flags >> 6 != VERSION {
        return Err("the version of the frame is not 1");
    }
    if flags & FLAGS_REFUSED != 0 {
        return Err("the frame has a reserved flag or a dictionary");
    }
    if flags & FLAG_INDEPENDENT == 0 {
        return Err("the blocks of the frame depend on each other; compress with independent blocks");
    }
    let code = (descriptor >> 4) & 0x07;
    if descriptor & 0x8f != 0 || !BLOCK_SIZES.contains(&code) {
        return Err("the block size of the frame is not one of 64 KiB, 256 KiB, 1 MiB and 4 MiB");
    }
    let size_len = if flags & FLAG_CONTENT_SIZE == 0 { 0 } else { 8 };
    let rest = rest.get(size_len..).ok_or(CUT)?;
    let (checksum, rest) = rest.split_first().ok_or(CUT)?;
    let [_, second, ..] = XxHash32::oneshot(0, &header[..2 + size_len]).to_le_bytes();
    if *checksum != second {
        return Err("the checksum of the frame's header is wrong");
    }
    Ok((Frame { flags, block_max: 1 << (8 + 2 * u32::from(code)) }, rest))
}

/// How many bytes a compressed block of at most `block_max` decompresses to. Walks its sequences with the rules for the
/// end of a block of the reference decoder, `LZ4_decompress_safe`.
fn decompressed_len(block: &[u8], block_max: usize) -> Result<usize, &'static str> {
    const MALFORMED: &str = "the sequences of a block do not fit together";
    const TOO_LONG: &str = "a block decompresses to more than its frame allows";
    let (mut rest, mut length) = (block, 0usize);
    loop {
        let (token, tail) = rest.split_first().ok_or(MALFORMED)?;
        let (literals, tail) = length_of(usize::from(token >> 4), tail).ok_or(MALFORMED)?;
        let tail = tail.get(literals..).ok_or(MALFORMED)?;
        length = length.saturating_add(literals);
        if length > block_max {
            return Err(TOO_LONG);
        }
        if tail.is_empty() {
            return Ok(length);
        }
        if tail.len() < INPUT_BEHIND_LITERALS_MIN || length + MATCH_START_MARGIN > block_max {
            return Err(MALFORMED);
        }
        let (offset, tail) = tail.split_first_chunk::<2>().ok_or(MALFORMED)?;
        let offset = usize::from(u16::from_le_bytes(*offset));
        if offset == 0 || offset > length {
            return Err("a match refers to bytes outside its block");
        }
        let (matched, tail) = length_of(usize::from(token & 0x0f), tail).ok_or(MALFORMED)?;
        length = length.saturating_add(matched.saturating_add(MATCH_LEN_MIN));
        if length.saturating_add(MATCH_END_MARGIN) > block_max {
            return Err(TOO_LONG);
        }
        rest = tail;
    }
}

/// A length whose four bits are `bits`, and what follows the bytes that it goes on in.
fn length_of(bits: usize, mut rest: &[u8]) -> Option<(usize, &[u8])> {
    let mut length = bits;
    let mut more = bits == LENGTH_EXTENDED;
    while more {
        let (byte, tail) = rest.split_first()?;
        length = length.saturating_add(usize::from(*byte));
        more = *byte == u8::MAX;
        rest = tail;
    }
    Some((length, rest))
}

// === impl Frame ===

impl Frame {
    /// The first block of `rest`, and what follows it. `None` for the end mark.
    fn block(self, rest: &[u8]) -> Result<Option<(Block<'_>, &[u8])>, &'static str> {
        let (size, rest) = rest.split_first_chunk::<4>().ok_or(CUT)?;
        let size = u32::from_le_bytes(*size);
        let length = usize::try_from(size & !STORED).unwrap_or(usize::MAX);
        if length == 0 {
            let checksum_len = if self.flags & FLAG_CONTENT_CHECKSUM == 0 { 0 } else { 4 };
            return if rest.len() < checksum_len { Err(CUT) } else { Ok(None) };
        }
        if length > self.block_max {
            return Err("a block is larger than its frame allows");
        }
        let (block, mut rest) = rest.split_at_checked(length).ok_or(CUT)?;
        if self.flags & FLAG_BLOCK_CHECKSUM != 0 {
            let (checksum, tail) = rest.split_first_chunk::<4>().ok_or(CUT)?;
            if u32::from_le_bytes(*checksum) != XxHash32::oneshot(0, block) {
                return Err("the checksum of a block is wrong");
            }
            rest = tail;
        }
        Ok(Some((Block { bytes: block, stored: size & STORED != 0 }, rest)))
    }
}
