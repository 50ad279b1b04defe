//! Single records inside a batch.

use bytes::Bytes;
use walser_model::{Compression, Offset, Timestamp, TimestampType};

use crate::batches::records_section;
use crate::compression::{CompressionError, decompress};
use crate::cost::{CostError, DECODED_COST_MAX, check_section, section_bytes_max};
use crate::header::BatchHeader;
use crate::raw_record::{take_header, take_record};

/// A header of a record. Order and duplicate keys are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// UTF-8 by convention; stored as bytes.
    pub key: Bytes,
    /// `None` is null, which is not the same as empty.
    pub value: Option<Bytes>,
}

/// A record as stored, with its absolute offset and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Offset in the partition.
    pub offset: Offset,
    /// Unix milliseconds: the producer's, or the append time of the batch.
    pub timestamp: Timestamp,
    /// `None` stands for null.
    pub key: Option<Bytes>,
    /// `None` is null: a tombstone on a compacted topic.
    pub value: Option<Bytes>,
    /// Headers in their order.
    pub headers: Vec<Header>,
}

/// A record as its producer sends it. Its fields may share the memory of the message that it came in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// `None` stands for null.
    pub key: Option<Bytes>,
    /// `None` is null: a tombstone on a compacted topic.
    pub value: Option<Bytes>,
    /// Headers in their order.
    pub headers: Vec<Header>,
    /// Unix milliseconds; `None`: the time at which it is taken in.
    pub timestamp: Option<Timestamp>,
}

/// Why the records of a batch cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The codec's number has no meaning.
    #[error("compression codec {0} is not known")]
    Codec(i16),
    /// The records do not decompress.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// The records cost more than the reader allows.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// A record is cut, has a bad length, or does not fill its length.
    #[error("record {index} of the batch is malformed")]
    Malformed {
        /// Which, from 0.
        index: i32,
    },
    /// Bytes are left after the last record.
    #[error("{count} records were announced, {bytes} bytes are left after them")]
    Trailing {
        /// Records announced by the header.
        count: i32,
        /// Bytes left.
        bytes: usize,
    },
}

/// Iterates over the records of one batch, sharing the memory of the (decompressed) batch.
#[derive(Debug)]
pub struct Records {
    header: BatchHeader,
    section: Bytes,
    at: usize,
    index: i32,
    failed: bool,
}

/// The records section of a whole batch, decompressed, and the codec that it had. What decoding it costs beyond its bytes is
/// not looked at.
pub(crate) fn opened_section(
    header: &BatchHeader,
    batch: &Bytes,
    cost_max: usize,
) -> Result<(Bytes, Compression), RecordError> {
    let section_max = section_bytes_max(header.record_count, cost_max)?;
    let section = records_section(batch);
    match header.attributes.codec().map_err(RecordError::Codec)? {
        Compression::None => Ok((section, Compression::None)),
        codec => Ok((Bytes::from(decompress(codec, &section, section_max)?), codec)),
    }
}

// === impl Records ===

impl Records {
    /// Opens the records of one whole batch, decompressing them if need be. The CRC is the caller's business.
    ///
    /// # Errors
    /// [`RecordError`] when the records do not decompress, or cost more than [`DECODED_COST_MAX`]. Malformed records
    /// are reported while iterating.
    pub fn open(header: BatchHeader, batch: &Bytes) -> Result<Self, RecordError> {
        Self::open_within(header, batch, DECODED_COST_MAX)
    }

    /// Opens the records of one whole batch, at a cost of at most `cost_max` bytes, inclusive. Nothing larger is
    /// allocated, whatever the batch says.
    ///
    /// # Errors
    /// As for [`Records::open`].
    pub fn open_within(header: BatchHeader, batch: &Bytes, cost_max: usize) -> Result<Self, RecordError> {
        let (section, _codec) = opened_section(&header, batch, cost_max)?;
        check_section(&section, header.record_count, cost_max)?;
        Ok(Self { header, section, at: 0, index: 0, failed: false })
    }

    /// Bytes of the records, decompressed.
    pub fn section_len(&self) -> usize {
        self.section.len()
    }

    fn advance(&mut self) -> Result<Record, RecordError> {
        let malformed = RecordError::Malformed { index: self.index };
        let mut rest = &self.section[self.at..];
        let raw = take_record(&mut rest).ok_or(malformed)?;
        let share = |part: &[u8]| self.section.slice_ref(part);
        let mut headers = Vec::with_capacity(raw.headers_len());
        let mut raw_headers = raw.headers;
        for _ in 0..raw.header_count {
            let (key, value) = take_header(&mut raw_headers).expect("headers were walked when the record was taken");
            headers.push(Header { key: share(key), value: value.map(share) });
        }
        let timestamp = match self.header.attributes.timestamp_type() {
            TimestampType::CreateTime => self.header.base_timestamp.saturating_add(raw.timestamp_delta),
            TimestampType::LogAppendTime => self.header.max_timestamp,
        };
        let offset = self.header.base_offset.plus(i64::from(raw.offset_delta));
        let record = Record { offset, timestamp, key: raw.key.map(share), value: raw.value.map(share), headers };
        self.at = self.section.len() - rest.len();
        self.index += 1;
        Ok(record)
    }
}

impl Iterator for Records {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.index >= self.header.record_count {
            let bytes = self.section.len() - self.at;
            self.failed = bytes > 0;
            let count = self.header.record_count;
            return self.failed.then_some(Err(RecordError::Trailing { count, bytes }));
        }
        let record = self.advance();
        self.failed = record.is_err();
        Some(record)
    }
}
