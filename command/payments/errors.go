package payments

import "errors"

var (
	// ErrNoSlot: there is no slot with this id.
	ErrNoSlot = errors.New("payments: no such slot")
	// ErrNoPayment: there is no payment with this id.
	ErrNoPayment = errors.New("payments: no such payment")
	// ErrKeyReused: the idempotency key was used with another body.
	ErrKeyReused = errors.New("payments: the idempotency key was used with another body")
	// ErrKeyTaken: another request with the same idempotency key came first. A retry
	// returns what that returned.
	ErrKeyTaken = errors.New("payments: the idempotency key was taken at the same time")
	// ErrDelayed: money came for a slot that has expired, and the gate cannot respond
	// now whether there is another unit. Nothing was recorded; the worker queries the
	// gateway again.
	ErrDelayed = errors.New("payments: the gate cannot respond now")
	// ErrQuery: a report needs an answer of the gateway, which cannot give it now.
	// Nothing was recorded; the gateway should send the callback again.
	ErrQuery = errors.New("payments: the gateway cannot be queried now")
	// errSeen: the callback was received before.
	errSeen = errors.New("payments: the callback was received before")
)
