//! `walser demo`: a producer and a reader, to look at.

use std::process::ExitCode;
use std::time::Duration;

use walser_client::{ApiError, Client, Producer, ProducerConfig, Read, Reader, ReaderConfig};
use walser_model::{Acks, Compression};
use walser_proto::v1 as pb;
use walser_record_batch::{BatchBuilder, RecordFields, partition_for_key};

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
    output::note(&format!("running  {} orders/s, read back below; Ctrl-C stops\n", arguments.rate.max(1)));
    let target = pb::ReadTarget { topic: TOPIC.to_owned(), start: Some(Position::Latest.wire()), ..Default::default() };
    let config = ReaderConfig { targets: vec![target], batches: false, patience: PATIENCE };
    let mut reader = Reader::new(&client, config);
    // The reader stands at the end before the first record is written.
    let first = reader.next().await.map_err(failed)?;
    debug_assert!(matches!(first, Read::CaughtUp), "nothing is written yet");
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
        shown = show(reader, count) => shown.map_err(failed)?,
        // What is not written would be waited for in vain.
        failure = failing => return Err(failed(failure)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints records until there were enough.
async fn show(mut reader: Reader, count: u64) -> Result<(), ApiError> {
    let mut seen = 0;
    while seen < count {
        let chunk = match reader.next().await? {
            Read::Chunk(chunk) => chunk,
            Read::Away(failure) => {
                output::warning(&format!("the server is away ({}); waiting for it", failure.message()));
                continue;
            }
            _ => continue,
        };
        for record in &chunk.records {
            let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
            output::data(&format!("{}/{} @{}  {value}", chunk.topic, chunk.partition, record.offset));
            seen += 1;
        }
    }
    Ok(())
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
