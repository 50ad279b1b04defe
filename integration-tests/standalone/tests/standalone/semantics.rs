//! What writes and reads mean: idempotence, streams, positions, waiting, deadlines.

use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::Code;
use walser_client::Client;
use walser_proto::v1 as pb;
use walser_proto::v1::produce_stream_request::Message;
use walser_proto::v1::produce_stream_response::Message as Reply;
use walser_proto::v1::read_response::Event;
use walser_rpc::ApiError;

use crate::server::{PATIENCE, Server, bound, create, place, read_all, record};

fn session(identity: &pb::ProducerIdentity, base_sequence: i32, values: &[&str]) -> pb::ProduceRequest {
    pb::ProduceRequest {
        topic: "t".to_owned(),
        partition: Some(0),
        records: values.iter().map(|value| record(*value)).collect(),
        producer: Some(*identity),
        base_sequence,
        ..Default::default()
    }
}

async fn produce(client: &Client, request: pb::ProduceRequest) -> Result<pb::AppendResult, ApiError> {
    let answer = client.producer().produce(request).await?.into_inner();
    Ok(answer.appends[0])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_sequence_is_recognised_also_after_a_kill() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let init = pb::InitProducerRequest::default();
    let identity = client.producer().init_producer(init).await.unwrap().into_inner().producer.unwrap();
    for base in [0, 2, 4, 6, 8, 10, 12] {
        let append = produce(&client, session(&identity, base, &["a", "b"])).await.unwrap();
        assert_eq!((append.base_offset, append.duplicate), (Some(i64::from(base)), false));
        assert_eq!((append.durability(), append.copies), (pb::Durability::Fsync, 1));
    }
    let server = Server::start(&server.kill());
    let client = server.client();
    let again = produce(&client, session(&identity, 12, &["a", "b"])).await.unwrap();
    assert_eq!((again.base_offset, again.duplicate), (Some(12), true));
    let reason = async |sequence| {
        let refused = produce(&client, session(&identity, sequence, &["a", "b"])).await.unwrap_err();
        (refused.reason_name(), refused.value("expectedSequence").map(str::to_owned))
    };
    assert_eq!(reason(99).await, ("SEQUENCE_OUT_OF_ORDER", Some("14".to_owned())), "a gap");
    assert_eq!(reason(0).await, ("DUPLICATE_SEQUENCE", Some("14".to_owned())), "too old to be recognised");
    let init = pb::InitProducerRequest { previous: Some(identity) };
    let newer = client.producer().init_producer(init).await.unwrap().into_inner().producer.unwrap();
    assert_eq!((newer.producer_id, newer.producer_epoch), (identity.producer_id, identity.producer_epoch + 1));
    produce(&client, session(&newer, 0, &["c"])).await.unwrap();
    let fenced = produce(&client, session(&identity, 14, &["d"])).await.unwrap_err();
    assert_eq!(fenced.reason_name(), "PRODUCER_FENCED");
    assert_eq!(read_all(&client, "t", 0).await.len(), 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_batch_keeps_the_time_of_its_append() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let init = pb::InitProducerRequest::default();
    let identity = client.producer().init_producer(init).await.unwrap().into_inner().producer.unwrap();
    let first = produce(&client, session(&identity, 0, &["a"])).await.unwrap();
    let again = produce(&client, session(&identity, 0, &["a"])).await.unwrap();
    assert!(again.duplicate && first.log_append_time_millis.is_some(), "{again:?}");
    assert_eq!(again.log_append_time_millis, first.log_append_time_millis);
    let read = read_all(&client, "t", 0).await;
    assert_eq!(Some(read[0].timestamp_millis), first.log_append_time_millis);
}

/// Writers of a topic that is deleted are told that, whatever their write was waiting for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_deleted_under_writes_is_not_found() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", "gateway.auto.create.topics=false"]);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let client = client.clone();
        writers.spawn(async move {
            loop {
                let request =
                    pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("x")], ..Default::default() };
                if let Err(status) = client.producer().produce(request).await {
                    return ApiError::from(status);
                }
            }
        });
    }
    while read_all(&client, "t", 0).await.len() < 100 {}
    let request = pb::DeleteTopicRequest { name: "t".to_owned(), etag: String::new() };
    client.topics().delete_topic(request).await.unwrap();
    while let Some(failure) = writers.join_next().await {
        let failure = failure.unwrap();
        assert_eq!(failure.reason_name(), "TOPIC_NOT_FOUND", "{failure:?}");
    }
}

