package redis

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/domain/fairness"
)

// NoEpoch is the epoch of a product that never had a gate: the first raise makes
// it 0.
const NoEpoch = -1

// MaxEpoch is the highest epoch: a number of a later one would not be exact in JSON.
// Each needs a rebuild that took a lease, a change of the sale, or a rebuild that was
// left alone for RebuildTimeout, so it takes years; a metric counts them nevertheless.
const MaxEpoch = 900_000

// GateRow is a product's row in Postgres.
type GateRow struct {
	Epoch int64 // the only epoch whose grants can be appended
	// Rebuilt is the epoch that the last rebuild raised to. Later ones were
	// raised by changes of the sale: a live gate of Rebuilt or later may open
	// Epoch in place. An older one may not, because the gate of Rebuilt may be on
	// another process.
	Rebuilt int64
	// RebuiltID identifies the rebuild that raised to Rebuilt. A restored store assigns
	// epochs again; a gate with another id is of a history that was lost. Zero: not known.
	RebuiltID uuid.UUID
	Deleted   bool
	Units     int
	SaleDate  time.Time
	SaleEnd   *time.Time
	Paused    bool
	// Ended reports whether the sale had ended by Postgres' clock. It is a hint: the
	// gate's own clock decides.
	Ended bool

	Lease   LeaseRecord
	Rebuild RebuildRecord
}

// LeaseRecord is the last lease of a product's gate, of any epoch.
type LeaseRecord struct {
	Epoch    int64
	Instance string // the process for which it was taken, "" for none
	View     int64  // see LeaseRequest
	Beat     string // changes with each renewal; two are only compared for equality
	// Idle reports whether it is some time old by Postgres' clock. It is a hint.
	Idle bool
}

// RebuildRecord is the last rebuild of a product's gate. It is unfinished until a
// lease of its epoch or a later one is taken.
type RebuildRecord struct {
	Owner uuid.UUID // the node that began it, zero if not known
	Beat  string    // changes with each heartbeat; two are only compared for equality
}

// unfinished reports whether the last rebuild has not led to a lease.
func (r GateRow) unfinished() bool { return r.Rebuilt > NoEpoch && r.Lease.Epoch < r.Rebuilt }

// heartbeat changes with each heartbeat of a rebuild, and with each rebuild.
func (r GateRow) heartbeat() string { return strconv.FormatInt(r.Rebuilt, 10) + " " + r.Rebuild.Beat }

// LeaseRequest requests the right of a gate to decide.
type LeaseRequest struct {
	Product  uuid.UUID
	Epoch    int64
	Instance string // the process on which the gate is
	// View is the configuration epoch of the Sentinels' or the cluster's view by which
	// the node found that process, 0 if there is none. The higher of two is the later.
	View int64
	// Renew requests a lease that begins now. Without it the request only checks
	// whether the epoch is still the product's, and the last lease is this gate's.
	Renew bool
	// Rebuild is the id of the rebuild that made the gate, zero if not known.
	Rebuild uuid.UUID
	// At is the last event that the gate has applied. A store that does not have it
	// lost its tail.
	At LogPosition
}

// LeaseResult is the result of a LeaseRequest.
type LeaseResult int

// The results.
const (
	LeaseRefused  LeaseResult = iota // the epoch is no longer the product's
	LeaseGranted                     //
	LeaseBusy                        // the row was locked; retry
	LeaseNotHeld                     // the last lease is another gate's; request a new one
	LeaseTailLost                    // the store does not have the event that the gate has applied last
)

// LogPosition is a position in the log, with the id of the event there.
type LogPosition struct {
	Position int64
	Event    uuid.UUID // zero if it is not known
}

// RaiseRequest requests a new epoch for a rebuild.
type RaiseRequest struct {
	Product uuid.UUID
	Found   int64 // the epoch must still be this one (compare and swap)
	Above   int64 // the new one must also be higher than this one
	// Foreign: a gate of another history was found. It may have decided something that
	// is not recorded.
	Foreign bool
	Owner   uuid.UUID
}

// RaiseResult is the result of a RaiseRequest. Raised is false if another was
// quicker, the row was locked or the product is gone.
type RaiseResult struct {
	Raised bool
	Epoch  int64
	ID     uuid.UUID // of the rebuild
	// Instance is the process for which the last lease was taken, "" for none.
	Instance string
}

// AliveRequest is a heartbeat of the rebuild of an epoch.
type AliveRequest struct {
	Product uuid.UUID
	Epoch   int64
}

// Holder is a claim as a rebuilt gate needs it.
type Holder struct {
	Buyer   uuid.UUID
	Number  int64
	Unit    int
	KeyHash []byte
}

