package eventstore

import (
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// NowSQL is the SQL expression for the time of the append under way, which
// becomes the recorded_at of its events: set under the append lock, whole
// milliseconds, never falling, the same in all of a batch's Check and Apply.
// Outside of an append it is an error.
const NowSQL = "event_now()"

// ErrDefer, set by a Guard's Check, says that the item cannot be decided beside
// an earlier one of the same batch, whose writes might change the answer; its
// append goes into the next batch. The first append of a batch that is put off
// all the same is refused with it.
var ErrDefer = errors.New("eventstore: cannot be decided in this batch")

// Guard is the SQL with which a command decides and writes beside its events. It
// runs inside the batch's transaction and under the append lock (READ
// COMMITTED, the lock taken by a statement before), so that what Check saw still
// holds in Apply. A Guard is the key under which a batch gathers its items, so
// it must be comparable (a pointer or an empty struct), and commands whose items
// may stand in each other's way must share one.
//
// Both only queue statements: those of all guards travel in one round trip. A
// statement that fails fails the whole transaction; the batch is then divided
// until the append whose fault it is stands alone, so a constraint is a legal
// last line of defence, but refusals that happen are to be found by Check.
type Guard interface {
	// Check queues reads for the items, in the order of their appends. A
	// callback that finds a reason against items[i] sets refused[i], which
	// becomes the error of its append, or ErrDefer. What is wrong between the
	// items alone may be set at once. For an append that turns out to be a
	// repeat, the answer is ignored.
	Check(b *pgx.Batch, items []any, refused []error)
	// Apply queues the writes for those items whose appends are accepted, in
	// order. at is the value of NowSQL.
	Apply(b *pgx.Batch, at time.Time, items []Applied)
}

// Guarded is one item of an append: a guard and what it is to check and write.
type Guarded struct {
	Guard Guard
	Data  any
}

// Applied is an item whose append is accepted.
type Applied struct {
	Data      any
	Positions []int64 // of the append's events
}
