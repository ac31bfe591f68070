package eventstore

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/devservices"
)

// durable returns a migrated database on its own server, whose commits are flushed to
// the disk, unlike those of the tests' shared server.
func durable(b *testing.B) *pgxpool.Pool {
	b.Helper()
	pg, err := devservices.StartPostgres(b.Context(), devservices.PostgresOptions{Dir: b.TempDir(), Disposable: true})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, pg.Stop(context.Background())) })
	require.NoError(b, db.MigrateWrite(b.Context(), pg.URL()))
	return newPool(b, pg.URL())
}

const payload = `{"product":"0190b0a0-0000-7000-8000-000000000001","buyer":"0190b0a0-0000-7000-8000-000000000002","unit":4711,"arrivalSequence":10000004711,"ttl":"30m0s"}`

func benchEvent() NewEvent {
	return NewEvent{ID: uuid.New(), Type: "SlotAcquired", SchemaVersion: 1, Payload: []byte(payload), Meta: Meta{
		Traceparent:   "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		CorrelationID: "0190b0a0-0000-7000-8000-000000000003",
		CausationID:   "0190b0a0-0000-7000-8000-000000000004",
		Actor:         "0190b0a0-0000-7000-8000-000000000002",
	}}
}

// BenchmarkAppend lets 64 callers append single events, alternating with bare
// `unnest` inserts of the same events, 64 per transaction, by one writer: the cost
// without lock, guards, detection of repeats, versions and notification.
// It prints the ratio of the medians of the rounds.
func BenchmarkAppend(b *testing.B) {
	pool := durable(b)
	s := open(b, pool, Options{})
	const callers, round = 64, 64 * 64
	var appends, bares, latencies []time.Duration
	for b.Loop() {
		appends = append(appends, appendRound(b, s, callers, round, &latencies))
		bares = append(bares, bareRound(b, pool, callers, round))
	}
	slices.Sort(latencies)
	rate := func(d time.Duration) float64 { return round / d.Seconds() }
	own, bare := rate(median(appends)), rate(median(bares))
	b.ReportMetric(own, "events/s")
	b.ReportMetric(bare, "bare-events/s")
	b.ReportMetric(own/bare, "ratio")
	b.ReportMetric(float64(latencies[len(latencies)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(latencies[len(latencies)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(0, "ns/op")
}

func appendRound(b *testing.B, s *Store, callers, n int, latencies *[]time.Duration) time.Duration {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(n))
	took := make([][]time.Duration, callers)
	var all sync.WaitGroup
	begun := time.Now()
	for c := range callers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				stream := uuid.New()
				asked := time.Now()
				_, err := s.Append(context.Background(), Append{Key: stream, Streams: []StreamAppend{
					{Stream: stream, Expected: None, Events: []NewEvent{benchEvent()}}}})
				took[c] = append(took[c], time.Since(asked))
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	whole := time.Since(begun)
	*latencies = append(*latencies, slices.Concat(took...)...)
	return whole
}

func bareRound(b *testing.B, pool *pgxpool.Pool, batch, n int) time.Duration {
	b.Helper()
	head, err := NewReader(pool).Head(context.Background())
	require.NoError(b, err)
	begun := time.Now()
	for done := 0; done < n; done += batch {
		sql, args := benchAttempt(batch, head).insertion()
		dbtest.Exec(b, pool, sql, args...)
		head += int64(batch)
	}
	return time.Since(begun)
}

// benchAttempt is a transaction that has accepted one event each for n new streams.
func benchAttempt(n int, head int64) *attempt {
	a := &attempt{head: head, at: time.Now(), versions: map[uuid.UUID]int{}, events: n}
	for i := range n {
		stream := uuid.New()
		a.items = append(a.items, newItem(Append{Key: stream, Streams: []StreamAppend{
			{Stream: stream, Events: []NewEvent{benchEvent()}}}}))
		a.versions[stream] = 1
		a.accepted = append(a.accepted, i)
	}
	return a
}

// BenchmarkRead reads the log page by page, as a replay does, alternating with bare
// row fetching that decodes nothing.
func BenchmarkRead(b *testing.B) {
	pool := durable(b)
	const events = 50_000
	for head := int64(0); head < events; {
		bareRound(b, pool, 1000, 1000)
		head += 1000
	}
	r := NewReader(pool)
	var reads, bares []time.Duration
	for b.Loop() {
		begun, n := time.Now(), 0
		for {
			page, err := r.ReadAll(context.Background(), int64(n), 5000)
			require.NoError(b, err)
			if len(page) == 0 {
				break
			}
			n += len(page)
		}
		require.Equal(b, events, n)
		reads = append(reads, time.Since(begun))

		begun, n = time.Now(), 0
		for n < events {
			rows, err := pool.Query(context.Background(), selectEvents+"where position > $1 order by position limit $2", n, 5000)
			require.NoError(b, err)
			for rows.Next() {
				n++
			}
			require.NoError(b, rows.Err())
		}
		bares = append(bares, time.Since(begun))
	}
	own, bare := events/median(reads).Seconds(), events/median(bares).Seconds()
	b.ReportMetric(own, "events/s")
	b.ReportMetric(bare, "bare-events/s")
	b.ReportMetric(own/bare, "ratio")
	b.ReportMetric(0, "ns/op")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
