package command

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
)

const (
	// catalogueSize is how many products a node remembers; one more pushes any other out.
	catalogueSize = 10_000
	// catalogueRead bounds one read of a product's stream.
	catalogueRead = 3 * time.Second
)

// catalogue reads products from their streams. It remembers what it has read,
// so that a look at a product reads only what happened since, and the looks at
// one product that arrive while a read is under way share the read after it.
// Every answer is therefore as of a moment after its question, and a product
// never has more than one read under way on a node.
type catalogue struct {
	read func(ctx context.Context, product uuid.UUID, afterVersion int) ([]domain.Envelope, error)

	mu      sync.Mutex
	entries map[uuid.UUID]*catalogued
}

// catalogued is one product; all of it is guarded by the catalogue's mutex, but for
// last, which belongs to the read that is under way.
type catalogued struct {
	product domain.Product
	last    uuid.UUID // the event of product.Version
	running *look
	next    *look // starts when running has ended
}

// look is one read that many may wait for. Its result is there once done is closed.
type look struct {
	done    chan struct{}
	product domain.Product
	err     error
}

func newCatalogue(read func(context.Context, uuid.UUID, int) ([]domain.Envelope, error)) *catalogue {
	return &catalogue{read: read, entries: map[uuid.UUID]*catalogued{}}
}

// product is the product as it is now, or domain.ErrNoProduct.
func (c *catalogue) product(ctx context.Context, id uuid.UUID) (domain.Product, error) {
	l := c.join(id)
	select {
	case <-l.done:
	case <-ctx.Done():
		return domain.Product{}, fmt.Errorf("read product %s: %w", id, ctx.Err())
	}
	if l.err != nil {
		return domain.Product{}, fmt.Errorf("read product %s: %w", id, l.err)
	}
	if !l.product.Exists() {
		return domain.Product{}, domain.ErrNoProduct
	}
	return l.product, nil
}

// remembered is the product as it was last read, without a look.
func (c *catalogue) remembered(id uuid.UUID) (domain.Product, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[id]
	if !ok {
		return domain.Product{}, false
	}
	return e.product, e.product.Exists()
}

func (c *catalogue) join(id uuid.UUID) *look {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[id]
	if !ok {
		c.makeRoom()
		e = &catalogued{}
		c.entries[id] = e
	}
	if e.running == nil {
		e.running = &look{done: make(chan struct{})}
		go c.run(id, e, e.running)
		return e.running
	}
	if e.next == nil {
		e.next = &look{done: make(chan struct{})}
	}
	return e.next
}

// run reads for whoever asked before it began, and then for those who asked since.
func (c *catalogue) run(id uuid.UUID, e *catalogued, l *look) {
	for l != nil {
		var last uuid.UUID
		l.product, last, l.err = c.refresh(id, e.product, e.last)
		c.mu.Lock()
		if l.err == nil {
			e.product, e.last = l.product, last
		}
		if !l.product.Exists() && e.next == nil {
			delete(c.entries, id)
		}
		e.running, e.next = e.next, nil
		following := e.running
		c.mu.Unlock()
		close(l.done)
		l = following
	}
}

// refresh applies the events behind the known ones. The last known event is read, too:
// a store that was restored to an earlier moment may not have it, and what was folded is
// then of a history that nobody else has. It has a timeout of its own: it reads for many,
// of whom one may have gone.
func (c *catalogue) refresh(id uuid.UUID, known domain.Product, last uuid.UUID) (domain.Product, uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(context.Background(), catalogueRead)
	defer cancel()
	events, err := c.read(ctx, id, max(0, known.Version-1))
	if err != nil {
		return known, last, err
	}
	folded := known
	switch {
	case known.Version == 0:
	case len(events) > 0 && events[0].EventID == last:
		events = events[1:]
	default: // the store lost it
		folded = domain.Product{}
		if events, err = c.read(ctx, id, 0); err != nil {
			return known, last, err
		}
	}
	for _, e := range events {
		folded, last = domain.EvolveProduct(folded, e), e.EventID
	}
	return folded, last, nil
}

// makeRoom forgets a product that nobody is reading. The caller holds the mutex.
func (c *catalogue) makeRoom() {
	if len(c.entries) < catalogueSize {
		return
	}
	for id, e := range c.entries {
		if e.running == nil {
			delete(c.entries, id)
			return
		}
	}
}
