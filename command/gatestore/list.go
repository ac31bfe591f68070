package gatestore

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/redis"
)

// Lease is the last lease of a product's gate.
type Lease struct {
	Product  uuid.UUID
	Deleted  bool
	Epoch    int64  // of the lease
	Instance string // the Redis instance for which it was taken
	ID       redis.LeaseID
	Now      time.Time // UTC; Postgres' clock at the read
}

const leaseColumns = `g.product_id, g.deleted, g.lease_epoch, coalesce(g.lease_stamp, ''), g.lease_beat, g.leased_at, clock_timestamp()`

// RecentLeases lists the gates, including those of deleted products, that took a lease
// in the last period within. A gate that took none for longer than redis.LeaseTime
// has decided nothing since.
func (s *Store) RecentLeases(ctx context.Context, within time.Duration) ([]Lease, error) {
	// No index: it would cost each lease more than a scan of the small table
	// costs once a second.
	return s.listLeases(ctx, `select `+leaseColumns+` from product_gates g where g.leased_at > clock_timestamp() - $1::interval`, within)
}

// notStoredSQL selects whether the decision log of the epoch that was last leased may
// contain decisions that are not stored; see gate_epochs_complete.
const notStoredSQL = `
       not coalesce(s.whole or e.whole or s.covered >= g.leased_at and s.covered_beat >= g.lease_beat or e.carried_at >= g.leased_at + interval '3 s', false)`

const storedSQL = `
left join gate_shipments s on s.product_id = g.product_id and s.epoch = g.lease_epoch
left join gate_epochs e on e.product_id = g.product_id and e.epoch = g.lease_epoch`

// UnshippedGates lists the gates whose decision log may contain decisions that are not
// stored, or that had pending grants, however long ago they decided.
func (s *Store) UnshippedGates(ctx context.Context) ([]Lease, error) {
	return s.listLeases(ctx, `
select `+leaseColumns+`
from product_gates g`+storedSQL+`
where g.leased_at is not null and (s.unsettled or`+notStoredSQL+`)`)
}

func (s *Store) listLeases(ctx context.Context, sql string, args ...any) ([]Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*statementTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("list leased gates: %w", err)
	}
	leases, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l Lease, err error) {
		err = row.Scan(&l.Product, &l.Deleted, &l.Epoch, &l.Instance, &l.ID.Beat, &l.ID.At, &l.Now)
		l.ID.At, l.Now = l.ID.At.UTC(), l.Now.UTC()
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("list leased gates: %w", err)
	}
	return leases, nil
}

// History is a product whose gate has decided at some time.
type History struct {
	Product uuid.UUID
	Deleted bool
	// Position is that of the product's last event: its gate should
	// have been synced up to there.
	Position int64
}

const everLedSQL = `
select g.product_id, g.deleted,` + lastSQL + `
from product_gates g
where g.leased_at is not null`

// Histories lists every product whose gate ever decided. A worker reads it when it
// starts, because it does not know what happened before.
func (s *Store) Histories(ctx context.Context) ([]History, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	rows, err := s.pool.Query(ctx, everLedSQL)
	if err != nil {
		return nil, fmt.Errorf("list products that had a gate: %w", err)
	}
	led, err := pgx.CollectRows(rows, pgx.RowToStructByPos[History])
	if err != nil {
		return nil, fmt.Errorf("list products that had a gate: %w", err)
	}
	return led, nil
}

// endedSQL scans the small table, like RecentLeases. An unloaded gate is not
// listed again until it takes another lease. A cancelled sale keeps its sale_end, which may
// be null.
const endedSQL = `
select product_id from product_gates
where (cancelled or sale_end < clock_timestamp() - $1::interval) and leased_at < clock_timestamp() - $1::interval
  and lease_stamp is not null and not deleted
order by leased_at limit $2`

// GatesOfEndedSales lists products whose sale was cancelled, or ended at least idle ago, by
// Postgres' clock, and whose gate took its last lease as long ago and may still exist, at most
// limit of them.
func (s *Store) GatesOfEndedSales(ctx context.Context, idle time.Duration, limit int) ([]uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, endedSQL, idle, limit)
	if err != nil {
		return nil, fmt.Errorf("list gates of ended sales: %w", err)
	}
	products, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("list gates of ended sales: %w", err)
	}
	return products, nil
}
