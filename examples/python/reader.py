"""Prints `offset value` of every record of a topic, up to its end: reader.py TOPIC [--follow]"""

import sys

from walser.v1.common_pb2 import BOUND_LATEST, OUT_OF_RANGE_POLICY_EARLIEST, Position
from walser.v1.consumer_pb2 import PartitionResume, ReadOptions, ReadRequest, ReadTarget
from walser.v1.consumer_pb2_grpc import ConsumerServiceStub

from retry import retry

end = None if "--follow" in sys.argv else Position(bound=BOUND_LATEST)
options = ReadOptions(out_of_range=OUT_OF_RANGE_POLICY_EARLIEST)
resume = {}  # By partition. Store it to resume in another process.


def read(channel):
    target = ReadTarget(topic=sys.argv[1], end=end, resume=resume.values())
    for response in ConsumerServiceStub(channel).Read(ReadRequest(targets=[target], options=options)):
        match response.WhichOneof("event"):
            case "chunk":
                chunk = response.chunk
                for record in chunk.records:
                    print(record.offset, record.value.decode())
                sys.stdout.flush()
                resume[chunk.partition] = PartitionResume(
                    partition=chunk.partition, next_offset=chunk.next_offset, leader_epoch=chunk.leader_epoch
                )
            case "offset_reset":
                print(response.offset_reset.skipped_count, "records are gone", file=sys.stderr)
            case "partition_error":  # The server continues with the other partitions.
                print(response.partition_error.error.message, file=sys.stderr)
            case "drain":  # The stream ends next, with the advice to reopen it.
                print("the server is stopping", file=sys.stderr)
            case "caught_up" | "end_reached" | "heartbeat":
                pass


retry(read)  # Returns when everything that was asked for has been read.
