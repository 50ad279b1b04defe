//! What stock clients send and expect below the services: compressed requests, HTTP/1, and reflection of errors.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tonic::body::Body;
use tonic::codegen::{Service as _, http};
use tonic::transport::Channel;
use tonic::{Code, Status};
use walser_proto::v1 as pb;
use walser_rpc::ApiError;

use crate::server::{Server, create, place, read_all, record};

const PRODUCE: &str = "/walser.v1.ProducerService/Produce";
const PRODUCE_STREAM: &str = "/walser.v1.ProducerService/ProduceStream";
/// Largest message that the server takes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

fn channel(server: &Server) -> Channel {
    tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap().connect_lazy()
}

fn compressed(encoding: &str, plain: &[u8]) -> Vec<u8> {
    match encoding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        _ => zstd::stream::encode_all(plain, 3).unwrap(),
    }
}

/// Calls with messages that are compressed already; returns the messages of the answer, or the error.
async fn call(channel: &Channel, path: &str, encoding: &str, messages: &[Vec<u8>]) -> Result<Vec<Bytes>, Status> {
    let mut body = Vec::new();
    for message in messages {
        body.push(1);
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message);
    }
    let request = http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    let request = request.header("grpc-encoding", encoding).header("grpc-accept-encoding", "gzip,zstd");
    let request = request.body(Body::new(Full::new(Bytes::from(body)))).unwrap();
    let mut channel = channel.clone();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let answer = channel.call(request).await.unwrap();
    let failed =
        |headers: &http::HeaderMap| Status::from_header_map(headers).filter(|status| status.code() != Code::Ok);
    if let Some(mut status) = failed(answer.headers()) {
        if let Some(listed) = answer.headers().get("grpc-accept-encoding") {
            status.metadata_mut().insert("grpc-accept-encoding", listed.to_str().unwrap().parse().unwrap());
        }
        return Err(status);
    }
    assert!(!answer.headers().contains_key("grpc-encoding"), "answers are not compressed");
    let collected = answer.into_body().collect().await?;
    if let Some(status) = collected.trailers().and_then(failed) {
        return Err(status);
    }
    let mut rest = collected.to_bytes();
    let mut answers = Vec::new();
    while !rest.is_empty() {
        let prefix = rest.split_to(5);
        assert_eq!(prefix[0], 0, "not compressed");
        answers.push(rest.split_to(u32::from_be_bytes(prefix[1..].try_into().unwrap()).try_into().unwrap()));
    }
    Ok(answers)
}

fn write(value: Vec<u8>) -> pb::ProduceRequest {
    pb::ProduceRequest { topic: "t".to_owned(), records: vec![record(value)], ..Default::default() }
}

