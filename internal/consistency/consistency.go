// Package consistency is the opaque token that commands return in X-Position
// and queries take in X-Min-Position: a product and the position of one of its events
// in the store's order.
//
// A token is base64url of a version byte, the product's 16 bytes, the position as
// 8 bytes big-endian, and 4 bytes of CRC-32C over all of it. From the store's second
// incarnation on, the version is 2 and the incarnation follows it, as 4 bytes. The
// checksum is no protection, a token gives no right; it distinguishes a token from a
// string that happens to have its length.
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
)

const (
	version            = 1
	versionIncarnation = 2
	// MaxList is how many tokens one X-Min-Position may hold.
	MaxList = 100

	rawLength         = 1 + 16 + 8 + 4
	incarnationLength = 4
)

var (
	// ErrToken says that a string is no token.
	ErrToken = errors.New("not a position token")
	// ErrTooMany says that a list holds more than MaxList tokens.
	ErrTooMany = fmt.Errorf("more than %d position tokens", MaxList)

	table    = crc32.MakeTable(crc32.Castagnoli)
	encoding = base64.RawURLEncoding.Strict()
)

// ProductPosition is a position in the store's order that the product's read models are to
// have reached.
type ProductPosition struct {
	Product uuid.UUID
	// Position is the global position of an event, 1 or more.
	Position int64
	// Incarnation is that of the store which gave the position to the event.
	Incarnation int64
}

// current is the store's incarnation as far as this process knows; 0 stands for 1.
var current atomic.Int64

// Incarnation returns the store's incarnation as last set.
func Incarnation() int64 { return max(1, current.Load()) }

// SetIncarnation sets the incarnation that Encode writes into tokens. Positions of
// different incarnations are not comparable.
func SetIncarnation(n int64) { current.Store(n) }

// followInterval is how often Follow reads.
const followInterval = time.Second

// Follow sets the incarnation to what read returns, once a second until ctx ends. An
// error leaves it as it is.
func Follow(ctx context.Context, read func(context.Context) (int64, error)) {
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, followInterval)
		if n, err := read(bounded); err == nil {
			SetIncarnation(n)
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
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

// ParseList reads up to MaxList tokens separated by commas, blanks around them
// allowed. An empty list is no token.
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
