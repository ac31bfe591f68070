// Package purchases is the read model of payments: one row for each payment.
package purchases

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/projections"
)

// The status of a payment and of its refund.
const (
	Pending  = "PENDING"
	Success  = "SUCCESS"
	Failed   = "FAILED"
	Due      = "DUE"
	Refunded = "REFUNDED"
)

// Projection implements projections.Projection.
type Projection struct{}

var _ projections.Projection = Projection{}

// New is the projection.
func New() Projection { return Projection{} }

// Name implements projections.Projection.
func (Projection) Name() string { return "purchases" }

// Key implements projections.Projection: the payment.
func (Projection) Key(e domain.Envelope) (uuid.UUID, bool) {
	switch c := e.Event.(type) {
	case domain.PaymentInitiated:
		return c.PaymentID, true
	case domain.PaymentFailed:
		return c.PaymentID, true
	case domain.PaymentCompleted:
		return c.PaymentID, true
	case domain.PaymentRegranted:
		return c.PaymentID, true
	case domain.RefundDue:
		return c.PaymentID, true
	case domain.RefundCompleted:
		return c.PaymentID, true
	}
	return uuid.Nil, false
}

// RawKey implements projections.Projection: the payment's id lies inside the
// event, so one that cannot be read is known by its slot.
func (Projection) RawKey(eventType string, _, stream uuid.UUID) (uuid.UUID, bool) {
	switch eventType {
	case "PaymentInitiated", "PaymentFailed", "PaymentCompleted", "PaymentRegranted", "RefundDue", "RefundCompleted":
		return stream, true
	}
	return uuid.Nil, false
}

// NewFold implements projections.Projection.
func (Projection) NewFold(generation int) projections.Fold {
	return &fold{table: projections.Table("purchases", generation), rows: map[uuid.UUID]*Row{}}
}

// Row is one row of the table.
type Row struct {
	ID               uuid.UUID
	SlotID           uuid.UUID
	ProductID        uuid.UUID
	UserID           uuid.UUID
	GatewayPaymentID *string
	Status           string
	Amount           string // decimal
	Currency         string
	Method           string
	ConfirmedAt      *time.Time
	FailureReason    *string
	RefundStatus     *string
	CreatedAt        time.Time
	UpdatedAt        time.Time
	LastPosition     int64
}

type fold struct {
	table string
	rows  map[uuid.UUID]*Row
}

func (f *fold) Load(b *pgx.Batch, events []domain.Envelope) {
	seen := map[uuid.UUID]bool{}
	var ids projections.IDs
	for _, e := range events {
		key, ok := Projection{}.Key(e)
		if !ok || seen[key] {
			continue
		}
		seen[key] = true
		if _, begins := e.Event.(domain.PaymentInitiated); !begins {
			ids = append(ids, projections.ID(key))
		}
	}
	if len(ids) == 0 {
		return
	}
	b.Queue(fmt.Sprintf(`
		SELECT id, purchase_slot_id, product_id, user_id, payment_id, payment_status, amount::text, currency, payment_method,
		       confirmation_timestamp, failure_reason, refund_status, created_at, updated_at, last_position
		FROM %s WHERE id = ANY($1)`, f.table), ids).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			r := &Row{}
			if err := rows.Scan(&r.ID, &r.SlotID, &r.ProductID, &r.UserID, &r.GatewayPaymentID, &r.Status, &r.Amount, &r.Currency, &r.Method,
				&r.ConfirmedAt, &r.FailureReason, &r.RefundStatus, &r.CreatedAt, &r.UpdatedAt, &r.LastPosition); err != nil {
				return err
			}
			f.rows[r.ID] = r
		}
		return rows.Err()
	})
}

func (f *fold) Apply(e domain.Envelope) error {
	key, ok := Projection{}.Key(e)
	if !ok {
		return fmt.Errorf("no rule for %T", e.Event)
	}
	row := f.rows[key]
	switch c := e.Event.(type) {
	case domain.PaymentInitiated:
		row = begin(e, key, c.UserID, c.Price, c.Method)
		f.rows[key] = row
	case domain.PaymentCompleted:
		if row == nil { // nothing was to pay, so no gateway was asked before
			row = begin(e, key, c.UserID, c.Price, c.Method)
			f.rows[key] = row
		}
	}
	if row == nil {
		return fmt.Errorf("payment %s has no row", key)
	}
	row.UpdatedAt, row.LastPosition = e.RecordedAt, e.Position
	switch c := e.Event.(type) {
	case domain.PaymentFailed:
		row.fail(c.Reason)
		row.learn(c.GatewayPaymentID)
	case domain.PaymentCompleted:
		at := e.RecordedAt
		row.Status, row.FailureReason, row.ConfirmedAt = Success, nil, &at
		row.SlotID = e.StreamID // another one than at first where it was granted again
		row.learn(c.GatewayPaymentID)
	case domain.PaymentRegranted:
		row.SlotID = c.NewSlotID
		row.learn(c.GatewayPaymentID)
	case domain.RefundDue:
		if row.Status != Failed {
			row.fail(c.Reason)
		}
		due := Due
		row.RefundStatus = &due
		row.learn(c.GatewayPaymentID)
	case domain.RefundCompleted:
		refunded := Refunded
		row.RefundStatus = &refunded
	}
	return nil
}

func begin(e domain.Envelope, id, user uuid.UUID, price domain.Money, method domain.PaymentMethod) *Row {
	return &Row{
		ID: id, SlotID: e.StreamID, ProductID: e.ProductID, UserID: user, Status: Pending,
		Amount: price.Amount().String(), Currency: price.Currency(), Method: string(method),
		CreatedAt: e.RecordedAt, UpdatedAt: e.RecordedAt, LastPosition: e.Position,
	}
}

func (r *Row) fail(reason string) {
	r.Status, r.FailureReason, r.ConfirmedAt = Failed, &reason, nil
}

// learn keeps the gateway's own id of the payment once it is known.
func (r *Row) learn(gatewayID string) {
	if gatewayID != "" {
		r.GatewayPaymentID = &gatewayID
	}
}
