//! Snappy as snappy-java's `SnappyInputStream` reads it: chunks behind the header of that library ("xerial"), the header
//! once more before each stream that was joined to the first; without the header, one raw block.

use walser_model::Compression;

use super::CompressionError;
use super::output::Output;

/// The header: 0x82 "SNAPPY" 0, then version and least compatible version i32.
const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const HEADER_LEN: usize = 16;
/// Where a chunk's length stands, these bytes say that a header begins. Its other bytes of magic are not looked at.
const JOINED: [u8; 4] = [0x82, b'S', b'N', b'A'];
/// Joined streams of lower versions are refused; the version of the first is not looked at.
const VERSION_MIN: i32 = 1;
const CHUNK_BYTES: usize = 32 << 10;

/// A copy element of three bytes stands for at most 64 bytes, so an honest claim is bounded by its input.
const EXPANSION_MAX: usize = 64;

/// Compresses `records` into a xerial stream.
pub(super) fn compress(records: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&1u32.to_be_bytes());
    out.extend_from_slice(&1u32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for chunk in records.chunks(CHUNK_BYTES) {
        let compressed = encoder.compress_vec(chunk)?;
        let length = u32::try_from(compressed.len()).expect("a chunk is 32 KiB");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    Ok(())
}

/// Decompresses a xerial stream or a raw block.
pub(super) fn decompress(stream: &[u8], out: &mut Output) -> Result<(), CompressionError> {
    if stream.is_empty() {
        return Err(out.malformed("there are no bytes"));
    }
    if !stream.starts_with(&MAGIC) || stream.len() < HEADER_LEN {
        return append_block(stream, out);
    }
    let mut rest = &stream[HEADER_LEN..];
    // Fewer than four bytes are no length any more: the stream has ended before them.
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        if *head == JOINED {
            let header = rest.get(..HEADER_LEN).ok_or_else(|| out.malformed("the header of a joined stream is cut"))?;
            let version = i32::from_be_bytes([header[8], header[9], header[10], header[11]]);
            if version < VERSION_MIN {
                return Err(out.malformed(format!("a joined stream has version {version}; at least 1 is read")));
            }
            rest = &rest[HEADER_LEN..];
            continue;
        }
        let length = i32::from_be_bytes(*head);
        let length = usize::try_from(length).map_err(|_| out.malformed("the length of a chunk is negative"))?;
        let (block, tail) = tail.split_at_checked(length).ok_or_else(|| out.malformed("a chunk is cut"))?;
        append_block(block, out)?;
        rest = tail;
    }
    Ok(())
}

/// Decompresses one raw block, after comparing the size that it claims with the cap.
fn append_block(block: &[u8], out: &mut Output) -> Result<(), CompressionError> {
    let malformed =
        |error: snap::Error| CompressionError::Malformed { codec: Compression::Snappy, detail: error.to_string() };
    if block.is_empty() {
        return Err(out.malformed("a block has no bytes"));
    }
    let claimed = snap::raw::decompress_len(block).map_err(malformed)?;
    let honest = claimed <= block.len().saturating_mul(EXPANSION_MAX);
    let target = out.append(if honest { claimed } else { 0 })?;
    if !honest {
        return Err(out.malformed("a block claims more bytes than it can hold"));
    }
    snap::raw::Decoder::new().decompress(block, target).map_err(malformed)?;
    Ok(())
}
