//! Clients made by stock tools from what `walser proto export` writes: no library of ours, no help but the documents,
//! whose programs are run as they are printed.

use std::path::{Path, PathBuf};
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

request = p.ProduceRequest(topic="squeezed", records=[c.Record(value=b"x" * 10000)])
assert producer.Produce(request, compression=grpc.Compression.Gzip).positions[0].offset == 0

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

reflected = ProtoReflectionDescriptorDatabase(channel)
services = reflected.get_services()
for name in ["ProducerService", "ConsumerService", "TopicService", "ClusterService", "OperationService"]:
    assert "walser.v1." + name in services, services
assert not any("internal" in name for name in services), services
found = reflected.FindFileContainingSymbol("google.rpc.ErrorInfo")
assert found.name == "google/rpc/error_details.proto", found
print("python ok")
"#;

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{error}");
    out.into_owned()
}

/// The code blocks of a page in a language, in order.
pub(crate) fn blocks(page: &str, language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|block| block.split("\n```").next().unwrap().to_owned() + "\n").collect()
}

pub(crate) fn tool(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("make test installs what {variable} names, and says where"))
}

/// Exports the protos for a language; returns the include flag and the files.
fn exported(dir: &Path, language: &str, hint: &str) -> (String, Vec<PathBuf>) {
    let protos = dir.join("proto");
    let told = run(Command::new(binary()).args(["proto", "export"]).arg(&protos).args(["--lang", language]));
    assert!(told.contains(hint), "{told}");
    let files = std::fs::read_dir(protos.join("walser/v1")).unwrap().map(|entry| entry.unwrap().path()).collect();
    (format!("-I{}", protos.display()), files)
}

/// Makes the stubs of Python in a directory.
pub(crate) fn python_stubs(dir: &Path) {
    let (include, files) = exported(dir, "python", "python -m grpc_tools.protoc");
    let mut protoc = Command::new(tool("WALSER_TEST_PYTHON"));
    protoc.args(["-m", "grpc_tools.protoc", &include, "--python_out=.", "--grpc_python_out=."]).args(files);
    run(protoc.current_dir(dir));
}

#[test]
fn python_stubs_produce_and_read() {
    let python = tool("WALSER_TEST_PYTHON");
    let (dir, data) = place();
    let server = Server::start(&data);
    python_stubs(dir.path());
    let program = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        run(Command::new(&python).arg(name).arg(&server.address).current_dir(dir.path()))
    };
    let printed = program("client.py", PROGRAM);
    assert!(printed.contains("python ok"), "{printed}");
    // What the documents show.
    let printed = program("page.py", &blocks("docs/clients.md", "python")[0]);
    assert!(printed.contains("python ok 1000"), "{printed}");
    server.assert_no_panic();
}

#[test]
fn the_go_program_of_the_documents_writes_and_reads() {
    let (python, go, plugins) = (tool("WALSER_TEST_PYTHON"), tool("WALSER_TEST_GO"), tool("WALSER_TEST_GO_PLUGINS"));
    let (dir, data) = place();
    let server = Server::start(&data);
    let (include, files) = exported(dir.path(), "go", "protoc-gen-go-grpc@v");
    std::fs::create_dir(dir.path().join("gen")).unwrap();
    let mut protoc = Command::new(&python);
    protoc.args(["-m", "grpc_tools.protoc", &include]);
    for plugin in ["go", "go-grpc"] {
        protoc.arg(format!("--plugin=protoc-gen-{plugin}={plugins}/protoc-gen-{plugin}"));
        protoc.arg(format!("--{plugin}_out=gen"));
        protoc.arg(format!("--{plugin}_opt=module=github.com/walser-log/walser/gen/go"));
    }
    run(protoc.args(files).current_dir(dir.path()));
    std::fs::write(dir.path().join("main.go"), &blocks("docs/clients.md", "go")[0]).unwrap();
    let module = "module example.com/client\n\ngo 1.25\n\nrequire google.golang.org/grpc v1.85.0\n\
                  require google.golang.org/protobuf v1.36.12\n";
    std::fs::write(dir.path().join("go.mod"), module).unwrap();
    run(Command::new(&go).args(["mod", "tidy"]).current_dir(dir.path()));
    let printed = run(Command::new(&go).args(["run", "."]).arg(&server.address).current_dir(dir.path()));
    assert!(printed.contains("go ok 1000"), "{printed}");
    server.assert_no_panic();
}
