//! A client made by stock tools from what `walser proto export` writes: no library of ours, no help but the README.

use std::path::Path;
use std::process::Command;

use crate::server::{Server, binary, place};

const PROGRAM: &str = r#"
import sys, grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from google.rpc import error_details_pb2
from walser.v1 import producer_pb2 as p, producer_pb2_grpc as pg, common_pb2 as c
from walser.v1 import consumer_pb2 as r, consumer_pb2_grpc as rg

channel = grpc.insecure_channel(sys.argv[1])
producer = pg.ProducerServiceStub(channel)
values = [b"one", b"", "zwei \u00fc".encode(), bytes(range(256))]
answer = producer.Produce(p.ProduceRequest(topic="python", records=[c.Record(value=v, key=b"k") for v in values]))
assert [x.offset for x in answer.positions] == [0, 1, 2, 3], answer

def batches():
    yield p.ProduceStreamRequest(open=p.ProduceOpen(default_topic="python"))
    for number in range(50):
        yield p.ProduceStreamRequest(batch=p.ProduceBatch(correlation_id=number, records=[c.Record(value=b"s%d" % number)]))

offsets = []
for message in producer.ProduceStream(batches()):
    for result in message.results.results:
        assert result.HasField("written"), result
        offsets.append(result.written.positions[0].offset)
assert sorted(offsets) == list(range(4, 54)), offsets

start = c.Position(bound=c.BOUND_EARLIEST)
end = c.Position(bound=c.BOUND_LATEST)
request = r.ReadRequest(targets=[r.ReadTarget(topic="python", start=start, end=end)])
read = [x.value for event in rg.ConsumerServiceStub(channel).Read(request) for x in event.chunk.records]
assert read[:4] == values and len(read) == 54, read

try:
    producer.Produce(p.ProduceRequest(topic="no such name", records=[c.Record(value=b"x")]))
    raise SystemExit("a bad name was accepted")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    info = error_details_pb2.ErrorInfo()
    details = rpc_status.from_call(error).details
    assert any(d.Unpack(info) for d in details if d.Is(info.DESCRIPTOR))
    assert (info.reason, info.domain) == ("TOPIC_NAME_INVALID", "walser.dev"), info
    assert (info.metadata["retry"], info.metadata["effect"]) == ("never", "none"), info

services = ProtoReflectionDescriptorDatabase(channel).get_services()
for name in ["ProducerService", "ConsumerService", "TopicService", "ClusterService", "OperationService"]:
    assert "walser.v1." + name in services, services
assert not any("internal" in name for name in services), services
print("python ok")
"#;

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{error}");
    out.into_owned()
}

#[test]
fn python_stubs_produce_and_read() {
    let python = std::env::var("WALSER_TEST_PYTHON").expect("make test installs Python's gRPC tools and says where");
    let (dir, data) = place();
    let server = Server::start(&data);
    let protos = dir.path().join("proto");
    let told = run(Command::new(binary()).args(["proto", "export"]).arg(&protos).args(["--lang", "python"]));
    assert!(told.contains("python -m grpc_tools.protoc"), "{told}");
    let files: Vec<_> =
        std::fs::read_dir(protos.join("walser/v1")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let include = format!("-I{}", protos.display());
    let mut protoc = Command::new(&python);
    protoc.args(["-m", "grpc_tools.protoc", &include, "--python_out=.", "--grpc_python_out=."]).args(files);
    run(protoc.current_dir(dir.path()));
    let program = dir.path().join("client.py");
    std::fs::write(&program, PROGRAM).unwrap();
    let printed = run(Command::new(&python).arg(Path::new("client.py")).arg(&server.address).current_dir(dir.path()));
    assert!(printed.contains("python ok"), "{printed}");
    server.assert_no_panic();
}
