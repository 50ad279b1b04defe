//! Gathering plain records: small writes to one partition leave as one batch while others are on their way.
//!
//! Each partition has a writer. At most [`IN_FLIGHT_MAX`] of its batches are unanswered; what comes in meanwhile
//! gathers, without any waiting window. Batches carry the gateway's producer id with sequences of the partition, so
//! that an attempt can be repeated without writing twice. When a batch fails for good, the writer waits for the
//! others, takes a new producer epoch and sends those again that were only refused because of the gap.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_model::{Acks, Compression, PartitionIndex, ProducerEpoch, ProducerId, TopicPartition};
use walser_proto::internal::v1::{AppendStreamRequest, AppendStreamResponse};
use walser_proto::v1 as pb;
use walser_record_batch::{BatchBuilder, HEADER_LEN, Producer};
use walser_rpc::{AppendPermit, Failure, Reason};
use walser_service::vital;

use crate::Gateway;
use crate::batches::RecordSize;
use crate::metadata::TopicView;
use crate::retry::{Backoff, lost};

/// As many batches as a leader remembers per producer.
pub(crate) const IN_FLIGHT_MAX: usize = 5;
/// Writers that are remembered; idle ones give way beyond.
const WRITERS_MAX: usize = 100_000;

/// Told when a part of a call is written: the offset of its first record and the answer of the leader.
pub(crate) type PartDone = Box<dyn FnOnce(Result<AppendStreamResponse, Failure>) + Send>;

/// Some records of one call for one partition.
pub(crate) struct Part {
    pub(crate) record_count: i32,
    pub(crate) permit: AppendPermit,
    pub(crate) done: PartDone,
}

/// Records that leave as one batch.
struct Group {
    codec: Compression,
    acks: Acks,
    builder: BatchBuilder,
    parts: Vec<Part>,
}

/// A batch that was sent, kept until it is answered.
struct Sent {
    batch: bytes::Bytes,
    acks: Acks,
    parts: Vec<Part>,
    record_count: i32,
    attempts_until: Duration,
}

#[derive(Default)]
struct State {
    producer: Option<(ProducerId, ProducerEpoch)>,
    next_sequence: i32,
    waiting: VecDeque<Group>,
    in_flight: usize,
    /// A batch failed: nothing is sent until all are answered.
    broken: bool,
    /// Somebody else writes with this producer id: only a new one helps.
    fenced: bool,
    /// To be sent again, in the order of their sequences.
    again: Vec<(i32, Sent)>,
    backoff: Backoff,
    pumping: bool,
}

/// The writer of one partition.
struct Writer {
    topic: Arc<TopicView>,
    partition: i32,
    state: Mutex<State>,
}

/// All writers. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Writers {
    by_partition: Arc<Mutex<HashMap<TopicPartition, Arc<Writer>>>>,
}

impl std::fmt::Debug for Writers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writers").field("count", &self.by_partition.lock().len()).finish()
    }
}

/// The sequence after `count` more records.
fn advance(sequence: i32, count: i32) -> i32 {
    let next = (i64::from(sequence) + i64::from(count)) % (i64::from(i32::MAX) + 1);
    i32::try_from(next).expect("the remainder is in range")
}

impl Writers {
    fn writer(&self, topic: &Arc<TopicView>, partition: i32) -> Arc<Writer> {
        let id = TopicPartition::new(topic.id, PartitionIndex(partition));
        let mut writers = self.by_partition.lock();
        if writers.len() >= WRITERS_MAX && !writers.contains_key(&id) {
            writers.retain(|_, writer| !writer.idle());
        }
        let fresh = || Arc::new(Writer { topic: Arc::clone(topic), partition, state: Mutex::default() });
        Arc::clone(writers.entry(id).or_insert_with(fresh))
    }
}

impl State {
    /// Whether every batch is answered, some of them have to be sent again or numbered anew, and nobody is at it.
    fn repair_due(&self) -> bool {
        !self.pumping && self.in_flight == 0 && (self.broken || !self.again.is_empty())
    }
}

impl Writer {
    fn idle(&self) -> bool {
        let state = self.state.lock();
        state.in_flight == 0 && state.waiting.is_empty() && state.again.is_empty()
    }
}

