//! Writing: a write of a client is any number of records for one topic, or one batch.
//!
//! A write is split into parts, one per partition and batch. [`Producing::produce`] returns once every part is with its
//! writer, in order; the outcome comes when the last part is answered, at the write's deadline at the latest.

mod admission;
mod batches;
mod outcome;
mod part_plan;
mod producer_ids;
mod writer;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use walser_model::{Acks, Clock, Compression, Offset, Random, TopicId};
use walser_record_batch::{BatchBuilder, DECODED_COST_MAX, HEADER_LEN, NewRecord, Producer, partition_for_key};
use walser_rpc::{ApiError, Reason};
use walser_sequencer::{Numbering, Part, Size};

use crate::metadata::TopicView;
use crate::metrics::GatewayMetrics;
use crate::router::Router;
use crate::topics::Topics;
use crate::within::within;

pub(crate) use self::admission::{Admission, Waiting};
pub(crate) use self::outcome::{Done, Failed, FailedRecords, Outcome, PartWritten, RecordPlace};
pub(crate) use self::producer_ids::ProducerIds;
pub(crate) use self::writer::{GRACE, IN_FLIGHT_MAX, Writers};

use self::admission::{Admitted, out_of_time};
use self::batches::{RecordSize, add_traces, check_records, codec, encode, validate};
use self::outcome::{Collector, Written};
use self::part_plan::PartPlan;
use self::writer::{Caller, GatheredRecords, Gathering, PartitionWriter, Whole};

/// Carries out writes. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Producing {
    pub(crate) topics: Topics,
    pub(crate) router: Router,
    pub(crate) admission: Admission,
    pub(crate) writers: Writers,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) metrics: GatewayMetrics,
    /// Look into compressed batches.
    pub(crate) validate_compressed: bool,
}

/// What is written.
#[derive(Debug)]
pub(crate) enum Payload {
    /// Plain records, which become batches here.
    Records(Vec<NewRecord>),
    /// One batch that the client has built.
    Batch(Bytes),
}

/// A write.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) topic: String,
    pub(crate) partition: Option<i32>,
    pub(crate) payload: Payload,
    pub(crate) acks: Acks,
    pub(crate) compression: Option<Compression>,
    /// The producer session of the client, if it has one.
    pub(crate) session: Option<Producer>,
    pub(crate) expected_offset: Option<Offset>,
    /// The caller's trace, for records that have none.
    pub(crate) trace: Option<Arc<str>>,
    /// On whose behalf a missing topic may be created. `None`: it may not.
    pub(crate) create_for: Option<Arc<walser_service::Caller>>,
    /// The topic to which its stream has written under this name.
    pub(crate) topic_id: Option<TopicId>,
    /// In the gateway's monotonic time. What has not left by then does not leave.
    pub(crate) deadline: Duration,
    pub(crate) waiting: Waiting,
}

/// Writers of one stream or call, for batches that leave by themselves: those of one partition keep their order.
#[derive(Default)]
pub(crate) struct SeparateWriters(HashMap<(TopicId, i32, bool), Arc<PartitionWriter>>);

/// A part that is smaller than the write by this factor does not keep the write's message in memory.
const PINNED_MAX: usize = 4;

/// Why a write that nobody hears of has no sequence: behind one that is lost, all others would be lost without a word.
pub(crate) const NO_SESSION_WITHOUT_ACKS: &str =
    "must not be NONE with a producer session: a batch that is lost would keep all later ones from being written";

/// Writers that a stream keeps; idle ones give way beyond.
const SEPARATE_WRITERS_MAX: usize = 1000;

/// A write whose parts are with their writers. Dropping it gives up what has not left.
pub(crate) struct Submitted {
    number: u64,
    writers: Vec<Arc<PartitionWriter>>,
    /// The answer, where it does not wait for storage: acks NONE.
    pub(crate) queued: Option<Outcome>,
    /// The topic that it goes to.
    pub(crate) topic: TopicId,
}

