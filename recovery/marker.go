package recovery

import (
	"fmt"
	"strconv"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
)

// markers returns the records that begin an incarnation, one for each partition; last
// are the last shared positions of the partitions.
func markers(own eventstore.Identity, shared int64, last []int64) []*message.Message {
	all := make([]*message.Message, len(last))
	for p := range last {
		h := map[string]string{kafka.HeaderStore: own.String(), kafka.HeaderPreviousPosition: strconv.FormatInt(last[p], 10)}
		avsc.Headers{
			EventID:   uuid.NewSHA1(markerNamespace, fmt.Appendf(nil, "%s/%d", own, p)),
			EventType: kafka.TypeIncarnation, StreamID: own.Store, StreamVersion: int(own.Incarnation), Position: shared,
		}.Each(func(name, text string) { h[name] = text })
		all[p] = kafka.NewMessage(keyOf(own.Store, int32(p), int32(len(last))), h, nil)
	}
	return all
}

// keyOf returns a key that belongs to a partition; it is always the same one.
func keyOf(store uuid.UUID, partition, partitions int32) uuid.UUID {
	for n := 0; ; n++ {
		if key := uuid.NewSHA1(markerNamespace, fmt.Appendf(nil, "%s key %d", store, n)); kafka.Partition(key, partitions) == partition {
			return key
		}
	}
}
