import com.google.protobuf.ByteString;
import java.nio.ByteOrder;

/** The partition of a keyed record, as the gateway and the clients of Kafka choose it. */
final class Partition {
  static int of(ByteString key, int count) {
    return (murmur2(key) & 0x7fffffff) % count;
  }

  private static int murmur2(ByteString key) {
    final int mix = 0x5bd1e995;
    var bytes = key.asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
    int hash = 0x9747b28c ^ key.size();
    while (bytes.remaining() >= 4) {
      int word = bytes.getInt() * mix;
      hash = hash * mix ^ (word ^ word >>> 24) * mix;
    }
    if (bytes.hasRemaining()) {
      for (int shift = 0; bytes.hasRemaining(); shift += 8) {
        hash ^= (bytes.get() & 0xff) << shift;
      }
      hash *= mix;
    }
    hash = (hash ^ hash >>> 13) * mix;
    return hash ^ hash >>> 15;
  }

  private Partition() {}
}