impl Payload {
    /// The plain records; a batch has none.
    fn records(&self) -> &[NewRecord] {
        match self {
            Self::Records(records) => records,
            Self::Batch(_) => &[],
        }
    }

    fn into_records(self) -> Vec<NewRecord> {
        match self {
            Self::Records(records) => records,
            Self::Batch(_) => Vec::new(),
        }
    }
}

impl Write {
    /// Whether it leaves as it is, or must stay one batch, and gathers with nothing else.
    pub(crate) fn stays_as_it_is(&self) -> bool {
        matches!(self.payload, Payload::Batch(_)) || self.session.is_some() || self.expected_offset.is_some()
    }

    /// Checks what goes with what.
    fn check(&self) -> Result<(), ApiError> {
        let bad = |field: &str, problem: &str| Err(ApiError::field(field, problem));
        if self.partition.is_some_and(|partition| partition < 0) {
            return bad("partition", "must be at least 0");
        }
        if self.partition.is_none() {
            let needs = match self {
                Self { payload: Payload::Batch(_), .. } => Some("is needed with record_batch"),
                Self { session: Some(_), .. } => Some("is needed with a producer session"),
                Self { expected_offset: Some(_), .. } => Some("is needed with expected_offset"),
                _ => None,
            };
            return needs.map_or(Ok(()), |problem| bad("partition", problem));
        }
        if self.session.is_some() && self.acks == Acks::None {
            return bad("acks", NO_SESSION_WITHOUT_ACKS);
        }
        match self.expected_offset {
            Some(offset) if offset < Offset::ZERO => bad("expected_offset", "must be at least 0"),
            _ => Ok(()),
        }
    }
}

// === impl SeparateWriters ===

impl SeparateWriters {
    fn writer(
        &mut self,
        writers: &Writers,
        topic: &Arc<TopicView>,
        partition: i32,
        numbered: bool,
    ) -> Arc<PartitionWriter> {
        if self.0.len() >= SEPARATE_WRITERS_MAX {
            self.0.retain(|_, writer| !writer.is_idle());
        }
        let numbering = if numbered { Numbering::Given } else { Numbering::Without };
        let fresh = || writers.separate(topic, partition, numbering);
        Arc::clone(self.0.entry((topic.id, partition, numbered)).or_insert_with(fresh))
    }
}

// === impl Submitted ===

impl Submitted {
    /// Gives up what has not left; every part is answered now.
    pub(crate) fn abandon(&mut self) {
        for writer in self.writers.drain(..) {
            writer.abandon(self.number);
        }
    }

