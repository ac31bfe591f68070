package query_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// registerGate registers a product on the write side.
func (w *world) registerGate(epoch int64) uuid.UUID {
	w.t.Helper()
	id := uuid.New()
	w.exec(`INSERT INTO product_gates (product_id, epoch, units, sale_date) VALUES ($1, $2, 100, now())`, id, epoch)
	return id
}

func (w *world) line(product uuid.UUID, number int64, text string) {
	w.t.Helper()
	l, err := fairness.ParseLine([]byte(text))
	require.NoError(w.t, err)
	var unit, units, sequence, reason, from, to, soldOut, duplicate, notStarted, closed any
	switch l.Type {
	case fairness.Opened:
		units = l.Units
	case fairness.Granted:
		sequence, unit = l.Sequence, l.Unit
	case fairness.Returned:
		unit, reason = l.Unit, l.Reason
	case fairness.Refused:
		from, to = l.From, l.To
		soldOut, duplicate, notStarted, closed = l.Refused.SoldOut, l.Refused.Duplicate, l.Refused.NotStarted, l.Refused.Closed
	}
	w.exec(`INSERT INTO gate_decisions VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
		ON CONFLICT (product_id, epoch, line) DO UPDATE SET to_number = excluded.to_number, sold_out = excluded.sold_out`,
		product, l.Epoch, number, l.Type, units, sequence, unit, reason, from, to, soldOut, duplicate, notStarted, closed)
}

const (
	opened    = `{"epoch":0,"type":"opened","units":1}`
	granted   = `{"epoch":0,"type":"granted","sequence":1,"unit":1}`
	growing   = `{"epoch":0,"type":"refused","from":2,"to":3,"soldOut":2,"duplicate":0,"notStarted":0,"closed":0}`
	grown     = `{"epoch":0,"type":"refused","from":2,"to":9,"soldOut":8,"duplicate":0,"notStarted":0,"closed":0}`
	returned  = `{"epoch":0,"type":"returned","unit":1,"reason":"AUTO_EXPIRED"}`
	inversion = `{"epoch":2,"type":"refused","from":20000000001,"to":20000000002,"soldOut":2,"duplicate":0,"notStarted":0,"closed":0}`
)

func (w *world) fairness(product uuid.UUID) map[string]any {
	w.t.Helper()
	a := w.get("/v1/products/"+product.String()+"/fairness", "")
	require.Equal(w.t, http.StatusOK, a.StatusCode, "%s", a.body)
	return a.json(w.t)
}

// awaitDecided waits for a report that includes all written lines, since reports are reused for a
// moment.
func (w *world) awaitDecided(product uuid.UUID, want int) map[string]any {
	w.t.Helper()
	var v map[string]any
	testkit.Eventually(w.t, 2*time.Second, "the report to fold what was written", func() error {
		if v = w.fairness(product); v["decided"] != float64(want) {
			return fmt.Errorf("decided %v", v["decided"])
		}
		return nil
	})
	return v
}

// The fairness report and its fold (contract 7, R6).
func TestFairness_FoldsTheGrowingLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.registerGate(0)
	empty := w.get("/v1/products/"+p.String()+"/fairness", "")
	require.JSONEq(t, `{"decided":0,"granted":0,"refused":{"soldOut":0,"duplicate":0,"notStarted":0,"closed":0},"returned":0,
		"firstSequence":null,"lastSequence":null,"lastGrantedSequence":null,"epochs":0,"inversions":0,"complete":true}`, string(empty.body))

	w.line(p, 1, opened)
	w.line(p, 2, granted)
	w.line(p, 3, growing)
	require.EqualValues(t, 3, w.awaitDecided(p, 3)["lastSequence"])
	w.line(p, 3, grown) // the stored run has grown
	w.line(p, 4, returned)
	v := w.awaitDecided(p, 9)
	require.EqualValues(t, 1, v["granted"])
	require.Equal(t, map[string]any{"soldOut": 8.0, "duplicate": 0.0, "notStarted": 0.0, "closed": 0.0}, v["refused"])
	require.EqualValues(t, 1, v["lastGrantedSequence"])
	require.EqualValues(t, 0, v["inversions"])

	w.line(p, 1, `{"epoch":2,"type":"opened","units":1}`)
	w.line(p, 2, inversion)
	v = w.awaitDecided(p, 11)
	require.EqualValues(t, 2, v["inversions"])
	require.EqualValues(t, 2, v["epochs"])
	require.EqualValues(t, 20000000002, v["lastSequence"])

	// Lines shipped late into an ended epoch change what was folded.
	w.line(p, 5, `{"epoch":0,"type":"granted","sequence":10,"unit":1}`)
	require.EqualValues(t, 2, w.awaitDecided(p, 12)["granted"])
	require.Equal(t, "product-not-found", w.get("/v1/products/"+uuid.NewString()+"/fairness", "").slug(t))
	require.Equal(t, "product-not-found", w.get("/v1/products/"+uuid.NewString()+"/fairness/log", "").slug(t))
	require.Equal(t, "invalid-request", w.get("/v1/products/x/fairness", "").slug(t))
}

