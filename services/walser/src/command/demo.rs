//! `walser demo`: a producer and a group of two members, to look at.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use walser_client::{ApiError, Client, GroupEvent, GroupReader, GroupReaderConfig, Producer, ProducerConfig};
use walser_model::{Acks, Compression};
use walser_proto::v1 as pb;
use walser_record_batch::{BatchBuilder, RecordFields, partition_for_key};

use super::consume::group::processed::Processed;
use crate::cli::DemoArgs;
use crate::error::CliError;
use crate::output;
use crate::position::Position;
use crate::server::Server;

const TOPIC: &str = "demo-orders";
const PARTITIONS: i32 = 3;
/// How long the server may be away.
const PATIENCE: Duration = Duration::from_secs(60);
/// Records on their way: one at a time.
const BUFFER_BYTES: usize = 1 << 20;

pub(crate) async fn run(arguments: DemoArgs) -> Result<ExitCode, CliError> {
    output::end_with_reader()?;
    let server = Server::of(&arguments.server)?;
    let failed = |failure: ApiError| server.failed(failure);
    let client = server.client.clone();
    let topic = pb::Topic { name: TOPIC.to_owned(), partition_count: PARTITIONS, ..Default::default() };
    let request = pb::CreateTopicRequest { topic: Some(topic), allow_existing: true, ..Default::default() };
    client.topics().create_topic(request).await.map_err(|status| failed(status.into()))?;
    let address = &server.address;
    output::note(&format!("Connected to {address}\ncreated  {TOPIC} ({PARTITIONS} partitions)"));
    // A group of its own: another demo on this server has its own members.
    let group = format!("demo-{}-{}", std::process::id(), super::produce::now_ms());
    output::note(&format!("joining  group {group}, 2 members that share the partitions"));
    let mut members = Members::new(&client, &group);
    // The group stands at the end before the first record is written.
    while !members.are_ready() {
        members.step(0).await.map_err(failed)?;
    }
    members.show_shares();
    output::note(&format!("running  {} orders/s, read back below; Ctrl-C stops\n", arguments.rate.max(1)));
    let (rate, count) = (arguments.rate.max(1), arguments.count.unwrap_or(u64::MAX));
    let producing = tokio::spawn(produce(client, rate, count));
    let failing = async {
        match producing.await {
            Ok(Ok(())) => std::future::pending().await,
            Ok(Err(failure)) => failure,
            Err(panicked) => ApiError::internal(panicked.to_string()),
        }
    };
    tokio::select! {
        shown = members.show(count) => shown.map_err(failed)?,
        // What is not written would be waited for in vain.
        failure = failing => return Err(failed(failure)),
    }
    members.leave().await.map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

/// One member of the group.
struct Member {
    /// What it is called below.
    number: usize,
    reader: GroupReader,
    processed: Processed,
    partitions: BTreeSet<i32>,
}

/// The group.
struct Members([Member; 2]);

// === impl Member ===

impl Member {
    fn new(client: &Client, group: &str, number: usize) -> Self {
        let join = pb::ConsumeJoin {
            group: group.to_owned(),
            topics: vec![TOPIC.to_owned()],
            start: Some(Position::Latest.wire()),
            ..Default::default()
        };
        let reader = GroupReader::new(client, GroupReaderConfig { join, patience: PATIENCE });
        Self { number, reader, processed: Processed::default(), partitions: BTreeSet::new() }
    }

    /// Deals with an event; prints `left` records at most, and returns how many it has printed.
    fn happened(&mut self, event: GroupEvent, left: u64) -> Result<u64, ApiError> {
        match event {
            GroupEvent::Chunk(chunk) => return self.show(&chunk, left),
            GroupEvent::Joined(_) => {
                self.processed.expect_again();
                self.partitions.clear();
            }
            GroupEvent::Assigned(assigned) => {
                self.processed.assign(&assigned.partitions);
                let places = assigned.partitions.iter().filter_map(|added| added.topic_partition.as_ref());
                self.partitions.extend(places.map(|place| place.partition));
            }
            GroupEvent::Revoked(revoked) => {
                self.processed.remove(&revoked.partitions);
                let moved: BTreeSet<i32> = revoked.partitions.iter().map(|place| place.partition).collect();
                self.partitions.retain(|partition| !moved.contains(partition));
            }
            GroupEvent::Committed(answer) => drop(self.processed.answered(answer)),
            GroupEvent::Away(failure) => {
                let (number, text) = (self.number, failure.message());
                output::warning(&format!("member {number}: the server is away ({text}); waiting for it"));
            }
            _ => {}
        }
        self.processed.commit(&mut self.reader)?;
        Ok(0)
    }

    fn show(&mut self, chunk: &pb::RecordChunk, left: u64) -> Result<u64, ApiError> {
        let known = self.processed.known(chunk);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX);
        let mut shown = 0;
        for record in chunk.records.iter().skip(known).take(wanted) {
            let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
            let (number, topic, partition) = (self.number, &chunk.topic, chunk.partition);
            output::data(&format!("member {number}  {topic}/{partition} @{}  {value}", record.offset));
            shown += 1;
        }
        self.processed.add(chunk, known + shown);
        self.processed.commit(&mut self.reader)?;
        Ok(shown as u64)
    }

    async fn leave(&mut self) -> Result<(), ApiError> {
        self.processed.commit_all(&mut self.reader)?;
        self.reader.leave(false);
        while !matches!(self.reader.next().await?, GroupEvent::End) {}
        Ok(())
    }
}

