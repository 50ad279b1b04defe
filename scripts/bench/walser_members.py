"""Members of groups on Walser, for scripts/bench/groups.py: walser_members.py KIND --server A,B --group G --topic T ...

It speaks to the harness in lines, as KafkaGroups.java does: `TIME WHAT ...` on standard output, where TIME is that of
the monotonic clock, in nanoseconds. A line on standard input starts the measurement, and its end makes members leave.

fresh    joins a new group again and again, each time until its first record
member   reads and commits what it has read
commits  many members that read nothing and commit, with --in-flight commits not answered each
idle     many members in many groups that do nothing
"""

import argparse
import asyncio
import json
import os
import queue
import sys
import threading
import time

import grpc
from walser.v1.common_pb2 import TopicPartition
from walser.v1.group_pb2 import ConsumeCommit, ConsumeJoin, ConsumeRequest, OffsetCommit
from walser.v1.group_pb2_grpc import GroupServiceStub

# A gateway takes 1,000 streams of a connection.
STREAMS_PER_CONNECTION = 500


def say(*words):
    # One write, so that what was said is there when the process is killed.
    os.write(1, (" ".join(map(str, (time.monotonic_ns(), *words))) + "\n").encode())


def join(group, topic):
    return ConsumeRequest(join=ConsumeJoin(group=group, topics=[topic]))


def commit(topic, partition, offset, commit_id=0):
    where = TopicPartition(topic=topic, partition=partition)
    offsets = [OffsetCommit(topic_partition=where, offset=offset)]
    return ConsumeRequest(commit=ConsumeCommit(commit_id=commit_id, offsets=offsets))


def fresh(options):
    # The first ones are those of a program that has just started; they are not told.
    for number in range(-2, options.times):
        requests, begun, first = queue.SimpleQueue(), time.monotonic(), None
        with grpc.insecure_channel(options.servers[0]) as channel:
            requests.put(join(f"{options.group}-{number}", options.topic))
            for response in GroupServiceStub(channel).Consume(iter(requests.get, None)):
                if first is None and response.HasField("records"):
                    first = time.monotonic() - begun
                    requests.put(None)
        if number >= 0:
            say("first", first)


def member(options):
    requests = queue.SimpleQueue()

    def leave_at_the_end():
        sys.stdin.read()
        requests.put(None)

    threading.Thread(target=leave_at_the_end, daemon=True).start()
    with grpc.insecure_channel(options.servers[0]) as channel:
        say("join")
        requests.put(join(options.group, options.topic))
        for response in GroupServiceStub(channel).Consume(iter(requests.get, None)):
            if response.HasField("records"):
                found = response.records
                say("records", found.partition, len(found.records))
                requests.put(commit(found.topic, found.partition, found.next_offset))
    say("gone")


class Commits:
    """One member that commits as fast as its answers come."""

    def __init__(self, call, options):
        self.call, self.options = call, options
        self.partition, self.sent, self.latencies = None, {}, []
        self.offset, self.next_id = 0, 1
        # Seconds of the monotonic clock between which commits count; nothing is sent before.
        self.window = None
        self.holds_one = asyncio.Event()

    async def send(self):
        self.offset += 1
        self.sent[self.next_id] = time.monotonic()
        await self.call.write(commit(self.options.topic, self.partition, self.offset, self.next_id))
        self.next_id += 1

    async def read(self):
        held = set()
        async for response in self.call:
            kind = response.WhichOneof("event")
            if kind == "assigned":
                held.update(found.topic_partition.partition for found in response.assigned.partitions)
            elif kind == "revoked":
                held.difference_update(found.partition for found in response.revoked.partitions)
            elif kind == "commit_result":
                await self.answered(response.commit_result)
            elif kind == "partition_error":
                raise SystemExit(str(response.partition_error))
            if len(held) == self.options.each:
                self.partition = min(held)
                self.holds_one.set()

    async def answered(self, result):
        if result.errors:
            raise SystemExit(str(result.errors[0]))
        now, since = time.monotonic(), self.sent.pop(result.commit_id)
        begin, end = self.window
        if begin <= now < end:
            self.latencies.append(now - since)
        if now < end:
            await self.send()

    async def run(self, window):
        self.window = window
        for _ in range(self.options.in_flight):
            await self.send()


