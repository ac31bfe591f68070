package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

// Notifier waits until there may be events after a position, for at most about a
// second.
type Notifier interface {
	Wait(ctx context.Context, after int64) error
}

// Registry returns the id of an Avro schema under a subject: *schemaregistry.Client. Its
// error is a *schemaregistry.IncompatibleError if readers of earlier values
// cannot use the schema.
type Registry interface {
	Register(ctx context.Context, subject, schema string) (id int, err error)
}

// Config configures a relay.
type Config struct {
	Pool          *pgxpool.Pool // the write side's database, not behind a pooler: the lead is a session's lock
	Store         Store
	Notifier      Notifier
	Kafka         kafka.Cluster
	Topic         string              // default kafka.Topic
	TopicSettings kafka.TopicSettings // used to create the topic if it is missing
	Registry      Registry            // assigns ids to schemas; nil: values in single-object encoding
	Chunk         int                 // maximum number of events sent at once; default 5000
	Registerer    prometheus.Registerer
	Logger        *slog.Logger // default slog.Default()
}

// Relay is one relay process.
type Relay struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	lag     lag
	// open creates a publisher for a topic with that many partitions.
	open func(partitions int32) (message.Publisher, error)
	// marshal appends an event's value; each term sets it.
	marshal func(dst []byte, e domain.Envelope) ([]byte, error)
	// identity is the history that a term's records belong to; each term sets it.
	identity eventstore.Identity
	// schemaIDs are the ids from the registry, by event type.
	schemaIDs map[string]int

	silence     time.Duration // silenceTimeout, or shorter in tests
	maxStall    time.Duration // stallTimeout, or shorter in tests
	readTimeout time.Duration // statementTimeout, or shorter in tests
	ackTimeout  time.Duration // acknowledgementTimeout, or shorter in tests

	chunk atomic.Int64 // maximum number of events of the next chunk; lower after one was not acknowledged in time

	blocked        atomic.Pointer[string]
	shortRetention atomic.Pointer[string] // why, "" if it is not
	noProgress     atomic.Bool            // events wait, and the checkpoint has not moved for maxStall
}

// RefusedError is the reason why the relay must not continue, and the remedy.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "relay: " + e.Reason }

// BlockedError is the reason why the relay publishes nothing for now. It continues
// automatically once the reason is gone.
type BlockedError struct{ Reason string }

func (e *BlockedError) Error() string { return "relay: " + e.Reason }

// ForeignError reports that the topic has records of another event store.
type ForeignError struct {
	Topic string
	Named string // the identity in a record, <store id>/<incarnation>
	Store uuid.UUID
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("topic %s has records of another event store (%s, this one is %s): give each installation a separate topic", e.Topic, e.Named, e.Store)
}

// kafkaError ends a term in which Kafka could not be used. Another relay may be able to.
type kafkaError struct{ err error }

func (e *kafkaError) Error() string { return e.err.Error() }

func (e *kafkaError) Unwrap() error { return e.err }

// New creates a relay; Run starts it.
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
	r := &Relay{
		cfg: cfg, silence: silenceTimeout, maxStall: stallTimeout, readTimeout: statementTimeout, ackTimeout: acknowledgementTimeout, schemaIDs: map[string]int{},
		log: cfg.Logger.With("component", "relay"), metrics: newMetrics(cfg.Registerer), marshal: avsc.Marshal,
		open: func(partitions int32) (message.Publisher, error) {
			return kafka.NewPublisher(cfg.Kafka, partitions)
		},
	}
	r.chunk.Store(int64(cfg.Chunk))
	return r
}

// blockedInterval is how long a blocked relay waits before it checks again. It
// does not hold the lead meanwhile.
const blockedInterval = 2 * time.Second

// cedeInterval is how long a relay whose term ended because of Kafka stays out of the election, so
// that another one, which may reach Kafka, takes the lead: standbys try every electionInterval.
const cedeInterval = 2 * time.Second

// Run relays while it leads and stands by while another does, until ctx ends
// (nil) or it has to refuse (*RefusedError). Everything else is retried. Blocked
// reports what keeps it from publishing.
func (r *Relay) Run(ctx context.Context) error {
	measuring, stop := context.WithCancel(ctx)
	measured := make(chan struct{})
	go func() {
		defer guard.Log("measure the relay's lag")
		defer close(measured)
		r.measureLag(measuring)
	}()
	defer func() { stop(); <-measured }()
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
		var pause time.Duration
		if reason := blockedBy(err); reason != "" {
			r.block(ctx, reason)
			pause = blockedInterval
		} else {
			if time.Since(began) > wait.MaxInterval {
				wait.Reset()
			}
			pause = wait.NextBackOff()
			if failed := (*kafkaError)(nil); errors.As(err, &failed) {
				pause = max(pause, cedeInterval)
			}
			r.log.Warn("term ended, retrying", "error", err)
		}
		if sleep.For(ctx, pause) != nil {
			return nil
		}
	}
}

