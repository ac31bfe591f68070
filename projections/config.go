package projections

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
)

// Store is what the engine reads of the event store: gaps, the store's copy of
// a record that cannot be read, and whether it is still the same store.
type Store interface {
	All(ctx context.Context, after int64, limit int) ([]eventstore.Recorded, error)
	At(ctx context.Context, position int64) (eventstore.Recorded, error)
	Identity(ctx context.Context) (eventstore.Identity, error)
}

// Config says what is projected, from where to where.
type Config struct {
	ReadPool    *pgxpool.Pool
	Store       Store
	Kafka       kafka.Cluster
	Projections []Projection
	Topic       string        // default kafka.Topic
	Decoder     *avsc.Decoder // of records' values; nil: there is no schema registry
	// Group is the consumer group; default one that is named after the
	// projections, so that processes with others do not take partitions from it.
	Group          string
	MaxBatch       int           // most events of a transaction; default 5000
	SessionTimeout time.Duration // after how long a dead projector is noticed; default 6 s
	Registerer     prometheus.Registerer
	Logger         *slog.Logger // default slog.Default()
}

func (c Config) withDefaults() Config {
	if c.Topic == "" {
		c.Topic = kafka.Topic
	}
	if c.Group == "" {
		names := make([]string, len(c.Projections))
		for i, p := range c.Projections {
			names[i] = p.Name()
		}
		c.Group = "dopamine." + strings.Join(names, ".")
	}
	if c.MaxBatch == 0 {
		c.MaxBatch = 5000
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// RefusedError says why projecting must not go on, and what to do.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "projections: " + e.Reason }
