package claims

import (
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/pgbinary"
	"github.com/dopaminestore/dopamine/redis"
)

// claimAt is a claim with the position of its SlotAcquired.
type claimAt struct {
	Claim
	position int64
}

// checkClaimsSQL reads everything that can be a reason to refuse each claim. The
// limits keep Postgres at one index lookup per claim, whatever its statistics
// of the tables are.
const checkClaimsSQL = `
select i.n, coalesce(n.state, ''), coalesce(g.epoch, -2), coalesce(g.units, 0), u.slot_id,
       b.slot_id, b.number, b.unit, b.key_hash, b.status, b.acquired_at, b.deadline, b.position
from unnest($1::uuid[], $2::bigint[], $3::int[], $4::uuid[]) with ordinality as i(product, number, unit, buyer, n)
left join lateral (select epoch, units from product_gates where product_id = i.product and not deleted limit 1) g on true
left join lateral (select state from slot_numbers where product_id = i.product and number = i.number limit 1) n on true
left join lateral (select slot_id from slot_claims where product_id = i.product and unit = i.unit limit 1) u on true
left join lateral (select * from slot_claims where product_id = i.product and buyer = i.buyer limit 1) b on true
order by i.n`

func checkClaims(b *pgx.Batch, items []any, which picked, refused []error) {
	if len(which) == 0 {
		return
	}
	var products, buyers []uuid.UUID
	var numbers []int64
	var units []int32
	for _, i := range which {
		c := items[i].(Claim)
		products, buyers = append(products, c.Product), append(buyers, c.Buyer)
		numbers, units = append(numbers, c.Number), append(units, int32(c.Unit))
	}
	b.Queue(checkClaimsSQL, pgbinary.Raw(products), numbers, units, pgbinary.Raw(buyers)).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var (
				n              int
				state          string
				epoch          int64
				unitsInAll     int
				unitBy, heldBy *uuid.UUID
				held           heldColumns
			)
			if err := rows.Scan(&n, &state, &epoch, &unitsInAll, &unitBy, &heldBy, &held.number, &held.unit,
				&held.keyHash, &held.status, &held.acquired, &held.deadline, &held.position); err != nil {
				return err
			}
			i := which[n-1]
			c := items[i].(Claim)
			var holds *Record
			if heldBy != nil {
				holds = held.record(c.Product, *heldBy, c.Buyer)
			}
			refused[i] = validate(c, state, epoch, unitsInAll, unitBy, holds)
		}
		return rows.Err()
	})
}

// validate returns the reason to refuse a claim, or nil. The state of the number
// comes first: a claim that exists already is not refused for its epoch.
func validate(c Claim, state string, epoch int64, units int, unitBy *uuid.UUID, holds *Record) error {
	switch {
	case state == "withdrawn":
		return ErrWithdrawn
	case state == "claimed" && holds != nil && holds.SlotID == c.SlotID:
		return &BuyerHoldsError{Claim: *holds}
	case state == "claimed":
		return ErrSlotEnded
	case epoch == missing:
		return ErrGone
	case epoch != redis.EpochOf(c.Number):
		return ErrEpoch
	case holds != nil:
		return &BuyerHoldsError{Claim: *holds}
	case unitBy != nil:
		return &UnitTakenError{Unit: c.Unit, SlotID: *unitBy}
	case c.Unit > units:
		return ErrNoUnit
	}
	return nil
}

// missing stands for the epoch of a product that does not exist.
const missing = -2

// heldColumns are a claim's columns, null if there is none.
type heldColumns struct {
	number, position   *int64
	unit               *int
	keyHash            []byte
	status             *string
	acquired, deadline *time.Time
}

func (h heldColumns) record(product, slot, buyer uuid.UUID) *Record {
	return &Record{
		Product: product, SlotID: slot, Buyer: buyer, Number: *h.number, Unit: *h.unit, KeyHash: h.keyHash,
		Status: Status(*h.status), AcquiredAt: h.acquired.UTC(), Deadline: h.deadline.UTC(), Position: *h.position,
	}
}

const numbersSQL = `
insert into slot_numbers (product_id, number, state, unit)
select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::int[])`

func applyNumbers(b *pgx.Batch, claims []claimAt, withdrawals []Withdraw) {
	if len(claims)+len(withdrawals) == 0 {
		return
	}
	var products []uuid.UUID
	var numbers []int64
	var states []string
	var units []int32
	add := func(product uuid.UUID, number int64, state string, unit int) {
		products, numbers = append(products, product), append(numbers, number)
		states, units = append(states, state), append(units, int32(unit))
	}
	for _, c := range claims {
		add(c.Product, c.Number, "claimed", c.Unit)
	}
	for _, w := range withdrawals {
		add(w.Product, w.Number, "withdrawn", w.Unit)
	}
	b.Queue(numbersSQL, pgbinary.Raw(products), numbers, states, units)
}

// claimsSQL: the trigger on slot_claims checks stock, epoch and product.
const claimsSQL = `
insert into slot_claims (product_id, unit, slot_id, number, buyer, key_hash, acquired_at, deadline, warn_at, position, status, due_at)
select product, unit, slot, number, buyer, key_hash, $1, deadline, warn_at, position,
       case when paid then 'COMPLETED' else 'ACTIVE' end, case when not paid then deadline end
from unnest($2::uuid[], $3::int[], $4::uuid[], $5::bigint[], $6::uuid[], $7::bytea[], $8::timestamptz[],
            $9::timestamptz[], $10::bigint[], $11::bool[])
     as c(product, unit, slot, number, buyer, key_hash, deadline, warn_at, position, paid)`

