"""Measures this machine: every load on every server, several runs each, medians side by side.

RUNS=3 DURATION=10 PEER=kafka BALLAST=1 ONLY=substring SCENARIO=rf3|failover|compaction|groups|group-admin;
docs/benchmarks.md says how to read the figures.
"""

import dataclasses
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

import clusters
import compaction
import group_admin
import groups
import servers

RUNS = int(os.environ.get("RUNS") or 3)
SECONDS = int((os.environ.get("DURATION") or "10").removesuffix("s"))
ONLY = os.environ.get("ONLY") or ""


@dataclasses.dataclass
class Load:
    name: str
    kind: str = "produce"
    partitions: int = 1
    producers: int = 1
    size: int = 1024
    batch_bytes: int = 262144
    linger: int = 5
    fsync: bool = False
    rate: int = 0
    keys: int = 0
    records: int = 4_000_000
    seconds: int = SECONDS
    warm_up: int = 2

    def with_partitions(self, partitions):
        return dataclasses.replace(self, partitions=partitions)


LOADS = [
    Load("1 KiB, 1 partition, 1 producer, page cache"),
    Load("1 KiB, 16 partitions, 4 producers, page cache", partitions=16, producers=4),
    Load("100 B, 6 partitions, 1 producer, page cache", partitions=6, size=100, batch_bytes=65536),
    Load("1 KiB, 16 partitions, fsync", partitions=16, fsync=True),
    Load("open loop at half the slower one's rate, fsync", partitions=16, fsync=True, rate=-1),
    Load("open loop, 5,000 records/s, fsync", partitions=16, fsync=True, rate=5000, linger=0, batch_bytes=16384),
    Load("one record in flight, end to end, page cache", kind="e2e", linger=0),
    Load("one record in flight, end to end, fsync", kind="e2e", linger=0, fsync=True),
    Load("warm catch-up, 1 partition", kind="consume"),
]


REPLICATED = [
    Load("1 KiB, 16 partitions, 2 producers, page cache", partitions=16, producers=2),
    Load("1 KiB, 16 partitions, 2 producers, fsync", partitions=16, producers=2, fsync=True),
    Load("open loop, 2,000 records/s, fsync", partitions=16, fsync=True, rate=2000, linger=0, batch_bytes=16384),
]
GROUPS = Load("groups", partitions=groups.PARTITIONS, size=100, rate=600, keys=1000, batch_bytes=16384)
FAILOVER = Load("leader killed, 1,000 records/s, fsync", fsync=True, rate=1000, linger=0, batch_bytes=16384)


def median(results, get):
    return statistics.median(get(result) for result in results)


def cpu_per_gb(result):
    return (result["server_cpu_seconds"] or 0) / max(result["bytes"] / 1e9, 1e-9)


def show(load, name, results):
    print(f'{load.name:48} {name:7} {median(results, lambda r: r["mb_per_s"]):8.1f} MB/s '
          f'{median(results, lambda r: r["records_per_s"]):10.0f} records/s  '
          f'p50 {median(results, lambda r: r["latency_us"]["p50"]):8.0f}  '
          f'p99 {median(results, lambda r: r["latency_us"]["p99"]):8.0f} us  '
          f'server {median(results, cpu_per_gb):5.2f} CPU-s/GB  '
          f'MB/s of each run {[round(r["mb_per_s"]) for r in results]}', flush=True)


def start_figures(walser):
    """What needs no load: start, idle, many partitions."""
    firsts, ready = [], []
    for _ in range(20):
        walser.start()
        walser.cli("produce", "first", "record")
        firsts.append(time.monotonic() - walser.started)
        ready.append(walser.ready_seconds)
        walser.stop()
    print(f"exec to ready, median of 20: {statistics.median(ready) * 1e3:.0f} ms")
    print(f"exec to first acknowledged record (client and topic included), median of 20: "
          f"{statistics.median(firsts) * 1e3:.0f} ms")
    walser.start()
    walser.cli("topic", "create", "idle", "--partitions", 100)
    time.sleep(2)
    print(f"idle with 100 partitions: {idle_cpu(walser.process.pid, 20):.2f} % of a core, "
          f"{resident_mib(walser.process.pid):.0f} MiB resident")
    begun = time.monotonic()
    walser.cli("topic", "create", "many", "--partitions", 2000)
    created = time.monotonic()
    walser.cli("bench", "produce", "--topic", "many", "--reuse", "--records", 2000, "--batch-bytes", 1,
               "--size", 100)
    print(f"2,000 partitions: created in {created - begun:.1f} s, "
          f"a first record to each (fsync) in {time.monotonic() - created:.1f} s")
    walser.stop()


