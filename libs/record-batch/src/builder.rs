//! Building batches from records.

use bytes::Bytes;
use walser_model::{Compression, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp, TimestampType};

use crate::compression::compress;
use crate::cost::decoded_cost;
use crate::header::{Attributes, BatchHeader, HEADER_LEN};
use crate::varint::{self, field_len, put_field, signed};

/// A record to encode. Borrowed, so that nothing is copied twice.
#[derive(Debug, Clone, Copy)]
pub struct RecordFields<'a> {
    /// Timestamp in milliseconds since the Unix epoch.
    pub timestamp: Timestamp,
    /// `None` stands for null.
    pub key: Option<&'a [u8]>,
    /// `None` stands for null.
    pub value: Option<&'a [u8]>,
    /// Names and nullable values, in order.
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
}

/// The producer session a batch belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// Id of the session, or [`ProducerId::NONE`].
    pub id: ProducerId,
    /// Its epoch, or -1.
    pub epoch: ProducerEpoch,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
}

/// Collects records and makes one batch of them.
#[derive(Debug)]
pub struct BatchBuilder {
    codec: Compression,
    /// Header space, then encoded records.
    buffer: Vec<u8>,
    count: i32,
    /// Headers of all records together.
    header_count: usize,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
}

/// Compresses the records behind the space for a header; returns them with the codec that they have now. Those that do not
/// shrink stay as they are: readers then have nothing to undo.
pub(crate) fn compressed(batch: Vec<u8>, codec: Compression) -> (Vec<u8>, Compression) {
    if codec == Compression::None {
        return (batch, codec);
    }
    let mut smaller = Vec::with_capacity(HEADER_LEN + batch.len() / 2);
    smaller.resize(HEADER_LEN, 0);
    match compress(codec, &batch[HEADER_LEN..], &mut smaller) {
        Ok(()) if smaller.len() < batch.len() => (smaller, codec),
        _ => (batch, Compression::None),
    }
}

// === impl Producer ===

impl Producer {
    /// No session: the batch is not idempotent.
    pub const NONE: Self = Self { id: ProducerId::NONE, epoch: ProducerEpoch(-1), base_sequence: -1 };
}

// === impl RecordFields ===

impl RecordFields<'_> {
    /// Upper bound of the encoded size, in bytes.
    pub fn encoded_len_max(&self) -> usize {
        const FIXED: usize = 5 + 1 + 10 + 5 + 5 + 5 + 5;
        let header = |(key, value): &(&[u8], Option<&[u8]>)| 10 + key.len() + value.map_or(0, <[u8]>::len);
        FIXED
            + self.key.map_or(0, <[u8]>::len)
            + self.value.map_or(0, <[u8]>::len)
            + self.headers.iter().map(header).sum::<usize>()
    }
}

// === impl BatchBuilder ===

impl BatchBuilder {
    /// Starts an empty batch. `capacity` is a guess of its size in bytes.
    pub fn new(codec: Compression, capacity: usize) -> Self {
        let mut buffer = Vec::with_capacity(capacity.max(HEADER_LEN));
        buffer.resize(HEADER_LEN, 0);
        Self { codec, buffer, count: 0, header_count: 0, base_timestamp: 0, max_timestamp: Timestamp::MIN }
    }

    /// Adds a record.
    ///
    /// # Panics
    /// When a field is 2 GiB or more; callers bound sizes far below.
    pub fn append(&mut self, record: &RecordFields<'_>) {
        if self.count == 0 {
            self.base_timestamp = record.timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        let timestamp_delta = record.timestamp.wrapping_sub(self.base_timestamp);
        let offset_delta = i64::from(self.count);
        let mut length = 1 + varint::encoded_len(timestamp_delta) + varint::encoded_len(offset_delta);
        length += field_len(record.key) + field_len(record.value) + varint::encoded_len(signed(record.headers.len()));
        length += record.headers.iter().map(|(key, value)| field_len(Some(key)) + field_len(*value)).sum::<usize>();
        let out = &mut self.buffer;
        out.reserve(length + 5);
        varint::put(out, signed(length));
        out.push(0);
        varint::put(out, timestamp_delta);
        varint::put(out, offset_delta);
        put_field(out, record.key);
        put_field(out, record.value);
        varint::put(out, signed(record.headers.len()));
        for (key, value) in record.headers {
            put_field(out, Some(key));
            put_field(out, *value);
        }
        self.count += 1;
        self.header_count += record.headers.len();
    }

    /// Returns how many records were added.
    pub fn record_count(&self) -> i32 {
        self.count
    }

    /// Bytes of the batch as it stands, before compression.
    pub fn uncompressed_len(&self) -> usize {
        self.buffer.len()
    }

    /// What decoding the batch as it stands costs a reader, in bytes. The caller keeps it at or below
    /// [`crate::DECODED_COST_MAX`]: no reader takes more.
    pub fn decoded_cost(&self) -> usize {
        let records = usize::try_from(self.count).unwrap_or(0);
        decoded_cost(self.buffer.len() - HEADER_LEN, records + self.header_count)
    }

    /// Makes the batch. Base offset is 0 and the leader epoch -1: the leader stamps both.
    ///
    /// # Panics
    /// When no record was added.
    pub fn build(self, producer: Producer) -> Bytes {
        assert!(self.count > 0, "a batch has at least one record");
        let (mut batch, codec) = compressed(self.buffer, self.codec);
        let header = BatchHeader {
            base_offset: Offset::ZERO,
            size: batch.len(),
            leader_epoch: LeaderEpoch::NONE,
            crc: 0,
            attributes: Attributes::new(codec, TimestampType::CreateTime),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            base_sequence: producer.base_sequence,
            record_count: self.count,
        };
        header.write(&mut batch);
        Bytes::from(batch)
    }
}
