"""Compressed streams at the edges of gzip, snappy, lz4 and zstd, one per line: codec, name, hexadecimal digits.

Observe.java, observe.go, observe.py and librdkafka.py read these lines and say what the clients do with each; merge.py puts everything
together. README.md says how to run them.
"""

import gzip
import struct
import zlib

import lz4.block
import lz4.frame
import snappy
import xxhash
import zstandard



def record(delta, value):
    """A record without timestamp, key and headers. Every length fits one byte of a varint, or two."""

    def varint(number):
        number = number * 2 if number >= 0 else -number * 2 - 1
        return bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])

    body = b"\0\0" + varint(delta) + varint(-1) + varint(len(value)) + value + varint(0)
    return varint(len(body)) + body


FIRST = record(0, b"one line, and one line again\n" * 3)
SECOND = record(1, b"the other half of the records\n" * 3)
PLAIN = FIRST + SECOND


def case(codec, name, stream):
    print(codec, name, bytes(stream).hex(), sep="\t")


def flipped(stream, at):
    stream = bytearray(stream)
    stream[at] ^= 0x55
    return bytes(stream)


# --- gzip -----------------------------------------------------------------------------------------------------------


def deflate(plain, level=9, window=-15):
    packer = zlib.compressobj(level, zlib.DEFLATED, window)
    return packer.compress(plain) + packer.flush()


def member(plain, flags=0, fields=b"", method=8, magic=b"\x1f\x8b", body=None, crc=None, size=None):
    head = magic + bytes([method, flags]) + bytes(4) + b"\x00\xff" + fields
    crc = zlib.crc32(plain) if crc is None else crc
    size = len(plain) if size is None else size
    return head + (deflate(plain) if body is None else body) + struct.pack("<II", crc, size & 0xFFFFFFFF)


def with_header_crc(plain, flags, fields, wrong=0):
    head = b"\x1f\x8b\x08" + bytes([flags | 2]) + bytes(4) + b"\x00\xff" + fields
    crc = (zlib.crc32(head) & 0xFFFF) ^ wrong
    return head + struct.pack("<H", crc) + member(plain)[10:]


def gzip_cases():
    one, two = member(FIRST), member(SECOND)
    extra = struct.pack("<H", 6) + b"AB\x02\x00xy"
    case("gzip", "one member", member(PLAIN))
    case("gzip", "one member, written by Python", gzip.compress(PLAIN, mtime=0))
    case("gzip", "two members", one + two)
    case("gzip", "an empty member between two", one + member(b"") + two)
    case("gzip", "an empty member alone", member(b""))
    case("gzip", "no bytes at all", b"")
    case("gzip", "extra field, name and comment", member(PLAIN, 4 | 8 | 16, extra + b"name\0" + b"comment\0"))
    case("gzip", "header checksum, right", with_header_crc(PLAIN, 4 | 8, extra + b"name\0"))
    case("gzip", "header checksum, wrong", with_header_crc(PLAIN, 4 | 8, extra + b"name\0", wrong=1))
    case("gzip", "text flag", member(PLAIN, 1))
    case("gzip", "a reserved flag bit", member(PLAIN, 0x20))
    case("gzip", "all reserved flag bits", member(PLAIN, 0xE0))
    case("gzip", "method 7", member(PLAIN, method=7))
    case("gzip", "a zlib stream instead", zlib.compress(PLAIN))
    case("gzip", "a raw deflate stream instead", deflate(PLAIN))
    case("gzip", "trailer: wrong checksum", member(PLAIN, crc=1))
    case("gzip", "trailer: wrong size", member(PLAIN, size=1))
    case("gzip", "trailer: missing", member(PLAIN)[:-8])
    case("gzip", "trailer: last byte missing", member(PLAIN)[:-1])
    case("gzip", "cut in the header", one[:5])
    case("gzip", "cut in the name", member(PLAIN, 8, b"name\0")[:13])
    case("gzip", "cut in the body", one[:20])
    case("gzip", "body: bad block type", member(PLAIN, body=b"\x07"))
    case("gzip", "body: stored length does not match", member(PLAIN, body=b"\x01\x05\x00\x00\x00hello"))
    case("gzip", "body: distance before the start", member(b"abc", body=bytes.fromhex("4b040200")))
    case("gzip", "behind the member: 1 byte", one + b"x")
    case("gzip", "behind the member: 4 bytes", one + b"junk")
    case("gzip", "behind the member: 40 bytes", one + b"junk" * 10)
    case("gzip", "behind the member: 40 zeros", one + bytes(40))
    case("gzip", "behind the member: a header cut short", one + two[:6])
    case("gzip", "behind the member: a whole header, no body", one + two[:10])
    case("gzip", "behind the member: a whole header, padding of 30 bytes of ff", one + two[:10] + b"\xff" * 30)
    case("gzip", "behind the member: a member cut in its body", one + two[:30])
    case("gzip", "behind the member: a member without trailer", one + two[:-8])
    case("gzip", "behind the member: a member with a wrong checksum", one + member(SECOND, crc=1))
    case("gzip", "behind the member: method 7", one + member(SECOND, method=7))
    case("gzip", "behind the member: a wrong header checksum", one + with_header_crc(SECOND, 0, b"", wrong=1))
    case("gzip", "behind two members: 40 bytes", one + two + b"junk" * 10)
    case("gzip", "behind the member: a cut name of a next header", one + member(SECOND, 8, b"n" * 40)[:45])


