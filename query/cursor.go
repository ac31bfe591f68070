package query

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/fnv"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// A cursor is where the next page of a list begins: after the key of the last row of the page
// before, whatever was inserted since. It is the base64url encoding of a version byte, a hash of
// the list and its filters, the key, and a CRC-32C of all that. With other filters it is refused. A
// cursor grants no access.
const cursorVersion = 1

var (
	errCursor      = errors.New("no cursor of this list")
	cursorEncoding = base64.RawURLEncoding.Strict()
	castagnoli     = crc32.MakeTable(crc32.Castagnoli)
)

func encodeCursor(filters string, key []byte) string {
	b := append(make([]byte, 0, 64), cursorVersion)
	b = binary.BigEndian.AppendUint64(b, hash(filters))
	b = append(b, key...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return cursorEncoding.EncodeToString(b)
}

// anyLength is for keys that encode their own length.
const anyLength = -1

// decodeCursor returns the key, which must have the given length.
func decodeCursor(filters, cursor string, keyLength int) ([]byte, error) {
	const head, sum = 1 + 8, 4
	b, err := cursorEncoding.DecodeString(cursor)
	if err != nil || len(b) < head+sum || keyLength != anyLength && len(b) != head+keyLength+sum || b[0] != cursorVersion {
		return nil, errCursor
	}
	body := b[:len(b)-sum]
	if binary.BigEndian.Uint32(b[len(body):]) != crc32.Checksum(body, castagnoli) ||
		binary.BigEndian.Uint64(b[1:head]) != hash(filters) {
		return nil, errCursor
	}
	return body[head:], nil
}

// cursorParam reads the key from the parameter "cursor", nil if there is none.
func cursorParam(q *httpapi.Query, filters string, keyLength int) []byte {
	cursor, given := q.String("cursor")
	if !given {
		return nil
	}
	key, err := decodeCursor(filters, cursor, keyLength)
	if err != nil {
		q.Refuse("cursor", "must be the nextCursor of a list with the same filters")
	}
	return key
}

func nextCursor(filters string, key []byte) *string {
	cursor := encodeCursor(filters, key)
	return &cursor
}

func hash(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s)) // never fails
	return h.Sum64()
}

// Limits of the page size of a list with a cursor.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// listKey is the row after which a page of a list begins, newest first.
type listKey struct {
	created time.Time
	id      uuid.UUID
}

func (k listKey) bytes() []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(k.created.UnixMicro())), k.id[:]...)
}

const listKeyLength = 8 + 16

func listKeyFrom(b []byte) *listKey {
	return &listKey{time.UnixMicro(int64(binary.BigEndian.Uint64(b))).UTC(), uuid.UUID(b[8:])}
}
