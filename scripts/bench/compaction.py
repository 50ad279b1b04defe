"""Compaction of many keys: how fast, within how much memory, and what it costs those who write and read meanwhile.

A topic is filled while it deletes only, and then told to compact. KEYS=10000000 keys are written twice, with values of
100 bytes; memory for keys is 64 MiB on both systems. The rate is the bytes of the closed segments by the time from the
first moment of compacting until all of them are compacted. Then a smaller topic is compacted while another one is
written and read.
"""

import json
import os
import time

import servers

KEYS = int(os.environ.get("KEYS") or 10_000_000)
MEMORY = 64 << 20
SEGMENT = 100 << 20
TAIL_SECONDS = 10


def wait(what, limit=1800):
    deadline = time.monotonic() + limit
    while not (found := what()):
        if time.monotonic() > deadline:
            raise SystemExit("compaction does not end")
        time.sleep(0.05)
    return found


def peak_mib(pid):
    return int(open(f"/proc/{pid}/status").read().split("VmHWM:")[1].split()[0]) / 1024


class Walser(servers.Walser):
    """A fresh standalone server."""

    def begin(self):
        self.start("--set", f"storage.compaction.memory.bytes={MEMORY}")

    def create(self, topic, *config):
        options = [part for setting in config for part in ("--config", setting)]
        self.cli("topic", "create", topic, "--config", "durability=page-cache", *options)

    def fill(self, topic, records, keys):
        self.create(topic, "cleanup.policy=delete", f"segment.bytes={SEGMENT}")
        self.cli("bench", "produce", "--topic", topic, "--reuse", "--records", records, "--keys", keys, "--size", 100,
                 "--batch-bytes", 65536)

    def compact(self, topic):
        self.cli("topic", "alter", topic, "--config", "cleanup.policy=compact", "--config",
                 "min.cleanable.dirty.ratio=0.01")

    def is_compacting(self, topic):
        return self.described(topic)["running"]

    def is_compacted(self, topic):
        found = self.described(topic)
        return not found["running"] and int(found["dirtyBytes"]) == 0

    def described(self, topic):
        return json.loads(self.cli("topic", "describe", topic, "-o", "json"))["partitions"][0].get(
            "compaction", {"running": False, "dirtyBytes": 1})

    def closed_bytes(self, topic):
        logs = sorted((self.directory / "data").glob(f"topics/{topic}/*/*.log")) or sorted(
            (self.directory / "data").rglob("0*.log"))
        return sum(path.stat().st_size for path in logs[:-1])

    def tail(self, seconds):
        out = self.directory / "tail.json"
        self.cli("bench", "e2e", "--topic", "tail", "--reuse", "--rate", 1000, "--linger", 0, "--duration",
                 f"{seconds}s", "--warm-up", "1s", "--json", out)
        return json.loads(out.read_text())


class Kafka(servers.Kafka):
    """One broker, its cleaner with one thread and without a limit."""

    def __init__(self, directory):
        super().__init__(directory, {
            "log.cleaner.dedupe.buffer.size": MEMORY, "log.cleaner.threads": 1, "log.cleaner.backoff.ms": 100,
        })

    def begin(self):
        pass

    def create(self, topic, *config):
        self.load("create", "--topic", topic, "--partitions", 1, *config)
        time.sleep(1)

    def fill(self, topic, records, keys):
        self.create(topic, "cleanup.policy=delete", f"segment.bytes={SEGMENT}")
        self.load("produce", "--topic", topic, "--records", records, "--keys", keys, "--size", 100, "--duration", 3600,
                  "--warm-up", 0, "batch.size=65536", "linger.ms=5", "acks=all", "enable.idempotence=false")

    def compact(self, topic):
        self.load("alter", "--topic", topic, "cleanup.policy=compact", "min.cleanable.dirty.ratio=0.01")

    def logs(self, topic):
        return sorted((self.directory / f"data/{topic}-0").glob("0*.log"))

    def is_compacting(self, topic):
        return any((self.directory / f"data/{topic}-0").glob("*.cleaned")) or self.cleaned_to(topic) > 0

    def is_compacted(self, topic):
        return self.cleaned_to(topic) >= int(self.logs(topic)[-1].stem)

    def cleaned_to(self, topic):
        """What the cleaner has written down: of each partition the offset up to which it is clean."""
        lines = (self.directory / "data/cleaner-offset-checkpoint").read_text().splitlines()[2:]
        found = [line.split() for line in lines]
        return max((int(parts[2]) for parts in found if parts[0] == topic), default=0)

    def closed_bytes(self, topic):
        return sum(path.stat().st_size for path in self.logs(topic)[:-1])

    def tail(self, seconds):
        result = self.load("e2e", "--topic", "tail", "--duration", seconds, "--warm-up", 1, "linger.ms=0", "acks=all")
        return json.loads(result.stdout)

    def stop(self):
        for topic in ("keys", "more", "tail"):
            self.load("delete", "--topic", topic, check=False)


def compaction(systems, ballast):
    for system in systems:
        servers.ballast(ballast)
        system.begin()
        try:
            measure(system)
        finally:
            system.stop()


def measure(system):
    system.fill("keys", 2 * KEYS, KEYS)
    size = system.closed_bytes("keys")
    system.compact("keys")
    wait(lambda: system.is_compacting("keys") or system.is_compacted("keys"))
    begun = time.monotonic()
    wait(lambda: system.is_compacted("keys"))
    seconds = time.monotonic() - begun
    print(f"{KEYS} keys of 100 bytes, twice {system.name:7} {size / 1e6:.0f} MB compacted in {seconds:.1f} s: "
          f"{size / 1e6 / seconds:.0f} MB/s, to {system.closed_bytes('keys') / 1e6:.0f} MB, "
          f"peak {peak_mib(system.process.pid):.0f} MiB resident", flush=True)
    system.create("tail")
    quiet = system.tail(TAIL_SECONDS)["latency_us"]
    system.fill("more", KEYS, KEYS // 2)
    system.compact("more")
    wait(lambda: system.is_compacting("more") or system.is_compacted("more"))
    busy, during = system.tail(TAIL_SECONDS)["latency_us"], not system.is_compacted("more")
    print(f"written and read meanwhile {system.name:7} p99 {quiet['p99']} us without, {busy['p99']} us with compaction"
          f"{'' if during else ' (which has ended first)'}", flush=True)
