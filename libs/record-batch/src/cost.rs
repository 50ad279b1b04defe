//! What it costs to decode a batch, and the bound on that cost.
//!
//! Two bytes of a batch can become an item of a hundred bytes in memory, and compression multiplies that: 1,537 bytes
//! of zstd held 7.9 million empty headers. The cost of a batch is therefore its decompressed bytes plus
//! [`ITEM_COST`] for each record and for each header. It is counted without allocating anything for the items.

use crate::raw_record::take_record;

/// Highest cost of one batch, in bytes, inclusive (64 MiB).
pub const DECODED_COST_MAX: usize = 64 << 20;

/// Cost of a record, and of each of its headers, beside their bytes. In bytes.
pub const ITEM_COST: usize = 64;

/// Most headers of one record, inclusive: with more of them the record would not fit into one message to a reader.
pub const RECORD_HEADERS_MAX: usize = 100_000;

/// The batch costs more than its reader allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "decoding the batch takes more than {max} bytes: its decompressed bytes, and {ITEM_COST} for each record and header"
)]
pub struct CostError {
    /// Highest cost allowed, in bytes, inclusive.
    pub max: usize,
}

/// Cost of `items` records and headers that have `bytes` bytes together. In bytes.
pub const fn decoded_cost(bytes: usize, items: usize) -> usize {
    bytes.saturating_add(items.saturating_mul(ITEM_COST))
}

/// Most bytes that the decompressed records of a batch may have, given how many records its header announces.
pub(crate) fn section_bytes_max(record_count: i32, max: usize) -> Result<usize, CostError> {
    let records = usize::try_from(record_count).unwrap_or(0);
    max.checked_sub(records.saturating_mul(ITEM_COST)).ok_or(CostError { max })
}

/// Checks the cost of decompressed records. Malformed ones end the count: reading them ends there as well.
pub(crate) fn check_section(mut section: &[u8], record_count: i32, max: usize) -> Result<(), CostError> {
    // A header has at least two bytes, a record seven: small sections need no count.
    if decoded_cost(section.len(), section.len() / 2) <= max {
        return Ok(());
    }
    let mut cost = section.len();
    for _ in 0..record_count {
        if cost > max {
            return Err(CostError { max });
        }
        let Some(raw) = take_record(&mut section) else { break };
        cost = cost.saturating_add(decoded_cost(0, 1 + raw.headers_len()));
    }
    if cost > max { Err(CostError { max }) } else { Ok(()) }
}
