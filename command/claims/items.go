package claims

import (
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/eventstore"
)

// The items below are what a command hands in beside its events, each by its
// Guarded method. What they refuse is in errors.go.
type (
	// Create makes a new product's row. Refusal: ErrExists.
	Create struct {
		Product  uuid.UUID
		Stock    int
		SaleDate time.Time
		SaleEnd  *time.Time
	}
	// Stock sets how many units there are in all. Refusals: ErrGone, ErrFewerUnits.
	Stock struct {
		Product uuid.UUID
		Total   int
	}
	// Sale sets the sale's begin, end and pause as they are from now on, and
	// raises the epoch: grants on their way are decided anew. Refusals: ErrGone,
	// ErrHadSlot with OnlyIfNeverHadSlot, ErrSaleBegun with OnlyBeforeSale.
	Sale struct {
		Product            uuid.UUID
		SaleDate           time.Time
		SaleEnd            *time.Time
		Paused             bool
		Cancelled          bool // the sale ends for good
		Units              int  // units there are from now on; 0: as many as before
		OnlyIfNeverHadSlot bool
		OnlyBeforeSale     bool // by the store's clock, and the begin that is recorded
	}
	// Delete ends the product and raises the epoch. NoneActiveAt is a position of the
	// log at which no slot of it was ACTIVE (Store.HasActive), so that what is left to
	// look at under the append lock is what came since, not every claim. Refusals:
	// ErrGone, ErrAcquiredSince.
	Delete struct {
		Product      uuid.UUID
		NoneActiveAt int64
	}
	// Claim makes a grant final, beside SlotAcquired. Refusals: *BuyerHoldsError
	// (also for the grant's own slot, where somebody else appended it),
	// ErrWithdrawn, ErrSlotEnded, ErrGone, ErrEpoch, *UnitTakenError, ErrNoUnit.
	Claim struct {
		Product uuid.UUID
		SlotID  uuid.UUID
		Number  int64
		Unit    int
		Buyer   uuid.UUID
		KeyHash []byte // nil for none
		TTL     time.Duration
		Warning time.Duration // ahead of the deadline; none where it is not below TTL
		Paid    bool          // the slot begins COMPLETED: a re-grant
	}
	// Release frees the unit of a slot that ends without a purchase. Refusal:
	// ErrNotActive.
	Release struct{ Product, SlotID uuid.UUID }
	// Return frees the unit of a purchase that was refunded. Refusal:
	// ErrNotActive.
	Return struct{ Product, SlotID uuid.UUID }
	// Complete keeps the unit of a slot that ends with a purchase. Refusal:
	// ErrNotActive.
	Complete struct{ Product, SlotID uuid.UUID }
	// Withdraw settles a number that was never claimed. Refusals: ErrGone,
	// ErrWithdrawn (it was already), ErrClaimed.
	Withdraw struct {
		Product uuid.UUID
		Number  int64
		Unit    int
	}
)

// item is what all of them are to the guard.
type item interface{ of() uuid.UUID }

func (i Create) of() uuid.UUID   { return i.Product }
func (i Stock) of() uuid.UUID    { return i.Product }
func (i Sale) of() uuid.UUID     { return i.Product }
func (i Delete) of() uuid.UUID   { return i.Product }
func (i Claim) of() uuid.UUID    { return i.Product }
func (i Release) of() uuid.UUID  { return i.Product }
func (i Complete) of() uuid.UUID { return i.Product }
func (i Return) of() uuid.UUID   { return i.Product }
func (i Withdraw) of() uuid.UUID { return i.Product }

// Guarded hands the item to an append.
func (i Create) Guarded() eventstore.Guarded { return guarded(i) }

// Guarded hands the item to an append.
func (i Stock) Guarded() eventstore.Guarded { return guarded(i) }

// Guarded hands the item to an append.
func (i Sale) Guarded() eventstore.Guarded { return guarded(i) }

// Guarded hands the item to an append.
func (i Delete) Guarded() eventstore.Guarded { return guarded(i) }

// Guarded hands the item to an append.
func (i Claim) Guarded() eventstore.Guarded { return guarded(i) }

// Guarded hands the item to an append.
func (i Release) Guarded() eventstore.Guarded { return guarded(i) }

// Guarded hands the item to an append.
func (i Return) Guarded() eventstore.Guarded { return guarded(i) }

// Guarded hands the item to an append.
func (i Complete) Guarded() eventstore.Guarded { return guarded(i) }

// Guarded hands the item to an append.
func (i Withdraw) Guarded() eventstore.Guarded { return guarded(i) }

func guarded(i item) eventstore.Guarded { return eventstore.Guarded{Guard: guard{}, Data: i} }
