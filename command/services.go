package command

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/command/grants"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/redis"
)

// Gate is the part of the gate that commands use; *redis.Gate implements it.
type Gate interface {
	grants.Gate
	Decide(ctx context.Context, r redis.Request) (redis.Decision, error)
	State(ctx context.Context, product uuid.UUID) (redis.State, error)
	Obstructed(product uuid.UUID) bool
	Master(product uuid.UUID) string
	Health(ctx context.Context) (serving, all int, err error)
}

// claimed reads claims; *claims.Store implements it.
type claimed interface {
	grants.Claims
	HasActive(ctx context.Context, product uuid.UUID) (active bool, at int64, err error)
}

// counter counts a product's held units; *gatestore.Store implements it.
type counter interface {
	Counts(ctx context.Context, product uuid.UUID) (gatestore.Counts, bool, error)
	HeldSince(ctx context.Context, product uuid.UUID, position int64) (more int, ok bool, err error)
}

// services are the dependencies of the commands.
type services struct {
	store     *eventstore.Store
	gate      Gate
	claims    claimed
	counter   counter
	grants    *grants.Grants
	payments  *payments.Service
	catalogue *catalogue
	admission *admission
	metrics   *metrics
	log       *slog.Logger
	now       func() time.Time
}

const (
	// appendTimeout bounds an append with its reads. It does not depend on the client:
	// a command continues if its client disconnects.
	appendTimeout = 3 * time.Second
	// syncTimeout is how long a command waits for the sync of the gate.
	syncTimeout = time.Second
)

// stream is the stream to which a command appends, at the version that it read.
type stream struct {
	product uuid.UUID // the partition key
	id      uuid.UUID
	version int
}

func streamOfProduct(p domain.Product) stream { return stream{p.ID, p.ID, p.Version} }

// commit appends the events with their guards, and syncs the gate if there are guards: only
// then does an event concern it. The entry of the append queue was reserved before the state
// was read, because a full queue is reported first.
func (s *services) commit(ctx context.Context, by *invocation, reserved *eventstore.Reservation, to stream,
	events []domain.Event, guards ...eventstore.GuardItem,
) (eventstore.Result, error) {
	encoded, err := by.Encode(ctx, events...)
	if err != nil {
		return eventstore.Result{}, err
	}
	start := time.Now()
	result, err := reserved.Append(ctx, eventstore.Append{
		Key:     to.product,
		Streams: []eventstore.StreamAppend{{Stream: to.id, Expected: eventstore.Expected(to.version), Events: encoded}},
		Guards:  guards,
	})
	observeSince(s.metrics.append, start)
	if err == nil && len(guards) > 0 {
		s.sync(ctx, to.product)
	}
	return result, err
}

// sync applies the appended events to the gate before the command responds. A failure
// is not the command's failure: the worker syncs the gate too.
// It removes the gate of a deleted product.
func (s *services) sync(ctx context.Context, product uuid.UUID) {
	defer observeSince(s.metrics.feed, time.Now())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), syncTimeout)
	defer cancel()
	if err := s.gate.Sync(ctx, product); err != nil && !errors.Is(err, redis.ErrUnknownProduct) {
		s.log.WarnContext(ctx, "gate not synced in time, worker syncs it", "product", product, "error", err)
	}
}

// detached returns a context that outlives its client, for at most d.
func detached(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}