func applyClaims(b *pgx.Batch, at time.Time, claims []claimAt) {
	if len(claims) == 0 {
		return
	}
	n := len(claims)
	products, slots, buyers := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
	units, numbers, positions := make([]int32, n), make([]int64, n), make([]int64, n)
	hashes, deadlines, warnings, paid := make([][]byte, n), make([]time.Time, n), make([]*time.Time, n), make([]bool, n)
	for i, c := range claims {
		products[i], slots[i], buyers[i] = c.Product, c.SlotID, c.Buyer
		units[i], numbers[i], positions[i] = int32(c.Unit), c.Number, c.position
		hashes[i], deadlines[i], paid[i] = c.KeyHash, at.Add(c.TTL), c.Paid
		if !c.Paid && c.Warning > 0 && c.Warning < c.TTL {
			warn := deadlines[i].Add(-c.Warning)
			warnings[i] = &warn
		}
	}
	b.Queue(claimsSQL, at, pgbinary.Raw(products), units, pgbinary.Raw(slots), numbers, pgbinary.Raw(buyers), hashes, deadlines, warnings, positions, paid)
}

const endsSQL = `
select i.n, c.status is not null
from unnest($1::uuid[]) with ordinality as i(slot, n)
left join lateral (select status from slot_claims where slot_id = i.slot and status = 'ACTIVE' limit 1) c on true`

func checkEnds(b *pgx.Batch, items []any, which picked, refused []error) {
	if len(which) == 0 {
		return
	}
	slots := make([]uuid.UUID, 0, len(which))
	for _, i := range which {
		switch it := items[i].(type) {
		case Release:
			slots = append(slots, it.SlotID)
		case Complete:
			slots = append(slots, it.SlotID)
		case PaymentEnded:
			slots = append(slots, it.SlotID)
		case Warned:
			slots = append(slots, it.SlotID)
		}
	}
	refuseOthers(b, endsSQL, slots, which, refused)
}

// refuseOthers refuses the items whose slots are not in the state that the query demands.
func refuseOthers(b *pgx.Batch, sql string, slots []uuid.UUID, which picked, refused []error) {
	b.Queue(sql, pgbinary.Raw(slots)).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var n int
			var holds bool
			if err := rows.Scan(&n, &holds); err != nil {
				return err
			}
			if !holds {
				refused[which[n-1]] = ErrNotActive
			}
		}
		return rows.Err()
	})
}

const returnsSQL = `
select i.n, c.status is not null
from unnest($1::uuid[]) with ordinality as i(slot, n)
left join lateral (select status from slot_claims where slot_id = i.slot and status = 'COMPLETED' limit 1) c on true`

// checkReturns refuses the return of a slot that is not a purchase that holds its unit.
func checkReturns(b *pgx.Batch, items []any, which picked, refused []error) {
	if len(which) == 0 {
		return
	}
	slots := make([]uuid.UUID, 0, len(which))
	for _, i := range which {
		slots = append(slots, items[i].(Return).SlotID)
	}
	refuseOthers(b, returnsSQL, slots, which, refused)
}

const (
	releaseSQL  = `delete from slot_claims where slot_id = any($1)`
	completeSQL = `update slot_claims set status = 'COMPLETED', due_at = null, warn_at = null where slot_id = any($1)`
)

func applyEnds(b *pgx.Batch, released, completed []uuid.UUID) {
	if len(released) > 0 {
		b.Queue(releaseSQL, pgbinary.Raw(released))
	}
	if len(completed) > 0 {
		b.Queue(completeSQL, pgbinary.Raw(completed))
	}
}

// withdrawalsSQL: the rebuild's id matters because a store that was restored assigns epochs
// again. A gate of the lost history may have granted a number that the gate which has the epoch
// now assigns later; that grant could never be claimed if the number were withdrawn.
const withdrawalsSQL = `
select i.n, coalesce(s.state, ''), coalesce(g.epoch, -2), coalesce(g.rebuilt_id = i.rebuild, true)
from unnest($1::uuid[], $2::bigint[], $3::uuid[]) with ordinality as i(product, number, rebuild, n)
left join lateral (select state from slot_numbers where product_id = i.product and number = i.number limit 1) s on true
left join lateral (select epoch, rebuilt_id from product_gates where product_id = i.product and not deleted limit 1) g on true`

func checkWithdrawals(b *pgx.Batch, items []any, which picked, refused []error) {
	if len(which) == 0 {
		return
	}
	var products []uuid.UUID
	var numbers []int64
	var rebuilds pgbinary.IDs
	for _, i := range which {
		w := items[i].(Withdraw)
		products, numbers = append(products, w.Product), append(numbers, w.Number)
		rebuilds = append(rebuilds, pgbinary.KnownID(w.Rebuild))
	}
	b.Queue(withdrawalsSQL, pgbinary.Raw(products), numbers, rebuilds).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var n int
			var state string
			var epoch int64
			var ours bool
			if err := rows.Scan(&n, &state, &epoch, &ours); err != nil {
				return err
			}
			i := which[n-1]
			switch {
			case state == "claimed":
				refused[i] = ErrClaimed
			case state == "withdrawn":
				refused[i] = ErrWithdrawn
			case epoch == missing:
				refused[i] = ErrGone
			case epoch != redis.EpochOf(numbers[n-1]) || !ours:
				refused[i] = ErrEpoch
			}
		}
		return rows.Err()
	})
}
