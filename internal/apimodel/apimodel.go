// Package apimodel defines the JSON objects that clients read: product, slot, payment and audit
// entry, in the form in which both APIs return them. The field order is the contract's, which is
// also the order of the columns in CSV.
package apimodel

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
)

// timeLayout is RFC 3339 in UTC with milliseconds.
const timeLayout = "2006-01-02T15:04:05.000Z"

// Time is a time that is shown in UTC with milliseconds.
type Time time.Time

// FormatTime writes a moment as JSON and CSV show it.
func FormatTime(t time.Time) string { return t.UTC().Format(timeLayout) }

// At converts an optional time; nil stays nil and is shown as null.
func At(t *time.Time) *Time {
	if t == nil {
		return nil
	}
	v := Time(*t)
	return &v
}

// String returns the shown form.
func (t Time) String() string { return FormatTime(time.Time(t)) }

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, len(timeLayout)+2)
	b = append(b, '"')
	b = time.Time(t).UTC().AppendFormat(b, timeLayout)
	return append(b, '"'), nil
}

// UnmarshalJSON reads any RFC 3339 time.
func (t *Time) UnmarshalJSON(b []byte) error { return (*time.Time)(t).UnmarshalJSON(b) }

// Product is a product as clients see it.
type Product struct {
	ID           uuid.UUID            `json:"id"`
	Name         string               `json:"name"`
	Description  string               `json:"description"`
	Price        string               `json:"price"` // with its currency's number of decimal places
	Currency     string               `json:"currency"`
	Stock        int                  `json:"stock"` // free units
	InitialStock int                  `json:"initialStock"`
	TotalStock   int                  `json:"totalStock"`
	SaleDate     Time                 `json:"saleDate"`
	SaleEndDate  *Time                `json:"saleEndDate"`
	Paused       bool                 `json:"paused"`
	Status       domain.ProductStatus `json:"status"`
	CreatedAt    Time                 `json:"createdAt"`
	UpdatedAt    Time                 `json:"updatedAt"`
	Cancellation *Cancellation        `json:"cancellation"` // null unless the sale was cancelled
}

// Cancellation counts the purchases of a cancelled sale: payments above 0 that succeeded, and of
// these those that were fully refunded or reversed, those whose refund failed, and the others.
type Cancellation struct {
	Purchases int `json:"purchases"`
	Refunded  int `json:"refunded"`
	Failed    int `json:"failed"`
	Open      int `json:"open"`
}

// ProductOf shows a product of which held units are held, as of now. Of a
// cancelled sale the caller fills in the counts.
func ProductOf(p domain.Product, held int, now time.Time) Product {
	free := max(0, p.TotalStock-held)
	return Product{
		ID: p.ID, Name: p.Name, Description: p.Description,
		Price: p.Price.String(), Currency: p.Price.Currency(),
		Stock: free, InitialStock: p.InitialStock, TotalStock: p.TotalStock,
		SaleDate: Time(p.SaleDate), SaleEndDate: At(p.SaleEndDate), Paused: p.Paused,
		Status:    domain.StatusOf(now, p.SaleDate, p.SaleEndDate, p.Paused, p.Cancelled, free),
		CreatedAt: Time(p.CreatedAt), UpdatedAt: Time(p.UpdatedAt),
	}
}

// Slot is a slot as its owner sees it. Times that do not exist are null.
type Slot struct {
	ID                   uuid.UUID             `json:"id"`
	ProductID            uuid.UUID             `json:"productId"`
	ProductName          string                `json:"productName"` // the product's name now
	UserID               uuid.UUID             `json:"userId"`
	Unit                 int                   `json:"unit"`
	ArrivalSequence      int64                 `json:"arrivalSequence"`
	AcquisitionTimestamp Time                  `json:"acquisitionTimestamp"`
	ExpirationTimestamp  Time                  `json:"expirationTimestamp"`
	Status               domain.SlotStatus     `json:"status"`
	RemainingTimeSeconds int64                 `json:"remainingTimeSeconds"` // see Remaining
	CreatedAt            Time                  `json:"createdAt"`
	RegrantOf            *uuid.UUID            `json:"regrantOf"`
	EndedAt              *Time                 `json:"endedAt"`
	ReclaimStatus        *domain.ReclaimStatus `json:"reclaimStatus"`
}

// SlotOf returns a slot in the form in which it is shown at the time now; productName is the
// product's current name.
func SlotOf(s domain.Slot, productName string, now time.Time) Slot {
	v := Slot{
		ID: s.ID, ProductID: s.ProductID, ProductName: productName, UserID: s.UserID,
		Unit: s.Unit, ArrivalSequence: s.ArrivalSequence,
		AcquisitionTimestamp: Time(s.AcquiredAt), ExpirationTimestamp: Time(s.Deadline),
		Status: s.Status, RemainingTimeSeconds: Remaining(s.Status, s.Deadline, now),
		CreatedAt: Time(s.AcquiredAt), RegrantOf: s.RegrantOf,
	}
	if !s.EndedAt.IsZero() {
		v.EndedAt = At(&s.EndedAt)
	}
	if s.ReclaimStatus != "" {
		v.ReclaimStatus = &s.ReclaimStatus
	}
	return v
}

