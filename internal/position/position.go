// Package position is the opaque token that commands answer with in X-Position
// and queries take in X-Min-Position: a product and the place of one of its events
// in the store's order.
//
// A token is base64url of a version byte, the product's 16 bytes, the position as
// 8 bytes big-endian, and 4 bytes of CRC-32C over all of it. The checksum is no
// protection, a token gives no right; it tells a token from a string that happens
// to have its length.
package position

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/google/uuid"
)

const (
	version = 1
	// MaxList is how many tokens one X-Min-Position may hold.
	MaxList = 100

	rawLength = 1 + 16 + 8 + 4
)

var (
	// ErrToken says that a string is no token.
	ErrToken = errors.New("not a position token")
	// ErrTooMany says that a list holds more than MaxList tokens.
	ErrTooMany = fmt.Errorf("more than %d position tokens", MaxList)

	table    = crc32.MakeTable(crc32.Castagnoli)
	encoding = base64.RawURLEncoding.Strict()
)

// Position is a place in the store's order that the product's read models are to
// have reached.
type Position struct {
	Product uuid.UUID
	// Place is the global position of an event, 1 or more.
	Place int64
}

// Encode returns the token for an event of the product.
func Encode(product uuid.UUID, place int64) string {
	var raw [rawLength]byte
	b := append(raw[:0], version)
	b = append(b, product[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(place))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, table))
	return encoding.EncodeToString(b)
}

// Parse reads a token that Encode made; anything else is ErrToken.
func Parse(token string) (Position, error) {
	if len(token) != encoding.EncodedLen(rawLength) {
		return Position{}, ErrToken
	}
	raw, err := encoding.DecodeString(token)
	if err != nil || len(raw) != rawLength || raw[0] != version {
		return Position{}, ErrToken
	}
	body, sum := raw[:rawLength-4], raw[rawLength-4:]
	if crc32.Checksum(body, table) != binary.BigEndian.Uint32(sum) {
		return Position{}, ErrToken
	}
	p := Position{Product: uuid.UUID(body[1:17]), Place: int64(binary.BigEndian.Uint64(body[17:]))}
	if p.Place < 1 {
		return Position{}, ErrToken
	}
	return p, nil
}

// ParseList reads up to MaxList tokens separated by commas, blanks around them
// allowed. An empty list is no token.
func ParseList(list string) ([]Position, error) {
	tokens := strings.Split(list, ",")
	if len(tokens) > MaxList {
		return nil, ErrTooMany
	}
	positions := make([]Position, 0, len(tokens))
	for _, token := range tokens {
		p, err := Parse(strings.Trim(token, " \t"))
		if err != nil {
			return nil, err
		}
		positions = append(positions, p)
	}
	return positions, nil
}
