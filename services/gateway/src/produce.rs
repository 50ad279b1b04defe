//! One write of a client: any number of records for one topic, or one batch.
//!
//! A write is split into parts, one per partition and batch. [`Gateway::produce`] returns once every part is on its
//! way, in order; the outcome comes when the last part is answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use walser_model::{Acks, Compression, Offset, ProducerEpoch, ProducerId};
use walser_proto::internal::v1::{AppendStreamRequest, AppendStreamResponse};
use walser_proto::v1 as pb;
use walser_record_batch::{BatchBuilder, BatchHeader, HEADER_LEN, Producer, partition_for_key};
use walser_rpc::{Failure, Reason};
use walser_service::vital;

use crate::Gateway;
use crate::batches::{RecordSize, check_records, codec, encode, validate};
use crate::metadata::TopicView;
use crate::outcome::{Collector, Done, Outcome, Written};
use crate::retry::{Backoff, lost, moved};
use crate::writer::Part;

/// A write.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) topic: String,
    pub(crate) partition: Option<i32>,
    pub(crate) records: Vec<pb::Record>,
    pub(crate) record_batch: Bytes,
    pub(crate) acks: Acks,
    pub(crate) compression: Option<Compression>,
    pub(crate) producer: Option<pb::ProducerIdentity>,
    pub(crate) base_sequence: i32,
    pub(crate) expected_offset: Option<i64>,
    /// The caller's trace, for records that have none.
    pub(crate) trace: Option<String>,
    /// A missing topic may be created for it.
    pub(crate) create: bool,
}

/// Which records of a write make a part.
#[derive(Debug, Clone)]
pub(crate) struct PartPlan {
    pub(crate) partition: i32,
    /// Indexes into the write's records; empty for a batch.
    pub(crate) records: Vec<usize>,
    pub(crate) record_count: i32,
    size: RecordSize,
}

impl Write {
    /// The session, checked. `None`: the write has none.
    fn session(&self) -> Result<Option<Producer>, Failure> {
        let Some(identity) = &self.producer else { return Ok(None) };
        let bad = |field: &str, problem: &str| Err(Failure::field(field, problem));
        if self.partition.is_none() {
            return bad("partition", "is needed with a producer session");
        }
        if self.base_sequence < 0 {
            return bad("base_sequence", "must be at least 0");
        }
        if identity.producer_id < 0 {
            return bad("producer.producer_id", "must come from InitProducer");
        }
        let Ok(epoch) = i16::try_from(identity.producer_epoch) else {
            return bad("producer.producer_epoch", "must come from InitProducer");
        };
        if epoch < 0 {
            return bad("producer.producer_epoch", "must come from InitProducer");
        }
        let (id, epoch) = (ProducerId(identity.producer_id), ProducerEpoch(epoch));
        Ok(Some(Producer { id, epoch, base_sequence: self.base_sequence }))
    }

    fn check_shape(&self) -> Result<(), Failure> {
        if self.records.is_empty() == self.record_batch.is_empty() {
            let what = if self.records.is_empty() { "neither" } else { "both" };
            let text = format!("{what} of records and record_batch are set; set exactly one");
            return Err(Failure::new(Reason::PayloadAmbiguous, text));
        }
        if !self.record_batch.is_empty() && self.partition.is_none() {
            return Err(Failure::field("partition", "is needed with record_batch"));
        }
        if self.partition.is_some_and(|partition| partition < 0) {
            return Err(Failure::field("partition", "must be at least 0"));
        }
        match self.expected_offset {
            Some(_) if self.partition.is_none() => Err(Failure::field("partition", "is needed with expected_offset")),
            Some(offset) if offset < 0 => Err(Failure::field("expected_offset", "must be at least 0")),
            _ => Ok(()),
        }
    }
}

impl PartPlan {
    /// A part of `records`, without their size.
    #[cfg(test)]
    pub(crate) fn of(partition: i32, records: impl IntoIterator<Item = usize>) -> Self {
        let records: Vec<usize> = records.into_iter().collect();
        let record_count = i32::try_from(records.len()).unwrap();
        Self { partition, records, record_count, size: RecordSize::default() }
    }
}

/// The answer that does not wait for storage, if the write wants none.
fn queued(write: &Write, plans: &[PartPlan], created: bool) -> Option<Outcome> {
    (write.acks == Acks::None).then(|| Outcome::queued(plans, created))
}

