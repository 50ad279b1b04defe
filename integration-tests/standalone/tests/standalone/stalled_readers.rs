//! Readers that stop taking messages: the server holds a bounded amount for them, and others read on.

use bytes::Bytes;
use tonic::Streaming;
use walser_client::Client;
use walser_model::Compression;
use walser_proto::v1 as pb;
use walser_proto::v1::read_response::Event;
use walser_record_batch::{BatchBuilder, Producer, RecordFields};

use crate::server::{Server, bound, create, place};

const PARTITIONS: i32 = 40;
const RECORDS: usize = 30;

/// A batch of some hundred kilobytes that decompresses to 30 MiB.
fn swelling() -> Bytes {
    let mut builder = BatchBuilder::new(Compression::Zstd, 0);
    let mut random = 1u64;
    for _ in 0..RECORDS {
        let mut value = vec![0; 1 << 20];
        for byte in &mut value[..7_000] {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = random.to_be_bytes()[0];
        }
        builder.append(&RecordFields { timestamp: 1_790_000_000_000, key: None, value: Some(&value), headers: &[] });
    }
    let batch = builder.build(Producer::NONE);
    assert!(batch.len() < 400_000, "{}", batch.len());
    batch
}

async fn read(client: &Client, end: Option<pb::Bound>) -> Streaming<pb::ReadResponse> {
    let start = if end.is_some() { pb::Bound::Earliest } else { pb::Bound::Latest };
    let (start, end) = (Some(bound(start)), end.map(bound));
    let target = pb::ReadTarget { topic: "t".to_owned(), start, end, ..Default::default() };
    let request = pb::ReadRequest { targets: vec![target], ..Default::default() };
    client.consumer().read(request).await.unwrap().into_inner()
}

/// Takes messages until there are so many records, or a reader is caught up.
async fn take(stream: &mut Streaming<pb::ReadResponse>, records: usize) {
    let mut taken = 0;
    while let Some(message) = stream.message().await.unwrap() {
        match message.event {
            Some(Event::Chunk(chunk)) => taken += chunk.records.len(),
            Some(Event::CaughtUp(_)) if records == 0 => return,
            _ => {}
        }
        if records > 0 && taken >= records {
            assert_eq!(taken, records);
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stalls_at_the_live_end_costs_a_bounded_amount_and_reads_on_later() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", "gateway.read.bytes.max=128MiB"]);
    let client = server.client();
    create(&client, "t", PARTITIONS, &[("retention.ms", "-1")]).await;
    let (stalled_client, other_client) = (server.client(), server.client());
    let mut stalled = read(&stalled_client, None).await;
    take(&mut stalled, 0).await;
    // It takes nothing from here on.
    let batch = swelling();
    for partition in 0..PARTITIONS {
        let request = pb::ProduceRequest {
            topic: "t".to_owned(),
            partition: Some(partition),
            record_batch: batch.clone(),
            ..Default::default()
        };
        client.producer().produce(request).await.unwrap();
    }
    // Another reader gets everything meanwhile, as a stream and call by call.
    let all = usize::try_from(PARTITIONS).unwrap() * RECORDS;
    take(&mut read(&other_client, Some(pb::Bound::Latest)).await, all).await;
    let target =
        pb::ReadTarget { topic: "t".to_owned(), start: Some(bound(pb::Bound::Earliest)), ..Default::default() };
    let fetch = pb::FetchRequest { targets: vec![target], ..Default::default() };
    let fetched = other_client.consumer().fetch(fetch).await.unwrap().into_inner();
    assert!(!fetched.chunks.is_empty());
    let peak = server.peak_memory();
    assert!(peak < 600 << 20, "the server took {peak} bytes");
    take(&mut stalled, all).await;
    server.assert_no_panic();
}
