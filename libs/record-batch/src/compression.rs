//! Codecs of the records section, with hard caps on what comes out of decompression.

use std::io::{self, Read, Write as _};

use walser_model::Compression;

/// Nothing decompresses to more than this (64 MiB).
pub const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

/// Up to this much (16 MiB) any ratio is fine: a batch of equal log lines compresses a thousandfold.
const RATIO_FREE_BYTES: usize = 16 << 20;

/// Above that, output is at most this many times the input.
const RATIO_MAX: usize = 200;

/// Least capacity that output is read into, in bytes.
const FIRST_BYTES: usize = 256;

/// Largest zstd window accepted: 64 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 26;

/// First bytes of snappy in the block framing of snappy-java ("xerial").
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER_LEN: usize = 16;
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// Why bytes did not decompress.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// Not the format.
    #[error("records are not valid {codec}: {detail}")]
    Malformed {
        /// The codec named by the batch.
        codec: Compression,
        /// What the decoder said.
        detail: String,
    },
    /// More output than the caps allow.
    #[error("records of {compressed} bytes decompress to more than {limit} bytes")]
    TooLarge {
        /// Input bytes.
        compressed: usize,
        /// The cap that was hit, in bytes.
        limit: usize,
    },
}

/// Compresses `records`, appending to `out`.
///
/// # Errors
/// Only what the codec itself reports; none does for input below 2 GiB.
pub fn compress(codec: Compression, records: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    match codec {
        Compression::None => out.extend_from_slice(records),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            encoder.write_all(records)?;
            encoder.finish()?;
        }
        Compression::Snappy => compress_xerial(records, out)?,
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new().block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
            encoder.write_all(records)?;
            encoder.finish().map_err(io::Error::other)?;
        }
        Compression::Zstd => zstd::stream::copy_encode(records, out, zstd::DEFAULT_COMPRESSION_LEVEL)?,
    }
    Ok(())
}

fn compress_xerial(records: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&1u32.to_be_bytes());
    out.extend_from_slice(&1u32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(XERIAL_BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block)?;
        let length = u32::try_from(compressed.len()).expect("a block is 32 KiB");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    Ok(())
}

/// Decompresses a records section to at most `bytes_max` bytes, inclusive. Stops there and at the caps, whatever the
/// input claims.
///
/// # Errors
/// [`CompressionError`].
pub fn decompress(codec: Compression, records: &[u8], bytes_max: usize) -> Result<Vec<u8>, CompressionError> {
    let limit = records.len().saturating_mul(RATIO_MAX).clamp(RATIO_FREE_BYTES, DECOMPRESSED_BYTES_MAX).min(bytes_max);
    let malformed = |error: io::Error| CompressionError::Malformed { codec, detail: error.to_string() };
    match codec {
        Compression::None => Ok(records.to_vec()),
        Compression::Gzip => read_capped(flate2::read::MultiGzDecoder::new(records), codec, records.len(), limit),
        Compression::Snappy => decompress_snappy(records, limit),
        Compression::Lz4 => read_capped(lz4_flex::frame::FrameDecoder::new(records), codec, records.len(), limit),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(records).map_err(malformed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(malformed)?;
            read_capped(decoder, codec, records.len(), limit)
        }
    }
}

fn read_capped(
    mut decoder: impl Read,
    codec: Compression,
    compressed: usize,
    limit: usize,
) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::with_capacity(compressed.saturating_mul(3).clamp(FIRST_BYTES, limit.max(FIRST_BYTES)));
    loop {
        let room = u64::try_from(out.capacity() - out.len()).unwrap_or(u64::MAX);
        let read = decoder.by_ref().take(room).read_to_end(&mut out);
        let read = read.map_err(|error| CompressionError::Malformed { codec, detail: error.to_string() })?;
        if out.len() > limit {
            return Err(CompressionError::TooLarge { compressed, limit });
        }
        if u64::try_from(read).unwrap_or(u64::MAX) < room {
            return Ok(out);
        }
        // Doubled, but never beyond one byte above the limit, which tells output that fits from output that does not.
        let capacity = out.capacity().saturating_mul(2).min(limit.saturating_add(1));
        out.reserve_exact(capacity.saturating_sub(out.len()).max(1));
    }
}

