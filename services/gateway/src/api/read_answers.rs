//! What readers are told, as it travels.

use std::borrow::Cow;

use prost::Message as _;
use prost::encoding::encoded_len_varint;
use walser_model::TimestampType;
use walser_proto::v1 as pb;
use walser_proto::v1::read_response::Event;
use walser_record_batch::{Header, Record};
use walser_rpc::wire_time;

use crate::reading::{
    Chunk, Fetched, LookedUp, PartitionFailure, PartitionName, Progress, ReadEvent, ReadRecord, Reset,
};

/// Bytes of an embedded message beside its content: its tag, and a length that is usually short.
const MESSAGE_OVERHEAD: usize = 8;

pub(super) fn event(event: ReadEvent) -> pb::ReadResponse {
    let event = match event {
        ReadEvent::Chunk(read) => Event::Chunk(chunk(read)),
        ReadEvent::Heartbeat { server_time, progress } => {
            let (server_time, progress) = (Some(wire_time(server_time)), all(progress));
            Event::Heartbeat(pb::StreamHeartbeat { server_time, progress })
        }
        ReadEvent::CaughtUp(progress) => Event::CaughtUp(pb::CaughtUp { progress: all(progress) }),
        ReadEvent::Reset(moved) => Event::OffsetReset(reset(moved)),
        ReadEvent::Problem(problem) => Event::PartitionError(failure(problem)),
        ReadEvent::EndReached(of) => Event::EndReached(partition(&of)),
        ReadEvent::Drain(grace) => Event::Drain(pb::Drain { grace: Some(grace.into()) }),
    };
    pb::ReadResponse { event: Some(event) }
}

/// An answer with as many of the failures as there is room for.
pub(super) fn fetched(fetched: Fetched) -> pb::FetchResponse {
    let Fetched { chunks, resets, failures, failure_bytes_max, gate: _ } = fetched;
    pb::FetchResponse {
        chunks: chunks.into_iter().map(chunk).collect(),
        resets: resets.into_iter().map(reset).collect(),
        errors: failures_within(failures, failure_bytes_max),
    }
}

/// Those of the failures that `bytes_max` have room for.
pub(super) fn failures_within(failures: Vec<PartitionFailure>, bytes_max: usize) -> Vec<pb::PartitionError> {
    let mut left = bytes_max;
    let fits = |error: &pb::PartitionError| {
        left = left.saturating_sub(error.encoded_len() + MESSAGE_OVERHEAD);
        left > 0
    };
    failures.into_iter().map(failure).filter(fits).collect()
}

pub(super) fn offsets(found: Vec<LookedUp>) -> pb::ListOffsetsResponse {
    let mut response = pb::ListOffsetsResponse::default();
    for LookedUp { of, found } in found {
        match found {
            Ok(found) => response.offsets.push(pb::ResolvedOffset {
                topic_partition: Some(partition(&of)),
                offset: (found.offset >= 0).then_some(found.offset),
                timestamp_millis: (found.timestamp >= 0).then_some(found.timestamp),
                leader_epoch: (found.leader_epoch >= 0).then_some(found.leader_epoch),
            }),
            Err(cause) => response.errors.push(failure(PartitionFailure { of, failure: cause })),
        }
    }
    response
}

pub(super) fn partition(name: &PartitionName) -> pb::TopicPartition {
    pb::TopicPartition { topic: name.topic.to_string(), partition: name.partition }
}

pub(super) fn failure(failure: PartitionFailure) -> pb::PartitionError {
    let PartitionFailure { of, failure } = failure;
    pb::PartitionError { topic_partition: Some(partition(&of)), error: Some(failure.into()) }
}

pub(super) fn reset(reset: Reset) -> pb::OffsetReset {
    let Reset { of, requested, actual } = reset;
    pb::OffsetReset {
        topic_partition: Some(partition(&of)),
        requested_offset: requested.0,
        actual_offset: actual.0,
        skipped_count: actual.since(requested).max(0),
    }
}

pub(super) fn all(progress: Vec<Progress>) -> Vec<pb::PartitionProgress> {
    let one = |Progress { of, next_offset, end_offset }| pb::PartitionProgress {
        topic_partition: Some(partition(&of)),
        next_offset,
        end_offset,
    };
    progress.into_iter().map(one).collect()
}

