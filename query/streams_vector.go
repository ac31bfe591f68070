package query

import (
	"encoding/binary"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/kafka"
)

const (
	// resumptionList is what a resumption's token is a cursor of.
	resumptionList = "my-slots/stream"
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

// resumption is what a buyer's stream goes on from: everything that the read
// models had at these places was told, as they stood by this account of them.
type resumption struct {
	places  vector
	account uint64 // marks.account
}

// String is the token that clients hand back in Last-Event-ID.
func (r resumption) String() string {
	b := binary.BigEndian.AppendUint64(nil, r.account)
	b = binary.AppendUvarint(b, uint64(len(r.places)))
	for _, at := range r.places {
		b = binary.AppendUvarint(b, uint64(at))
	}
	return encodeCursor(resumptionList, b)
}

// parseResumption reads a token; false for anything else.
func parseResumption(token string) (resumption, bool) {
	const account = 8
	b, err := decodeCursor(resumptionList, token, anyLength)
	if err != nil || len(b) < account {
		return resumption{}, false
	}
	r := resumption{account: binary.BigEndian.Uint64(b)}
	b = b[account:]
	n, used := binary.Uvarint(b)
	if used <= 0 || n > maxPartitions {
		return resumption{}, false
	}
	r.places = make(vector, n)
	for i := range r.places {
		b = b[used:]
		var at uint64
		if at, used = binary.Uvarint(b); used <= 0 || at > 1<<62 {
			return resumption{}, false
		}
		r.places[i] = int64(at)
	}
	return r, len(b) == used
}
