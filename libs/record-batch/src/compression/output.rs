//! Where decoders write: a buffer that never holds more than the caller allows.

use std::io::{self, Read};

use walser_model::Compression;

use super::CompressionError;

/// Least capacity that output is read into, in bytes.
const FIRST_BYTES: usize = 256;

/// Decompressed bytes, at most `limit` of them.
#[derive(Debug)]
pub(super) struct Output {
    plain: Vec<u8>,
    codec: Compression,
    /// Input bytes, for error texts.
    compressed: usize,
    /// In bytes, inclusive.
    limit: usize,
}

impl Output {
    /// An empty output for what `compressed` bytes hold.
    pub(super) fn new(codec: Compression, compressed: usize, limit: usize) -> Self {
        Self { plain: Vec::new(), codec, compressed, limit }
    }

    /// What was decompressed so far.
    pub(super) fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// All of it.
    pub(super) fn into_plain(self) -> Vec<u8> {
        self.plain
    }

    /// The error for input that is not of the codec's format.
    pub(super) fn malformed(&self, detail: impl ToString) -> CompressionError {
        CompressionError::Malformed { codec: self.codec, detail: detail.to_string() }
    }

    /// Appends all that a decoder gives.
    pub(super) fn read_from(&mut self, mut decoder: impl Read) -> Result<(), CompressionError> {
        loop {
            let spare = self.spare();
            let room = u64::try_from(spare).unwrap_or(u64::MAX);
            let read = decoder.by_ref().take(room).read_to_end(&mut self.plain);
            let read = read.map_err(|error| self.malformed(error))?;
            self.check()?;
            if read < spare {
                return Ok(());
            }
        }
    }

    /// Lets a decoder write once into the spare capacity, of which there is some; returns what the decoder returns.
    pub(super) fn write_once<T>(
        &mut self,
        decode: impl FnOnce(&mut Vec<u8>) -> io::Result<T>,
    ) -> Result<T, CompressionError> {
        self.spare();
        let written = decode(&mut self.plain).map_err(|error| self.malformed(error))?;
        self.check()?;
        Ok(written)
    }

    /// Appends `length` bytes that are known before they are decoded, and returns them for the decoder to fill.
    pub(super) fn append(&mut self, length: usize) -> Result<&mut [u8], CompressionError> {
        let start = self.plain.len();
        if length > self.limit - start {
            return Err(self.too_large());
        }
        // Doubled as a vector would, but never beyond the limit.
        if start + length > self.plain.capacity() {
            let capacity = self.plain.capacity().saturating_mul(2).min(self.limit).max(start + length);
            self.plain.reserve_exact(capacity - start);
        }
        self.plain.resize(start + length, 0);
        Ok(&mut self.plain[start..])
    }

    fn check(&self) -> Result<(), CompressionError> {
        if self.plain.len() > self.limit { Err(self.too_large()) } else { Ok(()) }
    }

    fn too_large(&self) -> CompressionError {
        CompressionError::TooLarge { compressed: self.compressed, limit: self.limit }
    }

    /// Makes room for at least one byte more, and says for how many there is. The room is doubled, but never beyond
    /// one byte above the limit, which tells output that fits from output that does not.
    fn spare(&mut self) -> usize {
        let (length, capacity) = (self.plain.len(), self.plain.capacity());
        if length == capacity {
            let first = self.compressed.saturating_mul(3).clamp(FIRST_BYTES, self.limit.max(FIRST_BYTES));
            let wanted = capacity.saturating_mul(2).max(first).min(self.limit.saturating_add(1));
            self.plain.reserve_exact(wanted.saturating_sub(length).max(1));
        }
        self.plain.capacity() - self.plain.len()
    }
}
