package replay_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/tools/pipelinetest"
)

// history creates a history of n events with SQL, like the one that a year of drops produces: a
// thousand slots are acquired, they expire, then the next thousand.
func (s *system) history(n int) {
	product := s.open(1).product
	s.Exec(`
		INSERT INTO events (position, id, stream, version, key, type, schema_version, payload, traceparent, correlation_id, causation_id, actor, recorded_at)
		SELECT i + 2, gen_random_uuid(), md5('slot' || k)::uuid, CASE WHEN acquires THEN 1 ELSE 2 END, $1,
		       CASE WHEN acquires THEN 'SlotAcquired' ELSE 'SlotExpired' END, 1,
		       CASE WHEN acquires
		            THEN json_build_object('userId', md5('user' || k)::uuid, 'unit', 1 + k % 1000, 'arrivalSequence', k + 1, 'ttl', 1800000, 'warning', 300000)
		            ELSE json_build_object('userId', md5('user' || k)::uuid, 'unit', 1 + k % 1000, 'arrivalSequence', k + 1, 'deadline', '2026-11-01T10:00:00Z', 'reclaimStatus', 'AUTO_EXPIRED')
		       END,
		       '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', gen_random_uuid(), gen_random_uuid(), md5('user' || k)::uuid,
		       (SELECT max(recorded_at) FROM events) + i * interval '1 millisecond'
		FROM (SELECT i, i / 2000 * 1000 + i % 1000 AS k, i % 2000 < 1000 AS acquires FROM generate_series(0, $2::int - 2) i) a ORDER BY i`,
		product, n)
	s.Exec(`VACUUM (ANALYZE) events`)
}

// benchEvents returns the number of events to replay; DOPAMINE_BENCH_EVENTS sets it.
func benchEvents() int {
	if n, err := strconv.Atoi(os.Getenv("DOPAMINE_BENCH_EVENTS")); err == nil {
		return n
	}
	return 1_000_000
}

// BenchmarkReplay alternates a replay with the unavoidable work: reading the same events in
// parallel with a COPY of the same rows, then building the same indexes with the same concurrency.
// It prints both rates, their ratio, and the peak memory.
func BenchmarkReplay(b *testing.B) {
	s := newSystem(b, nil)
	n := benchEvents()
	s.history(n)
	choices := map[string][]projections.Rebuildable{"all": pipelinetest.Rebuildable()}
	for _, p := range pipelinetest.Rebuildable() {
		choices[p.Name()] = []projections.Rebuildable{p}
	}
	for _, name := range []string{"purchase_slots", "slot_audit_log", "products", "all"} {
		b.Run(name, func(b *testing.B) {
			var ours, raw time.Duration
			var most atomic.Uint64
			var rss float64
			for b.Loop() {
				cfg := s.config()
				cfg.Projections, cfg.DropOld = choices[name], true
				cfg.OnProgress = func(replay.Replay) {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					most.Store(max(most.Load(), m.HeapInuse))
				}
				resetPeak()
				began := time.Now()
				require.NoError(b, replay.Run(b.Context(), cfg))
				ours += time.Since(began)
				rss = max(rss, peak())
				began = time.Now()
				s.raw(b, choices[name])
				raw += time.Since(began)
			}
			per := float64(n * b.N)
			b.ReportMetric(per/ours.Seconds(), "events/s")
			b.ReportMetric(per/raw.Seconds(), "raw-events/s")
			b.ReportMetric(raw.Seconds()/ours.Seconds(), "ratio")
			b.ReportMetric(float64(most.Load())/(1<<20), "heap-MB")
			b.ReportMetric(rss, "rss-MB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// resetPeak resets peak, the maximum memory that the process used, in MB. peak is 0 if it is not
// known.
func resetPeak() {
	runtime.GC()
	debug.FreeOSMemory()
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o200)
}

func peak() float64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kb, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	n, _ := strconv.ParseFloat(kb, 64)
	return n / 1024
}

// raw reads the log and copies the live tables into other tables.
func (s *system) raw(b *testing.B, all []projections.Rebuildable) {
	const spare = 999_999
	ctx := b.Context()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for after := int64(0); ; {
			page, err := s.Reader.ReadAll(groupCtx, after, 5000)
			if err != nil || len(page) == 0 {
				return err
			}
			after = page[len(page)-1].Position
		}
	})
	for _, p := range all {
		s.Exec(`SELECT projection_create_tables($1, $2)`, p.Name(), spare)
		for _, table := range p.Tables() {
			group.Go(func() error { return s.copyTable(groupCtx, table.Base, s.Generation(p.Name()), spare) })
		}
	}
	require.NoError(b, group.Wait())
	s.rawIndexes(ctx, all, spare)
	for _, p := range all {
		s.Exec(`SELECT projection_drop_tables($1, $2)`, p.Name(), spare)
	}
}

// rawIndexes builds the indexes as the replay does, two at a time.
func (s *system) rawIndexes(ctx context.Context, all []projections.Rebuildable, generation int) {
	var group errgroup.Group
	group.SetLimit(2)
	for _, p := range all {
		rows, err := s.Pool.Query(ctx, `SELECT base, suffix FROM projection_indexes($1)`, p.Name())
		require.NoError(s.TB, err)
		var base, suffix string
		_, err = pgx.ForEachRow(rows, []any{&base, &suffix}, func() error {
			b := &pgx.Batch{} // one transaction
			b.Queue(`SET LOCAL maintenance_work_mem = '128MB'`)
			b.Queue(`SET LOCAL max_parallel_maintenance_workers = 0`)
			b.Queue(`SELECT projection_create_indexes($1, $2, $3, $4)`, p.Name(), generation, base, suffix)
			group.Go(func() error { return s.Pool.SendBatch(ctx, b).Close() })
			return nil
		})
		require.NoError(s.TB, err)
	}
	require.NoError(s.TB, group.Wait())
	for _, p := range all {
		s.Exec(`SELECT projection_create_indexes($1, $2)`, p.Name(), generation) // the keys
	}
}

// copyTable copies rows through the client, in Postgres' binary format.
func (s *system) copyTable(ctx context.Context, base string, from, to int) error {
	columns := ""
	if err := s.Pool.QueryRow(ctx, `
		SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
		WHERE attrelid = $1::regclass AND attnum > 0 AND attgenerated = ''`, projections.Table(base, from)).Scan(&columns); err != nil {
		return err
	}
	source, err := s.Pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer source.Release()
	target, err := s.Pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer target.Release()
	r, w := io.Pipe()
	var group errgroup.Group
	group.Go(func() error {
		_, err := source.Conn().PgConn().CopyTo(ctx, w, fmt.Sprintf(`COPY %s (%s) TO STDOUT (FORMAT binary)`, projections.Table(base, from), columns))
		return w.CloseWithError(err)
	})
	group.Go(func() error {
		_, err := target.Conn().PgConn().CopyFrom(ctx, r, fmt.Sprintf(`COPY %s (%s) FROM STDIN (FORMAT binary)`, projections.Table(base, to), columns))
		return r.CloseWithError(err)
	})
	return group.Wait()
}
