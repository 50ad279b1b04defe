"""Groups, beside those of Kafka in both of its protocols: how soon they read and take over, what they cost.

Members are processes with the client that fits: walser_members.py, KafkaGroups.java. Both speak in lines that bear the
time of the monotonic clock, which is the same in all processes of a machine. All settings are those a newcomer has.
"""

import atexit
import json
import os
import statistics
import subprocess
import sys
import time

import servers

PARTITIONS = 12
FRESH_TIMES = 10
# Of what is read in the last WINDOW seconds, the harness sees who has which partition.
WINDOW = 1.5
# Kafka notices a member that is gone when its session of 45 s is over.
PATIENCE = 300
COMMITTERS, COMMIT_SECONDS, COMMIT_WARM_UP = 16, int(os.environ.get("COMMIT_SECONDS") or 8), 3
# Members that do nothing, ten to a group. A consumer of Kafka is two threads, so that there are fewer.
IDLE, IDLE_BESIDE, IDLE_SECONDS = int(os.environ.get("IDLE") or 10_000), 200, 20
PER_GROUP = 10
CLIENTS = 4


def compile_stubs(directory):
    """The Python that has gRPC, and the generated code for it."""
    python, stubs = servers.TARGET / "python/bin/python", directory / "stubs"
    stubs.mkdir()
    protos = sorted((servers.ROOT / "proto").rglob("*.proto"))
    subprocess.run([python, "-m", "grpc_tools.protoc", "-I", servers.ROOT / "proto", f"--python_out={stubs}",
                    f"--grpc_python_out={stubs}", *protos], check=True)
    return python, stubs


class Walser:
    """Members on a cluster, with its gateways in turn."""

    name, idle = "walser", IDLE
    client_processes = CLIENTS

    def __init__(self, cluster):
        self.cluster = cluster
        self.python, self.stubs = compile_stubs(cluster.directory)
        self.gateways = [found["addresses"]["grpc"] for found in cluster.processes() if found["role"] == "gateway"]

    def command(self, kind, arguments, number):
        # Members meet all gateways, as behind a name.
        first = number % len(self.gateways)
        addresses = ",".join(self.gateways[first:] + self.gateways[:first])
        return [self.python, servers.HERE / "walser_members.py", kind, "--server", addresses, *map(str, arguments)]

    def cpu(self):
        """CPU time so far, by the role of the processes."""
        roles = dict.fromkeys(found["role"] for found in self.cluster.processes())
        return {role: cpu_seconds(self.cluster.pids(role)) for role in roles}

    def environment(self):
        return {**os.environ, "PYTHONPATH": str(self.stubs)}


class Kafka:
    """Members on three brokers, by one of Kafka's protocols."""

    idle, client_processes = IDLE_BESIDE, 1

    def __init__(self, cluster, protocol):
        self.cluster, self.protocol = cluster, protocol
        self.name = f"kafka {protocol}"

    def command(self, kind, arguments, _):
        arguments = [*arguments, f"group.protocol={self.protocol}"]
        return self.cluster.programs.members(self.cluster.address, kind, arguments, self.cluster.directory)

    def cpu(self):
        return {"brokers": cpu_seconds(self.cluster.pids())}

    def environment(self):
        return None


class Member:
    """A process with members, and what it has said so far."""

    numbers = 0

    def __init__(self, system, kind, group, topic, **options):
        Member.numbers += 1
        path = system.cluster.directory / f"member-{Member.numbers}"
        more = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
        self.lines, self.rest = [], ""
        self.process = subprocess.Popen(
            system.command(kind, ["--group", group, "--topic", topic, *more], Member.numbers), stdin=subprocess.PIPE,
            stdout=open(path, "w"), stderr=open(f"{path}.err", "w"), env=system.environment(), text=True)
        self.output, self.errors = open(path), f"{path}.err"
        atexit.register(self.process.kill)

    def heard(self):
        """All lines so far: when, in seconds of the monotonic clock, and the words."""
        *complete, self.rest = (self.rest + self.output.read()).split("\n")
        for line in complete:
            when, *words = line.split(" ", 3)
            self.lines.append((int(when) / 1e9, words))
        return self.lines

    def times(self, what, limit=PATIENCE):
        """When it said this; waits for the first time."""
        deadline = time.monotonic() + limit
        while not (found := [line for line in self.heard() if line[1][0] == what]):
            if self.process.poll() not in (None, 0) or time.monotonic() > deadline:
                sys.exit(f"a member does not say {what}: {open(self.errors).read()[-2000:]}")
            time.sleep(0.02)
        return found

    def said(self, what, limit=PATIENCE):
        return self.times(what, limit)[0][0]

    def result(self):
        return json.loads(" ".join(self.times("done")[0][1][1:]))

    def reads(self, since=0.0, until=float("inf")):
        """When it has read of which partitions."""
        found = {}
        for when, words in self.heard():
            if words[0] == "records" and since <= when < until:
                found.setdefault(int(words[1]), []).append(when)
        return found

    def tell(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self):
        self.process.kill()
        self.process.wait()