pub(super) fn chunk(chunk: Chunk) -> pb::RecordChunk {
    let Chunk { topic, partition, content, high_watermark, log_start, leader_epoch } = chunk;
    pb::RecordChunk {
        topic: topic.name.to_string(),
        partition,
        records: content.records.into_iter().map(record).collect(),
        record_batches: content.batches,
        next_offset: content.next_offset,
        high_watermark,
        last_stable_offset: high_watermark,
        log_start_offset: log_start,
        leader_epoch,
        size_bytes: i64::try_from(content.size_bytes).unwrap_or(i64::MAX),
    }
}

fn record(read: ReadRecord) -> pb::ConsumedRecord {
    let ReadRecord { record: Record { offset, timestamp, key, value, headers }, timestamp_type } = read;
    let timestamp_type = match timestamp_type {
        TimestampType::CreateTime => pb::TimestampType::CreateTime,
        TimestampType::LogAppendTime => pb::TimestampType::LogAppendTime,
    };
    let headers = headers.into_iter().map(header).collect();
    let (offset, timestamp_type) = (offset.0, timestamp_type.into());
    pb::ConsumedRecord { offset, key, value, headers, timestamp_millis: timestamp, timestamp_type }
}

fn header(header: Header) -> pb::Header {
    match String::from_utf8_lossy(&header.key) {
        Cow::Borrowed(name) => pb::Header { key: name.to_owned(), value: header.value, raw_key: None },
        // Kept apart from other names that are rendered alike.
        Cow::Owned(rendered) => pb::Header { key: rendered, value: header.value, raw_key: Some(header.key) },
    }
}

/// Bytes of a record in a chunk, with the tag and length before it; never too few. It is asked for each record, and
/// makes no message.
pub(super) fn record_bytes(record: &Record) -> usize {
    let header = |header: &Header| {
        // A name that is no UTF-8 is there twice: as it is, and rendered, where a byte takes three.
        let rendered = if str::from_utf8(&header.key).is_ok() { 0 } else { 3 * header.key.len() + FIELD_MAX };
        let value = header.value.as_ref().map_or(0, |value| field(value.len()));
        field(field(header.key.len()) + value + rendered)
    };
    let bytes = [&record.key, &record.value].into_iter().flatten().map(|bytes| field(bytes.len())).sum::<usize>();
    field(NUMBERS_MAX + bytes + record.headers.iter().map(header).sum::<usize>())
}

/// Offset, timestamp and the kind of timestamp, each with its tag.
const NUMBERS_MAX: usize = 11 + 11 + 2;
/// Tag and length of a field, at most.
const FIELD_MAX: usize = 6;

/// A field of so many bytes, with its tag and length.
fn field(bytes: usize) -> usize {
    1 + encoded_len_varint(u64::try_from(bytes).unwrap_or(u64::MAX)) + bytes
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use walser_model::Offset;

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from),
            Just(Bytes::from(vec![7; 20_000])),
            "[a-zü]{0,9}".prop_map(Bytes::from),
        ]
    }

    proptest! {
        #[test]
        fn a_record_takes_no_more_than_is_counted_for_it(
            (offset, timestamp) in (0..=i64::MAX, any::<i64>()),
            (key, value) in (proptest::option::of(bytes()), proptest::option::of(bytes())),
            headers in proptest::collection::vec((bytes(), proptest::option::of(bytes())), 0..4),
        ) {
            let headers: Vec<_> = headers.into_iter().map(|(key, value)| Header { key, value }).collect();
            let all_text = headers.iter().all(|header| str::from_utf8(&header.key).is_ok());
            let read = Record { offset: Offset(offset), timestamp, key, value, headers };
            let counted = record_bytes(&read);
            let mut chunk = pb::RecordChunk::default();
            chunk.records.push(record(ReadRecord { record: read, timestamp_type: TimestampType::LogAppendTime }));
            prop_assert!(chunk.encoded_len() <= counted, "{} in {counted}", chunk.encoded_len());
            prop_assert!(!all_text || counted <= chunk.encoded_len() + NUMBERS_MAX + FIELD_MAX);
        }
    }
}