def idle_cpu(pid, seconds):
    def jiffies():
        fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])
    before = jiffies()
    time.sleep(seconds)
    return (jiffies() - before) / seconds


def resident_mib(pid):
    return int(open(f"/proc/{pid}/status").read().split("VmRSS:")[1].split()[0]) / 1024


def compare(systems, ballast):
    fastest = {}
    for load in LOADS:
        if load.rate < 0:
            if len(fastest) < len(systems):
                continue
            load.rate = int(min(fastest.values()) / 2)
        if ONLY not in load.name:
            continue
        for name, found in in_turn(systems, ballast, lambda system: system.run(load)).items():
            show(load, name, found)
            if load.fsync and not load.rate and load.kind == "produce":
                fastest[name] = median(found, lambda r: r["records_per_s"])
        if load.rate:
            print(f"{'':48} at {load.rate} records/s")


def in_turn(systems, ballast, run):
    results = {system.name: [] for system in systems}
    for _ in range(RUNS):
        for system in systems:
            servers.ballast(ballast)
            results[system.name].append(run(system))
    return results


def replicated(systems, ballast):
    for load in REPLICATED:
        if ONLY in load.name:
            for name, found in in_turn(systems, ballast, lambda system: clusters.under_load(system, load)).items():
                show(load, name, found)


def failovers(systems, ballast):
    for name, found in in_turn(systems, ballast, lambda system: clusters.failover(system, FAILOVER)).items():
        waited = sorted(result["latency_us"]["max"] / 1e6 for result in found)
        print(f"{FAILOVER.name:48} {name:7} longest wait of a record: median {statistics.median(waited):.2f} s, "
              f"worst {waited[-1]:.2f} s, of each run {[round(seconds, 2) for seconds in waited]}", flush=True)


def groups_of(systems, _):
    groups.groups(systems, GROUPS, RUNS, ONLY)


# What runs, and on which systems; Kafka's beside it where PEER says so.
SCENARIOS = {
    "": (compare, servers.Walser, servers.Kafka),
    "rf3": (replicated, clusters.WalserCluster, clusters.KafkaCluster),
    "compaction": (compaction.compaction, compaction.Walser, compaction.Kafka),
    "groups": (groups_of, clusters.WalserCluster, clusters.KafkaCluster),
    "group-admin": (group_admin.group_admin, servers.Walser, servers.Kafka),
    "failover": (failovers, clusters.WalserCluster, clusters.KafkaCluster),
}


def main():
    scenario, peer = os.environ.get("SCENARIO") or "", os.environ.get("PEER") or ""
    if scenario not in SCENARIOS:
        sys.exit(f"SCENARIO can be {', '.join(filter(None, SCENARIOS))}")
    if peer not in ("", "kafka"):
        sys.exit("PEER can be kafka")
    if peer and scenario == "group-admin":
        sys.exit("group-admin has no PEER")
    measure, own, other = SCENARIOS[scenario]
    directory = pathlib.Path(tempfile.mkdtemp(prefix="bench.", dir=servers.TARGET))
    systems = []
    try:
        for system in [own, other] if peer else [own]:
            systems.append(system(directory))
        what = f"{RUNS} runs each" if scenario in ("failover", "groups") else f"{RUNS} runs of {SECONDS} s, medians"
        what = "one run" if scenario == "group-admin" else what
        print(f"{what}; ballast {'on' if os.environ.get('BALLAST', '1') == '1' else 'off'}", flush=True)
        measure(systems, servers.TARGET / "ballast")
        if not scenario and not ONLY:
            start_figures(systems[0])
    finally:
        for system in systems:
            system.close()
        shutil.rmtree(directory, ignore_errors=True)


main()
