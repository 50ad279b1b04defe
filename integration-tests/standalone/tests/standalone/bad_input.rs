//! Bad inputs and their answers, as a table: code, reason, and the details that every error has. The server goes on.

use bytes::Bytes;
use tonic::{Code, Status};
use walser_client::Client;
use walser_model::{Compression, ProducerEpoch, ProducerId};
use walser_proto::v1 as pb;
use walser_record_batch::{BatchBuilder, Producer, RecordFields, compress, stamp_producer};
use walser_rpc::ApiError;

use crate::server::{Server, bound, create, place, record};

const TOPIC: &str = "table";
/// Now and here, far from every limit.
const NOW_MS: i64 = 1_790_000_000_000;

fn batch(codec: Compression, records: i32, timestamp: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec, 0);
    for _ in 0..records {
        let value = b"the same value again and again".repeat(20);
        builder.append(&RecordFields { timestamp, key: None, value: Some(&value), headers: &[] });
    }
    builder.build(Producer::NONE).to_vec()
}

/// Changes bytes of a batch and gives it a right checksum again.
fn forged(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = batch(Compression::None, 2, NOW_MS);
    change(&mut bytes);
    let crc = |bytes: &mut Vec<u8>| {
        let (id, epoch) = (bytes[43..51].to_vec(), bytes[51..53].to_vec());
        let id = i64::from_be_bytes(id.try_into().unwrap());
        let epoch = i16::from_be_bytes(epoch.try_into().unwrap());
        let sequence = i32::from_be_bytes(bytes[53..57].try_into().unwrap());
        stamp_producer(bytes, ProducerId(id), ProducerEpoch(epoch), sequence);
    };
    crc(&mut bytes);
    bytes
}

/// A batch whose records decompress to far more than they should.
fn bomb() -> Vec<u8> {
    let mut bytes = batch(Compression::None, 1, NOW_MS);
    bytes.truncate(61);
    compress(Compression::Zstd, &vec![0; 80 << 20], &mut bytes).unwrap();
    let length = i32::try_from(bytes.len() - 12).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[22] = 4;
    stamp_producer(&mut bytes, ProducerId::NONE, ProducerEpoch(-1), -1);
    bytes
}

fn raw(batch: Vec<u8>) -> pb::ProduceRequest {
    pb::ProduceRequest {
        topic: TOPIC.to_owned(),
        partition: Some(0),
        record_batch: Bytes::from(batch),
        ..Default::default()
    }
}

fn plain(records: Vec<pb::Record>) -> pb::ProduceRequest {
    pb::ProduceRequest { topic: TOPIC.to_owned(), records, ..Default::default() }
}

fn fetch(offset: i64) -> pb::FetchRequest {
    let target = pb::ReadTarget {
        topic: TOPIC.to_owned(),
        partition: Some(0),
        start: Some(pb::Position { at: Some(pb::position::At::Offset(offset)) }),
        ..Default::default()
    };
    pb::FetchRequest { targets: vec![target], ..Default::default() }
}

/// A call of the table.
enum Call {
    Produce(pb::ProduceRequest),
    Fetch(pb::FetchRequest),
    Create(pb::Topic),
    Topics(pb::ListTopicsRequest),
    Nodes(pb::ListNodesRequest),
    Update(pb::UpdateTopicRequest),
    AddPartitions(i32),
    Truncate(pb::TruncateTopicRequest),
    Operation,
    Offsets(pb::ListOffsetsRequest),
}

async fn call(client: &Client, call: Call) -> Result<(), Status> {
    match call {
        Call::Produce(request) => client.producer().produce(request).await.map(drop),
        Call::Fetch(request) => client.consumer().fetch(request).await.map(drop),
        Call::Create(topic) => {
            let request = pb::CreateTopicRequest { topic: Some(topic), ..Default::default() };
            client.topics().create_topic(request).await.map(drop)
        }
        Call::Topics(request) => client.topics().list_topics(request).await.map(drop),
        Call::Nodes(request) => client.cluster().list_nodes(request).await.map(drop),
        Call::Update(request) => client.topics().update_topic(request).await.map(drop),
        Call::AddPartitions(partition_count) => {
            let request = pb::AddPartitionsRequest { topic: TOPIC.to_owned(), partition_count, ..Default::default() };
            client.topics().add_partitions(request).await.map(drop)
        }
        Call::Truncate(request) => client.topics().truncate_topic(request).await.map(drop),
        Call::Operation => {
            let request = pb::GetOperationRequest { id: "op-none".to_owned() };
            client.operations().get_operation(request).await.map(drop)
        }
        Call::Offsets(request) => client.consumer().list_offsets(request).await.map(drop),
    }
}

