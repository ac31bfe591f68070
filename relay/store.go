package relay

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/eventstore"
)

// Store is the part of the event store that the relay reads.
type Store interface {
	ReadAll(ctx context.Context, after int64, limit int) ([]eventstore.Recorded, error)
	Head(ctx context.Context) (int64, error)
	Identity(ctx context.Context) (eventstore.Identity, error)
	IDs(ctx context.Context, positions []int64) (map[int64]uuid.UUID, error)
	KeysDown(ctx context.Context, from int64, limit int) ([]eventstore.KeyAt, error)
}

// boundedStore is a Store with a deadline for each read. The store's connections are not the
// leader's: one whose server stopped responding does not end the term, and a read on it would wait
// as long as the term lasts.
type boundedStore struct {
	store   Store
	timeout time.Duration
}

func (r *Relay) store() Store { return boundedStore{r.cfg.Store, r.readTimeout} }

func (b boundedStore) ReadAll(ctx context.Context, after int64, limit int) ([]eventstore.Recorded, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	return b.store.ReadAll(ctx, after, limit)
}

func (b boundedStore) Head(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	return b.store.Head(ctx)
}

func (b boundedStore) Identity(ctx context.Context) (eventstore.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	return b.store.Identity(ctx)
}

func (b boundedStore) IDs(ctx context.Context, positions []int64) (map[int64]uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	return b.store.IDs(ctx, positions)
}

func (b boundedStore) KeysDown(ctx context.Context, from int64, limit int) ([]eventstore.KeyAt, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	return b.store.KeysDown(ctx, from, limit)
}
