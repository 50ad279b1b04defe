//! The edits that are allowed on a finished batch.

use bytes::Bytes;
use walser_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp, TimestampType};

use crate::header::{Attributes, BatchHeader, HEADER_LEN, write_crc, write_header_crc};

/// Writes base offset and leader epoch. Both lie outside the CRC.
///
/// # Panics
/// When `header` is shorter than a header.
pub fn stamp_position(header: &mut [u8], base_offset: Offset, epoch: LeaderEpoch) {
    assert!(header.len() >= HEADER_LEN, "only whole headers are stamped");
    header[0..8].copy_from_slice(&base_offset.0.to_be_bytes());
    header[12..16].copy_from_slice(&epoch.0.to_be_bytes());
}

/// Makes the append time the time of every record: timestamp type and max timestamp, with a new CRC. `body`: what lies
/// behind the header.
///
/// # Panics
/// When `header` is shorter than a header.
pub fn stamp_append_time(header: &mut [u8], body: &[u8], now: Timestamp) {
    assert!(header.len() >= HEADER_LEN, "only whole headers are stamped");
    let attributes = Attributes(i16::from_be_bytes([header[21], header[22]]));
    let attributes = attributes.stamped_by(TimestampType::LogAppendTime);
    header[21..23].copy_from_slice(&attributes.0.to_be_bytes());
    header[35..43].copy_from_slice(&now.to_be_bytes());
    write_header_crc(&mut header[..HEADER_LEN], body);
}

/// Puts a batch into a producer session, with a new CRC. Only for batches that the caller built itself.
///
/// # Panics
/// When `batch` is not one whole batch.
pub fn stamp_producer(batch: &mut [u8], id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) {
    assert!(batch.len() >= HEADER_LEN, "only whole batches are stamped");
    batch[43..51].copy_from_slice(&id.0.to_be_bytes());
    batch[51..53].copy_from_slice(&epoch.0.to_be_bytes());
    batch[53..57].copy_from_slice(&base_sequence.to_be_bytes());
    write_crc(batch);
}

/// A copy of a whole batch with another header, and a new CRC.
pub(crate) fn restamp(batch: &[u8], header: &BatchHeader) -> Bytes {
    let mut copy = batch.to_vec();
    header.write(&mut copy);
    copy.into()
}
