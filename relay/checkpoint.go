package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Checkpoint is how far the relay has published: everything at or below Position
// is in the topic.
type Checkpoint struct {
	ClusterID   string
	TopicID     string
	Incarnation int64
	Position    int64
	EventID     uuid.UUID // of the event at Position
	Last        []int64   // the last position of each partition
	SavedAt     time.Time
}

// RowQuerier is a pgx connection, pool or transaction.
type RowQuerier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ReadCheckpoint reads the saved checkpoint from the write side. The error is
// pgx.ErrNoRows if nothing was ever published. It is bounded, for callers whose context is not.
func ReadCheckpoint(ctx context.Context, q RowQuerier) (Checkpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var c Checkpoint
	var id *uuid.UUID
	err := q.QueryRow(ctx, "SELECT cluster_id, topic_id, incarnation, position, event_id, last, saved_at FROM relay_place").
		Scan(&c.ClusterID, &c.TopicID, &c.Incarnation, &c.Position, &id, &c.Last, &c.SavedAt)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read the relay's checkpoint: %w", err)
	}
	if id != nil {
		c.EventID = *id
	}
	return c, nil
}

// errOtherIncarnation is the error of a save over the checkpoint of a later
// incarnation.
var errOtherIncarnation = errors.New("the store is in a later incarnation")

// save writes the checkpoint over the connection that holds the relay's lock. If
// it succeeds, this relay still leads.
func (c Checkpoint) save(ctx context.Context, conn *pgx.Conn) error { return c.Save(ctx, conn) }

// Execer is a pgx connection, pool or transaction.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Save writes the checkpoint. The checkpoint of a later incarnation is not
// overwritten. The caller holds LeaderLock.
func (c Checkpoint) Save(ctx context.Context, conn Execer) error {
	var id *uuid.UUID
	if c.Position > 0 {
		id = &c.EventID
	}
	tag, err := conn.Exec(ctx, `
		INSERT INTO relay_place (cluster_id, topic_id, incarnation, position, event_id, last)
		VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (one) DO UPDATE SET
			cluster_id = EXCLUDED.cluster_id, topic_id = EXCLUDED.topic_id, incarnation = EXCLUDED.incarnation,
			position = EXCLUDED.position, event_id = EXCLUDED.event_id, last = EXCLUDED.last, saved_at = EXCLUDED.saved_at
		WHERE relay_place.incarnation <= EXCLUDED.incarnation`,
		c.ClusterID, c.TopicID, c.Incarnation, c.Position, id, c.Last)
	if err == nil && tag.RowsAffected() == 0 {
		err = errOtherIncarnation
	}
	if err != nil {
		return fmt.Errorf("save the relay's checkpoint: %w", err)
	}
	return nil
}
