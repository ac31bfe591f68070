package domain

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// SlotCompletedError refuses a payment for a slot that is paid.
type SlotCompletedError struct{ Slot uuid.UUID }

func (e *SlotCompletedError) Error() string { return fmt.Sprintf("slot %s is paid", e.Slot) }

// SlotExpiredError refuses a payment for a slot that has expired, in
// whatever way, or whose deadline has passed.
type SlotExpiredError struct {
	Slot     uuid.UUID
	Deadline time.Time
}

func (e *SlotExpiredError) Error() string { return fmt.Sprintf("slot %s has expired", e.Slot) }

// MaxPayments is how many payments a slot may have.
const MaxPayments = 10

// TooManyPaymentsError refuses another payment of a slot that has MaxPayments.
type TooManyPaymentsError struct{ Slot uuid.UUID }

func (e *TooManyPaymentsError) Error() string {
	return fmt.Sprintf("slot %s has had %d payments", e.Slot, MaxPayments)
}

// AmountMismatchError refuses a payment of another amount than the product's price.
type AmountMismatchError struct {
	Slot           uuid.UUID
	Offered, Price Money
}

func (e *AmountMismatchError) Error() string {
	return fmt.Sprintf("slot %s costs %s %s, not %s %s", e.Slot,
		e.Price, e.Price.Currency(), e.Offered, e.Offered.Currency())
}

// StartPayment is a buyer's request to pay for their slot.
type StartPayment struct {
	ID      uuid.UUID // the id of the new payment
	Offered Money
	Method  PaymentMethod
	// SaleCancelled: the slot's sale was cancelled, which ends it like an expiry.
	SaleCancelled bool
}

// StartPayment starts a payment at the time at of the store's clock, for the
// product's price. The gateway is not called if the price is zero: such a
// payment completes at once. The error is, in this order, a *SlotCompletedError,
// a *SlotExpiredError, a *PaymentInProgressError, a *TooManyPaymentsError or an
// *AmountMismatchError. The caller has already checked the owner, with
// OwnedBy.
func (s Slot) StartPayment(at time.Time, c StartPayment, price Money) ([]Event, error) {
	switch {
	case s.Status == CompletedSlot || s.Status == ReturnedSlot:
		return nil, &SlotCompletedError{s.ID}
	case s.Status == ExpiredSlot || c.SaleCancelled || !at.Before(s.Deadline):
		return nil, &SlotExpiredError{s.ID, s.Deadline}
	}
	if p, pending := s.Pending(); pending {
		return nil, &PaymentInProgressError{s.ID, p.ID}
	}
	if len(s.Payments) >= MaxPayments {
		return nil, &TooManyPaymentsError{s.ID}
	}
	if !c.Offered.Equal(price) {
		return nil, &AmountMismatchError{s.ID, c.Offered, price}
	}
	events := []Event{PaymentInitiated{UserID: s.UserID, PaymentID: c.ID, Price: price, Method: c.Method}}
	if price.IsZero() {
		events = append(events, PaymentCompleted{UserID: s.UserID, PaymentID: c.ID, Price: price, Method: c.Method})
	}
	return events, nil
}
