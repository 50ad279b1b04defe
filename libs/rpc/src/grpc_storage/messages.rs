//! The messages of the storage service, and what they mean: both ends of the connection read and write them here.

use std::sync::Arc;
use std::time::Duration;

use walser_model::{Durability, LeaderEpoch, NodeId, Offset, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::offset_lookup::At;
use walser_proto::v1 as pb;

use crate::ApiError;
use crate::metadata::{millis, wire_time};
use crate::storage_client::{
    AppendBatch, AppendOutcome, BatchAppended, BatchesRead, CompactionFigures, DescribedPartition, EndedCompaction,
    LaggingReplica, LedPartition, OffsetAnswer, OffsetQuery, PartitionNumbers, ReadBatches,
};

impl From<LedPartition> for pbi::PartitionRef {
    fn from(partition: LedPartition) -> Self {
        walser_proto::partition_ref(partition.id, partition.leader_epoch)
    }
}

fn led_partition(reference: Option<&pbi::PartitionRef>) -> Result<LedPartition, ApiError> {
    let found = reference.and_then(walser_proto::topic_partition);
    let (id, leader_epoch) = found.ok_or_else(|| ApiError::field("ref", "is not a partition"))?;
    Ok(LedPartition { id, leader_epoch })
}

/// Numbers of messages that are -1 where there is none.
fn some(number: i64) -> Option<i64> {
    (number >= 0).then_some(number)
}

pub(super) fn append_message(batch: AppendBatch) -> pbi::AppendStreamRequest {
    let mut traces = batch.traces.iter().map(|trace| trace.to_string());
    pbi::AppendStreamRequest {
        correlation_id: 0,
        r#ref: Some(batch.partition.into()),
        record_batch: batch.record_batch,
        acks: pb::Acks::from(batch.acks).into(),
        expected_offset: batch.expected_offset.map(|offset| offset.0),
        traceparent: traces.next().unwrap_or_default(),
        more_traceparents: traces.collect(),
    }
}

/// Reads an append.
///
/// # Errors
/// `VALIDATION_FAILED` when it names no partition.
pub fn append_of_message(message: pbi::AppendStreamRequest) -> Result<AppendBatch, ApiError> {
    let first = Some(message.traceparent.as_str()).filter(|first| !first.is_empty());
    let traces = first.into_iter().chain(message.more_traceparents.iter().map(String::as_str));
    Ok(AppendBatch {
        partition: led_partition(message.r#ref.as_ref())?,
        traces: traces.map(Arc::from).collect(),
        acks: message.acks().into(),
        expected_offset: message.expected_offset.map(Offset),
        record_batch: message.record_batch,
    })
}

/// The answer to the append of this number.
pub fn append_outcome_message(correlation_id: i64, outcome: AppendOutcome) -> pbi::AppendStreamResponse {
    match outcome {
        Ok(appended) => pbi::AppendStreamResponse {
            correlation_id,
            base_offset: appended.base_offset.0,
            log_append_time_millis: appended.log_append_time.unwrap_or(-1),
            log_start_offset: appended.log_start.0,
            duplicate: appended.duplicate,
            error: None,
            leader_epoch: appended.leader_epoch.0,
            durability: appended.durability.map_or(pb::Durability::Queued, pb::Durability::from).into(),
            copies: appended.copies,
        },
        Err(failure) => pbi::AppendStreamResponse { correlation_id, error: Some(failure.into()), ..Default::default() },
    }
}

pub(super) fn append_outcome(message: pbi::AppendStreamResponse) -> AppendOutcome {
    let durability = match message.durability() {
        pb::Durability::PageCache => Some(Durability::PageCache),
        pb::Durability::Fsync => Some(Durability::Fsync),
        pb::Durability::Queued | pb::Durability::Unspecified => None,
    };
    match message.error {
        Some(error) => Err(error.into()),
        None => Ok(BatchAppended {
            base_offset: Offset(message.base_offset),
            log_append_time: some(message.log_append_time_millis),
            log_start: Offset(message.log_start_offset),
            leader_epoch: LeaderEpoch(message.leader_epoch),
            duplicate: message.duplicate,
            durability,
            copies: message.copies,
        }),
    }
}

pub(super) fn read_message(read: &ReadBatches) -> pbi::FetchStreamRequest {
    pbi::FetchStreamRequest {
        correlation_id: 0,
        r#ref: Some(read.partition.into()),
        offset: read.offset.0,
        last_epoch: read.last_epoch.0,
        max_bytes: i32::try_from(read.bytes_max).unwrap_or(i32::MAX),
        max_wait: Some(read.wait.into()),
        committed_only: true,
        cancel: false,
    }
}

/// Reads a fetch.
///
/// # Errors
/// `VALIDATION_FAILED` when it names no partition.
pub fn read_of_message(message: &pbi::FetchStreamRequest) -> Result<ReadBatches, ApiError> {
    Ok(ReadBatches {
        partition: led_partition(message.r#ref.as_ref())?,
        offset: Offset(message.offset),
        last_epoch: LeaderEpoch(message.last_epoch),
        bytes_max: usize::try_from(message.max_bytes).unwrap_or(0),
        wait: message.max_wait.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or_default(),
    })
}

/// The answer to the fetch of this number.
pub fn read_outcome_message(correlation_id: i64, outcome: Result<BatchesRead, ApiError>) -> pbi::FetchStreamResponse {
    match outcome {
        Ok(read) => pbi::FetchStreamResponse {
            correlation_id,
            record_batches: read.record_batches,
            high_watermark: read.high_watermark.0,
            // Without open transactions every committed record is stable.
            last_stable_offset: read.high_watermark.0,
            log_start_offset: read.log_start.0,
            diverging_offset: read.diverging.map(|offset| offset.0),
            error: None,
            leader_epoch: read.leader_epoch.0,
        },
        Err(failure) => pbi::FetchStreamResponse { correlation_id, error: Some(failure.into()), ..Default::default() },
    }
}

pub(super) fn read_outcome(message: pbi::FetchStreamResponse) -> Result<BatchesRead, ApiError> {
    match message.error {
        Some(error) => Err(error.into()),
        None => Ok(BatchesRead {
            record_batches: message.record_batches,
            high_watermark: Offset(message.high_watermark),
            log_start: Offset(message.log_start_offset),
            leader_epoch: LeaderEpoch(message.leader_epoch),
            diverging: message.diverging_offset.map(Offset),
        }),
    }
}

pub(super) fn look_up_message(lookups: &[(LedPartition, OffsetQuery)]) -> pbi::LookupOffsetsRequest {
    let message = |(partition, query): &(LedPartition, OffsetQuery)| {
        let at = match *query {
            OffsetQuery::Earliest => At::Bound(pb::Bound::Earliest.into()),
            OffsetQuery::Latest => At::Bound(pb::Bound::Latest.into()),
            OffsetQuery::Time(millis) => At::TimestampMillis(millis),
            OffsetQuery::Record(offset) => At::Offset(offset.0),
        };
        pbi::OffsetLookup { r#ref: Some((*partition).into()), committed_only: true, at: Some(at) }
    };
    pbi::LookupOffsetsRequest { lookups: lookups.iter().map(message).collect() }
}

/// Reads a look-up.
///
/// # Errors
/// `VALIDATION_FAILED` when it names no partition, or nothing to look for.
pub fn offset_query_of_message(message: &pbi::OffsetLookup) -> Result<(LedPartition, OffsetQuery), ApiError> {
    let query = match message.at {
        Some(At::Bound(bound)) if bound == pb::Bound::Earliest as i32 => OffsetQuery::Earliest,
        Some(At::Bound(_)) => OffsetQuery::Latest,
        Some(At::TimestampMillis(millis)) => OffsetQuery::Time(millis),
        Some(At::Offset(offset)) => OffsetQuery::Record(Offset(offset)),
        None => return Err(ApiError::field("at", "is missing")),
    };
    Ok((led_partition(message.r#ref.as_ref())?, query))
}

/// The answer to a look-up.
pub fn offset_answer_message(outcome: Result<OffsetAnswer, ApiError>) -> pbi::OffsetFound {
    let (found, error) = match outcome {
        Ok(found) => (found, None),
        Err(failure) => (OffsetAnswer { offset: None, timestamp: None, leader_epoch: None }, Some(failure.into())),
    };
    pbi::OffsetFound {
        offset: found.offset.map_or(-1, |offset| offset.0),
        timestamp_millis: found.timestamp.unwrap_or(-1),
        leader_epoch: found.leader_epoch.map_or(-1, |epoch| epoch.0),
        error,
    }
}

pub(super) fn offset_answer(message: pbi::OffsetFound) -> Result<OffsetAnswer, ApiError> {
    match message.error {
        Some(error) => Err(error.into()),
        None => Ok(OffsetAnswer {
            offset: some(message.offset).map(Offset),
            // -1 where there is none: records may be older than 1970.
            timestamp: (message.timestamp_millis != -1).then_some(message.timestamp_millis),
            leader_epoch: (message.leader_epoch >= 0).then_some(LeaderEpoch(message.leader_epoch)),
        }),
    }
}

pub(super) fn describe_message(partitions: &[TopicPartition]) -> pbi::DescribePartitionsRequest {
    let reference = |id: &TopicPartition| walser_proto::partition_ref(*id, LeaderEpoch::NONE);
    pbi::DescribePartitionsRequest { refs: partitions.iter().map(reference).collect() }
}

/// What is said of a partition, as it travels.
pub fn described_message(figures: DescribedPartition) -> pbi::PartitionFigures {
    let DescribedPartition { numbers, problem, damaged, lags, compaction } = figures;
    let lags = lags.into_iter().map(pb::ReplicaLag::from).collect();
    let compaction = compaction.map(pb::Compaction::from);
    let message = pbi::PartitionFigures { problem, damaged, lags, compaction, ..Default::default() };
    match numbers {
        Ok(numbers) => pbi::PartitionFigures {
            log_start_offset: numbers.log_start.0,
            high_watermark: numbers.high_watermark.0,
            size_bytes: signed(numbers.bytes),
            ..message
        },
        Err(failure) => pbi::PartitionFigures { error: Some(failure.into()), ..message },
    }
}

impl From<LaggingReplica> for pb::ReplicaLag {
    fn from(lag: LaggingReplica) -> Self {
        let offsets = lag.offsets.map(signed);
        Self { node_id: lag.node.0, offsets, behind: Some(lag.behind.into()) }
    }
}

impl From<pb::ReplicaLag> for LaggingReplica {
    fn from(message: pb::ReplicaLag) -> Self {
        let behind = message.behind.and_then(|behind| behind.try_into().ok()).unwrap_or_default();
        let offsets = message.offsets.and_then(|offsets| u64::try_from(offsets).ok());
        Self { node: NodeId(message.node_id), offsets, behind }
    }
}

impl From<CompactionFigures> for pb::Compaction {
    fn from(figures: CompactionFigures) -> Self {
        let CompactionFigures { clean_bytes, dirty_bytes, compacted, running, last } = figures;
        let (clean_bytes, dirty_bytes) = (signed(clean_bytes), signed(dirty_bytes));
        Self { clean_bytes, dirty_bytes, compacted_offset: compacted.0, running, last_run: last.map(Into::into) }
    }
}

impl From<EndedCompaction> for pb::CompactionRun {
    fn from(run: EndedCompaction) -> Self {
        let EndedCompaction { ended, bytes_before, bytes_after, left } = run;
        Self {
            end_time: Some(wire_time(ended)),
            bytes_before: signed(bytes_before),
            bytes_after: signed(bytes_after),
            record_count: left.map(|(records, _)| signed(records)),
            tombstone_count: left.map(|(_, tombstones)| signed(tombstones)),
        }
    }
}

impl From<pb::Compaction> for CompactionFigures {
    fn from(message: pb::Compaction) -> Self {
        Self {
            clean_bytes: unsigned(message.clean_bytes),
            dirty_bytes: unsigned(message.dirty_bytes),
            compacted: Offset(message.compacted_offset),
            running: message.running,
            last: message.last_run.map(EndedCompaction::from),
        }
    }
}

impl From<pb::CompactionRun> for EndedCompaction {
    fn from(message: pb::CompactionRun) -> Self {
        Self {
            ended: millis(message.end_time),
            bytes_before: unsigned(message.bytes_before),
            bytes_after: unsigned(message.bytes_after),
            left: message
                .record_count
                .zip(message.tombstone_count)
                .map(|(records, gone)| (unsigned(records), unsigned(gone))),
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn figures(message: pbi::PartitionFigures) -> DescribedPartition {
    let numbers = PartitionNumbers {
        log_start: Offset(message.log_start_offset),
        high_watermark: Offset(message.high_watermark),
        bytes: unsigned(message.size_bytes),
    };
    let numbers = message.error.map_or(Ok(numbers), |error| Err(ApiError::from(error)));
    let lags = message.lags.into_iter().map(LaggingReplica::from).collect();
    let compaction = message.compaction.map(CompactionFigures::from);
    DescribedPartition { numbers, problem: message.problem, damaged: message.damaged, lags, compaction }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use walser_model::{Acks, PartitionIndex, TopicId, TopicPartition};

    use super::*;
    use crate::Reason;

    fn partition() -> LedPartition {
        let id = TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(3));
        LedPartition { id, leader_epoch: LeaderEpoch(5) }
    }

    #[test]
    fn an_append_and_its_answer_come_out_as_they_went_in() {
        let batch = AppendBatch {
            partition: partition(),
            record_batch: Bytes::from_static(b"batch"),
            acks: Acks::Leader,
            expected_offset: Some(Offset(0)),
            traces: vec!["00-1-2-01".into(), "00-3-4-01".into()],
        };
        let read = append_of_message(append_message(batch.clone())).unwrap();
        assert_eq!(read.traces, batch.traces);
        assert_eq!((read.partition, read.acks, read.expected_offset), (batch.partition, batch.acks, Some(Offset(0))));
        for (log_append_time, durability) in [(None, None), (Some(0), Some(Durability::Fsync))] {
            let appended = BatchAppended {
                base_offset: Offset(9),
                log_append_time,
                log_start: Offset(2),
                leader_epoch: LeaderEpoch(5),
                duplicate: true,
                durability,
                copies: 3,
            };
            assert_eq!(append_outcome(append_outcome_message(1, Ok(appended))).unwrap(), appended);
        }
        let failed = append_outcome(append_outcome_message(1, Err(ApiError::new(Reason::NotLeader, "moved"))));
        assert_eq!(failed.unwrap_err().reason(), Reason::NotLeader);
    }

    #[test]
    fn a_look_up_and_its_answer_come_out_as_they_went_in() {
        let queries =
            [OffsetQuery::Earliest, OffsetQuery::Latest, OffsetQuery::Time(0), OffsetQuery::Record(Offset(3))];
        let lookups = queries.map(|query| (partition(), query));
        let message = look_up_message(&lookups);
        for (message, lookup) in message.lookups.iter().zip(lookups) {
            assert_eq!(offset_query_of_message(message).unwrap(), lookup);
        }
        let none = OffsetAnswer { offset: None, timestamp: None, leader_epoch: None };
        let found = OffsetAnswer { offset: Some(Offset(0)), timestamp: Some(0), leader_epoch: Some(LeaderEpoch(0)) };
        for answer in [none, found] {
            assert_eq!(offset_answer(offset_answer_message(Ok(answer))).unwrap(), answer);
        }
    }

    #[test]
    fn a_message_without_a_partition_is_refused() {
        assert!(append_of_message(pbi::AppendStreamRequest::default()).is_err());
        assert!(read_of_message(&pbi::FetchStreamRequest::default()).is_err());
        assert!(offset_query_of_message(&pbi::OffsetLookup::default()).is_err());
    }
}
