"""A steady load on a server: writers that write exactly once, a reader, and a member of a group. Everything is judged.

Each client repeats what the server says may be repeated, as a program should, and nothing else. The errors are read as
examples/python/retry.py reads them.
"""

import queue
import sys
import threading
import time
from pathlib import Path

import grpc

from history import History

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "examples/python"))

from retry import words  # noqa: E402
from walser.v1.common_pb2 import BOUND_LATEST, Position, Record, TopicPartition  # noqa: E402
from walser.v1.consumer_pb2 import PartitionResume, ReadRequest, ReadTarget  # noqa: E402
from walser.v1.consumer_pb2_grpc import ConsumerServiceStub  # noqa: E402
from walser.v1.group_pb2 import ConsumeCommit, ConsumeJoin, ConsumeLeave, ConsumeRequest, OffsetCommit  # noqa: E402
from walser.v1.group_pb2_grpc import GroupServiceStub  # noqa: E402
from walser.v1.producer_pb2 import InitProducerRequest, ProduceRequest  # noqa: E402
from walser.v1.producer_pb2_grpc import ProducerServiceStub  # noqa: E402

# Time between two records of a partition.
EVERY = 0.02
# How long something may be repeated: longer than any pod needs to come back.
PATIENCE = 180
# A pod that is gone with its network answers nothing, not even that it is gone: pings find out.
CHANNEL_OPTIONS = [
    # Each client has a connection of its own, and so perhaps another gateway.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class Server:
    """Where a server is, and how it is known: `authority` is the certificate (PEM) that its own is signed with."""

    def __init__(self, address, authority=None, name=None):
        self.address, self.authority, self.name = address, authority, name

    def channel(self):
        if self.authority is None:
            return grpc.insecure_channel(self.address, CHANNEL_OPTIONS)
        name = [("grpc.ssl_target_name_override", self.name)] if self.name else []
        return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(self.authority), CHANNEL_OPTIONS + name)


