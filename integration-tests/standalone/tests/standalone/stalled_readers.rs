//! Readers that stop taking messages: the server holds a bounded amount for them, and others read on.

use bytes::Bytes;
use tonic::Streaming;
use walser_client::Client;
use walser_model::Compression;
use walser_proto::v1 as pb;
use walser_proto::v1::read_response::Event;
use walser_record_batch::{BatchBuilder, Producer, RecordFields};
use walser_rpc::{ApiError, Reason};

use crate::faults::{get, until};
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

/// What waits for their clients counts until the connection has taken it, and gives way to others after a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_stalled_readers_of_large_messages_cost_no_more_than_the_budget_and_give_way() {
    const READERS: usize = 20;
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", "gateway.read.bytes.max=128MiB"]);
    let client = server.client();
    create(&client, "t", 2, &[("retention.ms", "-1")]).await;
    let batch = swelling();
    for partition in [0, 0, 1] {
        let (topic, partition, record_batch) = ("t".to_owned(), Some(partition), batch.clone());
        let request = pb::ProduceRequest { topic, partition, record_batch, ..Default::default() };
        client.producer().produce(request).await.unwrap();
    }
    let (stalled_client, other_client) = (server.client(), server.client());
    let mut stalled = Vec::new();
    for _ in 0..READERS {
        let start = Some(bound(pb::Bound::Earliest));
        let target = pb::ReadTarget { topic: "t".to_owned(), partition: Some(0), start, ..Default::default() };
        let options = Some(pb::ReadOptions { max_message_bytes: 31 << 20, ..Default::default() });
        let request = pb::ReadRequest { targets: vec![target], options, ..Default::default() };
        stalled.push(stalled_client.consumer().read(request).await.unwrap().into_inner());
    }
    let contended = async || {
        let metrics = get(&server, "/metrics");
        let waiting = metrics.lines().find_map(|line| line.strip_prefix("walser_gateway_reads_waiting "));
        waiting.is_some_and(|waiting| waiting != "0")
    };
    until(contended, "readers wait for each other's memory").await;
    // Another one has its turn once those that take nothing have given way.
    let start = Some(bound(pb::Bound::Earliest));
    let target = pb::ReadTarget { topic: "t".to_owned(), partition: Some(1), start, ..Default::default() };
    let fetch = pb::FetchRequest { targets: vec![target], ..Default::default() };
    assert!(!other_client.consumer().fetch(fetch).await.unwrap().into_inner().chunks.is_empty());
    let peak = server.peak_memory();
    assert!(peak < 500 << 20, "the server took {peak} bytes");
    // They are told, and read on later; one that was not cut off just reads on.
    let mut rest = tokio::task::JoinSet::new();
    stalled.into_iter().for_each(|mut stream: Streaming<pb::ReadResponse>| {
        rest.spawn(async move {
            loop {
                match stream.message().await {
                    Ok(Some(pb::ReadResponse { event: Some(Event::CaughtUp(_)) })) => return None,
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("a stream without an end has ended"),
                    Err(status) => return Some(ApiError::from(status)),
                }
            }
        });
    });
    let ended: Vec<ApiError> = rest.join_all().await.into_iter().flatten().collect();
    assert!(!ended.is_empty());
    for failure in ended {
        assert_eq!(failure.reason(), Reason::GatewayOverloaded, "{failure}");
    }
    server.assert_no_panic();
}