# --- snappy ---------------------------------------------------------------------------------------------------------

XERIAL = b"\x82SNAPPY\0" + struct.pack(">II", 1, 1)


def chunk(plain):
    packed = snappy.compress(plain)
    return struct.pack(">I", len(packed)) + packed


def snappy_cases():
    raw = snappy.compress(PLAIN)
    case("snappy", "raw: one block", raw)
    case("snappy", "raw: literals only", b"\x05\x10hello")
    case("snappy", "raw: empty block", b"\0")
    case("snappy", "no bytes at all", b"")
    case("snappy", "raw: two blocks, one after the other", snappy.compress(FIRST) + snappy.compress(SECOND))
    case("snappy", "raw: a byte behind it", raw + b"x")
    case("snappy", "raw: cut", raw[:-1])
    case("snappy", "raw: says more than it holds", b"\x06\x10hello")
    case("snappy", "raw: says less than it holds", b"\x04\x10hello")
    case("snappy", "raw: length in more bytes than needed", b"\x85\x80\x00\x10hello")
    case("snappy", "raw: length above 32 bits", b"\x85\x80\x80\x80\x10\x10hello")
    case("snappy", "raw: length not ended", b"\xff\xff\xff\xff\xff\xff")
    case("snappy", "raw: copy with offset 0", b"\x08\x0cabcd\x01\x00")
    case("snappy", "raw: copy from before the start", b"\x08\x0cabcd\x01\x09")
    case("snappy", "raw: overlapping copy", b"\x08\x00a\x0d\x01")
    case("snappy", "raw: copy with a four-byte offset", b"\x08\x0cabcd\x0f\x04\x00\x00\x00")
    case("snappy", "framing format (sNaPpY)", b"\xff\x06\x00\x00sNaPpY" + framed(PLAIN))
    case("snappy", "xerial: one block", XERIAL + chunk(PLAIN))
    case("snappy", "xerial: two blocks", XERIAL + chunk(FIRST) + chunk(SECOND))
    case("snappy", "xerial: header only", XERIAL)
    case("snappy", "xerial: an empty block between two", XERIAL + chunk(FIRST) + chunk(b"") + chunk(SECOND))
    case("snappy", "xerial: a block of 0 bytes between two", XERIAL + chunk(FIRST) + bytes(4) + chunk(SECOND))
    case("snappy", "xerial: a block of 0 bytes at the end", XERIAL + chunk(PLAIN) + bytes(4))
    case("snappy", "xerial: two streams joined", XERIAL + chunk(FIRST) + XERIAL + chunk(SECOND))
    case("snappy", "xerial: header twice", XERIAL + XERIAL + chunk(PLAIN))
    case("snappy", "xerial: header again at the end", XERIAL + chunk(PLAIN) + XERIAL)
    case("snappy", "xerial: joined, second magic damaged", XERIAL + chunk(FIRST) + flipped(XERIAL, 5) + chunk(SECOND))
    case("snappy", "xerial: joined, second header cut", XERIAL + chunk(PLAIN) + XERIAL[:10])
    case("snappy", "xerial: joined, second version 0", XERIAL + chunk(FIRST) + XERIAL[:8] + bytes(8) + chunk(SECOND))
    case("snappy", "xerial: version 0", XERIAL[:8] + struct.pack(">II", 0, 1) + chunk(PLAIN))
    case("snappy", "xerial: version 2", XERIAL[:8] + struct.pack(">II", 2, 1) + chunk(PLAIN))
    case("snappy", "xerial: compatible version 0", XERIAL[:8] + struct.pack(">II", 1, 0) + chunk(PLAIN))
    case("snappy", "xerial: compatible version 2", XERIAL[:8] + struct.pack(">II", 1, 2) + chunk(PLAIN))
    case("snappy", "xerial: versions little-endian", XERIAL[:8] + struct.pack("<II", 1, 1) + chunk(PLAIN))
    case("snappy", "xerial: version negative", XERIAL[:8] + struct.pack(">iI", -1, 1) + chunk(PLAIN))
    case("snappy", "xerial: magic alone, 8 bytes", XERIAL[:8])
    case("snappy", "xerial: header cut at 15 bytes", XERIAL[:15])
    case("snappy", "xerial: block cut", (XERIAL + chunk(PLAIN))[:-1])
    case("snappy", "xerial: block length cut", XERIAL + chunk(PLAIN) + b"\0\0")
    case("snappy", "xerial: block length without block", XERIAL + chunk(PLAIN) + b"\0\0\0\x05")
    case("snappy", "xerial: negative block length", XERIAL + b"\xff\xff\xff\xff" + chunk(PLAIN)[4:])
    case("snappy", "xerial: damaged block", XERIAL + chunk(FIRST) + b"\0\0\0\x07\x06\x10hello")
    case("snappy", "xerial: block says 512 MiB", XERIAL + b"\0\0\0\x0b\x80\x80\x80\x80\x02\x10hello")


