//! What a batch must satisfy before it is appended, whoever built it.

use bytes::Bytes;
use walser_model::{Compression, Offset, Timestamp, TimestampType};

use crate::batches::records_section;
use crate::compression::{CompressionError, decompress};
use crate::cost::{CostError, DECODED_COST_MAX, RECORD_HEADERS_MAX, decoded_cost, section_bytes_max};
use crate::header::{BatchHeader, HEADER_LEN, HeaderError, verify_crc};
use crate::raw_record::take_record;
use crate::stamp::restamp;

/// Bounds that come from the topic and the gateway.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest batch in bytes, inclusive (`max.message.bytes`).
    pub size_max: usize,
    /// Decompress compressed records and look at each of them.
    pub deep: bool,
    /// The batch belongs to a producer session. Otherwise its producer fields mean nothing, and are reset.
    pub session: bool,
    /// Every record has a key, as those of a compacted topic have. Compressed records are looked at for that, too.
    pub keyed: bool,
}

/// A batch that may be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Produced {
    /// What to append: the batch as it was sent, or a copy with another header and checksum.
    pub batch: Bytes,
    pub header: BatchHeader,
    /// Lowest timestamp of its records; the base timestamp where they were not looked at.
    pub min_timestamp: Timestamp,
}

/// Why a batch is refused. Each names one rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBatch {
    /// The bytes are not a batch, or their checksum is wrong.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The length field and the bytes disagree: cut, garbage behind it, or several batches.
    #[error("the batch says it has {said} bytes, {given} were sent; send exactly one batch")]
    Size {
        /// By its header.
        said: usize,
        /// As sent.
        given: usize,
    },
    /// The batch is larger than `max.message.bytes`.
    #[error("the batch has {size} bytes, the topic accepts {max}")]
    TooLarge {
        /// Bytes of the batch.
        size: usize,
        /// The bound, inclusive.
        max: usize,
    },
    /// Compression codec without a meaning.
    #[error("compression codec {0} is not known; use none (0), gzip (1), snappy (2), lz4 (3) or zstd (4)")]
    Codec(i16),
    /// Bits that clients may not set.
    #[error("attribute bits {bits:#06x} are {what}")]
    Attributes {
        /// The offending bits.
        bits: i16,
        /// What they are.
        what: &'static str,
    },
    /// Record count and last offset delta do not fit each other.
    #[error("record count {count} and last offset delta {delta} do not fit together")]
    Counts {
        /// Must be positive.
        count: i32,
        /// Must be one less than the count.
        delta: i32,
    },
    /// Producer id, epoch and sequence do not fit each other.
    #[error("producer id {id}, epoch {epoch} and base sequence {sequence} do not fit together")]
    Producer {
        /// As sent.
        id: i64,
        /// As sent.
        epoch: i16,
        /// As sent.
        sequence: i32,
    },
    /// The records do not decompress within the caps.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// The records cost too much to decode.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// A record has so many headers that no reader could be sent it.
    #[error("record {index} has {headers} headers; at most {RECORD_HEADERS_MAX} are accepted")]
    RecordHeaders {
        /// Which, from 0.
        index: i32,
        /// How many it has.
        headers: usize,
    },
    /// A record has no key, and is for a topic of which the newest record of each key is kept.
    #[error("record {index} of the batch (the first is 0) has no key, which every record of a compacted topic needs")]
    NoKey {
        /// Which, from 0.
        index: i32,
    },
    /// A record is malformed, out of sequence, or missing.
    #[error("record {index} of {count} is malformed or out of sequence")]
    Record {
        /// Which, from 0.
        index: i32,
        /// Announced by the header.
        count: i32,
    },
    /// Bytes are left after the announced records.
    #[error("{bytes} bytes are left after the {count} records that the header announces")]
    Trailing {
        /// Announced by the header.
        count: i32,
        /// Bytes left.
        bytes: usize,
    },
    /// The records were not looked at, and the header alone shows that its max timestamp is wrong.
    #[error("the header says the newest record is of {said}, before the base timestamp {base}")]
    MaxTimestamp {
        /// Max timestamp by the header.
        said: Timestamp,
        /// Base timestamp by the header: that of the first record.
        base: Timestamp,
    },
}

/// Checks a batch that a client built: exactly one, whole, of format 2, with a right checksum, with counts that
/// fit, and (uncompressed, or with [`Limits::deep`]) with every record well-formed and in sequence. What the records
/// cost to decode is at most [`DECODED_COST_MAX`], as far as it is known; nothing above it is allocated here.
///
/// The header is edited where it does not decide anything: the base offset is 0, a max timestamp that is not that of
/// the records is corrected, and without a session the producer fields are reset to -1.
///
/// # Errors
/// The first rule that is broken, in the order of [`InvalidBatch`].
pub fn validate_produced(batch: &Bytes, limits: Limits) -> Result<Produced, InvalidBatch> {
    let header = BatchHeader::parse(batch)?;
    if header.size != batch.len() {
        return Err(InvalidBatch::Size { said: header.size, given: batch.len() });
    }
    if header.size > limits.size_max {
        return Err(InvalidBatch::TooLarge { size: header.size, max: limits.size_max });
    }
    verify_crc(batch)?;
    let codec = check_attributes(&header)?;
    check_counts(&header)?;
    if limits.session {
        check_producer(&header)?;
    }
    let section_max = section_bytes_max(header.record_count, DECODED_COST_MAX)?;
    let (min_timestamp, max_timestamp) = match codec {
        Compression::None => check_records(&header, &batch[HEADER_LEN..], limits.keyed)?,
        _ if !limits.deep && !limits.keyed => check_times(&header)?,
        codec => check_records(&header, &decompress(codec, &records_section(batch), section_max)?, limits.keyed)?,
    };
    let edited = BatchHeader { base_offset: Offset::ZERO, max_timestamp, ..header };
    let edited = if limits.session { edited } else { edited.without_producer() };
    let batch = if edited == header { batch.clone() } else { restamp(batch, &edited) };
    Ok(Produced { header: BatchHeader::parse(&batch)?, batch, min_timestamp })
}

