package query

import (
	"encoding/binary"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/kafka"
)

const (
	// vectorList is what a vector's token is a cursor of.
	vectorList = "my-slots/stream"
	// maxPartitions bounds what a token may ask us to make room for.
	maxPartitions = 10_000
)

// vector is a place of the store in each partition of the topic. Places survive
// replays, so a vector does too.
type vector []int64

// cut is the lowest position of each partition among the projections; empty where
// one of them has not begun, or was built from another topic.
func (p progress) cut(of []string) vector {
	var v vector
	for i, projection := range of {
		partitions := p.partitions(projection)
		if i == 0 {
			v = make(vector, partitions)
		}
		if int(partitions) != len(v) {
			return vector{}
		}
		for n := range v {
			at := p[projection][int32(n)].position
			if i == 0 || at < v[n] {
				v[n] = at
			}
		}
	}
	return v
}

// passed says whether the product's event at the place lies at or below v.
func (v vector) passed(product uuid.UUID, place int64) bool {
	return len(v) > 0 && place <= v[kafka.Partition(product, int32(len(v)))]
}

// since says whether v is past before anywhere, and the lowest place at which
// what it has more begins.
func (v vector) since(before vector) (low int64, any bool) {
	for n, at := range v {
		if at > before[n] && (!any || before[n] < low) {
			low, any = before[n], true
		}
	}
	return low, any
}

// String is the token that clients hand back in Last-Event-ID; empty for none.
func (v vector) String() string {
	if len(v) == 0 {
		return ""
	}
	b := binary.AppendUvarint(nil, uint64(len(v)))
	for _, at := range v {
		b = binary.AppendUvarint(b, uint64(at))
	}
	return encodeCursor(vectorList, b)
}

// parseVector reads a token; false for anything else.
func parseVector(token string) (vector, bool) {
	b, err := decodeCursor(vectorList, token, anyLength)
	if err != nil {
		return nil, false
	}
	n, used := binary.Uvarint(b)
	if used <= 0 || n == 0 || n > maxPartitions {
		return nil, false
	}
	v := make(vector, n)
	for i := range v {
		b = b[used:]
		var at uint64
		if at, used = binary.Uvarint(b); used <= 0 || at > 1<<62 {
			return nil, false
		}
		v[i] = int64(at)
	}
	return v, len(b) == used
}
