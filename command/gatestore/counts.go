package gatestore

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
