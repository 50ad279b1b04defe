"""What operators ask of large groups: how long `GetGroup` and `ListGroupOffsets` take.

The harness starts a server of one process, or a cluster, and runs this file as a program of stock gRPC for Python beside
it, which prints its figures as JSON.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time

import clusters
import groups

TOPICS, PARTITIONS, MEMBERS = 10, 1_000, 1_000
TIMES, AT_ONCE = 20, 64
# Milliseconds: what the figures are meant to stay within.
LAG_AIM, DESCRIBE_AIM = 1_000, 200


async def measure(address):
    # The harness has none of these.
    import grpc
    from google.protobuf.duration_pb2 import Duration
    from walser.v1 import common_pb2, group_pb2, producer_pb2, topic_pb2
    from walser.v1.group_pb2_grpc import GroupServiceStub
    from walser.v1.producer_pb2_grpc import ProducerServiceStub
    from walser.v1.topic_pb2_grpc import TopicServiceStub

    async with grpc.aio.insecure_channel(address) as channel:
        groups, producer = GroupServiceStub(channel), ProducerServiceStub(channel)
        gate = asyncio.Semaphore(AT_ONCE)

        async def together(calls):
            async def one(call):
                async with gate:
                    return await call()
            return await asyncio.gather(*map(one, calls))

        async def timed(call):
            found, answer = [], None
            for _ in range(TIMES):
                begun = time.monotonic()
                answer = await call()
                found.append((time.monotonic() - begun) * 1e3)
            return {"median": statistics.median(found), "worst": max(found)}, answer

        topics = [f"topic-{number}" for number in range(TOPICS)]
        for name in topics:
            topic = topic_pb2.Topic(name=name, partition_count=PARTITIONS, config={"durability": "page-cache"})
            await TopicServiceStub(channel).CreateTopic(topic_pb2.CreateTopicRequest(topic=topic))
        records = [common_pb2.Record(value=b"x" * 100)] * 2
        partitions = [(topic, number) for topic in topics for number in range(PARTITIONS)]

        async def write(topic, number):
            # So many first records at once may be refused for a moment, and come twice.
            for left in reversed(range(10)):
                try:
                    return await producer.Produce(producer_pb2.ProduceRequest(topic=topic, partition=number, records=records))
                except grpc.RpcError:
                    if not left:
                        raise
                    await asyncio.sleep(0.5)

        await together([lambda of=of: write(*of) for of in partitions])

        # Of each partition something is left: the leaders look for the time of the next record.
        offsets = [group_pb2.OffsetCommit(topic_partition=common_pb2.TopicPartition(topic=topic, partition=number), offset=1)
                   for topic, number in partitions]
        committed = await groups.CommitOffsets(group_pb2.CommitOffsetsRequest(group="readers", offsets=offsets))
        assert not committed.errors, committed.errors[0]
        page = group_pb2.ListGroupOffsetsRequest(group="readers", page_size=len(partitions))
        lag, found = await timed(lambda: groups.ListGroupOffsets(page))
        assert len(found.offsets) == len(partitions)
        assert all(of.lag >= 1 and of.HasField("time_lag") for of in found.offsets)
        whole, _ = await timed(lambda: groups.GetGroup(group_pb2.GetGroupRequest(name="readers")))

        # Members that poll: each joins, and polls twice more, so that what is to move has moved.
        join = group_pb2.ConsumeJoin(group="crowd", topics=[topics[0]], session_timeout=Duration(seconds=60))
        short = Duration(nanos=1_000_000)
        tokens = [""] * MEMBERS
        for _ in range(3):
            answers = await together([lambda token=token: groups.PollGroup(group_pb2.PollGroupRequest(
                join=None if token else join, token=token, max_wait=short)) for token in tokens])
            tokens = [answer.token for answer in answers]
        describe, found = await timed(lambda: groups.GetGroup(group_pb2.GetGroupRequest(name="crowd")))
        assert len(found.group.members) == MEMBERS, len(found.group.members)
        held = sum(len(member.assigned) for member in found.group.members)
        return {"lag": lag, "whole": whole, "describe": describe, "held": held}


def figures(name, address, environment, python):
    ran = subprocess.run([python, __file__, address], check=True, stdout=subprocess.PIPE, env=environment, text=True)
    found = json.loads(ran.stdout)
    for what, key, aim in [
        (f"ListGroupOffsets of {TOPICS * PARTITIONS:,} partitions in one page", "lag", LAG_AIM),
        (f"GetGroup of {TOPICS * PARTITIONS:,} partitions", "whole", LAG_AIM),
        (f"GetGroup of {MEMBERS:,} members with {found['held']:,} partitions", "describe", DESCRIBE_AIM),
    ]:
        took = found[key]
        verdict = "within" if took["median"] <= aim else "above"
        print(f"{name:12} {what:52} median {took['median']:5.0f} ms, {verdict} {aim} ms; "
              f"worst of {TIMES} {took['worst']:5.0f} ms", flush=True)


def group_admin(systems, _):
    walser, directory = systems[0], systems[0].directory.parent
    python, stubs = groups.compile_stubs(directory)
    environment = {**os.environ, "PYTHONPATH": str(stubs)}
    walser.start()
    figures("one process", walser.address, environment, python)
    walser.stop()
    cluster = clusters.WalserCluster(directory)
    try:
        figures("cluster", cluster.address, environment, python)
    finally:
        cluster.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1]))))
