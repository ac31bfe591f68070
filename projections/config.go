package projections

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
)

// Store is what the engine reads of the event store: gaps, the store's copy of
// a record that cannot be read, parked events, and whether it is still the same
// history.
type Store interface {
	All(ctx context.Context, after int64, limit int) ([]eventstore.Recorded, error)
	At(ctx context.Context, position int64) (eventstore.Recorded, error)
	Events(ctx context.Context, positions []int64) ([]eventstore.Recorded, error)
	IDs(ctx context.Context, positions []int64) (map[int64]uuid.UUID, error)
	Identity(ctx context.Context) (eventstore.Identity, error)
}

// Config is what is projected, from where to where.
type Config struct {
	ReadPool    *pgxpool.Pool // required; best with a ping timeout, see pgxpool.Config
	Store       Store
	Kafka       kafka.Cluster
	Projections []Projection
	Topic       string // default: kafka.Topic
	// TopicSettings are those that the topic must have: another partition count
	// blocks the projector, a shorter retention is a warning. Default: any partition
	// count, kept forever.
	TopicSettings kafka.TopicSettings
	Decoder       *avsc.Decoder // of records' values; nil: there is no schema registry
	// Group is the consumer group; default: kafka.Group. Processes of one group
	// must have the same projections.
	Group string
	// Published reads how far store and relay are: for the metrics of lag, and to
	// notice acknowledged records that Kafka lost. Default: neither is done.
	Published      func(context.Context) (Head, error)
	MaxBatch       int           // maximum of events of a transaction; default: 5000
	SessionTimeout time.Duration // after how long a dead projector is noticed; default: 6 s
	// BatchTimeout bounds a transaction of a batch, ReadTimeout everything else that
	// is asked of Postgres. They are longer than a swap holds its locks. Defaults:
	// 15 s, 8 s.
	BatchTimeout, ReadTimeout time.Duration
	Registerer                prometheus.Registerer
	Logger                    *slog.Logger // default: slog.Default()
}

func (c Config) withDefaults() Config {
	if c.Topic == "" {
		c.Topic = kafka.Topic
	}
	if c.Group == "" {
		c.Group = kafka.Group
	}
	if c.BatchTimeout == 0 {
		c.BatchTimeout = 15 * time.Second
	}
	if c.ReadTimeout == 0 {
		c.ReadTimeout = 8 * time.Second
	}
	if c.MaxBatch == 0 {
		c.MaxBatch = 5000
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// RefusedError says why projecting must not continue, and what to do.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "projections: " + e.Reason }
