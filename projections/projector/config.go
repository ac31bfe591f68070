package projector

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/projections"
)

// Config configures a projector: what is projected, from where and to where.
type Config struct {
	ReadPool    *pgxpool.Pool // required; should have a ping timeout, see pgxpool.Config
	Store       projections.Store
	Kafka       kafka.Cluster
	Projections []projections.Projection
	Topic       string // default: kafka.Topic
	// TopicSettings are the settings that the topic must have. Another partition count blocks the
	// projector, a shorter retention is a warning. Default: any partition count, kept forever.
	TopicSettings kafka.TopicSettings
	Decoder       *avsc.Decoder // decodes records' values; nil if there is no schema registry
	// Group is the consumer group; default: kafka.Group. Processes of one group
	// must have the same projections.
	Group string
	// Published reads how far the store and the relay are. It is used for the lag metrics and to
	// notice acknowledged records that Kafka lost. Default: neither is done.
	Published      func(context.Context) (projections.Head, error)
	MaxBatch       int           // maximum number of events per transaction; default: 5000
	SessionTimeout time.Duration // after this a silent projector loses its partitions; default: 6 s
	// BatchTimeout bounds the transaction of a batch, ReadTimeout every other query. Both are
	// longer than a swap holds its locks. Defaults: 15 s, 8 s.
	BatchTimeout, ReadTimeout time.Duration
	// StallTimeout is how long a projection may be behind without progress before Health reports it.
	// It needs Published. Default: 30 s.
	StallTimeout time.Duration
	Registerer   prometheus.Registerer
	Logger       *slog.Logger // default: slog.Default()
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
	if c.StallTimeout == 0 {
		c.StallTimeout = 30 * time.Second
	}
	if c.MaxBatch == 0 {
		c.MaxBatch = 5000
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}
