package audit

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
)

// timeFormat is that of every time in HTTP: UTC with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// details is what an event says beyond the audit's columns.
type details struct {
	ArrivalSequence     int64      `json:"arrivalSequence,omitempty"`
	Unit                int        `json:"unit,omitempty"`
	ExpirationTimestamp string     `json:"expirationTimestamp,omitempty"`
	RegrantOf           *uuid.UUID `json:"regrantOf,omitempty"`
	ReclaimStatus       string     `json:"reclaimStatus,omitempty"`
	PaymentID           *uuid.UUID `json:"paymentId,omitempty"` // ours
	GatewayPaymentID    string     `json:"gatewayPaymentId,omitempty"`
	Amount              string     `json:"amount,omitempty"`
	Currency            string     `json:"currency,omitempty"`
	PaymentMethod       string     `json:"paymentMethod,omitempty"`
	FailureReason       string     `json:"failureReason,omitempty"`
	NewSlotID           *uuid.UUID `json:"newSlotId,omitempty"`
	Reason              string     `json:"reason,omitempty"`
	RefundID            string     `json:"refundId,omitempty"`
}

// metadata is the JSON object of an event. What a client may keep secret (the
// hash of its Idempotency-Key) is not in it.
func metadata(e domain.Envelope) ([]byte, error) {
	var d details
	switch c := e.Event.(type) {
	case domain.SlotAcquired:
		d.ArrivalSequence, d.Unit, d.RegrantOf = c.ArrivalSequence, c.Unit, c.RegrantOf
		d.ExpirationTimestamp = stamp(e.RecordedAt.Add(c.TTL()))
	case domain.SlotExpiringSoon:
		d.ExpirationTimestamp = stamp(c.Deadline)
	case domain.SlotExpired:
		d.ArrivalSequence, d.Unit, d.ReclaimStatus = c.ArrivalSequence, c.Unit, string(c.ReclaimStatus)
		d.ExpirationTimestamp = stamp(c.Deadline)
	case domain.PaymentInitiated:
		d.PaymentID, d.PaymentMethod = &c.PaymentID, string(c.Method)
		d.money(c.Price)
	case domain.PaymentFailed:
		d.PaymentID, d.GatewayPaymentID, d.FailureReason = &c.PaymentID, c.GatewayPaymentID, c.Reason
	case domain.PaymentCompleted:
		d.PaymentID, d.GatewayPaymentID, d.PaymentMethod = &c.PaymentID, c.GatewayPaymentID, string(c.Method)
		d.money(c.Price)
	case domain.PaymentRegranted:
		d.PaymentID, d.GatewayPaymentID, d.NewSlotID = &c.PaymentID, c.GatewayPaymentID, &c.NewSlotID
	case domain.RefundDue:
		d.PaymentID, d.GatewayPaymentID, d.Reason = &c.PaymentID, c.GatewayPaymentID, c.Reason
		d.money(c.Amount)
	case domain.RefundCompleted:
		d.PaymentID, d.RefundID = &c.PaymentID, c.RefundID
		d.money(c.Amount)
	default:
		return nil, fmt.Errorf("no rule for %T", e.Event)
	}
	return json.Marshal(d)
}

func (d *details) money(m domain.Money) { d.Amount, d.Currency = m.String(), m.Currency() }

func stamp(t time.Time) string { return t.UTC().Format(timeFormat) }