fn assert_refused(outcome: Result<Vec<Bytes>, Status>, code: Code, reason: &str) -> ApiError {
    let failure = ApiError::from(outcome.unwrap_err());
    assert_eq!((failure.code(), failure.reason_name()), (code, reason), "{failure:?}");
    failure
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_compressed_with_gzip_and_zstd_are_written() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let (client, channel) = (server.client(), channel(&server));
    create(&client, "t", 1, &[]).await;
    let mut expected = Vec::new();
    for encoding in ["gzip", "zstd"] {
        let value = encoding.repeat(50_000).into_bytes();
        let request = compressed(encoding, &write(value.clone()).encode_to_vec());
        let answers = call(&channel, PRODUCE, encoding, &[request]).await;
        let answer = pb::ProduceResponse::decode(answers.unwrap().remove(0)).unwrap();
        assert_eq!(answer.positions[0].offset, i64::try_from(expected.len()).unwrap());
        expected.push(value);
        let open = pb::ProduceOpen { default_topic: "t".to_owned(), ..Default::default() };
        let mut messages = vec![pb::produce_stream_request::Message::Open(open)];
        for correlation_id in 0..20 {
            let value = format!("{encoding} {correlation_id}").into_bytes();
            let records = vec![record(value.clone())];
            expected.push(value);
            let batch = pb::ProduceBatch { correlation_id, records, partition: Some(0), ..Default::default() };
            messages.push(pb::produce_stream_request::Message::Batch(batch));
        }
        let encode = |message| pb::ProduceStreamRequest { message: Some(message) }.encode_to_vec();
        let messages: Vec<_> = messages.into_iter().map(|message| compressed(encoding, &encode(message))).collect();
        call(&channel, PRODUCE_STREAM, encoding, &messages).await.unwrap();
    }
    let values = read_all(&client, "t", 0).await.into_iter().map(|record| record.value.unwrap().to_vec());
    assert!(values.collect::<Vec<_>>() == expected);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_request_that_decompresses_to_a_large_one_is_refused_without_the_memory_for_it() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let channel = channel(&server);
    create(&server.client(), "t", 1, &[]).await;
    call(&channel, PRODUCE, "gzip", &[compressed("gzip", &write(vec![0; 1 << 19]).encode_to_vec())]).await.unwrap();
    let before = server.peak_memory();
    let zeros = vec![0; 20 * MESSAGE_BYTES_MAX];
    for encoding in ["gzip", "zstd"] {
        let bomb = compressed(encoding, &zeros);
        assert!(bomb.len() < 1 << 20);
        for path in [PRODUCE, PRODUCE_STREAM, "/walser.v1.ClusterService/GetCluster"] {
            let refused = call(&channel, path, encoding, std::slice::from_ref(&bomb)).await;
            let failure = assert_refused(refused, Code::ResourceExhausted, "RECORD_TOO_LARGE");
            assert_eq!(failure.effect(), pb::Effect::None);
        }
    }
    let grown = server.peak_memory() - before;
    assert!(grown < 8 * u64::try_from(MESSAGE_BYTES_MAX).unwrap(), "{grown} bytes for a bomb");
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_requests_that_are_wrong_are_refused_with_details() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let channel = channel(&server);
    for encoding in ["gzip", "zstd"] {
        let flood = compressed(encoding, &[0x1a, 0x00].repeat(2 << 20));
        let refused = call(&channel, PRODUCE, encoding, &[flood]).await;
        let failure = assert_refused(refused, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(failure.value("rule"), Some("too-many-items"), "{failure:?}");
        let whole = compressed(encoding, &write(vec![7; 1000]).encode_to_vec());
        let refused = call(&channel, PRODUCE, encoding, &[whole[..whole.len() - 3].to_vec()]).await;
        assert_refused(refused, Code::InvalidArgument, "FIELD_INVALID");
    }
    for path in [PRODUCE, PRODUCE_STREAM] {
        let refused = call(&channel, path, "br", &[vec![1; 10]]).await;
        let listed = refused.as_ref().unwrap_err().metadata().get("grpc-accept-encoding").cloned();
        assert_eq!(listed.unwrap(), "gzip,zstd,identity");
        let failure = assert_refused(refused, Code::Unimplemented, "FEATURE_DISABLED");
        assert_eq!(failure.value("accepted"), Some("gzip,zstd,identity"));
    }
    server.assert_no_panic();
}

#[test]
fn a_client_of_http1_is_told_to_use_another() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let mut stream = std::net::TcpStream::connect(&server.address).unwrap();
    let request = "POST /walser.v1.ProducerService/Produce HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 426 ") && answer.contains("this port speaks gRPC over HTTP/2"), "{answer}");
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_knows_the_details_of_errors() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let (_dir, data) = place();
    let server = Server::start(&data);
    let mut reflection = ServerReflectionClient::new(channel(&server));
    let symbols = ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.Status", "walser.v1.ProduceFailure"];
    let names = ["google/rpc/error_details.proto", "google/protobuf/any.proto", "google/protobuf/duration.proto"];
    let by_symbol = symbols.map(|symbol| MessageRequest::FileContainingSymbol(symbol.to_owned()));
    let by_name = names.map(|name| MessageRequest::FileByFilename(name.to_owned()));
    let wanted: Vec<_> = by_symbol.into_iter().chain(by_name).collect();
    let count = wanted.len();
    let requests = wanted.into_iter().map(|wanted| tonic_reflection::pb::v1::ServerReflectionRequest {
        message_request: Some(wanted),
        ..Default::default()
    });
    let mut answers =
        reflection.server_reflection_info(tokio_stream::iter(requests.collect::<Vec<_>>())).await.unwrap().into_inner();
    for _ in 0..count {
        let answer = answers.message().await.unwrap().unwrap();
        let Some(MessageResponse::FileDescriptorResponse(found)) = answer.message_response else {
            panic!("{:?}", answer.original_request)
        };
        let file = prost_types::FileDescriptorProto::decode(found.file_descriptor_proto[0].as_slice()).unwrap();
        assert!(!file.message_type.is_empty(), "{:?}", file.name);
    }
}
