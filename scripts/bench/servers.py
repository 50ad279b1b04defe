"""The servers under load, one class each with the same face, and the ballast that both need."""

import json
import os
import pathlib
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TARGET = pathlib.Path(os.environ.get("TARGET_DIR", ROOT / "target"))
HERE = ROOT / "scripts/bench"


def free_mib():
    return int(open("/proc/meminfo").read().split("MemFree:")[1].split()[0]) // 1024


def ballast(path, target_mib=700):
    """Fills the page cache with clean pages of one file until little memory is free.

    On a virtual machine the first touch of a free page costs 1 to 2 CPU-seconds per GB, because the host has to back it;
    taking a clean page from the page cache does not. Without it both servers measure the host.
    """
    total = int(open("/proc/meminfo").read().split("MemTotal:")[1].split()[0]) // 1024
    size, block = (total - 2048) << 20, 4 << 20
    if os.environ.get("BALLAST", "1") != "1" or size < block:
        return
    if not path.exists() or path.stat().st_size < size - block:
        bytes_ = os.urandom(1 << 20) * 4
        with open(path, "wb", buffering=0) as file:
            for number in range(size // block):
                file.write(bytes_)
                if number % 16 == 15:
                    os.fdatasync(file.fileno())
            os.fsync(file.fileno())
    buffer = bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        for offset in range(0, size - block, block):
            if free_mib() < target_mib:
                return
            for at in range(offset, offset + block, 1 << 20):
                os.preadv(file.fileno(), [buffer], at)


def bench_arguments(load):
    """What `walser bench` is told of a load, whatever it runs on."""
    rate = ["--rate", load.rate] if load.rate else []
    rate += ["--keys", load.keys] if load.keys else []
    return ["bench", load.kind, "--size", load.size, "--producers", load.producers, "--batch-bytes", load.batch_bytes,
            "--linger", load.linger, "--acks", "all", *rate]


class Walser:
    """A fresh standalone server for every run."""

    name = "walser"

    def __init__(self, directory):
        self.binary, self.directory = TARGET / "release/walser", directory / "walser"
        self.process = None

    def start(self, *arguments):
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        ready = self.directory / "ready"
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [self.binary, "up", "--data", self.directory / "data", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
             "--ready-file", ready, *arguments],
            stderr=open(self.directory / "log", "wb"))
        while not ready.exists():
            if self.process.poll() is not None:
                raise SystemExit((self.directory / "log").read_text())
            time.sleep(0.0005)
        self.ready_seconds = time.monotonic() - self.started
        self.address = json.loads(ready.read_text())["grpc"]

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def cli(self, *arguments):
        return subprocess.run([self.binary, *map(str, arguments), "--server", self.address], check=True,
                              capture_output=True, text=True).stdout

    def run(self, load):
        self.start()
        try:
            arguments = [*bench_arguments(load), "--partitions", load.partitions,
                         "--durability", "fsync" if load.fsync else "page-cache"]
            if load.kind == "consume":
                arguments += ["--records", load.records]
            else:
                arguments += ["--duration", f"{load.seconds}s", "--warm-up", f"{load.warm_up}s"]
            if load.kind == "e2e":
                arguments += ["--in-flight", 1]
            out = self.directory / "result.json"
            self.cli(*arguments, "--json", out)
            return json.loads(out.read_text())
        finally:
            self.stop()

    def close(self):
        self.stop()