func TestFairness_FoldsAgainWhenTheStoreLostLines(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.registerGate(0)
	for i, l := range []string{opened, granted, grown, returned} {
		w.line(p, int64(i+1), l)
	}
	w.awaitDecided(p, 9)

	// The database is restored to a moment before the last lines, and the gate goes on.
	w.exec(`DELETE FROM gate_decisions WHERE product_id = $1 AND line > 2`, p)
	w.line(p, 3, returned)
	w.line(p, 4, `{"epoch":0,"type":"granted","sequence":2,"unit":1}`)
	w.line(p, 5, `{"epoch":0,"type":"refused","from":3,"to":4,"soldOut":2,"duplicate":0,"notStarted":0,"closed":0}`)
	v := w.awaitDecided(p, 4)
	require.EqualValues(t, 2, v["granted"])
	require.EqualValues(t, 0, v["inversions"])
}

// A log that lost decisions is incomplete (contract 7).
func TestFairness_IncompleteAfterLostDecisions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	whole, lost := w.registerGate(1), w.registerGate(1)
	for id, carried := range map[uuid.UUID]time.Time{whole: day.Add(3 * time.Second), lost: day.Add(2 * time.Second)} {
		w.line(id, 1, opened)
		w.exec(`INSERT INTO gate_epochs (product_id, epoch, ended_at, leased_at, carried_at) VALUES ($1, 0, $2, $2, $3)`, id, day, carried)
	}
	require.Equal(t, true, w.fairness(whole)["complete"])
	require.Equal(t, false, w.fairness(lost)["complete"])
}

// The decision log of contract 7 folds outside of the system.
func TestDecisionLog_CanBeFoldedByClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.registerGate(0)
	a := w.get("/v1/products/"+p.String()+"/fairness/log", "")
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Empty(t, a.body)

	lines := []string{opened, granted, growing, returned}
	for i, l := range lines {
		w.line(p, int64(i+1), l)
	}
	w.exec(`UPDATE product_gates SET deleted = true WHERE product_id = $1`, p)
	a = w.get("/v1/products/"+p.String()+"/fairness/log", "")
	require.Equal(t, "application/x-ndjson", a.Header.Get("Content-Type"))
	require.Equal(t, strings.Join(lines, "\n")+"\n", string(a.body))
	require.Equal(t, http.StatusOK, w.get("/v1/products/"+p.String()+"/fairness", "").StatusCode)

	// More than one page.
	big := w.registerGate(0)
	w.exec(`INSERT INTO gate_decisions (product_id, epoch, line, type, units) VALUES ($1, 0, 1, 'opened', 4500)`, big)
	w.exec(`INSERT INTO gate_decisions (product_id, epoch, line, type, sequence, unit) SELECT $1, 0, n + 1, 'granted', n, n FROM generate_series(1, 4500) n`, big)
	a = w.get("/v1/products/"+big.String()+"/fairness/log", "")
	report, err := fairness.Verify(bytes.NewReader(a.body), func(err error) { t.Error(err) })
	require.NoError(t, err)
	require.EqualValues(t, 4500, report.Granted)
	require.EqualValues(t, 4500, w.fairness(big)["granted"])
}