// === impl Members ===

impl Members {
    fn new(client: &Client, group: &str) -> Self {
        Self([1, 2].map(|number| Member::new(client, group, number)))
    }

    /// Whether each member has its share, and every partition a committed offset.
    fn are_ready(&self) -> bool {
        let has_share = |member: &Member| !member.partitions.is_empty() && member.processed.is_committed();
        let held: BTreeSet<_> = self.0.iter().flat_map(|member| &member.partitions).collect();
        self.0.iter().all(has_share) && held.into_iter().copied().eq(0..PARTITIONS)
    }

    fn show_shares(&self) {
        for Member { number, partitions, .. } in &self.0 {
            let names: Vec<_> = partitions.iter().map(|partition| format!("{TOPIC}/{partition}")).collect();
            output::note(&format!("member {number} reads {}", names.join(", ")));
        }
    }

    /// Deals with the next event of either member; prints `left` records at most, and returns how many it has printed.
    async fn step(&mut self, left: u64) -> Result<u64, ApiError> {
        let [first, second] = &mut self.0;
        tokio::select! {
            event = first.reader.next() => first.happened(event?, left),
            event = second.reader.next() => second.happened(event?, left),
        }
    }

    /// Prints records until there were enough.
    async fn show(&mut self, count: u64) -> Result<(), ApiError> {
        let mut left = count;
        while left > 0 {
            left -= self.step(left).await?;
        }
        Ok(())
    }

    async fn leave(&mut self) -> Result<(), ApiError> {
        let [first, second] = &mut self.0;
        let (one, other) = tokio::join!(first.leave(), second.leave());
        one.and(other)
    }
}

async fn produce(client: Client, rate: u32, count: u64) -> Result<(), ApiError> {
    let config = ProducerConfig {
        topic: TOPIC.to_owned(),
        acks: Acks::All,
        delivery_timeout: PATIENCE,
        buffer_bytes: BUFFER_BYTES,
    };
    let producer = Producer::start(&client, config).await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    for number in 0..count {
        ticks.tick().await;
        let (user, amount) = (format!("user-{}", number * 7 % 50), number * 37 % 500 + 1);
        let value = format!("{{\"order\":{number},\"user\":\"{user}\",\"amount\":{amount}}}");
        let mut builder = BatchBuilder::new(Compression::None, 256);
        let (key, timestamp) = (Some(user.as_bytes()), super::produce::now_ms());
        builder.append(&RecordFields { timestamp, key, value: Some(value.as_bytes()), headers: &[] });
        producer.send(partition_for_key(user.as_bytes(), PARTITIONS), builder).await?.await?;
    }
    Ok(())
}
