package eventstore_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/eventstore"
)

// Append an event to a new stream, and read the partition.
func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://localhost/dopamine")
	if err != nil {
		panic(err)
	}
	defer pool.Close()
	store, err := eventstore.Open(ctx, pool, eventstore.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = store.Close(ctx) }()

	product := uuid.New()
	event := eventstore.NewEvent{ID: uuid.New(), Type: "ProductCreated", SchemaVersion: 1, Payload: []byte(`{"name":"shoe"}`)}
	result, err := store.Append(ctx, eventstore.Append{
		Key:     product,
		Streams: []eventstore.StreamAppend{{Stream: product, Expected: eventstore.None, Events: []eventstore.NewEvent{event}}},
	})
	if errors.Is(err, eventstore.ErrConflict) {
		fmt.Println("another append to the stream came first: read it and decide again")
		return
	}
	if err != nil {
		panic(err)
	}

	events, err := eventstore.NewReader(pool).ReadPartition(ctx, product, 0, result.Position, 100)
	if err != nil {
		panic(err)
	}
	for _, e := range events {
		fmt.Println(e.Position, e.Type, string(e.Payload))
	}
}

// Reserve an entry of the queue before the work that leads to the append, so that the
// append cannot be rejected for load.
func ExampleStore_Reserve() {
	ctx := context.Background()
	var store *eventstore.Store // from Open
	reservation, err := store.Reserve()
	if errors.Is(err, eventstore.ErrOverloaded) {
		fmt.Println("respond 503")
		return
	}
	if err != nil {
		panic(err)
	}
	defer reservation.Release() // does nothing after Append
	result, err := reservation.Append(ctx, eventstore.Append{ /* … */ })
	fmt.Println(result.Position, err)
}

// Follow the log: wait for a notification, then read all events after the last position.
func ExampleNotifier_Wait() {
	ctx := context.Background()
	var pool *pgxpool.Pool // of the write side
	reader, notifier := eventstore.NewReader(pool), eventstore.Listen(ctx, pool)
	defer notifier.Close()
	for position := int64(0); ; {
		events, err := reader.ReadAll(ctx, position, 1000)
		if err != nil {
			return
		}
		for _, e := range events {
			fmt.Println(e.Position, e.Type)
			position = e.Position
		}
		if len(events) == 0 && notifier.Wait(ctx, position) != nil {
			return
		}
	}
}
