"""Compares the golden batches of both implementations and writes manifest.json.

Run in this folder, after both generators (see their first lines) and after Java's parse step:
  (cd java && java -Dfile.encoding=UTF-8 -cp 'target/dependency/*' GenerateGolden.java parse)
  kafka-python/venv/bin/python crosscheck.py

Every file is read by both implementations: the CRC, every header field and every record must be what its generator put in.
"""
import hashlib
import json
import os
import struct
from pathlib import Path

from kafka.partitioner.default import murmur2
from kafka.record.memory_records import MemoryRecords

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
LARGE_RULE = {
    "count": 1000,
    "offset": "base_offset + i",
    "timestamp": "base_timestamp + i",
    "key": "'key-' and (i mod 50) as 2 digits",
    "value": "'record-', i as 4 digits, ':', then '0123456789abcdefghijklmnopqrstuvwxyz' repeated; cut at 100 bytes",
    "headers": "none",
}


def load(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def parse_with_kafka_python(file):
    data = Path(file).read_bytes()
    records = MemoryRecords(data)
    batch = records.next_batch()
    assert records.next_batch() is None and batch.size_in_bytes == len(data) and batch.magic == 2, file
    assert batch.validate_crc(), file
    hexed = lambda b: None if b is None else b.hex()
    recs = [{"offset": r.offset, "timestamp": r.timestamp, "key": hexed(r.key), "value": hexed(r.value),
             "headers": [[n, hexed(v)] for n, v in r.headers]} for r in batch]
    assert batch.last_offset_delta + 1 == batch.records_count == len(recs), file
    return {
        "file": file, "codec": CODECS[batch.compression_type], "base_offset": batch.base_offset,
        "leader_epoch": batch.leader_epoch, "producer_id": batch.producer_id, "producer_epoch": batch.producer_epoch,
        "base_sequence": batch.base_sequence, "is_control": batch.is_control_batch,
        "is_transactional": batch.is_transactional,
        "timestamp_type": ["CreateTime", "LogAppendTime"][batch.timestamp_type],
        "base_timestamp": batch.first_timestamp, "max_timestamp": batch.max_timestamp,
        "record_count": len(recs), "records": recs,
    }


def equal(name, expected, got):
    for key in expected:
        if key != "implementation" and expected[key] != got[key]:
            raise SystemExit("%s: %s differs: expected %.200r, got %.200r" % (name, key, expected[key], got[key]))


expected = load("build/kafka-python.json") + load("build/java.json")
by_java = {e["file"]: e for e in load("build/java-parsed.json")}
on_disk = sorted(str(p) for d in ("java", "kafka-python") for p in Path(d).glob("*.bin"))
assert sorted(e["file"] for e in expected) == on_disk == sorted(by_java)
for e in expected:
    equal(e["file"] + " read by kafka-python", e, parse_with_kafka_python(e["file"]))
    equal(e["file"] + " read by Java", e, by_java[e["file"]])
print(len(expected), "files: CRC, header fields and records agree in both readers")

# Cases of the same name hold the same records; without a codec the bytes after the leader epoch must be the same.
records = {e["file"]: e["records"] for e in expected}
same = []
for file in [f for f in on_disk if f.startswith("kafka-python/")]:
    twin = file.replace("kafka-python/", "java/")
    assert records[file] == records[twin], file
    a, b = Path(file).read_bytes(), Path(twin).read_bytes()
    if a[:12] + a[16:] == b[:12] + b[16:]:
        same.append(Path(file).name)
print("byte-identical in both implementations except the leader epoch:", " ".join(same))

vectors = load("murmur2.json")
for v in vectors:
    h = murmur2(bytes.fromhex(v["key_hex"]))
    assert struct.unpack(">i", struct.pack(">I", h))[0] == v["murmur2_signed_int32"], v
    assert [(h & 0x7FFFFFFF) % n for n in (6, 12)] == [v["partition_of_6"], v["partition_of_12"]], v
print(len(vectors), "murmur2 vectors agree")

for e in expected:
    if e["record_count"] == 1000:
        recs = e.pop("records")
        e["generated"] = dict(LARGE_RULE)
        for field in ("key", "value"):
            e["generated"]["sha256_of_concatenated_%ss" % field] = hashlib.sha256(
                b"".join(bytes.fromhex(r[field]) for r in recs)).hexdigest()


def lines(e):
    """One line for the header fields, one for each record."""
    records = e.pop("records", None)
    text = json.dumps(e, ensure_ascii=False)
    if records is None:
        return text
    return text[:-1] + ', "records": [\n  %s]}' % ",\n  ".join(json.dumps(r, ensure_ascii=False) for r in records)


Path("manifest.json").write_text("[\n%s\n]\n" % ",\n".join(lines(e) for e in expected), encoding="utf-8")
total = sum(os.path.getsize(f) for f in on_disk + ["manifest.json", "murmur2.json", "crosscheck.py", "kafka-python/generate.py",
                                                   "java/GenerateGolden.java", "java/pom.xml"])
print("manifest.json written; all files together:", total, "bytes")
