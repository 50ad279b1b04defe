//! `walser produce`.

use std::collections::{HashMap, VecDeque};
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use walser_client::{Client, Delivered, Delivery, Failure, Producer, ProducerConfig, Reason};
use walser_model::Timestamp;
use walser_proto::v1 as pb;
use walser_record_batch::{BatchBuilder, HEADER_LEN, RecordFields, partition_for_key};

use crate::cli::{JsonPath, ProduceArgs};
use crate::error::CliError;
use crate::input::{Group, Input};
use crate::output;

/// A batch is sent when it has so many bytes.
const BATCH_BYTES: usize = 256 << 10;
/// Bytes on their way at once.
const BUFFER_BYTES: usize = 16 << 20;
/// After this long without an answer people are told.
const SLOW: Duration = Duration::from_secs(5);
/// Records wait so long for others when no more come in.
const LINGER: Duration = Duration::from_millis(5);
/// Batches whose outcome is waited for at once.
const DELIVERIES_MAX: usize = 256;

type Header = (Vec<u8>, Option<Vec<u8>>);

/// A batch that is being filled.
struct Open {
    builder: BatchBuilder,
    /// Number of its first record in the input, from 1.
    first: i64,
}

/// A batch that is not answered yet.
struct Sent {
    partition: i32,
    count: i32,
    first: i64,
    delivery: Delivery,
    /// What became of it, once that is known.
    outcome: Option<Result<Delivered, Failure>>,
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
struct Sink {
    client: Client,
    arguments: ProduceArgs,
    headers: Arc<[Header]>,
    producer: Option<Producer>,
    partition_count: i32,
    batch_bytes: usize,
    open: HashMap<i32, Open>,
    deliveries: VecDeque<Sent>,
    sticky: i32,
    records: i64,
    bytes: i64,
    /// Records that are known to be written.
    written: i64,
    /// What kept a batch from being acknowledged in time, where the failure itself does not say.
    obstacle: Option<String>,
    /// Print where each record landed.
    tell: bool,
}

pub(crate) async fn run(arguments: ProduceArgs) -> Result<ExitCode, CliError> {
    let server = arguments.server.server.clone();
    let client = Client::new(&server)?;
    let headers = arguments.headers.iter().map(|text| header(text)).collect::<Result<_, _>>()?;
    let tell = !arguments.records.is_empty();
    let mut sink = Sink {
        client,
        headers,
        producer: None,
        partition_count: 0,
        batch_bytes: BATCH_BYTES,
        open: HashMap::new(),
        deliveries: VecDeque::new(),
        sticky: 0,
        records: 0,
        bytes: 0,
        written: 0,
        obstacle: None,
        tell,
        arguments,
    };
    let start = Duration::from_millis(now_ms().unsigned_abs());
    let outcome = Box::pin(feed(&mut sink)).await;
    let outcome = match outcome {
        Ok(()) => sink.finish().await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => {
            if !tell {
                summary(&sink, Duration::from_millis(now_ms().unsigned_abs()).saturating_sub(start));
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(Stop::Cli(error)) => Err(error),
        Err(Stop::Server(failure)) => {
            if sink.producer.is_some() {
                let (written, read) = (output::count(sink.written), output::plural(sink.records, "record"));
                output::note(&format!("{written} of {read} known to be written"));
            }
            let error = CliError::server(failure, &server);
            Err(match sink.obstacle {
                Some(why) => error.with_why(why),
                None => error,
            })
        }
    }
}

enum Stop {
    Cli(CliError),
    Server(Failure),
}

impl From<CliError> for Stop {
    fn from(error: CliError) -> Self {
        Self::Cli(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Server(failure)
    }
}

impl From<tonic::Status> for Stop {
    fn from(status: tonic::Status) -> Self {
        Self::Server(status.into())
    }
}

fn now_ms() -> Timestamp {
    use walser_model::Clock as _;
    walser_model::SystemClock::start().now_millis()
}

fn summary(sink: &Sink, took: Duration) {
    let seconds = took.as_secs_f64().max(0.001);
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a rate for people")]
    let rate = (sink.records as f64 / seconds) as i64;
    let records = output::plural(sink.records, "record");
    let bytes = output::bytes(sink.bytes);
    output::note(&format!("{records} · {bytes} · 0 failed · {} records/s", output::count(rate)));
}

/// Waits for something that takes long only when records are not acknowledged, and then says why they are not.
async fn patiently<T>(waiting: impl Future<Output = T>, client: &Client, arguments: &ProduceArgs, partition: i32) -> T {
    let mut waiting = std::pin::pin!(waiting);
    let noting = async {
        tokio::time::sleep(SLOW).await;
        let why = obstacle(client, &arguments.topic, partition).await;
        let (waited, timeout) = (SLOW.as_secs(), arguments.timeout);
        output::note(&format!("no record was acknowledged for {waited} s: {why}; each is retried for {timeout} s"));
    };
    tokio::select! {
        done = &mut waiting => return done,
        () = noting => {}
    }
    waiting.await
}

/// What keeps records of a partition from being written, as far as the server knows.
async fn obstacle(client: &Client, topic: &str, partition: i32) -> String {
    let known = tokio::time::timeout(SLOW, known_obstacle(client, topic, partition));
    known.await.unwrap_or_else(|_elapsed| "the server does not answer".to_owned())
}

async fn known_obstacle(client: &Client, topic: &str, partition: i32) -> String {
    let request = pb::ListPartitionsRequest { topic: topic.to_owned(), only_unhealthy: true, ..Default::default() };
    let listed = client.topics().list_partitions(request).await.map_err(Failure::from);
    let listed = match listed {
        Ok(listed) => listed.into_inner().partitions,
        Err(failure) => return format!("{} ({})", failure.message(), failure.reason_name()),
    };
    let own = listed.into_iter().filter_map(|info| info.partition).find(|found| found.partition == partition);
    if let Some(problem) = own.and_then(|found| found.problem) {
        return format!("partition {partition}: {problem}");
    }
    let cluster = client.cluster().get_cluster(pb::GetClusterRequest {}).await;
    let health = cluster.ok().and_then(|found| found.into_inner().cluster).and_then(|cluster| cluster.health);
    let issue = health.and_then(|health| health.issues.into_iter().next());
    match issue {
        Some(issue) => format!("{} ({})", issue.message, issue.code),
        None => "neither the partition nor the cluster reports a problem".to_owned(),
    }
}

fn header(text: &str) -> Result<Header, CliError> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| CliError::usage(format!("header \"{text}\" is not NAME=VALUE")))?;
    Ok((name.as_bytes().to_vec(), Some(value.as_bytes().to_vec())))
}

/// Reads all input and hands it on record by record.
async fn feed(sink: &mut Sink) -> Result<(), Stop> {
    let records = std::mem::take(&mut sink.arguments.records);
    if !records.is_empty() {
        for record in records {
            sink.add(record.into_bytes()).await?;
        }
        return Ok(());
    }
    let files = std::mem::take(&mut sink.arguments.files);
    if files.is_empty() && std::io::stdin().is_terminal() {
        output::note("reading records from the terminal, one per line; Ctrl-D ends");
    }
    let mut input = crate::input::start(files, sink.arguments.framing)?;
    let mut send_at = tokio::time::Instant::now() + LINGER;
    loop {
        // What has come in does not wait for what has not, nor for what goes on coming.
        let group = match tokio::time::timeout_at(send_at, input.recv()).await {
            Ok(group) => group,
            Err(_elapsed) => {
                sink.send_all().await?;
                let group = sink.wait(&mut input).await?;
                send_at = tokio::time::Instant::now() + LINGER;
                group
            }
        };
        let Some(group) = group else { return Ok(()) };
        for record in group? {
            sink.add(record).await?;
        }
    }
}

impl Sink {
    async fn add(&mut self, value: Vec<u8>) -> Result<(), Stop> {
        if self.producer.is_none() {
            self.connect().await?;
        }
        let key = match (&self.arguments.key, &self.arguments.key_json) {
            (Some(key), _) => Some(key.clone().into_bytes()),
            (None, Some(path)) => json_key(&value, path, self.records + 1)?,
            (None, None) => None,
        };
        let partition = match (self.arguments.partition, &key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_for_key(key, self.partition_count),
            (None, None) => self.sticky,
        };
        let headers = Arc::clone(&self.headers);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_slice(), value.as_deref())).collect();
        let fields = RecordFields { timestamp: now_ms(), key: key.as_deref(), value: Some(&value), headers: &headers };
        let size = fields.encoded_len_max();
        let full =
            self.open.get(&partition).is_some_and(|open| open.builder.uncompressed_len() + size > self.batch_bytes);
        if full {
            self.send(partition).await?;
        }
        let capacity = if self.tell { 256 } else { self.batch_bytes.min(BATCH_BYTES) + 1024 };
        let codec = self.arguments.compression;
        self.records += 1;
        let fresh = || Open { builder: BatchBuilder::new(codec, capacity), first: self.records };
        let builder = &mut self.open.entry(partition).or_insert_with(fresh).builder;
        builder.append(&fields);
        self.bytes += i64::try_from(value.len()).unwrap_or(0);
        if builder.uncompressed_len() >= self.batch_bytes {
            self.send(partition).await?;
        }
        Ok(())
    }

