package purchases

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/projections/table"
)

var rows = table.New([]table.Column[Row]{
	table.Of("id", table.ID, func(r *Row) *uuid.UUID { return &r.ID }),
	table.Of("product_id", table.ID, func(r *Row) *uuid.UUID { return &r.ProductID }),
	table.Of("user_id", table.ID, func(r *Row) *uuid.UUID { return &r.UserID }),
	table.Parsed("amount", table.Decimal, func(r *Row) string { return r.Price.Amount().String() }, (*Row).setAmount),
	table.Parsed("currency", table.Text, func(r *Row) string { return r.Price.Currency() }, (*Row).setCurrency),
	table.Of("payment_method", table.Text, func(r *Row) *string { return (*string)(&r.Method) }),
	table.Of("created_at", table.Time, func(r *Row) *time.Time { return &r.CreatedAt }),
}, []table.Column[Row]{
	table.Of("purchase_slot_id", table.ID, func(r *Row) *uuid.UUID { return &r.SlotID }),
	table.Of("payment_id", table.TextOrNull, func(r *Row) *string { return &r.GatewayID }),
	table.Of("payment_status", table.Text, func(r *Row) *string { return (*string)(&r.Status) }),
	table.Of("confirmation_timestamp", table.TimeOrNull, func(r *Row) *time.Time { return &r.ConfirmedAt }),
	table.Of("failure_reason", table.TextOrNull, func(r *Row) *string { return &r.FailureReason }),
	table.Derived("refund_status", table.TextOrNull, func(r *Row) string { return string(r.RefundStatus()) }),
	table.Of("updated_at", table.Time, func(r *Row) *time.Time { return &r.UpdatedAt }),
	table.Of("last_position", table.Long, func(r *Row) *int64 { return &r.LastPosition }),
	table.Derived("refunded_amount", table.Decimal, func(r *Row) string {
		back, _ := r.RefundedAmount()
		return back.Amount().String()
	}),
	table.Derived("disputed", table.Bool, (*Row).Disputed),
	table.Of("reversed", table.Bool, func(r *Row) *bool { return &r.Reversed }),
	table.Parsed("money", table.JSON, (*Row).money, (*Row).setMoney),
})

func (r *Row) setAmount(amount string) error {
	r.amount = amount
	return nil
}

func (r *Row) setCurrency(currency string) error {
	number, err := decimal.NewFromString(r.amount)
	if err != nil {
		return err
	}
	r.Price, err = domain.NewPaid(number, currency)
	return err
}

// money is the content of the column of that name.
type money struct {
	Taken    *domain.Money    `json:"taken,omitempty"`
	Refunds  []domain.Refund  `json:"refunds,omitempty"`
	Disputes []domain.Dispute `json:"disputes,omitempty"`
}

// money returns the content of the row's column of that name, nil if there is nothing to store.
func (r *Row) money() []byte {
	m := money{Refunds: r.Refunds, Disputes: r.Disputes}
	if len(m.Refunds)+len(m.Disputes) == 0 {
		return nil
	}
	if r.WasTaken() {
		m.Taken = &r.Taken
	}
	b, err := json.Marshal(m)
	if err != nil { // cannot fail for a struct of texts, numbers and times
		panic(err)
	}
	return b
}

// setMoney follows the columns from which Taken is derived if nothing is stored.
func (r *Row) setMoney(stored []byte) error {
	if r.Status == domain.SuccessfulPayment {
		r.Taken = r.Price
	}
	if stored == nil {
		return nil
	}
	var m money
	if err := json.Unmarshal(stored, &m); err != nil {
		return err
	}
	r.Refunds, r.Disputes = m.Refunds, m.Disputes
	if m.Taken != nil {
		r.Taken = *m.Taken
	}
	return nil
}

var refunds = table.New([]table.Column[refundRow]{
	table.Of("id", table.ID, func(r *refundRow) *uuid.UUID { return &r.ID }),
	table.Of("payment_id", table.ID, func(r *refundRow) *uuid.UUID { return &r.payment }),
	table.Derived("amount", table.Decimal, func(r *refundRow) string { return r.Amount.Amount().String() }),
	table.Derived("currency", table.Text, func(r *refundRow) string { return r.Amount.Currency() }),
	table.Of("cause", table.Text, func(r *refundRow) *string { return (*string)(&r.Cause) }),
	table.Of("return_unit", table.Bool, func(r *refundRow) *bool { return &r.ReturnUnit }),
	table.Of("reason", table.Text, func(r *refundRow) *string { return &r.Reason }),
	table.Of("created_at", table.Time, func(r *refundRow) *time.Time { return &r.CreatedAt }),
}, []table.Column[refundRow]{
	table.Of("status", table.Text, func(r *refundRow) *string { return (*string)(&r.Status) }),
	table.Of("failure_reason", table.TextOrNull, func(r *refundRow) *string { return &r.FailureReason }),
	table.Of("updated_at", table.Time, func(r *refundRow) *time.Time { return &r.UpdatedAt }),
	table.Of("last_position", table.Long, func(r *refundRow) *int64 { return &r.last }),
})

func (f *fold) Write(b *pgx.Batch) {
	refunds.Upsert(b, f.refundsTable, slices.Collect(maps.Values(f.refunds)))
	rows.Upsert(b, f.table, slices.Collect(maps.Values(f.rows)))
}
