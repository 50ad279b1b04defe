//! `walser demo`: a producer and a reader, to look at.

use std::process::ExitCode;
use std::time::Duration;

use walser_client::{Client, Failure, Read, Reader, ReaderConfig};
use walser_proto::v1 as pb;

use crate::cli::DemoArgs;
use crate::error::CliError;
use crate::output;
use crate::position::Position;
use crate::server::Server;

const TOPIC: &str = "demo-orders";
const PARTITIONS: i32 = 3;

pub(crate) async fn run(arguments: DemoArgs) -> Result<ExitCode, CliError> {
    output::end_with_reader()?;
    let server = Server::of(&arguments.server)?;
    let failed = |failure: Failure| server.failed(failure);
    let client = server.client.clone();
    let topic = pb::Topic { name: TOPIC.to_owned(), partition_count: PARTITIONS, ..Default::default() };
    let request = pb::CreateTopicRequest { topic: Some(topic), allow_existing: true, ..Default::default() };
    client.topics().create_topic(request).await.map_err(|status| failed(status.into()))?;
    let address = &server.address;
    output::note(&format!("Connected to {address}\ncreated  {TOPIC} ({PARTITIONS} partitions)"));
    output::note(&format!("running  {} orders/s, read back below; Ctrl-C stops\n", arguments.rate.max(1)));
    let target = pb::ReadTarget { topic: TOPIC.to_owned(), start: Some(Position::Latest.wire()), ..Default::default() };
    let config = ReaderConfig { targets: vec![target], batches: false, patience: Duration::from_secs(60) };
    let mut reader = Reader::new(&client, config);
    // The reader stands at the end before the first record is written.
    let first = reader.next().await.map_err(failed)?;
    debug_assert!(matches!(first, Read::CaughtUp), "nothing is written yet");
    let (rate, count) = (arguments.rate.max(1), arguments.count.unwrap_or(u64::MAX));
    let producing = tokio::spawn(produce(client, rate, count));
    let mut seen = 0;
    while seen < count {
        let Read::Chunk(chunk) = reader.next().await.map_err(failed)? else { continue };
        for record in &chunk.records {
            let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
            output::data(&format!("{}/{} @{}  {value}", chunk.topic, chunk.partition, record.offset));
            seen += 1;
        }
    }
    producing.await.map_err(|error| CliError::failed(error.to_string()))?.map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

async fn produce(client: Client, rate: u32, count: u64) -> Result<(), Failure> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    for number in 0..count {
        ticks.tick().await;
        let (user, amount) = (number * 7 % 50, number * 37 % 500 + 1);
        let value = format!("{{\"order\":{number},\"user\":\"user-{user}\",\"amount\":{amount}}}");
        let record =
            pb::Record { key: Some(format!("user-{user}").into()), value: Some(value.into()), ..Default::default() };
        let request = pb::ProduceRequest { topic: TOPIC.to_owned(), records: vec![record], ..Default::default() };
        client.producer().produce(request).await?;
    }
    Ok(())
}
