package worker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// durable is a world whose Postgres commits to the disk.
func durable(b *testing.B) *world {
	_, pool := dbtest.Own(b, db.MigrateWrite)
	return newWorldOn(b, pool, testkit.OwnRedis(b).URL())
}

// await polls without the overhead of a test, because the wait is measured.
func await(b *testing.B, within time.Duration, done func() bool) {
	b.Helper()
	for deadline := time.Now().Add(within); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("not done within %s", within)
		}
	}
}

// BenchmarkMassExpiry lets 100,000 slots of one product that are due at the same
// instant expire, with one worker or two, until the gate has all units on sale
// again; then it measures bare appends of as many events, as many at a time, by one store.
func BenchmarkMassExpiry(b *testing.B) {
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) { massExpiry(b, workers) })
	}
}

func massExpiry(b *testing.B, workers int) {
	const slots = 100_000
	for b.Loop() {
		w := durable(b)
		product := w.holders(slots, func(int) life { return life{ttl: time.Millisecond} })
		dbtest.Exec(b, w.Pool, `analyze`) // as autovacuum does for rows that have existed for half an hour

		start := time.Now()
		running, stops := make([]*Worker, workers), make([]func(), workers)
		for i := range workers {
			running[i], stops[i] = w.work()
		}
		await(b, time.Minute, func() bool { return !dbtest.One[bool](b, w.Pool, `select exists (select from slot_claims)`) })
		expired := time.Since(start)
		await(b, time.Minute, func() bool {
			s, err := w.gate.State(b.Context(), product)
			return err == nil && s.Free == slots
		})
		onSale := time.Since(start)
		conflicts := 0.0
		for i, stop := range stops {
			stop()
			conflicts += testutil.ToFloat64(running[i].metrics.conflicts.WithLabelValues("ExpireSlot"))
		}
		require.Equal(b, slots, w.count(product, "SlotExpired"))

		b.ReportMetric(expired.Seconds(), "s-expired")
		b.ReportMetric(onSale.Seconds(), "s-on-sale")
		b.ReportMetric(conflicts, "conflicts")
		b.ReportMetric(slots/expired.Seconds(), "slots/s")
		b.ReportMetric(slots/bare(b, w, slots).Seconds(), "bare-appends/s")
	}
	b.ReportMetric(0, "ns/op")
}

// bare appends n events without a guard, one stream each.
func bare(b *testing.B, w *world, n int) time.Duration {
	b.Helper()
	event := storetest.NewEvent(b, life{ttl: time.Hour}.acquired(uuid.New(), 1, 1))
	start := time.Now()
	places := make(chan struct{}, chunkConcurrency*chunkSize)
	for range n {
		places <- struct{}{}
		go func() {
			defer func() { <-places }()
			e := event
			e.ID = uuid.New()
			stream := uuid.New()
			_, err := w.Events.Append(context.Background(), eventstore.Append{Key: stream, Streams: []eventstore.StreamAppend{
				{Stream: stream, Expected: eventstore.None, Events: []eventstore.NewEvent{e}}}})
			if err != nil {
				b.Error(err)
			}
		}()
	}
	for range cap(places) {
		places <- struct{}{}
	}
	return time.Since(start)
}

// BenchmarkExpiryLateness lets 10,000 slots expire that are due throughout a
// minute, and reports how long after its deadline each ended.
func BenchmarkExpiryLateness(b *testing.B) {
	const slots = 10_000
	for b.Loop() {
		w := durable(b)
		product := w.holders(slots, func(i int) life {
			return life{ttl: 5*time.Second + time.Duration(i)*time.Minute/slots}
		})
		_, stop := w.work()
		await(b, 2*time.Minute, func() bool { return w.count(product, "SlotExpired") == slots })
		stop()
		late := w.lateness(product)
		b.ReportMetric(float64(percentile(late, 0.5).Milliseconds()), "p50-ms")
		b.ReportMetric(float64(percentile(late, 0.99).Milliseconds()), "p99-ms")
		b.ReportMetric(float64(late[len(late)-1].Milliseconds()), "max-ms")
	}
	b.ReportMetric(0, "ns/op")
}
