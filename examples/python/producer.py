"""Writes every line of standard input to a topic, exactly once: producer.py TOPIC"""

import os
import sys
from itertools import islice

import grpc
from walser.v1.common_pb2 import Record
from walser.v1.producer_pb2 import InitProducerRequest, ProduceRequest
from walser.v1.producer_pb2_grpc import ProducerServiceStub

from retry import retry

channel = grpc.insecure_channel(os.environ.get("WALSER_SERVER", "127.0.0.1:7460"))
service = ProducerServiceStub(channel)
session = retry(lambda: service.InitProducer(InitProducerRequest(), timeout=10)).producer
request = ProduceRequest(topic=sys.argv[1], partition=0, producer=session)
while lines := list(islice(sys.stdin.buffer, 100)):
    request.ClearField("records")
    request.records.extend(Record(value=line.rstrip(b"\n")) for line in lines)
    retry(lambda: service.Produce(request, timeout=10))
    request.base_sequence += len(lines)
print(request.base_sequence, "records written")
