package gatestore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/redis"
)

const (
	// snapshotPiece is how many holders are passed on at a time.
	snapshotPiece = 1000
	// snapshotPage is how many one statement reads. While some are passed on,
	// Postgres sends more.
	snapshotPage = 20 * snapshotPiece
	// pageTimeout bounds reading a page and passing it on.
	pageTimeout = 30 * time.Second
)

// Snapshot implements redis.Store: row, head and claims as of one moment.
func (s *Store) Snapshot(ctx context.Context, product uuid.UUID, holders func([]redis.Holder) error) (redis.Snapshot, error) {
	select {
	case s.snapshots <- struct{}{}:
	case <-ctx.Done():
		return redis.Snapshot{}, fmt.Errorf("wait for other snapshots: %w", ctx.Err())
	}
	defer func() { <-s.snapshots }()
	snap, err := s.snapshot(ctx, product, holders)
	if err != nil {
		return redis.Snapshot{}, fmt.Errorf("read the claims of product %s: %w", product, err)
	}
	return snap, nil
}

func (s *Store) snapshot(ctx context.Context, product uuid.UUID, holders func([]redis.Holder) error) (snap redis.Snapshot, err error) {
	asking, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	tx, err := s.pool.BeginTx(asking, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return snap, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTimeout)
		defer cancel()
		_ = tx.Rollback(ctx) // read-only
	}()
	b := &pgx.Batch{}
	b.Queue(snapshotSettingsSQL)
	b.Queue(`select `+rowColumns+` from product_gates where product_id = $1`, product, idleLease).QueryRow(func(row pgx.Row) (err error) {
		_, snap.Row, err = scanRow(row)
		if errors.Is(err, pgx.ErrNoRows) {
			return redis.ErrUnknownProduct
		}
		return err
	})
	b.Queue(`select position, id from events order by position desc limit 1`).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&snap.At.Position, &snap.At.Event)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // no event was ever appended
		}
		return err
	})
	if err := tx.SendBatch(asking, b).Close(); err != nil {
		return snap, err
	}
	return snap, eachHolder(ctx, tx, product, holders)
}

// snapshotSettingsSQL makes Postgres read the pages below by the primary key, in its order.
// Without statistics, as for a table that has just been filled, it would sort all
// claims of the product for each page.
const snapshotSettingsSQL = `
select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_sort', 'off', true), set_config('enable_incremental_sort', 'off', true)`

// holdersSQL reads a page.
const holdersSQL = `
select buyer, number, unit, key_hash from slot_claims
where (product_id, unit) > ($1, $2) and (product_id, unit) <= ($1, 2147483647)
order by product_id, unit limit $3`

func eachHolder(ctx context.Context, tx pgx.Tx, product uuid.UUID, do func([]redis.Holder) error) error {
	for unit, n := 0, snapshotPage; n == snapshotPage; {
		var err error
		if unit, n, err = eachHolderAfter(ctx, tx, product, unit, do); err != nil {
			return err
		}
	}
	return nil
}

// eachHolderAfter passes on a page, and returns the unit with which it ends and its
// length.
func eachHolderAfter(ctx context.Context, tx pgx.Tx, product uuid.UUID, unit int, do func([]redis.Holder) error) (last, n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	rows, err := tx.Query(ctx, holdersSQL, product, unit, snapshotPage)
	if err != nil {
		return unit, 0, err
	}
	defer rows.Close()
	piece := make([]redis.Holder, 0, snapshotPiece)
	for rows.Next() {
		var h redis.Holder
		if err := rows.Scan(&h.Buyer, &h.Number, &h.Unit, &h.KeyHash); err != nil {
			return unit, n, err
		}
		unit, n = h.Unit, n+1
		if piece = append(piece, h); len(piece) == cap(piece) {
			if err := do(piece); err != nil {
				return unit, n, err
			}
			piece = piece[:0]
		}
	}
	if err := rows.Err(); err != nil || len(piece) == 0 {
		return unit, n, err
	}
	return unit, n, do(piece)
}
