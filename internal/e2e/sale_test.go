package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/testkit"
)

func (f *fleet) raisesStock() {
	const units, more = 40, 25
	product := f.admin.product(f.commandURLs[0], units)
	c := f.crowd(product, 400)
	testkit.Eventually(f.t, 20*time.Second, "the crowd to be answered sold-out", func() error {
		if c.soldOut.Load() == 0 {
			return fmt.Errorf("%d granted", c.granted.Load())
		}
		return nil
	})
	a, p := f.admin.want(http.StatusOK, http.MethodPut, f.commandURLs[1]+"/v1/products/"+product, object{"stockIncrease": more})
	require.Equal(f.t, strconv.Itoa(units+more), number(p["totalStock"]))
	testkit.EventuallyEqual(f.t, 5*time.Second, "the new units to be granted", units+more, c.granted.Load)
	all := c.end()
	holds(f.t, f, product, all)
	// Without a crowd around: the very next request gets the new unit, at the other node.
	f.admin.want(http.StatusOK, http.MethodPut, f.commandURLs[0]+"/v1/products/"+product, object{"stockIncrease": 1})
	last := f.users.buyer().acquire(f.commandURLs[1], product)
	require.Equal(f.t, http.StatusCreated, last.status, "%s", last.body)
	require.Equal(f.t, strconv.Itoa(units+more+1), number(last.object(f.t)["unit"]))
	positions := a.header.Get("X-Position") + "," + last.header.Get("X-Position")
	_, p = f.users.nobody().with("X-Min-Position", positions).want(http.StatusOK, http.MethodGet, f.queryURL+"/v1/products/"+product, nil)
	require.Equal(f.t, "0", number(p["stock"]))
	require.Equal(f.t, "SOLD_OUT", p["status"])
	f.outcome(product)
}

func (f *fleet) pausesAndResumes() {
	const units = 3000
	product := f.admin.product(f.commandURLs[0], units)
	c := f.crowd(product, 400)
	granted := func(more int64) {
		f.t.Helper()
		before := c.granted.Load()
		testkit.Eventually(f.t, 10*time.Second, "grants", func() error {
			if n := c.granted.Load() - before; n < more {
				return fmt.Errorf("%d granted", n)
			}
			return nil
		})
	}
	granted(50)
	f.admin.want(http.StatusOK, http.MethodPut, f.commandURLs[0]+"/v1/products/"+product, object{"paused": true})
	paused := time.Now()
	testkit.EventuallyTrue(f.t, 10*time.Second, "the crowd to be answered with the pause", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return told(c.seen, "sale-paused", paused, time.Now()) >= 50
	})
	resuming := time.Now()
	f.admin.want(http.StatusOK, http.MethodPut, f.commandURLs[1]+"/v1/products/"+product, object{"paused": false})
	resumed := time.Now()
	granted(50)
	all := c.end()
	require.Zero(f.t, told(all, "", paused, resuming), "grants of requests that were sent after the pause was answered")
	require.Zero(f.t, told(all, "sale-paused", resumed, time.Now()), "refusals of requests that were sent after the sale was resumed")
	holds(f.t, f, product, all)
	f.outcome(product)
}

func (f *fleet) deletesOnlyWhatNobodyHolds() {
	url := f.commandURLs[0] + "/v1/products/"
	product := f.admin.product(f.commandURLs[0], 5)
	buyer := f.users.buyer()
	held := buyer.acquire(f.commandURLs[1], product)
	require.Equal(f.t, http.StatusCreated, held.status)
	f.admin.refused(http.StatusConflict, "product-delete-conflict", http.MethodDelete, url+product, nil)
	buyer.want(http.StatusNoContent, http.MethodDelete, f.commandURLs[0]+"/v1/slots/"+held.object(f.t)["id"].(string), nil)
	gone, _ := f.admin.want(http.StatusNoContent, http.MethodDelete, url+product, nil)
	f.users.buyer().refused(http.StatusNotFound, "product-not-found", http.MethodPost, f.commandURLs[1]+"/v1/slots/acquire", object{"productId": product})
	f.users.nobody().with("X-Min-Position", gone.header.Get("X-Position")).
		refused(http.StatusNotFound, "product-not-found", http.MethodGet, f.queryURL+"/v1/products/"+product, nil)

	// At the same instant, through two nodes: one wins, never both.
	for range 12 {
		product := f.admin.product(f.commandURLs[0], 5)
		first := buyer.acquire(f.commandURLs[0], product) // the sale has begun
		require.Equal(f.t, http.StatusCreated, first.status, "%s", first.body)
		buyer.want(http.StatusNoContent, http.MethodDelete, f.commandURLs[0]+"/v1/slots/"+first.object(f.t)["id"].(string), nil)
		other := f.users.buyer()
		asked := make(chan answer, 1)
		go func() {
			asked <- other.try(http.MethodPost, f.commandURLs[1]+"/v1/slots/acquire", object{"productId": product})
		}()
		deleted := f.admin.do(http.MethodDelete, url+product, nil)
		got := <-asked
		require.NoError(f.t, got.err)
		switch deleted.status {
		case http.StatusNoContent:
			require.Equal(f.t, "product-not-found", got.slug(), "%s", got.body)
			require.Zero(f.t, f.claimed(product))
		default:
			require.Equal(f.t, "product-delete-conflict", deleted.slug(), "%s", deleted.body)
			require.Equal(f.t, http.StatusCreated, got.status, "%s", got.body)
			require.Equal(f.t, 1, f.claimed(product))
		}
	}
}
