//! Records on their way into one topic: batches that fill, batches that are not answered, and what became of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use walser_client::{ApiError, Client, Delivered, Delivery, Producer, ProducerConfig, Reason};
use walser_model::TopicConfig;
use walser_proto::v1 as pb;
use walser_record_batch::{BatchBuilder, HEADER_LEN, RecordFields, partition_for_key};
use walser_service::telemetry::{self, TRACEPARENT};

use super::tally::Tally;
use super::{Stop, now_ms, obstacle};
use crate::cli::ProduceArgs;
use crate::output;
use crate::records::NewRecord;
use crate::server::Server;
use crate::signal::{Interrupt, Interrupts};

/// A batch is sent when it has so many bytes.
const BATCH_BYTES: usize = 256 << 10;
/// Bytes on their way at once.
const BUFFER_BYTES: usize = 16 << 20;
/// Bytes of batches that are not full, over all partitions: above, they are sent as they are.
const OPEN_BYTES_MAX: usize = 32 << 20;
/// With so many partitions at most, the room of a batch is taken when it begins; else it grows.
const FEW_PARTITIONS: i32 = 16;
/// The same warning is given again after this time at the earliest.
const WARN_PAUSE: Duration = Duration::from_secs(10);
/// Without an acknowledgement for so long it is said what is in the way.
const SILENT_MAX: Duration = Duration::from_secs(3);
/// Batches whose outcome is waited for at once.
const DELIVERIES_MAX: usize = 256;
/// After an interrupt, answers are waited for so long.
const GRACE: Duration = Duration::from_secs(5);

/// Wait before the topic is looked for again.
const CONNECT_RETRY: Duration = Duration::from_millis(200);

/// A batch that is being filled.
struct Open {
    builder: BatchBuilder,
    /// Number of its first record in the input, from 1.
    first: i64,
}

/// A batch that is not answered yet.
struct Sent {
    partition: i32,
    count: i64,
    first: i64,
    delivery: Delivery,
    /// What became of it, once that is known.
    outcome: Option<Result<Delivered, ApiError>>,
}

impl Sent {
    /// Waits for what becomes of it.
    async fn answered(&mut self) {
        if self.outcome.is_none() {
            self.outcome = Some((&mut self.delivery).await);
        }
    }
}

/// Records on their way into one topic.
pub(super) struct Sink {
    server: Server,
    arguments: ProduceArgs,
    producer: Option<Producer>,
    partition_count: i32,
    batch_bytes: usize,
    open: HashMap<i32, Open>,
    deliveries: VecDeque<Sent>,
    /// Where records without a key go until the next batch of them.
    sticky: i32,
    pub(super) tally: Tally,
    pub(super) bytes: i64,
    /// Bytes of batches that are not full.
    open_bytes: usize,
    /// What kept a batch from being acknowledged in time, where the failure itself does not say.
    pub(super) obstacle: Option<String>,
    /// Which records of the input the first failure is about.
    pub(super) failed: Option<String>,
    /// The trace of this command, for records that have none.
    trace: Option<Arc<str>>,
    /// Print where each record landed.
    tell: bool,
    /// It was said what acknowledgements are waited for.
    waiting_told: bool,
    interrupts: Interrupts,
}

impl Sink {
    pub(super) fn new(server: Server, arguments: ProduceArgs, tell: bool, interrupts: Interrupts) -> Self {
        let tally = Tally { skipped: i64::try_from(arguments.skip).unwrap_or(i64::MAX), ..Tally::default() };
        Self {
            server,
            arguments,
            producer: None,
            partition_count: 0,
            batch_bytes: BATCH_BYTES,
            open: HashMap::new(),
            deliveries: VecDeque::new(),
            sticky: 0,
            tally,
            bytes: 0,
            open_bytes: 0,
            obstacle: None,
            failed: None,
            trace: telemetry::sampled_here().map(Arc::from),
            tell,
            waiting_told: false,
            interrupts,
        }
    }

    pub(super) fn topic(&self) -> String {
        self.arguments.topic.clone()
    }

    /// Whether it has reached its topic.
    pub(super) fn is_connected(&self) -> bool {
        self.producer.is_some()
    }