// Snapshot is the state of a product at one moment.
type Snapshot struct {
	Row GateRow
	At  LogPosition // the log's head at that moment
}

// GateEvent is an event of a product's log. Event is set if it concerns the
// gate: the types that gatestore.Store.Events decodes. Others only move the position.
type GateEvent struct {
	At    LogPosition
	Event domain.Event
}

// NumberedLine is a line of the decision log with its number in its epoch, from 1.
type NumberedLine struct {
	Number int64
	fairness.Line
}

// LeaseID identifies one lease of a product's gates. Later ones have a higher Beat.
type LeaseID struct {
	Beat int64
	At   time.Time // leased_at, for leases taken by a version that does not know beats
}

// Equal reports whether both identify the same lease.
func (l LeaseID) Equal(other LeaseID) bool { return l.Beat == other.Beat && l.At.Equal(other.At) }

// IsZero reports whether it identifies no lease.
func (l LeaseID) IsZero() bool { return l.At.IsZero() }

// Shipment is the part of a product's decision log that is stored at once.
type Shipment struct {
	Product uuid.UUID
	// Rebuild is the id of the rebuild that made the gate, zero if not known. Nothing is stored
	// of an epoch that was another rebuild's: the gate is of a history that the store lost. The
	// epoch's log is incomplete then, ever.
	Rebuild           uuid.UUID
	Lines             []NumberedLine // the last may be a run that still grows
	FirstEpoch, Epoch int64          // the gate's first epoch and its present one
	// Before is the line before Lines, which was stored and trimmed earlier; nil if there
	// is none, or it is not known. A store without it lost what was trimmed.
	Before *NumberedLine
	// Live: everything that the gate of Epoch decided before At is among Lines or
	// was stored before, and so are all decisions of the epochs from FirstEpoch up to Epoch.
	Live bool
	At   time.Time // by Now, from before the log was read; zero for a closed gate
	// Covered is a lease: everything that the leases up to it allowed is among Lines
	// or was stored before, because they have run out. Zero: nothing is known.
	Covered LeaseID
	// Unsettled: there were pending grants.
	Unsettled bool
	// Closed: the gate decides no more, so all decisions of Epoch are stored.
	Closed bool
}

// Timing of leases and rebuilds.
const (
	// LeaseTime is how long a gate may decide with one lease, by its own clock.
	LeaseTime = 3 * time.Second
	// RebuildTimeout is for how long an unfinished rebuild is left alone without a
	// heartbeat, by the clock of the node that waits.
	RebuildTimeout = 5 * time.Second
)

// ErrTailLost matches the error of Store.Events if the store does not have the
// event that the gate has applied last.
var ErrTailLost = errors.New("redis: the store lost events that the gate has applied")

// Store is the Postgres side of the gate, which package command/gatestore implements.
// An error means that Postgres did not answer. Results are in the order of
// the requests.
type Store interface {
	// Rows reads the rows of products; nil for a product that does not exist.
	Rows(ctx context.Context, products []uuid.UUID) ([]*GateRow, error)
	// Leases grants a lease if the product exists and the epoch is still its own.
	Leases(ctx context.Context, requests []LeaseRequest) ([]LeaseResult, error)
	// Raise raises epochs for rebuilds, in one transaction under the append lock.
	Raise(ctx context.Context, requests []RaiseRequest) ([]RaiseResult, error)
	// Alive records heartbeats of rebuilds; false if the epoch is no longer that of the
	// product's last rebuild.
	Alive(ctx context.Context, requests []AliveRequest) ([]bool, error)
	// RecordUnload records that the gate of the epoch that had the lease was removed, if that
	// is still the last lease, not renewed since, and the epoch is still the product's.
	RecordUnload(ctx context.Context, product uuid.UUID, epoch int64, lease LeaseRecord) error
	// Snapshot reads row, head position and claims as of one moment. It calls holders
	// for each piece, by rising unit, and reuses the slice.
	Snapshot(ctx context.Context, product uuid.UUID, holders func([]Holder) error) (Snapshot, error)
	// Events reads the product's events after the position, in order. It returns
	// ErrTailLost if the store does not have the event at that position.
	Events(ctx context.Context, product uuid.UUID, after LogPosition, limit int) ([]GateEvent, error)
	// Now returns the time of Postgres' clock.
	Now(ctx context.Context) (time.Time, error)
	// Ship stores lines under their numbers; a stored run only grows. There must be
	// at most one shipment of a product.
	Ship(ctx context.Context, shipments []Shipment) error
}
