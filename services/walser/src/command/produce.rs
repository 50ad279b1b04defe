//! `walser produce`.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, IsTerminal as _, Read};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use walser_client::{Client, Delivery, Failure, Producer, ProducerConfig, Reason};
use walser_model::Timestamp;
use walser_proto::v1 as pb;
use walser_record_batch::{BatchBuilder, HEADER_LEN, RecordFields, partition_for_key};

use crate::cli::{Framing, JsonPath, ProduceArgs};
use crate::error::CliError;
use crate::output;

/// A batch is sent when it has so many bytes.
const BATCH_BYTES: usize = 256 << 10;
/// Bytes on their way at once.
const BUFFER_BYTES: usize = 16 << 20;
/// A server may be away this long.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// After this long without an answer people are told.
const SLOW: Duration = Duration::from_secs(5);
/// Largest single record that is read.
const RECORD_BYTES_MAX: usize = 16 << 20;
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
        Err(Stop::Server(failure)) => Err(CliError::server(failure, &server)),
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
    if files.is_empty() {
        if std::io::stdin().is_terminal() {
            output::note("reading records from the terminal, one per line; Ctrl-D ends");
        }
        return read(sink, &mut BufReader::with_capacity(1 << 20, std::io::stdin())).await;
    }
    for path in files {
        let problem = |error: std::io::Error| CliError::failed(format!("{}: {error}", path.display()));
        let file = std::fs::File::open(&path).map_err(problem)?;
        read(sink, &mut BufReader::with_capacity(1 << 20, file)).await?;
    }
    Ok(())
}

async fn read(sink: &mut Sink, input: &mut (dyn BufRead + Send)) -> Result<(), Stop> {
    let problem = |error: std::io::Error| CliError::failed(format!("input: {error}"));
    match sink.arguments.framing {
        Framing::Whole => {
            let mut record = Vec::new();
            input.take(RECORD_BYTES_MAX as u64 + 1).read_to_end(&mut record).map_err(problem)?;
            check_size(record.len())?;
            sink.add(record).await
        }
        Framing::Blocks(size) => {
            check_size(size)?;
            loop {
                let mut record = Vec::with_capacity(size);
                Read::take(&mut *input, size as u64).read_to_end(&mut record).map_err(problem)?;
                if record.is_empty() {
                    return Ok(());
                }
                sink.add(record).await?;
            }
        }
        Framing::Lines => loop {
            let mut record = Vec::new();
            let limit = RECORD_BYTES_MAX as u64 + 1;
            let read = Read::take(&mut *input, limit).read_until(b'\n', &mut record).map_err(problem)?;
            if read == 0 {
                return Ok(());
            }
            if record.last() == Some(&b'\n') {
                record.pop();
            }
            check_size(record.len())?;
            sink.add(record).await?;
        },
    }
}

fn check_size(bytes: usize) -> Result<(), CliError> {
    if bytes <= RECORD_BYTES_MAX {
        return Ok(());
    }
    let most = output::bytes(i64::try_from(RECORD_BYTES_MAX).unwrap_or(0));
    Err(CliError::usage(format!("a record has at most {most}")).with_help("use --as blocks:SIZE for large files"))
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
            delivery_timeout: DELIVERY_TIMEOUT,
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
        let delivery = producer.send(partition, builder).await?;
        self.deliveries.push_back(Sent { partition, count, first, delivery });
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
        let Some(Sent { partition, count, first, mut delivery }) = self.deliveries.pop_front() else { return Ok(()) };
        let outcome = match tokio::time::timeout(SLOW, &mut delivery).await {
            Ok(outcome) => outcome,
            Err(_slow) => {
                let seconds = DELIVERY_TIMEOUT.as_secs();
                output::note(&format!("the server does not answer, or refuses records; trying again for {seconds} s"));
                delivery.await
            }
        };
        let delivered = outcome.inspect_err(|_| {
            let more = if count > 1 { " and those sent with it were" } else { " was" };
            output::note(&format!("record {first} of the input{more} not written:"));
        })?;
        if self.tell && delivered.base_offset >= 0 {
            for offset in delivered.base_offset..delivered.base_offset + i64::from(count) {
                output::data(&format!("{}/{partition} @{offset}", self.arguments.topic));
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Stop> {
        let mut left: Vec<i32> = self.open.keys().copied().collect();
        left.sort_unstable();
        for partition in left {
            self.send(partition).await?;
        }
        while !self.deliveries.is_empty() {
            self.settle().await?;
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
