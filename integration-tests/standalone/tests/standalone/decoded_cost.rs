//! Batches that cost more to decode than they should: refused, and where an older or trusting server has stored
//! them, an error with the offset behind them, at a bounded cost.

use bytes::Bytes;
use walser_client::Client;
use walser_model::Compression;
use walser_proto::v1 as pb;
use walser_proto::v1::read_response::Event;
use walser_record_batch::{BatchBuilder, Producer, RecordFields};
use walser_rpc::ApiError;

use crate::server::{Server, create, place, read_all, record};

/// Accepted as it is: what an older server did with every batch.
const TRUSTING: [&str; 2] = ["--set", "gateway.validate.compressed=false"];

/// A small batch of one record with millions of empty headers.
fn bomb() -> Bytes {
    let headers: Vec<(&[u8], Option<&[u8]>)> = vec![(b"", None); 7_900_000];
    let mut builder = BatchBuilder::new(Compression::Zstd, 0);
    builder.append(&RecordFields { timestamp: 1_790_000_000_000, key: None, value: None, headers: &headers });
    let batch = builder.build(Producer::NONE);
    assert!(batch.len() < 4096);
    batch
}

async fn produce_batch(client: &Client, batch: Bytes) -> Result<(), ApiError> {
    let request =
        pb::ProduceRequest { topic: "t".to_owned(), partition: Some(0), record_batch: batch, ..Default::default() };
    client.producer().produce(request).await.map(drop).map_err(ApiError::from)
}

async fn produce(client: &Client, records: Vec<pb::Record>) {
    let request = pb::ProduceRequest { topic: "t".to_owned(), partition: Some(0), records, ..Default::default() };
    client.producer().produce(request).await.unwrap();
}

fn from(offset: i64) -> Vec<pb::ReadTarget> {
    vec![pb::ReadTarget {
        topic: "t".to_owned(),
        partition: Some(0),
        start: Some(pb::Position { at: Some(pb::position::At::Offset(offset)) }),
        ..Default::default()
    }]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_batch_of_millions_of_headers_is_refused() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[("retention.ms", "-1")]).await;
    let refused = produce_batch(&client, bomb()).await.unwrap_err();
    assert_eq!((refused.reason_name(), refused.value("rule")), ("RECORD_INVALID", Some("record-headers")));
    produce(&client, vec![record("good")]).await;
    assert_eq!(read_all(&client, "t", 0).await.len(), 1);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_batch_that_costs_too_much_is_an_error_with_the_offset_behind_it() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &TRUSTING);
    let client = server.client();
    create(&client, "t", 1, &[("retention.ms", "-1")]).await;
    produce(&client, vec![record("before")]).await;
    produce_batch(&client, bomb()).await.unwrap();
    produce(&client, vec![record("after")]).await;
    // Fetch: what lies before, then the error, then what lies behind.
    let fetch = |offset| pb::FetchRequest { targets: from(offset), ..Default::default() };
    let before = client.consumer().fetch(fetch(0)).await.unwrap().into_inner();
    assert_eq!(before.chunks[0].next_offset, 1);
    for _ in 0..10 {
        let refused = ApiError::from(client.consumer().fetch(fetch(1)).await.unwrap_err());
        assert_eq!(refused.reason_name(), "BATCH_UNREADABLE", "{refused}");
        assert_eq!((refused.value("offset"), refused.value("resumeOffset")), (Some("1"), Some("2")));
        assert!(!refused.message().contains("takes no writes"), "{refused}");
    }
    let behind = client.consumer().fetch(fetch(2)).await.unwrap().into_inner();
    assert_eq!(behind.chunks[0].records[0].value.as_deref(), Some(&b"after"[..]));
    // Read: the same, as an error of the partition.
    let request = pb::ReadRequest { targets: from(0), ..Default::default() };
    let mut stream = client.consumer().read(request).await.unwrap().into_inner();
    let mut told = None;
    while let Ok(Some(message)) = stream.message().await {
        if let Some(Event::PartitionError(error)) = message.event {
            told = error.error;
        }
    }
    let told = told.unwrap();
    assert_eq!((told.reason.as_str(), told.metadata["resumeOffset"].as_str()), ("BATCH_UNREADABLE", "2"));
    let peak = server.peak_memory();
    assert!(peak < 400 << 20, "the server took {peak} bytes");
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_small_records_as_are_accepted_can_be_read_back() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[("max.message.bytes", "15000000"), ("retention.ms", "-1")]).await;
    for _ in 0..3 {
        produce(&client, vec![pb::Record { timestamp_millis: Some(0), ..Default::default() }; 100_000]).await;
    }
    let options = pb::ReadOptions { max_message_bytes: 16 << 20, ..Default::default() };
    let mut next = 0;
    while next < 300_000 {
        let request =
            pb::FetchRequest { targets: from(next), options: Some(options), max_bytes: 16 << 20, ..Default::default() };
        let chunk = client.consumer().fetch(request).await.unwrap().into_inner().chunks.remove(0);
        assert!(chunk.next_offset > next);
        next = chunk.next_offset;
    }
    server.assert_no_panic();
}
