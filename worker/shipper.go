package worker

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"

	"github.com/dopaminestore/dopamine/internal/postgres"
	"github.com/dopaminestore/dopamine/redis"
)

const (
	// maxShipments and maxShippedLines bound one statement.
	maxShipments    = 256
	maxShippedLines = 20_000
	// shipConcurrency is how many such statements run at the same time.
	shipConcurrency = 2
	shipTimeout     = 6 * time.Second
)

// shipper stores the decision logs of many products in one statement: those that
// arrive while others are being stored share the next one.
type shipper struct {
	ctx  context.Context // the worker's context
	ship func(ctx context.Context, shipments []redis.Shipment) error

	mu      sync.Mutex
	waiting []*shipping
	running int
	runs    sync.WaitGroup
}

type shipping struct {
	redis.Shipment
	done chan error
}

// store returns once the shipment is stored. If ctx ends first, it may still be stored.
func (s *shipper) store(ctx context.Context, shipment redis.Shipment) error {
	item := &shipping{shipment, make(chan error, 1)}
	s.mu.Lock()
	s.waiting = append(s.waiting, item)
	if s.running < shipConcurrency {
		s.running++
		s.runs.Go(s.run)
	}
	s.mu.Unlock()
	select {
	case err := <-item.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait returns when no statement runs any more.
func (s *shipper) wait() { s.runs.Wait() }

func (s *shipper) run() {
	for {
		batch := s.take()
		if len(batch) == 0 {
			return
		}
		s.storeAll(batch)
	}
}

// take removes the next batch, which contains each product once. The runner ends if it
// is empty.
func (s *shipper) take() []*shipping {
	s.mu.Lock()
	defer s.mu.Unlock()
	var batch, rest []*shipping
	lines, products := 0, map[uuid.UUID]bool{}
	for _, item := range s.waiting {
		full := len(batch) >= maxShipments || lines > 0 && lines+len(item.Lines) > maxShippedLines
		if full || products[item.Product] {
			rest = append(rest, item)
			continue
		}
		batch, products[item.Product] = append(batch, item), true
		lines += len(item.Lines)
	}
	s.waiting = rest
	if len(batch) == 0 {
		s.running--
	}
	return batch
}

// storeAll stores a batch. If Postgres rejects a line in it, each shipment is
// stored separately: one product's log must not block the others'.
func (s *shipper) storeAll(batch []*shipping) {
	ctx, cancel := context.WithTimeout(s.ctx, shipTimeout)
	defer cancel()
	shipments := make([]redis.Shipment, len(batch))
	for i, item := range batch {
		shipments[i] = item.Shipment
	}
	err := s.ship(ctx, shipments)
	for i, item := range batch {
		alone := err
		if len(batch) > 1 && refused(err) {
			alone = s.ship(ctx, shipments[i:i+1])
		}
		item.done <- alone
	}
}

// refused reports whether Postgres rejected a statement (data, constraints, cardinality, names),
// rather than being unavailable.
func refused(err error) bool {
	return postgres.InClass(err, pgerrcode.CardinalityViolation, pgerrcode.DataException,
		pgerrcode.IntegrityConstraintViolation, pgerrcode.SyntaxErrorOrAccessRuleViolation)
}
