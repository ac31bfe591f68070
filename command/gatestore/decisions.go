package gatestore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/pgbinary"
	"github.com/dopaminestore/dopamine/redis"
)

// shipSQL stores lines under their numbers, and how far the epochs are stored. A
// line that exists already is a run that has grown, or the same line again: it never
// shrinks.
//
// A line that was trimmed off the gate's log was stored before. If it is not there now,
// the store was restored to a moment before that, and the log is broken for good.
//
// wrong are the epochs that the gate had in a history that the store lost: they are above the
// product's epoch, or were another rebuild's, or no gate's. They get no lines, and are broken,
// too. It is the only part whose rows have neither covered_beat nor whole.
//
// It is one statement without a transaction around it: a process that dies leaves
// no lock behind. It touches no table that is written under the append lock, so the
// holder of that lock never waits for it. Rows are written in the order of their keys,
// so that two processes that ship the same products do not deadlock.
const shipSQL = `
with wrong as (
    select a.product, a.epoch
    from unnest($32::uuid[], $33::bigint[], $34::uuid[]) as a(product, epoch, rebuild)
    join lateral (select epoch, rebuilt_id from product_gates where product_id = a.product limit 1) g on true
    left join lateral (select epoch, rebuilt_id from gate_epochs where product_id = a.product and epoch = a.epoch limit 1) e on true
    where case when a.epoch < g.epoch then e.epoch is null or e.rebuilt_id <> a.rebuild
          else a.epoch > g.epoch or g.rebuilt_id <> a.rebuild end
), lines as (
    insert into gate_decisions as d (product_id, epoch, line, type, units, sequence, unit, reason,
                                     from_number, to_number, sold_out, duplicate, not_started, closed)
    select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::int[], $8::text[],
                         $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[]) as l(product, epoch)
    where not exists (select from wrong w where w.product = l.product and w.epoch = l.epoch)
    on conflict (product_id, epoch, line) do update
    set to_number = excluded.to_number, sold_out = excluded.sold_out, duplicate = excluded.duplicate,
        not_started = excluded.not_started, closed = excluded.closed
    where d.type = 'refused' and excluded.type = 'refused' and excluded.to_number > d.to_number
), broken as (
    select product from unnest($25::uuid[], $26::bigint[], $27::bigint[], $28::text[], $29::bigint[], $30::int[], $31::bigint[])
        as b(product, epoch, line, type, sequence, unit, to_number)
    where not exists (select from gate_decisions d
        where d.product_id = b.product and d.epoch = b.epoch and d.line = b.line and d.type = b.type
          and d.sequence is not distinct from b.sequence and d.unit is not distinct from b.unit and d.to_number is not distinct from b.to_number)
)
insert into gate_shipments as s (product_id, epoch, shipped_at, covered, covered_beat, whole, unsettled, broken)
select product, epoch, at, covered, covered_beat, closed, unsettled, exists (select from broken b where b.product = i.product)
from unnest($15::uuid[], $16::bigint[], $17::timestamptz[], $18::timestamptz[], $19::bigint[], $20::bool[], $21::bool[])
     as i(product, epoch, at, covered, covered_beat, closed, unsettled)
where not exists (select from wrong w where w.product = i.product and w.epoch = i.epoch)
union all
select i.product, e.epoch, null, null, null, true, false, false
from unnest($22::uuid[], $23::bigint[], $24::bigint[], $35::uuid[]) as i(product, born, epoch, rebuild)
join gate_epochs e on e.product_id = i.product and e.epoch >= i.born and e.epoch < i.epoch and coalesce(e.rebuilt_id = i.rebuild, true)
where not exists (select from gate_shipments s where s.product_id = i.product and s.epoch = e.epoch and s.whole)
  and not exists (select from broken b where b.product = i.product)
union all
select product, epoch, null, null, null, false, false, true from wrong
order by 1, 2
on conflict (product_id, epoch) do update
set shipped_at = greatest(s.shipped_at, excluded.shipped_at), covered = greatest(s.covered, excluded.covered),
    covered_beat = greatest(s.covered_beat, excluded.covered_beat),
    whole = s.whole or excluded.whole, broken = s.broken or excluded.broken,
    unsettled = case when excluded.covered_beat is null and not excluded.whole then s.unsettled else excluded.unsettled end`

// Ship implements redis.Store.
func (s *Store) Ship(ctx context.Context, shipments []redis.Shipment) error {
	ctx, cancel := context.WithTimeout(ctx, 2*statementTimeout)
	defer cancel()
	args, lines := shipArgs(shipments)
	if args == nil {
		return nil
	}
	failpoint.Hit(failpoint.ShipBefore)
	if _, err := s.pool.Exec(ctx, shipSQL, args...); err != nil {
		return fmt.Errorf("store %d lines of the decision logs of %d products: %w", lines, len(shipments), err)
	}
	failpoint.Hit(failpoint.ShipAfter)
	return nil
}

