package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/postgres"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/relay"
)

// Config configures a recovery.
type Config struct {
	WritePool   *pgxpool.Pool // not through a pooler: Run holds a session lock
	ReadPool    *pgxpool.Pool // for replay.Run
	Kafka       kafka.Cluster
	Topic       string        // default kafka.Topic
	Decoder     *avsc.Decoder // of the topic's values; nil if there is no schema registry
	Projections []projections.Rebuildable
	// Force begins an incarnation even if nothing contradicts the store.
	Force   bool
	DropOld bool // drop older generations of the read models
	// OnProgress is called like replay.Config's; it may be nil.
	OnProgress func(replay.Replay)
	Logger     *slog.Logger // default slog.Default()

	// after is called after each step that a kill may follow, in tests.
	after func(step string) error
}

// Result describes what Run did.
type Result struct {
	Incarnation    eventstore.Identity
	SharedPosition int64
	Contradictions Contradictions // none if Resumed
	Resumed        bool           // an earlier Run had begun the incarnation
	// LostPayments are in the table lost_payments, also if Resumed.
	LostPayments []LostPayment
}

// ErrNotNeeded is the error of a Run that found nothing to recover from.
var ErrNotNeeded = errors.New("the topic and the read models agree with the event store: nothing to recover")

const (
	// lockTimeout bounds the wait for the relay's lock, once its holder was
	// disconnected, and for rows that are locked.
	lockTimeout = 30 * time.Second
	// rowRetryInterval is after how long locked rows are tried again.
	rowRetryInterval = 500 * time.Millisecond
	// publishTimeout bounds writing the markers.
	publishTimeout = time.Minute
)

type run struct {
	Config
	store *eventstore.Reader
	// conn holds the relay's lock until the checkpoint is moved.
	conn *pgx.Conn
}

// Run recovers. Its error is ErrNotNeeded, a *relay.ForeignError, an error of
// replay.Run, or another error; retry after all but the first two.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if cfg.Topic == "" {
		cfg.Topic = kafka.Topic
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.after == nil {
		cfg.after = func(string) error { return nil }
	}
	r := &run{Config: cfg, store: eventstore.NewReader(cfg.WritePool)}
	id, err := r.store.Identity(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("read the event store's id: %w", err)
	}
	if err := projections.CheckSource(ctx, r.ReadPool, id); err != nil {
		return Result{}, err
	}
	result, err := r.begin(ctx)
	if err != nil {
		return result, err
	}
	if err := r.after("marked"); err != nil {
		return result, err
	}
	r.Logger.Info("rebuilding the read models", "incarnation", result.Incarnation.Incarnation)
	err = replay.Run(ctx, replay.Config{
		ReadPool: r.ReadPool, Store: r.store, Published: r.published, Projections: r.Projections, DropOld: r.DropOld,
		OnProgress: r.OnProgress, Logger: r.Logger,
	})
	if err != nil {
		return result, fmt.Errorf("rebuild the read models: %w", err)
	}
	if _, err := r.ReadPool.Exec(ctx, `UPDATE projection_source SET incarnation = $1 WHERE incarnation <= $1`, result.Incarnation.Incarnation); err != nil {
		return result, fmt.Errorf("record the read models' incarnation: %w", err)
	}
	if err := r.after("rebuilt"); err != nil {
		return result, err
	}
	if _, err := r.WritePool.Exec(ctx, `UPDATE store_incarnations SET recovered_at = clock_timestamp() WHERE incarnation = $1`, result.Incarnation.Incarnation); err != nil {
		return result, fmt.Errorf("record that the read models are rebuilt: %w", err)
	}
	return result, nil
}

// begin begins the next incarnation and marks it, under the relay's lock.
func (r *run) begin(ctx context.Context) (result Result, err error) {
	unlock, err := r.lockRelay(ctx)
	if err != nil {
		return result, err
	}
	defer unlock()
	histories, err := eventstore.Incarnations(ctx, r.conn)
	if err != nil {
		return result, err
	}
	if result.Incarnation, err = r.store.Identity(ctx); err != nil {
		return result, err
	}
	current := histories[len(histories)-1]
	if result.Resumed = !current.Recovered; result.Resumed {
		r.Logger.Info("continuing a recovery", "incarnation", current.Number)
	} else {
		if result.Contradictions, err = r.compare(ctx, result.Incarnation, histories); err != nil {
			return result, err
		}
		if !result.Contradictions.Any() && !r.Force {
			return result, ErrNotNeeded
		}
		if current, err = r.next(ctx, result.Contradictions); err != nil {
			return result, err
		}
		r.Logger.Info("incarnation began", "incarnation", current.Number, "sharedPosition", current.SharedPosition)
	}
	result.Incarnation.Incarnation, result.SharedPosition = current.Number, current.SharedPosition
	if result.LostPayments, err = lostPayments(ctx, r.conn, current.Number); err != nil {
		return result, err
	}
	for _, p := range result.LostPayments {
		r.Logger.Warn("payment lost, operator needed", "payment", p.Payment, "slot", p.Slot, "user", p.User, "product", p.Product,
			"amount", p.Amount, "currency", p.Currency, "gatewayPayment", p.GatewayID, "outcome", p.Outcome)
	}
	if current.Marked {
		return result, nil
	}
	if err := r.after("begun"); err != nil {
		return result, err
	}
	return result, r.mark(ctx, result.Incarnation, current.SharedPosition)
}

