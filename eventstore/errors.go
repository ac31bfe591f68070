package eventstore

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
)

var (
	// ErrOverloaded is returned if the queue is full.
	ErrOverloaded = errors.New("eventstore: the append queue is full")
	// ErrConflict matches every *ConflictError.
	ErrConflict = errors.New("eventstore: the stream is not at the expected version")
	// ErrIDReused is returned for an append if some of its event ids are in the
	// log already, but not all of them with the same stream, type and payload.
	ErrIDReused = errors.New("eventstore: an event id is in use for something else")
	// ErrClosed is returned by a store that was closed.
	ErrClosed = errors.New("eventstore: closed")
	// ErrNoEvent: there is no event at a position.
	ErrNoEvent = errors.New("eventstore: no event at this position")
)

// ConflictError reports that a stream was not at the expected version.
type ConflictError struct {
	Stream   uuid.UUID
	Expected Expected
	Actual   int
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("eventstore: stream %s is at version %d, expected %d", e.Stream, e.Actual, e.Expected)
}

// Is reports whether target is ErrConflict.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// UnavailableError reports that Postgres did not answer in time.
type UnavailableError struct {
	// Sent false: no commit was sent, or it is known to have failed; nothing of
	// the append is in the log, nor will it be. Sent true: the outcome could not
	// be determined in time; a retry of the same append determines it.
	Sent bool
	Err  error
}

func (e *UnavailableError) Error() string {
	if e.Sent {
		return "eventstore: Postgres is unavailable, and whether the append is in the log is not known: " + e.Err.Error()
	}
	return "eventstore: Postgres is unavailable, nothing was appended: " + e.Err.Error()
}

func (e *UnavailableError) Unwrap() error { return e.Err }