class Load:
    def __init__(self, server, topic, partitions, history, group="load"):
        self.server, self.topic, self.group = server, topic, group
        self.history = History(history)
        self.partitions = range(partitions)
        self.acknowledged = [[time.monotonic()] for _ in self.partitions]
        self.read_by_member, self.seen_by_member = 0, set()
        self.problems = []
        self.retries = 0
        self.writing, self.reading = threading.Event(), threading.Event()
        self.writing.set()
        self.reading.set()
        self.writers = [self.thread(self.write, partition) for partition in self.partitions]
        self.readers = [self.thread(self.read), self.thread(self.be_member)]

    def thread(self, run, *arguments):
        def guarded():
            try:
                run(*arguments)
            except Exception as error:  # What ends a client ends the test, with its reason.
                self.problems.append(f"{run.__name__}: {error!r}")

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def may_repeat(self, error, since, goes_on=lambda: True):
        """Waits a moment, if what has failed may be tried again; raises the error otherwise."""
        reason, advice, effect = words(error)
        if advice not in ("backoff", "reopen") or time.monotonic() - since > PATIENCE:
            raise RuntimeError(f"{reason}: {error.details()} (retry={advice}, effect={effect})")
        self.retries += 1
        if goes_on():
            time.sleep(0.1)

    def insist(self, call):
        since = time.monotonic()
        while True:
            try:
                return call()
            except grpc.RpcError as error:
                self.may_repeat(error, since)

    # Writers.

    def write(self, partition):
        with self.server.channel() as channel:
            service = ProducerServiceStub(channel)
            session = self.insist(lambda: service.InitProducer(InitProducerRequest(), timeout=10)).producer
            number = 0
            while self.writing.is_set():
                value = f"{partition}/{number}"
                what = {"topic": self.topic, "partition": partition, "value": value}
                request = ProduceRequest(
                    topic=self.topic, partition=partition, producer=session, base_sequence=number,
                    records=[Record(value=value.encode())],
                )
                self.history.record(f"writer {partition}", "invoke", "send", **what)
                answer = self.insist(lambda: service.Produce(request, timeout=10))
                where = {"offset": answer.appends[0].base_offset} if answer.appends else {}
                self.history.record(f"writer {partition}", "ok", "send", **where, **what)
                self.acknowledged[partition].append(time.monotonic())
                number += 1
                time.sleep(EVERY)

    # Readers.

    def records_of(self, chunk):
        values = [(record.offset, record.value.decode()) for record in chunk.records]
        return [
            {"topic": self.topic, "partition": chunk.partition, "offset": offset, "value": value} for offset, value in values
        ]

    def read(self, process="reader", end=None):
        """Reads all partitions, through every interruption from where it was. A poll is open until its records come."""
        resume, since = {}, time.monotonic()
        self.history.record(process, "invoke", "poll")
        with self.server.channel() as channel:
            service = ConsumerServiceStub(channel)
            while self.reading.is_set():
                target = ReadTarget(topic=self.topic, end=end, resume=resume.values())
                try:
                    call = service.Read(ReadRequest(targets=[target]))
                    for response in call:
                        since = time.monotonic()
                        self.take(process, response, resume)
                        if end is None and not self.reading.is_set():
                            call.cancel()
                    if end is not None:
                        break
                except grpc.RpcError as error:
                    if self.reading.is_set():
                        self.may_repeat(error, since)
        self.history.record(process, "ok", "poll", records=[], **({"final": True} if end is not None else {}))

    def take(self, process, response, resume):
        if response.HasField("offset_reset"):
            raise RuntimeError(f"the position was moved: {response.offset_reset}")
        if not response.HasField("chunk"):
            return
        chunk = response.chunk
        resume[chunk.partition] = PartitionResume(
            partition=chunk.partition, next_offset=chunk.next_offset, leader_epoch=chunk.leader_epoch
        )
        self.history.record(process, "ok", "poll", records=self.records_of(chunk))
        self.history.record(process, "invoke", "poll")

    # A member of a group: its records are read at least once.

    def be_member(self):
        token, since = "", time.monotonic()
        with self.server.channel() as channel:
            service = GroupServiceStub(channel)
            while self.reading.is_set():
                requests = queue.SimpleQueue()
                join = ConsumeJoin(group=self.group, topics=[self.topic], resume_token=token)
                requests.put(ConsumeRequest(join=join))
                try:
                    for response in service.Consume(iter(requests.get, None)):
                        since = time.monotonic()
                        if response.HasField("joined"):
                            token = response.joined.resume_token
                        self.serve_member(response, requests)
                except grpc.RpcError as error:
                    self.may_repeat(error, since, self.reading.is_set)

    def serve_member(self, response, requests):
        if response.HasField("assigned"):
            given = [{"topic": self.topic, "partition": p.topic_partition.partition} for p in response.assigned.partitions]
            for type in ("invoke", "ok"):
                self.history.record("member", type, "assign", partitions=given)
        elif response.HasField("records"):
            chunk = response.records
            self.history.record("member", "invoke", "poll")
            self.history.record("member", "ok", "poll", records=self.records_of(chunk))
            self.read_by_member += len(chunk.records)
            self.seen_by_member.update(record.value.decode() for record in chunk.records)
            where = TopicPartition(topic=self.topic, partition=chunk.partition)
            offsets = [OffsetCommit(topic_partition=where, offset=chunk.next_offset)]
            requests.put(ConsumeRequest(commit=ConsumeCommit(offsets=offsets)))
        if not self.reading.is_set():
            requests.put(ConsumeRequest(leave=ConsumeLeave()))

    # What a test asks of it.

    def check(self):
        if self.problems:
            raise RuntimeError("; ".join(self.problems))

    def go_on(self, count=20, since=None):
        """Waits until every partition has had so many acknowledgements since a moment, which is now if not given."""
        since, until = since or time.monotonic(), time.monotonic() + PATIENCE
        while True:
            self.check()
            late = [p for p in self.partitions if sum(at > since for at in self.acknowledged[p][-count:]) < count]
            if not late:
                return
            if time.monotonic() > until:
                raise RuntimeError(f"no {count} acknowledgements within {PATIENCE} s in partitions {late}")
            time.sleep(0.05)

    def pause(self, since):
        """The longest time without an acknowledgement of one partition since a moment."""
        longest = 0.0
        for times in self.acknowledged:
            recent = [at for at in times if at > since]
            begun = [at for at in times if at <= since][-1:]
            after = begun + recent
            longest = max([longest, *(later - at for at, later in zip(after, after[1:], strict=False))])
        return longest

    def written(self):
        return sum(len(times) - 1 for times in self.acknowledged)

    def stop(self):
        """Ends the load once the member has read everything, and reads everything again."""
        self.writing.clear()
        for thread in self.writers:
            thread.join(PATIENCE + 20)
        until = time.monotonic() + PATIENCE
        while len(self.seen_by_member) < self.written() and time.monotonic() < until and not self.problems:
            time.sleep(0.1)
        if len(self.seen_by_member) < self.written():
            self.problems.append(f"the group has read {len(self.seen_by_member)} of {self.written()} records")
        self.read("final reader", Position(bound=BOUND_LATEST))
        self.reading.clear()
        for thread in self.readers:
            thread.join(30)
        if any(thread.is_alive() for thread in self.writers + self.readers):
            self.problems.append("a client did not end")

    def judge(self, program):
        """Ends the load. Returns a line on what was found; raises what is wrong."""
        self.stop()
        self.check()
        verdict = self.history.judge(program)
        if not verdict["valid"] or verdict["warnings"]:
            raise RuntimeError(f"anomalies in {self.history.path}: {verdict['anomalies']} {verdict['warnings']}")
        again = self.read_by_member - len(self.seen_by_member)
        return (
            f"{verdict['counts']['acknowledged']} records acknowledged, 0 lost, 0 twice, in order, no reader skipped or repeated; "
            f"group: all read, {again} again; {self.retries} retries"
        )


def main():
    """load.py ADDRESS TOPIC PARTITIONS SECONDS JUDGE: a load by itself."""
    address, topic, partitions, seconds, judge = sys.argv[1:]
    load = Load(Server(address), topic, int(partitions), f"{topic}.history")
    time.sleep(float(seconds))
    print(load.judge(judge), f"longest pause {load.pause(0):.2f} s")


if __name__ == "__main__":
    main()
