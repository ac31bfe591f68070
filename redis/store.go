package redis

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/domain/fairness"
)

// NoEpoch is the epoch of a product that never had a gate: the first raise makes
// it 0.
const NoEpoch = -1

// Row is what Postgres says of a product's gate.
type Row struct {
	Epoch int64 // the only epoch whose grants can be appended
	// Rebuilt is the epoch that the last rebuild raised to. Later ones were
	// raised by changes of the sale: a living gate of Rebuilt or later may open
	// Epoch in place. An older one may not, for the gate of Rebuilt may live on
	// another process.
	Rebuilt  int64
	Deleted  bool
	Units    int
	SaleDate time.Time
	SaleEnd  *time.Time
	Paused   bool
	// Rebuilding: Rebuilt was raised less than RebuildAlone ago and has taken
	// no lease yet.
	Rebuilding bool
}

// Raised is what a rebuilder gets with its epoch.
type Raised struct {
	Epoch int64
	// Stamp is the process for which the last lease was taken, "" for none.
	Stamp string
	// Wait is how much longer that lease may run, at the moment of the answer.
	Wait time.Duration
}

// Holder is a claim as a rebuilt gate needs it.
type Holder struct {
	Buyer   uuid.UUID
	Number  int64
	Unit    int
	KeyHash []byte
}

// Snapshot is the product at one moment.
type Snapshot struct {
	Row      Row
	Position int64 // the log's head then
}

// Fed is an event that concerns the gate: SlotAcquired, SlotExpired,
// GrantWithdrawn or ProductStockIncreased. Of others only the position counts
// and Event may be nil.
type Fed struct {
	Position int64
	Event    domain.Event
}

// NumberedLine is a line of the decision log with its number in its epoch, from 1.
type NumberedLine struct {
	Number int64
	fairness.Line
}

// Shipment is what is stored of one product's decision log at a time.
type Shipment struct {
	Product     uuid.UUID
	Lines       []NumberedLine // the last may be a run that still grows
	Born, Epoch int64          // the gate's first epoch and its present one
	// Living: everything that the gate of Epoch decided before At is among Lines or
	// was stored before, and so is all of the epochs from Born up to Epoch.
	Living bool
	At     time.Time // by Now, from before the log was read; zero for a closed gate
	// Covered is a leased_at: everything that the leases up to it allowed is among
	// Lines or was stored before, for they have run out. Zero: nothing is known.
	Covered time.Time
	// Closed: so is all of Epoch, too: it decides no more.
	Closed bool
}

// Timing of leases and rebuilds; the port's SQL uses the same figures.
const (
	// LeaseTime is how long a gate may decide on one lease, by its own clock.
	LeaseTime = 3 * time.Second
	// RebuildAlone is how long a rebuild under way is left alone after its last
	// sign of life.
	RebuildAlone = 5 * time.Second
)

// Store is the Postgres side of the gate, which package command/claims fills.
// An error means that Postgres gave no answer.
type Store interface {
	// Row reads the product's row; ErrUnknownProduct where there is none.
	Row(ctx context.Context, product uuid.UUID) (Row, error)
	// Lease sets leased_at = greatest(leased_at, clock_timestamp()), with the
	// stamp beside it, where the product is there and the epoch is still this
	// one; false where it is not.
	Lease(ctx context.Context, product uuid.UUID, epoch int64, stamp string) (bool, error)
	// Raise raises the epoch for a rebuild, under the append lock, where it is
	// still found (compare and swap), to at least above+1; false where another
	// was quicker or the product is gone.
	Raise(ctx context.Context, product uuid.UUID, found, above int64) (Raised, bool, error)
	// Alive gives the rebuild of epoch another RebuildAlone; false where the
	// epoch is not the last rebuild's any more.
	Alive(ctx context.Context, product uuid.UUID, epoch int64) (bool, error)
	// Snapshot reads row, head position and claims as of one moment. holders is
	// called for each piece, by rising unit; the slice is reused.
	Snapshot(ctx context.Context, product uuid.UUID, holders func([]Holder) error) (Snapshot, error)
	// Events reads the product's events beyond the position, in order.
	Events(ctx context.Context, product uuid.UUID, after int64, limit int) ([]Fed, error)
	// Now is Postgres' clock.
	Now(ctx context.Context) (time.Time, error)
	// Ship stores lines under their numbers; a stored run only ever grows. There is
	// at most one shipment of a product.
	Ship(ctx context.Context, shipments []Shipment) error
}
