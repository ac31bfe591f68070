package query_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// BenchmarkExport streams a million rows in each format and prints the peak memory of the process,
// including the reading client.
func BenchmarkExport(b *testing.B) {
	const rows = 1_000_000
	w := newWorld(b)
	w.exec(`INSERT INTO purchases_g1 SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), NULL, 'PENDING', 12.5, 'USD',
		'CARD', NULL, NULL, NULL, $1::timestamptz + make_interval(secs => n), $1::timestamptz + make_interval(secs => n), 1 FROM generate_series(1, $2::int) n`, day, rows)
	w.exec(`INSERT INTO slot_audit_log_g1 SELECT gen_random_uuid(), 'SlotAcquired', gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), NULL, 'ACTIVE',
		'0af7651916cd43dd8448eb211c80319c', 'system', $1::timestamptz + make_interval(secs => n), n, '{"unit": 7, "arrivalSequence": 7}' FROM generate_series(1, $2::int) n`, day, rows)
	w.exec(`ANALYZE`)
	w.client.Timeout = 10 * time.Minute
	token := w.token(uuid.New(), admin)
	for _, c := range []struct{ path, accept string }{
		{"/v1/purchases", "text/csv"}, {"/v1/audit", "text/csv"}, {"/v1/audit", "application/x-ndjson"}, {"/v1/audit?from=2026-11-05T00:00:00Z&type=SlotAcquired", "application/x-ndjson"},
	} {
		b.Run(fmt.Sprintf("%s as %s", c.path, c.accept), func(b *testing.B) {
			for b.Loop() {
				req, err := http.NewRequest(http.MethodGet, w.url+c.path, nil)
				require.NoError(b, err)
				req.Header.Set("Authorization", "Bearer "+token)
				req.Header.Set("Accept", c.accept)
				began := time.Now()
				resp, err := w.client.Do(req)
				require.NoError(b, err)
				peak := watchHeap(b)
				n := countLines(b, resp.Body)
				require.NoError(b, resp.Body.Close())
				b.ReportMetric(float64(n)/time.Since(began).Seconds(), "rows/s")
				b.ReportMetric(float64(peak())/(1<<20), "MiB")
			}
		})
	}
}

func countLines(b *testing.B, r io.Reader) (n int) {
	b.Helper()
	buf := make([]byte, 64<<10)
	for {
		k, err := r.Read(buf)
		for _, c := range buf[:k] {
			if c == '\n' {
				n++
			}
		}
		if err == io.EOF {
			return n
		}
		require.NoError(b, err)
	}
}

// watchHeap returns a function that returns the peak heap size since.
func watchHeap(b *testing.B) func() uint64 {
	b.Helper()
	var peak atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapInuse))
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	return func() uint64 {
		close(stop)
		<-done
		return peak.Load()
	}
}

// BenchmarkReads reads the single rows that buyers read, over one connection each.
func BenchmarkReads(b *testing.B) {
	w := newWorld(b)
	me, shoe := uuid.New(), w.product(1, product{stock: 5})
	w.name(1, shoe, "Sneaker")
	id := w.slot(1, slot{product: shoe, user: me})
	w.reach("purchase_slots", 1, shoe, 10)
	token := w.token(me, buyer)
	get := func(b *testing.B, path string, h header) {
		req, err := http.NewRequest(http.MethodGet, w.url+path, nil)
		require.NoError(b, err)
		req.Header.Set("Authorization", "Bearer "+token)
		for name, value := range h {
			req.Header.Set(name, value)
		}
		resp, err := w.client.Do(req)
		require.NoError(b, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(b, err)
		require.NoError(b, resp.Body.Close())
		require.Equal(b, http.StatusOK, resp.StatusCode)
	}
	for name, c := range map[string]struct {
		path string
		h    header
	}{
		"product":   {"/v1/products/" + shoe.String(), nil},
		"my slots":  {"/v1/slots/my-slots", nil},
		"own write": {"/v1/slots/" + id.String(), atLeast(shoe, 10)},
	} {
		b.Run(name, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					get(b, c.path, c.h)
				}
			})
		})
	}
}
