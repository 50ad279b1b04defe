//! Runs of batches.

use bytes::Bytes;

use walser_model::{LeaderEpoch, Offset};

use crate::header::{BatchHeader, HEADER_LEN, HeaderError, verify_crc};

/// Why batches do not continue a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotContinued {
    /// One of them is torn, or has another checksum.
    #[error("a batch is damaged: {0}")]
    Batch(#[from] HeaderError),
    /// One of them begins or ends elsewhere.
    #[error("a batch of offsets {base} to {next} is where {expected} was expected")]
    Gap {
        /// First offset of the batch.
        base: Offset,
        /// Offset after its last record.
        next: Offset,
        /// Where the one before ends. Exclusive.
        expected: Offset,
    },
    /// Leader epochs go back.
    #[error("a batch is of leader epoch {found}, behind one of {before}")]
    Epoch {
        /// That of the batch.
        found: LeaderEpoch,
        /// That of the one before.
        before: LeaderEpoch,
    },
}

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

/// The headers of batches that continue a log: they are whole, begin at `expected` (inclusive), follow each other without a
/// gap, and their leader epochs do not go back, also not behind `before`.
///
/// # Errors
/// [`NotContinued`], for the first of them that does not.
pub fn continuing(
    run: &Bytes,
    mut expected: Offset,
    mut before: LeaderEpoch,
) -> Result<Vec<BatchHeader>, NotContinued> {
    let mut headers = Vec::new();
    for batch in Batches::of(run.clone()) {
        let (header, bytes) = batch?;
        verify_crc(&bytes)?;
        let (base, next, found) = (header.base_offset, header.next_offset(), header.leader_epoch);
        if base != expected || next <= base {
            return Err(NotContinued::Gap { base, next, expected });
        }
        if found < before {
            return Err(NotContinued::Epoch { found, before });
        }
        (expected, before) = (next, found);
        headers.push(header);
    }
    Ok(headers)
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
