package gatestore

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/pgbinary"
	"github.com/dopaminestore/dopamine/redis"
)

// idleLease is the age, by Postgres' clock, at which a lease is probably no longer renewed.
// It only saves waiting.
const idleLease = 10 * time.Second

// The counters that show that a lease or a rebuild continues are compared for equality
// only, so the times stored with them need no correct clock. The times are for versions
// that do not know the counters.
//
// For the gate a cancelled sale is one that ended before it could begin, so that it is
// over whatever else its product's row contains.
const rowColumns = `product_id, epoch, rebuilt, coalesce(rebuilt_id, '00000000-0000-0000-0000-000000000000'), deleted, units,
    case when cancelled then 'epoch'::timestamptz else sale_date end,
    case when cancelled then 'epoch'::timestamptz + interval '1 ms' else sale_end end,
    paused and not cancelled,
    cancelled or coalesce(sale_end <= clock_timestamp(), false),
    lease_epoch, coalesce(lease_stamp, ''), lease_view, concat(lease_beat, ' ', leased_at),
    coalesce(leased_at < clock_timestamp() - $2::interval, true),
    coalesce(rebuild_owner, '00000000-0000-0000-0000-000000000000'), concat(rebuild_beat, ' ', raised_at)`

func scanRow(row pgx.Row) (product uuid.UUID, r redis.GateRow, err error) {
	err = row.Scan(&product, &r.Epoch, &r.Rebuilt, &r.RebuiltID, &r.Deleted, &r.Units, &r.SaleDate, &r.SaleEnd, &r.Paused, &r.Ended,
		&r.Lease.Epoch, &r.Lease.Instance, &r.Lease.View, &r.Lease.Beat, &r.Lease.Idle, &r.Rebuild.Owner, &r.Rebuild.Beat)
	return product, r, err
}

// Row reads one product's row; redis.ErrUnknownProduct if there is none.
func (s *Store) Row(ctx context.Context, product uuid.UUID) (redis.GateRow, error) {
	rows, err := s.Rows(ctx, []uuid.UUID{product})
	if err != nil {
		return redis.GateRow{}, err
	}
	if rows[0] == nil {
		return redis.GateRow{}, redis.ErrUnknownProduct
	}
	return *rows[0], nil
}

// Rows implements redis.Store.
func (s *Store) Rows(ctx context.Context, products []uuid.UUID) ([]*redis.GateRow, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	// The alternative, a join with unnest, lets Postgres choose to read the whole table.
	rows, err := s.leases.Query(ctx, `select `+rowColumns+` from product_gates where product_id = any($1::uuid[])`,
		pgbinary.Raw(products), idleLease)
	if err != nil {
		return nil, fmt.Errorf("read the rows of %d products: %w", len(products), err)
	}
	defer rows.Close()
	found := make(map[uuid.UUID]*redis.GateRow, len(products))
	for rows.Next() {
		product, row, err := scanRow(rows)
		if err != nil {
			return nil, fmt.Errorf("read the rows of %d products: %w", len(products), err)
		}
		found[product] = &row
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the rows of %d products: %w", len(products), err)
	}
	ordered := make([]*redis.GateRow, len(products))
	for i, product := range products {
		ordered[i] = found[product]
	}
	return ordered, nil
}

// leasesSQL grants leases to all gates of a node at once. Rows to renew are locked first,
// so that the check of the epoch and the update are one step: after a
// raise no lease of an older epoch follows. A locked row is skipped, never waited
// for: it is being raised, or renewed by another node, and waiting for several rows
// in turn could deadlock with the holder of the append lock.
//
// It uses clock_timestamp(), since now() is the transaction's beginning and may lie before
// a wait. Rows that are not renewed are only read, in the statement's snapshot: a raise that
// is not in it was answered after the statement was sent.
const leasesSQL = `
with asked as (
    select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::boolean[], $6::bigint[], $7::uuid[], $8::uuid[])
        with ordinality as a(product_id, epoch, instance, view, renew, position, event, rebuild, n)
), due as (
    select g.product_id, a.instance, a.view
    from asked a join product_gates g on g.product_id = a.product_id
    where a.renew and g.epoch = a.epoch and not g.deleted
      and coalesce(g.rebuilt_id = a.rebuild, true)
      and (a.event is null or (select e.id from events e where e.position = a.position) = a.event)
    for update of g skip locked
), renewed as (
    update product_gates g
    set leased_at = greatest(leased_at, clock_timestamp()), lease_stamp = due.instance, lease_epoch = g.epoch,
        lease_view = due.view, lease_beat = lease_beat + 1
    from due where g.product_id = due.product_id
    returning g.product_id
)
select a.n, g.product_id is not null,
       case when a.renew then r.product_id is not null else coalesce(g.lease_epoch = a.epoch and g.lease_stamp = a.instance, false) end,
       a.event is null or not a.renew or coalesce((select e.id from events e where e.position = a.position) = a.event, false)
from asked a
left join product_gates g on g.product_id = a.product_id and g.epoch = a.epoch and not g.deleted
    and coalesce(g.rebuilt_id = a.rebuild, true)
left join renewed r on r.product_id = a.product_id`

