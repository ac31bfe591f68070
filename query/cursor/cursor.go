// Package cursor encodes the key after which the next page of a list begins: that of the last row of
// the previous page, whatever was inserted since.
//
// A cursor is the base64url encoding of a version byte, a hash of the list and its filters, the
// key, and a CRC-32C of all that. With other filters it is refused. A cursor grants no access.
package cursor

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/fnv"

	"github.com/dopaminestore/dopamine/internal/httpapi"
)

// version is the first byte of a cursor.
const version = 1

var (
	errInvalid = errors.New("no cursor of this list")
	encoding   = base64.RawURLEncoding.Strict()
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Encode returns the cursor of a key in the list with these filters.
func Encode(filters string, key []byte) string {
	b := append(make([]byte, 0, 64), version)
	b = binary.BigEndian.AppendUint64(b, hash(filters))
	b = append(b, key...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return encoding.EncodeToString(b)
}

// AnyLength is for keys that encode their own length.
const AnyLength = -1

// Decode returns the key, which must have the given length.
func Decode(filters, cursor string, keyLength int) ([]byte, error) {
	const head, sum = 1 + 8, 4
	b, err := encoding.DecodeString(cursor)
	if err != nil || len(b) < head+sum || keyLength != AnyLength && len(b) != head+keyLength+sum || b[0] != version {
		return nil, errInvalid
	}
	body := b[:len(b)-sum]
	if binary.BigEndian.Uint32(b[len(body):]) != crc32.Checksum(body, castagnoli) ||
		binary.BigEndian.Uint64(b[1:head]) != hash(filters) {
		return nil, errInvalid
	}
	return body[head:], nil
}

// Param reads the key from the parameter "cursor", nil if there is none.
func Param(q *httpapi.Query, filters string, keyLength int) []byte {
	cursor, given := q.String("cursor")
	if !given {
		return nil
	}
	key, err := Decode(filters, cursor, keyLength)
	if err != nil {
		q.Refuse("cursor", "must be the nextCursor of a list with the same filters")
	}
	return key
}

// Next returns the cursor for the response's field nextCursor.
func Next(filters string, key []byte) *string {
	cursor := Encode(filters, key)
	return &cursor
}

func hash(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s)) // never fails
	return h.Sum64()
}
