package command

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/redis"
)

// Gate is what commands ask of the gate; *redis.Gate is one.
type Gate interface {
	Decide(ctx context.Context, r redis.Request) (redis.Decision, error)
	GiveBack(ctx context.Context, d redis.Decision) error
	Sync(ctx context.Context, product uuid.UUID) error
	Rebuild(ctx context.Context, product uuid.UUID, epoch int64) error
	State(ctx context.Context, product uuid.UUID) (redis.State, error)
	Obstructed(product uuid.UUID) bool
	Master(product uuid.UUID) string
	Health(ctx context.Context) (serving, all int, err error)
}

// claimed reads claims; *claims.Store does.
type claimed interface {
	ByBuyer(ctx context.Context, product, buyer uuid.UUID) (claims.Record, bool, error)
	Counts(ctx context.Context, product uuid.UUID) (claims.Counts, bool, error)
	HeldSince(ctx context.Context, product uuid.UUID, position int64) (more int, ok bool, err error)
	HasActive(ctx context.Context, product uuid.UUID) (active bool, at int64, err error)
}

// services are what the commands work with.
type services struct {
	store     *eventstore.Store
	gate      Gate
	claims    claimed
	payments  *payments.Service
	stream    func(ctx context.Context, stream uuid.UUID, afterVersion int) ([]domain.Envelope, error)
	catalogue *catalogue
	admission *admission
	metrics   *metrics
	log       *slog.Logger
	now       func() time.Time
	ttl       time.Duration // of a slot
	warning   time.Duration // ahead of a slot's deadline
}

const (
	// appendWithin bounds an append with its reads. It is not tied to the client:
	// what was begun for one that has gone is finished all the same.
	appendWithin = 3 * time.Second
	// feedWithin is how long a command waits for the gate to know.
	feedWithin = time.Second
)

// append times an append. Its place is taken before the state is looked at, since
// that there is none is answered first.
func (s *services) append(ctx context.Context, place *eventstore.Reservation, a eventstore.Append) (eventstore.Result, error) {
	defer since(s.metrics.append, time.Now())
	return place.Append(ctx, a)
}

// feed lets the gate know what was appended, before the command answers. That
// it does not work is not the command's failure: the worker feeds the gate too.
// The gate of a product that is gone is removed by it.
func (s *services) feed(ctx context.Context, product uuid.UUID) {
	defer since(s.metrics.feed, time.Now())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), feedWithin)
	defer cancel()
	if err := s.gate.Sync(ctx, product); err != nil && !errors.Is(err, redis.ErrUnknownProduct) {
		s.log.WarnContext(ctx, "the gate was not told in time; the worker tells it", "product", product, "error", err)
	}
}

// detached is a context that outlives its client, for at most d.
func detached(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}
