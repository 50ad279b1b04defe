//! The 61-byte header of a batch.

use walser_model::{Compression, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp, TimestampType};

/// Bytes of a header: everything before the records.
pub const HEADER_LEN: usize = 61;

/// Bytes before the part that `length` counts: base offset and the length itself.
pub const LENGTH_PREFIX_LEN: usize = 12;

const MAGIC: u8 = 2;
const MAGIC_AT: usize = 16;
pub(crate) const CRC_AT: usize = 17;
pub(crate) const CRC_FROM: usize = 21;

const CODEC_MASK: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// Why bytes are not the header of a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer bytes than a header has.
    #[error("a record batch has a header of {HEADER_LEN} bytes, only {available} are there")]
    Short {
        /// Bytes there.
        available: usize,
    },
    /// The batch has another magic number.
    #[error("record batch format {magic} is not supported, only format 2")]
    Magic {
        /// The format's number.
        magic: u8,
    },
    /// A length that cannot be.
    #[error("record batch length {length} is out of range")]
    Length {
        /// As stored.
        length: i32,
    },
    /// The checksum does not match the bytes.
    #[error("record batch checksum is {computed:#010x}, its header says {stored:#010x}")]
    Crc {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
}

/// The attribute bits of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes(pub i16);

/// The parsed header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Bytes of the whole batch, header included.
    pub size: usize,
    /// Epoch of the leader that appended it.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Compression codec and flags.
    pub attributes: Attributes,
    /// Offset of the last record, relative to the first.
    pub last_offset_delta: i32,
    /// Timestamp that record deltas are relative to.
    pub base_timestamp: Timestamp,
    /// Highest timestamp of all records, or the append time.
    pub max_timestamp: Timestamp,
    /// Producer session, or [`ProducerId::NONE`].
    pub producer_id: ProducerId,
    /// Its epoch, or -1.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range has N bytes")
}

/// Checks the CRC-32C of one whole batch.
///
/// # Errors
/// [`HeaderError::Short`] or [`HeaderError::Crc`].
pub fn verify_crc(batch: &[u8]) -> Result<(), HeaderError> {
    if batch.len() < HEADER_LEN {
        return Err(HeaderError::Short { available: batch.len() });
    }
    let stored = u32::from_be_bytes(array(batch, CRC_AT));
    let computed = crc32c(&batch[CRC_FROM..]);
    if stored == computed { Ok(()) } else { Err(HeaderError::Crc { stored, computed }) }
}

/// CRC-32C (Castagnoli, RFC 3720).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let wide = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(wide).expect("a 32-bit checksum fits 32 bits")
}

// === impl Attributes ===

/// The number of a codec.
fn number_of(codec: Compression) -> i16 {
    match codec {
        Compression::None => 0,
        Compression::Gzip => 1,
        Compression::Snappy => 2,
        Compression::Lz4 => 3,
        Compression::Zstd => 4,
    }
}

impl Attributes {
    /// The attributes of a batch with this codec and stamper.
    pub fn new(codec: Compression, stamper: TimestampType) -> Self {
        let append_time = if stamper == TimestampType::LogAppendTime { LOG_APPEND_TIME } else { 0 };
        Self(number_of(codec) | append_time)
    }

    /// The same with another codec.
    #[must_use]
    pub(crate) fn with_codec(self, codec: Compression) -> Self {
        Self(self.0 & !CODEC_MASK | number_of(codec))
    }

    /// The same, where the base timestamp is the time after which compaction may drop tombstones.
    #[must_use]
    pub(crate) fn with_delete_horizon(self) -> Self {
        Self(self.0 | DELETE_HORIZON)
    }

    /// The codec, or its unknown number.
    pub fn codec(self) -> Result<Compression, i16> {
        match self.0 & CODEC_MASK {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Gzip),
            2 => Ok(Compression::Snappy),
            3 => Ok(Compression::Lz4),
            4 => Ok(Compression::Zstd),
            unknown => Err(unknown),
        }
    }

    /// Who stamped the records.
    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & LOG_APPEND_TIME == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    /// Whether the batch belongs to a transaction.
    pub fn transactional(self) -> bool {
        self.0 & TRANSACTIONAL != 0
    }

    /// Whether the batch holds control records.
    pub fn control(self) -> bool {
        self.0 & CONTROL != 0
    }

    /// Whether the base timestamp is the time after which compaction may drop the batch.
    pub fn delete_horizon(self) -> bool {
        self.0 & DELETE_HORIZON != 0
    }

    /// Bits that have no meaning in format 2.
    pub fn reserved(self) -> i16 {
        self.0 & !(CODEC_MASK | LOG_APPEND_TIME | TRANSACTIONAL | CONTROL | DELETE_HORIZON)
    }

    /// The same with the other stamper.
    #[must_use]
    pub fn stamped_by(self, stamper: TimestampType) -> Self {
        match stamper {
            TimestampType::CreateTime => Self(self.0 & !LOG_APPEND_TIME),
            TimestampType::LogAppendTime => Self(self.0 | LOG_APPEND_TIME),
        }
    }
}

