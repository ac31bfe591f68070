// Package consistency implements the opaque token that commands return in X-Position and queries
// accept in X-Min-Position: a product and the position of one of its events in the store's order.
//
// A token is the base64url encoding of a version byte, the product's 16 bytes, the position as 8
// bytes big-endian, and 4 bytes of CRC-32C over all of it. From the store's second incarnation on,
// the version is 2 and the position is followed by the incarnation, as 4 bytes. The checksum is not
// a protection, since a token grants no access; it distinguishes a token from another string of the
// same length.
package consistency

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/sleep"
)

const (
	version            = 1
	versionIncarnation = 2
	// MaxList is the maximum number of tokens in one X-Min-Position.
	MaxList = 100

	rawLength         = 1 + 16 + 8 + 4
	incarnationLength = 4
)

var (
	// ErrToken means that a string is not a token.
	ErrToken = errors.New("not a position token")
	// ErrTooMany means that a list has more than MaxList tokens.
	ErrTooMany = fmt.Errorf("more than %d position tokens", MaxList)

	table    = crc32.MakeTable(crc32.Castagnoli)
	encoding = base64.RawURLEncoding.Strict()
)

// ProductPosition is a position in the store's order that the product's read models must have
// reached.
type ProductPosition struct {
	Product uuid.UUID
	// Position is the global position of an event, 1 or more.
	Position int64
	// Incarnation is the incarnation of the store that assigned the position.
	Incarnation int64
}

// current is the store's incarnation, as far as it is known; 0 means 1.
var current atomic.Int64

// Incarnation returns the store's incarnation as last set.
func Incarnation() int64 { return max(1, current.Load()) }

// SetIncarnation sets the incarnation that Encode writes into tokens. Positions of
// different incarnations are not comparable.
func SetIncarnation(n int64) { current.Store(n) }

// followInterval is the interval at which Follow reads.
const followInterval = time.Second

// Follow sets the incarnation to the result of read, once a second until ctx ends. If read fails,
// the incarnation stays unchanged.
func Follow(ctx context.Context, read func(context.Context) (int64, error)) {
	for range sleep.Every(ctx, followInterval) {
		bounded, cancel := context.WithTimeout(ctx, followInterval)
		if n, err := read(bounded); err == nil {
			SetIncarnation(n)
		}
		cancel()
	}
}

// Encode returns the token for an event of the product, in the current incarnation.
func Encode(product uuid.UUID, position int64) string {
	return ProductPosition{product, position, Incarnation()}.Token()
}

// Token returns the token of the position.
func (p ProductPosition) Token() string {
	var raw [rawLength + incarnationLength]byte
	b := append(raw[:0], version)
	if p.Incarnation > 1 {
		b[0] = versionIncarnation
		b = binary.BigEndian.AppendUint32(b, uint32(p.Incarnation))
	}
	b = append(b, p.Product[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Position))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, table))
	return encoding.EncodeToString(b)
}

// Parse reads a token that Encode made; anything else is ErrToken.
func Parse(token string) (ProductPosition, error) {
	if len(token) > encoding.EncodedLen(rawLength+incarnationLength) {
		return ProductPosition{}, ErrToken
	}
	raw, err := encoding.DecodeString(token)
	if err != nil || len(raw) < rawLength {
		return ProductPosition{}, ErrToken
	}
	p := ProductPosition{Incarnation: 1}
	body, sum := raw[:len(raw)-4], raw[len(raw)-4:]
	if crc32.Checksum(body, table) != binary.BigEndian.Uint32(sum) {
		return ProductPosition{}, ErrToken
	}
	rest := body[1:]
	switch {
	case raw[0] == version && len(raw) == rawLength:
	case raw[0] == versionIncarnation && len(raw) == rawLength+incarnationLength:
		p.Incarnation = int64(binary.BigEndian.Uint32(rest))
		rest = rest[incarnationLength:]
	default:
		return ProductPosition{}, ErrToken
	}
	p.Product, p.Position = uuid.UUID(rest[:16]), int64(binary.BigEndian.Uint64(rest[16:]))
	if p.Position < 1 || p.Incarnation < 1 {
		return ProductPosition{}, ErrToken
	}
	return p, nil
}

// ParseList parses up to MaxList tokens separated by commas with optional blanks. An empty list is
// an error.
func ParseList(list string) ([]ProductPosition, error) {
	tokens := strings.Split(list, ",")
	if len(tokens) > MaxList {
		return nil, ErrTooMany
	}
	positions := make([]ProductPosition, 0, len(tokens))
	for _, token := range tokens {
		p, err := Parse(strings.Trim(token, " \t"))
		if err != nil {
			return nil, err
		}
		positions = append(positions, p)
	}
	return positions, nil
}
