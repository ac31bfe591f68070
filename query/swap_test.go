package query_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
)

// TestSwap_IsInvisible swaps every projection's generation, and drops the old one immediately,
// while lists are read. Each read sees all rows each time.
func TestSwap_IsInvisible(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	me, shoe := uuid.New(), uuid.New()
	const rows = 50
	for i := range rows {
		w.product(1, product{id: uuid.UUID{0: 1, 15: byte(i)}})
		w.payment(1, payment{product: shoe, user: me})
		w.slot(1, slot{product: uuid.New(), user: me})
		w.audit(1, entry{slot: uuid.New(), product: shoe, user: me, at: day, position: int64(i + 1)})
	}
	token := w.token(me, auth.Buyer|auth.Admin)
	paths := map[string]string{"products": "/v1/products?size=100", "slots": "/v1/slots/my-slots", "purchases": "/v1/purchases", "entries": "/v1/audit"}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	var mu sync.Mutex
	reads, wrong := 0, []string{}
	for list, path := range paths {
		for range 2 {
			readers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					a := w.get(path, token)
					n := -1
					if a.StatusCode == http.StatusOK {
						n = len(a.json(t)[list].([]any))
					}
					mu.Lock()
					reads++
					if n != rows {
						wrong = append(wrong, fmt.Sprintf("%s: %d %d rows", path, a.StatusCode, n))
					}
					mu.Unlock()
				}
			})
		}
	}
	for g := 2; g <= 6; g++ {
		for _, p := range []string{"products", "purchases", "slot_audit_log", "purchase_slots"} {
			columns := "*"
			if p == "slot_audit_log" { // its last column is generated
				columns = "event_id, type, slot_id, product_id, user_id, old_status, new_status, trace_id, actor, recorded_at, position, metadata"
			}
			w.swap(p, g, fmt.Sprintf(`INSERT INTO %s_g%d SELECT %s FROM %s_g%d`, p, g, columns, p, g-1))
			w.exec(`SELECT projection_set_view($1, $2)`, p, g)
			w.exec(`SELECT projection_drop_tables($1, $2)`, p, g-1)
		}
	}
	close(stop)
	readers.Wait()
	require.Empty(t, wrong)
	require.Greater(t, reads, 20)
}

// TestExport_ContinuesAfterASwap swaps between the pages of an export.
func TestExport_ContinuesAfterASwap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const rows = 20_000
	w.exec(`INSERT INTO purchases_g1 SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), NULL, 'PENDING', 12.5, 'USD',
		'CARD', NULL, NULL, NULL, $1::timestamptz + make_interval(secs => n), $1::timestamptz + make_interval(secs => n), 1 FROM generate_series(1, $2::int) n`, day, rows)
	req, err := http.NewRequest(http.MethodGet, w.url+"/v1/purchases", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+w.token(uuid.New(), admin))
	req.Header.Set("Accept", "text/csv")
	resp, err := w.client.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	first := make([]byte, 1)
	_, err = resp.Body.Read(first)
	require.NoError(t, err)
	w.swap("purchases", 2, `INSERT INTO purchases_g2 SELECT * FROM purchases_g1`)
	w.exec(`SELECT projection_set_view('purchases', 2)`)
	w.exec(`SELECT projection_drop_tables('purchases', 1)`)
	rest, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, 1+rows, bytes.Count(rest, []byte("\n")))
}