// === impl BatchHeader ===

impl BatchHeader {
    /// Reads the header at the start of `bytes`. More bytes may follow; the CRC is not looked at.
    ///
    /// # Errors
    /// [`HeaderError`] when this cannot be a batch of format 2.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() < HEADER_LEN {
            return Err(HeaderError::Short { available: bytes.len() });
        }
        if bytes[MAGIC_AT] != MAGIC {
            return Err(HeaderError::Magic { magic: bytes[MAGIC_AT] });
        }
        let length = i32::from_be_bytes(array(bytes, 8));
        let size = usize::try_from(length).ok().and_then(|length| length.checked_add(LENGTH_PREFIX_LEN));
        let size = size.filter(|size| *size >= HEADER_LEN).ok_or(HeaderError::Length { length })?;
        Ok(Self {
            base_offset: Offset(i64::from_be_bytes(array(bytes, 0))),
            size,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(array(bytes, 12))),
            crc: u32::from_be_bytes(array(bytes, CRC_AT)),
            attributes: Attributes(i16::from_be_bytes(array(bytes, 21))),
            last_offset_delta: i32::from_be_bytes(array(bytes, 23)),
            base_timestamp: i64::from_be_bytes(array(bytes, 27)),
            max_timestamp: i64::from_be_bytes(array(bytes, 35)),
            producer_id: ProducerId(i64::from_be_bytes(array(bytes, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(array(bytes, 51))),
            base_sequence: i32::from_be_bytes(array(bytes, 53)),
            record_count: i32::from_be_bytes(array(bytes, 57)),
        })
    }

    /// Writes this header over the first 61 bytes of `batch`, and the CRC over all that follows the CRC field.
    pub(crate) fn write(&self, batch: &mut [u8]) {
        let length = i32::try_from(batch.len() - LENGTH_PREFIX_LEN).expect("a batch is below 2 GiB");
        batch[0..8].copy_from_slice(&self.base_offset.0.to_be_bytes());
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[12..16].copy_from_slice(&self.leader_epoch.0.to_be_bytes());
        batch[MAGIC_AT] = MAGIC;
        batch[21..23].copy_from_slice(&self.attributes.0.to_be_bytes());
        batch[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        batch[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        batch[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        batch[43..51].copy_from_slice(&self.producer_id.0.to_be_bytes());
        batch[51..53].copy_from_slice(&self.producer_epoch.0.to_be_bytes());
        batch[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        batch[57..61].copy_from_slice(&self.record_count.to_be_bytes());
        write_crc(batch);
    }

    /// The same outside of every producer session.
    pub(crate) fn without_producer(self) -> Self {
        let (producer_id, producer_epoch) = (ProducerId::NONE, ProducerEpoch(-1));
        Self { producer_id, producer_epoch, base_sequence: -1, ..self }
    }

    /// Offset of the last record, inclusive.
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// The time after which compaction may drop the tombstones of the batch (KIP-534), in milliseconds since the Unix epoch.
    /// `None`: none is set.
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        self.attributes.delete_horizon().then_some(self.base_timestamp)
    }

    /// Offset after the last record.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// Sequence of the last record; sequences wrap from `i32::MAX` to 0.
    pub fn last_sequence(&self) -> i32 {
        wrap_sequence(self.base_sequence, self.last_offset_delta)
    }
}

/// `sequence` moved by `count` on the circle of non-negative 32-bit numbers.
fn wrap_sequence(sequence: i32, count: i32) -> i32 {
    let moved = (i64::from(sequence) + i64::from(count)) % (i64::from(i32::MAX) + 1);
    i32::try_from(moved).expect("the remainder is in range")
}

/// Computes and writes the CRC of a whole batch.
pub(crate) fn write_crc(batch: &mut [u8]) {
    let (header, body) = batch.split_at_mut(HEADER_LEN);
    write_header_crc(header, body);
}

/// The same for a header whose records lie elsewhere.
pub(crate) fn write_header_crc(header: &mut [u8], body: &[u8]) {
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    crc.update(&header[CRC_FROM..]);
    crc.update(body);
    let crc = u32::try_from(crc.finalize()).expect("a 32-bit checksum fits 32 bits");
    header[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(wrap_sequence(i32::MAX, 0), i32::MAX);
        assert_eq!(wrap_sequence(i32::MAX, 1), 0);
        assert_eq!(wrap_sequence(i32::MAX - 1, 3), 1);
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
