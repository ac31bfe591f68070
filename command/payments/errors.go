package payments

import "errors"

var (
	// ErrNoSlot: there is no slot of this id.
	ErrNoSlot = errors.New("payments: no such slot")
	// ErrNoPayment: there is no payment of this id.
	ErrNoPayment = errors.New("payments: no such payment")
	// ErrKeyReused: the idempotency key was used with another body.
	ErrKeyReused = errors.New("payments: the idempotency key was used with another body")
	// ErrKeyTaken: another request with the same idempotency key came first.
	// Start again answers as that was answered.
	ErrKeyTaken = errors.New("payments: the idempotency key was taken at the same time")
	// ErrDelayed: money came for a slot that has expired, and the gate cannot say
	// now whether there is another unit. Nothing was recorded; the worker asks the
	// gateway again.
	ErrDelayed = errors.New("payments: the gate cannot answer now")
	// errSeen: the callback was heard before.
	errSeen = errors.New("payments: the callback was heard before")
)
