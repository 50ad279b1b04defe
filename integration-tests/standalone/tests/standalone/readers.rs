//! Readers: what they get is everything that was asked for, over restarts and growth, and positions mean what they say.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tonic::Streaming;
use walser_client::{ApiError, Client, Read, Reader, ReaderConfig};
use walser_model::Compression;
use walser_proto::v1 as pb;
use walser_proto::v1::position::At;
use walser_proto::v1::read_response::Event;
use walser_record_batch::{BatchBuilder, Producer, RecordFields};

use crate::server::{PATIENCE, Server, bound, create, place, record};

const PARTITIONS: i32 = 40;
const RECORDS: i64 = 900;

async fn fill(client: &Client, partition: i32, count: i64) {
    let records = (0..count).map(|number| record(format!("{partition} {number} {}", "x".repeat(200)))).collect();
    let request =
        pb::ProduceRequest { topic: "t".to_owned(), partition: Some(partition), records, ..Default::default() };
    client.producer().produce(request).await.unwrap();
}

fn reader(client: &Client, start: Option<pb::Bound>, end: Option<pb::Bound>) -> Reader {
    let target =
        pb::ReadTarget { topic: "t".to_owned(), start: start.map(bound), end: end.map(bound), ..Default::default() };
    Reader::new(client, ReaderConfig { targets: vec![target], batches: false, patience: PATIENCE })
}

/// Takes what a reader gives until it ends, or `enough` holds; every offset of a partition comes once and in order.
async fn take(
    reader: &mut Reader,
    seen: &mut BTreeMap<i32, i64>,
    enough: impl Fn(&BTreeMap<i32, i64>) -> bool,
) -> bool {
    while !enough(seen) {
        match tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap() {
            Read::Chunk(chunk) => {
                let next = seen.entry(chunk.partition).or_insert(0);
                for record in chunk.records {
                    assert_eq!(record.offset, *next, "partition {}", chunk.partition);
                    *next += 1;
                }
            }
            Read::End => return true,
            Read::CaughtUp | Read::Problem(_) | Read::Away(_) => {}
        }
    }
    false
}

/// Restarts a server on the address that its readers know.
fn restarted(server: Server) -> Server {
    let (address, data) = (server.address.clone(), server.data().to_owned());
    server.stop();
    Server::start_with(&data, &["--listen", &address])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_gets_every_partition_over_a_restart_and_those_that_are_added() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", PARTITIONS, &[]).await;
    for partition in 0..PARTITIONS {
        fill(&client, partition, RECORDS).await;
    }
    let mut bounded = reader(&client, None, Some(pb::Bound::Latest));
    let mut endless = reader(&client, Some(pb::Bound::Earliest), None);
    let mut latest = reader(&client, Some(pb::Bound::Latest), None);
    let (mut bounded_seen, mut endless_seen) = (BTreeMap::new(), BTreeMap::new());
    assert!(!take(&mut bounded, &mut bounded_seen, |seen| seen.len() >= 2).await);
    assert!(!take(&mut endless, &mut endless_seen, |seen| seen.len() >= 2).await);
    assert!(matches!(latest.next().await.unwrap(), Read::CaughtUp));

    let server = restarted(server);
    let client = server.client();
    let request = pb::AddPartitionsRequest { topic: "t".to_owned(), partition_count: 43, ..Default::default() };
    client.topics().add_partitions(request).await.unwrap();
    for partition in 0..43 {
        fill(&client, partition, 10).await;
    }
    assert!(take(&mut bounded, &mut bounded_seen, |_| false).await, "the end was fixed when the reader began");
    assert_eq!(bounded_seen, (0..PARTITIONS).map(|partition| (partition, RECORDS)).collect());

    let server = restarted(server);
    let all: BTreeMap<i32, i64> = (0..43).map(|partition| (partition, if partition < 40 { 910 } else { 10 })).collect();
    take(&mut endless, &mut endless_seen, |seen| *seen == all).await;
    let mut new = BTreeMap::from_iter((0..PARTITIONS).map(|partition| (partition, RECORDS)));
    take(&mut latest, &mut new, |seen| *seen == all).await;
    server.assert_no_panic();
}