// lockRelay takes the relay's lock. The relay that holds it is disconnected: it
// notices that within a second, and publishes at most the chunk it has sent.
func (r *run) lockRelay(ctx context.Context) (unlock func(), err error) {
	if r.conn, err = pgx.ConnectConfig(ctx, r.WritePool.Config().ConnConfig.Copy()); err != nil {
		return nil, fmt.Errorf("connect to the event store: %w", err)
	}
	unlock = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = r.conn.Exec(ctx, "SELECT pg_advisory_unlock_all()")
		_ = r.conn.Close(ctx) // disconnecting releases the lock in any case
	}
	locking, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	_, err = r.conn.Exec(locking, `
		SELECT pg_terminate_backend(pid) FROM pg_locks
		WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
		  AND classid::bigint = $1::bigint >> 32 AND objid::bigint = $1::bigint & 4294967295`, relay.LeaderLock)
	if err == nil {
		_, err = r.conn.Exec(locking, "SELECT pg_advisory_lock($1)", relay.LeaderLock)
	}
	if err != nil {
		unlock()
		return nil, fmt.Errorf("take the relay's lock: %w", err)
	}
	return unlock, nil
}

// next records the next incarnation, under the append lock, which separates appends before
// it from those after it. Rows that another session has locked are waited for without it, so
// that appends go on meanwhile.
func (r *run) next(ctx context.Context, c Contradictions) (i eventstore.Incarnation, err error) {
	within, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for range sleep.Every(within, rowRetryInterval) {
		if i, err = r.tryNext(ctx, c); postgres.Code(err) != pgerrcode.LockNotAvailable {
			break
		}
	}
	if err != nil {
		return i, fmt.Errorf("record the next incarnation: %w", err)
	}
	return i, nil
}

func (r *run) tryNext(ctx context.Context, c Contradictions) (eventstore.Incarnation, error) {
	i := eventstore.Incarnation{SharedPosition: c.SharedPosition}
	err := pgx.BeginTxFunc(ctx, r.conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '1500ms', true)`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, eventstore.AppendLock); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, eventstore.RowLockTimeoutSQL); err != nil {
			return err
		}
		if err := suspectLogs(ctx, tx, c.SharedPosition); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `
			INSERT INTO store_incarnations (incarnation, shared_position)
			SELECT 1 + greatest($1, (SELECT max(incarnation) FROM store_incarnations)), $2 RETURNING incarnation`,
			c.Newest, c.SharedPosition).Scan(&i.Number)
		if err != nil {
			return err
		}
		return c.Money.record(ctx, tx, i.Number)
	})
	return i, err
}

// mark writes the markers, and then moves the relay's checkpoint to where the new
// incarnation's records begin.
func (r *run) mark(ctx context.Context, own eventstore.Identity, shared int64) error {
	saved, err := relay.ReadCheckpoint(ctx, r.conn)
	missing := errors.Is(err, pgx.ErrNoRows)
	if err != nil && !missing {
		return err
	}
	topic, err := kafka.DescribeTopic(ctx, r.Kafka, r.Topic)
	switch {
	case errors.Is(err, kafka.ErrNoTopic): // the relay creates it, and begins at 0
	case err != nil:
		return err
	default:
		from := relay.Checkpoint{Position: shared, Last: unknown(topic.Partitions)}
		if !missing && saved.Position >= shared && len(saved.Last) == len(from.Last) {
			from.Last = saved.Last
		}
		at, err := relay.CheckpointAt(ctx, r.store, from, shared)
		if err != nil {
			return err
		}
		if err := r.publishMarkers(ctx, own, shared, at.Last); err != nil {
			return err
		}
	}
	if err := r.after("published"); err != nil {
		return err
	}
	var to relay.Checkpoint
	if !missing {
		if to, err = relay.CheckpointAt(ctx, r.store, saved, min(shared, saved.Position)); err != nil {
			return err
		}
	}
	return pgx.BeginTxFunc(ctx, r.conn, pgx.TxOptions{}, func(tx pgx.Tx) error {
		if !missing {
			to.Incarnation = own.Incarnation
			if err := to.Save(ctx, tx); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `UPDATE store_incarnations SET marked_at = clock_timestamp() WHERE incarnation = $1`, own.Incarnation)
		return err
	})
}

// unknown returns last positions of partitions that must be searched for in the store.
func unknown(partitions int32) []int64 {
	last := make([]int64, partitions)
	for i := range last {
		last[i] = 1<<63 - 1
	}
	return last
}

// publishMarkers writes the marker into every partition.
func (r *run) publishMarkers(ctx context.Context, own eventstore.Identity, shared int64, last []int64) error {
	publisher, err := kafka.NewPublisher(r.Kafka, int32(len(last)))
	if err != nil {
		return err
	}
	defer publisher.Close() //nolint:errcheck // acknowledged records are in the topic
	done := make(chan error, 1)
	go func() {
		defer guard.Log("mark the incarnation in the topic")
		done <- publisher.Publish(r.Topic, markers(own, shared, last)...)
	}()
	select {
	case err = <-done:
	case <-time.After(publishTimeout):
		err = errors.New("no acknowledgement from Kafka in time")
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("mark the incarnation in topic %s: %w", r.Topic, err)
	}
	return nil
}

// published returns how far store and relay are, for the replay.
func (r *run) published(ctx context.Context) (head projections.Head, err error) {
	saved, err := relay.ReadCheckpoint(ctx, r.WritePool)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return head, err
	}
	head.Published, head.Last = saved.Position, saved.Last
	head.Position, err = r.store.Head(ctx) // after the checkpoint: it is never behind it
	return head, err
}

// markerNamespace makes the ids of markers a function of incarnation and partition.
var markerNamespace = uuid.MustParse("3d0f4c1e-5d52-5c4e-9a3b-6a1f0b7f2c44")
