//! Runs of batches.

use bytes::Bytes;

use crate::header::{BatchHeader, HEADER_LEN, HeaderError};

/// Splits a run of whole batches, as read from a log, into single ones that share its memory.
#[derive(Debug, Clone)]
pub struct Batches {
    rest: Bytes,
}

/// The records section of one whole batch.
pub(crate) fn records_section(batch: &Bytes) -> Bytes {
    batch.slice(HEADER_LEN.min(batch.len())..)
}

impl Batches {
    /// Starts at the first batch of `run`.
    pub fn of(run: Bytes) -> Self {
        Self { rest: run }
    }
}

impl Iterator for Batches {
    type Item = Result<(BatchHeader, Bytes), HeaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let header = match BatchHeader::parse(&self.rest) {
            Ok(header) if header.size <= self.rest.len() => header,
            Ok(_) => {
                let available = std::mem::take(&mut self.rest).len();
                return Some(Err(HeaderError::Short { available }));
            }
            Err(error) => {
                self.rest = Bytes::new();
                return Some(Err(error));
            }
        };
        Some(Ok((header, self.rest.split_to(header.size))))
    }
}
