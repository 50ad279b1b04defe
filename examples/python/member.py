"""A member of a group, which shares a topic with the others: member.py GROUP TOPIC"""
import os, queue, signal, sys, time  # noqa: E401
import grpc
from walser.v1.group_pb2 import ConsumeCommit, ConsumeJoin, ConsumeRequest, OffsetCommit
from walser.v1.group_pb2_grpc import GroupServiceStub

servers = os.environ.get("WALSER_SERVER", "127.0.0.1:7460").split(",")
requests, token, stopping = queue.SimpleQueue(), "", False
def stop(*_):
    global stopping
    stopping = True
    requests.put(None)  # Nothing more to say: the member leaves, and its stream ends.

[signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)]
while not stopping:
    requests = queue.SimpleQueue()
    requests.put(ConsumeRequest(join=ConsumeJoin(group=sys.argv[1], topics=[sys.argv[2]], resume_token=token)))
    try:
        with grpc.insecure_channel(servers[0]) as channel:
            for response in GroupServiceStub(channel).Consume(iter(requests.get, None)):
                if response.HasField("joined"):
                    token = response.joined.resume_token  # With it the member keeps its partitions.
                for record in response.records.records:
                    print(response.records.partition, record.offset, record.value.decode(), flush=True)
                if response.HasField("records"):  # They are processed: the group does not read them again.
                    chunk, done = response.records, OffsetCommit(offset=response.records.next_offset)
                    done.topic_partition.topic, done.topic_partition.partition = chunk.topic, chunk.partition
                    done.leader_epoch = chunk.leader_epoch  # By it a cut of the log is noticed.
                    requests.put(ConsumeRequest(commit=ConsumeCommit(offsets=[done])))
    except grpc.RpcError as error:
        if error.code().name in ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNIMPLEMENTED"):
            sys.exit(error.details())
        print("retrying:", error.details(), file=sys.stderr)
        servers, token = servers[1:] + servers[:1], token if error.code().name != "ABORTED" else ""
        time.sleep(0.1)
