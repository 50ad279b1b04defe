//! Codecs of the records section, with hard caps on what comes out of decompression.

mod gzip;
mod lz4;
mod output;
mod snappy;
mod zstd;

use std::io::{self, Write as _};

use walser_model::Compression;

use output::Output;

/// Nothing decompresses to more than this (64 MiB).
pub const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

/// Up to this much (16 MiB) any ratio is fine: a batch of equal log lines compresses a thousandfold.
const RATIO_FREE_BYTES: usize = 16 << 20;

/// Above that, output is at most this many times the input.
const RATIO_MAX: usize = 200;

/// Why bytes did not decompress.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The bytes are not in the format of the codec.
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
        Compression::Snappy => snappy::compress(records, out)?,
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new().block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
            encoder.write_all(records)?;
            encoder.finish().map_err(io::Error::other)?;
        }
        Compression::Zstd => ::zstd::stream::copy_encode(records, out, ::zstd::DEFAULT_COMPRESSION_LEVEL)?,
    }
    Ok(())
}

/// Most bytes that so many compressed ones may become, inclusive.
pub(crate) fn decompressed_bytes_max(compressed: usize) -> usize {
    compressed.saturating_mul(RATIO_MAX).clamp(RATIO_FREE_BYTES, DECOMPRESSED_BYTES_MAX)
}

/// Decompresses a records section to at most `bytes_max` bytes, inclusive. Stops there and at the caps, whatever the
/// input claims. What is read and what is refused is what Kafka's Java client reads and refuses, case by case:
/// `docs/formats/compression.md`.
///
/// # Errors
/// [`CompressionError`].
pub fn decompress(codec: Compression, records: &[u8], bytes_max: usize) -> Result<Vec<u8>, CompressionError> {
    let limit = decompressed_bytes_max(records.len()).min(bytes_max);
    let mut out = Output::new(codec, records.len(), limit);
    match codec {
        Compression::None => return Ok(records.to_vec()),
        Compression::Gzip => gzip::decompress(records, &mut out)?,
        Compression::Snappy => snappy::decompress(records, &mut out)?,
        Compression::Lz4 => lz4::decompress(records, &mut out)?,
        Compression::Zstd => zstd::decompress(records, &mut out)?,
    }
    Ok(out.into_plain())
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