class KafkaPrograms:
    """Kafka's broker, tools and client."""

    heap = "1G"

    def __init__(self):
        self.libs, self.classes = TARGET / "kafka/libs", TARGET / "kafka/classes"
        self.java = shutil.which("java")
        # Server and client from Maven Central, into the target directory.
        if not any(self.libs.glob("kafka_2.13-*.jar")):
            subprocess.run(["mvn", "-q", "-B", "-f", HERE / "pom.xml", "dependency:copy-dependencies",
                            f"-DoutputDirectory={self.libs}", "-DincludeScope=runtime"], check=True)
        subprocess.run(["javac", "-cp", f"{self.libs}/*", "-d", self.classes, *HERE.glob("*.java")], check=True)

    def logs(self, directory):
        return [f"-Dlog4j2.configurationFile={HERE}/log4j2.properties", f"-Dkafka.logs.dir={directory}"]

    def configure(self, directory, number, broker, voters, more):
        """Writes the properties of a broker that is a controller as well, and formats its directory."""
        (directory / "data").mkdir(parents=True)
        properties = directory / "server.properties"
        controller = voters[number]
        properties.write_text("".join(f"{key}={value}\n" for key, value in {
            "process.roles": "broker,controller", "node.id": number,
            "controller.quorum.voters": ",".join(f"{id}@127.0.0.1:{port}" for id, port in voters.items()),
            "listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker}",
            "controller.listener.names": "CONTROLLER", "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": directory / "data", "num.network.threads": 3, "num.io.threads": 8,
            "socket.send.buffer.bytes": 102400, "socket.receive.buffer.bytes": 102400,
            "log.segment.delete.delay.ms": 1000, **more,
        }.items()))
        subprocess.run([self.java, "-Xmx256M", *self.logs(directory), "-cp", f"{self.libs}/*",
                        "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", properties],
                       check=True, capture_output=True)

    def broker(self, directory):
        """Starts a broker with the options of Kafka's own start script."""
        return subprocess.Popen(
            [self.java, f"-Xmx{self.heap}", f"-Xms{self.heap}", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
             "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true",
             *self.logs(directory), "-cp", f"{self.libs}/*", "kafka.Kafka", directory / "server.properties"],
            stdout=open(directory / "out", "ab"), stderr=subprocess.STDOUT)

    def command(self, address, pids, kind, arguments, directory):
        return [self.java, "-Xms512m", "-Xmx1g", "-XX:+UseG1GC", *self.logs(directory / "client"),
                "-cp", f"{self.classes}:{self.libs}/*", "KafkaLoad", kind, "--server", address,
                "--server-pid", ",".join(map(str, pids)), *map(str, arguments)]

    def members(self, address, kind, arguments, directory):
        return [self.java, "-Xms128m", "-Xmx1g", "-XX:+UseG1GC", *self.logs(directory / "client"),
                "-cp", f"{self.classes}:{self.libs}/*", "KafkaGroups", kind, "--server", address,
                *map(str, arguments)]

    def call(self, *what, check=True):
        return subprocess.run(self.command(*what), check=check, capture_output=True, text=True, timeout=300)

    def warm(self, load):
        """The JIT compiles what the loads use: without this, Kafka's first figures are half of its later ones."""
        load("produce", "--topic", "warm", "--duration", 11, "--warm-up", 1, "--producers", 2,
             "batch.size=262144", "linger.ms=5")
        load("delete", "--topic", "warm")


class Kafka:
    """One broker for the session, warmed up first; a fresh topic for every run."""

    name = "kafka"

    def __init__(self, directory, settings=None):
        self.directory, self.process, self.topics = directory / "kafka", None, 0
        self.settings = {"offsets.topic.replication.factor": 1, **(settings or {})}
        self.programs = KafkaPrograms()
        self.start()

    def start(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        broker, controller = free_port(), free_port()
        self.address = f"127.0.0.1:{broker}"
        self.programs.configure(self.directory, 1, broker, {1: controller}, self.settings)
        self.process = self.programs.broker(self.directory)
        deadline = time.monotonic() + 60
        while self.load("create", "--topic", "warm", check=False).returncode != 0:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit((self.directory / "out").read_text()[-2000:])
        self.programs.warm(self.load)

    def load(self, kind, *arguments, check=True):
        return self.programs.call(self.address, [self.process.pid], kind, arguments, self.directory, check=check)

    def run(self, load):
        self.topics += 1
        topic = f"load-{self.topics}"
        settings = ["flush.messages=1"] if load.fsync else []
        self.load("create", "--topic", topic, "--partitions", load.partitions, *settings)
        time.sleep(1)
        client = [f"batch.size={load.batch_bytes}", f"linger.ms={load.linger}", "acks=all", "enable.idempotence=false"]
        common = ["--topic", topic, "--size", load.size]
        try:
            if load.kind == "consume":
                return self.catch_up(load, common, client)
            timing = ["--duration", load.seconds, "--warm-up", load.warm_up + 2]
            more = ["--producers", load.producers, "--rate", load.rate or 0]
            return json.loads(self.load(load.kind, *common, *timing, *more, *client).stdout)
        finally:
            self.load("delete", "--topic", topic)
            while any("-delete" in name.name for name in (self.directory / "data").iterdir()):
                time.sleep(0.2)

    def catch_up(self, load, common, client):
        """Writes what is read then: once to warm the reader, once to measure."""
        written = 0
        while written < load.records:
            result = self.load("produce", *common, "--duration", 5, "--warm-up", 0, *client)
            written += json.loads(result.stdout)["records"]
        self.load("consume", *common, "--records", load.records // 2)
        return json.loads(self.load("consume", *common, "--records", load.records).stdout)

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def free_port():
    import socket
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