impl Gateway {
    /// Adds records of one call to what leaves next for a partition. They are encoded here, in order.
    pub(crate) fn gather(
        &self,
        topic: &Arc<TopicView>,
        partition: i32,
        (codec, acks): (Compression, Acks),
        size: RecordSize,
        encode: impl FnOnce(&mut BatchBuilder),
        part: Part,
    ) {
        let writer = self.writers.writer(topic, partition);
        {
            let mut state = writer.state.lock();
            let fits = |group: &Group| {
                let gathered = group.builder.uncompressed_len() - HEADER_LEN;
                let gathered = RecordSize { bytes: gathered, cost: group.builder.decoded_cost() };
                group.codec == codec && group.acks == acks && gathered.plus(size).fits(&topic.config)
            };
            if !state.waiting.back().is_some_and(fits) {
                let builder = BatchBuilder::new(codec, size.bytes + HEADER_LEN);
                state.waiting.push_back(Group { codec, acks, builder, parts: Vec::with_capacity(1) });
            }
            let group = state.waiting.back_mut().expect("a group was just added");
            encode(&mut group.builder);
            group.parts.push(part);
        }
        self.pump(&writer);
    }

    /// Sends what may leave now. One caller at a time sends, so that batches reach the shard in the order of their
    /// sequences; what others add meanwhile is seen by the one that sends.
    fn pump(&self, writer: &Arc<Writer>) {
        if std::mem::replace(&mut writer.state.lock().pumping, true) {
            return;
        }
        while let Some((sequence, sent)) = self.next_batch(writer) {
            self.send(writer, sequence, sent);
        }
        // An answer that came while this pump ran left the repair to it.
        if writer.state.lock().repair_due() {
            let (gateway, writer) = (self.clone(), Arc::clone(writer));
            self.runtime().spawn(vital::must_not_panic("writer", async move { gateway.go_on(&writer).await }));
        }
    }

    /// The next batch that may leave; `None` ends the pump.
    fn next_batch(&self, writer: &Arc<Writer>) -> Option<(i32, Sent)> {
        let mut state = writer.state.lock();
        let blocked = state.in_flight >= IN_FLIGHT_MAX || state.broken || !state.again.is_empty();
        if blocked || state.waiting.is_empty() {
            state.pumping = false;
            return None;
        }
        let Some((id, epoch)) = state.producer else {
            // The pump goes on when there is an id.
            drop(state);
            self.clone().start_session(Arc::clone(writer));
            return None;
        };
        let group = state.waiting.pop_front()?;
        let (base_sequence, record_count) = (state.next_sequence, group.builder.record_count());
        state.next_sequence = advance(base_sequence, record_count);
        state.in_flight += 1;
        drop(state);
        let batch = group.builder.build(Producer { id, epoch, base_sequence });
        let attempts_until = self.clock.monotonic() + self.config.produce_timeout;
        Some((base_sequence, Sent { batch, acks: group.acks, parts: group.parts, record_count, attempts_until }))
    }

    /// Takes a producer id for a writer that has none, then goes on.
    fn start_session(self, writer: Arc<Writer>) {
        self.runtime().clone().spawn(vital::must_not_panic("writer", async move {
            let id = self.producer_ids.next_own().await;
            let mut failed = VecDeque::new();
            {
                let mut state = writer.state.lock();
                state.pumping = false;
                match &id {
                    Ok(id) => state.producer = Some((*id, ProducerEpoch(0))),
                    Err(_) => failed = std::mem::take(&mut state.waiting),
                }
                state.next_sequence = 0;
            }
            if let Err(failure) = id {
                for part in failed.into_iter().flat_map(|group| group.parts) {
                    (part.done)(Err(failure.clone()));
                }
                return;
            }
            self.pump(&writer);
        }));
    }

    fn send(&self, writer: &Arc<Writer>, sequence: i32, mut sent: Sent) {
        // The room of all parts travels with the batch, and is free again when the storage node says so.
        let mut permit = AppendPermit::uncounted();
        for part in &mut sent.parts {
            permit.join(std::mem::take(&mut part.permit));
        }
        let route = match self.route(&writer.topic, writer.partition) {
            Ok(route) => route,
            Err(failure) => return self.answered(writer, sequence, sent, Err(failure)),
        };
        let request = AppendStreamRequest {
            correlation_id: i64::from(sequence),
            r#ref: Some(route.reference),
            record_batch: sent.batch.clone(),
            acks: pb::Acks::from(sent.acks).into(),
            expected_offset: None,
        };
        let (gateway, writer) = (self.clone(), Arc::clone(writer));
        let reply = move |answer: AppendStreamResponse| {
            let outcome = match answer.error {
                Some(error) => Err(Failure::from(error)),
                None => Ok(answer),
            };
            gateway.answered(&writer, sequence, sent, outcome);
        };
        route.link.append(permit, request, Box::new(reply));
    }