async fn open(client: &Client, target: pb::ReadTarget, policy: pb::OutOfRangePolicy) -> Streaming<pb::ReadResponse> {
    let options = pb::ReadOptions { out_of_range: policy.into(), ..Default::default() };
    let request = pb::ReadRequest { targets: vec![target], options: Some(options), max_records: 0 };
    client.consumer().read(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_drained_says_that_it_is_not_complete() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 3, &[]).await;
    let target = pb::ReadTarget { topic: "t".to_owned(), ..Default::default() };
    let mut stream = open(&client, target, pb::OutOfRangePolicy::Unspecified).await;
    let caught_up = stream.message().await.unwrap().unwrap();
    assert!(matches!(caught_up.event, Some(Event::CaughtUp(_))), "{caught_up:?}");
    server.signal("TERM");
    let drain = stream.message().await.unwrap().unwrap();
    assert!(matches!(drain.event, Some(Event::Drain(_))), "{drain:?}");
    let end = ApiError::from(stream.message().await.unwrap_err());
    assert_eq!((end.reason_name(), end.retry()), ("GATEWAY_DRAINING", pb::RetryAdvice::Reopen));
}

fn at(start: i64, end: Option<pb::Position>) -> pb::ReadTarget {
    let start = Some(pb::Position { at: Some(At::Offset(start)) });
    pb::ReadTarget { topic: "t".to_owned(), partition: Some(0), start, end, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offset_that_the_log_has_not_reached_is_out_of_range_on_every_path() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    fill(&client, 0, 10).await;
    let latest = || Some(bound(pb::Bound::Latest));
    for target in [at(999, latest()), at(999, None), at(999, Some(pb::Position { at: Some(At::Offset(5)) }))] {
        let mut stream = open(&client, target.clone(), pb::OutOfRangePolicy::Fail).await;
        let refused = ApiError::from(stream.message().await.unwrap_err());
        assert_eq!(refused.reason_name(), "OFFSET_OUT_OF_RANGE", "{refused}");
        let fetch = pb::FetchRequest { targets: vec![target.clone()], ..Default::default() };
        let refused = ApiError::from(client.consumer().fetch(fetch).await.unwrap_err());
        assert_eq!(refused.reason_name(), "OFFSET_OUT_OF_RANGE", "{refused}");
        let mut stream = open(&client, target, pb::OutOfRangePolicy::Earliest).await;
        let first = stream.message().await.unwrap().unwrap();
        let Some(Event::OffsetReset(reset)) = first.event else { panic!("{first:?}") };
        assert_eq!((reset.requested_offset, reset.actual_offset), (999, 0));
    }
    // Nothing lies between these offsets, but the log has both.
    for target in [at(8, Some(pb::Position { at: Some(At::Offset(5)) })), at(10, latest())] {
        let mut stream = open(&client, target, pb::OutOfRangePolicy::Fail).await;
        let event = stream.message().await.unwrap().unwrap().event;
        assert!(matches!(event, Some(Event::EndReached(_))), "{event:?}");
        assert!(stream.message().await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_resumed_from_the_positions_that_the_reader_names() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 3, &[]).await;
    for partition in 0..3 {
        fill(&client, partition, 10).await;
    }
    let resume = |partition, next_offset| pb::PartitionResume { partition, next_offset, leader_epoch: Some(0) };
    let target = pb::ReadTarget {
        topic: "t".to_owned(),
        start: Some(pb::Position { at: Some(At::Offset(8)) }),
        end: Some(bound(pb::Bound::Latest)),
        resume: vec![resume(0, 3), resume(2, 10)],
        ..Default::default()
    };
    let mut stream = open(&client, target, pb::OutOfRangePolicy::Fail).await;
    let (mut first, mut ended) = (BTreeMap::new(), 0);
    while let Some(message) = stream.message().await.unwrap() {
        match message.event {
            Some(Event::Chunk(chunk)) => drop(first.insert(chunk.partition, chunk.records[0].offset)),
            Some(Event::EndReached(_)) => ended += 1,
            _ => {}
        }
    }
    assert_eq!((first, ended), (BTreeMap::from([(0, 3), (1, 8)]), 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_partition_has_its_turn_in_bounded_reads() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 4, &[]).await;
    for partition in 0..4 {
        fill(&client, partition, 10).await;
    }
    let target = pb::ReadTarget { topic: "t".to_owned(), ..Default::default() };
    let fetch = pb::FetchRequest { targets: vec![target], max_records: 1, ..Default::default() };
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        let answer = client.consumer().fetch(fetch.clone()).await.unwrap().into_inner();
        seen.insert(answer.chunks[0].partition);
        if seen.len() == 4 {
            return;
        }
    }
    panic!("only {seen:?} of 4 partitions came first in 1,000 reads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_between_two_milliseconds_finds_the_record_after_it() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[("retention.ms", "-1")]).await;
    let records = [1_000, 1_001].map(|millis| pb::Record { timestamp_millis: Some(millis), ..record("x") }).to_vec();
    let request = pb::ProduceRequest { topic: "t".to_owned(), records, ..Default::default() };
    client.producer().produce(request).await.unwrap();
    for (nanos, expected) in [(0, Some(0)), (1, Some(1)), (1_000_000, Some(1)), (1_000_001, None)] {
        let start = Some(pb::Position { at: Some(At::Timestamp(pbjson_types::Timestamp { seconds: 1, nanos })) });
        let target = pb::ReadTarget { topic: "t".to_owned(), start, ..Default::default() };
        let request = pb::ListOffsetsRequest { targets: vec![target], isolation: 0 };
        let found = client.consumer().list_offsets(request).await.unwrap().into_inner().offsets.remove(0);
        assert_eq!(found.offset, expected, "1 s and {nanos} ns");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_names_that_are_not_text_are_kept_apart() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let names: [&[u8]; 4] = [b"\xff", b"\xfe", b"plain", b"a\xc3"];
    let headers = names.map(|name| match std::str::from_utf8(name) {
        Ok(name) => pb::Header { key: name.to_owned(), ..Default::default() },
        Err(_) => pb::Header { raw_key: Some(Bytes::copy_from_slice(name)), ..Default::default() },
    });
    let written = pb::Record { headers: headers.to_vec(), ..record("x") };
    let request = pb::ProduceRequest { topic: "t".to_owned(), records: vec![written], ..Default::default() };
    client.producer().produce(request).await.unwrap();
    let read = crate::server::read_all(&client, "t", 0).await.remove(0);
    let name = |header: &pb::Header| header.raw_key.clone().unwrap_or_else(|| header.key.clone().into());
    assert_eq!(read.headers.iter().map(name).collect::<Vec<_>>(), names);
    assert_eq!(read.headers[2].raw_key, None);
    assert_eq!(read.timestamp_type(), pb::TimestampType::CreateTime);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_very_many_records_can_be_read_by_every_client() {
    const COUNT: i64 = 250_000;
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[("retention.ms", "-1")]).await;
    let mut builder = BatchBuilder::new(Compression::Gzip, 0);
    for _ in 0..COUNT {
        builder.append(&RecordFields { timestamp: 1_700_000_000_000, key: None, value: Some(b""), headers: &[] });
    }
    let record_batch = builder.build(Producer::NONE);
    let request = pb::ProduceRequest { topic: "t".to_owned(), partition: Some(0), record_batch, ..Default::default() };
    client.producer().produce(request).await.unwrap();
    let mut seen = BTreeMap::new();
    assert!(take(&mut reader(&client, None, Some(pb::Bound::Latest)), &mut seen, |_| false).await);
    assert_eq!(seen, BTreeMap::from([(0, COUNT)]));
    let mut next = 0;
    while next < COUNT {
        let fetch = pb::FetchRequest { targets: vec![at(next, None)], max_bytes: 16 << 20, ..Default::default() };
        let chunk = client.consumer().fetch(fetch).await.unwrap().into_inner().chunks.remove(0);
        assert!(chunk.next_offset > next);
        next = chunk.next_offset;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_says_what_it_rests_on() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "synced", 1, &[]).await;
    create(&client, "cached", 1, &[("durability", "page-cache")]).await;
    for (topic, acks, durability, offset) in [
        ("synced", pb::Acks::All, pb::Durability::Fsync, Some(0)),
        ("cached", pb::Acks::All, pb::Durability::PageCache, Some(0)),
        ("synced", pb::Acks::None, pb::Durability::Queued, None),
    ] {
        let records = vec![record("x"), record("y")];
        let request = pb::ProduceRequest { topic: topic.to_owned(), records, acks: acks.into(), ..Default::default() };
        let append = client.producer().produce(request).await.unwrap().into_inner().appends.remove(0);
        assert_eq!((append.durability(), append.base_offset, append.record_count), (durability, offset, 2));
    }
    let queued = tokio::time::timeout(PATIENCE, async {
        while crate::server::read_all(&client, "synced", 0).await.len() < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    queued.await.expect("what was queued is written");
}

/// A bounded read that waits for more returns what it has seen, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_waits_for_more_bytes_loses_nothing() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    fill(&client, 0, 3).await;
    let fetch = |start, min_bytes, millis| pb::FetchRequest {
        targets: vec![at(start, None)],
        min_bytes,
        max_wait: Some(pbjson_types::Duration { seconds: 0, nanos: millis * 1_000_000 }),
        ..Default::default()
    };
    let offsets = |answer: pb::FetchResponse| -> Vec<i64> {
        answer.chunks.iter().flat_map(|chunk| chunk.records.iter().map(|record| record.offset)).collect()
    };
    let waited = client.consumer().fetch(fetch(0, 100_000, 300)).await.unwrap().into_inner();
    assert_eq!(offsets(waited), [0, 1, 2], "not enough came, and what is there is returned");
    let waiting = {
        let client = client.clone();
        let mut request = fetch(0, 1000, 0);
        request.max_wait = Some(pbjson_types::Duration { seconds: 20, nanos: 0 });
        tokio::spawn(async move { client.consumer().fetch(request).await.unwrap().into_inner() })
    };
    fill(&client, 0, 7).await;
    let answer = waiting.await.unwrap();
    assert_eq!(offsets(answer)[..4], [0, 1, 2, 3]);
    let mut limited = fetch(0, 100_000, 0);
    (limited.max_records, limited.max_wait) = (4, Some(pbjson_types::Duration { seconds: 25, nanos: 0 }));
    let answer = client.consumer().fetch(limited).await.unwrap().into_inner();
    assert_eq!(offsets(answer), [0, 1, 2, 3], "more is there, and no more is asked for");
    let mut reset = fetch(999, 100_000, 300);
    reset.options = Some(pb::ReadOptions { out_of_range: pb::OutOfRangePolicy::Earliest.into(), ..Default::default() });
    let answer = client.consumer().fetch(reset).await.unwrap().into_inner();
    assert_eq!((answer.resets.len(), offsets(answer).len()), (1, 10), "never silent");
}

/// A topic that is created again under its name is another one: its offsets mean other records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_and_writers_of_a_topic_that_was_created_again_are_told() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    fill(&client, 0, 10).await;
    let mut following = reader(&client, None, None);
    let mut seen = BTreeMap::new();
    take(&mut following, &mut seen, |seen| seen.get(&0) == Some(&10)).await;
    let server = restarted(server);
    let client = server.client();
    let request = pb::DeleteTopicRequest { name: "t".to_owned(), etag: String::new() };
    client.topics().delete_topic(request).await.unwrap();
    create(&client, "t", 1, &[]).await;
    fill(&client, 0, 20).await;
    let told = loop {
        match tokio::time::timeout(PATIENCE, following.next()).await.unwrap() {
            Ok(Read::Chunk(chunk)) => panic!("records of another topic: {chunk:?}"),
            Ok(_) => {}
            Err(failure) => break failure,
        }
    };
    assert!(["TOPIC_RECREATED", "TOPIC_NOT_FOUND"].contains(&told.reason_name()), "{told}");
    let stale = pb::ReadTarget { topic_id: "00000000-0000-4000-8000-000000000001".to_owned(), ..at(0, None) };
    let fetch = pb::FetchRequest { targets: vec![stale], ..Default::default() };
    let refused = ApiError::from(client.consumer().fetch(fetch).await.unwrap_err());
    assert_eq!(refused.reason_name(), "TOPIC_RECREATED");
}

/// What a call returns fits what the client takes, resets included; the next calls return the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_of_many_partitions_fit_the_clients_messages() {
    const COUNT: i32 = 200;
    const BYTES: i32 = 8192;
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    let topic = "t".repeat(240);
    create(&client, &topic, COUNT, &[]).await;
    for partition in 0..COUNT {
        let records = vec![record("x".repeat(20))];
        let request =
            pb::ProduceRequest { topic: topic.clone(), partition: Some(partition), records, ..Default::default() };
        client.producer().produce(request).await.unwrap();
    }
    let mut next: BTreeMap<i32, i64> = (0..COUNT).map(|partition| (partition, 999)).collect();
    let mut read = 0;
    while read < COUNT {
        let targets = next.iter().map(|(partition, offset)| pb::ReadTarget {
            topic: topic.clone(),
            partition: Some(*partition),
            start: Some(pb::Position { at: Some(At::Offset(*offset)) }),
            ..Default::default()
        });
        let options = pb::ReadOptions {
            out_of_range: pb::OutOfRangePolicy::Earliest.into(),
            max_message_bytes: BYTES,
            ..Default::default()
        };
        let request = pb::FetchRequest { targets: targets.collect(), options: Some(options), ..Default::default() };
        let answer = client.consumer().fetch(request).await.unwrap().into_inner();
        assert!(prost::Message::encoded_len(&answer) <= usize::try_from(BYTES).unwrap());
        assert!(answer.errors.is_empty(), "{:?}", answer.errors);
        for reset in &answer.resets {
            next.insert(reset.topic_partition.as_ref().unwrap().partition, reset.actual_offset);
        }
        for chunk in &answer.chunks {
            read += i32::try_from(chunk.records.len()).unwrap();
            next.insert(chunk.partition, chunk.next_offset);
        }
    }
    assert!(next.values().all(|offset| *offset == 1));
}

/// A call that waits for more hears at once that there will be none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_waits_ends_when_its_topic_is_deleted() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    fill(&client, 0, 1).await;
    let target = at(1, None);
    let max_wait = Some(pbjson_types::Duration { seconds: 30, nanos: 0 });
    let fetch = pb::FetchRequest { targets: vec![target], max_wait, ..Default::default() };
    let waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.consumer().fetch(fetch).await });
    let request = pb::DeleteTopicRequest { name: "t".to_owned(), etag: String::new() };
    client.topics().delete_topic(request).await.unwrap();
    let told = tokio::time::timeout(PATIENCE / 3, waiting).await.expect("it waits on").unwrap();
    assert_eq!(ApiError::from(told.unwrap_err()).reason_name(), "TOPIC_NOT_FOUND");
}
