//! A part of the partitions has no leader: the others are written and read as if nothing were, and what failed is named.

use std::collections::BTreeSet;
use std::time::Duration;

use tonic::Request;
use tonic_types::StatusExt as _;
use walser_client::{ApiError, Client, Read, Reader, ReaderConfig};
use walser_proto::v1 as pb;
use walser_proto::v1::produce_stream_request::Message;
use walser_proto::v1::produce_stream_response::Message as Reply;
use walser_proto::v1::read_response::Event;

use crate::faults::until;
use crate::processes::{Cluster, Service};
use crate::replicated::partitions;
use crate::server::{PATIENCE, bound, create, place, record};

const PARTITIONS: i32 = 8;

/// A topic over two storage nodes, one of which is killed. Returns the partitions that are left.
async fn half_a_topic(cluster: &Cluster, second: Service) -> BTreeSet<i32> {
    let client = cluster.client();
    create(&client, "t", PARTITIONS, &[]).await;
    for partition in 0..PARTITIONS {
        let records = vec![record("first")];
        let request =
            pb::ProduceRequest { topic: "t".to_owned(), partition: Some(partition), records, ..Default::default() };
        client.producer().produce(request).await.unwrap();
    }
    let request = pb::ListPartitionsRequest { topic: "t".to_owned(), ..Default::default() };
    let found = client.topics().list_partitions(request).await.unwrap().into_inner().partitions;
    let of_first = found.iter().filter_map(|found| found.partition.as_ref().filter(|found| found.leader == Some(1)));
    let left: BTreeSet<i32> = of_first.map(|found| found.partition).collect();
    assert!(!left.is_empty() && left.len() < 8, "{left:?}");
    second.kill();
    // What is sent to a leader whose connection has just broken may have arrived: nobody leads here any more.
    let gone = async || {
        let partitions = partitions(&client, "t").await;
        !partitions.is_empty() && partitions.iter().all(|found| found.leader.is_none_or(|leader| leader == 1))
    };
    until(gone, "the others have no leader").await;
    left
}

/// Keyed records that go to every partition.
fn keyed(count: usize) -> Vec<pb::Record> {
    let keyed = |number: usize| pb::Record { key: Some(number.to_string().into()), ..record(number.to_string()) };
    (0..count).map(keyed).collect()
}

fn within<T>(request: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(limit);
    request
}

fn indexes(bitmap: &[u8]) -> BTreeSet<usize> {
    (0..bitmap.len() * 8).filter(|index| bitmap[index / 8] & (1 << (index % 8)) != 0).collect()
}

