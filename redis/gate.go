package redis

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
)

// Options configure a Gate.
type Options struct {
	Lanes    int      // connections kept open; default 10
	LanesMax int      // connections at most; default 20, or Lanes where that is more
	Observer Observer // who is told what the gate does; nil: nobody
}

// Observer is told what a Gate does, for metrics. Its methods are called from
// many goroutines and must not block.
type Observer interface {
	Called(script string, requests int, took time.Duration, err error) // one call to Redis
	Renewed(took time.Duration, err error)                             // one lease
	Rebuilt(took time.Duration, err error)                             // one rebuild, from its raise
}

// Gate decides who gets a unit. It is safe for concurrent use.
type Gate struct{}

var errNotYet = errors.New("redis: not yet")

// Open connects to the Redis at url (redis://host:port/db). It refuses one that
// may evict keys. The context bounds the opening only.
func Open(ctx context.Context, url string, store Store, opts Options) (*Gate, error) {
	return nil, errNotYet
}

// Close ends what runs and closes the connections.
func (g *Gate) Close() error { return nil }

// Ping says whether Redis answers.
func (g *Gate) Ping(ctx context.Context) error { return errNotYet }

// Decide asks the gate. Requests of a product that arrive while a call is in
// flight form the next call. ErrUnknownProduct, ErrUnavailable.
func (g *Gate) Decide(ctx context.Context, r Request) (Decision, error) {
	return Decision{}, errNotYet
}

// GiveBack frees the unit of a grant that was never sent to the event store, if
// it was handed out only once; else the grant is settled by others.
func (g *Gate) GiveBack(ctx context.Context, d Decision) error { return errNotYet }

// Feed tells the gate what happened to the product, and returns when it knows
// everything that was durable at the call. It builds, reopens or removes the
// gate where it must.
func (g *Gate) Feed(ctx context.Context, product uuid.UUID) error { return errNotYet }

// Rebuild replaces the product's gate, which was found wrong in the epoch (of
// Decision.Epoch). Where a later one is there already, or on its way, it waits
// for that.
func (g *Gate) Rebuild(ctx context.Context, product uuid.UUID, epoch int64) error { return errNotYet }

// Pending lists grants that have been on their way for longer than olderThan,
// oldest first, at most limit.
func (g *Gate) Pending(ctx context.Context, product uuid.UUID, olderThan time.Duration, limit int) ([]PendingGrant, error) {
	return nil, errNotYet
}

// Carry carries the product's decision log to Postgres, the open run included.
func (g *Gate) Carry(ctx context.Context, product uuid.UUID) error { return errNotYet }

// State says how the product's gate is.
func (g *Gate) State(ctx context.Context, product uuid.UUID) (State, error) {
	return State{}, errNotYet
}
