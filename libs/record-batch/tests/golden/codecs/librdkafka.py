"""Reads every stream of generate.py with librdkafka: sends it in a batch to the library's own mock broker, which keeps it
as it is, and consumes it from there. Each stream has a process of its own, because librdkafka ends the process for some.

python3 librdkafka.py < streams.tsv > librdkafka.tsv   (needs confluent-kafka and crc32c)
"""

import os
import socket
import struct
import subprocess
import sys

import confluent_kafka
import crc32c

import generate

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def batch(codec, stream):
    tail = struct.pack(">hiqqqhii", CODECS[codec], 1, 0, 0, -1, -1, -1, 2) + stream
    body = struct.pack(">ibI", 0, 2, crc32c.crc32c(tail)) + tail
    return struct.pack(">qi", 0, len(body)) + body


def text(value):
    return struct.pack(">h", len(value)) + value


def produce(connection, topic, records):
    data = struct.pack(">i", 1) + text(topic) + struct.pack(">iii", 1, 0, len(records)) + records
    request = struct.pack(">hhi", 0, 7, 1) + text(b"test") + struct.pack(">hhi", -1, 1, 5000) + data
    connection.sendall(struct.pack(">i", len(request)) + request)
    left = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))[0]
    answer = connection.recv(left, socket.MSG_WAITALL)
    code = struct.unpack_from(">h", answer, 4 + 4 + 2 + len(topic) + 4 + 4)[0]
    assert code == 0, f"the mock broker refuses the batch with {code}"


def consume(consumer, topic):
    """The records as they stand in a batch, or an error."""
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    plain = b""
    while (message := consumer.poll(3)) is not None:
        error = message.error()
        if error and error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
            return "read\t" + plain.hex()
        if error:
            return f"refused\t{error.name()}: {error.str()}"
        plain += generate.record(message.offset(), message.value())
    return "refused\tno answer"


def observe(codec, stream):
    consumer = confluent_kafka.Consumer({
        "test.mock.num.brokers": 1,
        "group.id": "observe",
        "enable.partition.eof": True,
        "allow.auto.create.topics": True,
        "fetch.wait.max.ms": 20,
        "log_level": 0,
    })
    broker = next(iter(consumer.list_topics(timeout=10).brokers.values()))
    connection = socket.create_connection((broker.host, broker.port))
    consumer.list_topics("case", timeout=10)
    produce(connection, b"case", batch(codec, stream))
    return consume(consumer, "case")


if len(sys.argv) == 3:
    print(observe(sys.argv[1], bytes.fromhex(sys.argv[2])), flush=True)
    os._exit(0)  # Closing the consumer would wait for a broker that is gone.
else:
    for line in sys.stdin:
        codec, name, digits = line.rstrip("\n").split("\t")
        if len(digits) > 100_000:
            seen = "refused\tnot tried"
        else:
            command = [sys.executable, sys.argv[0], codec, digits]
            try:
                run = subprocess.run(command, capture_output=True, text=True, timeout=5)
                seen = run.stdout.strip() if run.returncode == 0 else "refused\tends the process: " + run.stderr.strip()
            except subprocess.TimeoutExpired:
                seen = "refused\tnever returns"
        print(codec, name, seen, sep="\t", flush=True)
