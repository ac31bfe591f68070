package claims

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
)

var (
	// ErrGone: there is no such product, or it was deleted.
	ErrGone = errors.New("claims: the product is gone")
	// ErrExists: the product exists already.
	ErrExists = errors.New("claims: the product exists")
	// ErrFewerUnits: the number of units never decreases.
	ErrFewerUnits = errors.New("claims: a product's units can only increase")
	// ErrHadSlot: the product has had a slot, so its sale date cannot change.
	ErrHadSlot = errors.New("claims: the product has had a slot")
	// ErrSaleBegun: the sale has begun, so price and units cannot change.
	ErrSaleBegun = errors.New("claims: the sale has begun")
	// ErrSaleCancelled: the slot's sale was cancelled, which ends it.
	ErrSaleCancelled = errors.New("claims: the sale was cancelled")
	// ErrAcquiredSince: a slot was acquired since it was read that none is
	// ACTIVE. Read again.
	ErrAcquiredSince = errors.New("claims: a slot of the product was acquired since")
	// ErrEpoch: the grant was made in another epoch, or by a gate of a history that the
	// store lost. Sync the gate and decide again.
	ErrEpoch = errors.New("claims: the grant is of another epoch")
	// ErrWithdrawn: the number was withdrawn for good. Decide again.
	ErrWithdrawn = errors.New("claims: the number was withdrawn")
	// ErrSlotEnded: the number was claimed and its slot has ended since. Decide
	// again.
	ErrSlotEnded = errors.New("claims: the grant's slot has ended")
	// ErrClaimed: the number was claimed, so it cannot be withdrawn.
	ErrClaimed = errors.New("claims: the number was claimed")
	// ErrNoUnit: the product has no unit of that number. The gate is wrong:
	// call Rebuild.
	ErrNoUnit = errors.New("claims: no such unit")
	// ErrNotActive: the slot holds no unit, or is COMPLETED.
	ErrNotActive = errors.New("claims: the slot is not active")
	// ErrPastDeadline: the slot's deadline has passed by the store's clock.
	ErrPastDeadline = errors.New("claims: the slot's deadline has passed")
)

// UnitTakenError: another slot holds the unit. The gate is wrong: call Rebuild and
// decide again.
type UnitTakenError struct {
	Unit   int
	SlotID uuid.UUID // that holds it
}

func (e *UnitTakenError) Error() string {
	return fmt.Sprintf("claims: unit %d is held by slot %s", e.Unit, e.SlotID)
}

// BuyerHoldsError: the buyer holds a slot of the product already. If
// Claim.SlotID is the one that was to be appended, another request appended the
// same grant. If it is another one, the gate is wrong: answer, and call Rebuild.
type BuyerHoldsError struct{ Claim Record }

func (e *BuyerHoldsError) Error() string {
	return fmt.Sprintf("claims: the buyer holds slot %s", e.Claim.SlotID)
}
