package readmodel

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/apimodel"
)

// ProductStatus computes a product's status with the snapshot's clock, like domain.StatusOf.
const ProductStatus = `
CASE WHEN cancelled THEN 'CANCELLED'
     WHEN sale_end_date <= now() THEN 'ENDED'
     WHEN paused THEN 'PAUSED'
     WHEN sale_date > now() THEN 'UPCOMING'
     WHEN stock <= 0 THEN 'SOLD_OUT'
     ELSE 'ON_SALE' END`

// ProductColumns are the columns of a product.
const ProductColumns = `id, name, description, price::text, currency, stock, initial_stock, total_stock,
	sale_date, sale_end_date, paused,` + ProductStatus + `, created_at, updated_at,
	CASE WHEN cancelled THEN projection_cancellation(id) END`

// ScanProduct scans ProductColumns and the columns after them.
func ScanProduct(row pgx.Row, more ...any) (apimodel.Product, error) {
	var p apimodel.Product
	var end *time.Time
	err := row.Scan(append([]any{&p.ID, &p.Name, &p.Description, &p.Price, &p.Currency, &p.Stock, &p.InitialStock, &p.TotalStock,
		(*time.Time)(&p.SaleDate), &end, &p.Paused, &p.Status, (*time.Time)(&p.CreatedAt), (*time.Time)(&p.UpdatedAt),
		&p.Cancellation}, more...)...)
	if err != nil {
		return p, err
	}
	p.SaleEndDate = apimodel.At(end)
	p.Price, err = showMoney(p.Price, p.Currency)
	return p, err
}

// SlotColumns are the columns of s, a slot, with n, its product's current name.
const SlotColumns = `s.id, s.product_id, coalesce(n.name, ''), s.user_id, s.unit, s.arrival_sequence, s.acquisition_timestamp,
	s.expiration_timestamp, s.status, s.created_at, s.regrant_of, s.ended_at, s.reclaim_status, now()`

// SlotsFrom returns the tables of SlotColumns.
func SlotsFrom(g Generations) string {
	return g.Table(PurchaseSlots) + ` s LEFT JOIN ` + g.ProductNames() + ` n ON n.product_id = s.product_id`
}

// ScanSlot scans SlotColumns and the columns after them.
func ScanSlot(row pgx.Row, more ...any) (apimodel.Slot, error) {
	var s apimodel.Slot
	var ended *time.Time
	var now time.Time
	err := row.Scan(append([]any{&s.ID, &s.ProductID, &s.ProductName, &s.UserID, &s.Unit, &s.ArrivalSequence,
		(*time.Time)(&s.AcquisitionTimestamp), (*time.Time)(&s.ExpirationTimestamp), &s.Status, (*time.Time)(&s.CreatedAt),
		&s.RegrantOf, &ended, &s.ReclaimStatus, &now}, more...)...)
	s.EndedAt = apimodel.At(ended)
	s.RemainingTimeSeconds = apimodel.Remaining(s.Status, time.Time(s.ExpirationTimestamp), now)
	return s, err
}

// PaymentColumns are the columns of a purchase.
const PaymentColumns = `id, purchase_slot_id, product_id, user_id, payment_id, payment_status, amount::text, currency,
	payment_method, confirmation_timestamp, failure_reason, refund_status, created_at, updated_at,
	refunded_amount::text, disputed, reversed`

// ScanPayment scans PaymentColumns and the columns after them.
func ScanPayment(row pgx.Row, more ...any) (apimodel.Payment, error) {
	var p apimodel.Payment
	var confirmed *time.Time
	err := row.Scan(append([]any{&p.ID, &p.PurchaseSlotID, &p.ProductID, &p.UserID, &p.PaymentID, &p.PaymentStatus, &p.Amount, &p.Currency,
		&p.PaymentMethod, &confirmed, &p.FailureReason, &p.RefundStatus, (*time.Time)(&p.CreatedAt), (*time.Time)(&p.UpdatedAt),
		&p.RefundedAmount, &p.Disputed, &p.Reversed}, more...)...)
	if err != nil {
		return p, err
	}
	p.ConfirmationTimestamp = apimodel.At(confirmed)
	if p.Amount, err = showMoney(p.Amount, p.Currency); err != nil {
		return p, err
	}
	p.RefundedAmount, err = showRefunded(p.RefundedAmount, p.Currency)
	return p, err
}

// RefundColumns are the columns of a refund.
const RefundColumns = `id, payment_id, amount::text, currency, cause, status, return_unit, reason, failure_reason, created_at, updated_at`

// ScanRefund scans RefundColumns and the columns after them.
func ScanRefund(row pgx.Row, more ...any) (apimodel.Refund, error) {
	var r apimodel.Refund
	err := row.Scan(append([]any{&r.ID, &r.PaymentID, &r.Amount, &r.Currency, &r.Cause, &r.Status, &r.ReturnUnit, &r.Reason, &r.FailureReason,
		(*time.Time)(&r.CreatedAt), (*time.Time)(&r.UpdatedAt)}, more...)...)
	if err != nil {
		return r, err
	}
	r.Amount, err = showMoney(r.Amount, r.Currency)
	return r, err
}

// showMoney formats a stored number with its currency's decimal places.
func showMoney(number, currency string) (string, error) {
	amount, err := decimal.NewFromString(number)
	if err != nil {
		return "", fmt.Errorf("stored amount %q: %w", number, err)
	}
	money, err := domain.NewPaid(amount, currency)
	if err != nil {
		return "", fmt.Errorf("stored amount %s %s: %w", number, currency, err)
	}
	return money.String(), nil
}

// showRefunded formats a stored sum of refunds, "0" if there is none.
func showRefunded(number, currency string) (string, error) {
	shown, err := showMoney(number, currency)
	if amount, parsed := decimal.NewFromString(number); parsed == nil && amount.IsZero() {
		return "0", err
	}
	return shown, err
}

// Scan scans the columns of a T and the columns after them.
type Scan[T any] func(row pgx.Row, more ...any) (T, error)

// One returns a function that scans the only row. It fails with none if there is no row.
func One[T any](into *T, scan Scan[T], none error) func(pgx.Row) error {
	return func(row pgx.Row) (err error) {
		*into, err = scan(row)
		return NotFound(err, none)
	}
}

// All returns a function that scans all rows.
func All[T any](into *[]T, scan Scan[T]) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*into, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (T, error) { return scan(row) })
		return err
	}
}

// EachRow calls row for each of the rows, which it scans.
func EachRow(rows pgx.Rows, row func() error) error {
	for rows.Next() {
		if err := row(); err != nil {
			return err
		}
	}
	return rows.Err()
}