fn check_attributes(header: &BatchHeader) -> Result<Compression, InvalidBatch> {
    let attributes = header.attributes;
    let codec = attributes.codec().map_err(InvalidBatch::Codec)?;
    let refuse = |what| Err(InvalidBatch::Attributes { bits: attributes.0, what });
    if attributes.reserved() != 0 {
        refuse("reserved and must be 0")
    } else if attributes.control() {
        refuse("those of a control batch, which only Walser itself writes")
    } else if attributes.transactional() {
        refuse("those of a transactional batch, and no transaction is open")
    } else if attributes.delete_horizon() || attributes.timestamp_type() == TimestampType::LogAppendTime {
        refuse("set by the leader only")
    } else {
        Ok(codec)
    }
}

fn check_counts(header: &BatchHeader) -> Result<(), InvalidBatch> {
    let (count, delta) = (header.record_count, header.last_offset_delta);
    if count > 0 && delta == count - 1 { Ok(()) } else { Err(InvalidBatch::Counts { count, delta }) }
}

/// Lowest and highest timestamp of records that are not looked at, as far as the header tells.
fn check_times(header: &BatchHeader) -> Result<(Timestamp, Timestamp), InvalidBatch> {
    let (base, said) = (header.base_timestamp, header.max_timestamp);
    if said < base { Err(InvalidBatch::MaxTimestamp { said, base }) } else { Ok((base, said)) }
}

fn check_producer(header: &BatchHeader) -> Result<(), InvalidBatch> {
    let (id, epoch, sequence) = (header.producer_id.0, header.producer_epoch.0, header.base_sequence);
    let idempotent = id >= 0 && epoch >= 0 && sequence >= 0;
    let plain = id == -1 && epoch <= 0 && sequence <= 0;
    if idempotent || plain { Ok(()) } else { Err(InvalidBatch::Producer { id, epoch, sequence }) }
}

/// Walks the records; returns the lowest and the highest timestamp.
fn check_records(
    header: &BatchHeader,
    mut section: &[u8],
    keyed: bool,
) -> Result<(Timestamp, Timestamp), InvalidBatch> {
    let count = header.record_count;
    let (mut lowest, mut highest) = (Timestamp::MAX, Timestamp::MIN);
    let mut cost = section.len();
    for index in 0..count {
        let raw = take_record(&mut section).filter(|raw| raw.offset_delta == index);
        let raw = raw.ok_or(InvalidBatch::Record { index, count })?;
        if keyed && raw.key.is_none() {
            return Err(InvalidBatch::NoKey { index });
        }
        let headers = raw.headers_len();
        if headers > RECORD_HEADERS_MAX {
            return Err(InvalidBatch::RecordHeaders { index, headers });
        }
        cost = cost.saturating_add(decoded_cost(0, 1 + headers));
        if cost > DECODED_COST_MAX {
            return Err(CostError { max: DECODED_COST_MAX }.into());
        }
        let timestamp = header.base_timestamp.saturating_add(raw.timestamp_delta);
        lowest = lowest.min(timestamp);
        highest = highest.max(timestamp);
    }
    if !section.is_empty() {
        return Err(InvalidBatch::Trailing { count, bytes: section.len() });
    }
    Ok((lowest, highest))
}

// === impl InvalidBatch ===

impl InvalidBatch {
    /// The stable word for the broken rule.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Header(HeaderError::Magic { .. }) => "magic",
            Self::Header(HeaderError::Crc { .. }) => "crc",
            Self::Header(HeaderError::Short { .. } | HeaderError::Length { .. }) => "length",
            Self::Size { .. } => "one-whole-batch",
            Self::TooLarge { .. } => "max.message.bytes",
            Self::Codec(_) => "codec",
            Self::Attributes { .. } => "attributes",
            Self::Counts { .. } => "counts",
            Self::Producer { .. } => "producer",
            Self::Compression(CompressionError::TooLarge { .. }) => "decompressed-size",
            Self::Compression(CompressionError::Malformed { .. }) => "compression",
            Self::Cost(_) => "decoded-cost",
            Self::RecordHeaders { .. } => "record-headers",
            Self::NoKey { .. } => "KEY_REQUIRED",
            Self::Record { .. } | Self::Trailing { .. } => "record-count",
            Self::MaxTimestamp { .. } => "max-timestamp",
        }
    }
}
