package payments

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/grants"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/redis"
)

const (
	// transitionTimeout bounds a transition of a payment, the gate included.
	transitionTimeout = 8 * time.Second
	// syncTimeout is how long the gate is given to take in a freed unit; the worker
	// syncs it too.
	syncTimeout = time.Second
	// closeTimeout is how long a process that ends waits for the gateway: one that
	// does not respond must not use up the time in which it has to stop.
	closeTimeout = 2 * time.Second
	// maxPrices is how many products' prices are kept; one more replaces any other.
	maxPrices = 10_000
	// actionTimeout is how long the response to a new payment waits for the gateway.
	actionTimeout = 2 * time.Second
)

// Gate is what late money needs of the gate; *redis.Gate is one.
type Gate interface {
	grants.Gate
	Decide(ctx context.Context, r redis.Request) (redis.Decision, error)
}

// Config is what a Service works with. It closes none of it.
type Config struct {
	Pool           *pgxpool.Pool      // of the write side's database
	Store          *eventstore.Store  // the writer
	Reader         *eventstore.Reader //
	Claims         *claims.Store      //
	Gate           Gate               // *redis.Gate
	Gateway        gateway.Gateway    //
	CallbackURL    string             // where the gateway is to call us
	PaymentTimeout time.Duration      // how long past its deadline a slot waits for a pending payment, 0 or more
	SlotTTL        time.Duration      // life of a slot, 1 ms or more, also of a re-granted one
	SlotWarning    time.Duration      // ahead of a slot's deadline
	Registry       prometheus.Registerer
	Logger         *slog.Logger // nil: slog.Default()
}

func (c *Config) validate() error {
	switch {
	case c.Pool == nil, c.Store == nil, c.Reader == nil, c.Claims == nil, c.Gate == nil, c.Gateway == nil, c.Registry == nil:
		return errors.New("payments: pool, store, reader, claims, gate, gateway and registry are needed")
	case c.PaymentTimeout < 0:
		return fmt.Errorf("payments: a payment timeout of %s; give 0 or more", c.PaymentTimeout)
	case c.SlotTTL < time.Millisecond:
		return fmt.Errorf("payments: slot TTL %s: must be 1ms or more", c.SlotTTL)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

// Service carries payments from their start to their end. Any number of them,
// in any number of processes, work side by side.
type Service struct {
	Config
	background *background
	grants     *grants.Grants
	metrics    *metrics

	mu     sync.Mutex
	prices map[uuid.UUID]domain.Money // by product that has a slot: it does not change any more
	store  uuid.UUID                  // the event store's id, once it was read
}

// New makes a Service. Close ends what it does in the background.
func New(c Config) (*Service, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	return &Service{
		Config: c, background: newBackground(), metrics: newMetrics(c.Registry), prices: map[uuid.UUID]domain.Money{},
		grants: &grants.Grants{
			Gate: c.Gate, Claims: c.Claims, SlotTTL: c.SlotTTL, SlotWarning: c.SlotWarning, Logger: c.Logger,
		},
	}, nil
}

// Close waits a moment for calls of the gateway in the background, and gives them
// up then, or when ctx ends: the worker makes them. Nothing may be started any
// more. Close is idempotent.
func (s *Service) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	return s.background.close(ctx)
}

// storeID returns the event store's id.
func (s *Service) storeID(ctx context.Context) (uuid.UUID, error) {
	s.mu.Lock()
	id := s.store
	s.mu.Unlock()
	if id != uuid.Nil {
		return id, nil
	}
	identity, err := s.Reader.Identity(ctx)
	if err != nil {
		return uuid.Nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store = identity.Store
	return s.store, nil
}

// ProductPosition is the position of a command's outcome in the store.
type ProductPosition struct {
	Product  uuid.UUID
	Position int64
}

// Slot reads a slot and the position of its last event.
func (s *Service) Slot(ctx context.Context, id uuid.UUID) (domain.Slot, int64, error) {
	events, err := avsc.ReadStream(ctx, s.Reader, id, 0)
	if err != nil {
		return domain.Slot{}, 0, fmt.Errorf("read slot %s: %w", id, err)
	}
	slot := domain.FoldSlot(events)
	if !slot.Exists() {
		return domain.Slot{}, 0, ErrNoSlot
	}
	return slot, events[len(events)-1].Position, nil
}

// Owner returns whose slot it is, from the first event of its stream alone: a
// stranger's request must not cost what the slot's history is long.
func (s *Service) Owner(ctx context.Context, id uuid.UUID) (uuid.UUID, error) {
	first, err := s.Reader.First(ctx, id)
	if errors.Is(err, eventstore.ErrNoEvent) {
		return uuid.Nil, ErrNoSlot
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("read slot %s: %w", id, err)
	}
	e, err := avsc.Decode(first)
	if err != nil {
		return uuid.Nil, fmt.Errorf("decode event %d: %w", first.Position, err)
	}
	acquired, ok := e.Event.(domain.SlotAcquired)
	if !ok {
		return uuid.Nil, ErrNoSlot // a product's id
	}
	return acquired.UserID, nil
}

// price returns the price of a product that has a slot, which does not change any
// more, not even by a deletion.
func (s *Service) price(ctx context.Context, product uuid.UUID) (domain.Money, error) {
	s.mu.Lock()
	price, known := s.prices[product]
	s.mu.Unlock()
	if known {
		return price, nil
	}
	events, err := avsc.ReadStream(ctx, s.Reader, product, 0)
	if err != nil {
		return domain.Money{}, fmt.Errorf("read the price of product %s: %w", product, err)
	}
	p := domain.FoldProduct(events)
	if p.ID != product {
		return domain.Money{}, fmt.Errorf("read the price of product %s: %w", product, domain.ErrNoProduct)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.prices) >= maxPrices {
		for id := range s.prices {
			delete(s.prices, id)
			break
		}
	}
	s.prices[product] = p.Price
	return p.Price, nil
}

// sync has the gate take in a freed unit. A failure is logged only: the worker
// syncs the gate too.
func (s *Service) sync(ctx context.Context, product uuid.UUID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), syncTimeout)
	defer cancel()
	if err := s.Gate.Sync(ctx, product); err != nil && !errors.Is(err, redis.ErrUnknownProduct) {
		s.Logger.WarnContext(ctx, "gate not synced in time, worker syncs it", "product", product, "error", err)
	}
}

// exec runs one statement outside of an append.
func (s *Service) exec(ctx context.Context, doing, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTimeout)
	defer cancel()
	if _, err := s.Pool.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
