//! Producer sessions: issued once, replaced by one of two, and limited in what is in flight.

use std::time::Duration;

use tokio_stream::wrappers::ReceiverStream;
use walser_client::{ApiError, Client, Producer, ProducerConfig};
use walser_proto::v1 as pb;
use walser_proto::v1::produce_stream_request::Message;
use walser_proto::v1::produce_stream_response::Message as Reply;
use walser_record_batch::{BatchBuilder, RecordFields};

use crate::server::{PATIENCE, Server, create, place, read_all, record};

async fn init(client: &Client, previous: Option<pb::ProducerIdentity>) -> Result<pb::ProducerIdentity, ApiError> {
    let answer = client.producer().init_producer(pb::InitProducerRequest { previous }).await?;
    Ok(answer.into_inner().producer.unwrap())
}

fn write(producer: pb::ProducerIdentity, base_sequence: i32, value: &str) -> pb::ProduceRequest {
    pb::ProduceRequest {
        topic: "t".to_owned(),
        partition: Some(0),
        records: vec![record(value)],
        producer: Some(producer),
        base_sequence,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_replace_the_same_session_one_is_fenced() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let first = init(&client, None).await.unwrap();
    let (one, other) = tokio::join!(init(&client, Some(first)), init(&client, Some(first)));
    let (session, refused) = match (one, other) {
        (Ok(session), Err(refused)) | (Err(refused), Ok(session)) => (session, refused),
        both => panic!("{both:?}"),
    };
    assert_eq!((session.producer_id, session.producer_epoch), (first.producer_id, 1));
    assert_eq!((refused.reason_name(), refused.value("currentEpoch")), ("PRODUCER_FENCED", Some("1")));
    client.producer().produce(write(session, 0, "new")).await.unwrap();
    let fenced = ApiError::from(client.producer().produce(write(first, 0, "old")).await.unwrap_err());
    assert_eq!(fenced.reason_name(), "PRODUCER_FENCED");

    // The same after a restart: what was replaced stays replaced.
    let server = Server::start(&server.kill());
    let client = server.client();
    assert_eq!(init(&client, Some(first)).await.unwrap_err().reason_name(), "PRODUCER_FENCED");
    assert_eq!(init(&client, Some(session)).await.unwrap().producer_epoch, 2);
    assert_eq!(read_all(&client, "t", 0).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_never_issued_is_refused() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let issued = init(&client, None).await.unwrap();
    let ahead = pb::ProducerIdentity { producer_id: issued.producer_id + 1_000_000, producer_epoch: 0 };
    let refused = ApiError::from(client.producer().produce(write(ahead, 0, "x")).await.unwrap_err());
    assert_eq!((refused.reason_name(), refused.value("field")), ("FIELD_INVALID", Some("producer.producer_id")));
    assert_eq!(init(&client, Some(ahead)).await.unwrap_err().reason_name(), "FIELD_INVALID");
    let raised = init(&client, Some(issued)).await.unwrap();
    let beyond = pb::ProducerIdentity { producer_epoch: raised.producer_epoch + 3, ..raised };
    assert_eq!(init(&client, Some(beyond)).await.unwrap_err().reason_name(), "FIELD_INVALID");
    let unknown = ApiError::from(client.producer().produce(write(raised, 7, "x")).await.unwrap_err());
    assert_eq!(unknown.reason_name(), "UNKNOWN_PRODUCER");
}

/// A drain answers what it has read, and says that the stream is not complete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_stream_answers_what_it_has_taken_and_ends_with_a_reason() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 2, &[]).await;
    let (requests, stream) = tokio::sync::mpsc::channel(16);
    let open = pb::ProduceOpen { default_topic: "t".to_owned(), ..Default::default() };
    requests.send(pb::ProduceStreamRequest { message: Some(Message::Open(open)) }).await.unwrap();
    let mut answers = client.producer().produce_stream(ReceiverStream::new(stream)).await.unwrap().into_inner();
    // Batches go on and on, so that the stop comes in the middle of some.
    let sending = tokio::spawn(async move {
        for correlation_id in 0..2000 {
            let records = (0..500).map(|_| record(vec![7; 1000])).collect();
            let message = match correlation_id % 3 {
                0 => Message::Heartbeat(pb::ClientHeartbeat {}),
                _ => Message::Batch(pb::ProduceBatch { correlation_id, records, ..Default::default() }),
            };
            if requests.send(pb::ProduceStreamRequest { message: Some(message) }).await.is_err() {
                return;
            }
        }
        // Not half-closed: the stream would be complete.
        requests.closed().await;
    });
    let (mut answered, mut drained, mut told) = (0, false, false);
    let end = loop {
        match tokio::time::timeout(PATIENCE, answers.message()).await.unwrap() {
            Ok(message) => match message.expect("it is not complete").message.unwrap() {
                Reply::Results(results) => {
                    for result in results.results {
                        let written = matches!(result.outcome, Some(pb::produce_result::Outcome::Written(_)));
                        assert!(written, "{result:?}");
                        answered += 1;
                    }
                    if answered >= 3 && !std::mem::replace(&mut told, true) {
                        server.signal("TERM");
                    }
                }
                Reply::Drain(_) => drained = true,
                Reply::Opened(_) | Reply::Heartbeat(_) => {}
            },
            Err(status) => break ApiError::from(status),
        }
    };
    assert!(drained && answered >= 3);
    assert_eq!((end.reason_name(), end.retry()), ("GATEWAY_DRAINING", pb::RetryAdvice::Reopen));
    sending.await.unwrap();
    let server = Server::start(&server.ended());
    let client = server.client();
    let stored = read_all(&client, "t", 0).await.len() + read_all(&client, "t", 1).await.len();
    assert_eq!(stored, answered * 500, "every record that was taken is answered");
}

/// The leader recognises five batches; what is sent beyond could be written twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_batches_than_a_stream_announces_are_refused() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let producer = init(&client, None).await.unwrap();
    let (requests, stream) = tokio::sync::mpsc::channel(400);
    let open = pb::ProduceOpen { default_topic: "t".to_owned(), producer: Some(producer), ..Default::default() };
    requests.send(pb::ProduceStreamRequest { message: Some(Message::Open(open)) }).await.unwrap();
    for number in 0..300_i32 {
        let batch = pb::ProduceBatch {
            correlation_id: i64::from(number),
            partition: Some(0),
            records: vec![record("x")],
            base_sequence: number,
            ..Default::default()
        };
        requests.send(pb::ProduceStreamRequest { message: Some(Message::Batch(batch)) }).await.unwrap();
    }
    drop(requests);
    let mut answers = client.producer().produce_stream(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let (mut written, mut reasons) = (0, std::collections::BTreeSet::new());
    while let Some(message) = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap() {
        match message.message.unwrap() {
            Reply::Opened(opened) => assert_eq!(opened.max_in_flight_batches, 5),
            Reply::Results(results) => {
                for result in results.results {
                    match result.outcome.unwrap() {
                        pb::produce_result::Outcome::Written(_) => written += 1,
                        pb::produce_result::Outcome::Error(error) => drop(reasons.insert(error.reason)),
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((5..300).contains(&written), "{written}");
    assert!(reasons.contains("IN_FLIGHT_LIMIT_EXCEEDED"), "{reasons:?}");
    assert!(reasons.iter().all(|reason| reason == "IN_FLIGHT_LIMIT_EXCEEDED" || reason == "PREDECESSOR_FAILED"));
    assert_eq!(read_all(&client, "t", 0).await.len(), written);
    server.assert_no_panic();
}

/// What is not waited for is written all the same, and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_without_acknowledgement_on_a_healthy_server() {
    const COUNT: usize = 200_000;
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "t", 2, &[]).await;
    let lines: String = (0..COUNT).map(|number| format!("{number}\n")).collect();
    let output = server.cli_with_input(&["produce", "t", "--acks", "none"], lines.as_bytes());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let client = server.client();
    let stored = async || read_all(&client, "t", 0).await.len() + read_all(&client, "t", 1).await.len();
    crate::faults::until(async || stored().await == COUNT, "every record is written").await;
}

/// The ids with which gateways write are not for clients, whichever gateway they ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ids_of_gateways_are_refused() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let plain = pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("x")], ..Default::default() };
    client.producer().produce(plain).await.unwrap();
    let first = walser_model::ProducerId::INTERNAL_FIRST.0;
    for producer_id in [first, first + 1, i64::MAX] {
        let stolen = pb::ProducerIdentity { producer_id, producer_epoch: 0 };
        let refused = ApiError::from(client.producer().produce(write(stolen, 1, "x")).await.unwrap_err());
        assert_eq!(refused.reason_name(), "FIELD_INVALID");
        assert_eq!(init(&client, Some(stolen)).await.unwrap_err().reason_name(), "FIELD_INVALID");
    }
    assert!(init(&client, None).await.unwrap().producer_id < first);
}

/// Behind a batch that is lost without a word, all later ones of the session would be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_needs_acknowledgements() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let producer = init(&client, None).await.unwrap();
    let request = pb::ProduceRequest { acks: pb::Acks::None.into(), ..write(producer, 0, "x") };
    let refused = ApiError::from(client.producer().produce(request).await.unwrap_err());
    assert_eq!((refused.reason_name(), refused.value("field")), ("FIELD_INVALID", Some("acks")));
    let open = pb::ProduceOpen {
        default_topic: "t".to_owned(),
        acks: pb::Acks::None.into(),
        producer: Some(producer),
        ..Default::default()
    };
    let open = pb::ProduceStreamRequest { message: Some(Message::Open(open)) };
    let mut answers = client.producer().produce_stream(tokio_stream::iter([open])).await.unwrap().into_inner();
    let refused = ApiError::from(answers.message().await.unwrap_err());
    assert_eq!((refused.reason_name(), refused.value("field")), ("FIELD_INVALID", Some("open.acks")));
}

fn batch(value: &[u8]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(walser_model::Compression::None, value.len());
    builder.append(&RecordFields { timestamp: 0, key: None, value: Some(value), headers: &[] });
    builder
}

async fn producer(client: &Client, delivery_timeout: Duration) -> Producer {
    let acks = walser_model::Acks::All;
    let config = ProducerConfig { topic: "t".to_owned(), acks, delivery_timeout, buffer_bytes: 64 << 20 };
    Producer::start(client, config).await.unwrap()
}

/// A producer has its topic, not its topic's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_does_not_write_into_a_topic_that_was_created_again() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    // One has written, the other has not.
    let (one, other) = (producer(&client, PATIENCE).await, producer(&client, PATIENCE).await);
    one.send(0, batch(b"first")).await.unwrap().await.unwrap();
    let request = pb::DeleteTopicRequest { name: "t".to_owned(), etag: String::new() };
    client.topics().delete_topic(request).await.unwrap();
    create(&client, "t", 1, &[]).await;
    for producer in [one, other] {
        for _ in 0..3 {
            let refused = producer.send(0, batch(b"second")).await.unwrap().await.unwrap_err();
            assert_eq!(refused.reason_name(), "TOPIC_RECREATED", "{refused}");
        }
    }
    assert_eq!(read_all(&client, "t", 0).await.len(), 0);
}

/// A batch that no message to the gateway holds fails by itself, however long its producer is patient.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_above_the_gateways_limit_does_not_hold_up_others() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", "gateway.message.bytes.max=1MiB"]);
    let client = server.client();
    create(&client, "t", 2, &[("max.message.bytes", "4MiB")]).await;
    let producer = producer(&client, Duration::from_secs(3600)).await;
    let large = producer.send(0, batch(&vec![7; 2_000_000])).await.unwrap();
    let small = producer.send(1, batch(b"small")).await.unwrap();
    let refused = tokio::time::timeout(PATIENCE, large).await.unwrap().unwrap_err();
    assert_eq!((refused.reason_name(), refused.effect()), ("RECORD_TOO_LARGE", pb::Effect::None), "{refused:?}");
    tokio::time::timeout(PATIENCE, small).await.unwrap().unwrap();
}
