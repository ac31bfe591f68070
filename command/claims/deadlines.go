package claims

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/eventstore"
)

type (
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

func (i PaymentBegun) product() uuid.UUID { return i.Product }
func (i PaymentEnded) product() uuid.UUID { return i.Product }
func (i Warned) product() uuid.UUID       { return i.Product }

// Guarded returns the item for an append.
func (i PaymentBegun) GuardItem() eventstore.GuardItem { return guarded(i) }

// Guarded returns the item for an append.
func (i PaymentEnded) GuardItem() eventstore.GuardItem { return guarded(i) }

// Guarded returns the item for an append.
func (i Warned) GuardItem() eventstore.GuardItem { return guarded(i) }

// checkPaymentsSQL returns for each slot whether it is active, whether its
// deadline has passed by the clock that decides its expiry, and whether its
// sale was cancelled.
const checkPaymentsSQL = `
select i.n, c.slot_id is not null, coalesce(c.deadline <= ` + eventstore.NowSQL + `, false), coalesce(g.cancelled, false)
from unnest($1::uuid[]) with ordinality as i(slot, n)
left join lateral (select slot_id, deadline, product_id from slot_claims
                   where slot_id = i.slot and status = 'ACTIVE' limit 1) c on true
left join lateral (select cancelled from product_gates where product_id = c.product_id limit 1) g on true`

func checkPayments(b *pgx.Batch, items []any, which picked, refused []error) {
	if len(which) == 0 {
		return
	}
	slots := make([]uuid.UUID, 0, len(which))
	for _, i := range which {
		slots = append(slots, items[i].(PaymentBegun).SlotID)
	}
	b.Queue(checkPaymentsSQL, binary(slots)).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var n int
			var active, late, cancelled bool
			if err := rows.Scan(&n, &active, &late, &cancelled); err != nil {
				return err
			}
			switch {
			case !active:
				refused[which[n-1]] = ErrNotActive
			case late:
				refused[which[n-1]] = ErrPastDeadline
			case cancelled:
				refused[which[n-1]] = ErrSaleCancelled
			}
		}
		return rows.Err()
	})
}

const (
	dueSQL = `
update slot_claims c set due_at = c.deadline + i.wait
from unnest($1::uuid[], $2::interval[]) as i(slot, wait)
where c.slot_id = i.slot and c.status = 'ACTIVE'`

	warnedSQL = `update slot_claims set warn_at = null where slot_id = any($1)`
)

func applyDue(b *pgx.Batch, slots []uuid.UUID, waits []time.Duration) {
	if len(slots) > 0 {
		b.Queue(dueSQL, binary(slots), waits)
	}
}

func applyWarned(b *pgx.Batch, slots []uuid.UUID) {
	if len(slots) > 0 {
		b.Queue(warnedSQL, binary(slots))
	}
}

// DueSlot is an active slot for which an action is due.
type DueSlot struct {
	Product, SlotID uuid.UUID
	Deadline        time.Time // UTC
	At              time.Time // UTC; since when it is due
}

// DueForExpiry lists active slots whose deadline has passed and that have no pending
// payment, those due longest first. Slots with a pending payment are excluded before the
// limit, so that they delay no other slot's end, however many there are.
func (s *Store) DueForExpiry(ctx context.Context, limit int) ([]DueSlot, error) {
	return s.due(ctx, `
select product_id, slot_id, deadline, due_at from slot_claims
where due_at <= $1 and due_at = deadline
order by due_at limit $2`, limit)
}

// DueForTimeout lists active slots whose pending payment has reached its timeout,
// those due longest first.
func (s *Store) DueForTimeout(ctx context.Context, limit int) ([]DueSlot, error) {
	return s.due(ctx, `
select product_id, slot_id, deadline, due_at from slot_claims
where due_at <= $1 and due_at > deadline
order by due_at limit $2`, limit)
}

// DueForWarning lists active slots whose owners must be warned, those with the
// nearest warning first. After the deadline no warning is due.
func (s *Store) DueForWarning(ctx context.Context, limit int) ([]DueSlot, error) {
	return s.due(ctx, `
select product_id, slot_id, deadline, warn_at from slot_claims
where warn_at <= $1 and deadline > $1
order by warn_at limit $2`, limit)
}

func (s *Store) due(ctx context.Context, sql string, limit int) ([]DueSlot, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	now, err := s.StoreClock(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, sql, now, limit)
	if err != nil {
		return nil, fmt.Errorf("list due slots: %w", err)
	}
	due, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d DueSlot, err error) {
		err = row.Scan(&d.Product, &d.SlotID, &d.Deadline, &d.At)
		d.Deadline, d.At = d.Deadline.UTC(), d.At.UTC()
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("list due slots: %w", err)
	}
	return due, nil
}
