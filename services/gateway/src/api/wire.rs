//! What several services read from requests and put into answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use walser_model::{ProducerEpoch, ProducerId};
use walser_proto::v1 as pb;
use walser_record_batch::{Header, NewRecord, Producer};
use walser_rpc::{ApiError, Reason};
use walser_service::telemetry::{self, TRACEPARENT};

use crate::producing::{FailedRecords, Outcome, PartWritten, Payload, RecordPlace};
use crate::topics::Topics;

/// Bytes of the failures that are reported partition by partition.
const PARTITION_FAILURE_BYTES_MAX: usize = 600;
/// Bytes of the text of one of them.
const PARTITION_FAILURE_TEXT_MAX: usize = 120;

/// Reads an enum of a request.
pub(super) fn known<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E, ApiError> {
    E::try_from(number).map_err(|_| ApiError::field(field, format!("{number} is not a value of the enum")))
}

/// The trace of a call: that of its span here, where it is exported, else the caller's.
pub(super) fn trace_of_call(metadata: &MetadataMap) -> Option<Arc<str>> {
    telemetry::sampled_here().map(Arc::from).or_else(|| trace(metadata))
}

/// The caller's trace, if it is one.
pub(super) fn trace(metadata: &MetadataMap) -> Option<Arc<str>> {
    let text = metadata.get(TRACEPARENT)?.to_str().ok()?;
    telemetry::is_context(text).then(|| Arc::from(text))
}

/// The caller's time less what the answer needs to travel; tonic would cut the call without saying why.
pub(super) fn time_left(metadata: &MetadataMap) -> Option<Duration> {
    let left = walser_rpc::remaining(metadata)?;
    Some(left.saturating_sub((left / 5).min(Duration::from_millis(150))))
}

/// The payload of a write.
pub(super) fn payload(records: Vec<pb::Record>, record_batch: Bytes) -> Result<Payload, ApiError> {
    match (records.is_empty(), record_batch.is_empty()) {
        (false, true) => Ok(Payload::Records(records.into_iter().map(new_record).collect())),
        (true, false) => Ok(Payload::Batch(record_batch)),
        (neither, _) => {
            let what = if neither { "neither" } else { "both" };
            let text = format!("{what} of records and record_batch are set; set exactly one");
            Err(ApiError::new(Reason::PayloadAmbiguous, text))
        }
    }
}

fn new_record(record: pb::Record) -> NewRecord {
    let header = |pb::Header { key, value, raw_key }| Header { key: raw_key.unwrap_or_else(|| key.into()), value };
    NewRecord {
        key: record.key,
        value: record.value,
        headers: record.headers.into_iter().map(header).collect(),
        timestamp: record.timestamp_millis,
    }
}

/// The producer session of a write, if it has one.
pub(super) fn session(
    identity: Option<pb::ProducerIdentity>,
    base_sequence: i32,
) -> Result<Option<Producer>, ApiError> {
    let Some(pb::ProducerIdentity { producer_id, producer_epoch }) = identity else { return Ok(None) };
    if base_sequence < 0 {
        return Err(ApiError::field("base_sequence", "must be at least 0"));
    }
    if producer_id < 0 {
        return Err(ApiError::field("producer.producer_id", "must come from InitProducer"));
    }
    let epoch = i16::try_from(producer_epoch).ok().filter(|epoch| *epoch >= 0);
    let epoch = epoch.ok_or_else(|| ApiError::field("producer.producer_epoch", "must come from InitProducer"))?;
    Ok(Some(Producer { id: ProducerId(producer_id), epoch: ProducerEpoch(epoch), base_sequence }))
}

/// The outcome of a write that succeeded.
pub(super) fn written(outcome: Outcome) -> pb::ProduceResponse {
    let place = |at: RecordPlace| pb::RecordPosition { partition: at.partition, offset: at.offset.0 };
    pb::ProduceResponse {
        positions: outcome.positions.into_iter().map(place).collect(),
        appends: outcome.appends.into_iter().map(append_result).collect(),
    }
}

fn append_result(part: PartWritten) -> pb::AppendResult {
    let PartWritten { partition, record_count, written } = part;
    pb::AppendResult {
        partition,
        base_offset: written.base_offset.map(|offset| offset.0),
        record_count,
        log_append_time_millis: written.log_append_time,
        log_start_offset: written.log_start.map(|offset| offset.0),
        duplicate: written.duplicate,
        durability: written.durability.map_or(pb::Durability::Queued, pb::Durability::from).into(),
        copies: written.copies,
    }
}

/// Which records of a write failed. Of the partitions' failures, as many as fit the trailers of every client.
pub(super) fn produce_failure(records: FailedRecords) -> pb::ProduceFailure {
    let FailedRecords { not_written, unknown, truncated, partitions } = records;
    let mut bytes = 0;
    let failures = partitions.into_iter().enumerate().map_while(|(number, (partition, failure))| {
        let telling = pb::PartitionFailure { partition, error: Some(short(failure)) };
        bytes += telling.encoded_len();
        (number == 0 || bytes <= PARTITION_FAILURE_BYTES_MAX).then_some(telling)
    });
    let partitions = failures.collect();
    pb::ProduceFailure { not_written, unknown, truncated, partitions }
}

/// A failure without what the status says already.
fn short(failure: ApiError) -> pb::Error {
    let mut error = pb::Error::from(failure);
    error.metadata.clear();
    let end = (0..=PARTITION_FAILURE_TEXT_MAX).rev().find(|end| error.message.is_char_boundary(*end));
    error.message.truncate(end.unwrap_or(0));
    error
}

/// An answer of another service as the caller gets it: always with details, also when the connection made the error.
pub(super) fn relayed(status: Status) -> Status {
    // Without details nobody has answered: the connection is gone.
    if status.code() == Code::Unavailable && status.details().is_empty() {
        let text = "the controller does not answer; topics that are open go on";
        return ApiError::new(Reason::ControllerNotAvailable, text).into();
    }
    ApiError::from(status).into()
}

/// Waits until this gateway knows the change behind an etag, and its leaders serve.
pub(super) async fn see_change(topics: &Topics, topic: Option<&pb::Topic>) {
    let Some(topic) = topic else { return };
    topics.see_change(topic.etag.parse().ok(), &topic.name).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_fits_the_trailers_of_every_client() {
        let long = "x".repeat(249);
        let away = || ApiError::new(Reason::LeaderNotAvailable, format!("partition of {long}")).with("topic", &long);
        let bits = Bytes::from(vec![0x55; 4096]);
        let partitions = (0..32).map(|partition| (partition, away())).collect();
        let records = FailedRecords { not_written: bits, unknown: Bytes::new(), truncated: false, partitions };
        let detail = produce_failure(records);
        assert!((2..10).contains(&detail.partitions.len()), "{}", detail.partitions.len());
        let status = away().into_status_with("walser.v1.ProduceFailure", detail.encode_to_vec());
        let trailers = status.details().len().div_ceil(3) * 4 + status.message().len();
        assert!(trailers < 7_600, "{trailers}");
    }

    #[test]
    fn a_header_is_named_by_its_bytes_where_it_has_any() {
        let header = |key: &str, raw_key| pb::Header { key: key.to_owned(), value: None, raw_key };
        let headers = vec![header("a", None), header("?", Some(Bytes::from_static(b"\xff")))];
        let record = new_record(pb::Record { headers, timestamp_millis: Some(5), ..Default::default() });
        let names: Vec<_> = record.headers.iter().map(|header| &header.key[..]).collect();
        assert_eq!((names, record.timestamp), (vec![&b"a"[..], b"\xff"], Some(5)));
    }
}
