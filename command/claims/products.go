package claims

import (
	"errors"

	"github.com/jackc/pgx/v5"
)

const (
	existsSQL = `select true from product_gates where product_id = $1`

	unitsSQL = `select units from product_gates where product_id = $1 and not deleted`

	hadSlotSQL = `
select exists (select from slot_numbers n where n.product_id = g.product_id and n.state = 'claimed')
from product_gates g where product_id = $1 and not deleted`

	liveSlotSQL = `
select exists (select from slot_claims c where c.product_id = g.product_id and c.status = 'ACTIVE')
from product_gates g where product_id = $1 and not deleted`

	createSQL = `insert into product_gates (product_id, units, sale_date, sale_end) values ($1, $2, $3, $4)`

	stockSQL = `update product_gates set units = $2 where product_id = $1`

	saleSQL = `update product_gates set sale_date = $2, sale_end = $3, paused = $4 where product_id = $1`

	deleteSQL = `update product_gates set deleted = true where product_id = $1`
)

// raiseSQL raises the epoch, where it is still $2 (null: whatever it is), to at
// least $3+1, and writes down when the epoch before was last leased. With $4 it
// is a rebuild. The row is locked first: a lease that is being set is waited for
// and seen, none of the old epoch can follow.
const raiseSQL = `
with old as (
    select * from product_gates
    where product_id = $1 and not deleted and ($2::bigint is null or epoch = $2)
    for update
), ended as (
    insert into gate_epochs as e (product_id, epoch, ended_at, leased_at)
    select product_id, epoch, clock_timestamp(), case when lease_epoch = epoch then leased_at end
    from old where epoch >= 0
    on conflict (product_id, epoch) do update set ended_at = excluded.ended_at, leased_at = excluded.leased_at
)
update product_gates g
set epoch     = greatest(old.epoch, $3) + 1,
    rebuilt   = case when $4 then greatest(old.epoch, $3) + 1 else g.rebuilt end,
    raised_at = case when $4 then clock_timestamp() else g.raised_at end
from old where g.product_id = old.product_id
returning g.epoch, coalesce(old.lease_stamp, ''),
          coalesce(extract(epoch from old.leased_at - clock_timestamp()), 0)::float8`

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
		err := here(row.Scan(&units), refused)
		if *refused == nil && units > it.Total {
			*refused = ErrFewerUnits
		}
		return err
	})
}

func checkSale(b *pgx.Batch, it Sale, refused *error) {
	var had bool
	b.Queue(hadSlotSQL, it.Product).QueryRow(func(row pgx.Row) error {
		err := here(row.Scan(&had), refused)
		if *refused == nil && had && it.OnlyIfNeverHadSlot {
			*refused = ErrHadSlot
		}
		return err
	})
}

func checkDelete(b *pgx.Batch, it Delete, refused *error) {
	var live bool
	b.Queue(liveSlotSQL, it.Product).QueryRow(func(row pgx.Row) error {
		err := here(row.Scan(&live), refused)
		if *refused == nil && live {
			*refused = ErrLiveSlots
		}
		return err
	})
}

// here turns "no row" into ErrGone.
func here(err error, refused *error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		*refused = ErrGone
		return nil
	}
	return err
}
