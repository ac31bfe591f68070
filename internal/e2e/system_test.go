package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// number returns a JSON number in its original form, "" for anything else.
func number(v any) string {
	n, _ := v.(json.Number)
	return n.String()
}

// buyersVariable makes the rush on the fleet a bigger or smaller one.
const buyersVariable = "DOPAMINE_E2E_BUYERS"

func TestFleet(t *testing.T) {
	f := startFleet(t)
	t.Run("rush", func(t *testing.T) { f.in(t).playsTheRush() })
	t.Run("stock raised in a rush", func(t *testing.T) { f.in(t).raisesStock() })
	t.Run("pause and resume in a rush", func(t *testing.T) { f.in(t).pausesAndResumes() })
	t.Run("delete against a live slot", func(t *testing.T) { f.in(t).deletesOnlyWhatNobodyHolds() })
	t.Run("one trace from the request to the audit", func(t *testing.T) { f.in(t).tracesARequest() })
	t.Run("faults in a rush", func(t *testing.T) { f.in(t).survives() })
	t.Run("SIGTERM", func(t *testing.T) {
		for _, p := range f.in(t).all() {
			p.stop()
		}
	})
}

// in returns the fleet for a subtest.
func (f *fleet) in(t *testing.T) *fleet {
	part, users := *f, *f.users
	users.t = t
	part.t, part.users, part.admin = t, &users, users.admin()
	for _, p := range f.all() {
		p.t = t
	}
	return &part
}

// playsTheRush checks that exactly the stock is granted, and all other buyers are refused, in
// order.
func (f *fleet) playsTheRush() {
	buyers := 20_000
	if s := os.Getenv(buyersVariable); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(f.t, err, buyersVariable)
		buyers = n
	}
	const stock = 100
	p := f.rush("--buyers", strconv.Itoa(buyers), "--stock", strconv.Itoa(stock))
	status := p.wait(3 * time.Minute)
	r := report(p)
	require.Equal(f.t, 0, status, "%v", r.Broken)
	require.Equal(f.t, stock, r.Granted)
	require.Equal(f.t, buyers-stock, r.Refused)
	require.Zero(f.t, r.Errors)
	require.Zero(f.t, r.Inversions)
	for _, rule := range []string{"R1", "R2", "R3", "R4", "R5", "R6"} {
		require.True(f.t, r.Rules[rule], rule)
	}
	f.outcome(r.Product)
	_, fair := f.users.nobody().want(http.StatusOK, http.MethodGet, f.queryURL+"/v1/products/"+r.Product+"/fairness", nil)
	require.Equal(f.t, strconv.Itoa(stock), number(fair["granted"]))
	require.Equal(f.t, true, fair["complete"])
}