def settle(members, limit=PATIENCE):
    """Waits until every partition is read by one member, and all members read; says who has what."""
    deadline = time.monotonic() + limit
    while True:
        now = time.monotonic()
        held = [set(member.reads(now - WINDOW)) for member in members]
        if all(held) and len(set().union(*held)) == PARTITIONS == sum(map(len, held)):
            return held
        if now > deadline:
            sys.exit(f"members do not share {PARTITIONS} partitions within {limit} s: {held}\n"
                     + "".join(open(member.errors).read()[-1000:] for member in members))
        time.sleep(0.1)


def taken_over(member, partitions, since, limit=PATIENCE):
    """How long after `since` the member has read of all these partitions."""
    deadline = time.monotonic() + limit
    while not partitions <= set(found := member.reads(since)):
        if time.monotonic() > deadline:
            sys.exit(f"nobody reads {partitions - set(found)} within {limit} s")
        time.sleep(0.02)
    return max(found[partition][0] for partition in partitions) - since


def longest_gap(member, partitions, since, until):
    """The longest time without a record of one of these partitions."""
    longest = 0.0
    for when in member.reads(since - 1, until + 1).items():
        if when[0] in partitions:
            longest = max([longest, *(after - before for before, after in zip(when[1], when[1][1:]) if after > since)])
    return longest


def change(system, load, topic, number):
    """One life of a group: a member is killed, one leaves, a third one joins."""
    group, found = f"changes-{system.name.replace(' ', '-')}-{number}", {}

    def member():
        return Member(system, "member", group, topic)

    first, second = member(), member()
    held = settle([first, second])
    killed = time.monotonic()
    second.end()
    found["takeover after kill -9"] = taken_over(first, held[1], killed)
    second = member()
    held = settle([first, second])
    left = time.monotonic()
    second.process.stdin.close()
    found["takeover after a leave"] = taken_over(first, held[1], left)
    second.process.wait()
    second = member()
    settle([first, second])
    # A quiet time, to know how far apart records are anyway.
    time.sleep(3)
    before, now = settle([first, second]), time.monotonic()
    pairs = [(first, before[0]), (second, before[1])]
    found["longest gap while nothing changes"] = max(longest_gap(one, its, now - 2, now) for one, its in pairs)
    third = member()
    joined = third.said("join")
    time.sleep(WINDOW)
    *after, new = settle([first, second, third])
    until = time.monotonic()
    gaps = [longest_gap(one, before & its, joined, until) for (one, before), its in zip(pairs, after)]
    found["longest gap of kept partitions, third joins"] = max(gaps)
    found["the third has read of all its partitions"] = taken_over(third, new, joined)
    for one in (first, second, third):
        one.end()
    return found


def changes(systems, load, runs):
    for system in systems:
        topic = system.cluster.create(load)
        running = system.cluster.begin(load, topic, 3600, 0)
        atexit.register(running.kill)
        found = [change(system, load, topic, number) for number in range(runs)]
        running.kill()
        running.communicate()
        system.cluster.delete(topic)
        for what in found[0]:
            show(what, system, [run[what] for run in found])


def show(what, system, seconds):
    print(f"{what:48} {system.name:14} median {statistics.median(seconds):7.3f} s  worst {max(seconds):7.3f} s  "
          f"of each {[round(value, 3) for value in seconds]}", flush=True)


def fresh(systems, load, runs):
    """A topic with data, and a new group each time; a group before makes the internal topic."""
    for system in systems:
        topic = system.cluster.create(load)
        while system.cluster.finish(system.cluster.begin(load, topic, 3, 2))["records"] < load.rate:
            pass
        name = system.name.replace(" ", "-")
        member = Member(system, "fresh", f"first-{name}", topic, times=2)
        member.process.wait(PATIENCE)
        member = Member(system, "fresh", f"fresh-{name}", topic, times=FRESH_TIMES)
        member.process.wait(PATIENCE)
        show("from join to the first record, fresh group", system,
             [float(words[1]) for _, words in member.times("first")])
        system.cluster.delete(topic)


def cpu_seconds(pids):
    sum_ = 0
    for pid in pids:
        fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        sum_ += int(fields[11]) + int(fields[12])
    return sum_ / os.sysconf("SC_CLK_TCK")


