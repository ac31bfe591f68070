package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/testkit"
)

// survives runs a rush of 20,000 buyers on 2,000 units and a smaller one of buyers who retry until
// there is a response. Meanwhile it kills, one after the other: a command API, the leading relay, a
// projector, the gates' memory, and Redis itself.
func (f *fleet) survives() {
	const buyers, stock, perSecond = 20_000, 2_000, 1_000
	const ownStock = 501
	own := f.admin.product(f.commandURLs[0], ownStock)
	// Steady, so that the faults find grants on their way.
	p := f.rush("--buyers", strconv.Itoa(buyers), "--stock", strconv.Itoa(stock), "--rate", strconv.Itoa(perSecond), "--connections", "200")
	product := f.newest(stock)
	c := f.crowd(own, 60)

	faults := []struct {
		at   int // units of the rush that are granted by then
		what string
		do   func()
	}{
		{200, "kill -9 of a command API", func() { f.commands[1].restart() }},
		{600, "kill -9 of the leading relay", func() { f.leader().restart() }},
		{900, "kill -9 of a projector", func() { f.projectors[0].restart() }},
		{1200, "FLUSHALL", f.flush},
		{1500, "kill -9 of Redis", func() { require.NoError(f.t, f.redis.Restart(f.t.Context())) }},
	}
	for _, fault := range faults {
		testkit.Eventually(f.t, 30*time.Second, fmt.Sprintf("%d grants", fault.at), func() error {
			if n := f.claimed(product); n < fault.at {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
		n := f.claimed(product)
		require.Less(f.t, n, stock, "the rush was over before %s: nothing is shown", fault.what)
		f.t.Logf("%s at %d grants", fault.what, n)
		fault.do()
	}
	for _, down := range []*process{f.commands[1], f.relays[0], f.relays[1], f.projectors[0]} {
		down.ready()
	}

	p.wait(2 * time.Minute)
	r := report(p)
	require.Equal(f.t, product, r.Product)
	require.Empty(f.t, r.Broken)
	for rule, held := range r.Rules {
		require.True(f.t, held, rule)
	}
	require.NotZero(f.t, r.Granted)
	require.Equal(f.t, buyers, r.Granted+r.Refused+r.Errors)

	all := c.end()
	require.NotZero(f.t, c.retries.Load(), "no client noticed the faults")
	f.finish(product, stock)
	f.finish(own, ownStock)
	holds(f.t, f, own, all)
	f.outcome(product)
	f.outcome(own)
	f.topicIsWhole()
}

// flush makes Redis forget every gate.
func (f *fleet) flush() {
	opts, err := redis.ParseURL(f.redis.URL())
	require.NoError(f.t, err)
	client := redis.NewClient(opts)
	defer client.Close()
	require.NoError(f.t, client.FlushAll(f.t.Context()).Err())
}

// finish retries until every unit is granted: none may be lost.
func (f *fleet) finish(product string, stock int) {
	f.t.Helper()
	var slots []string
	testkit.Eventually(f.t, 40*time.Second, "every unit to be granted", func() error {
		a := f.users.buyer().do(http.MethodPost, f.commandURLs[0]+"/v1/slots/acquire", object{"productId": product})
		if a.status == http.StatusCreated {
			slots = append(slots, a.object(f.t)["id"].(string))
		}
		if n := f.claimed(product); n != stock {
			return fmt.Errorf("%d of %d are granted; the last response: %d %s", n, stock, a.status, a.slug())
		}
		return nil
	})
	slices.Sort(slots)
	require.Len(f.t, slices.Compact(slots), len(slots))
	a := f.users.buyer().do(http.MethodPost, f.commandURLs[1]+"/v1/slots/acquire", object{"productId": product})
	require.Equal(f.t, "sold-out", a.slug(), "%s", a.body)
}
