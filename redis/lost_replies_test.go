package redis_test

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/redis"
)

// proxy forwards bytes to a Redis and can drop its replies.
type proxy struct {
	listener net.Listener
	lose     atomic.Int32 // how many replies to scripts are still to be dropped, with their connection
	lost     atomic.Int32
	wg       sync.WaitGroup
}

func newProxy(t *testing.T, url string) (*proxy, string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &proxy{listener: listener}
	target := strings.TrimSuffix(strings.TrimPrefix(url, "redis://"), "/0")
	var mu sync.Mutex
	var open []net.Conn
	w.wg.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			mu.Lock()
			open = append(open, in, out)
			mu.Unlock()
			w.wg.Go(func() { w.pass(in, out) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		w.wg.Wait()
	})
	return w, "redis://" + listener.Addr().String() + "/0"
}

// pass forwards both directions until one ends. It drops replies to EVALSHA, after
// the script has run.
func (w *proxy) pass(in, out net.Conn) {
	var script atomic.Bool
	w.wg.Go(func() {
		defer func() { _ = out.Close() }()
		buffer := make([]byte, 1<<16)
		for {
			n, err := in.Read(buffer)
			if n > 0 {
				script.Store(strings.Contains(strings.ToLower(string(buffer[:n])), "evalsha"))
				if _, err := out.Write(buffer[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	defer func() { _ = in.Close() }()
	buffer := make([]byte, 1<<16)
	for {
		n, err := out.Read(buffer)
		if n > 0 {
			if script.Load() && w.lose.Load() > 0 {
				w.lose.Add(-1)
				w.lost.Add(1)
				return
			}
			if _, err := in.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func TestDecide_RetriesOnceAfterLostReply(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		broken, url := newProxy(t, w.url)
		g, product := w.gateOn(url, w.gateStore), w.product(3)
		w.granted(g, product)

		broken.lose.Store(1)
		d := w.granted(g, product)
		require.EqualValues(t, 1, broken.lost.Load())
		require.Equal(t, 2, d.Deliveries, "the same grant, delivered twice")
		require.EqualValues(t, 2, d.Number)
		require.NoError(t, g.GiveBack(w.ctx, d))
		state, err := g.State(w.ctx, product)
		require.NoError(t, err)
		require.Equal(t, 1, state.Free, "a grant that was delivered twice is not given back")

		broken.lose.Store(2)
		buyer := uuid.New()
		_, err = g.Decide(w.ctx, redis.Request{Product: product, Buyer: buyer})
		require.ErrorIs(t, err, redis.ErrUnavailable)
		d = w.decide(g, product, buyer, "")
		require.Equal(t, redis.Granted, d.Outcome)
		require.Equal(t, 3, d.Deliveries)
		require.NoError(t, w.claim(d))
		require.EqualValues(t, 3, w.folds(w.log(g, product)).Decided)
	})
}

// Every request is answered exactly once, whatever is lost.
func TestDecide_AnswersEveryRequestWhileRepliesAreLost(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		const units = 100
		broken, url := newProxy(t, w.url)
		g, product := w.gateOn(url, w.gateStore), w.product(units)
		w.granted(g, product)
		broken.lose.Store(5)
		seen := make(map[int]bool)
		for broken.lost.Load() < 5 {
			c := w.crowd(product, 300, false, g)
			for _, err := range c.errs {
				require.ErrorIs(t, err, redis.ErrUnavailable)
			}
			require.Equal(t, 300, len(c.errs)+len(c.granted)+c.refused[redis.SoldOut])
			for _, d := range c.granted {
				require.False(t, seen[d.Unit])
				seen[d.Unit] = true
				require.NoError(t, w.claim(d))
			}
		}
		pending, err := g.Pending(w.ctx, product, 0, redis.MaxNumber, 1000)
		require.NoError(t, err)
		for _, p := range pending { // grants whose answers were lost
			if err := w.withdraw(product, p.Number, p.Unit); err == nil {
				require.False(t, seen[p.Unit])
			}
		}
		state := w.agrees(g, product)
		require.Zero(t, state.Pending)
		require.Equal(t, units, state.Free+state.Held)
		w.folds(w.log(g, product))
	})
}
