package streams

import (
	"encoding/binary"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/query/cursor"
)

const (
	// resumptionList is the list name in a resumption's token, which is a cursor.
	resumptionList = "my-slots/stream"
	// maxPartitions bounds how much memory a token can make the server allocate.
	maxPartitions = 10_000
)

// vector is a position in each partition of the topic. Positions survive replays, so a vector does
// too.
type vector []int64

// passed reports whether the product's event at the position is at or below v.
func (v vector) passed(product uuid.UUID, place int64) bool {
	return len(v) > 0 && place <= v[kafka.Partition(product, int32(len(v)))]
}

// since reports whether v is past before in any partition, and the lowest position at which the
// additional events begin.
func (v vector) since(before vector) (low int64, any bool) {
	for n, at := range v {
		if at > before[n] && (!any || before[n] < low) {
			low, any = before[n], true
		}
	}
	return low, any
}

// resumption is where a buyer's stream resumes: everything in the read models at these positions
// was sent, with this fingerprint.
type resumption struct {
	positions   vector
	fingerprint uint64 // progressSnapshot.fingerprint
}

// String returns the token that clients send in Last-Event-ID.
func (r resumption) String() string {
	b := binary.BigEndian.AppendUint64(nil, r.fingerprint)
	b = binary.AppendUvarint(b, uint64(len(r.positions)))
	for _, at := range r.positions {
		b = binary.AppendUvarint(b, uint64(at))
	}
	return cursor.Encode(resumptionList, b)
}

// parseResumption parses a token. It returns false for anything else.
func parseResumption(token string) (resumption, bool) {
	const account = 8
	b, err := cursor.Decode(resumptionList, token, cursor.AnyLength)
	if err != nil || len(b) < account {
		return resumption{}, false
	}
	r := resumption{fingerprint: binary.BigEndian.Uint64(b)}
	b = b[account:]
	n, used := binary.Uvarint(b)
	if used <= 0 || n > maxPartitions {
		return resumption{}, false
	}
	r.positions = make(vector, n)
	for i := range r.positions {
		b = b[used:]
		var at uint64
		if at, used = binary.Uvarint(b); used <= 0 || at > 1<<62 {
			return resumption{}, false
		}
		r.positions[i] = int64(at)
	}
	return r, len(b) == used
}