// Remaining returns a slot's remainingTimeSeconds: the whole seconds until its deadline, 0 unless
// it is active.
func Remaining(status domain.SlotStatus, deadline, now time.Time) int64 {
	if status != domain.ActiveSlot {
		return 0
	}
	return int64(max(0, deadline.Sub(now)) / time.Second)
}

// Payment is a payment as its buyer sees it, and a row of purchases.
type Payment struct {
	ID                    uuid.UUID            `json:"id"`
	PurchaseSlotID        uuid.UUID            `json:"purchaseSlotId"`
	ProductID             uuid.UUID            `json:"productId"`
	UserID                uuid.UUID            `json:"userId"`
	PaymentID             *string              `json:"paymentId"` // the gateway's
	PaymentStatus         domain.PaymentStatus `json:"paymentStatus"`
	Amount                string               `json:"amount"` // with its currency's number of decimal places
	Currency              string               `json:"currency"`
	PaymentMethod         domain.PaymentMethod `json:"paymentMethod"`
	ConfirmationTimestamp *Time                `json:"confirmationTimestamp"`
	FailureReason         *string              `json:"failureReason"`
	RefundStatus          *string              `json:"refundStatus"`
	CreatedAt             Time                 `json:"createdAt"`
	UpdatedAt             Time                 `json:"updatedAt"`
	RefundedAmount        string               `json:"refundedAmount"` // "0" if nothing was refunded
	Disputed              bool                 `json:"disputed"`
	Reversed              bool                 `json:"reversed"`
}

// PaymentWithAction is a payment in the response for a single payment, which its owner requests.
type PaymentWithAction struct {
	Payment
	NextAction json.RawMessage `json:"nextAction"` // what the buyer's page has to do next; null for nothing
}

// Refund is a refund of a payment.
type Refund struct {
	ID            uuid.UUID           `json:"id"`
	PaymentID     uuid.UUID           `json:"paymentId"` // the system's own id
	Amount        string              `json:"amount"`
	Currency      string              `json:"currency"`
	Cause         domain.RefundCause  `json:"cause"`
	Status        domain.RefundStatus `json:"status"`
	ReturnUnit    bool                `json:"returnUnit"`
	Reason        string              `json:"reason"`
	FailureReason *string             `json:"failureReason"`
	CreatedAt     Time                `json:"createdAt"`
	UpdatedAt     Time                `json:"updatedAt"`
}

// RefundOf shows a refund of the payment.
func RefundOf(r domain.Refund, payment uuid.UUID) Refund {
	v := Refund{
		ID: r.ID, PaymentID: payment, Amount: r.Amount.String(), Currency: r.Amount.Currency(), Cause: r.Cause, Status: r.Status,
		ReturnUnit: r.ReturnUnit, Reason: r.Reason, CreatedAt: Time(r.CreatedAt), UpdatedAt: Time(r.UpdatedAt),
	}
	if r.FailureReason != "" {
		v.FailureReason = &r.FailureReason
	}
	return v
}

// RefundedAmount shows the sum of completed refunds.
func RefundedAmount(sum domain.Money) string {
	if sum.IsZero() {
		return "0"
	}
	return sum.String()
}

// PaymentOf shows a payment of the user's for a unit of the product.
func PaymentOf(p domain.Payment, product, user uuid.UUID) Payment {
	v := Payment{
		ID: p.ID, PurchaseSlotID: p.SlotID, ProductID: product, UserID: user, PaymentStatus: p.Status,
		Amount: p.Price.String(), Currency: p.Price.Currency(), PaymentMethod: p.Method,
		CreatedAt: Time(p.CreatedAt), UpdatedAt: Time(p.UpdatedAt),
	}
	if p.GatewayID != "" {
		v.PaymentID = &p.GatewayID
	}
	if !p.ConfirmedAt.IsZero() {
		v.ConfirmationTimestamp = At(&p.ConfirmedAt)
	}
	if p.FailureReason != "" {
		v.FailureReason = &p.FailureReason
	}
	if refund := string(p.RefundStatus()); refund != "" {
		v.RefundStatus = &refund
	}
	sum, _ := p.RefundedAmount()
	v.RefundedAmount, v.Disputed, v.Reversed = RefundedAmount(sum), p.Disputed(), p.Reversed
	return v
}

// AuditEntry is one event of a slot.
type AuditEntry struct {
	EventID    uuid.UUID       `json:"eventId"`
	Type       string          `json:"type"`
	SlotID     uuid.UUID       `json:"slotId"`
	ProductID  uuid.UUID       `json:"productId"`
	UserID     uuid.UUID       `json:"userId"`
	OldStatus  *string         `json:"oldStatus"`
	NewStatus  string          `json:"newStatus"`
	TraceID    string          `json:"traceId"`
	Actor      string          `json:"actor"`
	RecordedAt Time            `json:"recordedAt"`
	Position   string          `json:"position"` // a token, as in X-Position
	Metadata   json.RawMessage `json:"metadata"` // an object
}
