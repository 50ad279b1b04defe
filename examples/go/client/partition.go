package client

import "encoding/binary"

// Partition returns the partition of a keyed record, as the gateway and the clients of Kafka choose it.
func Partition(key []byte, count int32) int32 {
	return int32(murmur2(key)&0x7fffffff) % count
}

func murmur2(key []byte) uint32 {
	const mix = 0x5bd1e995
	hash := 0x9747b28c ^ uint32(len(key))
	for ; len(key) >= 4; key = key[4:] {
		word := binary.LittleEndian.Uint32(key) * mix
		hash = hash*mix ^ (word^word>>24)*mix
	}
	if len(key) > 0 {
		for at, byte := range key {
			hash ^= uint32(byte) << (8 * at)
		}
		hash *= mix
	}
	hash = (hash ^ hash>>13) * mix
	return hash ^ hash>>15
}
