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
	// catalogueSize is how many products a node caches; one more replaces any other.
	catalogueSize = 10_000
	// catalogueRead bounds one read of a product's stream.
	catalogueRead = 3 * time.Second
)

// catalogue reads products from their streams and caches them,
// so that a read of a product reads only later events, and reads of
// one product that arrive while one is in progress share the read after it.
// Every result is therefore at least as recent as its request, and a node
// never has more than one read of a product in progress.
type catalogue struct {
	read func(ctx context.Context, product uuid.UUID, afterVersion int) ([]domain.Envelope, error)

	mu      sync.Mutex
	entries map[uuid.UUID]*catalogued
}

// catalogued is one product; the catalogue's mutex guards all of it except
// last, which belongs to the read in progress.
type catalogued struct {
	product domain.Product
	last    uuid.UUID // the event of product.Version
	running *lookup
	next    *lookup // starts when running has ended
}

// lookup is one read that many callers may wait for. Its result is valid once done is closed.
type lookup struct {
	done    chan struct{}
	product domain.Product
	err     error
}

func newCatalogue(read func(context.Context, uuid.UUID, int) ([]domain.Envelope, error)) *catalogue {
	return &catalogue{read: read, entries: map[uuid.UUID]*catalogued{}}
}

// product returns the current product, or domain.ErrNoProduct.
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

// remembered returns the cached product without reading its stream.
func (c *catalogue) remembered(id uuid.UUID) (domain.Product, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[id]
	if !ok {
		return domain.Product{}, false
	}
	return e.product, e.product.Exists()
}

// join returns a read of the product that begins after the call, which callers share: one that is in
// progress may have missed the caller's own command.
func (c *catalogue) join(id uuid.UUID) *lookup {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[id]
	if !ok {
		c.makeRoom()
		e = &catalogued{}
		c.entries[id] = e
	}
	if e.running == nil {
		e.running = &lookup{done: make(chan struct{})}
		go c.run(id, e, e.running)
		return e.running
	}
	if e.next == nil {
		e.next = &lookup{done: make(chan struct{})}
	}
	return e.next
}

// run reads for the callers that arrived before it began, and then for those that arrived since.
func (c *catalogue) run(id uuid.UUID, e *catalogued, l *lookup) {
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

// refresh applies the events after the known ones. It also reads the last known event:
// a store that was restored to an earlier moment may not have it, and the cached state
// then belongs to a history that no longer exists. It has its own timeout, because it reads
// for many callers, of which one may have left.
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

// makeRoom evicts a product that is not being read. The caller holds the mutex.
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