def framed(plain):
    crc = crc32c(plain)
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    body = struct.pack("<I", masked) + snappy.compress(plain)
    return b"\x00" + struct.pack("<I", len(body))[:3] + body


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# --- lz4 ------------------------------------------------------------------------------------------------------------


def lz4_block(plain, checksum=False, stored=False, wrong=0):
    packed = plain if stored else lz4.block.compress(plain, store_size=False)
    size = len(packed) | (0x80000000 if stored else 0)
    tail = struct.pack("<I", xxhash.xxh32(packed).intdigest() ^ wrong) if checksum else b""
    return struct.pack("<I", size) + packed + tail


def lz4_frame(blocks, flags=0x60, bd=0x40, fields=b"", end=b"\0\0\0\0", wrong_header=0, magic=b"\x04\x22\x4d\x18"):
    head = bytes([flags, bd]) + fields
    check = ((xxhash.xxh32(head).intdigest() >> 8) & 0xFF) ^ wrong_header
    return magic + head + bytes([check]) + b"".join(blocks) + end


def checked(plain, wrong=0):
    return b"\0\0\0\0" + struct.pack("<I", xxhash.xxh32(plain).intdigest() ^ wrong)


def lz4_cases():
    plain, first, second = lz4_block(PLAIN), lz4_block(FIRST), lz4_block(SECOND)
    one = lz4_frame([plain])
    case("lz4", "one frame", one)
    case("lz4", "one frame, stored block", lz4_frame([lz4_block(PLAIN, stored=True)]))
    case("lz4", "two blocks", lz4_frame([first, second]))
    case("lz4", "no blocks", lz4_frame([]))
    case("lz4", "no bytes at all", b"")
    case("lz4", "the lz4 tool's defaults", lz4.frame.compress(PLAIN, block_linked=True, content_checksum=True, store_size=False))
    case("lz4", "linked blocks flag, one block", lz4_frame([plain], 0x40))
    case("lz4", "linked blocks that refer back", linked())
    case("lz4", "block size 256 KiB", lz4_frame([plain], bd=0x50))
    case("lz4", "block size 4 MiB", lz4_frame([plain], bd=0x70))
    case("lz4", "block size code 3", lz4_frame([plain], bd=0x30))
    case("lz4", "block size code 0", lz4_frame([plain], bd=0x00))
    case("lz4", "block descriptor: low reserved bit", lz4_frame([plain], bd=0x41))
    case("lz4", "block descriptor: high reserved bit", lz4_frame([plain], bd=0xC0))
    case("lz4", "version 0", lz4_frame([plain], 0x20))
    case("lz4", "version 2", lz4_frame([plain], 0xA0))
    case("lz4", "reserved flag bit", lz4_frame([plain], 0x62))
    case("lz4", "dictionary id", lz4_frame([plain], 0x61, fields=b"\1\0\0\0"))
    case("lz4", "content size, right", lz4_frame([plain], 0x68, fields=struct.pack("<Q", len(PLAIN))))
    case("lz4", "content size, too small", lz4_frame([plain], 0x68, fields=struct.pack("<Q", 1)))
    case("lz4", "content size, too large", lz4_frame([plain], 0x68, fields=struct.pack("<Q", 1 << 40)))
    case("lz4", "content size, cut", lz4_frame([plain], 0x68, fields=struct.pack("<Q", 1))[:9])
    case("lz4", "header checksum, wrong", lz4_frame([plain], wrong_header=1))
    old = bytearray(one)
    old[6] = (xxhash.xxh32(bytes(old[:6])).intdigest() >> 8) & 0xFF
    case("lz4", "header checksum over the magic (Kafka 0.9)", old)
    case("lz4", "block checksum, right", lz4_frame([lz4_block(PLAIN, True)], 0x70))
    case("lz4", "block checksum, wrong", lz4_frame([lz4_block(PLAIN, True, wrong=1)], 0x70))
    case("lz4", "block checksum, stored block, right", lz4_frame([lz4_block(PLAIN, True, True)], 0x70))
    case("lz4", "block checksum, stored block, wrong", lz4_frame([lz4_block(PLAIN, True, True, wrong=1)], 0x70))
    case("lz4", "block checksum, cut", lz4_frame([lz4_block(PLAIN, True)[:-2]], 0x70, end=b""))
    case("lz4", "content checksum, right", lz4_frame([plain], 0x64, end=checked(PLAIN)))
    case("lz4", "content checksum, wrong", lz4_frame([plain], 0x64, end=checked(PLAIN, 1)))
    case("lz4", "content checksum, missing", lz4_frame([plain], 0x64))
    case("lz4", "content checksum, cut", lz4_frame([plain], 0x64, end=checked(PLAIN)[:-1]))
    case("lz4", "end mark, missing", lz4_frame([plain], end=b""))
    case("lz4", "end mark, cut", lz4_frame([plain], end=b"\0\0"))
    case("lz4", "end mark with the stored bit", lz4_frame([plain], end=b"\0\0\0\x80"))
    case("lz4", "cut in the header", one[:5])
    case("lz4", "cut in a block", one[:20])
    case("lz4", "another magic", lz4_frame([plain], magic=b"\x04\x22\x4d\x19"))
    case("lz4", "legacy frame", b"\x02\x21\x4c\x18" + plain)
    case("lz4", "skippable frame before", b"\x50\x2a\x4d\x18" + b"\x04\0\0\0skip" + one)
    case("lz4", "skippable frame behind", one + b"\x50\x2a\x4d\x18" + b"\x04\0\0\0skip")
    case("lz4", "two frames", lz4_frame([first]) + lz4_frame([second]))
    case("lz4", "behind the frame: 4 bytes", one + b"junk")
    case("lz4", "behind the frame: 1 byte", one + b"x")
    case("lz4", "behind the frame: zeros", one + bytes(8))
    case("lz4", "an empty frame before", lz4_frame([]) + one)
    case("lz4", "a raw block instead", plain[4:])
    case("lz4", "block larger than the frame allows, stored", lz4_frame([lz4_block(bytes(65537), stored=True)]))
    case("lz4", "block that decompresses to more than the frame allows", lz4_frame([lz4_block(bytes(65537))]))
    case("lz4", "block that decompresses to exactly what the frame allows", lz4_frame([lz4_block(bytes(65536))]))
    case("lz4", "a block that decompresses to nothing between two", lz4_frame([first, b"\1\0\0\0\0", second]))
    raw = lambda block: lz4_frame([struct.pack("<I", len(block)) + block])
    case("lz4", "block: literals only", raw(b"\x50hello"))
    case("lz4", "block: literals cut", raw(b"\x60hello"))
    case("lz4", "block: offset 0", raw(b"\x40abcd\x00\x00\xc0abcdefghijkl"))
    case("lz4", "block: offset before the start", raw(b"\x40abcd\x09\x00\xc0abcdefghijkl"))
    case("lz4", "block: match, then 12 literals", raw(b"\x40abcd\x04\x00\xc0abcdefghijkl"))
    case("lz4", "block: match, then 5 literals", raw(b"\x40abcd\x04\x00\x50abcde"))
    case("lz4", "block: match, then 4 literals", raw(b"\x40abcd\x04\x00\x40abcd"))
    case("lz4", "block: match, then 1 literal", raw(b"\x40abcd\x04\x00\x10a"))
    case("lz4", "block: match, then no literals", raw(b"\x40abcd\x04\x00\x00"))
    case("lz4", "block: match is the end", raw(b"\x40abcd\x04\x00"))
    case("lz4", "block: offset cut", raw(b"\x40abcd\x04"))