    /// Every part is answered, or nobody waits for an answer: there is nothing to give up.
    pub(crate) fn complete(&mut self) {
        self.writers.clear();
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// A number for a write, unique in the process.
fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Copies the fields of a record into memory of their own.
fn detach(record: &mut NewRecord) {
    let NewRecord { key, value, headers, .. } = record;
    let headers = headers.iter_mut().flat_map(|header| std::iter::once(&mut header.key).chain(header.value.iter_mut()));
    let fields = key.iter_mut().chain(value.iter_mut()).chain(headers);
    fields.for_each(|field| *field = Bytes::copy_from_slice(field));
}

/// A write whose topic is found.
struct Accepted {
    write: Write,
    topic: Arc<TopicView>,
    /// The topic was created for it.
    created: bool,
    done: Done,
}

impl Producing {
    /// Sends a write on its way. `done` is called with the outcome; an error here means that nothing was sent. With acks
    /// NONE nothing is waited for: `done` may never be called.
    pub(crate) async fn produce(
        &self,
        write: Write,
        separate: &mut SeparateWriters,
        done: Done,
    ) -> Result<Submitted, ApiError> {
        let submitted = self.submit(write, separate, done).await;
        submitted.inspect_err(|failure| self.refused(failure))
    }

    /// Counts a write that was refused before it came here, too.
    pub(crate) fn refused(&self, failure: &ApiError) {
        self.metrics.write_failed(failure);
    }

    async fn submit(&self, write: Write, separate: &mut SeparateWriters, done: Done) -> Result<Submitted, ApiError> {
        write.check()?;
        // The answer is what is returned; nobody hears what comes later. What `done` holds is held until then.
        let done: Done = if write.acks == Acks::None { Box::new(move |_| drop(done)) } else { done };
        let left = write.deadline.saturating_sub(self.clock.monotonic());
        let found = within(left, pin!(self.topic_of(&write))).await;
        let (topic, created) = found.map_err(|_elapsed| out_of_time("topic"))??;
        let accepted = Accepted { write, topic, created, done };
        let Accepted { write, topic, .. } = &accepted;
        let records = match &write.payload {
            Payload::Batch(batch) => {
                let batch = batch.clone();
                return self.produce_batch(accepted, batch, separate).await;
            }
            Payload::Records(records) => records,
        };
        let sizes = check_records(records, &topic.settings.config, self.clock.now_millis())?;
        let plans = self.plan(write.partition, records, topic, &sizes);
        if write.stays_as_it_is() {
            return self.produce_as_one(accepted, separate, plans).await;
        }
        Ok(self.produce_gathered(accepted, plans).await)
    }

    /// Checks the session of a write, and finds its topic, which may be created for it.
    async fn topic_of(&self, write: &Write) -> Result<(Arc<TopicView>, bool), ApiError> {
        if let Some(session) = write.session {
            self.producer_ids.check_issued(session.id).await?;
        }
        let (topic, created) = self.topics.to_write(&write.topic, write.partition, write.create_for.as_deref()).await?;
        if let Some(id) = write.topic_id {
            self.topics.check_id(&topic, id).await?;
        }
        match write.partition {
            Some(partition) => Ok((self.topics.with_partition(topic, partition).await?, created)),
            None => Ok((topic, created)),
        }
    }

    /// Adds plain records to what leaves next for their partitions.
    async fn produce_gathered(&self, accepted: Accepted, plans: Vec<PartPlan>) -> Submitted {
        let Accepted { write, topic, created, done } = accepted;
        let mut records = write.payload.into_records();
        let record_count = records.len();
        let collector = Collector::new(plans.len(), record_count, created, done);
        let gathering = Gathering { codec: codec(write.compression, &topic.settings.config), acks: write.acks };
        let max =
            Size { bytes: topic.settings.config.message_bytes_max.saturating_sub(HEADER_LEN), cost: DECODED_COST_MAX };
        let (now, deadline) = (self.clock.now_millis(), write.deadline);
        let trace = write.trace;
        let whole: usize = plans.iter().map(|plan| plan.size.bytes).sum();
        let mut submitted = Submitted { number: next_number(), writers: Vec::new(), queued: None, topic: topic.id };
        let mut queued = Vec::new();
        for (number, plan) in self.led_first(&topic, plans) {
            let admitted = self.admission.admit(&topic, &plan, (deadline, write.waiting)).await;
            if write.acks == Acks::None {
                let outcome = admitted.as_ref().map(|_| Written::queued()).map_err(Clone::clone);
                queued.push((plan.clone(), outcome));
            }
            let Admitted { room, leader_room } = match admitted {
                Ok(admitted) => admitted,
                Err(failure) => {
                    self.metrics.write_failed(&failure);
                    collector.part_done(number, plan, Err(failure));
                    continue;
                }
            };
            let (partition, count, size) = (plan.partition, plan.record_count, plan.size);
            let mut own = match plan.records.len() == records.len() {
                true => std::mem::take(&mut records),
                false => plan.records.iter().map(|index| std::mem::take(&mut records[*index])).collect(),
            };
            if size.bytes < whole / PINNED_MAX {
                // Its room is that of its own bytes, and it may wait long after the others have left.
                own.iter_mut().for_each(detach);
            }
            let records = Some(GatheredRecords { records: own, now, trace: trace.clone() });
            let collector = Arc::clone(&collector);
            let done = Box::new(move |outcome| collector.part_done(number, plan, outcome));
            let caller = Caller { write: submitted.number, gathering, records, leader_room, room, done };
            let size = Size { bytes: size.bytes, cost: size.cost };
            let writer = self.writers.gathering(&topic, partition);
            writer.gather(Part { record_count: count, size, deadline, caller }, max);
            if write.acks != Acks::None {
                submitted.writers.push(writer);
            }
        }
        submitted.queued = (write.acks == Acks::None).then(|| Outcome::of(queued, record_count, created));
        submitted
    }

    /// Numbers the parts; those whose partition has a leader come first, so that they do not wait with the others. Parts
    /// of one partition keep their order.
    fn led_first(&self, topic: &TopicView, plans: Vec<PartPlan>) -> Vec<(usize, PartPlan)> {
        let mut led: HashMap<i32, bool> = HashMap::new();
        if plans.len() > 1 {
            led.extend(plans.iter().map(|plan| (plan.partition, false)));
            led.iter_mut().for_each(|(partition, led)| *led = self.router.is_led(topic, *partition));
        }
        let mut plans: Vec<_> = plans.into_iter().enumerate().collect();
        plans.sort_by_key(|(_, plan)| led.get(&plan.partition) == Some(&false));
        plans
    }

    /// Chooses partitions, and splits what does not fit one batch.
    fn plan(
        &self,
        partition: Option<i32>,
        records: &[NewRecord],
        topic: &TopicView,
        sizes: &[RecordSize],
    ) -> Vec<PartPlan> {
        let count = topic.value.partition_count;
        // Records without a key stay together: one partition per write, another one for the next.
        let mut sticky = None;
        let mut plans: Vec<PartPlan> = Vec::new();
        // Of the partitions of all plans but the last.
        let mut open: HashMap<i32, usize> = HashMap::new();
        for (index, record) in records.iter().enumerate() {
            let partition = match (partition, &record.key) {
                (Some(partition), _) => partition,
                (None, Some(key)) => partition_for_key(key, count),
                (None, None) => *sticky.get_or_insert_with(|| self.any_partition(topic, count)),
            };
            let last = plans.len().checked_sub(1).filter(|last| plans[*last].partition == partition);
            let number = match last.or_else(|| open.get(&partition).copied()) {
                Some(number) if plans[number].size.plus(sizes[index]).fits(&topic.settings.config) => number,
                _ => {
                    open.extend(plans.last().map(|last| (last.partition, plans.len() - 1)));
                    let size = RecordSize::default();
                    plans.push(PartPlan { partition, records: Vec::new(), record_count: 0, size });
                    plans.len() - 1
                }
            };
            let plan = &mut plans[number];
            plan.records.push(index);
            plan.record_count += 1;
            plan.size = plan.size.plus(sizes[index]);
        }
        plans
    }

    /// A partition for records without a key: one that has a leader, if any has.
    fn any_partition(&self, topic: &TopicView, count: i32) -> i32 {
        if count <= 1 {
            return 0;
        }
        let random = u128::from_be_bytes(self.random.bytes()) % u128::from(count.unsigned_abs());
        let first = i32::try_from(random).expect("the remainder is below the count");
        let turn = (first..count).chain(0..first);
        turn.into_iter().find(|partition| self.router.is_led(topic, *partition)).unwrap_or(first)
    }

    /// Plain records that must become exactly one batch: with a session or an expected offset.
    async fn produce_as_one(
        &self,
        accepted: Accepted,
        separate: &mut SeparateWriters,
        mut plans: Vec<PartPlan>,
    ) -> Result<Submitted, ApiError> {
        let Accepted { write, topic, .. } = &accepted;
        if plans.len() != 1 {
            let max = topic.settings.config.message_bytes_max;
            let text =
                format!("records with a producer session or an expected offset must fit one batch of {max} bytes");
            return Err(ApiError::new(Reason::RecordTooLarge, text).with("maxBytes", max));
        }
        let plan = plans.swap_remove(0);
        let now = self.clock.now_millis();
        let mut builder =
            BatchBuilder::new(codec(write.compression, &topic.settings.config), plan.size.bytes + HEADER_LEN);
        let records = write.payload.records();
        records.iter().for_each(|record| encode(&mut builder, record, now, write.trace.as_deref()));
        let batch = builder.build(write.session.unwrap_or(Producer::NONE));
        self.send_whole(accepted, separate, batch, plan).await
    }

    async fn produce_batch(
        &self,
        accepted: Accepted,
        batch: Bytes,
        separate: &mut SeparateWriters,
    ) -> Result<Submitted, ApiError> {
        let Accepted { write, topic, .. } = &accepted;
        let (deep, numbered) = (self.validate_compressed, write.session.is_some());
        let produced = validate(&batch, &topic.settings.config, deep, numbered, self.clock.now_millis())?;
        if let Some(session) = write.session {
            let header = produced.header;
            let same = header.producer_id == session.id
                && header.producer_epoch == session.epoch
                && header.base_sequence == session.base_sequence;
            if !same {
                let problem = "and base_sequence must be those inside record_batch";
                return Err(ApiError::field("producer", problem));
            }
        }
        let plan = PartPlan {
            partition: write.partition.unwrap_or(0),
            records: Vec::new(),
            record_count: produced.header.record_count,
            size: RecordSize { bytes: produced.batch.len(), cost: 0 },
        };
        self.send_whole(accepted, separate, produced.batch, plan).await
    }

    /// Hands one batch to a writer, which answers `done`.
    async fn send_whole(
        &self,
        accepted: Accepted,
        separate: &mut SeparateWriters,
        batch: Bytes,
        plan: PartPlan,
    ) -> Result<Submitted, ApiError> {
        let Accepted { write, topic, created, done } = accepted;
        let (session, record_count) = (write.session, write.payload.records().len());
        let writer = separate.writer(&self.writers, &topic, plan.partition, session.is_some());
        if session.is_some() && writer.unanswered() >= IN_FLIGHT_MAX {
            let text = format!(
                "{IN_FLIGHT_MAX} batches of the session are unanswered for partition {}; send this one again once one \
                 of them is answered",
                plan.partition
            );
            return Err(ApiError::new(Reason::InFlightLimitExceeded, text).with("maxInFlightBatches", IN_FLIGHT_MAX));
        }
        let Admitted { room, leader_room } =
            self.admission.admit(&topic, &plan, (write.deadline, write.waiting)).await?;
        let queued = (write.acks == Acks::None)
            .then(|| Outcome::of(vec![(plan.clone(), Ok(Written::queued()))], record_count, created));
        let collector = Collector::new(1, record_count, created, done);
        let mut traces = Vec::new();
        add_traces(&mut traces, write.payload.records(), write.trace.as_ref());
        let whole = Whole {
            batch,
            record_count: plan.record_count,
            expected_offset: write.expected_offset,
            base_sequence: session.map(|session| session.base_sequence),
            deadline: write.deadline,
            traces,
        };
        let gathering = Gathering { codec: Compression::None, acks: write.acks };
        let number = next_number();
        let done = Box::new(move |outcome| collector.part_done(0, plan, outcome));
        writer.send_whole(whole, Caller { write: number, gathering, records: None, leader_room, room, done });
        let writers = if write.acks == Acks::None { Vec::new() } else { vec![writer] };
        Ok(Submitted { number, writers, queued, topic: topic.id })
    }
}
