package claims

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
)

const (
	existsSQL = `select true from product_gates where product_id = $1`

	unitsSQL = `select units from product_gates where product_id = $1 and not deleted`

	thereSQL = `select true from product_gates where product_id = $1 and not deleted`

	// Ordered by the index, so that Postgres uses it whatever its statistics of
	// other products are: a new product has no row, and a search through the table
	// would read all numbers that ever were. (An exists would drop the order.)
	hadSlotSQL = `
select coalesce((select true from slot_numbers n where n.product_id = g.product_id and n.state = 'claimed'
                 order by n.number limit 1), false)
from product_gates g where product_id = $1 and not deleted`

	acquiredSinceSQL = `
select coalesce((select true from events e
                 where (e.key, e.position) > (g.product_id, $2) and (e.key, e.position) <= (g.product_id, 9223372036854775807) and e.type = $3
                 order by e.key, e.position limit 1), false)
from product_gates g where product_id = $1 and not deleted`

	createSQL = `insert into product_gates (product_id, units, sale_date, sale_end) values ($1, $2, $3, $4)`

	stockSQL = `update product_gates set units = $2 where product_id = $1`

	// The trigger on product_gates lets units decrease only if there was never a slot.
	saleSQL = `
update product_gates set sale_date = $2, sale_end = $3, paused = $4, units = coalesce(nullif($5, 0), units), cancelled = cancelled or $6
where product_id = $1`

	// cancelledSQL makes the worker end the product's slots and refund its purchases.
	cancelledSQL = `insert into sale_cancellations (product_id, cancelled_at) values ($1, $2) on conflict do nothing`

	begunSQL = `select sale_date <= ` + eventstore.NowSQL + ` from product_gates where product_id = $1 and not deleted`

	deleteSQL = `update product_gates set deleted = true where product_id = $1`
)

// raiseSQL raises the epoch for a change of the sale, and records when the epoch
// before was last leased, and which rebuild's gate had it. The row is locked first: a lease
// that is being renewed is waited for and seen, and no lease of the old epoch can follow.
const raiseSQL = `
with old as (
    select * from product_gates where product_id = $1 and not deleted for update
), ended as (
    insert into gate_epochs as e (product_id, epoch, ended_at, leased_at, lease_beat, rebuilt_id)
    select product_id, epoch, clock_timestamp(), case when lease_epoch = epoch then leased_at end, lease_beat, rebuilt_id
    from old where epoch >= 0
    on conflict (product_id, epoch) do update set ended_at = excluded.ended_at, leased_at = excluded.leased_at, lease_beat = excluded.lease_beat,
        rebuilt_id = excluded.rebuilt_id
)
update product_gates g set epoch = old.epoch + 1
from old where g.product_id = old.product_id`

func checkCreate(b *pgx.Batch, it Create, refused *error) {
	b.Queue(existsSQL, it.Product).QueryRow(func(row pgx.Row) error {
		var there bool
		err := row.Scan(&there)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		*refused = ErrExists
		return err
	})
}

func checkStock(b *pgx.Batch, it Stock, refused *error) {
	var units int
	b.Queue(unitsSQL, it.Product).QueryRow(func(row pgx.Row) error {
		err := orGone(row.Scan(&units), refused)
		if *refused == nil && units > it.Total {
			*refused = ErrFewerUnits
		}
		return err
	})
}

func checkSale(b *pgx.Batch, it Sale, refused *error) {
	if it.OnlyBeforeSale {
		refuseIf(b, ErrSaleBegun, refused, begunSQL, it.Product)
	}
	if it.OnlyIfNeverHadSlot {
		refuseIf(b, ErrHadSlot, refused, hadSlotSQL, it.Product)
		return
	}
	var there bool
	b.Queue(thereSQL, it.Product).QueryRow(func(row pgx.Row) error { return orGone(row.Scan(&there), refused) })
}

func checkDelete(b *pgx.Batch, it Delete, refused *error) {
	refuseIf(b, ErrAcquiredSince, refused, acquiredSinceSQL, it.Product, it.NoneActiveAt, domain.SlotAcquired{}.EventType())
}

// refuseIf refuses with reason if the statement returns true for an existing product.
func refuseIf(b *pgx.Batch, why error, refused *error, sql string, args ...any) {
	var speaksAgainst bool
	b.Queue(sql, args...).QueryRow(func(row pgx.Row) error {
		err := orGone(row.Scan(&speaksAgainst), refused)
		if *refused == nil && speaksAgainst {
			*refused = why
		}
		return err
	})
}

// orGone turns "no row" into ErrGone.
func orGone(err error, refused *error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		*refused = ErrGone
		return nil
	}
	return err
}

// activeSQL: see hadSlotSQL. Every active slot has a due time.
const activeSQL = `
select coalesce((select true from slot_claims where product_id = $1 and due_at is not null order by due_at limit 1), false),
       coalesce((select position from events order by position desc limit 1), 0)`

// HasActive reports whether a slot of the product is ACTIVE, and the position of
// the log at which that was true. If there is none, Delete starts from that position.
func (s *Store) HasActive(ctx context.Context, product uuid.UUID) (active bool, at int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	if err := s.pool.QueryRow(ctx, activeSQL, product).Scan(&active, &at); err != nil {
		return false, 0, fmt.Errorf("find an active slot of product %s: %w", product, err)
	}
	return active, at, nil
}
