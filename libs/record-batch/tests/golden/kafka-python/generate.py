"""Golden Kafka record batches (magic 2), written by kafka-python.

Run in this folder:
  python3 -m venv venv
  venv/bin/pip install kafka-python==3.0.12 lz4==4.4.5 python-snappy==0.7.3 cramjam==2.14.0 zstandard==0.25.0
  venv/bin/python generate.py        writes *.bin and ../build/kafka-python.json

../crosscheck.py then compares both implementations and writes ../manifest.json.

What is written to ../build/kafka-python.json comes from the inputs below, not from reading the batches back.
../java/GenerateGolden.java has the same cases; keep the two in step. Three of them are missing here:
kafka-python has no way to write control batches or LogAppendTime (its builder leaves both to the broker).
"""
import gzip
import json
import os
import struct
import types

import kafka
from kafka.record.default_records import DefaultRecordBatchBuilder

# gzip puts the current time in its header; this keeps the output the same on every run.
gzip.time = types.SimpleNamespace(time=lambda: 0)

T0 = 1_700_000_000_000
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]  # index = the id in the batch attributes

SMALL = [
    (T0, b"key-0", b"value-0 " * 16, []),
    (T0 + 1, None, b"a value without a key " * 4, []),
    (T0 + 2, b"tombstone", None, []),
    (T0 + 3, b"", b"", []),
    (T0 + 4, b"key-4", b"a value with headers " * 4, [
        ("trace", b"\x00\xff\x10\x80"),
        ("trace", b"second value of the same header"),
        ("null-value", None),
        ("empty-value", b""),
    ]),
]
FILL = b"0123456789abcdefghijklmnopqrstuvwxyz" * 3
LARGE = [(T0 + i, b"key-%02d" % (i % 50), (b"record-%04d:" % i + FILL)[:100], []) for i in range(1000)]
BACKWARDS = [(T0 + d, b"key-%d" % i, b"value-%d" % i, [])
             for i, d in enumerate([0, -1, -3_600_000, 64, -86_400_000 * 365])]
EDGES = [(T0, b"k" * n, b"key of %d bytes" % n, []) for n in (63, 64, 8191, 8192)]
UNICODE = [(T0, "ключ".encode(), "値".encode(), [
    ("заголовок", "кириллица".encode()),
    ("ヘッダー", "日本語".encode()),
    ("🔑", b"outside the BMP"),
    ("\u00e9", b"composed"),
    ("e\u0301", b"decomposed"),
    ("", b"empty name"),
])]

entries = []


def case(name, records, codec="none", base_offset=0, leader_epoch=0, producer=(-1, -1, -1), transactional=False):
    builder = DefaultRecordBatchBuilder(2, CODECS.index(codec), transactional, *producer, batch_size=1 << 20)
    for i, record in enumerate(records):
        assert builder.append(i, *record)
    batch = builder.build()
    if (base_offset, leader_epoch) != (0, 0):
        # kafka-python always writes 0 here. Both fields are outside the CRC; this is what a broker does on append.
        struct.pack_into(">q", batch, 0, base_offset)
        struct.pack_into(">i", batch, 12, leader_epoch)
    with open(name + ".bin", "wb") as f:
        f.write(batch)
    times = [r[0] for r in records]
    hexed = lambda b: None if b is None else b.hex()
    entries.append({
        "file": "kafka-python/%s.bin" % name, "implementation": "kafka-python " + kafka.__version__, "codec": codec,
        "base_offset": base_offset, "leader_epoch": leader_epoch, "producer_id": producer[0],
        "producer_epoch": producer[1], "base_sequence": producer[2], "is_control": False,
        "is_transactional": transactional, "timestamp_type": "CreateTime", "base_timestamp": times[0],
        "max_timestamp": max(times), "record_count": len(records),
        "records": [{"offset": base_offset + i, "timestamp": t, "key": hexed(k), "value": hexed(v),
                     "headers": [[n, hexed(h)] for n, h in headers]} for i, (t, k, v, headers) in enumerate(records)],
    })


for codec in CODECS:
    case("small-" + codec, SMALL, codec)
for codec in CODECS:
    case("large-" + codec, LARGE, codec)
case("idempotent", SMALL, producer=(4711, 3, 42))
case("transactional", SMALL, producer=(4711, 3, 42), transactional=True)
case("timestamps-backwards", BACKWARDS)
case("base-offset", SMALL, base_offset=1_000_000, leader_epoch=7)
case("varint-edges", EDGES)
case("unicode-headers", UNICODE)

os.makedirs("../build", exist_ok=True)
with open("../build/kafka-python.json", "w", encoding="utf-8") as f:
    json.dump(entries, f, ensure_ascii=False)
