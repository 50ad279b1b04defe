"""Writes every line of standard input to a topic, exactly once: producer.py TOPIC [--keyed]

With --keyed a line is KEY:VALUE, and its key says to which partition it goes; else it goes to partition 0."""

import os
import sys
from collections import Counter, defaultdict
from itertools import islice

from walser.v1.common_pb2 import Record
from walser.v1.producer_pb2 import InitProducerRequest, ProduceRequest
from walser.v1.producer_pb2_grpc import ProducerServiceStub
from walser.v1.topic_pb2 import GetTopicRequest
from walser.v1.topic_pb2_grpc import TopicServiceStub

from partition import partition
from retry import retry
from traceparent import child

name = sys.argv[1]
keyed = "--keyed" in sys.argv
count = 1
if keyed:
    get = GetTopicRequest(name=name)
    count = retry(lambda channel: TopicServiceStub(channel).GetTopic(get, timeout=10)).topic.partition_count
session = retry(lambda channel: ProducerServiceStub(channel).InitProducer(InitProducerRequest(), timeout=10)).producer
sequences = Counter()  # By partition: records that are written.


def write(number, records):
    request = ProduceRequest(topic=name, partition=number, records=records, producer=session)
    request.base_sequence = sequences[number]
    # Its records get this header, so that who reads them goes on with the trace.
    trace = [("traceparent", child(os.environ.get("TRACEPARENT")))]
    retry(lambda channel: ProducerServiceStub(channel).Produce(request, timeout=10, metadata=trace))
    sequences[number] += len(records)


while lines := list(islice(sys.stdin.buffer, 100)):
    batches = defaultdict(list)
    for line in lines:
        key, colon, value = line.rstrip(b"\n").partition(b":")
        if not (keyed and colon):
            key, value = None, line.rstrip(b"\n")
        batches[partition(key or b"", count)].append(Record(key=key, value=value))
    for number, records in batches.items():
        write(number, records)
print(sequences.total(), "records written")