    /// Takes the answer of a batch. Runs on the log shard's thread: whatever takes time goes elsewhere.
    fn answered(
        &self,
        writer: &Arc<Writer>,
        sequence: i32,
        sent: Sent,
        outcome: Result<AppendStreamResponse, Failure>,
    ) {
        let mut told = None;
        let more = {
            let mut state = writer.state.lock();
            state.in_flight -= 1;
            match &outcome {
                Err(failure)
                    if self.clock.monotonic() < sent.attempts_until
                        && repeatable(failure, state.broken || !state.again.is_empty()) =>
                {
                    // Behind a failed batch only the gap was refused; otherwise the leader has moved.
                    state.broken |= failure.reason() == Reason::UnknownProducer;
                    let at = state.again.partition_point(|(other, _)| *other < sequence);
                    state.again.insert(at, (sequence, sent));
                }
                Err(failure) => {
                    state.broken = true;
                    state.fenced |= failure.reason() == Reason::ProducerFenced;
                    told = Some(sent);
                }
                Ok(_) => {
                    state.backoff = Backoff::default();
                    told = Some(sent);
                }
            }
            !state.waiting.is_empty() || !state.again.is_empty() || (state.broken && state.in_flight == 0)
        };
        if let Some(sent) = told {
            self.tell(sent, &outcome);
        }
        if more {
            let (gateway, writer) = (self.clone(), Arc::clone(writer));
            self.runtime().spawn(vital::must_not_panic("writer", async move { gateway.go_on(&writer).await }));
        }
    }

    /// Tells every part of a batch where its records are.
    fn tell(&self, sent: Sent, outcome: &Result<AppendStreamResponse, Failure>) {
        match outcome {
            Ok(_) => self.metrics.written(i64::from(sent.record_count), sent.batch.len(), Duration::ZERO),
            Err(_) => self.metrics.write_failed(),
        }
        let mut first = 0;
        for part in sent.parts {
            let outcome = outcome
                .clone()
                .map(|answer| AppendStreamResponse { base_offset: answer.base_offset + first, ..answer });
            first += i64::from(part.record_count);
            (part.done)(outcome);
        }
    }

    /// Repairs the sequence when it is broken, sends again what has to be, and then what waits.
    async fn go_on(&self, writer: &Arc<Writer>) {
        let repair = {
            let mut state = writer.state.lock();
            let due = state.repair_due();
            state.pumping |= due;
            due
        };
        if repair {
            self.repeat(writer).await;
        }
        self.pump(writer);
    }

    /// A producer id, however long the controller takes: without one nothing can be written anyway.
    async fn new_id(&self) -> ProducerId {
        let mut backoff = Backoff::default();
        loop {
            match self.producer_ids.next_own().await {
                Ok(id) => return id,
                Err(error) => tracing::warn!(%error, "no producer id yet"),
            }
            backoff.pause().await;
        }
    }

    async fn repeat(&self, writer: &Arc<Writer>) {
        let renew = writer.state.lock().broken;
        let mut backoff = writer.state.lock().backoff;
        if !writer.state.lock().again.is_empty() {
            backoff.pause().await;
        }
        let spent = {
            let state = writer.state.lock();
            state.fenced || state.producer.is_none_or(|(_, epoch)| epoch.0 == i16::MAX)
        };
        let fresh = if renew && spent { Some(self.new_id().await) } else { None };
        let mut batches = Vec::new();
        {
            let mut state = writer.state.lock();
            let again = std::mem::take(&mut state.again);
            state.backoff = backoff;
            if renew {
                state.producer = match (fresh, state.producer) {
                    (Some(id), _) => Some((id, ProducerEpoch(0))),
                    (None, Some((id, epoch))) => Some((id, ProducerEpoch(epoch.0.saturating_add(1)))),
                    (None, None) => None,
                };
                state.next_sequence = 0;
                (state.broken, state.fenced) = (false, false);
            }
            for (sequence, mut sent) in again {
                let mut base_sequence = sequence;
                if renew && let Some((id, epoch)) = state.producer {
                    base_sequence = state.next_sequence;
                    state.next_sequence = advance(base_sequence, sent.record_count);
                    let mut batch = sent.batch.to_vec();
                    walser_record_batch::stamp_producer(&mut batch, id, epoch, base_sequence);
                    sent.batch = batch.into();
                }
                state.in_flight += 1;
                batches.push((base_sequence, sent));
            }
        }
        for (sequence, sent) in batches {
            self.send(writer, sequence, sent);
        }
        writer.state.lock().pumping = false;
    }
}

/// Whether a failed batch is sent again without telling anybody.
fn repeatable(failure: &Failure, broken: bool) -> bool {
    let only_the_gap = broken && failure.reason() == Reason::SequenceOutOfOrder;
    lost(failure) || only_the_gap || failure.reason() == Reason::UnknownProducer
}