    pub(super) async fn add(&mut self, record: NewRecord) -> Result<(), Stop> {
        if self.producer.is_none() {
            let mut interrupts = self.interrupts.clone();
            tokio::select! {
                connected = self.connect_with_patience() => connected?,
                interrupt = interrupts.next() => return Err(Stop::Interrupted(interrupt)),
            }
        }
        self.tally.read += 1;
        let number = self.tally.read;
        let partition = match self.partition(&record) {
            Ok(partition) => partition,
            Err(failure) => {
                self.tally.missing(number);
                self.failed = Some(numbered(self.tally.skipped + number, 1));
                return Err(Stop::Record(failure));
            }
        };
        let own = record.headers.iter().map(|(name, value)| (name.as_slice(), value.as_deref()));
        let mut headers: Vec<_> = own.collect();
        let trace = self.trace.clone();
        if let Some(trace) = &trace
            && headers.iter().all(|(name, _)| *name != TRACEPARENT.as_bytes())
        {
            headers.push((TRACEPARENT.as_bytes(), Some(trace.as_bytes())));
        }
        let timestamp = record.timestamp.unwrap_or_else(now_ms);
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let fields = RecordFields { timestamp, key, value, headers: &headers };
        let size = fields.encoded_len_max();
        let full =
            self.open.get(&partition).is_some_and(|open| open.builder.uncompressed_len() + size > self.batch_bytes);
        if full && let Err(stop) = self.send(partition).await {
            self.tally.missing(number);
            return Err(stop);
        }
        let few = !self.tell && self.partition_count <= FEW_PARTITIONS;
        let capacity = if few { self.batch_bytes.min(BATCH_BYTES) + 1024 } else { 256 };
        let codec = self.arguments.compression;
        let before = self.open.get(&partition).map_or(0, |open| open.builder.uncompressed_len());
        let fresh = || Open { builder: BatchBuilder::new(codec, capacity), first: number };
        let builder = &mut self.open.entry(partition).or_insert_with(fresh).builder;
        builder.append(&fields);
        self.bytes += i64::try_from(value.map_or(0, <[u8]>::len)).unwrap_or(0);
        // By what the batch has grown, as it is taken off again: a bound of the record's size would add up.
        self.open_bytes += builder.uncompressed_len() - before;
        if builder.uncompressed_len() >= self.batch_bytes {
            self.send(partition).await?;
        } else if self.open_bytes > OPEN_BYTES_MAX {
            self.send_all().await?;
        }
        Ok(())
    }

    fn partition(&self, record: &NewRecord) -> Result<i32, ApiError> {
        let partition = match (record.partition.or(self.arguments.partition), &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => return Ok(partition_for_key(key, self.partition_count)),
            (None, None) => return Ok(self.sticky),
        };
        if (0..self.partition_count).contains(&partition) {
            return Ok(partition);
        }
        let (name, count) = (&self.arguments.topic, self.partition_count);
        let text = format!("topic \"{name}\" has no partition {partition}, it has {count} (from 0)");
        Err(ApiError::new(Reason::PartitionNotFound, text).with("topic", name))
    }

    /// Whether waiting may help. A server that never answers may be another one than was meant: only who says how long waits.
    fn may_pass(&self, failure: &ApiError) -> bool {
        if failure.answered() { failure.is_transient() } else { self.arguments.timeout.is_some() }
    }

    /// Connects, and tries again for as long as a write would be tried again, while what is wrong may pass.
    async fn connect_with_patience(&mut self) -> Result<(), Stop> {
        let patience = Duration::from_secs(self.arguments.patience());
        let begun = tokio::time::Instant::now();
        let mut last: Option<ApiError> = None;
        loop {
            let left = patience.saturating_sub(begun.elapsed());
            let failure = match tokio::time::timeout(left, self.connect()).await {
                Ok(Err(Stop::Server(failure))) if self.may_pass(&failure) && begun.elapsed() < patience => failure,
                Ok(other) => return other,
                Err(_elapsed) => {
                    // What the server said last, where it did.
                    if let Some(last) = last {
                        return Err(last.into());
                    }
                    let text = format!("the server does not answer within {} s", self.arguments.patience());
                    return Err(ApiError::new(Reason::RequestTimedOut, text).with_effect(pb::Effect::None).into());
                }
            };
            if last.is_none() {
                let (text, reason, seconds) = (failure.message(), failure.reason_name(), self.arguments.patience());
                output::warning(&format!("{text} ({reason}); retrying for up to {seconds} s"));
            }
            last = Some(failure);
            tokio::time::sleep(CONNECT_RETRY).await;
        }
    }