impl Gateway {
    /// Sends a write on its way. `done` is called with the outcome; an error here means that nothing was sent. With acks
    /// NONE nothing is waited for: what is returned is the answer.
    pub(crate) async fn produce(&self, write: Write, done: Done) -> Result<Option<Outcome>, Failure> {
        write.check_shape()?;
        let session = write.session()?;
        if let Some(session) = session {
            self.check_foreign(session.id)?;
        }
        let (topic, created) = self.topic_to_write(&write.topic, write.partition, write.create).await?;
        let topic = match write.partition {
            Some(partition) => self.topic_with(topic, partition).await?,
            None => topic,
        };
        if !write.record_batch.is_empty() {
            return self.produce_batch(write, topic, created, done).await;
        }
        let now = self.clock.now_millis();
        let sizes = check_records(&write.records, &topic.config, now)?;
        let plans = self.plan(&write, &topic, &sizes);
        if session.is_some() || write.expected_offset.is_some() {
            return self.produce_as_one(write, session, topic, created, plans, done).await;
        }
        let answer = queued(&write, &plans, created);
        let collector = Collector::new(plans.len(), write.records.len(), created, done);
        let codec = codec(write.compression, &topic.config);
        for (number, plan) in plans.into_iter().enumerate() {
            let permit = match self.route(&topic, plan.partition) {
                Ok(route) => route.link.admit(&route.reference, plan.size.bytes).await,
                Err(_) => walser_rpc::AppendPermit::uncounted(),
            };
            let collector = Arc::clone(&collector);
            let (partition, size, record_count) = (plan.partition, plan.size, plan.record_count);
            let indexes = plan.records.clone();
            let (records, trace) = (&write.records, write.trace.as_deref());
            let encode_all = |builder: &mut BatchBuilder| {
                for index in indexes {
                    encode(builder, &records[index], now, trace);
                }
            };
            let done = Box::new(move |outcome: Result<AppendStreamResponse, Failure>| {
                collector.part_done(number, plan, outcome.map(Written::from));
            });
            let part = Part { record_count, permit, done };
            self.gather(&topic, partition, (codec, write.acks), size, encode_all, part);
        }
        Ok(answer)
    }

    /// The gateway's own sessions are not for clients. Other ids are not looked up, as in Kafka: batches of a producer
    /// that was set up elsewhere can be carried over.
    fn check_foreign(&self, id: ProducerId) -> Result<(), Failure> {
        if self.producer_ids.is_own(id) {
            return Err(Failure::field("producer.producer_id", "belongs to the server; take one from InitProducer"));
        }
        Ok(())
    }

