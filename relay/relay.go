package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
)

// Store is what the relay reads of the event store.
type Store interface {
	All(ctx context.Context, after int64, limit int) ([]eventstore.Recorded, error)
	At(ctx context.Context, position int64) (eventstore.Recorded, error)
	Head(ctx context.Context) (int64, error)
	Identity(ctx context.Context) (eventstore.Identity, error)
}

// Waker waits until there may be events beyond a position, for a second or so
// at most.
type Waker interface {
	Wait(ctx context.Context, after int64) error
}

// Registry gives an Avro schema its id under a subject: *schemaregistry.Client. Its
// error is a *schemaregistry.IncompatibleError where readers of what was written
// before could not live with the schema.
type Registry interface {
	Register(ctx context.Context, subject, schema string) (id int, err error)
}

// Config says from where to where.
type Config struct {
	Pool          *pgxpool.Pool // of the write side
	Store         Store
	Waker         Waker
	Kafka         kafka.Cluster
	Topic         string              // default kafka.Topic
	TopicSettings kafka.TopicSettings // where the topic is missing
	Registry      Registry            // gives schemas their ids; nil: values in single-object encoding
	Chunk         int                 // most events sent at a time; default 5000
	Registerer    prometheus.Registerer
	Logger        *slog.Logger // default slog.Default()
}

// Relay is one relay process.
type Relay struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	// open makes a publisher for a topic of so many partitions.
	open func(partitions int32) (message.Publisher, error)
	// marshal appends an event's value; a term sets it anew.
	marshal func(dst []byte, e domain.Envelope) ([]byte, error)
	// identity is the history that a term's records belong to; a term sets it anew.
	identity eventstore.Identity
}

// RefusedError says why the relay must not go on, and what to do.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "relay: " + e.Reason }

// New makes a relay; Run starts it.
func New(cfg Config) *Relay {
	if cfg.Topic == "" {
		cfg.Topic = kafka.Topic
	}
	if cfg.Chunk == 0 {
		cfg.Chunk = 5000
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Relay{
		cfg: cfg, log: cfg.Logger.With("component", "relay"), metrics: newMetrics(cfg.Registerer), marshal: avsc.Marshal,
		open: func(partitions int32) (message.Publisher, error) {
			return kafka.NewPublisher(cfg.Kafka, partitions)
		},
	}
}

// Run relays while it leads and stands by while another does, until ctx ends
// (nil) or it has to refuse (*RefusedError). Everything else is tried again.
func (r *Relay) Run(ctx context.Context) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 5*time.Second
	for {
		began := time.Now()
		err := r.term(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if refused := (*RefusedError)(nil); errors.As(err, &refused) {
			return err
		}
		if time.Since(began) > wait.MaxInterval {
			wait.Reset()
		}
		r.log.Warn("relaying ended, beginning again", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// term waits for the lead and relays until something goes wrong.
func (r *Relay) term(ctx context.Context) error {
	conn, err := r.lead(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the lock goes with the connection either way
	r.metrics.leading.Set(1)
	defer r.metrics.leading.Set(0)

	topic, err := kafka.EnsureTopic(ctx, r.cfg.Kafka, r.cfg.Topic, r.cfg.TopicSettings)
	if err != nil {
		return err
	}
	if topic.Retention != r.cfg.TopicSettings.Retention {
		r.log.Warn("the topic keeps its records for another time than asked for, and is left as it is (0: for ever)",
			"topic", r.cfg.Topic, "keeps", topic.Retention, "asked", r.cfg.TopicSettings.Retention)
	}
	if r.identity, err = r.cfg.Store.Identity(ctx); err != nil {
		return err
	}
	place, err := r.begin(ctx, conn, topic)
	if err != nil {
		return err
	}
	if r.marshal, err = r.register(ctx); err != nil {
		return err
	}
	r.log.Info("leading", "topic", r.cfg.Topic, "after", place.Position)
	return r.carry(ctx, conn, place)
}

// begin is the place to go on from: the saved one where it is this topic's.
func (r *Relay) begin(ctx context.Context, conn *pgx.Conn, topic kafka.TopicInfo) (Place, error) {
	fresh := Place{ClusterID: topic.ClusterID, TopicID: topic.TopicID, Last: make([]int64, topic.Partitions)}
	place, err := ReadPlace(ctx, conn)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fresh, nil
	case err != nil:
		return Place{}, err
	}
	if place.Position > 0 {
		at, err := r.cfg.Store.At(ctx, place.Position)
		if err != nil && !errors.Is(err, eventstore.ErrNoEvent) {
			return Place{}, err
		}
		if err != nil || at.ID != place.EventID {
			return Place{}, &RefusedError{fmt.Sprintf("the event store does not have event %s at position %d, which was published: it was restored to an earlier moment. "+
				"What was published beyond is in Kafka and in the read models for good. Make the topic %s anew, delete the row in relay_place, and rebuild the read side from an empty database, or restore a store that has it",
				place.EventID, place.Position, r.cfg.Topic)}
		}
	}
	if place.TopicID != topic.TopicID || place.ClusterID != topic.ClusterID {
		r.log.Info("another topic or cluster than last time, publishing from the beginning", "topic", r.cfg.Topic, "topicId", topic.TopicID, "clusterId", topic.ClusterID)
		return fresh, nil
	}
	if len(place.Last) != int(topic.Partitions) {
		return Place{}, &RefusedError{fmt.Sprintf("topic %s has %d partitions, it had %d: products would change their partition and lose their order. "+
			"Make the topic anew with %d partitions (the relay publishes everything again), or with another number and replay all projections", r.cfg.Topic, topic.Partitions, len(place.Last), len(place.Last))}
	}
	return place, nil
}