    /// Finds the topic, creating it where the server does that, and starts the producer.
    async fn connect(&mut self) -> Result<(), Stop> {
        let name = self.arguments.topic.clone();
        let mut topics = self.server.client.topics();
        let found = topics.get_topic(pb::GetTopicRequest { name: name.clone() }).await.map_err(ApiError::from);
        let topic = match found {
            Ok(found) => found.into_inner().topic,
            Err(failure) if failure.reason() == Reason::TopicNotFound => Some(self.create(&name, failure).await?),
            Err(failure) => return Err(failure.into()),
        };
        let topic = topic.ok_or_else(|| ApiError::internal("the server gave no topic"))?;
        self.partition_count = topic.partition_count;
        self.partition(&NewRecord { partition: self.arguments.partition, ..NewRecord::default() })?;
        let limit = topic.config.get("max.message.bytes").and_then(|text| text.parse::<usize>().ok());
        let limit = limit.unwrap_or_else(|| TopicConfig::default().message_bytes_max);
        self.batch_bytes = BATCH_BYTES.min(limit).saturating_sub(HEADER_LEN).max(1);
        let config = ProducerConfig {
            topic: name,
            acks: self.arguments.acks,
            delivery_timeout: Duration::from_secs(self.arguments.patience()),
            buffer_bytes: BUFFER_BYTES,
        };
        let producer = Producer::start(&self.server.client, config).await?;
        tokio::spawn(tell_trouble(self.server.address.clone(), producer.trouble(), self.arguments.patience()));
        self.producer = Some(producer);
        Ok(())
    }

    /// Creates a missing topic as a write to it would, where the server does that.
    async fn create(&self, name: &str, missing: ApiError) -> Result<pb::Topic, Stop> {
        let topic = pb::Topic { name: name.to_owned(), ..Default::default() };
        let request = pb::CreateTopicRequest { topic: Some(topic), automatic: true, ..Default::default() };
        let created = self.server.client.topics().create_topic(request).await.map_err(ApiError::from);
        let topic = match created {
            Ok(created) => created.into_inner().topic,
            // The first answer says more: whether a name like it is there.
            Err(failure) if failure.reason() == Reason::TopicNotFound => return Err(missing.into()),
            Err(failure) => return Err(failure.into()),
        };
        let topic = topic.ok_or_else(|| ApiError::internal("the server gave no topic"))?;
        let partitions = output::plural(i64::from(topic.partition_count), "partition");
        output::note(&format!("created topic \"{name}\" ({partitions})"));
        Ok(topic)
    }

