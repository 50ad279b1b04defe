"""Reads every stream of generate.py with the codecs of kafka-python.

python3 observe.py < streams.tsv > kafka-python.tsv
"""

import sys

from kafka import codec

DECODERS = {
    "gzip": codec.gzip_decode,
    "snappy": codec.snappy_decode,
    "lz4": codec.lz4_decode,
    "zstd": codec.zstd_decode,
}

for line in sys.stdin:
    kind, name, digits = line.rstrip("\n").split("\t")
    try:
        seen = "read\t" + bytes(DECODERS[kind](bytes.fromhex(digits))).hex()
    except Exception as error:
        seen = "refused\t" + " ".join(f"{type(error).__name__}: {error}".split())
    print(kind, name, seen, sep="\t")
