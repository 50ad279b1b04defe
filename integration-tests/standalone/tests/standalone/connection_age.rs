//! Connections that have reached their age: clients connect again, and nothing is lost.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use walser_client::{ApiError, Client, Read, Reader, ReaderConfig};
use walser_proto::v1 as pb;
use walser_proto::v1::produce_stream_request::Message;
use walser_proto::v1::produce_stream_response::Message as Reply;
use walser_proto::v1::read_response::Event;

use crate::faults::until;
use crate::server::{PATIENCE, Server, create, place, record};

const ROUNDS: usize = 3;

fn target() -> pb::ReadTarget {
    pb::ReadTarget { topic: "t".to_owned(), ..Default::default() }
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<T, ApiError> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await.expect("the stream says nothing");
    message.map(|message| message.expect("it is not complete")).map_err(ApiError::from)
}

fn assert_told(end: &ApiError) {
    assert_eq!((end.reason_name(), end.retry()), ("GATEWAY_DRAINING", pb::RetryAdvice::Reopen), "{end}");
}

/// A stream of records: it is told, and then it ends.
async fn read_to_the_end(client: &Client) {
    let request = pb::ReadRequest { targets: vec![target()], ..Default::default() };
    let mut stream = client.consumer().read(request).await.unwrap().into_inner();
    let first = next(&mut stream).await.unwrap().event;
    assert!(!matches!(first, Some(Event::Drain(_))), "the connection is a new one");
    while !matches!(next(&mut stream).await.unwrap().event, Some(Event::Drain(_))) {}
    assert_told(&next(&mut stream).await.unwrap_err());
}

/// A stream that writes nothing: the same.
async fn write_to_the_end(client: &Client) {
    let (requests, sent) = mpsc::channel(1);
    let open = pb::ProduceOpen { default_topic: "t".to_owned(), ..Default::default() };
    requests.send(pb::ProduceStreamRequest { message: Some(Message::Open(open)) }).await.unwrap();
    let mut stream = client.producer().produce_stream(ReceiverStream::new(sent)).await.unwrap().into_inner();
    assert!(matches!(next(&mut stream).await.unwrap().message, Some(Reply::Opened(_))));
    while !matches!(next(&mut stream).await.unwrap().message, Some(Reply::Drain(_))) {}
    assert_told(&next(&mut stream).await.unwrap_err());
}

/// Writes a record. A connection that ends before it has taken a call gives it back: nothing was sent then.
async fn write_once(client: &Client, round: usize) {
    let record = record(round.to_string());
    let request = pb::ProduceRequest { topic: "t".to_owned(), records: vec![record], ..Default::default() };
    until(
        async || match client.producer().produce(request.clone()).await {
            Ok(_) => true,
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::Cancelled, "{status}");
                false
            }
        },
        "a connection takes it",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_has_reached_its_age_is_replaced_without_a_loss() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", "gateway.connection.age.max.ms=1500ms"]);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let config = ReaderConfig { targets: vec![target()], batches: false, patience: PATIENCE };
    let mut reader = Reader::new(&client, config);
    let mut seen = 0;
    for round in 0..ROUNDS {
        tokio::join!(read_to_the_end(&client), write_to_the_end(&client));
        write_once(&client, round).await;
        while seen <= round {
            match tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap() {
                Read::Chunk(chunk) => seen += chunk.records.len(),
                Read::CaughtUp => {}
                Read::Problem(_) | Read::Away(_) | Read::End => panic!("the reader has seen the change"),
            }
        }
    }
    assert_eq!(seen, ROUNDS);
    server.assert_no_panic();
}
