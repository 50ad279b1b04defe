//! What travels through a writer: the records of callers, the batches that they become, and the answers.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use walser_model::{Acks, Compression, Offset, Timestamp};
use walser_record_batch::{BatchBuilder, BatchHeader, HEADER_LEN, NewRecord, Producer, Record, RecordFields, Records};
use walser_rpc::{ApiError, AppendBatch, AppendPermit, LedPartition, Reason};
use walser_sequencer::{Batch, Effect, Number, Outcome};

use crate::producing::admission::LeaderRoom;
use crate::producing::batches::{add_traces, encode};
use crate::producing::outcome::Written;

/// Told once what became of a caller's records.
pub(crate) type PartDone = Box<dyn FnOnce(Result<Written, ApiError>) + Send>;

/// A caller of a writer.
pub(crate) struct Caller {
    /// Identifies the write that it belongs to.
    pub(crate) write: u64,
    pub(crate) gathering: Gathering,
    /// Plain records, until the batch is built.
    pub(crate) records: Option<GatheredRecords>,
    /// Room at the storage node, for the first attempt.
    pub(crate) leader_room: LeaderRoom,
    /// Room in the gateway, for as long as the batch exists.
    pub(crate) room: AppendPermit,
    pub(crate) done: PartDone,
}

/// Plain records of one write for one partition.
pub(crate) struct GatheredRecords {
    pub(crate) records: Vec<NewRecord>,
    pub(crate) now: Timestamp,
    /// The caller's trace, for records that have none.
    pub(crate) trace: Option<Arc<str>>,
}

/// How records leave together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Gathering {
    pub(crate) codec: Compression,
    pub(crate) acks: Acks,
}

/// A batch, or what it is built from.
pub(super) struct Content {
    records: Vec<GatheredRecords>,
    gathering: Gathering,
    expected_offset: Option<Offset>,
    /// Empty until it is built.
    batch: Bytes,
    /// The traces of its records.
    traces: Vec<Arc<str>>,
    number: Option<Number>,
    pub(super) leader_room: LeaderRoom,
    /// Held until the batch is completed.
    room: AppendPermit,
}

// === impl Gathering ===

impl Gathering {
    /// Tells batches apart that cannot leave together.
    pub(super) fn tag(self) -> u32 {
        (self.codec as u32) << 2 | self.acks as u32
    }
}

// === impl Content ===

impl Content {
    /// A batch that a client built.
    pub(super) fn whole(
        batch: Bytes,
        traces: Vec<Arc<str>>,
        expected_offset: Option<Offset>,
        caller: &mut Caller,
    ) -> Self {
        Self {
            records: Vec::new(),
            gathering: caller.gathering,
            expected_offset,
            batch,
            traces,
            number: None,
            leader_room: std::mem::take(&mut caller.leader_room),
            room: std::mem::take(&mut caller.room),
        }
    }

    /// Takes the records of all callers of a batch that is sent for the first time: from now on they belong to it,
    /// also when a caller gives up.
    pub(super) fn collect(batch: &mut Batch<Caller, Self, ApiError>) {
        if batch.content.is_some() {
            return;
        }
        let mut content = Self {
            records: Vec::new(),
            gathering: batch.callers_mut().next().map_or_else(Gathering::default, |caller| caller.gathering),
            expected_offset: None,
            batch: Bytes::new(),
            traces: Vec::new(),
            number: None,
            leader_room: LeaderRoom::default(),
            room: AppendPermit::uncounted(),
        };
        for caller in batch.callers_mut() {
            content.records.extend(caller.records.take());
            content.leader_room.join(std::mem::take(&mut caller.leader_room));
            content.room.join(std::mem::take(&mut caller.room));
        }
        batch.content = Some(content);
    }

    /// Builds the batch, or gives it another number.
    pub(super) fn build(&mut self, number: Option<Number>) {
        if self.batch.is_empty() {
            let bytes: usize = self.records.iter().map(GatheredRecords::size_hint).sum();
            let mut builder = BatchBuilder::new(self.gathering.codec, bytes + HEADER_LEN);
            for part in self.records.drain(..) {
                add_traces(&mut self.traces, &part.records, part.trace.as_ref());
                let trace = part.trace.as_deref();
                part.records.iter().for_each(|record| encode(&mut builder, record, part.now, trace));
            }
            self.batch = builder.build(number.map_or(Producer::NONE, producer));
        } else if let Some(number) = number.filter(|number| self.number != Some(*number)) {
            let Producer { id, epoch, base_sequence } = producer(number);
            let mut batch = self.batch.to_vec();
            walser_record_batch::stamp_producer(&mut batch, id, epoch, base_sequence);
            self.batch = batch.into();
        }
        self.number = number;
    }

    /// Builds the batch again with some of its records only; the others belong to callers that have given up.
    pub(super) fn keep(&mut self, kept: &[Range<i64>]) {
        let rebuilt = BatchHeader::parse(&self.batch).ok().and_then(|header| {
            let mut builder = BatchBuilder::new(self.gathering.codec, self.batch.len());
            for (index, record) in (0..).zip(Records::open(header, &self.batch).ok()?) {
                let record = record.ok()?;
                if kept.iter().any(|range| range.contains(&index)) {
                    append(&mut builder, &record);
                }
            }
            Some(builder.build(self.number.map_or(Producer::NONE, producer)))
        });
        self.batch = rebuilt.expect("a batch that was built here can be read");
    }

    /// The batch, for the leader of a partition.
    pub(super) fn append_batch(&self, partition: LedPartition) -> AppendBatch {
        AppendBatch {
            partition,
            record_batch: self.batch.clone(),
            acks: self.gathering.acks,
            expected_offset: self.expected_offset,
            traces: self.traces.clone(),
        }
    }
}