fn open(topic: &str) -> pb::ProduceStreamRequest {
    let open = pb::ProduceOpen { default_topic: topic.to_owned(), ..Default::default() };
    pb::ProduceStreamRequest { message: Some(Message::Open(open)) }
}

fn in_stream(correlation_id: i64, records: Vec<pb::Record>) -> pb::ProduceStreamRequest {
    let batch = pb::ProduceBatch { correlation_id, partition: Some(0), records, ..Default::default() };
    pb::ProduceStreamRequest { message: Some(Message::Batch(batch)) }
}

/// Sends all, half-closes, and collects results by correlation id, and how the stream ended.
async fn stream(
    client: &Client,
    requests: Vec<pb::ProduceStreamRequest>,
) -> (Vec<pb::ProduceResult>, Option<ApiError>) {
    let opened = client.producer().produce_stream(tokio_stream::iter(requests)).await;
    let mut answers = opened.unwrap().into_inner();
    let mut results = Vec::new();
    loop {
        match answers.message().await {
            Ok(Some(message)) => {
                if let Some(Reply::Results(group)) = message.message {
                    results.extend(group.results);
                }
            }
            Ok(None) => return (results, None),
            Err(status) => return (results, Some(status.into())),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_produce_stream_answers_everything_before_it_ends() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let mut requests = vec![open("t")];
    requests.extend((1..=500).map(|number| in_stream(number, vec![record(format!("v{number}"))])));
    requests.push(in_stream(501, vec![]));
    requests.push(in_stream(502, vec![record("last")]));
    let (results, end) = stream(&client, requests).await;
    assert!(end.is_none(), "{end:?}");
    let order: Vec<i64> = results.iter().map(|result| result.correlation_id).collect();
    assert_eq!(order, (1..=502).collect::<Vec<_>>(), "a refusal does not overtake what was sent before");
    let mut offsets = Vec::new();
    for result in results {
        match result.outcome.unwrap() {
            pb::produce_result::Outcome::Written(written) => offsets.push(written.positions[0].offset),
            pb::produce_result::Outcome::Error(error) => {
                assert_eq!((result.correlation_id, error.reason.as_str()), (501, "PAYLOAD_AMBIGUOUS"));
            }
        }
    }
    assert_eq!(offsets, (0..501).collect::<Vec<_>>(), "answers of one partition come in order");
    let values = read_all(&client, "t", 0).await;
    assert_eq!(values[41].value.as_deref(), Some(b"v42".as_slice()));
}

/// Plain records gather with what others write, and conditional ones go as they are: neither may overtake the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_keep_the_order_of_a_stream_of_both_kinds() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let mut requests = vec![open("t")];
    for number in 0..200 {
        let mut request = in_stream(number + 1, vec![record(format!("v{number}"))]);
        if let Some(Message::Batch(batch)) = &mut request.message {
            batch.expected_offset = (number % 5 == 4).then_some(number);
        }
        requests.push(request);
    }
    let (results, end) = stream(&client, requests).await;
    assert!(end.is_none(), "{end:?}");
    for result in results {
        let Some(pb::produce_result::Outcome::Written(written)) = result.outcome else { panic!("{result:?}") };
        assert_eq!(written.appends[0].base_offset, Some(result.correlation_id - 1));
    }
}

/// A stream that has written to a topic does not bring it back to life.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_is_not_created_again_for_a_stream_that_goes_on() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    let (requests, stream) = tokio::sync::mpsc::channel(8);
    requests.send(open("t")).await.unwrap();
    requests.send(in_stream(1, vec![record("first")])).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let mut answers = client.producer().produce_stream(stream).await.unwrap().into_inner();
    let mut result = async || loop {
        if let Some(Reply::Results(group)) = answers.message().await.unwrap().unwrap().message {
            return group.results[0].outcome.clone().unwrap();
        }
    };
    assert!(matches!(result().await, pb::produce_result::Outcome::Written(_)), "the first write creates it");
    let request = pb::DeleteTopicRequest { name: "t".to_owned(), etag: String::new() };
    client.topics().delete_topic(request).await.unwrap();
    requests.send(in_stream(2, vec![record("second")])).await.unwrap();
    let pb::produce_result::Outcome::Error(error) = result().await else { panic!("it was written") };
    assert_eq!(error.reason, "TOPIC_NOT_FOUND");
    // One that is created again under the name is another topic.
    create(&client, "t", 1, &[]).await;
    requests.send(in_stream(3, vec![record("third")])).await.unwrap();
    let pb::produce_result::Outcome::Error(error) = result().await else { panic!("it was written") };
    assert_eq!(error.reason, "TOPIC_RECREATED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_produce_stream_that_breaks_the_rules_ends() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let cases = [
        vec![in_stream(1, vec![record("x")])],
        vec![open("t"), open("t")],
        vec![open("t"), in_stream(5, vec![record("x")]), in_stream(5, vec![record("y")])],
        vec![pb::ProduceStreamRequest { message: None }],
    ];
    for requests in cases {
        let (_, end) = stream(&client, requests).await;
        assert_eq!(end.unwrap().reason_name(), "STREAM_PROTOCOL_VIOLATION");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_start_and_end_where_they_are_told() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let stamped = |n: i64| pb::Record { timestamp_millis: Some(1_000_000 + n * 1000), ..record(n.to_string()) };
    let request =
        pb::ProduceRequest { topic: "t".to_owned(), records: (0..100).map(stamped).collect(), ..Default::default() };
    client.producer().produce(request).await.unwrap();
    let at = |at: pb::position::At| pb::Position { at: Some(at) };
    let time = |n: i64| at(pb::position::At::Timestamp(pbjson_types::Timestamp { seconds: 1000 + n, nanos: 0 }));
    let cases = [
        (bound(pb::Bound::Earliest), 0),
        (at(pb::position::At::Offset(40)), 40),
        (at(pb::position::At::TailCount(10)), 90),
        (at(pb::position::At::TailCount(1000)), 0),
        (time(25), 25),
        (at(pb::position::At::Age(pbjson_types::Duration { seconds: 1 << 34, nanos: 0 })), 0),
    ];
    for (start, expected) in cases {
        let target = pb::ReadTarget { topic: "t".to_owned(), start: Some(start), ..Default::default() };
        let request = pb::ListOffsetsRequest { targets: vec![target.clone()], isolation: 0 };
        let found = client.consumer().list_offsets(request).await.unwrap().into_inner().offsets;
        assert_eq!(found[0].offset, Some(expected));
        let request = pb::FetchRequest { targets: vec![target], max_records: 3, ..Default::default() };
        let fetched = client.consumer().fetch(request).await.unwrap().into_inner();
        assert_eq!((fetched.chunks[0].records[0].offset, fetched.chunks[0].records.len()), (expected, 3));
    }
    let target =
        pb::ReadTarget { topic: "t".to_owned(), start: Some(time(10)), end: Some(time(20)), ..Default::default() };
    let request = pb::ReadRequest { targets: vec![target], ..Default::default() };
    let mut stream = client.consumer().read(request).await.unwrap().into_inner();
    let mut offsets = Vec::new();
    let mut ended = false;
    while let Some(message) = stream.message().await.unwrap() {
        match message.event.unwrap() {
            Event::Chunk(chunk) => offsets.extend(chunk.records.iter().map(|record| record.offset)),
            Event::EndReached(_) => ended = true,
            _ => {}
        }
    }
    assert_eq!((offsets, ended), ((10..20).collect(), true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_read_is_woken_by_the_append() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 2, &[]).await;
    let target = pb::ReadTarget { topic: "t".to_owned(), start: Some(bound(pb::Bound::Latest)), ..Default::default() };
    let fetch =
        pb::FetchRequest { targets: vec![target.clone()], max_wait: Some(PATIENCE.into()), ..Default::default() };
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.consumer().fetch(fetch).await.unwrap().into_inner() }
    });
    let read = pb::ReadRequest { targets: vec![target], ..Default::default() };
    let mut stream = client.consumer().read(read).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(first, Event::CaughtUp(_)), "{first:?}");
    // The unary read may begin after the first record; it gets one of them.
    let mut seen = 0;
    let mut number = 0;
    while seen == 0 || !waiting.is_finished() {
        let request = pb::ProduceRequest {
            topic: "t".to_owned(),
            partition: Some(number % 2),
            records: vec![record(format!("r{number}"))],
            ..Default::default()
        };
        client.producer().produce(request).await.unwrap();
        number += 1;
        while seen < number {
            if let Event::Chunk(chunk) = stream.message().await.unwrap().unwrap().event.unwrap() {
                seen += i32::try_from(chunk.records.len()).unwrap();
            }
        }
    }
    assert!(!waiting.await.unwrap().chunks.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_follows_partitions_that_are_added() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let target =
        pb::ReadTarget { topic: "t".to_owned(), start: Some(bound(pb::Bound::Earliest)), ..Default::default() };
    let request = pb::ReadRequest { targets: vec![target], ..Default::default() };
    let stream = client.consumer().read(request).await.unwrap().into_inner();
    let request = pb::AddPartitionsRequest { topic: "t".to_owned(), partition_count: 4, ..Default::default() };
    client.topics().add_partitions(request).await.unwrap();
    let request = pb::ProduceRequest {
        topic: "t".to_owned(),
        partition: Some(3),
        records: vec![record("new")],
        ..Default::default()
    };
    client.producer().produce(request).await.unwrap();
    let mut chunks = stream.filter_map(|message| match message.unwrap().event.unwrap() {
        Event::Chunk(chunk) => Some(chunk),
        _ => None,
    });
    let chunk = tokio::time::timeout(PATIENCE, chunks.next()).await.unwrap().unwrap();
    assert_eq!((chunk.partition, chunk.records[0].value.as_deref()), (3, Some(b"new".as_slice())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_are_answered_before_they_pass() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let target = pb::ReadTarget { topic: "t".to_owned(), start: Some(bound(pb::Bound::Latest)), ..Default::default() };
    let fetch = pb::FetchRequest { targets: vec![target], max_wait: Some(PATIENCE.into()), ..Default::default() };
    let mut request = tonic::Request::new(fetch);
    request.set_timeout(Duration::from_millis(300));
    // The wait is cut to the caller's deadline: an empty answer, not an error.
    let answer = client.consumer().fetch(request).await.unwrap().into_inner();
    assert!(answer.chunks.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_again_under_its_name_is_another_one() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let write = || pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("x")], ..Default::default() };
    for _ in 0..3 {
        client.producer().produce(write()).await.unwrap();
    }
    let request = pb::DeleteTopicRequest { name: "t".to_owned(), etag: "1".to_owned() };
    let stale = client.topics().delete_topic(request).await.unwrap_err();
    assert_eq!(stale.code(), Code::Aborted);
    let request = pb::DeleteTopicRequest { name: "t".to_owned(), etag: String::new() };
    let operation = client.topics().delete_topic(request).await.unwrap().into_inner().operation.unwrap();
    create(&client, "t", 1, &[]).await;
    assert!(read_all(&client, "t", 0).await.is_empty());
    let first = client.producer().produce(write()).await.unwrap().into_inner();
    assert_eq!(first.positions[0].offset, 0);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let request = pb::GetOperationRequest { id: operation.id.clone() };
        let now = client.operations().get_operation(request).await.unwrap().into_inner().operation.unwrap();
        if now.state() == pb::OperationState::Succeeded {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{now:?}");
        crate::server::wait_a_little();
    }
}