// shipArgs returns the statement's arguments, nil if there is nothing to store.
func shipArgs(shipments []redis.Shipment) (args []any, lines int) {
	shipments = slices.Clone(shipments)
	var gates gateEpochs
	var rebuilds pgbinary.IDs
	slices.SortFunc(shipments, func(a, b redis.Shipment) int { return bytes.Compare(a.Product[:], b.Product[:]) })
	var c, trimmed decisionColumns
	var products, earlier []uuid.UUID
	var epochs, born, before []int64
	var at, covered []*time.Time
	var coveredBeat []int64
	var closed, unsettled []bool
	for _, s := range shipments {
		gates.add(&s)
		for i := range s.Lines {
			c.add(s.Product, &s.Lines[i])
		}
		if s.Before != nil {
			trimmed.add(s.Product, s.Before)
		}
		if !s.Live && !s.Closed && s.Before == nil {
			continue
		}
		products, epochs, closed = append(products, s.Product), append(epochs, s.Epoch), append(closed, s.Closed)
		unsettled = append(unsettled, s.Unsettled)
		if !s.Live && !s.Closed {
			s.At, s.Covered = time.Time{}, redis.LeaseID{}
		}
		at, covered = append(at, timeOrNull(s.At)), append(covered, timeOrNull(s.Covered.At))
		coveredBeat = append(coveredBeat, s.Covered.Beat)
		if (s.Live || s.Closed) && s.FirstEpoch < s.Epoch {
			earlier, born, before = append(earlier, s.Product), append(born, s.FirstEpoch), append(before, s.Epoch)
			rebuilds = append(rebuilds, pgbinary.KnownID(s.Rebuild))
		}
	}
	if len(c.products) == 0 && len(products) == 0 {
		return nil, 0
	}
	return append(c.args(), pgbinary.Raw(products), epochs, at, covered, coveredBeat, closed, unsettled, pgbinary.Raw(earlier), born, before,
		pgbinary.Raw(trimmed.products), trimmed.epochs, trimmed.numbers, trimmed.types, trimmed.sequences, trimmed.unit, trimmed.to,
		pgbinary.Raw(gates.products), gates.epochs, pgbinary.Raw(gates.rebuilds), rebuilds), len(c.products)
}

// gateEpochs are the epochs of which gates ship something, for gates that know their rebuild.
type gateEpochs struct {
	products []uuid.UUID
	epochs   []int64
	rebuilds []uuid.UUID
}

func (g *gateEpochs) add(s *redis.Shipment) {
	if s.Rebuild == uuid.Nil {
		return
	}
	from := len(g.epochs)
	epoch := func(e int64) {
		if !slices.Contains(g.epochs[from:], e) {
			g.products, g.epochs, g.rebuilds = append(g.products, s.Product), append(g.epochs, e), append(g.rebuilds, s.Rebuild)
		}
	}
	epoch(s.Epoch)
	for i := range s.Lines {
		epoch(s.Lines[i].Epoch)
	}
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// decisionColumns are lines as one slice per column.
type decisionColumns struct {
	products                               []uuid.UUID
	epochs, numbers                        []int64
	types                                  []string
	units, sequences                       []*int64
	unit                                   []*int32
	reasons                                []*string
	from, to                               []*int64
	soldOut, duplicate, notStarted, closed []*int64
}

func (c *decisionColumns) add(product uuid.UUID, l *redis.NumberedLine) {
	var (
		units, sequence, from, to              *int64
		soldOut, duplicate, notStarted, closed *int64
		unit                                   *int32
		reason                                 *string
	)
	switch l.Type {
	case fairness.Opened:
		units = &l.Units
	case fairness.Granted:
		sequence, unit = &l.Sequence, number32(l.Unit)
	case fairness.Returned:
		text := string(l.Reason)
		unit, reason = number32(l.Unit), &text
	case fairness.Refused:
		from, to = &l.From, &l.To
		soldOut, duplicate, notStarted, closed = &l.Refused.SoldOut, &l.Refused.Duplicate, &l.Refused.NotStarted, &l.Refused.Closed
	}
	c.products, c.epochs, c.numbers = append(c.products, product), append(c.epochs, l.Epoch), append(c.numbers, l.Number)
	c.types, c.units, c.sequences = append(c.types, string(l.Type)), append(c.units, units), append(c.sequences, sequence)
	c.unit, c.reasons, c.from, c.to = append(c.unit, unit), append(c.reasons, reason), append(c.from, from), append(c.to, to)
	c.soldOut, c.duplicate = append(c.soldOut, soldOut), append(c.duplicate, duplicate)
	c.notStarted, c.closed = append(c.notStarted, notStarted), append(c.closed, closed)
}

func number32(n int) *int32 {
	m := int32(n)
	return &m
}

func (c *decisionColumns) args() []any {
	return []any{pgbinary.Raw(c.products), c.epochs, c.numbers, c.types, c.units, c.sequences, c.unit, c.reasons,
		c.from, c.to, c.soldOut, c.duplicate, c.notStarted, c.closed}
}