fn named(name: &str) -> Call {
    Call::Create(pb::Topic { name: name.to_owned(), ..Default::default() })
}

fn configured(key: &str, value: &str) -> Call {
    let config = [(key.to_owned(), value.to_owned())].into();
    Call::Create(pb::Topic { name: "configured".to_owned(), config, ..Default::default() })
}

type Row = (&'static str, Call, Code, &'static str);

fn names_and_settings() -> Vec<Row> {
    use Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
    let long: &'static str = Box::leak("x".repeat(250).into_boxed_str());
    let sized = |partition_count, replication_factor| {
        Call::Create(pb::Topic { name: "sized".to_owned(), partition_count, replication_factor, ..Default::default() })
    };
    let update = |updates: &[(&str, &str)], resets: &[&str]| {
        Call::Update(pb::UpdateTopicRequest {
            name: TOPIC.to_owned(),
            config_updates: updates.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            config_resets: resets.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        })
    };
    vec![
        ("1 empty name", named(""), InvalidArgument, "TOPIC_NAME_INVALID"),
        ("1 dots", named(".."), InvalidArgument, "TOPIC_NAME_INVALID"),
        ("1 long name", named(long), InvalidArgument, "TOPIC_NAME_INVALID"),
        ("2 path", named("../../etc/passwd"), InvalidArgument, "TOPIC_NAME_INVALID"),
        ("2 nul", named("a\0b"), InvalidArgument, "TOPIC_NAME_INVALID"),
        ("2 look-alike", named("\u{43e}rders"), InvalidArgument, "TOPIC_NAME_INVALID"),
        ("4 reserved", named("__internal"), InvalidArgument, "TOPIC_NAME_INVALID"),
        ("5 negative partitions", sized(-1, 0), InvalidArgument, "FIELD_INVALID"),
        ("5 too many partitions", sized(1_000_000, 0), InvalidArgument, "FIELD_INVALID"),
        ("6 too many replicas", sized(1, 3), FailedPrecondition, "REPLICATION_FACTOR_TOO_HIGH"),
        ("7 min.insync above replicas", configured("min.insync.replicas", "2"), InvalidArgument, "CONFIG_INVALID"),
        ("8 unknown key", configured("retention.msec", "1"), InvalidArgument, "CONFIG_INVALID"),
        ("8 bad value", configured("retention.ms", "soon"), InvalidArgument, "CONFIG_INVALID"),
        ("8 message size", configured("max.message.bytes", "16MiB"), InvalidArgument, "CONFIG_INVALID"),
        ("29 compaction", configured("cleanup.policy", "compact,keep"), InvalidArgument, "CONFIG_INVALID"),
        ("9 fewer partitions", Call::AddPartitions(1), InvalidArgument, "FIELD_INVALID"),
        ("10 exists", named(TOPIC), AlreadyExists, "TOPIC_EXISTS"),
        ("update nothing", update(&[], &[]), InvalidArgument, "FIELD_INVALID"),
        ("update of no setting", update(&[("name", "x")], &[]), InvalidArgument, "CONFIG_INVALID"),
        ("reset of no setting", update(&[], &["name"]), InvalidArgument, "CONFIG_INVALID"),
        ("set and reset", update(&[("retention.ms", "5")], &["retention.ms"]), InvalidArgument, "FIELD_INVALID"),
        ("no such operation", Call::Operation, NotFound, "OPERATION_NOT_FOUND"),
        (
            "page token of nobody",
            Call::Topics(pb::ListTopicsRequest { page_token: "x".to_owned(), ..Default::default() }),
            InvalidArgument,
            "PAGE_TOKEN_INVALID",
        ),
        (
            "negative page",
            Call::Topics(pb::ListTopicsRequest { page_size: -1, ..Default::default() }),
            InvalidArgument,
            "FIELD_INVALID",
        ),
    ]
}

