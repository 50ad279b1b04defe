"""Three nodes on this machine, with three replicas of every partition: the scenarios `rf3` and `failover`.

The two clusters have the same face. Three brokers, or three storage nodes with a controller and two gateways, share the
cores of one machine with the client: the figures compare systems, they are not those of three machines.
"""

import atexit
import dataclasses
import json
import shutil
import signal
import subprocess
import time

from servers import TARGET, KafkaPrograms, bench_arguments, free_port

NODES = 3
# Seconds: how long a load runs before and after the kill of a leader. Kafka needs up to 10 to notice it.
BEFORE, AFTER = 5, 25


def wait(what, limit=120):
    deadline = time.monotonic() + limit
    while not what():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what.__name__}: not within {limit} s")
        time.sleep(0.1)


class WalserCluster:
    """`walser cluster up`, with the settings that it has by itself."""

    name = "walser"

    def __init__(self, directory):
        self.binary, self.directory = TARGET / "release/walser", directory / "walser-cluster"
        self.output, self.topics = directory / "walser-cluster.out", 0
        self.process = subprocess.Popen(
            [self.binary, "cluster", "up", "--dir", self.directory], stdout=open(self.output, "wb"),
            stderr=subprocess.STDOUT)
        # Its processes end with it.
        atexit.register(self.process.kill)
        wait(self.is_ready)
        gateway = next(found for found in self.processes() if found["role"] == "gateway")
        self.address = gateway["addresses"]["grpc"]

    def is_ready(self):
        if self.process.poll() is not None:
            raise SystemExit(self.output.read_text())
        return (self.directory / "cluster.json").exists()

    def processes(self):
        return json.loads((self.directory / "cluster.json").read_text())["processes"]

    def cli(self, *arguments):
        return subprocess.run([self.binary, *map(str, arguments)], check=True, capture_output=True, text=True).stdout

    def create(self, load):
        self.topics += 1
        topic = f"load-{self.topics}"
        durability = "fsync" if load.fsync else "page-cache"
        self.cli("topic", "create", topic, "--partitions", load.partitions, "-c", f"durability={durability}",
                 "--server", self.address)
        return topic

    def delete(self, topic):
        self.cli("topic", "delete", topic, "--yes", "--server", self.address)

    def begin(self, load, topic, seconds, warm_up):
        pids = ",".join(str(found["pid"]) for found in self.processes())
        arguments = [*bench_arguments(load), "--topic", topic, "--reuse",
                     "--duration", f"{seconds}s", "--warm-up", f"{warm_up}s", "--server-pid", pids,
                     "--server", self.address, "--json", self.directory / "result.json"]
        return subprocess.Popen([self.binary, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                text=True)

    def finish(self, running):
        _, errors = running.communicate()
        if running.returncode != 0:
            raise SystemExit(errors)
        return json.loads((self.directory / "result.json").read_text())

    def pids(self, *roles):
        return [found["pid"] for found in self.processes() if not roles or found["role"] in roles]

    def first_partition(self, topic):
        found = json.loads(self.cli("topic", "describe", topic, "-o", "json", "--server", self.address))
        first = found["partitions"][0]
        return first.get("leader"), len(first["isr"])

    def kill(self, node):
        self.cli("cluster", "kill", "--dir", self.directory, "storage-node", node)

    def restart(self, node):
        self.cli("cluster", "start", "--dir", self.directory, "storage-node", node)

    def close(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class KafkaCluster:
    """Three brokers that are controllers as well, warmed up first; settings of failover as they are by default."""

    name = "kafka"

    def __init__(self, directory):
        self.directory, self.topics = directory / "kafka-cluster", 0
        self.programs = KafkaPrograms()
        brokers = {number: free_port() for number in range(1, NODES + 1)}
        voters = {number: free_port() for number in range(1, NODES + 1)}
        self.address = ",".join(f"127.0.0.1:{port}" for port in brokers.values())
        self.nodes = {}
        for number, port in brokers.items():
            more = {"default.replication.factor": 3, "min.insync.replicas": 2, "offsets.topic.replication.factor": 3}
            self.programs.configure(self.directory / str(number), number, port, voters, more)
            self.restart(number)
        wait(self.is_ready)
        self.programs.warm(self.load)

    def is_ready(self):
        return self.load("create", "--topic", "warm", "--replicas", 3, check=False).returncode == 0

    def what(self, kind, arguments):
        return self.address, [node.pid for node in self.nodes.values()], kind, arguments, self.directory

    def load(self, kind, *arguments, check=True):
        return self.programs.call(*self.what(kind, arguments), check=check)

    def create(self, load):
        self.topics += 1
        topic = f"load-{self.topics}"
        settings = ["flush.messages=1"] if load.fsync else []
        self.load("create", "--topic", topic, "--partitions", load.partitions, "--replicas", 3, *settings)
        return topic

    def delete(self, topic):
        self.load("delete", "--topic", topic)

    def begin(self, load, topic, seconds, warm_up):
        arguments = ["--topic", topic, "--size", load.size, "--producers", load.producers, "--rate", load.rate,
                     "--keys", load.keys, "--duration", seconds, "--warm-up", warm_up, f"batch.size={load.batch_bytes}",
                     f"linger.ms={load.linger}", "acks=all"]
        return subprocess.Popen(self.programs.command(*self.what(load.kind, arguments)), stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def finish(self, running):
        figures, errors = running.communicate()
        if running.returncode != 0:
            raise SystemExit(errors)
        return json.loads(figures)

    def pids(self, *_):
        return [node.pid for node in self.nodes.values()]

    def first_partition(self, topic):
        found = json.loads(self.load("describe", "--topic", topic).stdout)
        return found["leader"], found["in_sync"]

    def kill(self, node):
        self.nodes[node].kill()
        self.nodes[node].wait()

    def restart(self, node):
        self.nodes[node] = self.programs.broker(self.directory / str(node))
        atexit.register(self.nodes[node].kill)

    def close(self):
        for node in self.nodes.values():
            node.terminate()
        for node in self.nodes.values():
            node.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def under_load(cluster, load):
    """One run on a topic of its own."""
    topic = cluster.create(load)
    try:
        return cluster.finish(cluster.begin(load, topic, load.seconds, load.warm_up + 2))
    finally:
        cluster.delete(topic)


def failover(cluster, load):
    """Kills the leader of the only partition under an open loop: the highest latency is how long a client waited."""
    topic = cluster.create(load)

    def is_whole():
        return cluster.first_partition(topic)[1] == NODES

    wait(is_whole)
    leader = cluster.first_partition(topic)[0]
    running = cluster.begin(dataclasses.replace(load, partitions=1), topic, BEFORE + AFTER, 2)
    time.sleep(2 + BEFORE)
    cluster.kill(leader)
    figures = cluster.finish(running)
    cluster.restart(leader)
    wait(is_whole)
    cluster.delete(topic)
    return figures
