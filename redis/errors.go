package redis

import (
	"errors"
	"fmt"
)

var (
	// ErrUnknownProduct: there is no such product, or it was deleted. A node
	// caches this for unknownFor.
	ErrUnknownProduct = errors.New("redis: no such product")
	// ErrUnavailable matches every *UnavailableError.
	ErrUnavailable = errors.New("redis: the gate cannot decide now")
	// ErrRebuilding matches the cause of an UnavailableError for a product whose gate
	// cannot decide for a while: it is being rebuilt and many requests wait already, or
	// a rebuild has failed and is retried after a backoff. The response should be sent
	// at once, with Retry-After.
	ErrRebuilding = errors.New("the gate is being rebuilt")
	// ErrClosed is returned by a Gate that was closed.
	ErrClosed = errors.New("redis: the gate is closed")
)

// UnavailableError reports that the gate returned no answer that can be trusted:
// Redis or Postgres is unavailable, or a rebuild took too long. The request may have been
// decided nevertheless: a grant is then returned to the buyer's next request, or
// withdrawn.
type UnavailableError struct {
	Doing string // what was attempted
	Err   error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("redis: gate unavailable: %s: %v", e.Doing, e.Err)
}

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Is reports whether target is ErrUnavailable.
func (e *UnavailableError) Is(target error) bool { return target == ErrUnavailable }

func unavailable(doing string, err error) error {
	var already *UnavailableError
	if err == nil || errors.As(err, &already) || errors.Is(err, ErrUnknownProduct) || errors.Is(err, ErrClosed) {
		return err
	}
	return &UnavailableError{Doing: doing, Err: err}
}