    /// Finds the topic, creating it where the server does that, and starts the producer.
    async fn connect(&mut self) -> Result<(), Stop> {
        let name = self.arguments.topic.clone();
        let found = self.client.topics().get_topic(pb::GetTopicRequest { name: name.clone() }).await;
        let topic = match found.map_err(Failure::from) {
            Ok(found) => found.into_inner().topic,
            Err(failure) if failure.reason() == Reason::TopicNotFound => Some(self.create(&name, failure).await?),
            Err(failure) => return Err(failure.into()),
        };
        let topic = topic.ok_or_else(|| Failure::internal("the server gave no topic"))?;
        self.partition_count = topic.partition_count;
        if let Some(partition) = self.arguments.partition.filter(|p| !(0..topic.partition_count).contains(p)) {
            let count = topic.partition_count;
            let text = format!("topic \"{name}\" has no partition {partition}, it has {count} (from 0)");
            return Err(Failure::new(Reason::PartitionNotFound, text).with("topic", name).into());
        }
        let limit = topic.config.get("max.message.bytes").and_then(|text| text.parse::<usize>().ok());
        self.batch_bytes = BATCH_BYTES.min(limit.unwrap_or(1_048_588)).saturating_sub(HEADER_LEN).max(1);
        let config = ProducerConfig {
            topic: name,
            acks: self.arguments.acks,
            delivery_timeout: Duration::from_secs(self.arguments.timeout),
            buffer_bytes: BUFFER_BYTES,
        };
        self.producer = Some(Producer::start(&self.client, config).await?);
        Ok(())
    }