def linked():
    """The second block repeats five bytes of the first."""
    first, second = b"\x50hello", b"\x01\x05\x00\xc0abcdefghijkl"
    return lz4_frame([struct.pack("<I", len(block)) + block for block in (first, second)], 0x40)


# --- zstd -----------------------------------------------------------------------------------------------------------


def zstd(plain, **parameters):
    return zstandard.ZstdCompressor(**parameters).compress(plain)


def zstd_window(log, plain=b"x"):
    """A frame without content size that asks for a window of 2^log bytes and holds one raw block."""
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + struct.pack("<I", len(plain) << 3 | 1)[:3] + plain


def zstd_cases():
    one, two = zstd(FIRST), zstd(SECOND)
    streamed = zstandard.ZstdCompressor(write_content_size=False)
    unsized = streamed.compress(PLAIN)
    summed = zstd(PLAIN, write_checksum=True)
    skip = b"\x50\x2a\x4d\x18\x04\0\0\0skip"
    case("zstd", "one frame", zstd(PLAIN))
    case("zstd", "no content size", unsized)
    case("zstd", "no bytes at all", b"")
    case("zstd", "empty frame", zstd(b""))
    case("zstd", "two frames", one + two)
    case("zstd", "an empty frame between two", one + zstd(b"") + two)
    case("zstd", "content checksum, right", summed)
    case("zstd", "content checksum, wrong", summed[:-1] + bytes([summed[-1] ^ 1]))
    case("zstd", "content checksum, missing", summed[:-4])
    case("zstd", "content checksum, cut", summed[:-1])
    case("zstd", "content size, wrong", b"\x28\xb5\x2f\xfd\x20\x07" + struct.pack("<I", 5 << 3 | 1)[:3] + b"hello")
    case("zstd", "skippable frame before", skip + zstd(PLAIN))
    case("zstd", "skippable frame behind", zstd(PLAIN) + skip)
    case("zstd", "skippable frame between two", one + skip + two)
    case("zstd", "skippable frame alone", skip)
    case("zstd", "skippable frame behind, cut", zstd(PLAIN) + skip[:-1])
    case("zstd", "behind the frame: 1 byte", one + b"x")
    case("zstd", "behind the frame: 4 bytes", one + b"junk")
    case("zstd", "behind the frame: 40 bytes", one + b"junk" * 10)
    case("zstd", "behind the frame: zeros", one + bytes(8))
    case("zstd", "behind the frame: a magic, cut", one + two[:3])
    case("zstd", "behind the frame: a magic alone", one + two[:4])
    case("zstd", "behind the frame: a frame, cut", one + two[:-1])
    case("zstd", "cut in the magic", one[:3])
    case("zstd", "cut in the header", one[:5])
    case("zstd", "cut in a block", one[:-1])
    case("zstd", "another magic", b"\x28\xb5\x2f\xfe" + one[4:])
    case("zstd", "frame of version 0.7", b"\x27\xb5\x2f\xfd" + one[4:])
    case("zstd", "without a magic", zstandard.ZstdCompressor(compression_params=magicless()).compress(PLAIN))
    case("zstd", "reserved header bit", b"\x28\xb5\x2f\xfd\x28\x05" + struct.pack("<I", 5 << 3 | 1)[:3] + b"hello")
    case("zstd", "unused header bit", b"\x28\xb5\x2f\xfd\x30\x05" + struct.pack("<I", 5 << 3 | 1)[:3] + b"hello")
    case("zstd", "reserved block type", b"\x28\xb5\x2f\xfd\x20\x05" + struct.pack("<I", 5 << 3 | 7)[:3] + b"hello")
    case("zstd", "a dictionary id, none used", b"\x28\xb5\x2f\xfd\x21\x07\x05" + struct.pack("<I", 5 << 3 | 1)[:3] + b"hello")
    case("zstd", "a dictionary id of 0", b"\x28\xb5\x2f\xfd\x21\x00\x05" + struct.pack("<I", 5 << 3 | 1)[:3] + b"hello")
    trained = zstandard.ZstdCompressionDict(PLAIN * 4, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    case("zstd", "needs a dictionary of content", zstandard.ZstdCompressor(dict_data=trained).compress(PLAIN))
    for log in (10, 23, 24, 25, 26, 27, 28, 30, 31):
        case("zstd", f"window of 2^{log}", zstd_window(log, b"hello"))
    case("zstd", "window of 2^41", zstd_window(41, b"hello"))
    case("zstd", "an empty block before the last", b"\x28\xb5\x2f\xfd\x20\x05" + b"\0\0\0" + struct.pack("<I", 5 << 3 | 1)[:3] + b"hello")
    case("zstd", "a run-length block", b"\x28\xb5\x2f\xfd\x20\x05" + struct.pack("<I", 5 << 3 | 3)[:3] + b"h")


def magicless():
    return zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS)


if __name__ == "__main__":
    gzip_cases()
    snappy_cases()
    lz4_cases()
    zstd_cases()
