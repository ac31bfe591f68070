package gatestore

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/pgbinary"
	"github.com/dopaminestore/dopamine/redis"
)

// raiseSettingsSQL bounds a raise: a session that stops inside it would block every append.
// Once it has the append lock it waits for no row: it skips locked rows of products, and
// gives up on locked rows of epochs.
const raiseSettingsSQL = `
select set_config('lock_timeout', '2500', true), set_config('idle_in_transaction_session_timeout', '1500', true)`

// rebuildSQL raises epochs for rebuilds, each if it is still the one found, and
// records when the epoch before was last leased, which rebuild's gate had it, and whether gates
// of a lost history decided in it. An epoch above the row's belongs to such a history, and to
// no gate of the present one. It sees a lease that is being renewed, or skips its row; no
// lease of the old epoch can follow.
const rebuildSQL = `
with asked as (
    select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::uuid[], $5::bool[]) as a(product_id, found, above, owner, foreign_gate)
), old as (
    select g.product_id, g.epoch, g.rebuilt_id, g.leased_at, g.lease_epoch, g.lease_stamp, g.lease_beat, a.above, a.owner, a.foreign_gate
    from asked a join product_gates g on g.product_id = a.product_id
    where not g.deleted and g.epoch = a.found
    order by g.product_id
    for update of g skip locked
), ended as (
    insert into gate_epochs as e (product_id, epoch, ended_at, leased_at, lease_beat, lossy, rebuilt_id)
    select product_id, epoch, clock_timestamp(), case when lease_epoch = epoch then leased_at end, lease_beat, foreign_gate, rebuilt_id
    from old where epoch >= 0
    union all
    select product_id, above, clock_timestamp(), null, null, true, '00000000-0000-0000-0000-000000000000' from old where above > epoch
    order by 1, 2
    on conflict (product_id, epoch) do update set ended_at = excluded.ended_at, leased_at = excluded.leased_at, lease_beat = excluded.lease_beat,
        lossy = e.lossy or excluded.lossy, rebuilt_id = excluded.rebuilt_id
)
update product_gates g
set epoch = greatest(old.epoch, old.above) + 1, rebuilt = greatest(old.epoch, old.above) + 1,
    raised_at = clock_timestamp(), rebuild_beat = rebuild_beat + 1, rebuild_owner = old.owner
from old where g.product_id = old.product_id
returning g.product_id, g.epoch, g.rebuilt_id, coalesce(old.lease_stamp, '')`

// Raise implements redis.Store. A separate statement takes the lock, in
// READ COMMITTED: the next statement then sees the appends before it.
func (s *Store) Raise(ctx context.Context, requests []redis.RaiseRequest) ([]redis.RaiseResult, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*statementTimeout)
	defer cancel()
	n := len(requests)
	products, found, above, owners, foreign := make([]uuid.UUID, 0, n), make([]int64, 0, n), make([]int64, 0, n), make([]uuid.UUID, 0, n), make([]bool, 0, n)
	first := make(map[uuid.UUID]int, n) // the statement returns one row for each product: only one request of it has the epoch
	for i, r := range requests {
		if _, again := first[r.Product]; again {
			continue
		}
		first[r.Product] = i
		products, found, above = append(products, r.Product), append(found, r.Found), append(above, r.Above)
		owners, foreign = append(owners, r.Owner), append(foreign, r.Foreign)
	}
	results := make([]redis.RaiseResult, n)
	failpoint.Hit(failpoint.RaiseBefore)
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		b := &pgx.Batch{}
		b.Queue(raiseSettingsSQL)
		b.Queue(`select pg_advisory_xact_lock($1)`, eventstore.AppendLock)
		b.Queue(eventstore.RowLockTimeoutSQL)
		b.Queue(rebuildSQL, pgbinary.Raw(products), found, above, pgbinary.Raw(owners), foreign).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var product uuid.UUID
				r := redis.RaiseResult{Raised: true}
				if err := rows.Scan(&product, &r.Epoch, &r.ID, &r.Instance); err != nil {
					return err
				}
				results[first[product]] = r
			}
			return rows.Err()
		})
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		failpoint.Hit(failpoint.RaiseInside)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("raise the epochs of %d products: %w", n, err)
	}
	failpoint.Hit(failpoint.RaiseAfter)
	return results, nil
}
