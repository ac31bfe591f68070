package kafka

import (
	"encoding/binary"

	"github.com/google/uuid"
)

// Partition returns the partition of a key, like Kafka's default partitioner for the key's text
// (murmur2, positive, modulo).
func Partition(key uuid.UUID, partitions int32) int32 {
	var text [36]byte
	encodeUUID(&text, key)
	return int32(murmur2(text[:])&0x7fffffff) % partitions
}

// encodeUUID writes the canonical text of id without allocating.
func encodeUUID(dst *[36]byte, id uuid.UUID) {
	const hex = "0123456789abcdef"
	at := 0
	for i, b := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst[at] = '-'
			at++
		}
		dst[at], dst[at+1] = hex[b>>4], hex[b&15]
		at += 2
	}
}

// murmur2 is MurmurHash2, 32 bits, as org.apache.kafka.common.utils.Utils has it.
func murmur2(data []byte) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := seed ^ uint32(len(data))
	for len(data) >= 4 {
		k := binary.LittleEndian.Uint32(data)
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
		data = data[4:]
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(data[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