    /// Sends a batch on its way. While there is no room for it, answers are watched: a failure ends the waiting.
    async fn send(&mut self, partition: i32) -> Result<(), Stop> {
        let Some(Open { builder, first }) = self.open.remove(&partition) else { return Ok(()) };
        self.open_bytes -= builder.uncompressed_len();
        let Some(producer) = self.producer.clone() else { return Ok(()) };
        if let Some(interrupt) = self.interrupts.pending() {
            self.tally.missing(first);
            return Err(Stop::Interrupted(interrupt));
        }
        let count = i64::from(builder.record_count());
        let mut sending = Box::pin(producer.send(partition, builder));
        let delivery = loop {
            tokio::select! {
                // What has failed makes room: it must not be taken before the failure is seen.
                biased;
                () = oldest_answered(&mut self.deliveries) => if let Err(stop) = self.settle_oldest().await {
                    self.tally.missing(first);
                    return Err(stop);
                },
                sent = &mut sending => break sent,
                interrupt = self.interrupts.next() => {
                    self.tally.missing(first);
                    return Err(Stop::Interrupted(interrupt));
                }
            }
        };
        let delivery = delivery.inspect_err(|_| self.tally.missing(first))?;
        self.deliveries.push_back(Sent { partition, count, first, delivery, outcome: None });
        if partition == self.sticky {
            self.sticky = (self.sticky + 1) % self.partition_count.max(1);
        }
        while self.deliveries.len() > DELIVERIES_MAX {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits for the oldest batch, or for a signal, and says once what it waits for, when that takes long.
    async fn settle(&mut self) -> Result<(), Stop> {
        let Some(oldest) = self.deliveries.front_mut() else { return Ok(()) };
        let (client, topic, partition) = (&self.server.client, &self.arguments.topic, oldest.partition);
        tokio::select! {
            biased;
            () = oldest.answered() => self.settle_oldest().await,
            interrupt = self.interrupts.next() => Err(Stop::Interrupted(interrupt)),
            obstacle = lasting_obstacle(client, topic, partition), if !self.waiting_told => {
                self.waiting_told = true;
                let limit = self.arguments.patience();
                output::warning(&format!("no acknowledgement yet: {obstacle}; each record is tried again for {limit} s"));
                Ok(())
            }
        }
    }

    /// Counts the oldest batch, which is answered.
    async fn settle_oldest(&mut self) -> Result<(), Stop> {
        let Some(Sent { partition, count, first, outcome: Some(outcome), .. }) = self.deliveries.pop_front() else {
            return Ok(());
        };
        let delivered = match outcome {
            Ok(delivered) => delivered,
            Err(failure) => {
                self.tally.missing(first);
                self.failed.get_or_insert_with(|| numbered(self.tally.skipped + first, count));
                if failure.effect() != pb::Effect::None {
                    self.tally.unknown += count;
                }
                if failure.reason() == Reason::RequestTimedOut && self.obstacle.is_none() {
                    let topic = &self.arguments.topic;
                    self.obstacle = Some(obstacle(&self.server.client, topic, partition).await);
                }
                return Err(failure.into());
            }
        };
        self.tally.written += count;
        if self.tell && delivered.base_offset >= 0 {
            for offset in delivered.base_offset..delivered.base_offset + count {
                let told = output::try_data(&format!("{}/{partition} @{offset}", self.arguments.topic));
                told.map_err(|error| self.untold(&error))?;
            }
        }
        Ok(())
    }

    /// Nobody hears where records land any more.
    fn untold(&mut self, error: &std::io::Error) -> Stop {
        self.tell = false;
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Stop::Unheard
        } else {
            Stop::Cli(format!("standard output: {error}").into())
        }
    }

    /// Waits for more input, and meanwhile for answers.
    pub(super) async fn while_waiting<T>(&mut self, input: impl Future<Output = T>) -> Result<T, Stop> {
        let mut input = std::pin::pin!(input);
        loop {
            tokio::select! {
                more = &mut input => return Ok(more),
                () = oldest_answered(&mut self.deliveries) => self.settle_oldest().await?,
                interrupt = self.interrupts.next() => return Err(Stop::Interrupted(interrupt)),
            }
        }
    }

    /// Sends batches that are not full.
    pub(super) async fn send_all(&mut self) -> Result<(), Stop> {
        let mut left: Vec<i32> = self.open.keys().copied().collect();
        left.sort_unstable();
        for partition in left {
            self.send(partition).await?;
        }
        debug_assert_eq!(self.open_bytes, 0, "no batch is open");
        Ok(())
    }

    /// Sends everything that was taken, and waits for all answers.
    pub(super) async fn finish(&mut self) -> Result<(), Stop> {
        self.send_all().await?;
        while !self.deliveries.is_empty() {
            self.settle().await?;
        }
        Ok(())
    }

    /// Sends nothing more, and counts what becomes of what is on its way: all of it, or after an interrupt what is
    /// answered soon.
    pub(super) async fn give_up(&mut self, interrupt: Option<Interrupt>) {
        for open in self.open.values() {
            self.tally.missing(open.first);
        }
        self.open.clear();
        let limit = if interrupt.is_some() { GRACE } else { Duration::from_secs(self.arguments.patience()) };
        let deadline = tokio::time::Instant::now() + limit;
        while let Some(oldest) = self.deliveries.front_mut() {
            let answered = tokio::select! {
                biased;
                answered = tokio::time::timeout_at(deadline, oldest.answered()) => answered.is_ok(),
                _ = self.interrupts.next() => false,
            };
            if !answered {
                break;
            }
            // What stopped it is said already.
            let _ = self.settle_oldest().await;
        }
        for Sent { count, first, .. } in std::mem::take(&mut self.deliveries) {
            self.tally.unknown += count;
            self.tally.missing(first);
        }
    }
}

/// What keeps a partition from acknowledging records, once that has taken long.
async fn lasting_obstacle(client: &Client, topic: &str, partition: i32) -> String {
    tokio::time::sleep(SILENT_MAX).await;
    obstacle(client, topic, partition).await
}

/// Waits for what becomes of the oldest batch; for ever when there is none.
async fn oldest_answered(deliveries: &mut VecDeque<Sent>) {
    match deliveries.front_mut() {
        Some(oldest) => oldest.answered().await,
        None => std::future::pending().await,
    }
}

/// Which records of the input a batch has. With keys, the batch may have fewer of those behind the first.
fn numbered(first: i64, count: i64) -> String {
    let first = output::count(first);
    if count == 1 {
        format!("it is record {first} of the input")
    } else {
        format!("from record {first} of the input on")
    }
}

/// Says at once, and again when it changes, why records are not acknowledged.
async fn tell_trouble(server: String, mut trouble: tokio::sync::watch::Receiver<Option<ApiError>>, timeout: u64) {
    // Partitions share it: one may be written while another one is refused.
    let mut told: Option<(Reason, tokio::time::Instant)> = None;
    while trouble.changed().await.is_ok() {
        let Some(failure) = trouble.borrow_and_update().clone() else { continue };
        let reason = failure.reason();
        // Another gateway takes over, or the same one on another connection: if none does, that is what is said next.
        if failure.answered() && reason == Reason::GatewayDraining {
            continue;
        }
        if told.is_some_and(|(before, at)| before == reason && at.elapsed() < WARN_PAUSE) {
            continue;
        }
        told = Some((reason, tokio::time::Instant::now()));
        let what = match (failure.answered(), reason) {
            (false, _) => format!("the server at {server} is away ({})", failure.message()),
            (true, _) => format!("{} ({})", failure.message(), failure.reason_name()),
        };
        output::warning(&format!("{what}; each record is tried again for {timeout} s"));
    }
}
