package command

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
)

// tape is a product's stream that a test writes; reads block until the test lets them pass.
type tape struct {
	mu     sync.Mutex
	events []domain.Envelope
	err    error
	reads  atomic.Int32
	pass   chan struct{} // one read passes for each value; nil: all pass
}

func (p *tape) write(id uuid.UUID, events ...domain.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range events {
		v := len(p.events) + 1
		p.events = append(p.events, domain.Envelope{EventID: uuid.New(), StreamID: id, StreamVersion: v, Position: int64(v), Event: e})
	}
}

// restore removes the events after a version, like a store that is restored to an
// earlier moment.
func (p *tape) restore(version int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = p.events[:version]
}

func (p *tape) read(_ context.Context, _ uuid.UUID, after int) ([]domain.Envelope, error) {
	p.reads.Add(1)
	p.mu.Lock()
	events, err := append([]domain.Envelope{}, p.events[min(after, len(p.events)):]...), p.err
	p.mu.Unlock()
	if p.pass != nil {
		<-p.pass
	}
	return events, err
}

func TestCatalogue_ReturnsCurrentState(t *testing.T) {
	id, p := uuid.New(), &tape{pass: make(chan struct{})}
	c := newCatalogue(p.read)
	p.write(id, domain.ProductCreated{Name: "first"})
	first := c.join(id) // reads "first" and is blocked
	require.Eventually(t, func() bool { return p.reads.Load() == 1 }, time.Second, time.Millisecond)

	p.write(id, domain.ProductDetailsChanged{Name: "second"})
	var later []*lookup
	for range 100 {
		later = append(later, c.join(id))
	}
	close(p.pass)
	<-first.done
	require.Equal(t, "first", first.product.Name)
	for _, l := range later {
		<-l.done
		require.Equal(t, "second", l.product.Name, "a result older than its request")
	}
	require.Equal(t, int32(2), p.reads.Load(), "a hundred requests share one read")
}

func TestCatalogue_DoesNotCacheMissingProducts(t *testing.T) {
	id, p := uuid.New(), &tape{}
	c := newCatalogue(p.read)
	_, err := c.product(t.Context(), id)
	require.ErrorIs(t, err, domain.ErrNoProduct)
	require.Empty(t, c.entries)

	p.write(id, domain.ProductCreated{Name: "n"})
	got, err := c.product(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "n", got.Name)

	p.err = errors.New("away")
	_, err = c.product(t.Context(), id)
	require.ErrorIs(t, err, p.err)
	known, ok := c.remembered(id)
	require.True(t, ok, "a failed read keeps the cached product")
	require.Equal(t, "n", known.Name)

	p.err = nil
	p.write(id, domain.ProductDeleted{})
	_, err = c.product(t.Context(), id)
	require.ErrorIs(t, err, domain.ErrNoProduct)
	require.Empty(t, c.entries)
}

func TestCatalogue_DropsStateThatRestoredStoreLost(t *testing.T) {
	id, p := uuid.New(), &tape{}
	c := newCatalogue(p.read)
	p.write(id, domain.ProductCreated{Name: "n"}, domain.ProductSalePaused{}, domain.ProductSaleResumed{})
	got, err := c.product(t.Context(), id)
	require.NoError(t, err)
	require.False(t, got.Paused)

	p.restore(2)
	got, err = c.product(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, 2, got.Version, "a version that the store does not have conflicts with every append")
	require.True(t, got.Paused)

	p.write(id, domain.ProductSaleResumed{})
	_, err = c.product(t.Context(), id)
	require.NoError(t, err)
	p.restore(1)
	p.write(id, domain.ProductDetailsChanged{Name: "m"}, domain.ProductSalePaused{}, domain.ProductDetailsChanged{Name: "o"})
	got, err = c.product(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "o", got.Name)
	require.True(t, got.Paused, "the new history is longer than the lost one and is not applied on top of it")

	p.restore(0)
	_, err = c.product(t.Context(), id)
	require.ErrorIs(t, err, domain.ErrNoProduct)
	require.Empty(t, c.entries)
}

func TestCatalogue_IsBounded(t *testing.T) {
	c := newCatalogue(func(_ context.Context, id uuid.UUID, _ int) ([]domain.Envelope, error) {
		return []domain.Envelope{{StreamID: id, StreamVersion: 1, Event: domain.ProductCreated{}}}, nil
	})
	for range catalogueSize + 10 {
		_, err := c.product(t.Context(), uuid.New())
		require.NoError(t, err)
	}
	require.LessOrEqual(t, len(c.entries), catalogueSize)
}
