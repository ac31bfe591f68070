// Package storetest provides tests with an event store on a separate migrated database: the part
// that the packages' fixtures share.
package storetest

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/tools/dbtest"
)

// Store is an event store and its database, with the tables of both sides.
type Store struct {
	*eventstore.Store
	Pool   *pgxpool.Pool
	Reader *eventstore.Reader
	URL    string
}

// New returns a store whose pool has up to maxConns connections; 0: pgx's default. Everything is
// closed at the test's end.
func New(tb testing.TB, maxConns int32) *Store {
	tb.Helper()
	database := dbtest.Both(tb)
	pool := database.Pool
	if maxConns > 0 {
		pool = Pool(tb, database.URL, maxConns)
	}
	return &Store{Store: Open(tb, pool), Pool: pool, Reader: eventstore.NewReader(pool), URL: database.URL}
}

// Open returns another process's store on the same database; it is closed at the test's end.
func Open(tb testing.TB, pool *pgxpool.Pool) *eventstore.Store {
	tb.Helper()
	store, err := eventstore.Open(context.Background(), pool, eventstore.Options{})
	if err != nil {
		tb.Fatalf("open the event store: %v", err)
	}
	tb.Cleanup(func() {
		if err := store.Close(context.Background()); err != nil {
			tb.Errorf("close the event store: %v", err)
		}
	})
	return store
}

// Pool returns a pool that is closed at the test's end.
func Pool(tb testing.TB, url string, maxConns int32) *pgxpool.Pool {
	tb.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		tb.Fatalf("parse the database's URL: %v", err)
	}
	cfg.MaxConns = maxConns
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		tb.Fatalf("open a pool: %v", err)
	}
	tb.Cleanup(pool.Close)
	return pool
}

// Meta is the metadata of every event that NewEvent returns.
var Meta = eventstore.Meta{
	Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", CorrelationID: "corr", CausationID: "cause", Actor: domain.ActorSystem,
}

// NewEvent encodes an event, with a new id.
func NewEvent(tb testing.TB, e domain.Event) eventstore.NewEvent {
	tb.Helper()
	typ, version, payload, err := avsc.Encode(e)
	if err != nil {
		tb.Fatalf("encode %s: %v", e.EventType(), err)
	}
	return eventstore.NewEvent{ID: uuid.New(), Type: typ, SchemaVersion: version, Payload: payload, Meta: Meta}
}

// KRW returns an amount of won.
func KRW(tb testing.TB, amount int64) domain.Money {
	tb.Helper()
	m, err := domain.NewMoney(decimal.NewFromInt(amount), "KRW")
	if err != nil {
		tb.Fatalf("money: %v", err)
	}
	return m
}

// Lamp returns the creation of a product whose sale begins in an hour.
func Lamp(tb testing.TB, stock int) domain.ProductCreated {
	tb.Helper()
	return domain.ProductCreated{Name: "Lamp", Description: "A lamp", Price: KRW(tb, 259000), Stock: stock,
		SaleDate: time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)}
}

// Acquired returns the beginning of a slot of 30 minutes.
func Acquired(user uuid.UUID, unit int, number int64) domain.SlotAcquired {
	return domain.SlotAcquired{UserID: user, Unit: unit, ArrivalSequence: number, TTLMillis: 1800000, WarningMillis: 300000}
}

// Logger returns a logger of warnings that prints with the test's name if tests run verbosely.
func Logger(tb testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(writer{tb}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type writer struct{ tb testing.TB }

func (w writer) Write(b []byte) (int, error) {
	if testing.Verbose() {
		fmt.Print(w.tb.Name(), " ", string(b)) // tb.Log panics after the test has ended
	}
	return len(b), nil
}
