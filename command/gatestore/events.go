package gatestore

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/redis"
)

// positionSQL uses the primary key.
const positionSQL = `select id from events where position = $1`

// Events implements redis.Store. The position is checked after the events were read:
// if Postgres fails over in between, the events may be of the lost tail, which the
// next call detects, but never of another history than the position.
func (s *Store) Events(ctx context.Context, product uuid.UUID, after redis.LogPosition, limit int) ([]redis.GateEvent, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	recorded, err := s.reader.ReadPartition(ctx, product, after.Position, math.MaxInt64, limit)
	if err != nil {
		return nil, fmt.Errorf("read the events of product %s after %d: %w", product, after.Position, err)
	}
	if after.Event != uuid.Nil {
		var there uuid.UUID
		err := s.pool.QueryRow(ctx, positionSQL, after.Position).Scan(&there)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, fmt.Errorf("read the event at position %d: %w", after.Position, err)
		}
		if there != after.Event {
			return nil, fmt.Errorf("event %s at position %d: %w", after.Event, after.Position, redis.ErrTailLost)
		}
	}
	events := make([]redis.GateEvent, len(recorded))
	for i, r := range recorded {
		events[i].At = redis.LogPosition{Position: r.Position, Event: r.ID}
		switch r.Type {
		case domain.SlotAcquired{}.EventType(), domain.SlotExpired{}.EventType(),
			domain.SlotReturned{}.EventType(), domain.GrantWithdrawn{}.EventType(),
			domain.ProductStockIncreased{}.EventType(), domain.ProductStockDecreased{}.EventType():
			envelope, err := s.decode(r)
			if err != nil {
				return nil, fmt.Errorf("decode event %d: %w", r.Position, err)
			}
			events[i].Event = envelope.Event
		}
	}
	return events, nil
}
