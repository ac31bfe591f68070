package payments

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/redis"
)

const (
	// answerWithin bounds each statement outside of an append.
	answerWithin = 3 * time.Second
	// hearWithin bounds a word's way to its effect, the gate included.
	hearWithin = 8 * time.Second
	// feedWithin is how long the gate is given to take in a freed unit; the
	// worker tells it too.
	feedWithin = time.Second
	// leaveWithin is how long a process that ends waits for the gateway: one that
	// does not answer must not use up the time in which it has to stop.
	leaveWithin = 2 * time.Second
	// knownPrices is how many products' prices are remembered; one more pushes
	// any other out.
	knownPrices = 10_000
)

// Gate is what is asked of the gate for late money; *redis.Gate is one.
type Gate interface {
	Decide(ctx context.Context, r redis.Request) (redis.Decision, error)
	GiveBack(ctx context.Context, d redis.Decision) error
	Feed(ctx context.Context, product uuid.UUID) error
	Rebuild(ctx context.Context, product uuid.UUID, epoch int64) error
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
	SlotTTL        time.Duration      // life of a slot, 1 ms or more: what is granted again says it too
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
		return fmt.Errorf("payments: a slot's life of %s; give 1ms or more", c.SlotTTL)
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
	asks    *asks
	metrics *metrics

	mu     sync.Mutex
	prices map[uuid.UUID]domain.Money // by product; they never change
}

// New makes a Service. Close ends what it does in the background.
func New(c Config) (*Service, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	return &Service{
		Config: c, asks: newAsks(), metrics: newMetrics(c.Registry), prices: map[uuid.UUID]domain.Money{},
	}, nil
}

// Close waits a moment for what is being asked of the gateway in the background,
// and gives it up then, or when ctx ends: the worker asks. Nothing may be started
// any more. Closing twice is fine.
func (s *Service) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveWithin)
	defer cancel()
	return s.asks.close(ctx)
}

// Place says where the outcome of a command lies in the store.
type Place struct {
	Product  uuid.UUID
	Position int64
}

// slot reads a slot and the position of its last event.
func (s *Service) slot(ctx context.Context, id uuid.UUID) (domain.Slot, int64, error) {
	recorded, err := s.Reader.Stream(ctx, id, 0)
	if err != nil {
		return domain.Slot{}, 0, fmt.Errorf("read slot %s: %w", id, err)
	}
	var slot domain.Slot
	var last int64
	for _, r := range recorded {
		e, err := avsc.Decode(r)
		if err != nil {
			return domain.Slot{}, 0, fmt.Errorf("decode event %d: %w", r.Position, err)
		}
		slot, last = domain.EvolveSlot(slot, e), r.Position
	}
	if !slot.Exists() {
		return domain.Slot{}, 0, ErrNoSlot
	}
	return slot, last, nil
}

// price is the product's, which a deleted one keeps.
func (s *Service) price(ctx context.Context, product uuid.UUID) (domain.Money, error) {
	s.mu.Lock()
	price, known := s.prices[product]
	s.mu.Unlock()
	if known {
		return price, nil
	}
	first, err := s.Reader.Key(ctx, product, 0, math.MaxInt64, 1)
	if err != nil {
		return domain.Money{}, fmt.Errorf("read the price of product %s: %w", product, err)
	}
	if len(first) == 0 {
		return domain.Money{}, fmt.Errorf("read the price of product %s: %w", product, domain.ErrNoProduct)
	}
	e, err := avsc.Decode(first[0])
	if err != nil {
		return domain.Money{}, fmt.Errorf("decode event %d: %w", first[0].Position, err)
	}
	created, ok := e.Event.(domain.ProductCreated)
	if !ok {
		return domain.Money{}, fmt.Errorf("product %s begins with %T", product, e.Event)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.prices) >= knownPrices {
		for id := range s.prices {
			delete(s.prices, id)
			break
		}
	}
	s.prices[product] = created.Price
	return created.Price, nil
}

// feed lets the gate know of a freed unit. That it does not work is nobody's
// failure: the worker feeds the gate too.
func (s *Service) feed(ctx context.Context, product uuid.UUID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), feedWithin)
	defer cancel()
	if err := s.Gate.Feed(ctx, product); err != nil {
		s.Logger.WarnContext(ctx, "the gate was not told in time; the worker tells it", "product", product, "error", err)
	}
}

// exec runs one statement outside of an append.
func (s *Service) exec(ctx context.Context, doing, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerWithin)
	defer cancel()
	if _, err := s.Pool.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