// Blocked returns why the relay publishes nothing until an operator acts; "" if it
// leads or stands by.
func (r *Relay) Blocked() string {
	if reason := r.blocked.Load(); reason != nil {
		return *reason
	}
	return ""
}

// Health returns why the relay does not work correctly, or nothing if it does: what
// blocks it, events that wait without progress, and a topic that keeps its records for
// less time than configured. A relay that stands by reports the progress of the one that leads.
func (r *Relay) Health() []string {
	var reasons []string
	if reason := r.Blocked(); reason != "" {
		reasons = append(reasons, reason)
	}
	if r.noProgress.Load() {
		reasons = append(reasons, fmt.Sprintf("no progress: events wait in the store, and none has been published for more than %s; the log of the relay that leads has the reason", r.maxStall))
	}
	if short := r.shortRetention.Load(); short != nil && *short != "" {
		reasons = append(reasons, *short)
	}
	return reasons
}

// checkRetention records whether the topic deletes records earlier than configured.
func (r *Relay) checkRetention(topic kafka.TopicInfo) {
	short := r.cfg.TopicSettings.ShortRetention(r.cfg.Topic, topic)
	if before := r.shortRetention.Swap(&short); short != "" && (before == nil || *before != short) {
		r.log.Warn("topic has a shorter retention than configured", "reason", short)
	}
}

// blockedBy returns the reason if err blocks the relay.
func blockedBy(err error) string {
	var blocked *BlockedError
	var foreign *ForeignError
	switch {
	case errors.As(err, &blocked):
		return blocked.Reason
	case errors.As(err, &foreign):
		return foreign.Error()
	}
	return ""
}

// block records the reason for health, status and, once, the log.
func (r *Relay) block(ctx context.Context, reason string) {
	r.metrics.blocked.Set(1)
	if before := r.blocked.Swap(&reason); before == nil || *before != reason {
		r.log.Error("blocked, nothing is published", "reason", reason)
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	_, err := r.cfg.Pool.Exec(ctx, `
		INSERT INTO relay_blocked (reason) VALUES ($1)
		ON CONFLICT (one) DO UPDATE SET reason = EXCLUDED.reason, since = CASE WHEN relay_blocked.reason = EXCLUDED.reason THEN relay_blocked.since ELSE EXCLUDED.since END,
			seen_at = EXCLUDED.seen_at`, reason)
	if err != nil {
		r.log.Warn("record why the relay is blocked failed", "error", err)
	}
}

// unblock records that the relay leads.
func (r *Relay) unblock(ctx context.Context, conn *pgx.Conn) error {
	r.notBlocked()
	if _, err := conn.Exec(ctx, `DELETE FROM relay_blocked`); err != nil {
		return fmt.Errorf("record that the relay is not blocked: %w", err)
	}
	return nil
}

func (r *Relay) notBlocked() {
	r.metrics.blocked.Set(0)
	if r.blocked.Swap(nil) != nil {
		r.log.Info("no longer blocked")
	}
}

// Blockage is why the leading relay publishes nothing, as it recorded it.
type Blockage struct {
	Reason string
	Since  time.Time
}

// ReadBlockage reads why no relay publishes; nil if one does, or if none has
// repeated its reason for a minute.
func ReadBlockage(ctx context.Context, q RowQuerier) (*Blockage, error) {
	var b Blockage
	err := q.QueryRow(ctx, `SELECT reason, since FROM relay_blocked WHERE seen_at > clock_timestamp() - interval '1 minute'`).Scan(&b.Reason, &b.Since)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read why the relay is blocked: %w", err)
	}
	return &b, nil
}

// term waits for the lead and relays until an error occurs.
func (r *Relay) term(ctx context.Context) error {
	lead, err := r.elect(ctx)
	if err != nil {
		return err
	}
	defer lead.resign(ctx)
	ctx, stop := lead.keep(ctx)
	defer stop()
	topic, err := r.ensureTopic(ctx)
	if err != nil {
		return err
	}
	if reason := r.cfg.TopicSettings.Mismatch(r.cfg.Topic, topic); reason != "" {
		return &BlockedError{reason}
	}
	r.checkRetention(topic)
	var from Checkpoint
	err = lead.do(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		from, err = r.resume(ctx, conn, topic)
		return err
	})
	if err != nil {
		return err
	}
	if from, err = r.checkTopic(ctx, from); err != nil {
		return err
	}
	if r.marshal, err = r.register(ctx); err != nil {
		return err
	}
	if err := lead.do(ctx, r.unblock); err != nil {
		return err
	}
	failpoint.Hit(failpoint.RelayLeads)
	r.metrics.leading.Set(1)
	defer r.metrics.leading.Set(0)
	r.log.Info("leading", "topic", r.cfg.Topic, "after", from.Position, "incarnation", r.identity.Incarnation)
	return r.publishChunks(ctx, lead, from)
}