/// Values of every partition that can be read, by a bounded read over the topic.
async fn readable(client: &Client, left: &BTreeSet<i32>) -> BTreeSet<String> {
    let target = pb::ReadTarget { topic: "t".to_owned(), end: Some(bound(pb::Bound::Latest)), ..Default::default() };
    let request = pb::ReadRequest { targets: vec![target], ..Default::default() };
    let mut stream = client.consumer().read(request).await.unwrap().into_inner();
    let (mut values, mut ended, mut failed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    while ended.len() < left.len() || failed.len() < 8 - left.len() {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        match message.event.unwrap() {
            Event::Chunk(chunk) => values
                .extend(chunk.records.into_iter().map(|read| String::from_utf8(read.value.unwrap().to_vec()).unwrap())),
            Event::EndReached(place) => drop(ended.insert(place.partition)),
            Event::PartitionError(error) => drop(failed.insert(error.topic_partition.unwrap().partition)),
            _ => {}
        }
    }
    assert_eq!(&ended, left);
    values
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_partitions_are_written_and_read_and_every_record_that_is_not_written_is_named() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    cluster.restart_gateway(&["gateway.produce.timeout.ms=2000"]);
    let second = cluster.another_node(2);
    let client = cluster.client();
    let left = half_a_topic(&cluster, second).await;

    let records = keyed(1000);
    let request = pb::ProduceRequest { topic: "t".to_owned(), records: records.clone(), ..Default::default() };
    let status = client.producer().produce(within(request, Duration::from_secs(3))).await.unwrap_err();
    let failure = ApiError::from(status.clone());
    assert_eq!((failure.effect(), failure.retry()), (pb::Effect::Partial, pb::RetryAdvice::Never), "{failure:?}");
    assert_ne!(status.code(), tonic::Code::Unavailable, "proxies would send it again");
    let details = tonic_types::pb::Status::decode_details(&status);
    let detail = details.iter().find(|detail| detail.type_url.ends_with("walser.v1.ProduceFailure")).unwrap();
    let failed: pb::ProduceFailure = prost::Message::decode(detail.value.as_slice()).unwrap();
    let (not_written, unknown) = (indexes(&failed.not_written), indexes(&failed.unknown));
    assert!(unknown.is_empty() && !failed.truncated, "nothing left for a partition without a leader");
    let written = (0..1000).filter(|index| !not_written.contains(index)).map(|index: usize| index.to_string());
    let mut expected: BTreeSet<String> = written.collect();
    expected.insert("first".to_owned());
    assert_eq!(readable(&client, &left).await, expected);

    // The same on a stream.
    let open = pb::ProduceOpen { default_topic: "t".to_owned(), ..Default::default() };
    let batch = pb::ProduceBatch { correlation_id: 1, records, ..Default::default() };
    let requests =
        [Message::Open(open), Message::Batch(batch)].map(|message| pb::ProduceStreamRequest { message: Some(message) });
    let requests = tokio_stream::iter(requests);
    let mut answers = client.producer().produce_stream(requests).await.unwrap().into_inner();
    let result = loop {
        let message = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
        if let Some(Reply::Results(results)) = message.message {
            break results.results.into_iter().next().unwrap();
        }
    };
    assert_eq!(indexes(&result.failure.unwrap().not_written), not_written);

    // Records without a key go where they can be written.
    for number in 0..50 {
        let records = vec![record(format!("unkeyed {number}"))];
        let request = pb::ProduceRequest { topic: "t".to_owned(), records, ..Default::default() };
        let answer = client.producer().produce(request).await.unwrap().into_inner();
        assert!(left.contains(&answer.positions[0].partition));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_read_names_the_partitions_without_a_leader_and_returns_the_others_at_once() {
    let (_dir, data) = place();
    let cluster = Cluster::start(&data);
    let second = cluster.another_node(2);
    let client = cluster.client();
    let left = half_a_topic(&cluster, second).await;
    let target = pb::ReadTarget { topic: "t".to_owned(), ..Default::default() };
    let request = pb::FetchRequest { targets: vec![target], ..Default::default() };
    let answer = client.consumer().fetch(request).await.unwrap().into_inner();
    let read: BTreeSet<i32> = answer.chunks.iter().map(|chunk| chunk.partition).collect();
    assert_eq!(read, left);
    let failed: BTreeSet<i32> =
        answer.errors.iter().map(|error| error.topic_partition.as_ref().unwrap().partition).collect();
    assert_eq!(failed.len() + left.len(), 8);
    assert!(answer.errors.iter().all(|error| error.error.as_ref().unwrap().reason == "LEADER_NOT_AVAILABLE"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_left_by_its_deadline_is_never_written() {
    let (_dir, data) = place();
    let cluster = Cluster::start(&data);
    let second = cluster.another_node(2);
    let client = cluster.client();
    let left = half_a_topic(&cluster, second).await;
    let away = (0..PARTITIONS).find(|partition| !left.contains(partition)).unwrap();
    let write = |value: &str| pb::ProduceRequest {
        topic: "t".to_owned(),
        partition: Some(away),
        records: vec![record(value)],
        ..Default::default()
    };
    let mut late = tokio::task::JoinSet::new();
    for number in 0..1000 {
        let (client, request) = (client.clone(), write(&format!("late {number}")));
        late.spawn(async move { client.producer().produce(within(request, Duration::from_secs(5))).await });
    }
    let mut told = 0;
    while let Some(outcome) = late.join_next().await {
        let status = outcome.unwrap().unwrap_err();
        // Without details the client gave up by itself, before the answer had travelled.
        if !status.details().is_empty() {
            let effect = ApiError::from(status.clone()).effect();
            // A busy gateway answers before it has looked.
            assert!(matches!(effect, pb::Effect::None | pb::Effect::Maybe), "{status:?}");
            told += usize::from(effect == pb::Effect::None);
        }
    }
    assert!(told > 0);
    let _second = cluster.another_node(2);
    client.producer().produce(write("in time")).await.unwrap();
    let values: Vec<_> = crate::server::read_all(&client, "t", away).await.into_iter().map(|read| read.value).collect();
    assert_eq!(values, [Some("first".into()), Some("in time".into())]);
}

/// The details of a status, packed or not.
trait DecodeDetails {
    fn decode_details(status: &tonic::Status) -> Vec<prost_types::Any>;
}

impl DecodeDetails for tonic_types::pb::Status {
    fn decode_details(status: &tonic::Status) -> Vec<prost_types::Any> {
        assert!(status.get_error_details().error_info().is_some());
        let decoded: Self = prost::Message::decode(status.details()).unwrap();
        decoded.details
    }
}

/// A stop answers what waits for a leader, with the truth, before it closes the connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stops_answers_writes_that_wait_for_a_leader() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    cluster.restart_gateway(&["shutdown.grace.ms=3000"]);
    let second = cluster.another_node(2);
    let client = cluster.client();
    let left = half_a_topic(&cluster, second).await;
    let away = (0..PARTITIONS).find(|partition| !left.contains(partition)).unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..50 {
        let client = client.clone();
        let request = pb::ProduceRequest {
            topic: "t".to_owned(),
            partition: Some(away),
            records: vec![record(format!("waits {number}"))],
            ..Default::default()
        };
        waiting.spawn(async move { client.producer().produce(request).await });
    }
    // They are under way once a later call has been answered.
    let topic = pb::GetTopicRequest { name: "t".to_owned() };
    client.topics().get_topic(topic).await.unwrap();
    cluster.stop_gateway();
    while let Some(outcome) = waiting.join_next().await {
        let status = outcome.unwrap().unwrap_err();
        if !status.details().is_empty() {
            let failure = ApiError::from(status);
            // Some may have left before the gateway heard that the node is gone.
            let expected = match failure.value("appended") {
                Some("unknown") => pb::Effect::Maybe,
                _ => pb::Effect::None,
            };
            assert_eq!(failure.effect(), expected, "{failure:?}");
        }
    }
}

/// Nothing is deleted anywhere while one leader is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncation_needs_every_leader() {
    let (_dir, data) = place();
    let cluster = Cluster::start(&data);
    let second = cluster.another_node(2);
    let client = cluster.client();
    let left = half_a_topic(&cluster, second).await;
    let request = pb::TruncateTopicRequest {
        topic: "t".to_owned(),
        before: Some(bound(pb::Bound::Latest)),
        ..Default::default()
    };
    let refused = ApiError::from(client.topics().truncate_topic(request).await.unwrap_err());
    assert_eq!((refused.reason_name(), refused.effect()), ("LEADER_NOT_AVAILABLE", pb::Effect::None));
    for partition in left {
        assert_eq!(crate::server::read_all(&client, "t", partition).await.len(), 1);
    }
}

/// A reader begins with what can be read, and gets the rest once it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_reader_begins_without_the_partitions_that_are_away() {
    let (_dir, data) = place();
    let cluster = Cluster::start(&data);
    let second = cluster.another_node(2);
    let client = cluster.client();
    let left = half_a_topic(&cluster, second).await;
    let target = pb::ReadTarget { topic: "t".to_owned(), end: Some(bound(pb::Bound::Latest)), ..Default::default() };
    let config = ReaderConfig { targets: vec![target], batches: false, patience: PATIENCE };
    let mut reader = Reader::new(&client, config);
    let (mut seen, mut second) = (BTreeSet::new(), None);
    loop {
        match tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap() {
            Read::Chunk(chunk) => drop(seen.insert((chunk.partition, chunk.records.len()))),
            Read::End => break,
            Read::CaughtUp | Read::Problem(_) | Read::Away(_) => {}
        }
        if seen.len() == left.len() && second.is_none() {
            second = Some(cluster.another_node(2));
        }
    }
    assert_eq!(seen, (0..PARTITIONS).map(|partition| (partition, 1)).collect());
}

/// What waits for a leader has a room of its own: when that is taken, a stream goes on with its other partitions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_not_held_up_by_a_partition_without_a_leader() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    cluster.restart_gateway(&["gateway.write.bytes.max=64MiB", "gateway.stream.in.flight.bytes.max=128MiB"]);
    let second = cluster.another_node(2);
    let client = cluster.client();
    let left = half_a_topic(&cluster, second).await;
    let healthy = *left.first().unwrap();
    let away = (0..PARTITIONS).find(|partition| !left.contains(partition)).unwrap();

    let (requests, stream) = tokio::sync::mpsc::channel(1);
    let open = pb::ProduceOpen { default_topic: "t".to_owned(), ..Default::default() };
    let sending = tokio::spawn(async move {
        let send = async |message| requests.send(pb::ProduceStreamRequest { message: Some(message) }).await;
        let batch = |correlation_id, partition, bytes| {
            let records = vec![record(vec![7; bytes])];
            Message::Batch(pb::ProduceBatch {
                correlation_id,
                partition: Some(partition),
                records,
                ..Default::default()
            })
        };
        send(Message::Open(open)).await.unwrap();
        // Twice as much as may wait for one partition, and for all without a leader.
        for number in 0..70 {
            send(batch(number, away, 900_000)).await.unwrap();
        }
        send(batch(70, healthy, 10)).await.unwrap();
        requests.closed().await;
    });
    let mut answers = client
        .producer()
        .produce_stream(tokio_stream::wrappers::ReceiverStream::new(stream))
        .await
        .unwrap()
        .into_inner();
    let mut refused = 0;
    'answers: loop {
        let message = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
        let Some(Reply::Results(results)) = message.message else { continue };
        for result in results.results {
            match result.outcome.unwrap() {
                pb::produce_result::Outcome::Written(_) => {
                    assert_eq!(result.correlation_id, 70);
                    break 'answers;
                }
                pb::produce_result::Outcome::Error(error) => {
                    assert_eq!((error.reason.as_str(), error.effect()), ("LEADER_NOT_AVAILABLE", pb::Effect::None));
                    refused += 1;
                }
            }
        }
    }
    assert!(refused < 70, "some wait");
    drop(answers);
    sending.abort();
}