/// Batches that clients built.
fn raw_batches() -> Vec<Row> {
    use Code::InvalidArgument;
    let produce = Call::Produce;
    let mut flipped = batch(Compression::None, 1, NOW_MS);
    *flipped.last_mut().unwrap() ^= 1;
    let mut magic = batch(Compression::None, 1, NOW_MS);
    magic[16] = 1;
    let mut garbage = batch(Compression::None, 1, NOW_MS);
    garbage.extend_from_slice(b"garbage");
    let mut cut = batch(Compression::None, 1, NOW_MS);
    cut.pop();
    let mut twice = batch(Compression::None, 1, NOW_MS);
    twice.extend(batch(Compression::None, 1, NOW_MS));
    let mut lying = batch(Compression::Lz4, 5, NOW_MS);
    lying[57..61].copy_from_slice(&7i32.to_be_bytes());
    lying[23..27].copy_from_slice(&6i32.to_be_bytes());
    stamp_producer(&mut lying, ProducerId::NONE, ProducerEpoch(-1), -1);
    vec![
        ("19 checksum", produce(raw(flipped)), InvalidArgument, "BATCH_CORRUPT"),
        ("20 magic", produce(raw(magic)), InvalidArgument, "BATCH_FORMAT_UNSUPPORTED"),
        ("21 garbage behind", produce(raw(garbage)), InvalidArgument, "RECORD_INVALID"),
        ("21 cut", produce(raw(cut)), InvalidArgument, "RECORD_INVALID"),
        ("21 two batches", produce(raw(twice)), InvalidArgument, "RECORD_INVALID"),
        ("21 next to nothing", produce(raw(vec![1, 2, 3])), InvalidArgument, "RECORD_INVALID"),
        ("22 no records", produce(raw(forged(|b| b[57..61].fill(0)))), InvalidArgument, "RECORD_INVALID"),
        ("22 offset delta", produce(raw(forged(|b| b[26] = 9))), InvalidArgument, "RECORD_INVALID"),
        ("23 control batch", produce(raw(forged(|b| b[22] |= 0x20))), InvalidArgument, "RECORD_INVALID"),
        ("23 transactional", produce(raw(forged(|b| b[22] |= 0x10))), InvalidArgument, "RECORD_INVALID"),
        ("23 reserved bits", produce(raw(forged(|b| b[21] |= 0x40))), InvalidArgument, "RECORD_INVALID"),
        ("24 codec", produce(raw(forged(|b| b[22] |= 7))), InvalidArgument, "BATCH_FORMAT_UNSUPPORTED"),
        ("25 large batch", produce(raw(batch(Compression::None, 2000, NOW_MS))), InvalidArgument, "RECORD_TOO_LARGE"),
        ("27 bomb", produce(raw(bomb())), InvalidArgument, "RECORD_TOO_LARGE"),
        ("28 compressed count", produce(raw(lying)), InvalidArgument, "RECORD_INVALID"),
        ("30 far future, raw", produce(raw(batch(Compression::None, 1, 1 << 52))), InvalidArgument, "RECORD_INVALID"),
        (
            "raw without partition",
            produce(pb::ProduceRequest { partition: None, ..raw(batch(Compression::None, 1, NOW_MS)) }),
            InvalidArgument,
            "FIELD_INVALID",
        ),
    ]
}

/// Plain records, and fields of the request.
fn plain_writes() -> Vec<Row> {
    use Code::InvalidArgument;
    let produce = Call::Produce;
    let to_partition = |partition| pb::ProduceRequest { partition: Some(partition), ..plain(vec![record("x")]) };
    let identity = |producer_id| Some(pb::ProducerIdentity { producer_id, producer_epoch: 0 });
    let both = pb::ProduceRequest { records: vec![record("x")], ..raw(batch(Compression::None, 1, NOW_MS)) };
    let late = pb::Record { timestamp_millis: Some(i64::MAX), ..record("x") };
    vec![
        ("11 partition out of range", produce(to_partition(7)), Code::NotFound, "PARTITION_NOT_FOUND"),
        ("11 negative partition", produce(to_partition(-1)), InvalidArgument, "FIELD_INVALID"),
        (
            "1 produce to a bad name",
            produce(pb::ProduceRequest { topic: "no/such".to_owned(), ..plain(vec![record("x")]) }),
            InvalidArgument,
            "TOPIC_NAME_INVALID",
        ),
        (
            "4 produce to a reserved name",
            produce(pb::ProduceRequest { topic: "__x".to_owned(), ..plain(vec![record("x")]) }),
            InvalidArgument,
            "TOPIC_NAME_INVALID",
        ),
        (
            "18 acks",
            produce(pb::ProduceRequest { acks: 17, ..plain(vec![record("x")]) }),
            InvalidArgument,
            "FIELD_INVALID",
        ),
        ("25 large record", produce(plain(vec![record(vec![0; 1_100_000])])), InvalidArgument, "RECORD_TOO_LARGE"),
        ("30 far future", produce(plain(vec![late])), InvalidArgument, "RECORD_INVALID"),
        (
            "31 negative sequence",
            produce(pb::ProduceRequest { producer: identity(5), base_sequence: -1, ..to_partition(0) }),
            InvalidArgument,
            "FIELD_INVALID",
        ),
        (
            "31 session without partition",
            produce(pb::ProduceRequest { producer: identity(5), ..plain(vec![record("x")]) }),
            InvalidArgument,
            "FIELD_INVALID",
        ),
        (
            "36 id that was never issued",
            produce(pb::ProduceRequest { producer: identity(1 << 62), base_sequence: 3, ..to_partition(0) }),
            InvalidArgument,
            "FIELD_INVALID",
        ),
        ("54 nothing", produce(plain(vec![])), InvalidArgument, "PAYLOAD_AMBIGUOUS"),
        ("54 both", produce(both), InvalidArgument, "PAYLOAD_AMBIGUOUS"),
        (
            "expected offset",
            produce(pb::ProduceRequest { expected_offset: Some(99), ..to_partition(0) }),
            Code::Aborted,
            "OFFSET_MISMATCH",
        ),
    ]
}

