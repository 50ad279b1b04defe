"""Prints `partition offset value [traceparent]` of what a member gets, and commits it: consumer.py GROUP TOPIC"""

import queue
import signal
import sys

from walser.v1.group_pb2 import ConsumeCommit, ConsumeJoin, ConsumeRequest, OffsetCommit
from walser.v1.group_pb2_grpc import GroupServiceStub

from retry import retry
from traceparent import child

requests, token, stopping = queue.SimpleQueue(), "", False


def stop(*_):
    global stopping
    stopping = True
    requests.put(None)  # Nothing more to say: the member leaves, and its stream ends.


def forget():
    global token
    token = ""  # It is of no use any more: join as a new member.


def process(chunk):
    for record in chunk.records:
        # The traceparent with which the work on the record goes on.
        trace = [child(header.value.decode()) for header in record.headers if header.key == "traceparent"]
        print(chunk.partition, record.offset, record.value.decode(), *trace, flush=True)
    done = OffsetCommit(offset=chunk.next_offset, leader_epoch=chunk.leader_epoch)
    done.topic_partition.topic, done.topic_partition.partition = chunk.topic, chunk.partition
    requests.put(ConsumeRequest(commit=ConsumeCommit(offsets=[done])))


def consume(channel):
    global requests, token
    requests = queue.SimpleQueue()
    requests.put(ConsumeRequest(join=ConsumeJoin(group=sys.argv[1], topics=[sys.argv[2]], resume_token=token)))
    try:
        for response in () if stopping else GroupServiceStub(channel).Consume(iter(requests.get, None)):
            match response.WhichOneof("event"):
                case "joined":
                    token = response.joined.resume_token  # With it the member keeps its partitions.
                case "records" if not stopping:  # What is not processed is read by whoever is next.
                    process(response.records)
                case "partition_error":  # Such as a commit of a partition that has moved.
                    print(response.partition_error.error.message, file=sys.stderr)
    finally:
        requests.put(None)


signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
retry(consume, restart=forget)