fn append(builder: &mut BatchBuilder, record: &Record) {
    let headers: Vec<(&[u8], Option<&[u8]>)> =
        record.headers.iter().map(|header| (header.key.as_ref(), header.value.as_deref())).collect();
    builder.append(&RecordFields {
        timestamp: record.timestamp,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
    });
}

fn producer(number: Number) -> Producer {
    let Number { session, base_sequence } = number;
    Producer { id: session.id, epoch: session.epoch, base_sequence }
}

impl GatheredRecords {
    /// About how many bytes they become.
    fn size_hint(&self) -> usize {
        let bytes = |field: &Option<Bytes>| field.as_ref().map_or(0, Bytes::len);
        self.records.iter().map(|record| 40 + bytes(&record.key) + bytes(&record.value)).sum()
    }
}

/// What a caller is told.
pub(super) fn told(outcome: Outcome<Written, ApiError>) -> Result<Written, ApiError> {
    match outcome {
        Outcome::Written { answer, first_record } => {
            let base_offset = answer.base_offset.map(|offset| offset.plus(first_record));
            Ok(Written { base_offset, ..answer })
        }
        Outcome::Failed { failure, effect, expired } => Err(failed(failure, effect, expired)),
    }
}

fn failed(failure: Option<ApiError>, effect: Effect, expired: bool) -> ApiError {
    let out_of_time = |text: String| ApiError::new(Reason::RequestTimedOut, text).with("stage", "append");
    match (effect, failure) {
        (Effect::Applied, Some(failure)) => failure,
        (Effect::Maybe, Some(failure)) if !expired && !failure.is_unavailable() => {
            failure.with_effect(walser_rpc::Effect::Maybe)
        }
        (Effect::Maybe, failure) => {
            let why = failure.map(|failure| format!(": {}", failure.message())).unwrap_or_default();
            out_of_time(format!("the write was not answered in time, and may still happen{why}"))
                .with("appended", "unknown")
        }
        (Effect::None, Some(failure)) => {
            let internal =
                matches!(failure.reason(), Reason::NotLeader | Reason::StaleEpoch | Reason::LeaderLostAfterAppend);
            if internal {
                let text = format!("the partition had no leader in time: {}", failure.message());
                return ApiError::new(Reason::LeaderNotAvailable, text);
            }
            failure.with_effect(walser_rpc::Effect::None)
        }
        (Effect::None | Effect::Applied, None) => {
            let text = "the write did not leave in time; nothing is written".to_owned();
            out_of_time(text).with_effect(walser_rpc::Effect::None).with("appended", "false")
        }
    }
}

#[cfg(test)]
mod tests {
    use walser_record_batch::Header;

    use super::*;

    #[test]
    fn a_batch_is_built_again_without_the_records_of_callers_that_gave_up() {
        let header = |key: &'static str| Header { key: key.into(), value: Some("v".into()) };
        let record = |number: i64| NewRecord {
            key: Some(format!("k{number}").into()),
            value: Some(format!("v{number}").into()),
            headers: vec![header("a"), header("a")],
            timestamp: Some(1000 + number),
        };
        let mut caller = Caller {
            write: 1,
            gathering: Gathering { codec: Compression::Zstd, acks: Acks::All },
            records: None,
            leader_room: LeaderRoom::default(),
            room: AppendPermit::uncounted(),
            done: Box::new(|_| {}),
        };
        let mut content = Content::whole(Bytes::new(), Vec::new(), None, &mut caller);
        content.records = vec![GatheredRecords { records: (0..10).map(record).collect(), now: 0, trace: None }];
        content.build(None);
        content.keep(&[1..3, 9..10]);
        let header = BatchHeader::parse(&content.batch).unwrap();
        assert_eq!((header.record_count, header.attributes.codec()), (3, Ok(Compression::Zstd)));
        let left: Vec<_> = Records::open(header, &content.batch).unwrap().map(Result::unwrap).collect();
        let found: Vec<_> = left.iter().map(|record| (record.timestamp, record.value.clone().unwrap())).collect();
        assert_eq!(found, [(1001, "v1".into()), (1002, "v2".into()), (1009, "v9".into())]);
        assert!(left.iter().all(|record| record.headers.len() == 2 && record.key.is_some()));
    }

    #[test]
    fn gatherings_are_told_apart() {
        let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
        let all = codecs.into_iter().flat_map(|codec| {
            [Acks::None, Acks::Leader, Acks::All].into_iter().map(move |acks| Gathering { codec, acks }.tag())
        });
        assert_eq!(all.collect::<std::collections::BTreeSet<_>>().len(), 15);
    }

    #[test]
    fn what_may_be_written_is_not_called_unavailable() {
        let away = ApiError::new(Reason::LeaderNotAvailable, "away");
        let maybe = failed(Some(away.clone()), Effect::Maybe, true);
        assert_eq!((maybe.code(), maybe.effect()), (tonic::Code::DeadlineExceeded, walser_rpc::Effect::Maybe));
        let none = failed(Some(away), Effect::None, true);
        assert_eq!((none.code(), none.effect()), (tonic::Code::Unavailable, walser_rpc::Effect::None));
        let moved = failed(Some(ApiError::new(Reason::NotLeader, "moved")), Effect::None, true);
        assert_eq!(moved.reason(), Reason::LeaderNotAvailable);
        let lost = failed(Some(ApiError::new(Reason::LeaderLostAfterAppend, "lost")), Effect::Maybe, false);
        assert_eq!((lost.reason(), lost.effect()), (Reason::LeaderLostAfterAppend, walser_rpc::Effect::Maybe));
    }
}