// Leases implements redis.Store.
func (s *Store) Leases(ctx context.Context, requests []redis.LeaseRequest) ([]redis.LeaseResult, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	n := len(requests)
	products, epochs, instances, views := make([]uuid.UUID, n), make([]int64, n), make([]string, n), make([]int64, n)
	renew, positions, events, rebuilds := make([]bool, n), make([]int64, n), make([]*[16]byte, n), make([]*[16]byte, n)
	for i, r := range requests {
		products[i], epochs[i], instances[i], views[i] = r.Product, r.Epoch, r.Instance, r.View
		renew[i], positions[i] = r.Renew, r.At.Position
		if r.At.Event != uuid.Nil {
			events[i] = (*[16]byte)(&requests[i].At.Event)
		}
		if r.Rebuild != uuid.Nil {
			rebuilds[i] = (*[16]byte)(&requests[i].Rebuild)
		}
	}
	failpoint.Hit(failpoint.LeaseBefore)
	rows, err := s.leases.Query(ctx, leasesSQL, pgbinary.Raw(products), epochs, instances, views, renew, positions, events, rebuilds)
	if err != nil {
		return nil, fmt.Errorf("lease %d gates: %w", n, err)
	}
	defer rows.Close()
	results := make([]redis.LeaseResult, n)
	for rows.Next() {
		var at int
		var ours, held, whole bool
		if err := rows.Scan(&at, &ours, &held, &whole); err != nil {
			return nil, fmt.Errorf("lease %d gates: %w", n, err)
		}
		switch {
		case !ours:
			results[at-1] = redis.LeaseRefused
		case !whole:
			results[at-1] = redis.LeaseTailLost
		case held:
			results[at-1] = redis.LeaseGranted
		case requests[at-1].Renew:
			results[at-1] = redis.LeaseBusy
		default:
			results[at-1] = redis.LeaseNotHeld
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("lease %d gates: %w", n, err)
	}
	failpoint.Hit(failpoint.LeaseAfter)
	return results, nil
}

// aliveSQL skips locked rows, since waiting for several of them in turn could deadlock,
// as in leasesSQL. A locked row is being raised or leased: one missed heartbeat
// does no harm.
const aliveSQL = `
with asked as (
    select * from unnest($1::uuid[], $2::bigint[]) with ordinality as a(product_id, epoch, n)
), due as (
    select g.product_id from asked a join product_gates g on g.product_id = a.product_id
    where g.rebuilt = a.epoch and not g.deleted
    for update of g skip locked
), signed as (
    update product_gates g set raised_at = clock_timestamp(), rebuild_beat = rebuild_beat + 1
    from due where g.product_id = due.product_id
    returning g.product_id
)
select a.n from asked a join product_gates g on g.product_id = a.product_id
where g.rebuilt = a.epoch and not g.deleted`

// Alive implements redis.Store.
func (s *Store) Alive(ctx context.Context, requests []redis.AliveRequest) ([]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	n := len(requests)
	products, epochs := make([]uuid.UUID, n), make([]int64, n)
	for i, r := range requests {
		products[i], epochs[i] = r.Product, r.Epoch
	}
	rows, err := s.leases.Query(ctx, aliveSQL, pgbinary.Raw(products), epochs)
	if err != nil {
		return nil, fmt.Errorf("record heartbeats of %d rebuilds: %w", n, err)
	}
	ours, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return nil, fmt.Errorf("record heartbeats of %d rebuilds: %w", n, err)
	}
	results := make([]bool, n)
	for _, at := range ours {
		results[at-1] = true
	}
	return results, nil
}

// unloadedSQL compares the lease with what rowColumns reads: one that was renewed since may be
// in use.
const unloadedSQL = `
update product_gates set lease_stamp = null
where product_id = $1 and epoch = $2 and lease_stamp = $3 and concat(lease_beat, ' ', leased_at) = $4`

// RecordUnload implements redis.Store.
func (s *Store) RecordUnload(ctx context.Context, product uuid.UUID, epoch int64, lease redis.LeaseRecord) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	_, err := s.leases.Exec(ctx, unloadedSQL, product, epoch, lease.Instance, lease.Beat)
	return err
}