fn read() -> Vec<Row> {
    use Code::InvalidArgument;
    let twice = pb::FetchRequest { targets: [fetch(0).targets, fetch(0).targets].concat(), ..Default::default() };
    let unknown = |mut request: pb::FetchRequest| {
        request.targets[0].topic = "missing".to_owned();
        request
    };
    let wait = pbjson_types::Duration { seconds: -1, nanos: 0 };
    let mut both = fetch(0);
    both.targets[0].resume.push(pb::PartitionResume::default());
    let whole = |partitions: &[i32]| {
        let resume = |partition: &i32| pb::PartitionResume { partition: *partition, ..Default::default() };
        let resume = partitions.iter().map(resume).collect();
        let target = pb::ReadTarget { topic: TOPIC.to_owned(), resume, ..Default::default() };
        pb::FetchRequest { targets: vec![target], ..Default::default() }
    };
    let mut epoch = fetch(0);
    epoch.targets[0].last_leader_epoch = Some(-3);
    let empty =
        pb::ReadTarget { topic: TOPIC.to_owned(), start: Some(pb::Position { at: None }), ..Default::default() };
    let before = pb::TruncateTopicRequest {
        topic: TOPIC.to_owned(),
        before: Some(pb::Position { at: Some(pb::position::At::Offset(50)) }),
        ..Default::default()
    };
    let doubled =
        pb::TruncateTopicRequest { partitions: vec![0, 0], before: Some(bound(pb::Bound::Earliest)), ..before.clone() };
    vec![
        ("11 unknown topic", Call::Fetch(unknown(fetch(0))), Code::NotFound, "TOPIC_NOT_FOUND"),
        ("39 beyond the end", Call::Fetch(fetch(1000)), Code::OutOfRange, "OFFSET_OUT_OF_RANGE"),
        ("negative offset", Call::Fetch(fetch(-1)), InvalidArgument, "FIELD_INVALID"),
        (
            "40 negative bytes",
            Call::Fetch(pb::FetchRequest { max_bytes: -1, ..fetch(0) }),
            InvalidArgument,
            "FIELD_INVALID",
        ),
        (
            "40 negative wait",
            Call::Fetch(pb::FetchRequest { max_wait: Some(wait), ..fetch(0) }),
            InvalidArgument,
            "FIELD_INVALID",
        ),
        ("54 the same partition twice", Call::Fetch(twice), InvalidArgument, "FIELD_INVALID"),
        ("no targets", Call::Fetch(pb::FetchRequest::default()), InvalidArgument, "FIELD_INVALID"),
        ("resume with a partition", Call::Fetch(both), InvalidArgument, "FIELD_INVALID"),
        ("resume twice", Call::Fetch(whole(&[0, 0])), InvalidArgument, "FIELD_INVALID"),
        ("resume below 0", Call::Fetch(whole(&[-1])), InvalidArgument, "FIELD_INVALID"),
        ("resume of no partition", Call::Fetch(whole(&[77])), Code::NotFound, "PARTITION_NOT_FOUND"),
        (
            "empty position",
            Call::Offsets(pb::ListOffsetsRequest { targets: vec![empty], isolation: 0 }),
            InvalidArgument,
            "FIELD_INVALID",
        ),
        (
            "unknown role",
            Call::Nodes(pb::ListNodesRequest { roles: vec![77], ..Default::default() }),
            InvalidArgument,
            "FIELD_INVALID",
        ),
        (
            "negative page of nodes",
            Call::Nodes(pb::ListNodesRequest { page_size: -1, ..Default::default() }),
            InvalidArgument,
            "FIELD_INVALID",
        ),
        ("negative epoch", Call::Fetch(epoch), InvalidArgument, "FIELD_INVALID"),
        ("truncate a partition twice", Call::Truncate(doubled), InvalidArgument, "FIELD_INVALID"),
        ("truncate beyond the end", Call::Truncate(before), Code::OutOfRange, "OFFSET_OUT_OF_RANGE"),
    ]
}