fn decompress_snappy(records: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
    let malformed =
        |detail: &str| CompressionError::Malformed { codec: Compression::Snappy, detail: detail.to_owned() };
    let mut out = Vec::new();
    if !records.starts_with(&XERIAL_MAGIC) {
        append_snappy_block(records, records.len(), limit, &mut out)?;
        return Ok(out);
    }
    let mut rest = records.get(XERIAL_HEADER_LEN..).ok_or_else(|| malformed("the xerial header is cut"))?;
    while !rest.is_empty() {
        let (length, tail) = rest.split_first_chunk::<4>().ok_or_else(|| malformed("a block length is cut"))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (block, tail) = tail.split_at_checked(length).ok_or_else(|| malformed("a block is cut"))?;
        append_snappy_block(block, records.len(), limit, &mut out)?;
        rest = tail;
    }
    Ok(out)
}

/// Decompresses one raw block, after comparing the size that it claims with the cap.
fn append_snappy_block(
    block: &[u8],
    compressed: usize,
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    let malformed =
        |error: snap::Error| CompressionError::Malformed { codec: Compression::Snappy, detail: error.to_string() };
    let claimed = snap::raw::decompress_len(block).map_err(malformed)?;
    let start = out.len();
    if claimed > limit - start {
        return Err(CompressionError::TooLarge { compressed, limit });
    }
    // A snappy block cannot expand more than 64-fold by element, so an honest claim is bounded by its input.
    if claimed > block.len().saturating_mul(64) {
        let detail = "a block claims more bytes than it can hold".to_owned();
        return Err(CompressionError::Malformed { codec: Compression::Snappy, detail });
    }
    // Doubled as a vector would, but never beyond the limit.
    let capacity = out.capacity().saturating_mul(2).min(limit).max(start + claimed);
    if start + claimed > out.capacity() {
        out.reserve_exact(capacity - start);
    }
    out.resize(start + claimed, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut out[start..]).map_err(malformed)?;
    out.truncate(start + written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_gives_back_what_went_in() {
        let mut plain = b"the same line again and again\n".repeat(5000);
        plain.extend((0..100_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()));
        for codec in Compression::ALL {
            let mut compressed = Vec::new();
            compress(codec, &plain, &mut compressed).unwrap();
            assert_eq!(
                decompress(codec, &compressed, DECOMPRESSED_BYTES_MAX).as_deref(),
                Ok(plain.as_slice()),
                "{codec}"
            );
        }
    }

    #[test]
    fn bombs_stop_at_the_cap() {
        let zeros = vec![0u8; DECOMPRESSED_BYTES_MAX + 1];
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let mut compressed = Vec::new();
            compress(codec, &zeros, &mut compressed).unwrap();
            let refused = decompress(codec, &compressed, DECOMPRESSED_BYTES_MAX).unwrap_err();
            assert!(matches!(refused, CompressionError::TooLarge { .. }), "{codec}: {refused}");
        }
    }

    #[test]
    fn a_ratio_above_the_limit_is_refused_only_beyond_the_free_part() {
        let mut small = Vec::new();
        compress(Compression::Zstd, &vec![0u8; RATIO_FREE_BYTES], &mut small).unwrap();
        assert!(decompress(Compression::Zstd, &small, DECOMPRESSED_BYTES_MAX).is_ok());
        let mut large = Vec::new();
        compress(Compression::Zstd, &vec![0u8; RATIO_FREE_BYTES + 1], &mut large).unwrap();
        let refused = decompress(Compression::Zstd, &large, DECOMPRESSED_BYTES_MAX);
        assert!(matches!(refused, Err(CompressionError::TooLarge { .. })));
    }

    #[test]
    fn output_ends_exactly_at_the_limit_of_the_caller_and_takes_no_more_memory() {
        let plain = b"0123456789abcdef".repeat(10_000);
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let mut compressed = Vec::new();
            compress(codec, &plain, &mut compressed).unwrap();
            let whole = decompress(codec, &compressed, plain.len()).unwrap();
            assert_eq!(whole, plain, "{codec}");
            assert!(whole.capacity() <= plain.len() + 1, "{codec}: {}", whole.capacity());
            let cut = decompress(codec, &compressed, plain.len() - 1);
            assert!(matches!(cut, Err(CompressionError::TooLarge { .. })), "{codec}");
        }
    }
}
