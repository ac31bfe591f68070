package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Place is how far the relay has got: everything at or below Position is in
// the topic.
type Place struct {
	ClusterID string
	TopicID   string
	Position  int64
	EventID   uuid.UUID // of the event at Position
	Last      []int64   // the last position of each partition
	SavedAt   time.Time
}

// RowQuerier is a pgx connection, pool or transaction.
type RowQuerier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ReadPlace reads the saved place from the write side; pgx.ErrNoRows where
// nothing was ever published.
func ReadPlace(ctx context.Context, q RowQuerier) (Place, error) {
	var p Place
	var id *uuid.UUID
	err := q.QueryRow(ctx, "SELECT cluster_id, topic_id, position, event_id, last, saved_at FROM relay_place").
		Scan(&p.ClusterID, &p.TopicID, &p.Position, &id, &p.Last, &p.SavedAt)
	if err != nil {
		return Place{}, fmt.Errorf("read the relay's place: %w", err)
	}
	if id != nil {
		p.EventID = *id
	}
	return p, nil
}

// save writes the place over the connection that holds the lock: where that
// works, this relay still leads.
func (p Place) save(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	_, err := conn.Exec(ctx, `
		INSERT INTO relay_place (cluster_id, topic_id, position, event_id, last)
		VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (one) DO UPDATE SET
			cluster_id = EXCLUDED.cluster_id, topic_id = EXCLUDED.topic_id, position = EXCLUDED.position,
			event_id = EXCLUDED.event_id, last = EXCLUDED.last, saved_at = EXCLUDED.saved_at`,
		p.ClusterID, p.TopicID, p.Position, p.EventID, p.Last)
	if err != nil {
		return fmt.Errorf("save the relay's place: %w", err)
	}
	return nil
}
