package redis

import (
	"errors"
	"fmt"
)

var (
	// ErrUnknownProduct: there is no such product, or it was deleted. A node
	// remembers it for unknownFor.
	ErrUnknownProduct = errors.New("redis: no such product")
	// ErrUnavailable matches every *UnavailableError.
	ErrUnavailable = errors.New("redis: the gate cannot decide now")
	// ErrRebuilding matches the cause of an UnavailableError for a product whose gate
	// cannot decide for a while: it is being rebuilt and many requests wait already, or
	// a rebuild has failed and is tried again after a pause. The response should be sent
	// at once, with Retry-After.
	ErrRebuilding = errors.New("the gate is being rebuilt")
	// ErrClosed is the answer of a Gate that was closed.
	ErrClosed = errors.New("redis: the gate is closed")
)

// UnavailableError says that the gate gave no answer that can be believed:
// Redis or Postgres is away, or a rebuild took too long. A request may have been
// decided all the same: a grant is then handed out again to its buyer, or
// withdrawn.
type UnavailableError struct {
	Doing string // what was tried
	Err   error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("redis: gate unavailable: %s: %v", e.Doing, e.Err)
}

// Unwrap gives the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrUnavailable) true.
func (e *UnavailableError) Is(target error) bool { return target == ErrUnavailable }

func unavailable(doing string, err error) error {
	var already *UnavailableError
	if err == nil || errors.As(err, &already) || errors.Is(err, ErrUnknownProduct) || errors.Is(err, ErrClosed) {
		return err
	}
	return &UnavailableError{Doing: doing, Err: err}
}
