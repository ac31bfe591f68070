package claims

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
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

// Counts are a product's units in Postgres at one moment.
type Counts struct {
	Epoch    int64
	Units    int
	Held     int       // by slots that are ACTIVE or COMPLETED
	LeasedAt time.Time // zero: never
	Position int64     // of the product's last event
}

// Free returns how many units no slot holds.
func (c Counts) Free() int { return c.Units - c.Held }

const countsSQL = `
select epoch, units, coalesce(leased_at, 'epoch'),
       (select count(*) from slot_claims c where c.product_id = g.product_id),
       ` + lastSQL + `
from product_gates g where product_id = $1 and not deleted`

// lastSQL selects the position of the last event of product g, with the partition's
// index and no other (see eventstore's reader).
const lastSQL = `
       coalesce((select position from events
                 where (key, position) between (g.product_id, 0) and (g.product_id, 9223372036854775807)
                 order by key desc, position desc limit 1), 0)`

// countTimeout bounds counting a product's claims, of which there may be ten million.
const countTimeout = 30 * time.Second

// Counts reads a product's counts; false if it does not exist. It counts every claim: a
// tenth of a second and more per million.
func (s *Store) Counts(ctx context.Context, product uuid.UUID) (Counts, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	var c Counts
	err := s.pool.QueryRow(ctx, countsSQL, product).Scan(&c.Epoch, &c.Units, &c.LeasedAt, &c.Held, &c.Position)
	if errors.Is(err, pgx.ErrNoRows) {
		return Counts{}, false, nil
	}
	if err != nil {
		return Counts{}, false, fmt.Errorf("count the claims of product %s: %w", product, err)
	}
	if c.LeasedAt.Unix() == 0 {
		c.LeasedAt = time.Time{}
	}
	return c, true, nil
}

const (
	// maxHeldSince is how many events HeldSince reads at most; with more of them,
	// Postgres might prefer to read the whole log.
	maxHeldSince = 1000

	heldSinceSQL = `
select count(*) filter (where type = $3) - count(*) filter (where type in ($4, $6)), count(*)
from (select type from events
      where (key, position) > ($1, $2) and (key, position) <= ($1, 9223372036854775807)
      order by key, position limit $5) as since`
)

// HeldSince returns the change in held units of the product since a position of the log;
// false if there were too many events since to count them quickly.
func (s *Store) HeldSince(ctx context.Context, product uuid.UUID, position int64) (more int, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var events int
	err = s.pool.QueryRow(ctx, heldSinceSQL, product, position,
		domain.SlotAcquired{}.EventType(), domain.SlotExpired{}.EventType(), maxHeldSince,
		domain.SlotReturned{}.EventType()).Scan(&more, &events)
	if err != nil {
		return 0, false, fmt.Errorf("count what became of product %s since position %d: %w", product, position, err)
	}
	return more, events < maxHeldSince, nil
}

// Compare describes how the product's gate differs from the claims. It returns "" if they
// agree, or if they cannot be compared now because the gate changed meanwhile or has not
// applied all events. A difference raises an alarm and is never repaired automatically.
func (s *Store) Compare(ctx context.Context, gate *redis.Gate, product uuid.UUID) (string, error) {
	if err := gate.Sync(ctx, product); err != nil {
		return "", err
	}
	before, err := gate.State(ctx, product)
	if err != nil {
		return "", err
	}
	counts, found, err := s.Counts(ctx, product)
	if err != nil || !found {
		return "", err
	}
	after, err := gate.State(ctx, product)
	if err != nil {
		return "", err
	}
	return Difference(before, counts, after), nil
}

// Difference describes how a gate differs from the claims that were read between two
// reads of its state. It returns "" if they agree or cannot be compared.
func Difference(before redis.State, counts Counts, after redis.State) string {
	settled := before.Alive && after.Alive && before.Position == after.Position && before.Epoch == after.Epoch &&
		before.Epoch == counts.Epoch && counts.Position <= before.Position
	if !settled || (after.Held == counts.Held && after.Units == counts.Units && after.Free+after.Pending == counts.Free()) {
		return ""
	}
	return fmt.Sprintf("gate: %d units, %d held, %d pending, %d free; claims: %d units, %d held",
		after.Units, after.Held, after.Pending, after.Free, counts.Units, counts.Held)
}
