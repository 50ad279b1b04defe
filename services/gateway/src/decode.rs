//! Batches on their way out: plain records for clients that want them.

use bytes::Bytes;
use walser_model::{Offset, TimestampType};
use walser_proto::v1 as pb;
use walser_record_batch::{Batches, Records};
use walser_rpc::{Failure, Reason};

/// What a reader asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Whole batches instead of records.
    pub(crate) batches: bool,
    /// Leave values out.
    pub(crate) metadata_only: bool,
    /// The client's receive limit in bytes.
    pub(crate) message_bytes_max: usize,
}

/// Records or batches of one partition, ready to send.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) records: Vec<pb::ConsumedRecord>,
    pub(crate) batches: Bytes,
    /// Offset to go on from.
    pub(crate) next_offset: i64,
    pub(crate) record_count: i64,
    pub(crate) size_bytes: usize,
    /// The end of the asked range was reached.
    pub(crate) ended: bool,
}

/// Bytes of a chunk beside its records.
const CHUNK_OVERHEAD: usize = 1024;

/// Takes records from `batches` that lie in `from..end`, at most `records_max`, within the client's limit.
///
/// # Errors
/// When stored records do not decode, or one record alone is above the client's limit.
pub(crate) fn decode(
    batches: Bytes,
    from: Offset,
    end: Option<Offset>,
    shape: Shape,
    records_max: usize,
) -> Result<Decoded, Failure> {
    if shape.batches { whole(batches, from, end, shape) } else { plain(batches, from, end, shape, records_max) }
}

fn broken(at: Offset, detail: impl std::fmt::Display) -> Failure {
    let text = format!("stored records at offset {at} do not decode: {detail}");
    Failure::new(Reason::LogCorrupt, text).with("offset", at)
}

fn above_limit(offset: Offset, size: usize, limit: usize) -> Failure {
    let text = format!(
        "the record at offset {offset} has {size} bytes, the client takes messages of {limit}; raise its receive \
         limit and max_message_bytes"
    );
    let failure = Failure::new(Reason::RecordExceedsClientLimit, text).with("offset", offset);
    failure.with("sizeBytes", size).with("limitBytes", limit)
}

fn whole(batches: Bytes, from: Offset, end: Option<Offset>, shape: Shape) -> Result<Decoded, Failure> {
    let room = shape.message_bytes_max.saturating_sub(CHUNK_OVERHEAD);
    let mut out = Decoded { next_offset: from.0, ..Decoded::default() };
    let mut taken = 0;
    for item in Batches::of(batches.clone()) {
        let (header, batch) = item.map_err(|error| broken(from, error))?;
        if end.is_some_and(|end| header.base_offset >= end) {
            out.ended = true;
            break;
        }
        if taken + batch.len() > room {
            if taken == 0 {
                return Err(above_limit(header.base_offset, batch.len(), shape.message_bytes_max));
            }
            break;
        }
        taken += batch.len();
        out.next_offset = header.next_offset().0;
        out.record_count += i64::from(header.record_count);
    }
    out.ended |= end.is_some_and(|end| out.next_offset >= end.0);
    out.batches = batches.slice(..taken);
    out.size_bytes = taken;
    Ok(out)
}

fn plain(
    batches: Bytes,
    from: Offset,
    end: Option<Offset>,
    shape: Shape,
    records_max: usize,
) -> Result<Decoded, Failure> {
    let room = shape.message_bytes_max.saturating_sub(CHUNK_OVERHEAD);
    let mut out = Decoded { next_offset: from.0, ..Decoded::default() };
    for item in Batches::of(batches) {
        let (header, batch) = item.map_err(|error| broken(from, error))?;
        if header.next_offset() <= from {
            continue;
        }
        if header.attributes.control() {
            out.next_offset = header.next_offset().0;
            continue;
        }
        let records = Records::open(header, &batch).map_err(|error| broken(header.base_offset, error))?;
        let stamper = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => pb::TimestampType::Unspecified,
            TimestampType::LogAppendTime => pb::TimestampType::LogAppendTime,
        };
        for record in records {
            let record = record.map_err(|error| broken(header.base_offset, error))?;
            if record.offset < from {
                continue;
            }
            if end.is_some_and(|end| record.offset >= end) {
                out.ended = true;
                return Ok(out);
            }
            let record = consumed(record, stamper, shape.metadata_only);
            let size = prost::Message::encoded_len(&record) + 6;
            if out.size_bytes + size > room {
                let offset = Offset(record.offset);
                let fits = !out.records.is_empty();
                return if fits { Ok(out) } else { Err(above_limit(offset, size, shape.message_bytes_max)) };
            }
            out.size_bytes += size;
            out.next_offset = record.offset + 1;
            out.record_count += 1;
            out.records.push(record);
            if out.records.len() >= records_max {
                return Ok(out);
            }
        }
        out.next_offset = header.next_offset().0;
    }
    out.ended = end.is_some_and(|end| out.next_offset >= end.0);
    Ok(out)
}

fn consumed(
    record: walser_record_batch::Record,
    stamper: pb::TimestampType,
    metadata_only: bool,
) -> pb::ConsumedRecord {
    let header = |header: walser_record_batch::Header| pb::Header {
        key: String::from_utf8_lossy(&header.key).into_owned(),
        value: header.value,
    };
    pb::ConsumedRecord {
        offset: record.offset.0,
        key: record.key,
        value: if metadata_only { None } else { record.value },
        headers: record.headers.into_iter().map(header).collect(),
        timestamp_millis: record.timestamp,
        timestamp_type: stamper.into(),
    }
}