def channels(options, count):
    """So many connections, to the gateways in turn."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    return [grpc.aio.insecure_channel(options.servers[number % len(options.servers)], options=own)
            for number in range(count)]


async def line():
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def commits(options):
    opened = channels(options, options.members)
    members = []
    for channel in opened:
        call = GroupServiceStub(channel).Consume()
        await call.write(join(options.group, options.topic))
        members.append(Commits(call, options))
    reading = [asyncio.ensure_future(found.read()) for found in members]
    await asyncio.gather(*(found.holds_one.wait() for found in members))
    say("ready")
    await line()
    begin = time.monotonic() + options.warm_up
    await asyncio.gather(*(found.run((begin, begin + options.seconds)) for found in members))
    await line()
    latencies = sorted(latency for found in members for latency in found.latencies)
    say("done", json.dumps({"commits": len(latencies), "latencies": latencies[::max(1, len(latencies) // 1000)]}))
    for task in reading:
        task.cancel()


class Idle:
    """One member that only holds what it is given. It joins again, with its token, when its stream breaks."""

    def __init__(self, channel, group, options):
        self.channel, self.group, self.options = channel, group, options
        self.joined, self.holds_one, self.broken = asyncio.Event(), asyncio.Event(), 0
        self.token = ""

    async def run(self):
        while True:
            try:
                call = GroupServiceStub(self.channel).Consume()
                request = join(self.group, self.options.topic)
                request.join.resume_token = self.token
                await call.write(request)
                await self.read(call)
            except grpc.RpcError as error:
                if not self.broken:
                    print(error.details(), file=sys.stderr, flush=True)
            self.broken += 1
            await asyncio.sleep(0.1)

    async def read(self, call):
        held = set()
        async for response in call:
            if response.HasField("joined"):
                self.token = response.joined.resume_token
                self.joined.set()
            held.update(found.topic_partition.partition for found in response.assigned.partitions)
            held.difference_update(found.partition for found in response.revoked.partitions)
            if len(held) == self.options.each:
                self.holds_one.set()


async def idle(options):
    """Members NUMBER, NUMBER + PROCESSES, ... of all groups."""
    opened = channels(options, max(2, -(-options.members // STREAMS_PER_CONNECTION)))
    members = []
    for index in range(options.members):
        group = (index * options.processes + options.number) % options.groups
        members.append(Idle(opened[index % len(opened)], f"{options.group}-{group}", options))
    say("ready")
    await line()
    tasks = [asyncio.ensure_future(found.run()) for found in members]
    await asyncio.gather(*(found.joined.wait() for found in members))
    say("joined")
    await asyncio.gather(*(found.holds_one.wait() for found in members))
    say("assigned")
    await line()
    say("done", json.dumps({"broken": sum(found.broken for found in members)}))
    for task in tasks:
        task.cancel()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["fresh", "member", "commits", "idle"])
    for name in ("server", "group", "topic"):
        parser.add_argument(f"--{name}", required=True)
    for name, otherwise in (("times", 10), ("members", 1), ("each", 1), ("groups", 1), ("in-flight", 1), ("warm-up", 2),
                            ("seconds", 5), ("number", 0), ("processes", 1)):
        parser.add_argument(f"--{name}", type=int, default=otherwise)
    options = parser.parse_args()
    options.servers = options.server.split(",")
    run = {"fresh": fresh, "member": member, "commits": commits, "idle": idle}[options.kind]
    if asyncio.iscoroutinefunction(run):
        asyncio.run(run(options))
    else:
        run(options)
    # Streams that are still open break here.
    sys.stdout.flush()
    os._exit(0)


main()
