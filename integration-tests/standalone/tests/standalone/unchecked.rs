//! Compressed batches that are accepted by their headers alone (`gateway.validate.compressed=false`): what a header
//! shows to be wrong is refused all the same, and what is accepted takes no log out of service.

use bytes::Bytes;
use walser_client::Client;
use walser_model::{Compression, ProducerEpoch, ProducerId};
use walser_proto::v1 as pb;
use walser_record_batch::{BatchBuilder, HEADER_LEN, Producer, RecordFields, stamp_producer};
use walser_rpc::ApiError;

use crate::server::{Server, create, place, record};

const UNCHECKED: [&str; 2] = ["--set", "gateway.validate.compressed=false"];
const NOW_MS: i64 = 1_790_000_000_000;

/// A compressed batch of two records with a change and a right checksum.
fn forged(change: impl FnOnce(&mut [u8])) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::Zstd, 0);
    let value = b"the same value again and again".repeat(20);
    for _ in 0..2 {
        builder.append(&RecordFields { timestamp: NOW_MS, key: None, value: Some(&value), headers: &[] });
    }
    let mut batch = builder.build(Producer::NONE).to_vec();
    change(&mut batch);
    stamp_producer(&mut batch, ProducerId::NONE, ProducerEpoch(-1), -1);
    batch.into()
}

async fn produce(client: &Client, record_batch: Bytes) -> Result<i64, ApiError> {
    let request = pb::ProduceRequest { topic: "t".to_owned(), partition: Some(0), record_batch, ..Default::default() };
    let answer = client.producer().produce(request).await.map_err(ApiError::from)?;
    Ok(answer.into_inner().appends[0].base_offset.unwrap())
}

fn at(position: pb::position::At) -> Vec<pb::ReadTarget> {
    let start = Some(pb::Position { at: Some(position) });
    vec![pb::ReadTarget { topic: "t".to_owned(), partition: Some(0), start, ..Default::default() }]
}

fn time(millis: i64) -> Vec<pb::ReadTarget> {
    at(pb::position::At::Timestamp(pbjson_types::Timestamp { seconds: millis / 1000, nanos: 0 }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_max_timestamp_that_would_age_a_batch_at_once_is_refused() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &UNCHECKED);
    let client = server.client();
    create(&client, "t", 1, &[("retention.ms", "-1")]).await;
    for wrong in [-1, 0, NOW_MS - 1] {
        let batch = forged(|batch| batch[35..43].copy_from_slice(&i64::to_be_bytes(wrong)));
        let refused = produce(&client, batch).await.unwrap_err();
        assert_eq!((refused.reason_name(), refused.value("rule")), ("RECORD_INVALID", Some("max-timestamp")));
    }
    // The records of a batch that is not compressed are always looked at, and its header follows them.
    let mut builder = BatchBuilder::new(Compression::None, 0);
    builder.append(&RecordFields { timestamp: NOW_MS, key: None, value: None, headers: &[] });
    let mut plain = builder.build(Producer::NONE).to_vec();
    plain[35..43].fill(0xff);
    plain[7] = 9;
    stamp_producer(&mut plain, ProducerId(1 << 40), ProducerEpoch(3), 9);
    assert_eq!(produce(&client, plain.into()).await.unwrap(), 0);
    let request = pb::ListOffsetsRequest { targets: time(NOW_MS), isolation: 0 };
    let found = client.consumer().list_offsets(request).await.unwrap().into_inner().offsets.remove(0);
    assert_eq!((found.offset, found.timestamp_millis), (Some(0), Some(NOW_MS)));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_do_not_decompress_leave_their_log_in_service() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &UNCHECKED);
    let client = server.client();
    create(&client, "t", 1, &[("retention.ms", "-1")]).await;
    produce(&client, forged(|_| {})).await.unwrap();
    let garbage = produce(&client, forged(|batch| batch[HEADER_LEN..].fill(0xa5))).await.unwrap();
    assert_eq!(garbage, 2);
    // A time that may lie in it, looked up in the tail and in the files alike.
    let later = NOW_MS + 1000;
    let request = pb::ListOffsetsRequest { targets: time(NOW_MS), isolation: 0 };
    assert_eq!(client.consumer().list_offsets(request).await.unwrap().into_inner().offsets[0].offset, Some(0));
    let before = pb::TruncateTopicRequest {
        topic: "t".to_owned(),
        before: Some(pb::Position { at: Some(pb::position::At::Offset(2)) }),
        ..Default::default()
    };
    client.topics().truncate_topic(before).await.unwrap();
    let request = pb::ListOffsetsRequest { targets: time(NOW_MS), isolation: 0 };
    let refused = ApiError::from(client.consumer().list_offsets(request).await.unwrap_err());
    assert_eq!(refused.reason_name(), "BATCH_UNREADABLE", "{refused}");
    assert_eq!((refused.value("offset"), refused.value("resumeOffset")), (Some("2"), Some("4")));
    assert!(!refused.message().contains("writes"), "{refused}");
    // Later times, other offsets and writes go on.
    let request = pb::ListOffsetsRequest { targets: time(later), isolation: 0 };
    assert_eq!(client.consumer().list_offsets(request).await.unwrap().into_inner().offsets[0].offset, None);
    let request = pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("after")], ..Default::default() };
    assert_eq!(client.producer().produce(request).await.unwrap().into_inner().positions[0].offset, 4);
    let fetch = pb::FetchRequest { targets: at(pb::position::At::Offset(4)), ..Default::default() };
    let chunk = client.consumer().fetch(fetch).await.unwrap().into_inner().chunks.remove(0);
    assert_eq!(chunk.records[0].value.as_deref(), Some(&b"after"[..]));
    server.assert_no_panic();
}
