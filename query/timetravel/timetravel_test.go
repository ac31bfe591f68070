package timetravel

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reads counts what is read of a product's events.
type reads struct {
	pages   atomic.Int64 // of the count of units held
	streams atomic.Int64
}

func (r *reads) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	switch {
	case d.SQL == heldPageSQL:
		r.pages.Add(1)
	case strings.Contains(d.SQL, "where stream = $1"):
		r.streams.Add(1)
	}
	return ctx
}

func (r *reads) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// product returns a new product with n acquired slots, one each millisecond after began, and what is
// read of it through pool.
func product(t *testing.T, n int) (pool *pgxpool.Pool, read *reads, id uuid.UUID, began time.Time) {
	t.Helper()
	plain := dbtest.Write(t)
	read, id, began = &reads{}, uuid.New(), time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	cfg := plain.Config()
	cfg.ConnConfig.Tracer = read
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	created := storetest.NewEvent(t, storetest.Lamp(t, 1000))
	dbtest.Exec(t, plain, `INSERT INTO events VALUES (1, $1, $2, 1, $2, $3, $4, $5, '', '', '', 'system', $6)`,
		uuid.New(), id, created.Type, created.SchemaVersion, string(created.Payload), began)
	dbtest.Exec(t, plain, `INSERT INTO events SELECT i + 1, gen_random_uuid(), gen_random_uuid(), 1, $1, 'SlotAcquired', 1, '{}',
		'', '', '', 'system', $2::timestamptz + i * interval '1 ms' FROM generate_series(1, $3::int) i`, id, began, n)
	return pool, read, id, began
}

// However many events a product has, a request reads at most one page of those that were counted before.
func TestHeldCounts_CountEachEventOnce(t *testing.T) {
	t.Parallel()
	pool, read, id, began := product(t, 99)
	counts := newHeldCounts(pool)
	counts.page = 10
	for _, c := range []struct {
		ms    int
		pages int64
		why   string
	}{
		{5, 1, "less than a page"},
		{95, 10, "nothing is kept yet"},
		{95, 1, "the same moment"},
		{91, 1, "an earlier moment of the last page"},
		{55, 1, "an earlier page"},
		{5, 1, "the first page"},
		{1000, 2, "the last page is complete, and nothing follows"},
		{1000, 1, "all pages are kept"},
	} {
		before := read.pages.Load()
		held, err := counts.at(t.Context(), id, began.Add(time.Duration(c.ms)*time.Millisecond))
		require.NoError(t, err)
		require.Equal(t, min(c.ms, 99), held, c.why)
		require.Equal(t, c.pages, read.pages.Load()-before, c.why)
	}
}

// The state at a past moment never changes: all requests for one moment share one read.
func TestProduct_MomentIsReadOnce(t *testing.T) {
	t.Parallel()
	pool, read, id, began := product(t, 7)
	reader := New(pool)
	var requests sync.WaitGroup
	for range 20 {
		requests.Go(func() {
			shown, err := reader.Product(t.Context(), id, began.Add(5*time.Millisecond))
			if err != nil || shown.Stock != 995 {
				t.Errorf("%d free, %v", shown.Stock, err)
			}
		})
	}
	requests.Wait()
	require.Equal(t, []int64{1, 1}, []int64{read.streams.Load(), read.pages.Load()})

	shown, err := reader.Product(t.Context(), id, began.Add(6*time.Millisecond))
	require.NoError(t, err)
	require.EqualValues(t, 994, shown.Stock)
	require.Equal(t, []int64{2, 2}, []int64{read.streams.Load(), read.pages.Load()})
}