/// Every error says why, whether to retry, and what it did, in the details.
fn assert_row(name: &str, outcome: Result<(), Status>, code: Code, reason: &str) {
    let status = outcome.expect_err(name);
    assert_eq!(status.code(), code, "{name}: {status:?}");
    assert!(!status.details().is_empty(), "{name}: no details");
    assert!(status.details().len() <= 4096 && status.message().len() <= 512, "{name}");
    let failure = ApiError::from(status.clone());
    assert_eq!(failure.reason_name(), reason, "{name}: {status:?}");
    assert_ne!(failure.retry(), pb::RetryAdvice::Unspecified, "{name}");
    assert_ne!(failure.effect(), pb::Effect::Unspecified, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_input_gets_its_answer() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, TOPIC, 3, &[]).await;
    client.producer().produce(pb::ProduceRequest { partition: Some(0), ..plain(vec![record("good")]) }).await.unwrap();
    for (name, bad, code, reason) in
        names_and_settings().into_iter().chain(raw_batches()).chain(plain_writes()).chain(read())
    {
        assert_row(name, call(&client, bad).await, code, reason);
    }
    // Nothing of it left a trace, and the server serves on.
    let mut producer = client.producer();
    let answer = producer.produce(pb::ProduceRequest { partition: Some(0), ..plain(vec![record("good")]) });
    assert_eq!(answer.await.unwrap().into_inner().positions[0].offset, 1);
    let request = pb::ListOffsetsRequest {
        targets: vec![pb::ReadTarget {
            topic: TOPIC.to_owned(),
            start: Some(bound(pb::Bound::Latest)),
            ..Default::default()
        }],
        isolation: 0,
    };
    let ends = client.consumer().list_offsets(request).await.unwrap().into_inner().offsets;
    assert_eq!(ends.iter().map(|end| end.offset).collect::<Vec<_>>(), [Some(2), Some(0), Some(0)]);
    server.assert_no_panic();
}

/// What tonic itself would answer differently: unknown calls, undecodable and oversized messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_below_the_services_have_details_too() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap().connect_lazy();
    let call = async |path: &'static str, body: Vec<u8>| {
        let mut grpc = tonic::client::Grpc::new(channel.clone()).max_encoding_message_size(64 << 20);
        grpc.ready().await.unwrap();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
        let answer = grpc.unary(tonic::Request::new(body), path, RawCodec).await;
        answer.map(drop)
    };
    let produce = "/walser.v1.ProducerService/Produce";
    assert_row(
        "51 unknown call",
        call("/walser.v1.ProducerService/Explode", vec![]).await,
        Code::Unimplemented,
        "FEATURE_DISABLED",
    );
    assert_row(
        "51 unknown service",
        call("/walser.v9.Nothing/At", vec![]).await,
        Code::Unimplemented,
        "FEATURE_DISABLED",
    );
    for internal in [
        "/walser.internal.v1.ControllerService/AlterIsr",
        "/walser.internal.v1.StorageService/RepairPartition",
        "/walser.internal.v1.ReplicationService/CopyLog",
    ] {
        assert_row("internal service", call(internal, vec![]).await, Code::Unimplemented, "FEATURE_DISABLED");
    }
    assert_row("52 not protobuf", call(produce, vec![0xff; 40]).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_row(
        "52 not UTF-8",
        call(produce, vec![0x0a, 0x02, 0xc3, 0x28]).await,
        Code::InvalidArgument,
        "FIELD_INVALID",
    );
    assert_row(
        "53 a flood of items",
        call(produce, [0x1a, 0x00].repeat(2 << 20)).await,
        Code::InvalidArgument,
        "FIELD_INVALID",
    );
    assert_row("26 too large", call(produce, vec![0; 17 << 20]).await, Code::ResourceExhausted, "RECORD_TOO_LARGE");
    server.client().topics().list_topics(pb::ListTopicsRequest::default()).await.unwrap();
    server.assert_no_panic();
}

/// Sends bytes as they are.
#[derive(Debug, Clone, Copy)]
struct RawCodec;

impl tonic::codec::Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for RawCodec {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<()>, Status> {
        bytes::Buf::advance(buffer, bytes::Buf::remaining(buffer));
        Ok(Some(()))
    }
}
