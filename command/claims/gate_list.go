package claims

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Leased lists the products, deleted ones included, whose gate took a lease
// within the last so long. A gate that took none for longer than a lease has
// decided nothing since.
func (s *Store) Leased(ctx context.Context, within time.Duration) ([]uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	// No index: it would cost each lease more than the look through the small
	// table costs once a second.
	rows, err := s.pool.Query(ctx, `select product_id from product_gates where leased_at > clock_timestamp() - $1::interval`, within)
	if err != nil {
		return nil, fmt.Errorf("list the products that were leased lately: %w", err)
	}
	products, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("list the products that were leased lately: %w", err)
	}
	return products, nil
}

// Led is a product whose gate has decided at some time.
type Led struct {
	Product uuid.UUID
	Deleted bool
	// Position is that of the product's last event: up to there its gate should
	// have been told.
	Position int64
	// Carried says that what the gate has decided up to its last lease is in
	// gate_decisions.
	Carried bool
}

const everLedSQL = `
select g.product_id, g.deleted,` + lastSQL + `,
       coalesce(e.whole or e.carried_at >= g.leased_at, false)
from product_gates g
left join gate_epochs e on e.product_id = g.product_id and e.epoch = g.lease_epoch
where g.leased_at is not null`

// EverLed lists every product that ever had a gate that decided. It is for the
// start of a worker, who cannot know what happened before it.
func (s *Store) EverLed(ctx context.Context) ([]Led, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	rows, err := s.pool.Query(ctx, everLedSQL)
	if err != nil {
		return nil, fmt.Errorf("list the products that ever had a gate: %w", err)
	}
	led, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Led])
	if err != nil {
		return nil, fmt.Errorf("list the products that ever had a gate: %w", err)
	}
	return led, nil
}
