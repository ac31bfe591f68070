package claims

import (
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/eventstore"
)

// A command passes these items with its events, each by its GuardItem method. Their
// refusals are in errors.go.
type (
	// Create makes a new product's row. Refusal: ErrExists.
	Create struct {
		Product  uuid.UUID
		Stock    int
		SaleDate time.Time
		SaleEnd  *time.Time
	}
	// Stock sets the total number of units. Refusals: ErrGone, ErrFewerUnits.
	Stock struct {
		Product uuid.UUID
		Total   int
	}
	// Sale sets the begin, end and pause of a sale, and
	// raises the epoch: pending grants are decided again. Refusals: ErrGone,
	// ErrHadSlot with OnlyIfNeverHadSlot, ErrSaleBegun with OnlyBeforeSale.
	Sale struct {
		Product            uuid.UUID
		SaleDate           time.Time
		SaleEnd            *time.Time
		Paused             bool
		Cancelled          bool // the sale ends for good
		Units              int  // units from now on; 0: unchanged
		OnlyIfNeverHadSlot bool
		OnlyBeforeSale     bool // by the store's clock, compared with the recorded begin
	}
	// Delete ends the product and raises the epoch. NoneActiveAt is a position of the
	// log at which none of its slots was ACTIVE (Store.HasActive), so that under the append
	// lock only the claims since then must be read, not every one. Refusals:
	// ErrGone, ErrAcquiredSince.
	Delete struct {
		Product      uuid.UUID
		NoneActiveAt int64
	}
	// Claim makes a grant final, together with SlotAcquired. Refusals: *BuyerHoldsError
	// (also for the grant's own slot, if another request appended it),
	// ErrWithdrawn, ErrSlotEnded, ErrGone, ErrEpoch, *UnitTakenError, ErrNoUnit.
	Claim struct {
		Product uuid.UUID
		SlotID  uuid.UUID
		Number  int64
		Unit    int
		Buyer   uuid.UUID
		KeyHash []byte        // nil for none
		TTL     time.Duration // the life that SlotAcquired records
		Warning time.Duration // before the deadline; none if it is not below TTL
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
	// Withdraw ends a number that was never claimed. Refusals: ErrGone,
	// ErrWithdrawn (it was already), ErrClaimed, ErrEpoch.
	Withdraw struct {
		Product uuid.UUID
		Number  int64
		Unit    int
		// Rebuild is the id of the rebuild that made the gate which granted the number,
		// zero if not known. It must be that of the product's last rebuild.
		Rebuild uuid.UUID
	}
	// PaymentBegun delays a slot's end while its payment is pending, at most until Timeout
	// after the deadline. Refusals: ErrNotActive, ErrPastDeadline, ErrSaleCancelled.
	PaymentBegun struct {
		Product, SlotID uuid.UUID
		Timeout         time.Duration
		Paid            bool // the price was zero: the slot is COMPLETED at once
	}
	// PaymentEnded lets a slot end at its deadline again, because its payment
	// failed. Refusal: ErrNotActive.
	PaymentEnded struct{ Product, SlotID uuid.UUID }
	// Warned records that the slot's owner was warned. Refusal: ErrNotActive.
	Warned struct{ Product, SlotID uuid.UUID }
)

// item is the interface of all items.
type item interface{ product() uuid.UUID }

func (i Create) product() uuid.UUID       { return i.Product }
func (i Stock) product() uuid.UUID        { return i.Product }
func (i Sale) product() uuid.UUID         { return i.Product }
func (i Delete) product() uuid.UUID       { return i.Product }
func (i Claim) product() uuid.UUID        { return i.Product }
func (i Release) product() uuid.UUID      { return i.Product }
func (i Complete) product() uuid.UUID     { return i.Product }
func (i Return) product() uuid.UUID       { return i.Product }
func (i Withdraw) product() uuid.UUID     { return i.Product }
func (i PaymentBegun) product() uuid.UUID { return i.Product }
func (i PaymentEnded) product() uuid.UUID { return i.Product }
func (i Warned) product() uuid.UUID       { return i.Product }

// GuardItem returns the item for an append.
func (i Create) GuardItem() eventstore.GuardItem       { return guarded(i) }
func (i Stock) GuardItem() eventstore.GuardItem        { return guarded(i) }
func (i Sale) GuardItem() eventstore.GuardItem         { return guarded(i) }
func (i Delete) GuardItem() eventstore.GuardItem       { return guarded(i) }
func (i Claim) GuardItem() eventstore.GuardItem        { return guarded(i) }
func (i Release) GuardItem() eventstore.GuardItem      { return guarded(i) }
func (i Return) GuardItem() eventstore.GuardItem       { return guarded(i) }
func (i Complete) GuardItem() eventstore.GuardItem     { return guarded(i) }
func (i Withdraw) GuardItem() eventstore.GuardItem     { return guarded(i) }
func (i PaymentBegun) GuardItem() eventstore.GuardItem { return guarded(i) }
func (i PaymentEnded) GuardItem() eventstore.GuardItem { return guarded(i) }
func (i Warned) GuardItem() eventstore.GuardItem       { return guarded(i) }

func guarded(i item) eventstore.GuardItem { return eventstore.GuardItem{Guard: guard{}, Data: i} }
