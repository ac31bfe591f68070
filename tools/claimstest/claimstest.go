// Package claimstest is the fixture of the packages that work on the claims and the gates' rows:
// an event store on a separate database, products, and appends of guard items.
package claimstest

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
)

// World is an event store with its claims and the gates' rows.
type World struct {
	TB     testing.TB
	Pool   *pgxpool.Pool
	Events *eventstore.Store
	Claims *claims.Store
	Gates  *gatestore.Store
}

// New returns an empty World.
func New(tb testing.TB) *World {
	tb.Helper()
	return NewOn(tb, dbtest.Write(tb))
}

// NewOn is New on a database with the write side's tables.
func NewOn(tb testing.TB, pool *pgxpool.Pool) *World {
	tb.Helper()
	return &World{
		TB: tb, Pool: pool, Events: storetest.Open(tb, pool),
		Claims: claims.NewStore(pool), Gates: gatestore.NewStore(pool, avsc.Decode),
	}
}

// Item is an item of the claims' guard.
type Item interface{ GuardItem() eventstore.GuardItem }

// Do appends items without events.
func (w *World) Do(items ...Item) error {
	a := eventstore.Append{Key: uuid.New()}
	for _, i := range items {
		a.Guards = append(a.Guards, i.GuardItem())
	}
	_, err := w.Events.Append(w.TB.Context(), a)
	return err
}

// Must is Do, and fails the test if the items are refused.
func (w *World) Must(items ...Item) {
	w.TB.Helper()
	if err := w.Do(items...); err != nil {
		w.TB.Fatalf("append items: %v", err)
	}
}

// Append appends events to a stream, with a guard's item.
func (w *World) Append(product, stream uuid.UUID, guard eventstore.GuardItem, events ...domain.Event) error {
	s := eventstore.StreamAppend{Stream: stream, Expected: eventstore.Any}
	for _, e := range events {
		s.Events = append(s.Events, storetest.NewEvent(w.TB, e))
	}
	_, err := w.Events.Append(context.Background(), eventstore.Append{
		Key: product, Streams: []eventstore.StreamAppend{s}, Guards: []eventstore.GuardItem{guard},
	})
	return err
}

// Create records a product whose sale begins at from.
func (w *World) Create(id uuid.UUID, stock int, from time.Time) {
	w.TB.Helper()
	event := domain.ProductCreated{Name: "n", Description: "d", Price: storetest.KRW(w.TB, 1000), Stock: stock, SaleDate: from}
	if err := w.Append(id, id, claims.Create{Product: id, Stock: stock, SaleDate: from}.GuardItem(), event); err != nil {
		w.TB.Fatalf("create a product: %v", err)
	}
}

// Product creates a product and raises its epoch to 0.
func (w *World) Product(stock int) uuid.UUID {
	w.TB.Helper()
	id := uuid.New()
	w.Must(claims.Create{Product: id, Stock: stock, SaleDate: time.Now()})
	if !w.Raise(id, redis.NoEpoch, redis.NoEpoch).Raised {
		w.TB.Fatal("epoch 0 was not raised")
	}
	return id
}

// Raise raises the epoch of one product for a rebuild.
func (w *World) Raise(product uuid.UUID, found, above int64) redis.RaiseResult {
	w.TB.Helper()
	results, err := w.Gates.Raise(w.TB.Context(), []redis.RaiseRequest{{Product: product, Found: found, Above: above, Owner: uuid.New()}})
	if err != nil {
		w.TB.Fatal(err)
	}
	return results[0]
}

// Claim returns the claim of a new buyer, valid for 30 minutes.
func Claim(product uuid.UUID, number int64, unit int) claims.Claim {
	return claims.Claim{
		Product: product, SlotID: domain.SlotID(product, number), Number: number, Unit: unit,
		Buyer: uuid.New(), TTL: 30 * time.Minute, Warning: 5 * time.Minute,
	}
}
