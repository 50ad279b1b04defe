//! What compaction makes of a batch: the same with fewer records, or an empty one that stands for those that are gone.
//!
//! Offsets stay: a batch spans the same offsets with fewer records, and each record has its own. Where nothing is left, an
//! empty batch, a header alone, spans them. So a log has a batch for every offset, compacted or not, and whatever walks it
//! finds the next batch where the last one ended.

use bytes::Bytes;
use walser_model::{Compression, LeaderEpoch, MESSAGE_BYTES_CEILING, Offset, Timestamp, TimestampType};

use crate::builder::{Producer, compressed};
use crate::compression::decompressed_bytes_max;
use crate::cost::{DECODED_COST_MAX, check_section};
use crate::header::{Attributes, BatchHeader, HEADER_LEN};
use crate::raw_record::{RawRecord, take_record};
use crate::record::{RecordError, opened_section};

/// Timestamp of a batch that has no record.
const NO_TIMESTAMP: Timestamp = -1;

/// A record of a batch, as far as compaction asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retainable<'a> {
    pub offset: Offset,
    /// `None` is null.
    pub key: Option<&'a [u8]>,
    /// Its value is null: it deletes its key.
    pub tombstone: bool,
}

/// What is left of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retained {
    /// All of it, as it was.
    All,
    /// Some of its records, or all of them with a time from which on tombstones may go.
    Some(Vec<u8>),
    /// No record.
    Nothing,
    /// All of it, although some records were to go: what is left would be a batch that no reader takes, or twice as large.
    TooLarge,
}

/// The records of a batch, one after the other, with offsets that it spans. They can all be read.
fn records_of<'a>(header: &BatchHeader, section: &'a [u8]) -> Result<Vec<RawRecord<'a>>, RecordError> {
    let (mut records, mut rest, mut least) = (Vec::new(), section, 0);
    for index in 0..header.record_count {
        let raw = take_record(&mut rest).ok_or(RecordError::Malformed { index })?;
        if raw.offset_delta < least || raw.offset_delta > header.last_offset_delta {
            return Err(RecordError::Malformed { index });
        }
        least = raw.offset_delta.saturating_add(1);
        records.push(raw);
    }
    if !rest.is_empty() {
        return Err(RecordError::Trailing { count: header.record_count, bytes: rest.len() });
    }
    Ok(records)
}

/// Drops records of a whole batch. `keep` is asked for each, in order, and sees the time from which on the tombstones of
/// this batch may go, in milliseconds since the Unix epoch, where that was set before. `horizon` is what is set where
/// tombstones stay that have none yet (KIP-534); `None`: none is set.
///
/// # Errors
/// [`RecordError`] when the records cannot be read: `keep` was not asked.
pub fn retain(
    header: &BatchHeader,
    batch: &Bytes,
    horizon: Option<Timestamp>,
    mut keep: impl FnMut(Retainable<'_>, Option<Timestamp>) -> bool,
) -> Result<Retained, RecordError> {
    let (section, codec) = opened_section(header, batch, DECODED_COST_MAX)?;
    let known = header.delete_horizon();
    let mut kept = records_of(header, &section)?;
    kept.retain(|raw| {
        let offset = header.base_offset.plus(i64::from(raw.offset_delta));
        keep(Retainable { offset, key: raw.key, tombstone: raw.value.is_none() }, known)
    });
    if kept.is_empty() {
        return Ok(Retained::Nothing);
    }

    let tombstones = kept.iter().any(|raw| raw.value.is_none());
    let fits = |begins: &Timestamp| kept.iter().all(|raw| time(header, raw).checked_sub(*begins).is_some());
    let begins = horizon.filter(|_| tombstones && known.is_none()).filter(fits);
    // Compressed anew with another level, what is left may be larger than all of it was. Not by so much that a segment
    // would outgrow what its index can address, and never larger than what can be written.
    let ceiling = usize::try_from(MESSAGE_BYTES_CEILING).unwrap_or(usize::MAX);
    let bytes_max = batch.len().saturating_mul(2).min(ceiling).max(batch.len());
    for begins in [begins, None] {
        if begins.is_none() && kept.len() == usize::try_from(header.record_count).unwrap_or(0) {
            return Ok(Retained::All);
        }
        let rebuilt = rebuilt(header, codec, begins, &kept);
        if let Some(rebuilt) = rebuilt.filter(|rebuilt| rebuilt.len() <= bytes_max) {
            return Ok(Retained::Some(rebuilt));
        }
    }
    Ok(Retained::TooLarge)
}

/// The time of a record, as its producer gave it.
fn time(header: &BatchHeader, raw: &RawRecord<'_>) -> Timestamp {
    header.base_timestamp.saturating_add(raw.timestamp_delta)
}

/// A batch of these records of another one. `None`: readers would not take it.
fn rebuilt(
    header: &BatchHeader,
    codec: Compression,
    begins: Option<Timestamp>,
    kept: &[RawRecord<'_>],
) -> Option<Vec<u8>> {
    let record_count = i32::try_from(kept.len()).ok()?;
    let base_timestamp = begins.unwrap_or(header.base_timestamp);

    let mut batch = vec![0; HEADER_LEN];
    for raw in kept {
        raw.put(&mut batch, time(header, raw).saturating_sub(base_timestamp));
    }
    let section_bytes = batch.len() - HEADER_LEN;
    check_section(&batch[HEADER_LEN..], record_count, DECODED_COST_MAX).ok()?;
    let (mut batch, codec) = compressed(batch, codec);
    if codec != Compression::None && section_bytes > decompressed_bytes_max(batch.len() - HEADER_LEN) {
        return None;
    }
    let mut attributes = header.attributes.with_codec(codec);
    if begins.is_some() {
        attributes = attributes.with_delete_horizon();
    }
    let max_timestamp = match header.attributes.timestamp_type() {
        TimestampType::LogAppendTime => header.max_timestamp,
        TimestampType::CreateTime => kept.iter().map(|raw| time(header, raw)).max().unwrap_or(NO_TIMESTAMP),
    };
    let size = batch.len();
    BatchHeader { size, attributes, base_timestamp, max_timestamp, record_count, ..*header }.write(&mut batch);
    Some(batch)
}

/// An empty batch of a leader epoch, in place of records that are gone. `producer`: of the last of them, where that has to
/// be known of it; its base sequence is that of the first offset spanned.
///
/// # Panics
/// When it would span more than 2^31 offsets, or none.
pub fn empty_batch(base: Offset, next: Offset, epoch: LeaderEpoch, producer: Producer) -> [u8; HEADER_LEN] {
    let spanned = next.0.checked_sub(base.0).and_then(|count| i32::try_from(count - 1).ok());
    let last_offset_delta = spanned.filter(|delta| *delta >= 0).expect("an empty batch spans some offsets");
    let mut batch = [0; HEADER_LEN];
    let header = BatchHeader {
        base_offset: base,
        size: HEADER_LEN,
        leader_epoch: epoch,
        crc: 0,
        attributes: Attributes::default(),
        last_offset_delta,
        base_timestamp: NO_TIMESTAMP,
        max_timestamp: NO_TIMESTAMP,
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        base_sequence: producer.base_sequence,
        record_count: 0,
    };
    header.write(&mut batch);
    batch
}
