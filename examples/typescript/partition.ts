/** Returns the partition of a keyed record, as the gateway and the clients of Kafka choose it. */
export function partition(key: Buffer, count: number): number {
  return (murmur2(key) & 0x7fffffff) % count;
}

function murmur2(key: Buffer): number {
  const mix = 0x5bd1e995;
  const whole = key.length & ~3;
  let hash = 0x9747b28c ^ key.length;
  for (let at = 0; at < whole; at += 4) {
    const word = Math.imul(key.readInt32LE(at), mix);
    hash = Math.imul(hash, mix) ^ Math.imul(word ^ (word >>> 24), mix);
  }
  if (whole < key.length) hash = Math.imul(hash ^ key.readUIntLE(whole, key.length - whole), mix);
  hash = Math.imul(hash ^ (hash >>> 13), mix);
  return hash ^ (hash >>> 15);
}
