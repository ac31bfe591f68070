// Package purchases is the read model of payments: one row for each payment, and one row for each
// refund in the table refunds.
//
// A row is folded by the rules of package domain, so it always agrees with the slot's stream. State
// that the rules need in addition to the visible columns (amount taken, refunds, disputes) is in
// the column money, which few payments have.
package purchases

import (
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
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
	if !slices.Contains(domain.PaymentEventTypes, eventType) {
		return uuid.Nil, false
	}
	return stream, true
}

// NewFold implements projections.Projection.
func (Projection) NewFold(generation int) projections.Fold { return newFold(generation) }

func newFold(generation int) *fold {
	return &fold{
		table: projections.Table("purchases", generation), refundsTable: projections.Table("refunds", generation),
		rows: map[uuid.UUID]*Row{}, refunds: map[uuid.UUID]*refundRow{},
	}
}

// Row is one row of the table.
type Row struct {
	domain.Payment
	ProductID    uuid.UUID
	UserID       uuid.UUID
	LastPosition int64

	amount string // of Price, while the row is read
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
	refunds             map[uuid.UUID]*refundRow // changed refunds
}

func (f *fold) Load(b *pgx.Batch, events []domain.Envelope) {
	rows.Load(b, f.table, projections.KeysToLoad(events, Projection{}.Key, creates), func(r *Row) { f.rows[r.ID] = r })
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
			f.refunds[r.ID] = &refundRow{r, row.ID, e.Position}
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
