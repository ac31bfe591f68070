package eventstore

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// NowSQL is the SQL expression for the time of the current append, which
// becomes the recorded_at of its events: set under the append lock, whole
// milliseconds, never decreasing, the same in all of a batch's Check and Apply.
// Outside of an append it raises an error.
const NowSQL = "event_now()"

// RowLockTimeoutSQL is the statement that bounds the wait for a row while the append lock is
// held, for a transaction that takes the lock without appending. Appends have the same bound.
var RowLockTimeoutSQL = fmt.Sprintf(`select set_config('lock_timeout', '%d', true)`, rowLockTimeout.Milliseconds())

// ErrDefer, set by a Guard's Check, means that the item cannot be decided together with
// an earlier one of the same batch, whose writes might change the result; its
// append goes into the next batch. If Check defers the first append of a batch,
// that append is refused with ErrDefer.
var ErrDefer = errors.New("eventstore: cannot be decided in this batch")

// Guard contains the SQL with which a command checks and writes in the transaction of its
// events. It runs under the append lock (READ
// COMMITTED, the lock taken by an earlier statement), so that what Check read is still
// true in Apply. A batch groups its items by Guard, so
// it must be comparable (a pointer or an empty struct), and commands whose items
// may conflict must share one.
//
// Both methods only queue statements: those of all guards are sent in one round trip. A
// statement that fails fails the whole transaction; the batch is then divided
// until the append that caused it is alone, so a constraint is a valid
// last resort, but Check should find the refusals that are expected. A row that another
// session has locked is waited for only briefly, and its append then gets an
// UnavailableError.
type Guard interface {
	// Check queues reads for the items, in the order of their appends. If a
	// callback finds a reason to refuse items[i], it sets refused[i] to the
	// error of its append, or to ErrDefer. Conflicts among the
	// items may be set at once. For an append that turns out to be a
	// repeat, the result is ignored.
	Check(b *pgx.Batch, items []any, refused []error)
	// Apply queues the writes for those items whose appends are accepted, in
	// order. at is the value of NowSQL.
	Apply(b *pgx.Batch, at time.Time, items []Applied)
}

// Guarded is one item of an append: a guard and its data.
type GuardItem struct {
	Guard Guard
	Data  any
}

// Applied is an item whose append was accepted.
type Applied struct {
	Data      any
	Positions []int64 // of the append's events
}