def resident_mib(pids):
    return sum(int(open(f"/proc/{pid}/status").read().split("VmRSS:")[1].split()[0]) / 1024 for pid in pids)


def commits(systems, load, runs):
    for in_flight in (1, 10):
        for system in systems:
            found = [committing(system, load, in_flight, number) for number in range(runs)]
            rates, costs, p50s, p99s, shares = zip(*found)
            print(f"commits of one group, {COMMITTERS} members, {in_flight:2} in flight {system.name:14} "
                  f"{statistics.median(rates):7.0f} commits/s  p50 {statistics.median(p50s) * 1e3:.2f} ms  "
                  f"p99 {statistics.median(p99s) * 1e3:.2f} ms  servers {statistics.median(costs):.2f} CPU-s per 10,000 "
                  f"({shares[-1]}), commits/s of each {[round(rate) for rate in rates]}", flush=True)


def committing(system, load, in_flight, number):
    """Every member has one partition, of which it commits one offset after the other."""
    topic = system.cluster.create(load.with_partitions(COMMITTERS))
    group = f"commits-{system.name.replace(' ', '-')}-{in_flight}-{number}"
    processes = system.client_processes
    members = [Member(system, "commits", group, topic, members=COMMITTERS // processes, in_flight=in_flight,
                      warm_up=COMMIT_WARM_UP, seconds=COMMIT_SECONDS) for _ in range(processes)]
    for member in members:
        member.said("ready")
    time.sleep(1)
    for member in members:
        member.tell()
    time.sleep(COMMIT_WARM_UP)
    before = system.cpu()
    time.sleep(COMMIT_SECONDS)
    cpu = {role: seconds - before[role] for role, seconds in system.cpu().items()}
    for member in members:
        member.tell()
    results = [member.result() for member in members]
    for member in members:
        member.end()
    system.cluster.delete(topic)
    count = sum(found["commits"] for found in results)
    latencies = sorted(latency for found in results for latency in found["latencies"])
    share = ", ".join(f"{role} {seconds / (count / 10_000):.2f}" for role, seconds in cpu.items())
    return (count / COMMIT_SECONDS, sum(cpu.values()) / (count / 10_000), latencies[len(latencies) // 2],
            latencies[len(latencies) * 99 // 100], share)


def idle(systems, load, runs):
    for system in systems:
        for count in dict.fromkeys([IDLE_BESIDE, system.idle]):
            idling(system, load, count)


def idling(system, load, count):
    """All members join at once, and then do nothing."""
    topic = system.cluster.create(load.with_partitions(PER_GROUP))
    # All of Kafka's brokers, as each of them does everything.
    measured, processes = system.cluster.pids("gateway", "group-coordinator"), system.client_processes
    group = f"idle-{system.name.replace(' ', '-')}-{count}"
    members = [Member(system, "idle", group, topic, members=count // processes, groups=count // PER_GROUP, number=number,
                      processes=processes) for number in range(processes)]
    for member in members:
        member.said("ready")
    before, cpu_before, begun = resident_mib(measured), cpu_seconds(system.cluster.pids()), time.monotonic()
    for member in members:
        member.tell()
    joined, assigned = [max(member.said(what, 600) for member in members) - begun for what in ("joined", "assigned")]
    cpu_join = cpu_seconds(system.cluster.pids()) - cpu_before
    time.sleep(5)
    cpu, cpu_measured = cpu_seconds(system.cluster.pids()), cpu_seconds(measured)
    time.sleep(IDLE_SECONDS)
    cpu, cpu_measured = cpu_seconds(system.cluster.pids()) - cpu, cpu_seconds(measured) - cpu_measured
    grown = resident_mib(measured) - before
    for member in members:
        member.tell()
    broken = sum(member.result()["broken"] for member in members)
    for member in members:
        member.end()
    print(f"{count} idle members of {count // PER_GROUP} groups {system.name:14} joined in {joined:.1f} s, each with its "
          f"partition in {assigned:.1f} s ({cpu_join:.1f} CPU-s of servers; {broken} streams broke); then servers "
          f"{cpu / IDLE_SECONDS * 100:.1f} % of a core, gateways and coordinators or brokers "
          f"{cpu_measured / IDLE_SECONDS * 100:.1f} %, {before:.0f} + {grown:.0f} MiB resident", flush=True)
    system.cluster.delete(topic)


def groups(clusters, load, runs, only):
    systems = []
    for cluster in clusters:
        if cluster.name == "walser":
            systems.append(Walser(cluster))
        else:
            systems += [Kafka(cluster, protocol) for protocol in ("classic", "consumer")]
    for measure in (fresh, changes, commits, idle):
        if only in measure.__name__:
            measure(systems, load, runs)
