// Package purchases is the read model of payments: one row for each payment, and one row for each
// refund in the table refunds.
//
// A row is folded by the rules of package domain, so it always agrees with the slot's stream. State
// that the rules need in addition to the visible columns (amount taken, refunds, disputes) is in
// the column money, which few payments have.
package purchases

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/pgbinary"
	"github.com/dopaminestore/dopamine/projections"
)

// Projection implements projections.Projection.
type Projection struct{}

var _ projections.Projection = Projection{}

// New returns the projection.
func New() Projection { return Projection{} }

// Name implements projections.Projection.
func (Projection) Name() string { return "purchases" }

// Key implements projections.Projection: the payment.
func (Projection) Key(e domain.Envelope) (uuid.UUID, bool) {
	id, _, ok := domain.PaymentOf(e.Event)
	return id, ok
}

// RawKey implements projections.Projection. The payment's id is inside the event, so an event that
// cannot be decoded is parked under its slot.
func (Projection) RawKey(eventType string, _, stream uuid.UUID) (uuid.UUID, bool) {
	switch eventType {
	case "PaymentInitiated", "PaymentCancelRequested", "PaymentFailed", "PaymentCompleted", "PaymentRegranted",
		"RefundDue", "RefundPending", "RefundCompleted", "RefundFailed",
		"PaymentDisputed", "PaymentDisputeClosed", "PaymentReversed", "PaymentContradicted", "PaymentResolved":
		return stream, true
	}
	return uuid.Nil, false
}

// NewFold implements projections.Projection.
func (Projection) NewFold(generation int) projections.Fold { return newFold(generation) }

func newFold(generation int) *fold {
	return &fold{
		table: projections.Table("purchases", generation), refundsTable: projections.Table("refunds", generation),
		rows: map[uuid.UUID]*Row{}, refunds: map[uuid.UUID]refundRow{},
	}
}

// Row is one row of the table.
type Row struct {
	domain.Payment
	ProductID    uuid.UUID
	UserID       uuid.UUID
	LastPosition int64
}

// refundRow is one row of the table refunds.
type refundRow struct {
	domain.Refund
	payment uuid.UUID
	last    int64
}

type fold struct {
	table, refundsTable string
	rows                map[uuid.UUID]*Row
	refunds             map[uuid.UUID]refundRow // changed refunds
}

// money is the content of the column of that name.
type money struct {
	Taken    *domain.Money    `json:"taken,omitempty"`
	Refunds  []domain.Refund  `json:"refunds,omitempty"`
	Disputes []domain.Dispute `json:"disputes,omitempty"`
}

// money returns the content of the row's column of that name, nil if there is nothing to store.
func (r *Row) money() ([]byte, error) {
	m := money{Refunds: r.Refunds, Disputes: r.Disputes}
	if len(m.Refunds)+len(m.Disputes) == 0 {
		return nil, nil
	}
	if r.WasTaken() {
		m.Taken = &r.Taken
	}
	return json.Marshal(m)
}

func (f *fold) Load(b *pgx.Batch, events []domain.Envelope) {
	seen := map[uuid.UUID]bool{}
	var ids pgbinary.IDs
	for _, e := range events {
		key, ok := Projection{}.Key(e)
		if !ok || seen[key] {
			continue
		}
		seen[key] = true
		if _, begins := e.Event.(domain.PaymentInitiated); !begins {
			ids = append(ids, pgbinary.ID(key))
		}
	}
	if len(ids) == 0 {
		return
	}
	b.Queue(fmt.Sprintf(`
		SELECT id, purchase_slot_id, product_id, user_id, coalesce(payment_id, ''), payment_status, amount::text, currency, payment_method,
		       confirmation_timestamp, coalesce(failure_reason, ''), reversed, money, created_at, updated_at, last_position
		FROM %s WHERE id = ANY($1)`, f.table), ids).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			r, err := scanRow(rows)
			if err != nil {
				return err
			}
			f.rows[r.ID] = r
		}
		return rows.Err()
	})
}

func scanRow(rows pgx.Rows) (*Row, error) {
	r := &Row{}
	var amount, currency string
	var confirmed *time.Time
	var kept []byte
	if err := rows.Scan(&r.ID, &r.SlotID, &r.ProductID, &r.UserID, &r.GatewayID, &r.Status, &amount, &currency, &r.Method,
		&confirmed, &r.FailureReason, &r.Reversed, &kept, &r.CreatedAt, &r.UpdatedAt, &r.LastPosition); err != nil {
		return nil, err
	}
	number, err := decimal.NewFromString(amount)
	if err != nil {
		return nil, err
	}
	if r.Price, err = domain.NewPaid(number, currency); err != nil {
		return nil, err
	}
	if confirmed != nil {
		r.ConfirmedAt = *confirmed
	}
	if r.Status == domain.SuccessfulPayment {
		r.Taken = r.Price
	}
	if kept == nil {
		return r, nil
	}
	var m money
	if err := json.Unmarshal(kept, &m); err != nil {
		return nil, err
	}
	r.Refunds, r.Disputes = m.Refunds, m.Disputes
	if m.Taken != nil {
		r.Taken = *m.Taken
	}
	return r, nil
}

func (f *fold) Apply(e domain.Envelope) error {
	key, user, ok := domain.PaymentOf(e.Event)
	if !ok {
		return fmt.Errorf("no rule for %T", e.Event)
	}
	row := f.rows[key]
	switch e.Event.(type) {
	case domain.PaymentInitiated:
		row = nil
	case domain.PaymentCompleted: // nothing was to be paid, or it was started before the payment's first event here
	default:
		if row == nil {
			return fmt.Errorf("payment %s has no row", key)
		}
	}
	if row == nil {
		row = &Row{ProductID: e.ProductID, UserID: user}
		f.rows[key] = row
	}
	if done, ok := e.Event.(domain.RefundCompleted); ok {
		row.adopt(e, done)
	}
	before := row.Refunds
	row.Payment = domain.EvolvePayment(row.Payment, e)
	row.LastPosition = e.Position
	for i, r := range row.Refunds {
		if i >= len(before) || before[i] != r {
			f.refunds[r.ID] = refundRow{r, row.ID, e.Position}
		}
	}
	return nil
}

// adopt adds a refund recorded by an earlier version of the program, which kept no refunds.
func (r *Row) adopt(e domain.Envelope, done domain.RefundCompleted) {
	if _, known := r.Refund(done.RefundID); known || done.RefundID != r.ID {
		return
	}
	r.Refunds = append(r.Refunds, domain.Refund{
		ID: r.ID, ChargeID: r.GatewayID, Amount: done.Amount, Cause: domain.RefundLate, Reason: r.FailureReason,
		Status: domain.DueRefund, CreatedAt: e.RecordedAt, UpdatedAt: e.RecordedAt,
	})
	r.Taken = done.Amount
}
