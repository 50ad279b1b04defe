"""The partition of a keyed record, as the gateway and the clients of Kafka choose it."""


def murmur2(key):
    """Returns the 32-bit hash of bytes, without a sign."""
    mix, low = 0x5BD1E995, 0xFFFFFFFF
    whole = len(key) & ~3
    code = 0x9747B28C ^ len(key)
    for at in range(0, whole, 4):
        word = int.from_bytes(key[at : at + 4], "little") * mix & low
        code = (code * mix ^ (word ^ word >> 24) * mix) & low
    if whole < len(key):
        code = (code ^ int.from_bytes(key[whole:], "little")) * mix & low
    code = (code ^ code >> 13) * mix & low
    return code ^ code >> 15


def partition(key, count):
    return (murmur2(key) & 0x7FFFFFFF) % count