    /// Chooses partitions, and splits what does not fit one batch.
    fn plan(&self, write: &Write, topic: &TopicView, sizes: &[RecordSize]) -> Vec<PartPlan> {
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        // Records without a key stay together: one partition per write, another one for the next.
        let mut sticky = None;
        let mut plans: Vec<PartPlan> = Vec::new();
        let mut open: std::collections::HashMap<i32, usize> = std::collections::HashMap::new();
        for (index, record) in write.records.iter().enumerate() {
            let partition = match (write.partition, &record.key) {
                (Some(partition), _) => partition,
                (None, Some(key)) => partition_for_key(key, count),
                (None, None) => *sticky.get_or_insert_with(|| self.any_partition(count)),
            };
            let number = match open.get(&partition) {
                Some(number) if plans[*number].size.plus(sizes[index]).fits(&topic.config) => *number,
                _ => {
                    let size = RecordSize::default();
                    plans.push(PartPlan { partition, records: Vec::new(), record_count: 0, size });
                    open.insert(partition, plans.len() - 1);
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

    fn any_partition(&self, count: i32) -> i32 {
        if count <= 1 {
            return 0;
        }
        let random = u128::from_be_bytes(self.random.bytes()) % u128::from(count.unsigned_abs());
        i32::try_from(random).expect("the remainder is below the count")
    }

    /// Plain records that must become exactly one batch: with a session or an expected offset.
    async fn produce_as_one(
        &self,
        write: Write,
        session: Option<Producer>,
        topic: Arc<TopicView>,
        created: bool,
        mut plans: Vec<PartPlan>,
        done: Done,
    ) -> Result<Option<Outcome>, Failure> {
        if plans.len() != 1 {
            let max = topic.config.message_bytes_max;
            let text =
                format!("records with a producer session or an expected offset must fit one batch of {max} bytes");
            return Err(Failure::new(Reason::RecordTooLarge, text).with("maxBytes", max));
        }
        let plan = plans.swap_remove(0);
        let now = self.clock.now_millis();
        let mut builder = BatchBuilder::new(codec(write.compression, &topic.config), plan.size.bytes + HEADER_LEN);
        for record in &write.records {
            encode(&mut builder, record, now, write.trace.as_deref());
        }
        let batch = builder.build(session.unwrap_or(Producer::NONE));
        self.append(&topic, batch, plan, &write, created, done).await
    }

    async fn produce_batch(
        &self,
        mut write: Write,
        topic: Arc<TopicView>,
        created: bool,
        done: Done,
    ) -> Result<Option<Outcome>, Failure> {
        let batch = std::mem::take(&mut write.record_batch);
        let (deep, session) = (self.config.validate_compressed, write.session()?);
        let produced = validate(&batch, &topic.config, deep, session.is_some(), self.clock.now_millis())?;
        let batch = produced.batch;
        if let Some(session) = session {
            let header = produced.header;
            let same = header.producer_id == session.id
                && header.producer_epoch == session.epoch
                && header.base_sequence == session.base_sequence;
            if !same {
                let problem = "and base_sequence must be those inside record_batch";
                return Err(Failure::field("producer", problem));
            }
        }
        let plan = PartPlan {
            partition: write.partition.unwrap_or(0),
            records: Vec::new(),
            record_count: produced.header.record_count,
            size: RecordSize { bytes: batch.len(), cost: 0 },
        };
        self.append(&topic, batch, plan, &write, created, done).await
    }

    /// Hands one batch to the leader, which answers `done`.
    async fn append(
        &self,
        topic: &Arc<TopicView>,
        batch: Bytes,
        plan: PartPlan,
        write: &Write,
        created: bool,
        done: Done,
    ) -> Result<Option<Outcome>, Failure> {
        let answer = queued(write, std::slice::from_ref(&plan), created);
        let collector = Collector::new(1, write.records.len(), created, done);
        let idempotent = BatchHeader::parse(&batch).is_ok_and(|header| header.producer_id.is_some());
        let attempt = Attempt {
            topic: Arc::clone(topic),
            batch,
            plan,
            acks: write.acks,
            expected_offset: write.expected_offset.map(Offset),
            until: self.clock.monotonic() + self.config.produce_timeout,
            collector,
            backoff: Backoff::default(),
            idempotent,
        };
        let route = self.route(&attempt.topic, attempt.plan.partition)?;
        let permit = route.link.admit(&route.reference, attempt.batch.len()).await;
        self.attempt(attempt, permit);
        Ok(answer)
    }

    fn attempt(&self, mut attempt: Attempt, permit: walser_rpc::AppendPermit) {
        let route = match self.route(&attempt.topic, attempt.plan.partition) {
            Ok(route) => route,
            Err(failure) => return attempt.collector.part_done(0, attempt.plan, Err(failure)),
        };
        let request = AppendStreamRequest {
            correlation_id: 0,
            r#ref: Some(route.reference),
            record_batch: attempt.batch.clone(),
            acks: pb::Acks::from(attempt.acks).into(),
            expected_offset: attempt.expected_offset.map(|offset| offset.0),
        };
        let (gateway, start) = (self.clone(), self.clock.monotonic());
        let reply = move |answer: AppendStreamResponse| {
            let outcome = match answer.error {
                Some(error) => Err(Failure::from(error)),
                None => Ok(answer),
            };
            match outcome {
                // Nothing was applied, or the leader will recognise the repetition.
                Err(failure)
                    if (moved(&failure) || attempt.idempotent && lost(&failure))
                        && gateway.clock.monotonic() < attempt.until =>
                {
                    let runtime = gateway.runtime().clone();
                    runtime.spawn(vital::must_not_panic("writer", async move {
                        attempt.backoff.pause().await;
                        gateway.attempt(attempt, walser_rpc::AppendPermit::uncounted());
                    }));
                }
                outcome => {
                    let elapsed = gateway.clock.monotonic().saturating_sub(start);
                    match &outcome {
                        Ok(_) => {
                            let records = i64::from(attempt.plan.record_count);
                            gateway.metrics.written(records, attempt.batch.len(), elapsed);
                        }
                        Err(_) => gateway.metrics.write_failed(),
                    }
                    attempt.collector.part_done(0, attempt.plan, outcome.map(Written::from));
                }
            }
        };
        route.link.append(permit, request, Box::new(reply));
    }
}

/// One batch on its way.
struct Attempt {
    topic: Arc<TopicView>,
    batch: Bytes,
    plan: PartPlan,
    acks: Acks,
    expected_offset: Option<Offset>,
    until: Duration,
    collector: Arc<Collector>,
    backoff: Backoff,
    /// It carries a producer sequence.
    idempotent: bool,
}