    /// Creates a missing topic, where a write would have created it.
    async fn create(&self, name: &str, missing: Failure) -> Result<pb::Topic, Stop> {
        let cluster = self.client.cluster().get_cluster(pb::GetClusterRequest {}).await?.into_inner().cluster;
        let standalone = cluster.is_some_and(|cluster| cluster.mode == "STANDALONE");
        if !standalone || self.arguments.partition.is_some_and(|partition| partition != 0) {
            return Err(missing.into());
        }
        let topic = pb::Topic { name: name.to_owned(), ..Default::default() };
        let request = pb::CreateTopicRequest { topic: Some(topic), allow_existing: true, ..Default::default() };
        let topic = self.client.topics().create_topic(request).await?.into_inner().topic;
        let topic = topic.ok_or_else(|| Failure::internal("the server gave no topic"))?;
        let partitions = output::plural(i64::from(topic.partition_count), "partition");
        output::note(&format!("created topic \"{name}\" ({partitions})"));
        Ok(topic)
    }

    async fn send(&mut self, partition: i32) -> Result<(), Stop> {
        let Some(Open { builder, first }) = self.open.remove(&partition) else { return Ok(()) };
        let Some(producer) = &self.producer else { return Ok(()) };
        let count = builder.record_count();
        // Waits while too much is not acknowledged.
        let sending = producer.send(partition, builder);
        let delivery = patiently(sending, &self.client, &self.arguments, partition).await?;
        self.deliveries.push_back(Sent { partition, count, first, delivery, outcome: None });
        if self.arguments.key.is_none() && self.arguments.key_json.is_none() {
            self.sticky = (self.sticky + 1) % self.partition_count.max(1);
        }
        while self.deliveries.len() > DELIVERIES_MAX {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits for the oldest batch.
    async fn settle(&mut self) -> Result<(), Stop> {
        let Some(oldest) = self.deliveries.front_mut() else { return Ok(()) };
        let (arguments, partition) = (&self.arguments, oldest.partition);
        patiently(oldest.answered(), &self.client, arguments, partition).await;
        let Some(Sent { partition, count, first, outcome: Some(outcome), .. }) = self.deliveries.pop_front() else {
            return Ok(());
        };
        let delivered = match outcome {
            Ok(delivered) => delivered,
            Err(failure) => {
                let more = if count > 1 { " and those sent with it were" } else { " was" };
                let fate = if failure.effect() == pb::Effect::None { "not written" } else { "not acknowledged" };
                output::note(&format!("record {first} of the input{more} {fate}:"));
                if failure.reason() == Reason::RequestTimedOut {
                    self.obstacle = Some(obstacle(&self.client, &self.arguments.topic, partition).await);
                }
                return Err(failure.into());
            }
        };
        self.written += i64::from(count);
        if self.tell && delivered.base_offset >= 0 {
            for offset in delivered.base_offset..delivered.base_offset + i64::from(count) {
                output::data(&format!("{}/{partition} @{offset}", self.arguments.topic));
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Stop> {
        self.send_all().await?;
        while !self.deliveries.is_empty() {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits for more input, and meanwhile for answers.
    async fn wait(&mut self, input: &mut Input) -> Result<Option<Group>, Stop> {
        loop {
            let answered = async {
                match self.deliveries.front_mut() {
                    Some(oldest) => oldest.answered().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                group = input.recv() => return Ok(group),
                () = answered => self.settle().await?,
            }
        }
    }

    /// Sends batches that are not full.
    async fn send_all(&mut self) -> Result<(), Stop> {
        let mut left: Vec<i32> = self.open.keys().copied().collect();
        left.sort_unstable();
        for partition in left {
            self.send(partition).await?;
        }
        Ok(())
    }
}

/// The value at a path such as `.user.id`, as a key. A missing one is a null key.
fn json_key(record: &[u8], path: &JsonPath, number: i64) -> Result<Option<Vec<u8>>, CliError> {
    let parsed: serde_json::Value = serde_json::from_slice(record).map_err(|error| {
        CliError::usage(format!("record {number} is not JSON, so --key-json finds nothing in it: {error}"))
    })?;
    Ok(match parsed.pointer(&path.pointer) {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(text)) => Some(text.clone().into_bytes()),
        Some(other) => Some(other.to_string().into_bytes()),
    })
}
